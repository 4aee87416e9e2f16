//! What `connect` can be told on the command line. Everything else is asked, or has a default.
//!
//! No flag takes a secret: command lines are seen by every user of a machine and kept in histories.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do with connections.
#[derive(Clone, Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Example:
  amazon-billing-source connect                       # asks
  amazon-billing-source connect --name main --access-key-id AKIAIOSFODNN7EXAMPLE \\
      --secret-access-key-file aws-secret-access-key --output events.jsonl --yes
  amazon-billing-source connect --name prod --role-arn arn:aws:iam::111122223333:role/billing \\
      --external-id agreed --output kafka --address broker:9092 --create --yes
  pass aws/billing | amazon-billing-source connect --name main \\
      --access-key-id AKIAIOSFODNN7EXAMPLE --secret-access-key-file - --output - --yes"
)]
pub struct ConnectArgs {
    #[command(subcommand)]
    pub(super) command: Option<ConnectCommand>,
    #[command(flatten)]
    pub(super) file: ConfigFile,
    #[command(flatten)]
    pub(super) aws: AwsArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    /// Ask nothing: write what the flags and the defaults say
    #[arg(long, help_heading = UNASKED)]
    pub(super) yes: bool,
    /// Also send one Cost Explorer request per granularity; each costs $0.01
    #[arg(long, conflicts_with = "no_test", help_heading = UNASKED)]
    pub(super) query: bool,
    /// Write without reaching AWS and the output
    #[arg(long, help_heading = UNASKED)]
    pub(super) no_test: bool,
}

const UNASKED: &str = "Trying and writing";

/// Beside creating one.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum ConnectCommand {
    /// The connections of a configuration, without their secrets; JSON lines in a pipe
    #[command(after_help = "\
Example:
  amazon-billing-source connect list --config billing.toml")]
    List {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Take a connection out of a configuration; its events, state and secret stay
    #[command(after_help = "\
Example:
  amazon-billing-source connect remove main --config billing.toml")]
    Remove {
        /// Which
        name: String,
        #[command(flatten)]
        file: ConfigFile,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// The one file to write to.
#[derive(Clone, Debug, Args)]
pub(super) struct ConfigFile {
    /// Configuration file; `connect` creates it where there is none
    #[arg(
        long = "config",
        value_name = "FILE",
        env = "BILLING_SOURCE_CONFIG",
        default_value = "billing.toml"
    )]
    pub(super) path: PathBuf,
}

/// Whose costs, and which.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct AwsArgs {
    /// Its name in logs and metrics: small letters, digits and `-`
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Authenticate by an access key; its secret comes from a file, stdin or a variable
    #[arg(long, value_name = "ID", conflicts_with_all = ["profile", "role_arn", "default_credentials"])]
    pub(super) access_key_id: Option<String>,
    /// A file that holds the secret access key and nothing else; `-` reads it from stdin and puts it
    /// into a file of mode 0600
    #[arg(long, value_name = "FILE", requires = "access_key_id")]
    pub(super) secret_access_key_file: Option<String>,
    /// A variable that holds the secret access key, which is put into a file of mode 0600
    #[arg(
        long,
        value_name = "VARIABLE",
        requires = "access_key_id",
        conflicts_with = "secret_access_key_file"
    )]
    pub(super) secret_access_key_env: Option<String>,
    /// Where a secret access key is put that is in no file yet [default: `NAME.secret-access-key`,
    /// beside the configuration]
    #[arg(long, value_name = "FILE")]
    pub(super) secret_file: Option<PathBuf>,
    /// Authenticate by a profile of ~/.aws/config; with --role-arn the one that assumes the role
    #[arg(long)]
    pub(super) profile: Option<String>,
    /// Authenticate by a role
    #[arg(long, value_name = "ARN")]
    pub(super) role_arn: Option<String>,
    /// What the role's trust policy asks for
    #[arg(long, value_name = "TEXT", requires = "role_arn")]
    pub(super) external_id: Option<String>,
    /// Authenticate by what AWS's SDK finds: environment, profile, container, instance
    #[arg(long, conflicts_with_all = ["profile", "role_arn"])]
    pub(super) default_credentials: bool,
    /// `daily`, `hourly` or both [default: `daily`]
    #[arg(long, value_name = "GRANULARITY", value_delimiter = ',')]
    pub(super) granularity: Vec<String>,
    /// A second grouping beside the service: `LINKED_ACCOUNT`, `REGION`, `TAG:team`,
    /// `COST_CATEGORY:unit`
    #[arg(long, value_name = "GROUPING")]
    pub(super) group_by: Option<String>,
    /// Cost metrics by AWS's names [default: `AmortizedCost,UnblendedCost`]
    #[arg(long, value_name = "METRIC", value_delimiter = ',')]
    pub(super) metrics: Vec<String>,
    /// Any region of the account's partition [default: `us-east-1`]
    #[arg(long)]
    pub(super) region: Option<String>,
    /// A simulator or a private endpoint instead of AWS's own
    #[arg(long, value_name = "URL")]
    pub(super) endpoint_url: Option<String>,
}

/// Where events go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Output, where the file has none yet")]
pub(super) struct OutputArgs {
    /// A file of JSON lines, `-` for stdout, `kafka` or `nats`
    #[arg(long, value_name = "OUTPUT")]
    pub(super) output: Option<String>,
    /// The SQLite file of the state, with a file or stdout [default: `billing-source.db`]
    #[arg(long, value_name = "FILE", requires = "output")]
    pub(super) state: Option<String>,
    /// Kafka: host:port, with commas between [default: `localhost:9092`]. NATS: URLs [default:
    /// `nats://localhost:4222`]
    #[arg(long, value_name = "ADDRESS", requires = "output")]
    pub(super) address: Option<String>,
    /// Kafka: where events go; the state goes to TOPIC-state [default: `amazon-billing`]
    #[arg(long, requires = "output")]
    pub(super) topic: Option<String>,
    /// NATS: the stream of the events [default: `AMAZON_BILLING`]
    #[arg(long, requires = "output")]
    pub(super) stream: Option<String>,
    /// Create the topics, or the stream and its bucket, where they do not exist
    #[arg(long, requires = "output")]
    pub(super) create: bool,
    /// User at the broker; the password comes from a file, stdin or a variable
    #[arg(long, value_name = "NAME", requires = "output")]
    pub(super) output_user: Option<String>,
    /// A file that holds the password and nothing else; `-` reads it from stdin and puts it into a
    /// file of mode 0600
    #[arg(long, value_name = "FILE", requires = "output_user")]
    pub(super) output_password_file: Option<String>,
    /// A variable that holds the password, which is put into a file of mode 0600
    #[arg(long, value_name = "VARIABLE", requires = "output_user", conflicts_with = "output_password_file")]
    pub(super) output_password_env: Option<String>,
    /// Kafka: how the password is proven [default: `SCRAM-SHA-512`]
    #[arg(long, value_name = "MECHANISM", requires = "output_user")]
    pub(super) sasl_mechanism: Option<String>,
    /// NATS: the file `nsc` writes, with a user's JWT and seed
    #[arg(long, value_name = "FILE", requires = "output", conflicts_with = "output_user")]
    pub(super) nats_credentials_file: Option<String>,
    /// TLS to the broker
    #[arg(long, requires = "output")]
    pub(super) tls: bool,
    /// PEM file of who signs the broker's certificate [default: the system's]
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub(super) ca_file: Option<String>,
}
