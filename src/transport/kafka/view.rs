//! What this process knows of the state topic: how far it has read, and every connection's record.
//!
//! The keys of a scope are in its ledger, not here.

use std::collections::{BTreeMap, HashMap};

use super::{reader::regressed, record::ConnectionRecord};
use crate::{dedup::ConnectionState, transport::TransportError};

/// The connections of all scopes, and the ends of both logs when last looked at.
#[derive(Default)]
pub(super) struct View {
    /// Grows when a log went backwards: every ledger read before is void.
    generation: u64,
    /// The state topic's partitions, once known.
    pub(super) partitions: Option<i32>,
    /// By partition of the state topic: every connection record below is known.
    scanned: HashMap<i32, u64>,
    /// The highest ends of the event topic seen, by partition.
    event_ends: BTreeMap<i32, u64>,
    connections: BTreeMap<String, Known>,
    /// By scope: the token of the claim under which a transaction was fenced.
    fenced: HashMap<String, String>,
    ledgers: HashMap<String, LedgerView>,
}

struct Known {
    offset: u64,
    record: ConnectionRecord,
}

/// What is known of a scope's ledger.
#[derive(Clone, Copy)]
struct LedgerView {
    generation: u64,
    /// This process has since written everything between the two itself, without events.
    own: (u64, u64),
    /// The last records before the end of `own` are a batch of this process.
    wrote: bool,
}

impl View {
    /// Everything read is void; the next reading begins anew.
    pub(super) fn forget(&mut self) {
        let generation = self.generation + 1;
        *self = Self { generation, ..Self::default() };
    }

    pub(super) fn scanned(&self, partition: i32) -> u64 {
        self.scanned.get(&partition).copied().unwrap_or(0)
    }

    pub(super) fn set_scanned(&mut self, partition: i32, end: u64) {
        let known = self.scanned.entry(partition).or_default();
        *known = (*known).max(end);
    }

    /// Whether a ledger that stands at an offset was read from this log, by this process.
    pub(super) fn is_current(&self, scope: &str) -> bool {
        self.ledgers.get(scope).is_some_and(|view| view.generation == self.generation)
    }

    pub(super) fn recovered(&mut self, scope: &str, end: u64) {
        let view = LedgerView { generation: self.generation, own: (end, end), wrote: false };
        self.ledgers.insert(scope.to_owned(), view);
    }

    /// From where on something new of the scope may lie for a ledger that stands at `from`, and whether
    /// what lies before that is this process's own last batch.
    pub(super) fn unseen_from(&self, scope: &str, from: u64) -> (u64, bool) {
        match self.ledgers.get(scope) {
            Some(view) if view.own.0 == from => (view.own.1, view.wrote),
            _ => (from, false),
        }
    }

    /// Notes a batch of this process: it ended at `end`, and with events moved the ledger there.
    pub(super) fn wrote(&mut self, scope: &str, from: u64, end: u64) {
        if let Some(view) = self.ledgers.get_mut(scope) {
            view.own = (from, end);
            view.wrote = true;
        }
    }

    /// Takes a connection's record over unless a newer one is known.
    pub(super) fn note(&mut self, scope: String, offset: u64, record: ConnectionRecord) {
        match self.connections.get_mut(&scope) {
            Some(known) if known.offset > offset => {}
            Some(known) => *known = Known { offset, record },
            None => {
                self.connections.insert(scope, Known { offset, record });
            }
        }
    }

    /// The scope's latest record: its offset and whether it is of the given lineage.
    pub(super) fn record(&self, scope: &str) -> Option<(u64, &ConnectionRecord)> {
        self.connections.get(scope).map(|known| (known.offset, &known.record))
    }

    pub(super) fn state(&self, scope: &str) -> ConnectionState {
        self.connections.get(scope).map(|known| known.record.state.clone()).unwrap_or_default()
    }

    /// Whether an open transaction of the scope may be fenced: once under each claim. One that is opened
    /// under a claim after that is of a process that is alive.
    pub(super) fn may_fence(&mut self, scope: &str) -> bool {
        let claim = self.connections.get(scope).and_then(|known| known.record.state.claim.as_ref());
        let Some(token) = claim.map(|claim| claim.token.clone()) else { return true };
        self.fenced.insert(scope.to_owned(), token.clone()).is_none_or(|before| before != token)
    }

    pub(super) fn connections(&self) -> Vec<(String, ConnectionState)> {
        self.connections.iter().map(|(scope, known)| (scope.clone(), known.record.state.clone())).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// The state topic's partitions when the records were written, where that is not what it is now.
    pub(super) fn other_layout(&self, partitions: i32) -> Option<i32> {
        self.connections.values().map(|known| known.record.partitions).find(|written| *written != partitions)
    }

    /// Notes an end of the event topic.
    ///
    /// # Errors
    /// `Regressed` when it was further once.
    pub(super) fn event_end(&mut self, topic: &str, partition: i32, end: u64) -> Result<(), TransportError> {
        let known = self.event_ends.entry(partition).or_default();
        if end < *known {
            let error = regressed(topic, partition, *known);
            self.forget();
            return Err(error);
        }
        *known = end;
        Ok(())
    }

    /// Notes an event of this process.
    pub(super) fn event(&mut self, partition: i32, offset: u64) {
        let known = self.event_ends.entry(partition).or_default();
        *known = (*known).max(offset + 1);
    }

    /// The ends of the event topic, by partition. An event behind one is lost.
    pub(super) fn event_ends(&self) -> BTreeMap<i32, u64> {
        self.event_ends.clone()
    }
}
