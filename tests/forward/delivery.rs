//! Endpoints that do not take events now, never, or here.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    time::{Duration, Instant},
};

use amazon_billing_source::clock::Clock;

use crate::{
    endpoint::{Endpoint, answer, assert_complete, taken},
    eventually,
    home::{Home, events},
};

/// What is not for now is tried again, whatever the words for it.
#[test]
fn what_is_not_taken_now_is_tried_again() {
    for status in [408, 425, 429, 500, 503] {
        let endpoint = Endpoint::start(move |call| if call.number == 0 { answer(status) } else { taken() });
        let home = Home::with(&events(1, 2));
        let ran = home.once("r", &endpoint.url(), &[]);
        assert_eq!(assert_complete(&endpoint.taken(), 1, 2), 0);
        assert_eq!(endpoint.calls().len(), 3, "{status}");
        assert!(
            ran.stderr.contains(&format!("does not take events now: it answered {status}")),
            "{}",
            ran.stderr
        );
        assert!(ran.stderr.contains("takes events again"), "{}", ran.stderr);
    }
}

/// An endpoint that asks for no pause is not asked without end; one that asks for more time than there is
/// is asked once more when that is over.
#[test]
fn retry_after_is_no_way_around_the_pauses() {
    for (after, attempts) in [("0", 2..=4), ("Sun, 06 Nov 1994 08:49:37 GMT", 2..=4), ("3600", 2..=2)] {
        let endpoint = Endpoint::start(move |_| answer(503).header("retry-after", after));
        let home = Home::with(&events(1, 1));
        let ran = home.run(&["--name", "r", "--endpoint", &endpoint.url(), "--retry-for", "3s", "--once"]);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(attempts.contains(&endpoint.calls().len()), "{after}: {}", endpoint.calls().len());
    }
}

/// Nobody asks before the time is over, neither for this event nor for another.
#[test]
fn retry_after_is_waited_for() {
    let date = |from_now: i64| {
        let then = Clock::system().now() + jiff::SignedDuration::from_secs(from_now);
        then.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    };
    for as_date in [false, true] {
        let endpoint = Endpoint::start(move |call| match call.number {
            0 => answer(429).header("retry-after", &if as_date { date(3) } else { "3".to_owned() }),
            _ => taken(),
        });
        let home = Home::with(&events(5, 1));
        home.once("r", &endpoint.url(), &["--concurrency", "1"]);
        let calls = endpoint.calls();
        let asked = calls[0].answered.unwrap().0;
        for call in &calls[1..] {
            let waited = call.began - asked;
            // A date has whole seconds.
            let at_least = Duration::from_millis(if as_date { 1950 } else { 2950 });
            assert!(waited >= at_least, "{waited:?}");
        }
        assert_eq!(assert_complete(&endpoint.taken(), 5, 1), 0);
        assert_eq!(calls.len(), 6);
    }
}

/// Without a place to put it aside, a refused event ends the run, and nothing of its key overtakes it.
#[test]
fn a_refused_event_ends_the_run_and_is_the_next_starts_first() {
    for (mode, status) in [("structured", 422), ("batch", 400), ("structured", 410)] {
        let endpoint = Endpoint::start(move |call| {
            let refused = call.events.iter().any(|got| got.key.contains("service-2") && got.revision == 2);
            if refused { answer(status).says("no such account\r\n<b>") } else { taken() }
        });
        let events = events(4, 3);
        let home = Home::with(&events);
        let ran = home.run(&["--once", "--name", "r", "--endpoint", &endpoint.url(), "--mode", mode]);
        let keys: Vec<_> = endpoint.taken().into_iter().filter(|got| got.key.contains("service-2")).collect();
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert_eq!(keys.iter().map(|got| got.revision).collect::<Vec<_>>(), [1], "{mode}: {}", ran.stderr);
        let error = ran.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
        assert!(error.contains("could not forward the event `") && error.contains("service-2"), "{error}");
        assert!(error.contains(&format!("it answered {status}")), "{error}");
        assert!(error.ends_with("no such account <b>"), "{error}");
        assert!(ran.stderr.contains("hint: nothing is lost"), "{}", ran.stderr);

        let well = Endpoint::start(|_| taken());
        home.once("r", &well.url(), &[]);
        let mut all = endpoint.taken();
        all.extend(well.taken());
        assert_complete(&all, 4, 3);
    }
}

/// A redirect is neither followed nor taken for an answer.
#[test]
fn a_redirect_ends_the_run_and_says_where_to() {
    for status in [301, 302, 307, 308] {
        let elsewhere = Endpoint::start(|_| taken());
        let to = format!("{}?token=geheim", elsewhere.url());
        let endpoint = Endpoint::start(move |_| answer(status).header("location", &to));
        let home = Home::with(&events(2, 1));
        // A place for refused events changes nothing: it is not the event that is wrong.
        let ran = home.run(&["--name", "r", "--endpoint", &endpoint.url(), "--dead-letter", "dead.jsonl"]);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        let error = ran.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
        assert!(error.contains(&format!("a redirect to `{}?...`", elsewhere.url())), "{error}");
        assert!(!ran.stderr.contains("geheim"), "{}", ran.stderr);
        assert!(ran.stderr.contains("hint: redirects are not followed"), "{}", ran.stderr);
        assert_eq!(elsewhere.calls().len(), 0);
        assert_eq!(home.read("dead.jsonl"), "");
        home.once("r", &elsewhere.url(), &[]);
        assert_complete(&elsewhere.taken(), 2, 1);
    }
}

/// Silence and slowness cost the deadline, not more, and end in a sentence.
#[test]
fn an_endpoint_that_does_not_answer_is_given_up() {
    let endpoint = Endpoint::start(|_| taken().after(crate::DEADLINE * 2));
    let home = Home::with(&events(1, 2));
    let args = ["--name", "s", "--endpoint", &endpoint.url(), "--timeout", "300ms", "--retry-for", "1s"];
    let ran = home.run(&args);
    assert_eq!(ran.code, Some(69), "{}", ran.stderr);
    let error = ran.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(error.contains("no answer within the deadline; given up after "), "{error}");
    assert!(endpoint.calls().len() >= 2, "it was tried again");
    assert!(endpoint.calls().iter().all(|call| call.events[0].revision == 1), "nothing overtook it");
}

#[test]
fn an_endpoint_that_is_not_there_is_given_up() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let home = Home::with(&events(1, 1));
    let url = format!("http://127.0.0.1:{port}/");
    let ran = home.run(&["--name", "s", "--endpoint", &url, "--retry-for", "1s"]);
    assert_eq!(ran.code, Some(69), "{}", ran.stderr);
    assert!(ran.stderr.contains("no connection: ") && ran.stderr.contains("refused"), "{}", ran.stderr);
    // Until it is.
    let running = home.start(&["--name", "s", "--endpoint", &url, "--retry-for", "forever"]);
    running.wait_for("does not take events now");
    let endpoint = Endpoint::on(port, |_| taken());
    eventually("it is there", || !endpoint.taken().is_empty());
    running.wait_for("takes events again");
    running.kill();
}

/// What an answer says beside its status is read as far as needed and no further.
#[test]
fn an_answer_without_end_is_an_answer() {
    let endpoint = Endpoint::start(|_| answer(200).says(LONG));
    let home = Home::with(&events(3, 2));
    let began = Instant::now();
    home.once("l", &endpoint.url(), &[]);
    assert_complete(&endpoint.taken(), 3, 2);
    assert!(began.elapsed() < crate::DEADLINE);
}

/// Nor waited for: what was taken is taken.
#[test]
fn an_answer_that_never_ends_is_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = vec![0; 64 * 1024];
            let read = stream.read(&mut request).unwrap();
            assert!(read > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").unwrap();
            open.push(stream);
        }
    });
    let home = Home::with(&events(1, 3));
    let began = Instant::now();
    let ran = home.once("n", &url, &["--timeout", "300s"]);
    assert!(ran.stderr.contains("delivered=3"), "{}", ran.stderr);
    assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
}

const LONG: &str = match std::str::from_utf8(&[b'x'; 1024 * 1024]) {
    Ok(text) => text,
    Err(_) => "",
};

/// An endpoint that fails again is not ready, however soon after the last time that was told.
#[test]
fn readiness_is_never_that_of_before() {
    let endpoint = Endpoint::start(|call| match call.number {
        0 => answer(503),
        1 => taken(),
        _ => answer(503).header("retry-after", "3600"),
    });
    let home = Home::with(&events(3, 1));
    let args =
        ["--name", "m", "--endpoint", &endpoint.url(), "--listen", "127.0.0.1:0", "--concurrency", "1"];
    let running = home.start(&args);
    let admin = running.admin();
    eventually("it fails again", || endpoint.calls().len() == 3);
    eventually("it is failing", || crate::running::get(&admin, "/readyz").0.contains(" 503 "));
    running.kill();
}

/// Whether the endpoint is well is told to whoever asks.
#[test]
fn readiness_and_metrics_tell_how_the_endpoint_is() {
    let endpoint = Endpoint::start(|call| if call.number < 2 { answer(500) } else { taken() });
    let home = Home::with(&events(3, 1));
    let args = ["--name", "m", "--endpoint", &endpoint.url(), "--listen", "127.0.0.1:0", "--change", "new"];
    let running = home.start(&args);
    let admin = running.admin();
    running.wait_for("does not take events now");
    eventually("it is failing", || {
        let (head, body) = crate::running::get(&admin, "/readyz");
        head.contains(" 503 ") && body.contains("m: failing: it answered 500") || endpoint.taken().len() == 3
    });
    eventually("all is delivered", || endpoint.taken().len() == 3);
    eventually("and counted", || {
        let metrics = crate::running::get(&admin, "/metrics").1;
        metrics.contains("billing_source_forward_events_total{outcome=\"delivered\"} 3")
            && metrics.contains("billing_source_forward_attempts_total{outcome=\"taken\"} 3")
            && metrics.contains("billing_source_forward_attempts_total{outcome=\"not_now\"} 2")
    });
    assert!(crate::running::get(&admin, "/readyz").0.contains(" 200 "));
    running.kill();
}
