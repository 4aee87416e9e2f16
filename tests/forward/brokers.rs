//! From a real Apache Kafka and a real NATS server.

use std::time::{Duration, Instant};

use amazon_billing_source::event::{Binding, ContentMode, Event, encode};
use async_nats::jetstream;
use futures_util::StreamExt as _;
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    message::{Header, Headers as _, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    broker::Broker,
    endpoint::{Endpoint, answer, assert_complete, by_key, taken},
    eventually,
    home::{Home, events},
    nats::{Server, newest},
};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Key, headers and payload.
type Record = (String, Vec<(String, String)>, Vec<u8>);

/// A topic of a test's own on the broker all share.
struct Topic {
    name: String,
    servers: String,
}

impl Topic {
    fn new(name: &str, partitions: i32) -> Self {
        let servers = Broker::shared().servers();
        let name = format!("forward-{name}-{}", std::process::id());
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &servers).create().unwrap();
        let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        let created = runtime().block_on(admin.create_topics(&[topic], &AdminOptions::new())).unwrap();
        for result in created {
            result.unwrap();
        }
        Self { name, servers }
    }

    /// As the product writes them, by the key.
    fn write(&self, events: &[Event], mode: ContentMode) {
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.servers)
            .set("partitioner", "murmur2_random")
            .create()
            .unwrap();
        runtime().block_on(async {
            let mut sent = Vec::new();
            for event in events {
                let message = encode(event.clone(), Binding::Kafka, mode).unwrap();
                let headers = message.headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
                    all.insert(Header { key, value: Some(value.as_bytes()) })
                });
                let record = FutureRecord::to(&self.name)
                    .key(message.key.as_deref().unwrap())
                    .payload(&message.payload)
                    .headers(headers);
                sent.push(producer.send_result(record).unwrap());
            }
            for delivery in sent {
                delivery.await.unwrap().unwrap();
            }
        });
    }

    /// Every record.
    fn read(&self) -> Vec<Record> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.servers)
            .set("group.id", "reader")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        let limit = Duration::from_secs(20);
        let (low, high) = consumer.fetch_watermarks(&self.name, 0, limit).unwrap();
        let mut at = TopicPartitionList::new();
        at.add_partition_offset(&self.name, 0, Offset::Offset(low)).unwrap();
        consumer.assign(&at).unwrap();
        let deadline = Instant::now() + crate::DEADLINE;
        let mut records = Vec::new();
        while i64::try_from(records.len()).unwrap() < high - low {
            assert!(Instant::now() < deadline);
            let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
            let message = message.unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let headers = message.headers().unwrap().iter();
            records.push((
                text(message.key().unwrap()),
                headers.map(|header| (header.key.to_owned(), text(header.value.unwrap()))).collect(),
                message.payload().unwrap().to_vec(),
            ));
        }
        records
    }

    /// A configuration that reads it.
    fn home(&self) -> Home {
        let home = Home::new();
        let Self { name, servers } = self;
        home.write(
            "billing.toml",
            &format!(
                "[transport]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = \"{servers}\"\n\
                 topic = \"{name}\"\nstate_topic = \"{name}-state\"\n\
                 [kafka.librdkafka]\n\"session.timeout.ms\" = 6000\n"
            ),
        );
        home
    }
}

/// A group's name of a test's own.
fn group(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

#[test]
fn kafka_killed_at_any_moment_nothing_is_lost_and_names_are_apart() {
    let topic = Topic::new("kill", 3);
    topic.write(&events(20, 5), ContentMode::Binary);
    topic.write(&events(20, 10)[100..], ContentMode::Structured);
    let endpoint = Endpoint::start(|_| taken().after(Duration::from_millis(5)));
    let home = topic.home();
    let name = group("kill");
    let args = ["--name", &name, "--endpoint", &endpoint.url()];
    for wanted in [30, 120] {
        let running = home.start(&args);
        eventually("some arrive", || endpoint.taken().len() >= wanted);
        running.kill();
    }
    // The group waits for the dead member's session to end, so a reader with an end would be refused.
    let running = home.start(&args);
    eventually("all arrive", || {
        by_key(&endpoint.taken()).values().filter(|came| came.contains(&10)).count() == 20
    });
    running.signal("TERM");
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    assert_complete(&endpoint.taken(), 20, 10);
    // The position is there, and is this name's alone.
    let before = endpoint.calls().len();
    home.once(&name, &endpoint.url(), &[]);
    assert_eq!(endpoint.calls().len(), before, "nothing is left");
    let other = Endpoint::start(|_| taken());
    home.once(&group("other"), &other.url(), &["--mode", "batch"]);
    assert_eq!(assert_complete(&other.taken(), 20, 10), 0);
}

/// Two processes of one name share the partitions; one ends, the other takes over.
#[test]
fn kafka_processes_of_one_name_share_the_work() {
    let topic = Topic::new("share", 6);
    let endpoint = Endpoint::start(|_| taken().after(Duration::from_millis(3)));
    let home = topic.home();
    let name = group("share");
    let args = ["--name", &name, "--endpoint", &endpoint.url()];
    let one = home.start(&args);
    let two = home.start(&args);
    one.wait_for("forwarding");
    two.wait_for("forwarding");
    topic.write(&events(30, 4), ContentMode::Binary);
    eventually("half arrives", || endpoint.taken().len() >= 60);
    one.signal("TERM");
    assert_eq!(one.end().0, Some(0));
    topic.write(&events(30, 8)[120..], ContentMode::Binary);
    eventually("all arrives", || {
        by_key(&endpoint.taken()).values().filter(|came| came.contains(&8)).count() == 30
    });
    two.signal("TERM");
    assert_eq!(two.end().0, Some(0));
    assert_complete(&endpoint.taken(), 30, 8);
}

#[test]
fn kafka_dead_letters_are_events_in_another_topic() {
    let (topic, dead) = (Topic::new("dlq", 1), Topic::new("dead", 1));
    let written = events(4, 2);
    topic.write(&written, ContentMode::Binary);
    let endpoint =
        Endpoint::start(
            |call| {
                if call.events[0].revision == 2 { answer(422).says("no\nmore") } else { taken() }
            },
        );
    let home = topic.home();
    home.once(&group("dlq"), &endpoint.url(), &["--dead-letter", &format!("topic:{}", dead.name)]);
    let letters = dead.read();
    assert_eq!(letters.len(), 4);
    for (key, headers, payload) in &letters {
        let event: Value = serde_json::from_slice(payload).unwrap();
        assert_eq!((&event["partitionkey"], &event["revision"]), (&json!(key), &json!(2)));
        let header = |name: &str| &headers.iter().find(|(known, _)| known == name).unwrap().1;
        assert_eq!(header("content-type"), "application/cloudevents+json; charset=UTF-8");
        assert_eq!(header("dead-letter-reason"), "it answered 422 Unprocessable Entity: no more");
        assert_eq!((&**header("dead-letter-status"), &**header("dead-letter-attempts")), ("422", "1"));
        assert!(!headers.iter().any(|(name, _)| name.starts_with("ce_")), "structured, for every reader");
    }
    // They can be read as events again.
    let well = Endpoint::start(|_| taken());
    dead.home().once(&group("again"), &well.url(), &[]);
    assert_eq!(well.taken().len(), 4);

    for (target, says) in [
        (topic.name.clone(), "holds this program's own records"),
        ("no-such-topic".to_owned(), "there is no topic `no-such-topic`"),
    ] {
        let target = format!("topic:{target}");
        let ran = home.run(&["--name", "x", "--endpoint", &well.url(), "--dead-letter", &target]);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains(says) && ran.stderr.contains("hint: "), "{}", ran.stderr);
    }
}

/// A stream of a test's own.
struct Stream {
    server: Server,
}

impl Stream {
    fn new() -> Self {
        let server = Server::start(newest());
        runtime().block_on(async {
            let js = server.jetstream().await;
            for (name, subjects) in [("BILLING", "aws.cost.>"), ("DEAD", "dead.>")] {
                let config = jetstream::stream::Config {
                    name: name.to_owned(),
                    subjects: vec![subjects.to_owned()],
                    ..Default::default()
                };
                js.create_stream(config).await.unwrap();
            }
        });
        Self { server }
    }

    fn write(&self, events: &[Event], mode: ContentMode) {
        runtime().block_on(async {
            let js = self.server.jetstream().await;
            let mut sent = Vec::new();
            for event in events {
                let message = encode(event.clone(), Binding::Nats, mode).unwrap();
                let mut headers = async_nats::HeaderMap::new();
                for (name, value) in &message.headers {
                    headers.insert(&**name, value.as_str());
                }
                sent.push(
                    js.publish_with_headers("aws.cost.x", headers, message.payload.into()).await.unwrap(),
                );
            }
            for acknowledgement in sent {
                acknowledgement.await.unwrap();
            }
        });
    }

    fn home(&self) -> Home {
        let home = Home::new();
        home.write(
            "billing.toml",
            &format!(
                "[transport]\nkind = \"nats\"\n[nats]\nservers = [\"{}\"]\nstream = \"BILLING\"\n\
                 subject_prefix = \"aws.cost\"\n",
                self.server.url()
            ),
        );
        home
    }
}

/// What a dead process had in hand comes again before anything that was written since.
#[test]
fn nats_killed_at_any_moment_nothing_is_lost_and_names_are_apart() {
    let stream = Stream::new();
    let all = events(20, 12);
    stream.write(&all[..80], ContentMode::Binary);
    let endpoint = Endpoint::start(|_| taken().after(Duration::from_millis(20)));
    let home = stream.home();
    let args = ["--name", "kill", "--endpoint", &endpoint.url()];
    for (wanted, more) in [(20, &all[80..160]), (90, &all[160..])] {
        let running = home.start(&args);
        eventually("some arrive", || endpoint.taken().len() >= wanted);
        running.kill();
        stream.write(more, ContentMode::Structured);
    }
    let running = home.start(&args);
    eventually("all arrive", || {
        by_key(&endpoint.taken()).values().filter(|came| came.contains(&12)).count() == 20
    });
    running.signal("TERM");
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    assert_complete(&endpoint.taken(), 20, 12);
    let before = endpoint.calls().len();
    home.once("kill", &endpoint.url(), &[]);
    assert_eq!(endpoint.calls().len(), before, "nothing is left");
    let other = Endpoint::start(|_| taken());
    home.once("other", &other.url(), &["--mode", "batch"]);
    assert_eq!(assert_complete(&other.taken(), 20, 12), 0);
}

#[test]
fn nats_dead_letters_are_events_on_another_subject() {
    let stream = Stream::new();
    stream.write(&events(4, 2), ContentMode::Structured);
    let endpoint =
        Endpoint::start(
            |call| {
                if call.events[0].revision == 2 { answer(422).says("no\nmore") } else { taken() }
            },
        );
    let home = stream.home();
    home.once("dlq", &endpoint.url(), &["--dead-letter", "subject:dead.billing"]);
    let letters = runtime().block_on(async {
        let js = stream.server.jetstream().await;
        let stream = js.get_stream("DEAD").await.unwrap();
        let consumer =
            stream.create_consumer(jetstream::consumer::pull::OrderedConfig::default()).await.unwrap();
        let mut messages = consumer.messages().await.unwrap();
        let mut letters = Vec::new();
        while letters.len() < 4 {
            letters.push(messages.next().await.unwrap().unwrap());
        }
        letters
    });
    for letter in &letters {
        let event: Value = serde_json::from_slice(&letter.payload).unwrap();
        assert_eq!(event["revision"], 2);
        let headers = letter.headers.as_ref().unwrap();
        let header = |name: &str| headers.get(name).unwrap().as_str();
        assert_eq!(&*letter.subject, "dead.billing");
        assert_eq!(header("Content-Type"), "application/cloudevents+json");
        assert_eq!(header("dead-letter-reason"), "it answered 422 Unprocessable Entity: no more");
        assert_eq!(header("Nats-Msg-Id"), format!("dlq/{}", event["id"].as_str().unwrap()));
    }
    for (target, says) in [
        ("subject:aws.cost.dead", "it lies among the events"),
        ("subject:nobody.takes.it", "no stream takes subject `nobody.takes.it`"),
        ("subject:a.*", "is no subject to publish on"),
        ("topic:dead", "dead letters cannot go to a topic here"),
    ] {
        let ran = home.run(&["--name", "x", "--endpoint", &endpoint.url(), "--dead-letter", target]);
        assert_eq!(ran.code, Some(1), "{target}: {}", ran.stderr);
        assert!(ran.stderr.contains(says) && ran.stderr.contains("hint: "), "{}", ran.stderr);
    }
}

/// Where dead letters go may be away for a while: they are kept until it is back.
#[test]
fn nats_dead_letters_wait_for_their_stream() {
    let stream = Stream::new();
    stream.write(&events(3, 1), ContentMode::Structured);
    // Refused once the stream is gone, and asked to wait until then.
    let gone = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let refuses = std::sync::Arc::clone(&gone);
    let endpoint = Endpoint::start(move |_| {
        answer(if refuses.load(std::sync::atomic::Ordering::SeqCst) { 422 } else { 503 })
    });
    let home = stream.home();
    let running =
        home.start(&["--name", "w", "--endpoint", &endpoint.url(), "--dead-letter", "subject:dead.billing"]);
    eventually("it is asked", || !endpoint.calls().is_empty());
    runtime().block_on(async {
        stream.server.jetstream().await.delete_stream("DEAD").await.unwrap();
    });
    gone.store(true, std::sync::atomic::Ordering::SeqCst);
    let is_refused =
        || endpoint.calls().iter().any(|call| call.answered.is_some_and(|(_, status)| status == 422));
    eventually("one is refused", is_refused);
    // Time for its letter, which nobody takes.
    std::thread::park_timeout(Duration::from_secs(4));
    let letters = runtime().block_on(async {
        let js = stream.server.jetstream().await;
        let config = jetstream::stream::Config {
            name: "DEAD".to_owned(),
            subjects: vec!["dead.>".to_owned()],
            ..Default::default()
        };
        js.create_stream(config).await.unwrap();
        let deadline = Instant::now() + crate::DEADLINE;
        loop {
            let letters = js.get_stream("DEAD").await.unwrap().cached_info().state.messages;
            if letters == 3 || Instant::now() > deadline {
                break letters;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    running.signal("TERM");
    let (code, said) = running.end();
    assert_eq!((code, letters), (Some(0), 3), "{said}");
    assert!(said.contains("a dead letter is not written yet"), "{said}");
}

/// The broker goes away and comes back; the endpoint notices nothing but a pause.
#[test]
fn nats_a_server_that_comes_back_is_gone_on_with() {
    let mut stream = Stream::new();
    let endpoint = Endpoint::start(|_| taken().after(Duration::from_millis(2)));
    stream.write(&events(10, 3), ContentMode::Binary);
    let home = stream.home();
    let running = home.start(&["--name", "back", "--endpoint", &endpoint.url()]);
    eventually("what was there arrives", || endpoint.taken().len() >= 30);
    stream.server.kill();
    stream.server.restart();
    stream.write(&events(10, 6)[30..], ContentMode::Binary);
    eventually("what came arrives", || {
        by_key(&endpoint.taken()).values().filter(|came| came.contains(&6)).count() == 10
    });
    running.signal("TERM");
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    assert_complete(&endpoint.taken(), 10, 6);
    home.once("back", &endpoint.url(), &[]);
}

/// A broker that is not there is said at once.
#[test]
fn a_broker_that_is_not_there_is_exit_69() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let home = Home::new();
    for toml in [
        format!("[transport]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = \"127.0.0.1:{port}\"\n"),
        format!("[transport]\nkind = \"nats\"\n[nats]\nservers = [\"nats://127.0.0.1:{port}\"]\n"),
    ] {
        home.write("billing.toml", &toml);
        let ran = home.run(&["--name", "x", "--endpoint", "http://127.0.0.1:1/"]);
        assert_eq!(ran.code, Some(69), "{}", ran.stderr);
        assert!(ran.stderr.contains("error: could not") && ran.stderr.contains("hint: "), "{}", ran.stderr);
    }
}
