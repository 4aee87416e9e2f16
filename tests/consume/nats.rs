//! A stream of a real NATS server, with the real binary.

use std::{collections::BTreeSet, time::Duration};

use amazon_billing_source::event::{Binding, ContentMode, Event, encode};
use async_nats::{HeaderMap, jetstream};

use crate::{
    nats_server::{Server, newest, versions},
    support::{Home, events, id, line},
};

struct Stream {
    server: Server,
    js: jetstream::Context,
    home: Home,
}

impl Stream {
    async fn new(version: &'static str) -> Self {
        let server = Server::start(version);
        let js = server.jetstream().await;
        let home = Home::new();
        home.write(
            "billing.toml",
            &format!(
                "[transport]\nkind = \"nats\"\n[nats]\nservers = [\"{}\"]\nstream = \"BILLING\"\n\
                 subject_prefix = \"aws.cost\"\n",
                server.url()
            ),
        );
        let stream = Self { server, js, home };
        stream.create().await;
        stream
    }

    async fn create(&self) {
        let config = jetstream::stream::Config {
            name: "BILLING".to_owned(),
            subjects: vec!["aws.cost.>".to_owned()],
            ..Default::default()
        };
        self.js.create_stream(config).await.unwrap();
    }

    async fn publish(&self, events: &[Event], mode: ContentMode) {
        for event in events {
            let message = encode(event.clone(), Binding::Nats, mode).unwrap();
            let mut headers = HeaderMap::new();
            for (name, value) in &message.headers {
                headers.insert(&**name, &**value);
            }
            let sent = self.js.publish_with_headers("aws.cost.x.y", headers, message.payload.into()).await;
            sent.unwrap().await.unwrap();
        }
    }

    async fn consumers(&self) -> usize {
        let mut stream = self.js.get_stream("BILLING").await.unwrap();
        stream.info().await.unwrap().state.consumer_count
    }
}

fn lines(events: &[Event]) -> Vec<String> {
    events.iter().cloned().map(line).collect()
}

#[tokio::test]
async fn both_modes_are_replayed_in_order_by_every_version() {
    for version in versions() {
        let stream = Stream::new(version).await;
        let all = events(60);
        stream.publish(&all[..30], ContentMode::Structured).await;
        stream.publish(&all[30..], ContentMode::Binary).await;
        let ran = stream.home.run(&["replay"]).fine();
        assert_eq!(ran.lines(), lines(&all), "{version}");
        let ran = stream.home.run(&["replay", "--name", "alerts"]).fine();
        assert_eq!(ran.lines(), lines(&all), "{version}");
        assert_eq!(stream.home.run(&["replay", "--name", "alerts"]).fine().stdout, "", "{version}");
    }
}

#[tokio::test]
async fn reading_begins_and_ends_where_it_is_told() {
    let stream = Stream::new(newest()).await;
    let all = events(20);
    stream.publish(&all[..10], ContentMode::Structured).await;
    crate::pause(Duration::from_millis(20));
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    let between =
        jiff::Timestamp::from_millisecond(i64::try_from(since.as_millis()).unwrap()).unwrap().to_string();
    crate::pause(Duration::from_millis(20));
    stream.publish(&all[10..], ContentMode::Structured).await;
    for (flags, expected) in [
        (&["--from-position", "5"][..], 4..20),
        (&["--from-position", "21"], 20..20),
        (&["--since", &between], 10..20),
        (&["--until", &between], 0..10),
        (&["--limit", "7"], 0..7),
        (&["--since", "1h", "--until", &between], 0..10),
    ] {
        let ran = stream.home.run(&[&["replay"], flags].concat()).fine();
        assert_eq!(ran.lines(), lines(&all[expected]), "{flags:?}");
    }
    for (flags, expected) in [
        (&["--from-position", "99"][..], "sequence 99 is not in stream `BILLING`: it has 1 to 20"),
        (&["--partition", "0"], "a NATS stream has no partitions"),
    ] {
        let ran = stream.home.run(&[&["replay"], flags].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    }
    // Nothing newer than this.
    crate::pause(Duration::from_millis(20));
    assert_eq!(stream.home.run(&["replay", "--since", "0s"]).fine().stdout, "");
}

#[tokio::test]
async fn what_is_no_event_is_left_out_counted_and_shown_when_asked() {
    let stream = Stream::new(newest()).await;
    let all = events(2);
    stream.publish(&all[..1], ContentMode::Binary).await;
    stream.js.publish("aws.cost.z", "hello".into()).await.unwrap().await.unwrap();
    stream.publish(&all[1..], ContentMode::Structured).await;
    let ran = stream.home.run(&["replay"]).fine();
    assert_eq!(ran.lines(), lines(&all));
    assert!(ran.stderr.contains("position=2") && ran.stderr.contains("messages=1"), "{}", ran.stderr);
    let ran = stream.home.run(&["replay", "--all"]).fine();
    assert!(ran.lines()[1].contains(r#""position":2"#), "{}", ran.stdout);
    assert!(ran.lines()[1].contains(r#""reason":"it is no CloudEvent","text":"hello""#), "{}", ran.stdout);
}

#[tokio::test]
async fn a_missing_stream_and_a_missing_server_are_said() {
    let mut stream = Stream::new(newest()).await;
    stream.js.delete_stream("BILLING").await.unwrap();
    let ran = stream.home.run(&["replay"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("there is no stream `BILLING`"), "{}", ran.stderr);
    stream.create().await;
    assert_eq!(stream.home.run(&["replay"]).fine().stdout, "", "an empty one");
    stream.server.kill();
    let ran = stream.home.run(&["tail"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(69), ""), "{}", ran.stderr);
}

#[tokio::test]
async fn tail_follows_over_a_restart_of_the_server() {
    let mut stream = Stream::new(newest()).await;
    let all = events(9);
    stream.publish(&all[..2], ContentMode::Structured).await;
    let running = stream.home.start(&["tail", "--from-beginning"]);
    let named = stream.home.start(&["tail", "--from-beginning", "--name", "alerts"]);
    running.wait_for(2);
    stream.publish(&all[2..4], ContentMode::Structured).await;
    running.wait_for(4);
    named.wait_for(4);
    // A server that is killed loses what was acknowledged just before.
    tokio::time::sleep(Duration::from_secs(3)).await;
    stream.server.kill();
    // Longer than an acknowledgement is waited for.
    tokio::time::sleep(Duration::from_secs(7)).await;
    stream.server.restart();
    stream.js = stream.server.jetstream().await;
    stream.publish(&all[4..], ContentMode::Binary).await;
    assert_eq!(running.wait_for(9), lines(&all));
    // An acknowledgement that the server had not stored comes to nothing: those events come again.
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    while named.lines().last() != lines(&all).last() {
        assert!(std::time::Instant::now() < deadline, "{} lines", named.lines().len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut seen = std::collections::HashSet::new();
    let firsts: Vec<_> = named.lines().into_iter().filter(|line| seen.insert(line.clone())).collect();
    assert!(firsts == lines(&all), "in order, and nothing left out");
    for running in [running, named] {
        let ran = running.interrupt();
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    assert_eq!(stream.home.run(&["replay", "--name", "alerts"]).fine().stdout, "", "all of it is done with");
}

#[tokio::test]
async fn only_a_name_leaves_a_consumer_behind() {
    let stream = Stream::new(newest()).await;
    let all = events(12);
    stream.publish(&all[..6], ContentMode::Structured).await;
    stream.home.run(&["replay", "--name", "alerts", "--limit", "4"]).fine();
    assert_eq!(stream.consumers().await, 1);
    // What was read ahead and not shown is given out at once, in order.
    let ran = stream.home.run(&["replay", "--name", "alerts"]).fine();
    assert_eq!(ran.lines(), lines(&all[4..6]));
    stream.publish(&all[6..], ContentMode::Structured).await;
    assert_eq!(stream.home.run(&["replay", "--name", "alerts"]).fine().lines(), lines(&all[6..]));
    // From the end: what comes after the name was first used.
    let running = stream.home.start(&["tail", "--name", "late"]);
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    while stream.consumers().await < 2 {
        assert!(std::time::Instant::now() < deadline);
        crate::pause(Duration::from_millis(20));
    }
    running.kill();
    stream.publish(&all[..1], ContentMode::Structured).await;
    assert_eq!(stream.home.run(&["replay", "--name", "late"]).fine().lines(), lines(&all[..1]));
    // Another program's consumer is left alone.
    let push = jetstream::consumer::push::Config {
        durable_name: Some("push".to_owned()),
        deliver_subject: "somewhere".to_owned(),
        ..Default::default()
    };
    stream.js.create_consumer_on_stream(push, "BILLING").await.unwrap();
    let ran = stream.home.run(&["replay", "--name", "push"]);
    assert_eq!(ran.code, Some(78), "{}", ran.stderr);
    assert!(ran.stderr.contains("is not a pull consumer with explicit acknowledgement"), "{}", ran.stderr);
}

#[tokio::test]
async fn after_kill_9_nothing_is_missing() {
    let stream = Stream::new(newest()).await;
    let all = events(600);
    stream.publish(&all, ContentMode::Structured).await;
    let running = stream.home.start(&["tail", "--from-beginning", "--name", "alerts"]);
    running.wait_for(50);
    let mut seen: BTreeSet<String> = running.kill().iter().map(|line| id(line)).collect();
    // Waits until the server gives out again what the dead one held.
    let ran = stream.home.run(&["replay", "--name", "alerts"]).fine();
    seen.extend(ran.ids());
    let expected: BTreeSet<String> = lines(&all).iter().map(|line| id(line)).collect();
    assert_eq!(expected.difference(&seen).count(), 0, "{}", ran.stderr);
}

#[tokio::test]
async fn a_stream_made_anew_ends_what_follows_it() {
    let stream = Stream::new(newest()).await;
    stream.publish(&events(3), ContentMode::Structured).await;
    let mut running = stream.home.start(&["tail", "--from-beginning"]);
    running.wait_for(3);
    stream.js.delete_stream("BILLING").await.unwrap();
    stream.create().await;
    let ran = running.ended();
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("was deleted and created anew"), "{}", ran.stderr);
}
