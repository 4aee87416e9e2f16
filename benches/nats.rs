//! Publishing and reading back, beside the bare client with the same headers and payloads.
//!
//! `cargo bench --features broker-tests --bench nats -- 10000 1000000`: rows per run. The server is
//! the newest that `bash tests/brokers/nats` installs. Ratios are what counts: both run in turn, batch
//! by batch, on the same server, in one process, so that a busy machine slows both.

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
    cost::{Amount, CostMetric, CostRecord, Period, Scope, slug},
    dedup::{Change, ChangeKind, Ledger},
    event::{Binding, ContentMode, EventFactory, encode},
    transport::{Batch, Outgoing, StateRecord, Transport as _, nats::Nats},
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
        timeout: Duration::from_mins(1),
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
            service: format!("Amazon Service Number {:06}", n / 60).into(),
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

/// A subject as the transport's: a server's work grows with how many tokens there are and how they vary.
fn subject(name: &str, record: &StateRecord, n: usize) -> String {
    let day = record.period.label().replace('-', ".");
    // Spread as a digest is.
    let digest = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{name}.111122223333.-.daily.{day}.{}.{digest:016x}", slug(&record.service))
}

/// One batch by the bare client: messages that are ready, sent the same way.
async fn bare(js: &jetstream::Context, name: &str, events: Vec<Outgoing>, from: usize) -> Duration {
    let messages: Vec<_> = events
        .into_iter()
        .enumerate()
        .map(|(n, outgoing)| {
            let event = outgoing.event();
            let record = outgoing.record;
            let id = record.event_id.to_string();
            let wire = encode(event, Binding::Nats, ContentMode::Structured).unwrap();
            let subject = subject(name, &record, from + n);
            let mut message = PublishMessage::build().payload(wire.payload.into()).message_id(id);
            for (name, value) in wire.headers {
                message = message.header(&*name, &*value);
            }
            (subject, message.expected_stream(name).expected_last_subject_sequence(0))
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
    started.elapsed()
}

/// A number of kB of the kernel's about this process; 0 where it has none.
fn kernel(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

/// By how much resident memory grew at most since then, in kB.
struct Growth(u64);

impl Growth {
    fn begin() -> Self {
        std::fs::write("/proc/self/clear_refs", "5").ok();
        Self(kernel("VmRSS"))
    }

    fn end(&self) -> u64 {
        kernel("VmHWM").saturating_sub(self.0)
    }
}

/// What publishing so many rows took, bare and by the transport, and the memory of the latter: the
/// growth within one batch, and what is resident in the end.
struct Published {
    bare: Duration,
    ours: Duration,
    growth: u64,
}

async fn publish(js: &jetstream::Context, nats: &Nats, name: &str, rows: usize, first: usize) -> Published {
    for name in ["WARM", name] {
        let bare_stream = jetstream::stream::Config {
            name: name.to_owned(),
            subjects: vec![format!("{name}.>")],
            ..Default::default()
        };
        js.create_stream(bare_stream).await.unwrap();
    }
    let factory = factory();
    let mut ledger = Ledger::new();
    let scope = factory.scope().id();
    let connection = nats.recover(&scope, &mut ledger).await.unwrap();
    // A new server's first messages take it longer, whoever sends them.
    bare(js, "WARM", outgoing(&factory, &records(0..BATCH)), 0).await;
    let mut published = Published { bare: Duration::ZERO, ours: Duration::ZERO, growth: 0 };
    for (turn, from) in (0..rows).step_by(BATCH).enumerate() {
        let records = records(from..(from + BATCH).min(rows));
        let begins = (first + turn).is_multiple_of(2);
        for ours in [begins, !begins] {
            let events = outgoing(&factory, &records);
            if !ours {
                published.bare += bare(js, name, events, from).await;
                continue;
            }
            let connection = connection.clone();
            let batch =
                Batch { scope: scope.clone(), recovered_to: ledger.recovered_to(), events, connection };
            let (growth, started) = (Growth::begin(), Instant::now());
            let deliveries = nats.publish(batch).await.unwrap();
            published.ours += started.elapsed();
            published.growth = published.growth.max(growth.end());
            assert_eq!(deliveries.len(), records.len());
        }
    }
    published
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

async fn restore(nats: &Nats, rows: usize) -> Duration {
    let mut ledger = Ledger::new();
    let started = Instant::now();
    nats.recover(&factory().scope().id(), &mut ledger).await.unwrap();
    let took = started.elapsed();
    assert_eq!(ledger.len(), rows);
    took
}

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![10_000, 200_000] } else { sizes };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for rows in sizes {
        // A short run is repeated, each time on a new server.
        let times = (100_000 / rows).clamp(1, 10);
        let mut ratios: Vec<_> = (0..times).map(|n| runtime.block_on(measure(rows, n))).collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "{rows} rows, {times} times: publishing at {:.0} % of the bare client, median",
            ratios[times / 2]
        );
    }
}

/// Prints what was measured; returns the transport's rate in per cent of the bare client's.
async fn measure(rows: usize, first: usize) -> f64 {
    let (_server, url) = start();
    // A server takes seconds to find the last messages of a million subjects.
    let context = jetstream::context::ContextBuilder::new().timeout(Duration::from_mins(1));
    let js = context.build(async_nats::connect(&*url).await.unwrap());
    let nats = Nats::new(config(&url));
    let Published { bare, ours, growth } = publish(&js, &nats, "BARE", rows, first).await;
    // In turn, and the best of three: what else the machine does only makes it longer.
    let (mut read, mut restored) = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        read = read.min(merely_read(&js, rows).await);
        restored = restored.min(restore(&nats, rows).await);
    }
    let rate = |took: Duration| rows as f64 / took.as_secs_f64() / 1000.0;
    let per_cent = 100.0 * bare.as_secs_f64() / ours.as_secs_f64();
    println!(
        "{rows} rows: publish {:.1}k/s bare, {:.1}k/s ours ({per_cent:.0} %), {growth} kB more within a batch; \
         read {:.1}k/s bare, restore {:.1}k/s ours ({:.2} times as long)",
        rate(bare),
        rate(ours),
        rate(read),
        rate(restored),
        restored.as_secs_f64() / read.as_secs_f64(),
    );
    per_cent
}
