//! Writes to a topic of somebody else's, one acknowledged record at a time: what could not be forwarded.
//!
//! The topic must be there, and be neither of this program's own two.

use std::time::Duration;

use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
    util::Timeout,
};

use super::{Kafka, client::REQUEST, context::Context};
use crate::{
    config::KafkaConfig,
    transport::{TransportError, TransportErrorKind as Kind},
};

/// The topic and its producer.
pub(crate) struct LetterTopic {
    kafka: Kafka,
    producer: FutureProducer<Context>,
    topic: String,
}

impl LetterTopic {
    /// Finds the topic.
    ///
    /// # Errors
    /// `Rejected` when there is none, or it is one of this program's own.
    pub(crate) async fn open(config: &KafkaConfig, topic: &str) -> Result<Self, TransportError> {
        if topic == config.topic || topic == config.state_topic {
            let what =
                format!("topic `{topic}` cannot take dead letters: it holds this program's own records");
            return Err(TransportError::new(Kind::Rejected, what).with_hint("name another topic"));
        }
        let kafka = Kafka::connect(config)?;
        let (inner, name) = (kafka.0.clone(), topic.to_owned());
        let (found, _) = match tokio::task::spawn_blocking(move || inner.find(&name)).await {
            Ok(found) => found?,
            Err(e) => {
                let what = format!("looking for topic `{topic}` was cut short: {e}");
                return Err(TransportError::new(Kind::Unknown, what));
            }
        };
        if found.is_none() {
            let what = format!("there is no topic `{topic}` at `{}`", config.bootstrap_servers);
            return Err(TransportError::new(Kind::Rejected, what).with_hint(format!(
                "create it: `kafka-topics.sh --bootstrap-server {} --create --topic {topic}`",
                config.bootstrap_servers
            )));
        }
        let producer = kafka.0.clients.one_at_a_time()?;
        Ok(Self { kafka, producer, topic: topic.to_owned() })
    }

    /// Writes a record; it is acknowledged by all replicas in sync when this returns.
    ///
    /// # Errors
    /// Whatever kept the brokers from acknowledging it within their deadline.
    pub(crate) async fn write(
        &self,
        key: &str,
        headers: &[(&str, String)],
        payload: &[u8],
    ) -> Result<(), TransportError> {
        let headers =
            headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |all, (key, value)| {
                all.insert(Header { key, value: Some(value.as_bytes()) })
            });
        let record = FutureRecord::to(&self.topic).key(key).payload(payload).headers(headers);
        match self.producer.send(record, Timeout::After(REQUEST + Duration::from_secs(1))).await {
            Ok(_) => Ok(()),
            Err((error, _)) => {
                Err(self.kafka.0.clients.error(&format!("write to topic `{}`", self.topic), &error))
            }
        }
    }
}
