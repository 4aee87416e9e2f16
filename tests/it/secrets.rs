//! Secrets are nowhere but in the configuration: not in a log at its most talkative, not in the
//! state, not in the output, not in an error.

use amazon_billing_source::simulator::{Fault, Injection};

use crate::support::{Aws, Connection, Home, Ran, SECRET, TOKEN, home::holds};

/// Nothing a run said or wrote holds a secret, whole or in a form somebody could use.
#[track_caller]
fn assert_secret(home: &Home, ran: &Ran, what: &str) {
    for secret in [SECRET, TOKEN] {
        assert!(!ran.stdout.contains(secret), "{what}: stdout");
        let line = ran.stderr.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{what}: stderr");
        for name in ["state.db", "state.db-wal", "state.db.lock", "events.jsonl"] {
            assert!(!holds(&home.path(name), secret), "{what}: {name}");
        }
    }
}

fn home(url: &str) -> Home {
    let tables = format!("session_token = \"{TOKEN}\"");
    Home::with(&[Connection { tables: &tables, ..Connection::new("main", url) }])
}

fn traced(home: &Home, args: &[&str]) -> Ran {
    let mut command = home.command(args);
    command.env("BILLING_SOURCE_LOG", "trace");
    Ran::of(command)
}

const ONCE: [&str; 4] = ["run", "--config", "billing.toml", "--once"];
const CHECK: [&str; 5] = ["check", "--config", "billing.toml", "--connect", "--query"];

#[test]
fn no_secret_is_seen_when_all_goes_well() {
    let aws = Aws::now();
    let home = home(&aws.url());
    let ran = traced(&home, &ONCE);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("TRACE") && ran.stderr.len() > 10_000, "the log is at its most talkative");
    assert_secret(&home, &ran, "run");
    let ran = traced(&home, &CHECK);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_secret(&home, &ran, "check");
    let ran = traced(&home, &["config", "show", "--config", "billing.toml"]);
    assert!(ran.stdout.contains("[redacted]"));
    assert_secret(&home, &ran, "config show");
}

#[test]
fn no_secret_is_seen_when_credentials_fail() {
    let signature = format!(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
         Access Key.\n\nThe Canonical String for this request should have been\n'POST\n/\n\nx-amz-security-token:{TOKEN}\n'"
    );
    let refused = |code: &str, message: &str| Fault::Refused {
        code: code.to_owned(),
        message: message.to_owned(),
        status: 400,
    };
    for (what, fault) in [
        ("expired", Fault::ExpiredToken),
        ("clock", Fault::InvalidSignature),
        ("unknown", Fault::UnrecognizedClient),
        ("denied", Fault::AccessDenied { message: None }),
        ("signature", refused("SignatureDoesNotMatch", &signature)),
    ] {
        for sts in [false, true] {
            let aws = Aws::now();
            aws.faults().inject(Injection { times: 0, sts, ..fault.clone().into() });
            let home = home(&aws.url());
            let ran = traced(&home, &ONCE);
            assert_eq!(ran.code, Some(1), "{what}: {}", ran.stderr);
            assert_secret(&home, &ran, what);
        }
    }
}

/// A secret in a file that is broken is not quoted with the line.
#[test]
fn no_secret_is_seen_in_an_error_about_the_configuration() {
    for toml in [
        format!("[[connections]]\nname = \"a\"\n[connections.credentials]\nsecret_access_key = {SECRET}\n"),
        format!(
            "[[connections]]\nname = \"a\"\n[connections.credentials]\nkind = \"keyz\"\nsecret_access_key = \"{SECRET}\"\n"
        ),
        format!(
            "[[connections]]\nname = \"a\"\n[connections.credentials]\nkind = \"keys\"\nsecret_acces_key = \"{SECRET}\"\n"
        ),
        format!(
            "[[connections]]\nname = \"a\"\n[connections.credentials]\nkind = \"keys\"\nsecret_access_key = [\"{SECRET}\"]\nsession_token = {{ a = \"{TOKEN}\" }}\n"
        ),
        format!("[[connections]]\nname = \"a\"\nendpoint_url = \"http://me:{SECRET}@127.0.0.1\"\n"),
    ] {
        let home = Home::new();
        home.write("billing.toml", &toml);
        for args in
            [&["check", "--config", "billing.toml"][..], &["config", "show", "--config", "billing.toml"]]
        {
            let ran = traced(&home, args);
            assert_secret(&home, &ran, &toml.replace(SECRET, "..."));
        }
    }
}
