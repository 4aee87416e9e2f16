//! The book of charges of an invented, middle-sized company, as AWS's books show it at an instant.
//!
//! Any day of any year is a pure function of seed and paying account; there is no history to play
//! through and nothing is stored but caches. Nothing here reads a clock or knows HTTP.

pub(super) mod calendar;
mod catalogue;
mod charges;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use catalogue::{
    ACCOUNT_NAMES, ACCOUNTS, CATEGORIES, NO_UNIT, RECORD_TYPES, REGIONS, RecordType, SERVICE_COUNT, SUPPORT,
    TAX, TEAMS, UNITS, service_name,
};
pub(super) use charges::Origin;
use charges::{Charge, ONE, figures};

use super::{
    answer::{Figure, Row},
    expression::Expression,
    query::{Dimension, Group},
};
use crate::cost::CostMetric;

const CENT: i64 = ONE / 100;
/// Days of charges held at once: two paying accounts with a window of two months each.
const MAX_DAYS: usize = 160;
/// Summed buckets held at once: more than 14 months of days.
const MAX_BUCKETS: usize = 4000;

/// What a bucket is summed for.
#[derive(Clone, Debug)]
pub(super) struct View<'a> {
    /// The paying account: 12 digits.
    pub(super) payer: &'a str,
    /// `USD`, or `CNY` in China.
    pub(super) currency: &'static str,
    /// The instant whose books are shown.
    pub(super) at: i64,
    pub(super) group_by: &'a [Group],
    pub(super) filter: Option<&'a Expression>,
    /// A text that differs where currency, grouping or filter differ.
    pub(super) shape: &'a str,
}

/// The book: a seed, and caches of what follows from it.
#[derive(Debug)]
pub(super) struct Book {
    seed: u64,
    caches: Mutex<Caches>,
}

#[derive(Debug, Default)]
struct Caches {
    days: HashMap<(u64, i32), Arc<Day>>,
    spend: HashMap<(u64, i32), (i64, [i64; ACCOUNTS])>,
    buckets: HashMap<(u64, i32, i32), HashMap<String, Bucket>>,
}

/// The charges of a day and what can be said of them once and for all.
#[derive(Debug)]
struct Day {
    charges: Vec<Charge>,
    /// After this instant the day changes no more.
    settled: i64,
    /// Taxable cost per account once settled.
    spend: [i64; ACCOUNTS],
}

#[derive(Debug)]
struct Bucket {
    /// The refresh the rows are of.
    at: i64,
    /// Whether they stay as they are from then on.
    settled: bool,
    rows: Arc<Vec<Row>>,
}

impl Book {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, caches: Mutex::default() }
    }

    /// Whether the month of a day is still open in the books of an instant.
    pub(super) fn estimated(&self, payer: &str, day: i32, at: i64) -> bool {
        calendar::refreshed(at) < calendar::closed(self.origin(payer), day)
    }

    /// The rows of the hours `from..until` (counted from 1970), ordered by key; one row without
    /// keys where nothing is grouped. All seven metrics, in the order of their names.
    pub(super) fn rows(&self, view: &View<'_>, from: i32, until: i32) -> Arc<Vec<Row>> {
        let origin = self.origin(view.payer);
        let at = calendar::refreshed(view.at);
        let key = (origin.payer, from, until);
        {
            let caches = self.caches();
            let bucket = caches.buckets.get(&key).and_then(|shapes| shapes.get(view.shape));
            if let Some(bucket) = bucket
                && (bucket.at == at || (bucket.settled && bucket.at <= at))
            {
                return Arc::clone(&bucket.rows);
            }
        }
        let (rows, settled) = self.sum(origin, view, from, until, at);
        let rows = Arc::new(rows);
        let mut caches = self.caches();
        if caches.buckets.len() >= MAX_BUCKETS {
            caches.buckets.clear();
        }
        let bucket = Bucket { at, settled, rows: Arc::clone(&rows) };
        caches.buckets.entry(key).or_default().insert(view.shape.to_owned(), bucket);
        rows
    }

    fn origin(&self, payer: &str) -> Origin {
        Origin { seed: self.seed, payer: payer.parse().unwrap_or_default() }
    }

    fn caches(&self) -> std::sync::MutexGuard<'_, Caches> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sum(&self, origin: Origin, view: &View<'_>, from: i32, until: i32, at: i64) -> (Vec<Row>, bool) {
        let mut table = Table::new(view.group_by);
        let mut settled = true;
        for day in from.div_euclid(24)..(until + 23).div_euclid(24) {
            // A day that has not begun has no charges.
            if i64::from(day) * 86_400 > at {
                settled = false;
                break;
            }
            let charges = self.day(origin, day);
            settled &= charges.settled <= at;
            let first = charges.charges.partition_point(|charge| charge.hour < from);
            for charge in charges.charges[first..].iter().take_while(|charge| charge.hour < until) {
                table.add(charge, view, at);
            }
            let opens_month = from <= day * 24 && calendar::month(day) == day;
            if opens_month {
                settled &= at >= calendar::support_booked(day);
                for charge in self.monthly(origin, day, at) {
                    table.add(&charge, view, at);
                }
            }
        }
        (table.into_rows(view), settled)
    }

    fn day(&self, origin: Origin, day: i32) -> Arc<Day> {
        let key = (origin.payer, day);
        if let Some(found) = self.caches().days.get(&key) {
            return Arc::clone(found);
        }
        let charges = charges::of_day(origin, day);
        let mut settled = 0;
        for charge in &charges {
            settled = settled.max(charge.from);
            if charge.until < i64::MAX {
                settled = settled.max(charge.until);
            }
        }
        let spend = spend(&charges, settled);
        let made = Arc::new(Day { charges, settled, spend });
        let mut caches = self.caches();
        if caches.days.len() >= MAX_DAYS {
            caches.days.clear();
        }
        caches.days.insert(key, Arc::clone(&made));
        made
    }

    /// Tax and support of the month that begins on a day: rows of its first hour.
    ///
    /// Tax is 8 % of the spend so far, restated until the month is closed; the support fee is a
    /// share of the month's spend and appears on the 6th of the next month.
    fn monthly(&self, origin: Origin, month: i32, at: i64) -> Vec<Charge> {
        let spend = self.spend(origin, month, at.min(calendar::closed(origin, month)));
        let mut charges = Vec::with_capacity(ACCOUNTS + 1);
        let charge = |account: usize, service, record, amount, from| Charge {
            hour: month * 24,
            account: u8::try_from(account).expect("four accounts"),
            service,
            region: 3,
            team: 0,
            record,
            unit: NO_UNIT,
            from,
            until: i64::MAX,
            figures: figures(amount, amount, amount, 0, 0),
        };
        for (account, spent) in spend.iter().enumerate() {
            let tax = spent / 100 * 8 / CENT * CENT;
            if tax != 0 {
                charges.push(charge(account, TAX, RecordType::Tax, tax, i64::MIN));
            }
        }
        let booked = calendar::support_booked(month);
        if at >= booked {
            // 10 % of the first 10,000 US dollars of a month, 7 % of what is above.
            let total: i64 = spend.iter().sum();
            let (low, high) = (total.min(10_000 * ONE), (total - 10_000 * ONE).max(0));
            let fee = (low / 10 + high / 100 * 7) / CENT * CENT;
            charges.push(charge(0, SUPPORT, RecordType::Support, fee, booked));
        }
        charges
    }

    /// Taxable cost of a month per account, as the books of an instant show it.
    fn spend(&self, origin: Origin, month: i32, at: i64) -> [i64; ACCOUNTS] {
        let key = (origin.payer, month);
        if let Some((of, spend)) = self.caches().spend.get(&key)
            && *of == at
        {
            return *spend;
        }
        let mut sum = [0; ACCOUNTS];
        for day in month..calendar::next_month(month) {
            if i64::from(day) * 86_400 > at {
                break;
            }
            let day = self.day(origin, day);
            let spent = if day.settled <= at { day.spend } else { spend(&day.charges, at) };
            for (sum, spent) in sum.iter_mut().zip(spent) {
                *sum += spent;
            }
        }
        self.caches().spend.insert(key, (at, sum));
        sum
    }
}

fn spend(charges: &[Charge], at: i64) -> [i64; ACCOUNTS] {
    let mut sum = [0; ACCOUNTS];
    for charge in charges {
        if charge.from <= at && at < charge.until && charge.record != RecordType::Refund {
            sum[usize::from(charge.account)] += charge.figures[CostMetric::UnblendedCost as usize];
        }
    }
    sum
}

/// Sums by the numbers of up to two group values.
struct Table {
    groups: Vec<Group>,
    width: usize,
    cells: Vec<Cell>,
}

#[derive(Clone, Default)]
struct Cell {
    seen: bool,
    unit: u8,
    sums: [i128; 7],
}

impl Table {
    fn new(groups: &[Group]) -> Self {
        let width = groups.get(1).map_or(1, values);
        let height = groups.first().map_or(1, values);
        Self { groups: groups.to_vec(), width, cells: vec![Cell::default(); width * height] }
    }

    fn add(&mut self, charge: &Charge, view: &View<'_>, at: i64) {
        if charge.from > at || at >= charge.until {
            return;
        }
        if let Some(filter) = view.filter
            && !filter.holds(&|dimension| text(charge, dimension, view.payer))
        {
            return;
        }
        let mut number = 0;
        if let Some(group) = self.groups.first() {
            number = value(charge, group) * self.width;
        }
        if let Some(group) = self.groups.get(1) {
            number += value(charge, group);
        }
        let cell = &mut self.cells[number];
        if !cell.seen {
            cell.seen = true;
            cell.unit = charge.unit;
        } else if cell.unit != charge.unit {
            cell.unit = NO_UNIT;
        }
        for (sum, figure) in cell.sums.iter_mut().zip(charge.figures) {
            *sum += i128::from(figure);
        }
    }

    fn into_rows(self, view: &View<'_>) -> Vec<Row> {
        let mut rows = Vec::new();
        for (number, cell) in self.cells.iter().enumerate() {
            if !cell.seen && !self.groups.is_empty() {
                continue;
            }
            let mut keys = Vec::with_capacity(self.groups.len());
            if let Some(group) = self.groups.first() {
                keys.push(name(number / self.width, group, view.payer));
            }
            if let Some(group) = self.groups.get(1) {
                keys.push(name(number % self.width, group, view.payer));
            }
            let unit = UNITS[usize::from(if cell.seen { cell.unit } else { NO_UNIT })];
            let figures = CostMetric::ALL.into_iter().zip(cell.sums).map(|(metric, sum)| {
                let unit = match metric {
                    CostMetric::UsageQuantity => unit,
                    CostMetric::NormalizedUsageAmount => "N/A",
                    _ => view.currency,
                };
                (metric, Figure { amount: plain(sum), unit: unit.into() })
            });
            rows.push(Row { keys, figures: figures.collect() });
        }
        rows.sort_by(|a, b| a.keys.cmp(&b.keys));
        rows
    }
}

/// A number with ten decimals as AWS writes it: plain, without trailing zeros.
fn plain(value: i128) -> String {
    const DECIMALS: u128 = ONE.unsigned_abs() as u128;
    let sign = if value < 0 { "-" } else { "" };
    let value = value.unsigned_abs();
    let (whole, rest) = (value / DECIMALS, value % DECIMALS);
    if rest == 0 {
        return format!("{sign}{whole}");
    }
    let text = format!("{sign}{whole}.{rest:010}");
    text.trim_end_matches('0').to_owned()
}

/// How many values a group can have.
fn values(group: &Group) -> usize {
    match group {
        Group::Dimension(Dimension::Service) => SERVICE_COUNT,
        Group::Dimension(Dimension::LinkedAccount) => ACCOUNTS,
        Group::Dimension(Dimension::Region) => REGIONS.len(),
        Group::Dimension(Dimension::RecordType) => RECORD_TYPES.len(),
        Group::Tag(key) if key == "team" => TEAMS.len(),
        Group::CostCategory(key) if key == "unit" => CATEGORIES.len(),
        _ => 1,
    }
}

/// The number of a charge's value; cost categories that several accounts share have one number.
fn value(charge: &Charge, group: &Group) -> usize {
    let number = match group {
        Group::Dimension(Dimension::Service) => charge.service,
        Group::Dimension(Dimension::LinkedAccount) => charge.account,
        Group::Dimension(Dimension::Region) => charge.region,
        Group::Dimension(Dimension::RecordType) => charge.record as u8,
        Group::Tag(key) if key == "team" => charge.team,
        Group::CostCategory(key) if key == "unit" => {
            let category = CATEGORIES[usize::from(charge.account)];
            return CATEGORIES.iter().position(|other| *other == category).unwrap_or_default();
        }
        _ => 0,
    };
    usize::from(number)
}

/// The key of a value's number in an answer.
fn name(number: usize, group: &Group, payer: &str) -> String {
    match group {
        Group::Dimension(Dimension::Service) => {
            service_name(u8::try_from(number).unwrap_or_default()).to_owned()
        }
        Group::Dimension(Dimension::LinkedAccount) => linked_account(payer, number),
        Group::Dimension(Dimension::Region) => REGIONS[number].to_owned(),
        Group::Dimension(Dimension::RecordType) => RECORD_TYPES[number].to_owned(),
        Group::Dimension(Dimension::Other(name)) => other_value(name).to_owned(),
        Group::Tag(key) => format!("{key}${}", if key == "team" { TEAMS[number] } else { "" }),
        Group::CostCategory(key) => format!("{key}${}", if key == "unit" { CATEGORIES[number] } else { "" }),
        Group::ProductAttribute(key) => format!("{key}$"),
    }
}

/// What a filter compares: the value of a charge, without the key of a tag.
fn text(charge: &Charge, group: &Group, payer: &str) -> String {
    let name = name(value(charge, group), group, payer);
    match group {
        Group::Dimension(_) => name,
        _ => name.split_once('$').map_or_else(String::new, |(_, value)| value.to_owned()),
    }
}

/// The one value of the dimensions in which the book does not differ.
fn other_value(dimension: &str) -> &'static str {
    match dimension {
        "AZ" => "NoAZ",
        "INSTANCE_TYPE" => "NoInstanceType",
        "LEGAL_ENTITY_NAME" | "INVOICING_ENTITY" | "BILLING_ENTITY" => "Amazon Web Services, Inc.",
        "OPERATION" => "NoOperation",
        "PLATFORM" => "NoOperatingSystem",
        "PURCHASE_TYPE" => "On Demand Instances",
        "TENANCY" => "NoTenancy",
        "USAGE_TYPE" => "NoUsageType",
        _ => "",
    }
}

/// The linked accounts of a paying account with their names, itself first.
pub(super) fn linked_accounts(payer: &str) -> Vec<(String, &'static str)> {
    ACCOUNT_NAMES.iter().enumerate().map(|(number, name)| (linked_account(payer, number), *name)).collect()
}

fn linked_account(payer: &str, number: usize) -> String {
    if number == 0 {
        return payer.to_owned();
    }
    // Every paying account has members of its own; these belong to 111122223333.
    if payer == super::DEFAULT_ACCOUNT {
        return ["", "222233334444", "333344445555", "555566667777"][number].to_owned();
    }
    let origin = Origin { seed: 0, payer: payer.parse().unwrap_or_default() };
    format!("{}", 100_000_000_000 + origin.below(900_000_000_000, 300, i64::try_from(number).unwrap_or(0), 0))
}

#[cfg(test)]
mod tests;
