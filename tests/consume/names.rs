//! A name's position in a file.

use std::fs;

use crate::support::{Home, event_at, events, line, text};

/// Longer than a position is kept back.
const COMMITTED: std::time::Duration = std::time::Duration::from_millis(1500);

fn lines(count: u32) -> Vec<String> {
    events(count).into_iter().map(line).collect()
}

#[test]
fn a_name_goes_on_where_it_has_been() {
    let lines = lines(9);
    let home = Home::local(&lines[..4]);
    assert_eq!(home.run(&["replay", "--name", "alerts"]).fine().lines(), lines[..4]);
    assert_eq!(home.run(&["replay", "--name", "alerts"]).fine().stdout, "");
    home.append("events.jsonl", &format!("{}\n{}\n", lines[4], lines[5]));
    assert_eq!(home.run(&["replay"]).fine().lines(), lines[..6], "nobody's position is touched");
    assert_eq!(home.run(&["replay", "--name", "alerts", "--limit", "1"]).fine().lines(), lines[4..5]);
    assert_eq!(home.run(&["replay", "--name", "alerts"]).fine().lines(), lines[5..6]);
    assert_eq!(home.run(&["replay", "--name", "other", "--from-position", "6"]).fine().lines(), lines[5..6]);
    // What the filter leaves out is done with as well.
    home.append("events.jsonl", &format!("{}\n", lines[6]));
    assert_eq!(home.run(&["replay", "--name", "alerts", "--granularity", "hourly"]).fine().stdout, "");
    assert_eq!(home.run(&["replay", "--name", "alerts"]).fine().stdout, "");
}

#[test]
fn a_tail_from_the_end_stays_there_before_the_first_event() {
    let lines = lines(9);
    let home = Home::local(&lines[..4]);
    let running = home.start(&["tail", "--name", "alerts"]);
    let position = home.path("events.jsonl.alerts.position");
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    while !position.exists() {
        assert!(std::time::Instant::now() < deadline);
        crate::pause(std::time::Duration::from_millis(20));
    }
    running.kill();
    home.append("events.jsonl", &format!("{}\n", lines[4]));
    assert_eq!(home.run(&["replay", "--name", "alerts"]).fine().lines(), lines[4..5]);
}

#[test]
fn after_kill_9_nothing_is_missing() {
    let lines = lines(5_000);
    let home = Home::local(&lines);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let running = home.start(&["replay", "--name", "alerts", "--follow"]);
        running.wait_for(100);
        seen.extend(running.kill());
    }
    seen.extend(home.run(&["replay", "--name", "alerts"]).fine().lines().into_iter().map(str::to_owned));
    for line in &lines {
        assert!(seen.contains(line), "{line}");
    }
}

/// Where to begin is asked once. Under a name nothing is passed over for its time, and what lies behind the
/// end is left for later.
#[test]
fn times_are_for_the_first_time() {
    let at = |service: &str, time: &str| line(event_at("2026-03-01", service, 1, time));
    let lines = [
        at("A", "2026-03-02T06:00:00Z"),
        at("B", "2026-03-02T07:00:00Z"),
        at("C", "2026-03-02T06:30:00Z"),
        at("D", "2026-03-02T08:00:00Z"),
        at("E", "2026-03-02T07:30:00Z"),
    ];
    let home = Home::local(&lines[..2]);
    let since = ["replay", "--name", "alerts", "--since", "2026-03-02T07:00:00Z"];
    assert_eq!(home.run(&since).fine().lines(), lines[1..2]);
    home.append("events.jsonl", &text(&lines[2..]));
    let until = [&since[..], &["--until", "2026-03-02T07:45:00Z"]].concat();
    assert_eq!(home.run(&until).fine().lines(), lines[2..3]);
    assert_eq!(home.run(&since).fine().lines(), lines[3..]);
    let unnamed = ["replay", "--since", "2026-03-02T07:00:00Z", "--until", "2026-03-02T07:45:00Z"];
    assert_eq!(home.run(&unnamed).fine().lines(), [&*lines[1], &*lines[4]]);
}

/// A name that was there when the file was renamed is at the beginning of the next one.
#[test]
fn a_name_follows_from_file_to_file() {
    let lines = lines(6);
    let home = Home::local(&lines[..2]);
    let name = ["replay", "--name", "alerts", "--follow"];
    let running = home.start(&name);
    running.wait_for(2);
    crate::pause(COMMITTED);
    fs::rename(home.path("events.jsonl"), home.path("events.1")).unwrap();
    home.write("events.jsonl", "");
    let position = || fs::read_to_string(home.path("events.jsonl.alerts.position")).unwrap();
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    while !position().contains("\"lines\":0") {
        assert!(std::time::Instant::now() < deadline, "{}", position());
        crate::pause(std::time::Duration::from_millis(20));
    }
    running.kill();
    let running = home.start(&name);
    home.append("events.jsonl", &text(&lines[2..4]));
    assert_eq!(running.wait_for(2), lines[2..4]);
    crate::pause(COMMITTED);
    running.kill();
}

/// The beginning of a file that is gone is not that of the next one: what was in it would be left out.
#[test]
fn a_file_that_was_not_begun_is_missed() {
    let lines = lines(4);
    let home = Home::local(&[]);
    let running = home.start(&["replay", "--name", "alerts", "--follow"]);
    crate::pause(COMMITTED);
    running.kill();
    home.append("events.jsonl", &text(&lines[..2]));
    fs::rename(home.path("events.jsonl"), home.path("events.1")).unwrap();
    home.write("events.jsonl", &text(&lines[2..]));
    let ran = home.run(&["replay", "--name", "alerts"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("it was rotated, replaced or cut since"), "{}", ran.stderr);
}

/// The last line's end comes after the line was read: it is no line of its own.
#[test]
fn a_line_whose_end_comes_later_is_counted_once() {
    let lines = lines(3);
    let home = Home::local(&lines[..1]);
    home.append("events.jsonl", &lines[1]);
    home.run(&["replay", "--name", "alerts"]).fine();
    home.append("events.jsonl", &format!("\n{}\n", lines[2]));
    assert_eq!(home.run(&["replay", "--name", "alerts"]).fine().lines(), lines[2..]);
    let position = fs::read_to_string(home.path("events.jsonl.alerts.position")).unwrap();
    assert!(position.contains("\"lines\":3"), "{position}");
}

#[test]
fn one_name_is_one_process() {
    let home = Home::local(&lines(3));
    let running = home.start(&["tail", "--from-beginning", "--name", "alerts"]);
    running.wait_for(3);
    let ran = home.run(&["replay", "--name", "alerts"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("another process reads `events.jsonl` as `alerts`"), "{}", ran.stderr);
    running.interrupt();
    home.run(&["replay", "--name", "alerts"]).fine();
}

#[test]
fn a_replaced_file_is_not_read_on() {
    let lines = lines(9);
    let home = Home::local(&lines[..4]);
    home.run(&["replay", "--name", "alerts"]).fine();
    for other in [&lines[4..9], &lines[..3], &[]] {
        home.write("events.jsonl", &text(other));
        let ran = home.run(&["replay", "--name", "alerts"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
        assert!(ran.stderr.contains("it was rotated, replaced or cut since"), "{}", ran.stderr);
    }
    // A copy is as good: what was read is where it was.
    home.write("copy", &text(&lines[..5]));
    fs::rename(home.path("copy"), home.path("events.jsonl")).unwrap();
    assert_eq!(home.run(&["replay", "--name", "alerts"]).fine().lines(), lines[4..5]);
}

#[test]
fn a_position_that_cannot_be_read_is_said() {
    let home = Home::local(&lines(2));
    home.write("events.jsonl.alerts.position", "hello");
    let ran = home.run(&["replay", "--name", "alerts"]);
    assert_eq!(ran.code, Some(78), "{}", ran.stderr);
    assert!(ran.stderr.contains("is no position this program can read"), "{}", ran.stderr);
}
