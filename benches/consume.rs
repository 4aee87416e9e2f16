//! Reading back, beside a raw consumer of the same data: `replay` from a file, Kafka and NATS.
//!
//! `CARGO_PROFILE_BENCH_LTO=false CARGO_PROFILE_BENCH_CODEGEN_UNITS=16 cargo bench --features
//! broker-tests --bench consume`, perhaps with `-- EVENTS file kafka nats`. The raw consumer is this program started again: it
//! takes each message from the client library, writes its payload and a line feed, and looks at
//! nothing. Both write into a pipe that this process empties. They run in turn, and the best of
//! their runs are compared: what else the machine does only ever adds.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that fails is none")]
#![allow(missing_docs, clippy::float_arithmetic, clippy::cast_precision_loss)]
#![allow(dead_code, unreachable_pub, reason = "the tests' brokers can do more")]

#[path = "../tests/kafka/broker.rs"]
mod broker;
#[path = "../tests/nats/support.rs"]
mod nats_server;
mod support;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    io::{self, BufRead as _, Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use amazon_billing_source::{
    cost::{Amount, CostKey, CostMetric, GroupBy, Period, Scope},
    dedup::{Change, ChangeKind},
    event::{Binding, ContentMode, Event, EventFactory, encode, structured_json},
};
use async_nats::jetstream::{self, consumer::pull};
use futures_util::StreamExt as _;
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    message::{Header, Headers as _, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use support::SERVICES;

const BINARY: &str = env!("CARGO_BIN_EXE_amazon-billing-source");
const KEYS: usize = 100_000;
const RUNS: usize = 3;
const PARTITIONS: i32 = 6;
const TOPIC: &str = "amazon-billing";

fn pause(duration: Duration) {
    std::thread::park_timeout(duration);
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let Some(place) = arguments.iter().position(|argument| argument == "raw") {
        return raw(&arguments[place + 1], &arguments[place + 2]);
    }
    // `cargo test --benches` has nothing to learn here.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let count = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let wanted = |name: &str| {
        let named = |argument: &String| ["file", "kafka", "nats"].contains(&&**argument);
        !arguments.iter().any(named) || arguments.iter().any(|argument| argument == name)
    };
    let folder = tempfile::tempdir_in(Path::new(env!("CARGO_MANIFEST_DIR")).join("target")).unwrap();
    println!("{count} events of {} keys; the best of {RUNS} runs each", KEYS.min(count));
    if wanted("file") {
        file(folder.path(), count);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if wanted("nats") {
        nats(folder.path(), count, &runtime);
    }
    if wanted("kafka") {
        kafka(folder.path(), count, &runtime);
    }
}

/// The events, one after another: every key's first revision, then every key's second, and so on.
fn events(count: usize) -> impl Iterator<Item = Event> {
    let scope = Scope {
        source: "cloud.amazon.billing".to_owned(),
        account: "111122223333".to_owned(),
        group_by: Some(GroupBy::Dimension("LINKED_ACCOUNT".to_owned())),
        filter: None,
    };
    let factory = EventFactory::new(scope, "amazon.billing");
    let keys = KEYS.min(count);
    (0..count).map(move |number| {
        let (revision, key) = (number / keys + 1, number % keys);
        // 30 services in 40 accounts, day by day.
        let (day, in_day) = (key / 1_200, key % 1_200);
        let account = (444_455_556_666 + in_day % 40).to_string();
        let period = Period::from_label("2026-01-01").unwrap();
        let period = (0..day).fold(period, |period, _| period.next());
        let amounts = |revision: usize| {
            let text = |factor: usize| {
                format!("{}.{:010}", key % 97, (key * 7_919 + revision * factor) % 9_999_999_999)
            };
            [(CostMetric::AmortizedCost, text(104_729)), (CostMetric::UnblendedCost, text(104_723))]
                .into_iter()
                .map(|(metric, text)| (metric, Amount::parse(text, "USD".to_owned()).unwrap()))
                .collect()
        };
        let change = Change {
            key: CostKey { period, service: SERVICES[in_day / 40], group: Some(&account) },
            kind: if revision == 1 { ChangeKind::New } else { ChangeKind::Revised },
            revision: u32::try_from(revision).unwrap(),
            amounts: Cow::Owned(amounts(revision)),
            estimated: true,
            observed_at: "2026-04-02T00:00:00Z".parse().unwrap(),
            previous: (revision > 1).then(|| (amounts(revision - 1), true)),
        };
        factory.event(&change, &BTreeMap::new())
    })
}

/// What a child did.
struct Run {
    took: Duration,
    lines: usize,
    bytes: u64,
    /// The most memory it had resident, in kB as the kernel tells it.
    peak: u64,
}

fn run(mut command: Command) -> Run {
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut stdout = child.stdout.take().unwrap();
    let mut buffer = vec![0; 1 << 20];
    let (mut lines, mut bytes, mut peak, mut looked) = (0, 0, 0, Instant::now());
    let look = |peak: &mut u64| {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kb = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        *peak = (*peak).max(kb.unwrap_or(0));
    };
    loop {
        let read = stdout.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        bytes += read as u64;
        lines += memchr::memchr_iter(b'\n', &buffer[..read]).count();
        if looked.elapsed() > Duration::from_millis(20) {
            look(&mut peak);
            looked = Instant::now();
        }
    }
    look(&mut peak);
    assert!(child.wait().unwrap().success());
    Run { took: started.elapsed(), lines, bytes, peak }
}

fn replay(folder: &Path, flags: &[&str]) -> Run {
    let mut command = Command::new(BINARY);
    command.args(["replay", "--config", "billing.toml", "--log", "error"]).args(flags).current_dir(folder);
    run(command)
}

fn raw_run(what: &str, argument: &str) -> Run {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["raw", what, argument]);
    run(command)
}

/// In turn, so that all have the same machine.
fn compare(name: &str, folder: &Path, raw: &[&str], argument: &str, count: usize) {
    let mut raw_best = vec![Duration::MAX; raw.len()];
    let mut replay_best = Duration::MAX;
    let (mut peak, mut bytes) = (0, 0);
    for _ in 0..RUNS {
        for (what, best) in raw.iter().zip(&mut raw_best) {
            let run = raw_run(what, argument);
            assert_eq!(run.lines, count);
            *best = (*best).min(run.took);
        }
        let run = replay(folder, &[]);
        assert_eq!(run.lines, count);
        replay_best = replay_best.min(run.took);
        (peak, bytes) = (peak.max(run.peak), run.bytes);
    }
    let rate = |took: Duration| count as f64 / took.as_secs_f64() / 1000.0;
    println!(
        "{name}: replay {:.0} k/s; {:.0} bytes a line; peak {peak} kB",
        rate(replay_best),
        bytes as f64 / count as f64,
    );
    for (what, best) in raw.iter().zip(raw_best) {
        let share = 100.0 * best.as_secs_f64() / replay_best.as_secs_f64();
        println!("{name}: raw {what} {:.0} k/s, replay {share:.0} % of it", rate(best));
    }
    let few = replay(folder, &["--limit", &(count / 10).to_string()]);
    println!("{name}: peak with a tenth of the events {} kB", few.peak);
    let current = replay(folder, &["--current", "--by", "day"]);
    println!(
        "{name}: --current in {:.1} s, {} totals; peak {} kB, {:.0} bytes a key over the replay",
        current.took.as_secs_f64(),
        current.lines,
        current.peak,
        (current.peak.saturating_sub(peak) * 1024) as f64 / KEYS.min(count) as f64,
    );
}

fn file(folder: &Path, count: usize) {
    let path = folder.join("events.jsonl");
    let mut file = io::BufWriter::new(fs::File::create(&path).unwrap());
    for event in events(count) {
        file.write_all(&structured_json(event).unwrap()).unwrap();
        file.write_all(b"\n").unwrap();
    }
    file.into_inner().unwrap().sync_all().unwrap();
    fs::write(folder.join("billing.toml"), "[local]\noutput = \"events.jsonl\"\n").unwrap();
    compare("file", folder, &["file"], path.to_str().unwrap(), count);
    fs::remove_file(&path).unwrap();
}

fn nats(folder: &Path, count: usize, runtime: &tokio::runtime::Runtime) {
    for mode in [ContentMode::Structured, ContentMode::Binary] {
        let server = nats_server::Server::start(nats_server::newest());
        runtime.block_on(async {
            let js = server.jetstream().await;
            let config = jetstream::stream::Config {
                name: "BILLING".to_owned(),
                subjects: vec!["aws.cost.>".to_owned()],
                ..Default::default()
            };
            js.create_stream(config).await.unwrap();
            let mut waiting = std::collections::VecDeque::new();
            for (number, event) in events(count).enumerate() {
                let message = encode(event, Binding::Nats, mode).unwrap();
                let mut headers = async_nats::HeaderMap::new();
                for (name, value) in &message.headers {
                    headers.insert(&**name, &**value);
                }
                let subject = format!("aws.cost.{}", number % KEYS);
                waiting.push_back(
                    js.publish_with_headers(subject, headers, message.payload.into()).await.unwrap(),
                );
                if waiting.len() > 1000 {
                    waiting.pop_front().unwrap().await.unwrap();
                }
            }
            for acknowledgement in waiting {
                acknowledgement.await.unwrap();
            }
        });
        let toml = format!(
            "[transport]\nkind = \"nats\"\n[nats]\nservers = [\"{}\"]\nstream = \"BILLING\"\nsubject_prefix = \"aws.cost\"\n",
            server.url()
        );
        fs::write(folder.join("billing.toml"), toml).unwrap();
        compare(&format!("nats {mode:?}"), folder, &["nats"], &server.url(), count);
    }
}

fn kafka(folder: &Path, count: usize, runtime: &tokio::runtime::Runtime) {
    for mode in [ContentMode::Binary, ContentMode::Structured] {
        let broker = broker::Broker::start("", &[]);
        runtime.block_on(async {
            let admin: AdminClient<DefaultClientContext> =
                ClientConfig::new().set("bootstrap.servers", broker.servers()).create().unwrap();
            let topic = NewTopic::new(TOPIC, PARTITIONS, TopicReplication::Fixed(1));
            admin.create_topics(&[topic], &AdminOptions::new()).await.unwrap();
            let producer: FutureProducer = ClientConfig::new()
                .set("bootstrap.servers", broker.servers())
                .set("enable.idempotence", "true")
                .set("compression.type", "lz4")
                .set("partitioner", "murmur2_random")
                .create()
                .unwrap();
            let mut waiting = std::collections::VecDeque::new();
            for event in events(count) {
                let message = encode(event, Binding::Kafka, mode).unwrap();
                let headers = message.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                    headers.insert(Header { key, value: Some(value) })
                });
                let key = message.key.unwrap();
                let record = FutureRecord::to(TOPIC).key(&key).payload(&message.payload).headers(headers);
                waiting.push_back(producer.send_result(record).map_err(|(e, _)| e).unwrap());
                if waiting.len() > 20_000 {
                    waiting.pop_front().unwrap().await.unwrap().map_err(|(e, _)| e).unwrap();
                }
            }
            for delivery in waiting {
                delivery.await.unwrap().map_err(|(e, _)| e).unwrap();
            }
        });
        let toml = format!(
            "[transport]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = \"{}\"\ntopic = \"{TOPIC}\"\n",
            broker.servers()
        );
        fs::write(folder.join("billing.toml"), toml).unwrap();
        // In binary mode most of an event is in its headers, which librdkafka takes apart when asked for them.
        let raw: &[&str] = if mode == ContentMode::Binary { &["kafka", "kafka-headers"] } else { &["kafka"] };
        compare(&format!("kafka {mode:?}"), folder, raw, &broker.servers(), count);
    }
}

/// What the client library gives, written out.
fn raw(what: &str, argument: &str) {
    let mut out = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    match what {
        "file" => {
            let mut reader = io::BufReader::with_capacity(256 * 1024, fs::File::open(argument).unwrap());
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).unwrap() > 0 {
                out.write_all(&line).unwrap();
                line.clear();
            }
        }
        "kafka" => raw_kafka(argument, false, &mut out),
        "kafka-headers" => raw_kafka(argument, true, &mut out),
        _ => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.unwrap().block_on(raw_nats(argument, &mut out));
        }
    }
    out.flush().unwrap();
}

fn raw_kafka(servers: &str, with_headers: bool, out: &mut impl io::Write) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "raw")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        // Or it waits a second whenever its queue was full, which is most of its time.
        .set("fetch.queue.backoff.ms", "2")
        .create()
        .unwrap();
    let limit = Duration::from_secs(10);
    let mut list = TopicPartitionList::new();
    let mut left = 0;
    for partition in 0..PARTITIONS {
        let (low, end) = consumer.fetch_watermarks(TOPIC, partition, limit).unwrap();
        left += end - low;
        list.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    while left > 0 {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            for header in message.headers().filter(|_| with_headers).iter().flat_map(|headers| headers.iter())
            {
                out.write_all(header.key.as_bytes()).unwrap();
                out.write_all(b"\t").unwrap();
                out.write_all(header.value.unwrap()).unwrap();
                out.write_all(b"\t").unwrap();
            }
            out.write_all(message.payload().unwrap()).unwrap();
            out.write_all(b"\n").unwrap();
            left -= 1;
        }
    }
}

async fn raw_nats(url: &str, out: &mut impl io::Write) {
    let js = jetstream::new(async_nats::connect(url).await.unwrap());
    let mut stream = js.get_stream("BILLING").await.unwrap();
    let mut left = stream.info().await.unwrap().state.messages;
    let consumer = stream.create_consumer(pull::OrderedConfig::default()).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    while left > 0 {
        let message = messages.next().await.unwrap().unwrap();
        out.write_all(&message.payload).unwrap();
        out.write_all(b"\n").unwrap();
        left -= 1;
    }
}
