//! Many rows into a ledger, as when it is read back.

use std::hint::black_box;

use super::{
    Statement,
    ledger::{Ledger, Row},
};
use crate::cost::CostKey;

/// So many go in together.
const TOGETHER: usize = 32;

/// Rows on their way into a ledger; once this is dropped, they are there.
///
/// In the index of a large ledger every place is a miss of the cache. The processor waits for several at
/// once where nothing else is to be done between them, so a few rows are collected, then entered.
#[derive(Debug)]
pub struct Restore<'a> {
    ledger: &'a mut Ledger,
    rows: Vec<(u64, Row)>,
}

impl<'a> Restore<'a> {
    pub(super) const fn new(ledger: &'a mut Ledger) -> Self {
        Self { ledger, rows: Vec::new() }
    }

    /// As [`Ledger::apply_at`]; 0 for a transport that has no such place.
    pub fn apply(&mut self, key: &CostKey<'_>, statement: &Statement, sequence: u64) {
        self.rows.push(self.ledger.row(key, statement, sequence));
        if self.rows.len() == TOGETHER {
            self.enter();
        }
    }

    fn enter(&mut self) {
        let places = self.rows.iter().map(|(hash, _)| self.ledger.look_at(*hash));
        black_box(places.flatten().count());
        for row in self.rows.drain(..) {
            self.ledger.enter(row);
        }
    }
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        self.enter();
    }
}
