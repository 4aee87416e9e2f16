//! `backfill`: months that polls no longer read. Only its command line; the work is in
//! [`crate::backfill`].

use std::io::{self, IsTerminal as _};

use jiff::civil::Date;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{ConfigFiles, date};
use crate::{
    admin::Readiness,
    app::World,
    backfill::{self, Consent, Request, quote},
    clock::Clock,
    config::{Config, ConnectionConfig, TransportConfig},
    cost::{Granularity, utc_date},
    cycle::Reread,
    exit::{Exit, report},
    telemetry::Metrics,
    transport::{Transport, TransportError, TransportErrorKind, local::Local},
};

/// What to read, and whether its price is agreed to.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Daily data of whole months, newest first; Cost Explorer keeps the current month, which every poll
reads, and the 13 before it. What was published already and is unchanged is silence. Stopped,
killed or out of budget, the same command goes on where it was: a finished month is not paid for
again. On Kafka and NATS it runs beside `run`.

Examples:
  amazon-billing-source plan --config billing.toml --backfill-from 2025-10-01   # the price
  amazon-billing-source backfill --config billing.toml --from 2025-10-01
  amazon-billing-source backfill --config billing.toml --from 2026-01-01 --to 2026-03-31 --yes")]
pub struct BackfillArgs {
    #[command(flatten)]
    files: ConfigFiles,
    /// The first day; its whole month is read
    #[arg(long, value_name = "DATE", value_parser = date)]
    from: Date,
    /// The last day; its whole month is read [default: the end of last month]
    #[arg(long, value_name = "DATE", value_parser = date)]
    to: Option<Date>,
    /// Only this connection; repeated, only these
    #[arg(long = "connection", value_name = "NAME")]
    connections: Vec<String>,
    /// Agree to the price without being asked; needed where there is no terminal
    #[arg(long)]
    yes: bool,
    /// Read, and pay for, months that were read before once more
    #[arg(long)]
    again: bool,
}

/// Refuses what cannot be done, all of it at once; then tells the price and does it.
pub async fn run(args: BackfillArgs, shutdown: CancellationToken) -> Exit {
    let loaded = match args.files.load_connections() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let config = loaded.config;
    let world = World {
        clock: Clock::system(),
        metrics: Metrics::new(),
        readiness: Readiness::default(),
        instance: config.poll.instance(),
    };
    let is_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    let request = match request(&args, &config, utc_date(world.clock.now()), is_terminal) {
        Ok(request) => request,
        Err(problems) => {
            for problem in problems {
                report(&problem.message, Some(&problem.hint));
            }
            return Exit::Usage;
        }
    };
    match config.transport.clone() {
        TransportConfig::Local(local) => {
            let transport = Local::connect(&local).map_err(|error| match error.kind {
                TransportErrorKind::InUse => error.with_hint(
                    "if that is `run`: stop it, backfill, and start it again, it will not poll before it is due; \
                     only Kafka and NATS can be shared",
                ),
                _ => error,
            });
            work(config, transport, world, request, shutdown).await
        }
        #[cfg(feature = "kafka")]
        TransportConfig::Kafka(kafka) => {
            let transport = crate::transport::kafka::Kafka::connect(&kafka);
            work(config, transport, world, request, shutdown).await
        }
        #[cfg(feature = "nats")]
        TransportConfig::Nats(nats) => {
            let transport = Ok(crate::transport::nats::Nats::new(nats));
            work(config, transport, world, request, shutdown).await
        }
    }
}

async fn work<T: Transport>(
    config: Config,
    transport: Result<T, TransportError>,
    world: World,
    request: Request,
    shutdown: CancellationToken,
) -> Exit {
    match transport {
        Ok(transport) => backfill::run(config, transport, world, request, shutdown).await,
        Err(error) => {
            report(&error, error.hint.as_deref());
            Exit::from(&error)
        }
    }
}

/// What the arguments ask for.
fn request(
    args: &BackfillArgs,
    config: &Config,
    today: Date,
    is_terminal: bool,
) -> Result<Request, Vec<quote::Problem>> {
    let mut problems = Vec::new();
    let months = quote::months(args.from, args.to, today).unwrap_or_else(|found| {
        problems.extend(found);
        Vec::new()
    });
    let connections = chosen(&args.connections, config).unwrap_or_else(|found| {
        problems.extend(found);
        Vec::new()
    });
    if !args.yes && !is_terminal {
        problems.push(quote::Problem {
            message: "nobody can be asked whether the price is right: stdin or stderr is no terminal"
                .to_owned(),
            hint: format!("see it with `plan --backfill-from {}`, then add `--yes`", args.from),
        });
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Request {
        months,
        connections,
        reread: if args.again { Reread::Everything } else { Reread::Unfinished },
        consent: if args.yes { Consent::Given } else { Consent::Asked },
    })
}

/// The connections of these names that are polled daily, or all of them.
///
/// # Errors
/// A name that is not configured; one that is only polled hourly; none left.
pub(super) fn chosen(
    names: &[String],
    config: &Config,
) -> Result<Vec<ConnectionConfig>, Vec<quote::Problem>> {
    let is_daily = |connection: &ConnectionConfig| connection.granularity.contains(&Granularity::Daily);
    let why = "of hours AWS keeps 14 days, and every hourly poll reads all of them; \
               a backfill needs `daily` in the connection's `granularity`";
    let mut problems = Vec::new();
    for name in names {
        match config.connections.iter().find(|connection| connection.name == *name) {
            None => {
                let known: Vec<_> = config.connections.iter().map(|c| format!("`{}`", c.name)).collect();
                problems.push(quote::Problem {
                    message: format!("no connection is called `{name}`"),
                    hint: format!("there are {}", known.join(", ")),
                });
            }
            Some(connection) if !is_daily(connection) => problems.push(quote::Problem {
                message: format!("connection `{name}` has no daily data to backfill, only hourly"),
                hint: why.to_owned(),
            }),
            Some(_) => {}
        }
    }
    let is_chosen = |connection: &&ConnectionConfig| names.is_empty() || names.contains(&connection.name);
    let connections: Vec<_> =
        config.connections.iter().filter(is_chosen).filter(|c| is_daily(c)).cloned().collect();
    if connections.is_empty() && names.is_empty() {
        let message = "no connection has daily data to backfill, only hourly".to_owned();
        problems.push(quote::Problem { message, hint: why.to_owned() });
    }
    if problems.is_empty() { Ok(connections) } else { Err(problems) }
}
