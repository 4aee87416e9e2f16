//! The two topics: whether they are there, what they are like, and how they are created.
//!
//! A lost state topic beside living events is never created again by itself.

use std::time::{Duration, Instant};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication},
    consumer::Consumer as _,
    error::RDKafkaErrorCode as Code,
    message::{BorrowedMessage, Headers as _},
};
use tokio::runtime::Handle;
use tracing::{debug, info, warn};

use super::{
    Inner,
    check::not_compacted,
    client::{REQUEST, wait},
    context::Context,
    errors::{CREATE_DENIED, TOPIC_DENIED, code, is_no_topic},
    lock, reader,
    rights::is_denied,
    spare::let_go,
};
use crate::{
    config::LostState,
    transport::{TransportError, TransportErrorKind as Kind},
};

/// Partitions of an event topic that this program creates.
pub(super) const EVENT_PARTITIONS: i32 = 6;

/// Of each partition of the event topic, so many of the newest records are looked at for events of
/// this program when there is no state.
const SAMPLE: u64 = 200;

/// How often the settings of topics are asked for.
const TRIES: u8 = 2;

/// So many replicas a topic is created with, where there are as many brokers.
const REPLICAS: usize = 3;

/// Without a record for so long, reading them is given up.
const READ: Duration = Duration::from_secs(20);

/// What the topics are like, as far as publishing depends on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    pub(super) event_partitions: i32,
    pub(super) state_partitions: i32,
    /// `max.message.bytes` of the event topic, where it may be asked for.
    pub(super) largest: Option<String>,
    /// How often the settings were asked for without an answer.
    unanswered: u8,
}

/// A client that asks for settings, or why there is none.
pub(super) type Administrator = Result<AdminClient<Context>, TransportError>;

/// A topic as the brokers describe it; no partitions: it does not exist.
pub(super) struct Found {
    pub(super) partitions: i32,
    pub(super) replicas: usize,
}

impl Inner {
    /// The topics as last looked at.
    pub(super) fn layout(&self) -> Result<Layout, TransportError> {
        let known = lock(&self.layout).clone();
        known.map_or_else(|| self.look_at_topics(), Ok)
    }

    /// Asks the brokers, creates what is missing where that is asked for.
    pub(super) fn look_at_topics(&self) -> Result<Layout, TransportError> {
        let before = lock(&self.layout).take();
        let (events, brokers) = self.find(&self.config.topic)?;
        let (state, _) = self.find(&self.config.state_topic)?;
        let (events, state) = match (events, state) {
            (Some(events), Some(state)) => (events, state),
            (events, state) if self.config.create_topics => {
                self.create(events.as_ref(), state.as_ref(), brokers)?
            }
            (None, _) => return Err(missing(&self.config.topic)),
            (_, None) => return Err(missing(&self.config.state_topic)),
        };
        let tries = before.as_ref().map_or(0, |layout| layout.unanswered);
        let (largest, unanswered) = if let Some(layout) = before.filter(|_| tries == 0 || tries >= TRIES) {
            (layout.largest, tries)
        } else {
            // One client asks for both: each takes a connection, and a tenth of a second to end.
            let admin = self.clients.admin();
            // The largest record the event topic takes.
            let largest = |()| self.setting(&admin, &self.config.topic, "max.message.bytes");
            let settled = self.refuse_other_policy(&admin).and_then(largest);
            let_go(admin);
            match settled {
                Ok(largest) => (largest, 0),
                // Perhaps it is slow, perhaps it does not answer that at all.
                Err(error) if error.kind.may_pass() => {
                    warn!("{error}; they are trusted for now, and asked for again");
                    (None, tries + 1)
                }
                Err(error) => return Err(error),
            }
        };
        let layout = Layout {
            event_partitions: events.partitions,
            state_partitions: state.partitions,
            largest,
            unanswered,
        };
        let mut view = self.view();
        if view.partitions.is_some_and(|known| known != layout.state_partitions) {
            // Another number is another topic, or other places; either way nothing read holds.
            view.forget();
        }
        view.partitions = Some(layout.state_partitions);
        drop(view);
        *lock(&self.layout) = Some(layout.clone());
        Ok(layout)
    }

    /// A topic, and how many brokers there are.
    pub(super) fn find(&self, name: &str) -> Result<(Option<Found>, usize), TransportError> {
        let metadata = self.clients.metadata(&self.uncommitted, name)?;
        let brokers = metadata.brokers().len();
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
            return Ok((None, brokers));
        };
        if let Some(error) = topic.error() {
            let code = rdkafka::error::RDKafkaErrorCode::from(error);
            let error = rdkafka::error::KafkaError::MetadataFetch(code);
            if is_no_topic(&error) {
                return Ok((None, brokers));
            }
            return Err(self.clients.error(&format!("read the metadata of topic `{name}`"), &error));
        }
        let partitions = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
        let replicas = topic.partitions().iter().map(|p| p.replicas().len()).min().unwrap_or(0);
        Ok(((partitions > 0).then_some(Found { partitions, replicas }), brokers))
    }

    fn create(
        &self,
        events: Option<&Found>,
        state: Option<&Found>,
        brokers: usize,
    ) -> Result<(Found, Found), TransportError> {
        let config = &self.config;
        if let (Some(events), None) = (events, state)
            && config.on_lost_state == LostState::Refuse
        {
            let layout = Layout { event_partitions: events.partitions, ..Layout::default() };
            if self.has_our_events(&layout)? {
                // Another process may have created both topics, and published, since they were looked at.
                let (events, state) = (self.find(&config.topic)?.0, self.find(&config.state_topic)?.0);
                let (Some(events), Some(state)) = (events, state) else {
                    return Err(self.state_missing("does not exist"));
                };
                return Ok((events, state));
            }
        }
        let replication = i32::try_from(self.wait_for_brokers(brokers)?.clamp(1, REPLICAS)).unwrap_or(1);
        let mut new = Vec::new();
        if events.is_none() {
            new.push((&config.topic, EVENT_PARTITIONS, event_settings(replication)));
        }
        if state.is_none() {
            new.push((&config.state_topic, config.state_partitions, state_settings(replication)));
        }
        let new: Vec<_> = new
            .iter()
            .map(|(name, partitions, settings)| {
                settings.iter().fold(
                    NewTopic::new(name, *partitions, TopicReplication::Fixed(replication)),
                    |topic, (key, value)| topic.set(key, value),
                )
            })
            .collect();
        let options = AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST));
        let admin = self.clients.admin()?;
        let created = Handle::current()
            .block_on(admin.create_topics(&new, &options))
            .map_err(|e| self.clients.error("create topics", &e))?;
        for result in created {
            match result {
                Ok(name) => info!(topic = name, replication, "created"),
                // Another process was faster.
                Err((_, rdkafka::error::RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    let error = rdkafka::error::KafkaError::AdminOp(code);
                    let failed = self.clients.error(&format!("create topic `{name}`"), &error);
                    return Err(if is_denied(&failed) { failed.with_hint(CREATE_DENIED) } else { failed });
                }
            }
        }
        let deadline = Instant::now() + REQUEST;
        loop {
            // Until every partition has a leader, that is an error.
            let found = |name| self.find(name).ok().and_then(|(found, _)| found);
            if let (Some(events), Some(state)) = (found(&config.topic), found(&config.state_topic)) {
                return Ok((events, state));
            }
            if Instant::now() >= deadline {
                return Err(missing(&config.state_topic));
            }
            wait(Duration::from_millis(100));
        }
    }

    /// How many brokers there are, once all are that the configuration names: of a cluster that is starting
    /// not all are there yet, and topics keep the number of replicas they are created with.
    fn wait_for_brokers(&self, mut brokers: usize) -> Result<usize, TransportError> {
        let named =
            self.config.bootstrap_servers.split(',').filter(|server| !server.trim().is_empty()).count();
        let deadline = Instant::now() + REQUEST;
        while brokers < named.min(REPLICAS) {
            if Instant::now() >= deadline {
                let hint = "create the topics yourself, or stop here, where more brokers are to come";
                warn!(brokers, named, hint, "fewer brokers are there than the configuration names");
                break;
            }
            wait(Duration::from_millis(500));
            brokers = self.find(&self.config.topic)?.1;
        }
        Ok(brokers)
    }

    /// A state topic that deletes by age would forget; where that may not be asked, it is trusted.
    fn refuse_other_policy(&self, admin: &Administrator) -> Result<(), TransportError> {
        let topic = &*self.config.state_topic;
        match self.setting(admin, topic, "cleanup.policy")? {
            Some(policy) if policy != "compact" => {
                let error = TransportError::new(Kind::LayoutChanged, not_compacted(topic, &policy));
                Err(error.with_hint("`check --connect` prints the command that puts it right"))
            }
            _ => Ok(()),
        }
    }

    /// One of a topic's settings; unknown where it may not be asked for.
    fn setting(
        &self,
        admin: &Administrator,
        topic: &str,
        name: &str,
    ) -> Result<Option<String>, TransportError> {
        match self.settings(admin, topic) {
            Ok(settings) => Ok(settings.get(name).and_then(|entry| entry.value.clone())),
            Err(error) if error.kind.may_pass() => Err(error),
            Err(error) => {
                debug!("{error}");
                Ok(None)
            }
        }
    }

    /// A topic's settings.
    pub(super) fn settings(
        &self,
        admin: &Administrator,
        topic: &str,
    ) -> Result<ConfigResource, TransportError> {
        let what = format!("read the settings of topic `{topic}`");
        let admin = admin.as_ref().map_err(Clone::clone)?;
        let options = AdminOptions::new().request_timeout(Some(REQUEST));
        let described = Handle::current()
            .block_on(admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options))
            .map_err(|e| self.clients.error(&what, &e))?;
        match described.into_iter().next() {
            // Without the right to, a topic has none.
            Some(Ok(resource)) if resource.entries.is_empty() => {
                let why = format!("could not {what}: this principal may not");
                Err(TransportError::new(Kind::Rejected, why).with_hint(TOPIC_DENIED))
            }
            Some(Ok(resource)) => Ok(resource),
            Some(Err(code)) => Err(self.clients.error(&what, &rdkafka::error::KafkaError::AdminOp(code))),
            None => Err(TransportError::new(Kind::Unavailable, format!("could not {what}: no answer"))),
        }
    }

    /// Whether the event topic's newest records have one of this program.
    pub(super) fn has_our_events(&self, layout: &Layout) -> Result<bool, TransportError> {
        let topic = &*self.config.topic;
        let consumer = self.clients.committed()?;
        let fail = |e: &rdkafka::error::KafkaError| self.clients.error(&format!("read `{topic}`"), e);
        let mut at = TopicPartitionList::new();
        let mut ends = Vec::new();
        for partition in 0..layout.event_partitions {
            // Asked by a client that reads what is committed: transactions under way do not count.
            let (low, end) = self.clients.watermarks(&consumer, topic, partition)?;
            if low < end {
                let from = i64::try_from(low.max(end.saturating_sub(SAMPLE))).unwrap_or(0);
                at.add_partition_offset(topic, partition, Offset::Offset(from)).map_err(|e| fail(&e))?;
                ends.push((partition, end));
            }
        }
        if ends.is_empty() {
            return Ok(false);
        }
        consumer.assign(&at).map_err(|e| fail(&e))?;
        // Everything is published again where this finds nothing, so silence is no answer.
        let mut progress = Instant::now();
        while !ends.is_empty() {
            match consumer.poll(Duration::from_millis(50)) {
                Some(Ok(message)) => {
                    progress = Instant::now();
                    if is_ours(&message) {
                        return Ok(true);
                    }
                    continue;
                }
                Some(Err(error)) if code(&error) == Some(Code::TopicAuthorizationFailed) => {
                    return Err(fail(&error));
                }
                Some(Err(error)) => debug!(%error, topic, "while looking for events"),
                None => {}
            }
            for at in (0..ends.len()).rev() {
                let (partition, end) = ends[at];
                if reader::reached(&consumer, topic, partition).map_err(|e| fail(&e))? >= end {
                    ends.swap_remove(at);
                }
            }
            if progress.elapsed() >= READ {
                let message = format!(
                    "could not read `{topic}` to its end, to see whether it has events of this program"
                );
                return Err(TransportError::new(Kind::Unavailable, message));
            }
        }
        Ok(false)
    }
}

fn missing(topic: &str) -> TransportError {
    TransportError::new(Kind::Rejected, format!("there is no topic `{topic}`")).with_hint(
        "set `kafka.create_topics = true`, or see `check --connect` for the commands that create it",
    )
}

/// The two extensions no other `CloudEvent` has together.
#[derive(serde::Deserialize)]
struct Structured {
    #[expect(dead_code, reason = "that it is there is enough")]
    revision: u32,
    #[expect(dead_code, reason = "that it is there is enough")]
    change: String,
}

/// An event of any Amazon Billing Source.
fn is_ours(message: &BorrowedMessage<'_>) -> bool {
    let named =
        |name: &str| message.headers().is_some_and(|headers| headers.iter().any(|header| header.key == name));
    (named("ce_revision") && named("ce_change"))
        || message.payload().is_some_and(|payload| serde_json::from_slice::<Structured>(payload).is_ok())
}

/// Of an event topic: more than a year, so that a month can be read again when it is compared with
/// the one before.
pub(super) fn event_settings(replication: i32) -> Vec<(&'static str, &'static str)> {
    let mut settings = vec![
        ("cleanup.policy", "delete"),
        ("retention.ms", "34560000000"),
        ("unclean.leader.election.enable", "false"),
    ];
    settings.extend(in_sync(replication));
    settings
}

/// Of a state topic: compacted, nothing deleted by age, and not much kept twice.
pub(super) fn state_settings(replication: i32) -> Vec<(&'static str, &'static str)> {
    let mut settings = vec![
        ("cleanup.policy", "compact"),
        ("segment.ms", "86400000"),
        ("min.cleanable.dirty.ratio", "0.1"),
        ("max.compaction.lag.ms", "604800000"),
        ("unclean.leader.election.enable", "false"),
    ];
    settings.extend(in_sync(replication));
    settings
}

fn in_sync(replication: i32) -> Option<(&'static str, &'static str)> {
    (replication >= 3).then_some(("min.insync.replicas", "2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The AsyncAPI document describes the topic that is created.
    #[test]
    fn the_event_topic_is_that_of_the_contract() {
        let contract = include_str!("../../../schemas/asyncapi.yaml");
        let has = |text: String| assert!(contract.contains(&text), "{text}");
        has(format!("\n        partitions: {EVENT_PARTITIONS}\n"));
        let settings = event_settings(1);
        let get = |name| settings.iter().find(|(key, _)| *key == name).unwrap().1;
        has(format!("\n          cleanup.policy: [{}]\n", get("cleanup.policy")));
        has(format!("\n          retention.ms: {}\n", get("retention.ms")));
    }
}
