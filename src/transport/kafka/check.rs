//! `check --connect`: whether topics, settings and rights are what `run` needs, and the commands that
//! would put right what is not.
//!
//! Nothing a consumer could see is written: the proof of writing is an aborted transaction on the state
//! topic, which only this program reads.

use rdkafka::producer::{FutureRecord, Producer as _};
use tokio::runtime::Handle;

use super::{
    Inner,
    client::REQUEST,
    topics::{EVENT_PARTITIONS, Found, event_settings, state_settings},
};
use crate::{
    config::DeliveryMode,
    transport::{TransportError, TransportErrorKind as Kind},
};

/// A year and a little: what is shorter cannot be compared with the same month of the year before.
const LONG: i64 = 400 * DAY_MS;
/// What the longest window of a poll looks back: the month before, and this one.
const LOOK_BACK: i64 = 62 * DAY_MS;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What was found, in sentences, and what has to be done about it.
#[derive(Default)]
struct Report {
    facts: Vec<String>,
    problems: Vec<String>,
    commands: Vec<String>,
}

impl Inner {
    /// What keeps `run` from working, and what is fine.
    pub(super) fn check(&self) -> Result<Vec<String>, TransportError> {
        let config = &self.config;
        let mut report = Report::default();
        let (events, brokers) = self.find(&config.topic)?;
        let (state, _) = self.find(&config.state_topic)?;
        report.facts.push(format!("Kafka at `{}` answers, {brokers} brokers", config.bootstrap_servers));
        let replication = i32::try_from(brokers.clamp(1, 3)).unwrap_or(1);
        let topics = [
            (&config.topic, &events, EVENT_PARTITIONS, event_settings(replication)),
            (&config.state_topic, &state, config.state_partitions, state_settings(replication)),
        ];
        for (name, found, partitions, settings) in topics {
            if found.is_none() {
                self.missing(&mut report, name, partitions, replication, &settings);
            }
        }
        if let Some(events) = &events {
            self.event_topic(&mut report, events);
        }
        if let Some(state) = &state {
            self.state_topic(&mut report, state);
        }
        if !report.problems.is_empty() {
            let kind = if events.is_none() || state.is_none() { Kind::Rejected } else { Kind::LayoutChanged };
            let error = TransportError::new(kind, report.problems.join("; "));
            return Err(error.with_hint(format!("run\n    {}", report.commands.join("\n    "))));
        }
        if let (Some(_), Some(_)) = (&events, &state) {
            let layout = self.look_at_topics()?;
            for partition in 0..layout.state_partitions {
                self.scan(partition)?;
            }
            self.look_at_state(&layout)?;
            let connections = self.view().connections().len();
            report.facts.push(format!(
                "state topic `{}` is readable and holds the state of {connections} connections",
                config.state_topic
            ));
            self.prove_writing(&mut report)?;
        }
        report.facts.push(match config.delivery {
            DeliveryMode::ExactlyOnce => "delivery is exactly once: consumers read with \
                 `isolation.level=read_committed`, which is not every client's default"
                .to_owned(),
            DeliveryMode::AtLeastOnce => {
                "delivery is at least once: after a crash, or with a second process, \
                 events may come twice"
                    .to_owned()
            }
        });
        Ok(report.facts)
    }

    fn missing(
        &self,
        report: &mut Report,
        name: &str,
        partitions: i32,
        replication: i32,
        settings: &[(&str, &str)],
    ) {
        if self.config.create_topics {
            report
                .facts
                .push(format!("topic `{name}` does not exist; `run` will create it (`create_topics`)"));
            return;
        }
        report.problems.push(format!("there is no topic `{name}`"));
        let mut command = format!(
            "kafka-topics.sh --bootstrap-server {} --create --topic {name} --partitions {partitions} \
             --replication-factor {replication}",
            self.config.bootstrap_servers
        );
        for (key, value) in settings {
            command.extend([" --config ", key, "=", value]);
        }
        report.commands.push(command);
    }

    fn alter(&self, topic: &str, setting: &str) -> String {
        format!(
            "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {topic} \
             --add-config {setting}",
            self.config.bootstrap_servers
        )
    }

    fn event_topic(&self, report: &mut Report, found: &Found) {
        let topic = &*self.config.topic;
        let Some(settings) = self.known_settings(report, topic) else { return };
        let value = |name: &str| settings.get(name).and_then(|entry| entry.value.clone()).unwrap_or_default();
        let number = |name: &str| value(name).parse::<i64>().unwrap_or(-1);
        report.facts.push(format!(
            "topic `{topic}` has {} partitions of {} replicas and takes records of up to {} bytes",
            found.partitions,
            found.replicas,
            value("max.message.bytes")
        ));
        if value("cleanup.policy").contains("compact") {
            report.facts.push(format!(
                "note: topic `{topic}` is compacted: consumers see the newest event per key, not the history"
            ));
        }
        let retention = number("retention.ms");
        if value("cleanup.policy").contains("delete") && (0..LOOK_BACK).contains(&retention) {
            report.facts.push(format!(
                "note: topic `{topic}` keeps events for {} days, less than the two months a poll looks back: a \
                 consumer that begins later cannot add up a month; to keep them longer: {}",
                retention / DAY_MS,
                self.alter(topic, &format!("retention.ms={LONG}"))
            ));
        }
        self.durability(
            report,
            topic,
            found,
            &value("min.insync.replicas"),
            &value("unclean.leader.election.enable"),
        );
    }

    fn state_topic(&self, report: &mut Report, found: &Found) {
        let topic = &*self.config.state_topic;
        let Some(settings) = self.known_settings(report, topic) else { return };
        let value = |name: &str| settings.get(name).and_then(|entry| entry.value.clone()).unwrap_or_default();
        let policy = value("cleanup.policy");
        if policy == "compact" {
            report.facts.push(format!(
                "state topic `{topic}` is compacted, {} partitions of {} replicas",
                found.partitions, found.replicas
            ));
        } else {
            report.problems.push(not_compacted(topic, &policy));
            report.commands.push(self.alter(topic, "cleanup.policy=compact"));
        }
        self.durability(
            report,
            topic,
            found,
            &value("min.insync.replicas"),
            &value("unclean.leader.election.enable"),
        );
    }

    /// What the cluster itself may lose.
    fn durability(&self, report: &mut Report, topic: &str, found: &Found, in_sync: &str, unclean: &str) {
        let in_sync: usize = in_sync.parse().unwrap_or(1);
        if in_sync > found.replicas {
            report.problems.push(format!(
                "topic `{topic}` has {} replicas and asks for {in_sync} in sync, so nothing can be written",
                found.replicas
            ));
            report.commands.push(self.alter(topic, &format!("min.insync.replicas={}", found.replicas)));
        } else if found.replicas >= 3 && in_sync < 2 {
            report.facts.push(format!(
                "note: one broker alone may acknowledge a record of topic `{topic}`, and lose it: {}",
                self.alter(topic, "min.insync.replicas=2")
            ));
        } else if found.replicas == 1 {
            report
                .facts
                .push(format!("note: topic `{topic}` has one replica: what its broker loses is lost"));
        }
        if unclean == "true" {
            report.facts.push(format!(
                "note: topic `{topic}` may elect a leader that lacks acknowledged records: {}",
                self.alter(topic, "unclean.leader.election.enable=false")
            ));
        }
    }

    fn known_settings(&self, report: &mut Report, topic: &str) -> Option<rdkafka::admin::ConfigResource> {
        match self.settings(topic) {
            Ok(settings) => Some(settings),
            Err(error) => {
                let grant = if self.clients.can_administer() { "; grant DescribeConfigs" } else { "" };
                report
                    .facts
                    .push(format!("note: the settings of topic `{topic}` were not checked ({error}){grant}"));
                None
            }
        }
    }

    /// A transaction with one record for the state topic, aborted. The event topic gets none: consumers
    /// that read uncommitted would see it.
    fn prove_writing(&self, report: &mut Report) -> Result<(), TransportError> {
        if self.config.delivery == DeliveryMode::AtLeastOnce {
            report
                .facts
                .push("writing was not tried: without transactions it could not be undone".to_owned());
            return Ok(());
        }
        let id = self.transactional_id("check");
        let failed = |what: &str, e: &rdkafka::error::KafkaError| self.clients.error(what, e);
        let producer = self.clients.fenced(&id, None, false)?;
        producer.begin_transaction().map_err(|e| failed("begin a transaction", &e))?;
        let topic = &self.config.state_topic;
        let record = FutureRecord::<str, str>::to(topic).partition(0).key("check").payload("aborted");
        let sent = Handle::current().block_on(producer.send(record, REQUEST));
        let aborted = producer.abort_transaction(REQUEST);
        sent.map_err(|(e, _)| failed(&format!("write to state topic `{topic}`"), &e))?;
        aborted.map_err(|e| failed("abort a transaction", &e))?;
        report.facts.push(format!(
            "this principal may write to state topic `{topic}` in transactions `{id}`; topic `{}` was not \
             written to",
            self.config.topic
        ));
        Ok(())
    }
}

/// Why a state topic of another policy will not do.
pub(super) fn not_compacted(topic: &str, policy: &str) -> String {
    format!(
        "state topic `{topic}` has `cleanup.policy={policy}`, so it would forget, and everything would be \
         published again; expected `compact`"
    )
}
