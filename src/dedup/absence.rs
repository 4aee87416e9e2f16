//! Absence: which published rows a complete answer no longer lists.
//!
//! Nothing is concluded from a failed, partial or empty answer, nor from one with an empty page, nor
//! from a period without any row, nor from one answer alone: a row is retracted when two complete
//! answers in a row lack it.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Ledger, MissingRow, RowId, Status};
use crate::{cost::Period, poller::Window};

/// Which rows and periods the pages of one window have listed so far.
#[derive(Debug)]
pub struct Sightings {
    window: Window,
    /// Rows known when the window began. Later ones were listed by this very answer.
    known: usize,
    /// One bit per row of the ledger.
    seen: Vec<u64>,
    periods: BTreeSet<Period>,
    /// The period noted last.
    newest: Option<Period>,
    records: usize,
    /// A page listed nothing at all: perhaps not all that AWS has.
    hollow: bool,
    /// The ledger was read anew under way.
    lost: bool,
    /// AWS's `Date` of the first page.
    since: Option<Timestamp>,
}

/// What a complete answer says of the rows it does not list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Missing for the second time in a row: to be retracted.
    pub gone: Vec<RowId>,
    /// Missing for the first time, or with nothing to conclude: to be remembered.
    pub missing: Vec<MissingRow>,
}

impl Sightings {
    /// Nothing seen yet of a window, beside a ledger that has just been recovered.
    pub fn new(window: Window, ledger: &Ledger) -> Self {
        Self {
            window,
            known: ledger.len(),
            seen: vec![0; ledger.len().div_ceil(64)],
            periods: BTreeSet::new(),
            newest: None,
            records: 0,
            hollow: false,
            lost: false,
            since: None,
        }
    }

    /// Begins a page of so many records; each of them is to be noted.
    pub fn page(&mut self, records: usize, observed_at: Timestamp) {
        self.since.get_or_insert(observed_at);
        self.records += records;
        self.hollow |= records == 0;
    }

    /// Notes a record the page lists, and its row where the ledger has one. To be called before the
    /// page's changes are applied to the ledger. `false` where this answer has listed the row before.
    pub fn note(&mut self, period: Period, row: Option<RowId>) -> bool {
        // Rows of a period stand together.
        if self.newest != Some(period) {
            self.periods.insert(period);
            self.newest = Some(period);
        }
        self.lost || row.is_none_or(|row| self.mark(row))
    }

    /// Forgets which rows were seen: the ledger was read anew, and its rows are other ones now.
    pub const fn lose(&mut self) {
        self.lost = true;
    }

    /// How many records the answer listed.
    pub const fn records(&self) -> usize {
        self.records
    }

    /// Judges the answer, complete now, beside the rows the answer before it lacked.
    ///
    /// | the row | other rows of its period | lacked before | verdict |
    /// |---|---|---|---|
    /// | listed, or removed already, or outside the window | | | nothing |
    /// | published later than this answer was given | | | nothing |
    /// | not listed | none | no | nothing |
    /// | not listed | none | yes | still missing |
    /// | not listed | some | no | missing |
    /// | not listed | some | yes | gone |
    ///
    /// Missing rows are remembered by name, as many as fit into `most` bytes; the others are missing for
    /// the first time again when the next answer is judged.
    pub fn judge(&self, ledger: &Ledger, missing_before: &[MissingRow], most: usize) -> Judgement {
        let lacked: BTreeSet<u32> =
            missing_before.iter().filter_map(|row| ledger.find(&row.key()?)).map(RowId::index).collect();
        let mut judgement = Judgement::default();
        let mut left = most;
        if self.lost {
            // Which of them were listed is not known any more: they are to be missing twice anew.
            return judgement;
        }
        if self.hollow {
            let seen = |row: &&MissingRow| {
                row.key().and_then(|key| ledger.find(&key)).is_some_and(|id| self.has_seen(id))
            };
            judgement.missing = missing_before.iter().filter(|row| !seen(row)).cloned().collect();
            return judgement;
        }
        for (id, row) in ledger.rows().take(self.known) {
            if row.status() == Status::Removed || self.has_seen(id) || !row.within(&self.window) {
                continue;
            }
            if self.since.is_none_or(|since| since < row.observed_at()) {
                continue;
            }
            let key = row.key();
            let concluded = self.periods.contains(&key.period);
            let lacked = lacked.contains(&id.index());
            match (concluded, lacked) {
                (true, true) => judgement.gone.push(id),
                (true, false) | (false, true) => {
                    let row = MissingRow::of(&key);
                    if let Some(rest) = left.checked_sub(row.stored_bytes()) {
                        left = rest;
                        judgement.missing.push(row);
                    }
                }
                (false, false) => {}
            }
        }
        judgement
    }

    /// `false` where this answer has listed the row before: rows that became known since the window
    /// began became so by an earlier page.
    fn mark(&mut self, id: RowId) -> bool {
        let (index, bit) = (id.index() as usize, 1 << (id.index() % 64));
        if index >= self.known {
            return false;
        }
        let word = &mut self.seen[index / 64];
        let first = *word & bit == 0;
        *word |= bit;
        first
    }

    fn has_seen(&self, id: RowId) -> bool {
        self.seen.get(id.index() as usize / 64).is_some_and(|word| word & (1 << (id.index() % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cost::{Amount, CostMetric, CostRecord},
        dedup::Statement,
    };

    const NOW: i64 = 1_772_000_000;

    fn record(day: &str, service: &str) -> CostRecord {
        let amount = Amount::parse("1".to_owned(), "USD".to_owned()).unwrap();
        CostRecord {
            period: Period::from_label(day).unwrap(),
            service: service.into(),
            group: None,
            amounts: [(CostMetric::UnblendedCost, amount)].into_iter().collect(),
            estimated: true,
        }
    }

    fn note(sightings: &mut Sightings, ledger: &Ledger, records: &[CostRecord], observed_at: Timestamp) {
        sightings.page(records.len(), observed_at);
        for record in records {
            sightings.note(record.period, ledger.find(&record.key()));
        }
    }

    fn publish(ledger: &mut Ledger, record: &CostRecord, status: Status, observed_at: i64) {
        let revision = ledger.previous(&record.key()).map_or(0, |p| p.revision()) + 1;
        let statement = Statement {
            revision,
            amounts: record.amounts.clone(),
            estimated: true,
            status,
            observed_at: Timestamp::from_second(observed_at).unwrap(),
        };
        ledger.apply(&record.key(), &statement);
    }

    /// Name, services listed, the row's day, status, seconds published later, lacked before, verdicts.
    type Case<'a> = (&'a str, &'a [&'a str], &'a str, Status, i64, bool, Vec<String>);

    /// The truth table of `judge`, row by row.
    #[test]
    fn truth_table() {
        let window = Window {
            from: Period::from_label("2026-02-01").unwrap(),
            until: Period::from_label("2026-03-01").unwrap(),
        };
        let gone = |service: &str| format!("gone {service}");
        let missing = |service: &str| format!("missing {service}");
        let cases: [Case<'_>; 9] = [
            // the row's day, what the answer lists that day, status, published at, lacked before
            ("listed", &["A", "B"], "2026-02-03", Status::Live, 0, true, vec![]),
            ("removed already", &["B"], "2026-02-03", Status::Removed, 0, true, vec![]),
            ("outside the window", &["B"], "2026-01-31", Status::Live, 0, true, vec![]),
            ("published later", &["B"], "2026-02-03", Status::Live, 1, true, vec![]),
            ("no other rows", &[], "2026-02-03", Status::Live, 0, false, vec![]),
            ("no other rows, lacked", &[], "2026-02-03", Status::Live, 0, true, vec![missing("A")]),
            ("missing once", &["B"], "2026-02-03", Status::Live, 0, false, vec![missing("A")]),
            ("missing twice", &["B"], "2026-02-03", Status::Live, 0, true, vec![gone("A")]),
            ("the same second", &["B"], "2026-02-03", Status::Live, 0, true, vec![gone("A")]),
        ];
        for (name, listed, day, status, later, lacked, expected) in cases {
            let mut ledger = Ledger::new();
            let row = record(day, "A");
            publish(&mut ledger, &row, status, NOW + later);
            let before: Vec<_> = lacked.then(|| MissingRow::of(&row.key())).into_iter().collect();
            let mut sightings = Sightings::new(window, &ledger);
            let records: Vec<_> = listed.iter().map(|service| record(day, service)).collect();
            let now = Timestamp::from_second(NOW).unwrap();
            note(&mut sightings, &ledger, &records, now);
            // Rows this answer itself made known are never judged by it.
            for record in &records {
                publish(&mut ledger, record, Status::Live, NOW);
            }
            let judgement = sightings.judge(&ledger, &before, usize::MAX);
            let mut found: Vec<_> =
                judgement.gone.iter().map(|id| gone(ledger.get(*id).key().service)).collect();
            found.extend(judgement.missing.iter().map(|row| missing(&row.service)));
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn an_answer_with_an_empty_page_concludes_nothing_and_forgets_nothing() {
        let window = Window {
            from: Period::from_label("2026-02-01").unwrap(),
            until: Period::from_label("2026-03-01").unwrap(),
        };
        let mut ledger = Ledger::new();
        let (a, b) = (record("2026-02-03", "A"), record("2026-02-03", "B"));
        publish(&mut ledger, &a, Status::Live, NOW);
        publish(&mut ledger, &b, Status::Live, NOW);
        let before = [MissingRow::of(&a.key())];
        let now = Timestamp::from_second(NOW).unwrap();
        let mut sightings = Sightings::new(window, &ledger);
        note(&mut sightings, &ledger, &[b], now);
        assert_eq!(sightings.judge(&ledger, &before, usize::MAX).gone.len(), 1);
        note(&mut sightings, &ledger, &[], now);
        let judgement = sightings.judge(&ledger, &before, usize::MAX);
        assert_eq!((judgement.gone, judgement.missing), (vec![], before.to_vec()));
        // What it lists is missing no longer.
        note(&mut sightings, &ledger, &[a], now);
        assert_eq!(sightings.judge(&ledger, &before, usize::MAX), Judgement::default());
    }

    /// However many rows vanish at once, the state stays small, and all of them are retracted in time.
    #[test]
    fn missing_rows_beyond_what_is_remembered_follow_later() {
        let window = Window {
            from: Period::from_label("2026-02-01").unwrap(),
            until: Period::from_label("2026-03-01").unwrap(),
        };
        let mut ledger = Ledger::new();
        let rows = ["A", "B", "C", "D", "E"].map(|service| record("2026-02-03", service));
        let there = record("2026-02-03", "there");
        for row in rows.iter().chain([&there]) {
            publish(&mut ledger, row, Status::Live, NOW);
        }
        let now = Timestamp::from_second(NOW).unwrap();
        let most = 2 * MissingRow::of(&rows[0].key()).stored_bytes();
        let (mut before, mut gone) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let mut sightings = Sightings::new(window, &ledger);
            note(&mut sightings, &ledger, std::slice::from_ref(&there), now);
            let judgement = sightings.judge(&ledger, &before, most);
            assert!(judgement.missing.len() <= 2);
            let names: Vec<String> =
                judgement.gone.iter().map(|id| ledger.get(*id).key().service.to_owned()).collect();
            for name in &names {
                publish(&mut ledger, &record("2026-02-03", name), Status::Removed, NOW);
            }
            gone.extend(names);
            before = judgement.missing;
        }
        assert_eq!((gone, before), (["A", "B", "C", "D", "E"].map(str::to_owned).to_vec(), vec![]));
    }

    #[test]
    fn a_row_listed_twice_in_one_answer_is_told() {
        let window = Window {
            from: Period::from_label("2026-02-01").unwrap(),
            until: Period::from_label("2026-03-01").unwrap(),
        };
        let mut ledger = Ledger::new();
        let [a, b] = ["A", "B"].map(|service| record("2026-02-03", service));
        publish(&mut ledger, &a, Status::Live, NOW);
        let mut sightings = Sightings::new(window, &ledger);
        let mut note =
            |record: &CostRecord, ledger: &Ledger| sightings.note(record.period, ledger.find(&record.key()));
        assert!(note(&a, &ledger));
        assert!(!note(&a, &ledger));
        assert!(note(&b, &ledger), "not in the ledger yet");
        // An earlier page of this answer has made it known.
        publish(&mut ledger, &b, Status::Live, NOW);
        assert!(!note(&b, &ledger));
        sightings.lose();
        assert!(sightings.note(a.period, ledger.find(&a.key())), "the ledger was read anew");
        // Whether it was listed is not known any more: it is to be missing twice anew.
        let before = [MissingRow::of(&a.key())];
        assert_eq!(sightings.judge(&ledger, &before, usize::MAX), Judgement::default());
    }

    #[test]
    fn an_answer_without_a_page_concludes_nothing() {
        let window = Window {
            from: Period::from_label("2026-02-01").unwrap(),
            until: Period::from_label("2026-03-01").unwrap(),
        };
        let mut ledger = Ledger::new();
        publish(&mut ledger, &record("2026-02-03", "A"), Status::Live, NOW);
        let sightings = Sightings::new(window, &ledger);
        assert_eq!(sightings.judge(&ledger, &[], usize::MAX), Judgement::default());
        assert_eq!(sightings.records(), 0);
    }
}
