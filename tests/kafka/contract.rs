//! The transport's contract, call by call, each guarantee with its control.

use std::time::Duration;

use amazon_billing_source::{
    config::{DeliveryMode, LostState},
    cost::slug,
    dedup::Claim,
    event::ContentMode,
    transport::{Delivery, Transport as _, TransportErrorKind as Kind, kafka::Kafka},
};
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
    producer::{FutureProducer, FutureRecord, Producer as _},
};

use crate::{
    broker::Broker,
    support::{Process, change, config, consume, create_topic, delete_topic, scope, scope_of, violations},
};

const COMMITTED: &str = "read_committed";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_is_read_by_consumers_and_recovered() {
    let broker = Broker::shared();
    for mode in [ContentMode::Binary, ContentMode::Structured] {
        let name = if mode == ContentMode::Binary { "binary" } else { "structured" };
        let config =
            amazon_billing_source::config::KafkaConfig { content_mode: mode, ..config(broker, name) };
        let mut process = Process::new(&config);
        process.recover().await.unwrap();
        let deliveries = process.publish(&[change("Tax", 1), change("AWS Lambda", 1)]).await.unwrap();
        assert!(deliveries.iter().all(|d| matches!(d, Delivery::Stored(_))), "{deliveries:?}");
        process.publish(&[change("Tax", 2)]).await.unwrap();

        let records = consume(&config.bootstrap_servers, &config.topic, COMMITTED);
        assert_eq!(records.len(), 3);
        assert_eq!(violations(&records), [""; 0]);
        let tax = records.iter().rfind(|r| r.key.ends_with("/tax")).unwrap();
        assert_eq!(tax.key, "111122223333/daily/2026-03-01/tax");
        assert_eq!(tax.event["data"]["unblendedCost"]["amount"], "2");
        assert_eq!(tax.event["data"]["previous"]["unblendedCost"]["amount"], "1");
        match mode {
            ContentMode::Binary => {
                assert_eq!(tax.headers["ce_partitionkey"], tax.key);
                assert_eq!(tax.headers["content-type"], "application/json");
                assert!(tax.payload.starts_with(b"{\"date\":\"2026-03-01\""));
            }
            ContentMode::Structured => {
                assert_eq!(tax.headers.len(), 1, "{:?}", tax.headers);
                assert_eq!(tax.headers["content-type"], "application/cloudevents+json; charset=UTF-8");
                assert!(tax.payload.starts_with(b"{\"specversion\":\"1.0\""));
            }
        }

        // A restart, on another host.
        let mut restarted = Process::new(&config);
        restarted.recover().await.unwrap();
        assert_eq!(restarted.ledger.len(), 2);
        assert_eq!(restarted.state.name, "main");
        assert_eq!(restarted.ledger.previous(&change("Tax", 1).key).unwrap().revision(), 2);
    }
}

/// A claim and a count are batches without events; they are no conflict for who wrote them.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_does_not_conflict_with_itself() {
    let config = config(Broker::shared(), "itself");
    let mut process = Process::new(&config);
    process.recover().await.unwrap();
    for revision in 1..=3 {
        assert_eq!(process.publish(&[]).await.unwrap(), []);
        assert_eq!(process.publish(&[]).await.unwrap(), []);
        process.publish(&[change("Tax", revision)]).await.unwrap();
        process.recover().await.unwrap();
    }
    assert_eq!(process.kafka.connections().await.unwrap().len(), 1);
    assert_eq!(consume(&config.bootstrap_servers, &config.topic, COMMITTED).len(), 3);
}

/// While a poll goes on the next producer is made beside it, and the first events of the next batch are
/// encoded until it is there.
#[tokio::test(flavor = "multi_thread")]
async fn events_encoded_ahead_are_sent_once_and_with_their_own_keys() {
    let config = config(Broker::shared(), "ahead");
    let mut process = Process::new(&config);
    process.recover().await.unwrap();
    process.state.claim = Some(Claim { instance: "a".into(), token: "t".into(), reserved: 1, renewed: 0 });
    let services: Vec<String> = (0..3000).map(|number| format!("Service {number}")).collect();
    let changes: Vec<_> = services.iter().map(|service| change(service, 1)).collect();
    // Ready before, so that the producer is not.
    let batch = process.batch(&changes);
    process.publish(&[]).await.unwrap();
    process.kafka.publish(batch).await.unwrap();
    let records = consume(&config.bootstrap_servers, &config.topic, COMMITTED);
    assert_eq!(records.len(), services.len());
    assert_eq!(violations(&records), [""; 0]);
    for record in &records {
        let service = record.event["data"]["service"].as_str().unwrap();
        assert!(record.key.ends_with(&format!("/{}", slug(service))), "{record:?}");
    }
    let mut restarted = Process::new(&config);
    restarted.recover().await.unwrap();
    assert_eq!(restarted.ledger.len(), services.len());
}

/// Two processes decided over the same view: the second is a conflict, also where the first only
/// wrote a claim. Without fence and proof both publish.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_decided_over_an_old_view_is_a_conflict() {
    for (name, with_events) in [("rivals-events", true), ("rivals-claim", false)] {
        let config = config(Broker::shared(), name);
        let (mut first, mut second) = (Process::new(&config), Process::new(&config));
        first.recover().await.unwrap();
        second.recover().await.unwrap();
        let changes = if with_events { vec![change("Tax", 1)] } else { Vec::new() };
        first.publish(&changes).await.unwrap();
        let error = second.publish(&changes).await.unwrap_err();
        assert_eq!(error.kind, Kind::Conflict, "{error}");
        second.recover().await.unwrap();
        assert_eq!(second.ledger.len(), changes.len());
        second.publish(&[change("Tax", 2)]).await.unwrap();
        let error = first.publish(&[change("Tax", 2)]).await.unwrap_err();
        assert_eq!(error.kind, Kind::Conflict, "{error}");
    }
    for delivery in [DeliveryMode::ExactlyOnce, DeliveryMode::AtLeastOnce] {
        let config = amazon_billing_source::config::KafkaConfig {
            delivery,
            ..config(Broker::shared(), &format!("control-{}", delivery.name()))
        };
        let process = || Process::of(Kafka::connect_unfenced(&config).unwrap(), scope());
        let (mut first, mut second) = (process(), process());
        first.recover().await.unwrap();
        second.recover().await.unwrap();
        first.publish(&[change("Tax", 1)]).await.unwrap();
        second.publish(&[change("Tax", 1)]).await.unwrap();
        let records = consume(&config.bootstrap_servers, &config.topic, COMMITTED);
        assert!(!violations(&records).is_empty(), "the control must fail: {records:?}");
    }
}

/// A process that hangs in the middle of its transaction: what it wrote is never seen, and it can
/// neither go on nor commit. Without the successor's fence it would be seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_zombies_records_are_aborted_and_invisible() {
    for fenced in [true, false] {
        let config = config(Broker::shared(), if fenced { "zombie" } else { "zombie-control" });
        let mut process = Process::new(&config);
        process.recover().await.unwrap();
        process.publish(&[change("Tax", 1)]).await.unwrap();

        let id = format!("{}.{}", config.state_topic, scope().id());
        let zombie: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &config.bootstrap_servers)
            .set("transactional.id", &id)
            .create()
            .unwrap();
        zombie.init_transactions(Duration::from_secs(20)).unwrap();
        zombie.begin_transaction().unwrap();
        for topic in [&config.topic, &config.state_topic] {
            let record = FutureRecord::to(topic).key("zombie").payload("from before");
            zombie.send(record, Duration::from_secs(10)).await.unwrap();
        }
        if fenced {
            // The state topic has an open transaction now; the fence is what ends it.
            let mut successor = Process::new(&config);
            let started = std::time::Instant::now();
            successor.recover().await.unwrap();
            assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
            successor.publish(&[change("Tax", 2)]).await.unwrap();
            assert!(zombie.commit_transaction(Duration::from_secs(10)).is_err());
        } else {
            zombie.commit_transaction(Duration::from_secs(10)).unwrap();
        }
        let keys: Vec<_> = consume(&config.bootstrap_servers, &config.topic, COMMITTED)
            .into_iter()
            .map(|record| record.key)
            .collect();
        assert_eq!(keys.iter().any(|key| key == "zombie"), !fenced, "{keys:?}");
        let all = consume(&config.bootstrap_servers, &config.topic, "read_uncommitted");
        assert!(all.iter().any(|record| record.key == "zombie"), "it was there");
    }
}

/// A topic that has records, none of them ours: others' events, their transactions' markers, aborted ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_others_is_no_lost_state() {
    let config = config(Broker::shared(), "others");
    create_topic(&config.bootstrap_servers, &config.topic, 3, &[]).await;
    let other: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &config.bootstrap_servers)
        .set("transactional.id", "other-program")
        .create()
        .unwrap();
    other.init_transactions(Duration::from_secs(20)).unwrap();
    for (partition, commit) in [(0, true), (1, false), (0, false)] {
        other.begin_transaction().unwrap();
        let record = FutureRecord::to(&config.topic).partition(partition).key("other").payload("hello");
        other.send(record, Duration::from_secs(10)).await.unwrap();
        if commit {
            other.commit_transaction(Duration::from_secs(10)).unwrap();
        } else {
            other.abort_transaction(Duration::from_secs(10)).unwrap();
        }
    }
    let mut process = Process::new(&config);
    let started = std::time::Instant::now();
    process.recover().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    process.publish(&[change("Tax", 1)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_do_not_disturb_each_other() {
    let config = config(Broker::shared(), "scopes");
    let kafka = Kafka::connect(&config).unwrap();
    let mut processes: Vec<_> = (0..12)
        .map(|number| Process::of(kafka.clone(), scope_of(&format!("{:012}", 111_122_223_300_u64 + number))))
        .collect();
    for process in &mut processes {
        process.recover().await.unwrap();
    }
    for revision in 1..=2 {
        for process in &mut processes {
            process.publish(&[]).await.unwrap();
            process.publish(&[change("Tax", revision)]).await.unwrap();
        }
    }
    for process in &mut processes {
        process.recover().await.unwrap();
        assert_eq!(process.ledger.len(), 1);
    }
    let rival = Kafka::connect(&config).unwrap();
    assert_eq!(rival.connections().await.unwrap().len(), 12);
    assert_eq!(consume(&config.bootstrap_servers, &config.topic, COMMITTED).len(), 24);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_seen_by_the_others() {
    let config = config(Broker::shared(), "claim");
    let mut process = Process::new(&config);
    process.recover().await.unwrap();
    process.state.claim = Some(Claim { instance: "a".into(), token: "t".into(), reserved: 3, renewed: 0 });
    process.publish(&[]).await.unwrap();
    let mut other = Process::new(&config);
    other.recover().await.unwrap();
    assert_eq!(other.state.claim, process.state.claim);
    let connections = other.kafka.connections().await.unwrap();
    assert_eq!(connections[0].1.claim, process.state.claim);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_claimed_meanwhile_is_not_fenced_in_vain() {
    let config = config(Broker::shared(), "meanwhile");
    let (mut first, mut second) = (Process::new(&config), Process::new(&config));
    first.recover().await.unwrap();
    second.recover().await.unwrap();
    let claim = Claim { instance: "second".to_owned(), token: "t".to_owned(), reserved: 1, renewed: 0 };
    second.state.claim = Some(claim);
    second.publish(&[]).await.unwrap();
    // By then its next producer is made and fenced, which a fence of the first one's would end.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let error = first.publish(&[change("Tax", 1)]).await.unwrap_err();
    assert_eq!(error.kind, Kind::Conflict, "{error}");
    second.publish(&[change("Tax", 1)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_went_backwards_is_noticed_and_read_anew() {
    let config = config(Broker::shared(), "backwards");
    let mut process = Process::new(&config);
    process.recover().await.unwrap();
    process.publish(&[change("Tax", 1)]).await.unwrap();
    process.publish(&[change("Tax", 2)]).await.unwrap();
    process.recover().await.unwrap();
    for topic in [&config.topic, &config.state_topic] {
        delete_topic(&config.bootstrap_servers, topic).await;
    }
    let error = process.recover().await.unwrap_err();
    assert_eq!(error.kind, Kind::Regressed, "{error}");
    process.ledger.clear();
    process.recover().await.unwrap();
    assert_eq!(process.ledger.len(), 0);
    process.publish(&[change("Tax", 1)]).await.unwrap();
    assert_eq!(consume(&config.bootstrap_servers, &config.topic, COMMITTED).len(), 1);
}

/// The event topic alone is lost: the state of lost events counts for nothing, so they come again.
#[tokio::test(flavor = "multi_thread")]
async fn lost_events_are_published_again() {
    let config = config(Broker::shared(), "lost-events");
    let mut process = Process::new(&config);
    process.recover().await.unwrap();
    process.publish(&[change("Tax", 1), change("A", 1)]).await.unwrap();
    process.recover().await.unwrap();
    delete_topic(&config.bootstrap_servers, &config.topic).await;
    let error = process.recover().await.unwrap_err();
    assert_eq!(error.kind, Kind::Regressed, "{error}");
    process.ledger.clear();
    process.recover().await.unwrap();
    assert_eq!(process.ledger.len(), 0);
    process.publish(&[change("Tax", 1)]).await.unwrap();
    // A process that starts later knows it, too.
    let mut later = Process::new(&config);
    later.recover().await.unwrap();
    assert!(later.ledger.previous(&change("Tax", 1).key).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_beside_living_events_is_refused() {
    for (name, mode) in [("lost-state-b", ContentMode::Binary), ("lost-state-s", ContentMode::Structured)] {
        let config = amazon_billing_source::config::KafkaConfig {
            content_mode: mode,
            ..config(Broker::shared(), name)
        };
        let mut process = Process::new(&config);
        process.recover().await.unwrap();
        process.publish(&[change("Tax", 1)]).await.unwrap();
        delete_topic(&config.bootstrap_servers, &config.state_topic).await;
        // Deleted: not created anew. Emptied: no different.
        for emptied in [false, true] {
            if emptied {
                create_topic(
                    &config.bootstrap_servers,
                    &config.state_topic,
                    8,
                    &[("cleanup.policy", "compact")],
                )
                .await;
            }
            let error = Process::new(&config).recover().await.unwrap_err();
            assert_eq!(error.kind, Kind::StateMissing, "{error}");
            assert!(error.hint.unwrap().contains("kafka.on_lost_state"));
        }
        let anyway = amazon_billing_source::config::KafkaConfig {
            on_lost_state: LostState::Republish,
            ..config.clone()
        };
        Process::new(&anyway).recover().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_layout_is_refused() {
    let config = config(Broker::shared(), "layout");
    let mut process = Process::new(&config);
    process.recover().await.unwrap();
    process.publish(&[change("Tax", 1)]).await.unwrap();
    let more = rdkafka::admin::NewPartitions::new(&config.state_topic, 12);
    let admin = crate::support::admin(&config.bootstrap_servers);
    admin.create_partitions(&[more], &rdkafka::admin::AdminOptions::new()).await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let error = match Process::new(&config).recover().await {
            Ok(()) => {
                assert!(std::time::Instant::now() < deadline, "never refused");
                continue;
            }
            Err(error) => error,
        };
        assert_eq!(error.kind, Kind::LayoutChanged, "{error}");
        assert!(error.message.contains("12 partitions") && error.message.contains("with 8"), "{error}");
        break;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_record_is_refused_and_left_as_it_is() {
    let config = config(Broker::shared(), "foreign");
    Process::new(&config).recover().await.unwrap();
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", &config.bootstrap_servers).create().unwrap();
    let record = FutureRecord::to(&config.state_topic).key("dear").payload("diary");
    producer.send(record, Duration::from_secs(10)).await.unwrap();
    let error = Process::new(&config).recover().await.unwrap_err();
    assert_eq!(error.kind, Kind::Foreign, "{error}");
}

/// One thread reads a long log, another takes its records apart and a third enters them.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_log_is_recovered_whole_and_refused_for_one_record() {
    let config = config(Broker::shared(), "long");
    let mut process = Process::new(&config);
    process.recover().await.unwrap();
    let services: Vec<String> = (0..9_000).map(|number| format!("Service {number}")).collect();
    for revision in 1..=3 {
        let changes: Vec<_> = services.iter().map(|service| change(service, revision)).collect();
        process.publish(&changes).await.unwrap();
        process.recover().await.unwrap();
    }
    let mut restarted = Process::new(&config);
    restarted.recover().await.unwrap();
    assert_eq!(restarted.ledger.len(), services.len());
    assert_eq!(restarted.ledger.recovered_to(), process.ledger.recovered_to());
    assert!(restarted.ledger.rows().all(|(_, row)| row.revision() == 3));

    // With more behind it than waits for the other thread.
    let client: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", &config.bootstrap_servers).create().unwrap();
    let is_long = |partition: &i32| {
        let (_, end) =
            client.fetch_watermarks(&config.state_topic, *partition, Duration::from_secs(10)).unwrap();
        end > 27_000
    };
    let partition = (0..8).find(is_long).unwrap();
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", &config.bootstrap_servers).create().unwrap();
    let sent: Vec<_> = (0..20_000)
        .map(|_| {
            let record = FutureRecord::to(&config.state_topic).partition(partition);
            producer.send_result(record.key("dear").payload("diary")).map_err(|(error, _)| error).unwrap()
        })
        .collect();
    for delivery in sent {
        delivery.await.unwrap().unwrap();
    }
    let error = Process::new(&config).recover().await.unwrap_err();
    assert_eq!(error.kind, Kind::Foreign, "{error}");
}

/// Only the row that is too large fails; whether the client knows the topic's limit or only the broker.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_large_fails_alone() {
    let broker = Broker::shared();
    let config = config(broker, "too-large");
    create_topic(&config.bootstrap_servers, &config.topic, 2, &[("max.message.bytes", "4000")]).await;
    let mut process = Process::new(&config);
    process.recover().await.unwrap();
    let huge: String = (0..9000).map(|n| char::from(b'a' + u8::try_from(n * 7 % 26).unwrap())).collect();
    let deliveries = process.publish(&[change("Tax", 1), change(&huge, 1), change("A", 1)]).await.unwrap();
    assert!(matches!(deliveries[0], Delivery::Stored(_)), "{deliveries:?}");
    assert!(matches!(&deliveries[1], Delivery::Rejected(why) if why.contains("max.message.bytes")));
    assert!(matches!(deliveries[2], Delivery::Stored(_)), "{deliveries:?}");
    process.recover().await.unwrap();
    assert_eq!(process.ledger.len(), 2);
    assert_eq!(consume(&config.bootstrap_servers, &config.topic, COMMITTED).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_topics_and_brokers_are_named() {
    let broker = Broker::shared();
    let missing =
        amazon_billing_source::config::KafkaConfig { create_topics: false, ..config(broker, "missing") };
    let error = Process::new(&missing).recover().await.unwrap_err();
    assert_eq!(error.kind, Kind::Rejected, "{error}");
    assert!(error.message.contains(&missing.topic) && error.hint.unwrap().contains("create_topics"));

    let nowhere = amazon_billing_source::config::KafkaConfig {
        bootstrap_servers: format!("127.0.0.1:{}", crate::broker::ports::free_port()),
        ..missing
    };
    let started = std::time::Instant::now();
    let error = Process::new(&nowhere).recover().await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    assert!(error.message.contains(&nowhere.bootstrap_servers), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

/// At least once: events first, then state; a restart publishes nothing again.
#[tokio::test(flavor = "multi_thread")]
async fn at_least_once_works_without_transactions() {
    let config = amazon_billing_source::config::KafkaConfig {
        delivery: DeliveryMode::AtLeastOnce,
        ..config(Broker::shared(), "at-least-once")
    };
    let mut process = Process::new(&config);
    process.recover().await.unwrap();
    process.publish(&[change("Tax", 1)]).await.unwrap();
    process.publish(&[change("Tax", 2)]).await.unwrap();
    let mut restarted = Process::new(&config);
    restarted.recover().await.unwrap();
    assert_eq!(restarted.ledger.previous(&change("Tax", 1).key).unwrap().revision(), 2);
    let error = Process::of(process.kafka.clone(), scope()).publish(&[change("Tax", 3)]).await.unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert_eq!(violations(&consume(&config.bootstrap_servers, &config.topic, "read_uncommitted")), [""; 0]);
}
