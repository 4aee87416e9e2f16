//! What is published, what a restart finds, and what purges do. On every version.

use amazon_billing_source::{
    dedup::{ConnectionState, Ledger},
    event::ContentMode,
    transport::{Batch, Delivery, Transport as _, TransportErrorKind, nats::Nats},
};
use async_nats::jetstream;
use serde_json::Value;

use crate::support::{
    Poller, Server, Violations, consume, factory, judge, newest, record, records, second, versions,
};

#[tokio::test]
async fn both_modes_have_the_headers_of_the_binding() {
    for version in versions() {
        let server = Server::start(version);
        let mut poller = Poller::new(server.transport());
        assert_eq!(poller.poll(&[record("2026-11-21", "Tax", 100)], second(0)).await, 1);
        let mut binary = server.config();
        binary.content_mode = ContentMode::Binary;
        let mut poller = Poller::new(Nats::new(binary));
        assert_eq!(poller.poll(&[record("2026-11-21", "Tax", 200)], second(1)).await, 1);

        let seen = consume(&server).await;
        assert_eq!(seen.len(), 2, "{version}");
        let header = |index: usize, name: &str| {
            seen[index].headers.get(name).map(|value: &async_nats::HeaderValue| value.as_str().to_owned())
        };
        assert!(seen[0].subject.starts_with("aws.cost.111122223333.-.daily.2026.11.21.tax."));
        assert_eq!(seen[0].subject, seen[1].subject);
        assert_eq!(header(0, "Content-Type").unwrap(), "application/cloudevents+json");
        assert_eq!(header(0, "Nats-Msg-Id").unwrap(), seen[0].event["id"].as_str().unwrap());
        assert_eq!(header(0, "ce-id"), None);
        assert_eq!(seen[0].event["data"]["unblendedCost"]["amount"], "1.00");

        assert_eq!(header(1, "Content-Type"), None);
        assert_eq!(header(1, "ce-specversion").unwrap(), "1.0");
        assert_eq!(header(1, "ce-datacontenttype").unwrap(), "application/json");
        assert_eq!(header(1, "ce-revision").unwrap(), "2");
        assert_eq!(header(1, "ce-id"), header(1, "Nats-Msg-Id"));
        assert_eq!(seen[1].event["previous"]["unblendedCost"]["amount"], "1.00", "read back from the log");

        // Either mode reads what the other wrote.
        let mut poller = Poller::new(server.transport());
        assert_eq!(poller.poll(&[record("2026-11-21", "Tax", 200)], second(2)).await, 0);
    }
}

#[tokio::test]
async fn a_restart_publishes_nothing_and_goes_on_where_it_was() {
    for version in versions() {
        let mut server = Server::start(version);
        let first = records(3000, 100);
        assert_eq!(Poller::new(server.transport()).poll(&first, second(0)).await, 3000);
        assert_eq!(Poller::new(server.transport()).poll(&first, second(1)).await, 0);
        server.kill();
        server.restart();
        let mut poller = Poller::new(server.transport());
        assert_eq!(poller.poll(&first, second(2)).await, 0);
        // Incremental from here: a rival's events are found.
        assert_eq!(Poller::new(server.transport()).poll(&records(10, 200), second(3)).await, 10);
        assert_eq!(poller.poll(&records(10, 200), second(4)).await, 0);
        assert_eq!(poller.poll(&records(20, 300), second(5)).await, 20);
        let (violations, _) = judge(&consume(&server).await);
        assert_eq!(violations, Violations::default(), "{version}");
    }
}

#[tokio::test]
async fn a_to_b_to_a_is_three_events_within_the_duplicate_window() {
    for version in versions() {
        let server = Server::start(version);
        let mut poller = Poller::new(server.transport());
        for (at, cents) in [(0, 100), (1, 200), (2, 100)] {
            assert_eq!(poller.poll(&[record("2026-11-21", "Tax", cents)], second(at)).await, 1);
        }
        // An answer older than what is published changes nothing.
        assert_eq!(poller.poll(&[record("2026-11-21", "Tax", 900)], second(1)).await, 0);
        let seen = consume(&server).await;
        assert_eq!(seen.len(), 3);
        assert_eq!(judge(&seen).0, Violations::default());
    }
}

#[tokio::test]
async fn what_is_purged_or_deleted_is_published_again_by_the_next_poll() {
    for version in versions() {
        let server = Server::start(version);
        let js = server.jetstream().await;
        let all = records(50, 100);
        let mut poller = Poller::new(server.transport());
        assert_eq!(poller.poll(&all, second(0)).await, 50);
        let stream = js.get_stream("BILLING").await.unwrap();

        // Within the duplicate window, so every id is still remembered.
        stream.purge().await.unwrap();
        assert_eq!(poller.poll(&all, second(1)).await, 50, "{version}: purged");
        let one = consume(&server).await.remove(7).subject;
        stream.purge().filter(&one).await.unwrap();
        assert_eq!(poller.poll(&all, second(2)).await, 1, "{version}: one subject purged");
        let last = stream.get_last_raw_message_by_subject(&one).await.unwrap();
        stream.delete_message(last.sequence).await.unwrap();
        assert_eq!(poller.poll(&all, second(3)).await, 1, "{version}: one message deleted");

        js.delete_stream("BILLING").await.unwrap();
        assert_eq!(poller.poll(&all, second(4)).await, 50, "{version}: recreated");
        assert_eq!(poller.poll(&all, second(5)).await, 0);
        assert_eq!(judge(&consume(&server).await).0, Violations::default());
    }
}

#[tokio::test]
async fn a_recreated_stream_is_a_regression_to_be_recovered_from() {
    let server = Server::start(newest());
    let mut poller = Poller::new(server.transport());
    poller.poll(&records(5, 100), second(0)).await;
    let js = server.jetstream().await;
    js.delete_stream("BILLING").await.unwrap();
    let error = poller.attempt(&records(5, 100), second(1)).await.unwrap_err();
    assert_eq!(error.kind, TransportErrorKind::Regressed, "{error}");
}

#[tokio::test]
async fn connections_and_their_claims_are_compared_and_set() {
    for version in versions() {
        let server = Server::start(version);
        let (one, two) = (server.transport(), server.transport());
        let scope = factory().scope().id();
        let (mut first, mut second) = (Ledger::new(), Ledger::new());
        let state = one.recover(&scope, &mut first).await.unwrap();
        two.recover(&scope, &mut second).await.unwrap();
        let batch = |name: &str, ledger: &Ledger| Batch {
            scope: scope.clone(),
            recovered_to: ledger.recovered_to(),
            events: Vec::new(),
            connection: ConnectionState { name: name.to_owned(), ..state.clone() },
        };
        assert_eq!(one.publish(batch("one", &first)).await.unwrap(), []);
        let error = two.publish(batch("two", &second)).await.unwrap_err();
        assert_eq!(error.kind, TransportErrorKind::Conflict, "{version}: {error}");
        assert_eq!(two.recover(&scope, &mut second).await.unwrap().name, "one");
        two.publish(batch("two", &second)).await.unwrap();
        let connections = one.connections().await.unwrap();
        assert_eq!(connections.len(), 1);
        assert_eq!((connections[0].0.as_str(), connections[0].1.name.as_str()), (&*scope, "two"));
    }
}

#[tokio::test]
async fn an_event_that_is_too_large_is_refused_alone() {
    let server = Server::start(newest());
    let js = server.jetstream().await;
    js.create_stream(jetstream::stream::Config {
        name: "BILLING".to_owned(),
        subjects: vec!["aws.cost.>".to_owned()],
        max_message_size: 4096,
        ..Default::default()
    })
    .await
    .unwrap();
    let config = amazon_billing_source::config::NatsConfig {
        // Megabytes through a busy machine.
        timeout: std::time::Duration::from_secs(30),
        ..server.config()
    };
    let mut poller = Poller::new(Nats::new(config));
    let mut batch = records(3, 100);
    // One over the stream's limit, one over the server's.
    batch[1].service = "x".repeat(5000).into();
    batch.push(record("2026-11-22", &"y".repeat(2_000_000), 100));
    // The slug of a name is in the subject, which has a limit of its own.
    batch[1].service = "日".repeat(2000).into();
    batch[3].service = "本".repeat(500_000).into();
    let deliveries = poller.attempt(&batch, second(0)).await.unwrap();
    let stored: Vec<_> = deliveries.iter().map(|d| matches!(d, Delivery::Stored(_))).collect();
    assert_eq!(stored, [true, false, true, false], "{deliveries:?}");
    assert_eq!(consume(&server).await.len(), 2);
}

#[tokio::test]
async fn other_scopes_and_other_programs_are_told_apart() {
    let server = Server::start(newest());
    let mut poller = Poller::new(server.transport());
    poller.poll(&records(3, 100), second(0)).await;
    let mut other = Poller::new(server.transport());
    let mut scope = crate::support::scope();
    scope.source = "another.source".to_owned();
    other.factory = amazon_billing_source::event::EventFactory::new(scope, "amazon.billing");
    assert_eq!(other.poll(&records(3, 100), second(0)).await, 3, "another scope has its own keys");
    assert_eq!(poller.poll(&records(3, 100), second(1)).await, 0);
    assert_eq!(other.poll(&records(3, 100), second(1)).await, 0);
    assert_eq!(other.ledger.len(), 3);

    // Beside the keys anything may lie; on one of them it hides its state.
    let js = server.jetstream().await;
    js.publish("aws.cost.111122223333.notes", "hello".into()).await.unwrap().await.unwrap();
    assert_eq!(poller.poll(&records(3, 100), second(2)).await, 0);
    let subject = consume(&server).await.remove(0).subject;
    let sequence = js.publish(subject.clone(), "hello".into()).await.unwrap().await.unwrap().sequence;
    for mut poller in [poller, Poller::new(server.transport())] {
        let error = poller.attempt(&records(3, 200), second(3)).await.unwrap_err();
        assert_eq!(error.kind, TransportErrorKind::Foreign);
        assert!(error.message.contains(&subject), "{error}");
        let hint = error.hint.unwrap();
        assert!(hint.contains(&format!("nats stream rmm BILLING {sequence}")), "{hint}");
    }
    js.get_stream("BILLING").await.unwrap().delete_message(sequence).await.unwrap();
    assert_eq!(Poller::new(server.transport()).poll(&records(3, 200), second(4)).await, 3);
}

#[tokio::test]
async fn the_bucket_is_one_that_every_client_reads() {
    let server = Server::start(newest());
    let mut poller = Poller::new(server.transport());
    poller.poll(&records(1, 100), second(0)).await;
    let scope = factory().scope().id();
    let connection = ConnectionState { name: "main".to_owned(), ..Default::default() };
    let batch = Batch { scope: scope.clone(), recovered_to: None, events: Vec::new(), connection };
    poller.nats.publish(batch).await.unwrap();
    let js = server.jetstream().await;
    let message = js
        .get_stream("KV_BILLING_STATE")
        .await
        .unwrap()
        .get_last_raw_message_by_subject(&format!("$KV.BILLING_STATE.{scope}"))
        .await
        .unwrap();
    let value: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!((&value["version"], &value["name"]), (&1.into(), &"main".into()));
}
