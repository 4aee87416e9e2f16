//! A file of JSON lines, with the real binary.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use amazon_billing_source::{
    clock::Clock,
    consume::{Bound, ReadOptions, Reader, Start},
};

use crate::support::{Home, event, event_at, events, id, line, text};

fn lines(count: u32) -> Vec<String> {
    events(count).into_iter().map(line).collect()
}

#[test]
fn a_file_is_replayed_byte_for_byte() {
    let lines = lines(40);
    let home = Home::local(&lines);
    let ran = home.run(&["replay"]).fine();
    assert_eq!(ran.lines(), lines);
    let ran = home.run(&["replay", "--file", "events.jsonl", "--limit", "3"]).fine();
    assert_eq!(ran.lines(), lines[..3]);
    assert_eq!(fs::read_dir(home.path("")).unwrap().count(), 2, "nothing was written");
}

#[test]
fn filters_choose_events() {
    let lines = lines(27);
    let home = Home::local(&lines);
    let check = |flags: &[&str], wanted: &dyn Fn(&str) -> bool| {
        let ran = home.run(&[&["replay"], flags].concat()).fine();
        let expected: Vec<_> = lines.iter().filter(|line| wanted(line)).collect();
        assert!(!expected.is_empty() && expected.len() < lines.len(), "{flags:?}");
        assert_eq!(ran.lines(), expected, "{flags:?}");
    };
    let ec2 = |line: &str| line.contains("Elastic Compute Cloud");
    check(&["--service", "Amazon Elastic Compute Cloud - Compute"], &ec2);
    let slug = amazon_billing_source::cost::slug("Amazon Elastic Compute Cloud - Compute");
    check(&["--service", &slug], &ec2);
    check(&["--service", "Tax", "--service", &slug], &|line| ec2(line) || line.contains("\"Tax\""));
    check(&["--change", "new"], &|line| line.contains(r#""change":"new""#));
    check(&["--from", "2026-03-02"], &|line| !line.contains("2026-03-01/"));
    check(&["--from", "2026-03-02", "--to", "2026-03-02"], &|line| line.contains("/2026-03-02/"));
    check(&["--filter", r#"{"exact":{"revision":"2"}}"#], &|line| line.contains(r#""revision":2"#));
    check(
        &[
            "--filter",
            r#"{"suffix":{"subject":"/tax"}}"#,
            "--filter",
            r#"{"not":{"exact":{"change":"new"}}}"#,
        ],
        &|line| line.contains("\"Tax\"") && !line.contains(r#""change":"new""#),
    );
    for flags in [&["--account", "999999999999"], &["--granularity", "hourly"]] {
        assert_eq!(home.run(&[&["replay"], &flags[..]].concat()).fine().stdout, "", "{flags:?}");
    }
}

#[test]
fn reading_begins_and_ends_where_it_is_told() {
    let times =
        ["2026-03-02T00:00:00Z", "2026-03-02T08:00:00Z", "2026-03-02T16:00:00Z", "2026-03-03T00:00:00Z"];
    let lines: Vec<_> = (1..)
        .zip(times)
        .map(|(revision, time)| line(event_at("2026-03-01", "Tax", revision, time)))
        .collect();
    let home = Home::local(&lines);
    for (flags, expected) in [
        (&["--from-position", "3"][..], 2..4),
        (&["--from-position", "5"], 4..4),
        (&["--since", "2026-03-02T08:00:00Z"], 1..4),
        (&["--since", "2026-03-02T08:00:00Z", "--until", "2026-03-03"], 1..3),
        (&["--until", "2026-03-02T08:00:00Z"], 0..1),
    ] {
        let ran = home.run(&[&["replay"], flags].concat()).fine();
        assert_eq!(ran.lines(), lines[expected], "{flags:?}");
    }
}

#[test]
fn what_cannot_be_read_is_said_with_what_to_do() {
    let home = Home::local(&lines(4));
    home.write("stdout.toml", "");
    let mut all = String::new();
    for args in [
        &["replay", "--from-position", "6"][..],
        &["replay", "--from-position", "0"],
        &["replay", "--partition", "0"],
        &["replay", "--since", "2999-01-01"],
        &["tail", "--until", "2020-01-01"],
        &["replay", "--from", "2026-03-02", "--to", "2026-03-01"],
        &["replay", "--file", "missing.jsonl"],
        &["replay", "--file", "."],
        &["tail", "--config", "stdout.toml"],
        &["replay", "--filter", r#"{"sql":"type = 'x'"}"#],
        &["replay", "--name", "a/b"],
        &["replay", "--current", "--name", "x"],
    ] {
        let config = if args.contains(&"--config") { &[][..] } else { &["--config", "billing.toml"] };
        let output = home.command(&[&args[..1], config, &args[1..]].concat()).output().unwrap();
        assert!(output.stdout.is_empty(), "{args:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        let said: Vec<_> = stderr.lines().filter(|line| !line.contains(" INFO ")).collect();
        let (said, code) = (said.join("\n"), output.status.code().unwrap());
        writeln!(all, "$ {}\n{said}\nexit {code}\n", args.join(" ")).unwrap();
    }
    insta::assert_snapshot!(all);
}

#[test]
fn what_is_no_event_is_left_out_counted_and_shown_when_asked() {
    let good = lines(3);
    let newer = good[0].replace("/1.0.0.json", "/2.0.0.json");
    let other = r#"{"specversion":"1.0","id":"1","source":"x","type":"com.example.other"}"#;
    let mut all = good.clone();
    all.insert(1, good[2][..60].to_owned());
    all.insert(2, "\u{feff}hello".to_owned());
    all.push(other.to_owned());
    all.push(newer);
    all.push(String::new());
    let home = Home::local(&all);
    home.append("events.jsonl", &good[0][..100]);

    let ran = home.run(&["replay"]).fine();
    assert_eq!(ran.lines(), good);
    for expected in [
        "it is no JSON object: byte 60",
        "messages=4",
        "`--all` shows them",
        "the last line has no end",
        "bytes=100",
    ] {
        assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
    }

    let ran = home.run(&["replay", "--all"]).fine();
    let shown: Vec<_> = ran.lines().into_iter().filter(|line| line.contains("notAnEvent")).collect();
    insta::assert_snapshot!(shown.join("\n"));
    assert_eq!(ran.lines().len(), 7);
    assert!(!ran.stderr.contains("WARN a message"), "{}", ran.stderr);
}

#[test]
fn a_growing_file_is_followed_also_into_a_new_one() {
    let lines = lines(9);
    let home = Home::local(&lines[..2]);
    let running = home.start(&["tail", "--from-beginning"]);
    running.wait_for(2);
    // A line counts once it has its end.
    home.append("events.jsonl", &lines[2][..50]);
    home.append("events.jsonl", &format!("{}\n{}\n", &lines[2][50..], lines[3]));
    running.wait_for(4);
    fs::rename(home.path("events.jsonl"), home.path("events.1")).unwrap();
    home.append("events.1", &format!("{}\n", lines[4]));
    home.write("events.jsonl", &format!("{}\n{}\n", lines[5], lines[6]));
    running.wait_for(7);
    home.append("events.jsonl", &format!("{}\n", lines[7]));
    let seen = running.wait_for(8);
    assert_eq!(seen, lines[..8]);

    let ran = running.interrupt();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let said: Vec<_> = ran.stderr.lines().filter(|line| !line.contains("rotated")).collect();
    assert_eq!(said, [""; 0], "an interrupt ends it without a word");
}

/// An end that lies ahead is that of all files: what was written before it may be in the next one.
#[test]
fn an_end_to_come_is_looked_for_in_the_next_file_too() {
    let lines = lines(6);
    let now = || amazon_billing_source::clock::Clock::system().now();
    loop {
        let home = Home::local(&lines[..2]);
        // Its events are of long ago, and count.
        let until = now() + jiff::SignedDuration::from_secs(4);
        let mut running = home.start(&["replay", "--until", &until.to_string()]);
        running.wait_for(2);
        while now() < until - jiff::SignedDuration::from_millis(700) {
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
        fs::rename(home.path("events.jsonl"), home.path("events.1")).unwrap();
        home.append("events.1", &text(&lines[2..3]));
        home.write("events.jsonl", &text(&lines[3..]));
        let in_time = now() < until;
        let ran = running.ended();
        // Else the machine was too slow for it.
        if in_time {
            let all = lines.iter().map(|line| &**line).collect::<Vec<_>>();
            assert_eq!((ran.code, ran.lines()), (Some(0), all), "{}", ran.stderr);
            return;
        }
    }
}

/// Files that are renamed one after the other while nobody reads on are read one after the other.
#[tokio::test]
async fn no_file_is_left_out_however_slowly_it_is_read() {
    let lines = lines(4_000);
    let home = Home::local(&lines[..3_000]);
    let options = ReadOptions {
        start: Start::Beginning,
        bound: Bound::Follow,
        partition: None,
        name: None,
        clock: Clock::system(),
    };
    let mut reader = Reader::open_file(&home.path("events.jsonl"), options).await.unwrap();
    for (number, more) in [3_000..3_500, 3_500..4_000].into_iter().enumerate() {
        fs::rename(home.path("events.jsonl"), home.path(&format!("events.{number}"))).unwrap();
        home.write("events.jsonl", &text(&lines[more]));
        // It is looked at once a second while nobody reads on.
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    }
    for line in &lines {
        let received = reader.next().await.unwrap().unwrap();
        assert!(received.bytes() == line.as_bytes(), "not {line}");
    }
}

/// Whoever does not take what is shown does not keep the program from ending.
#[test]
fn a_signal_ends_what_nobody_reads() {
    for more in [&["--name", "slow"][..], &[]] {
        let home = Home::local(&lines(20_000));
        let mut command = home.command(&[&["replay", "--config", "billing.toml"], more].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        crate::pause(std::time::Duration::from_secs(2));
        let pid = child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if std::time::Instant::now() > deadline {
                child.kill().unwrap();
                panic!("it does not end: {more:?}");
            }
            crate::pause(std::time::Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(0), "{more:?}");
    }
}

#[test]
fn tail_begins_at_the_end_and_stops_at_its_limit() {
    let lines = lines(9);
    let home = Home::local(&lines[..4]);
    let mut running = home.start(&["tail", "--limit", "2", "--log", "debug"]);
    // Not before it has looked where the end is: then the line below would not be new.
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    let mut more = lines[4..].iter().cycle();
    while running.lines().len() < 2 {
        assert!(std::time::Instant::now() < deadline);
        home.append("events.jsonl", &format!("{}\n", more.next().unwrap()));
        crate::pause(std::time::Duration::from_millis(100));
    }
    let ran = running.ended();
    assert_eq!((ran.code, ran.lines().len()), (Some(0), 2), "{}", ran.stderr);
    assert!(ran.lines().iter().all(|line| !lines[..4].iter().any(|old| old == line)));
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let home = Home::local(&lines(20_000));
    let mut command = home.command(&["replay", "--config", "billing.toml"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    id(&first);
}

#[test]
fn a_table_is_for_people() {
    let mut lines = lines(5);
    lines.push("hello".to_owned());
    let two_metrics = line(event("2026-03-02", "Amazon Elastic Container Service for Kubernetes", 1))
        .replace(
            r#""unblendedCost":{"#,
            r#""amortizedCost":{"amount":"7.5","unit":"USD"},"unblendedCost":{"#,
        );
    lines.push(two_metrics);
    let home = Home::local(&lines);
    let ran = home.run(&["replay", "--format", "table", "--all"]).fine();
    insta::assert_snapshot!(ran.stdout);
}
