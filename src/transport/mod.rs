//! The transport: where events go and where the state lives, behind one contract.
//!
//! State and events move together, never halfway. The contract names no broker; each transport
//! keeps it with what its own system gives: a transaction, a compare-and-set, a file.

#[cfg(feature = "kafka")]
pub mod kafka;
pub mod local;
#[cfg(feature = "nats")]
pub mod nats;
mod scan;
mod state_record;
mod stated;

pub(crate) use scan::Scan;
pub use state_record::{RecordError, StateRecord, StateRef};
pub(crate) use stated::StatedData;
#[cfg(feature = "nats")]
pub(crate) use stated::Stating;

use std::{borrow::Cow, collections::BTreeMap, fmt};

use compact_str::CompactString;

use crate::{
    cost::Amounts,
    dedup::{Change, ChangeKind, ConnectionState, Ledger},
    event::{Event, EventFactory},
    poller::Window,
};

/// The window of a poll, which follows from the connection's state: rows that were missing once and
/// downtime make it longer. Asked between reading the state and reading the keys.
pub type WindowOf<'a> = &'a (dyn Fn(&ConnectionState) -> Window + Sync);

/// What every transport does.
///
/// The order of a cycle is always recover, ask AWS, classify, publish. A transport is shared by all
/// connections; each call is about one scope, and a scope is never used by two calls at once.
pub trait Transport: Send + Sync + 'static {
    /// Brings the ledger to the proven end of the scope's log and returns the connection's own
    /// state. Fences rivals where the broker can; completes what a crash left half done. After the
    /// first time it is incremental: it starts at [`Ledger::recovered_to`].
    ///
    /// # Errors
    /// `Unavailable`, `Regressed`, `StateMissing`, `LayoutChanged`, `Foreign`.
    fn recover(
        &self,
        scope: &str,
        ledger: &mut Ledger,
    ) -> impl Future<Output = Result<ConnectionState, TransportError>> + Send;

    /// The same for a poll, which looks at one window only: a transport that can loads no key of any
    /// other period, so that neither memory nor the time this takes follows the history. Where a
    /// ledger [reaches](Ledger::reaches) further, it is left as it is.
    ///
    /// # Errors
    /// As [`Transport::recover`].
    fn recover_window(
        &self,
        scope: &str,
        ledger: &mut Ledger,
        _window: WindowOf<'_>,
    ) -> impl Future<Output = Result<ConnectionState, TransportError>> + Send {
        self.recover(scope, ledger)
    }

    /// The connection's own state alone, where it can be had without the keys: then these are loaded
    /// for a poll and let go after it, and memory follows the polls at work. `None` where only
    /// [`Transport::recover`] can tell.
    ///
    /// # Errors
    /// As [`Transport::recover`].
    fn peek(
        &self,
        _scope: &str,
    ) -> impl Future<Output = Result<Option<ConnectionState>, TransportError>> + Send {
        async { Ok(None) }
    }

    /// Makes a batch durable: events, the state of their keys, and the connection's state move
    /// together. A batch without events writes the connection's state alone: a claim, a count.
    /// Returns one delivery per event, in order.
    ///
    /// # Errors
    /// `Unavailable`: nothing was stored. `Conflict`: another writer was here, recover. `Unknown`:
    /// perhaps stored, recover and look. `Rejected`: refused as a whole.
    fn publish(&self, batch: Batch) -> impl Future<Output = Result<Vec<Delivery>, TransportError>> + Send;

    /// The state of every connection in the log, by scope: for the budget, which is common to all.
    ///
    /// # Errors
    /// As [`Transport::recover`].
    fn connections(
        &self,
    ) -> impl Future<Output = Result<Vec<(String, ConnectionState)>, TransportError>> + Send;

    /// Reaches the output and proves what can be proven without publishing; a sentence per fact, one
    /// that begins with `warning: ` for what works and is probably not meant.
    ///
    /// # Errors
    /// The first thing that would keep `run` from working.
    fn check(&self) -> impl Future<Output = Result<Vec<String>, TransportError>> + Send;

    /// Lets go of everything held. Nothing is pending when it is called.
    ///
    /// # Errors
    /// When the last write cannot be proven.
    fn close(&self) -> impl Future<Output = Result<(), TransportError>> + Send;

    /// Whether waiting can mend what is unavailable: a broker comes back, a closed pipe does not.
    fn comes_back(&self) -> bool;

    /// Whether a receipt proves that nobody else wrote before it: so where rivals are locked out or
    /// fenced. Where each key stands for itself a rival's events may lie between two receipts, and
    /// only a receipt that follows the known end at once moves it.
    fn receipts_prove_the_end(&self) -> bool {
        true
    }

    /// For metrics and logs: `local`.
    fn name(&self) -> &'static str;
}

/// What is published at once: all of it moves together where the system has transactions.
#[derive(Debug)]
pub struct Batch {
    /// The scope's id.
    pub scope: String,
    /// The end of the log the ledger stood at when the batch was decided, as
    /// [`Ledger::recovered_to`]: somebody wrote behind it, that is a conflict.
    pub recovered_to: Option<u64>,
    /// Events with the state of their keys, in the order of publication.
    pub events: Vec<Outgoing>,
    /// The connection's own state from then on.
    pub connection: ConnectionState,
}

/// One event and the state its key has once it is stored. The event is made where it is sent, so that a
/// batch is held as figures and not as texts.
#[derive(Debug)]
pub struct Outgoing {
    /// The key's state.
    pub record: StateRecord,
    /// The place of the key's newest event when this one was decided, 0 for none: where each key is
    /// its own state, the log refuses the event if anything else is there by then.
    pub expected: u64,
    kind: ChangeKind,
    previous: Option<(Amounts, bool)>,
    group_name: Option<CompactString>,
    factory: EventFactory,
}

impl Outgoing {
    /// The event of a change, and the state its key has then. `group_names`: what AWS calls the group values.
    pub fn of(factory: &EventFactory, change: &Change<'_>, group_names: &BTreeMap<String, String>) -> Self {
        Self {
            record: StateRecord {
                period: change.key.period,
                service: change.key.service.into(),
                group: change.key.group.map(Into::into),
                statement: change.statement(),
                event_id: factory.id(change),
                place: None,
            },
            expected: 0,
            kind: change.kind,
            previous: change.previous.clone(),
            group_name: change.key.group.and_then(|group| group_names.get(group)).map(Into::into),
            factory: factory.clone(),
        }
    }

    /// The same, decided over the key's event at this place of the log.
    #[must_use]
    pub fn over(self, expected: u64) -> Self {
        Self { expected, ..self }
    }

    /// The event; each transport encodes it for its binding and mode.
    pub fn event(&self) -> Event {
        let StateRecord { statement, event_id, .. } = &self.record;
        let change = Change {
            key: self.record.key(),
            kind: self.kind,
            revision: statement.revision,
            amounts: Cow::Borrowed(&statement.amounts),
            estimated: statement.estimated,
            observed_at: statement.observed_at,
            previous: self.previous.clone(),
        };
        self.factory.event_of(*event_id, &change, self.group_name.as_deref())
    }
}

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Stored durably, at this place of the log: an outbox number, an offset, a sequence.
    Stored(u64),
    /// Refused alone, for ever: too large. It is counted and reported, never skipped silently.
    Rejected(String),
}

/// The policy branches on this and never on text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransportErrorKind {
    /// Cannot be reached, or cannot write now; nothing was stored.
    Unavailable,
    /// Another writer was here: drop the batch, recover, classify again.
    Conflict,
    /// No telling whether it was stored: never resend blindly, recover and look.
    Unknown,
    /// Refused: not authorised, no topic.
    Rejected,
    /// The log went backwards: drop the ledger, reload.
    Regressed,
    /// Events without the state that belongs to them.
    StateMissing,
    /// The state was laid out for another configuration.
    LayoutChanged,
    /// The state is another program's, or a newer version's.
    Foreign,
    /// Another process uses the state.
    InUse,
}

impl TransportErrorKind {
    /// Whether time may mend it.
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::Unavailable | Self::Conflict | Self::Unknown | Self::Regressed)
    }

    /// The label in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Conflict => "conflict",
            Self::Unknown => "unknown",
            Self::Rejected => "rejected",
            Self::Regressed => "regressed",
            Self::StateMissing => "state_missing",
            Self::LayoutChanged => "layout_changed",
            Self::Foreign => "foreign",
            Self::InUse => "in_use",
        }
    }
}

/// Why a transport could not do what it was asked.
#[derive(Clone, Debug)]
pub struct TransportError {
    /// For the policy.
    pub kind: TransportErrorKind,
    /// What was attempted, on what, and what came of it: lower case, no final stop.
    pub message: String,
    /// What to do, where something can be done.
    pub hint: Option<String>,
}

impl TransportError {
    /// An error with no hint.
    pub fn new(kind: TransportErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same error with what to do about it.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TransportError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cost::GroupBy,
        event::{structured_json, tests as fixtures},
    };

    /// What is made where it is sent is what was decided, to the byte, each time it is made.
    #[test]
    fn an_event_made_later_is_that_of_its_change() {
        let mut scope = fixtures::scope();
        scope.group_by = Some(GroupBy::Dimension("LINKED_ACCOUNT".to_owned()));
        let factory = EventFactory::new(scope, "amazon.billing");
        let names = BTreeMap::from([("444455556666".to_owned(), "payments".to_owned())]);
        for kind in [ChangeKind::New, ChangeKind::Revised, ChangeKind::Removed] {
            for group in [None, Some("444455556666"), Some("777788889999")] {
                let mut change = fixtures::change("2023-01-27T13", "AWS Lambda");
                (change.kind, change.key.group) = (kind, group);
                change.previous = change.previous.filter(|_| kind != ChangeKind::New);
                let expected = structured_json(factory.event(&change, &names)).unwrap();
                let outgoing = Outgoing::of(&factory, &change, &names).over(17);
                assert_eq!(outgoing.expected, 17);
                for _ in 0..2 {
                    assert_eq!(structured_json(outgoing.event()).unwrap(), expected, "{kind:?} {group:?}");
                }
            }
        }
    }
}
