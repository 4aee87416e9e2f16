//! Servers, a poller in miniature, and what a consumer sees.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use amazon_billing_source::{
    config::{NatsConfig, NatsLogin, NatsTls},
    cost::{Amount, CostMetric, CostRecord, Period, Scope},
    dedup::{Change, ConnectionState, Ledger, Verdict, ZeroRows, classify},
    event::{ContentMode, EventFactory},
    transport::{Batch, Delivery, Outgoing, Transport, TransportError, TransportErrorKind, nats::Nats},
};
use async_nats::jetstream::{self, consumer::pull};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde_json::Value;

/// Oldest first, the newest last.
pub(crate) fn versions() -> Vec<&'static str> {
    include_str!("../brokers/nats-versions").lines().collect()
}

pub(crate) fn newest() -> &'static str {
    versions().pop().unwrap()
}

/// A server of its own port and folder; ended with the value.
pub(crate) struct Server {
    child: Child,
    version: &'static str,
    pub(crate) dir: PathBuf,
    extra: Vec<String>,
    /// The command in front of the server's, with its arguments.
    within: Vec<String>,
    pub(crate) port: u16,
}

impl Server {
    /// One node with JetStream.
    pub(crate) fn start(version: &'static str) -> Self {
        Self::with(version, &["-js"], "")
    }

    /// One node with these flags and this configuration file.
    pub(crate) fn with(version: &'static str, flags: &[&str], file: &str) -> Self {
        let dir = new_dir();
        let mut extra: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        if !file.is_empty() {
            let path = dir.join("server.conf");
            fs::write(&path, file.replace("$DIR", dir.to_str().unwrap())).unwrap();
            extra.extend(["-c".to_owned(), path.display().to_string()]);
        }
        Self::begin(version, dir, extra, Vec::new())
    }

    /// One node with JetStream in a folder, started by another command.
    pub(crate) fn within(version: &'static str, dir: PathBuf, within: Vec<String>) -> Self {
        Self::begin(version, dir, vec!["-js".to_owned()], within)
    }

    fn begin(version: &'static str, dir: PathBuf, extra: Vec<String>, within: Vec<String>) -> Self {
        let child = spawn(version, &dir, &extra, &within, "-1");
        let mut server = Self { child, version, dir, extra, within, port: 0 };
        server.port = server.wait_for_port();
        server
    }

    fn wait_for_port(&mut self) -> u16 {
        let file = self.dir.join(format!("ports/nats-server_{}.ports", self.child.id()));
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let ports = fs::read_to_string(&file).ok();
            let url = ports.and_then(|text| {
                let ports: Value = serde_json::from_str(&text).ok()?;
                ports["nats"].as_array().or(ports["tls"].as_array())?[0].as_str().map(str::to_owned)
            });
            if let Some(url) = url {
                return url.rsplit_once(':').unwrap().1.parse().unwrap();
            }
            assert!(self.child.try_wait().unwrap().is_none(), "nats-server ended: {}", self.log());
            assert!(Instant::now() < deadline, "nats-server does not listen: {}", self.log());
            pause(Duration::from_millis(10));
        }
    }

    /// Until a node with `http` in its file says that its streams have caught up.
    pub(crate) fn wait_until_healthy(&self) {
        let file = self.dir.join(format!("ports/nats-server_{}.ports", self.child.id()));
        let ports: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let url = ports["monitoring"][0].as_str().unwrap().to_owned();
        let address = url.strip_prefix("http://").unwrap();
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let answer = TcpStream::connect(address).and_then(|mut stream| {
                write!(stream, "GET /healthz HTTP/1.0\r\n\r\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).map(|_| answer)
            });
            let answer = answer.unwrap_or_default();
            if answer.contains("200 OK") {
                return;
            }
            assert!(Instant::now() < deadline, "not healthy: {answer} {}", self.log());
            pause(Duration::from_millis(100));
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Tells the server to drain: it hands its leaderships on, closes its connections and ends.
    pub(crate) fn lame_duck(&mut self) {
        let pid = self.child.id().to_string();
        let told = Command::new(program(self.version)).args(["--signal", &format!("ldm={pid}")]).status();
        assert!(told.unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(90);
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the server does not end: {}", self.log());
            pause(Duration::from_millis(50));
        }
    }

    /// The same server on what it left on the disk.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.version, &self.dir, &self.extra, &self.within, &self.port.to_string());
        assert_eq!(self.wait_for_port(), self.port);
    }

    pub(crate) fn config(&self) -> NatsConfig {
        NatsConfig { servers: vec![self.url()], ..any_config() }
    }

    pub(crate) fn transport(&self) -> Nats {
        Nats::new(self.config())
    }

    /// A client that knows nothing of the product.
    pub(crate) async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.url()).await.unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if !std::thread::panicking() {
            fs::remove_dir_all(&self.dir).ok();
        }
    }
}

/// Without a server.
pub(crate) fn any_config() -> NatsConfig {
    NatsConfig {
        servers: Vec::new(),
        stream: "BILLING".to_owned(),
        bucket: "BILLING_STATE".to_owned(),
        subject_prefix: "aws.cost".to_owned(),
        content_mode: ContentMode::Structured,
        create_stream: true,
        replicas: 1,
        timeout: Duration::from_secs(5),
        max_in_flight: 1000,
        login: NatsLogin::Nobody,
        tls: NatsTls::default(),
    }
}

fn target() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned()
}

fn program(version: &str) -> PathBuf {
    target().join("brokers/nats").join(version).join("nats-server")
}

/// A folder of a server's own.
pub(crate) fn new_dir() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = target().join(format!("tmp/nats-{}-{number}", std::process::id()));
    fs::create_dir_all(dir.join("ports")).unwrap();
    dir
}

fn spawn(version: &str, dir: &std::path::Path, extra: &[String], within: &[String], port: &str) -> Child {
    let program = program(version);
    assert!(program.exists(), "there is no {}: run `bash tests/brokers/nats`", program.display());
    let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = match within {
        [] => Command::new(program),
        [first, more @ ..] => {
            let mut command = Command::new(first);
            command.args(more).arg(program);
            command
        }
    };
    command
        .args(["-a", "127.0.0.1", "-p", port, "-sd"])
        .arg(dir.join("store"))
        .arg("--ports_file_dir")
        .arg(dir.join("ports"))
        .args(extra)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Between two looks at a condition.
#[expect(clippy::disallowed_methods, reason = "waits for another process, on a thread of its own")]
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

pub(crate) fn scope() -> Scope {
    Scope {
        source: "cloud.amazon.billing".to_owned(),
        account: "111122223333".to_owned(),
        group_by: None,
        filter: None,
    }
}

pub(crate) fn factory() -> EventFactory {
    EventFactory::new(scope(), "amazon.billing")
}

pub(crate) fn record(day: &str, service: &str, cents: i64) -> CostRecord {
    let text = format!("{}.{:02}", cents / 100, cents % 100);
    CostRecord {
        period: Period::from_label(day).unwrap(),
        service: service.into(),
        group: None,
        amounts: [(CostMetric::UnblendedCost, Amount::parse(text, "USD".to_owned()).unwrap())]
            .into_iter()
            .collect(),
        estimated: true,
    }
}

/// So many services of one day.
pub(crate) fn records(count: usize, cents: i64) -> Vec<CostRecord> {
    (0..count).map(|n| record("2026-11-21", &format!("Service {n:05}"), cents)).collect()
}

pub(crate) fn second(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

/// What a poller does with an answer, without AWS: recover, classify, publish.
pub(crate) struct Poller {
    pub(crate) nats: Nats,
    pub(crate) ledger: Ledger,
    pub(crate) factory: EventFactory,
    /// Off only to show what would happen.
    pub(crate) guard: bool,
}

impl Poller {
    pub(crate) fn new(nats: Nats) -> Self {
        Self { nats, ledger: Ledger::new(), factory: factory(), guard: true }
    }

    /// One attempt; how many events were stored.
    pub(crate) async fn attempt(
        &mut self,
        records: &[CostRecord],
        observed_at: Timestamp,
    ) -> Result<Vec<Delivery>, TransportError> {
        let connection = self.recover().await?;
        self.publish(records, observed_at, connection).await
    }

    pub(crate) async fn recover(&mut self) -> Result<ConnectionState, TransportError> {
        self.nats.recover(&self.factory.scope().id(), &mut self.ledger).await
    }

    /// Decides over the ledger as it is.
    pub(crate) async fn publish(
        &mut self,
        records: &[CostRecord],
        observed_at: Timestamp,
        connection: ConnectionState,
    ) -> Result<Vec<Delivery>, TransportError> {
        self.nats.publish(self.batch(records, observed_at, connection)).await
    }

    /// What would be published.
    pub(crate) fn batch(
        &self,
        records: &[CostRecord],
        observed_at: Timestamp,
        connection: ConnectionState,
    ) -> Batch {
        let scope = self.factory.scope().id();
        let mut changes = Vec::new();
        for record in records {
            let previous = self.ledger.previous(&record.key());
            let compared = if self.guard { observed_at } else { Timestamp::MAX };
            if let Verdict::Changed(kind) = classify(record, compared, previous, ZeroRows::Skip) {
                changes.push(Change::of_record(record, kind, observed_at, previous));
            }
        }
        let names = BTreeMap::new();
        let events = changes
            .iter()
            .map(|change| {
                let expected = self.ledger.previous(&change.key).map_or(0, |known| known.sequence());
                Outgoing::of(&self.factory, change, &names).over(expected)
            })
            .collect();
        Batch { scope, recovered_to: self.ledger.recovered_to(), events, connection }
    }

    /// Until nothing is in doubt, as a cycle does it; how many events the last attempt stored.
    pub(crate) async fn poll(&mut self, records: &[CostRecord], observed_at: Timestamp) -> usize {
        for attempt in 1..=200 {
            match self.attempt(records, observed_at).await {
                Ok(deliveries) => return deliveries.len(),
                Err(error) => {
                    let kind = error.kind;
                    assert!(
                        matches!(
                            kind,
                            TransportErrorKind::Conflict
                                | TransportErrorKind::Unknown
                                | TransportErrorKind::Unavailable
                                | TransportErrorKind::Regressed
                        ),
                        "{kind:?} {error}"
                    );
                    // As a cycle that fails clears its ledger.
                    if kind != TransportErrorKind::Conflict || attempt % 5 == 0 {
                        self.ledger.clear();
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        }
        panic!("200 attempts");
    }
}

/// An event as a consumer sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) subject: String,
    pub(crate) headers: async_nats::HeaderMap,
    pub(crate) event: Value,
}

/// Everything in the stream, structured events parsed.
pub(crate) async fn consume(server: &Server) -> Vec<Seen> {
    let js = server.jetstream().await;
    let mut stream = js.get_stream("BILLING").await.unwrap();
    let mut left = stream.info().await.unwrap().state.messages;
    let consumer = stream.create_consumer(pull::OrderedConfig::default()).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let mut seen = Vec::new();
    while left > 0 {
        let message = messages.next().await.unwrap().unwrap();
        left -= 1;
        seen.push(Seen {
            subject: message.subject.to_string(),
            headers: message.headers.clone().unwrap_or_default(),
            event: serde_json::from_slice(&message.payload).unwrap_or_default(),
        });
    }
    seen
}

/// What must never be, counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Violations {
    /// Per key the revisions are not 1, 2, 3, ...
    pub(crate) gaps: usize,
    /// Two neighbours of a key state the same.
    pub(crate) equal: usize,
    /// An event was observed before the one it replaces.
    pub(crate) stale: usize,
    /// An id occurs twice.
    pub(crate) repeated: usize,
}

/// The violations of a stream, and the newest amount of each key.
pub(crate) fn judge(seen: &[Seen]) -> (Violations, BTreeMap<String, String>) {
    let mut violations = Violations::default();
    let mut ids = HashSet::new();
    let mut last: BTreeMap<String, &Value> = BTreeMap::new();
    for Seen { event, .. } in seen {
        violations.repeated += usize::from(!ids.insert(event["id"].as_str().unwrap().to_owned()));
        let key = event["partitionkey"].as_str().unwrap().to_owned();
        let before = last.insert(key, event);
        let revision = before.map_or(0, |before| before["revision"].as_u64().unwrap());
        violations.gaps += usize::from(event["revision"].as_u64().unwrap() != revision + 1);
        if let Some(before) = before {
            violations.equal +=
                usize::from(before["data"]["unblendedCost"] == event["data"]["unblendedCost"]);
            let time = |event: &Value| event["time"].as_str().unwrap().parse::<Timestamp>().unwrap();
            violations.stale += usize::from(time(event) < time(before));
        }
    }
    let amount = |event: &Value| event["data"]["unblendedCost"]["amount"].as_str().unwrap().to_owned();
    (violations, last.into_iter().map(|(key, event)| (key, amount(event))).collect())
}
