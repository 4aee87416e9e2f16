//! The ledger: what was last published per key, in memory, read back from the transport.
//!
//! It is an index, not a store: it does no IO, and only `recover` and receipts change it. A row is
//! 80 bytes with two figures in place; names are kept once, so a vanished row can still be named.

use jiff::Timestamp;
use smallvec::SmallVec;

use super::{
    Restore, Stated, Statement, Status,
    names::{NameId, Names},
    table::{Figure, Row, Table},
};
use crate::{
    cost::{Amount, Amounts, CostKey, CostMetric, CostRecord, Period},
    poller::Window,
};

/// The published state of one scope.
#[derive(Debug, Default)]
pub struct Ledger {
    names: Names,
    table: Table,
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

impl Ledger {
    /// An empty ledger, nothing recovered.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many keys are known.
    pub const fn len(&self) -> usize {
        self.table.rows().len()
    }

    /// Whether no key is known.
    pub const fn is_empty(&self) -> bool {
        self.table.rows().is_empty()
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
        self.table.find(key.period, service, group).map(RowId)
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
        if self.table.rows().get(next as usize).is_some_and(is_it) {
            Some(RowId(next))
        } else {
            self.find(key)
        }
    }

    /// What was last published of a key.
    pub fn previous(&self, key: &CostKey<'_>) -> Option<Published<'_>> {
        self.find(key).map(|id| self.get(id))
    }

    /// What a row states.
    pub fn get(&self, id: RowId) -> Published<'_> {
        Published { row: &self.table.rows()[id.0 as usize], names: &self.names }
    }

    /// Every row, in the order in which the keys were first published.
    pub fn rows(&self) -> impl Iterator<Item = (RowId, Published<'_>)> {
        (0_u32..).map(RowId).take(self.table.rows().len()).map(|id| (id, self.get(id)))
    }

    /// Takes over what the log states of a key. A revision no higher than the known one is old
    /// news and changes nothing, so a log may be read twice.
    pub fn apply(&mut self, key: &CostKey<'_>, statement: &Statement) {
        self.apply_at(key, statement, 0);
    }

    /// The same, with the place of the event in the log.
    pub fn apply_at(&mut self, key: &CostKey<'_>, statement: &Statement, sequence: u64) {
        let row = self.row(key, &statement.borrowed(), sequence);
        self.table.enter(row);
    }

    /// The same, of many keys.
    pub const fn restore(&mut self) -> Restore<'_> {
        Restore::new(self)
    }

    pub(super) const fn table(&mut self) -> &mut Table {
        &mut self.table
    }

    /// What a log states of a key.
    pub(super) fn row(&mut self, key: &CostKey<'_>, stated: &Stated<'_>, sequence: u64) -> Row {
        let service = self.names.intern(key.service);
        let group = key.group.map_or(NameId::NONE, |group| self.names.intern(group));
        let mut figures: SmallVec<[Figure; 2]> = SmallVec::new();
        for (_, amount) in &stated.amounts {
            // One unit is that of all metrics but quantities.
            let unit = match figures.last() {
                Some(last) if self.names.text(last.unit) == amount.unit() => last.unit,
                _ => self.names.intern(amount.unit()),
            };
            figures.push(Figure { value: amount.value(), unit });
        }
        Row {
            figures,
            hours: key.period.hours(),
            service,
            group,
            revision: stated.revision,
            observed_at: u32::try_from(stated.observed_at.as_second().max(0)).unwrap_or(u32::MAX),
            sequence,
            granularity: key.period.granularity(),
            status: stated.status,
            estimated: stated.estimated,
            metrics: stated.amounts.iter().fold(0, |set, (metric, _)| set | bit(*metric)),
        }
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::cost::Granularity;

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
                restore.apply(&key, &statement.borrowed(), 0);
            }
            drop(restore);
            let all = |ledger: &Ledger| format!("{:?}", ledger.table.rows());
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
