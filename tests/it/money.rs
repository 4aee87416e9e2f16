//! What polling costs: nothing before it is due, never more than the budget, and never more than the
//! state says, however a process ends.

use std::collections::BTreeMap;

use amazon_billing_source::{
    clock::Clock,
    exit::Exit,
    simulator::{Fault, Injection, Options},
};
use jiff::SignedDuration;

use crate::support::{Aws, Connection, Home, aws::instant, eventually};

fn spent(home: &Home) -> u64 {
    home.connection_state()["spent"]["total"].as_u64().unwrap()
}

#[test]
fn a_restart_does_not_poll_before_it_is_due_and_once_does() {
    let aws = Aws::now();
    let home = Home::on(&aws.url()).set("admin.listen", "127.0.0.1:0");
    let running = home.start();
    running.wait_for("cycle finished");
    running.signal("TERM");
    assert_eq!(running.end().0, Some(0));
    assert_eq!(aws.charged(), 1);
    for _ in 0..3 {
        let running = home.start();
        let address = running.admin();
        // Ready: the state is read, and there is nothing to do yet.
        eventually("it is ready", || crate::support::running::get(&address, "/readyz").1 == "main: ready\n");
        let metrics = crate::support::running::get(&address, "/metrics").1;
        assert!(metrics.contains("billing_source_last_success_timestamp_seconds{connection=\"main\"}"));
        running.signal("TERM");
        let (code, said) = running.end();
        assert_eq!(code, Some(0));
        assert!(!said.contains("cycle finished"), "{said}");
    }
    assert_eq!(aws.charged(), 1);
    home.once_complete();
    assert_eq!(aws.charged(), 2, "asked to, it polls although nothing is due");
    assert_eq!(spent(&home), 2);
}

#[test]
fn an_interval_later_it_polls_again() {
    let aws = Aws::now();
    let home = Home::on(&aws.url()).set("poll.interval", "1s");
    let running = home.start();
    running.wait_for_all("cycle finished", 3);
    assert!(running.said().contains("at AWS's $0.01 a request"), "the price is said first");
    running.signal("TERM");
    assert_eq!(running.end().0, Some(0));
    assert_eq!(aws.charged(), spent(&home));
}

/// A failed poll waits before the next one: no error loop at a cent a turn.
#[test]
fn failures_that_cost_money_are_not_repeated_at_once() {
    let aws = Aws::now();
    aws.faults().always(Fault::Html);
    let home = Home::on(&aws.url()).set("admin.listen", "127.0.0.1:0");
    let running = home.start();
    running.wait_for("cycle finished");
    running.signal("TERM");
    assert_eq!(running.end().0, Some(0));
    assert_eq!(home.connection_state()["polls"]["daily"]["failures"], 1);
    // A restart forgets neither the failure nor the pause after it.
    let requests = aws.bill().requests();
    let running = home.start();
    let address = running.admin();
    eventually("it has looked", || {
        crate::support::running::get(&address, "/readyz").1.contains("failing: the last poll failed")
    });
    running.signal("TERM");
    assert!(!running.end().1.contains("cycle finished"));
    assert_eq!(aws.bill().requests(), requests);
}

#[test]
fn a_spent_budget_is_held_across_restarts_and_said_once() {
    let aws = Aws::now();
    let home = Home::on(&aws.url()).set("budget.requests_per_day", "3").set("poll.interval", "1s");
    for _ in 0..3 {
        home.once_complete();
    }
    for _ in 0..2 {
        let ran = home.once();
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(
            ran.stderr.contains("the request budget does not hold the poll; no request before `until`"),
            "{}",
            ran.stderr
        );
        assert!(ran.stderr.contains("until=") && ran.stderr.contains("T00:00:00Z"), "{}", ran.stderr);
    }
    assert_eq!(aws.charged(), 3);

    // A service waits for the next day, and says so once instead of every second.
    let home = home.set("admin.listen", "127.0.0.1:0");
    let running = home.start();
    let address = running.admin();
    eventually("it has looked", || crate::support::running::get(&address, "/readyz").0.contains("200"));
    running.signal("TERM");
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.matches("the request budget does not hold").count() <= 1, "{said}");
    assert_eq!(aws.charged(), 3);

    // Another day, another cap: it goes on.
    let home = home.set("budget.requests_per_day", "4");
    home.once_complete();
}

/// All connections together; and a poll that needs more pages than are left is not begun.
#[test]
fn the_budget_is_common_to_all_connections_and_counts_pages() {
    let clock = Clock::manual(instant("2026-03-12T12:00:00Z"));
    let aws = Aws::with(Options { page_size: 200, ..Options::default() }, clock);
    let url = aws.url();
    let home =
        Home::with(&[Connection::new("a", &url), Connection { account: 2, ..Connection::new("b", &url) }])
            .set("poll.concurrency", "1")
            .set("budget.requests_per_day", "20");
    let mut exits = Vec::new();
    for minute in 0..6 {
        aws.clock.set(instant("2026-03-12T12:00:00Z") + SignedDuration::from_mins(minute));
        exits.push(home.poll(&aws.clock));
        assert!(aws.charged() <= 20, "{}", aws.charged());
    }
    assert_eq!((exits[0], exits[5]), (Exit::Done, Exit::Failed), "{exits:?}");
    let charged = aws.charged();
    assert!(charged >= 6, "{charged}");
    // A new day holds it all again.
    aws.clock.set(instant("2026-03-13T00:00:01Z"));
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    assert!(aws.charged() > charged);

    // The same for months.
    let charged = aws.charged();
    let home =
        home.set("budget.requests_per_day", "0").set("budget.requests_per_month", &charged.to_string());
    assert_eq!(home.poll(&aws.clock), Exit::Failed);
    assert_eq!(aws.charged(), charged);
    aws.clock.set(instant("2026-04-01T00:00:01Z"));
    home.poll(&aws.clock);
    assert!((1..=charged).contains(&(aws.charged() - charged)), "{charged} {}", aws.charged());
}

/// What was reserved and not needed is given back; refusals were never taken.
#[test]
fn reserved_pages_are_settled() {
    let aws = Aws::pages(200);
    let home = Home::on(&aws.url());
    home.once_complete();
    let pages = aws.charged();
    assert!(pages >= 2);
    assert_eq!(spent(&home), pages);
    aws.faults().inject(Injection { after: 1, times: 5, ..Fault::Throttled.into() });
    assert_eq!(home.once().code, Some(1));
    assert_eq!((aws.charged(), spent(&home)), (pages + 1, pages + 1));
    aws.faults().clear();
    let bill: BTreeMap<_, _> = aws.bill().refusals;
    assert_eq!(bill.into_keys().collect::<Vec<_>>(), ["LimitExceededException"]);
    assert_eq!(home.connection_state()["claim"], serde_json::Value::Null);
}

/// Killed with requests under way: the state may count too many, never too few.
#[test]
fn a_kill_never_leaves_spending_uncounted() {
    let aws = Aws::pages(30);
    let home = Home::on(&aws.url());
    for after in [0, 1, 3, 7] {
        // One page after some others hangs; the bill has it already.
        aws.faults().inject(Injection { after, ..Fault::Stall.into() });
        let before = aws.charged();
        let running = home.start_once();
        eventually("AWS is asked", || aws.charged() > before + u64::from(after));
        running.kill();
        assert!(spent(&home) >= aws.charged(), "{} < {}", spent(&home), aws.charged());
        assert_eq!(aws.faults().pending(), 0);
    }
    home.once_complete();
    assert!(spent(&home) >= aws.charged());
}

/// At most so many connections at once; a stalled one holds up no other.
#[test]
fn a_stalled_connection_holds_up_no_other_and_concurrency_is_bounded() {
    let aws = Aws::now();
    let url = aws.url();
    let home = |concurrency: &str| {
        let home = Home::with(&[
            Connection::new("a", &url),
            Connection { account: 2, ..Connection::new("b", &url) },
            Connection { account: 3, ..Connection::new("c", &url) },
        ]);
        home.set("poll.concurrency", concurrency)
    };
    let stall = |account: &str| {
        let account = Some(account.to_owned());
        aws.faults().inject(Injection { account, ..Fault::Stall.into() });
    };
    stall("111122223333");
    let several = home("3");
    let running = several.start();
    running.wait_for_all("cycle finished", 2);
    assert!(!running.said().contains("connection=\"a\""), "{}", running.said());
    running.kill();
    assert!(several.log().0.iter().all(|event| event["data"]["accountId"] != "111122223333"));

    // One at a time: while one is silent, nobody else is asked.
    for account in ["111122223333", "444455556666", "888899990000"] {
        stall(account);
    }
    let before = aws.charged();
    let one = home("1");
    let running = one.start();
    eventually("the first is asked", || aws.charged() == before + 1);
    eventually("all know their account", || aws.bill().sts >= 6);
    assert_eq!(aws.faults().pending(), 2, "two wait for their turn");
    assert_eq!(aws.charged(), before + 1);
    running.kill();
}
