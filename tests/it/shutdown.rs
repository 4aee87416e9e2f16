//! Being told to stop: drained and 0, at once the second time, and never lost what a stuck output
//! did not take.

use std::{io::Read as _, time::Instant};

use amazon_billing_source::simulator::Fault;

use crate::support::{Aws, DEADLINE, Home, Log};

#[test]
fn a_signal_drains_and_ends_with_zero() {
    let aws = Aws::now();
    for signal in ["TERM", "INT"] {
        let home = Home::on(&aws.url());
        let running = home.start();
        running.wait_for("cycle finished");
        running.signal(signal);
        let (code, said) = running.end();
        assert_eq!(code, Some(0), "{signal}: {said}");
        assert!(said.contains("stopping; once more to stop at once"), "{said}");
        assert!(said.lines().last().unwrap().contains("stopped events="), "{said}");
        assert!(!home.path("state.db-wal").exists(), "one file is left behind");
        assert!(home.log().len() > 20);
    }
}

/// AWS does not answer: the request is given up at once, and nothing waits for its timeout.
#[test]
fn a_signal_while_aws_is_silent_ends_at_once() {
    let aws = Aws::now();
    aws.once(Fault::Stall);
    let home = Home::on(&aws.url());
    let running = home.start();
    crate::support::eventually("AWS is asked", || aws.charged() == 1);
    let began = Instant::now();
    running.signal("TERM");
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(began.elapsed().as_secs() < 15, "the answer would have taken 30 s: {:?}", began.elapsed());
    // AWS charged for it, and so does the state.
    assert_eq!(home.connection_state()["spent"]["total"], 1);
    home.once_complete();
}

/// stdout is a pipe that nobody reads and that is soon full.
fn stuck(home: &Home) -> crate::support::Running {
    let running = home.start();
    crate::support::eventually("the events are in the outbox", || {
        let path = home.path("state.db");
        if !path.exists() {
            return false;
        }
        let count = home.state().query_row("SELECT count(*) FROM outbox", [], |row| row.get::<_, i64>(0));
        count.is_ok_and(|count| count > 100)
    });
    running
}

#[test]
fn a_stuck_output_is_left_after_the_grace_and_loses_nothing() {
    let aws = Aws::now();
    let home = Home::on(&aws.url()).set("local.output", "-").set("poll.grace", "1s");
    let mut running = stuck(&home);
    let began = Instant::now();
    running.signal("TERM");
    let mut stdout = running.stdout.take().unwrap();
    let (code, said) = running.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(began.elapsed() < DEADLINE / 3, "{:?}", began.elapsed());
    let warning =
        said.lines().find(|line| line.contains("WARN") && line.contains("the grace is over")).unwrap();
    assert!(warning.contains("unfinished=1"), "{said}");
    let mut taken = String::new();
    stdout.read_to_string(&mut taken).unwrap();
    assert!(taken.len() >= 4096 && !taken.ends_with('\n'), "the pipe was full: {}", taken.len());

    let charged = aws.charged();
    let ran = home.once_complete();
    assert_eq!(aws.charged(), charged + 1);
    assert!(ran.stdout.starts_with(&taken), "stdout sees it again, to the letter");
    let clean = Home::on(&aws.url()).set("local.output", "-");
    let clean = Log::parse(&clean.once_complete().stdout);
    assert_eq!(Log::parse(&ran.stdout).contents(), clean.contents());
}

#[test]
fn the_second_signal_ends_at_once() {
    let aws = Aws::now();
    let home = Home::on(&aws.url()).set("local.output", "-").set("poll.grace", "300s");
    let running = stuck(&home);
    running.signal("TERM");
    running.wait_for("stopping; once more to stop at once");
    running.signal("INT");
    let (code, said) = running.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("stopped at once; nothing is lost"), "{said}");
    assert!(Log::parse(&home.once_complete().stdout).len() > 20);
}

#[test]
fn the_simulator_ends_with_its_bill() {
    let home = Home::new();
    let mut running = crate::support::Running::spawn(home.command(["simulate", "--listen", "127.0.0.1:0"]));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(running.stdout.take().unwrap()), &mut line)
        .unwrap();
    let url = line.trim().strip_prefix("listening on ").unwrap().to_owned();
    let polled = Home::on(&url);
    polled.once_complete();
    assert!(polled.log().len() > 20);
    running.signal("TERM");
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("cost=\"$0.01\""), "{said}");
}
