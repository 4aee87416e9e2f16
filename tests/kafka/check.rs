//! `check --connect`: what it finds, and that its commands name what would put it right.

use amazon_billing_source::{
    config::KafkaConfig,
    transport::{Transport as _, TransportErrorKind as Kind, kafka::Kafka},
};

use crate::{
    broker::Broker,
    support::{Process, change, config, consume, create_topic},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fine_is_said() {
    let config = config(Broker::shared(), "check-fine");
    let facts = Kafka::connect(&config).unwrap().check().await.unwrap().join("\n");
    assert!(facts.contains("`run` will create it"), "{facts}");
    let mut process = Process::new(&config);
    process.recover().await.unwrap();
    process.publish(&[change("Tax", 1)]).await.unwrap();
    let facts = Kafka::connect(&config).unwrap().check().await.unwrap().join("\n");
    for words in [
        "answers, 1 brokers",
        "has 6 partitions of 1 replicas",
        "is compacted, 8 partitions",
        "holds the state of 1 connections",
        "may write to state topic",
        "read_committed",
        "has one replica",
    ] {
        assert!(facts.contains(words), "{words}: {facts}");
    }
    // Nobody sees that it was checked.
    for isolation in ["read_committed", "read_uncommitted"] {
        assert_eq!(consume(&config.bootstrap_servers, &config.topic, isolation).len(), 1);
    }
    let mut later = Process::new(&config);
    later.recover().await.unwrap();
    assert_eq!(later.ledger.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_comes_with_its_command() {
    let broker = Broker::shared();
    let config = KafkaConfig { create_topics: false, ..config(broker, "check-wrong") };
    let (servers, topic, state) = (&config.bootstrap_servers, &config.topic, &config.state_topic);
    let kafka = Kafka::connect(&config).unwrap();
    let error = kafka.check().await.unwrap_err();
    assert_eq!(error.kind, Kind::Rejected, "{error}");
    let hint = error.hint.unwrap();
    for command in [
        format!(
            "kafka-topics.sh --bootstrap-server {servers} --create --topic {topic} --partitions 6 --replication-factor 1 --config cleanup.policy=delete"
        ),
        format!(
            "--create --topic {state} --partitions 8 --replication-factor 1 --config cleanup.policy=compact"
        ),
    ] {
        assert!(hint.contains(&command), "{command}: {hint}");
    }

    create_topic(servers, topic, 1, &[("retention.ms", "604800000")]).await;
    create_topic(servers, state, 8, &[("cleanup.policy", "compact,delete"), ("min.insync.replicas", "2")])
        .await;
    let error = kafka.check().await.unwrap_err();
    assert_eq!(error.kind, Kind::LayoutChanged, "{error}");
    assert!(error.message.contains("cleanup.policy=compact,delete"), "{error}");
    let hint = error.hint.unwrap();
    for setting in ["cleanup.policy=compact", "min.insync.replicas=1"] {
        let command = format!(
            "kafka-configs.sh --bootstrap-server {servers} --alter --entity-type topics --entity-name {state} --add-config {setting}"
        );
        assert!(hint.contains(&command), "{command}: {hint}");
    }
    // `run` refuses a state that forgets, too.
    let error = Process::new(&config).recover().await.unwrap_err();
    assert_eq!(error.kind, Kind::LayoutChanged, "{error}");
}
