//! The events of a file, read as a consumer would, and the promises every log of them keeps.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use amazon_billing_source::{
    cost::{Amount, CostMetric},
    event::{Event, validate},
};
use jiff::civil::Date;
use rust_decimal::Decimal;
use serde_json::{Map, Value};

use super::Aws;

/// What is polled unless told otherwise.
const METRICS: [CostMetric; 2] = [CostMetric::AmortizedCost, CostMetric::UnblendedCost];

/// Events in the order they were published.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(pub(crate) Vec<Value>);

impl Log {
    /// Reads a file of JSON lines: every line whole, every event valid, and every promise kept.
    pub(crate) fn read(path: &Path) -> Self {
        Self::parse(&std::fs::read_to_string(path).unwrap_or_default())
    }

    /// The same of a file whose writer was killed, perhaps in the middle of a line. The next run cuts
    /// that line before it writes, so it is no part of the log.
    pub(crate) fn read_after_a_kill(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        Self::parse(&text[..text.rfind('\n').map_or(0, |end| end + 1)])
    }

    /// The same from a text.
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.is_empty() || text.ends_with('\n'), "the last line is torn: {:?}", text.lines().last());
        let mut log = Self::default();
        log.follow(text);
        log.check();
        log
    }

    /// Takes the lines of a grown text that are new, each checked alone. What concerns several events
    /// is left to [`Log::check`], at the end.
    pub(crate) fn follow(&mut self, text: &str) {
        self.0.extend(text.lines().skip(self.len()).map(check_event));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// No id twice; the revisions of a key are 1, 2, 3, and so on; `previous` is what the one before
    /// said; no revision says the same as the one before; time does not go back.
    pub(crate) fn check(&self) {
        let mut ids = HashSet::new();
        let mut last: HashMap<(&str, &str), &Value> = HashMap::new();
        for event in &self.0 {
            assert!(ids.insert(text(event, "id")), "an id twice: {event}");
            let before = last.insert((text(event, "source"), text(event, "partitionkey")), event);
            let revision = event["revision"].as_u64().unwrap();
            let change = text(event, "change");
            let Some(before) = before else {
                assert_eq!((revision, change), (1, "new"), "{event}");
                assert_eq!(event["data"].get("previous"), None, "{event}");
                continue;
            };
            assert_eq!(revision, before["revision"].as_u64().unwrap() + 1, "{before}\n{event}");
            assert!(matches!(change, "revised" | "removed"), "{event}");
            let mut stated = statement(before);
            if before["change"] == "removed" {
                // The flag of a row that is gone means nothing.
                stated.insert("estimated".to_owned(), event["data"]["previous"]["estimated"].clone());
            }
            assert_eq!(Value::from(stated), event["data"]["previous"], "{before}\n{event}");
            let gone = [before, event].map(|event| event["change"] == "removed");
            assert!(meaning(before) != meaning(event) || gone[0] != gone[1], "nothing changed: {event}");
            assert!(text(before, "time") <= text(event, "time"), "{before}\n{event}");
        }
    }

    /// A consumer's whole rule: the highest revision per key.
    pub(crate) fn latest(&self) -> BTreeMap<&str, &Value> {
        let mut latest: BTreeMap<&str, &Value> = BTreeMap::new();
        for event in &self.0 {
            let kept = latest.entry(text(event, "partitionkey")).or_insert(event);
            if event["revision"].as_u64() >= kept["revision"].as_u64() {
                *kept = event;
            }
        }
        latest
    }

    /// What a consumer makes of an account's days `from..to`: a metric per service, zeros left out.
    pub(crate) fn totals(
        &self,
        account: &str,
        metric: CostMetric,
        from: Date,
        to: Date,
    ) -> BTreeMap<String, Decimal> {
        let mut totals: BTreeMap<String, Decimal> = BTreeMap::new();
        for event in self.latest().into_values() {
            let data = &event["data"];
            let day: Date = text(data, "date")[..10].parse().unwrap();
            if data["accountId"] == account && from <= day && day < to {
                *totals.entry(text(data, "service").to_owned()).or_default() +=
                    amount(&data[metric.member_name()]);
            }
        }
        without_zeros(totals)
    }

    /// That a consumer's figures are AWS's own, to the last digit.
    pub(crate) fn assert_is_the_bill_of(&self, aws: &Aws, account: &str, from: Date, to: Date) {
        for metric in METRICS {
            let ours = self.totals(account, metric, from, to);
            let theirs = without_zeros(aws.totals(account, metric, from, to));
            assert_eq!(ours, theirs, "{metric} from {from} to {to}");
        }
    }

    /// Whether they are.
    pub(crate) fn is_the_bill_of(&self, aws: &Aws, account: &str, from: Date, to: Date) -> bool {
        METRICS.into_iter().all(|metric| {
            self.totals(account, metric, from, to) == without_zeros(aws.totals(account, metric, from, to))
        })
    }

    /// How many events there are of a kind of change.
    pub(crate) fn count(&self, change: &str) -> usize {
        self.0.iter().filter(|event| event["change"] == change).count()
    }

    /// Everything an event says but when AWS said it, ordered: to compare two ways to the same log.
    pub(crate) fn contents(&self) -> Vec<String> {
        let mut contents: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        contents.sort_unstable();
        contents
    }
}

/// Parses a line and checks it: the CloudEvents specification's rules, and our own structure.
fn check_event(line: &str) -> Value {
    let parsed: Event = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(validate(&parsed), [], "{line}");
    let event: Value = serde_json::from_str(line).unwrap();
    check_structure(&event);
    event
}

fn check_structure(event: &Value) {
    let members: Vec<_> = event.as_object().unwrap().keys().map(String::as_str).collect();
    let known = [
        "change",
        "data",
        "datacontenttype",
        "dataschema",
        "id",
        "partitionkey",
        "revision",
        "source",
        "specversion",
        "subject",
        "time",
        "type",
    ];
    let mut sorted = members.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, known, "{event}");
    let data = &event["data"];
    let hourly = data["granularity"] == "HOURLY";
    let name = if hourly { "hourly" } else { "daily" };
    assert_eq!(data["granularity"], name.to_uppercase(), "{event}");
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["datacontenttype"], "application/json");
    assert_eq!(text(event, "type").rsplit('.').next(), Some(name), "{event}");
    let schema = text(event, "dataschema");
    assert!(schema.ends_with(&format!("/amazon.billing.{name}/1.0.0.json")), "{event}");
    let time = text(event, "time");
    assert!(time.len() == 20 && time.ends_with('Z'), "whole seconds: {event}");

    // Subject and key name the same period and service, the key with account and granularity.
    let label = &text(data, "date")[..if hourly { 13 } else { 10 }];
    let subject = text(event, "subject");
    assert_eq!(subject.split('/').next(), Some(label), "{event}");
    let key: Vec<_> = text(event, "partitionkey").split('/').collect();
    assert!(key[0].starts_with(text(data, "accountId")), "{event}");
    assert_eq!((key[1], key[2..].join("/").as_str()), (name, subject), "{event}");
    let groups = data.get("groups").map_or(0, |groups| groups.as_object().unwrap().len());
    assert_eq!(key.len(), 4 + groups, "{event}");

    let start = text(data, "periodStart");
    assert_eq!(text(data, "date"), if hourly { start } else { &start[..10] }, "{event}");
    assert!(text(data, "periodEnd") > start, "{event}");
    assert!(data["estimated"].is_boolean() && data["accountId"].as_str().unwrap().len() == 12, "{event}");
    assert!(!statement(event).is_empty(), "{event}");
    for figures in [data.as_object().unwrap(), data["previous"].as_object().unwrap_or(&Map::new())] {
        for (name, figure) in figures.iter().filter(|(_, value)| value.get("amount").is_some()) {
            assert!(CostMetric::ALL.iter().any(|metric| metric.member_name() == name), "{event}");
            assert!(figure["unit"].is_string(), "{event}");
            amount(figure);
        }
    }
    if event["change"] == "removed" {
        for figure in statement(event).values().filter_map(|value| value.get("amount")) {
            assert_eq!(figure, "0", "{event}");
        }
    }
}

/// Amounts and estimated flag of an event: what a revision may change.
fn statement(event: &Value) -> Map<String, Value> {
    let data = event["data"].as_object().unwrap();
    let figures = data.iter().filter(|(name, value)| *name == "estimated" || value.get("amount").is_some());
    figures.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The statement by value: `1.10` is `1.1`.
fn meaning(event: &Value) -> BTreeMap<String, (Decimal, String)> {
    let figures = statement(event).into_iter().map(|(name, value)| match value.as_bool() {
        Some(flag) => (name, (Decimal::from(u8::from(flag)), String::new())),
        None => (name, (amount(&value), text(&value, "unit").to_owned())),
    });
    figures.collect()
}

/// A figure's value; never a JSON number.
pub(crate) fn amount(figure: &Value) -> Decimal {
    Amount::parse(text(figure, "amount").to_owned(), String::new()).unwrap().value()
}

/// A member that is a text.
pub(crate) fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no text `{member}` in {value}"))
}

fn without_zeros(mut totals: BTreeMap<String, Decimal>) -> BTreeMap<String, Decimal> {
    totals.retain(|_, total| !total.is_zero());
    totals
}
