//! A history much wider than the look-back: what is not polled is neither read nor held, and what is
//! published does not depend on that.

use std::{collections::BTreeMap, fs, path::Path};

use amazon_billing_source::{
    admin::Readiness,
    app::{self, Mode, World},
    clock::Clock,
    config::{LocalConfig, TransportConfig},
    cost::{CostRecord, Granularity, Period},
    dedup::Ledger,
    exit::Exit,
    poller::Window,
    simulator::{Fault, Injection, Options, Simulator},
    telemetry::Metrics,
    transport::{Transport, local::Local, nats::Nats},
};
use jiff::{Timestamp, ToSpan as _, civil::date};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    claims::{connection, polling},
    proxy::Proxy,
    support::{Poller, Server, Violations, consume, factory, judge, newest, record, second, versions},
};

fn window(from: &str, until: &str) -> Window {
    Window { from: Period::from_label(from).unwrap(), until: Period::from_label(until).unwrap() }
}

/// Every day and, of some, every hour, from the beginning of 2026 to the end of November; so many
/// services.
fn year(services: usize, cents: i64) -> Vec<CostRecord> {
    let first = date(2026, 1, 1);
    (0..334)
        .map(|day| first.saturating_add(day.days()).to_string())
        .flat_map(|day| (0..services).map(move |n| record(&day, &format!("Service {n:02}"), cents)))
        .collect()
}

async fn hold(nats: &Nats, ledger: &mut Ledger, window: Window) -> usize {
    nats.recover_window(&factory().scope().id(), ledger, &|_| window).await.unwrap();
    assert!(ledger.rows().all(|(_, row)| window.contains(row.key().period)));
    ledger.len()
}

#[tokio::test]
async fn a_wider_history_is_neither_read_nor_held() {
    for version in versions() {
        let server = Server::start(version);
        let mut poller = Poller::new(server.transport());
        let mut all = year(10, 100);
        all.extend((0..24).map(|hour| record(&format!("2026-11-20T{hour:02}"), "Service 00", 100)));
        all.extend((0..24).map(|hour| record(&format!("2026-10-31T{hour:02}"), "Service 00", 100)));
        assert_eq!(poller.poll(&all, second(0)).await, 3340 + 48, "{version}");

        let proxy = Proxy::before(server.port).await;
        let mut config = server.config();
        config.servers = vec![proxy.url()];
        let nats = Nats::new(config);
        let mut ledger = Ledger::new();
        let (november, autumn) = (window("2026-11-01", "2026-11-22"), window("2026-09-01", "2026-11-22"));
        nats.peek(&factory().scope().id()).await.unwrap();
        let before = proxy.passed();
        assert_eq!(hold(&nats, &mut ledger, november).await, 21 * 10, "{version}");
        let narrow = proxy.passed() - before;
        // Nothing that changes the window's months: nothing to read.
        Poller::new(server.transport()).poll(&[record("2026-02-01", "Service 00", 200)], second(1)).await;
        let before = proxy.passed();
        assert_eq!(hold(&nats, &mut ledger, november).await, 21 * 10);
        assert!(proxy.passed() - before < 10_000, "{version}: {} bytes", proxy.passed() - before);
        // A rival's events, within and without.
        let rivals = [record("2026-11-05", "Rival", 1), record("2026-02-05", "Rival", 1)];
        Poller::new(server.transport()).poll(&rivals, second(2)).await;
        assert_eq!(hold(&nats, &mut ledger, november).await, 21 * 10 + 1);
        // What is held for a longer window is good for a shorter one.
        assert_eq!(hold(&nats, &mut ledger, autumn).await, (30 + 31 + 21) * 10 + 1);
        nats.recover_window(&factory().scope().id(), &mut ledger, &|_| november).await.unwrap();
        assert_eq!(ledger.len(), (30 + 31 + 21) * 10 + 1);
        // Hours of two months, whose filters hold more than the window does.
        assert_eq!(hold(&nats, &mut ledger, window("2026-10-31T20", "2026-11-20T05")).await, 4 + 5);
        let before = proxy.passed();
        nats.recover(&factory().scope().id(), &mut ledger).await.unwrap();
        assert_eq!(ledger.len(), 3340 + 48 + 2);
        let wide = proxy.passed() - before;
        assert!(narrow * 8 < wide, "{version}: {narrow} bytes for a month, {wide} for the year");
    }
}

/// The events of a run of polls, by id, and how many keys were held at most.
type Published = (BTreeMap<String, Value>, u64);

/// When, what AWS withholds or restates then, and whether hours are polled too.
const POLLS: [(&str, Option<&str>, bool, bool); 10] = [
    ("2026-01-18T06:00:00Z", None, false, false),
    ("2026-01-20T06:00:00Z", Some("Amazon ElastiCache"), false, false),
    // Down for weeks: January has settled, but a row of it was missing once.
    ("2026-03-03T06:00:00Z", Some("Amazon ElastiCache"), false, false),
    ("2026-03-03T14:00:00Z", None, false, false),
    ("2026-03-25T06:00:00Z", None, true, true),
    ("2026-03-26T06:00:00Z", Some("AWS Lambda"), false, true),
    // In the next month its row is still looked at.
    ("2026-04-12T06:00:00Z", Some("AWS Lambda"), false, false),
    ("2026-06-11T06:00:00Z", None, false, false),
    ("2026-06-11T14:00:00Z", None, true, false),
    ("2026-12-31T23:59:59Z", None, false, false),
];

async fn polls<T: Transport>(transport: impl Fn() -> T, kind: TransportConfig) -> u64 {
    let start: Timestamp = POLLS[0].0.parse().unwrap();
    let clock = Clock::manual(start);
    let simulator = Simulator::start(Options::default(), clock.clone()).await.unwrap();
    let mut config = polling(kind, vec![connection("111122223333", &simulator)]);
    let mut most = 0;
    for (at, dropped, restated, hourly) in POLLS {
        clock.set(at.parse().unwrap());
        config.connections[0].granularity = Granularity::ALL[..=usize::from(hourly)].to_vec();
        let dropped = dropped.map(|service| Fault::DropService { service: service.to_owned() });
        let restated = restated
            .then(|| Fault::Change { service: Some("AWS Lambda".to_owned()), add: "0.01".parse().unwrap() });
        for fault in dropped.into_iter().chain(restated) {
            simulator.faults().inject(Injection { times: 1 + u32::from(hourly), ..fault.into() });
        }
        let metrics = Metrics::new();
        let world = World {
            clock: clock.clone(),
            metrics: metrics.clone(),
            readiness: Readiness::default(),
            instance: "test".to_owned(),
        };
        let ended = app::run(config.clone(), transport(), world, Mode::Once, CancellationToken::new()).await;
        assert_eq!(ended, Exit::Done, "{at}");
        assert_eq!(simulator.faults().pending(), 0, "{at}");
        let text = metrics.render();
        let rows = text.lines().find(|line| line.starts_with("billing_source_ledger_rows")).unwrap();
        most = most.max(rows.rsplit_once(' ').unwrap().1.parse().unwrap());
    }
    most
}

async fn on_nats(server: &Server) -> Published {
    let config = server.config();
    let most = polls(|| Nats::new(config.clone()), TransportConfig::Nats(config.clone())).await;
    let seen = consume(server).await;
    let Violations { gaps, stale, repeated, .. } = judge(&seen).0;
    assert_eq!((gaps, stale, repeated), (0, 0, 0));
    (seen.into_iter().map(|seen| by_id(seen.event)).collect(), most)
}

async fn on_a_file(dir: &Path) -> Published {
    let config = LocalConfig { output: Some(dir.join("events")), state: dir.join("state.db") };
    let most = polls(|| Local::connect(&config).unwrap(), TransportConfig::Local(config.clone())).await;
    let text = fs::read_to_string(dir.join("events")).unwrap();
    (text.lines().map(|line| by_id(serde_json::from_str(line).unwrap())).collect(), most)
}

fn by_id(event: Value) -> (String, Value) {
    (event["id"].as_str().unwrap().to_owned(), event)
}

/// A year of polls, with weeks of downtime and rows that are gone only after their month settled:
/// the same events as with an output that holds every key.
#[tokio::test]
async fn the_same_is_published_as_by_an_output_that_holds_everything() {
    let (server, dir) = (Server::start(newest()), tempfile::tempdir().unwrap());
    let ((narrow, held), (whole, all)) = tokio::join!(on_nats(&server), on_a_file(dir.path()));
    let changes = |change: &str| whole.values().filter(|event| event["change"] == change).count();
    assert!(
        changes("removed") > 20 && changes("revised") > 100,
        "{} {}",
        changes("removed"),
        changes("revised")
    );
    let early =
        |event: &&Value| event["change"] == "removed" && event["data"]["date"].as_str() < Some("2026-02");
    assert!(whole.values().filter(early).count() > 10, "of the settled January");
    assert_eq!(narrow.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
    assert!(narrow == whole);
    assert!(held * 2 < all, "{held} of {all} keys");
}
