//! librdkafka's clients: their settings, what they log, and what their errors mean here.
//!
//! Every call has a deadline. Nothing here knows of scopes or records.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext,
    admin::AdminClient,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode as Code},
    metadata::Metadata,
    producer::FutureProducer,
};
use secrecy::ExposeSecret as _;
use tokio::runtime::Handle;
use tracing::debug;

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
    complaint: Complaint,
}

impl Clients {
    pub(super) fn new(config: &KafkaConfig) -> Self {
        Self { config: config.clone(), complaint: Complaint::default() }
    }

    /// What every client has in common, over its own defaults. (`config_map` would give the secrets
    /// as asterisks, so nothing is copied from one `ClientConfig` to another.)
    fn over(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("client.id", "amazon-billing-source")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "2000");
        for (name, value) in defaults {
            config.set(*name, *value);
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
    ) -> Result<FutureProducer<Complaint>, TransportError> {
        let mut config = self.producer_base(largest, single);
        config.set("transactional.id", id).set("transaction.timeout.ms", TRANSACTION.as_millis().to_string());
        config.create_with_context(self.complaint.clone()).map_err(|e| self.error("create a producer", &e))
    }

    /// For at-least-once delivery.
    pub(super) fn idempotent(
        &self,
        largest: Option<&str>,
        single: bool,
    ) -> Result<FutureProducer<Complaint>, TransportError> {
        let mut config = self.producer_base(largest, single);
        config.set("delivery.timeout.ms", TRANSACTION.as_millis().to_string());
        config.create_with_context(self.complaint.clone()).map_err(|e| self.error("create a producer", &e))
    }

    /// Reads what is committed, from where it is told to.
    pub(super) fn committed(&self) -> Result<BaseConsumer<Complaint>, TransportError> {
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
        config.create_with_context(self.complaint.clone()).map_err(|e| self.error("create a consumer", &e))
    }

    /// Reads events: of nobody's group, or as a group that shares the partitions out.
    pub(super) fn reader(&self, group: Option<&str>) -> Result<BaseConsumer<Complaint>, TransportError> {
        // So much of each partition is read ahead, not 64 MB.
        let mut config = self.over(&[("queued.max.messages.kbytes", "4096")]);
        config
            .set("group.id", group.unwrap_or("amazon-billing-source"))
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A group may get partitions that were added to the topic: those from their beginning.
            .set("auto.offset.reset", if group.is_some() { "earliest" } else { "error" })
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.queue.backoff.ms", "20");
        config.create_with_context(self.complaint.clone()).map_err(|e| self.error("create a consumer", &e))
    }

    /// Knows topics and the end of a log, open transactions included.
    pub(super) fn uncommitted(&self) -> Result<BaseConsumer<Complaint>, TransportError> {
        let mut config = self.over(&[]);
        config.set("isolation.level", "read_uncommitted");
        config.create_with_context(self.complaint.clone()).map_err(|e| self.error("create a client", &e))
    }

    pub(super) fn admin(&self) -> Result<AdminClient<Complaint>, TransportError> {
        let config = self.over(&[]);
        config.create_with_context(self.complaint.clone()).map_err(|e| self.error("create a client", &e))
    }

    /// The metadata of one topic. A wrong password or certificate ends the wait at once.
    pub(super) fn metadata(
        &self,
        client: &BaseConsumer<Complaint>,
        topic: &str,
    ) -> Result<Metadata, TransportError> {
        let deadline = Instant::now() + REQUEST;
        loop {
            let slice = Duration::from_secs(1);
            match client.fetch_metadata(Some(topic), slice) {
                Ok(metadata) => {
                    self.complaint.forget();
                    return Ok(metadata);
                }
                Err(error) => {
                    // What is the matter comes as an event, to be taken from the queue.
                    while let Some(Err(event)) = client.poll(Duration::ZERO) {
                        debug!(error = %event, "while reading metadata");
                    }
                    if Instant::now() >= deadline || self.complaint.is_final() {
                        return Err(self.error(&format!("read the metadata of topic `{topic}`"), &error));
                    }
                }
            }
        }
    }

    /// Lowest and next offset of a partition, open transactions included.
    pub(super) fn watermarks(
        &self,
        client: &BaseConsumer<Complaint>,
        topic: &str,
        partition: i32,
    ) -> Result<(u64, u64), TransportError> {
        let deadline = Instant::now() + REQUEST;
        loop {
            match client.fetch_watermarks(topic, partition, REQUEST) {
                Ok((low, high)) => {
                    return Ok((u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0)));
                }
                Err(error) if is_settling(&error) && Instant::now() < deadline => {
                    wait(Duration::from_millis(50));
                }
                Err(error) => {
                    return Err(self.error(&format!("find the end of `{topic}/{partition}`"), &error));
                }
            }
        }
    }

    /// What failed, with librdkafka's latest complaint where that says more.
    pub(super) fn error(&self, what: &str, error: &KafkaError) -> TransportError {
        let (kind, hint) = classify(error);
        let servers = &self.config.bootstrap_servers;
        let mut message = format!("could not {what} at `{servers}`: {error}");
        let complaint = self.complaint.text();
        if let Some(text) = complaint.as_ref().filter(|_| kind == Kind::Unavailable) {
            message = format!("{message} ({text})");
            if let Some(hint) = security_hint(text) {
                return TransportError::new(Kind::Rejected, message).with_hint(hint);
            }
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

/// What librdkafka last complained of, and where its logs go.
#[derive(Clone, Default)]
pub(super) struct Complaint(Arc<Mutex<Option<(Instant, String)>>>);

/// An older complaint says nothing about the call that failed now. The same one again is told only
/// every 30 seconds.
const FRESH: Duration = Duration::from_secs(35);

impl Complaint {
    fn text(&self) -> Option<String> {
        let latest = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        latest.filter(|(since, _)| since.elapsed() < FRESH).map(|(_, text)| text)
    }

    /// Whether trying again cannot help.
    fn is_final(&self) -> bool {
        self.text().as_deref().and_then(security_hint).is_some()
    }

    fn note(&self, text: &str) {
        // `[thrd:sasl_ssl://127.0.0.1:9093/bootstrap]: sasl_ssl://127.0.0.1:9093/bootstrap: SASL ...`
        let text = text.split_once("]: ").map_or(text, |(_, text)| text);
        // "1/1 brokers are down" hides why.
        if !text.ends_with("brokers are down") {
            let complaint = Some((Instant::now(), text.to_owned()));
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = complaint;
        }
    }

    /// The brokers answer: what was the matter before is no longer of interest.
    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl ClientContext for Complaint {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // librdkafka logs what it then mends by itself; what it cannot mend is an error of ours.
        debug!(target: "librdkafka", facility, "{message}");
        if matches!(
            level,
            RDKafkaLogLevel::Emerg
                | RDKafkaLogLevel::Alert
                | RDKafkaLogLevel::Critical
                | RDKafkaLogLevel::Error
                | RDKafkaLogLevel::Warning
        ) && facility != "CONFWARN"
        {
            self.note(message);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(target: "librdkafka", %error, "{reason}");
        self.note(reason);
    }
}

impl ConsumerContext for Complaint {}

fn security_hint(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    if text.contains("broker transport failure") {
        // A connection that was closed in the middle of its handshake: nothing was refused.
        return None;
    }
    if text.contains("certificate verify failed") || text.contains("broker certificate could not be verified")
    {
        Some(
            "the broker's certificate is not trusted; set `\"ssl.ca.location\"` in `[kafka.librdkafka]` to the CA's file",
        )
    } else if text.contains("sasl authentication error") || text.contains("authentication failed") {
        Some(
            "user or password are wrong; see `kafka.username`, `kafka.password_file` and `\"sasl.mechanisms\"` in `[kafka.librdkafka]`",
        )
    } else if text.contains("unsupported sasl mechanism") || text.contains("mechanism handshake failed") {
        Some(
            "the broker does not offer this SASL mechanism; see `\"sasl.mechanisms\"` in `[kafka.librdkafka]`",
        )
    } else if text.contains("ssl handshake failed") {
        Some("the TLS handshake failed; see `\"security.protocol\"` and `\"ssl...\"` in `[kafka.librdkafka]`")
    } else {
        None
    }
}

/// librdkafka's code of an error, where it has one.
pub(super) fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::Transaction(error) => Some(error.code()),
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    }
}

/// Whether another producer of the same `transactional.id` was here, in any of the forms in which a
/// fenced instance learns of it.
pub(super) fn is_fenced(error: &KafkaError) -> bool {
    matches!(
        code(error),
        Some(
            Code::Fenced
                | Code::ProducerFenced
                | Code::InvalidProducerEpoch
                | Code::PurgeQueue
                | Code::PurgeInflight
                | Code::InvalidProducerIdMapping
                | Code::TransactionCoordinatorFenced
        )
    )
}

/// Whether a partition is without its leader for a moment: just created, or the leader has changed.
fn is_settling(error: &KafkaError) -> bool {
    matches!(
        code(error),
        Some(
            Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::ReplicaNotAvailable
                | Code::OffsetNotAvailable
                | Code::FencedLeaderEpoch
                | Code::UnknownLeaderEpoch
        )
    )
}

/// Waits on a blocking thread.
pub(super) fn wait(pause: Duration) {
    Handle::current().block_on(tokio::time::sleep(pause));
}

/// Whether there is no such topic.
pub(super) fn is_no_topic(error: &KafkaError) -> bool {
    matches!(code(error), Some(Code::UnknownTopicOrPartition | Code::UnknownTopic))
}

/// What an error means where nothing can have been stored.
fn classify(error: &KafkaError) -> (Kind, Option<&'static str>) {
    if is_fenced(error) {
        return (Kind::Conflict, None);
    }
    match code(error) {
        Some(Code::TopicAuthorizationFailed) => (
            Kind::Rejected,
            Some(
                "grant the principal Write, Describe and DescribeConfigs on the event topic, and Read as well on the state topic",
            ),
        ),
        Some(Code::TransactionalIdAuthorizationFailed) => (
            Kind::Rejected,
            Some(
                "grant the principal Write and Describe on transactional ids that begin with the state topic's name, or set `delivery = \"at_least_once\"`",
            ),
        ),
        Some(Code::ClusterAuthorizationFailed) => (
            Kind::Rejected,
            Some("grant the principal IdempotentWrite on the cluster; with `create_topics` also Create"),
        ),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => (
            Kind::Rejected,
            Some(
                "set `kafka.create_topics = true`, or see `check --connect` for the commands that create the topics",
            ),
        ),
        Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge) => {
            (Kind::Rejected, Some("raise the topic's `max.message.bytes`"))
        }
        Some(Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend | Code::ISRInsufficient) => (
            Kind::Unavailable,
            Some(
                "fewer replicas are in sync than `min.insync.replicas` asks for; nothing is lost, it goes on when they are back",
            ),
        ),
        Some(Code::KafkaStorageError) => {
            (Kind::Unavailable, Some("a broker cannot write to its disk; see its log"))
        }
        Some(Code::SaslAuthenticationFailed | Code::Authentication) => (
            Kind::Rejected,
            Some("user or password are wrong; see `kafka.username` and `kafka.password_file`"),
        ),
        Some(Code::InvalidTransactionTimeout) => {
            (Kind::Rejected, Some("the broker's `transaction.max.timeout.ms` is below 30 seconds; raise it"))
        }
        _ => (
            Kind::Unavailable,
            Some(
                "is the broker up, and `kafka.bootstrap_servers` right? Nothing is lost; it goes on when the broker is back",
            ),
        ),
    }
}
