//! `check --connect`: whether topics, settings and rights are what `run` needs, and the commands that
//! would put right what is not.
//!
//! The rights are the business of `rights`.

use super::{
    Inner,
    rights::is_denied,
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
pub(super) struct Report {
    pub(super) facts: Vec<String>,
    pub(super) problems: Vec<String>,
    pub(super) commands: Vec<String>,
}

/// A topic as far as this principal may know.
enum Seen {
    There(Found),
    Missing,
    Hidden,
}

impl Inner {
    /// What keeps `run` from working, and what is fine.
    pub(super) fn check(&self) -> Result<Vec<String>, TransportError> {
        let config = &self.config;
        let mut report = Report::default();
        let (events, brokers) = self.visible(&mut report, &config.topic)?;
        let (state, also) = self.visible(&mut report, &config.state_topic)?;
        let brokers = brokers.max(also);
        report.facts.push(format!("Kafka at `{}` answers, {brokers} brokers", config.bootstrap_servers));
        let replication = i32::try_from(brokers.clamp(1, 3)).unwrap_or(1);
        let topics = [
            (&config.topic, &events, EVENT_PARTITIONS, event_settings(replication)),
            (&config.state_topic, &state, config.state_partitions, state_settings(replication)),
        ];
        for (name, topic, partitions, settings) in topics {
            if matches!(topic, Seen::Missing) {
                self.missing(&mut report, name, partitions, replication, &settings);
            }
        }
        if let Seen::There(events) = &events {
            self.event_topic(&mut report, events);
        }
        if let Seen::There(state) = &state {
            self.state_topic(&mut report, state);
        }
        let both = matches!((&events, &state), (Seen::There(_), Seen::There(_)));
        let unfit = both && !report.problems.is_empty();
        if both && !unfit {
            let layout = self.look_at_topics()?;
            self.prove_rights(&mut report, &layout)?;
        }
        if !report.problems.is_empty() {
            let kind = if unfit { Kind::LayoutChanged } else { Kind::Rejected };
            let error = TransportError::new(kind, report.problems.join("; "));
            return Err(error.with_hint(format!("run\n    {}", report.commands.join("\n    "))));
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

    /// A topic, and how many brokers there are, as far as this principal may know.
    fn visible(&self, report: &mut Report, name: &str) -> Result<(Seen, usize), TransportError> {
        match self.find(name) {
            Ok((Some(found), brokers)) => Ok((Seen::There(found), brokers)),
            Ok((None, brokers)) => Ok((Seen::Missing, brokers)),
            Err(error) if is_denied(&error) => {
                report.problems.push(format!("this principal may not see topic `{name}`, if it is there"));
                report.commands.push(self.topic_acl(name, &["Read", "Write", "Describe", "DescribeConfigs"]));
                Ok((Seen::Hidden, 0))
            }
            Err(error) => Err(error),
        }
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
        match self.settings(&self.clients.admin(), topic) {
            Ok(settings) => Some(settings),
            Err(error) => {
                let grant = if is_denied(&error) {
                    format!("; to have them checked: {}", self.topic_acl(topic, &["DescribeConfigs"]))
                } else {
                    String::new()
                };
                report
                    .facts
                    .push(format!("note: the settings of topic `{topic}` were not checked ({error}){grant}"));
                None
            }
        }
    }
}

/// Why a state topic of another policy will not do.
pub(super) fn not_compacted(topic: &str, policy: &str) -> String {
    format!(
        "state topic `{topic}` has `cleanup.policy={policy}`, so it would forget, and everything would be \
         published again; expected `compact`"
    )
}
