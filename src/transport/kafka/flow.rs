//! Records on their way: queued, acknowledged, each event followed by its key's state.

use std::time::{Duration, Instant};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{Header, OwnedHeaders},
    producer::{DeliveryFuture, FutureProducer, FutureRecord},
};

use super::{
    Inner,
    client::{code, wait},
    context::Context,
    publish::Prepared,
    record::{EVENT_HEADER, RecordKey},
};
use crate::event::WireMessage;

/// The records of a batch on their way.
pub(super) struct Flow<'a> {
    pub(super) publish: &'a Inner,
    pub(super) producer: &'a FutureProducer<Context>,
    pub(super) deadline: Instant,
    pub(super) states: Vec<DeliveryFuture>,
    /// Of the events that are acknowledged.
    pub(super) places: Vec<(i32, u64)>,
    pub(super) refused: Vec<(usize, String)>,
    pub(super) failure: Option<KafkaError>,
}

impl Flow<'_> {
    pub(super) fn event(&self, message: &WireMessage) -> Result<DeliveryFuture, KafkaError> {
        let topic = &*self.publish.config.topic;
        let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
        for (key, value) in &message.headers {
            headers = headers.insert(Header { key, value: Some(value.as_bytes()) });
        }
        let mut record = FutureRecord::<str, [u8]>::to(topic).payload(&message.payload).headers(headers);
        if let Some(key) = &message.key {
            record = record.key(key);
        }
        send(self.producer, record, self.deadline)
    }

    /// An event has its place, so its state can follow; or the batch has failed.
    pub(super) fn delivered(
        &mut self,
        batch: &Prepared,
        index: usize,
        outcome: Result<(i32, u64), KafkaError>,
    ) {
        match outcome {
            Ok(place) => {
                self.places.push(place);
                if self.failure.is_none() && self.refused.is_empty() {
                    match self.state(batch, index, place) {
                        Ok(delivery) => self.states.push(delivery),
                        Err(error) => self.failure = Some(error),
                    }
                }
            }
            Err(error) if is_too_large(&error) => {
                let topic = &self.publish.config.topic;
                let reason =
                    format!("topic `{topic}` refused its record as too large; raise `max.message.bytes`");
                self.refused.push((index, reason));
            }
            Err(error) => self.failure = self.failure.take().or(Some(error)),
        }
    }

    fn state(
        &self,
        batch: &Prepared,
        index: usize,
        (partition, offset): (i32, u64),
    ) -> Result<DeliveryFuture, KafkaError> {
        let record = &batch.events[index].record;
        let place = format!("{partition}/{offset}");
        let headers = OwnedHeaders::new_with_capacity(1)
            .insert(Header { key: EVENT_HEADER, value: Some(place.as_bytes()) });
        let (key, value) = (RecordKey::of(&batch.scope, record).to_json(), record.to_json());
        let record = FutureRecord::<str, str>::to(&self.publish.config.state_topic)
            .partition(batch.partition)
            .key(&key)
            .payload(&value)
            .headers(headers);
        send(self.producer, record, self.deadline)
    }
}

/// Queues a record; while the queue is full, waits.
pub(super) fn send<P: rdkafka::message::ToBytes + ?Sized>(
    producer: &FutureProducer<Context>,
    mut record: FutureRecord<'_, str, P>,
    deadline: Instant,
) -> Result<DeliveryFuture, KafkaError> {
    loop {
        match producer.send_result(record) {
            Ok(delivery) => return Ok(delivery),
            Err((error, back)) if code(&error) == Some(Code::QueueFull) && Instant::now() < deadline => {
                record = back;
                wait(Duration::from_millis(20));
            }
            Err((error, _)) => return Err(error),
        }
    }
}

pub(super) fn place(outcome: <DeliveryFuture as Future>::Output) -> Result<(i32, u64), KafkaError> {
    match outcome {
        Ok(Ok(place)) => Ok((place.partition, u64::try_from(place.offset).unwrap_or(0))),
        Ok(Err((error, _))) => Err(error),
        Err(_) => Err(KafkaError::Canceled),
    }
}

pub(super) fn is_too_large(error: &KafkaError) -> bool {
    matches!(
        code(error),
        Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize)
    )
}
