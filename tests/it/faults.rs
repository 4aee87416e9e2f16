//! What AWS can answer instead of a page, through the binary: the exit code, the sentence with what
//! to do, nothing concluded, nothing lost, nothing twice, and a clean poll that repairs everything.

use std::fmt::Write as _;

use amazon_billing_source::{
    clock::Clock,
    simulator::{Fault, Injection, Options, SCENARIOS},
};

use crate::support::{Aws, Connection, Home, Log};

/// After whatever went wrong: the next poll leaves what a poll without trouble would have left.
#[track_caller]
fn assert_repaired(home: &Home, aws: &Aws) {
    aws.faults().clear();
    let clean = Home::on(&aws.url());
    clean.once_complete();
    assert_repaired_as(home, aws, &clean.log());
}

#[track_caller]
fn assert_repaired_as(home: &Home, aws: &Aws, clean: &Log) {
    aws.faults().clear();
    home.once_complete();
    assert_eq!(ids(&home.log()), ids(clean));
    // And it stays so.
    let repaired = home.log().len();
    home.once_complete();
    assert_eq!(home.log().len(), repaired);
}

fn ids(log: &Log) -> Vec<&str> {
    let mut ids: Vec<_> = log.0.iter().map(|event| event["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids
}

/// One faulty run on a fresh home: its transcript and exit code.
fn faulty(title: &str, home: &Home, transcript: &mut String) -> Option<i32> {
    let ran = home.once();
    writeln!(transcript, "{title}: exit {}", ran.code.unwrap()).unwrap();
    for line in home.scrub(&ran.stderr).lines() {
        writeln!(transcript, "  {}", line.trim_start()).unwrap();
    }
    assert_eq!(ran.stdout, "");
    assert_eq!(home.log().len(), 0);
    ran.code
}

#[test]
fn every_scenario_says_what_to_do_and_loses_nothing() {
    let mut transcript = String::new();
    for scenario in SCENARIOS {
        if matches!(scenario.name, "company" | "hourly-disabled") {
            continue;
        }
        let aws = Aws::scenario(scenario.name);
        let home = Home::on(&aws.url());
        let code = faulty(scenario.name, &home, &mut transcript);
        assert_repaired(&home, &aws);
        let unreachable = scenario.name == "unavailable";
        assert_eq!(code, Some(if unreachable { 69 } else { 1 }), "{}", scenario.name);
    }
    insta::assert_snapshot!(transcript);
}

#[test]
fn every_fault_of_one_answer_says_what_to_do_and_loses_nothing() {
    let faults = [
        ("429 without a body", Fault::TooManyRequests, 1),
        ("500", Fault::InternalError, 3),
        ("an empty object", Fault::Empty, 1),
        ("a truncated answer", Fault::Truncated, 1),
        ("an amount that is a number", Fault::NumericAmount, 1),
        ("the connection is reset", Fault::Reset, 3),
        ("the answer breaks off", Fault::Cut, 3),
        ("a deleted key", Fault::UnrecognizedClient, 1),
        ("a bad token twice", Fault::InvalidNextToken, 2),
        ("a code nobody knows", refused("SomethingNewException", "Something is new."), 1),
        ("an expired report", refused("BillExpirationException", "The report has expired."), 1),
        ("a bad grouping", refused("ValidationException", "Group Definition type is invalid."), 1),
    ];
    let mut transcript = String::new();
    let aws = Aws::now();
    let clean = Home::on(&aws.url());
    clean.once_complete();
    for (title, fault, times) in faults {
        aws.faults().times(times, fault);
        let home = Home::on(&aws.url());
        let code = faulty(title, &home, &mut transcript);
        assert!(matches!(code, Some(1 | 69)), "{title}");
        assert_repaired_as(&home, &aws, &clean.log());
    }
    insta::assert_snapshot!(transcript);
}

fn refused(code: &str, message: &str) -> Fault {
    Fault::Refused { code: code.to_owned(), message: message.to_owned(), status: 400 }
}

/// Faults of the way from page to page: what had arrived is published, nothing is concluded.
#[test]
fn faults_between_pages_end_the_poll_and_lose_nothing() {
    let mut transcript = String::new();
    for (title, fault, after, pages) in [
        ("the second page is throttled", Fault::Throttled, 1, 1..=1),
        ("the second page is HTML", Fault::Html, 1, 1..=1),
        ("a token that repeats", Fault::RepeatedToken, 0, 1..=2),
        ("pages without end", Fault::EndlessPages, 0, 40..=40),
    ] {
        let aws = Aws::pages(200);
        let home = Home::on(&aws.url()).set("poll.max_pages", "40");
        aws.faults().inject(Injection { after, times: 0, ..fault.into() });
        let ran = home.once();
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        writeln!(transcript, "{title}: exit 1\n{}", home.scrub(&ran.stderr)).unwrap();
        assert!(pages.contains(&aws.charged()), "{title}: {} pages", aws.charged());
        assert!(home.log().len() > 0, "{title}: the first page is published");
        assert_eq!(home.log().count("removed"), 0);
        assert_repaired(&home, &aws);
    }
    // How many rows the first page changed depends on the day.
    insta::with_settings!({filters => vec![(r"(new|revised|unchanged|stale|requests|events)=\d+", "$1=[n]"),
        (r"page \d+", "page [n]")]}, {
        insta::assert_snapshot!(transcript);
    });
}

#[test]
fn a_request_that_changed_is_asked_again_from_the_first_page_once() {
    let aws = Aws::pages(300);
    let home = Home::on(&aws.url());
    aws.faults().inject(Injection { after: 1, ..Fault::RequestChanged.into() });
    home.once_complete();
    let clean = Home::on(&aws.url());
    let before = aws.charged();
    clean.once_complete();
    assert_eq!(before, aws.charged() - before + 1, "one page more than without it");
    assert_eq!(ids(&home.log()), ids(&clean.log()));

    let home = Home::on(&aws.url());
    aws.faults().inject(Injection { after: 1, ..Fault::RequestChanged.into() });
    aws.faults().inject(Injection { after: 2, ..Fault::RequestChanged.into() });
    assert_eq!(home.once().code, Some(1));
    assert_repaired(&home, &aws);
}

/// Absence in a faulty answer is no absence, however often it is repeated.
#[test]
fn answers_without_rows_never_retract_anything() {
    let aws = Aws::now();
    let home = Home::on(&aws.url());
    home.once_complete();
    let published = home.log().len();
    for fault in [Fault::Empty, Fault::NoRows, Fault::NoRows, Fault::Empty, Fault::Html] {
        aws.once(fault);
        let ran = home.once();
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert_eq!(home.log().len(), published);
    }
    home.once_complete();
    assert_eq!(home.log().len(), published);
}

#[test]
fn hourly_data_that_is_not_enabled_leaves_daily_alone() {
    let aws = Aws::scenario("hourly-disabled");
    let url = aws.url();
    let keys = "granularity = [\"daily\", \"hourly\"]";
    let home = Home::with(&[Connection { keys, ..Connection::new("main", &url) }]);
    let ran = home.once();
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("enable hourly data in the console"), "{}", ran.stderr);
    let log = home.log();
    assert!(log.len() > 20 && log.0.iter().all(|event| event["type"] == "amazon.billing.daily"));
    assert_eq!(aws.charged(), 1, "a refusal is free");
}

/// Nobody listens there.
#[test]
fn an_endpoint_that_cannot_be_reached_is_exit_69() {
    let aws = Aws::now();
    let url = aws.url();
    let home = Home::on(&url);
    drop(aws);
    crate::support::eventually("the simulator closes its port", || {
        std::net::TcpStream::connect(url.trim_start_matches("http://")).is_err()
    });
    let ran = home.once();
    assert_eq!(ran.code, Some(69), "{}", ran.stderr);
    assert!(ran.stderr.contains("check that this machine can reach"), "{}", ran.stderr);
}

/// One connection that fails does not keep another from its figures; the exit code tells.
#[test]
fn one_failing_connection_does_not_hold_up_another() {
    let aws = Aws::now();
    let url = aws.url();
    let home = Home::with(&[
        Connection::new("main", &url),
        Connection { account: 2, ..Connection::new("other", &url) },
    ]);
    let account = Some("111122223333".to_owned());
    aws.faults().inject(Injection { account, times: 0, ..Fault::AccessDenied { message: None }.into() });
    let ran = home.once();
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let log = home.log();
    assert!(log.len() > 20 && log.0.iter().all(|event| event["data"]["accountId"] == "444455556666"));

    // Where the credentials are not even good for STS, the same.
    let home = Home::with(&[
        Connection::new("main", &url),
        Connection { account: 2, ..Connection::new("other", &url) },
    ]);
    let account = Some("111122223333".to_owned());
    aws.faults().inject(Injection { account, times: 0, sts: true, ..Fault::ExpiredToken.into() });
    let ran = home.once();
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(home.log().len() > 20);
}

/// The machine's clock is hours off and stays so: the hint says by how much.
#[test]
fn a_wrong_clock_is_told_from_a_wrong_secret() {
    let clock = Clock::manual(Clock::system().now() + jiff::SignedDuration::from_hours(3));
    let aws = Aws::with(Options::default(), clock);
    let home = Home::on(&aws.url());
    aws.faults().always(Fault::InvalidSignature);
    let ran = home.once();
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("clock (NTP)") && ran.stderr.contains("behind AWS's"), "{}", ran.stderr);
}
