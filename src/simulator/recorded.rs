//! Recorded answers of `GetCostAndUsage`, served again instead of invented charges.
//!
//! Figures, flags and units are served as they were recorded; nothing is summed or interpolated. A
//! request is answered from the recordings with its own granularity and grouping: where there are
//! none, a MONTHLY recording asked DAILY for instance, the answer has no buckets. A filter cannot be
//! applied to sums and is ignored.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::{Timestamp, civil::Date};
use rust_decimal::Decimal;
use serde_json::Value;

use super::{
    answer::{Bucket, Figure, Row},
    query::{self, Bucketing, Dimension, Group, Query},
};
use crate::cost::{Amount, CostMetric, midnight, utc_date};

/// Recorded answers, by granularity and grouping.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    series: Vec<Series>,
    /// Files that were left aside: no answers of `GetCostAndUsage`, or with figures that are none.
    pub skipped: Vec<Skipped>,
}

/// A file that was left aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Which one.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// Why there is nothing to serve.
#[derive(Debug, thiserror::Error)]
pub enum RecordedError {
    /// The path or a file in it cannot be read.
    #[error("could not read `{}`", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The one file that was named cannot be served.
    #[error("cannot serve `{}`: {reason}", path.display())]
    Refused {
        /// Which one.
        path: PathBuf,
        /// Which row, and what is wrong with it.
        reason: String,
    },
    /// No file of the folder can be served.
    #[error("no recorded answers in `{}`{}", path.display(), list(skipped))]
    Nothing {
        /// The folder.
        path: PathBuf,
        /// Each file, and why not.
        skipped: Vec<Skipped>,
    },
}

fn list(skipped: &[Skipped]) -> String {
    let reason = |file: &Skipped| format!("; `{}`: {}", file.path.display(), file.reason);
    skipped.iter().map(reason).collect::<Vec<_>>().concat()
}

#[derive(Clone, Debug)]
struct Series {
    granularity: Bucketing,
    group_by: Vec<Group>,
    buckets: Buckets,
}

/// By first hour and first hour after: whether estimated, and the rows.
type Buckets = BTreeMap<(i32, i32), (bool, Arc<Vec<Row>>)>;

impl Recorded {
    /// Reads a file, or every `.json` file of a folder in the order of their names. A file holds one
    /// answer or a list of them (its pages). Rows of the same period and keys: the last one counts.
    ///
    /// # Errors
    /// When the path cannot be read, when the one file named is no recorded answer or has a figure
    /// that is none, or when no file of the folder is left.
    pub fn load(path: &Path) -> Result<Self, RecordedError> {
        let unreadable = |source| RecordedError::Unreadable { path: path.to_owned(), source };
        let mut recorded = Self::default();
        if !fs::metadata(path).map_err(unreadable)?.is_dir() {
            let refused = |reason| RecordedError::Refused { path: path.to_owned(), reason };
            let text = fs::read_to_string(path).map_err(unreadable)?;
            recorded.add(&text).map_err(refused)?;
            return Ok(recorded);
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(path).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            if file.extension().is_some_and(|extension| extension == "json") {
                files.push(file);
            }
        }
        files.sort();
        for file in files {
            let text = fs::read_to_string(&file)
                .map_err(|source| RecordedError::Unreadable { path: file.clone(), source })?;
            if let Err(reason) = recorded.add(&text) {
                recorded.skipped.push(Skipped { path: file, reason });
            }
        }
        if recorded.series.is_empty() {
            return Err(RecordedError::Nothing { path: path.to_owned(), skipped: recorded.skipped });
        }
        Ok(recorded)
    }

    /// The first and the last day of the DAILY answers by service, `None` where there are none.
    pub fn days(&self) -> Option<(Date, Date)> {
        let keys = || self.daily().flat_map(|series| series.buckets.keys());
        let date = |hour: i32| utc_date(query::instant(hour));
        Some((date(keys().map(|(start, _)| *start).min()?), date(keys().map(|(start, _)| *start).max()?)))
    }

    /// The metrics recorded in the DAILY answers by service, in the order of their names.
    pub fn metrics(&self) -> Vec<CostMetric> {
        let mut metrics: Vec<_> =
            self.rows().flat_map(|row| row.figures.iter().map(|(metric, _)| *metric)).collect();
        metrics.sort_unstable();
        metrics.dedup();
        metrics
    }

    /// Every row of the DAILY answers by service: how many have the metric, and how many of those
    /// are not zero.
    pub fn count(&self, metric: CostMetric) -> (usize, usize) {
        let figures = || self.rows().flat_map(|row| &row.figures).filter(|(of, _)| *of == metric);
        (figures().count(), figures().filter(|(_, figure)| !exact(figure).is_zero()).count())
    }

    /// The exact sum of a metric per service over the DAILY answers by service.
    pub fn totals(&self, metric: CostMetric) -> BTreeMap<String, Decimal> {
        let mut totals = BTreeMap::new();
        for row in self.rows() {
            for (_, figure) in row.figures.iter().filter(|(of, _)| *of == metric) {
                *totals.entry(row.keys[0].clone()).or_insert(Decimal::ZERO) += exact(figure);
            }
        }
        totals
    }

    /// The DAILY answers by service alone, or where there are none those with a second group.
    fn daily(&self) -> impl Iterator<Item = &Series> {
        let service = Group::Dimension(Dimension::Service);
        let daily = || {
            let service = service.clone();
            let by_service = move |series: &&Series| series.group_by.first() == Some(&service);
            self.series.iter().filter(|series| series.granularity == Bucketing::Daily).filter(by_service)
        };
        let alone = daily().find(|series| series.group_by.len() == 1);
        alone.or_else(|| daily().next()).into_iter()
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.daily().flat_map(|series| series.buckets.values()).flat_map(|(_, rows)| rows.iter())
    }

    /// The recorded buckets that lie in the period of a request.
    pub(super) fn buckets(&self, query: &Query) -> Vec<Bucket> {
        let asked =
            |series: &&Series| series.granularity == query.granularity && series.group_by == query.group_by;
        let series = self.series.iter().find(asked);
        let lies_within = |(start, end): &(i32, i32)| query.start <= *start && *end <= query.end;
        let buckets = series.into_iter().flat_map(|series| &series.buckets);
        buckets
            .filter(|(period, _)| lies_within(period))
            .map(|(&(start, end), (estimated, rows))| Bucket {
                start,
                end,
                estimated: *estimated,
                rows: Arc::clone(rows),
            })
            .collect()
    }

    /// Takes the text of a file, all of it or nothing.
    fn add(&mut self, text: &str) -> Result<(), String> {
        let json: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
        let answers = match json {
            Value::Array(answers) => answers,
            answer => vec![answer],
        };
        if answers.is_empty() || answers.iter().any(|answer| !answer["ResultsByTime"].is_array()) {
            return Err("no answer of GetCostAndUsage: there is no `ResultsByTime`".to_owned());
        }
        let read = answers.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        for series in read {
            let same = |other: &&mut Series| {
                other.granularity == series.granularity && other.group_by == series.group_by
            };
            match self.series.iter_mut().find(same) {
                None => self.series.push(series),
                Some(known) => {
                    for (period, (estimated, rows)) in series.buckets {
                        let (flag, merged) = known.buckets.entry(period).or_default();
                        *flag = estimated;
                        let merged = Arc::make_mut(merged);
                        merged.retain(|row| rows.iter().all(|newer| newer.keys != row.keys));
                        merged.extend(rows.iter().cloned());
                    }
                }
            }
        }
        Ok(())
    }
}

fn exact(figure: &Figure) -> Decimal {
    Amount::parse(figure.amount.clone(), String::new()).map_or(Decimal::ZERO, |amount| amount.value())
}

/// Reads one answer.
fn read(answer: &Value) -> Result<Series, String> {
    let results = answer["ResultsByTime"].as_array().map(Vec::as_slice).unwrap_or_default();
    let group_by = group_by(answer, results)?;
    let mut buckets = Buckets::new();
    let mut granularity = None;
    for result in results {
        let text = |member: &str| result["TimePeriod"][member].as_str().unwrap_or_default();
        let (from, to) = (text("Start"), text("End"));
        let (Some(start), Some(end)) = (hour(from), hour(to)) else {
            return Err(format!("the period `{from}` to `{to}` is none"));
        };
        // A month may be clamped to a day, a day is never longer.
        let longest = granularity.get_or_insert(0);
        *longest = (end - start).max(*longest);
        let rows = rows(result, from, group_by.len())?;
        buckets.insert((start, end), (result["Estimated"].as_bool().unwrap_or(false), Arc::new(rows)));
    }
    let granularity = match granularity {
        Some(1) => Bucketing::Hourly,
        None | Some(24) => Bucketing::Daily,
        Some(_) => Bucketing::Monthly,
    };
    Ok(Series { granularity, group_by, buckets })
}

/// `GroupDefinitions`; where a recording has none, single keys are taken for services.
fn group_by(answer: &Value, results: &[Value]) -> Result<Vec<Group>, String> {
    let definitions = answer["GroupDefinitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut groups = Vec::new();
    for definition in definitions {
        groups.push(Group::parse(definition).map_err(|refusal| refusal.message)?);
    }
    let mut keys = results.iter().filter_map(|result| result["Groups"][0]["Keys"].as_array());
    match (groups.len(), keys.next().map(Vec::len)) {
        (0, Some(1)) => Ok(vec![Group::Dimension(Dimension::Service)]),
        (0, Some(_)) => Err("there are several keys and no `GroupDefinitions`".to_owned()),
        _ => Ok(groups),
    }
}

fn rows(result: &Value, period: &str, groups: usize) -> Result<Vec<Row>, String> {
    if groups == 0 {
        let figures = figures(&result["Total"], period, "Total")?;
        return Ok(vec![Row { keys: Vec::new(), figures }]);
    }
    let mut rows = Vec::new();
    for group in result["Groups"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let keys = group["Keys"].as_array().map(Vec::as_slice).unwrap_or_default();
        let keys: Vec<String> = keys.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if keys.len() != groups {
            return Err(format!("period {period}: a row with {} keys, not {groups}", keys.len()));
        }
        let figures = figures(&group["Metrics"], period, &keys.join(", "))?;
        rows.push(Row { keys, figures });
    }
    Ok(rows)
}

fn figures(json: &Value, period: &str, row: &str) -> Result<Vec<(CostMetric, Figure)>, String> {
    let mut figures = Vec::new();
    for (name, figure) in json.as_object().into_iter().flatten() {
        let place = format!("period {period}, row `{row}`, {name}");
        let metric = CostMetric::from_aws_name(name).ok_or_else(|| format!("{place}: no such metric"))?;
        let text = |member: &str| figure[member].as_str().map(str::to_owned);
        let amount = text("Amount").ok_or_else(|| format!("{place}: the amount is no text"))?;
        let unit = text("Unit").unwrap_or_default();
        Amount::parse(amount.clone(), unit.clone()).map_err(|error| format!("{place}: {error}"))?;
        figures.push((metric, Figure { amount, unit: Cow::Owned(unit) }));
    }
    Ok(figures)
}

fn hour(text: &str) -> Option<i32> {
    let instant = match text.parse::<Timestamp>() {
        Ok(instant) => instant,
        Err(_) => midnight(text.parse::<Date>().ok()?),
    };
    (instant.as_second() % 3600 == 0).then(|| query::hours(instant))
}

#[cfg(test)]
#[path = "recorded_tests.rs"]
mod tests;
