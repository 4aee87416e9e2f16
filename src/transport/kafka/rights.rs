//! `check --connect`: whether the principal may do what `run` does, right by right, and the commands that
//! grant what is missing.
//!
//! Nothing a consumer could see is written: what goes to the state topic is aborted, and what goes to the
//! event topic is larger than the topic takes. The broker looks at rights first and at the size then, so
//! the answer tells the one from the other.

use std::time::Instant;

use rdkafka::{
    error::KafkaError,
    message::ToBytes,
    producer::{BaseRecord, Producer as _},
};
use secrecy::ExposeSecret;

use super::{
    Inner,
    check::Report,
    client::REQUEST,
    errors::{ID_DENIED, TOPIC_DENIED},
    producer::{Numbered, Producer, is_too_large, send_one},
    topics::Layout,
};
use crate::{
    config::{DeliveryMode, KafkaLogin, LostState},
    transport::TransportError,
};

/// A record beyond this is not sent to find out about rights.
const LARGEST_PROBE: usize = 16 * 1024 * 1024;

/// Whether it was the principal that was refused.
pub(super) fn is_denied(error: &TransportError) -> bool {
    matches!(error.hint.as_deref(), Some(TOPIC_DENIED | ID_DENIED))
}

impl Inner {
    /// What reading and writing come to. A right that is missing is noted with its command.
    pub(super) fn prove_rights(&self, report: &mut Report, layout: &Layout) -> Result<(), TransportError> {
        let state = &self.config.state_topic;
        let mut read = Ok(());
        for partition in 0..layout.state_partitions {
            read = read.and_then(|()| self.scan(partition));
        }
        if Self::noted(report, read, &format!("read state topic `{state}`"), || {
            self.topic_acl(state, &["Read"])
        })? {
            let events = self.has_our_events(layout).map(|_| ());
            let topic = &self.config.topic;
            if self.config.on_lost_state == LostState::Republish
                || Self::noted(report, events, &format!("read topic `{topic}`"), || {
                    self.topic_acl(topic, &["Read"])
                })?
            {
                self.look_at_state(layout)?;
            }
            let connections = self.view().connections().len();
            report.facts.push(format!(
                "state topic `{state}` is readable and holds the state of {connections} connections"
            ));
        }
        match self.config.delivery {
            DeliveryMode::ExactlyOnce => self.prove_transactions(report, layout),
            DeliveryMode::AtLeastOnce => {
                let producer = self.clients.idempotent(probe_limit(layout).as_deref(), true)?;
                self.prove_events(report, layout, &producer)?;
                report
                    .facts
                    .push(format!("writing to state topic `{state}` was not tried: it could not be undone"));
                Ok(())
            }
        }
    }

    fn prove_transactions(&self, report: &mut Report, layout: &Layout) -> Result<(), TransportError> {
        let state = &self.config.state_topic;
        let id = self.transactional_id("check");
        let what = format!("begin transactions `{state}.<scope>`");
        let made = self.clients.fenced(&id, probe_limit(layout).as_deref(), true);
        let producer = match made {
            Ok(producer) => producer,
            Err(error) => {
                Self::noted(report, Err(error), &what, || self.id_acl())?;
                return Ok(());
            }
        };
        let written = self.aborted(&producer, |producer| {
            let record =
                BaseRecord::with_opaque_to(state, 0).partition(0).key(&b"check"[..]).payload("aborted");
            self.sent(producer, record)
                .map(|()| true)
                .map_err(|e| self.clients.error(&format!("write to state topic `{state}`"), &e))
        });
        if Self::noted(report, written, &format!("write to state topic `{state}`"), || {
            self.topic_acl(state, &["Write"])
        })? {
            report.facts.push(format!(
                "this principal may write to state topic `{state}` in transactions; what was written was aborted"
            ));
        }
        // A failed transaction is the end of its producer.
        let producer = self.clients.fenced(&id, probe_limit(layout).as_deref(), true)?;
        self.aborted(&producer, |producer| self.prove_events(report, layout, producer))?;
        super::spare::let_go(producer);
        Ok(())
    }

    /// The right to write events, by a record the topic does not take.
    fn prove_events(
        &self,
        report: &mut Report,
        layout: &Layout,
        producer: &Producer,
    ) -> Result<bool, TransportError> {
        let topic = &self.config.topic;
        let largest = layout.largest.as_ref().and_then(|bytes| bytes.parse::<usize>().ok());
        let Some(size) = largest.filter(|bytes| *bytes < LARGEST_PROBE) else {
            report.facts.push(format!("whether events may be written to topic `{topic}` was not tried"));
            return Ok(false);
        };
        let noise = noise(size + 1);
        let record = BaseRecord::with_opaque_to(topic, 0).key(&b"check"[..]).payload(&*noise);
        let written = match self.sent(producer, record) {
            Ok(()) => Ok(()),
            Err(error) if is_too_large(&error) => Ok(()),
            Err(error) => Err(self.clients.error(&format!("write to topic `{topic}`"), &error)),
        };
        let may = Self::noted(report, written, &format!("write to topic `{topic}`"), || {
            self.topic_acl(topic, &["Write"])
        })?;
        if may {
            report.facts.push(format!(
                "this principal may write to topic `{topic}`: a record larger than it takes was refused for its size alone"
            ));
        }
        Ok(may)
    }

    /// Something in a transaction that is aborted; whether anything came into it.
    fn aborted(
        &self,
        producer: &Producer,
        work: impl FnOnce(&Producer) -> Result<bool, TransportError>,
    ) -> Result<(), TransportError> {
        self.clients.forget();
        producer.begin_transaction().map_err(|e| self.clients.error("begin a transaction", &e))?;
        let done = work(producer);
        match (done, producer.abort_transaction(REQUEST)) {
            (Err(error), _) => Err(error),
            // Of a transaction that nothing was let into the broker does not know.
            (Ok(false), _) | (Ok(true), Ok(())) => Ok(()),
            (Ok(true), Err(error)) => Err(self.clients.error("abort a transaction", &error)),
        }
    }

    fn sent<P: ToBytes + ?Sized>(
        &self,
        producer: &Producer,
        record: Numbered<'_, P>,
    ) -> Result<(), KafkaError> {
        let deadline = Instant::now() + REQUEST;
        send_one(producer, record, deadline, || self.clients.is_hopeless()).map(|_| ())
    }

    /// Whether it went well; a right that is missing goes into the report.
    fn noted(
        report: &mut Report,
        result: Result<(), TransportError>,
        what: &str,
        command: impl FnOnce() -> String,
    ) -> Result<bool, TransportError> {
        match result {
            Ok(()) => Ok(true),
            Err(error) if is_denied(&error) => {
                report.problems.push(format!("this principal may not {what}"));
                report.commands.push(command());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The command that grants rights on a topic; on Amazon MSK with IAM, the actions that do.
    pub(super) fn topic_acl(&self, topic: &str, operations: &[&str]) -> String {
        if self.uses_iam() {
            let actions = operations.iter().map(|operation| match *operation {
                "Read" => "kafka-cluster:ReadData",
                "Write" => "kafka-cluster:WriteData",
                "DescribeConfigs" => "kafka-cluster:DescribeTopicDynamicConfiguration",
                _ => "kafka-cluster:DescribeTopic",
            });
            let actions = actions.collect::<Vec<_>>().join("`, `");
            return format!("in IAM: allow `{actions}` on topic `{topic}`");
        }
        self.acl(operations, &format!("--topic {topic}"))
    }

    fn id_acl(&self) -> String {
        let prefix = format!("{}.", self.config.state_topic);
        if self.uses_iam() {
            let actions = "kafka-cluster:AlterTransactionalId`, `kafka-cluster:DescribeTransactionalId";
            return format!("in IAM: allow `{actions}` on transactional ids `{prefix}*`");
        }
        let ids = format!("--transactional-id {prefix} --resource-pattern-type prefixed");
        self.acl(&["Write", "Describe"], &ids)
    }

    const fn uses_iam(&self) -> bool {
        matches!(self.config.login, KafkaLogin::MskIam(_))
    }

    fn acl(&self, operations: &[&str], resource: &str) -> String {
        let operations: Vec<_> = operations.iter().flat_map(|operation| ["--operation", operation]).collect();
        let operations = operations.join(" ");
        // A user's name is no secret; who a token or a certificate makes one is the cluster's to say.
        let user = self.config.librdkafka.get("sasl.username").map(ExposeSecret::expose_secret);
        format!(
            "kafka-acls.sh --bootstrap-server {} --add --allow-principal User:{} {operations} {resource}",
            self.config.bootstrap_servers,
            user.unwrap_or("NAME")
        )
    }
}

/// What a client must let pass so that the broker refuses it: a little more than the topic takes.
fn probe_limit(layout: &Layout) -> Option<String> {
    let largest: usize = layout.largest.as_ref()?.parse().ok()?;
    (largest < LARGEST_PROBE).then(|| (largest + 64 * 1024).to_string())
}

/// Bytes that no compression makes fewer: xorshift.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise
}

#[cfg(test)]
mod tests {
    use super::{super::Kafka, super::token::tests::config, *};
    use crate::config::{CredentialsConfig, MskIamConfig};

    /// `kafka-acls.sh` changes nothing where IAM decides.
    #[tokio::test]
    async fn what_is_missing_is_told_in_the_words_of_who_decides() {
        let acl =
            Kafka::connect(&config(KafkaLogin::Librdkafka)).unwrap().0.topic_acl("t", &["Read", "Write"]);
        let to = "kafka-acls.sh --bootstrap-server 127.0.0.1:9 --add --allow-principal User:NAME";
        assert_eq!(acl, format!("{to} --operation Read --operation Write --topic t"));
        let login = KafkaLogin::MskIam(MskIamConfig {
            region: "eu-central-1".to_owned(),
            credentials: CredentialsConfig::Default,
            sts_endpoint_url: None,
        });
        let kafka = Kafka::connect(&config(login)).unwrap().0;
        assert_eq!(
            [kafka.topic_acl("t", &["Read", "DescribeConfigs"]), kafka.id_acl()],
            [
                "in IAM: allow `kafka-cluster:ReadData`, `kafka-cluster:DescribeTopicDynamicConfiguration` on topic `t`",
                "in IAM: allow `kafka-cluster:AlterTransactionalId`, `kafka-cluster:DescribeTransactionalId` on \
                 transactional ids `aws.cost.state.*`",
            ]
        );
    }
}
