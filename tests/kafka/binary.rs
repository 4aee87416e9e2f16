//! The real program against the real broker: killed anywhere, started several times at once, and
//! without a broker.

use std::{
    collections::BTreeMap,
    fs::File,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use amazon_billing_source::{
    admin::Readiness,
    app::{self, Mode, World},
    clock::Clock,
    config::{self, KafkaConfig, TransportConfig},
    cost::CostMetric,
    exit::Exit,
    simulator::{DEFAULT_ACCOUNT, Options, Simulator},
    telemetry::Metrics,
    transport::kafka::Kafka,
};
use jiff::{SignedDuration, ToSpan as _, tz::Offset};
use rust_decimal::Decimal;
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Broker, ports::free_port},
    pause,
    support::{Record, config, consume, violations},
};

/// A simulated AWS on a clock of its own, and a folder for configuration and logs.
pub struct Home {
    dir: tempfile::TempDir,
    simulator: Simulator,
    clock: Clock,
    pub kafka: KafkaConfig,
}

impl Home {
    /// AWS's clock stands still, so many days ago.
    pub async fn new(kafka: KafkaConfig, days: i64) -> Self {
        let start = Clock::system().now() - SignedDuration::from_hours(24 * days);
        let clock = Clock::manual(start);
        // The program's clock is ahead, and its month may be the next one.
        let options = Options { any_period: true, ..Options::default() };
        let simulator = Simulator::start(options, clock.clone()).await.unwrap();
        Self { dir: tempfile::tempdir().unwrap(), simulator, clock, kafka }
    }

    pub fn write_config(
        &self,
        interval: &str,
        claim_ttl: &str,
        admin: Option<SocketAddr>,
        accounts: &[&str],
    ) -> PathBuf {
        let connections: String = accounts
            .iter()
            .map(|account| {
                format!(
                    "[[connections]]\nname = \"c-{account}\"\naccount_id = \"{account}\"\nendpoint_url = \"{}\"\n\
                     credentials = {{ kind = \"keys\", access_key_id = \"AKIA\", secret_access_key = \"s\" }}\n",
                    self.simulator.url()
                )
            })
            .collect();
        let KafkaConfig { bootstrap_servers, topic, state_topic, delivery, .. } = &self.kafka;
        let delivery = delivery.name();
        let text = format!(
            "{connections}[poll]\ninterval = \"{interval}\"\nclaim_ttl = \"{claim_ttl}\"\nsettle_days = 31\n\
             [budget]\nrequests_per_day = 0\n[transport]\nkind = \"kafka\"\n[kafka]\n\
             bootstrap_servers = \"{bootstrap_servers}\"\ntopic = \"{topic}\"\nstate_topic = \"{state_topic}\"\n\
             create_topics = true\ndelivery = \"{delivery}\"\n[admin]\nlisten = \"{}\"\n",
            admin.map(|address| address.to_string()).unwrap_or_default()
        );
        let path = self.dir.path().join("billing.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Adds to what [`Home::write_config`] wrote.
    pub fn write_more(&self, more: &str) -> PathBuf {
        let path = self.dir.path().join("billing.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text + more).unwrap();
        path
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_amazon-billing-source"));
        command.args(arguments).arg("--config").arg(self.dir.path().join("billing.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command
    }

    pub fn once(&self) -> Option<i32> {
        self.command(&["run", "--once"]).status().unwrap().code()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn advance(&self, by: SignedDuration) {
        self.clock.set(self.clock.now() + by);
    }

    pub fn committed(&self) -> Vec<Record> {
        consume(&self.kafka.bootstrap_servers, &self.kafka.topic, "read_committed")
    }

    /// All events after one more poll, which may retract what AWS has withdrawn and nothing else: a row is
    /// retracted by the second answer in a row that lacks it.
    pub fn settled(&self, before: &[Record]) -> Vec<Record> {
        assert_eq!(self.once(), Some(0), "{}", self.log());
        let settled = self.committed();
        let others = |records: &[Record]| records.iter().filter(|r| r.event["change"] != "removed").count();
        assert_eq!(others(&settled), others(before), "published again\n{}", self.log());
        assert_eq!(violations(&settled), [""; 0], "{}", self.log());
        settled
    }

    /// That a consumer who keeps the highest revision per key has AWS's own figures.
    pub fn assert_sums(&self, records: &[Record], account: &str) {
        let today = Offset::UTC.to_datetime(Clock::system().now()).date();
        let from = today.first_of_month().saturating_sub(1.month());
        let expected =
            self.simulator.totals(account, CostMetric::UnblendedCost, from, today.saturating_add(1.day()));
        let mut newest: BTreeMap<&str, &Record> = BTreeMap::new();
        for record in records.iter().filter(|record| record.key.starts_with(account)) {
            newest.insert(&record.key, record);
        }
        let mut sums: BTreeMap<String, Decimal> = BTreeMap::new();
        for record in newest.values() {
            let data = &record.event["data"];
            let amount = data["unblendedCost"]["amount"].as_str().unwrap();
            *sums.entry(data["service"].as_str().unwrap().to_owned()).or_default() +=
                Decimal::from_str_exact(amount).unwrap();
        }
        let nonzero = |sums: BTreeMap<String, Decimal>| -> BTreeMap<_, _> {
            sums.into_iter().filter(|(_, sum)| !sum.is_zero()).collect()
        };
        assert_eq!(nonzero(sums), nonzero(expected));
    }
}

/// Killed when dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The same numbers every time: xorshift.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// So many processes at once, on one connection and under one instance name, so that each takes over
/// the others' claims; one after the other is killed at a random moment and started again.
async fn soak(name: &str, processes: usize, kills: usize) {
    let home = Home::new(config(Broker::shared(), name), 12).await;
    home.write_config("1s", "2s", None, &[DEFAULT_ACCOUNT]);
    let mut dice = Dice(0x5eed + kills as u64);
    let start = || Running(home.command(&["run"]).spawn().unwrap());
    let mut running: Vec<_> = (0..processes).map(|_| start()).collect();
    for kill in 0..kills {
        // From before the first connection to the broker to some cycles later.
        pause(Duration::from_millis(200 + dice.roll(2600)));
        home.advance(SignedDuration::from_mins(60 + i64::try_from(dice.roll(300)).unwrap()));
        let victim = kill % processes;
        running[victim] = start();
    }
    drop(running);
    // What AWS states now, and nothing else.
    assert_eq!(home.once(), Some(0), "{}", home.log());
    let records = home.committed();
    let all = consume(&home.kafka.bootstrap_servers, &home.kafka.topic, "read_uncommitted").len();
    let found = violations(&records);
    println!(
        "{name}: {kills} kills, {} events, {} aborted, {} violations, {} requests",
        records.len(),
        all - records.len(),
        found.len(),
        home.simulator.bill().chargeable
    );
    assert_eq!(found, [""; 0], "{}", home.log());
    let records = home.settled(&records);
    home.assert_sums(&records, DEFAULT_ACCOUNT);
    // A restart publishes nothing.
    assert_eq!(home.once(), Some(0));
    assert_eq!(home.committed().len(), records.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_every_change_comes_once() {
    soak("soak", 1, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_rivals_killed_anywhere_change_nothing() {
    soak("rivals", 3, 24).await;
}

/// An AWS that takes every connection and never answers; how many there were.
fn silent_aws() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            open.push(stream);
            asked.fetch_add(1, Ordering::SeqCst);
        }
    });
    (url, count)
}

/// Of two processes on one host the second asks AWS nothing while the first does, once each has a name of
/// its own. The control: under one name it takes the claim for its own.
#[tokio::test(flavor = "multi_thread")]
async fn processes_of_one_host_are_told_apart_by_their_names() {
    for (topic, names, expected) in [("named", ["one", "two"], 1), ("unnamed", ["one", "one"], 2)] {
        let home = Home::new(config(Broker::shared(), topic), 3).await;
        let path = home.write_config("1h", "1m", None, &[DEFAULT_ACCOUNT]);
        let (url, asked) = silent_aws();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(&home.simulator.url(), &url)).unwrap();
        let run = |name: &str| {
            let mut command = home.command(&["run"]);
            Running(command.env("BILLING_SOURCE__POLL__INSTANCE", name).spawn().unwrap())
        };
        let first = run(names[0]);
        wait_until("the first asks", || asked.load(Ordering::SeqCst) == 1);
        let second = run(names[1]);
        if expected == 2 {
            wait_until("the second asks, too", || asked.load(Ordering::SeqCst) == 2);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(asked.load(Ordering::SeqCst), expected, "{topic}: {}", home.log());
        drop((first, second));
    }
}

/// Replicas of other names share the connections: each poll is claimed first, so none is paid twice.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_the_polls_and_pay_none_twice() {
    const SECONDS: u64 = 12;
    const INTERVAL: u64 = 4;
    let home = Home::new(config(Broker::shared(), "replicas"), 3).await;
    let accounts: Vec<String> = (0..6).map(|n| format!("{:012}", 222_233_334_440_u64 + n)).collect();
    let accounts: Vec<&str> = accounts.iter().map(String::as_str).collect();
    let path = home.write_config(&format!("{INTERVAL}s"), "1m", None, &accounts);
    let shutdown = CancellationToken::new();
    let mut replicas = Vec::new();
    let mut worlds = Vec::new();
    for instance in ["a", "b", "c"] {
        let config = config::load(std::slice::from_ref(&path), []).unwrap().config;
        let TransportConfig::Kafka(kafka) = &config.transport else { panic!("{config:?}") };
        let transport = Kafka::connect(kafka).unwrap();
        let world = World {
            clock: Clock::system(),
            metrics: Metrics::new(),
            readiness: Readiness::default(),
            instance: instance.to_owned(),
        };
        worlds.push(world.clone());
        replicas.push(tokio::spawn(app::run(config, transport, world, Mode::Service, shutdown.clone())));
    }
    let started = Instant::now();
    wait_until("each is polled", || home.simulator.bill().chargeable >= accounts.len() as u64);
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    shutdown.cancel();
    for replica in replicas {
        assert_eq!(replica.await.unwrap(), Exit::Done);
    }
    let paid = home.simulator.bill();
    let seconds = started.elapsed().as_secs() + 1;
    println!("replicas: {} polls paid in {seconds} s, {:?}", paid.chargeable, paid.accounts);
    let most = accounts.len() as u64 * (seconds / INTERVAL + 1);
    assert!(paid.chargeable <= most, "{} polls were paid, {most} were due", paid.chargeable);
    assert!(paid.chargeable >= accounts.len() as u64, "{paid:?}");
    let records = home.committed();
    assert_eq!(violations(&records), [""; 0]);
}

/// No broker: exit 69 and no request paid with `--once`.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_nothing_is_paid() {
    let kafka = KafkaConfig {
        bootstrap_servers: format!("127.0.0.1:{}", free_port()),
        ..config(Broker::shared(), "nowhere")
    };
    let home = Home::new(kafka, 3).await;
    home.write_config("1h", "2m", None, &[DEFAULT_ACCOUNT]);
    assert_eq!(home.once(), Some(69), "{}", home.log());
    assert_eq!(home.simulator.bill().chargeable, 0);
    let log = home.log();
    assert!(log.contains(&home.kafka.bootstrap_servers) && log.contains("kafka.bootstrap_servers"), "{log}");
}

/// As a service it waits, not ready; the broker comes, is killed, and comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_outlives_its_broker() {
    let mut broker = Broker::start("", &[]);
    let home = Home::new(config(&broker, "outlives"), 3).await;
    broker.kill();
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    home.write_config("1s", "2s", Some(admin), &[DEFAULT_ACCOUNT]);
    let service = Running(home.command(&["run"]).spawn().unwrap());
    wait_until("not ready", || ready(admin) == Some(false));
    assert_eq!(home.simulator.bill().chargeable, 0);
    broker.restart();
    wait_until("ready", || ready(admin) == Some(true));
    wait_until("the first poll", || home.simulator.bill().chargeable > 0);
    broker.kill();
    home.advance(SignedDuration::from_hours(9));
    wait_until("not ready again", || ready(admin) == Some(false));
    broker.restart();
    wait_until("ready again", || ready(admin) == Some(true));
    drop(service);
    assert_eq!(home.once(), Some(0), "{}", home.log());
    let records = home.committed();
    assert_eq!(violations(&records), [""; 0]);
    home.assert_sums(&home.settled(&records), DEFAULT_ACCOUNT);
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        pause(Duration::from_millis(100));
    }
}

/// What `/readyz` says; `None` where nobody answers.
fn ready(admin: SocketAddr) -> Option<bool> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(admin).ok()?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.starts_with("HTTP/1.1 200"))
}
