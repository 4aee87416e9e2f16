//! The tables of the brokers, as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::settings::{CredentialsSettings, Secret};

/// `[kafka]`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct KafkaSettings {
    /// Brokers to begin with, `host:port`, separated by commas.
    #[schemars(length(min = 1))]
    pub(crate) bootstrap_servers: String,
    /// Where events go.
    #[schemars(regex(pattern = "^[a-zA-Z0-9._-]{1,249}$"))]
    pub(crate) topic: String,
    /// The compacted topic of the state: this program's own.
    #[schemars(regex(pattern = "^[a-zA-Z0-9._-]{1,249}$"))]
    pub(crate) state_topic: String,
    /// `binary`: attributes in headers; `structured`: the whole event as one JSON value.
    #[schemars(extend("enum" = ["binary", "structured"]))]
    pub(crate) content_mode: String,
    /// `exactly_once`, or `at_least_once` where transactions are forbidden.
    #[schemars(extend("enum" = ["exactly_once", "at_least_once"]))]
    pub(crate) delivery: String,
    /// Whether missing topics are created. A lost state topic beside living events never is.
    pub(crate) create_topics: bool,
    /// The state topic's partitions when it is created; fixed from then on.
    #[schemars(range(min = 1, max = 1000))]
    pub(crate) state_partitions: i32,
    /// Events without their state: `refuse`, or `republish` everything.
    #[schemars(extend("enum" = ["refuse", "republish"]))]
    pub(crate) on_lost_state: String,
    /// SASL user name; with `password_file` or `password`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) username: Option<String>,
    /// SASL password; better in `password_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<Secret>,
    /// A file that holds the SASL password and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password_file: Option<String>,
    /// Instead of user and password: tokens by OAuth's client credentials, as OpenID Connect providers
    /// give them (SASL OAUTHBEARER).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) oauth: Option<OauthSettings>,
    /// Instead of user and password: Amazon MSK with IAM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) msk_iam: Option<MskIamSettings>,
    /// Passed to librdkafka as it is, such as `"security.protocol" = "SASL_SSL"`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) librdkafka: BTreeMap<String, Value>,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            bootstrap_servers: "localhost:9092".to_owned(),
            topic: "amazon-billing".to_owned(),
            state_topic: "amazon-billing-state".to_owned(),
            content_mode: "binary".to_owned(),
            delivery: "exactly_once".to_owned(),
            create_topics: false,
            state_partitions: 8,
            on_lost_state: "refuse".to_owned(),
            username: None,
            password: None,
            password_file: None,
            oauth: None,
            msk_iam: None,
            librdkafka: BTreeMap::new(),
        }
    }
}

/// `[kafka.oauth]`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OauthSettings {
    /// Where tokens are had, such as `https://login.example.com/oauth2/token`.
    pub(crate) token_endpoint: String,
    /// Who asks for them.
    pub(crate) client_id: String,
    /// This or `client_secret_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_secret: Option<Secret>,
    /// A file that holds the client's secret and nothing else; read again for every token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_secret_file: Option<String>,
    /// How the secret is sent: `basic`, in a header, which every provider takes; `post`, in the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["basic", "post"]))]
    pub(crate) client_auth: Option<String>,
    /// What the token is asked for, where the provider wants to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,
    /// Whom the token is for, where the provider wants to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) audience: Option<String>,
    /// PEM: who signs the endpoint's certificate. By default the host's own roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<String>,
}

/// `[kafka.msk_iam]`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MskIamSettings {
    /// The cluster's region, such as `eu-central-1`.
    pub(crate) region: String,
    /// Whose rights on the cluster; by default the SDK's own chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) credentials: Option<CredentialsSettings>,
    /// For STS, where a role is assumed: a private endpoint; default: AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sts_endpoint_url: Option<String>,
}

/// `[nats]`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NatsSettings {
    /// Any servers of the cluster, such as `nats://localhost:4222`; `tls://` asks for TLS.
    #[schemars(length(min = 1))]
    pub(crate) servers: Vec<String>,
    /// The JetStream stream of the events, which are also the state of their keys.
    #[schemars(regex(pattern = "^[^ .*>/\\\\]+$"))]
    pub(crate) stream: String,
    /// The key-value bucket of the connections' own state. By default the stream's name and `_STATE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z0-9_-]+$"))]
    pub(crate) bucket: Option<String>,
    /// What every subject begins with. Part of every key's identity: a change publishes everything anew.
    #[schemars(length(min = 1))]
    pub(crate) subject_prefix: String,
    /// `structured`: the whole event as JSON; `binary`: attributes in headers, data as the payload.
    #[schemars(extend("enum" = ["structured", "binary"]))]
    pub(crate) content_mode: String,
    /// Whether stream and bucket are created where they do not exist.
    pub(crate) create_stream: bool,
    /// Replicas of a stream and bucket that are created; 3 in a cluster.
    #[schemars(range(min = 1, max = 5))]
    pub(crate) replicas: u8,
    /// How long an answer may take, such as `5s`.
    #[schemars(extend("examples" = ["5s"]))]
    pub(crate) timeout: String,
    /// Events sent and not yet acknowledged.
    #[schemars(range(min = 1, max = 4000))]
    pub(crate) max_in_flight: usize,
    /// A file as `nsc` writes it: a user's JWT and seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) credentials_file: Option<String>,
    /// A file that holds a user's nkey seed and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nkey_seed_file: Option<String>,
    /// With `password_file` or `password`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// This or `password_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<Secret>,
    /// A file that holds the password and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password_file: Option<String>,
    /// This or `token_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<Secret>,
    /// A file that holds the token and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<String>,
    /// `[nats.tls]`; without it TLS is used where a server asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<NatsTlsSettings>,
}

impl Default for NatsSettings {
    fn default() -> Self {
        Self {
            servers: vec!["nats://localhost:4222".to_owned()],
            stream: "AMAZON_BILLING".to_owned(),
            bucket: None,
            subject_prefix: "amazon.billing".to_owned(),
            content_mode: "structured".to_owned(),
            create_stream: false,
            replicas: 1,
            timeout: "5s".to_owned(),
            max_in_flight: 1000,
            credentials_file: None,
            nkey_seed_file: None,
            user: None,
            password: None,
            password_file: None,
            token: None,
            token_file: None,
            tls: None,
        }
    }
}

/// `[nats.tls]`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NatsTlsSettings {
    /// Whether a server without TLS is refused.
    pub(crate) required: bool,
    /// Whether TLS comes before the server's greeting: for servers with `handshake_first`.
    pub(crate) first: bool,
    /// PEM: who signs the servers' certificates. By default the host's own roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<String>,
    /// PEM: the client's certificate, with `key_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) certificate_file: Option<String>,
    /// PEM: the key of `certificate_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<String>,
}

impl Default for NatsTlsSettings {
    fn default() -> Self {
        Self { required: true, first: false, ca_file: None, certificate_file: None, key_file: None }
    }
}
