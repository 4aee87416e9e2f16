//! Cycles over time: a month and its close, absence, stale answers, pages, metrics and zeros. The
//! whole program runs in this process, because its clock has to be turned.

use amazon_billing_source::{
    cost::CostMetric,
    exit::Exit,
    simulator::{Fault, Options, Recorded},
};
use jiff::{SignedDuration, civil::date};

use crate::support::{Aws, Connection, Home, Log, aws::instant, events::text};

const ACCOUNT: &str = "111122223333";

/// A month, its close on the 3rd to 5th, the support fee on the 6th: whenever somebody looks, the
/// highest revisions are AWS's own figures. A row that vanished takes a second answer to go.
#[test]
fn a_month_and_its_close_are_the_bill_at_every_poll() {
    let aws = Aws::at("2026-01-01T03:00:00Z");
    let home = Home::on(&aws.url());
    let (mut polls, mut retracted) = (0, 0);
    let mut log = Log::default();
    let mut poll = |log: &mut Log| {
        assert_eq!(home.poll(&aws.clock), Exit::Done);
        polls += 1;
        log.follow(&std::fs::read_to_string(home.path("events.jsonl")).unwrap());
    };
    while aws.clock.now() < instant("2026-02-11T03:00:00Z") {
        // December is read until it has settled on the 10th, and stays as it was then.
        let december = aws.clock.now() < instant("2026-01-11T00:00:00Z");
        let from = if december { date(2025, 12, 1) } else { date(2026, 1, 1) };
        poll(&mut log);
        if !log.is_the_bill_of(&aws, ACCOUNT, from, date(2026, 3, 1)) {
            let before = log.len();
            poll(&mut log);
            assert!(log.0[before..].iter().all(|event| event["change"] == "removed"));
            retracted += log.len() - before;
            log.assert_is_the_bill_of(&aws, ACCOUNT, from, date(2026, 3, 1));
        }
        // Now and then, and at every refresh of the days on which the month is closed.
        let closing =
            (instant("2026-02-03T00:00:00Z")..instant("2026-02-07T00:00:00Z")).contains(&aws.clock.now());
        let hours = if closing { 8 } else { 32 };
        aws.clock.set(aws.clock.now() + SignedDuration::from_hours(hours));
    }
    assert_eq!(aws.charged(), polls, "one page a poll");
    log.check();
    assert!(log.count("revised") > 500, "{}", log.count("revised"));
    assert!(retracted > 0, "nothing vanished");
    let latest = log.latest();
    let mut january = latest.values().filter(|event| text(&event["data"], "date").starts_with("2026-01"));
    // What is gone keeps the flag it had.
    assert!(january.all(|event| event["change"] == "removed" || event["data"]["estimated"] == false));
}

#[test]
fn the_same_answer_publishes_nothing() {
    let aws = Aws::at("2026-03-05T12:00:00Z");
    let home = Home::on(&aws.url());
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    let first = home.log().contents();
    assert!(first.len() > 300, "{}", first.len());
    aws.clock.set(instant("2026-03-05T12:00:01Z"));
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    assert_eq!(home.log().contents(), first);
    assert_eq!(aws.charged(), 2);
}

/// | answer | row | published |
/// |---|---|---|
/// | 1 | there | new |
/// | 2 | missing | nothing |
/// | 3 | there | nothing: missing once is forgotten |
/// | 4, 5 | missing | nothing, then removed |
/// | 6 | missing | nothing more |
/// | 7 | there | revised, zeros as previous |
#[test]
fn a_vanished_row_is_retracted_after_two_complete_answers_and_comes_back_revised() {
    let aws = Aws::at("2026-03-05T12:00:00Z");
    let home = Home::on(&aws.url());
    let service = "AWS Lambda";
    let of = |log: &Log, change: &str| {
        log.0.iter().filter(|event| event["change"] == change && event["data"]["service"] == service).count()
    };
    let mut counts = Vec::new();
    for (hours, there) in [(0, true), (1, false), (2, true), (3, false), (4, false), (5, false), (6, true)] {
        aws.clock.set(instant("2026-03-05T12:00:00Z") + SignedDuration::from_mins(hours));
        if !there {
            aws.once(Fault::DropService { service: service.to_owned() });
        }
        assert_eq!(home.poll(&aws.clock), Exit::Done);
        let log = home.log();
        counts.push((of(&log, "removed"), of(&log, "revised")));
    }
    let rows = home.log().latest().into_values().filter(|event| event["data"]["service"] == service).count();
    assert!(rows > 10, "{rows}");
    let gone = (rows, 0);
    assert_eq!(counts, [(0, 0), (0, 0), (0, 0), (0, 0), gone, gone, (rows, rows)]);
    let log = home.log();
    assert_eq!(log.len(), log.count("new") + 2 * rows, "no other row moved");
    log.assert_is_the_bill_of(&aws, ACCOUNT, date(2026, 2, 1), date(2026, 4, 1));
}

/// A failed answer between two others is no answer: it neither counts as missing nor forgives.
#[test]
fn an_incomplete_answer_neither_counts_as_missing_nor_forgives() {
    let aws = Aws::with(
        Options { page_size: 200, ..Options::default() },
        amazon_billing_source::clock::Clock::manual(instant("2026-03-05T12:00:00Z")),
    );
    let home = Home::on(&aws.url());
    let drop = || aws.faults().always(Fault::DropService { service: "AWS Lambda".to_owned() });
    let removed = || home.log().count("removed");
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    drop();
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    assert_eq!(removed(), 0);
    // The second page fails: nothing may be concluded from what the first one lacked.
    aws.faults().inject(amazon_billing_source::simulator::Injection { after: 1, ..Fault::Throttled.into() });
    aws.faults().times(5, Fault::Throttled);
    assert_eq!(home.poll(&aws.clock), Exit::Failed);
    assert_eq!(removed(), 0);
    aws.faults().clear();
    drop();
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    assert!(removed() > 10);
}

#[test]
fn a_stale_answer_changes_nothing() {
    let aws = Aws::at("2026-03-05T12:00:00Z");
    let home = Home::on(&aws.url());
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    aws.clock.set(instant("2026-03-05T20:00:00Z"));
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    let settled = home.log().contents();
    aws.clock.set(instant("2026-03-05T20:30:00Z"));
    aws.once(Fault::Stale { hours: 8 });
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    assert_eq!(home.log().contents(), settled, "eight hours ago the figures were others");
    home.log().assert_is_the_bill_of(&aws, ACCOUNT, date(2026, 2, 1), date(2026, 4, 1));
}

/// A figure goes up and down again: three events, three ids.
#[test]
fn a_figure_that_returns_is_a_third_revision() {
    let aws = Aws::at("2026-03-05T12:00:00Z");
    let home = Home::on(&aws.url());
    let service = Some("AmazonCloudWatch".to_owned());
    for minute in 0..3 {
        aws.clock.set(instant("2026-03-05T12:00:00Z") + SignedDuration::from_mins(minute));
        if minute == 1 {
            aws.once(Fault::Change { service: service.clone(), add: "0.0000000001".parse().unwrap() });
        }
        assert_eq!(home.poll(&aws.clock), Exit::Done);
    }
    let log = home.log();
    let mut latest = log.latest().into_values();
    let event = latest.find(|event| event["data"]["service"] == "AmazonCloudWatch").unwrap();
    assert_eq!(event["revision"], 3);
    assert!(log.count("revised") >= 10);
    log.assert_is_the_bill_of(&aws, ACCOUNT, date(2026, 2, 1), date(2026, 4, 1));
}

#[test]
fn small_pages_give_the_same_events_as_one() {
    let mut logs = Vec::new();
    for page_size in [10_000, 7] {
        let clock = amazon_billing_source::clock::Clock::manual(instant("2026-03-13T12:00:00Z"));
        let aws = Aws::with(Options { page_size, ..Options::default() }, clock);
        let home = Home::on(&aws.url());
        assert_eq!(home.poll(&aws.clock), Exit::Done);
        // A refresh later, with restatements.
        aws.clock.set(instant("2026-03-14T03:00:00Z"));
        assert_eq!(home.poll(&aws.clock), Exit::Done);
        let log = home.log();
        logs.push((log.contents(), log.count("revised"), aws.charged()));
    }
    let [(one, revised, 2), (small, _, charged)] = &logs[..] else { panic!("{}", logs[0].2) };
    assert!(*revised > 10 && *charged > 100, "{revised} {charged}");
    assert!(one == small, "{} {}", one.len(), small.len());
}

#[test]
fn a_metric_that_is_added_revises_every_row_once() {
    let aws = Aws::at("2026-03-05T12:00:00Z");
    let home = Home::with(&[Connection {
        keys: "metrics = [\"UnblendedCost\"]",
        ..Connection::new("main", &aws.url())
    }]);
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    let rows = home.log().len();
    let url = aws.url();
    let keys = "metrics = [\"UnblendedCost\", \"NetAmortizedCost\", \"UsageQuantity\"]";
    home.configure(&[Connection { keys, ..Connection::new("main", &url) }]);
    for _ in 0..2 {
        aws.clock.set(aws.clock.now() + SignedDuration::from_mins(1));
        assert_eq!(home.poll(&aws.clock), Exit::Done);
        let log = home.log();
        // Rows that were zero in the one metric and are not in the others are new.
        assert_eq!(log.count("revised"), rows);
        let latest = log.latest();
        assert!(latest.values().all(|event| event["data"]["netAmortizedCost"]["amount"].is_string()));
        assert!(latest.values().all(|event| event["data"]["usageQuantity"]["unit"].is_string()));
    }
}

#[test]
fn rows_that_are_zero_are_published_only_when_asked_for() {
    let aws = Aws::at("2026-03-05T12:00:00Z");
    let zeros = |log: &Log| {
        let zero = |event: &&serde_json::Value| {
            ["amortizedCost", "unblendedCost"].iter().all(|name| event["data"][*name]["amount"] == "0")
        };
        log.0.iter().filter(zero).count()
    };
    let plain = Home::on(&aws.url());
    assert_eq!(plain.poll(&aws.clock), Exit::Done);
    let all = Home::on(&aws.url()).set("poll.publish_zero", "true");
    assert_eq!(all.poll(&aws.clock), Exit::Done);
    let (plain, all) = (plain.log(), all.log());
    assert_eq!(zeros(&plain), 0);
    assert!(zeros(&all) > 10, "{}", zeros(&all));
    assert_eq!(all.len() - zeros(&all), plain.len());
}

/// The name is for people. The scope of the keys is account and source.
#[test]
fn a_renamed_connection_republishes_nothing() {
    let aws = Aws::at("2026-03-05T12:00:00Z");
    let home = Home::on(&aws.url());
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    let before = home.log().contents();
    home.configure(&[Connection::new("renamed", &aws.url())]);
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    assert_eq!(home.log().contents(), before);
    assert_eq!(home.connection_state()["name"], "renamed");
    // Another `source` is another identity.
    let home = home.set("source.source", "cloud.amazon.other");
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    assert_eq!(home.log().len(), 2 * before.len());
}

#[test]
fn hourly_rows_are_published_by_hour_and_revised() {
    let aws = Aws::at("2026-03-05T12:30:00Z");
    let keys = "granularity = [\"hourly\"]\nmetrics = [\"UnblendedCost\"]";
    let filter = "[connections.filter]\nDimensions = { Key = \"SERVICE\", Values = [\"AWS Lambda\", \"Amazon Relational Database Service\"] }";
    let url = aws.url();
    let home = Home::with(&[Connection { keys, tables: filter, ..Connection::new("main", &url) }]);
    for _ in 0..2 {
        assert_eq!(home.poll(&aws.clock), Exit::Done);
        aws.clock.set(aws.clock.now() + SignedDuration::from_hours(8));
    }
    let log = home.log();
    assert!(log.count("new") > 300, "{}", log.count("new"));
    assert!(log.count("revised") > 0);
    let event = log.0.iter().find(|event| event["data"]["service"] == "AWS Lambda").unwrap();
    assert_eq!(event["type"], "amazon.billing.hourly");
    assert_eq!(text(event, "subject").split('/').next().unwrap().len(), "2026-03-05T13".len());
    // The hour that still runs has no figure.
    assert!(log.0.iter().all(|event| text(&event["data"], "periodEnd") <= "2026-03-05T20:00:00Z"));
}

/// After downtime the window reaches back to the month of the last complete poll, and then once more
/// for the rows that had vanished meanwhile.
#[test]
fn weeks_of_downtime_leave_no_gap() {
    let aws = Aws::at("2026-03-20T12:00:00Z");
    let home = Home::on(&aws.url());
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    let (from, to) = (date(2026, 3, 1), date(2026, 6, 1));
    aws.clock.set(instant("2026-05-25T12:00:00Z"));
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    assert!(!home.log().is_the_bill_of(&aws, ACCOUNT, from, to), "a row of March has vanished");
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    home.log().assert_is_the_bill_of(&aws, ACCOUNT, from, to);
    assert_eq!(aws.charged(), 3, "one request carries all three months");
}

/// What AWS really answered, amounts with ten decimals and negative ones included.
#[test]
fn recorded_amounts_are_published_to_the_letter() {
    let answer = r#"{"GroupDefinitions":[{"Type":"DIMENSION","Key":"SERVICE"}],"ResultsByTime":[
        {"TimePeriod":{"Start":"2026-03-04","End":"2026-03-05"},"Total":{},"Estimated":true,"Groups":[
          {"Keys":["Tax"],"Metrics":{"UnblendedCost":{"Amount":"-0.0000000289","Unit":"USD"},
                                     "AmortizedCost":{"Amount":"1.10","Unit":"USD"}}},
          {"Keys":["EC2 - Other"],"Metrics":{"UnblendedCost":{"Amount":"12345678901234.0000000001","Unit":"USD"},
                                     "AmortizedCost":{"Amount":"0","Unit":"USD"}}}]}]}"#;
    let home = Home::new();
    home.write("recorded.json", answer);
    let recorded = Recorded::load(&home.path("recorded.json")).unwrap();
    let clock = amazon_billing_source::clock::Clock::manual(instant("2026-03-05T12:00:00Z"));
    let aws = Aws::with(Options { recorded: Some(recorded), ..Options::default() }, clock);
    home.configure(&[Connection::new("main", &aws.url())]);
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    let log = home.log();
    let amounts: Vec<_> = log.0.iter().map(|event| text(&event["data"]["unblendedCost"], "amount")).collect();
    assert_eq!(amounts, ["-0.0000000289", "12345678901234.0000000001"]);
    assert_eq!(text(&log.0[0]["data"]["amortizedCost"], "amount"), "1.10");
    let sum = log.totals(ACCOUNT, CostMetric::UnblendedCost, date(2026, 3, 1), date(2026, 4, 1));
    assert_eq!(sum["EC2 - Other"].to_string(), "12345678901234.0000000001");
}
