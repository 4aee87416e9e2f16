//! The connection: logging in, requests to the JetStream API, and what their failures mean.
//!
//! What is asked for is not decided here.

use std::{
    error::Error as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event, ServerError,
    jetstream::{
        Context, Error as ApiError, ErrorCode,
        context::{ContextBuilder, PublishError, PublishErrorKind, RequestErrorKind},
        message::StreamMessage,
        response::Response,
        stream::{LastRawMessageErrorKind, Stream},
    },
};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tracing::{debug, warn};

use crate::{
    config::{NatsConfig, NatsLogin},
    transport::{TransportError, TransportErrorKind as Kind},
};

/// What a request came to where it was not answered as asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server's own refusal.
    Refused(ApiError),
    /// There was no answer.
    Silent(TransportError),
}

/// A connection, and JetStream over it.
#[derive(Debug)]
pub(super) struct JetStream {
    pub(super) client: Client,
    pub(super) context: Context,
    /// What the server last forbade: it says so beside the request, which just gets no answer.
    forbidden: Forbidden,
    timeout: Duration,
}

type Forbidden = Arc<Mutex<Option<(Instant, String)>>>;

impl JetStream {
    /// Connects and logs in. From then on the client reconnects by itself, for ever.
    pub(super) async fn connect(config: &NatsConfig) -> Result<Self, TransportError> {
        let forbidden = Arc::new(Mutex::new(None));
        let client = options(config, Arc::clone(&forbidden))
            .await?
            .connect(&config.servers)
            .await
            .map_err(|error| connect_error(config, &error))?;
        let context = ContextBuilder::new().timeout(config.timeout).build(client.clone());
        Ok(Self { client, context, forbidden, timeout: config.timeout })
    }

    /// A request to the API: `STREAM.INFO.ORDERS`.
    pub(super) async fn request(&self, subject: &str, body: &Value) -> Result<Value, Failure> {
        match self.context.request::<_, _, Response<Value>>(subject.to_owned(), body).await {
            Ok(Response::Ok(value)) => Ok(value),
            Ok(Response::Err { error }) => Err(Failure::Refused(error)),
            Err(error) => {
                let what = format!("JetStream did not answer `{subject}`");
                Err(Failure::Silent(match error.kind() {
                    RequestErrorKind::NoResponders => self.no_jetstream(),
                    _ => self.silence(&what, &error),
                }))
            }
        }
    }

    /// A stream by its name, without asking for it.
    pub(super) async fn stream(&self, name: &str) -> Result<Stream<()>, TransportError> {
        self.context
            .get_stream_no_info(name)
            .await
            .map_err(|e| TransportError::new(Kind::Rejected, format!("`{name}` is no stream: {e}")))
    }

    /// The last message on a subject, or on all that match it, as the stream's leader has it: a
    /// direct get may be answered by a replica that lags.
    pub(super) async fn last(
        &self,
        stream: &Stream<()>,
        subject: &str,
    ) -> Result<Option<StreamMessage>, TransportError> {
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message)),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                LastRawMessageErrorKind::JetStream(error) => {
                    Err(refusal(&format!("could not read the last message on `{subject}`"), &error))
                }
                _ => Err(self.silence(&format!("could not read the last message on `{subject}`"), &error)),
            },
        }
    }

    /// What the absence of an answer means: forbidden, where the server just said so.
    pub(super) fn silence(&self, what: &str, error: &dyn std::error::Error) -> TransportError {
        // One that is older than a request waits was of another.
        if let Some(forbidden) = self.forbidden_within(self.timeout + Duration::from_secs(2), what) {
            return forbidden;
        }
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        TransportError::new(Kind::Unavailable, format!("{what}: {error}{cause}"))
    }

    /// What the server forbade so short a time ago; told once.
    pub(super) fn forbidden_within(&self, age: Duration, what: &str) -> Option<TransportError> {
        let latest = self.forbidden.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (_, said) = latest.filter(|(since, _)| since.elapsed() <= age)?;
        let error = TransportError::new(Kind::Rejected, format!("{what}: {said}"));
        Some(error.with_hint("docs/nats.md lists the subjects that the user must be allowed"))
    }

    fn no_jetstream(&self) -> TransportError {
        let server = self.client.server_info();
        let error = TransportError::new(
            Kind::Unavailable,
            format!("JetStream of server `{}` does not answer", server.server_name),
        );
        if server.jetstream {
            error.with_hint("a stream or a cluster without a leader answers again once most servers are up")
        } else {
            error.with_hint(
                "JetStream is off: start the server with `-js`, or write `jetstream {}` in its file",
            )
        }
    }
}

/// The server's refusal of a request, by what it means for the run.
///
/// | the server says | kind |
/// |---|---|
/// | JetStream is off, subjects or replicas it has not, too many streams | `Rejected`: somebody must act |
/// | full, busy, without a leader or servers it knows, too many consumers | `Unavailable`: nothing was stored, time may mend it |
/// | the stream is gone | `Regressed`: found or created anew by the next recovery |
/// | anything else | `Rejected` |
pub(super) fn refusal(what: &str, error: &ApiError) -> TransportError {
    let (kind, hint) = match error.error_code() {
        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => (
            Kind::Rejected,
            Some("JetStream is off for this account: enable it in the server's configuration"),
        ),
        ErrorCode::STREAM_NOT_MATCH => (
            Kind::Rejected,
            Some("another stream takes these subjects: `nats stream ls --subject '...'` names it"),
        ),
        ErrorCode::MAXIMUM_STREAMS_LIMIT => (
            Kind::Rejected,
            Some(
                "the account may have no more streams, and this program needs two: `nats account info` shows \
                 the limit, raise it or remove a stream",
            ),
        ),
        ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED => (
            Kind::Rejected,
            Some("there are fewer servers than `replicas` in `[nats]` asks for: start more, or lower it"),
        ),
        // Also of a cluster whose leader has just been elected, and does not know its servers yet.
        ErrorCode::CLUSTER_NO_PEERS => (
            Kind::Unavailable,
            Some(
                "where that stays so, there are fewer servers than `replicas` in `[nats]` asks for: start more, or lower it",
            ),
        ),
        ErrorCode::STREAM_MAX_BYTES_REQUIRED => (
            Kind::Rejected,
            Some(
                "the account wants a size for every stream, and one that is full forgets state: have the limit \
                 lifted, or create stream and bucket yourself with a generous `--max-bytes`",
            ),
        ),
        ErrorCode::MAXIMUM_CONSUMERS_LIMIT => (
            Kind::Unavailable,
            Some(
                "the state is read back with a consumer, and there may be no more of them: `nats consumer ls` \
                 and `nats account info`",
            ),
        ),
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::STREAM_STORE_FAILED
        | ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED => (
            Kind::Unavailable,
            Some(
                "the stream, its account or the server's disk is full: `nats stream info` and `nats account info` show the limits",
            ),
        ),
        ErrorCode::STREAM_NOT_FOUND => (Kind::Regressed, None),
        // Its servers are being restarted, or have more to do than they can.
        ErrorCode::STREAM_OFFLINE
        | ErrorCode::CONSUMER_OFFLINE
        | ErrorCode::CONSUMER_STORE_FAILED
        | ErrorCode::STREAM_TOO_MANY_REQUESTS => (Kind::Unavailable, None),
        // Of anything that keeps it from making one.
        ErrorCode::CONSUMER_CREATE if error.code() >= 500 => {
            (Kind::Unavailable, Some("where that stays so, the server's log says why it makes no consumer"))
        }
        _ if error.code() == 503 => (Kind::Unavailable, None),
        _ => (Kind::Rejected, None),
    };
    let refused = TransportError::new(kind, format!("{what}: {error}"));
    match hint {
        Some(hint) => refused.with_hint(hint),
        None => refused,
    }
}

/// The server's refusal of a publish, where it is one.
pub(super) fn publish_refusal(error: &PublishError) -> Option<&ApiError> {
    match error.kind() {
        PublishErrorKind::Other | PublishErrorKind::WrongLastSequence => error.source()?.downcast_ref(),
        _ => None,
    }
}

async fn options(config: &NatsConfig, forbidden: Forbidden) -> Result<ConnectOptions, TransportError> {
    let mut options = ConnectOptions::new()
        .name("amazon-billing-source")
        .connection_timeout(config.timeout)
        .request_timeout(Some(config.timeout))
        .ping_interval(Duration::from_secs(20))
        .event_callback(move |event| {
            let forbidden = Arc::clone(&forbidden);
            async move { note(&event, &forbidden) }
        });
    options = match &config.login {
        NatsLogin::Nobody => options,
        NatsLogin::Credentials(path) => options.credentials_file(path).await.map_err(|error| {
            let what = format!("could not read the credentials `{}`: {error}", path.display());
            TransportError::new(Kind::Rejected, what)
                .with_hint("it is the file that `nsc generate creds` writes")
        })?,
        NatsLogin::Nkey(seed) => options.nkey(seed.expose_secret().to_owned()),
        NatsLogin::User { user, password } => {
            options.user_and_password(user.clone(), password.expose_secret().to_owned())
        }
        NatsLogin::Token(token) => options.token(token.expose_secret().to_owned()),
    };
    let tls = &config.tls;
    options = options.require_tls(tls.required);
    if tls.first {
        options = options.tls_first();
    }
    if let Some(ca) = &tls.ca_file {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((certificate, key)) = &tls.client {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options)
}

/// What the connection reports beside any request.
fn note(event: &Event, forbidden: &Mutex<Option<(Instant, String)>>) {
    match event {
        // The client lets go of a consumer that it makes anew; where it may not, the server does by itself.
        Event::ServerError(ServerError::Other(text)) if text.contains("CONSUMER.DELETE") => {
            debug!("NATS: {event}");
        }
        Event::ServerError(ServerError::Other(text)) if text.to_ascii_lowercase().contains("permissions") => {
            *forbidden.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), text.clone()));
        }
        Event::Disconnected => warn!("the connection to NATS is lost; reconnecting"),
        Event::LameDuckMode => warn!("the server of NATS is about to stop; another one follows"),
        Event::ServerError(_) | Event::ClientError(_) | Event::SlowConsumer(_) => warn!("NATS: {event}"),
        _ => debug!("NATS: {event}"),
    }
}

/// Whether TLS was refused by either side, which comes as a failure of the socket: invalid data.
fn is_tls(error: &async_nats::ConnectError) -> bool {
    let io = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::InvalidData)
}

fn connect_error(config: &NatsConfig, error: &async_nats::ConnectError) -> TransportError {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    let what = format!("could not connect to NATS at `{}`: {error}{cause}", config.servers.join("`, `"));
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            TransportError::new(Kind::Rejected, what).with_hint(
                "the server refuses the login: see `credentials_file`, `nkey_seed_file`, `user` and `token` \
                 in `[nats]`",
            )
        }
        kind if kind == ConnectErrorKind::Tls || is_tls(error) => TransportError::new(Kind::Rejected, what)
            .with_hint("see `[nats.tls]`: `ca_file` is who signs the server's certificate"),
        ConnectErrorKind::ServerParse => TransportError::new(Kind::Rejected, what),
        _ => TransportError::new(Kind::Unavailable, what)
            .with_hint("is a server listening there? `nats-server -js` starts one"),
    }
}
