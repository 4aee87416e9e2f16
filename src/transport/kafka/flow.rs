//! A batch on its way. One thread encodes and queues events; another takes acknowledgements, and queues
//! each key's state once its event has its place. The broker stores meanwhile.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer as _},
};

use super::{
    Inner,
    producer::{Acknowledgement, Producer, is_too_large, send},
    record::put_key,
};
use crate::{
    event::{Binding, WireMessage, encode},
    transport::{Outgoing, TransportError, TransportErrorKind as Kind},
};

/// What was complained of may be another client's, or another broker's: as long as acknowledgements
/// arrive, nothing is given up.
const SILENCE: Duration = Duration::from_secs(2);

/// How far the thread is that queues events, and whether it need go on.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) queued: AtomicUsize,
    pub(super) given_up: AtomicBool,
}

/// Why an event could not be queued.
pub(super) enum QueueError {
    Encoding(TransportError),
    Sending(KafkaError),
}

impl Inner {
    pub(super) fn encode(&self, outgoing: &Outgoing) -> Result<WireMessage, TransportError> {
        encode(outgoing.event(), Binding::Kafka, self.config.content_mode)
            .map_err(|e| TransportError::new(Kind::Rejected, format!("could not encode an event: {e}")))
    }

    /// Queues the events that were not refused before, the first of which are encoded already if none was; an
    /// event's number is its index. Returns those that are refused without being sent.
    pub(super) fn queue_events(
        &self,
        producer: &Producer,
        batch: &[Outgoing],
        ahead: Vec<WireMessage>,
        refused_before: &HashMap<usize, String>,
        progress: &Progress,
        deadline: Instant,
    ) -> Result<Vec<(usize, String)>, QueueError> {
        let topic = &*self.config.topic;
        let mut refused = Vec::new();
        let mut ahead = ahead.into_iter();
        for (index, outgoing) in batch.iter().enumerate() {
            if refused_before.contains_key(&index) {
                continue;
            }
            if progress.given_up.load(Ordering::Relaxed) {
                break;
            }
            let message = match ahead.next() {
                Some(message) => message,
                None => self.encode(outgoing).map_err(QueueError::Encoding)?,
            };
            let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
            for (key, value) in &message.headers {
                headers = headers.insert(Header { key, value: Some(value.as_bytes()) });
            }
            let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, index)
                .payload(&message.payload)
                .headers(headers);
            if let Some(key) = &message.key {
                record = record.key(key.as_bytes());
            }
            match send(producer, record, deadline) {
                Ok(()) => {
                    progress.queued.fetch_add(1, Ordering::Release);
                }
                Err(error) if is_too_large(&error) => {
                    let reason = format!(
                        "its record of {} bytes is larger than topic `{topic}` takes; raise `max.message.bytes`",
                        message.payload.len(),
                    );
                    refused.push((index, reason));
                }
                Err(error) => return Err(QueueError::Sending(error)),
            }
        }
        Ok(refused)
    }
}

/// The records of a batch that are on their way. A state's number lies behind those of all events, the
/// connection's behind those of all states.
pub(super) struct Flow<'a> {
    publish: &'a Inner,
    producer: &'a Producer,
    scope: &'a str,
    /// Of the state topic.
    partition: i32,
    batch: &'a [Outgoing],
    deadline: Instant,
    /// Events of which is known what became of them.
    pub(super) settled: usize,
    /// Of the events that are acknowledged.
    pub(super) places: Vec<(i32, u64)>,
    /// States that are not acknowledged.
    pub(super) states: usize,
    /// Where the connection's record lies.
    pub(super) connection: Option<u64>,
    pub(super) refused: Vec<(usize, String)>,
    pub(super) failure: Option<KafkaError>,
    /// Key and value of the state that is being sent.
    texts: [Vec<u8>; 2],
}

impl<'a> Flow<'a> {
    /// Nothing is under way yet.
    pub(super) fn new(
        publish: &'a Inner,
        producer: &'a Producer,
        (scope, partition): (&'a str, i32),
        batch: &'a [Outgoing],
        deadline: Instant,
    ) -> Self {
        Self {
            publish,
            producer,
            scope,
            partition,
            batch,
            deadline,
            settled: 0,
            places: Vec::with_capacity(batch.len()),
            states: 0,
            connection: None,
            refused: Vec::new(),
            failure: None,
            texts: Default::default(),
        }
    }

    /// Takes acknowledgements until something has come true, or it is known that it will not.
    pub(super) fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        let mut heard = Instant::now();
        while !is_so(self) {
            let arrived = self.producer.client().context().take();
            if !arrived.is_empty() {
                heard = Instant::now();
            } else if Instant::now() >= self.deadline
                || heard.elapsed() >= SILENCE && self.publish.clients.is_hopeless()
            {
                self.fail(KafkaError::MessageProduction(Code::MessageTimedOut));
                return;
            }
            for acknowledgement in arrived {
                self.acknowledged(acknowledgement);
            }
        }
    }

    fn acknowledged(&mut self, Acknowledgement { number, outcome }: Acknowledgement) {
        let events = self.batch.len();
        if number < events {
            self.settled += 1;
        } else if number < 2 * events {
            self.states -= 1;
        }
        match outcome {
            Ok(place) if number < events => {
                self.places.push(place);
                if self.failure.is_none() && self.refused.is_empty() {
                    match self.send_state(number, place) {
                        Ok(()) => self.states += 1,
                        Err(error) => self.fail(error),
                    }
                }
            }
            Ok((_, offset)) if number == 2 * events => self.connection = Some(offset),
            Ok(_) => {}
            Err(error) if number < events && is_too_large(&error) => {
                let topic = &self.publish.config.topic;
                let reason =
                    format!("topic `{topic}` refused its record as too large; raise `max.message.bytes`");
                self.refused.push((number, reason));
            }
            Err(error) => self.fail(error),
        }
    }

    fn fail(&mut self, error: KafkaError) {
        self.failure.get_or_insert(error);
    }

    fn send_state(&mut self, index: usize, place: (i32, u64)) -> Result<(), KafkaError> {
        let record = &self.batch[index].record;
        let [key, value] = &mut self.texts;
        key.clear();
        put_key(key, self.scope, Some(&record.key()));
        value.clear();
        record.put_json(value, Some(place));
        let record =
            self.state_record(self.batch.len() + index).key(&*self.texts[0]).payload(&*self.texts[1]);
        send(self.producer, record, self.deadline)
    }

    /// The connection's state is last: with it the batch is complete.
    pub(super) fn send_connection(&self, value: &str) -> Result<(), KafkaError> {
        let mut key = Vec::new();
        put_key(&mut key, self.scope, None);
        let record = self.state_record(2 * self.batch.len()).key(&*key).payload(value.as_bytes());
        send(self.producer, record, self.deadline)
    }

    fn state_record(&self, number: usize) -> BaseRecord<'_, [u8], [u8], usize> {
        BaseRecord::with_opaque_to(&self.publish.config.state_topic, number).partition(self.partition)
    }
}
