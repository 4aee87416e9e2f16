//! The command line: help, usage, what is printed when asked for.

use std::fmt::Write as _;

use serde_json::Value;

use crate::support::{Home, Ran, SECRET};

fn help(args: &[&str]) -> String {
    let home = Home::new();
    let ran = home.run(&[args, &["--help"]].concat());
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{args:?}");
    assert!(ran.stdout.contains("amazon-billing-source "), "an example at the end: {}", ran.stdout);
    ran.stdout
}

#[test]
fn help_of_the_program() {
    insta::assert_snapshot!(help(&[]));
}

#[test]
fn help_of_run() {
    insta::assert_snapshot!(help(&["run"]));
}

#[test]
fn help_of_check() {
    insta::assert_snapshot!(help(&["check"]));
}

#[test]
fn help_of_connect() {
    let all = [&["connect"][..], &["connect", "list"], &["connect", "remove"]].map(help);
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn help_of_backfill() {
    insta::assert_snapshot!(help(&["backfill"]));
}

#[test]
fn help_of_simulate() {
    insta::assert_snapshot!(help(&["simulate"]));
}

#[test]
fn help_of_the_small_commands() {
    let mut all = String::new();
    for args in [
        &["config", "show"][..],
        &["config", "schema"],
        &["ledger", "show"],
        &["plan"],
        &["policy"],
        &["completions"],
    ] {
        writeln!(all, "$ amazon-billing-source {} --help\n{}", args.join(" "), help(args)).unwrap();
    }
    insta::assert_snapshot!(all);
}

#[test]
fn what_cannot_be_understood_is_exit_2() {
    let home = Home::new();
    let mut all = String::new();
    for args in [
        &["rum"][..],
        &["run", "--onse"],
        &["check", "--query"],
        &["completions", "tcl"],
        &["simulate", "--listen", "localhost"],
        &["simulate", "--start", "2026-02-30T00:00:00Z"],
        &["--log", "info=loud", "policy"],
        &["ledger"],
    ] {
        let ran = home.run(args);
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{args:?}");
        // What to try instead is the parser's to word.
        writeln!(all, "$ {}\n{}", args.join(" "), ran.stderr.lines().next().unwrap_or_default()).unwrap();
    }
    let ran = home.run(&[]);
    assert_eq!(ran.code, Some(2));
    insta::assert_snapshot!(all);
}

#[test]
fn the_version_is_the_crates() {
    let ran = Home::new().run(&["--version"]);
    assert_eq!(ran.code, Some(0));
    assert_eq!(ran.stdout, format!("amazon-billing-source {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_complete_every_command() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = home.run(&["completions", shell]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{shell}");
        for command in ["run", "demo", "simulate", "connect", "check", "config", "ledger", "policy"] {
            assert!(ran.stdout.contains(command), "{shell} {command}");
        }
    }
    let script = home.run(&["completions", "bash"]).stdout;
    home.write("completions.bash", &script);
    let mut bash = std::process::Command::new("bash");
    bash.args(["-n", "completions.bash"]);
    home.in_here(&mut bash);
    assert_eq!(Ran::of(bash).code, Some(0), "bash reads it");
}

/// A reader that has enough, such as `head`, is no failure.
#[test]
fn a_closed_pipe_after_what_was_asked_for_is_no_failure() {
    let home = Home::new();
    let mut sh = std::process::Command::new("bash");
    let binary = env!("CARGO_BIN_EXE_amazon-billing-source");
    sh.args(["-c", &format!("'{binary}' config schema | true; exit ${{PIPESTATUS[0]}}")]);
    home.in_here(&mut sh);
    let ran = Ran::of(sh);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

fn shown(ran: &Ran) -> impl Fn(&str) -> (Value, String) + use<> {
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    move |key| {
        let found: Vec<_> = lines.iter().filter(|line| line["key"] == key).collect();
        assert_eq!(found.len(), 1, "{key}");
        (found[0]["value"].clone(), found[0]["origin"].as_str().unwrap().to_owned())
    }
}

#[test]
fn config_show_names_the_origin_of_every_value_and_no_secret() {
    let home = Home::on("http://127.0.0.1:1").set("poll.interval", "4h");
    home.write("second.toml", "[poll]\ngrace = \"5s\"\ninterval = \"6h\"\n");
    let ran = home.run(&["config", "show", "--config", "billing.toml", "--config", "second.toml"]);
    let get = shown(&ran);
    assert_eq!(get("poll.interval"), ("4h".into(), "BILLING_SOURCE__POLL__INTERVAL".to_owned()));
    assert_eq!(get("poll.grace"), ("5s".into(), "second.toml".to_owned()));
    assert_eq!(get("local.state"), ("state.db".into(), "billing.toml".to_owned()));
    assert_eq!(get("poll.settle_days"), (10.into(), "built-in default".to_owned()));
    assert_eq!(get("connections[0].credentials.secret_access_key").0, "[redacted]");
    assert!(!ran.stdout.contains(SECRET));

    // The variable names the file where no argument does, and the argument wins.
    let mut command = home.command(["config", "show"]);
    command.env("BILLING_SOURCE_CONFIG", "second.toml");
    let get = shown(&Ran::of(command));
    assert_eq!(get("poll.grace").1, "second.toml");
    assert_eq!(get("local.state").1, "built-in default");
    let mut command = home.command(["config", "show", "--config", "billing.toml"]);
    command.env("BILLING_SOURCE_CONFIG", "second.toml");
    assert_eq!(shown(&Ran::of(command))("poll.grace").1, "built-in default");
}

#[test]
fn the_environment_has_every_type_and_names_what_it_cannot_reach() {
    let home = Home::on("http://127.0.0.1:1")
        .set("poll.publish_zero", "true")
        .set("budget.requests_per_month", "7")
        .set("source.type_prefix", "012345678901");
    let get = shown(&home.run(&["config", "show", "--config", "billing.toml"]));
    assert_eq!(get("poll.publish_zero").0, true);
    assert_eq!(get("budget.requests_per_month").0, 7);
    assert_eq!(get("source.type_prefix").0, "012345678901", "digits stay digits");
    let home = home.set("connections.0.name", "other").set("poll.publish_zero", "perhaps").set("pol.x", "1");
    let ran = home.run(&["check", "--config", "billing.toml"]);
    assert_eq!(ran.code, Some(78));
    insta::assert_snapshot!(ran.stderr);
}

/// Without a file, a Kubernetes service called `billing-source` is no configuration.
#[test]
fn variables_of_others_are_left_alone() {
    let home = Home::new();
    let mut command = home.command(["config", "show"]);
    command.env("BILLING_SOURCE_PORT", "tcp://10.0.0.1:80").env("BILLING_SOURCE_SERVICE_HOST", "10.0.0.1");
    assert_eq!(Ran::of(command).code, Some(0));
}

#[test]
fn the_schema_is_the_published_one() {
    let ran = Home::new().run(&["config", "schema"]);
    assert_eq!(ran.code, Some(0));
    assert_eq!(ran.stdout, include_str!("../../config/billing-source.schema.json"));
}
