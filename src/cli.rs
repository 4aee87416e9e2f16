//! The command line: what can be asked for, and who does it.
//!
//! Events and what was asked for go to stdout, everything else to stderr.

use std::io::{self, IsTerminal as _};

use clap::{CommandFactory as _, Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use tracing::warn;

#[cfg(feature = "nats")]
use crate::transport::nats::Nats;
use crate::{
    admin::{self, Readiness},
    app::{self, Mode, World},
    clock::Clock,
    commands::{
        ConfigFiles,
        backfill::{self, BackfillArgs},
        check::{self, CheckArgs},
        connect::{self, ConnectArgs},
        demo::{self, DemoArgs},
        forward::{self, ForwardArgs},
        ledger,
        plan::{self, PlanArgs},
        print,
        read::{self, ReplayArgs, TailArgs},
        schema::{self, SchemaArgs},
        simulate::{self, SimulateArgs},
    },
    config::{self, Config, TransportConfig},
    exit::{Exit, report},
    signals::{Signals, on_runtime},
    telemetry::{LogFormat, Metrics, init_logs},
    transport::{Transport, TransportError, local::Local},
};

#[cfg(feature = "kafka")]
use crate::transport::kafka::Kafka;

/// AWS spend as a trustworthy event stream: Cost Explorer to `CloudEvents`, effectively once.
#[derive(Debug, Parser)]
#[command(
    name = "amazon-billing-source",
    version,
    max_term_width = 100,
    after_help = "\
Example:
  amazon-billing-source demo"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log filter, such as `info`, `debug` or `amazon_billing_source=trace`
    #[arg(long, global = true, env = "BILLING_SOURCE_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// How log lines look
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Poll every connection when due and publish what is new, revised or gone
    #[command(after_help = "\
Example:
  amazon-billing-source run --config billing.toml
  amazon-billing-source run --config billing.toml --once   # for cron")]
    Run {
        #[command(flatten)]
        files: ConfigFiles,
        /// One cycle for every connection now, due or not, then exit
        #[arg(long)]
        once: bool,
    },
    /// Watch a simulated month and its close become events: no AWS account, no server
    Demo(DemoArgs),
    /// Serve a simulated Cost Explorer to try things on
    Simulate(SimulateArgs),
    /// Create a connection: asks, tries the answers, writes the configuration
    Connect(Box<ConnectArgs>),
    /// Check the configuration, and with --connect what it points to
    Check(CheckArgs),
    /// Tell what the configured polls will cost, or did cost; needs no network
    Plan(PlanArgs),
    /// Read and publish older months, as far back as AWS has them, at a price that is told first
    Backfill(BackfillArgs),
    /// Show events as they are published
    Tail(TailArgs),
    /// Read published events back: all of them, some of them, or what they come to
    Replay(ReplayArgs),
    /// Deliver every event to an HTTP endpoint, at least once, in order per key
    Forward(ForwardArgs),
    /// Look at the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Look at the state
    Ledger {
        #[command(subcommand)]
        command: LedgerCommand,
    },
    /// Print the contracts of the events: JSON Schema and AsyncAPI
    Schema(SchemaArgs),
    /// Print the IAM policy the credentials need
    #[command(after_help = "\
Example:
  amazon-billing-source policy > policy.json")]
    Policy,
    /// Print shell completions
    #[command(after_help = "\
Example:
  amazon-billing-source completions bash > /etc/bash_completion.d/amazon-billing-source")]
    Completions {
        /// Which shell's
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Every value in force with its origin; JSON lines in a pipe
    #[command(after_help = "\
Example:
  amazon-billing-source config show --config billing.toml")]
    Show {
        #[command(flatten)]
        files: ConfigFiles,
    },
    /// The JSON Schema of the configuration, for editors
    #[command(after_help = "\
Example:
  amazon-billing-source config schema > billing-source.schema.json")]
    Schema,
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// What was last published of every key, as JSON lines; also beside a running process
    #[command(after_help = "\
Example:
  amazon-billing-source ledger show --config billing.toml | jq -r '[.key, .revision] | @tsv'")]
    Show {
        #[command(flatten)]
        files: ConfigFiles,
    },
}

/// Parses the arguments and does what they ask.
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are asked for and come this way too, on stdout.
            let asked_for = !error.use_stderr();
            let printed = error.print().is_ok();
            return if asked_for && printed { Exit::Done } else { Exit::Usage };
        }
    };
    // What a library logs of a failure is said as an error; in the middle of a question it only confuses.
    let log = match cli.command {
        Command::Connect(_) if cli.log == "info" => "off",
        _ => cli.log.as_str(),
    };
    if let Err(error) = init_logs(log, cli.log_format) {
        report(&error, Some("see https://docs.rs/tracing-subscriber, EnvFilter, for the syntax"));
        return Exit::Usage;
    }
    match cli.command {
        Command::Run { files, once } => run(&files, once),
        Command::Demo(args) => on_runtime(Signals::Drain, |shutdown| demo::run(args, shutdown)),
        Command::Simulate(args) => on_runtime(Signals::Drain, |shutdown| simulate::run(args, shutdown)),
        Command::Connect(args) => on_runtime(Signals::Own, |shutdown| connect::run(*args, shutdown)),
        Command::Check(args) => on_runtime(Signals::Drain, |shutdown| async move {
            // It holds nothing that would have to be drained.
            tokio::select! {
                exit = check::run(args) => exit,
                () = shutdown.cancelled() => Exit::Failed,
            }
        }),
        Command::Plan(args) => on_runtime(Signals::Default, |_| plan::run(args)),
        Command::Backfill(args) => on_runtime(Signals::Drain, |shutdown| backfill::run(args, shutdown)),
        Command::Tail(args) => on_runtime(Signals::Quiet, |shutdown| read::tail(args, shutdown)),
        Command::Replay(args) => on_runtime(Signals::Quiet, |shutdown| read::replay(args, shutdown)),
        Command::Forward(args) => on_runtime(Signals::Drain, |shutdown| forward::run(args, shutdown)),
        Command::Config { command: ConfigCommand::Show { files } } => match files.load() {
            Ok(loaded) => print(&config::show(&loaded, !io::stdout().is_terminal())),
            Err(exit) => exit,
        },
        Command::Config { command: ConfigCommand::Schema } => {
            print(&format!("{:#}\n", config::json_schema()))
        }
        Command::Ledger { command: LedgerCommand::Show { files } } => match files.load() {
            Ok(loaded) => on_runtime(Signals::Default, |_| async move { ledger::show(&loaded.config).await }),
            Err(exit) => exit,
        },
        Command::Schema(args) => schema::run(&args),
        Command::Policy => print(connect::POLICY),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "amazon-billing-source", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    }
}

fn run(files: &ConfigFiles, once: bool) -> Exit {
    let loaded = match files.load_connections() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let config = loaded.config;
    let mode = if once { Mode::Once } else { Mode::Service };
    on_runtime(Signals::Drain, |shutdown| async move {
        match config.transport.clone() {
            TransportConfig::Local(local) => serve(config, Local::connect(&local), mode, shutdown).await,
            #[cfg(feature = "kafka")]
            TransportConfig::Kafka(kafka) => serve(config, Kafka::connect(&kafka), mode, shutdown).await,
            #[cfg(feature = "nats")]
            TransportConfig::Nats(nats) => serve(config, Ok(Nats::new(nats)), mode, shutdown).await,
        }
    })
}

async fn serve<T: Transport>(
    config: Config,
    transport: Result<T, TransportError>,
    mode: Mode,
    shutdown: CancellationToken,
) -> Exit {
    let transport = match transport {
        Ok(transport) => transport,
        Err(error) => {
            report(&error, error.hint.as_deref());
            return Exit::from(&error);
        }
    };
    let world = World {
        clock: Clock::system(),
        metrics: Metrics::new(),
        readiness: Readiness::default(),
        instance: config.poll.instance(),
    };
    // A single cycle needs no endpoints, and may run beside a service that has them.
    if let Some(listen) = config.admin.filter(|_| mode == Mode::Service) {
        let (metrics, readiness) = (world.metrics.clone(), world.readiness.clone());
        let other = "set `admin.listen` to a free address, or to \"\" to switch it off";
        tokio::spawn(admin::serve((listen, other), metrics, readiness, shutdown.clone()));
    }
    app::run(config, transport, world, mode, shutdown).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_ends_its_help_with_an_example() {
        fn check(command: &clap::Command) {
            let leaf = command.get_subcommands().next().is_none();
            if leaf && command.get_name() != "help" {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("amazon-billing-source "), "{}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
