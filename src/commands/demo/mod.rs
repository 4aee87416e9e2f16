//! `demo`: the whole pipeline with no AWS account and no server, a month and its close in half a
//! minute: the real SDK over loopback, real SQLite, the simulated Cost Explorer on a clock of its own.
//!
//! Nothing here is a shortcut: the cycles are those of `run`, only the hour strikes sooner.

mod audience;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use audience::{Audience, Observed, Style};
use jiff::{SignedDuration, Timestamp, ToSpan as _, civil::Date};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::environment;
use crate::{
    clock::Clock,
    config::{
        self, BudgetConfig, Config, ConnectionConfig, CredentialsConfig, LocalConfig, PollConfig,
        TransportConfig,
    },
    cost::{CostMetric, Granularity, midnight},
    cycle::{self, ClaimWatch, Context, When},
    dedup::Ledger,
    event::EventFactory,
    exit::{Exit, report},
    poller::{CostExplorer, http_client},
    simulator::{DEFAULT_ACCOUNT, Options, Recorded, Simulator},
    telemetry::Metrics,
    transport::{Transport, TransportError, local::Local},
};

const EXAMPLES: &str = "\
Example:
  amazon-billing-source demo
  amazon-billing-source demo | jq -r '[.change, .subject, .data.unblendedCost.amount] | @tsv'
  amazon-billing-source demo --recorded answers/ --dir walk   # twice: the second publishes nothing";

/// The simulated month, and how far into the next one its close is followed.
const MONTH: Date = jiff::civil::date(2026, 3, 1);
const LAST_DAY: Date = jiff::civil::date(2026, 4, 9);

/// How long the show takes on a terminal.
const SHOW: Duration = Duration::from_secs(28);

/// What to show.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    /// Walk through the days of recorded answers instead: a file or folder of `GetCostAndUsage` JSON
    #[arg(long, value_name = "PATH")]
    recorded: Option<PathBuf>,
    /// Keep state and events in this folder, and go on from what it holds
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The invented charges are a function of this number
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Publish to the output of this configuration instead of a file
    #[arg(long = "config", value_name = "FILE", conflicts_with = "dir")]
    config: Vec<PathBuf>,
    /// Do not slow down for the reader
    #[arg(long)]
    fast: bool,
}

/// Where the events go, and how they are shown.
struct Stage {
    config: Config,
    /// Where the files are; `None` with a configuration of the user's.
    dir: Option<PathBuf>,
    style: Style,
}

/// The polls to make and what they ask for.
struct Script {
    recorded: Option<Recorded>,
    metrics: Vec<CostMetric>,
    polls: Vec<Timestamp>,
    /// The days whose totals are compared at the end, end exclusive.
    days: (Date, Date),
}

/// Runs the show.
pub async fn run(args: DemoArgs, shutdown: CancellationToken) -> Exit {
    let (stage, script) = match prepare(&args) {
        Ok(prepared) => prepared,
        Err(exit) => return exit,
    };
    let refused = |error: &TransportError| {
        report(error, error.hint.as_deref());
        Exit::from(error)
    };
    match stage.config.transport.clone() {
        TransportConfig::Local(local) => match Local::connect(&local) {
            Ok(transport) => Box::pin(play(&args, stage, script, transport, shutdown)).await,
            Err(error) => refused(&error),
        },
        #[cfg(feature = "kafka")]
        TransportConfig::Kafka(kafka) => match crate::transport::kafka::Kafka::connect(&kafka) {
            Ok(transport) => Box::pin(play(&args, stage, script, transport, shutdown)).await,
            Err(error) => refused(&error),
        },
        #[cfg(feature = "nats")]
        TransportConfig::Nats(nats) => {
            let transport = crate::transport::nats::Nats::new(nats);
            Box::pin(play(&args, stage, script, transport, shutdown)).await
        }
    }
}

fn prepare(args: &DemoArgs) -> Result<(Stage, Script), Exit> {
    let fail = |message: &dyn std::fmt::Display, hint| {
        report(message, hint);
        Exit::Config
    };
    let script = match &args.recorded {
        None => Script {
            recorded: None,
            metrics: vec![CostMetric::AmortizedCost, CostMetric::UnblendedCost],
            polls: three_a_day(MONTH, LAST_DAY),
            days: (MONTH, MONTH.saturating_add(1.month())),
        },
        Some(path) => {
            let recorded = Recorded::load(path).map_err(|error| fail(&error, None))?;
            let Some((first, last)) = recorded.days() else {
                let hint = "give a file, or a folder with files, of `aws ce get-cost-and-usage` output";
                return Err(fail(&format!("no recorded day in `{}`", path.display()), Some(hint)));
            };
            Script {
                metrics: recorded.metrics(),
                polls: noon_of_each_day(first, last),
                days: (first, last.saturating_add(1.day())),
                recorded: Some(recorded),
            }
        }
    };
    // Without a configuration of the user's the demo is the same everywhere.
    let environment: Vec<_> = if args.config.is_empty() { Vec::new() } else { environment().collect() };
    let mut config = config::load(&args.config, environment).map_err(|error| fail(&error, None))?.config;
    let mut dir = None;
    if args.config.is_empty() {
        let folder = args.dir.clone().unwrap_or_else(|| {
            std::env::temp_dir().join(format!("amazon-billing-source-demo-{}", Uuid::new_v4().simple()))
        });
        std::fs::create_dir_all(&folder).map_err(|error| {
            fail(&format!("could not create the folder `{}`: {error}", folder.display()), None)
        })?;
        config.transport = TransportConfig::Local(LocalConfig {
            output: Some(folder.join("events.jsonl")),
            state: folder.join("state.db"),
        });
        dir = Some(folder);
    }
    let to_stdout = matches!(&config.transport, TransportConfig::Local(local) if local.output.is_none());
    let style = match (io::stdout().is_terminal(), to_stdout) {
        // The transport itself writes to stdout.
        (_, true) => Style::Quiet,
        (true, false) => Style::People,
        (false, false) => Style::Lines,
    };
    Ok((Stage { config, dir, style }, script))
}

async fn play<T: Transport>(
    args: &DemoArgs,
    stage: Stage,
    script: Script,
    transport: T,
    shutdown: CancellationToken,
) -> Exit {
    let clock = Clock::manual(script.polls.first().copied().unwrap_or(Timestamp::UNIX_EPOCH));
    let options = Options { seed: args.seed, recorded: script.recorded, ..Options::default() };
    let simulator = match Simulator::start(options, clock.clone()).await {
        Ok(simulator) => simulator,
        Err(error) => {
            report(&format!("could not start the simulated Cost Explorer: {error}"), None);
            return Exit::Failed;
        }
    };
    let connection = connection(&simulator.url(), script.metrics);
    let source = &stage.config.source;
    let scope = connection.scope(&source.source, DEFAULT_ACCOUNT);
    let factory = EventFactory::new(scope, &source.type_prefix);
    let poll = PollConfig { settle_days: 10, ..stage.config.poll.clone() };
    let transport = Observed::new(transport);
    let (metrics, gate) = (Metrics::new(), Mutex::new(()));
    let context = Context {
        transport: &transport,
        factory: &factory,
        connection: &connection,
        poll: &poll,
        budget: BudgetConfig { requests_per_day: None, requests_per_month: None },
        clock: &clock,
        instance: "demo",
        gate: &gate,
        metrics: &metrics,
    };
    let aws = match CostExplorer::connect(&connection, &http_client(), clock.clone()).await {
        Ok(aws) => aws,
        Err(error) => {
            report(&error, error.hint.as_deref());
            return Exit::Failed;
        }
    };
    let mut ledger = Ledger::new();
    if let Err(error) = transport.recover(&factory.scope().id(), &mut ledger).await {
        report(&error, error.hint.as_deref());
        return Exit::from(&error);
    }
    // Invented figures beside real ones could not be taken back.
    let others = transport.connections().await.unwrap_or_default();
    if let Some((_, other)) = others.iter().find(|(_, state)| state.name != connection.name) {
        let message =
            format!("the output holds events of connection `{}`: no invented ones are added", other.name);
        report(&message, Some("give the demonstration an output of its own"));
        return Exit::Config;
    }
    let paced = stage.style == Style::People && !args.fast;
    let polls = u32::try_from(script.polls.len()).unwrap_or(u32::MAX).max(1);
    let mut audience = Audience::new(stage.style, &connection, &factory, &ledger);
    let mut watch = ClaimWatch::new();
    if let Err(error) = audience.welcome(script.polls.len(), stage.dir.as_deref()) {
        return left(&error);
    }
    for now in &script.polls {
        if shutdown.is_cancelled() {
            return Exit::Done;
        }
        let began = Instant::now();
        clock.set(*now);
        let cycle =
            cycle::run(&context, &aws, &mut ledger, &mut watch, &[Granularity::Daily], When::Now, &shutdown)
                .await;
        let result = match cycle {
            Ok(report) => audience.poll(*now, &report, transport.take(), &simulator.bill().cost()),
            Err(error) => {
                report(&error, error.hint.as_deref());
                return Exit::from(&error);
            }
        };
        if let Err(error) = result {
            return left(&error);
        }
        if paced {
            let pause = (SHOW / polls).saturating_sub(began.elapsed());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return Exit::Done,
            }
        }
    }
    if let Err(error) = transport.close().await {
        report(&error, error.hint.as_deref());
        return Exit::from(&error);
    }
    let metric = audience.metric();
    let (from, to) = script.days;
    let aws_totals = simulator.totals(DEFAULT_ACCOUNT, metric, from, to);
    match audience.summary(from, to, &aws_totals, &simulator.bill(), stage.dir.as_deref()) {
        Ok(true) => Exit::Done,
        Ok(false) => {
            report(&"the events do not add up to AWS's own total", None);
            Exit::Failed
        }
        Err(error) => left(&error),
    }
}

/// A reader that has seen enough is no failure.
fn left(error: &io::Error) -> Exit {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Exit::Done;
    }
    report(&format!("could not write to stdout: {error}"), None);
    Exit::Failed
}

fn connection(url: &str, metrics: Vec<CostMetric>) -> ConnectionConfig {
    ConnectionConfig {
        name: "demo".to_owned(),
        account_id: Some(DEFAULT_ACCOUNT.to_owned()),
        granularity: vec![Granularity::Daily],
        metrics,
        group_by: None,
        filter: None,
        endpoint_url: Some(url.to_owned()),
        sts_endpoint_url: None,
        region: "us-east-1".to_owned(),
        credentials: CredentialsConfig::Keys {
            access_key_id: "AKIASIMULATED00000001".to_owned(),
            secret_access_key: "simulated".to_owned().into(),
            session_token: None,
        },
    }
}

/// AWS refreshes its books about three times a day; an hour later they are read.
fn three_a_day(first: Date, last: Date) -> Vec<Timestamp> {
    let hours = |day: Date| [3, 11, 19].map(|hour| instant(day, hour));
    days(first, last).flat_map(hours).collect()
}

fn noon_of_each_day(first: Date, last: Date) -> Vec<Timestamp> {
    days(first, last).map(|day| instant(day, 12)).collect()
}

fn days(first: Date, last: Date) -> impl Iterator<Item = Date> {
    first.series(1.day()).take_while(move |day| *day <= last)
}

fn instant(day: Date, hour: i64) -> Timestamp {
    midnight(day).checked_add(SignedDuration::from_hours(hour)).unwrap_or(Timestamp::MAX)
}
