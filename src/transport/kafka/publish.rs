//! Publishing a batch: fence, prove, write, commit; or, without transactions, events and then state.
//!
//! What cannot be told from the outcome is `Unknown`: the next recovery looks.

use std::{
    collections::HashMap,
    mem,
    panic::resume_unwind,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{consumer::Consumer as _, error::KafkaError, metadata::MetadataTopic, producer::Producer as _};
use tracing::debug;
use uuid::Uuid;

use super::{
    Inner, Until,
    client::{REQUEST, TRANSACTION},
    errors::{OUT_OF_REACH, is_fenced},
    flow::{Flow, Progress, QueueError},
    lock,
    producer::{Producer, settle},
    record::{ConnectionRecord, Read, Wanted, partition_of},
    spare::{connect, let_go},
    topics::Layout,
};
use crate::{
    config::DeliveryMode,
    event::WireMessage,
    transport::{Batch, Delivery, Outgoing, TransportError, TransportErrorKind as Kind},
};

/// What to do where a replica is behind and nobody said whether that is why.
const PERHAPS_TOO_FEW_IN_SYNC: &str = "perhaps fewer replicas are in sync than `min.insync.replicas` asks for; nothing is lost, it goes on when they are back";

/// So many events are encoded while their producer is made: a fence takes some milliseconds.
const AHEAD: usize = 4096;

/// How often a batch is begun anew because the broker found a record too large.
const TOO_LARGE_ATTEMPTS: usize = 100;

/// A batch with the events that were refused so far.
pub(super) struct Prepared {
    scope: String,
    partition: i32,
    from: u64,
    events: Vec<Outgoing>,
    /// The first of them, encoded while the producer was made.
    ahead: Vec<WireMessage>,
    connection: ConnectionRecord,
    refused: HashMap<usize, String>,
    /// The poll goes on: it keeps its claim.
    more: bool,
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
        let more = batch.connection.claim.is_some();
        let lineage = self.view().record(&batch.scope).map(|(_, record)| record.lineage.clone());
        let lineage = lineage.unwrap_or_else(|| Uuid::new_v4().to_string());
        Ok(Prepared {
            partition: partition_of(&batch.scope, layout.state_partitions),
            connection: ConnectionRecord::new(layout.state_partitions, lineage, batch.connection),
            scope: batch.scope,
            from,
            events: batch.events,
            ahead: Vec::new(),
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
        // The marker of the own last transaction lies there, at its end or later, and a rival's record
        // of this scope lies behind that: the fence of either waits for the marker.
        if own
            && self.config.delivery == DeliveryMode::ExactlyOnce
            && matches!(until, Until::ProvenEnd { end, .. } if end == from + 1)
        {
            return Ok(());
        }
        let look = |offset, read: Read<'_, '_>| match read {
            Read::Connection { scope, .. } if scope != batch.scope => Ok(()),
            _ => {
                let message =
                    format!("another process wrote the state of `{}` at offset {offset}", batch.scope);
                Err(TransportError::new(Kind::Conflict, message))
            }
        };
        self.read(batch.partition, from, until, || {}, Wanted::KeysOf(&batch.scope), look)?;
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
        while packing == Packing::Many
            && self.spares.is_coming(&id)
            && batch.ahead.len() < AHEAD
            && let Some(next) = batch.events.get(batch.ahead.len())
        {
            batch.ahead.push(self.encode(next).map_err(WriteError::Failed)?);
        }
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
        match (next, &written) {
            (Some(next), Ok((_, commit))) => self.spares.fence(&self.clients, id, next, *commit),
            (Some(unneeded), Err(_)) => let_go(unneeded),
            (None, _) => {}
        }
        written.map(|(written, _)| written)
    }

    /// What was written, and how long its commit took.
    fn in_one(
        &self,
        producer: &Producer,
        batch: &mut Prepared,
        packing: Packing,
    ) -> Result<(Written, Duration), WriteError> {
        let end = self.proven_end(batch.partition).map_err(WriteError::Failed)?;
        self.prove_unchanged(batch, end).map_err(WriteError::Failed)?;
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
        let all_sent = Instant::now();
        self.commit(producer, deadline).map_err(WriteError::Failed)?;
        Ok((written, all_sent.elapsed()))
    }

    fn commit(&self, producer: &Producer, deadline: Instant) -> Result<(), TransportError> {
        settle(producer, deadline);
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
                    // Where the brokers said what is the matter, it is that.
                    let said = error.hint.filter(|hint| hint != OUT_OF_REACH);
                    let hint = said.unwrap_or_else(|| PERHAPS_TOO_FEW_IN_SYNC.to_owned());
                    return TransportError::new(error.kind, message).with_hint(hint);
                }
            }
        }
        error
    }

    /// At least once: the order is the promise.
    fn in_order(&self, layout: &Layout, batch: &mut Prepared) -> Result<Written, TransportError> {
        self.prove_unchanged(batch, self.proven_end(batch.partition)?)?;
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
        producer: &Producer,
        batch: &mut Prepared,
        packing: Packing,
        deadline: Instant,
    ) -> Result<Written, WriteError> {
        let failed = |e: &KafkaError| WriteError::Failed(self.clients.error("publish", e));
        let Prepared { scope, partition, events, ahead, connection, refused, .. } = batch;
        let ahead = mem::take(ahead);
        let mut flow = Flow::new(self, producer, (scope, *partition), events, deadline);
        let progress = Progress::default();
        let queued = thread::scope(|scope| {
            let queueing =
                scope.spawn(|| self.queue_events(producer, events, ahead, refused, &progress, deadline));
            // Finished first: after that the number is final.
            flow.until(|flow| {
                progress.given_up.fetch_or(flow.failure.is_some(), Ordering::Relaxed);
                queueing.is_finished() && flow.settled == progress.queued.load(Ordering::Acquire)
            });
            progress.given_up.store(true, Ordering::Relaxed);
            queueing.join().unwrap_or_else(|panic| resume_unwind(panic))
        });
        if !flow.refused.is_empty() {
            if packing == Packing::Many {
                flow.refused.clear();
            }
            return Err(WriteError::TooLarge(flow.refused));
        }
        if let Some(error) = &flow.failure {
            return Err(failed(error));
        }
        match queued {
            Ok(too_large) => refused.extend(too_large),
            Err(QueueError::Encoding(error)) => return Err(WriteError::Failed(error)),
            Err(QueueError::Sending(error)) => return Err(failed(&error)),
        }
        if self.config.delivery == DeliveryMode::AtLeastOnce {
            // Without a transaction only the order says that the keys' state is complete.
            flow.until(|flow| flow.states == 0 || flow.failure.is_some());
            if let Some(error) = &flow.failure {
                return Err(failed(error));
            }
        }
        flow.send_connection(&connection.to_json()).map_err(|e| failed(&e))?;
        flow.until(|flow| flow.states == 0 && flow.connection.is_some() || flow.failure.is_some());
        match flow {
            Flow { failure: Some(error), .. } => Err(failed(&error)),
            Flow { connection, places, .. } => {
                Ok(Written { places, end: connection.map_or(0, |offset| offset + 1) })
            }
        }
    }
}
