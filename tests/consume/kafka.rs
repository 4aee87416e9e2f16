//! A topic of a real Apache Kafka, with the real binary.

use std::{collections::BTreeSet, time::Duration};

use amazon_billing_source::event::{Binding, ContentMode, Event, encode};
use rdkafka::{
    ClientConfig,
    admin::AdminOptions,
    consumer::{BaseConsumer, Consumer as _},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer as _},
};

use crate::{
    broker::Broker,
    support::{Home, events, id, line},
    topics::{admin, create_topic},
};

const LIMIT: Duration = Duration::from_secs(30);

/// A topic of the test's own and a folder with a configuration that names it.
struct Topic {
    name: String,
    servers: String,
    home: Home,
}

impl Topic {
    async fn new(name: &str, partitions: i32) -> Self {
        Self::on(Broker::shared(), name, partitions).await
    }

    async fn on(broker: &Broker, name: &str, partitions: i32) -> Self {
        let name = format!("read-{name}-{}", std::process::id());
        let servers = broker.servers();
        create_topic(&servers, &name, partitions, &[]).await;
        Self::over(&servers, &name)
    }

    /// One that is there.
    fn over(servers: &str, name: &str) -> Self {
        let home = Home::new();
        home.write(
            "billing.toml",
            &format!(
                "[transport]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = \"{servers}\"\ntopic = \"{name}\"\n\
                 state_topic = \"{name}-state\"\n"
            ),
        );
        Self { name: name.to_owned(), servers: servers.to_owned(), home }
    }

    fn producer(&self, transactional: Option<&str>) -> FutureProducer {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.servers)
            .set("linger.ms", "5")
            .set("partitioner", "murmur2_random");
        if let Some(id) = transactional {
            config.set("transactional.id", id);
        }
        let producer: FutureProducer = config.create().unwrap();
        if transactional.is_some() {
            producer.init_transactions(LIMIT).unwrap();
        }
        producer
    }

    async fn publish(&self, events: &[Event], mode: ContentMode) {
        self.publish_with(&self.producer(None), events, mode).await;
    }

    async fn publish_with(&self, producer: &FutureProducer, events: &[Event], mode: ContentMode) {
        let mut sent = Vec::new();
        for event in events {
            let message = encode(event.clone(), Binding::Kafka, mode).unwrap();
            let headers = message.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: Some(value) })
            });
            let key = message.key.unwrap();
            let record = FutureRecord::to(&self.name).key(&key).payload(&message.payload).headers(headers);
            sent.push(producer.send_result(record).map_err(|(e, _)| e).unwrap());
        }
        for delivery in sent {
            delivery.await.unwrap().map_err(|(e, _)| e).unwrap();
        }
    }

    async fn publish_raw(&self, payload: Option<&[u8]>) {
        let mut record = FutureRecord::<[u8], [u8]>::to(&self.name).partition(0).key(b"x");
        record.payload = payload;
        self.producer(None).send(record, LIMIT).await.map_err(|(e, _)| e).unwrap();
    }

    /// What a group has committed, partition by partition.
    fn committed(&self, group: &str) -> Vec<Option<i64>> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.servers)
            .set("group.id", group)
            .create()
            .unwrap();
        let metadata = consumer.fetch_metadata(Some(&self.name), LIMIT).unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            list.add_partition(&self.name, partition.id());
        }
        let committed = consumer.committed_offsets(list, LIMIT).unwrap();
        let offset =
            |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
                rdkafka::Offset::Offset(offset) => Some(offset),
                _ => None,
            };
        committed.elements().iter().map(offset).collect()
    }
}

fn sorted(lines: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
    let mut lines: Vec<String> = lines.into_iter().map(Into::into).collect();
    lines.sort();
    lines
}

fn lines(events: &[Event]) -> Vec<String> {
    events.iter().cloned().map(line).collect()
}

#[tokio::test]
async fn both_modes_are_replayed_as_the_lines_a_file_would_hold() {
    let topic = Topic::new("modes", 3).await;
    let all = events(60);
    topic.publish(&all[..30], ContentMode::Binary).await;
    topic.publish(&all[30..], ContentMode::Structured).await;
    let ran = topic.home.run(&["replay"]).fine();
    assert_eq!(sorted(ran.lines()), sorted(lines(&all)));
    // Within a partition, so within a key, in the order of publication.
    for partition in 0..3 {
        let ran = topic.home.run(&["replay", "--partition", &partition.to_string()]).fine();
        let shown = ran.lines();
        let expected: Vec<_> = lines(&all).into_iter().filter(|line| shown.contains(&&**line)).collect();
        assert_eq!(shown, expected);
    }
    let ran = topic.home.run(&["replay", "--service", "AWS Lambda", "--change", "new"]).fine();
    let expected: Vec<_> = lines(&all)
        .into_iter()
        .filter(|line| line.contains("AWS Lambda") && line.contains(r#""change":"new""#))
        .collect();
    assert_eq!(sorted(ran.lines()), sorted(expected));
    let home = Home::local(&lines(&all));
    for flags in [&["replay", "--current"][..], &["replay", "--current", "--by", "day"]] {
        assert_eq!(topic.home.run(flags).fine().stdout, home.run(flags).fine().stdout, "{flags:?}");
    }
}

#[tokio::test]
async fn what_was_aborted_was_never_there() {
    let topic = Topic::new("aborted", 1).await;
    let all = events(9);
    let producer = topic.producer(Some(&format!("{}-writer", topic.name)));
    for (range, commit) in [(0..3, true), (3..6, false), (6..9, true), (0..3, false)] {
        producer.begin_transaction().unwrap();
        topic.publish_with(&producer, &all[range], ContentMode::Binary).await;
        if commit {
            producer.commit_transaction(LIMIT).unwrap();
        } else {
            producer.abort_transaction(LIMIT).unwrap();
        }
    }
    let expected = lines(&[&all[..3], &all[6..]].concat());
    let ran = topic.home.run(&["replay"]).fine();
    assert_eq!(ran.lines(), expected);
    // An open transaction holds nobody up: its end is not part of the end that was proven.
    producer.begin_transaction().unwrap();
    topic.publish_with(&producer, &all[3..4], ContentMode::Binary).await;
    assert_eq!(topic.home.run(&["replay"]).fine().lines(), expected);
    let running = topic.home.start(&["tail", "--from-beginning"]);
    running.wait_for(expected.len());
    producer.commit_transaction(LIMIT).unwrap();
    let seen = running.wait_for(expected.len() + 1);
    assert_eq!(seen.last(), lines(&all[3..4]).last());
    let ran = running.interrupt();
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn reading_begins_and_ends_where_it_is_told() {
    let topic = Topic::new("where", 2).await;
    let all = events(40);
    topic.publish(&all[..20], ContentMode::Binary).await;
    crate::pause(Duration::from_millis(20));
    let between = jiff::Timestamp::from_millisecond(now()).unwrap().to_string();
    crate::pause(Duration::from_millis(20));
    topic.publish(&all[20..], ContentMode::Binary).await;

    let late = topic.home.run(&["replay", "--since", &between]).fine();
    assert_eq!(sorted(late.lines()), sorted(lines(&all[20..])));
    let early = topic.home.run(&["replay", "--until", &between]).fine();
    assert_eq!(sorted(early.lines()), sorted(lines(&all[..20])));

    let whole = topic.home.run(&["replay", "--partition", "1"]).fine();
    let from = topic.home.run(&["replay", "--partition", "1", "--from-position", "4"]).fine();
    assert_eq!(from.lines(), whole.lines()[4..]);
    let end = whole.lines().len();
    let none = topic.home.run(&["replay", "--partition", "1", "--from-position", &end.to_string()]).fine();
    assert_eq!(none.stdout, "");

    for (flags, expected) in [
        (&["--from-position", "4"][..], "has 2 partitions, each with offsets of its own"),
        (&["--partition", "7"], "has no partition 7: they are 0 to 1"),
        (&["--partition", "1", "--from-position", "5000"], "offset 5000 is not in"),
    ] {
        let ran = topic.home.run(&[&["replay"], flags].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    }
}

fn now() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

#[tokio::test]
async fn what_is_no_event_is_left_out_counted_and_shown_when_asked() {
    let topic = Topic::new("foreign", 1).await;
    let all = events(2);
    topic.publish(&all[..1], ContentMode::Binary).await;
    topic.publish_raw(Some(b"hello")).await;
    topic.publish_raw(None).await;
    topic.publish(&all[1..], ContentMode::Structured).await;
    let ran = topic.home.run(&["replay"]).fine();
    assert_eq!(ran.lines(), lines(&all));
    assert!(
        ran.stderr.contains("partition=0 position=1") && ran.stderr.contains("messages=2"),
        "{}",
        ran.stderr
    );
    let ran = topic.home.run(&["replay", "--all"]).fine();
    let shown = ran.lines();
    assert!(shown[1].contains(r#""reason":"it is no CloudEvent","text":"hello""#), "{}", shown[1]);
    assert!(shown[2].contains("tombstone"), "{}", shown[2]);
    assert_eq!(shown.len(), 4);
}

#[tokio::test]
async fn a_missing_topic_and_a_missing_broker_are_said() {
    let topic = Topic::new("missing", 1).await;
    let file = topic.home.path("billing.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&format!("\"{}\"", topic.name), "\"no-such-topic\"")).unwrap();
    let ran = topic.home.run(&["replay"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("there is no topic `no-such-topic`"), "{}", ran.stderr);
    std::fs::write(&file, text.replace(&topic.servers, "127.0.0.1:9")).unwrap();
    let ran = topic.home.run(&["replay"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(69), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("is the broker up"), "{}", ran.stderr);
}

#[tokio::test]
async fn only_a_name_moves_a_position() {
    let topic = Topic::new("names", 2).await;
    let all = events(30);
    topic.publish(&all[..20], ContentMode::Binary).await;
    topic.home.run(&["replay"]).fine();
    topic.home.run(&["replay", "--limit", "3"]).fine();
    assert_eq!(topic.committed("amazon-billing-source"), [None, None]);

    let group = format!("{}-alerts", topic.name);
    let first = topic.home.run(&["replay", "--name", &group]).fine();
    assert_eq!(sorted(first.lines()), sorted(lines(&all[..20])));
    assert_eq!(topic.committed(&group).into_iter().flatten().sum::<i64>(), 20);
    assert_eq!(topic.home.run(&["replay", "--name", &group]).fine().stdout, "");
    topic.publish(&all[20..], ContentMode::Binary).await;
    let one = topic.home.run(&["replay", "--name", &group, "--limit", "1"]).fine();
    let rest = topic.home.run(&["replay", "--name", &group]).fine();
    assert_eq!(sorted(one.lines().into_iter().chain(rest.lines())), sorted(lines(&all[20..])));
}

#[tokio::test]
async fn members_of_a_name_share_the_partitions_and_a_killed_one_loses_nothing() {
    let topic = Topic::new("group", 4).await;
    let group = format!("{}-workers", topic.name);
    let all = events(400);
    let first = topic.home.start(&["tail", "--from-beginning", "--name", &group]);
    topic.publish(&all[..100], ContentMode::Binary).await;
    first.wait_for(100);
    let second = topic.home.start(&["tail", "--name", &group]);
    // Until both get some: the group has shared the partitions out.
    let mut published = 100;
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    while second.lines().is_empty() {
        assert!(std::time::Instant::now() < deadline, "the second member gets nothing");
        assert!(published < 300, "the second member gets nothing");
        topic.publish(&all[published..published + 9], ContentMode::Binary).await;
        published += 9;
        crate::pause(Duration::from_secs(1));
    }
    let mut seen: BTreeSet<String> = first.kill().iter().map(|line| id(line)).collect();
    topic.publish(&all[published..], ContentMode::Binary).await;
    let ran = second.interrupt();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    seen.extend(ran.ids());
    // The killed member is in the group until its session ends.
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    let rest = loop {
        let ran = topic.home.run(&["replay", "--name", &group]);
        if ran.code == Some(0) {
            break ran;
        }
        assert!(ran.stderr.contains("members of that group are reading"), "{}", ran.stderr);
        seen.extend(ran.ids());
        assert!(std::time::Instant::now() < deadline, "{}", ran.stderr);
        crate::pause(Duration::from_secs(1));
    };
    seen.extend(rest.ids());
    let expected: BTreeSet<String> = lines(&all).iter().map(|line| id(line)).collect();
    assert_eq!(expected.difference(&seen).count(), 0);
}

#[tokio::test]
async fn a_topic_made_anew_is_not_read_on_under_a_name() {
    let topic = Topic::new("anew", 1).await;
    let group = format!("{}-alerts", topic.name);
    topic.publish(&events(9), ContentMode::Binary).await;
    topic.home.run(&["replay", "--name", &group]).fine();
    // As a topic that lost its records: the end is before the group's offset.
    crate::topics::delete_topic(&topic.servers, &topic.name).await;
    create_topic(&topic.servers, &topic.name, 1, &[]).await;
    let commit: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &topic.servers)
        .set("group.id", &group)
        .create()
        .unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition_offset(&topic.name, 0, rdkafka::Offset::Offset(9)).unwrap();
    commit.commit(&list, rdkafka::consumer::CommitMode::Sync).unwrap();
    let ran = topic.home.run(&["replay", "--name", &group]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("up to offset 9, and it ends at 0"), "{}", ran.stderr);
}

#[tokio::test]
async fn offsets_no_longer_kept_are_said() {
    let topic = Topic::new("retention", 1).await;
    let group = format!("{}-alerts", topic.name);
    let all = events(20);
    topic.publish(&all[..10], ContentMode::Binary).await;
    let one = topic.home.run(&["replay", "--name", &group, "--limit", "2"]).fine();
    assert_eq!(one.lines(), lines(&all[..2]));
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition_offset(&topic.name, 0, rdkafka::Offset::Offset(8)).unwrap();
    admin(&topic.servers).delete_records(&list, &AdminOptions::new()).await.unwrap();
    let ran = topic.home.run(&["replay", "--from-position", "3"]);
    assert!(ran.stderr.contains("it has 8 to 9"), "{}", ran.stderr);
    assert_eq!(topic.home.run(&["replay"]).fine().lines(), lines(&all[8..10]));
    let ran = topic.home.run(&["replay", "--name", &group]).fine();
    assert_eq!(ran.lines(), lines(&all[8..10]));
    assert!(ran.stderr.contains("from=2 until=8"), "{}", ran.stderr);
}

#[tokio::test]
async fn tail_follows_over_a_restart_of_the_broker() {
    let mut broker = Broker::start("", &[]);
    let topic = Topic::on(&broker, "restart", 1).await;
    let all = events(9);
    topic.publish(&all[..3], ContentMode::Binary).await;
    let running = topic.home.start(&["tail", "--from-beginning"]);
    let group = format!("{}-alerts", topic.name);
    let named = topic.home.start(&["tail", "--from-beginning", "--name", &group]);
    running.wait_for(3);
    named.wait_for(3);
    broker.kill();
    broker.restart();
    topic.publish(&all[3..], ContentMode::Binary).await;
    assert_eq!(running.wait_for(9), lines(&all));
    // The group is formed anew: what was not committed by then comes again, and nothing is left out.
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    while named.lines().last() != lines(&all).last() {
        assert!(std::time::Instant::now() < deadline, "{:?}", named.lines());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for running in [running, named] {
        let ran = running.interrupt();
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    assert_eq!(topic.home.run(&["replay", "--name", &group]).fine().stdout, "", "all of it is done with");
}

/// An end that lies ahead comes while events do: everything stored before it is read, and nothing behind it.
#[tokio::test]
async fn an_end_to_come_loses_nothing() {
    let topic = Topic::new("ahead", 3).await;
    let all = events(400);
    let until = (amazon_billing_source::clock::Clock::system().now() + jiff::SignedDuration::from_secs(6))
        .to_string();
    let mut running = topic.home.start(&["replay", "--until", &until]);
    for few in all.chunks(8) {
        topic.publish(few, ContentMode::Binary).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let ran = running.ended();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let ended: Vec<_> = topic
        .home
        .run(&["replay", "--until", &until])
        .fine()
        .lines()
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut seen: Vec<_> = ran.lines().iter().map(ToString::to_string).collect();
    let mut expected = ended;
    assert!(!expected.is_empty() && expected.len() < all.len(), "{}", expected.len());
    seen.sort();
    expected.sort();
    assert!(seen == expected, "{} of {}", seen.len(), expected.len());
}

#[tokio::test]
async fn a_topic_that_is_deleted_ends_what_follows_it() {
    let topic = Topic::new("deleted", 1).await;
    topic.publish(&events(3), ContentMode::Binary).await;
    let mut running = topic.home.start(&["tail", "--from-beginning"]);
    running.wait_for(3);
    crate::topics::delete_topic(&topic.servers, &topic.name).await;
    let ran = running.ended();
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("there is no topic"), "{}", ran.stderr);
}

/// From librdkafka's own mock of a cluster, as a real one says so only for a moment: who is asked is not
/// the one to answer, once for each question.
#[tokio::test]
async fn brokers_that_are_not_settled_are_asked_again() {
    use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Code};
    let cluster = rdkafka::mocking::MockCluster::new(1).unwrap();
    cluster.create_topic("events", 1, 1).unwrap();
    let topic = Topic::over(&cluster.bootstrap_servers(), "events");
    let all = events(3);
    topic.publish(&all, ContentMode::Binary).await;
    for (case, api, code) in [
        ("fetch", Api::OffsetFetch, Code::RD_KAFKA_RESP_ERR_NOT_COORDINATOR),
        ("load", Api::OffsetFetch, Code::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS),
        ("commit", Api::OffsetCommit, Code::RD_KAFKA_RESP_ERR_NOT_COORDINATOR),
    ] {
        cluster.request_errors(api, &[code, code, code]);
        let ran = topic.home.run(&["replay", "--name", case]).fine();
        assert_eq!(ran.lines(), lines(&all), "{case}: {}", ran.stderr);
        cluster.clear_request_errors(api);
    }
}

/// The same while a group shares its partitions out: librdkafka, which asks by itself then, would not ask
/// again, and never read them.
#[tokio::test]
async fn a_member_of_a_group_reads_what_it_was_given() {
    use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Code};
    let cluster = rdkafka::mocking::MockCluster::new(1).unwrap();
    cluster.create_topic("events", 2, 1).unwrap();
    let topic = Topic::over(&cluster.bootstrap_servers(), "events");
    let all = events(6);
    topic.publish(&all, ContentMode::Binary).await;
    // The first is of the question before the group is joined.
    let (fine, moved) = (Code::RD_KAFKA_RESP_ERR_NO_ERROR, Code::RD_KAFKA_RESP_ERR_NOT_COORDINATOR);
    cluster.request_errors(Api::OffsetFetch, &[fine, moved, moved, moved]);
    let running = topic.home.start(&["tail", "--from-beginning", "--name", "alerts"]);
    let seen: BTreeSet<_> = running.wait_for(all.len()).into_iter().collect();
    assert_eq!(seen, lines(&all).into_iter().collect());
    assert_eq!(running.interrupt().code, Some(0));
}

/// What was sent before a time counts although its transaction is open then: it is waited for.
#[tokio::test]
async fn an_end_waits_for_the_transactions_before_it() {
    let topic = Topic::new("open", 1).await;
    let all = events(5);
    topic.publish(&all[..3], ContentMode::Binary).await;
    let id = format!("{}-open", topic.name);
    let producer = topic.producer(Some(&id));
    producer.begin_transaction().unwrap();
    topic.publish_with(&producer, &all[3..], ContentMode::Binary).await;
    let until = amazon_billing_source::clock::Clock::system().now() + jiff::SignedDuration::from_secs(1);
    let mut running = topic.home.start(&["replay", "--until", &until.to_string()]);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(running.lines(), lines(&all[..3]));
    producer.commit_transaction(LIMIT).unwrap();
    let ran = running.ended();
    assert_eq!(
        (ran.code, ran.lines()),
        (Some(0), lines(&all).iter().map(|line| &**line).collect()),
        "{}",
        ran.stderr
    );
}
