//! `--current`: the rule of a consumer, and what it adds up to.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{Home, event, events, line};

/// The revisions of one key in the wrong order, and twice: as a topic gives them after a crash.
fn shuffled() -> Vec<String> {
    let mut lines: Vec<_> = events(60).into_iter().map(line).collect();
    lines.reverse();
    let again = lines[..20].to_vec();
    lines.extend(again);
    lines.push(line(event("2026-03-01T13", "Tax", 4)));
    lines
}

#[test]
fn of_each_key_the_highest_revision_is_shown() {
    let lines = shuffled();
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for line in &lines {
        let event: Value = serde_json::from_str(line).unwrap();
        let known = expected.entry(event["partitionkey"].as_str().unwrap().to_owned()).or_default();
        *known = (*known).max(event["revision"].as_u64().unwrap());
    }
    let home = Home::local(&lines);
    let ran = home.run(&["replay", "--current"]).fine();
    let shown: BTreeMap<_, _> = ran
        .lines()
        .into_iter()
        .map(|line| {
            let key: Value = serde_json::from_str(line).unwrap();
            let revision = key["revision"].as_u64().unwrap();
            assert_eq!(key["unblendedCost"]["amount"], format!("0.{revision:02}"));
            (key["key"].as_str().unwrap().to_owned(), revision)
        })
        .collect();
    assert_eq!(shown, expected);
}

#[test]
fn totals_are_by_day_service_or_account() {
    let home = Home::local(&shuffled());
    let mut all = String::new();
    for by in ["day", "service", "account"] {
        let ran =
            home.run(&["replay", "--current", "--by", by, "--from", "2026-03-01", "--to", "2026-03-02"]);
        all.push_str(&ran.fine().stdout);
        all.push('\n');
    }
    insta::assert_snapshot!(all);
}

#[test]
fn tables_of_the_current_state() {
    let home = Home::local(&shuffled());
    let range = ["--to", "2026-03-01", "--format", "table"];
    let keys = home.run(&[&["replay", "--current"], &range[..]].concat()).fine();
    let days = home.run(&[&["replay", "--current", "--by", "day"], &range[..]].concat()).fine();
    insta::assert_snapshot!(format!("{}\n{}", keys.stdout, days.stdout));
}
