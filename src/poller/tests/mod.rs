//! The poller's AWS client against canned answers over real sockets.

mod answers;
mod credentials;
mod errors;
mod faults;
mod pages;
mod requests;
mod server;

use std::time::Duration;

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use jiff::Timestamp;
use secrecy::SecretString;

use super::{CostExplorer, FetchError, Page, Window, cost_explorer::Timeouts, http_client};
use crate::{
    clock::Clock,
    config::{ConnectionConfig, CredentialsConfig},
    cost::{CostMetric, Granularity},
};

/// The day of every window.
const NOW: &str = "2026-03-15T08:00:00Z";

/// For servers that do not answer: nothing waits longer than 300 ms for anything.
const SHORT: Timeouts = Timeouts {
    connect: Duration::from_millis(250),
    read: Duration::from_millis(200),
    attempt: Duration::from_millis(300),
    operation: Duration::from_secs(2),
    credentials: Duration::from_millis(250),
    backoff: Duration::from_millis(5),
};

/// For servers that do: a busy machine fails no test.
const PATIENT: Timeouts = Timeouts { backoff: SHORT.backoff, ..Timeouts::PRODUCTION };

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn connection(endpoint: &str) -> ConnectionConfig {
    ConnectionConfig {
        name: "main".to_owned(),
        account_id: None,
        granularity: vec![Granularity::Daily],
        metrics: vec![CostMetric::UnblendedCost],
        group_by: None,
        filter: None,
        endpoint_url: Some(endpoint.to_owned()),
        sts_endpoint_url: None,
        region: "us-east-1".to_owned(),
        credentials: CredentialsConfig::Keys {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: SecretString::from("SECRET-ACCESS-KEY"),
            session_token: Some(SecretString::from("SESSION-TOKEN")),
        },
    }
}

async fn client(connection: &ConnectionConfig) -> CostExplorer {
    client_with(connection, &http_client(), PATIENT).await
}

async fn client_with(
    connection: &ConnectionConfig,
    http: &SharedHttpClient,
    timeouts: Timeouts,
) -> CostExplorer {
    CostExplorer::with(connection, http, Clock::system(), timeouts, None).await
}

fn window() -> Window {
    Window::due(Granularity::Daily, at(NOW), 10, None)
}

fn hours() -> Window {
    Window::due(Granularity::Hourly, at(NOW), 10, None)
}

/// The error as people see it.
fn rendered(error: &FetchError) -> String {
    let text = format!(
        "{} {}: {error}\nhint: {}",
        error.kind.name(),
        error.code.as_deref().unwrap_or("-"),
        error.hint.as_deref().unwrap_or("-")
    );
    assert!(!text.contains("SECRET-ACCESS-KEY") && !text.contains("SESSION-TOKEN"), "a secret: {text}");
    text
}

/// One line a record.
fn lines(page: &Page) -> String {
    let line = |record: &crate::cost::CostRecord| {
        let group = record.group.as_deref().map(|group| format!(" [{group}]")).unwrap_or_default();
        let amounts: Vec<_> = record
            .amounts
            .iter()
            .map(|(metric, amount)| format!("{metric} {} {}", amount.text(), amount.unit()))
            .collect();
        let estimated = if record.estimated { " estimated" } else { "" };
        format!("{} {}{group}: {}{estimated}", record.period, record.service, amounts.join(", "))
    };
    page.records.iter().map(line).collect::<Vec<_>>().join("\n")
}
