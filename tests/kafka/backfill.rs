//! A backfill beside a running service, on a real broker: neither harms the other, and AWS is paid once.

use std::{
    collections::BTreeMap,
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use amazon_billing_source::{
    clock::Clock,
    config::KafkaConfig,
    cost::{CostMetric, Granularity, utc_date},
    simulator::{DEFAULT_ACCOUNT, Options, Simulator},
    transport::{Transport as _, kafka::Kafka},
};
use jiff::{ToSpan as _, civil::Date};
use rust_decimal::Decimal;

use crate::{
    broker::Broker,
    pause,
    support::{Record, config, consume, violations},
};

/// Ended with the value.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn program(folder: &Path, log: &str, arguments: &[&str]) -> Command {
    let log = File::options().create(true).append(true).open(folder.join(log)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_amazon-billing-source"));
    command.args(arguments).arg("--config").arg(folder.join("billing.toml"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}

fn configure(folder: &Path, kafka: &KafkaConfig, simulator: &Simulator) {
    let KafkaConfig { bootstrap_servers, topic, state_topic, .. } = kafka;
    let text = format!(
        "[[connections]]\nname = \"main\"\naccount_id = \"{DEFAULT_ACCOUNT}\"\nendpoint_url = \"{}\"\n\
         credentials = {{ kind = \"keys\", access_key_id = \"AKIA\", secret_access_key = \"s\" }}\n\
         [poll]\ninterval = \"3s\"\n[budget]\nrequests_per_day = 0\n[transport]\nkind = \"kafka\"\n[kafka]\n\
         bootstrap_servers = \"{bootstrap_servers}\"\ntopic = \"{topic}\"\nstate_topic = \"{state_topic}\"\n\
         create_topics = true\n[admin]\nlisten = \"\"\n",
        simulator.url()
    );
    std::fs::write(folder.join("billing.toml"), text).unwrap();
}

/// Topics, a simulated AWS of several pages a month, and a folder with the configuration.
async fn home(name: &str, clock: &Clock) -> (KafkaConfig, Simulator, tempfile::TempDir) {
    let kafka = config(Broker::shared(), name);
    let options = Options { page_size: 400, ..Options::default() };
    let simulator = Simulator::start(options, clock.clone()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), &kafka, &simulator);
    (kafka, simulator, dir)
}

fn lines(folder: &Path, log: &str, words: &str) -> usize {
    let text = std::fs::read_to_string(folder.join(log)).unwrap_or_default();
    text.lines().filter(|line| line.contains(words)).count()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        pause(Duration::from_millis(100));
    }
}

/// That a consumer who keeps the highest revision per key has AWS's own figures of a month.
fn assert_month(records: &[Record], simulator: &Simulator, month: Date) {
    let expected =
        simulator.totals(DEFAULT_ACCOUNT, CostMetric::UnblendedCost, month, month.saturating_add(1.month()));
    let label = month.strftime("%Y-%m").to_string();
    let newest: BTreeMap<&str, &Record> =
        records.iter().map(|record| (record.key.as_str(), record)).collect();
    let mut sums: BTreeMap<String, Decimal> = BTreeMap::new();
    for record in newest.values() {
        let data = &record.event["data"];
        if data["date"].as_str().unwrap().starts_with(&label) {
            let amount = data["unblendedCost"]["amount"].as_str().unwrap();
            *sums.entry(data["service"].as_str().unwrap().to_owned()).or_default() +=
                Decimal::from_str_exact(amount).unwrap();
        }
    }
    let nonzero = |sums: BTreeMap<String, Decimal>| -> BTreeMap<_, _> {
        sums.into_iter().filter(|(_, sum)| !sum.is_zero()).collect()
    };
    assert_eq!(nonzero(sums), nonzero(expected), "{label}");
}

/// A service that polls every three seconds, and six months read beside it, one process killed on the
/// way: no event twice, no poll lost or repeated, and what both count as spent is what AWS charged.
#[tokio::test(flavor = "multi_thread")]
async fn beside_a_service_nothing_is_fenced_out_or_paid_twice() {
    let clock = Clock::manual(Clock::system().now());
    let (kafka, simulator, dir) = home("backfill", &clock).await;
    let folder = dir.path();
    let service = Service(program(folder, "run", &["run"]).spawn().unwrap());
    wait_until("it polls", || lines(folder, "run", "cycle finished") >= 1);

    let first = utc_date(clock.now()).first_of_month();
    let months: Vec<Date> = (1..=6).map(|n| first.saturating_sub(n.months())).collect();
    let from = months[5].to_string();
    let polls = lines(folder, "run", "cycle finished");
    let arguments = ["backfill", "--yes", "--from", &from];
    let status = program(folder, "backfill", &arguments).status().unwrap();
    let said = std::fs::read_to_string(folder.join("backfill")).unwrap();
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(lines(folder, "backfill", "month read"), 6, "{said}");
    // It still polls, and did so meanwhile.
    let meanwhile = lines(folder, "run", "cycle finished") - polls;
    wait_until("it polls on", || lines(folder, "run", "cycle finished") >= polls + meanwhile + 2);
    assert!(meanwhile >= 1, "{said}");
    let stop = format!("kill -TERM {}", service.0.id());
    assert!(Command::new("sh").args(["-c", &stop]).status().unwrap().success());
    wait_until("it stops", || lines(folder, "run", "stopped") >= 1);
    let run = std::fs::read_to_string(folder.join("run")).unwrap();
    let cycles: Vec<_> = run.lines().filter(|line| line.contains("cycle finished")).collect();
    // The stop may have cut the last one off; its request is counted whether or not AWS saw it.
    let cut = u64::from(cycles.last().unwrap().contains("complete=false"));
    assert!(cycles[..cycles.len() - 1].iter().all(|line| line.contains("complete=true")), "{run}");
    for word in ["WARN", "ERROR"] {
        let warned = run.lines().filter(|line| line.contains(word) && !line.contains("poll.interval"));
        assert_eq!(warned.collect::<Vec<_>>(), [""; 0], "{word}");
    }
    // That a month has more pages than a poll is no trouble.
    let expected = ["poll.interval", "it costs more than was told"];
    let warned = said.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
    let odd: Vec<_> = warned.filter(|line| !expected.iter().any(|words| line.contains(words))).collect();
    assert_eq!(odd, [""; 0]);

    // What both counted is what AWS charged: nothing was asked for and thrown away.
    let (_, state) = Kafka::connect(&kafka).unwrap().connections().await.unwrap().pop().unwrap();
    let charged = simulator.bill().chargeable;
    assert!((charged..=charged + cut).contains(&state.spent.total), "{} of {charged}", state.spent.total);
    assert_eq!(state.claim, None);
    let pages: u32 = months.iter().map(|month| state.month(*month).pages).sum();
    let of_polls: u64 = cycles
        .iter()
        .map(|line| {
            line.split("requests=").nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap()
        })
        .sum();
    let asked = of_polls + u64::from(pages);
    assert!((charged..=charged + cut).contains(&asked), "every page once: {asked} of {charged}");
    let records = consume(&kafka.bootstrap_servers, &kafka.topic, "read_committed");
    assert_eq!(violations(&records), [""; 0]);
    for month in &months {
        assert_month(&records, &simulator, *month);
    }
    // The pages and months that were seen are there for `plan`, where it is asked to look.
    let plan = |more: &[&str]| {
        let mut command = program(folder, "plan", &[&["plan"], more].concat());
        String::from_utf8(command.stdout(Stdio::piped()).output().unwrap().stdout).unwrap()
    };
    let of_last_poll = state.poll(Granularity::Daily).pages;
    assert!(of_last_poll > 0 && plan(&["--connect"]).contains(&format!("\"pagesPerPoll\":{of_last_poll},")));
    assert!(plan(&["--connect", "--backfill-from", &from]).contains("\"months\":0,\"finished\":6,"));
    assert!(plan(&["--backfill-from", &from]).contains("\"months\":6,\"finished\":0,"));
    // Another time there is nothing to do.
    assert_eq!(program(folder, "again", &arguments).status().unwrap().code(), Some(0));
    assert_eq!(simulator.bill().chargeable, charged);
    assert_eq!(consume(&kafka.bootstrap_servers, &kafka.topic, "read_committed").len(), records.len());
}

/// Killed, it leaves a claim behind that is void once it has stood still; then it goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn killed_it_goes_on_where_it_was() {
    let clock = Clock::manual(Clock::system().now());
    let (kafka, simulator, dir) = home("backfill-killed", &clock).await;
    let folder = dir.path();
    let text = std::fs::read_to_string(folder.join("billing.toml")).unwrap();
    std::fs::write(folder.join("billing.toml"), text.replace("[poll]", "[poll]\nclaim_ttl = \"2s\""))
        .unwrap();
    let first = utc_date(clock.now()).first_of_month();
    let months: Vec<Date> = (1..=4).map(|n| first.saturating_sub(n.months())).collect();
    let from = months[3].to_string();
    let arguments = ["backfill", "--yes", "--from", &from];
    let (mut kills, mut read) = (0, 0);
    while read < 2 {
        let backfill = Service(program(folder, "backfill", &arguments).spawn().unwrap());
        // One month more, and into the next.
        wait_until("a month more is read", || lines(folder, "backfill", "month read") > read);
        drop(backfill);
        kills += 1;
        read = lines(folder, "backfill", "month read");
    }
    let status = program(folder, "backfill", &arguments).status().unwrap();
    let said = std::fs::read_to_string(folder.join("backfill")).unwrap();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(lines(folder, "backfill", "month read") <= 4, "a month is read twice: {said}");
    let (_, state) = Kafka::connect(&kafka).unwrap().connections().await.unwrap().pop().unwrap();
    let pages = months.iter().map(|month| state.month(*month).pages);
    let (all, largest): (u32, u32) = (pages.clone().sum(), pages.max().unwrap());
    let paid = simulator.bill().chargeable;
    assert!((u64::from(all)..=u64::from(all + kills * largest)).contains(&paid), "{paid} {all} {kills}");
    assert!(state.spent.total >= paid);
    let records = consume(&kafka.bootstrap_servers, &kafka.topic, "read_committed");
    assert_eq!(violations(&records), [""; 0]);
    for month in &months {
        assert_month(&records, &simulator, *month);
    }
}
