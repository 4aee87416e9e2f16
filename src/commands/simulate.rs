//! `simulate`: the simulated Cost Explorer as a server of its own.
//!
//! Only its command line; what is simulated is in [`crate::simulator`].

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
};

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::print;
use crate::{
    clock::Clock,
    exit::{Exit, report},
    simulator::{DEFAULT_PAGE_SIZE, Options, Recorded, SCENARIOS, Scenario, Simulator},
};

const EXAMPLES: &str = "\
Examples:
  # A company's bill, with the books of today
  amazon-billing-source simulate

  # On a port of the system's choice, from the end of January on, an hour a second; for clients that
  # ask for those days, which `run` does not
  amazon-billing-source simulate --listen 127.0.0.1:0 --start 2026-01-31T12:00:00Z --speed 3600

  # The next two requests are throttled
  curl -d '{\"fault\": \"throttled\", \"times\": 2}' http://127.0.0.1:5055/_simulator/faults";

/// Serve a simulated AWS Cost Explorer (and the STS calls around it)
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct SimulateArgs {
    /// Where to listen; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5055")]
    pub listen: SocketAddr,
    /// What kind of account to simulate; see --list-scenarios
    #[arg(long, value_name = "NAME", default_value = "company", hide_possible_values = true,
        value_parser = PossibleValuesParser::new(SCENARIOS.map(|scenario| scenario.name)))]
    pub scenario: String,
    /// The invented charges are a function of this number; the same number, the same bill
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Serve recorded answers: a file or a folder of `GetCostAndUsage` JSON
    #[arg(long, value_name = "PATH")]
    pub recorded: Option<PathBuf>,
    /// Groups on a page
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PAGE_SIZE)]
    pub page_size: usize,
    /// The external id that every assumed role asks for
    #[arg(long, value_name = "ID")]
    pub external_id: Option<String>,
    /// Begin at this instant instead of now
    #[arg(long, value_name = "TIMESTAMP")]
    pub start: Option<Timestamp>,
    /// How many times as fast the clock runs; 0 stands still until set over HTTP
    #[arg(long, value_name = "N")]
    pub speed: Option<u32>,
    /// List the scenarios and exit
    #[arg(long)]
    pub list_scenarios: bool,
}

impl SimulateArgs {
    /// The clock that the arguments ask for.
    fn clock(&self) -> Clock {
        let start = || self.start.unwrap_or_else(|| Clock::system().now());
        match (self.start, self.speed) {
            (None, None) => Clock::system(),
            (_, Some(0)) => Clock::manual(start()),
            (_, speed) => Clock::scaled(start(), speed.unwrap_or(1)),
        }
    }
}

/// Serves until the token is cancelled, then reports the bill.
pub async fn run(args: SimulateArgs, shutdown: CancellationToken) -> Exit {
    if args.list_scenarios {
        return print(
            &SCENARIOS.map(|scenario| format!("{:<16} {}\n", scenario.name, scenario.about)).concat(),
        );
    }
    let recorded = match args.recorded.as_deref().map(Recorded::load).transpose() {
        Ok(recorded) => recorded,
        Err(error) => {
            report(
                &error,
                Some("give a file, or a folder with files, of `aws ce get-cost-and-usage` output"),
            );
            return Exit::Config;
        }
    };
    match serve(args, recorded, shutdown).await {
        Ok(()) => Exit::Done,
        Err(error) => {
            report(&format!("{error:#}"), None);
            Exit::Failed
        }
    }
}

async fn serve(
    args: SimulateArgs,
    recorded: Option<Recorded>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let scenario = Scenario::from_name(&args.scenario).unwrap_or_default();
    let clock = args.clock();
    for skipped in recorded.iter().flat_map(|recorded| &recorded.skipped) {
        warn!(path = %skipped.path.display(), reason = skipped.reason, "file is not served");
    }
    let options = Options {
        listen: args.listen,
        seed: args.seed,
        scenario,
        page_size: args.page_size,
        recorded,
        external_id: args.external_id,
        any_period: false,
    };
    let simulator = Simulator::start(options, clock.clone())
        .await
        .with_context(|| format!("could not listen on `{}`", args.listen))?;
    announce(&simulator.url()).context("could not write to stdout")?;
    info!(scenario = scenario.name, seed = args.seed, now = %clock.now(), "simulating Cost Explorer");
    shutdown.cancelled().await;
    let bill = simulator.bill();
    simulator.shutdown().await;
    info!(
        requests = bill.requests(),
        chargeable = bill.chargeable,
        refused = bill.refused,
        sts = bill.sts,
        cost = bill.cost(),
        "simulation ended"
    );
    Ok(())
}

/// The one line that scripts wait for.
fn announce(url: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "listening on {url}")?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn parse(args: &[&str]) -> SimulateArgs {
        Cli::try_parse_from([&["simulate"], args].concat()).unwrap().args
    }

    #[test]
    fn help_ends_with_an_example() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.trim_end().ends_with("http://127.0.0.1:5055/_simulator/faults"), "{help}");
    }

    #[test]
    fn the_clock_is_real_unless_told_otherwise() {
        assert_eq!(parse(&[]).listen.to_string(), "127.0.0.1:5055");
        let start = "2026-01-31T12:00:00Z".parse().unwrap();
        assert!(parse(&[]).clock().now() > start);
        let still = parse(&["--start", "2026-01-31T12:00:00Z", "--speed", "0"]).clock();
        assert_eq!(still.now(), start);
        assert!(parse(&["--start", "2026-01-31T12:00:00Z"]).clock().now() >= start);
    }

    #[tokio::test]
    async fn it_runs_until_it_is_told_to_end_and_names_what_it_does_not_know() {
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        assert_eq!(run(parse(&["--listen", "127.0.0.1:0"]), shutdown.clone()).await, Exit::Done);
        assert_eq!(run(parse(&["--recorded", "/nowhere"]), shutdown).await, Exit::Config);
        let error = Cli::try_parse_from(["simulate", "--scenario", "weekly"]).err().unwrap().to_string();
        assert!(error.contains("company, hourly-disabled"), "{error}");
    }
}
