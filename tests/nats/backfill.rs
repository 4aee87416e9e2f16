//! A backfill beside a service: neither harms the other, and AWS is paid once.

use std::time::Duration;

use amazon_billing_source::{
    admin::Readiness,
    app::{self, Mode, World},
    backfill::{self, Consent, Request, quote},
    clock::Clock,
    config::{BudgetConfig, Config, PollConfig, SourceConfig, TransportConfig},
    cost::{CostMetric, utc_date},
    cycle::Reread,
    exit::Exit,
    simulator::{DEFAULT_ACCOUNT, Options, Simulator},
    telemetry::Metrics,
    transport::{Transport as _, nats::Nats},
};
use jiff::ToSpan as _;
use rust_decimal::Decimal;
use tokio_util::sync::CancellationToken;

use crate::{
    claims::connection,
    support::{Seen, Server, Violations, consume, judge, versions},
};

fn config(server: &Server, simulator: &Simulator) -> Config {
    Config {
        source: SourceConfig {
            source: "cloud.amazon.billing".to_owned(),
            type_prefix: "amazon.billing".to_owned(),
        },
        poll: PollConfig {
            interval: Duration::from_secs(2),
            claim_ttl: Duration::from_mins(2),
            instance: None,
            settle_days: 0,
            publish_zero: false,
            concurrency: 4,
            max_pages: 100,
            grace: Duration::from_secs(10),
        },
        budget: BudgetConfig { requests_per_day: None, requests_per_month: None },
        connections: vec![connection(DEFAULT_ACCOUNT, simulator)],
        transport: TransportConfig::Nats(server.config()),
        admin: None,
    }
}

fn world(instance: &str) -> World {
    World {
        clock: Clock::system(),
        metrics: Metrics::new(),
        readiness: Readiness::default(),
        instance: instance.to_owned(),
    }
}

/// What a consumer makes of the days of a month.
fn sum(seen: &[Seen], month: &str) -> Decimal {
    let newest: std::collections::BTreeMap<&str, &Seen> =
        seen.iter().map(|seen| (seen.event["partitionkey"].as_str().unwrap(), seen)).collect();
    let of_month =
        newest.values().filter(|seen| seen.event["data"]["date"].as_str().unwrap().starts_with(month));
    let amount = |seen: &&Seen| {
        Decimal::from_str_exact(seen.event["data"]["unblendedCost"]["amount"].as_str().unwrap()).unwrap()
    };
    of_month.map(amount).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_service_nothing_is_paid_twice_or_published_twice() {
    for version in versions() {
        let server = Server::start(version);
        let options = Options { page_size: 400, ..Options::default() };
        let simulator = Simulator::start(options, Clock::system()).await.unwrap();
        let config = config(&server, &simulator);
        let today = utc_date(Clock::system().now());
        let from = today.first_of_month().saturating_sub(6.months());
        let months = quote::months(from, None, today).unwrap();
        let request = Request {
            months: months.clone(),
            connections: config.connections.clone(),
            reread: Reread::Unfinished,
            consent: Consent::Given,
        };
        let stop = CancellationToken::new();
        // The same host: its name alone would make one's claims the other's.
        let (service, beside) = (world("host"), world("host"));
        let metrics = [service.metrics.clone(), beside.metrics.clone()];
        let serving =
            app::run(config.clone(), Nats::new(server.config()), service, Mode::Service, stop.clone());
        let backfilling = async {
            let nats = Nats::new(server.config());
            let exit = backfill::run(config.clone(), nats, beside, request.clone(), stop.clone()).await;
            // Polls go on after it.
            let charged = simulator.bill().chargeable;
            while simulator.bill().chargeable == charged {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            stop.cancel();
            exit
        };
        let both = Box::pin(async { tokio::join!(serving, backfilling) });
        let exits = tokio::time::timeout(Duration::from_secs(90), both).await.expect("it ends");
        assert_eq!(exits, (Exit::Done, Exit::Done), "{version}");
        for metrics in metrics {
            let text = metrics.render();
            assert!(!text.lines().any(|line| line.starts_with("billing_source_errors_total")), "{text}");
        }
        let nats = Nats::new(server.config());
        let (_, state) = nats.connections().await.unwrap().pop().unwrap();
        assert_eq!(state.claim, None);
        // The stop may have cut one request off, which is counted whether or not AWS saw it.
        let charged = simulator.bill().chargeable;
        let counted = charged..=charged + 1;
        assert!(counted.contains(&state.spent.total), "{version}: {} of {charged}", state.spent.total);
        let seen = consume(&server).await;
        assert_eq!(judge(&seen).0, Violations::default(), "{version}");
        for month in &months {
            let to = month.saturating_add(1.month());
            let theirs = simulator.totals(DEFAULT_ACCOUNT, CostMetric::UnblendedCost, *month, to);
            assert_eq!(sum(&seen, &quote::label(*month)), theirs.into_values().sum(), "{version} {month}");
        }
        // Another time nothing is asked for.
        let again = backfill::run(config, nats, world("host"), request, CancellationToken::new()).await;
        assert_eq!((again, simulator.bill().chargeable), (Exit::Done, charged), "{version}");
    }
}
