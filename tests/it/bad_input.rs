//! What people get wrong before anything runs: one sentence each, what to do, and the exit code.

use std::{fmt::Write as _, process::Command};

use crate::support::{Aws, Connection, Home, Ran, SECRET, transcript};

const HEAD: &str = "[[connections]]\nname = \"main\"\n";

/// Runs `check` on a text that is wrong.
fn check(text: &str, what: &str) -> String {
    let home = Home::new();
    home.write("billing.toml", text);
    let ran = home.run(&["check", "--config", "billing.toml"]);
    assert_eq!(ran.code, Some(78), "{what}: {}", ran.stderr);
    assert_eq!(ran.stdout, "", "{what}");
    // `run` says the same.
    let run = home.once();
    assert_eq!((run.code, &run.stderr), (Some(78), &ran.stderr), "{what}");
    format!("-- {what}\n{}", home.scrub(&ran.stderr))
}

#[test]
fn every_mistake_of_the_configuration_is_named_with_its_fix() {
    let keys = "[connections.credentials]\nkind = \"keys\"\naccess_key_id = \"AKIAIOSFODNN7EXAMPLE\"\n";
    let both = "name = \"b\"\naccount_id = \"111122223333\"\n";
    let cases = [
        ("a misspelt key", format!("{HEAD}[poll]\nintervall = \"8h\"\n")),
        ("a bad value of a list", format!("{HEAD}granularity = [\"weekly\"]\n")),
        ("a metric that is none", format!("{HEAD}metrics = [\"Unblended\"]\n")),
        ("an impossible duration", format!("{HEAD}[poll]\ninterval = \"8 apples\"\nclaim_ttl = \"1d\"\n")),
        ("an impossible day", format!("{HEAD}[poll]\nsettle_days = 32\n")),
        (
            "an account without quotes",
            "[[connections]]\nname = \"main\"\naccount_id = 012345678901\n".to_owned(),
        ),
        ("no connection", "[poll]\ninterval = \"8h\"\n".to_owned()),
        (
            "the same keys twice",
            format!("[[connections]]\nname = \"a\"\naccount_id = \"111122223333\"\n[[connections]]\n{both}"),
        ),
        (
            "a secret file that is missing",
            format!("{HEAD}{keys}secret_access_key_file = \"nowhere/secret\"\n"),
        ),
        (
            "a secret twice",
            format!("{HEAD}{keys}secret_access_key = \"{SECRET}\"\nsecret_access_key_file = \"x\"\n"),
        ),
        ("an address that is none", format!("{HEAD}[admin]\nlisten = \"localhost:9464\"\n")),
        ("a state that is the output", format!("{HEAD}[local]\noutput = \"a\"\nstate = \"a\"\n")),
        ("no TOML", "[[connections]\nname = 1\n".to_owned()),
        ("a wrong type", format!("{HEAD}[budget]\nrequests_per_day = \"many\"\n")),
        (
            "several at once",
            "[pol]\n[[connections]]\nname = \"Main!\"\ngroup_by = [\"a\", \"b\"]\nregion = \"moon-1\"\n"
                .to_owned(),
        ),
    ];
    let mut all = String::new();
    for (what, text) in cases {
        writeln!(all, "{}", check(&text, what)).unwrap();
    }
    assert!(!all.contains(SECRET));
    insta::assert_snapshot!(all);
}

/// The sections of brokers; the words around them change with what a build can publish to.
#[test]
fn a_broker_without_its_table_is_named() {
    for kind in ["kafka", "nats"] {
        let said = check(&format!("{HEAD}[transport]\nkind = \"{kind}\"\n"), kind);
        assert!(
            said.contains(&format!("transport.kind is `{kind}` but there is no `[{kind}]` table")),
            "{said}"
        );
        assert!(said.contains("hint:"), "{said}");
    }
}

#[test]
fn a_missing_file_is_a_configuration_fault_everywhere() {
    let home = Home::new();
    let mut all = String::new();
    for args in [
        &["run", "--config", "nowhere.toml"][..],
        &["check", "--config", "nowhere.toml"],
        &["config", "show", "--config", "nowhere.toml"],
        &["ledger", "show", "--config", "nowhere.toml"],
        &["run", "--once"],
    ] {
        let ran = home.run(args);
        assert_eq!(ran.code, Some(78), "{}", ran.stderr);
        all.push_str(&transcript(&home, args, &ran));
    }
    insta::assert_snapshot!(all);
}

/// Two names, one account: known only once STS has told, and then before a cent is spent twice.
#[test]
fn connections_that_collide_are_found_when_sts_tells_their_account() {
    let aws = Aws::now();
    let url = aws.url();
    let home =
        Home::with(&[Connection::new("a", &url), Connection { account: 9, ..Connection::new("b", &url) }]);
    let ran = home.once();
    assert_eq!(ran.code, Some(78), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("both belong to account 111122223333 and would write the same keys"),
        "{}",
        ran.stderr
    );
    assert_eq!(aws.charged(), 1, "the other one is polled");
    home.log();
}

/// What a state or output must not be: refused, said, and left as it was.
#[test]
fn files_that_are_not_ours_are_refused_and_left_alone() {
    let aws = Aws::now();
    let mut all = String::new();
    let mut refused = |what: &str, home: &Home, file: &str, code: i32| {
        let before = std::fs::read(home.path(file)).ok();
        let ran = home.once();
        assert_eq!(ran.code, Some(code), "{what}: {}", ran.stderr);
        assert_eq!(ran.stdout, "");
        writeln!(all, "-- {what}: exit {code}\n{}", home.scrub(&ran.stderr)).unwrap();
        assert_eq!(std::fs::read(home.path(file)).ok(), before, "{what}");
    };

    let home = Home::on(&aws.url());
    home.write("state.db", "not a database, but long enough to look at as if it were one\n");
    refused("a state that is no database", &home, "state.db", 78);

    let home = Home::on(&aws.url());
    let other = rusqlite::Connection::open(home.path("state.db")).unwrap();
    other.execute_batch("CREATE TABLE theirs (a)").unwrap();
    drop(other);
    refused("a state of another program", &home, "state.db", 78);

    let home = Home::on(&aws.url());
    home.once_complete();
    let newer = rusqlite::Connection::open(home.path("state.db")).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    refused("a state of a newer version", &home, "state.db", 78);

    let home = Home::on(&aws.url()).set("local.state", "folder");
    std::fs::create_dir(home.path("folder")).unwrap();
    refused("a state that is a folder", &home, "folder", 78);

    let home = Home::on(&aws.url());
    home.write("events.jsonl", "{\"specversion\":\"1.0\",\"id\":\"1\"}\n");
    refused("events without the state that belongs to them", &home, "events.jsonl", 78);

    let home = Home::on(&aws.url());
    home.once_complete();
    let foreign = home.set("local.output", "foreign.txt");
    foreign.write("foreign.txt", "dear diary\n");
    refused("an output that is somebody's text", &foreign, "foreign.txt", 78);

    let home = Home::on(&aws.url()).set("local.output", "missing/events.jsonl");
    refused("an output in no folder", &home, "missing/events.jsonl", 69);
    let home = Home::on(&aws.url()).set("local.state", "missing/state.db");
    refused("a state in no folder", &home, "missing/state.db", 69);
    let home = Home::on(&aws.url()).set("local.output", "folder");
    std::fs::create_dir(home.path("folder")).unwrap();
    refused("an output that is a folder", &home, "folder", 69);

    assert_eq!(aws.charged(), 2, "only the complete runs were paid for");
    insta::assert_snapshot!(all);
}

#[test]
fn a_state_in_use_is_refused_by_the_name_of_its_process() {
    let aws = Aws::now();
    let home = Home::on(&aws.url());
    let running = home.start();
    running.wait_for("cycle finished");
    let ran = home.once();
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr.contains(&format!("in use by another process (process {})", running.pid())),
        "{}",
        ran.stderr
    );
    // Looking is allowed beside it.
    let ledger = home.run(&["ledger", "show", "--config", "billing.toml"]);
    assert_eq!(ledger.code, Some(0), "{}", ledger.stderr);
    assert_eq!(ledger.stdout.lines().count(), home.log().latest().len());
    let check = home.run(&["check", "--config", "billing.toml", "--connect"]);
    assert_eq!(check.code, Some(0), "{}", check.stderr);
    running.signal("TERM");
    assert_eq!(running.end().0, Some(0));
    home.once_complete();
}

/// A full disk: `/dev/full` takes nothing.
#[cfg(target_os = "linux")]
#[test]
fn a_full_output_is_said_and_the_next_run_writes_everything() {
    let aws = Aws::now();
    // As stdout, where nothing is asked of what was there before.
    let home = Home::on(&aws.url()).set("local.output", "-");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = home.command(["run", "--config", "billing.toml", "--once"]);
    command.stdout(full);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("the disk is full; nothing is lost, the next start writes it out"), "{said}");
    let ran = home.once_complete();
    assert!(crate::support::Log::parse(&ran.stdout).len() > 20);
    assert_eq!(aws.charged(), 2);
}

/// No file may grow beyond 100 KB, which state and output both would: `EFBIG` for each in turn.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_on_the_way_loses_nothing() {
    let aws = Aws::now();
    for blocks in [40, 100, 200, 400, 800] {
        let home = Home::on(&aws.url());
        let ran = limited(&home, blocks);
        assert_eq!(ran.code, Some(69), "{blocks}: {}", ran.stderr);
        assert!(ran.stderr.contains("hint"), "{blocks}: {}", ran.stderr);
        home.once_complete();
        let clean = Home::on(&aws.url());
        clean.once_complete();
        let ids = |home: &Home| {
            let log = home.log();
            let ids = log.0.iter().map(|event| event["id"].to_string());
            ids.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(ids(&home), ids(&clean), "{blocks}");
    }
}

/// `run --once` where no file may be longer than so many blocks of 512 bytes.
#[cfg(target_os = "linux")]
fn limited(home: &Home, blocks: u32) -> Ran {
    let mut command = Command::new("sh");
    let binary = env!("CARGO_BIN_EXE_amazon-billing-source");
    // SIGXFSZ ignored, a write beyond the limit is an error as on a full disk.
    let script =
        format!("trap '' XFSZ; ulimit -f {blocks}; exec '{binary}' run --config billing.toml --once");
    command.args(["-c", &script]);
    home.in_here(&mut command);
    Ran::of(command)
}
