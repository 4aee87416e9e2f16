//! Publishing and restoring, beside bare librdkafka with the same records, topics and settings.
//!
//! `cargo bench --features broker-tests --bench kafka -- 10000 1000000`: rows per run, against the
//! Apache Kafka that `bash tests/brokers/fetch` puts there. Ours begins with rows that changed, the bare
//! clients with bytes that are ready; all end with the last acknowledgement. Ratios are what counts: all
//! run in turn, on one broker, in one process.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that fails is none")]
#![allow(missing_docs, clippy::float_arithmetic, clippy::cast_precision_loss)]

use std::{
    collections::BTreeMap,
    fs,
    net::{TcpListener, TcpStream},
    ops::Range,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use amazon_billing_source::{
    config::{DeliveryMode, KafkaConfig, KafkaLogin, LostState},
    cost::{Amount, CostMetric, CostRecord, Period, Scope},
    dedup::{Change, ChangeKind, Claim, Ledger},
    event::{Binding, ContentMode, EventFactory, WireMessage, encode},
    transport::{Batch, Outgoing, Transport as _, kafka::Kafka},
};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer as _},
};

/// A batch of the cycle's.
const BATCH: usize = 10_000;
const LIMIT: Duration = Duration::from_mins(1);

struct Server {
    child: Child,
    folder: PathBuf,
    servers: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_dir_all(&self.folder).ok();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start() -> Server {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/brokers");
    let jars = root.join("kafka-4.3.0/lib/*");
    let folder = root.join(format!("bench-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (port, controller) = (free_port(), free_port());
    let properties = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\nlog.dirs={}\n\
         offsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\nshare.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n",
        folder.join("data").display()
    );
    let file = folder.join("server.properties");
    fs::write(&file, properties).unwrap();
    let java = |heap: &str| {
        let mut java = Command::new("java");
        java.arg(heap).arg("-cp").arg(&jars).stdout(Stdio::null()).stderr(Stdio::null());
        java
    };
    let formatted = java("-Xmx256m")
        .args(["kafka.tools.StorageTool", "format", "--standalone", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c"])
        .arg(&file)
        .status()
        .expect("run `bash tests/brokers/fetch` first");
    assert!(formatted.success());
    let child = java("-Xmx1g").arg("kafka.Kafka").arg(&file).spawn().unwrap();
    let server = Server { child, folder, servers: format!("127.0.0.1:{port}") };
    let deadline = Instant::now() + LIMIT;
    while TcpStream::connect(&server.servers).is_err() {
        assert!(Instant::now() < deadline, "the broker did not start");
        std::thread::yield_now();
    }
    server
}

fn config(servers: &str, topic: &str) -> KafkaConfig {
    KafkaConfig {
        bootstrap_servers: servers.to_owned(),
        topic: topic.to_owned(),
        state_topic: format!("{topic}-state"),
        content_mode: ContentMode::Binary,
        delivery: DeliveryMode::ExactlyOnce,
        create_topics: false,
        state_partitions: 8,
        on_lost_state: LostState::Refuse,
        login: KafkaLogin::Librdkafka,
        librdkafka: BTreeMap::new(),
    }
}

async fn create(servers: &str, topic: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers).create().unwrap();
    let state = format!("{topic}-state");
    let topics = [
        NewTopic::new(topic, 6, TopicReplication::Fixed(1)),
        NewTopic::new(&state, 8, TopicReplication::Fixed(1)).set("cleanup.policy", "compact"),
    ];
    for created in admin.create_topics(&topics, &AdminOptions::new()).await.unwrap() {
        created.unwrap();
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

fn records(range: Range<usize>) -> Vec<CostRecord> {
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

/// As the transport sets it.
fn producer(servers: &str, transactional: Option<&str>) -> FutureProducer {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("partitioner", "murmur2_random")
        .set("enable.idempotence", "true")
        .set("acks", "all");
    if let Some(id) = transactional {
        config.set("transactional.id", id).set("transaction.timeout.ms", "30000");
    }
    let producer: FutureProducer = config.create().unwrap();
    if transactional.is_some() {
        producer.init_transactions(LIMIT).unwrap();
    }
    producer
}

#[derive(Clone, Copy, PartialEq)]
enum Bare {
    /// No transactions.
    Idempotent,
    /// One producer for all transactions.
    LongLived,
    /// One for each, as exactly once needs it; made inside the measured time.
    Fresh,
}

/// The bare client: events and state records that are ready, in batches, each acknowledged.
async fn bare(server: &Server, topic: &str, factory: &EventFactory, rows: Range<usize>, kind: Bare) -> Took {
    let servers = &*server.servers;
    let (state, id) = (format!("{topic}-state"), format!("{topic}.bench"));
    let transactional = (kind != Bare::Idempotent).then_some(&*id);
    let mut used = producer(servers, transactional);
    let mut took = Took::default();
    for from in rows.clone().step_by(BATCH) {
        let ready: Vec<(WireMessage, String, String)> =
            outgoing(factory, &records(from..(from + BATCH).min(rows.end)))
                .into_iter()
                .map(|outgoing| {
                    let key = format!(
                        r#"{{"scope":"{}","period":"{}","service":"{}"}}"#,
                        factory.scope().id(),
                        outgoing.record.period.label(),
                        outgoing.record.service
                    );
                    let event = outgoing.event();
                    let mut record = outgoing.record;
                    record.place = Some((0, 1_234_567));
                    let value = record.to_json();
                    (encode(event, Binding::Kafka, ContentMode::Binary).unwrap(), key, value)
                })
                .collect();
        let watch = Watch::start(server);
        if kind == Bare::Fresh {
            used = producer(servers, transactional);
        }
        if kind != Bare::Idempotent {
            used.begin_transaction().unwrap();
        }
        let mut waiting = Vec::with_capacity(2 * ready.len());
        for (event, key, value) in &ready {
            let mut headers = OwnedHeaders::new_with_capacity(event.headers.len());
            for (key, value) in &event.headers {
                headers = headers.insert(Header { key, value: Some(value.as_bytes()) });
            }
            let record = FutureRecord::to(topic)
                .key(event.key.as_deref().unwrap())
                .payload(&event.payload)
                .headers(headers);
            waiting.push(used.send_result(record).map_err(|(e, _)| e).unwrap());
            let record = FutureRecord::to(&state).partition(0).key(&**key).payload(&**value);
            waiting.push(used.send_result(record).map_err(|(e, _)| e).unwrap());
        }
        for delivery in waiting {
            delivery.await.unwrap().unwrap();
        }
        if kind != Bare::Idempotent {
            used.commit_transaction(LIMIT).unwrap();
        }
        watch.stop(&mut took);
    }
    took
}

/// The transport: rows that changed in, receipts out.
async fn ours(
    server: &Server,
    (kafka, ledger): (&Kafka, &mut Ledger),
    factory: &EventFactory,
    rows: Range<usize>,
) -> (Took, Duration) {
    let scope = factory.scope().id();
    let mut connection = kafka.recover(&scope, ledger).await.unwrap();
    // As in a cycle: the poll is claimed first.
    connection.claim =
        Some(Claim { instance: "b".to_owned(), token: "t".to_owned(), reserved: 1, renewed: 0 });
    let batch = |events, recovered_to| Batch {
        scope: scope.clone(),
        recovered_to,
        events,
        connection: connection.clone(),
    };
    let started = Instant::now();
    kafka.publish(batch(Vec::new(), ledger.recovered_to())).await.unwrap();
    let claim = started.elapsed();
    // AWS takes longer than this to answer.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut took = Took::default();
    for from in rows.clone().step_by(BATCH) {
        let records = records(from..(from + BATCH).min(rows.end));
        let watch = Watch::start(server);
        let events = outgoing(factory, &records);
        let deliveries = kafka.publish(batch(events, ledger.recovered_to())).await.unwrap();
        watch.stop(&mut took);
        if let Some(amazon_billing_source::transport::Delivery::Stored(end)) = deliveries.first() {
            ledger.set_recovered_to(*end);
        }
    }
    (took, claim)
}

/// Every record of a topic, looked at and let go; how many.
fn merely_read(servers: &str, topic: &str) -> usize {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "20")
        .set("check.crcs", "true")
        .create()
        .unwrap();
    // Else most of the time is a wait for librdkafka to look for the leaders.
    consumer.fetch_metadata(Some(topic), LIMIT).unwrap();
    let (mut records, mut bytes) = (0, 0);
    for partition in 0..8 {
        let (low, end) = consumer.fetch_watermarks(topic, partition, LIMIT).unwrap();
        if low == end {
            continue;
        }
        let mut at = TopicPartitionList::new();
        at.add_partition_offset(topic, partition, Offset::Offset(low)).unwrap();
        consumer.assign(&at).unwrap();
        loop {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) {
                records += 1;
                bytes += message.payload().map_or(0, <[u8]>::len);
                continue;
            }
            let position = consumer.position().unwrap();
            if position.find_partition(topic, partition).unwrap().offset().to_raw().unwrap() >= end {
                break;
            }
        }
    }
    assert!(bytes > records);
    records
}

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![10_000, 200_000] } else { sizes };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = start();
    // The first transaction of a broker creates its own topics, and until its code is compiled it takes several
    // times as long, whoever asks.
    runtime.block_on(measure(&server, "warm", 200_000, 1));
    for (number, rows) in sizes.into_iter().enumerate() {
        let rounds = if rows > 100_000 { 1 } else { 12 };
        runtime.block_on(measure(&server, &format!("s{number}-{rows}"), rows, rounds));
    }
}

/// Time by the clock, and of the processors in the client and in the broker.
#[derive(Clone, Copy, Default)]
struct Took {
    clock: Duration,
    client: Duration,
    broker: Duration,
}

impl Took {
    fn a_row(&self, rows: usize) -> String {
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / rows as f64;
        let [clock, client, broker] = [self.clock, self.client, self.broker].map(micros);
        format!("{clock:.1} us a row (processors {client:.1} here, {broker:.1} in the broker)")
    }
}

/// Measures one stretch after the other into a sum.
struct Watch<'a> {
    server: &'a Server,
    began: Instant,
    client: Duration,
    broker: Duration,
}

impl<'a> Watch<'a> {
    fn start(server: &'a Server) -> Self {
        let broker = cpu(&server.child.id().to_string());
        Self { server, began: Instant::now(), client: cpu("self"), broker }
    }

    fn stop(self, sum: &mut Took) {
        sum.clock += self.began.elapsed();
        sum.client += cpu("self").saturating_sub(self.client);
        sum.broker += cpu(&self.server.child.id().to_string()).saturating_sub(self.broker);
    }
}

/// What a process has used, on Linux in ticks of 10 ms; nothing elsewhere.
fn cpu(process: &str) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// Publishes so many rows in each of the rounds, and reads all of it at the end.
async fn measure(server: &Server, name: &str, rows: usize, rounds: usize) {
    let servers = &*server.servers;
    let factory = factory();
    let topics: Vec<String> =
        ["none", "long", "fresh", "ours"].iter().map(|t| format!("{name}-{t}")).collect();
    for topic in &topics {
        create(servers, topic).await;
    }
    let kafka = Kafka::connect(&config(servers, &topics[3])).unwrap();
    let mut ledger = Ledger::new();
    // Of ten million only the restore is of interest.
    let compared = rows <= 1_000_000;
    let mut shares = Vec::new();
    // The first records of a partition make the broker create files, which costs it as much as to store ten
    // thousand: a topic lives for years, so they go before.
    for round in 0..=rounds {
        let range = if round == 0 { 0..BATCH } else { BATCH + (round - 1) * rows..BATCH + round * rows };
        let mut took = [Took::default(); 4];
        let mut claim = Duration::ZERO;
        // Each comes first as often as the others.
        for who in (0..4).map(|who| (who + round) % 4) {
            took[who] = match who {
                0 if compared => bare(server, &topics[0], &factory, range.clone(), Bare::Idempotent).await,
                1 if compared => bare(server, &topics[1], &factory, range.clone(), Bare::LongLived).await,
                2 if compared => bare(server, &topics[2], &factory, range.clone(), Bare::Fresh).await,
                3 => {
                    let took;
                    (took, claim) = ours(server, (&kafka, &mut ledger), &factory, range.clone()).await;
                    took
                }
                _ => continue,
            };
        }
        if round == 0 || !compared {
            continue;
        }
        let of = |who: usize| 100.0 * took[who].clock.as_secs_f64() / took[3].clock.as_secs_f64();
        shares.push([of(0), of(1), of(2)]);
        let what = ["no transactions", "one producer", "a fresh one each", "ours"];
        let each: Vec<_> =
            what.iter().zip(took).map(|(what, took)| format!("{what} {}", took.a_row(rows))).collect();
        println!("{name}: {}; the claim before {} ms", each.join(", "), claim.as_millis());
    }
    drop((kafka, ledger));

    let all = BATCH + rounds * rows;
    let state = format!("{}-state", topics[3]);
    let (mut reading, mut restoring) = (Took::default(), Took::default());
    let watch = Watch::start(server);
    let found = tokio::task::block_in_place(|| merely_read(servers, &state));
    watch.stop(&mut reading);
    let mut ledger = Ledger::new();
    let kafka = Kafka::connect(&config(servers, &topics[3])).unwrap();
    let watch = Watch::start(server);
    kafka.recover(&factory.scope().id(), &mut ledger).await.unwrap();
    watch.stop(&mut restoring);
    assert_eq!(ledger.len(), all);
    if compared {
        let median = |place: usize| {
            let mut of: Vec<f64> = shares.iter().map(|shares: &[f64; 3]| shares[place]).collect();
            of.sort_unstable_by(f64::total_cmp);
            of[rounds / 2]
        };
        println!(
            "{name}: publishing, medians of {rounds}: {:.0} % of no transactions, {:.0} % of one transactional \
             producer, {:.0} % of a fresh one each",
            median(0),
            median(1),
            median(2),
        );
    }
    println!(
        "{name}: {all} keys of {found} records: merely reading {}, restoring {}: {:.2} times as long",
        reading.a_row(all),
        restoring.a_row(all),
        restoring.clock.as_secs_f64() / reading.clock.as_secs_f64(),
    );
}
