//! Publishing a batch: fence, prove, write, commit; or, without transactions, events and then state.
//!
//! What cannot be told from the outcome is `Unknown`: the next recovery looks.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use rdkafka::{
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode as Code},
    metadata::MetadataTopic,
    producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _},
};
use tokio::runtime::Handle;
use tracing::debug;
use uuid::Uuid;

use super::{
    Inner, Until,
    client::{REQUEST, TOO_FEW_IN_SYNC, TRANSACTION, is_fenced, wait},
    context::Context,
    flow::{Flow, is_too_large, place, send},
    lock,
    record::{ConnectionRecord, RecordKey, partition_of},
    spare::{connect, let_go},
    topics::Layout,
};
use crate::{
    config::DeliveryMode,
    event::{Binding, ContentMode, Event, WireMessage, encode},
    transport::{Batch, Delivery, Outgoing, StateRecord, TransportError, TransportErrorKind as Kind},
};

/// How often is looked for acknowledgements.
const LOOK: Duration = Duration::from_millis(1);

/// How often a batch is begun anew because the broker found a record too large.
const TOO_LARGE_ATTEMPTS: usize = 100;

/// A batch with the events that were refused so far.
pub(super) struct Prepared {
    pub(super) scope: String,
    pub(super) partition: i32,
    from: u64,
    pub(super) events: Vec<Entry>,
    connection: ConnectionRecord,
    refused: HashMap<usize, String>,
    /// The poll goes on: it keeps its claim.
    more: bool,
}

/// An event, encoded when it is first sent, and its key's state.
pub(super) struct Entry {
    event: Option<Event>,
    message: WireMessage,
    pub(super) record: StateRecord,
}

impl Entry {
    fn message(&mut self, mode: ContentMode) -> Result<&WireMessage, TransportError> {
        if let Some(event) = self.event.take() {
            self.message = encode(event, Binding::Kafka, mode).map_err(|e| {
                TransportError::new(Kind::Rejected, format!("could not encode an event: {e}"))
            })?;
        }
        Ok(&self.message)
    }
}

/// Why the records of a batch could not be written.
enum WriteError {
    /// The broker refused these for ever; none: one of a batch of records, nobody knows which.
    TooLarge(Vec<(usize, String)>),
    Failed(TransportError),
}

/// What was written: each event's place, and the end of the scope's records.
struct Written {
    places: Vec<(i32, u64)>,
    end: u64,
}

/// One record each in the producer's batches, so that a refusal names its record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packing {
    Many,
    Single,
}

impl Inner {
    pub(super) fn publish(&self, batch: Batch) -> Result<Vec<Delivery>, TransportError> {
        let layout = self.layout()?;
        let mut prepared = self.prepare(batch, &layout)?;
        let written = match self.config.delivery {
            DeliveryMode::ExactlyOnce => self.in_transactions(&layout, &mut prepared),
            DeliveryMode::AtLeastOnce => self.in_order(&layout, &mut prepared),
        };
        let written = written.map_err(|error| {
            if error.kind != Kind::Conflict {
                // Perhaps the topics are to blame: looked at anew next time.
                lock(&self.layout).take();
            }
            self.explained(error)
        })?;
        let Prepared { scope, from, events, connection, refused, .. } = prepared;
        let mut view = self.view();
        for (partition, offset) in written.places {
            view.event(partition, offset);
        }
        view.note(scope.clone(), written.end - 1, connection);
        let stored = refused.len() < events.len();
        view.wrote(&scope, if stored { written.end } else { from }, written.end);
        Ok((0..events.len())
            .map(|index| match refused.get(&index) {
                Some(reason) => Delivery::Rejected(reason.clone()),
                None => Delivery::Stored(written.end),
            })
            .collect())
    }

    fn prepare(&self, batch: Batch, layout: &Layout) -> Result<Prepared, TransportError> {
        let not_recovered = || {
            let message = format!("the ledger of `{}` was not read from this log", batch.scope);
            TransportError::new(Kind::Conflict, message)
        };
        let from = batch.recovered_to.filter(|_| self.view().is_current(&batch.scope));
        let from = from.ok_or_else(not_recovered)?;
        let events = batch.events.into_iter().map(|Outgoing { event, record, .. }| Entry {
            event: Some(event),
            message: WireMessage::default(),
            record,
        });
        let events = events.collect();
        let more = batch.connection.claim.is_some();
        let lineage = self.view().record(&batch.scope).map(|(_, record)| record.lineage.clone());
        let lineage = lineage.unwrap_or_else(|| Uuid::new_v4().to_string());
        Ok(Prepared {
            partition: partition_of(&batch.scope, layout.state_partitions),
            connection: ConnectionRecord::new(layout.state_partitions, lineage, batch.connection),
            scope: batch.scope,
            from,
            events,
            refused: HashMap::new(),
            more,
        })
    }

    /// Anything of the scope behind the place the batch was decided at is a conflict. Proven it is by a look
    /// up to the proven end, behind the fence.
    fn prove_unchanged(&self, batch: &Prepared, until: Until) -> Result<(), TransportError> {
        if self.unfenced {
            return Ok(());
        }
        let (from, own) = self.view().unseen_from(&batch.scope, batch.from);
        if own && self.config.delivery == DeliveryMode::ExactlyOnce {
            // The marker of the own last transaction lies there, at its end or later, and a rival's record
            // of this scope lies behind that: the fence of either waits for the marker.
            let topic = &self.config.state_topic;
            let (_, end) = self.clients.watermarks(&self.uncommitted, topic, batch.partition)?;
            if end == from + 1 {
                return Ok(());
            }
        }
        let conflict = |offset: u64| {
            let message = format!("another process wrote the state of `{}` at offset {offset}", batch.scope);
            TransportError::new(Kind::Conflict, message)
        };
        self.read(
            batch.partition,
            from,
            until,
            || {},
            |key| key.scope == batch.scope,
            |offset, _, _| Err(conflict(offset)),
        )?;
        Ok(())
    }

    fn in_transactions(&self, layout: &Layout, batch: &mut Prepared) -> Result<Written, TransportError> {
        let mut packing = Packing::Many;
        for _ in 0..TOO_LARGE_ATTEMPTS {
            match self.transaction(layout, batch, packing) {
                Ok(written) => return Ok(written),
                Err(WriteError::Failed(error)) => return Err(error),
                Err(WriteError::TooLarge(refused)) => {
                    packing = Packing::Single;
                    batch.refused.extend(refused);
                }
            }
        }
        let message = "the broker refused one record after the other as too large";
        Err(TransportError::new(Kind::Rejected, message).with_hint("raise the topic's `max.message.bytes`"))
    }

    fn transaction(
        &self,
        layout: &Layout,
        batch: &mut Prepared,
        packing: Packing,
    ) -> Result<Written, WriteError> {
        let id = self.transactional_id(&batch.scope);
        let largest = layout.largest.as_deref();
        let spare = self.spares.take(&id).filter(|_| packing == Packing::Many);
        let producer = if let Some(producer) = spare {
            producer
        } else {
            let single = packing == Packing::Single;
            let connected = self.clients.connected(&id, largest, single).map_err(WriteError::Failed)?;
            // Who claimed the poll while this was made is not fenced in the middle of it for nothing.
            self.prove_unchanged(batch, Until::Committed).map_err(WriteError::Failed)?;
            self.clients.fence(&id, connected).map_err(WriteError::Failed)?
        };
        let next = batch.more.then(|| connect(&self.clients, &id, largest));
        let written = self.in_one(&producer, batch, packing);
        let_go(producer);
        match next {
            Some(next) if written.is_ok() => self.spares.fence(&self.clients, id, next),
            Some(unneeded) => let_go(unneeded),
            None => {}
        }
        written
    }

    fn in_one(
        &self,
        producer: &FutureProducer<Context>,
        batch: &mut Prepared,
        packing: Packing,
    ) -> Result<Written, WriteError> {
        self.prove_unchanged(batch, Until::ProvenEnd).map_err(WriteError::Failed)?;
        self.clients.forget();
        producer
            .begin_transaction()
            .map_err(|e| WriteError::Failed(self.clients.error("begin a transaction", &e)))?;
        let deadline = Instant::now() + TRANSACTION;
        let written = self.write(producer, batch, packing, deadline).inspect_err(|_| {
            // Nothing of it will ever be seen: aborted now, or by the next fence, or by the broker.
            if let Err(error) = producer.abort_transaction(REQUEST) {
                debug!(%error, "could not abort");
            }
        })?;
        self.commit(producer, deadline).map_err(WriteError::Failed)?;
        Ok(written)
    }

    fn commit(&self, producer: &FutureProducer<Context>, deadline: Instant) -> Result<(), TransportError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
            let error = match producer.commit_transaction(left) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let retriable = matches!(&error, KafkaError::Transaction(e) if e.is_retriable());
            if retriable && Instant::now() < deadline {
                continue;
            }
            let mut failed = self.clients.error("commit a transaction", &error);
            // `Flush` with the brokers down, `Transaction` later; either way there is no telling.
            failed.kind = if is_fenced(&error) { Kind::Conflict } else { Kind::Unknown };
            if failed.kind == Kind::Unknown {
                failed.hint = Some(
                    "nobody knows whether it was stored; the log is read before anything is published again"
                        .to_owned(),
                );
            }
            if matches!(&error, KafkaError::Transaction(e) if e.txn_requires_abort())
                && let Err(error) = producer.abort_transaction(REQUEST)
            {
                debug!(%error, "could not abort");
            }
            return Err(failed);
        }
    }

    /// The place of a record, once it is acknowledged; or nothing, once it is known that it will not be.
    pub(super) fn delivered(
        &self,
        mut delivery: DeliveryFuture,
        deadline: Instant,
    ) -> Result<(i32, u64), KafkaError> {
        // Acknowledgements come many at a time: most are there when the first is.
        if let Some(outcome) = (&mut delivery).now_or_never() {
            return place(outcome);
        }
        loop {
            let slice = (Instant::now() + Duration::from_millis(500)).min(deadline);
            let until = tokio::time::Instant::from_std(slice);
            let waited =
                Handle::current().block_on(async { tokio::time::timeout_at(until, &mut delivery).await });
            match waited {
                Ok(outcome) => return place(outcome),
                Err(_) if Instant::now() >= deadline || self.clients.is_hopeless() => {
                    return Err(KafkaError::MessageProduction(Code::MessageTimedOut));
                }
                Err(_) => {}
            }
        }
    }

    /// Says of an outage what librdkafka's timeouts do not: which partition has too few replicas in sync.
    pub(super) fn explained(&self, error: TransportError) -> TransportError {
        if !matches!(error.kind, Kind::Unavailable | Kind::Unknown) {
            return error;
        }
        for topic in [&self.config.topic, &self.config.state_topic] {
            let Ok(metadata) = self.uncommitted.fetch_metadata(Some(topic), Duration::from_secs(2)) else {
                return error;
            };
            let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
            for partition in partitions {
                let (in_sync, replicas) = (partition.isr().len(), partition.replicas().len());
                if in_sync < replicas {
                    let id = partition.id();
                    let message =
                        format!("{error}; of `{topic}/{id}` {in_sync} of {replicas} replicas are in sync");
                    return TransportError::new(error.kind, message).with_hint(TOO_FEW_IN_SYNC);
                }
            }
        }
        error
    }

    /// At least once: the order is the promise.
    fn in_order(&self, layout: &Layout, batch: &mut Prepared) -> Result<Written, TransportError> {
        self.prove_unchanged(batch, Until::ProvenEnd)?;
        let mut packing = Packing::Many;
        for _ in 0..TOO_LARGE_ATTEMPTS {
            let known = lock(&self.idempotent).take().filter(|_| packing == Packing::Many);
            let producer = match known {
                Some(producer) => producer,
                None => self.clients.idempotent(layout.largest.as_deref(), packing == Packing::Single)?,
            };
            match self.write(&producer, batch, packing, Instant::now() + TRANSACTION) {
                Ok(written) => {
                    if packing == Packing::Many {
                        *lock(&self.idempotent) = Some(producer);
                    }
                    return Ok(written);
                }
                Err(WriteError::TooLarge(refused)) => {
                    packing = Packing::Single;
                    batch.refused.extend(refused);
                }
                Err(WriteError::Failed(error)) => {
                    let unsure = matches!(error.kind, Kind::Unavailable | Kind::Conflict);
                    return Err(TransportError {
                        kind: if unsure { Kind::Unknown } else { error.kind },
                        ..error
                    });
                }
            }
        }
        let message = "the broker refused one record after the other as too large";
        Err(TransportError::new(Kind::Rejected, message).with_hint("raise the topic's `max.message.bytes`"))
    }

    /// Events, each one's state once it is acknowledged, and the connection's after all of them.
    fn write(
        &self,
        producer: &FutureProducer<Context>,
        batch: &mut Prepared,
        packing: Packing,
        deadline: Instant,
    ) -> Result<Written, WriteError> {
        let failed = |e: &KafkaError| WriteError::Failed(self.clients.error("publish", e));
        let mut flow = Flow {
            publish: self,
            producer,
            deadline,
            states: Vec::with_capacity(batch.events.len()),
            places: Vec::with_capacity(batch.events.len()),
            refused: Vec::new(),
            failure: None,
        };
        let mut waiting = VecDeque::with_capacity(batch.events.len());
        for index in 0..batch.events.len() {
            if batch.refused.contains_key(&index) {
                continue;
            }
            let message =
                batch.events[index].message(self.config.content_mode).map_err(WriteError::Failed)?;
            match flow.event(message) {
                Ok(delivery) => waiting.push_back((index, delivery)),
                Err(error) if is_too_large(&error) => {
                    let reason = format!(
                        "its record of {} bytes is larger than topic `{}` takes; raise `max.message.bytes`",
                        message.payload.len(),
                        self.config.topic
                    );
                    batch.refused.insert(index, reason);
                }
                Err(error) => return Err(failed(&error)),
            }
            // What is acknowledged by now; the broker works while this thread encodes.
            while let Some((index, delivery)) = waiting.front_mut()
                && let Some(outcome) = delivery.now_or_never()
            {
                flow.delivered(batch, *index, place(outcome));
                waiting.pop_front();
            }
        }
        // Acknowledgements come many at a time. Once the oldest is there all are looked for, whatever their
        // partition: to be woken for each costs more than to look again in a while.
        while let Some((index, delivery)) = waiting.front_mut() {
            if let Some(outcome) = delivery.now_or_never() {
                flow.delivered(batch, *index, place(outcome));
                waiting.pop_front();
                waiting.retain_mut(|(index, delivery)| {
                    let outcome = delivery.now_or_never();
                    let waits = outcome.is_none();
                    if let Some(outcome) = outcome {
                        flow.delivered(batch, *index, place(outcome));
                    }
                    waits
                });
            } else if Instant::now() >= deadline || self.clients.is_hopeless() {
                flow.delivered(batch, *index, Err(KafkaError::MessageProduction(Code::MessageTimedOut)));
                break;
            }
            if !waiting.is_empty() {
                wait(LOOK);
            }
        }
        let Flow { mut states, places, mut refused, failure, .. } = flow;
        if !refused.is_empty() {
            if packing == Packing::Many {
                refused.clear();
            }
            return Err(WriteError::TooLarge(refused));
        }
        if let Some(error) = failure {
            return Err(failed(&error));
        }
        if self.config.delivery == DeliveryMode::AtLeastOnce {
            // Without a transaction only the order says that the keys' state is complete.
            for delivery in states.drain(..) {
                self.delivered(delivery, deadline).map_err(|e| failed(&e))?;
            }
        }
        let topic = &*self.config.state_topic;
        let (key, value) = (RecordKey::connection(&batch.scope).to_json(), batch.connection.to_json());
        let record = FutureRecord::<str, str>::to(topic).partition(batch.partition).key(&key).payload(&value);
        let connection = send(producer, record, deadline).map_err(|e| failed(&e))?;
        for delivery in states {
            self.delivered(delivery, deadline).map_err(|e| failed(&e))?;
        }
        let (_, offset) = self.delivered(connection, deadline).map_err(|e| failed(&e))?;
        Ok(Written { places, end: offset + 1 })
    }
}
