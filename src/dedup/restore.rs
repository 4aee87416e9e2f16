//! Many rows into a ledger, as when it is read back.

use std::{
    mem,
    panic::resume_unwind,
    sync::mpsc::{SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use super::{
    Stated,
    ledger::Ledger,
    table::{Row, Table},
};
use crate::cost::CostKey;

/// So many rows go in at once.
const PART: usize = 1024;

/// So many parts wait for the other thread at most.
const WAITING: usize = 4;

/// After so many rows it is worth a thread: the log is a long one.
const LONG: usize = 10 * PART;

/// Rows on their way into a ledger; once this is dropped, they are there.
///
/// To make a row of what was read and to find its place take about as long, so of a long log another thread
/// does the latter. It has the rows and their index meanwhile; the names stay here.
#[derive(Debug)]
pub struct Restore<'a> {
    ledger: &'a mut Ledger,
    rows: Vec<Row>,
    entered: usize,
    other: Option<(SyncSender<Vec<Row>>, JoinHandle<Table>)>,
}

impl<'a> Restore<'a> {
    pub(super) const fn new(ledger: &'a mut Ledger) -> Self {
        Self { ledger, rows: Vec::new(), entered: 0, other: None }
    }

    /// As [`Ledger::apply_at`]; 0 for a transport that has no such place.
    pub fn apply(&mut self, key: &CostKey<'_>, stated: &Stated<'_>, sequence: u64) {
        self.rows.push(self.ledger.row(key, stated, sequence));
        if self.rows.len() == PART {
            self.enter();
        }
    }

    fn enter(&mut self) {
        if self.other.is_none() && self.entered >= LONG {
            let mut table = mem::take(self.ledger.table());
            let (sender, parts) = sync_channel::<Vec<Row>>(WAITING);
            let thread = thread::spawn(move || {
                for mut part in parts {
                    table.enter_all(&mut part);
                }
                table
            });
            self.other = Some((sender, thread));
        }
        self.entered += self.rows.len();
        match &self.other {
            None => self.ledger.table().enter_all(&mut self.rows),
            Some((other, _)) => {
                let part = mem::replace(&mut self.rows, Vec::with_capacity(PART));
                // Where it has to wait, then no longer than this part would take here. Refused only after a
                // panic, which is passed on at the end.
                other.send(part).ok();
            }
        }
    }
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        self.enter();
        let Some((sender, other)) = self.other.take() else { return };
        drop(sender);
        match other.join() {
            Ok(table) => *self.ledger.table() = table,
            Err(panic) if !thread::panicking() => resume_unwind(panic),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        cost::{Amount, CostMetric, Granularity, Period},
        dedup::{Statement, Status},
    };

    /// Every key twice: with an older revision, the same, and a newer one.
    #[test]
    fn a_long_log_makes_the_ledger_that_its_rows_make_one_by_one() {
        let amount = Amount::parse("1", "USD").unwrap();
        let stated = |revision| Statement {
            revision,
            amounts: [(CostMetric::UnblendedCost, amount.clone())].into_iter().collect(),
            estimated: true,
            status: Status::Live,
            observed_at: Timestamp::UNIX_EPOCH,
        };
        let services: Vec<String> = (0..500).map(|number| format!("Service {number}")).collect();
        let key = |number: usize| {
            let hours = 24 * i32::try_from(number / services.len()).unwrap();
            let period = Period::from_hours(Granularity::Daily, hours).unwrap();
            CostKey { period, service: &services[number % services.len()], group: None }
        };
        let [mut one_by_one, mut together] = [Ledger::new(), Ledger::new()];
        let mut restore = together.restore();
        let keys = 2 * LONG;
        let newer = |number: usize| u32::try_from(1 + number % 3).unwrap();
        for (number, revision) in (0..keys).map(|n| (n, 2)).chain((0..keys).map(|n| (n, newer(n)))) {
            one_by_one.apply(&key(number), &stated(revision));
            restore.apply(&key(number), &stated(revision).borrowed(), 0);
        }
        assert!(restore.other.is_some(), "another thread has the table");
        drop(restore);
        assert_eq!(together.len(), keys);
        let all = |ledger: &Ledger| {
            ledger
                .rows()
                .map(|(id, row)| format!("{id:?} {:?} {:?}", row.key(), row.amounts()))
                .collect::<Vec<_>>()
        };
        assert!(all(&one_by_one) == all(&together));
        for number in 0..keys {
            assert_eq!(together.previous(&key(number)).unwrap().revision(), newer(number).max(2));
        }
    }
}
