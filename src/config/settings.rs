//! The configuration as written: every known key, its shape and its built-in default.
//!
//! Doc comments, ranges and patterns here feed the JSON Schema, and the shape of the schema is what
//! the files and the environment are read against. What the values mean is not decided here.

use std::fmt;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) use super::broker_settings::{
    KafkaSettings, MskIamSettings, NatsSettings, NatsTlsSettings, OauthSettings,
};

/// Configuration of the Amazon Billing Source.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// `CloudEvents` attributes common to all events.
    pub(crate) source: SourceSettings,
    /// When and how AWS is asked.
    pub(crate) poll: PollSettings,
    /// Chargeable requests, all connections together. Each costs $0.01.
    pub(crate) budget: BudgetSettings,
    /// One per AWS account or credential.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) connections: Vec<ConnectionSettings>,
    /// Where events go.
    pub(crate) transport: TransportSettings,
    /// The table of transport kind `local`.
    pub(crate) local: LocalSettings,
    /// The table of transport kind `kafka`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kafka: Option<KafkaSettings>,
    /// The table of transport kind `nats`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nats: Option<NatsSettings>,
    /// The endpoints for operators.
    pub(crate) admin: AdminSettings,
}

/// `[source]`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SourceSettings {
    /// `CloudEvents` `source` of every event, a URI reference. Part of every key's identity: a change
    /// publishes everything anew.
    #[schemars(length(min = 1))]
    pub(crate) source: String,
    /// Event types are `<type_prefix>.daily` and `<type_prefix>.hourly`.
    #[schemars(length(min = 1))]
    pub(crate) type_prefix: String,
}

impl Default for SourceSettings {
    fn default() -> Self {
        Self { source: "cloud.amazon.billing".to_owned(), type_prefix: "amazon.billing".to_owned() }
    }
}

/// `[poll]`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PollSettings {
    /// From one complete poll to the next, such as `8h`; at least `1s`. AWS refreshes the data about
    /// three times a day.
    #[schemars(extend("examples" = ["8h"]))]
    pub(crate) interval: String,
    /// How long a dead process may hold a poll, such as `2m`.
    #[schemars(extend("examples" = ["2m"]))]
    pub(crate) claim_ttl: String,
    /// This process's name in poll claims, at most 64 of `[A-Za-z0-9._-]`; empty for the host name. Each
    /// process with the same configuration needs one of its own.
    #[schemars(length(max = 64))]
    pub(crate) instance: String,
    /// The previous month is re-read until this day of the month, and always on the 1st.
    #[schemars(range(min = 0, max = 31))]
    pub(crate) settle_days: u8,
    /// Whether cost records that are zero and were never anything else are published.
    pub(crate) publish_zero: bool,
    /// How many connections are polled at once.
    #[schemars(range(min = 1, max = 1000))]
    pub(crate) concurrency: usize,
    /// A poll with more pages than this is stopped: each page costs $0.01.
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub(crate) max_pages: u32,
    /// How long a stop may take before unfinished work is left to the next start, such as `20s`.
    #[schemars(extend("examples" = ["20s"]))]
    pub(crate) grace: String,
}

impl Default for PollSettings {
    fn default() -> Self {
        Self {
            interval: "8h".to_owned(),
            claim_ttl: "2m".to_owned(),
            instance: String::new(),
            settle_days: 10,
            publish_zero: false,
            concurrency: 4,
            max_pages: 500,
            grace: "20s".to_owned(),
        }
    }
}

/// `[budget]`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BudgetSettings {
    /// Per UTC day; 0: no cap.
    #[schemars(range(min = 0, max = 4_294_967_295_u32))]
    pub(crate) requests_per_day: u32,
    /// Per UTC month; 0: no cap.
    #[schemars(range(min = 0, max = 4_294_967_295_u32))]
    pub(crate) requests_per_month: u32,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self { requests_per_day: 24, requests_per_month: 0 }
    }
}

/// One of `[[connections]]`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name"]))]
pub(crate) struct ConnectionSettings {
    /// Unique; in logs and metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[a-z0-9][a-z0-9-]*$"))]
    pub(crate) name: Option<String>,
    /// The paying account, 12 digits in quotes. By default AWS STS is asked, which is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9]{12}$"), extend("examples" = ["012345678901"]))]
    pub(crate) account_id: Option<String>,
    /// `daily`, `hourly` or both. Hourly data is a paid opt-in of the account.
    #[schemars(length(min = 1), extend("uniqueItems" = true, "items" = {"type": "string", "enum": ["daily", "hourly"]}))]
    pub(crate) granularity: Vec<String>,
    /// Cost metrics by AWS's names. All of them cost one request.
    #[schemars(length(min = 1), extend("uniqueItems" = true, "items" = {"type": "string", "enum": METRICS}))]
    pub(crate) metrics: Vec<String>,
    /// A second grouping beside `SERVICE`: `LINKED_ACCOUNT`, `REGION`, `TAG:team`,
    /// `COST_CATEGORY:unit`. At most one.
    #[schemars(length(max = 1))]
    pub(crate) group_by: Vec<String>,
    /// Only these costs: a Cost Explorer expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<FilterSettings>,
    /// A simulator or a private endpoint instead of AWS's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^https?://"))]
    pub(crate) endpoint_url: Option<String>,
    /// The same for AWS STS. By default `endpoint_url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^https?://"))]
    pub(crate) sts_endpoint_url: Option<String>,
    /// Any region of the partition the account is in; Cost Explorer has one per partition.
    pub(crate) region: String,
    /// Who asks AWS.
    pub(crate) credentials: CredentialsSettings,
}

/// Every metric Cost Explorer knows, for editors.
const METRICS: [&str; 7] = [
    "AmortizedCost",
    "BlendedCost",
    "NetAmortizedCost",
    "NetUnblendedCost",
    "NormalizedUsageAmount",
    "UnblendedCost",
    "UsageQuantity",
];

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            name: None,
            account_id: None,
            granularity: vec!["daily".to_owned()],
            metrics: vec!["AmortizedCost".to_owned(), "UnblendedCost".to_owned()],
            group_by: Vec::new(),
            filter: None,
            endpoint_url: None,
            sts_endpoint_url: None,
            region: "us-east-1".to_owned(),
            credentials: CredentialsSettings::default(),
        }
    }
}

/// `[connections.credentials]`: `kind` says which of the other keys apply.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CredentialsSettings {
    /// `default`: the SDK's own chain; `keys`, `profile` or `role`.
    #[schemars(extend("enum" = ["default", "keys", "profile", "role"]))]
    pub(crate) kind: String,
    /// Kind `keys`: such as `AKIAIOSFODNN7EXAMPLE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) access_key_id: Option<String>,
    /// Kind `keys`: this or `secret_access_key_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret_access_key: Option<Secret>,
    /// Kind `keys`: a file that holds the secret access key and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret_access_key_file: Option<String>,
    /// Kind `keys`: for temporary keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session_token: Option<Secret>,
    /// Kind `profile`: a profile of `~/.aws/config`. Kind `role`: whose credentials assume the role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<String>,
    /// Kind `role`: `arn:aws:iam::111122223333:role/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^arn:aws[a-z-]*:iam::[0-9]{12}:role/.+$"))]
    pub(crate) role_arn: Option<String>,
    /// Kind `role`: what the role's trust policy asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) external_id: Option<String>,
    /// Kind `role`: shown in `CloudTrail`; 2 to 64 characters. By default `amazon-billing-source`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 64))]
    pub(crate) session_name: Option<String>,
}

impl Default for CredentialsSettings {
    fn default() -> Self {
        Self {
            kind: "default".to_owned(),
            access_key_id: None,
            secret_access_key: None,
            secret_access_key_file: None,
            session_token: None,
            profile: None,
            role_arn: None,
            external_id: None,
            session_name: None,
        }
    }
}

/// A Cost Explorer expression with the API's own member names: exactly one member.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub(crate) struct FilterSettings {
    /// Short for `Dimensions` with `Key = "RECORD_TYPE"`: `Usage`, `Tax`, `Credit`, `Refund`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(crate) record_types: Option<Vec<String>>,
    /// All of at least two expressions.
    #[serde(rename = "And", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2))]
    pub(crate) and: Option<Vec<FilterSettings>>,
    /// Any of at least two expressions.
    #[serde(rename = "Or", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2))]
    pub(crate) or: Option<Vec<FilterSettings>>,
    /// The opposite of an expression.
    #[serde(rename = "Not", skip_serializing_if = "Option::is_none")]
    pub(crate) not: Option<Box<FilterSettings>>,
    /// By a dimension's values.
    #[serde(rename = "Dimensions", skip_serializing_if = "Option::is_none")]
    pub(crate) dimensions: Option<OperandSettings>,
    /// By a cost allocation tag's values.
    #[serde(rename = "Tags", skip_serializing_if = "Option::is_none")]
    pub(crate) tags: Option<OperandSettings>,
    /// By a cost category's values.
    #[serde(rename = "CostCategories", skip_serializing_if = "Option::is_none")]
    pub(crate) cost_categories: Option<OperandSettings>,
}

/// The operand of a filter.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "PascalCase")]
#[schemars(extend("required" = ["Key"]))]
pub(crate) struct OperandSettings {
    /// The dimension, tag key or cost category.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// Any of these values.
    pub(crate) values: Vec<String>,
    /// `EQUALS`, `CASE_SENSITIVE`, and for tags and cost categories `ABSENT`.
    pub(crate) match_options: Vec<String>,
}

/// `[transport]`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TransportSettings {
    /// The table of the same name says the rest.
    #[schemars(extend("enum" = ["local", "kafka", "nats"]))]
    pub(crate) kind: String,
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self { kind: "local".to_owned() }
    }
}

/// `[local]`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LocalSettings {
    /// `-`: stdout; else a file of JSON lines, which is appended to.
    #[schemars(length(min = 1))]
    pub(crate) output: String,
    /// The SQLite file of the state.
    #[schemars(length(min = 1))]
    pub(crate) state: String,
}

impl Default for LocalSettings {
    fn default() -> Self {
        Self { output: "-".to_owned(), state: "billing-source.db".to_owned() }
    }
}

/// `[admin]`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AdminSettings {
    /// Where `/livez`, `/readyz` and `/metrics` listen; empty: nowhere.
    pub(crate) listen: String,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9464".to_owned() }
    }
}

/// Text that is never printed.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) SecretString);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    // `writeOnly` is JSON Schema's word for a secret; `config show` redacts by it.
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "writeOnly": true })
    }
}
