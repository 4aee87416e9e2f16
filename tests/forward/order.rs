//! Order, position and independence, on a file.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    endpoint::{Endpoint, answer, assert_complete, by_key, taken},
    eventually,
    home::{Home, events},
};

/// A number from a text, the same in every run.
fn chance(text: &str) -> u64 {
    text.bytes().fold(7, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)))
}

/// Answers take their time, each differently, and one event of every key is not taken at first.
#[test]
fn a_key_keeps_its_order_while_others_overtake_it() {
    for mode in ["structured", "binary", "batch"] {
        let failed = Mutex::new(HashSet::new());
        let endpoint = Endpoint::start(move |call| {
            let first = &call.events[0];
            let pause = Duration::from_millis(chance(&first.id) % 20);
            if first.revision % 4 == 2 && failed.lock().unwrap().insert(first.key.clone()) {
                return answer(503).after(pause);
            }
            taken().after(pause)
        });
        let home = Home::with(&events(12, 8));
        home.once("order", &endpoint.url(), &["--mode", mode, "--concurrency", "6", "--batch-size", "5"]);
        let repeated = assert_complete(&endpoint.taken(), 12, 8);
        assert_eq!(repeated, 0, "nothing was interrupted");
        let (of_a_key, at_all) = endpoint.at_once();
        assert_eq!(of_a_key, 1, "{mode}: events of one key were under way side by side");
        assert!((2..=6).contains(&at_all), "{mode}: {at_all} at once");
    }
}

#[test]
fn a_second_run_goes_on_where_the_first_ended() {
    let endpoint = Endpoint::start(|_| taken());
    let home = Home::with(&events(3, 2));
    home.once("a", &endpoint.url(), &[]);
    assert_eq!(endpoint.calls().len(), 6);
    home.once("a", &endpoint.url(), &[]);
    assert_eq!(endpoint.calls().len(), 6, "nothing new");
    home.write("events.jsonl", &crate::home::lines(&events(3, 3)));
    home.once("a", &endpoint.url(), &[]);
    assert_complete(&endpoint.taken(), 3, 3);
    assert_eq!(endpoint.calls().len(), 9);
}

/// Killed again and again: everything arrives, in order, and what arrives twice has its id.
#[test]
fn killed_at_any_moment_nothing_is_lost() {
    let endpoint = Endpoint::start(|call| taken().after(Duration::from_millis(call.number as u64 % 7)));
    let home = Home::with(&events(40, 25));
    let mut kills = 0;
    for wanted in [60, 250, 480, 700] {
        let running = home.start(&["--name", "k", "--endpoint", &endpoint.url()]);
        eventually("some events arrive", || endpoint.taken().len() >= wanted);
        running.kill();
        kills += 1;
    }
    home.once("k", &endpoint.url(), &[]);
    let repeated = assert_complete(&endpoint.taken(), 40, 25);
    // Of half a second each, and never everything.
    assert!(repeated < 4 * 700, "{repeated} of 1000 came again after {kills} kills");
}

/// Control: with the position lost, everything comes again; so it is the position that keeps it.
#[test]
fn without_its_position_a_name_begins_anew() {
    let endpoint = Endpoint::start(|_| taken());
    let home = Home::with(&events(5, 1));
    home.once("p", &endpoint.url(), &[]);
    std::fs::remove_file(home.path("events.jsonl.p.position")).unwrap();
    home.once("p", &endpoint.url(), &[]);
    assert_eq!(assert_complete(&endpoint.taken(), 5, 1), 5);
}

/// One endpoint hangs; the other forwarder does not notice. Each has a filter of its own.
#[test]
fn names_do_not_know_of_each_other() {
    let stuck = Endpoint::start(|_| taken().after(crate::DEADLINE));
    let well = Endpoint::start(|_| taken());
    let home = Home::with(&events(6, 3));
    let one = home.start(&["--name", "one", "--endpoint", &stuck.url()]);
    eventually("the stuck one is asked", || !stuck.calls().is_empty());
    home.once(
        "two",
        &well.url(),
        &["--change", "revised", "--service", "Service 1", "--service", "Service 4"],
    );
    let got = well.taken();
    let keys = by_key(&got);
    assert_eq!(keys.values().collect::<Vec<_>>(), [&[2, 3], &[2, 3]], "{keys:?}");
    assert!(keys.keys().all(|key| key.contains("service-1") || key.contains("service-4")), "{keys:?}");
    let three = r#"{"prefix": {"subject": "2026-03-01/service-0"}}"#;
    home.once("three", &well.url(), &["--filter", three]);
    assert_eq!(by_key(&well.taken()[4..]).values().collect::<Vec<_>>(), [&[1, 2, 3]]);
    assert!(stuck.taken().is_empty());
    one.kill();
}

#[test]
fn a_name_may_begin_at_the_end_and_then_misses_nothing() {
    let endpoint = Endpoint::start(|_| taken());
    let home = Home::with(&events(4, 1));
    let args = ["--name", "e", "--start", "end", "--endpoint", &endpoint.url()];
    let running = home.start(&args);
    running.wait_for("forwarding");
    running.kill();
    home.write("events.jsonl", &crate::home::lines(&events(4, 2)));
    home.once("e", &endpoint.url(), &["--start", "end"]);
    assert_eq!(endpoint.taken().iter().map(|got| got.revision).collect::<Vec<_>>(), [2; 4]);
}

#[test]
fn a_running_forwarder_follows_what_is_written() {
    let endpoint = Endpoint::start(|_| taken());
    let home = Home::with(&events(4, 1));
    let running = home.start(&["--name", "f", "--endpoint", &endpoint.url()]);
    eventually("what was there", || endpoint.taken().len() == 4);
    home.write("more", &crate::home::lines(&events(4, 2)[4..]));
    let more = home.read("more");
    let mut file = std::fs::File::options().append(true).open(home.path("events.jsonl")).unwrap();
    std::io::Write::write_all(&mut file, more.as_bytes()).unwrap();
    eventually("what came", || endpoint.taken().len() == 8);
    assert_complete(&endpoint.taken(), 4, 2);
    running.signal("TERM");
    assert_eq!(running.end().0, Some(0));
}

/// The lines of a new file are counted from 1 again, while those of the old one are still under way.
#[test]
fn a_rotated_file_loses_no_event_of_either() {
    let open = Arc::new(AtomicBool::new(false));
    let takes = Arc::clone(&open);
    let endpoint =
        Endpoint::start(move |_| if takes.load(Ordering::Relaxed) { taken() } else { answer(503) });
    let home = Home::with(&events(4, 1));
    let running = home.start(&["--name", "r", "--endpoint", &endpoint.url()]);
    eventually("the old file is read", || endpoint.calls().len() >= 4);
    home.write("new", &crate::home::lines(&events(4, 2)[4..]));
    std::fs::rename(home.path("events.jsonl"), home.path("events.jsonl.1")).unwrap();
    std::fs::rename(home.path("new"), home.path("events.jsonl")).unwrap();
    running.wait_for("the file was rotated");
    open.store(true, Ordering::Relaxed);
    eventually("all of both", || endpoint.taken().len() == 8);
    assert_complete(&endpoint.taken(), 4, 2);
    running.signal("TERM");
    assert_eq!(running.end().0, Some(0));
    // The position is one in the new file.
    let ran = home.once("r", &endpoint.url(), &[]);
    assert_eq!(endpoint.taken().len(), 8, "{}", ran.stderr);
}

/// A name belongs to one process at a time where the position is a file.
#[test]
fn a_second_process_of_a_name_is_refused() {
    let endpoint = Endpoint::start(|_| taken());
    let home = Home::with(&events(1, 1));
    let running = home.start(&["--name", "n", "--endpoint", &endpoint.url()]);
    eventually("it has the name", || !endpoint.taken().is_empty());
    let ran = home.run(&["--name", "n", "--endpoint", &endpoint.url()]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("another process reads `events.jsonl` as `n`"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: "), "{}", ran.stderr);
    running.kill();
}

/// What is no event is passed over, told and counted; a line that is torn is no event yet.
#[test]
fn what_is_no_event_is_passed_over_and_told() {
    let endpoint = Endpoint::start(|_| taken());
    let home = Home::new();
    let lines = crate::home::lines(&events(2, 1));
    let (first, second) = lines.split_once('\n').unwrap();
    let other = r#"{"specversion":"1.0","id":"1","source":"s","type":"com.example.other","data":{}}"#;
    home.write("events.jsonl", &format!("{first}\nhello\n{other}\n{second}"));
    let ran = home.once("o", &endpoint.url(), &[]);
    assert_complete(&endpoint.taken(), 2, 1);
    let told: Vec<_> = ran.stderr.lines().filter(|line| line.contains("passed over")).collect();
    assert_eq!(told.len(), 2, "{}", ran.stderr);
    assert!(told[0].contains("position=2") && told[1].contains("com.example.other"), "{}", ran.stderr);
    assert!(ran.stderr.contains("not_ours=2"), "{}", ran.stderr);
    home.once("o", &endpoint.url(), &[]);
    assert_eq!(endpoint.calls().len(), 2, "passed over for good");
}
