//! Being told to stop.

use std::time::Duration;

use crate::{
    endpoint::{Endpoint, answer, assert_complete, taken},
    eventually,
    home::{Home, events},
};

/// Requests under way are waited for, and their events are not delivered again.
#[test]
fn a_signal_waits_for_what_is_under_way() {
    for signal in ["TERM", "INT"] {
        let endpoint = Endpoint::start(|_| taken().after(Duration::from_millis(700)));
        let home = Home::with(&events(40, 1));
        let running = home.start(&["--name", "s", "--endpoint", &endpoint.url(), "--concurrency", "4"]);
        eventually("four are under way", || endpoint.calls().len() >= 6);
        running.signal(signal);
        let (code, said) = running.end();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("stopping; once more to stop at once"), "{said}");
        let stopped = endpoint.calls();
        assert!(stopped.iter().all(|call| call.answered.is_some()), "none was left");
        assert!(stopped.len() < 40);
        let well = Endpoint::start(|_| taken());
        home.once("s", &well.url(), &[]);
        let mut all = endpoint.taken();
        all.extend(well.taken());
        assert_eq!(assert_complete(&all, 40, 1), 0, "{signal}: nothing came twice");
    }
}

/// A pause between two attempts is not waited for.
#[test]
fn a_signal_ends_a_pause() {
    let endpoint = Endpoint::start(|_| answer(503).header("retry-after", "3600"));
    let home = Home::with(&events(1, 1));
    let running = home.start(&["--name", "p", "--endpoint", &endpoint.url()]);
    running.wait_for("does not take events now");
    running.signal("TERM");
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    let well = Endpoint::start(|_| taken());
    home.once("p", &well.url(), &[]);
    assert_complete(&well.taken(), 1, 1);
}

/// What hangs is left after the grace, and delivered by the next start.
#[test]
fn an_endpoint_that_hangs_is_left_after_the_grace() {
    let endpoint = Endpoint::start(|_| taken().after(crate::DEADLINE * 2));
    let home = Home::with(&events(3, 2)).set("BILLING_SOURCE__POLL__GRACE", "1s");
    let running = home.start(&["--name", "h", "--endpoint", &endpoint.url(), "--timeout", "300s"]);
    eventually("all are under way", || endpoint.calls().len() == 3);
    running.signal("TERM");
    let (code, said) = running.end();
    assert_eq!(code, Some(1), "{said}");
    let warning = said.lines().find(|line| line.contains("the grace is over")).unwrap();
    assert!(warning.contains("unfinished=3"), "{said}");
    let well = Endpoint::start(|_| taken());
    home.once("h", &well.url(), &[]);
    assert_complete(&well.taken(), 3, 2);
}

#[test]
fn the_second_signal_ends_at_once() {
    let endpoint = Endpoint::start(|_| taken().after(crate::DEADLINE * 2));
    let home = Home::with(&events(1, 1)).set("BILLING_SOURCE__POLL__GRACE", "300s");
    let running = home.start(&["--name", "h", "--endpoint", &endpoint.url(), "--timeout", "300s"]);
    eventually("it is under way", || !endpoint.calls().is_empty());
    running.signal("TERM");
    running.wait_for("stopping; once more to stop at once");
    running.signal("TERM");
    let (code, said) = running.end();
    assert_eq!(code, Some(1), "{said}");
}
