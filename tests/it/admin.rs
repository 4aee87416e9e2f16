//! The admin endpoints of a running process.

use std::collections::BTreeSet;

use amazon_billing_source::simulator::{Fault, Injection};

use crate::support::{Aws, Connection, Home, eventually, running::get};

#[test]
fn the_endpoints_tell_life_readiness_and_metrics() {
    let aws = Aws::now();
    let home = Home::on(&aws.url()).set("admin.listen", "127.0.0.1:0").set("budget.requests_per_day", "24");
    let running = home.start();
    let address = running.admin();
    running.wait_for("cycle finished");
    let (head, body) = get(&address, "/livez");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, "ok\n");
    eventually("it is ready", || get(&address, "/readyz").0.starts_with("HTTP/1.1 200"));
    assert_eq!(get(&address, "/readyz").1, "main: ready\n");
    assert!(get(&address, "/").0.starts_with("HTTP/1.1 404"));

    let (head, metrics) = get(&address, "/metrics");
    assert!(
        head.to_lowercase().contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(metrics.ends_with("# EOF\n"));
    let events = home.log().len();
    for line in [
        "billing_source_polls_total{connection=\"main\",granularity=\"daily\",outcome=\"complete\"} 1"
            .to_owned(),
        "billing_source_cost_explorer_requests_total{outcome=\"charged\"} 1".to_owned(),
        format!("billing_source_events_published_total{{transport=\"local\"}} {events}"),
        format!("billing_source_records_total{{verdict=\"new\"}} {events}"),
        format!("billing_source_ledger_rows{{connection=\"main\"}} {events}"),
        "billing_source_budget_remaining_requests{} 23".to_owned(),
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
    assert!(!metrics.contains("AmortizedCost") && !metrics.contains("USD"), "no figures");
    running.signal("TERM");
    assert_eq!(running.end().0, Some(0));
}

/// Every metric an alert is about is there, with the labels the alert looks at.
#[test]
fn every_metric_of_the_alerts_exists() {
    let alerts = include_str!("../../deploy/prometheus/alerts.yaml");
    let words = alerts.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let wanted: BTreeSet<_> = words.filter(|word| word.starts_with("billing_source_")).collect();
    assert!(wanted.len() >= 4, "{wanted:?}");

    let aws = Aws::now();
    let url = aws.url();
    let home = Home::with(&[
        Connection::new("main", &url),
        Connection { account: 2, ..Connection::new("denied", &url) },
    ])
    .set("admin.listen", "127.0.0.1:0")
    .set("budget.requests_per_day", "24");
    let account = Some("444455556666".to_owned());
    aws.faults().inject(Injection { account, times: 0, ..Fault::AccessDenied { message: None }.into() });
    let running = home.start();
    let address = running.admin();
    running.wait_for_all("cycle finished", 2);
    let metrics = get(&address, "/metrics").1;
    for name in wanted {
        let starts =
            |line: &str| line.starts_with(&format!("{name} ")) || line.starts_with(&format!("{name}{{"));
        assert!(metrics.lines().any(starts), "{name}\n{metrics}");
    }
    assert!(metrics.contains("billing_source_errors_total{stage=\"fetch\",kind=\"denied\"} 1"), "{metrics}");
    assert!(metrics.contains("billing_source_last_success_timestamp_seconds{connection=\"main\"}"));
}

/// Denied: not ready, and ready again without a restart once the permission is there.
#[test]
fn a_denied_connection_is_not_ready_until_it_is_allowed() {
    let aws = Aws::scenario("denied");
    let home = Home::on(&aws.url()).set("admin.listen", "127.0.0.1:0").set("poll.interval", "1s");
    let running = home.start();
    let address = running.admin();
    running.wait_for("cycle finished");
    eventually("it is not ready", || get(&address, "/readyz").1 == "main: failing: denied\n");
    assert!(get(&address, "/readyz").0.starts_with("HTTP/1.1 503"));
    assert!(get(&address, "/livez").0.starts_with("HTTP/1.1 200"), "and alive all the same");
    aws.faults().clear();
    eventually("it is ready", || get(&address, "/readyz").0.starts_with("HTTP/1.1 200"));
    assert!(home.log().len() > 20);
}

/// A port that is taken costs the metrics and not the events.
#[test]
fn a_taken_port_does_not_keep_events_from_coming() {
    let aws = Aws::now();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let home = Home::on(&aws.url()).set("admin.listen", &taken.local_addr().unwrap().to_string());
    let running = home.start();
    running.wait_for("cycle finished");
    assert!(running.said().contains("the admin endpoints cannot be served"), "{}", running.said());
    assert!(home.log().len() > 20);
}
