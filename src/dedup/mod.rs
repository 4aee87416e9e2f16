//! Dedup: what is new, revised or gone, compared with what was last published.
//!
//! The key is the identity and the value is the revision. Everything here is pure: no IO, no clock.

mod absence;
mod change;
mod connection_state;
mod ledger;
mod names;
mod restore;
mod table;

pub use absence::{Judgement, Sightings};
pub use change::{Change, ChangeKind, Stated, Statement, Status};
pub use connection_state::{Claim, ConnectionState, MissingRow, MonthState, PollState};
pub use ledger::{Ledger, Published, RowId};
pub use restore::Restore;

use std::ops::AddAssign;

use jiff::Timestamp;

use crate::cost::CostRecord;

/// What a cost record means beside what was last published of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Something to publish.
    Changed(ChangeKind),
    /// Nothing to publish: the same figures, unit and estimated flag.
    Unchanged,
    /// Nothing to publish: zero, and never anything else.
    Zero,
    /// Nothing to publish: the observation is older than the one published.
    Stale,
}

/// Verdicts on the cost records of a cycle, and events that were refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// First events of their keys.
    pub new: u64,
    /// Later events.
    pub revised: u64,
    /// Retractions.
    pub removed: u64,
    /// Rows equal to what was published.
    pub unchanged: u64,
    /// Rows that are zero and never were anything else.
    pub zero: u64,
    /// Rows older than what was published.
    pub stale: u64,
    /// Events the output refused for ever.
    pub rejected: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.new += other.new;
        self.revised += other.revised;
        self.removed += other.removed;
        self.unchanged += other.unchanged;
        self.zero += other.zero;
        self.stale += other.stale;
        self.rejected += other.rejected;
    }
}

/// Whether rows that are zero and were never anything else are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroRows {
    /// `poll.publish_zero = true`.
    Publish,
    /// The default: two thirds of a real account's rows are zero for ever.
    Skip,
}

/// Compares a cost record with what was last published of its key.
///
/// | last published | the record | verdict |
/// |---|---|---|
/// | nothing | all zero, zero rows are skipped | zero |
/// | nothing | anything else | new |
/// | something observed later | anything | stale |
/// | removed | anything | revised |
/// | live | a figure, unit or the estimated flag differs, or a metric was not stated | revised |
/// | live | the same | unchanged |
pub fn classify(
    record: &CostRecord,
    observed_at: Timestamp,
    previous: Option<Published<'_>>,
    zero_rows: ZeroRows,
) -> Verdict {
    let Some(previous) = previous else {
        return if zero_rows == ZeroRows::Skip && record.is_zero() {
            Verdict::Zero
        } else {
            Verdict::Changed(ChangeKind::New)
        };
    };
    if previous.is_stated_by(record) {
        Verdict::Unchanged
    } else if observed_at < previous.observed_at() {
        Verdict::Stale
    } else {
        Verdict::Changed(ChangeKind::Revised)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::{Amount, CostKey, CostMetric, Period};

    fn record(amount: &str, estimated: bool) -> CostRecord {
        let amount = Amount::parse(amount.to_owned(), "USD".to_owned()).unwrap();
        CostRecord {
            period: Period::from_label("2026-03-01").unwrap(),
            service: "Tax".into(),
            group: None,
            amounts: [(CostMetric::UnblendedCost, amount)].into_iter().collect(),
            estimated,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// The truth table of `classify`, row by row.
    #[test]
    fn truth_table() {
        use ChangeKind::{New, Revised};
        use Status::{Live, Removed};
        use Verdict::{Changed, Stale, Unchanged, Zero};
        let cases = [
            // last published: amount, estimated, status; the record: amount, estimated; seconds later
            (None, ("1", true), 0, Changed(New)),
            (None, ("-0.0000000289", true), 0, Changed(New)),
            (None, ("0.00", true), 0, Zero),
            (Some(("1", true, Live)), ("1", true), 1, Unchanged),
            (Some(("1", true, Live)), ("1.000", true), 1, Unchanged),
            (Some(("1", true, Live)), ("1.0000000001", true), 1, Changed(Revised)),
            (Some(("1", true, Live)), ("0", true), 1, Changed(Revised)),
            (Some(("1", true, Live)), ("1", false), 1, Changed(Revised)),
            // The same second is not before.
            (Some(("1", true, Live)), ("2", true), 0, Changed(Revised)),
            (Some(("1", true, Live)), ("2", true), -1, Stale),
            (Some(("1", true, Live)), ("1", true), -1, Unchanged),
            (Some(("0", true, Removed)), ("5", true), 1, Changed(Revised)),
            (Some(("0", true, Removed)), ("0", true), 1, Changed(Revised)),
            (Some(("0", true, Removed)), ("5", true), -1, Stale),
        ];
        for (previous, (amount, estimated), later, expected) in cases {
            let mut ledger = Ledger::new();
            let record = record(amount, estimated);
            if let Some((amount, estimated, status)) = previous {
                let stated = self::record(amount, estimated);
                let key = CostKey { period: stated.period, service: &stated.service, group: None };
                let statement = Statement {
                    revision: 1,
                    amounts: stated.amounts.clone(),
                    estimated,
                    status,
                    observed_at: at(1000),
                };
                ledger.apply(&key, &statement);
            }
            let verdict = classify(&record, at(1000 + later), ledger.previous(&record.key()), ZeroRows::Skip);
            assert_eq!(verdict, expected, "{previous:?} {amount} {estimated} {later}");
        }
    }

    #[test]
    fn zero_rows_can_be_published() {
        let verdict = classify(&record("0", true), at(0), None, ZeroRows::Publish);
        assert_eq!(verdict, Verdict::Changed(ChangeKind::New));
    }
}
