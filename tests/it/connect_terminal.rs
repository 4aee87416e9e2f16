//! `connect` on a terminal of its own: the questions, a second try, Ctrl-C.

use std::{fs, os::unix::fs::PermissionsExt as _};

use amazon_billing_source::simulator::{Fault, Injection};

use crate::support::{Aws, Home, SECRET, pty::Pty};

const KEY: &str = "AKIASIMULATED00000001";

fn asking(home: &Home, url: &str, more: &[&str]) -> Pty {
    Pty::spawn(&home.command([&["connect", "--endpoint-url", url], more].concat()))
}

fn files(home: &Home) -> Vec<String> {
    let entries = fs::read_dir(home.path(".")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Name, way and keys.
fn authenticate(pty: &mut Pty, secret: &str) {
    pty.answer("How does it authenticate?", "\r");
    pty.answer("Access key id", &format!("{KEY}\r"));
    pty.answer_hidden("Secret access key (not shown)", &format!("{secret}\r"));
}

/// All defaults, to the question about the paid request.
fn figures(pty: &mut Pty) {
    pty.answer("Which figures?", "\r");
    pty.answer("Grouped how?", "\r");
    pty.answer("Which metrics?", "\r");
}

#[test]
fn a_person_gets_from_nothing_to_the_first_event_by_defaults_and_two_keys() {
    let aws = Aws::now();
    let home = Home::new();
    let mut pty = asking(&home, &aws.url(), &[]);
    pty.answer("Name of the connection (main)", "\r");
    authenticate(&mut pty, SECRET);
    pty.expect("the credentials belong to account 111122223333");
    figures(&mut pty);
    pty.answer("AWS charges $0.01 for the answer", "y");
    pty.expect("this cost $0.01");
    pty.answer("Where do events go?", "\r");
    pty.answer("File (events.jsonl)", "\r");
    pty.answer("File of the state", "\r");
    pty.expect("output `events.jsonl` can be written");
    pty.answer("Write this to `billing.toml` and `main.secret-access-key` (mode 0600)?", "\r");
    let (code, shown) = pty.end();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.trim_end().ends_with("amazon-billing-source run --config billing.toml"), "{shown}");
    assert!(!shown.contains(SECRET), "{shown}");
    assert_eq!(aws.charged(), 1);
    assert_eq!(files(&home), ["billing.toml", "main.secret-access-key"]);
    let secret = home.path("main.secret-access-key");
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&secret).unwrap(), format!("{SECRET}\n"));
    let ran = home.run(&["run", "--config", "billing.toml", "--once"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(home.log().len() > 0);
}

#[test]
fn a_wrong_key_is_told_and_answered_again() {
    let aws = Aws::now();
    let home = Home::new();
    aws.faults().inject(Injection { sts: true, ..Fault::InvalidSignature.into() });
    let mut pty = asking(&home, &aws.url(), &["--name", "main"]);
    authenticate(&mut pty, "a-wrong-secret");
    pty.expect("error: could not ask STS");
    pty.expect("hint: ");
    pty.answer("That did not work", "\r");
    // What was not wrong is offered again.
    pty.answer("How does it authenticate?", "\r");
    pty.answer(&format!("Access key id ({KEY})"), "\r");
    pty.answer_hidden("Secret access key (not shown)", &format!("{SECRET}\r"));
    pty.expect("the credentials belong to account 111122223333");
    figures(&mut pty);
    pty.answer("AWS charges $0.01", "\r");
    // To stdout, the fourth.
    pty.answer("Where do events go?", "jjj\r");
    pty.answer("File of the state", "\r");
    pty.answer("Write this to", "\r");
    let (code, shown) = pty.end();
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains("a-wrong-secret") && !shown.contains(SECRET), "{shown}");
    assert_eq!(aws.charged(), 0, "unless it is wished, nothing is paid");
    assert_eq!(fs::read_to_string(home.path("main.secret-access-key")).unwrap(), format!("{SECRET}\n"));
}

/// Wherever it is stopped nothing is there, and the terminal is as it was.
#[test]
fn ctrl_c_leaves_nothing_and_the_terminal_as_it_was() {
    for place in ["name", "choice", "secret", "last", "signal"] {
        let aws = Aws::now();
        let home = Home::new();
        let mut pty = asking(&home, &aws.url(), &[]);
        let mut stop = true;
        match place {
            "name" => pty.answer("Name of the connection", "ma\x03"),
            "choice" => {
                pty.answer("Name of the connection", "\r");
                pty.answer("How does it authenticate?", "\x03");
            }
            _ => {
                pty.answer("Name of the connection", "\r");
                if place == "last" {
                    authenticate(&mut pty, SECRET);
                    figures(&mut pty);
                    pty.answer("AWS charges $0.01", "\r");
                    pty.answer("Where do events go?", "\r");
                    pty.answer("File (events.jsonl)", "\r");
                    pty.answer("File of the state", "\r");
                    pty.answer("Write this to", "\x03");
                } else {
                    pty.answer("How does it authenticate?", "\r");
                    pty.answer("Access key id", &format!("{KEY}\r"));
                    if place == "secret" {
                        pty.answer_hidden("Secret access key (not shown)", "half\x03");
                    } else {
                        pty.answer_hidden("Secret access key (not shown)", "half");
                        stop = false;
                    }
                }
            }
        }
        if !stop {
            pty.signal("TERM");
        }
        pty.expect("stopped: nothing was written");
        let echoes = pty.echoes();
        let (code, shown) = pty.end();
        assert_eq!(code, Some(1), "{place}: {shown}");
        assert!(echoes, "{place}: what is typed is shown again");
        assert!(!shown.contains("half"), "{place}: {shown}");
        assert_eq!(files(&home), [""; 0], "{place}");
    }
}

/// Missing rights: the policy and the steps are there, and the person decides.
#[test]
fn a_missing_right_comes_with_the_policy_and_the_way_to_it() {
    let aws = Aws::now();
    let home = Home::new();
    aws.faults().once(Fault::AccessDenied { message: None });
    let mut pty = asking(&home, &aws.url(), &["--name", "main", "--output", "-"]);
    // The steps first, for who has no key.
    pty.answer("How does it authenticate?", "jjjj\r");
    pty.expect("Activate IAM Access");
    pty.expect("\"ce:GetCostAndUsage\"");
    authenticate(&mut pty, SECRET);
    figures(&mut pty);
    pty.answer("AWS charges $0.01", "y");
    pty.expect("AccessDeniedException");
    pty.expect("Attach policies directly");
    pty.expect("\"ce:GetCostAndUsage\"");
    // The right was attached in the meantime.
    pty.answer("That did not work", "\r");
    pty.expect("this cost $0.01");
    pty.answer("Write this to", "n");
    let (code, shown) = pty.end();
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("stopped: nothing was written"), "{shown}");
    assert_eq!(files(&home), [""; 0]);
}

#[test]
fn hourly_figures_that_nobody_enabled_can_be_left_out() {
    let aws = Aws::scenario("hourly-disabled");
    let home = Home::new();
    let mut pty = asking(&home, &aws.url(), &["--name", "main", "--output", "-"]);
    authenticate(&mut pty, SECRET);
    pty.answer("Which figures?", "j\r");
    pty.answer("Grouped how?", "\r");
    pty.answer("Which metrics?", "\r");
    pty.answer("AWS charges $0.02", "y");
    pty.expect("enable hourly data in the console");
    pty.answer("That did not work", "jjj\r");
    pty.answer("Write this to", "\r");
    let (code, shown) = pty.end();
    assert_eq!(code, Some(0), "{shown}");
    let text = fs::read_to_string(home.path("billing.toml")).unwrap();
    assert!(!text.contains("hourly"), "{text}");
}

/// A second connection: its name is free, its output is the file's, a collision is asked about again,
/// a secret never replaces a file.
#[test]
fn a_second_connection_is_asked_only_for_what_is_new() {
    let aws = Aws::now();
    let url = aws.url();
    let home = Home::on(&url);
    home.write("main-2.secret-access-key", "somebody else's");
    let mut pty = asking(&home, &url, &[]);
    pty.answer("Name of the connection (main-2)", "main\r");
    pty.expect("is also the name of");
    pty.keys(&"\x7f".repeat(4));
    pty.keys("\r");
    authenticate(&mut pty, SECRET);
    pty.expect("exists already");
    pty.answer("Another file for the secret (main-2.secret-access-key-2)", "\r");
    pty.expect("the credentials belong to account");
    figures(&mut pty);
    pty.expect("collides with `main`");
    pty.answer("Which figures?", "\r");
    pty.answer("Grouped how?", "jjj\r");
    pty.answer("Key of the tag", "team\r");
    pty.answer("Which metrics?", "\r");
    pty.answer("AWS charges $0.01", "\r");
    pty.expect("events go where the file says");
    pty.answer("Write this to `billing.toml` and `main-2.secret-access-key-2`", "\r");
    let (code, shown) = pty.end();
    assert_eq!(code, Some(0), "{shown}");
    let text = fs::read_to_string(home.path("billing.toml")).unwrap();
    assert!(text.contains("group_by = [\"TAG:team\"]"), "{text}");
    assert_eq!(fs::read_to_string(home.path("main-2.secret-access-key")).unwrap(), "somebody else's");

    let mut pty = Pty::spawn(&home.command(["connect", "list"]));
    pty.expect("service, TAG:team");
    assert_eq!(pty.end().0, Some(0));
    let mut pty = Pty::spawn(&home.command(["connect", "remove", "main-2"]));
    pty.answer("Remove the connection `main-2` from `billing.toml`?", "y");
    assert_eq!(pty.end().0, Some(0));
    assert_eq!(home.run(&["connect", "list"]).stdout.lines().count(), 1);
}
