//! `check` in its three depths, to the letter.

use amazon_billing_source::simulator::{Fault, Injection};

use crate::support::{Aws, Connection, Home, transcript};

const CONNECT: [&str; 4] = ["check", "--config", "billing.toml", "--connect"];
const QUERY: [&str; 5] = ["check", "--config", "billing.toml", "--connect", "--query"];

#[test]
fn check_says_what_is_fine_at_every_depth_and_what_it_costs() {
    let aws = Aws::now();
    let url = aws.url();
    let keys = "granularity = [\"daily\", \"hourly\"]\nmetrics = [\"UnblendedCost\"]";
    let home = Home::with(&[
        Connection { keys, ..Connection::new("main", &url) },
        Connection { account: 2, keys: "account_id = \"999988887777\"", ..Connection::new("other", &url) },
    ]);
    let mut all = String::new();
    for (args, charged) in [(&CONNECT[..3], 0), (&CONNECT[..], 0), (&QUERY[..], 3)] {
        let ran = home.run(args);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(aws.charged(), charged, "{args:?}");
        all.push_str(&transcript(&home, args, &ran));
    }
    assert!(!home.path("events.jsonl").exists() || home.log().len() == 0, "nothing is published");
    insta::with_settings!({filters => vec![(r"\d+ (daily|hourly) cost records", "[n] $1 cost records"),
        (r"( on the first page)? from \S+ on", " from [period] on")]}, {
        insta::assert_snapshot!(all);
    });
}

#[test]
fn check_names_everything_that_fails_and_ends_with_the_worst() {
    let aws = Aws::now();
    let url = aws.url();
    let home = Home::with(&[
        Connection::new("expired", &url),
        Connection { account: 2, ..Connection::new("denied", &url) },
    ]);
    let of = |account: &str| Some(account.to_owned());
    let expired =
        Injection { account: of("111122223333"), sts: true, times: 0, ..Fault::ExpiredToken.into() };
    aws.faults().inject(expired);
    let denied = Fault::AccessDenied { message: None };
    aws.faults().inject(Injection { account: of("444455556666"), times: 0, ..denied.into() });
    let mut all = String::new();
    for args in [&CONNECT[..], &QUERY[..]] {
        let ran = home.run(args);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        all.push_str(&transcript(&home, args, &ran));
    }
    let home = home.set("local.output", "missing/events.jsonl");
    let ran = home.run(&CONNECT);
    assert_eq!(ran.code, Some(69), "{}", ran.stderr);
    all.push_str(&transcript(&home, &CONNECT, &ran));
    assert_eq!(aws.charged(), 0);
    insta::assert_snapshot!(all);
}

/// Accounts that only STS can tell are compared, too.
#[test]
fn check_finds_connections_that_collide_by_their_account() {
    let aws = Aws::now();
    let url = aws.url();
    let home =
        Home::with(&[Connection::new("a", &url), Connection { account: 9, ..Connection::new("b", &url) }]);
    let ran = home.run(&CONNECT);
    assert_eq!(ran.code, Some(78), "{}", ran.stderr);
    assert!(ran.stderr.contains("connections `a` and `b` would write the same keys of 111122223333"));
}
