//! Every SDK against every transport and mode: the events are read unchanged.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use amazon_billing_source::{
    config::{KafkaConfig, NatsConfig},
    event::{Binding, ContentMode, Event, WireMessage, encode, structured_json},
    transport::{kafka::Kafka, nats::Nats},
};
use async_nats::jetstream;
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer as _},
};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    broker::Broker,
    kafka,
    nats::{self, Server},
    setup, story,
    story::differences,
};

/// What `kafka_sarama` adds of its own.
const GO_KAFKA: [&str; 3] = ["kafkaoffset", "kafkapartition", "kafkatopic"];

const CONTENT_TYPE: (&str, &str) = ("Content-Type", "application/cloudevents+json");

/// Events of a transaction that was aborted, some in each partition.
const ABORTED: usize = 32;

/// A topic with the story in it.
struct Topic {
    servers: String,
    name: String,
    told: Vec<Value>,
}

/// The story in this mode, told once for all readers.
fn topic(mode: ContentMode) -> &'static Topic {
    static TOPICS: [OnceLock<Topic>; 2] = [OnceLock::new(), OnceLock::new()];
    TOPICS[mode as usize].get_or_init(|| {
        let name = format!("story-{mode:?}").to_lowercase();
        let config = KafkaConfig { content_mode: mode, ..kafka::config(Broker::shared(), &name) };
        let told = Runtime::new().unwrap().block_on(async {
            kafka::create_topic(&config.bootstrap_servers, &config.topic, 3, &[]).await;
            abort_a_transaction(&config).await;
            story::publish(&Kafka::connect(&config).unwrap()).await
        });
        let all = kafka::consume(&config.bootstrap_servers, &config.topic, "read_uncommitted");
        assert_eq!(all.len(), told.len() + ABORTED, "the rival's events are there to be stumbled over");
        Topic { servers: config.bootstrap_servers, name: config.topic, told }
    })
}

/// A rival that did not come to its end, before the story begins: who reads uncommitted reads it first.
async fn abort_a_transaction(config: &KafkaConfig) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &config.bootstrap_servers)
        .set("transactional.id", format!("{}-rival", config.topic))
        .create()
        .unwrap();
    let wait = Duration::from_secs(30);
    producer.init_transactions(wait).unwrap();
    producer.begin_transaction().unwrap();
    for number in 0..ABORTED {
        let key = format!("aborted-{number}");
        let record = FutureRecord::to(&config.topic).key(&key).payload("{}").headers(
            [("ce_specversion", "1.0"), ("ce_id", &*key), ("ce_source", "s"), ("ce_type", "t")]
                .into_iter()
                .fold(OwnedHeaders::new(), |all, (key, value)| {
                    all.insert(Header { key, value: Some(value) })
                }),
        );
        producer.send(record, wait).await.unwrap();
    }
    producer.abort_transaction(wait).unwrap();
}

/// What a reader prints; a reader that fails is shown with its reason.
fn read(mut command: Command, arguments: [&str; 4]) -> Result<String, String> {
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    if output.status.success() {
        Ok(printed)
    } else {
        Err(format!("{command:?}\n{printed}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

fn readers(kind: &str) -> Vec<(&'static str, Command)> {
    let mut readers = vec![
        ("python", setup::python("tests/foreign/readers/python/reader.py")),
        ("javascript", setup::javascript("javascript-reader/reader.js")),
        ("go", setup::go("go-reader")),
    ];
    if kind == "kafka" {
        readers.push(("java", setup::java("java-reader", "tests/foreign/readers/java/Reader.java")));
    }
    readers
}

fn reader(language: &str) -> Command {
    readers("kafka").into_iter().find(|(name, _)| *name == language).unwrap().1
}

fn assert_reads_kafka(language: &str, additions: &[&str]) {
    for mode in [ContentMode::Binary, ContentMode::Structured] {
        let Topic { servers, name, told } = topic(mode);
        let printed = read(reader(language), ["kafka", servers, name, &told.len().to_string()]).unwrap();
        let additions = if mode == ContentMode::Binary { additions } else { &[] };
        assert_eq!(differences(told, &printed, mode, additions), [""; 0], "{language}, {mode:?}");
    }
}

#[test]
fn python_reads_kafka_in_both_modes() {
    assert_reads_kafka("python", &[]);
}

#[test]
fn javascript_reads_kafka_in_both_modes() {
    assert_reads_kafka("javascript", &[]);
}

#[test]
fn go_reads_kafka_in_both_modes() {
    assert_reads_kafka("go", &GO_KAFKA);
}

#[test]
fn java_reads_kafka_in_both_modes() {
    assert_reads_kafka("java", &[]);
}

/// A server of the newest version with the story in it.
async fn stream(mode: ContentMode) -> (Server, Vec<Value>) {
    let server = Server::start(nats::newest());
    let config = NatsConfig { content_mode: mode, ..server.config() };
    let told = story::publish(&Nats::new(config)).await;
    (server, told)
}

async fn assert_reads_nats(language: &str) {
    for mode in [ContentMode::Binary, ContentMode::Structured] {
        let (server, told) = stream(mode).await;
        let printed =
            read(reader(language), ["nats", &server.url(), "BILLING", &told.len().to_string()]).unwrap();
        assert_eq!(differences(&told, &printed, mode, &[]), [""; 0], "{language}, {mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn python_reads_nats_in_both_modes() {
    assert_reads_nats("python").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_reads_nats_in_both_modes() {
    assert_reads_nats("javascript").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn go_reads_nats_in_both_modes() {
    assert_reads_nats("go").await;
}

/// One event, as the factory makes it.
fn event(service: &str) -> (Event, Value) {
    let event = nats::factory().event(&kafka::change(service, 1), &BTreeMap::new());
    let json = structured_json(event.clone()).unwrap();
    (event, serde_json::from_slice(&json).unwrap())
}

/// The control: what the comparison would miss, the tests above would miss.
#[test]
fn no_difference_goes_unseen() {
    let (_, told) = event("Euro € 😀");
    let mut attributes = told.as_object().unwrap().clone();
    let data = attributes.remove("data").unwrap();
    let good = serde_json::json!({"attributes": attributes, "data": data});
    let line = |read: &Value| format!("{read}\n");
    let told = [told];
    let judge = |printed: &str, mode| differences(&told, printed, mode, &["addition"]);
    assert_eq!(judge(&line(&good), ContentMode::Structured), [""; 0]);
    assert_eq!(judge(&line(&good), ContentMode::Binary).len(), 1, "the revision is no text");
    assert_eq!(judge("", ContentMode::Structured).len(), 1);
    assert!(!judge(&line(&good).repeat(2), ContentMode::Structured).is_empty());
    let mut same = good.clone();
    same["attributes"]["addition"] = "x".into();
    same["attributes"]["time"] = "2026-03-02T01:00:00.000+01:00".into();
    assert_eq!(judge(&line(&same), ContentMode::Structured), [""; 0], "an instant is an instant");
    let names: Vec<String> = attributes.keys().cloned().collect();
    assert_eq!(names.len(), 11);
    for name in &names {
        for value in [Value::Null, "other".into(), 7.into()] {
            let mut bad = good.clone();
            bad["attributes"][name] = value;
            assert!(!judge(&line(&bad), ContentMode::Structured).is_empty(), "{name}");
        }
    }
    for (pointer, value) in [
        ("/data/unblendedCost/amount", "1.0".into()),
        ("/data/unblendedCost/amount", Value::from(1)),
        ("/data/service", "Euro € ?".into()),
        ("/data/estimated", "true".into()),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        assert!(!judge(&line(&bad), ContentMode::Structured).is_empty(), "{pointer}");
    }
    let mut more = good;
    more["attributes"]["kafkaoffset"] = "0".into();
    assert_eq!(judge(&line(&more), ContentMode::Structured).len(), 1);
}

/// Why a structured record carries nothing but its content type: Python's SDK takes any `ce_` header for
/// binary mode.
#[test]
fn a_stray_header_on_kafka_is_misread() {
    let (event, told) = event("Euro € 😀");
    let mut message = encode(event, Binding::Kafka, ContentMode::Structured).unwrap();
    message.headers.push(("ce_id".into(), "1".to_owned()));
    let config = kafka::config(Broker::shared(), "stray");
    Runtime::new().unwrap().block_on(produce(&config, &message));
    let arguments = ["kafka", &config.bootstrap_servers, &config.topic, "1"];
    let printed = read(reader("python"), arguments).unwrap_or_default();
    assert_ne!(differences(&[told], &printed, ContentMode::Structured, &[]), [""; 0]);
}

async fn produce(config: &KafkaConfig, message: &WireMessage) {
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", &config.bootstrap_servers).create().unwrap();
    let headers = message
        .headers
        .iter()
        .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
    let key = message.key.as_deref().unwrap();
    let record = FutureRecord::to(&config.topic).key(key).payload(&message.payload).headers(headers);
    producer.send(record, Duration::from_secs(30)).await.unwrap();
}

/// Why a structured message carries `Content-Type`, and nothing that begins with `ce-`: without the one it
/// is no event for who keeps to the binding, with the other Go's SDK takes its envelope for the data.
#[tokio::test(flavor = "multi_thread")]
async fn missing_and_stray_headers_on_nats_are_misread() {
    let (event, told) = event("Euro € 😀");
    let structured = |event| encode(event, Binding::Nats, ContentMode::Structured).unwrap().payload;
    // The first message is spoiled, the second one is not: by it a reader is known to have seen the first.
    let payloads = [structured(event), structured(self::event("Tax").0)];
    let spoil = async |language: &str, headers: &[(&str, &str)]| {
        let server = Server::start(nats::newest());
        let js = server.jetstream().await;
        let stream = jetstream::stream::Config {
            name: "BILLING".to_owned(),
            subjects: vec!["aws.cost.>".to_owned()],
            ..Default::default()
        };
        js.create_stream(stream).await.unwrap();
        for (payload, headers) in payloads.iter().zip([headers, &[CONTENT_TYPE]]) {
            let mut map = async_nats::HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, *value);
            }
            let sent = js.publish_with_headers("aws.cost.x", map, payload.clone().into()).await.unwrap();
            sent.await.unwrap();
        }
        let printed = read(reader(language), ["nats", &server.url(), "BILLING", "1"]);
        let read = printed.as_deref().unwrap_or_default();
        let found = differences(std::slice::from_ref(&told), read, ContentMode::Structured, &[]);
        (printed, found)
    };
    for (language, _) in readers("nats") {
        let (_, found) = spoil(language, &[CONTENT_TYPE]).await;
        assert_eq!(found, [""; 0], "{language} reads the message as it should be");
    }
    for language in ["python", "javascript"] {
        let (printed, found) = spoil(language, &[]).await;
        assert!(printed.unwrap_err().contains("no CloudEvent"));
        assert_ne!(found, [""; 0]);
    }
    let (printed, found) = spoil("go", &[CONTENT_TYPE, ("ce-specversion", "1.0")]).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(printed.unwrap().contains("/tax"), "the first one is passed over");
}
