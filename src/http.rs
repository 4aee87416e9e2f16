//! The one HTTP client beside AWS's own: for endpoints events are forwarded to, and token servers.
//!
//! It follows no redirect, and nothing it does goes without a deadline. The proxy of the usual
//! variables (`HTTPS_PROXY`, `NO_PROXY`) is used, as by every other program.

use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, redirect::Policy};

/// Name, TCP and TLS must be done by then, whatever the whole request may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A client whose requests end within `deadline`, from the look-up of the name to the last byte of the
/// answer. Servers must be certified by the host's roots or by one of `more_roots`, PEM.
///
/// # Errors
/// When `more_roots` is no PEM, or the host has no roots at all.
pub fn client(deadline: Duration, more_roots: Option<&[u8]>) -> Result<Client, HttpClientError> {
    let roots = match more_roots {
        Some(pem) => Certificate::from_pem_bundle(pem)?,
        None => Vec::new(),
    };
    Ok(builder(deadline).tls_certs_merge(roots).build()?)
}

/// The same, for who trusts other roots.
pub fn builder(deadline: Duration) -> ClientBuilder {
    // For the whole process; whoever was first chose the same.
    rustls::crypto::ring::default_provider().install_default().ok();
    Client::builder()
        .user_agent(concat!("amazon-billing-source/", env!("CARGO_PKG_VERSION")))
        // What a request carries goes where it was told to go.
        .redirect(Policy::none())
        .connect_timeout(CONNECT.min(deadline))
        .timeout(deadline)
}

/// A client that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("could not set up an HTTP client: {}", reason(.0))]
pub struct HttpClientError(#[from] reqwest::Error);

/// What went wrong, down to the cause: reqwest's own text stops before it. Never holds the URL, which
/// may hold a secret.
pub fn reason(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let cause = innermost.to_string();
    if error.is_timeout() && error.is_connect() {
        "no connection within the deadline".to_owned()
    } else if error.is_timeout() {
        "no answer within the deadline".to_owned()
    } else if error.is_connect() {
        format!("no connection: {cause}")
    } else {
        cause
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_server_that_says_nothing_is_left_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/?token=secret", listener.local_addr().unwrap());
        let client = client(Duration::from_millis(200), None).unwrap();
        let error = client.get(url).send().await.unwrap_err();
        assert_eq!(reason(&error), "no answer within the deadline");
    }

    #[tokio::test]
    async fn the_cause_is_named_and_the_url_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/?token=secret", listener.local_addr().unwrap());
        drop(listener);
        let error = client(Duration::from_secs(5), None).unwrap().get(url).send().await.unwrap_err();
        let reason = reason(&error);
        assert!(reason.starts_with("no connection: ") && reason.contains("refused"), "{reason}");
        assert!(!reason.contains("secret"), "{reason}");
    }

    #[test]
    fn roots_that_are_none_are_refused() {
        let error = client(Duration::from_secs(1), Some(b"-----BEGIN CERTIFICATE-----\nx")).unwrap_err();
        assert!(error.to_string().starts_with("could not set up an HTTP client: "), "{error}");
    }
}
