//! What cannot be asked for, and what is never said.

use std::fmt::Write as _;

use crate::{
    endpoint::{Endpoint, answer, taken},
    home::{Home, events},
};

#[test]
fn the_help_is_the_documented_one() {
    let home = Home::new();
    let mut command = home.command(&["--help"]);
    let output = command.output().unwrap();
    assert!(output.status.success());
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
}

#[test]
fn what_cannot_be_used_says_what_to_do() {
    let home = Home::with(&events(1, 1));
    home.write("short", "whsec_aHVudGVyMg==");
    home.write("bad-headers", "Authorization Bearer geheim");
    home.write("our-headers", "Content-Type: text/plain");
    home.write("no.pem", "-----BEGIN CERTIFICATE-----\ngeheim");
    home.write("stdout.toml", "[local]\noutput = \"-\"\n");
    let mut all = String::new();
    for (code, args) in [
        (2, &["--name", "x"][..]),
        (2, &["--name", "a b", "--endpoint", "http://h/"]),
        (2, &["--name", "x", "--endpoint", "h:8080"]),
        (2, &["--name", "x", "--endpoint", "nutzer:geheim@h:8080"]),
        (2, &["--name", "x", "--endpoint", "http://h/", "--timeout", "5"]),
        (2, &["--name", "x", "--endpoint", "http://h/", "--concurrency", "0"]),
        (2, &["--name", "x", "--endpoint", "http://h/", "--dead-letter", "topic:"]),
        (2, &["--name", "x", "--endpoint", "http://h/", "--filter", "{\"sql\": \"1\"}"]),
        (2, &["--name", "x", "--endpoint", "http://h/", "--from", "2026-03-02", "--to", "2026-03-01"]),
        (78, &["--name", "x", "--endpoint", "http://h/", "--secret-file", "none"]),
        (78, &["--name", "x", "--endpoint", "http://h/", "--secret-file", "short"]),
        (78, &["--name", "x", "--endpoint", "http://h/", "--header-file", "bad-headers"]),
        (78, &["--name", "x", "--endpoint", "http://h/", "--header-file", "our-headers"]),
        (78, &["--name", "x", "--endpoint", "http://h/", "--ca-file", "no.pem"]),
        (1, &["--name", "x", "--endpoint", "http://h/", "--dead-letter", "topic:dead"]),
        (1, &["--name", "x", "--endpoint", "http://h/", "--config", "stdout.toml"]),
    ] {
        let ran = home.run(args);
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("geheim"), "{}", ran.stderr);
        let said = ran.stderr.lines().filter(|line| !line.trim().is_empty() && !line.contains("--help"));
        let said: Vec<_> = said.take_while(|line| !line.starts_with("Usage")).collect();
        write!(all, "$ forward {}\n{}\nexit {code}\n\n", args.join(" "), said.join("\n")).unwrap();
    }
    insta::assert_snapshot!(all);
}

/// Neither the URL's secrets nor the headers' nor those that sign, whatever is logged.
#[test]
fn secrets_are_never_said() {
    let endpoint = Endpoint::start(|call| match call.number {
        0 => answer(503),
        1 => answer(422),
        _ => taken(),
    });
    let home = Home::with(&events(3, 1)).set("BILLING_SOURCE_LOG", "trace");
    home.write("secret", "whsec_R0VIRUlNRVNHRUhFSU1OSVNERUdFSEVJTURJTkdT");
    home.write("headers", "Authorization: Bearer geheimes-token\nX-Plain: sichtbar\n");
    let url = format!("http://nutzer:geheimes-wort@127.0.0.1:{}/in?key=geheimer-schluessel", endpoint.port());
    let args = ["--secret-file", "secret", "--header-file", "headers", "--dead-letter", "dead.jsonl"];
    let ran = home.once("s", &url, &args);
    let calls = endpoint.calls();
    let last = &calls.last().unwrap();
    assert_eq!(last.path, "/in?key=geheimer-schluessel", "it is sent");
    assert!(last.headers["webhook-signature"].to_str().unwrap().starts_with("v1,"));
    assert!(last.headers.contains_key("authorization"));
    let dead = home.read("dead.jsonl");
    assert_eq!(dead.lines().count(), 1);
    for said in [&ran.stderr, &dead] {
        for secret in ["geheim", "GEHEIM", "R0VIRUlN"] {
            let line = said.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{line:?}");
        }
    }
    assert!(ran.stderr.contains(&format!("127.0.0.1:{}/in?...", endpoint.port())), "{}", ran.stderr);
}
