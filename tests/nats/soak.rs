//! Publishers killed again and again, alone and as rivals, and the controls that must fail.
//!
//! A publisher is this very test program, started again with a job in its environment.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use amazon_billing_source::{cost::CostRecord, transport::TransportErrorKind};
use jiff::Timestamp;

use crate::support::{Poller, Server, Violations, consume, judge, newest, pause, record, second, versions};

const KEYS: u64 = 300;

/// What a key costs at a moment: restated every 0.7 to 6 seconds, back and forth among few values.
fn cents(key: u64, millis: u64) -> i64 {
    let every = 700 + key * 5300 / KEYS;
    let step = (millis + key * 37) / every;
    i64::try_from(100 + (step * (key % 5 + 1)) % 3).unwrap()
}

pub(crate) fn answer(at: Timestamp) -> Vec<CostRecord> {
    let millis = u64::try_from(at.as_millisecond()).unwrap();
    (0..KEYS).map(|key| record("2026-11-21", &format!("Service {key:05}"), cents(key, millis))).collect()
}

/// AWS's clock; its `Date` has whole seconds.
#[expect(clippy::disallowed_methods, reason = "publishers in several processes need one clock")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

pub(crate) fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap()
}

const JOB: &str = "BILLING_SOURCE_TEST_PUBLISHER";

/// What a publisher is told: the ports, then words.
fn job() -> Option<String> {
    std::env::vars().find(|(name, _)| name == JOB).map(|(_, job)| job)
}

/// Not a test: the body of a publisher, which runs until it is killed.
#[tokio::test]
async fn publisher() {
    let Some(job) = job() else { return };
    let mut words = job.split(' ');
    let ports = words.next().unwrap().split(',');
    let servers = ports.map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let words: Vec<_> = words.collect();
    let mut config = crate::support::any_config();
    config.servers = servers;
    config.create_stream = false;
    let mut nats = amazon_billing_source::transport::nats::Nats::new(config);
    if words.contains(&"ids-only") {
        nats = nats.without_compare_and_set();
    }
    let mut poller = Poller::new(nats);
    poller.guard = !words.contains(&"no-guard");
    let slow = words.contains(&"slow");
    for turn in u64::from(std::process::id()).. {
        // The order of a cycle: the log is read, then AWS asked.
        let Ok(state) = poller.recover().await else {
            poller.ledger.clear();
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let at = now();
        let records = answer(at);
        if slow {
            // An answer that was long under way, while rivals published.
            tokio::time::sleep(Duration::from_millis(turn * 617 % 1300)).await;
        }
        if poller.publish(&records, whole(at), state).await.is_err() {
            for _ in 0..20 {
                // Decided again, over the same old answer.
                if poller.attempt(&records, whole(at)).await.is_ok() {
                    break;
                }
                poller.ledger.clear();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

pub(crate) struct Publisher(Child);

impl Publisher {
    pub(crate) fn start(ports: &[u16], words: &str) -> Self {
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "soak::publisher", "--nocapture", "--test-threads", "1"])
            .env(JOB, format!("{} {words}", ports.join(",")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// So many events between two kills at least.
const PROGRESS: u64 = 15;

/// How many there are.
async fn messages(server: &Server) -> u64 {
    server.jetstream().await.get_stream("BILLING").await.unwrap().cached_info().state.messages
}

#[expect(clippy::print_stdout, reason = "what was measured, for who runs it")]
/// Kills publishers one after the other, and the server now and then; returns what is in the stream
/// once an undisturbed poll has followed.
async fn soak(
    version: &'static str,
    publishers: usize,
    kills: usize,
    server_kills: usize,
    words: &str,
) -> (usize, Violations) {
    let mut server = Server::start(version);
    // The stream is there before anybody publishes to it.
    let mut last = Poller::new(server.transport());
    last.poll(&answer(now()), whole(now())).await;
    let mut running: Vec<_> = (0..publishers).map(|_| Publisher::start(&[server.port], words)).collect();
    let started = Instant::now();
    let mut stored = messages(&server).await;
    let server_every = kills.checked_div(server_kills).unwrap_or(usize::MAX);
    for kill in 0..kills {
        // By progress, not by time: on a busy machine a publisher may need seconds to begin.
        let deadline = Instant::now() + Duration::from_mins(1);
        while messages(&server).await < stored + PROGRESS {
            assert!(Instant::now() < deadline, "nothing is published");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let patience = Duration::from_millis((kill as u64 * 61) % 300);
        tokio::task::spawn_blocking(move || pause(patience)).await.unwrap();
        stored = messages(&server).await;
        running.remove(0);
        if kill % server_every == server_every - 1 {
            server.kill();
            server.restart();
        }
        running.push(Publisher::start(&[server.port], words));
    }
    let seconds = started.elapsed().as_secs();
    running.clear();
    let at = now();
    let records = answer(at);
    // Whole seconds: the last word is a second later than every other one.
    let later = Timestamp::from_second(at.as_second() + 1).unwrap();
    last.poll(&records, later).await;
    let seen = consume(&server).await;
    let (violations, newest) = judge(&seen);
    for record in &records {
        let key =
            format!("111122223333/daily/2026-11-21/{}", amazon_billing_source::cost::slug(&record.service));
        if words.is_empty() || words == "slow" {
            assert_eq!(newest[&key], record.amounts[0].1.text(), "the state is the last event");
        }
    }
    println!(
        "{version}: {publishers} publishers, {kills} kills, {server_kills} of the server, {words:?}: {} events in {seconds} s, {violations:?}",
        seen.len()
    );
    (seen.len(), violations)
}

#[tokio::test]
async fn one_publisher_killed_forty_times() {
    let (events, violations) = soak(newest(), 1, 40, 0, "").await;
    assert_eq!(violations, Violations::default());
    assert!(events > 800, "{events}");
}

#[tokio::test]
async fn three_publishers_killed_forty_times_on_every_version() {
    for version in versions() {
        let (events, violations) = soak(version, 3, 40, 0, "slow").await;
        assert_eq!(violations, Violations::default(), "{version}");
        assert!(events > 800, "{events}");
    }
}

#[tokio::test]
async fn publishers_and_the_server_killed() {
    let (events, violations) = soak(newest(), 2, 20, 5, "").await;
    assert_eq!(violations, Violations::default());
    assert!(events > 500, "{events}");
}

/// The control: soaks without one of the mechanisms, until it shows.
async fn fails(words: &str, shows: impl Fn(&Violations) -> bool) {
    for _ in 0..6 {
        let (_, violations) = soak(newest(), 3, 20, 0, words).await;
        if shows(&violations) {
            return;
        }
    }
    panic!("six soaks show nothing: {words}");
}

/// The control: without compare-and-set, message ids do not keep rivals apart.
#[tokio::test]
async fn message_ids_alone_are_not_enough() {
    fails("ids-only slow", |violations| violations.gaps > 0).await;
}

/// The control: compare-and-set without the observation's time lets old answers win.
#[tokio::test]
async fn compare_and_set_alone_lets_old_answers_through() {
    fails("no-guard slow", |violations| violations.stale > 0 && violations.gaps == 0).await;
}

/// A rival publishes between recovery and publishing: refused, and without compare-and-set believed.
#[tokio::test]
async fn an_old_view_is_refused_only_by_compare_and_set() {
    for version in versions() {
        for compare_and_set in [true, false] {
            let server = Server::start(version);
            // The connection's state is written, and the same from then on: it gives nobody away.
            let before = [record("2026-11-20", "Tax", 100)];
            assert_eq!(Poller::new(server.transport()).poll(&before, second(0)).await, 1);
            let nats = server.transport();
            let mut poller = Poller::new(if compare_and_set { nats } else { nats.without_compare_and_set() });
            let view = poller.recover().await.unwrap();
            let rival = [record("2026-11-21", "Tax", 200)];
            assert_eq!(Poller::new(server.transport()).poll(&rival, second(0)).await, 1);
            let own = [record("2026-11-21", "Tax", 300)];
            let refused = poller.publish(&own, second(1), view).await.err().map(|error| error.kind);
            assert_eq!(refused, compare_and_set.then_some(TransportErrorKind::Conflict), "{version}");
            let gaps = judge(&consume(&server).await).0.gaps;
            assert_eq!(gaps, usize::from(!compare_and_set), "{version}");
        }
    }
}

/// An answer that was long under way: compare-and-set takes it once it is decided over the newest
/// view, so only the time it was given keeps it from winning.
#[tokio::test]
async fn an_old_answer_is_dropped_only_by_its_time() {
    for version in versions() {
        for guard in [true, false] {
            let server = Server::start(version);
            let mut poller = Poller::new(server.transport());
            poller.guard = guard;
            assert_eq!(
                Poller::new(server.transport()).poll(&[record("2026-11-21", "Tax", 200)], second(9)).await,
                1
            );
            let late = poller.poll(&[record("2026-11-21", "Tax", 100)], second(3)).await;
            assert_eq!(late, usize::from(!guard), "{version}");
            assert_eq!(judge(&consume(&server).await).0.stale, usize::from(!guard), "{version}");
        }
    }
}
