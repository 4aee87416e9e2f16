//! The ledger: what was last published per key, in memory, read back from the transport.
//!
//! It is an index, not a store: it does no IO, and only `recover` and receipts change it. A row is
//! 80 bytes with two figures in place; names are kept once, so a vanished row can still be named.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};
use jiff::Timestamp;
use rust_decimal::Decimal;
use smallvec::SmallVec;

use super::{
    Restore, Statement, Status,
    names::{NameId, Names},
};
use crate::{
    cost::{Amount, Amounts, CostKey, CostMetric, CostRecord, Granularity, Period},
    poller::Window,
};

/// The published state of one scope.
#[derive(Debug, Default)]
pub struct Ledger {
    names: Names,
    rows: Vec<Row>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    recovered_to: Option<u64>,
    window: Option<Window>,
}

/// The place of a row in the ledger; valid until the ledger is cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowId(u32);

impl RowId {
    /// Its index: rows are numbered from 0 in the order in which they were first applied.
    pub(super) const fn index(self) -> u32 {
        self.0
    }
}

/// What the newest event of a key states, borrowed from the ledger.
#[derive(Clone, Copy, Debug)]
pub struct Published<'a> {
    row: &'a Row,
    names: &'a Names,
}

#[derive(Debug)]
pub(super) struct Row {
    hours: i32,
    service: NameId,
    /// `NameId::NONE` without a second grouping.
    group: NameId,
    revision: u32,
    /// Whole seconds since 1970, good until 2106.
    observed_at: u32,
    /// Where the newest event lies in the log; 0 where the transport has no such place.
    sequence: u64,
    granularity: Granularity,
    status: Status,
    estimated: bool,
    /// The metrics stated, one bit each; their figures follow in the order of `CostMetric`.
    metrics: u8,
    figures: SmallVec<[Figure; 2]>,
}

#[derive(Clone, Copy, Debug)]
struct Figure {
    value: Decimal,
    unit: NameId,
}

impl Ledger {
    /// An empty ledger, nothing recovered.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many keys are known.
    pub const fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no key is known.
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The proven end of the log this ledger stands at, in the transport's own count; `None` until
    /// the first recovery and after [`Ledger::clear`].
    pub const fn recovered_to(&self) -> Option<u64> {
        self.recovered_to
    }

    /// Notes the proven end of the log, once everything before it was applied.
    pub const fn set_recovered_to(&mut self, end: u64) {
        self.recovered_to = Some(end);
    }

    /// Whether it has every key of a window, or every key there is for `None`.
    pub fn reaches(&self, window: Option<&Window>) -> bool {
        match (&self.window, window) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(held), Some(window)) => held.covers(window),
        }
    }

    /// The periods it is limited to; `None`: every key there is.
    pub const fn window(&self) -> Option<Window> {
        self.window
    }

    /// Forgets everything and holds no more than a window from then on, which is for the transport
    /// to keep to; `None` for everything.
    pub fn begin(&mut self, window: Option<Window>) {
        *self = Self { window, ..Self::new() };
    }

    /// Forgets everything: the next recovery reads the log from its beginning.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// The row of a key.
    pub fn find(&self, key: &CostKey<'_>) -> Option<RowId> {
        let service = self.names.get(key.service)?;
        let group = match key.group {
            None => NameId::NONE,
            Some(group) => self.names.get(group)?,
        };
        self.position(key.period, service, group).map(RowId)
    }

    /// The same, where the key of the row `before` was looked for just before: AWS lists rows in much
    /// the same order every time, so the next row is compared first, which needs no hash.
    pub fn find_after(&self, before: Option<RowId>, key: &CostKey<'_>) -> Option<RowId> {
        let next = before.map_or(0, |RowId(before)| before.saturating_add(1));
        let is_it = |row: &Row| {
            let group = (row.group != NameId::NONE).then(|| self.names.text(row.group));
            row.hours == key.period.hours()
                && row.granularity == key.period.granularity()
                && self.names.text(row.service) == key.service
                && group == key.group
        };
        if self.rows.get(next as usize).is_some_and(is_it) { Some(RowId(next)) } else { self.find(key) }
    }

    /// What was last published of a key.
    pub fn previous(&self, key: &CostKey<'_>) -> Option<Published<'_>> {
        self.find(key).map(|id| self.get(id))
    }

    /// What a row states.
    pub fn get(&self, id: RowId) -> Published<'_> {
        Published { row: &self.rows[id.0 as usize], names: &self.names }
    }

    /// Every row, in the order in which the keys were first published.
    pub fn rows(&self) -> impl Iterator<Item = (RowId, Published<'_>)> {
        (0_u32..).map(RowId).take(self.rows.len()).map(|id| (id, self.get(id)))
    }

    /// Takes over what the log states of a key. A revision no higher than the known one is old
    /// news and changes nothing, so a log may be read twice.
    pub fn apply(&mut self, key: &CostKey<'_>, statement: &Statement) {
        self.apply_at(key, statement, 0);
    }

    /// The same, with the place of the event in the log.
    pub fn apply_at(&mut self, key: &CostKey<'_>, statement: &Statement, sequence: u64) {
        let row = self.row(key, statement, sequence);
        self.enter(row);
    }

    /// The same, of many keys.
    pub const fn restore(&mut self) -> Restore<'_> {
        Restore::new(self)
    }

    /// What a log states of a key as a row, and the hash under which the index has its key.
    pub(super) fn row(&mut self, key: &CostKey<'_>, statement: &Statement, sequence: u64) -> (u64, Row) {
        let service = self.names.intern(key.service);
        let group = key.group.map_or(NameId::NONE, |group| self.names.intern(group));
        let mut figures: SmallVec<[Figure; 2]> = SmallVec::new();
        for (_, amount) in &statement.amounts {
            // One unit is that of all metrics but quantities.
            let unit = match figures.last() {
                Some(last) if self.names.text(last.unit) == amount.unit() => last.unit,
                _ => self.names.intern(amount.unit()),
            };
            figures.push(Figure { value: amount.value(), unit });
        }
        let row = Row {
            figures,
            hours: key.period.hours(),
            service,
            group,
            revision: statement.revision,
            observed_at: u32::try_from(statement.observed_at.as_second().max(0)).unwrap_or(u32::MAX),
            sequence,
            granularity: key.period.granularity(),
            status: statement.status,
            estimated: statement.estimated,
            metrics: statement.amounts.iter().fold(0, |set, (metric, _)| set | bit(*metric)),
        };
        (row.hash(&self.hasher), row)
    }

    /// Whatever the index has where a hash leads.
    pub(super) fn look_at(&self, hash: u64) -> Option<&u32> {
        self.index.find(hash, |_| false)
    }

    /// Takes a row in, unless it is old news.
    pub(super) fn enter(&mut self, (hash, row): (u64, Row)) {
        if self.index.len() == self.index.capacity() {
            self.grow_index();
        }
        let (rows, hasher) = (&self.rows, &self.hasher);
        let entry = self.index.entry(
            hash,
            |&position| rows[position as usize].has_key_of(&row),
            |&position| rows[position as usize].hash(hasher),
        );
        match entry {
            Entry::Occupied(position) => {
                let known = &mut self.rows[*position.get() as usize];
                if known.revision < row.revision {
                    *known = row;
                }
            }
            Entry::Vacant(place) => {
                let position =
                    u32::try_from(self.rows.len()).expect("four thousand million keys do not fit in memory");
                place.insert(position);
                if self.rows.len() == self.rows.capacity() {
                    // An eighth more, not twice as much: the ledger is the memory this program needs.
                    self.rows.reserve_exact(self.rows.len() / 8 + 64);
                }
                self.rows.push(row);
            }
        }
    }

    /// Doubles the index in the order of the rows: in its own, every row is a miss of the cache.
    fn grow_index(&mut self) {
        let (rows, hasher) = (&self.rows, &self.hasher);
        let hash = |row: &Row| row.hash(hasher);
        let mut index = HashTable::with_capacity(2 * rows.len());
        for (position, row) in (0_u32..).zip(rows) {
            index.insert_unique(hash(row), position, |&position| hash(&rows[position as usize]));
        }
        self.index = index;
    }

    fn position(&self, period: Period, service: NameId, group: NameId) -> Option<u32> {
        let hash = hash(&self.hasher, period.hours(), period.granularity(), service, group);
        self.index
            .find(hash, |&position| {
                let row = &self.rows[position as usize];
                row.hours == period.hours()
                    && row.service == service
                    && row.group == group
                    && row.granularity == period.granularity()
            })
            .copied()
    }
}

impl Row {
    fn has_key_of(&self, other: &Self) -> bool {
        (self.hours, self.service, self.group, self.granularity)
            == (other.hours, other.service, other.group, other.granularity)
    }

    fn hash(&self, hasher: &DefaultHashBuilder) -> u64 {
        hash(hasher, self.hours, self.granularity, self.service, self.group)
    }
}

impl<'a> Published<'a> {
    /// The key the statement is about.
    pub fn key(&self) -> CostKey<'a> {
        CostKey {
            period: Period::from_hours(self.row.granularity, self.row.hours)
                .expect("taken from a period when the row was applied"),
            service: self.names.text(self.row.service),
            group: (self.row.group != NameId::NONE).then(|| self.names.text(self.row.group)),
        }
    }

    /// Whether the key's period was asked for.
    pub(crate) fn within(&self, window: &Window) -> bool {
        self.row.granularity == window.granularity()
            && (window.from.hours()..window.until.hours()).contains(&self.row.hours)
    }

    /// How many events the key has had; from 1.
    pub const fn revision(&self) -> u32 {
        self.row.revision
    }

    /// Where the event lies in the log, as the transport counts; 0 where it has no such place.
    pub const fn sequence(&self) -> u64 {
        self.row.sequence
    }

    /// Whether the row is live or was retracted.
    pub const fn status(&self) -> Status {
        self.row.status
    }

    /// AWS's flag, as last stated.
    pub const fn estimated(&self) -> bool {
        self.row.estimated
    }

    /// When AWS gave the figures: its `Date`, whole seconds.
    pub fn observed_at(&self) -> Timestamp {
        Timestamp::from_second(i64::from(self.row.observed_at)).expect("32 bits of seconds are in range")
    }

    /// Whether every one of these figures is what was last stated. A metric stated before and no
    /// longer asked for does not count.
    pub fn states(&self, amounts: &Amounts) -> bool {
        let same = |figure: &Figure, amount: &Amount| {
            amount.has_value(figure.value) && self.names.text(figure.unit) == amount.unit()
        };
        let asked = amounts.iter().fold(0, |set, (metric, _)| set | bit(*metric));
        if asked == self.row.metrics {
            // Both are in the order of the metrics.
            return self.row.figures.iter().zip(amounts).all(|(figure, (_, amount))| same(figure, amount));
        }
        amounts.iter().all(|(metric, amount)| self.figure(*metric).is_some_and(|figure| same(figure, amount)))
    }

    /// Whether the row is live and a record states of it what was last stated.
    pub fn is_stated_by(&self, record: &CostRecord) -> bool {
        self.status() == Status::Live && self.estimated() == record.estimated && self.states(&record.amounts)
    }

    /// The figures last stated, in plain decimal notation.
    pub fn amounts(&self) -> Amounts {
        let metrics = CostMetric::ALL.into_iter().filter(|metric| self.row.metrics & bit(*metric) != 0);
        metrics
            .zip(&self.row.figures)
            .map(|(metric, figure)| (metric, Amount::from_value(figure.value, self.names.text(figure.unit))))
            .collect()
    }

    fn figure(&self, metric: CostMetric) -> Option<&'a Figure> {
        if self.row.metrics & bit(metric) == 0 {
            return None;
        }
        let before = self.row.metrics & (bit(metric) - 1);
        self.row.figures.get(before.count_ones() as usize)
    }
}

const fn bit(metric: CostMetric) -> u8 {
    1 << metric as u8
}

fn hash(
    hasher: &DefaultHashBuilder,
    hours: i32,
    granularity: Granularity,
    service: NameId,
    group: NameId,
) -> u64 {
    hasher.hash_one((hours, granularity, service, group))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn statement(revision: u32, amounts: &[(CostMetric, &str, &str)]) -> Statement {
        Statement {
            revision,
            amounts: amounts
                .iter()
                .map(|(m, text, unit)| (*m, Amount::parse((*text).to_owned(), (*unit).to_owned()).unwrap()))
                .collect(),
            estimated: true,
            status: Status::Live,
            observed_at: Timestamp::from_second(1_700_000_000).unwrap(),
        }
    }

    #[test]
    fn a_row_is_80_bytes() {
        assert_eq!(size_of::<Row>(), 80);
    }

    #[test]
    fn figures_are_found_by_metric_whatever_else_is_stated() {
        let mut ledger = Ledger::new();
        let key = CostKey { period: Period::from_label("2026-03-01").unwrap(), service: "Tax", group: None };
        let all = [
            (CostMetric::AmortizedCost, "1.50", "USD"),
            (CostMetric::UnblendedCost, "2", "USD"),
            (CostMetric::UsageQuantity, "3", "N/A"),
        ];
        ledger.apply(&key, &statement(1, &all));
        let known = ledger.previous(&key).unwrap();
        assert!(known.states(&statement(9, &all).amounts));
        assert!(known.states(&statement(9, &all[1..2]).amounts));
        assert!(known.states(&statement(9, &[(CostMetric::AmortizedCost, "1.5", "USD")]).amounts));
        assert!(!known.states(&statement(9, &[(CostMetric::AmortizedCost, "1.5", "CNY")]).amounts));
        assert!(!known.states(&statement(9, &[(CostMetric::BlendedCost, "1.5", "USD")]).amounts));
        assert_eq!(known.amounts()[0].1.text(), "1.50");
    }

    #[test]
    fn an_older_revision_changes_nothing() {
        let mut ledger = Ledger::new();
        let key = CostKey { period: Period::from_label("2026-03-01").unwrap(), service: "Tax", group: None };
        ledger.apply(&key, &statement(2, &[(CostMetric::AmortizedCost, "2", "USD")]));
        ledger.apply(&key, &statement(1, &[(CostMetric::AmortizedCost, "1", "USD")]));
        assert_eq!(ledger.previous(&key).unwrap().revision(), 2);
        assert_eq!(ledger.previous(&key).unwrap().amounts()[0].1.text(), "2");
        assert_eq!(ledger.len(), 1);
    }

    proptest! {
        #[test]
        fn the_ledger_is_a_map_of_exact_keys(
            writes in proptest::collection::vec((0_i32..50, any::<bool>(), 0..6_usize, proptest::option::of(0..4_usize)), 0..400)
        ) {
            let services = ["EC2 - Other", "Tax", "AWS Lambda", "", "tax", "Amazon Route 53"];
            let groups = ["", "a", "444455556666", "Tax"];
            let [mut ledger, mut restored] = [Ledger::new(), Ledger::new()];
            let mut restore = restored.restore();
            let mut model: HashMap<(Period, usize, Option<usize>), u32> = HashMap::new();
            for (hours, hourly, service, group) in writes {
                let (granularity, hours) = if hourly { (Granularity::Hourly, hours) } else { (Granularity::Daily, hours * 24) };
                let period = Period::from_hours(granularity, hours).unwrap();
                let revision = model.entry((period, service, group)).and_modify(|r| *r += 1).or_insert(1);
                let key = CostKey { period, service: services[service], group: group.map(|g| groups[g]) };
                let statement = statement(*revision, &[(CostMetric::UnblendedCost, "1", "USD")]);
                ledger.apply(&key, &statement);
                restore.apply(&key, &statement, 0);
            }
            drop(restore);
            let all = |ledger: &Ledger| format!("{:?}", ledger.rows);
            prop_assert_eq!(all(&ledger), all(&restored), "a few at a time, it is the same");
            prop_assert_eq!(ledger.len(), model.len());
            let mut before = None;
            for ((period, service, group), revision) in &model {
                let key = CostKey { period: *period, service: services[*service], group: group.map(|g| groups[g]) };
                let known = ledger.previous(&key).unwrap();
                prop_assert_eq!(known.revision(), *revision);
                prop_assert_eq!(known.key(), key);
                // Whatever was found before, a row is found by its whole key.
                prop_assert_eq!(ledger.find_after(before, &key), ledger.find(&key));
                before = ledger.find(&key);
            }
            before = None;
            for (id, row) in ledger.rows() {
                prop_assert_eq!(ledger.find_after(before, &row.key()), Some(id));
                before = Some(id);
            }
            prop_assert_eq!(ledger.rows().count(), model.len());
        }
    }
}
