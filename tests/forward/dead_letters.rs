//! Events that are not taken, put aside in a file. The brokers' forms are in `brokers`.

use serde_json::Value;

use crate::{
    endpoint::{Endpoint, answer, assert_complete, by_key, taken},
    home::{Home, events, lines},
};

const BATCH: &str = "application/cloudevents-batch+json";

/// Which events the endpoint does not take.
fn poison(key: &str, revision: u64) -> bool {
    key.contains("service-1") && revision == 2
}

#[test]
fn a_refused_event_is_put_aside_and_the_others_go_on() {
    for mode in ["structured", "binary", "batch"] {
        let endpoint = Endpoint::start(|call| {
            let refused = call.events.iter().any(|got| poison(&got.key, got.revision));
            if refused { answer(422).says("not this one") } else { taken() }
        });
        let written = events(5, 3);
        let home = Home::with(&written);
        let args = ["--mode", mode, "--dead-letter", "dead.jsonl"];
        let ran = home.once("d", &endpoint.url(), &args);
        let got = endpoint.taken();
        assert_eq!(got.len(), 14, "{mode}");
        assert!(by_key(&got).values().all(|came| *came == [1, 2, 3] || *came == [1, 3]), "{got:?}");

        if mode == "batch" {
            let all_batches = |call: &crate::endpoint::Call| call.headers["content-type"] == BATCH;
            assert!(endpoint.calls().iter().all(all_batches), "also of one event");
        }

        let dead = home.json_lines("dead.jsonl");
        assert_eq!(dead.len(), 1, "{mode}: {dead:?}");
        let expected: Value = serde_json::from_str(lines(&written).lines().nth(6).unwrap()).unwrap();
        assert_eq!(dead[0]["event"], expected, "the event as it was");
        assert_eq!(dead[0]["reason"], "it answered 422 Unprocessable Entity: not this one");
        assert_eq!((&dead[0]["status"], &dead[0]["attempts"]), (&422.into(), &1.into()));
        assert_eq!((&dead[0]["forwarder"], &dead[0]["position"]), (&"d".into(), &7.into()));
        assert!(ran.stderr.contains("an event is among the dead letters"), "{}", ran.stderr);
        assert!(ran.stderr.contains("delivered=14 dead_letters=1"), "{}", ran.stderr);
        home.once("d", &endpoint.url(), &args);
        assert_eq!(home.json_lines("dead.jsonl").len(), 1, "done with");
    }
}

/// The file can be given to the endpoint again once it is mended: its events are the file's last member.
#[test]
fn what_was_put_aside_can_be_delivered_later() {
    let endpoint = Endpoint::start(|call| if call.events[0].revision == 2 { answer(400) } else { taken() });
    let home = Home::with(&events(3, 3));
    home.once("d", &endpoint.url(), &["--dead-letter", "dead.jsonl"]);
    let again: String =
        home.json_lines("dead.jsonl").iter().map(|dead| format!("{}\n", dead["event"])).collect();
    let later = Home::new();
    later.write("events.jsonl", &again);
    let well = Endpoint::start(|_| taken());
    later.once("d", &well.url(), &[]);
    assert!(well.taken().iter().all(|got| got.revision == 2));
    assert_eq!(well.taken().len(), 3);
}

#[test]
fn an_event_that_is_given_up_is_put_aside() {
    let endpoint = Endpoint::start(|call| {
        let bad = call.events.iter().any(|got| poison(&got.key, got.revision));
        if bad { answer(503) } else { taken() }
    });
    let home = Home::with(&events(3, 3));
    let ran = home.once("g", &endpoint.url(), &["--retry-for", "1s", "--dead-letter", "dead.jsonl"]);
    let dead = home.json_lines("dead.jsonl");
    assert_eq!(dead.len(), 1, "{}", ran.stderr);
    assert_eq!(dead[0]["event"]["revision"], 2);
    assert_eq!(dead[0]["status"], 503);
    assert!(dead[0]["attempts"].as_u64().unwrap() >= 2, "{}", dead[0]);
    assert_eq!(endpoint.taken().len(), 8);
}

/// Killed between the two: it may be among the dead letters twice, and is never missing.
#[test]
fn dead_letters_survive_a_kill() {
    let endpoint = Endpoint::start(|call| {
        let refused = call.events[0].revision % 2 == 0;
        if refused { answer(400) } else { taken() }
    });
    let home = Home::with(&events(30, 10));
    let args = ["--name", "k", "--endpoint", &endpoint.url(), "--dead-letter", "dead.jsonl"];
    for wanted in [20, 70] {
        let running = home.start(&args);
        crate::eventually("some are put aside", || home.read("dead.jsonl").lines().count() >= wanted);
        running.kill();
    }
    home.once("k", &endpoint.url(), &args[4..]);
    let mut all = endpoint.taken();
    // What a kill cut off has an end and is no event; what it was is there whole, too.
    for line in home.read("dead.jsonl").lines() {
        if let Ok(dead) = serde_json::from_str::<Value>(line) {
            all.push(crate::endpoint::Got {
                id: dead["event"]["id"].as_str().unwrap().to_owned(),
                key: dead["event"]["partitionkey"].as_str().unwrap().to_owned(),
                revision: dead["event"]["revision"].as_u64().unwrap(),
            });
        }
    }
    all.sort_by_key(|got| got.revision);
    assert_complete(&all, 30, 10);
}

/// A place that cannot be written ends the run; the event is the next start's.
#[test]
fn a_full_place_ends_the_run() {
    let endpoint = Endpoint::start(|_| answer(400));
    let home = Home::with(&events(2, 1));
    let args = ["--name", "f", "--endpoint", &endpoint.url(), "--dead-letter"];
    let ran = home.run(&[&args[..], &["/dev/full"]].concat());
    assert_eq!(ran.code, Some(69), "{}", ran.stderr);
    assert!(ran.stderr.contains("could not write dead letters to `/dev/full`"), "{}", ran.stderr);
    let ran = home.run(&[&args[..], &["no/such/folder"]].concat());
    assert_eq!(ran.code, Some(69), "{}", ran.stderr);
    assert!(ran.stderr.contains("its folder must exist"), "{}", ran.stderr);
    let well = Endpoint::start(|_| taken());
    home.once("f", &well.url(), &[]);
    assert_complete(&well.taken(), 2, 1);
}
