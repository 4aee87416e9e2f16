//! The current state: of every key what its highest revision states, and what that adds up to.
//!
//! It is the whole rule of a consumer. Figures are added up exactly, and never across units, metrics,
//! granularities, or views of the same money: another source, filter or second grouping.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use uuid::Uuid;

use super::{Event, NotOurs};
use crate::{
    cost::{CostMetric, Granularity, parse_instant},
    dedup::{Ledger, Published},
    transport::StatedData,
};

/// The highest revision of every key seen.
#[derive(Debug, Default)]
pub struct Current {
    views: BTreeMap<View, Ledger>,
}

/// A way of looking at an account's money; two of them may state the same spend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct View {
    /// The paying account, and the filter's digest where there is a filter: the first segment of
    /// `partitionkey`.
    pub segment: String,
    /// CloudEvents `source`.
    pub source: String,
    /// The second grouping, `LINKED_ACCOUNT`.
    pub group_by: Option<String>,
}

impl View {
    /// The paying account.
    pub fn account(&self) -> &str {
        self.segment.split('-').next().unwrap_or_default()
    }

    /// The digest of the connection's filter.
    pub fn filter(&self) -> Option<&str> {
        self.segment.split_once('-').map(|(_, digest)| digest)
    }
}

/// What figures are added up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The date of spend; hours of a day are added up to it.
    Day,
    /// The service.
    Service,
    /// The linked account where figures are grouped by it, else the paying account.
    Account,
}

/// Figures that may be added up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sum {
    /// The day, service or account.
    pub of: String,
    /// Daily or hourly figures.
    pub granularity: Granularity,
    /// CloudEvents `source`.
    pub source: String,
    /// The second grouping.
    pub group_by: Option<String>,
    /// The digest of the connection's filter.
    pub filter: Option<String>,
    /// Which figure.
    pub metric: CostMetric,
    /// AWS's unit.
    pub unit: String,
}

/// A total, and of how many keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// The exact sum.
    pub amount: Exact,
    /// How many keys it is of; removed ones count nothing and are not counted.
    pub keys: u64,
}

impl Current {
    /// Takes an event over unless a later revision of its key is known.
    ///
    /// # Errors
    /// When its data is not what an event of ours states.
    pub fn apply(&mut self, event: &Event<'_>) -> Result<(), NotOurs> {
        let no = |what: String| NotOurs(what);
        let data = StatedData::read(event.data()).map_err(no)?;
        let id: Uuid = event.id().parse().map_err(|_| no("its id is not one of ours".to_owned()))?;
        let time = event.get("time").unwrap_or_default();
        let time = parse_instant(time).ok_or_else(|| no(format!("its time `{time}` cannot be read")))?;
        let segment = event.key().split('/').next().unwrap_or_default();
        let source = event.get("source").unwrap_or_default();
        let group_by = data.group_by().map(str::to_owned);
        let change = event.get("change").unwrap_or_default();
        let record = data.record(id, time, event.revision(), change);
        let view = View { segment: segment.to_owned(), source: source.to_owned(), group_by };
        self.views.entry(view).or_default().apply(&record.key(), &record.statement);
        Ok(())
    }

    /// How many keys are known.
    pub fn len(&self) -> usize {
        self.views.values().map(Ledger::len).sum()
    }

    /// Whether no key is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What each key's highest revision states, view by view, by period, service and group.
    pub fn keys(&self) -> impl Iterator<Item = (&View, Published<'_>)> {
        self.views.iter().flat_map(|(view, ledger)| {
            let mut rows: Vec<_> = ledger.rows().map(|(_, row)| row).collect();
            rows.sort_by_cached_key(|row| {
                let key = row.key();
                (key.period, key.service, key.group)
            });
            rows.into_iter().map(move |row| (view, row))
        })
    }

    /// Everything added up.
    ///
    /// # Errors
    /// When a sum has more digits than can be held exactly; in words.
    pub fn totals(&self, by: By) -> Result<BTreeMap<Sum, Total>, String> {
        let mut totals: BTreeMap<Sum, Total> = BTreeMap::new();
        for (view, ledger) in &self.views {
            for (_, row) in ledger.rows() {
                let key = row.key();
                let of = match (by, key.group) {
                    (By::Day, _) => key.period.date().to_string(),
                    (By::Service, _) => key.service.to_owned(),
                    (By::Account, Some(group)) if view.group_by.as_deref() == Some("LINKED_ACCOUNT") => {
                        group.to_owned()
                    }
                    (By::Account, _) => view.account().to_owned(),
                };
                for (metric, amount) in row.amounts() {
                    let sum = Sum {
                        of: of.clone(),
                        granularity: key.period.granularity(),
                        source: view.source.clone(),
                        group_by: view.group_by.clone(),
                        filter: view.filter().map(str::to_owned),
                        metric,
                        unit: amount.unit().to_owned(),
                    };
                    let total = totals.entry(sum).or_default();
                    total.keys += u64::from(row.status() == crate::dedup::Status::Live);
                    total.amount = total.amount.plus(amount.value()).ok_or_else(|| {
                        format!("the {metric} of `{of}` has more digits than can be added up exactly")
                    })?;
                }
            }
        }
        Ok(totals)
    }
}

/// A sum of decimals without rounding: up to 38 digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exact {
    mantissa: i128,
    scale: u32,
}

impl Exact {
    /// The sum with one more, unless that takes more digits than there are.
    #[must_use]
    pub fn plus(self, value: Decimal) -> Option<Self> {
        let value = value.normalize();
        let scale = self.scale.max(value.scale());
        let at = |mantissa: i128, from: u32| mantissa.checked_mul(10_i128.checked_pow(scale - from)?);
        let mantissa = at(self.mantissa, self.scale)?.checked_add(at(value.mantissa(), value.scale())?)?;
        Some(Self { mantissa, scale })
    }
}

impl std::fmt::Display for Exact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scale = self.scale as usize;
        let digits = format!("{:0width$}", self.mantissa.unsigned_abs(), width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        let fraction = fraction.trim_end_matches('0');
        let sign = if self.mantissa < 0 { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        f.pad(&format!("{sign}{whole}{point}{fraction}"))
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        cost::{Amount, CostKey, GroupBy, Period, Scope},
        dedup::{Change, ChangeKind},
        event::{EventFactory, structured_json, tests as fixtures},
    };

    struct Figure<'a> {
        label: &'a str,
        service: &'a str,
        group: Option<&'a str>,
        revision: u32,
        amount: &'a str,
        unit: &'a str,
    }

    fn line(scope: &Scope, figure: &Figure<'_>) -> Vec<u8> {
        let amount = Amount::parse(figure.amount.to_owned(), figure.unit.to_owned()).unwrap();
        let change = Change {
            key: CostKey {
                period: Period::from_label(figure.label).unwrap(),
                service: figure.service,
                group: figure.group,
            },
            kind: if figure.amount == "0" { ChangeKind::Removed } else { ChangeKind::Revised },
            revision: figure.revision,
            amounts: Cow::Owned([(CostMetric::UnblendedCost, amount)].into_iter().collect()),
            estimated: false,
            observed_at: "2023-01-28T06:11:10Z".parse().unwrap(),
            previous: None,
        };
        let factory = EventFactory::new(scope.clone(), "amazon.billing");
        structured_json(factory.event(&change, &BTreeMap::new())).unwrap()
    }

    fn figure<'a>(label: &'a str, service: &'a str, revision: u32, amount: &'a str) -> Figure<'a> {
        Figure { label, service, group: None, revision, amount, unit: "USD" }
    }

    fn shown(current: &Current, by: By) -> Vec<String> {
        let totals = current.totals(by).unwrap();
        totals
            .iter()
            .map(|(sum, total)| {
                let view = [sum.group_by.as_deref(), sum.filter.as_deref()].into_iter().flatten();
                let view: Vec<_> = view.collect();
                let Sum { of, granularity, unit, .. } = sum;
                format!("{of} {granularity} {} {unit} of {} {}", total.amount, total.keys, view.join(" "))
            })
            .collect()
    }

    #[test]
    fn the_highest_revision_counts_in_whatever_order_it_comes() {
        let scope = fixtures::scope();
        let mut current = Current::default();
        for figure in [
            figure("2023-01-27", "Tax", 3, "3.3"),
            figure("2023-01-27", "Tax", 1, "1.1"),
            figure("2023-01-27", "Tax", 2, "2.2"),
            figure("2023-01-27", "AWS Lambda", 1, "0.0000000001"),
            figure("2023-01-28", "Tax", 1, "5"),
            figure("2023-01-28", "Tax", 2, "0"),
        ] {
            let line = line(&scope, &figure);
            current.apply(&Event::read(&line).unwrap()).unwrap();
        }
        assert_eq!(current.len(), 3);
        assert_eq!(
            shown(&current, By::Day),
            ["2023-01-27 daily 3.3000000001 USD of 2 ", "2023-01-28 daily 0 USD of 0 "]
        );
        assert_eq!(
            shown(&current, By::Service),
            ["AWS Lambda daily 0.0000000001 USD of 1 ", "Tax daily 3.3 USD of 1 "]
        );
        let revisions: Vec<_> = current.keys().map(|(_, row)| row.revision()).collect();
        assert_eq!(revisions, [1, 3, 2]);
    }

    #[test]
    fn the_same_money_is_not_added_up_twice() {
        let mut current = Current::default();
        let plain = fixtures::scope();
        let grouped =
            Scope { group_by: Some(GroupBy::Dimension("LINKED_ACCOUNT".to_owned())), ..fixtures::scope() };
        let filtered = Scope { filter: Some("{}".to_owned()), ..fixtures::scope() };
        for (scope, figure) in [
            (&plain, figure("2023-01-27", "Tax", 1, "7")),
            (&plain, figure("2023-01-27T13", "Tax", 1, "3")),
            (&plain, figure("2023-01-27T14", "Tax", 1, "4")),
            (&plain, Figure { unit: "CNY", ..figure("2023-01-27", "AWS Lambda", 1, "9") }),
            (&grouped, Figure { group: Some("444455556666"), ..figure("2023-01-27", "Tax", 1, "5") }),
            (&grouped, Figure { group: Some("777788889999"), ..figure("2023-01-27", "Tax", 1, "2") }),
            (&filtered, figure("2023-01-27", "Tax", 1, "6")),
        ] {
            let line = line(scope, &figure);
            current.apply(&Event::read(&line).unwrap()).unwrap();
        }
        assert_eq!(
            shown(&current, By::Day),
            [
                "2023-01-27 daily 9 CNY of 1 ",
                "2023-01-27 daily 7 USD of 1 ",
                "2023-01-27 daily 6 USD of 1 44136fa355",
                "2023-01-27 daily 7 USD of 2 LINKED_ACCOUNT",
                "2023-01-27 hourly 7 USD of 2 ",
            ]
        );
        assert_eq!(
            shown(&current, By::Account),
            [
                "111122223333 daily 9 CNY of 1 ",
                "111122223333 daily 7 USD of 1 ",
                "111122223333 daily 6 USD of 1 44136fa355",
                "111122223333 hourly 7 USD of 2 ",
                "444455556666 daily 5 USD of 1 LINKED_ACCOUNT",
                "777788889999 daily 2 USD of 1 LINKED_ACCOUNT",
            ]
        );
    }

    #[test]
    fn data_that_is_not_ours_is_refused() {
        let line = String::from_utf8(line(&fixtures::scope(), &figure("2023-01-27", "Tax", 1, "7"))).unwrap();
        let mut current = Current::default();
        for (from, to, expected) in [
            (
                r#""amount":"7""#,
                r#""amount":"x""#,
                "its `unblendedCost` is no figure: `x` is not a decimal amount of at most 28 digits",
            ),
            (r#""service":"Tax","#, "", "its data has no `service`"),
            ("T00:00:00Z\",\"periodEnd", "T01:00:00Z\",\"periodEnd", "its period begins within another one"),
            (r#""time":"2023"#, r#""time":"x"#, "its time `x-01-28T06:11:10Z` cannot be read"),
        ] {
            assert!(line.contains(from), "{from}");
            let broken = line.replacen(from, to, 1);
            let error = current.apply(&Event::read(broken.as_bytes()).unwrap()).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
        }
        assert!(current.is_empty());
    }

    #[test]
    fn sums_are_exact_or_refused() {
        let decimal = |text: &str| Decimal::from_str_exact(text).unwrap();
        let sum = |texts: &[&str]| {
            texts
                .iter()
                .try_fold(Exact::default(), |sum, text| sum.plus(decimal(text)))
                .map(|sum| sum.to_string())
        };
        assert_eq!(sum(&["0.1", "0.2"]).unwrap(), "0.3");
        assert_eq!(sum(&["-0.0000000289", "0.01"]).unwrap(), "0.0099999711");
        assert_eq!(sum(&["-1.50", "1.5"]).unwrap(), "0");
        assert_eq!(sum(&["-0.5"]).unwrap(), "-0.5");
        assert_eq!(
            sum(&["79228162514264337593543950335", "0.1234567"]).unwrap(),
            "79228162514264337593543950335.1234567"
        );
        assert_eq!(sum(&["79228162514264337593543950335", "0.0000000000000000000000000001"]), None);
    }

    proptest! {
        #[test]
        fn sums_agree_with_decimals_where_these_are_exact(values in prop::collection::vec((-1_000_000_i64..1_000_000, 0_u32..10), 1..20)) {
            let values: Vec<_> = values.into_iter().map(|(mantissa, scale)| Decimal::new(mantissa, scale)).collect();
            let sum = values.iter().try_fold(Exact::default(), |sum, value| sum.plus(*value)).unwrap();
            let expected: Decimal = values.iter().sum();
            prop_assert_eq!(sum.to_string(), expected.normalize().to_string());
        }
    }
}
