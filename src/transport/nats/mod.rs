//! NATS JetStream: the newest message on a key's subject is the key's state.
//!
//! Every event is published only if its key's last message is still the one it was decided over, a
//! compare-and-set on the subject's sequence. So each event is its own state: stored with it or not
//! at all, without a transaction. No leader and no lock is needed for that.
//!
//! The connection's own state and the claim of its poll lie in a key-value bucket, written by
//! compare-and-set too, and always *after* the events that belong to it:
//!
//! | killed or refused | what the log says then | what follows |
//! |---|---|---|
//! | after the claim | claimed, the pages counted as spent | the same instance takes it over at once, another one after its time to live |
//! | between two events | some keys are new, no poll complete | the next poll finds them unchanged and publishes the rest |
//! | after the events, before the state | every key is new, no poll complete | one more poll is paid for and finds nothing |
//! | the state's acknowledgement is lost | perhaps written | the key is read from the leader and compared |
//! | the state is a rival's by then | the events stand, each right for itself | the rest of the answer is dropped |
//!
//! The state read back is never newer than the events: it is read first.

mod bucket;
mod client;
mod consume;
mod flight;
mod layout;
mod letters;
mod publish;
mod read;
mod setup;
mod stored;
mod subject;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::Value;
use tokio::sync::OnceCell;
use tracing::{debug, info};

pub(crate) use consume::{NatsPosition, read_events};
pub(crate) use letters::LetterSubject;

use client::JetStream;
use flight::Item;
use publish::Publisher;
use subject::Subjects;

use super::{
    Batch, Delivery, Outgoing, StateRecord, Transport, TransportError, TransportErrorKind as Kind, WindowOf,
};
use crate::{
    config::NatsConfig,
    dedup::{ConnectionState, Ledger},
    event::{Binding, ContentMode, encode},
};

/// How many events are encoded at once: a page's worth would be held twice, one alone costs a thread's
/// turn.
const ENCODED: usize = 256;

/// JetStream as the output and the state. It connects when first used, and then for ever.
#[derive(Debug)]
pub struct Nats {
    config: NatsConfig,
    js: OnceCell<JetStream>,
    scopes: Mutex<HashMap<String, Known>>,
    /// Whether what is doubtful about stream and bucket was said.
    warned: AtomicBool,
    compare_and_set: bool,
}

/// What is known of a scope since it was last recovered.
#[derive(Clone, Debug, Default)]
struct Known {
    /// When the stream was created: another instant is another stream.
    created: String,
    /// Sequences without a message. More of them: something was purged, deleted or forgotten.
    holes: u64,
    /// The bucket's sequence of the connection's state; 0 for none.
    revision: u64,
    /// The value at that sequence.
    value: Vec<u8>,
}

/// The facts of a stream that recovery goes by.
struct StreamFacts {
    created: String,
    holes: u64,
    last: u64,
}

impl Nats {
    /// Nothing is reached yet: a server that is down is found by the first call.
    pub fn new(config: NatsConfig) -> Self {
        Self {
            config,
            js: OnceCell::new(),
            scopes: Mutex::default(),
            warned: AtomicBool::new(false),
            compare_and_set: true,
        }
    }

    /// The negative control of the tests: message ids alone, no compare-and-set.
    #[cfg(feature = "broker-tests")]
    #[must_use]
    pub fn without_compare_and_set(self) -> Self {
        Self { compare_and_set: false, ..self }
    }

    async fn js(&self) -> Result<&JetStream, TransportError> {
        self.js.get_or_try_init(|| JetStream::connect(&self.config)).await
    }

    fn scopes(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, scope: &str) -> Option<Known> {
        self.scopes().get(scope).cloned()
    }

    fn publisher<'a>(
        &self,
        js: &'a JetStream,
        stream: &'a async_nats::jetstream::stream::Stream<()>,
        name: &'a str,
    ) -> Publisher<'a> {
        Publisher {
            js,
            stream,
            name,
            timeout: self.config.timeout,
            in_flight: self.config.max_in_flight,
            compare_and_set: self.compare_and_set,
        }
    }

    /// Brings the ledger to the proven end of what a poll of `window` looks at, or of everything.
    async fn bring(
        &self,
        scope: &str,
        ledger: &mut Ledger,
        window: Option<WindowOf<'_>>,
    ) -> Result<ConnectionState, TransportError> {
        let js = self.js().await?;
        let facts = stream_facts(&self.stream(js).await?);
        let (revision, value, state) = self.connection(js, scope).await?;
        if let Some(end) = ledger.recovered_to() {
            let known = self.known(scope).unwrap_or_default();
            if known.created != facts.created || facts.last < end {
                let what = format!(
                    "stream `{}` is not what it was: recreated, or it lost messages behind {}",
                    self.config.stream, facts.last
                );
                self.scopes().remove(scope);
                return Err(TransportError::new(Kind::Regressed, what)
                    .with_hint("what is missing is published again by the next poll"));
            }
            if known.holes != facts.holes {
                info!(
                    stream = self.config.stream,
                    "messages were removed from the stream; its state is read anew"
                );
                ledger.clear();
            }
        }
        let window = window.map(|window_of| window_of(&state));
        if ledger.recovered_to().is_none() || !ledger.reaches(window.as_ref()) {
            ledger.begin(window);
        }
        self.read_events(js, scope, &facts, ledger).await?;
        let StreamFacts { created, holes, .. } = facts;
        self.scopes().insert(scope.to_owned(), Known { created, holes, revision, value });
        Ok(state)
    }

    /// Reads the scope's events into the ledger, as far as that reaches.
    async fn read_events(
        &self,
        js: &JetStream,
        scope: &str,
        facts: &StreamFacts,
        ledger: &mut Ledger,
    ) -> Result<(), TransportError> {
        let name = &self.config.stream;
        let prefix = &self.config.subject_prefix;
        let stream = js.stream(name).await?;
        let subjects = Subjects::new(prefix, scope);
        let behind = ledger.recovered_to();
        let window = ledger.window();
        let filters = match &window {
            None => vec![subject::filter(prefix, scope)],
            Some(window) => subject::window_filters(prefix, scope, window),
        };
        let mut restore = ledger.restore();
        for filter in &filters {
            read::read(js, &stream, name, filter, behind, self.config.timeout, |message, sequence| {
                let found = stored::read(message.headers.as_ref(), &message.payload);
                if let Some(record) = of_scope(prefix, &subjects, name, &message.subject, sequence, &found)?
                    && window.is_none_or(|window| window.contains(record.period))
                {
                    restore.apply(&record.key(), &record.statement.borrowed(), sequence);
                }
                Ok(())
            })
            .await?;
        }
        drop(restore);
        // No further than where the stream ended before the first filter was read: what came since
        // is perhaps of a filter that had been read by then. It is read again and changes nothing.
        ledger.set_recovered_to(facts.last);
        Ok(())
    }

    /// Reads the state of every connection, for people. `each` gets a connection once, then its
    /// records.
    ///
    /// # Errors
    /// As [`Transport::recover`]; nothing is created.
    pub async fn read_state(
        mut self,
        mut each: impl FnMut(&str, &ConnectionState, Option<&StateRecord>) + Send,
    ) -> Result<(), TransportError> {
        self.config.create_stream = false;
        let js = self.js().await?;
        self.stream(js).await?;
        let name = &self.config.stream;
        let stream = js.stream(name).await?;
        for (scope, connection) in self.connections().await? {
            each(&scope, &connection, None);
            let prefix = &self.config.subject_prefix;
            let (subjects, filter) = (Subjects::new(prefix, &scope), subject::filter(prefix, &scope));
            let mut records = Vec::new();
            read::read(js, &stream, name, &filter, None, self.config.timeout, |message, sequence| {
                let found = stored::read(message.headers.as_ref(), &message.payload);
                records
                    .extend(of_scope(prefix, &subjects, name, &message.subject, sequence, &found)?.cloned());
                Ok(())
            })
            .await?;
            records.sort_by(|a, b| (a.period, &a.service, &a.group).cmp(&(b.period, &b.service, &b.group)));
            for record in &records {
                each(&scope, &connection, Some(record));
            }
        }
        Ok(())
    }

    /// Events as messages and their headers, some at a time on a thread of their own: the next are made
    /// while these are sent.
    fn encoded(
        &self,
        scope: &str,
        events: Vec<Outgoing>,
    ) -> impl Stream<Item = Result<(Item, HeaderMap), TransportError>> + Send + use<> {
        let encoder = Arc::new(Encoder {
            subjects: Subjects::new(&self.config.subject_prefix, scope),
            mode: self.config.content_mode,
            stream: self.config.stream.clone(),
            compare_and_set: self.compare_and_set,
        });
        let mut events = events.into_iter();
        let chunks = std::iter::from_fn(move || {
            let chunk: Vec<_> = events.by_ref().take(ENCODED).collect();
            let encoder = Arc::clone(&encoder);
            (!chunk.is_empty()).then(|| {
                tokio::task::spawn_blocking(move || {
                    chunk.into_iter().map(|outgoing| encoder.encode(outgoing)).collect::<Vec<_>>()
                })
            })
        });
        // One is waited for, one is being made.
        stream::iter(chunks).buffered(2).flat_map(|encoded| {
            let failed = |e| TransportError::new(Kind::Unknown, format!("encoding failed: {e}"));
            stream::iter(encoded.unwrap_or_else(|e| vec![Err(failed(e))]))
        })
    }
}

/// What makes messages of a batch's events.
struct Encoder {
    subjects: Subjects,
    mode: ContentMode,
    stream: String,
    compare_and_set: bool,
}

impl Encoder {
    fn encode(&self, outgoing: Outgoing) -> Result<(Item, HeaderMap), TransportError> {
        let message = encode(outgoing.event(), Binding::Nats, self.mode)
            .map_err(|e| TransportError::new(Kind::Rejected, format!("could not encode an event: {e}")))?;
        let Outgoing { record, expected, .. } = outgoing;
        let item = Item {
            subject: self.subjects.of(&record.key()).into(),
            id: record.event_id,
            expected,
            // Names and values have no line breaks: attributes are checked with the configuration,
            // and texts of AWS come as slugs or in the payload.
            headers: message.headers,
            payload: Bytes::from(message.payload),
        };
        let headers = item.headers(&self.stream, self.compare_and_set, true);
        Ok((item, headers))
    }
}

impl Transport for Nats {
    async fn recover(&self, scope: &str, ledger: &mut Ledger) -> Result<ConnectionState, TransportError> {
        self.bring(scope, ledger, None).await
    }

    async fn recover_window(
        &self,
        scope: &str,
        ledger: &mut Ledger,
        window: WindowOf<'_>,
    ) -> Result<ConnectionState, TransportError> {
        self.bring(scope, ledger, Some(window)).await
    }

    async fn peek(&self, scope: &str) -> Result<Option<ConnectionState>, TransportError> {
        let js = self.js().await?;
        self.stream(js).await?;
        let (_, _, state) = self.connection(js, scope).await?;
        Ok(Some(state))
    }

    async fn publish(&self, batch: Batch) -> Result<Vec<Delivery>, TransportError> {
        let js = self.js().await?;
        let Batch { scope, events, connection, .. } = batch;
        let Some(known) = self.known(&scope) else {
            return Err(TransportError::new(Kind::Conflict, "the scope was not recovered"));
        };
        let value = bucket::value(connection);
        let unchanged = value == known.value;
        if unchanged || !events.is_empty() {
            // Saves a rival's poll from being published twice over; safety does not need it.
            let (revision, ..) = self.connection(js, &scope).await?;
            if revision != known.revision {
                return Err(TransportError::new(
                    Kind::Conflict,
                    "another process has this connection's state",
                ));
            }
        }
        let mut deliveries = Vec::new();
        if !events.is_empty() {
            let stream = js.stream(&self.config.stream).await?;
            let publisher = self.publisher(js, &stream, &self.config.stream);
            let count = events.len();
            deliveries = publisher.publish(count, self.encoded(&scope, events)).await?;
        }
        if !unchanged {
            self.write(js, &scope, &known, value).await?;
        }
        Ok(deliveries)
    }

    async fn connections(&self) -> Result<Vec<(String, ConnectionState)>, TransportError> {
        self.every_connection().await
    }

    async fn check(&self) -> Result<Vec<String>, TransportError> {
        self.look().await
    }

    async fn close(&self) -> Result<(), TransportError> {
        if let Some(js) = self.js.get()
            && let Err(error) = js.client.drain().await
        {
            debug!("the connection was closed before: {error}");
        }
        Ok(())
    }

    fn comes_back(&self) -> bool {
        true
    }

    fn receipts_prove_the_end(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "nats"
    }
}

fn stream_facts(info: &Value) -> StreamFacts {
    let number = |name: &str| info["state"][name].as_u64().unwrap_or(0);
    let last = number("last_seq");
    StreamFacts {
        created: info["created"].as_str().unwrap_or_default().to_owned(),
        holes: last.saturating_sub(number("messages")),
        last,
    }
}

/// A message as a record of the scope; `None` for another scope's and for what is not on a key's
/// subject. What is on one and is no event of ours hides the key's state.
fn of_scope<'a>(
    prefix: &str,
    subjects: &Subjects,
    stream: &str,
    found_on: &str,
    sequence: u64,
    found: &'a Result<StateRecord, String>,
) -> Result<Option<&'a StateRecord>, TransportError> {
    match found {
        // The subject holds the digest of the exact key, and the texts are compared through it.
        Ok(record) => Ok((subjects.of(&record.key()) == found_on).then_some(record)),
        Err(why) if subject::is_key(prefix, found_on) => {
            let what = format!("message {sequence} on `{found_on}` is no event of this program: {why}");
            Err(TransportError::new(Kind::Foreign, what).with_hint(format!(
                "it hides the state of its key; remove it with `nats stream rmm {stream} {sequence}`, and let \
                 nobody else publish to `{prefix}.>`"
            )))
        }
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::{NatsLogin, NatsTls},
        event::ContentMode,
    };

    pub(super) fn config() -> NatsConfig {
        NatsConfig {
            servers: vec!["nats://127.0.0.1:4222".to_owned()],
            stream: "BILLING".to_owned(),
            bucket: "BILLING_STATE".to_owned(),
            subject_prefix: "amazon.billing".to_owned(),
            content_mode: ContentMode::Structured,
            create_stream: false,
            replicas: 1,
            timeout: Duration::from_secs(1),
            max_in_flight: 10,
            login: NatsLogin::Nobody,
            tls: NatsTls::default(),
        }
    }
}
