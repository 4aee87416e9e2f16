//! The tokens of SASL OAUTHBEARER: one for all clients, renewed before it expires.
//!
//! librdkafka asks for a token when a client is made and again when four fifths of its time are over.
//! Where tokens come from is the business of `oauth` and `msk_iam`.

use std::{
    ffi::CString,
    ptr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use rdkafka::{
    bindings::rd_kafka_oauthbearer_set_token,
    client::{Client, OAuthToken},
    types::RDKafkaRespErr,
};
use tokio::runtime::Handle;
use tracing::{debug, warn};

use super::{context::Context, msk_iam::MskIam, oauth::Oauth};
use crate::{
    clock::Clock,
    config::{KafkaConfig, KafkaLogin},
    transport::{TransportError, TransportErrorKind as Kind},
};

/// How long a token may take to be had.
const DEADLINE: Duration = Duration::from_secs(10);

/// Clients that ask at once share one failure; the next one after this tries again.
const SHARED: Duration = Duration::from_secs(2);

/// An older failure says nothing about the call that failed now; librdkafka asks every 10 seconds.
const FRESH: Duration = Duration::from_secs(15);

/// What a token is good for.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) value: String,
    /// For librdkafka's log; the broker takes the name from the token.
    pub(super) principal: String,
    pub(super) expires: Timestamp,
}

enum Source {
    Oauth(Oauth),
    MskIam(MskIam),
}

#[derive(Default)]
struct State {
    /// The newest token, and when it is to be renewed.
    token: Option<(Token, Timestamp)>,
    failure: Option<(Instant, TransportError)>,
}

impl State {
    fn good(&self, now: Timestamp) -> Option<&Token> {
        self.token.as_ref().map(|(token, _)| token).filter(|token| token.expires > now)
    }

    fn fresh_failure(&self) -> Option<TransportError> {
        let (since, failure) = self.failure.as_ref()?;
        (since.elapsed() < FRESH).then(|| failure.clone())
    }
}

/// Gives the tokens of one configuration.
pub(super) struct Tokens {
    source: Arc<Source>,
    /// librdkafka calls on threads of its own.
    runtime: Handle,
    clock: Clock,
    state: Mutex<State>,
    /// Whether nothing is wanted any more: a client that is let go of asks once more.
    closed: AtomicBool,
}

impl Tokens {
    /// `None` where librdkafka logs in by itself.
    ///
    /// # Errors
    /// `Rejected` when the endpoint's CA cannot be read.
    pub(super) fn of(config: &KafkaConfig) -> Result<Option<Self>, TransportError> {
        let source = match &config.login {
            KafkaLogin::Librdkafka => return Ok(None),
            KafkaLogin::Oauth(oauth) => Source::Oauth(Oauth::new(oauth)?),
            KafkaLogin::MskIam(msk) => Source::MskIam(MskIam::new(msk)),
        };
        let runtime =
            Handle::try_current().map_err(|e| TransportError::new(Kind::Rejected, e.to_string()))?;
        // A token's time is the broker's, whatever clock the polls go by.
        Ok(Some(Self {
            source: Arc::new(source),
            runtime,
            clock: Clock::system(),
            state: Mutex::default(),
            closed: AtomicBool::new(false),
        }))
    }

    /// The token to use now. Blocks, for as long as one may take to be had.
    ///
    /// # Errors
    /// `Unavailable` where waiting may help, `Rejected` where it will not.
    pub(super) fn current(&self) -> Result<OAuthToken, TransportError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(TransportError::new(Kind::Unavailable, "the transport is closed"));
        }
        // Held while one is fetched: the other clients wait for the same token.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        if let Some((token, renew)) = &state.token
            && now < *renew
        {
            return Ok(for_librdkafka(token));
        }
        let failure = match &state.failure {
            Some((since, failure)) if since.elapsed() < SHARED => failure.clone(),
            _ => match self.fetch(now) {
                Ok((token, renew)) => {
                    debug!(expires = %token.expires, "a new token");
                    let given = for_librdkafka(&token);
                    *state = State { token: Some((token, renew)), failure: None };
                    return Ok(given);
                }
                Err(failure) => {
                    state.failure = Some((Instant::now(), failure.clone()));
                    failure
                }
            },
        };
        // Four fifths of the last one's time are over, perhaps not all of it; that it cannot be had took time.
        let Some(token) = state.good(self.clock.now()) else { return Err(failure) };
        warn!(expires = %token.expires, "could not renew the token, which is still good: {failure}");
        Ok(for_librdkafka(token))
    }

    fn fetch(&self, now: Timestamp) -> Result<(Token, Timestamp), TransportError> {
        // Not `block_on`: whoever asks may be a thread of the runtime, and that would be a panic.
        let (sender, receiver) = mpsc::channel();
        let source = Arc::clone(&self.source);
        let fetching = self.runtime.spawn(async move {
            let fetched = match &*source {
                Source::Oauth(oauth) => oauth.fetch(now).await,
                Source::MskIam(msk) => msk.fetch(now).await,
            };
            sender.send(fetched).ok();
        });
        let fetched = receiver.recv_timeout(DEADLINE);
        fetching.abort();
        let token = fetched.unwrap_or_else(|_| {
            let message = format!("could not get a token within {} seconds", DEADLINE.as_secs());
            Err(TransportError::new(Kind::Unavailable, message).with_hint(self.hint()))
        })?;
        let left = token.expires.duration_since(now);
        if left <= SignedDuration::ZERO {
            let message = format!("the token that was given expired at {}", token.expires);
            return Err(TransportError::new(Kind::Rejected, message)
                .with_hint("compare this host's clock with that of who gives the tokens"));
        }
        let renew = now.saturating_add(left * 4 / 5).unwrap_or(token.expires);
        Ok((token, renew))
    }

    fn hint(&self) -> &'static str {
        match *self.source {
            Source::Oauth(_) => {
                "is `kafka.oauth.token_endpoint` right, and up? Nothing is lost; it is tried again"
            }
            Source::MskIam(_) => {
                "what `kafka.msk_iam.credentials` come from did not answer; it is tried again"
            }
        }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Why there is no token, where that is so now.
    pub(super) fn failure(&self) -> Option<TransportError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.good(self.clock.now()).is_some() { None } else { state.fresh_failure() }
    }

    /// Why the token was not renewed, where that is so now. It may still be good by this host's clock, and
    /// over by the broker's, which then refuses it.
    pub(super) fn not_renewed(&self) -> Option<TransportError> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).fresh_failure()
    }
}

/// Lets a client log in that is not polled, and so does not ask for a token by itself: the one for topics
/// and their settings (rust-rdkafka issue 757). It gets no other one after this.
///
/// # Errors
/// `Rejected` for what no token can be, `Unavailable` when librdkafka does not take it: it is over by now.
#[expect(unsafe_code, reason = "the binding has no call of its own for this")]
pub(super) fn give(client: &Client<Context>, token: OAuthToken) -> Result<(), TransportError> {
    let text = |text: String| {
        CString::new(text).map_err(|_| TransportError::new(Kind::Rejected, "the token has a byte of zero"))
    };
    let (value, principal) = (text(token.token)?, text(token.principal_name)?);
    // Written, and not read: what is wrong with a token is told with the token itself.
    let mut why = [0; 512];
    // SAFETY: the client lives as long as its reference, the texts and the buffer as long as the call, which
    // copies what it keeps and writes no more than it is told there is room for. There are no extensions,
    // for which a null pointer stands.
    let code = unsafe {
        rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.lifetime_ms,
            principal.as_ptr(),
            ptr::null_mut(),
            0,
            why.as_mut_ptr(),
            why.len(),
        )
    };
    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    Err(TransportError::new(Kind::Unavailable, format!("librdkafka does not take the token ({code:?})")))
}

fn for_librdkafka(token: &Token) -> OAuthToken {
    OAuthToken {
        token: token.value.clone(),
        principal_name: token.principal.clone(),
        lifetime_ms: token.expires.as_millisecond(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use rdkafka::{
        ClientContext as _,
        error::{KafkaError, RDKafkaErrorCode as Code},
    };

    use super::{super::client::Clients, *};
    use crate::{
        config::{ClientAuth, DeliveryMode, LostState, OauthConfig, SecretSource},
        event::ContentMode,
    };

    /// Of brokers that are not there.
    pub(in crate::transport::kafka) fn config(login: KafkaLogin) -> KafkaConfig {
        KafkaConfig {
            bootstrap_servers: "127.0.0.1:9".to_owned(),
            topic: "aws.cost".to_owned(),
            state_topic: "aws.cost.state".to_owned(),
            content_mode: ContentMode::Binary,
            delivery: DeliveryMode::ExactlyOnce,
            create_topics: false,
            state_partitions: 8,
            on_lost_state: LostState::Refuse,
            login,
            librdkafka: BTreeMap::new(),
        }
    }

    /// With a token endpoint that is down.
    fn clients() -> Clients {
        let login = KafkaLogin::Oauth(OauthConfig {
            token_endpoint: "http://127.0.0.1:9/token".to_owned(),
            client_id: "client".to_owned(),
            client_secret: SecretSource::Text("right".into()),
            client_auth: ClientAuth::Basic,
            scope: None,
            audience: None,
            ca_file: None,
        });
        Clients::new(&config(login)).unwrap()
    }

    /// Only a broker whose clock is ahead refuses a token that is good by ours.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_token_that_could_not_be_renewed_is_not_a_refused_one() {
        let clients = clients();
        let tokens = clients.context.tokens.as_ref().unwrap();
        let hold = |expires: Timestamp| {
            let token = Token { value: "t".to_owned(), principal: "client".to_owned(), expires };
            tokens.state.lock().unwrap().token = Some((token, Timestamp::UNIX_EPOCH));
        };
        let failed = || clients.error("log in", &KafkaError::MetadataFetch(Code::Authentication));
        // Without a word of the broker's it may have been cut, as when a token ends.
        assert_eq!(failed().kind, Kind::Unavailable);
        let complaint = |text| clients.context.error(KafkaError::Global(Code::Authentication), text);
        complaint(
            "SASL authentication error: SaslAuthenticateRequest failed: Local: Broker transport failure",
        );
        assert_eq!(failed().kind, Kind::Unavailable);
        complaint("SASL authentication error: {\"status\":\"invalid_token\"}");
        let now = tokens.clock.now();
        hold(now + SignedDuration::from_secs(60));
        let error = failed();
        assert_eq!(error.kind, Kind::Rejected);
        assert!(error.hint.unwrap().contains("refused the token"));
        // Twice: the second shares the failure, and gets the token as well.
        for _ in 0..2 {
            assert_eq!(tokens.current().unwrap().token, "t");
            assert!(tokens.failure().is_none());
            let error = failed();
            assert_eq!(error.kind, Kind::Unavailable);
            assert!(error.hint.unwrap().contains("token_endpoint"));
        }
        hold(now);
        assert_eq!(tokens.failure().unwrap().kind, Kind::Unavailable);
    }
}
