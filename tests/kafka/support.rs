//! Topics, changes and readers for the tests.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use amazon_billing_source::{
    config::{DeliveryMode, KafkaConfig, KafkaLogin, LostState},
    cost::{Amount, CostKey, CostMetric, Period, Scope},
    dedup::{Change, ChangeKind, ConnectionState, Ledger},
    event::{Binding, ContentMode, EventFactory, WireMessage, decode, structured_json},
    transport::{Batch, Outgoing, Transport as _, TransportError, TransportErrorKind as Kind, kafka::Kafka},
};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    message::Headers as _,
};
use serde_json::Value;

use crate::broker::Broker;

/// A configuration with topics of its own, created when first used.
pub fn config(broker: &Broker, name: &str) -> KafkaConfig {
    config_of(&broker.servers(), name)
}

/// The same, for brokers of another kind.
pub fn config_of(servers: &str, name: &str) -> KafkaConfig {
    let topic = format!("{name}-{}", std::process::id());
    KafkaConfig {
        bootstrap_servers: servers.to_owned(),
        state_topic: format!("{topic}-state"),
        topic,
        content_mode: ContentMode::Binary,
        delivery: DeliveryMode::ExactlyOnce,
        create_topics: true,
        state_partitions: 8,
        on_lost_state: LostState::Refuse,
        login: KafkaLogin::Librdkafka,
        librdkafka: BTreeMap::new(),
    }
}

pub fn scope() -> Scope {
    scope_of("111122223333")
}

pub fn scope_of(account: &str) -> Scope {
    Scope {
        source: "cloud.amazon.billing".to_owned(),
        account: account.to_owned(),
        group_by: None,
        filter: None,
    }
}

pub fn change(service: &str, revision: u32) -> Change<'_> {
    let amounts = |text: String| {
        [(CostMetric::UnblendedCost, Amount::parse(text, "USD".to_owned()).unwrap())].into_iter().collect()
    };
    Change {
        key: CostKey { period: Period::from_label("2026-03-01").unwrap(), service, group: None },
        kind: if revision == 1 { ChangeKind::New } else { ChangeKind::Revised },
        revision,
        amounts: std::borrow::Cow::Owned(amounts(revision.to_string())),
        estimated: true,
        observed_at: "2026-03-02T00:00:00Z".parse().unwrap(),
        previous: (revision > 1).then(|| (amounts((revision - 1).to_string()), true)),
    }
}

/// A process: a transport and the ledger of one scope.
pub struct Process {
    pub kafka: Kafka,
    pub ledger: Ledger,
    pub state: ConnectionState,
    scope: Scope,
}

impl Process {
    pub fn new(config: &KafkaConfig) -> Self {
        Self::of(Kafka::connect(config).unwrap(), scope())
    }

    pub fn of(kafka: Kafka, scope: Scope) -> Self {
        Self { kafka, ledger: Ledger::new(), state: ConnectionState::default(), scope }
    }

    pub async fn recover(&mut self) -> Result<(), TransportError> {
        self.state = self.kafka.recover(&self.scope.id(), &mut self.ledger).await?;
        Ok(())
    }

    pub fn batch(&self, changes: &[Change<'_>]) -> Batch {
        let factory = EventFactory::new(self.scope.clone(), "amazon.billing");
        Batch {
            scope: self.scope.id(),
            recovered_to: self.ledger.recovered_to(),
            events: changes.iter().map(|change| Outgoing::of(&factory, change, &BTreeMap::new())).collect(),
            connection: ConnectionState { name: "main".to_owned(), ..self.state.clone() },
        }
    }

    /// As a cycle does it: what is stored moves the ledger.
    pub async fn publish(
        &mut self,
        changes: &[Change<'_>],
    ) -> Result<Vec<amazon_billing_source::transport::Delivery>, TransportError> {
        let deliveries = self.kafka.publish(self.batch(changes)).await?;
        for (change, delivery) in changes.iter().zip(&deliveries) {
            if let amazon_billing_source::transport::Delivery::Stored(end) = delivery {
                self.ledger.apply(&change.key, &change.statement());
                self.ledger.set_recovered_to(*end);
            }
        }
        Ok(deliveries)
    }
}

/// Publishes a revision of a row as the policy of a cycle does: whatever may pass is recovered from and
/// decided again. Returns the errors on the way, and what was published.
pub async fn surely(process: &mut Process, service: &str, revision: u32) -> (Vec<TransportError>, bool) {
    let deadline = Instant::now() + Duration::from_mins(3);
    let mut errors = Vec::new();
    let passing = |error: &TransportError| {
        matches!(error.kind, Kind::Unavailable | Kind::Conflict | Kind::Unknown | Kind::Regressed)
    };
    loop {
        assert!(Instant::now() < deadline, "revision {revision} is not published: {errors:?}");
        if let Err(error) = process.recover().await {
            assert!(passing(&error), "{:?} {error}", error.kind);
            process.ledger.clear();
            errors.push(error);
            continue;
        }
        let known = process.ledger.previous(&change(service, 1).key).map_or(0, |known| known.revision());
        if known >= revision {
            assert_eq!(known, revision);
            return (errors, false);
        }
        assert_eq!(known + 1, revision);
        match process.publish(&[change(service, revision)]).await {
            Ok(_) => return (errors, true),
            Err(error) => {
                assert!(passing(&error), "{:?} {error}", error.kind);
                process.ledger.clear();
                errors.push(error);
            }
        }
    }
}

/// A record as a consumer gets it.
#[derive(Debug)]
pub struct Record {
    pub key: String,
    pub headers: BTreeMap<String, String>,
    pub payload: Vec<u8>,
    /// The event in the JSON format.
    pub event: Value,
}

impl Record {
    pub fn revision(&self) -> u64 {
        let revision = &self.event["revision"];
        revision.as_u64().unwrap_or_else(|| revision.as_str().unwrap().parse().unwrap())
    }
}

/// A commit is acknowledged before its markers are everywhere; what is undecided for longer is open.
const MARKERS: Duration = Duration::from_secs(2);

/// Everything a consumer of this isolation level reads of a topic now, in the order of each partition.
pub fn consume(servers: &str, topic: &str, isolation: &str) -> Vec<Record> {
    // Its ends are those of everything written, decided or not.
    let everything: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("isolation.level", "read_uncommitted")
        .create()
        .unwrap();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "test")
        .set("isolation.level", isolation)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "50")
        .create()
        .unwrap();
    let limit = Duration::from_secs(10);
    let metadata = consumer.fetch_metadata(Some(topic), limit).unwrap();
    let partitions: Vec<_> =
        metadata.topics()[0].partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
    let mut records = Vec::new();
    for partition in partitions {
        let (low, end) = everything.fetch_watermarks(topic, partition, limit).unwrap();
        if low == end {
            continue;
        }
        let mut at = TopicPartitionList::new();
        at.add_partition_offset(topic, partition, Offset::Offset(low)).unwrap();
        consumer.assign(&at).unwrap();
        let deadline = Instant::now() + Duration::from_mins(1);
        let mut progress = Instant::now();
        loop {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) {
                records.push(record(&message));
                progress = Instant::now();
            }
            let position = consumer.position().unwrap();
            let offset = position.find_partition(topic, partition).unwrap().offset().to_raw().unwrap();
            if offset >= end {
                break;
            }
            if progress.elapsed() > MARKERS {
                // Of this isolation level.
                let (_, end) = consumer.fetch_watermarks(topic, partition, limit).unwrap();
                if offset >= end {
                    break;
                }
            }
            assert!(Instant::now() < deadline, "{topic}/{partition} stands at {offset} of {end}");
        }
        consumer.unassign().unwrap();
    }
    records
}

fn record(message: &rdkafka::message::BorrowedMessage<'_>) -> Record {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let headers: BTreeMap<_, _> = message
        .headers()
        .map(|headers| {
            headers.iter().map(|h| (h.key.to_owned(), text(h.value.unwrap_or_default()))).collect()
        })
        .unwrap_or_default();
    let payload = message.payload().unwrap_or_default().to_vec();
    let wire = WireMessage {
        key: None,
        headers: headers.iter().map(|(name, value)| (name.clone().into(), value.clone())).collect(),
        payload: payload.clone(),
    };
    let event = decode(wire, Binding::Kafka)
        .map(|event| serde_json::from_slice(&structured_json(event).unwrap()).unwrap())
        .unwrap_or_default();
    Record { key: text(message.key().unwrap_or_default()), headers, payload, event }
}

/// What is wrong with the events of a topic: per key the revisions are 1, 2, 3, ..., no two neighbours
/// state the same, and no id occurs twice.
pub fn violations(records: &[Record]) -> Vec<String> {
    let mut found = Vec::new();
    let mut keys: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    let mut ids = std::collections::BTreeSet::new();
    for record in records {
        keys.entry(&record.key).or_default().push(record);
        if !ids.insert(record.event["id"].as_str().unwrap()) {
            found.push(format!("{} has the id of another event", record.key));
        }
    }
    for (key, records) in keys {
        for (index, record) in records.iter().enumerate() {
            if record.revision() != index as u64 + 1 {
                found.push(format!("{key}: revision {} comes as number {}", record.revision(), index + 1));
            }
        }
        for pair in records.windows(2) {
            // All that is stated, every metric and the estimated flag.
            let figures = |record: &Record| {
                let mut data = record.event["data"].clone();
                data.as_object_mut().unwrap().remove("previous");
                (data, record.event["change"] == "removed")
            };
            let previous = &pair[1].event["data"]["previous"];
            if previous["unblendedCost"] != pair[0].event["data"]["unblendedCost"] {
                found.push(format!("{key}: revision {} follows another one", pair[1].revision()));
            }
            if figures(pair[0]) == figures(pair[1]) {
                found.push(format!("{key}: revision {} states nothing new", pair[1].revision()));
            }
        }
    }
    found
}

pub fn admin(servers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", servers).create().unwrap()
}

pub async fn create_topic(servers: &str, name: &str, partitions: i32, settings: &[(&str, &str)]) {
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
    let created = admin(servers).create_topics(&[topic], &AdminOptions::new()).await.unwrap();
    for result in created {
        result.unwrap();
    }
    wait_for_topic(servers, name, true);
}

pub async fn delete_topic(servers: &str, name: &str) {
    let deleted = admin(servers).delete_topics(&[name], &AdminOptions::new()).await.unwrap();
    for result in deleted {
        result.unwrap();
    }
    wait_for_topic(servers, name, false);
}

fn wait_for_topic(servers: &str, name: &str, there: bool) {
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", servers).create().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let metadata = client.fetch_metadata(Some(name), Duration::from_secs(5)).unwrap();
        let topic = &metadata.topics()[0];
        if (topic.error().is_none() && !topic.partitions().is_empty()) == there {
            return;
        }
        assert!(Instant::now() < deadline, "topic {name}");
        crate::pause(Duration::from_millis(50));
    }
}
