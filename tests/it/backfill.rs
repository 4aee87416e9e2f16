//! Backfill: older months, at the price that was told, once, whatever interrupts it.

use std::{collections::BTreeMap, time::Instant};

use amazon_billing_source::{
    backfill::{self, Consent, Request, quote},
    clock::Clock,
    cost::{CostMetric, utc_date},
    cycle::Reread,
    exit::Exit,
    simulator::{Fault, Injection, Options},
};
use jiff::{SignedDuration, ToSpan as _, civil::Date};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    plan::plan,
    support::{Aws, Connection, Home, Ran, Running, aws::instant, eventually, runtime},
};

const ACCOUNT: &str = "111122223333";

/// The first days of the months that are over and that AWS still has, newest first.
pub(crate) fn all_months() -> Vec<Date> {
    let today = utc_date(Clock::system().now());
    quote::months(oldest(today), None, today).unwrap()
}

fn oldest(today: Date) -> Date {
    today.first_of_month().saturating_sub(13.months())
}

fn command<'a>(from: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["backfill", "--config", "billing.toml", "--from", from], more].concat()
}

/// `backfill` from a month on, in the binary.
fn backfill(home: &Home, from: Date, more: &[&str]) -> Ran {
    home.run(&command(&from.to_string(), more))
}

fn start(home: &Home, from: Date) -> Running {
    Running::spawn(home.command(command(&from.to_string(), &["--yes"])))
}

/// The connection's state; null where nothing was written yet.
fn state(home: &Home) -> Value {
    if !home.path("state.db").exists() {
        return Value::Null;
    }
    let state: Option<String> =
        home.state().query_row("SELECT state FROM connections", [], |row| row.get(0)).ok();
    state.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
}

/// What the state counts as spent.
fn spent(home: &Home) -> u64 {
    state(home)["spent"]["total"].as_u64().unwrap_or(0)
}

/// Pages of the months that were read completely, by the first day.
fn finished(home: &Home) -> BTreeMap<String, u64> {
    let state = state(home);
    let months = state["months"].as_object().cloned().unwrap_or_default();
    let read = months.into_iter().filter(|(_, month)| !month["readAt"].is_null());
    read.map(|(month, known)| (month, known["pages"].as_u64().unwrap())).collect()
}

/// A backfill in this process, at the time of a clock.
fn backfill_at(home: &Home, clock: &Clock, from: &str, to: &str, reread: Reread) -> Exit {
    let (transport, world) = home.world(clock);
    let config = home.config();
    let request = Request {
        months: quote::months(date(from), Some(date(to)), utc_date(clock.now())).unwrap(),
        connections: config.connections.clone(),
        reread,
        consent: Consent::Given,
    };
    runtime().block_on(backfill::run(config, transport, world, request, CancellationToken::new()))
}

fn date(text: &str) -> Date {
    text.parse().unwrap()
}

/// Thirteen months to the last digit, at the price that `plan` told; then nothing more to publish, and
/// nothing more to pay but where that is asked for. What polls remember stays as it was.
#[test]
fn every_month_is_the_bill_of_aws_at_the_price_that_was_told() {
    let aws = Aws::now();
    let home = Home::on(&aws.url());
    home.once_complete();
    let (polled, polls) = (aws.charged(), home.connection_state()["polls"].clone());
    let months = all_months();
    let from = *months.last().unwrap();
    let priced = plan(&home, &["--backfill-from", &from.to_string()]);
    assert_eq!(priced[0]["months"], 13, "{priced:?}");
    assert_eq!(priced[1]["dollars"], "$0.13", "{priced:?}");

    let ran = backfill(&home, from, &["--yes"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{}", ran.stderr);
    assert_eq!(Some(aws.charged() - polled), priced[1]["requests"].as_u64());
    assert_eq!(ran.stderr.matches("month read").count(), 13, "{}", ran.stderr);
    let log = home.log();
    for month in &months {
        let to = month.saturating_add(1.month());
        log.assert_is_the_bill_of(&aws, ACCOUNT, *month, to);
        assert!(log.totals(ACCOUNT, CostMetric::UnblendedCost, *month, to).len() > 10, "{month}");
    }
    let state = home.connection_state();
    assert_eq!(state["polls"], polls);
    assert_eq!((&state["claim"], state["spent"]["total"].as_u64()), (&Value::Null, Some(aws.charged())));

    // Again: silence, and free.
    let (before, charged) = (log.contents(), aws.charged());
    let ran = backfill(&home, from, &["--yes"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("nothing is left to read"), "{}", ran.stderr);
    assert_eq!((home.log().contents(), aws.charged()), (before.clone(), charged));
    assert_eq!(plan(&home, &["--backfill-from", &from.to_string()])[0]["finished"], 13);
    // Asked to, it pays again, and still there is nothing to publish.
    assert_eq!(backfill(&home, months[2], &["--yes", "--again"]).code, Some(0));
    assert_eq!((home.log().contents(), aws.charged()), (before, charged + 3));
}

#[test]
fn from_and_to_choose_whole_months() {
    let aws = Aws::now();
    let home = Home::on(&aws.url());
    let months = all_months();
    let [newer, older] = [months[3], months[4]];
    let to = newer.saturating_add(2.days()).to_string();
    let ran = backfill(&home, older.saturating_add(20.days()), &["--to", &to, "--yes"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(aws.charged(), 2);
    let log = home.log();
    for month in [newer, older] {
        log.assert_is_the_bill_of(&aws, ACCOUNT, month, month.saturating_add(1.month()));
    }
    let outside = |event: &&Value| {
        let day: Date = event["data"]["date"].as_str().unwrap().parse().unwrap();
        day < older || newer.saturating_add(1.month()) <= day
    };
    assert_eq!(log.0.iter().find(outside), None);
}

/// Killed anywhere. What a run had finished is never asked for again: each run pays for the months it
/// finished and at most for the one it was at.
#[test]
fn killed_at_random_it_goes_on_and_pays_for_no_finished_month_twice() {
    let aws = Aws::pages(300);
    let months = all_months();
    let from = months[7];
    let clean = Home::on(&aws.url());
    let began = Instant::now();
    assert_eq!(backfill(&clean, from, &["--yes"]).code, Some(0));
    let whole = began.elapsed();
    let pages = finished(&clean);
    let (largest, paid_clean) = (*pages.values().max().unwrap(), aws.charged());
    assert!(pages.len() == 8 && largest > 2, "{pages:?}");

    let home = Home::on(&aws.url());
    let (mut seed, mut kills, mut inside) = (0x0bac_4f11_u64, 0, 0);
    // At first up to a sixth of the time that all of it took, then as fast as the machine is by then.
    let mut longest = whole / 6;
    loop {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let pause = longest.mul_f64(f64::from(u32::try_from(seed % 1000).unwrap()) / 1000.0);
        let (before, charged) = (finished(&home), aws.charged());
        let running = start(&home, from);
        let began = Instant::now();
        eventually("its moment has come", || began.elapsed() >= pause);
        let said = running.kill();
        assert!(!said.contains("ERROR"), "{said}");
        let (after, paid) = (finished(&home), aws.charged() - charged);
        assert!(before.iter().all(|month| after.contains_key(month.0)), "forgotten");
        let newly: u64 = after.iter().filter(|(month, _)| !before.contains_key(*month)).map(|(_, p)| p).sum();
        assert!(
            (newly..=newly + largest).contains(&paid),
            "{paid} pages were paid for, {newly} belong to finished months, at most {largest} to another"
        );
        let spent = spent(&home);
        assert!(spent >= aws.charged() - paid_clean, "counted before it is asked for: {spent}");
        inside += usize::from(after.len() > before.len() && after.len() < 8);
        home.log_after_a_kill();
        kills += 1;
        longest = match after.len() - before.len() {
            0 => longest.mul_f64(1.3),
            1 => longest,
            _ => longest / 2,
        };
        if after.len() >= 6 || kills >= 40 {
            break;
        }
    }
    assert!(inside >= 1 && kills >= 3, "{kills} kills, {inside} of them between months");
    // Left alone, it pays exactly for the rest.
    let (before, charged) = (finished(&home), aws.charged());
    let rest: u64 = pages.iter().filter(|(month, _)| !before.contains_key(*month)).map(|(_, p)| p).sum();
    let ran = backfill(&home, from, &["--yes"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(aws.charged() - charged, rest);
    assert_eq!(finished(&home), pages);
    let contents = |home: &Home| -> Vec<(String, String, String)> {
        let log = home.log();
        let of =
            |event: &Value| ["id", "partitionkey", "revision"].map(|member| event[member].to_string()).into();
        let mut contents: Vec<_> = log.0.iter().map(of).collect();
        contents.sort_unstable();
        contents
    };
    assert_eq!(contents(&home), contents(&clean), "each change once, and all of them");
}

/// The budget of a day is shared: what the polls of the day need is left to them, the rest goes to the
/// backfill, which stops where it ends and goes on the next day.
#[test]
fn out_of_budget_it_stops_in_front_of_a_month_and_goes_on_the_next_day() {
    let aws = Aws::at("2026-03-20T12:00:00Z");
    let home = Home::on(&aws.url()).set("budget.requests_per_day", "7");
    let mut ends = Vec::new();
    // Noon, and midnight twice: of seven requests two and three are kept for the polls to come.
    for (hours, polls) in [(0, 2), (12, 3), (36, 3)] {
        aws.clock.set(instant("2026-03-20T12:00:00Z") + SignedDuration::from_hours(hours));
        let charged = aws.charged();
        let exit = backfill_at(&home, &aws.clock, "2025-02-01", "2026-02-28", Reread::Unfinished);
        ends.push((exit, aws.charged() - charged, finished(&home).len()));
        for _ in 0..polls {
            aws.clock.set(aws.clock.now() + SignedDuration::from_mins(1));
            assert_eq!(home.poll(&aws.clock), Exit::Done);
        }
    }
    assert_eq!(ends, [(Exit::Failed, 5, 5), (Exit::Failed, 4, 9), (Exit::Done, 4, 13)]);
    let log = home.log();
    log.assert_is_the_bill_of(&aws, ACCOUNT, date("2025-02-01"), date("2026-03-01"));
    assert_eq!(spent(&home), aws.charged());
}

/// A month of more pages than are left is not begun once that is known, and not paid for in vain.
#[test]
fn a_month_that_does_not_fit_is_begun_once_at_most() {
    let clock = Clock::manual(instant("2026-03-20T12:00:00Z"));
    let aws = Aws::with(Options { page_size: 100, ..Options::default() }, clock);
    let home = Home::on(&aws.url()).set("budget.requests_per_day", "7");
    let backfill = || backfill_at(&home, &aws.clock, "2026-01-01", "2026-01-31", Reread::Unfinished);
    assert_eq!(backfill(), Exit::Failed);
    let charged = aws.charged();
    assert_eq!(charged, 5, "two are kept for the polls");
    for hours in 1..3 {
        aws.clock.set(instant("2026-03-20T12:00:00Z") + SignedDuration::from_hours(24 * hours));
        assert_eq!(backfill(), Exit::Failed);
    }
    assert_eq!(aws.charged(), charged, "it is known now that it has more pages");
    let home = home.set("budget.requests_per_day", "40");
    assert_eq!(backfill_at(&home, &aws.clock, "2026-01-01", "2026-01-31", Reread::Unfinished), Exit::Done);
    home.log().assert_is_the_bill_of(&aws, ACCOUNT, date("2026-01-01"), date("2026-02-01"));
}

#[test]
fn a_budget_that_is_too_small_is_told_before_anything_is_paid() {
    let aws = Aws::now();
    let from = *all_months().last().unwrap();
    let home = Home::on(&aws.url()).set("budget.requests_per_day", "8").set("poll.interval", "24h");
    let ran = backfill(&home, from, &["--yes"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    for words in [
        "the request budget does not hold it all left=7 kept_for_polls=1 months=7 of=13 stops_before=",
        "give the same command again after",
        "stopped before this month",
    ] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    assert_eq!(aws.charged(), 7);
    let home = Home::on(&aws.url()).set("budget.requests_per_day", "3");
    let home = home.set("poll.interval", "8h");
    let ran = backfill(&home, from, &["--yes"]);
    let words = "the polls need the budget of a whole day: raise `budget.requests_per_day`";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
}

/// Everything that is wrong is said at once, and nobody is asked and nothing created.
#[test]
fn what_cannot_be_done_is_refused_before_anything_is_paid() {
    let aws = Aws::now();
    let url = aws.url();
    let hourly = Connection { keys: "granularity = [\"hourly\"]", ..Connection::new("hours", &url) };
    let home = Home::with(&[Connection::new("main", &url), hourly]);
    let today = utc_date(Clock::system().now());
    let day = |months: i64, days: i64| {
        (today.first_of_month().saturating_add(months.months()).saturating_add(days.days())).to_string()
    };
    let (old, current, future, last) = (day(-13, -1), day(0, 0), day(2, 0), day(-1, 0));
    let nobody = "nobody can be asked whether the price is right";
    for (args, words) in [
        (&["--from", &*old, "--yes"][..], &["older than what AWS keeps", "the earliest is `--from"][..]),
        (&["--from", &current, "--yes"], &["is in the current month, which every poll reads"]),
        (&["--from", &future, "--yes"], &["is in the future"]),
        (&["--from", &last, "--to", &future, "--yes"], &["`--to", "is in the future"]),
        (&["--from", &last, "--to", &old, "--yes"], &["is before `--from"]),
        (&["--from", &last], &[nobody, "plan --backfill-from", "`--yes`"]),
        (&["--from", &last, "--connection", "hours", "--yes"], &["`hours` has no daily data", "14 days"]),
        (
            &["--from", &old, "--to", &future, "--connection", "main", "--connection", "mian"],
            &[
                "older than what AWS keeps",
                "is in the future",
                "no connection is called `mian`",
                "`main`, `hours`",
                nobody,
            ],
        ),
        (&["--from", "2026-02-30"], &["invalid value '2026-02-30' for '--from"]),
        (&[], &["--from <DATE>"]),
    ] {
        let ran = home.run(&[&["backfill", "--config", "billing.toml"], args].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{args:?}: {}", ran.stderr);
        for words in words {
            assert!(ran.stderr.contains(words), "{args:?}: {words}: {}", ran.stderr);
        }
    }
    home.configure(&[Connection { keys: "granularity = [\"hourly\"]", ..Connection::new("hours", &url) }]);
    let ran = home.run(&["backfill", "--config", "billing.toml", "--from", &last, "--yes"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("no connection has daily data to backfill, only hourly"), "{}", ran.stderr);
    home.configure(&[]);
    let ran = home.run(&["backfill", "--config", "billing.toml", "--from", &last, "--yes"]);
    assert_eq!(ran.code, Some(78), "{}", ran.stderr);
    assert!(!home.path("state.db").exists() && !home.path("events.jsonl").exists());
    assert_eq!(aws.bill(), amazon_billing_source::simulator::Bill::default());
}

/// A local output belongs to one process.
#[test]
fn beside_a_run_on_a_local_output_it_is_refused_with_what_to_do() {
    let aws = Aws::now();
    let home = Home::on(&aws.url());
    let running = home.start();
    running.wait_for("cycle finished");
    let ran = backfill(&home, all_months()[1], &["--yes"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    for words in ["is in use by another process", "if that is `run`: stop it, backfill, and start it again"] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    assert_eq!(aws.charged(), 1);
    running.signal("TERM");
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn a_signal_ends_it_between_pages_and_it_goes_on_from_there() {
    // A month has about 2,700 rows with its zeros.
    let aws = Aws::pages(1500);
    let home = Home::on(&aws.url());
    let from = all_months()[2];
    // The last page of the second month never comes.
    aws.faults().inject(Injection { after: 3, ..Fault::Stall.into() });
    let running = start(&home, from);
    eventually("AWS is silent", || aws.charged() >= 4);
    running.signal("TERM");
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("stopped before this month") && said.contains("the same command goes on"),
        "{said}"
    );
    assert_eq!(state(&home)["claim"], Value::Null);
    assert_eq!(spent(&home), aws.charged());
    let done = finished(&home).len();
    assert!((1..3).contains(&done), "{done}");
    assert_eq!(backfill(&home, from, &["--yes"]).code, Some(0));
    assert_eq!(finished(&home).len(), 3);
    home.log();
}

#[test]
fn what_passes_is_tried_again_and_what_does_not_ends_it() {
    let aws = Aws::now();
    let home = Home::on(&aws.url());
    let from = all_months()[2];
    // The SDK tries three times by itself.
    aws.faults().times(3, Fault::Throttled);
    let ran = backfill(&home, from, &["--yes"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("kind=\"throttled\""), "{}", ran.stderr);
    assert_eq!(aws.charged(), 3);

    let aws = Aws::scenario("denied");
    let home = Home::on(&aws.url());
    let ran = backfill(&home, from, &["--yes"]);
    assert_eq!((ran.code, aws.charged()), (Some(1), 0), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("ERROR").count(), 1, "{}", ran.stderr);

    let home = Home::on("http://127.0.0.1:1");
    let ran = backfill(&home, from, &["--yes"]);
    assert_eq!(ran.code, Some(69), "{}", ran.stderr);
}

/// | reading of a month | a row that was published |
/// |---|---|
/// | a first one that lacks it | is said to be missing |
/// | a second in a row | is retracted, where no poll reads the month any more |
#[test]
fn absence_is_judged_by_two_readings_of_a_month_that_no_poll_reads() {
    let aws = Aws::at("2026-03-05T12:00:00Z");
    let home = Home::on(&aws.url());
    let service = "AWS Lambda";
    let read = |minute: i64, reread| {
        aws.clock.set(instant("2026-03-05T12:00:00Z") + SignedDuration::from_mins(minute));
        assert_eq!(backfill_at(&home, &aws.clock, "2026-01-01", "2026-02-28", reread), Exit::Done);
        home.log().count("removed")
    };
    assert_eq!(read(0, Reread::Unfinished), 0);
    let listed = |month: &str| {
        let log = home.log();
        let of = |event: &&&Value| {
            event["data"]["service"] == service && event["data"]["date"].as_str().unwrap().starts_with(month)
        };
        log.latest().values().filter(of).count()
    };
    let (january, february) = (listed("2026-01"), listed("2026-02"));
    assert!(january > 10 && february > 10);
    aws.faults().always(Fault::DropService { service: service.to_owned() });
    assert_eq!(read(1, Reread::Everything), 0, "once is nothing");
    assert_eq!(state(&home)["months"]["2026-01-01"]["missing"].as_array().unwrap().len(), january);
    assert_eq!(read(2, Reread::Everything), january, "polls still read February, and judge it themselves");
    assert_eq!(read(3, Reread::Everything), january);
    aws.faults().clear();
    read(4, Reread::Everything);
    home.log().assert_is_the_bill_of(&aws, ACCOUNT, date("2026-01-01"), date("2026-03-01"));
}

/// Months without any row stay unfinished, and nothing is asked for beyond two of them.
#[test]
fn months_without_rows_are_told_and_end_it() {
    let aws = Aws::now();
    let home = Home::on(&aws.url());
    let from = *all_months().last().unwrap();
    aws.faults().inject(Injection { after: 2, times: 100, ..Fault::NoRows.into() });
    let ran = backfill(&home, from, &["--yes"]);
    assert_eq!((ran.code, aws.charged()), (Some(1), 4), "{}", ran.stderr);
    assert!(ran.stderr.contains("again no rows at all; nothing older is asked for"), "{}", ran.stderr);
    assert_eq!(finished(&home).len(), 2);
    aws.faults().clear();
    assert_eq!(backfill(&home, from, &["--yes"]).code, Some(0));
    assert_eq!(finished(&home).len(), 13);
}

/// Of two connections one is broken: nothing is paid for either before both are known to work; and one
/// can be chosen.
#[test]
fn connections_are_known_before_the_first_is_paid_for() {
    let aws = Aws::now();
    let url = aws.url();
    let broken = Connection::new("broken", "http://127.0.0.1:1");
    let home = Home::with(&[Connection::new("main", &url), broken]);
    let from = all_months()[1];
    let ran = backfill(&home, from, &["--yes"]);
    assert_eq!((ran.code, aws.charged()), (Some(1), 0), "{}", ran.stderr);
    assert_eq!(backfill(&home, from, &["--yes", "--connection", "main"]).code, Some(0));
    assert_eq!(aws.charged(), 2);

    let other = Connection { account: 2, ..Connection::new("other", &url) };
    let home = Home::with(&[Connection::new("main", &url), other]);
    let ran = backfill(&home, from, &["--yes"]);
    assert_eq!((ran.code, aws.charged()), (Some(0), 6), "{}", ran.stderr);
    for account in [ACCOUNT, "444455556666"] {
        home.log().assert_is_the_bill_of(&aws, account, from, from.saturating_add(1.month()));
    }
}

/// What a month has is known once it has come: the price is told anew, once.
#[test]
fn a_price_that_turns_out_higher_is_told() {
    let aws = Aws::pages(1500);
    let home = Home::on(&aws.url());
    let ran = backfill(&home, all_months()[2], &["--yes"]);
    assert_eq!((ran.code, aws.charged()), (Some(0), 6), "{}", ran.stderr);
    let told = "it costs more than was told told=\"$0.03\" now=\"$0.06\" pages_per_month=2";
    assert_eq!(ran.stderr.matches(told).count(), 1, "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("it costs more").count(), 1, "{}", ran.stderr);
}
