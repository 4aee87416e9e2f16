//! What operators see: logs on stderr, metrics for Prometheus. Vocabularies are bounded.
//!
//! No amount is logged above DEBUG, and no secret at any level.

use std::{
    io::{self, IsTerminal as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tracing_subscriber::EnvFilter;

use crate::{
    cost::Granularity,
    dedup::Counts,
    poller::{Allowance, RequestCounts},
};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends logs to stderr, filtered by a directive such as `info` or `amazon_billing_source=trace`.
/// The SDK's own logs hold whole answers, and those may quote signed headers: without a directive of
/// their own, such as `aws_smithy_runtime=trace`, they stay off.
///
/// # Errors
/// When the directive cannot be read. A second call in one process changes nothing.
pub fn init_logs(filter: &str, format: LogFormat) -> Result<(), String> {
    // The client of NATS tells every connection at INFO, and the transport tells what matters. That of Kafka
    // tells of a consumer that is closed, as it is dropped, that it cannot be closed.
    let quiet = [("async_nats", ",async_nats=warn"), ("rdkafka", ",rdkafka::consumer::base_consumer=off")];
    let quiet: String = quiet.iter().filter(|(of, _)| !filter.contains(of)).map(|(_, less)| *less).collect();
    // A word that is no level is a target to the filter, of which then all is shown and of others nothing.
    if let Some(word) = filter.split(',').map(str::trim).find(|part| !part.is_empty() && is_no_level(part)) {
        return Err(format!("the log filter `{filter}` cannot be read: `{word}` is no level"));
    }
    let filter = EnvFilter::builder()
        .parse(format!("aws_=error,{filter}{quiet}"))
        .map_err(|e| format!("the log filter `{filter}` cannot be read: {e}"))?;
    let is_terminal = io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || LogLine { clear: is_terminal })
        .with_ansi(is_terminal);
    let result = match format {
        LogFormat::Text => logs.with_target(false).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    if result.is_err() {
        tracing::debug!("logs were set up before");
    }
    Ok(())
}

/// Whether a part of a filter is a bare word that is no level.
fn is_no_level(part: &str) -> bool {
    !part.contains(['=', '[']) && part.parse::<tracing_subscriber::filter::LevelFilter>().is_err()
}

/// One log line on its way to stderr. On a terminal it takes the place of a progress bar, which is
/// drawn again below it.
struct LogLine {
    clear: bool,
}

impl io::Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        if std::mem::take(&mut self.clear) {
            stderr.write_all(b"\r\x1b[2K")?;
        }
        stderr.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The program's metrics, all named `billing_source_...`. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    polls: Family<PollLabels, Counter>,
    requests: Family<OutcomeLabels, Counter>,
    records: Family<VerdictLabels, Counter>,
    published: Family<TransportLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    publish_seconds: Histogram,
    last_success: Family<ConnectionLabels, Gauge>,
    ledger_rows: Family<ConnectionLabels, Gauge>,
    forward_attempts: Family<OutcomeLabels, Counter>,
    forwarded: Family<OutcomeLabels, Counter>,
    /// A family without labels: absent until it is set.
    budget: Family<[(String, String); 0], Gauge>,
    /// Events handed to the output since the start, for the last words of a run.
    events: AtomicU64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PollLabels {
    connection: String,
    granularity: String,
    outcome: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VerdictLabels {
    verdict: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TransportLabels {
    transport: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabels {
    stage: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ConnectionLabels {
    connection: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics of their own registry, all at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("billing_source");
        let mut inner = Inner {
            polls: Family::default(),
            requests: Family::default(),
            records: Family::default(),
            published: Family::default(),
            errors: Family::default(),
            publish_seconds: Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0]),
            last_success: Family::default(),
            ledger_rows: Family::default(),
            forward_attempts: Family::default(),
            forwarded: Family::default(),
            budget: Family::default(),
            events: AtomicU64::new(0),
            registry: Registry::default(),
        };
        registry.register("polls", "Polls of one window, by how they ended", inner.polls.clone());
        registry.register(
            "cost_explorer_requests",
            "Requests to Cost Explorer; `charged` and `unknown` cost $0.01 each",
            inner.requests.clone(),
        );
        registry.register("records", "Cost records read, by verdict", inner.records.clone());
        registry.register("events_published", "Events stored durably", inner.published.clone());
        registry.register("errors", "Failures, by stage and kind", inner.errors.clone());
        registry.register("publish_seconds", "From a batch to its receipts", inner.publish_seconds.clone());
        registry.register(
            "last_success_timestamp_seconds",
            "When the last complete poll began, Unix time",
            inner.last_success.clone(),
        );
        registry.register("ledger_rows", "Keys in memory", inner.ledger_rows.clone());
        registry.register(
            "forward_attempts",
            "Requests to an endpoint events are forwarded to, by what it made of them",
            inner.forward_attempts.clone(),
        );
        registry.register(
            "forward_events",
            "Events a forwarder is done with, by what became of them",
            inner.forwarded.clone(),
        );
        registry.register(
            "budget_remaining_requests",
            "Requests the budget still holds; absent without a cap",
            inner.budget.clone(),
        );
        inner.registry = registry;
        Self(Arc::new(inner))
    }

    /// The text format of `OpenMetrics`.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.0.registry).is_err() {
            text.clear();
        }
        text
    }

    /// Events stored since the start.
    pub fn events(&self) -> u64 {
        self.0.events.load(Ordering::Relaxed)
    }

    /// A window's poll ended.
    pub fn polled(&self, connection: &str, granularity: Granularity, outcome: &str) {
        let labels = PollLabels {
            connection: connection.to_owned(),
            granularity: granularity.name().to_owned(),
            outcome: outcome.to_owned(),
        };
        self.0.polls.get_or_create(&labels).inc();
    }

    /// Requests of one client, from one reading of its counters to the next.
    pub fn requests(&self, before: RequestCounts, now: RequestCounts) {
        for (outcome, count) in [
            ("charged", now.charged - before.charged),
            ("refused", now.refused - before.refused),
            ("unsent", now.unsent - before.unsent),
            ("unknown", now.unknown - before.unknown),
        ] {
            self.0.requests.get_or_create(&OutcomeLabels { outcome }).inc_by(count);
        }
    }

    /// Verdicts on the records of one page.
    pub fn classified(&self, counts: &Counts) {
        for (verdict, count) in [
            ("new", counts.new),
            ("revised", counts.revised),
            ("removed", counts.removed),
            ("unchanged", counts.unchanged),
            ("zero", counts.zero),
            ("stale", counts.stale),
            ("rejected", counts.rejected),
        ] {
            if count > 0 {
                self.0.records.get_or_create(&VerdictLabels { verdict }).inc_by(count);
            }
        }
    }

    /// A batch was stored.
    pub fn published(&self, transport: &'static str, events: usize, took: Duration) {
        let events = events as u64;
        self.0.events.fetch_add(events, Ordering::Relaxed);
        self.0.published.get_or_create(&TransportLabels { transport }).inc_by(events);
        self.0.publish_seconds.observe(took.as_secs_f64());
    }

    /// Something failed.
    pub fn failed(&self, stage: &'static str, kind: &'static str) {
        self.0.errors.get_or_create(&ErrorLabels { stage, kind }).inc();
    }

    /// A complete poll began then.
    pub fn succeeded(&self, connection: &str, began: Timestamp) {
        let labels = ConnectionLabels { connection: connection.to_owned() };
        self.0.last_success.get_or_create(&labels).set(began.as_second());
    }

    /// Keys in memory.
    pub fn ledger_rows(&self, connection: &str, rows: usize) {
        let labels = ConnectionLabels { connection: connection.to_owned() };
        self.0.ledger_rows.get_or_create(&labels).set(i64::try_from(rows).unwrap_or(i64::MAX));
    }

    /// A request to an endpoint ended.
    pub fn forward_attempt(&self, outcome: &'static str) {
        self.0.forward_attempts.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// A forwarder is done with so many events.
    pub fn forwarded(&self, outcome: &'static str, events: u64) {
        self.0.forwarded.get_or_create(&OutcomeLabels { outcome }).inc_by(events);
    }

    /// What the budget leaves.
    pub fn budget_left(&self, left: Allowance) {
        if let Allowance::Requests(left) = left {
            self.0.budget.get_or_create(&[]).set(i64::from(left));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_word_of_a_filter_is_a_level() {
        for (part, wrong) in [
            ("info", false),
            ("DEBUG", false),
            ("off", false),
            ("inof", true),
            ("amazon_billing_source=debug", false),
            ("[span]=info", false),
        ] {
            assert_eq!(is_no_level(part), wrong, "{part}");
        }
    }

    #[test]
    fn metrics_have_the_documented_names() {
        let metrics = Metrics::new();
        metrics.polled("main", Granularity::Daily, "complete");
        let after = RequestCounts { charged: 2, ..RequestCounts::default() };
        metrics.requests(RequestCounts::default(), after);
        metrics.classified(&Counts { new: 3, ..Counts::default() });
        metrics.published("local", 3, Duration::from_millis(3));
        metrics.failed("fetch", "throttled");
        metrics.succeeded("main", "2026-03-01T00:00:00Z".parse().unwrap());
        metrics.ledger_rows("main", 3);
        metrics.forward_attempt("taken");
        metrics.forwarded("delivered", 1);
        metrics.budget_left(Allowance::Requests(22));
        // Families are unordered.
        let text = metrics.render();
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        insta::assert_snapshot!(lines.join("\n"), @r#"
# EOF
# HELP billing_source_budget_remaining_requests Requests the budget still holds; absent without a cap.
# HELP billing_source_cost_explorer_requests Requests to Cost Explorer; `charged` and `unknown` cost $0.01 each.
# HELP billing_source_errors Failures, by stage and kind.
# HELP billing_source_events_published Events stored durably.
# HELP billing_source_forward_attempts Requests to an endpoint events are forwarded to, by what it made of them.
# HELP billing_source_forward_events Events a forwarder is done with, by what became of them.
# HELP billing_source_last_success_timestamp_seconds When the last complete poll began, Unix time.
# HELP billing_source_ledger_rows Keys in memory.
# HELP billing_source_polls Polls of one window, by how they ended.
# HELP billing_source_publish_seconds From a batch to its receipts.
# HELP billing_source_records Cost records read, by verdict.
# TYPE billing_source_budget_remaining_requests gauge
# TYPE billing_source_cost_explorer_requests counter
# TYPE billing_source_errors counter
# TYPE billing_source_events_published counter
# TYPE billing_source_forward_attempts counter
# TYPE billing_source_forward_events counter
# TYPE billing_source_last_success_timestamp_seconds gauge
# TYPE billing_source_ledger_rows gauge
# TYPE billing_source_polls counter
# TYPE billing_source_publish_seconds histogram
# TYPE billing_source_records counter
billing_source_budget_remaining_requests{} 22
billing_source_cost_explorer_requests_total{outcome="charged"} 2
billing_source_cost_explorer_requests_total{outcome="refused"} 0
billing_source_cost_explorer_requests_total{outcome="unknown"} 0
billing_source_cost_explorer_requests_total{outcome="unsent"} 0
billing_source_errors_total{stage="fetch",kind="throttled"} 1
billing_source_events_published_total{transport="local"} 3
billing_source_forward_attempts_total{outcome="taken"} 1
billing_source_forward_events_total{outcome="delivered"} 1
billing_source_last_success_timestamp_seconds{connection="main"} 1772323200
billing_source_ledger_rows{connection="main"} 3
billing_source_polls_total{connection="main",granularity="daily",outcome="complete"} 1
billing_source_publish_seconds_bucket{le="+Inf"} 1
billing_source_publish_seconds_bucket{le="0.001"} 0
billing_source_publish_seconds_bucket{le="0.005"} 1
billing_source_publish_seconds_bucket{le="0.02"} 1
billing_source_publish_seconds_bucket{le="0.1"} 1
billing_source_publish_seconds_bucket{le="0.5"} 1
billing_source_publish_seconds_bucket{le="10.0"} 1
billing_source_publish_seconds_bucket{le="2.0"} 1
billing_source_publish_seconds_bucket{le="60.0"} 1
billing_source_publish_seconds_count 1
billing_source_publish_seconds_sum 0.003
billing_source_records_total{verdict="new"} 3
"#);
    }

    #[test]
    fn a_bad_filter_is_named() {
        let error = init_logs("a=b=c", LogFormat::Text).unwrap_err();
        assert!(error.contains("a=b=c"), "{error}");
    }
}
