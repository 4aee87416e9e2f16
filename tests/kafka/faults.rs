//! Faults at named places of the protocol: the program killed there, connections cut, answers lost,
//! everything slow; an idle program; and what a broker that works may still refuse.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use amazon_billing_source::{
    config::{DeliveryMode, KafkaConfig},
    dedup::Claim,
    simulator::DEFAULT_ACCOUNT,
    transport::{Delivery, TransportErrorKind as Kind},
};
use jiff::SignedDuration;

use crate::{
    binary::{Home, Running, wait_until},
    broker::{self, Broker, Jvm},
    disk::SmallDisk,
    pause,
    proxy::{Api, Fault, Place, Proxied},
    support::{Process, change, config, consume, delete_topic, surely, violations},
};

fn behind(proxied: &Proxied, name: &str) -> KafkaConfig {
    KafkaConfig { bootstrap_servers: proxied.servers.clone(), ..config(&proxied.broker, name) }
}

/// Where the program is killed. Its transactions: the claim, the events of a page, the end of the poll.
const POINTS: [(&str, Place); 12] = [
    ("before the first fence", Place::Before(Api::InitProducerId, 1)),
    ("fenced, and not told", Place::After(Api::InitProducerId, 1)),
    ("before the claim is committed", Place::Before(Api::EndTxn, 1)),
    ("claimed, and not told", Place::After(Api::EndTxn, 1)),
    ("between claim and events", Place::Before(Api::InitProducerId, 2)),
    ("begin", Place::Before(Api::AddPartitionsToTxn, 2)),
    ("before the first event", Place::Before(Api::Produce, 2)),
    ("the first events stored, and not told", Place::After(Api::Produce, 2)),
    ("some events stored", Place::Before(Api::Produce, 5)),
    ("everything stored, before the commit", Place::Before(Api::EndTxn, 2)),
    ("committed, and not told", Place::After(Api::EndTxn, 2)),
    ("between events and the end of the poll", Place::Before(Api::InitProducerId, 3)),
];

/// Runs the program until the place is reached, and kills it there.
fn kill_at(proxied: &Proxied, home: &Home, name: &str, place: Place) {
    proxied.plan(place, Fault::Stop);
    let mut running = Running(home.command(&["run", "--once"]).spawn().unwrap());
    wait_until(name, || {
        let ended = running.0.try_wait().unwrap();
        assert!(proxied.reached() || ended.is_none(), "{name}: never reached\n{}", home.log());
        proxied.reached()
    });
    // With SIGKILL, and before anything passes again.
    drop(running);
    proxied.pass();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_named_place_every_change_comes_once() {
    let proxied = Proxied::start("").await;
    let home = Home::new(behind(&proxied, "crash"), 12).await;
    home.write_config("1h", "2m", None, &[DEFAULT_ACCOUNT]);
    assert_eq!(home.once(), Some(0), "{}", home.log());
    for (name, place) in POINTS {
        let before = home.committed().len();
        home.advance(SignedDuration::from_hours(13));
        kill_at(&proxied, &home, name, place);
        assert_eq!(home.once(), Some(0), "{name}\n{}", home.log());
        let records = home.committed();
        println!("killed {name}: {} new events", records.len() - before);
        assert!(records.len() > before, "{name}: nothing was to be published");
        assert_eq!(violations(&records), [""; 0], "{name}\n{}", home.log());
        home.assert_sums(&home.settled(&records), DEFAULT_ACCOUNT);
    }
}

/// The control: without a transaction, what is stored when the program is killed comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn without_transactions_a_kill_between_events_and_state_repeats_them() {
    let proxied = Proxied::start("").await;
    let kafka = KafkaConfig { delivery: DeliveryMode::AtLeastOnce, ..behind(&proxied, "crash-control") };
    let home = Home::new(kafka, 12).await;
    home.write_config("1h", "2m", None, &[DEFAULT_ACCOUNT]);
    assert_eq!(home.once(), Some(0), "{}", home.log());
    home.advance(SignedDuration::from_hours(13));
    kill_at(&proxied, &home, "events stored", Place::After(Api::Produce, 2));
    assert_eq!(home.once(), Some(0), "{}", home.log());
    let records = home.committed();
    assert!(!violations(&records).is_empty(), "the control must fail");
}

/// Lost connections and answers: nothing is lost, nothing comes twice, and librdkafka's own repetition
/// of what it does not know to be stored is harmless.
#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_lose_nothing_and_repeat_nothing() {
    let proxied = Proxied::start("").await;
    let config = behind(&proxied, "lossy");
    let mut process = Process::new(&config);
    let mut revision = 1;
    surely(&mut process, "Tax", revision).await;
    for api in [Api::InitProducerId, Api::AddPartitionsToTxn, Api::Produce, Api::EndTxn] {
        for place in [Place::Before(api, 1), Place::After(api, 1), Place::After(api, 2)] {
            proxied.plan(place, Fault::Cut);
            revision += 1;
            let (outcome, _) = surely(&mut process, "Tax", revision).await;
            println!("cut {place:?}: {outcome:?}");
        }
    }
    proxied.pass();
    proxied.delay(Duration::from_millis(150));
    revision += 1;
    surely(&mut process, "Tax", revision).await;
    proxied.delay(Duration::ZERO);
    let records = consume(&proxied.broker.servers(), &config.topic, "read_committed");
    assert_eq!(records.len() as u64, u64::from(revision));
    assert_eq!(violations(&records), [""; 0]);
}

/// What a rival commits while a ledger is read is in the ledger, wherever in the reading it falls: an event
/// that is there is never taken for one that was lost, and published again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_while_a_ledger_is_read_is_in_it() {
    let proxied = Proxied::start("").await;
    let reading = behind(&proxied, "while-read");
    let writing = KafkaConfig { bootstrap_servers: proxied.broker.servers(), ..reading.clone() };
    let (mut writer, mut reader) = (Process::new(&writing), Process::new(&reading));
    writer.recover().await.unwrap();
    reader.recover().await.unwrap();
    let mut places = 0;
    loop {
        proxied.plan(Place::After(Api::ListOffsets, places + 1), Fault::Stop);
        let services: Vec<_> = (0..30).map(|n| format!("Service {places}-{n}")).collect();
        let changes: Vec<_> = services.iter().map(|service| change(service, 1)).collect();
        let stopped = {
            let mut reading = pin!(reader.recover());
            let reached = async {
                while !proxied.reached() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                biased;
                read = &mut reading => {
                    read.unwrap();
                    false
                }
                () = reached => {
                    writer.publish(&changes).await.unwrap();
                    proxied.go_on();
                    reading.await.unwrap();
                    true
                }
            }
        };
        if !stopped {
            break;
        }
        places += 1;
        reader.recover().await.unwrap();
        assert_eq!(reader.ledger.len(), writer.ledger.len(), "committed at place {places}");
    }
    assert!(places > 6, "{places}: an end of each partition is asked for");
}

/// A commit that comes after the broker has given the transaction up: nobody knows, nothing was stored,
/// and it is published once.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_took_too_long_is_unknown_and_comes_once() {
    let proxied = Proxied::start("transaction.abort.timed.out.transaction.cleanup.interval.ms=1000").await;
    let config = behind(&proxied, "too-long");
    let mut process = Process::new(&config);
    surely(&mut process, "Tax", 1).await;
    proxied.plan(Place::Before(Api::EndTxn, 1), Fault::Stop);
    process.recover().await.unwrap();
    let changes = [change("Tax", 2)];
    let (outcome, ()) = tokio::join!(process.publish(&changes), async {
        let deadline = Instant::now() + Duration::from_secs(90);
        // The broker's own word for it: the abort marker lets a committed reader pass.
        while !proxied.reached() {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let error = outcome.unwrap_err();
    println!("{error}; hint: {:?}", error.hint);
    assert!(matches!(error.kind, Kind::Unknown | Kind::Conflict), "{:?} {error}", error.kind);
    proxied.go_on();
    surely(&mut process, "Tax", 2).await;
    let records = consume(&proxied.broker.servers(), &config.topic, "read_committed");
    assert_eq!(records.len(), 2);
    assert_eq!(violations(&records), [""; 0]);
}

/// A waiting replica ends a transaction that is in its way once, not that of a process that is alive, again
/// and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_process_is_not_fenced_over_and_over() {
    let proxied = Proxied::start("").await;
    let slow = behind(&proxied, "slow");
    let quick = KafkaConfig { bootstrap_servers: proxied.broker.servers(), ..slow.clone() };
    let (mut slow, mut waiting) = (Process::new(&slow), Process::new(&quick));
    slow.recover().await.unwrap();
    let claim = Claim { instance: "slow".to_owned(), token: "t".to_owned(), reserved: 1, renewed: 0 };
    slow.state.claim = Some(claim);
    slow.publish(&[]).await.unwrap();
    waiting.recover().await.unwrap();
    for (services, conflicts) in [(["Tax"], true), (["Support"], false)] {
        proxied.plan(Place::Before(Api::EndTxn, 1), Fault::Stop);
        slow.recover().await.unwrap();
        let changes = services.map(|service| change(service, 1));
        let (outcome, ()) = tokio::join!(slow.publish(&changes), async {
            while !proxied.reached() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let looking = async { waiting.recover().await.unwrap() };
            let going_on = async {
                // A reader takes one that stands still for two seconds for one of a dead process.
                tokio::time::sleep(Duration::from_secs(5)).await;
                proxied.go_on();
            };
            tokio::join!(looking, going_on);
        });
        println!("{services:?}: {outcome:?}");
        assert_eq!(outcome.is_err(), conflicts, "{services:?}");
        slow.ledger.clear();
    }
    let records = consume(&proxied.broker.servers(), &quick.topic, "read_committed");
    assert_eq!(records.len(), 1);
}

/// A connection on which every answer takes more than a second.
#[tokio::test(flavor = "multi_thread")]
async fn slow_answers_are_waited_for() {
    let proxied = Proxied::start("").await;
    let config = behind(&proxied, "slow-answers");
    surely(&mut Process::new(&config), "Tax", 1).await;
    proxied.delay(Duration::from_millis(520));
    let mut process = Process::new(&config);
    process.recover().await.unwrap();
    process.publish(&[change("Tax", 2)]).await.unwrap();
    let records = consume(&proxied.broker.servers(), &config.topic, "read_committed");
    assert_eq!(records.len(), 2);
}

/// A broker that takes its time with the events does not make a lost state topic an empty one.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_is_noticed_however_slow_the_events_come() {
    let proxied = Proxied::start("").await;
    let reading = behind(&proxied, "lost-slowly");
    let writing = KafkaConfig { bootstrap_servers: proxied.broker.servers(), ..reading.clone() };
    surely(&mut Process::new(&writing), "Tax", 1).await;
    delete_topic(&writing.bootstrap_servers, &writing.state_topic).await;
    proxied.plan(Place::After(Api::Fetch, 1), Fault::Stop);
    let (outcome, ()) = tokio::join!(async { Process::new(&reading).recover().await }, async {
        while !proxied.reached() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        proxied.go_on();
    });
    let error = outcome.unwrap_err();
    assert_eq!(error.kind, Kind::StateMissing, "{error}");
}

/// An idle program asks the broker for nothing: a poll is over, the next one is hours away. The control
/// asks for metadata, as librdkafka does of its own accord: every five minutes, here every second.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_program_costs_the_broker_nothing() {
    for (name, more, quiet) in [
        ("idle", "", true),
        ("idle-control", "\n[kafka.librdkafka]\n\"topic.metadata.refresh.interval.ms\" = 1000\n", false),
    ] {
        let proxied = Proxied::start("").await;
        let home = Home::new(behind(&proxied, name), 3).await;
        home.write_config("8h", "2m", None, &[DEFAULT_ACCOUNT]);
        home.write_more(more);
        let service = Running(home.command(&["run"]).spawn().unwrap());
        wait_until("the first poll", || home.log().contains("waiting for the next poll"));
        let deadline = Instant::now() + Duration::from_secs(if quiet { 90 } else { 20 });
        let mut silent = false;
        while !silent && Instant::now() < deadline {
            let before = proxied.requests();
            pause(Duration::from_secs(10));
            silent = proxied.requests() == before;
        }
        assert_eq!(silent, quiet, "{name}");
        drop(service);
        assert!(!home.committed().is_empty());
    }
}

/// A queue that is full is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_waited_for() {
    let mut config = config(Broker::shared(), "queue");
    config.librdkafka.insert("queue.buffering.max.messages".to_owned(), "10".to_owned().into());
    let mut process = Process::new(&config);
    process.recover().await.unwrap();
    let names: Vec<String> = (0..300).map(|number| format!("Service {number}")).collect();
    let changes: Vec<_> = names.iter().map(|name| change(name, 1)).collect();
    let deliveries = process.publish(&changes).await.unwrap();
    assert!(deliveries.iter().all(|delivery| matches!(delivery, Delivery::Stored(_))));
    assert_eq!(consume(&config.bootstrap_servers, &config.topic, "read_committed").len(), 300);
}

/// A broker whose disk takes no more gives up; nothing is lost, and it goes on when there is room again.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_for() {
    let data = broker::folder().join("disk");
    let disk = SmallDisk::new(&data, 64);
    let jvm = Jvm { within: disk.within(), ..Jvm::default() };
    let mut broker = Broker::start_with("", &[], jvm, Some(&data));
    let config = config(&broker, "disk");
    let mut process = Process::new(&config);
    surely(&mut process, "Tax", 1).await;
    disk.fill();
    // More than what is left of the last page of any file.
    let names: Vec<String> = (0..2000).map(|number| format!("Service {number}")).collect();
    let changes: Vec<_> = names.iter().map(|name| change(name, 1)).collect();
    let error = process.publish(&changes).await.unwrap_err();
    println!("{:?}: {error}; hint: {:?}", error.kind, error.hint);
    assert!(matches!(error.kind, Kind::Unavailable | Kind::Unknown), "{error}");
    assert!(error.hint.unwrap().contains("broker"));
    process.ledger.clear();
    assert!(process.recover().await.is_err(), "the broker is down");
    broker.kill();
    disk.free();
    broker.restart();
    surely(&mut process, "Tax", 2).await;
    let records = consume(&config.bootstrap_servers, &config.topic, "read_committed");
    assert_eq!(violations(&records), [""; 0]);
    let tax = records.iter().filter(|record| record.key.ends_with("/tax")).count();
    assert_eq!((tax, records.len()), (2, 2), "what failed is not there");
}
