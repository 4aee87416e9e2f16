//! Killed at any moment, again and again, while AWS restates: every event once, every figure right.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use amazon_billing_source::{
    clock::Clock,
    exit::Exit,
    simulator::{Fault, Injection, Options},
};
use jiff::{SignedDuration, civil::date};

use crate::support::{Aws, DEADLINE, Home, eventually};

const KILLS: u64 = 30;

/// A small generator, so that a failing run can be repeated: xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The machine's clock decides what the binary asks for, so AWS restates by faults: every answer
/// states other figures than the one before, and some lack a service. The pages are small, so that
/// kills fall between them, too.
#[test]
fn killed_at_random_while_aws_restates_every_event_is_there_once() {
    let aws = Aws::pages(100);
    let home = Home::on(&aws.url()).set("poll.interval", "1s");
    let mut random = Random(0x5eed_cafe);
    let mut longest = Duration::from_millis(600);
    for kill in 0..KILLS {
        aws.faults().clear();
        let add = rust_decimal::Decimal::new(i64::try_from(kill).unwrap(), 2);
        aws.faults().always(Fault::Change { service: None, add });
        if kill % 3 == 0 {
            aws.faults().always(Fault::DropService { service: "AWS Lambda".to_owned() });
        }
        let running = home.start();
        // From the first instant to well after the poll: anywhere in the way of an event.
        let pause = Duration::from_micros(random.below(u64::try_from(longest.as_micros()).unwrap()));
        let began = Instant::now();
        eventually("its moment has come", || began.elapsed() >= pause);
        let said = running.kill();
        assert!(!said.contains("ERROR"), "{said}");
        if said.contains("cycle finished") {
            longest = pause.max(Duration::from_millis(50));
        } else if kill % 4 == 3 {
            longest = (longest * 5 / 4).min(DEADLINE / 20);
        }
        // A power cut may leave half a line, or zeros, that no process wrote whole.
        if kill % 5 == 4 {
            let mut file =
                std::fs::OpenOptions::new().append(true).create(true).open(home.path("events.jsonl"));
            let tail: &[u8] = if kill % 2 == 0 { b"{\"specversion\":\"1.0\",\"id\":\"" } else { &[0; 512] };
            file.as_mut().unwrap().write_all(tail).unwrap();
        }
    }
    aws.faults().clear();
    // Twice: what a poll before the last kill had missed once, and what is still there.
    home.once_complete();
    home.once_complete();
    let log = home.log();
    let clean = Home::on(&aws.url());
    clean.once_complete();
    let live = |log: &crate::support::Log| {
        let latest = log.latest();
        let figures = latest
            .values()
            .map(|event| (event["partitionkey"].to_string(), event["data"]["unblendedCost"].to_string()));
        figures.filter(|(_, figure)| !figure.contains("\"0\"")).collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(live(&log), live(&clean.log()));
    let most = log.0.iter().filter_map(|event| event["revision"].as_u64()).max().unwrap();
    assert!(most > 3, "kills were too early to see figures change: {most}");
    let spent = home.connection_state()["spent"]["total"].as_u64().unwrap();
    assert!(spent >= aws.charged() - clean_pages(&clean), "{spent} {}", aws.charged());
}

fn clean_pages(home: &Home) -> u64 {
    home.connection_state()["spent"]["total"].as_u64().unwrap()
}

/// Killed at chosen places: while AWS is silent, after the first page, in the middle of the output.
#[test]
fn killed_between_pages_the_next_run_goes_on() {
    let aws = Aws::pages(100);
    let home = Home::on(&aws.url());
    for after in 0..4 {
        aws.faults().inject(Injection { after, ..Fault::Stall.into() });
        let before = aws.charged();
        let running = home.start_once();
        eventually("AWS is silent", || aws.charged() > before + u64::from(after));
        running.kill();
        home.log_after_a_kill();
    }
    assert!(home.log_after_a_kill().len() > 20, "pages that had arrived are published");
    home.once_complete();
    let clean = Home::on(&aws.url());
    clean.once_complete();
    assert_eq!(home.log().contents().len(), clean.log().contents().len());
}

/// A month in which every third cycle is cut short, in this process: the figures are AWS's own.
#[test]
fn failing_cycles_all_month_leave_the_bill() {
    let clock = Clock::manual(instant_of(1));
    let aws = Aws::with(Options { page_size: 150, ..Options::default() }, clock);
    let home = Home::on(&aws.url());
    let mut random = Random(0xb111);
    for day in (12..28).step_by(3) {
        aws.clock.set(instant_of(day));
        let after = u32::try_from(random.below(4)).unwrap();
        let fault = [Fault::Truncated, Fault::Throttled, Fault::Empty, Fault::RequestChanged]
            [usize::try_from(random.below(4)).unwrap()]
        .clone();
        aws.faults().inject(Injection { after, times: 4, ..fault.into() });
        let exit = home.poll(&aws.clock);
        assert!(matches!(exit, Exit::Failed | Exit::Done), "{exit:?}");
        home.log();
    }
    aws.faults().clear();
    for _ in 0..2 {
        assert_eq!(home.poll(&aws.clock), Exit::Done);
        aws.clock.set(aws.clock.now() + SignedDuration::from_mins(1));
    }
    home.log().assert_is_the_bill_of(&aws, "111122223333", date(2026, 3, 1), date(2026, 4, 1));
}

fn instant_of(day: i64) -> jiff::Timestamp {
    "2026-03-01T03:00:00Z".parse::<jiff::Timestamp>().unwrap() + SignedDuration::from_hours(24 * (day - 1))
}
