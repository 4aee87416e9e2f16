//! A name's position in a file.

use std::fs;

use crate::support::{Home, events, line, text};

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
