//! One page of an answer, as cost records, and the guard against a list of pages that never ends.
//!
//! Whatever does not fit is an error that names the row: nothing is skipped.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use jiff::Timestamp;

use super::{
    FetchError, FetchErrorKind, Window,
    answer::{Answer, Described, Few, Group, Members, MetricValue, Text},
    query::Query,
};
use crate::cost::{AmountRef, Amounts, CostMetric, CostRecord, Period};

/// One page of one window's answer.
#[derive(Clone, Debug)]
pub struct Page {
    /// Every Group of every `ResultByTime` of the page.
    pub records: Vec<CostRecord>,
    /// Names AWS gives to group values (`DimensionValueAttributes`, `description`).
    pub group_names: BTreeMap<String, String>,
    /// AWS's `Date` for this page, whole seconds. Where an answer has none that can be read, the
    /// clock's time when the answer had arrived.
    pub observed_at: Timestamp,
    /// Where the next page is; `None` on the last.
    pub next: Option<String>,
}

/// What an answer states: a page, but for when it was stated.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) records: Vec<CostRecord>,
    pub(super) group_names: BTreeMap<String, String>,
    pub(super) next: Option<String>,
}

/// Converts an answer. A `ResultByTime` without groups is no data, and no record.
pub(super) fn into_rows(answer: Answer<'_>, window: &Window, query: &Query) -> Result<Rows, Malformed> {
    let results = answer.results_by_time.unwrap_or_default();
    let rows = results.iter().map(|result| result.groups.as_ref().map_or(0, Vec::len)).sum();
    let mut records = Vec::with_capacity(rows);
    for result in results {
        let time = result.time_period.ok_or_else(|| Malformed("a result has no `TimePeriod`".to_owned()))?;
        let [start, end] = [&time.start, &time.end].map(|text| text.as_ref().map_or("", |Text(text)| text));
        let period = Period::parse(window.granularity(), start, end)
            .map_err(|error| Malformed(format!("the period {error}")))?;
        if !window.contains(period) {
            return Err(Malformed(format!("the period `{period}` was not asked for")));
        }
        for group in result.groups.unwrap_or_default() {
            push_record(&mut records, group, period, result.estimated.unwrap_or_default(), query)?;
        }
    }
    Ok(Rows {
        records,
        group_names: group_names(answer.dimension_value_attributes.unwrap_or_default()),
        next: answer.next_page_token.filter(|token| !token.is_empty()),
    })
}

/// What is wrong with an answer, and in which row: lower case, no final stop.
#[derive(Debug)]
pub(super) struct Malformed(pub(super) String);

/// A record is large: it is made where it stays, and not handed from function to function.
fn push_record(
    records: &mut Vec<CostRecord>,
    group: Group<'_>,
    period: Period,
    estimated: bool,
    query: &Query,
) -> Result<(), Malformed> {
    let mut keys = group.keys.map(|Few(keys)| keys).unwrap_or_default();
    let (service, group_value) = match &mut *keys {
        [Text(service)] if !query.is_grouped() => (service, None),
        [Text(service), Text(value)] if query.is_grouped() => (service, Some(value)),
        _ => {
            let (count, expected) = (keys.len(), if query.is_grouped() { 2 } else { 1 });
            return Err(Malformed(format!("a row of `{period}` has {count} keys instead of {expected}")));
        }
    };
    let group_value = match group_value {
        None => None,
        Some(value) => Some(query.group_value(value).ok_or_else(|| {
            Malformed(format!(
                "the row `{service}` of `{period}` has the group key `{value}` without its name"
            ))
        })?),
    };
    let mut amounts = Amounts::new();
    let values = group.metrics.iter().flat_map(|Members(values)| values);
    if let Err(problem) = read_amounts(&mut amounts, values, &query.metrics) {
        return Err(Malformed(format!("the row `{service}` of `{period}` {problem}")));
    }
    records.push(CostRecord {
        period,
        service: service.as_ref().into(),
        group: group_value.map(Into::into),
        amounts,
        estimated,
    });
    Ok(())
}

/// Exactly the metrics asked for, each once, in their order.
fn read_amounts<'v, 'a: 'v>(
    amounts: &mut Amounts,
    values: impl Iterator<Item = &'v (Text<'a>, MetricValue<'a>)>,
    asked: &[CostMetric],
) -> Result<(), String> {
    if asked.len() > amounts.inline_size() {
        amounts.reserve_exact(asked.len());
    }
    for (Text(name), value) in values {
        let metric = CostMetric::from_aws_name(name)
            .filter(|metric| asked.contains(metric))
            .ok_or_else(|| format!("has the metric `{name}`, which was not asked for"))?;
        let Text(text) = value.amount.as_ref().ok_or_else(|| format!("has no amount of `{metric}`"))?;
        let Text(unit) = value.unit.as_ref().ok_or_else(|| format!("has no unit of `{metric}`"))?;
        if amounts.iter().any(|&(had, _)| had == metric) {
            return Err(format!("has `{metric}` twice"));
        }
        let before = amounts.last().map(|(_, amount)| amount.borrowed());
        let amount = AmountRef::parse_after(before, text, unit)
            .map_err(|error| format!("has a bad `{metric}`: {error}"))?;
        amounts.push((metric, amount.to_amount()));
    }
    match &mut **amounts {
        [a, b] => {
            if a.0 > b.0 {
                std::mem::swap(a, b);
            }
        }
        others => others.sort_unstable_by_key(|&(metric, _)| metric),
    }
    // None is there twice: as many as were asked for are all that were asked for.
    if amounts.len() == asked.len() {
        return Ok(());
    }
    match asked.iter().find(|&&metric| amounts.iter().all(|&(had, _)| had != metric)) {
        None => Ok(()),
        Some(metric) => Err(format!("has no `{metric}`")),
    }
}

fn group_names(values: Vec<Described<'_>>) -> BTreeMap<String, String> {
    let named = values.into_iter().filter_map(|described| {
        let Members(attributes) = described.attributes?;
        let (_, Text(name)) = attributes.into_iter().find(|(Text(key), _)| key == "description")?;
        Some((described.value?.0.into_owned(), name.into_owned()))
    });
    named.collect()
}

/// Watches the page tokens of one window: stops at a token seen before and at the page cap.
#[derive(Debug)]
pub struct PageGuard {
    max_pages: u32,
    pages: u32,
    /// Hashes of the tokens: up to 8 kB each otherwise.
    seen: HashSet<u64>,
}

impl PageGuard {
    /// For one window, from its first page on.
    pub fn new(max_pages: u32) -> Self {
        Self { max_pages, pages: 0, seen: HashSet::new() }
    }

    /// How many pages have come so far.
    pub const fn pages(&self) -> u32 {
        self.pages
    }

    /// Counts a page that came, with its token for the next.
    ///
    /// # Errors
    /// `Malformed` when that next page must not be asked for: its token came before, or the cap of
    /// pages is reached. The last page of a window is never an error.
    pub fn follow(&mut self, next: Option<&str>) -> Result<(), FetchError> {
        self.pages = self.pages.saturating_add(1);
        let Some(token) = next else { return Ok(()) };
        let mut hasher = DefaultHasher::new();
        token.hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            return Err(FetchError {
                kind: FetchErrorKind::Malformed,
                code: None,
                message: format!("page {} names a next page that came before", self.pages),
                request_id: None,
                hint: Some(
                    "the pages would never end and each costs $0.01: nothing to do if AWS itself answered, \
                     else repair the endpoint behind `endpoint_url`"
                        .to_owned(),
                ),
            });
        }
        if self.pages >= self.max_pages {
            return Err(FetchError {
                kind: FetchErrorKind::Malformed,
                code: None,
                message: format!("there are more pages than `poll.max_pages` allows ({})", self.max_pages),
                request_id: None,
                hint: Some(
                    "raise `poll.max_pages` if so many rows are expected (each page costs $0.01), or group \
                     by a dimension with fewer values"
                        .to_owned(),
                ),
            });
        }
        Ok(())
    }
}
