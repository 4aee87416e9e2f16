//! The rows of a ledger, in the order in which their keys were first published, and an index over their keys.

use std::{hash::BuildHasher as _, hint::black_box};

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};
use rust_decimal::Decimal;
use smallvec::SmallVec;

use super::{Status, names::NameId};
use crate::cost::{Granularity, Period};

/// So many rows are looked for together.
const TOGETHER: usize = 32;

/// What is known of every key.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Row>,
    index: HashTable<Place>,
    hasher: DefaultHashBuilder,
}

/// Where a row is, and the hash of its key: a row is a miss of the cache, and is to be one only where it is
/// the row looked for. With the hashes at hand the index also grows from front to back.
#[derive(Debug)]
struct Place {
    row: u32,
    hash: u32,
}

/// The hash the index goes by: its highest bits and its lowest.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) hours: i32,
    pub(super) service: NameId,
    /// `NameId::NONE` without a second grouping.
    pub(super) group: NameId,
    pub(super) revision: u32,
    /// Whole seconds since 1970, good until 2106.
    pub(super) observed_at: u32,
    /// Where the newest event lies in the log; 0 where the transport has no such place.
    pub(super) sequence: u64,
    pub(super) granularity: Granularity,
    pub(super) status: Status,
    pub(super) estimated: bool,
    /// The metrics stated, one bit each; their figures follow in the order of `CostMetric`.
    pub(super) metrics: u8,
    pub(super) figures: SmallVec<[Figure; 2]>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Figure {
    pub(super) value: Decimal,
    pub(super) unit: NameId,
}

impl Table {
    pub(super) const fn rows(&self) -> &[Row] {
        self.rows.as_slice()
    }

    /// The place of a key's row.
    pub(super) fn find(&self, period: Period, service: NameId, group: NameId) -> Option<u32> {
        let key = (period.hours(), service, group, period.granularity());
        let hash = self.hash(key);
        let is_it = |place: &Place| place.hash == hash && self.rows[place.row as usize].key() == key;
        self.index.find(spread(hash), is_it).map(|place| place.row)
    }

    fn hash(&self, key: Key) -> u32 {
        (self.hasher.hash_one(key) >> 32) as u32
    }

    /// Takes a row in, unless it is old news.
    pub(super) fn enter(&mut self, row: Row) {
        self.enter_at(self.hash(row.key()), row);
    }

    /// The same, of many rows. In the index of a large ledger every place is a miss of the cache. The
    /// processor waits for several at once where nothing else is to be done between them, so a few are looked
    /// at before they are needed.
    pub(super) fn enter_all(&mut self, rows: &mut Vec<Row>) {
        let mut hashes = [0; TOGETHER];
        let mut rows = rows.drain(..);
        while !rows.as_slice().is_empty() {
            for (hash, row) in hashes.iter_mut().zip(rows.as_slice()) {
                *hash = self.hash(row.key());
            }
            let some = rows.len().min(TOGETHER);
            let places = hashes[..some].iter().map(|hash| self.index.find(spread(*hash), |_| false));
            black_box(places.flatten().count());
            for (hash, row) in hashes.into_iter().zip(rows.by_ref().take(some)) {
                self.enter_at(hash, row);
            }
        }
    }

    #[inline]
    fn enter_at(&mut self, hash: u32, row: Row) {
        let rows = &self.rows;
        let is_it = |place: &Place| place.hash == hash && rows[place.row as usize].key() == row.key();
        match self.index.entry(spread(hash), is_it, |place| spread(place.hash)) {
            Entry::Occupied(place) => {
                let known = &mut self.rows[place.get().row as usize];
                if known.revision < row.revision {
                    *known = row;
                }
            }
            Entry::Vacant(vacant) => {
                let place =
                    u32::try_from(self.rows.len()).expect("four thousand million keys do not fit in memory");
                vacant.insert(Place { row: place, hash });
                if self.rows.len() == self.rows.capacity() {
                    // An eighth more, not twice as much: the ledger is the memory this program needs.
                    self.rows.reserve_exact(self.rows.len() / 8 + 64);
                }
                self.rows.push(row);
            }
        }
    }
}

type Key = (i32, NameId, NameId, Granularity);

impl Row {
    const fn key(&self) -> Key {
        (self.hours, self.service, self.group, self.granularity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_80_bytes() {
        assert_eq!(size_of::<Row>(), 80);
    }
}
