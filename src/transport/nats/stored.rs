//! A stored message read back: the event it holds as the state of its key.
//!
//! Only the members that make up the state are read, straight from the bytes: a million messages
//! are read at every start.

use std::{borrow::Cow, collections::BTreeMap};

use async_nats::HeaderMap;
use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    cost::{Amount, Amounts, CostMetric, Granularity, Period},
    dedup::{ChangeKind, Statement, Status},
    transport::StateRecord,
};

/// The members of an event that are the key's state.
#[derive(Deserialize)]
struct Envelope<'a> {
    id: Uuid,
    time: Timestamp,
    revision: u32,
    #[serde(borrow)]
    change: Cow<'a, str>,
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    service: String,
    #[serde(borrow)]
    granularity: Cow<'a, str>,
    period_start: Timestamp,
    estimated: bool,
    groups: Option<BTreeMap<String, String>>,
    amortized_cost: Option<Figure>,
    blended_cost: Option<Figure>,
    net_amortized_cost: Option<Figure>,
    net_unblended_cost: Option<Figure>,
    normalized_usage_amount: Option<Figure>,
    unblended_cost: Option<Figure>,
    usage_quantity: Option<Figure>,
}

#[derive(Deserialize)]
struct Figure {
    amount: String,
    unit: String,
}

/// The state a message states; the error says why it is no event of ours.
pub(super) fn read(headers: Option<&HeaderMap>, payload: &[u8]) -> Result<StateRecord, String> {
    let envelope = if is_structured(headers) {
        serde_json::from_slice(payload).map_err(|e| e.to_string())?
    } else {
        let attribute = |name: &str| {
            headers
                .and_then(|headers| headers.get(name))
                .map(async_nats::HeaderValue::as_str)
                .ok_or_else(|| format!("it has no header `{name}`"))
        };
        Envelope {
            id: attribute("ce-id")?.parse().map_err(|_| "its id is not one of ours")?,
            time: attribute("ce-time")?.parse().map_err(|_| "its time cannot be read")?,
            revision: attribute("ce-revision")?.parse().map_err(|_| "its revision is no number")?,
            change: Cow::Borrowed(attribute("ce-change")?),
            data: serde_json::from_slice(payload).map_err(|e| e.to_string())?,
        }
    };
    record(envelope)
}

/// The id of the event in a message, where it is one of ours.
pub(super) fn id(headers: Option<&HeaderMap>, payload: &[u8]) -> Option<Uuid> {
    read(headers, payload).ok().map(|record| record.event_id)
}

fn is_structured(headers: Option<&HeaderMap>) -> bool {
    headers.is_some_and(|headers| {
        headers.iter().any(|(name, values)| {
            AsRef::<str>::as_ref(name).eq_ignore_ascii_case("content-type")
                && values.iter().any(|value| {
                    value
                        .as_str()
                        .get(..23)
                        .is_some_and(|start| start.eq_ignore_ascii_case("application/cloudevents"))
                })
        })
    })
}

fn record(envelope: Envelope<'_>) -> Result<StateRecord, String> {
    let Envelope { id, time, revision, change, data } = envelope;
    let granularity = Granularity::ALL
        .into_iter()
        .find(|granularity| granularity.aws_name() == data.granularity)
        .ok_or("its granularity is not known")?;
    let period = Period::containing(granularity, data.period_start);
    if period.start() != data.period_start {
        return Err("its period begins within another one".to_owned());
    }
    let removed = change == ChangeKind::Removed.name();
    let figures = [
        data.amortized_cost,
        data.blended_cost,
        data.net_amortized_cost,
        data.net_unblended_cost,
        data.normalized_usage_amount,
        data.unblended_cost,
        data.usage_quantity,
    ];
    let mut amounts = Amounts::new();
    for (metric, figure) in CostMetric::ALL.into_iter().zip(figures) {
        if let Some(Figure { amount, unit }) = figure {
            amounts.push((metric, Amount::parse(amount, unit).map_err(|e| e.to_string())?));
        }
    }
    Ok(StateRecord {
        period,
        service: data.service,
        group: data.groups.and_then(|groups| groups.into_values().next()),
        statement: Statement {
            revision,
            amounts,
            estimated: data.estimated,
            status: if removed { Status::Removed } else { Status::Live },
            observed_at: time,
        },
        event_id: id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cost::GroupBy,
        event::{Binding, ContentMode, EventFactory, encode, tests as fixtures},
        transport::Outgoing,
    };

    #[test]
    fn both_modes_read_back_as_the_state_that_was_written() {
        for (label, group, kind) in [
            ("2023-01-27", None, ChangeKind::New),
            ("2023-01-27T13", Some(""), ChangeKind::Revised),
            ("2023-01-27", Some("444455556666"), ChangeKind::Removed),
        ] {
            let mut scope = fixtures::scope();
            scope.group_by = group.map(|_| GroupBy::Tag("team".to_owned()));
            let factory = EventFactory::new(scope, "amazon.billing");
            let mut change = fixtures::change(label, "EC2 - Other");
            change.key.group = group;
            change.kind = kind;
            let names = BTreeMap::from([("444455556666".to_owned(), "payments".to_owned())]);
            let outgoing = Outgoing::of(&factory, &change, &names);
            for mode in [ContentMode::Structured, ContentMode::Binary] {
                let message = encode(outgoing.event.clone(), Binding::Nats, mode).unwrap();
                let mut headers = HeaderMap::new();
                for (name, value) in &message.headers {
                    headers.insert(&**name, &**value);
                }
                let read = read(Some(&headers), &message.payload).unwrap();
                assert_eq!(read, outgoing.record, "{mode:?}");
                let texts = |record: &StateRecord| -> Vec<_> {
                    record.statement.amounts.iter().map(|(_, a)| a.text().to_owned()).collect()
                };
                assert_eq!(texts(&read), texts(&outgoing.record));
            }
        }
    }

    #[test]
    fn foreign_messages_are_told_apart() {
        for payload in ["", "hello", "{}", r#"{"specversion":"1.0","id":"1","source":"s","type":"t"}"#] {
            assert!(read(None, payload.as_bytes()).is_err());
            let mut headers = HeaderMap::new();
            headers.insert("Content-Type", "application/cloudevents+json");
            assert!(read(Some(&headers), payload.as_bytes()).is_err());
        }
    }
}
