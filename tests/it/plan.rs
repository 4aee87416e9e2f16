//! `plan`: what it says is what AWS charges.

use amazon_billing_source::{clock::Clock, exit::Exit, simulator::Options};
use jiff::SignedDuration;
use serde_json::Value;

use crate::{
    backfill::all_months,
    support::{Aws, Home, aws::instant},
};

/// `plan`'s JSON lines.
pub(crate) fn plan(home: &Home, more: &[&str]) -> Vec<Value> {
    let ran = home.run(&[&["plan", "--config", "billing.toml"], more].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// `plan` needs no network; and a day of polls costs what it said.
#[test]
fn a_day_and_a_month_of_polls_cost_what_was_planned() {
    let clock = Clock::manual(instant("2026-03-12T11:00:00Z"));
    let aws = Aws::with(Options { page_size: 130, ..Options::default() }, clock);
    let home = Home::on(&aws.url());
    assert_eq!(plan(&home, &[])[0]["requestsPerDay"], 3, "as long as nothing is known");
    assert_eq!(aws.bill().requests() + aws.bill().sts, 0);
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    let planned = plan(&home, &[]);
    let (pages, charged) = (planned[0]["pagesPerPoll"].as_u64().unwrap(), aws.charged());
    assert!(pages >= 3 && pages == charged, "{pages} {charged}");
    for hours in [1, 2, 3] {
        aws.clock.set(instant("2026-03-12T11:00:00Z") + SignedDuration::from_hours(hours));
        assert_eq!(home.poll(&aws.clock), Exit::Done);
    }
    assert_eq!(planned[0]["requestsPerDay"].as_u64(), Some(aws.charged() - charged));
    assert_eq!(planned[1]["requestsPerDay"], planned[0]["requestsPerDay"]);

    let aws = Aws::at("2026-03-12T11:00:00Z");
    let home = Home::on(&aws.url()).set("poll.interval", "24h");
    let planned = plan(&home, &[]);
    for day in 0..30 {
        aws.clock.set(instant("2026-03-12T11:00:00Z") + SignedDuration::from_hours(24 * day));
        assert_eq!(home.poll(&aws.clock), Exit::Done);
    }
    assert_eq!(planned[0]["requestsPerMonth"].as_u64(), Some(aws.charged()));
    assert_eq!(planned[0]["dollarsPerMonth"], aws.bill().cost());
    assert_eq!(plan(&home, &["--actual"])[0]["dollarsEver"], aws.bill().cost());
}

/// A broker is reached only where that is asked for.
#[test]
fn plan_needs_no_network_unless_it_is_asked_to_look() {
    for broker in
        ["[nats]\nservers = [\"nats://127.0.0.1:1\"]", "[kafka]\nbootstrap_servers = \"127.0.0.1:1\""]
    {
        let kind = &broker[1..broker.find(']').unwrap()];
        let home = Home::on("http://127.0.0.1:1");
        let before = std::fs::read_to_string(home.path("billing.toml")).unwrap();
        home.write("billing.toml", &format!("{before}[transport]\nkind = \"{kind}\"\n{broker}\n"));
        assert_eq!(plan(&home, &[])[0]["pagesPerPoll"], 1, "{kind}");
        let from = all_months()[3].to_string();
        assert_eq!(plan(&home, &["--backfill-from", &from])[1]["dollars"], "$0.04", "{kind}");
        let ran = home.run(&["plan", "--config", "billing.toml", "--connect"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(69), ""), "{kind}: {}", ran.stderr);
    }
    let home = Home::on("http://127.0.0.1:1");
    for args in [
        &["--backfill-from", "2001-01-01"][..],
        &["--backfill-to", "2001-01-01"],
        &["--actual", "--backfill-from", "2001-01-01"],
    ] {
        let ran = home.run(&[&["plan", "--config", "billing.toml"], args].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("--backfill-from"), "{}", ran.stderr);
    }
}
