//! The Kafka transport: events in one topic, the state in a compacted one, both in one transaction.
//!
//! - **Fence.** One `transactional.id` per scope. A batch is a transaction of a fresh producer: its
//!   epoch ends whatever an earlier one left open, and refuses whatever that one still tries.
//! - **Proof.** After the fence the scope's log is read to its proven end. Anything of the scope
//!   behind the place the batch was decided at is a conflict, and nothing is written.
//! - **State last.** Events are acknowledged first, then the keys' state, then the connection's, then
//!   the commit. No transaction is open while AWS is awaited.
//!
//! A scope's records lie in one partition of the state topic, so a log position is an offset there.
//! With `delivery = "at_least_once"` there is no fence and no transaction; the order is the same.

mod check;
mod client;
mod consume;
mod context;
mod errors;
mod flow;
mod letters;
mod msk_iam;
mod oauth;
mod producer;
mod publish;
mod reader;
mod record;
mod rights;
mod spare;
mod token;
mod topics;
mod view;

pub(crate) use client::not_a_property;
pub(crate) use consume::{KafkaPosition, read_events};
pub(crate) use letters::LetterTopic;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::{
    Message as _,
    consumer::{BaseConsumer, Consumer as _},
};

use client::Clients;
use context::Context;
use producer::Producer;
use record::{Read, Wanted, partition_of};
use spare::Spares;
use topics::Layout;
use view::View;

use super::{Batch, Delivery, StateRecord, Transport, TransportError, TransportErrorKind as Kind};
use crate::{
    config::{DeliveryMode, KafkaConfig, LostState},
    cost::CostKey,
    dedup::{ConnectionState, Ledger},
};

/// Two topics of a Kafka cluster. Clones share the clients.
#[derive(Clone)]
pub struct Kafka(Arc<Inner>);

struct Inner {
    config: KafkaConfig,
    clients: Clients,
    /// Topics and ends of logs.
    uncommitted: BaseConsumer<Context>,
    /// Consumers that are not reading anything, for the next one who does.
    idle: Mutex<Vec<BaseConsumer<Context>>>,
    view: Mutex<View>,
    layout: Mutex<Option<Layout>>,
    /// For the next batch of a poll that is under way.
    spares: Spares,
    /// For at-least-once delivery; dropped after any failure.
    idempotent: Mutex<Option<Producer>>,
    /// Negative control of the tests: neither fence nor proof.
    unfenced: bool,
}

/// What a reading of the state is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Everything anybody began to write up to this end is decided. Begins with the lowest offset.
    ProvenEnd { low: u64, end: u64 },
    /// What is committed now, whatever is under way.
    Committed,
}

impl Kafka {
    /// Prepares the clients; the brokers are first reached when something is asked of them.
    ///
    /// # Errors
    /// `Rejected` when librdkafka does not take the configuration.
    pub fn connect(config: &KafkaConfig) -> Result<Self, TransportError> {
        Self::with(config, false)
    }

    /// The negative control: without fence and proof, as if transactions alone were enough.
    ///
    /// # Errors
    /// As [`Kafka::connect`].
    #[cfg(feature = "broker-tests")]
    #[doc(hidden)]
    pub fn connect_unfenced(config: &KafkaConfig) -> Result<Self, TransportError> {
        Self::with(config, true)
    }

    fn with(config: &KafkaConfig, unfenced: bool) -> Result<Self, TransportError> {
        let clients = Clients::new(config)?;
        let refused = |e: TransportError| {
            TransportError::new(Kind::Rejected, e.message).with_hint("see `[kafka.librdkafka]`")
        };
        let uncommitted = clients.uncommitted().map_err(refused)?;
        // A consumer and a producer each see only their own settings; better now than at the first poll.
        let reader = clients.committed().map_err(refused)?;
        if config.delivery == DeliveryMode::AtLeastOnce {
            tracing::warn!(
                "delivery is at least once: after a crash, or with a second process, events may come twice"
            );
        }
        Ok(Self(Arc::new(Inner {
            config: config.clone(),
            clients,
            uncommitted,
            idle: Mutex::new(vec![reader]),
            view: Mutex::default(),
            layout: Mutex::default(),
            spares: Spares::default(),
            idempotent: Mutex::default(),
            unfenced,
        })))
    }

    /// librdkafka's calls block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, TransportError> + Send + 'static,
    ) -> Result<T, TransportError> {
        let inner = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(e) => Err(TransportError::new(Kind::Unknown, format!("the Kafka transport failed: {e}"))),
        }
    }

    /// Every connection of the state topic with its keys' records, for `ledger show`.
    ///
    /// # Errors
    /// As [`Transport::recover`].
    pub async fn read_state(
        &self,
    ) -> Result<Vec<(String, ConnectionState, Vec<StateRecord>)>, TransportError> {
        self.blocking(Inner::read_state).await
    }
}

impl Transport for Kafka {
    async fn recover(&self, scope: &str, ledger: &mut Ledger) -> Result<ConnectionState, TransportError> {
        let scope = scope.to_owned();
        let mut taken = std::mem::take(ledger);
        let (taken, state) = self
            .blocking(move |inner| {
                let state = inner.recover(&scope, &mut taken).map_err(|e| inner.explained(e))?;
                Ok((taken, state))
            })
            .await?;
        *ledger = taken;
        Ok(state)
    }

    async fn publish(&self, batch: Batch) -> Result<Vec<Delivery>, TransportError> {
        self.blocking(move |inner| inner.publish(batch)).await
    }

    async fn connections(&self) -> Result<Vec<(String, ConnectionState)>, TransportError> {
        self.blocking(|inner| {
            let layout = inner.layout()?;
            for partition in 0..layout.state_partitions {
                inner.scan(partition)?;
            }
            Ok(inner.view().connections())
        })
        .await
    }

    async fn check(&self) -> Result<Vec<String>, TransportError> {
        self.blocking(Inner::check).await
    }

    async fn close(&self) -> Result<(), TransportError> {
        self.blocking(|inner| {
            inner.spares.clear();
            lock(&inner.idempotent).take();
            lock(&inner.idle).clear();
            Ok(())
        })
        .await
    }

    fn comes_back(&self) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        "kafka"
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.clients.close();
    }
}

impl Inner {
    fn view(&self) -> MutexGuard<'_, View> {
        lock(&self.view)
    }

    fn transactional_id(&self, scope: &str) -> String {
        format!("{}.{scope}", self.config.state_topic)
    }

    fn recover(&self, scope: &str, ledger: &mut Ledger) -> Result<ConnectionState, TransportError> {
        let layout = self.look_at_topics()?;
        let from = ledger.recovered_to();
        if from.is_some() && !self.view().is_current(scope) {
            return Err(reader::regressed(&self.config.state_topic, 0, from.unwrap_or(0)));
        }
        let partition = partition_of(scope, layout.state_partitions);
        // The end of the state is found before the ends of the events. A state is written after its event,
        // so whatever is read up to that end has its event before these, or its event is lost.
        let until = self.proven_end(partition)?;
        for partition in 0..layout.event_partitions {
            let (_, end) = self.clients.watermarks(&self.uncommitted, &self.config.topic, partition)?;
            self.view().event_end(&self.config.topic, partition, end)?;
        }
        let event_ends = self.view().event_ends();
        let known = self.view().record(scope).map(|(offset, record)| (offset, record.lineage.clone()));
        let known = known.filter(|_| from.is_some());
        // From the connection's last record on: that it is still there proves that this is still the log.
        let least = known.as_ref().map_or(u64::MAX, |(offset, _)| *offset);
        let start = from.unwrap_or(0).min(least).min(self.view().scanned(partition));
        let mut same_log = known.is_none();
        let mut restore = ledger.restore();
        let end = self.read(
            partition,
            start,
            until,
            || self.fence_quietly(scope),
            Wanted::KeysOf(scope),
            |offset, read| {
                match read {
                    Read::Key { record, .. } => {
                        // An event old enough to be deleted is no lost one; one behind the end is.
                        let stored = record
                            .place
                            .is_none_or(|(at, event)| event_ends.get(&at).is_some_and(|end| event < *end));
                        if stored {
                            restore.apply(&record.key, &record.stated, 0);
                        } else {
                            tracing::debug!(key = %record.key, "its event is gone");
                        }
                    }
                    Read::Connection { scope: of, record } => {
                        let of_known = known.as_ref().filter(|_| of == scope);
                        same_log |= of_known.is_some_and(|(_, lineage)| *lineage == record.lineage);
                        self.view().note(of, offset, *record);
                    }
                }
                Ok(())
            },
        )?;
        drop(restore);
        if !same_log {
            self.view().forget();
            return Err(reader::regressed(&self.config.state_topic, partition, start));
        }
        self.view().set_scanned(partition, end);
        self.look_at_state(&layout)?;
        ledger.set_recovered_to(end);
        let mut view = self.view();
        view.recovered(scope, end);
        Ok(view.state(scope))
    }

    /// What must hold before anything is decided: the layout is the one the state was written with,
    /// and there is state where there are events.
    fn look_at_state(&self, layout: &Layout) -> Result<(), TransportError> {
        for partition in 0..layout.state_partitions {
            if self.view().scanned(partition) == 0 {
                self.scan(partition)?;
            }
        }
        if let Some(written) = self.view().other_layout(layout.state_partitions) {
            let topic = &self.config.state_topic;
            let message = format!(
                "state topic `{topic}` has {} partitions, and its state was written with {written}",
                layout.state_partitions
            );
            return Err(TransportError::new(Kind::LayoutChanged, message).with_hint(format!(
                "a scope's place depends on the number; create another topic with {written} partitions, copy \
                 the records with their partitions, and name it in `kafka.state_topic`; or begin anew with an \
                 empty state topic and `kafka.on_lost_state = \"republish\"`"
            )));
        }
        if self.is_empty() && self.config.on_lost_state == LostState::Refuse && self.has_our_events(layout)? {
            // Another process may have begun since: its claim was stored before its first event.
            for partition in 0..layout.state_partitions {
                self.scan(partition)?;
            }
            if self.is_empty() {
                return Err(self.state_missing("is empty"));
            }
        }
        Ok(())
    }

    /// Whether no connection's record is known.
    fn is_empty(&self) -> bool {
        self.view().is_empty()
    }

    fn state_missing(&self, how: &str) -> TransportError {
        let (topic, state) = (&self.config.topic, &self.config.state_topic);
        let message =
            format!("topic `{topic}` holds events of this program, but state topic `{state}` {how}");
        TransportError::new(Kind::StateMissing, message).with_hint(
            "nothing was changed; restore the state topic, or set `kafka.on_lost_state = \"republish\"` to \
             publish everything again, from revision 1",
        )
    }

    /// Learns the connections' records of a partition that are committed by now.
    fn scan(&self, partition: i32) -> Result<(), TransportError> {
        let from = self.view().scanned(partition);
        let note = |offset, read: Read<'_, '_>| {
            if let Read::Connection { scope, record } = read {
                self.view().note(scope, offset, *record);
            }
            Ok(())
        };
        let end = self.read(partition, from, Until::Committed, || {}, Wanted::Connections, note)?;
        self.view().set_scanned(partition, end);
        Ok(())
    }

    /// Where everything that was begun by now will be decided.
    fn proven_end(&self, partition: i32) -> Result<Until, TransportError> {
        let topic = &self.config.state_topic;
        let (low, end) = self.clients.watermarks(&self.uncommitted, topic, partition)?;
        Ok(Until::ProvenEnd { low, end })
    }

    /// Gives each record behind `from` to `each`; returns the end.
    fn read(
        &self,
        partition: i32,
        from: u64,
        until: Until,
        stalled: impl FnMut(),
        wanted: Wanted<'_>,
        mut each: impl FnMut(u64, Read<'_, '_>) -> Result<(), TransportError> + Send,
    ) -> Result<u64, TransportError> {
        let topic = &*self.config.state_topic;
        let (low, mut end) = match until {
            Until::ProvenEnd { low, end } => (low, end),
            Until::Committed => self.clients.watermarks(&self.uncommitted, topic, partition)?,
        };
        if end < from || (from > 0 && low > from) {
            self.view().forget();
            return Err(reader::regressed(topic, partition, from));
        }
        if from >= end {
            return Ok(end);
        }
        let idle = lock(&self.idle).pop();
        let consumer = match idle {
            Some(consumer) => consumer,
            None => self.clients.committed()?,
        };
        // A partition is assigned to a client that is connected and knows its leader: otherwise librdkafka
        // looks for one only with its next tick, up to a second later.
        self.clients.metadata(&consumer, topic)?;
        if until == Until::Committed {
            // Asked by a client that reads what is committed, the end is the last stable offset.
            end = self.clients.watermarks(&consumer, topic, partition)?.1;
        }
        let read = reader::read(
            &self.clients,
            &consumer,
            (topic, partition),
            (from.max(low), end),
            stalled,
            |message| {
                let place = format_args!("{topic}/{partition}/{}", message.offset());
                let offset = u64::try_from(message.offset()).unwrap_or(0);
                record::read(place, message.key(), message.payload(), wanted, |read| each(offset, read))
            },
        );
        match &read {
            Err(error) if error.kind == Kind::Regressed => self.view().forget(),
            Ok(()) if consumer.unassign().is_ok() => lock(&self.idle).push(consumer),
            _ => {}
        }
        read.map(|()| end.max(from))
    }

    /// Ends a transaction that a process of this scope left open, so that reading can go on.
    fn fence_quietly(&self, scope: &str) {
        if self.config.delivery == DeliveryMode::AtLeastOnce || self.unfenced {
            return;
        }
        if !self.view().may_fence(scope) {
            // If it hangs after all, the broker ends it.
            tracing::debug!(scope, "a transaction of a process that is alive is waited for");
            return;
        }
        tracing::debug!(scope, "an open transaction is in the way");
        let id = self.transactional_id(scope);
        // This fences a spare of our own as well.
        drop(self.spares.take(&id));
        match self.clients.fenced(&id, None, false) {
            Ok(producer) => spare::let_go(producer),
            Err(error) => tracing::debug!(scope, "{error}"),
        }
    }

    fn read_state(&self) -> Result<Vec<(String, ConnectionState, Vec<StateRecord>)>, TransportError> {
        use std::collections::BTreeMap;
        let layout = self.layout()?;
        let mut records: BTreeMap<String, BTreeMap<String, StateRecord>> = BTreeMap::new();
        for partition in 0..layout.state_partitions {
            let note = |offset, read: Read<'_, '_>| {
                match read {
                    Read::Key { scope, record } => {
                        let CostKey { period, service, group } = record.key;
                        let key = format!("{}\0{service}\0{group:?}", period.label());
                        records.entry(scope.to_owned()).or_default().insert(key, record.to_record());
                    }
                    Read::Connection { scope, record } => self.view().note(scope, offset, *record),
                }
                Ok(())
            };
            self.read(partition, 0, Until::Committed, || {}, Wanted::Everything, note)?;
        }
        let connections = self.view().connections();
        Ok(connections
            .into_iter()
            .map(|(scope, state)| {
                let keys = records.remove(&scope).unwrap_or_default().into_values().collect();
                (scope, state, keys)
            })
            .collect())
    }
}
