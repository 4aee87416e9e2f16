//! Publishing and reading back, beside the bare client with the same headers and payloads.
//!
//! `cargo bench --features broker-tests --bench nats -- 10000 1000000`: rows per run. The server is
//! the newest that `bash tests/brokers/nats` installs. Ratios are what counts: both run in turn, on
//! the same server, in one process.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that fails is none")]
#![allow(missing_docs, clippy::float_arithmetic, clippy::cast_precision_loss)]

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use amazon_billing_source::{
    config::{NatsConfig, NatsLogin, NatsTls},
    cost::{Amount, CostMetric, CostRecord, Period, Scope},
    dedup::{Change, ChangeKind, Ledger},
    event::{Binding, ContentMode, EventFactory, encode},
    transport::{Batch, Outgoing, Transport as _, nats::Nats},
};
use async_nats::jetstream::{self, consumer::pull, message::PublishMessage};
use futures_util::StreamExt as _;

/// A batch of the cycle's.
const BATCH: usize = 10_000;
const IN_FLIGHT: usize = 1000;

struct Server {
    child: Child,
    /// Goes with the server.
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn start() -> (Server, String) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let version = include_str!("../tests/brokers/nats-versions").lines().last().unwrap();
    let program = root.join("target/brokers/nats").join(version).join("nats-server");
    let dir = tempfile::tempdir_in(root.join("target")).unwrap();
    let child = Command::new(program)
        .args(["-js", "-a", "127.0.0.1", "-p", "-1", "-sd"])
        .arg(dir.path().join("store"))
        .arg("--ports_file_dir")
        .arg(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("run `bash tests/brokers/nats` first");
    let file = dir.path().join(format!("nats-server_{}.ports", child.id()));
    let server = Server { child, _dir: dir };
    loop {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if let Ok(ports) = serde_json::from_str::<serde_json::Value>(&text) {
            return (server, ports["nats"][0].as_str().unwrap().to_owned());
        }
        std::thread::yield_now();
    }
}

fn config(url: &str) -> NatsConfig {
    NatsConfig {
        servers: vec![url.to_owned()],
        stream: "BILLING".to_owned(),
        bucket: "BILLING_STATE".to_owned(),
        subject_prefix: "aws.cost".to_owned(),
        content_mode: ContentMode::Structured,
        create_stream: true,
        replicas: 1,
        timeout: Duration::from_secs(10),
        max_in_flight: IN_FLIGHT,
        login: NatsLogin::Nobody,
        tls: NatsTls::default(),
    }
}

fn factory() -> EventFactory {
    let scope = Scope {
        source: "cloud.amazon.billing".to_owned(),
        account: "111122223333".to_owned(),
        group_by: None,
        filter: None,
    };
    EventFactory::new(scope, "amazon.billing")
}

fn records(range: std::ops::Range<usize>) -> Vec<CostRecord> {
    let first = Period::from_label("2026-01-01").unwrap().hours();
    range
        .map(|n| CostRecord {
            period: Period::from_hours(
                amazon_billing_source::cost::Granularity::Daily,
                first + 24 * i32::try_from(n % 60).unwrap(),
            )
            .unwrap(),
            service: format!("Amazon Service Number {:06}", n / 60),
            group: None,
            amounts: [CostMetric::AmortizedCost, CostMetric::UnblendedCost]
                .into_iter()
                .map(|metric| (metric, Amount::parse(format!("{n}.2672917174"), "USD".to_owned()).unwrap()))
                .collect(),
            estimated: true,
        })
        .collect()
}

fn outgoing(factory: &EventFactory, records: &[CostRecord]) -> Vec<Outgoing> {
    let at = "2026-11-21T06:11:10Z".parse().unwrap();
    let names = BTreeMap::new();
    let change = |record| Change::of_record(record, ChangeKind::New, at, None);
    records.iter().map(|record| Outgoing::of(factory, &change(record), &names)).collect()
}

/// The bare client: messages that are ready, sent the same way.
async fn bare(js: &jetstream::Context, factory: &EventFactory, rows: usize) -> Duration {
    let mut took = Duration::ZERO;
    for from in (0..rows).step_by(BATCH) {
        let messages: Vec<_> = outgoing(factory, &records(from..(from + BATCH).min(rows)))
            .into_iter()
            .enumerate()
            .map(|(n, outgoing)| {
                let id = outgoing.record.event_id.to_string();
                let wire = encode(outgoing.event, Binding::Nats, ContentMode::Structured).unwrap();
                let subject = format!(
                    "bare.cost.111122223333.-.daily.2026.11.21.amazon-service-number-0000.{:016x}",
                    from + n
                );
                let mut message = PublishMessage::build().payload(wire.payload.into()).message_id(id);
                for (name, value) in wire.headers {
                    message = message.header(&*name, &*value);
                }
                (subject, message.expected_stream("BARE").expected_last_subject_sequence(0))
            })
            .collect();
        let started = Instant::now();
        let mut waiting = VecDeque::new();
        for (subject, message) in messages {
            if waiting.len() >= IN_FLIGHT {
                let oldest: jetstream::context::PublishAckFuture = waiting.pop_front().unwrap();
                oldest.await.unwrap();
            }
            waiting.push_back(js.send_publish(subject, message).await.unwrap());
        }
        for acknowledgement in waiting {
            acknowledgement.await.unwrap();
        }
        took += started.elapsed();
    }
    took
}

/// The transport: events in, receipts out.
async fn ours(nats: &Nats, factory: &EventFactory, rows: usize) -> Duration {
    let mut ledger = Ledger::new();
    let scope = factory.scope().id();
    let connection = nats.recover(&scope, &mut ledger).await.unwrap();
    let mut took = Duration::ZERO;
    for from in (0..rows).step_by(BATCH) {
        let events = outgoing(factory, &records(from..(from + BATCH).min(rows)));
        let batch = Batch {
            scope: scope.clone(),
            recovered_to: ledger.recovered_to(),
            events,
            connection: connection.clone(),
        };
        let started = Instant::now();
        let deliveries = nats.publish(batch).await.unwrap();
        took += started.elapsed();
        assert!(deliveries.len() <= BATCH);
    }
    took
}

async fn merely_read(js: &jetstream::Context, rows: usize) -> Duration {
    let started = Instant::now();
    let config = pull::OrderedConfig {
        deliver_policy: jetstream::consumer::DeliverPolicy::LastPerSubject,
        filter_subject: "aws.cost.111122223333.>".to_owned(),
        ..Default::default()
    };
    let consumer = js.create_consumer_on_stream(config, "BILLING").await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    for _ in 0..rows {
        messages.next().await.unwrap().unwrap();
    }
    started.elapsed()
}

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![10_000, 200_000] } else { sizes };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for rows in sizes {
        runtime.block_on(measure(rows));
    }
}

async fn measure(rows: usize) {
    let (_server, url) = start();
    let js = jetstream::new(async_nats::connect(&*url).await.unwrap());
    let bare_stream = jetstream::stream::Config {
        name: "BARE".to_owned(),
        subjects: vec!["bare.cost.>".to_owned()],
        ..Default::default()
    };
    js.create_stream(bare_stream).await.unwrap();
    let factory = factory();
    let nats = Nats::new(config(&url));
    let published = [bare(&js, &factory, rows).await, ours(&nats, &factory, rows).await];
    let mut ledger = Ledger::new();
    let read = merely_read(&js, rows).await;
    let started = Instant::now();
    nats.recover(&factory.scope().id(), &mut ledger).await.unwrap();
    let restored = started.elapsed();
    assert_eq!(ledger.len(), rows);
    let rate = |took: Duration| rows as f64 / took.as_secs_f64() / 1000.0;
    println!(
        "{rows} rows: publish {:.1}k/s bare, {:.1}k/s ours ({:.0} %); read {:.1}k/s bare, restore {:.1}k/s ours ({:.2} times as long)",
        rate(published[0]),
        rate(published[1]),
        100.0 * published[0].as_secs_f64() / published[1].as_secs_f64(),
        rate(read),
        rate(restored),
        restored.as_secs_f64() / read.as_secs_f64(),
    );
}
