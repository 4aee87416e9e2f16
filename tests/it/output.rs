//! Where events go: a pipe that closes, a file that was cut, a state that is gone.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::Stdio,
};

use crate::support::{Aws, Home, Log};

/// stdout is closed before the first event: exit 69, nothing lost, and nothing paid for twice.
#[test]
fn a_closed_pipe_loses_nothing() {
    let aws = Aws::now();
    let home = Home::on(&aws.url()).set("local.output", "-");
    let mut child = home
        .command(["run", "--config", "billing.toml", "--once"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(69), "{said}");
    assert!(said.contains("the reader has gone; nothing is lost"), "{said}");

    // The next run writes it out before it asks AWS for more.
    let ran = home.once_complete();
    let log = Log::parse(&ran.stdout);
    let clean = Home::on(&aws.url()).set("local.output", "-");
    assert_eq!(log.contents(), Log::parse(&clean.once_complete().stdout).contents());
    assert_eq!(home.once_complete().stdout, "", "and does not write it again");
}

/// Invented figures do not come beside real ones.
#[test]
fn a_demonstration_has_an_output_of_its_own() {
    let aws = Aws::now();
    let home = Home::on(&aws.url());
    home.once_complete();
    let before = home.log().contents();
    let ran = home.run(&["demo", "--config", "billing.toml", "--fast"]);
    assert_eq!(ran.code, Some(78), "{}", ran.stderr);
    assert!(ran.stderr.contains("no invented ones are added"), "{}", ran.stderr);
    assert_eq!(home.log().contents(), before);
}

/// The reader goes away in the middle of an event, as `head -c` does.
#[test]
fn a_reader_that_leaves_in_the_middle_gets_the_rest_from_the_next_run() {
    let aws = Aws::now();
    let home = Home::on(&aws.url()).set("local.output", "-");
    let mut child = home
        .command(["run", "--config", "billing.toml", "--once"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut reader = BufReader::with_capacity(512, child.stdout.take().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    drop(reader);
    assert_eq!(child.wait().unwrap().code(), Some(69));
    let again = home.once_complete().stdout;
    // stdout cannot be asked what it took: it sees the same again, to the letter.
    assert!(again.starts_with(&first), "{first}");
    Log::parse(&again);
}

#[test]
fn a_torn_last_line_is_cut_and_written_again() {
    let aws = Aws::now();
    let home = Home::on(&aws.url());
    home.once_complete();
    let path = home.path("events.jsonl");
    let whole = std::fs::read(&path).unwrap();
    for tail in [&b"{\"specversion\":\"1.0\",\"id\":\"torn"[..], b"{\"spec", &[0; 4096]] {
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(tail).unwrap();
        drop(file);
        let ran = home.once_complete();
        assert!(ran.stderr.contains("cut a torn last line"), "{}", ran.stderr);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }
}

/// The state as a crash leaves it after the lines were written and before that was noted: put back
/// from a copy, because no kill hits that moment on purpose.
#[cfg(target_os = "linux")]
#[test]
fn a_crash_between_the_lines_and_their_note_repeats_nothing() {
    let aws = Aws::now();
    let home = Home::on(&aws.url()).set("local.output", "-");
    let mut command = home.command(["run", "--config", "billing.toml", "--once"]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(command.stdout(full).stderr(Stdio::null()).status().unwrap().code(), Some(69));
    let names =
        ["state.db", "state.db-wal"].map(|name| (home.path(name), home.path(&format!("{name}.copy"))));
    for (path, copy) in names.iter().filter(|(path, _)| path.exists()) {
        std::fs::copy(path, copy).unwrap();
    }
    let home = home.set("local.output", "events.jsonl");
    home.once_complete();
    let whole = std::fs::read(home.path("events.jsonl")).unwrap();
    // Everything arrived, and then nothing, half a line, or half of the lines.
    let half = whole[..whole.len() / 2].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for length in [whole.len(), half + 40, half, 0] {
        std::fs::write(home.path("events.jsonl"), &whole[..length]).unwrap();
        for (path, copy) in &names {
            std::fs::remove_file(path).unwrap_or_default();
            std::fs::copy(copy, path).map(drop).unwrap_or_default();
        }
        home.once_complete();
        assert!(std::fs::read(home.path("events.jsonl")).unwrap() == whole, "{length}");
    }
}

/// The negative control: without its memory the program would repeat everything, so it refuses.
#[test]
fn a_lost_state_is_refused_not_repeated() {
    let aws = Aws::now();
    let home = Home::on(&aws.url());
    home.once_complete();
    let whole = std::fs::read(home.path("events.jsonl")).unwrap();
    let charged = aws.charged();
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let path = home.path(name);
        if path.exists() {
            std::fs::remove_file(path).unwrap();
        }
    }
    for _ in 0..2 {
        let ran = home.once();
        assert_eq!(ran.code, Some(78), "{}", ran.stderr);
        assert!(ran.stderr.contains("is not empty, but the state is new"), "{}", ran.stderr);
    }
    assert_eq!(std::fs::read(home.path("events.jsonl")).unwrap(), whole);
    assert_eq!(aws.charged(), charged);
}

/// Rotated by somebody else: the state remembers, and only what is new goes into the new file.
#[test]
fn a_rotated_file_is_begun_anew_without_repeating() {
    let aws = Aws::now();
    let home = Home::on(&aws.url());
    home.once_complete();
    let before = home.log().len();
    std::fs::rename(home.path("events.jsonl"), home.path("events.1.jsonl")).unwrap();
    home.once_complete();
    assert_eq!(home.log().len(), 0);
    assert_eq!(Log::read(&home.path("events.1.jsonl")).len(), before);
}

#[test]
fn the_ledger_shows_the_last_revision_of_every_key() {
    let aws = Aws::now();
    let home = Home::on(&aws.url());
    let ran = home.run(&["ledger", "show", "--config", "billing.toml"]);
    assert_eq!(ran.code, Some(69), "{}", ran.stderr);
    assert!(ran.stderr.contains("nothing was published from here yet"), "{}", ran.stderr);
    home.once_complete();
    aws.once(amazon_billing_source::simulator::Fault::Change { service: None, add: "1".parse().unwrap() });
    home.once_complete();
    let log = home.log();
    let latest = log.latest();
    assert!(log.count("revised") > 20);
    let ran = home.run(&["ledger", "show", "--config", "billing.toml"]);
    let rows: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), latest.len());
    let by_id: std::collections::BTreeMap<_, _> =
        latest.values().map(|event| (event["id"].as_str().unwrap(), *event)).collect();
    for row in rows {
        let event = by_id[row["eventId"].as_str().unwrap()];
        assert_eq!(row["revision"], event["revision"]);
        assert_eq!(row["unblendedCost"], event["data"]["unblendedCost"]);
        assert_eq!(row["observedAt"], event["time"]);
        assert_eq!((&row["connection"], &row["status"]), (&"main".into(), &"live".into()));
    }
}
