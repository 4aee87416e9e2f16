//! The worked examples, run as their headers say: killed, doubled, fed with what others wrote and with
//! what came before; what they come to is AWS's own bill, to the last digit.

use std::{collections::BTreeMap, path::Path, time::Duration};

use amazon_billing_source::{
    config::KafkaConfig,
    cost::{Amount, CostKey, CostMetric, GroupBy, Period, Scope},
    dedup::{Change, ChangeKind},
    event::{Binding, ContentMode, EventFactory, WireMessage, decode, structured_json},
    transport::kafka::Kafka,
};
use async_nats::jetstream;
use futures_util::StreamExt as _;
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::{
    broker::Broker,
    home::{Home, Totals, newest, nonzero, revision, sum},
    kafka::{self, Record},
    nats::{self, Server},
    setup::{self, Running},
    story, wait_until,
};

const COMMITTED: &str = "read_committed";
/// Enough for keys that are revised, removed and come back.
const POLLS: usize = 7;

/// A topic of its own on the shared broker, of three partitions.
async fn topic(name: &str, content_mode: ContentMode) -> KafkaConfig {
    let config = KafkaConfig { content_mode, ..kafka::config(Broker::shared(), name) };
    kafka::create_topic(&config.bootstrap_servers, &config.topic, 3, &[]).await;
    config
}

fn kafka_tables(config: &KafkaConfig) -> String {
    let KafkaConfig { bootstrap_servers, topic, state_topic, content_mode, .. } = config;
    format!(
        "[transport]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = \"{bootstrap_servers}\"\ntopic = \"{topic}\"\n\
         state_topic = \"{state_topic}\"\ncreate_topics = true\ncontent_mode = \"{}\"\n",
        format!("{content_mode:?}").to_lowercase()
    )
}

/// The story of a topic: something of everything, or it proves nothing.
fn events_of(config: &KafkaConfig) -> Vec<Value> {
    let records = kafka::consume(&config.bootstrap_servers, &config.topic, COMMITTED);
    let ours =
        records.into_iter().map(|record| record.event).filter(|event| event["partitionkey"].is_string());
    let events: Vec<_> = ours.collect();
    let changes: Vec<_> = ["new", "revised", "removed"]
        .into_iter()
        .map(|change| events.iter().filter(|event| event["change"] == change).count())
        .collect();
    assert!(changes.iter().all(|count| *count > 0), "new, revised, removed: {changes:?}");
    events
}

/// What may come to a topic besides: garbage, and the first record of each of these keys once more, as a
/// producer that is sure of nothing repeats it. The last offset of each partition.
async fn disturb(config: &KafkaConfig, records: &[Record]) -> BTreeMap<i32, i64> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &config.bootstrap_servers)
        // As the events: what is repeated comes to the partition of its key.
        .set("partitioner", "murmur2_random")
        .create()
        .unwrap();
    let mut ends = BTreeMap::new();
    let mut send = async |key: Option<&str>, payload: &[u8], headers: OwnedHeaders| {
        let mut record = FutureRecord::<str, [u8]>::to(&config.topic).payload(payload).headers(headers);
        record.key = key;
        let sent = producer.send(record, Duration::from_secs(30)).await.unwrap();
        ends.insert(sent.partition, sent.offset);
    };
    for record in records.iter().filter(|record| record.revision() == 1) {
        let headers = record
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
        send(Some(&record.key), &record.payload, headers).await;
    }
    let event = [("ce_specversion", "1.0"), ("ce_id", "1"), ("ce_source", "s"), ("ce_type", "t")];
    let foreign = event
        .into_iter()
        .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
    for number in 0..12 {
        let key = format!("foreign-{number}");
        send(Some(&key), b"dear diary", OwnedHeaders::new()).await;
        send(Some(&key), b"{\"data\":1}", foreign.clone()).await;
    }
    send(None, b"", OwnedHeaders::new()).await;
    ends
}

/// What `spend.py show` prints, as a person reads it.
fn shown(folder: &Path) -> Totals {
    let output =
        setup::python("examples/python-spend/spend.py").arg("show").current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let totals = text.lines().map(|line| {
        let (amount, rest) = line.trim_start().split_once(' ').unwrap();
        let (unit, service) = rest.split_once("  ").unwrap();
        assert_eq!(unit, "USD");
        (service.to_owned(), Decimal::from_str_exact(amount).unwrap())
    });
    nonzero(totals.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn python_keeps_the_spend_per_service_in_sqlite() {
    let config = topic("spend", ContentMode::Binary).await;
    let home = Home::new(&kafka_tables(&config)).await;
    let follow = || {
        let mut command = setup::python("examples/python-spend/spend.py");
        command.args(["follow", &config.bootstrap_servers, &config.topic]);
        Running::start(command, home.folder(), "spend")
    };
    let database = || {
        let database = rusqlite::Connection::open(home.path("spend.db")).unwrap();
        database.busy_timeout(Duration::from_mins(1)).unwrap();
        database
    };
    home.poll();
    let mut followers = [follow(), follow()];
    wait_until("the first figures are kept", || {
        home.path("spend.db").exists() && !shown(home.folder()).is_empty()
    });
    home.polls(POLLS, |number| {
        if number % 3 == 2 {
            // Killed in the midst of it, and another one started.
            followers[number / 3 % 2] = follow();
        }
    });
    let records = kafka::consume(&config.bootstrap_servers, &config.topic, COMMITTED);
    let ends = disturb(&config, &records).await;
    let caught_up = |followers: &mut [Running]| {
        wait_until("everything is read", || {
            for follower in &mut *followers {
                assert_eq!(follower.ended(), None, "{}", follower.log());
            }
            let database = database();
            let mut query = database.prepare("SELECT partition, next - 1 FROM position").unwrap();
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            rows.map(Result::unwrap).collect::<BTreeMap<i32, i64>>() == ends
        });
    };
    caught_up(&mut followers);
    assert_eq!(shown(home.folder()), home.totals());
    let events = events_of(&config);
    assert_eq!(sum(newest(&events).into_values()), home.totals(), "and so says the decoder");
    assert_ne!(sum(&events), home.totals(), "who adds up everything is wrong: the control");
    assert!(followers[0].log().contains("]@"), "what is left aside is said");

    // Everything once more: nothing changes.
    drop(followers);
    database().execute("DELETE FROM position", []).unwrap();
    let follower = follow();
    caught_up(&mut [follower]);
    assert_eq!(shown(home.folder()), home.totals());
}

#[tokio::test(flavor = "multi_thread")]
async fn java_keeps_a_current_table() {
    let config = topic("table", ContentMode::Structured).await;
    let home = Home::new(&kafka_tables(&config)).await;
    let run = || {
        let mut command = setup::java("java-table", "examples/java-table/CurrentTable.java");
        command.args([&config.bootstrap_servers, &config.topic]);
        Running::start(command, home.folder(), "table")
    };
    let table = format!("{}-current", config.topic);
    // A compacted topic as any reader makes a table of it: the last record of a key, unless it is empty.
    let rows = || {
        let mut rows = BTreeMap::new();
        for record in kafka::consume(&config.bootstrap_servers, &table, COMMITTED) {
            match record.payload.as_slice() {
                [] => rows.remove(&record.key),
                row => rows.insert(record.key, serde_json::from_slice::<Value>(row).unwrap()),
            };
        }
        rows
    };
    home.poll();
    let mut tables = [run(), run()];
    wait_until("the first rows are there", || {
        assert_eq!(tables[0].ended().or(tables[1].ended()), None, "{}", tables[0].log());
        kafka::admin(&config.bootstrap_servers)
            .inner()
            .fetch_metadata(None, Duration::from_secs(10))
            .unwrap()
            .topics()
            .iter()
            .any(|topic| topic.name() == table)
            && !rows().is_empty()
    });
    home.polls(POLLS, |number| {
        if number == POLLS / 2 {
            tables[0] = run();
        }
    });
    let records = kafka::consume(&config.bootstrap_servers, &config.topic, COMMITTED);
    disturb(&config, &records).await;
    // What comes after the disturbance.
    home.poll();
    let all = events_of(&config);
    let expected: BTreeMap<_, _> = newest(&all)
        .into_iter()
        .filter(|(_, event)| event["change"] != "removed")
        .map(|(key, event)| {
            let row = json!({"revision": revision(event), "change": event["change"], "data": event["data"]});
            (key, row)
        })
        .collect();
    wait_until("the table has every row", || {
        assert_eq!(tables[0].ended().or(tables[1].ended()), None, "{}", tables[0].log());
        rows() == expected
    });
    assert_eq!(sum(rows().values()), home.totals());
    assert_ne!(sum(&all), home.totals(), "who adds up everything is wrong: the control");
    let [first, second] = tables;
    for running in [first, second] {
        assert_eq!(running.stop(), Some(143), "ended by SIGTERM, in order");
    }
}

/// A change of one key, `2026-<month>-01`, in the words of `story`.
fn spend(month: u8, service: &'static str, revision: u32, kind: ChangeKind, amount: &str) -> Change<'static> {
    let stated = |text: &str| {
        [(CostMetric::UnblendedCost, Amount::parse(text.to_owned(), "USD".to_owned()).unwrap())].into_iter()
    };
    Change {
        key: CostKey {
            period: Period::from_label(&format!("2026-{month:02}-01")).unwrap(),
            service,
            group: None,
        },
        kind,
        revision,
        amounts: std::borrow::Cow::Owned(stated(amount).collect()),
        estimated: true,
        observed_at: "2026-11-21T06:11:10Z".parse().unwrap(),
        previous: (revision > 1).then(|| (stated("1").collect(), true)),
    }
}

/// How often an alert is said in a log.
fn given(log: &str, alert: &Value) -> usize {
    log.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok_and(|line| line == *alert)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_gives_each_budget_alert_once() {
    use ChangeKind::{New, Removed, Revised};
    let config = topic("alert", ContentMode::Binary).await;
    let structured = KafkaConfig { content_mode: ContentMode::Structured, ..config.clone() };
    let modes = [Kafka::connect(&config).unwrap(), Kafka::connect(&structured).unwrap()];
    let factory = EventFactory::new(kafka::scope(), "amazon.billing");
    let tell = async |number: usize, changes: &[Change<'_>]| {
        story::publish_changes(&modes[number % 2], &factory, changes, &BTreeMap::new()).await;
    };
    let folder = tempfile::tempdir().unwrap();
    let watch = |name: &str| {
        let mut command = setup::javascript("javascript-alert/alert.js");
        command.args(["1000", &config.bootstrap_servers, &config.topic]);
        Running::start(command, folder.path(), name)
    };
    let alerts = || -> BTreeMap<String, Value> {
        let Ok(files) = std::fs::read_dir(folder.path().join("alerts")) else { return BTreeMap::new() };
        let named = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some());
        named
            .map(|path| {
                let alert = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                (path.file_stem().unwrap().to_str().unwrap().to_owned(), alert)
            })
            .collect()
    };
    // All months are judged together: once the alert of a month of its own is there, whatever came
    // before it was judged too.
    let judged = async |month: u8, watchers: &mut [Running]| {
        tell(0, &[spend(month, "Tax", 1, New, "500")]).await;
        let name = format!("2026-{month:02}-USD-50");
        wait_until("it is judged, and said", || {
            for watcher in &mut *watchers {
                assert_eq!(watcher.ended(), None, "{}", watcher.log());
            }
            let alert = alerts().remove(&name);
            alert.is_some_and(|alert| watchers.iter().any(|watcher| given(&watcher.log(), &alert) == 1))
        });
        let november = alerts().into_keys().filter(|name| name.starts_with("2026-11-"));
        november.map(|name| name["2026-11-USD-".len()..].to_owned()).collect::<Vec<_>>()
    };
    let mut watchers = [watch("first"), watch("second")];

    let just_below = ["299.9999999999999999999999", "200.0000000000000000000000"];
    tell(0, &[spend(11, "Tax", 1, New, just_below[0]), spend(11, "EC2", 1, New, just_below[1])]).await;
    // What is the same money again: an hour, and a grouping.
    let hour = Period::from_label("2026-11-01T05").unwrap();
    let change = spend(11, "Tax", 1, New, "900");
    tell(1, &[Change { key: CostKey { period: hour, ..change.key }, ..change.clone() }]).await;
    let grouped = Scope { group_by: Some(GroupBy::Dimension("REGION".to_owned())), ..kafka::scope() };
    let grouped = EventFactory::new(grouped, "amazon.billing");
    let change = Change { key: CostKey { group: Some("eu-west-1"), ..change.key }, ..change };
    story::publish_changes(&modes[0], &grouped, &[change], &BTreeMap::new()).await;
    assert_eq!(judged(1, &mut watchers).await, [""; 0], "not for the last of 25 digits");

    tell(1, &[spend(11, "Tax", 2, Revised, "300.0000000000000000000000")]).await;
    assert_eq!(judged(2, &mut watchers).await, ["50"]);
    // The row is gone, and the sum with it: what is repeated of it does not count again.
    tell(0, &[spend(11, "Tax", 3, Removed, "0"), spend(11, "Glue", 1, New, "599")]).await;
    let records = kafka::consume(&config.bootstrap_servers, &config.topic, COMMITTED);
    disturb(&config, &records).await;
    assert_eq!(judged(3, &mut watchers).await, ["50"], "799 of 1,000");
    // One ends in the midst of it and begins again: what was given is not given again.
    watchers[0] = watch("first");
    tell(1, &[spend(11, "Tax", 4, Revised, "201")]).await;
    assert_eq!(judged(4, &mut watchers).await, ["100", "50", "80"]);
    assert_eq!(alerts()["2026-11-USD-80"]["spend"], "1000");
    let printed = watchers.iter().map(Running::log).collect::<String>();
    for alert in alerts().values() {
        assert_eq!(given(&printed, alert), 1, "{alert}\n{printed}");
    }
    let before = alerts();
    drop(watchers);
    let mut late = [watch("late")];
    judged(5, &mut late).await;
    let after: BTreeMap<_, _> = alerts().into_iter().filter(|(name, _)| before.contains_key(name)).collect();
    assert_eq!(after, before, "a late one finds them given");
}

#[tokio::test(flavor = "multi_thread")]
async fn go_workers_keep_a_bucket() {
    for mode in ["structured", "binary"] {
        let server = Server::start(nats::newest());
        let home = Home::new(&format!(
            "[transport]\nkind = \"nats\"\n[nats]\nservers = [\"{}\"]\nstream = \"BILLING\"\n\
             create_stream = true\ncontent_mode = \"{mode}\"\n",
            server.url()
        ))
        .await;
        let work = |name: &str| {
            let mut command = setup::go("go-workers");
            command.args(["-url", &server.url(), "-stream", "BILLING"]);
            Running::start(command, home.folder(), name)
        };
        home.poll();
        let mut workers = [work("first"), work("second")];
        home.polls(POLLS, |number| {
            if number % 3 == 2 {
                workers[number / 3 % 2] = work("again");
            }
        });
        let js = server.jetstream().await;
        let stream = js.get_stream("BILLING").await.unwrap();
        disturb_stream(&js, &stream).await;
        let idle = async |workers: &mut [Running]| loop {
            for worker in &mut *workers {
                assert_eq!(worker.ended(), None, "{}", worker.log());
            }
            let consumer = stream.consumer_info("current").await;
            if consumer.is_ok_and(|info| info.num_pending == 0 && info.num_ack_pending == 0) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let deadline = Duration::from_mins(4);
        tokio::time::timeout(deadline, idle(&mut workers)).await.expect("every message is acknowledged");

        let events = stored(&stream).await;
        // A bucket is a stream; of each key it keeps the last message.
        let bucket = js.get_stream("KV_BILLING_CURRENT").await.unwrap();
        let kept: BTreeMap<_, Value> = messages(&bucket)
            .await
            .into_iter()
            .map(|message| {
                let key = message.subject.strip_prefix("$KV.BILLING_CURRENT.").unwrap().to_owned();
                (key, serde_json::from_slice(&message.payload).unwrap())
            })
            .collect();
        let newest = newest(&events);
        assert_eq!(kept.len(), newest.len(), "{mode}");
        for (key, event) in &newest {
            assert_eq!(kept[key]["id"], event["id"], "{mode} {key}");
            assert_eq!(kept[key]["data"], event["data"], "{mode} {key}");
        }
        assert_eq!(sum(kept.values()), home.totals(), "{mode}");
        assert_ne!(sum(&events), home.totals(), "who adds up everything is wrong: the control");

        // Everything once more: nothing is written.
        let [first, second] = workers;
        assert_eq!((first.stop(), second.stop()), (Some(0), Some(0)));
        let written = async || bucket.get_info().await.unwrap().state.last_sequence;
        let before = written().await;
        stream.delete_consumer("current").await.unwrap();
        let mut again = [work("once-more")];
        tokio::time::timeout(deadline, idle(&mut again)).await.expect("every message is acknowledged");
        assert_eq!(written().await, before, "{mode}");
    }
}

/// Every event of the stream, in its order; what is none is left out.
async fn stored(stream: &jetstream::stream::Stream) -> Vec<Value> {
    let mut events = Vec::new();
    for message in messages(stream).await {
        let headers = message.headers.clone().unwrap_or_default();
        let headers = headers
            .iter()
            .filter_map(|(name, values)| Some((name.to_string().into(), values.first()?.to_string())));
        let wire = WireMessage { key: None, headers: headers.collect(), payload: message.payload.to_vec() };
        if let Ok(event) = decode(wire, Binding::Nats) {
            events.push(serde_json::from_slice(&structured_json(event).unwrap()).unwrap());
        }
    }
    assert!(
        ["new", "revised", "removed"]
            .iter()
            .all(|change| events.iter().any(|e: &Value| e["change"] == *change))
    );
    events
}

async fn messages(stream: &jetstream::stream::Stream) -> Vec<jetstream::Message> {
    let count = stream.get_info().await.unwrap().state.messages;
    let consumer = stream.create_consumer(jetstream::consumer::pull::OrderedConfig::default()).await.unwrap();
    let messages = consumer.messages().await.unwrap();
    messages.take(usize::try_from(count).unwrap()).map(Result::unwrap).collect().await
}

/// The oldest message of each of some keys once more, and garbage.
async fn disturb_stream(js: &jetstream::Context, stream: &jetstream::stream::Stream) {
    for message in messages(stream).await.into_iter().take(200) {
        let mut headers = message.headers.clone().unwrap_or_default();
        headers = headers
            .iter()
            .filter(|(name, _)| !name.to_string().starts_with("Nats-"))
            .flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())))
            .collect();
        let subject = message.subject.clone();
        js.publish_with_headers(subject, headers, message.payload.clone()).await.unwrap().await.unwrap();
    }
    js.publish("amazon.billing.x", "dear diary".into()).await.unwrap().await.unwrap();
}

/// Short enough to be read as a whole.
#[test]
fn each_example_has_less_than_a_hundred_lines() {
    for example in [
        "python-spend/spend.py",
        "javascript-alert/alert.js",
        "java-table/CurrentTable.java",
        "go-workers/main.go",
    ] {
        let text = std::fs::read_to_string(setup::repository("examples").join(example)).unwrap();
        assert!(text.lines().count() < 100, "{example}");
    }
}
