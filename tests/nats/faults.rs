//! Lost acknowledgements, servers that are down or set wrongly, and what the program says then.

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use amazon_billing_source::{
    clock::Clock,
    simulator::{Options, Simulator},
    transport::{TransportErrorKind, nats::Nats},
};
use async_nats::jetstream;

use crate::{
    proxy::Proxy,
    support::{Poller, Server, Violations, consume, judge, newest, record, records, second, versions},
};

#[tokio::test]
async fn lost_acknowledgements_are_looked_up_and_never_sent_twice() {
    for version in versions() {
        let server = Server::start(version);
        let proxy = Proxy::before(server.port).await;
        let mut config = server.config();
        config.servers = vec![proxy.url()];
        config.timeout = Duration::from_millis(400);
        let mut poller = Poller::new(Nats::new(config));
        poller.poll(&[record("2026-11-20", "Tax", 1)], second(0)).await;
        let mut lost = 0;
        for round in 0..8_i64 {
            let batch = records(200, 100 + round);
            // Recovery needs a few kilobytes of answers; then the acknowledgements are cut anywhere.
            proxy.swallow(6000 + usize::try_from(round).unwrap() * 4000);
            let result = poller.attempt(&batch, second(1 + round)).await;
            lost += usize::from(result.is_err());
            proxy.heal();
            poller.ledger.clear();
            poller.poll(&batch, second(1 + round)).await;
        }
        assert!(lost >= 2, "{version}: acknowledgements were lost in {lost} rounds of 8");
        let seen = consume(&server).await;
        let (violations, newest) = judge(&seen);
        assert_eq!(violations, Violations::default(), "{version}");
        assert_eq!(seen.len(), 1 + 8 * 200);
        assert!(newest.values().filter(|amount| *amount == "1.07").count() == 200);
    }
}

/// A server whose acknowledgements take their time: all of them are waited for, and no more than
/// `max_in_flight` events are under way without one.
#[tokio::test]
async fn slow_acknowledgements_are_waited_for_with_bounded_flight() {
    let server = Server::start(newest());
    let proxy = Proxy::before(server.port).await;
    let mut config = server.config();
    config.servers = vec![proxy.url()];
    config.timeout = Duration::from_mins(1);
    let mut poller = Poller::new(Nats::new(config));
    poller.poll(&[record("2026-11-20", "Tax", 1)], second(0)).await;
    proxy.delay(Duration::from_millis(20));
    let deliveries = poller.attempt(&records(5000, 100), second(1)).await.unwrap();
    assert_eq!(deliveries.len(), 5000);
    assert_eq!(proxy.most_in_flight(), 1000);
    let seen = consume(&server).await;
    assert_eq!((judge(&seen).0, seen.len()), (Violations::default(), 5001));
}

/// Acknowledgements that come later than is waited for: nothing is sent twice.
#[tokio::test]
async fn acknowledgements_that_come_too_late_are_looked_up() {
    for version in versions() {
        let server = Server::start(version);
        let proxy = Proxy::before(server.port).await;
        let mut config = server.config();
        config.servers = vec![proxy.url()];
        config.timeout = Duration::from_millis(500);
        let mut poller = Poller::new(Nats::new(config));
        poller.poll(&[record("2026-11-20", "Tax", 1)], second(0)).await;
        let mut late = 0;
        for round in 1..=2 {
            let batch = records(1500, 100 + round);
            let state = poller.recover().await.unwrap();
            proxy.delay(Duration::from_millis(100));
            late += usize::from(poller.publish(&batch, second(round), state).await.is_err());
            proxy.delay(Duration::ZERO);
            poller.ledger.clear();
            poller.poll(&batch, second(round)).await;
        }
        assert!(late > 0, "{version}: every acknowledgement came in time");
        assert!(proxy.most_in_flight() <= 1000, "{version}: {}", proxy.most_in_flight());
        let seen = consume(&server).await;
        assert_eq!((judge(&seen).0, seen.len()), (Violations::default(), 3001), "{version}");
    }
}

/// The program with this `[nats]` table beside what the tests have in common, against a simulated AWS that counts what is paid.
pub(crate) async fn once(nats: &str, arguments: &[&str]) -> (Output, u64) {
    once_into(("BILLING", "aws.cost"), nats, arguments).await
}

/// The same into another stream, with its prefix.
pub(crate) async fn once_into(
    (stream, prefix): (&str, &str),
    nats: &str,
    arguments: &[&str],
) -> (Output, u64) {
    let simulator = Simulator::start(Options::default(), Clock::system()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("billing.toml");
    let text = format!(
        "[[connections]]\nname = \"main\"\naccount_id = \"111122223333\"\nendpoint_url = \"{}\"\n\
         credentials = {{ kind = \"keys\", access_key_id = \"AKIA\", secret_access_key = \"s\" }}\n\
         [admin]\nlisten = \"\"\n[transport]\nkind = \"nats\"\n[nats]\nstream = \"{stream}\"\n\
         subject_prefix = \"{prefix}\"\ntimeout = \"1s\"\n{nats}\n",
        simulator.url()
    );
    fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_amazon-billing-source"));
    command.args(arguments).arg("--config").arg(&file);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let paid = simulator.bill().chargeable;
    (output, paid)
}

/// The exit code and what was said, after nothing was paid.
async fn refused(nats: &str) -> (i32, String) {
    let (output, paid) = once(nats, &["run", "--once"]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(paid, 0, "{said}");
    (output.status.code().unwrap(), said)
}

pub(crate) fn table(server: &Server, rest: &str) -> String {
    format!("servers = [\"{}\"]\n{rest}", server.url())
}

#[tokio::test]
async fn the_program_publishes_once_on_every_version() {
    for version in versions() {
        let server = Server::start(version);
        let table = table(&server, "create_stream = true");
        let (output, paid) = once(&table, &["run", "--once"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(paid, 1);
        let seen = consume(&server).await;
        assert!(seen.len() > 100, "{version}");
        let (output, _) = once(&table, &["ledger", "show"]).await;
        assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), seen.len());
        let (output, paid) = once(&table, &["check", "--connect"]).await;
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && paid == 0, "{said}");
        for fact in [version, "`aws.cost.>`", "holds 1 connection", "may publish"] {
            assert!(said.contains(fact), "{fact}: {said}");
        }
        let (output, _) = once(&table, &["plan", "--actual"]).await;
        assert!(String::from_utf8(output.stdout).unwrap().contains("\"requestsToday\":1"));
    }
}

#[tokio::test]
async fn a_server_that_is_down_costs_nothing_and_ends_with_69() {
    let (code, said) = refused("servers = [\"nats://127.0.0.1:1\"]").await;
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("could not connect to NATS"), "{said}");
}

#[tokio::test]
async fn jetstream_that_is_off_is_named() {
    for version in versions() {
        let server = Server::with(version, &[], "");
        let (code, said) = refused(&table(&server, "")).await;
        assert_eq!(code, 69, "{version} {said}");
        assert!(said.contains("JetStream is off") && said.contains("-js"), "{said}");
    }
}

#[tokio::test]
async fn a_missing_stream_comes_with_its_command() {
    for version in versions() {
        let server = Server::start(version);
        let (code, said) = refused(&table(&server, "")).await;
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("there is no stream `BILLING`"), "{said}");
        assert!(said.contains("nats stream add BILLING --subjects 'aws.cost.>'"), "{said}");
    }
}

#[tokio::test]
async fn subjects_of_another_stream_are_named_with_their_owner() {
    for version in versions() {
        let server = Server::start(version);
        let js = server.jetstream().await;
        let other = jetstream::stream::Config {
            name: "ORDERS".to_owned(),
            subjects: vec!["aws.>".to_owned()],
            ..Default::default()
        };
        js.create_stream(other).await.unwrap();
        let (code, said) = refused(&table(&server, "create_stream = true")).await;
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("stream `ORDERS` has `aws.cost.>`"), "{said}");
        let (output, _) = once(&table(&server, "create_stream = true"), &["check", "--connect"]).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("stream `ORDERS` has `aws.cost.>`"), "{said}");
    }
}

#[tokio::test]
async fn a_stream_that_would_lose_state_is_refused_and_a_doubtful_one_named() {
    let server = Server::start(newest());
    let js = server.jetstream().await;
    let mut stream = jetstream::stream::Config {
        name: "BILLING".to_owned(),
        subjects: vec!["aws.cost.>".to_owned()],
        max_age: Duration::from_hours(24 * 7),
        max_messages_per_subject: 1,
        max_bytes: 1_000_000_000,
        discard: jetstream::stream::DiscardPolicy::New,
        storage: jetstream::stream::StorageType::Memory,
        ..Default::default()
    };
    js.create_stream(stream.clone()).await.unwrap();
    let (code, said) = refused(&table(&server, "create_stream = true")).await;
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("forgets messages after 168 hours"), "{said}");
    assert!(said.contains("nats stream edit BILLING --max-age=0"), "{said}");

    stream.max_age = Duration::ZERO;
    js.update_stream(stream).await.unwrap();
    let (output, _) = once(&table(&server, "create_stream = true"), &["check", "--connect"]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    for warning in
        ["one message a subject", "storage is memory", "discard `new`", "to put it right: nats stream edit"]
    {
        assert!(said.contains(warning), "{warning}: {said}");
    }
}

#[tokio::test]
async fn a_full_stream_is_the_outputs_trouble_and_nothing_is_lost() {
    let server = Server::start(newest());
    let js = server.jetstream().await;
    let mut stream = jetstream::stream::Config {
        name: "BILLING".to_owned(),
        subjects: vec!["aws.cost.>".to_owned()],
        max_messages: 5,
        discard: jetstream::stream::DiscardPolicy::New,
        ..Default::default()
    };
    js.create_stream(stream.clone()).await.unwrap();
    let mut poller = Poller::new(server.transport());
    let error = poller.attempt(&records(10, 100), second(0)).await.unwrap_err();
    assert_eq!(error.kind, TransportErrorKind::Unknown, "some are stored: {error}");
    let error = poller.attempt(&records(10, 100), second(1)).await.unwrap_err();
    assert_eq!(error.kind, TransportErrorKind::Unavailable, "none is: {error}");
    assert!(error.hint.unwrap().contains("full"));
    stream.max_messages = -1;
    js.update_stream(stream).await.unwrap();
    assert_eq!(poller.poll(&records(10, 100), second(2)).await, 5);
    assert_eq!(judge(&consume(&server).await).0, Violations::default());
}

/// A service waits for its output, asks AWS nothing meanwhile, and goes on by itself.
#[tokio::test]
async fn a_service_waits_for_the_server_and_survives_its_restarts() {
    let mut server = Server::start(newest());
    let simulator = Simulator::start(Options::default(), Clock::system()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("billing.toml");
    let text = format!(
        "poll.interval = \"1s\"\n[[connections]]\nname = \"main\"\naccount_id = \"111122223333\"\n\
         endpoint_url = \"{}\"\n\
         credentials = {{ kind = \"keys\", access_key_id = \"AKIA\", secret_access_key = \"s\" }}\n\
         [budget]\nrequests_per_day = 0\n[admin]\nlisten = \"\"\n[transport]\nkind = \"nats\"\n[nats]\n\
         servers = [\"{}\"]\nstream = \"BILLING\"\nsubject_prefix = \"aws.cost\"\ntimeout = \"1s\"\n\
         create_stream = true\n",
        simulator.url(),
        server.url()
    );
    fs::write(&file, text).unwrap();
    server.kill();
    let mut service = tokio::process::Command::new(env!("CARGO_BIN_EXE_amazon-billing-source"))
        .args(["run", "--config"])
        .arg(&file)
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(simulator.bill().chargeable, 0, "nothing is paid while the output is down");
    for restart in 1..=3 {
        server.restart();
        let paid = simulator.bill().chargeable;
        let deadline = std::time::Instant::now() + Duration::from_mins(1);
        while simulator.bill().chargeable < paid + 2 {
            assert!(std::time::Instant::now() < deadline, "no poll after restart {restart}");
            assert!(service.try_wait().unwrap().is_none(), "the service ended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if restart < 3 {
            server.kill();
        }
    }
    let seen = consume(&server).await;
    assert!(seen.len() > 100);
    assert_eq!(judge(&seen).0, Violations::default());
}
