//! The configuration as the rest of the code sees it: every value present, typed and checked.
//!
//! Nothing here reads or checks anything; `load` is the only way to a `Config` outside of tests.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::SecretString;

use super::problem::{ConfigError, Problem};
use crate::{
    cost::{CostMetric, Granularity, GroupBy, Scope},
    event::ContentMode,
};

/// The configuration in force: every value present, typed and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the events say of their origin.
    pub source: SourceConfig,
    /// When and how AWS is asked.
    pub poll: PollConfig,
    /// What may be spent.
    pub budget: BudgetConfig,
    /// One per AWS account or credential.
    pub connections: Vec<ConnectionConfig>,
    /// Where events go and the state lives.
    pub transport: TransportConfig,
    /// Where `/livez`, `/readyz` and `/metrics` listen; `None`: nowhere.
    pub admin: Option<SocketAddr>,
}

impl Config {
    /// That there is something to poll; `run` and `check` need it, `config show` does not.
    ///
    /// # Errors
    /// When no connection is configured.
    pub fn require_connections(&self) -> Result<(), ConfigError> {
        if !self.connections.is_empty() {
            return Ok(());
        }
        let problem = Problem {
            key: "connections".to_owned(),
            problem: "no connection is configured, so there is nothing to poll".to_owned(),
            hint: Some(
                "add a `[[connections]]` table, as in `config/example-local.toml`, to a file named with \
                 `--config`; `amazon-billing-source demo` needs none"
                    .to_owned(),
            ),
            origin: None,
        };
        Err(ConfigError { sources: Vec::new(), problems: vec![problem] })
    }
}

/// `[source]`: CloudEvents attributes common to all events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceConfig {
    /// CloudEvents `source`, a URI reference that needs no percent-encoding.
    pub source: String,
    /// Types are `<type_prefix>.daily` and `<type_prefix>.hourly`.
    pub type_prefix: String,
}

/// `[poll]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollConfig {
    /// From one complete poll to the next; at least one second.
    pub interval: Duration,
    /// How long a dead process may hold a poll.
    pub claim_ttl: Duration,
    /// This process in poll claims; `None`: the host name.
    pub instance: Option<String>,
    /// The previous month is re-read until this day of the month, 0 to 31.
    pub settle_days: u8,
    /// Whether rows that are zero and were never anything else are published.
    pub publish_zero: bool,
    /// How many connections are polled at once; at least 1.
    pub concurrency: usize,
    /// A poll with more pages than this is stopped; at least 1.
    pub max_pages: u32,
    /// How long a stop may take before unfinished work is left to the next start.
    pub grace: Duration,
}

impl PollConfig {
    /// This process in poll claims.
    pub fn instance(&self) -> String {
        self.instance.clone().unwrap_or_else(|| gethostname::gethostname().to_string_lossy().into_owned())
    }
}

/// `[budget]`: chargeable requests of all connections together; `None`: no cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetConfig {
    /// Per UTC day.
    pub requests_per_day: Option<u32>,
    /// Per UTC month.
    pub requests_per_month: Option<u32>,
}

/// One of `[[connections]]`.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// Unique; `[a-z0-9-]`, in logs and metrics.
    pub name: String,
    /// The paying account, 12 digits; `None`: asked of STS, which is free.
    pub account_id: Option<String>,
    /// At least one, in the order of `Granularity::ALL`.
    pub granularity: Vec<Granularity>,
    /// At least one, ordered, none twice.
    pub metrics: Vec<CostMetric>,
    /// The second grouping.
    pub group_by: Option<GroupBy>,
    /// A Cost Explorer expression.
    pub filter: Option<Filter>,
    /// Instead of AWS's own endpoint: a simulator, a private endpoint.
    pub endpoint_url: Option<String>,
    /// Instead of AWS's own STS endpoint; by default `endpoint_url`.
    pub sts_endpoint_url: Option<String>,
    /// The region that signs: `us-east-1`, or `cn-northwest-1` in China.
    pub region: String,
    /// Who asks.
    pub credentials: CredentialsConfig,
}

impl ConnectionConfig {
    /// The scope of this connection's keys, once the account is known.
    pub fn scope(&self, source: &str, account: &str) -> Scope {
        Scope {
            source: source.to_owned(),
            account: account.to_owned(),
            group_by: self.group_by.clone(),
            filter: self.filter.as_ref().map(Filter::canonical),
        }
    }
}

/// Whether two connections to one account would state figures under the same keys.
///
/// The account is not compared: where it is not configured it is known only at run time.
///
/// | second groups | keys |
/// |---|---|
/// | the same, or none on both sides | collide |
/// | none on one side | differ: one segment more |
/// | two dimensions with values of their own | differ |
/// | two that can share a value: a tag or cost category with anything, zones with regions, the legal entities among themselves | collide: the last segment is the value's slug alone |
///
/// A different filter is in the first segment; another granularity in the second.
pub fn collide(a: &ConnectionConfig, b: &ConnectionConfig) -> bool {
    let canonical = |connection: &ConnectionConfig| connection.filter.as_ref().map(Filter::canonical);
    let overlap = a.granularity.iter().any(|granularity| b.granularity.contains(granularity));
    let groups = match (&a.group_by, &b.group_by) {
        (None, None) => true,
        (Some(a), Some(b)) => a == b || share_values(a, b),
        _ => false,
    };
    overlap && groups && canonical(a) == canonical(b)
}

/// Whether one value can occur under both groupings.
fn share_values(a: &GroupBy, b: &GroupBy) -> bool {
    const FAMILIES: [&[&str]; 2] =
        [&["AZ", "REGION"], &["BILLING_ENTITY", "INVOICING_ENTITY", "LEGAL_ENTITY_NAME"]];
    match (a, b) {
        (GroupBy::Dimension(a), GroupBy::Dimension(b)) => {
            FAMILIES.iter().any(|family| family.contains(&a.as_str()) && family.contains(&b.as_str()))
        }
        _ => true,
    }
}

/// `[connections.credentials]`.
#[derive(Clone, Debug)]
pub enum CredentialsConfig {
    /// The SDK's default chain: environment, profile, web identity, container, instance.
    Default,
    /// An access key of a user.
    Keys {
        /// Such as `AKIAIOSFODNN7EXAMPLE`.
        access_key_id: String,
        /// From the configuration or a file.
        secret_access_key: SecretString,
        /// For temporary keys.
        session_token: Option<SecretString>,
    },
    /// A profile of `~/.aws/config`.
    Profile {
        /// Its name.
        profile: String,
    },
    /// A role, assumed with the credentials of a profile or of the default chain.
    Role {
        /// `arn:aws:iam::111122223333:role/name`.
        role_arn: String,
        /// What the role's trust policy asks for.
        external_id: Option<String>,
        /// Shown in CloudTrail; at least 2 characters.
        session_name: String,
        /// Whose credentials assume the role; `None`: the default chain.
        profile: Option<String>,
    },
}

/// An expression of Cost Explorer, with the API's own member names.
///
/// Source: `GetCostAndUsage`, data type `Expression`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Filter {
    /// All of at least two.
    And(Vec<Filter>),
    /// Any of at least two.
    Or(Vec<Filter>),
    /// The opposite.
    Not(Box<Filter>),
    /// By a dimension's values.
    Dimensions(FilterValues),
    /// By a tag's values.
    Tags(FilterValues),
    /// By a cost category's values.
    CostCategories(FilterValues),
}

/// The operand of a filter.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct FilterValues {
    /// The dimension, tag key or cost category.
    pub key: String,
    /// Sorted; none only where `match_options` says `ABSENT`.
    pub values: Vec<String>,
    /// `EQUALS`, `CASE_SENSITIVE`, `ABSENT`; sorted, AWS's default where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_options: Vec<String>,
}

impl Filter {
    /// One text per meaning as written: part of the scope.
    pub fn canonical(&self) -> String {
        serde_json::to_string(self).expect("a filter is plain data")
    }
}

/// `[transport]` and the table of its kind.
#[derive(Clone, Debug)]
pub enum TransportConfig {
    /// SQLite state; JSON lines to stdout or a file.
    Local(LocalConfig),
    /// A JetStream stream that holds events and state in one.
    #[cfg(feature = "nats")]
    Nats(NatsConfig),
    /// Events and state in Kafka.
    #[cfg(feature = "kafka")]
    Kafka(KafkaConfig),
}

/// `[kafka]`.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port`, separated by commas.
    pub bootstrap_servers: String,
    /// Where events go.
    pub topic: String,
    /// The compacted topic of the state; another one than `topic`.
    pub state_topic: String,
    /// How an event lies in a record.
    pub content_mode: ContentMode,
    /// What is promised.
    pub delivery: DeliveryMode,
    /// Whether missing topics are created.
    pub create_topics: bool,
    /// The state topic's partitions when it is created; at least 1.
    pub state_partitions: i32,
    /// What to do about events without their state.
    pub on_lost_state: LostState,
    /// Whether librdkafka is given tokens, and which.
    pub login: KafkaLogin,
    /// For librdkafka, credentials included; nothing that contradicts the keys above.
    pub librdkafka: BTreeMap<String, SecretString>,
}

/// Who publishes to Kafka, beyond what librdkafka knows by itself.
#[derive(Clone, Debug, Default)]
pub enum KafkaLogin {
    /// Nobody, a user and password, a client certificate: all of it librdkafka's business.
    #[default]
    Librdkafka,
    /// SASL OAUTHBEARER with tokens of `[kafka.oauth]`.
    Oauth(OauthConfig),
    /// SASL OAUTHBEARER with tokens signed for Amazon MSK, `[kafka.msk_iam]`.
    MskIam(MskIamConfig),
}

/// `[kafka.oauth]`: the client credentials grant of OAuth 2 (RFC 6749, 4.4).
#[derive(Clone, Debug)]
pub struct OauthConfig {
    /// `https`, or `http` to this host.
    pub token_endpoint: String,
    /// Not empty.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: SecretSource,
    /// How the secret is sent.
    pub client_auth: ClientAuth,
    /// What the token is asked for.
    pub scope: Option<String>,
    /// Whom the token is for.
    pub audience: Option<String>,
    /// PEM; `None`: the host's own roots.
    pub ca_file: Option<PathBuf>,
}

/// `kafka.oauth.client_auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// In the `Authorization` header.
    Basic,
    /// In the body.
    Post,
}

/// A secret that may change while the program runs.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// From the configuration.
    Text(SecretString),
    /// A file that holds it and nothing else, read whenever it is needed.
    File(PathBuf),
}

/// `[kafka.msk_iam]`.
#[derive(Clone, Debug)]
pub struct MskIamConfig {
    /// The cluster's region.
    pub region: String,
    /// Whose rights.
    pub credentials: CredentialsConfig,
    /// Where a role is assumed; `None`: at AWS.
    pub sts_endpoint_url: Option<String>,
}

/// `kafka.delivery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// Events and state in one transaction.
    ExactlyOnce,
    /// Events first, then state.
    AtLeastOnce,
}

impl DeliveryMode {
    /// As configured, logged and checked.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "exactly_once",
            Self::AtLeastOnce => "at_least_once",
        }
    }
}

/// `kafka.on_lost_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostState {
    /// Stop and say so.
    Refuse,
    /// Begin anew: every event is published again, from revision 1.
    Republish,
}

/// `[local]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalConfig {
    /// `None`: stdout.
    pub output: Option<PathBuf>,
    /// The SQLite file.
    pub state: PathBuf,
}

/// `[nats]`.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// At least one URL.
    pub servers: Vec<String>,
    /// The stream of the events.
    pub stream: String,
    /// The key-value bucket of the connections' own state.
    pub bucket: String,
    /// Tokens joined by dots.
    pub subject_prefix: String,
    /// How an event lies in a message.
    pub content_mode: ContentMode,
    /// Whether stream and bucket are created where they do not exist.
    pub create_stream: bool,
    /// Of what is created.
    pub replicas: u8,
    /// For every answer.
    pub timeout: Duration,
    /// Events sent and not yet acknowledged; at least 1.
    pub max_in_flight: usize,
    /// Who publishes.
    pub login: NatsLogin,
    /// How the connection is protected.
    pub tls: NatsTls,
}

/// Who publishes to NATS.
#[derive(Clone, Debug)]
pub enum NatsLogin {
    /// Anybody may.
    Nobody,
    /// A file with a user's JWT and seed, read when connecting.
    Credentials(PathBuf),
    /// A user's nkey seed.
    Nkey(SecretString),
    /// User and password.
    User {
        /// The name.
        user: String,
        /// Its password.
        password: SecretString,
    },
    /// A token.
    Token(SecretString),
}

/// `[nats.tls]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsTls {
    /// A server without TLS is refused.
    pub required: bool,
    /// TLS comes before the server's greeting.
    pub first: bool,
    /// PEM; `None`: the host's own roots.
    pub ca_file: Option<PathBuf>,
    /// PEM: certificate and key of the client.
    pub client: Option<(PathBuf, PathBuf)>,
}
