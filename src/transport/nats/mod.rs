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

mod client;
mod layout;
mod publish;
mod read;
mod stored;
mod subject;

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_nats::{HeaderMap, jetstream::ErrorCode};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tracing::{debug, info, warn};
use uuid::Uuid;

use client::{Failure, JetStream, refusal};
use publish::{Item, Publisher};

use super::{Batch, Delivery, Outgoing, StateRecord, Transport, TransportError, TransportErrorKind as Kind};
use crate::{
    config::NatsConfig,
    dedup::{ConnectionState, Ledger},
    event::{Binding, WireMessage, encode},
};

/// The version of the bucket's values this program writes, and the newest it reads.
const VERSION: u32 = 1;

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

/// A value of the bucket.
#[derive(Serialize, Deserialize)]
struct BucketValue {
    version: u32,
    #[serde(flatten)]
    state: ConnectionState,
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

    /// The stream's information, once it and the bucket can hold the state; both are created where
    /// that is asked for. What is doubtful about them is said once.
    async fn stream(&self, js: &JetStream) -> Result<Value, TransportError> {
        let info = self.ensure(js, &layout::stream(&self.config), layout::stream_command).await?;
        let bucket = self.ensure(js, &layout::bucket(&self.config), layout::bucket_command).await?;
        let findings = self.findings(js, &info, &bucket);
        layout::fatal(&self.config, &findings)?;
        if !self.warned.swap(true, Ordering::Relaxed) {
            for finding in findings {
                warn!(hint = "`check --connect` prints the command that puts it right", "{}", finding.text);
            }
        }
        Ok(info)
    }

    fn findings(&self, js: &JetStream, stream: &Value, bucket: &Value) -> Vec<layout::Finding> {
        let clustered = js.client.server_info().cluster.is_some();
        let mut findings = layout::judge(&self.config, &stream["config"], clustered);
        findings.extend(layout::judge_bucket(&self.config, &bucket["config"]));
        findings
    }

    /// A stream's information; a missing one is created or refused with the command that does it.
    async fn ensure(
        &self,
        js: &JetStream,
        wanted: &Value,
        command: fn(&NatsConfig) -> String,
    ) -> Result<Value, TransportError> {
        let name = wanted["name"].as_str().unwrap_or_default();
        let error = match js.request(&format!("STREAM.INFO.{name}"), &json!({})).await {
            Ok(info) => return Ok(info),
            Err(Failure::Silent(error)) => return Err(error),
            Err(Failure::Refused(error)) => error,
        };
        if error.error_code() != ErrorCode::STREAM_NOT_FOUND {
            return Err(refusal(&format!("could not ask for stream `{name}`"), &error));
        }
        if !self.config.create_stream {
            let what = format!("there is no stream `{name}`");
            let hint = format!(
                "create it with `{}`, or set `create_stream = true` in `[nats]`",
                command(&self.config)
            );
            return Err(TransportError::new(Kind::Rejected, what).with_hint(hint));
        }
        match js.request(&format!("STREAM.CREATE.{name}"), wanted).await {
            Ok(info) => {
                let lacks = layout::not_echoed(wanted, &info["config"]);
                if lacks.is_empty() {
                    info!(stream = name, "created");
                } else {
                    warn!(stream = name, "created, but the server made it otherwise: {}", lacks.join("; "));
                }
                Ok(info)
            }
            Err(Failure::Silent(error)) => Err(error),
            // 10065: its subjects belong to another stream. 10058: another process was faster.
            Err(Failure::Refused(error)) if error.error_code() == ErrorCode(10065) => {
                let owner = self.owner(js, wanted["subjects"][0].as_str().unwrap_or_default()).await;
                let what = format!("could not create stream `{name}`: {error}{owner}");
                Err(TransportError::new(Kind::Rejected, what)
                    .with_hint("choose another `subject_prefix`, or publish to that stream with `stream`"))
            }
            Err(Failure::Refused(error)) if error.error_code() == ErrorCode(10058) => Err(
                TransportError::new(Kind::Unavailable, format!("stream `{name}` was just created otherwise")),
            ),
            Err(Failure::Refused(error)) => {
                Err(refusal(&format!("could not create stream `{name}`"), &error)
                    .with_hint(command(&self.config)))
            }
        }
    }

    /// A stream's information for a check, which creates nothing; `None` where `run` will.
    async fn existing(&self, js: &JetStream, name: &str) -> Result<Option<Value>, TransportError> {
        match js.request(&format!("STREAM.INFO.{name}"), &json!({})).await {
            Ok(info) => Ok(Some(info)),
            Err(Failure::Refused(error))
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND && self.config.create_stream =>
            {
                Ok(None)
            }
            Err(Failure::Silent(error)) => Err(error),
            // Says what to type.
            Err(Failure::Refused(_)) => self.stream(js).await.map(|_| None),
        }
    }

    /// Which stream has a subject, in words.
    async fn owner(&self, js: &JetStream, subject: &str) -> String {
        match js.request("STREAM.NAMES", &json!({ "subject": subject })).await {
            Ok(answer) => match answer["streams"][0].as_str() {
                Some(stream) => format!("; stream `{stream}` has `{subject}`"),
                None => String::new(),
            },
            Err(_) => String::new(),
        }
    }

    /// The connection's state as the bucket's leader has it, with its sequence and value.
    async fn connection(
        &self,
        js: &JetStream,
        scope: &str,
    ) -> Result<(u64, Vec<u8>, ConnectionState), TransportError> {
        let bucket = js.stream(&layout::bucket_stream(&self.config.bucket)).await?;
        let key = layout::bucket_key(&self.config.bucket, scope);
        match js.last(&bucket, &key).await? {
            None => Ok((0, Vec::new(), ConnectionState::default())),
            Some(message) => {
                let state = bucket_value(&key, &message.payload)?;
                Ok((message.sequence, message.payload.to_vec(), state))
            }
        }
    }

    /// Writes the connection's state over the revision last seen.
    async fn write(
        &self,
        js: &JetStream,
        scope: &str,
        known: &Known,
        value: Vec<u8>,
    ) -> Result<(), TransportError> {
        let name = layout::bucket_stream(&self.config.bucket);
        let stream = js.stream(&name).await?;
        let subject = layout::bucket_key(&self.config.bucket, scope);
        let mut seed = format!("{subject}/{}/", known.revision).into_bytes();
        seed.extend_from_slice(&value);
        let item = Item {
            id: Uuid::new_v5(&Uuid::NAMESPACE_OID, &seed),
            subject,
            expected: known.revision,
            headers: HeaderMap::new(),
            payload: Bytes::from(value.clone()),
        };
        let publisher = self.publisher(js, &stream, &name);
        let publisher = Publisher { compare_and_set: true, ..publisher };
        match publisher.publish(&[item]).await?.as_slice() {
            [Delivery::Stored(revision)] => {
                let known = Known { revision: *revision, value, ..known.clone() };
                self.scopes().insert(scope.to_owned(), known);
                Ok(())
            }
            [Delivery::Rejected(reason)] => Err(TransportError::new(
                Kind::Rejected,
                format!("bucket `{}` refused the state of a connection: {reason}", self.config.bucket),
            )),
            _ => Err(TransportError::new(Kind::Unknown, "one state gave several answers")),
        }
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

    /// Reads the scope's events into the ledger, up to the proven end.
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
        let filter = subject::filter(prefix, scope);
        let behind = ledger.recovered_to();
        let read =
            read::read(js, &stream, name, &filter, behind, self.config.timeout, |message, sequence| {
                let found = stored::read(message.headers.as_ref(), &message.payload);
                if let Some(record) = of_scope(prefix, scope, name, &message.subject, sequence, found)? {
                    ledger.apply_at(&record.key(), &record.statement, sequence);
                }
                Ok(())
            });
        let end = read.await?.unwrap_or(0);
        ledger.set_recovered_to(end.max(facts.last));
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
            let filter = subject::filter(prefix, &scope);
            let mut records = Vec::new();
            read::read(js, &stream, name, &filter, None, self.config.timeout, |message, sequence| {
                let found = stored::read(message.headers.as_ref(), &message.payload);
                records.extend(of_scope(prefix, &scope, name, &message.subject, sequence, found)?);
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

    fn item(&self, scope: &str, outgoing: &Outgoing) -> Result<Item, TransportError> {
        let message = encode(outgoing.event.clone(), Binding::Nats, self.config.content_mode)
            .map_err(|e| TransportError::new(Kind::Rejected, format!("could not encode an event: {e}")))?;
        Ok(Item {
            subject: subject::of_record(&self.config.subject_prefix, scope, &outgoing.record),
            id: outgoing.record.event_id,
            expected: outgoing.expected,
            headers: wire_headers(&message),
            payload: Bytes::from(message.payload),
        })
    }
}

impl Transport for Nats {
    async fn recover(&self, scope: &str, ledger: &mut Ledger) -> Result<ConnectionState, TransportError> {
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
        self.read_events(js, scope, &facts, ledger).await?;
        let StreamFacts { created, holes, .. } = facts;
        self.scopes().insert(scope.to_owned(), Known { created, holes, revision, value });
        Ok(state)
    }

    async fn peek(&self, scope: &str) -> Result<Option<ConnectionState>, TransportError> {
        let js = self.js().await?;
        self.stream(js).await?;
        let (_, _, state) = self.connection(js, scope).await?;
        Ok(Some(state))
    }

    async fn publish(&self, batch: Batch) -> Result<Vec<Delivery>, TransportError> {
        let js = self.js().await?;
        let Some(known) = self.known(&batch.scope) else {
            return Err(TransportError::new(Kind::Conflict, "the scope was not recovered"));
        };
        let value = serde_json::to_vec(&BucketValue { version: VERSION, state: batch.connection })
            .expect("a state is plain data");
        let unchanged = value == known.value;
        if unchanged || !batch.events.is_empty() {
            // Saves a rival's poll from being published twice over; safety does not need it.
            let (revision, ..) = self.connection(js, &batch.scope).await?;
            if revision != known.revision {
                return Err(TransportError::new(
                    Kind::Conflict,
                    "another process has this connection's state",
                ));
            }
        }
        let mut deliveries = Vec::new();
        if !batch.events.is_empty() {
            let items = batch.events.iter().map(|outgoing| self.item(&batch.scope, outgoing));
            let items = items.collect::<Result<Vec<_>, _>>()?;
            let stream = js.stream(&self.config.stream).await?;
            deliveries = self.publisher(js, &stream, &self.config.stream).publish(&items).await?;
        }
        if !unchanged {
            self.write(js, &batch.scope, &known, value).await?;
        }
        Ok(deliveries)
    }

    async fn connections(&self) -> Result<Vec<(String, ConnectionState)>, TransportError> {
        let js = self.js().await?;
        let name = layout::bucket_stream(&self.config.bucket);
        let stream = js.stream(&name).await?;
        let all = layout::bucket_key(&self.config.bucket, ">");
        let start = layout::bucket_key(&self.config.bucket, "");
        let mut connections = Vec::new();
        read::read(js, &stream, &name, &all, None, self.config.timeout, |message, _| {
            let scope = message.subject.strip_prefix(&*start).unwrap_or_default();
            connections.push((scope.to_owned(), bucket_value(&message.subject, &message.payload)?));
            Ok(())
        })
        .await?;
        connections.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(connections)
    }

    async fn check(&self) -> Result<Vec<String>, TransportError> {
        let js = self.js().await?;
        let server = js.client.server_info();
        let mut facts = vec![format!("NATS server `{}` has version {}", server.server_name, server.version)];
        let (Some(info), Some(bucket)) = (
            self.existing(js, &self.config.stream).await?,
            self.existing(js, &layout::bucket_stream(&self.config.bucket)).await?,
        ) else {
            facts.push(format!(
                "stream `{}` and bucket `{}` do not both exist yet; the first `run` creates what is missing",
                self.config.stream, self.config.bucket
            ));
            return Ok(facts);
        };
        let findings = self.findings(js, &info, &bucket);
        layout::fatal(&self.config, &findings)?;
        let got = &info["config"];
        facts.push(format!(
            "stream `{}` takes `{}.>`, {} messages, {} replicas",
            self.config.stream, self.config.subject_prefix, info["state"]["messages"], got["num_replicas"]
        ));
        facts.extend(findings.iter().map(|finding| format!("warning: {}", finding.text)));
        let command = layout::edit_command(&self.config, &findings);
        facts.extend(command.map(|command| format!("warning: to put it right: {command}")));
        if got["num_replicas"] == 1 {
            facts.push(
                "a single server writes to disk every two minutes unless `sync_interval: always` stands in its \
                 `jetstream` block; what a power failure takes is published again by the next poll"
                    .to_owned(),
            );
        }
        let connections = self.connections().await?.len();
        facts.push(format!("bucket `{}` holds {connections} connections", self.config.bucket));
        self.may_publish(js).await?;
        facts.push(format!("the user may publish to `{}.>`", self.config.subject_prefix));
        Ok(facts)
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

impl Nats {
    /// Publishes what the stream must refuse, as it expects another stream: nothing is stored, and
    /// an answer at all shows that the user may.
    async fn may_publish(&self, js: &JetStream) -> Result<(), TransportError> {
        let subject = format!("{}.check", self.config.subject_prefix);
        let message = async_nats::jetstream::message::PublishMessage::build()
            .expected_stream("nothing-is-stored-by-a-check");
        let what = format!("could not publish to `{subject}`");
        let error = match js.context.send_publish(subject, message).await {
            Ok(acknowledgement) => acknowledgement.await.err(),
            Err(error) => Some(error),
        };
        match error {
            None => Ok(()),
            Some(error) => match client::publish_refusal(&error) {
                Some(refused) if refused.error_code() == ErrorCode::STREAM_NOT_MATCH => Ok(()),
                Some(refused) => Err(refusal(&what, refused)),
                None => Err(js.silence(&what, &error)),
            },
        }
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
fn of_scope(
    prefix: &str,
    scope: &str,
    stream: &str,
    found_on: &str,
    sequence: u64,
    found: Result<StateRecord, String>,
) -> Result<Option<StateRecord>, TransportError> {
    match found {
        // The subject holds the digest of the exact key, and the texts are compared through it.
        Ok(record) => Ok((subject::of_record(prefix, scope, &record) == found_on).then_some(record)),
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

/// A connection's state out of the bucket; deleted keys are empty.
fn bucket_value(key: &str, payload: &[u8]) -> Result<ConnectionState, TransportError> {
    if payload.is_empty() {
        return Ok(ConnectionState::default());
    }
    let foreign = |what: String| TransportError::new(Kind::Foreign, format!("the value of `{key}` {what}"));
    let value: BucketValue = serde_json::from_slice(payload)
        .map_err(|e| foreign(format!("is not the state of a connection: {e}")))?;
    if value.version > VERSION {
        let what = format!("has version {}, this program reads up to {VERSION}", value.version);
        return Err(foreign(what).with_hint("a newer version of this program wrote it: use that one"));
    }
    Ok(value.state)
}

/// A message's headers in the client's type. Names and values have no line breaks: attributes are
/// checked with the configuration, and texts of AWS come as slugs or in the payload.
fn wire_headers(message: &WireMessage) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &message.headers {
        headers.insert(&**name, &**value);
    }
    headers
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

    #[test]
    fn values_of_the_bucket_are_versioned() {
        let state = ConnectionState { name: "main".to_owned(), ..Default::default() };
        let value = serde_json::to_value(BucketValue { version: VERSION, state: state.clone() }).unwrap();
        assert_eq!(bucket_value("k", value.to_string().as_bytes()).unwrap(), state);
        let newer = value.to_string().replace(r#""version":1"#, r#""version":2"#);
        assert_eq!(bucket_value("k", newer.as_bytes()).unwrap_err().kind, Kind::Foreign);
        assert_eq!(bucket_value("k", b"hello").unwrap_err().kind, Kind::Foreign);
        assert_eq!(bucket_value("k", b"").unwrap(), ConnectionState::default());
    }
}
