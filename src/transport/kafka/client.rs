//! librdkafka's clients: their settings, what they log, and what their errors mean here.
//!
//! Every call has a deadline. Nothing here knows of scopes or records.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig,
    admin::AdminClient,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode as Code},
    metadata::Metadata,
    producer::{FutureProducer, Producer as _},
};
use secrecy::ExposeSecret as _;
use tokio::runtime::Handle;
use tracing::debug;

use super::{
    context::{Context, Refusal},
    errors::{OUT_OF_REACH, classify, code, is_no_topic, is_settling},
    producer::{Acknowledgements, Producer},
    token,
};
use crate::{
    config::KafkaConfig,
    transport::{TransportError, TransportErrorKind as Kind},
};

/// How long one request may take before the brokers count as out of reach.
pub(super) const REQUEST: Duration = Duration::from_secs(10);

/// How long a transaction may stand open before the broker aborts it: as long a process that hangs
/// holds up `read_committed` consumers.
pub(super) const TRANSACTION: Duration = Duration::from_secs(30);

/// A librdkafka client's settings and its latest complaint, which its timeouts do not tell.
#[derive(Clone)]
pub(super) struct Clients {
    config: KafkaConfig,
    pub(super) context: Context,
}

impl Clients {
    pub(super) fn new(config: &KafkaConfig) -> Result<Self, TransportError> {
        Ok(Self { config: config.clone(), context: Context::new(config)? })
    }

    /// What every client has in common, over its own defaults. (`config_map` would give the secrets
    /// as asterisks, so nothing is copied from one `ClientConfig` to another.)
    fn over(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("client.id", "amazon-billing-source")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "2000")
            // Between polls nothing is asked of a broker; what has moved is asked for anew, or an error.
            .set("topic.metadata.refresh.interval.ms", "-1");
        for (name, value) in defaults {
            // Set under both of its names, either of them would win.
            let alias = (*name == "fetch.message.max.bytes").then_some("max.partition.fetch.bytes");
            if alias.is_none_or(|alias| !self.config.librdkafka.contains_key(alias)) {
                config.set(*name, *value);
            }
        }
        for (name, value) in &self.config.librdkafka {
            config.set(name, value.expose_secret());
        }
        config.set("bootstrap.servers", &self.config.bootstrap_servers);
        // Whatever our own filter shows: the complaints are needed to say why something failed.
        let debug = self.config.librdkafka.contains_key("debug");
        config.set_log_level(if debug { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
        config
    }

    /// `largest` is what the event topic takes; `single`: no record shares a batch with another.
    fn producer_base(&self, largest: Option<&str>, single: bool) -> ClientConfig {
        let defaults = [("compression.type", "lz4"), ("linger.ms", "5"), ("partitioner", "murmur2_random")];
        let mut config = self.over(&defaults);
        config.set("enable.idempotence", "true").set("acks", "all");
        if let Some(bytes) = largest {
            config.set("message.max.bytes", bytes);
        }
        if single {
            config.set("batch.num.messages", "1");
        }
        config
    }

    /// A fresh instance, so a fresh epoch: what it writes cannot mix with an earlier transaction's.
    pub(super) fn transactional(
        &self,
        id: &str,
        largest: Option<&str>,
        single: bool,
    ) -> Result<Producer, TransportError> {
        let mut config = self.producer_base(largest, single);
        config.set("transactional.id", id).set("transaction.timeout.ms", TRANSACTION.as_millis().to_string());
        let context = Acknowledgements::new(self.context.clone());
        config.create_with_context(context).map_err(|e| self.error("create a producer", &e))
    }

    /// The same, fenced: whatever an earlier instance left open is ended, whatever it still tries refused.
    /// A wrong password ends the wait at once.
    pub(super) fn fenced(
        &self,
        id: &str,
        largest: Option<&str>,
        single: bool,
    ) -> Result<Producer, TransportError> {
        self.fence(id, self.transactional(id, largest, single)?)
    }

    /// One that is connected and knows both topics, which are there: nothing is fenced yet, so it may be
    /// made while a transaction of the same id is under way. Asked for a fence before it is connected,
    /// librdkafka finds no broker to ask and looks again half a second later.
    pub(super) fn connected(
        &self,
        id: &str,
        largest: Option<&str>,
        single: bool,
    ) -> Result<Producer, TransportError> {
        let producer = self.transactional(id, largest, single)?;
        for topic in [&self.config.topic, &self.config.state_topic] {
            // Only time is lost: what is the matter is told by the fence.
            if let Err(error) = producer.client().fetch_metadata(Some(topic), Duration::from_secs(1)) {
                debug!(%error, topic, "a producer does not know its topic yet");
                break;
            }
        }
        Ok(producer)
    }

    /// Fences all earlier instances of this one's id.
    pub(super) fn fence(&self, id: &str, producer: Producer) -> Result<Producer, TransportError> {
        let deadline = Instant::now() + TRANSACTION;
        loop {
            let Err(error) = producer.init_transactions(Duration::from_secs(2)) else { return Ok(producer) };
            let retriable = matches!(&error, KafkaError::Transaction(e) if e.is_retriable());
            let hopeless = self.context.is_final() || self.context.no_token().is_some();
            if !retriable || hopeless || Instant::now() >= deadline {
                return Err(self.error(&format!("fence the transactional id `{id}`"), &error));
            }
        }
    }

    /// For at-least-once delivery.
    pub(super) fn idempotent(&self, largest: Option<&str>, single: bool) -> Result<Producer, TransportError> {
        let context = Acknowledgements::new(self.context.clone());
        let config = self.without_transactions(largest, single);
        config.create_with_context(context).map_err(|e| self.error("create a producer", &e))
    }

    /// The same for records that are sent one at a time.
    pub(super) fn one_at_a_time(&self) -> Result<FutureProducer<Context>, TransportError> {
        let config = self.without_transactions(None, false);
        config.create_with_context(self.context.clone()).map_err(|e| self.error("create a producer", &e))
    }

    fn without_transactions(&self, largest: Option<&str>, single: bool) -> ClientConfig {
        let mut config = self.producer_base(largest, single);
        config.set("delivery.timeout.ms", TRANSACTION.as_millis().to_string());
        config
    }

    /// Reads what is committed, from where it is told to.
    pub(super) fn committed(&self) -> Result<BaseConsumer<Context>, TransportError> {
        let mut config = self.over(&[]);
        // An id is required for assigning partitions; no group is joined and nothing committed.
        config
            .set("group.id", "amazon-billing-source")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.queue.backoff.ms", "20")
            .set("check.crcs", "true");
        config.create_with_context(self.context.clone()).map_err(|e| self.error("create a consumer", &e))
    }

    /// Reads events: of nobody's group, or as a group that shares the partitions out; `to_an_end` that is
    /// known, or whatever comes.
    pub(super) fn reader(
        &self,
        group: Option<&str>,
        to_an_end: bool,
    ) -> Result<BaseConsumer<Context>, TransportError> {
        // So much is read ahead, not 64 MB, and asked for of each partition at once, not 1 MB: it comes
        // compressed, and JSON takes ten times as much when it is not. So little is soon read, and waited
        // for no longer. Nothing is to wait for the next broker to be connected, or for one that is asked
        // for what was read to its end. It polls all the time, and is to see when a topic grows or goes.
        let mut config = self.over(&[
            ("queued.max.messages.kbytes", "2048"),
            ("fetch.message.max.bytes", "131072"),
            ("fetch.queue.backoff.ms", "2"),
            ("fetch.wait.max.ms", if to_an_end { "10" } else { "100" }),
            ("reconnect.backoff.ms", "22"),
            ("topic.metadata.refresh.interval.ms", "300000"),
        ]);
        config
            .set("group.id", group.unwrap_or("amazon-billing-source"))
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A group may get partitions that were added to the topic: those from their beginning.
            .set("auto.offset.reset", if group.is_some() { "earliest" } else { "error" })
            .set("partition.assignment.strategy", "cooperative-sticky");
        config.create_with_context(self.context.clone()).map_err(|e| self.error("create a consumer", &e))
    }

    /// Knows topics and the end of a log, open transactions included.
    pub(super) fn uncommitted(&self) -> Result<BaseConsumer<Context>, TransportError> {
        let mut config = self.over(&[]);
        config.set("isolation.level", "read_uncommitted");
        config.create_with_context(self.context.clone()).map_err(|e| self.error("create a client", &e))
    }

    /// Creates topics and reads their settings. Not for long: its token is the one of now.
    ///
    /// # Errors
    /// Also when there is no token to be had.
    pub(super) fn admin(&self) -> Result<AdminClient<Context>, TransportError> {
        let token = self.context.tokens.as_ref().map(|tokens| tokens.current()).transpose()?;
        let admin: AdminClient<Context> = self
            .over(&[])
            .create_with_context(self.context.clone())
            .map_err(|e| self.error("create a client", &e))?;
        if let Some(token) = token {
            token::give(admin.inner(), token)?;
        }
        Ok(admin)
    }

    /// The metadata of one topic. A wrong password or certificate ends the wait at once.
    pub(super) fn metadata(
        &self,
        client: &BaseConsumer<Context>,
        topic: &str,
    ) -> Result<Metadata, TransportError> {
        let deadline = Instant::now() + REQUEST;
        if self.context.uses_tokens() {
            // While a client was idle its token ended, and with it a connection; now it gets another.
            self.context.forget();
        }
        // Short at first, so that what is refused is told soon; then as long as a slow answer takes.
        let mut slice = Duration::from_secs(1);
        loop {
            self.attend(client)?;
            match client.fetch_metadata(Some(topic), slice) {
                Ok(metadata) => {
                    self.context.forget();
                    return Ok(metadata);
                }
                Err(error) => {
                    // What is the matter comes as an event.
                    self.attend(client)?;
                    slice *= 2;
                    if Instant::now() >= deadline || self.context.is_final() {
                        return Err(self.error(&format!("read the metadata of topic `{topic}`"), &error));
                    }
                }
            }
        }
    }

    /// Sees to what waits in the queue of a client that is not read from: complaints, and the wish for a
    /// token, without which it does not even connect.
    ///
    /// # Errors
    /// When there is no token to be had.
    fn attend(&self, client: &BaseConsumer<Context>) -> Result<(), TransportError> {
        // One event at a time, and whether there was one is not told.
        for _ in 0..20 {
            if let Some(Err(event)) = client.poll(Duration::ZERO) {
                debug!(error = %event, "from librdkafka");
            }
        }
        match self.context.no_token() {
            None => Ok(()),
            Some(failure) => {
                let message = format!("could not log in at `{}`: {failure}", self.config.bootstrap_servers);
                Err(TransportError { message, ..failure })
            }
        }
    }

    /// Whether what is waited for will not come: something was refused that stays refused.
    pub(super) fn is_hopeless(&self) -> bool {
        self.context.is_final()
    }

    /// A new attempt: what was complained of before is not its.
    pub(super) fn forget(&self) {
        self.context.forget();
    }

    /// Nothing more will be asked of the brokers.
    pub(super) fn close(&self) {
        self.context.close();
    }

    /// Lowest and next offset of a partition, open transactions included.
    pub(super) fn watermarks(
        &self,
        client: &BaseConsumer<Context>,
        topic: &str,
        partition: i32,
    ) -> Result<(u64, u64), TransportError> {
        let what = format!("find the end of `{topic}/{partition}`");
        let fail = |error: &KafkaError| self.error(&what, error);
        let ask = || {
            client.fetch_watermarks(topic, partition, REQUEST).inspect_err(|error| {
                if is_no_topic(error) {
                    // What the client knows may be old. What comes of it is told by the next question.
                    client.fetch_metadata(Some(topic), REQUEST).map(drop).unwrap_or_default();
                }
            })
        };
        let (low, high) = self.settled(client, fail, ask)?;
        Ok((u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0)))
    }

    /// Asks, by a client that reads nothing yet, until the brokers have found out who is to answer.
    pub(super) fn settled<T>(
        &self,
        client: &BaseConsumer<Context>,
        fail: impl Fn(&KafkaError) -> TransportError,
        ask: impl Fn() -> Result<T, KafkaError>,
    ) -> Result<T, TransportError> {
        let deadline = Instant::now() + REQUEST;
        loop {
            self.attend(client)?;
            match ask() {
                Err(error) if self.is_settling(&error) && Instant::now() < deadline => {
                    wait(Duration::from_millis(50));
                }
                Err(error) if self.is_settling(&error) => {
                    // Said for so long, and perhaps not true in a moment. Whether there is such a topic at all
                    // is found out where its metadata is read.
                    let failed = fail(&error);
                    return Err(
                        TransportError::new(Kind::Unavailable, failed.message).with_hint(OUT_OF_REACH)
                    );
                }
                answer => return answer.map_err(|error| fail(&error)),
            }
        }
    }

    /// As [`is_settling`]; or a connection is without its login, which it renews from time to time.
    fn is_settling(&self, error: &KafkaError) -> bool {
        is_settling(error) || code(error) == Some(Code::Authentication) && !self.context.is_final()
    }

    /// What failed, with librdkafka's latest complaint where that says more.
    pub(super) fn error(&self, what: &str, error: &KafkaError) -> TransportError {
        let (kind, hint) = classify(error);
        let servers = &self.config.bootstrap_servers;
        // In a transaction that failed, what waited is thrown away, which alone would look like a fence.
        let purged = matches!(code(error), Some(Code::PurgeQueue | Code::PurgeInflight));
        let complaint = self.context.complaint().filter(|_| kind == Kind::Unavailable || purged);
        let refusal = complaint.as_deref().and_then(Refusal::of);
        let token = match refusal {
            Some(Refusal::Login) => self.context.not_renewed(),
            _ => self.context.no_token().filter(|_| kind == Kind::Unavailable),
        };
        if let Some(failure) = token {
            let message = format!("could not {what} at `{servers}`: {failure}");
            return TransportError { message, ..failure };
        }
        let mut message = format!("could not {what} at `{servers}`: {error}");
        if let Some(text) = complaint {
            message = format!("{message} ({text})");
        }
        if let Some(refusal) = refusal {
            let kind = if refusal.is_final() { Kind::Rejected } else { kind };
            return TransportError::new(kind, message).with_hint(refusal.hint(&self.config.login));
        }
        let error = TransportError::new(kind, message);
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// Names and values that librdkafka does not take, in its own words.
pub(crate) fn not_a_property(name: &str, value: &str) -> Option<String> {
    let mut config = ClientConfig::new();
    config.set(name, value);
    match config.create_native_config() {
        Ok(_) => None,
        Err(KafkaError::ClientConfig(_, problem, ..)) => Some(problem),
        Err(error) => Some(error.to_string()),
    }
}

/// Closes a consumer; a member of a group leaves it by that. One that is merely dropped is looked after
/// every 100 ms only, and a short reading would take as long again.
pub(super) fn close(consumer: &BaseConsumer<Context>) {
    if let Err(error) = consumer.close_queue() {
        debug!(%error, "closing a consumer");
        return;
    }
    while !consumer.closed() {
        consumer.poll(Duration::from_millis(1));
    }
}

/// Waits on a blocking thread.
pub(super) fn wait(pause: Duration) {
    Handle::current().block_on(tokio::time::sleep(pause));
}

#[cfg(test)]
mod tests {
    use super::{super::token::tests::config, *};
    use crate::config::KafkaLogin;

    /// librdkafka sets what it is given in no order: of two names for the same thing either would win.
    #[tokio::test]
    async fn a_setting_under_its_other_name_is_not_set_twice() {
        let mut config = config(KafkaLogin::Librdkafka);
        let defaults = [("fetch.message.max.bytes", "1")];
        assert_eq!(Clients::new(&config).unwrap().over(&defaults).get(defaults[0].0), Some("1"));
        config.librdkafka.insert("max.partition.fetch.bytes".to_owned(), "2".into());
        assert_eq!(Clients::new(&config).unwrap().over(&defaults).get(defaults[0].0), None);
    }
}
