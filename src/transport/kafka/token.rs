//! The tokens of SASL OAUTHBEARER: one for all clients, renewed before it expires.
//!
//! librdkafka asks for a token when a client is made and again when four fifths of its time are over.
//! Where tokens come from is the business of `oauth` and `msk_iam`.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use rdkafka::client::OAuthToken;
use tokio::runtime::Handle;
use tracing::{debug, warn};

use super::{msk_iam::MskIam, oauth::Oauth};
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
        if let Some((since, failure)) = &state.failure
            && since.elapsed() < SHARED
        {
            return Err(failure.clone());
        }
        match self.fetch(now) {
            Ok((token, renew)) => {
                debug!(expires = %token.expires, "a new token");
                let given = for_librdkafka(&token);
                *state = State { token: Some((token, renew)), failure: None };
                Ok(given)
            }
            Err(failure) => match &state.token {
                // Four fifths of its time are over, not all of it.
                Some((token, _)) if token.expires > now => {
                    warn!(expires = %token.expires, "could not renew the token, which is still good: {failure}");
                    Ok(for_librdkafka(token))
                }
                _ => {
                    state.failure = Some((Instant::now(), failure.clone()));
                    Err(failure)
                }
            },
        }
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
        let (since, failure) = state.failure.as_ref()?;
        (since.elapsed() < FRESH).then(|| failure.clone())
    }
}

fn for_librdkafka(token: &Token) -> OAuthToken {
    OAuthToken {
        token: token.value.clone(),
        principal_name: token.principal.clone(),
        lifetime_ms: token.expires.as_millisecond(),
    }
}
