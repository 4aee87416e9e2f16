//! A change: what one event will state, and what the event before it stated.

use std::borrow::Cow;

use jiff::Timestamp;

use super::Published;
use crate::cost::{Amount, AmountRefs, Amounts, CostKey, CostRecord};

/// How a key came to have another event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// The key's first event.
    New,
    /// Another figure, unit or estimated flag, or a removed row that reappeared.
    Revised,
    /// The row is gone from AWS's answers.
    Removed,
}

impl ChangeKind {
    /// As in the extension attribute `change`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Revised => "revised",
            Self::Removed => "removed",
        }
    }
}

/// Whether AWS still lists the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It does.
    Live,
    /// It does not, and that was published.
    Removed,
}

impl Status {
    /// As in state records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Removed => "removed",
        }
    }

    /// The status of that name, `None` for any other text.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Live, Self::Removed].into_iter().find(|status| status.name() == name)
    }
}

/// What an event states of its key: the state of that key from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// From 1, one more with every event of the key.
    pub revision: u32,
    /// The figures; zeros once removed.
    pub amounts: Amounts,
    /// AWS's flag.
    pub estimated: bool,
    /// Live or removed.
    pub status: Status,
    /// AWS's `Date` for the page that gave the figures, whole seconds.
    pub observed_at: Timestamp,
}

/// The same, where it was read: nothing is copied.
#[derive(Clone, Debug)]
pub struct Stated<'a> {
    /// From 1.
    pub revision: u32,
    /// In the order of the metrics.
    pub amounts: AmountRefs<'a>,
    /// AWS's flag.
    pub estimated: bool,
    /// Live or removed.
    pub status: Status,
    /// Whole seconds.
    pub observed_at: Timestamp,
}

impl Statement {
    /// Where it is.
    pub fn borrowed(&self) -> Stated<'_> {
        Stated {
            revision: self.revision,
            amounts: self.amounts.iter().map(|(metric, amount)| (*metric, amount.borrowed())).collect(),
            estimated: self.estimated,
            status: self.status,
            observed_at: self.observed_at,
        }
    }
}

impl Stated<'_> {
    /// A copy that is its own.
    pub fn to_statement(&self) -> Statement {
        Statement {
            revision: self.revision,
            amounts: self.amounts.iter().map(|(metric, amount)| (*metric, amount.to_amount())).collect(),
            estimated: self.estimated,
            status: self.status,
            observed_at: self.observed_at,
        }
    }
}

/// One event to be: a key, what is stated of it now, and what was stated before.
#[derive(Clone, Debug)]
pub struct Change<'a> {
    /// Whose figures these are.
    pub key: CostKey<'a>,
    /// New, revised or removed.
    pub kind: ChangeKind,
    /// From 1.
    pub revision: u32,
    /// AWS's own figures; zeros for a removed row.
    pub amounts: Cow<'a, Amounts>,
    /// AWS's flag; for a removed row as last stated.
    pub estimated: bool,
    /// AWS's `Date`, whole seconds: the event's `time`.
    pub observed_at: Timestamp,
    /// The figures and the flag of the revision before; `None` for a new key.
    pub previous: Option<(Amounts, bool)>,
}

impl<'a> Change<'a> {
    /// The change that publishes a record AWS lists.
    pub fn of_record(
        record: &'a CostRecord,
        kind: ChangeKind,
        observed_at: Timestamp,
        previous: Option<Published<'_>>,
    ) -> Self {
        Self {
            key: record.key(),
            kind,
            revision: previous.map_or(0, |p| p.revision()) + 1,
            amounts: Cow::Borrowed(&record.amounts),
            estimated: record.estimated,
            observed_at,
            previous: previous.map(|p| (p.amounts(), p.estimated())),
        }
    }

    /// The change that retracts a row AWS no longer lists: zeros in the units last stated.
    pub fn retraction(key: CostKey<'a>, observed_at: Timestamp, previous: Published<'_>) -> Self {
        let stated = previous.amounts();
        Self {
            key,
            kind: ChangeKind::Removed,
            revision: previous.revision() + 1,
            amounts: Cow::Owned(stated.iter().map(|(m, a)| (*m, Amount::zero(a.unit()))).collect()),
            estimated: previous.estimated(),
            observed_at,
            previous: Some((stated, previous.estimated())),
        }
    }

    /// What the ledger holds once the event is stored.
    pub fn statement(&self) -> Statement {
        Statement {
            revision: self.revision,
            amounts: self.amounts.clone().into_owned(),
            estimated: self.estimated,
            status: match self.kind {
                ChangeKind::Removed => Status::Removed,
                ChangeKind::New | ChangeKind::Revised => Status::Live,
            },
            observed_at: self.observed_at,
        }
    }
}
