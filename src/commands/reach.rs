//! Reaching what a configuration points to: AWS by a call that is free or by one that is paid, and
//! the output. What is found is said by who asks.

use aws_smithy_runtime_api::client::http::SharedHttpClient;

use crate::{
    clock::Clock,
    config::{Config, ConnectionConfig, TransportConfig},
    cost::Granularity,
    poller::{CostExplorer, FetchError, Window},
    transport::{TransportError, TransportErrorKind, local::Local},
};

#[cfg(any(feature = "kafka", feature = "nats"))]
use crate::transport::Transport as _;

#[cfg(feature = "kafka")]
use crate::transport::kafka::Kafka;
#[cfg(feature = "nats")]
use crate::transport::nats::Nats;

/// Whose account the credentials of a connection belong to (`sts:GetCallerIdentity`, free), and the
/// client that may be asked further.
///
/// # Errors
/// When there are no credentials, or STS refuses them or gives no answer.
pub(crate) async fn identity(
    connection: &ConnectionConfig,
    http: &SharedHttpClient,
) -> Result<(CostExplorer, String), FetchError> {
    let aws = CostExplorer::connect(connection, http, Clock::system()).await?;
    let account = aws.caller_identity().await?;
    Ok((aws, account))
}

/// Sends one Cost Explorer request, which costs $0.01 where it is answered; what came of it in words.
///
/// # Errors
/// When there is no answer, AWS refuses, or the answer cannot be read.
pub(crate) async fn query(
    aws: &CostExplorer,
    granularity: Granularity,
    settle_days: u8,
) -> Result<String, FetchError> {
    let window = Window::due(granularity, Clock::system().now(), settle_days, None);
    let answer = aws.page(&window, None).await;
    let cents = aws.take_spent();
    let page = answer?;
    let more = if page.next.is_some() { " on the first page" } else { "" };
    Ok(format!(
        "{} {granularity} cost records{more} from {} on; this cost ${}.{:02}",
        page.records.len(),
        window.from,
        cents / 100,
        cents % 100
    ))
}

/// Reaches the output and proves what can be proven without publishing: a sentence per fact, one that
/// begins with `warning: ` or `skipped: ` where it is no good news.
///
/// # Errors
/// The first thing that would keep `run` from working.
pub(crate) async fn output(config: &Config) -> Result<Vec<String>, TransportError> {
    match &config.transport {
        TransportConfig::Local(local) => match Local::examine(local).await {
            Err(error) if error.kind == TransportErrorKind::InUse => {
                Ok(vec![format!("skipped: {error}; if that is `run`, the output is fine")])
            }
            result => result,
        },
        #[cfg(feature = "nats")]
        TransportConfig::Nats(nats) => Nats::new(nats.clone()).check().await,
        #[cfg(feature = "kafka")]
        TransportConfig::Kafka(kafka) => Kafka::connect(kafka)?.check().await,
    }
}

/// A fact's label, `ok` where it has none of its own, and what it says.
pub(crate) fn labelled(fact: &str) -> (&str, &str) {
    match fact.split_once(": ") {
        Some((label @ ("warning" | "skipped"), rest)) => (label, rest),
        _ => ("ok", fact),
    }
}
