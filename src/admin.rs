//! The admin endpoints: `/livez`, `/readyz`, `/metrics`. They tell; nothing can be done through them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// Whether every connection can do its work. Clones share one view.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, Health>>>);

/// One connection's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// The state has not been recovered yet.
    Starting,
    /// Working, or waiting for its next poll.
    Ready,
    /// Something an operator must look at.
    Failing(String),
}

impl Readiness {
    /// Notes a connection's health.
    pub fn set(&self, connection: &str, health: Health) {
        if let Ok(mut connections) = self.0.lock() {
            connections.insert(connection.to_owned(), health);
        }
    }

    /// Whether every connection is ready, and a line about each.
    pub fn report(&self) -> (bool, String) {
        let Ok(connections) = self.0.lock() else { return (false, "unknown\n".to_owned()) };
        let ready = connections.values().all(|health| *health == Health::Ready);
        let lines = connections.iter().map(|(name, health)| match health {
            Health::Starting => format!("{name}: starting\n"),
            Health::Ready => format!("{name}: ready\n"),
            Health::Failing(why) => format!("{name}: failing: {why}\n"),
        });
        (ready, lines.collect())
    }
}

/// Serves at an address until shut down; the hint is for one that is taken, which costs the metrics, not
/// the events.
pub async fn serve(
    (listen, hint): (SocketAddr, &'static str),
    metrics: Metrics,
    readiness: Readiness,
    shutdown: CancellationToken,
) {
    let listener = match TcpListener::bind(listen).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%listen, hint, "the admin endpoints cannot be served: {error}");
            return;
        }
    };
    let address = listener.local_addr().map_or_else(|_| listen.to_string(), |address| address.to_string());
    tracing::info!(%address, "serving /livez, /readyz and /metrics");
    let served = axum::serve(listener, router(metrics, readiness))
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!("the admin endpoints ended: {error}");
    }
}

fn router(metrics: Metrics, readiness: Readiness) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .with_state((metrics, readiness))
}

async fn ready(State((_, readiness)): State<(Metrics, Readiness)>) -> Response {
    let (ready, lines) = readiness.report();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, lines).into_response()
}

async fn render(State((metrics, _)): State<(Metrics, Readiness)>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failing_connection_is_not_ready() {
        let readiness = Readiness::default();
        readiness.set("a", Health::Starting);
        assert_eq!(readiness.report(), (false, "a: starting\n".to_owned()));
        readiness.set("a", Health::Ready);
        assert!(readiness.report().0);
        readiness.set("b", Health::Failing("denied".to_owned()));
        assert_eq!(readiness.report(), (false, "a: ready\nb: failing: denied\n".to_owned()));
    }
}
