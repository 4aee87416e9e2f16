//! The events that every SDK has to read unchanged, and what it means to be unchanged.

use std::{borrow::Cow, collections::BTreeMap};

use amazon_billing_source::{
    cost::{Amount, Amounts, CostKey, CostMetric, GroupBy, Period, Scope},
    dedup::{Change, ChangeKind, Ledger},
    event::{ContentMode, EventFactory, structured_json},
    transport::{Batch, Delivery, Outgoing, Transport},
};
use serde_json::{Map, Value};

/// Names with everything that quoting, escaping, percent-encoding and character sets can spoil.
const SERVICES: [&str; 6] = [
    "Amazon Relational Database Service",
    "Euro € 😀",
    "100 % \"quoted\" \\ 50%25 / <&> 'x'",
    "日本 – Größe\u{a0}Ω",
    "tab\tline\nnull\u{0}",
    "Tax",
];
const GROUPS: [&str; 3] = ["", "Zürich € 😀 50 % \"q\"", "team/a b"];

/// One scope, and what is said of it, one batch after another.
struct Chapter {
    scope: Scope,
    names: BTreeMap<String, String>,
    batches: Vec<Vec<Change<'static>>>,
}

fn amounts(unblended: &str, amortized: &str, unit: &str) -> Amounts {
    [(CostMetric::UnblendedCost, unblended), (CostMetric::AmortizedCost, amortized)]
        .into_iter()
        .map(|(metric, text)| (metric, Amount::parse(text.to_owned(), unit.to_owned()).unwrap()))
        .collect()
}

fn change(
    label: &str,
    service: &'static str,
    group: Option<&'static str>,
    stated: &Amounts,
) -> Change<'static> {
    Change {
        key: CostKey { period: Period::from_label(label).unwrap(), service, group },
        kind: ChangeKind::New,
        revision: 1,
        amounts: Cow::Owned(stated.clone()),
        estimated: true,
        observed_at: "2026-11-21T06:11:10Z".parse().unwrap(),
        previous: None,
    }
}

/// What is said next of the same key.
fn next(before: &Change<'static>, kind: ChangeKind, stated: &Amounts, estimated: bool) -> Change<'static> {
    Change {
        kind,
        revision: before.revision + 1,
        amounts: Cow::Owned(stated.clone()),
        estimated,
        observed_at: before.observed_at + jiff::SignedDuration::from_hours(8),
        previous: Some((before.amounts.clone().into_owned(), before.estimated)),
        ..before.clone()
    }
}

/// New, revised, removed and come back; days and hours; with and without groups, named and not.
fn chapters() -> [Chapter; 3] {
    let first = amounts("0.2672917174", "0.1", "USD");
    // As many digits as an exact decimal holds; a credit; another currency.
    let second = amounts("-1234567.8901234567890123456789", "0.0000000000000000000000000001", "EUR");
    let zero = amounts("0", "0", "EUR");
    let tell = |label: &str, group: Option<&'static str>| {
        let new: Vec<_> = SERVICES.iter().map(|service| change(label, service, group, &first)).collect();
        let of = |from: &[Change<'static>], kind, stated: &Amounts, estimated| {
            from.iter().map(|before| next(before, kind, stated, estimated)).collect::<Vec<_>>()
        };
        let revised = of(&new[1..], ChangeKind::Revised, &second, false);
        let removed = of(&revised[1..], ChangeKind::Removed, &zero, false);
        let back = of(&removed[1..], ChangeKind::Revised, &first, true);
        vec![new, revised, removed, back]
    };
    let plain = Scope {
        source: "cloud.amazon.billing".to_owned(),
        account: "111122223333".to_owned(),
        group_by: None,
        filter: None,
    };
    let tag = Scope { group_by: Some(GroupBy::Tag("Größe €".to_owned())), ..plain.clone() };
    let linked = Scope {
        source: "https://ce.us-east-1.amazonaws.com/111122223333?a=b&c=d".to_owned(),
        group_by: Some(GroupBy::Dimension("LINKED_ACCOUNT".to_owned())),
        ..plain.clone()
    };
    let names = [("444455556666".to_owned(), "Zahlungen € \"x\" 5 %".to_owned())].into();
    let batches = GROUPS.iter().map(|group| tell("2026-11-20", Some(group)));
    [
        Chapter { scope: plain, names: BTreeMap::new(), batches: tell("2026-11-20", None) },
        Chapter { scope: tag, names: BTreeMap::new(), batches: batches.flatten().collect() },
        Chapter { scope: linked, names, batches: tell("2026-11-20T23", Some("444455556666")) },
    ]
}

/// Publishes the story; the events as a file would have them.
pub async fn publish<T: Transport>(transport: &T) -> Vec<Value> {
    let mut told = Vec::new();
    for Chapter { scope, names, batches } in chapters() {
        let factory = EventFactory::new(scope, "amazon.billing");
        for changes in batches {
            told.extend(changes.iter().map(|change| {
                let line = structured_json(factory.event(change, &names)).unwrap();
                serde_json::from_slice::<Value>(&line).unwrap()
            }));
            publish_changes(transport, &factory, &changes, &names).await;
        }
    }
    told
}

/// One batch, decided over what the log holds.
pub async fn publish_changes<T: Transport>(
    transport: &T,
    factory: &EventFactory,
    changes: &[Change<'_>],
    names: &BTreeMap<String, String>,
) {
    let scope = factory.scope().id();
    let mut ledger = Ledger::new();
    let connection = transport.recover(&scope, &mut ledger).await.unwrap();
    let events = changes
        .iter()
        .map(|change| {
            let expected = ledger.previous(&change.key).map_or(0, |known| known.sequence());
            Outgoing::of(factory, change, names).over(expected)
        })
        .collect();
    let batch = Batch { scope, recovered_to: ledger.recovered_to(), events, connection };
    let deliveries = transport.publish(batch).await.unwrap();
    assert!(deliveries.iter().all(|delivery| matches!(delivery, Delivery::Stored(_))), "{deliveries:?}");
}

/// What differs between the events and what a reader printed of them, attribute by attribute.
///
/// `additions` are attributes an SDK invents. Headers have no types, so that `revision` is a text in
/// binary mode and an integer in structured mode; `time` is compared as an instant.
pub fn differences(told: &[Value], printed: &str, mode: ContentMode, additions: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut by_id: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for line in printed.lines() {
        let Ok(read) = serde_json::from_str::<Value>(line) else {
            found.push(format!("no JSON: {line}"));
            continue;
        };
        let attributes = &read["attributes"];
        let revision = &attributes["revision"];
        let number = revision.as_u64().or_else(|| revision.as_str()?.parse().ok()).unwrap_or_default();
        let key = attributes["partitionkey"].as_str().unwrap_or_default().to_owned();
        let before = last.insert(key.clone(), number).unwrap_or_default();
        if number != before + 1 {
            found.push(format!("{key}: revision {number} is read after {before}"));
        }
        by_id.entry(attributes["id"].as_str().unwrap_or_default().to_owned()).or_default().push(read);
    }
    for event in told {
        let id = event["id"].as_str().unwrap();
        match by_id.remove(id).as_deref() {
            Some([read]) => found.extend(compare(id, event, read, mode, additions)),
            Some(several) => found.push(format!("{id} is read {} times", several.len())),
            None => found.push(format!("{id} is not read")),
        }
    }
    found.extend(by_id.keys().map(|id| format!("{id} was never published")));
    found
}

fn compare(id: &str, event: &Value, read: &Value, mode: ContentMode, additions: &[&str]) -> Vec<String> {
    let mut expected: Map<String, Value> = event.as_object().unwrap().clone();
    let data = expected.remove("data").unwrap();
    if mode == ContentMode::Binary {
        expected["revision"] = expected["revision"].to_string().into();
    }
    let mut attributes = read["attributes"].as_object().cloned().unwrap_or_default();
    for name in additions {
        attributes.remove(*name);
    }
    for attributes in [&mut expected, &mut attributes] {
        let instant =
            attributes.get("time").and_then(Value::as_str).and_then(|t| t.parse::<jiff::Timestamp>().ok());
        attributes.insert("time".to_owned(), instant.map(|time| time.to_string()).into());
    }
    let mut found = Vec::new();
    for (name, value) in &expected {
        let other = attributes.remove(name).unwrap_or_default();
        if other != *value {
            found.push(format!("{id}: {name} is {value}, and read as {other}"));
        }
    }
    found
        .extend(attributes.iter().map(|(name, value)| format!("{id}: {name} = {value} was never published")));
    if read["data"] != data {
        found.push(format!("{id}: data is {data}, and read as {}", read["data"]));
    }
    found
}
