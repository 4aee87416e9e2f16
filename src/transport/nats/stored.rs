//! A stored message read back: the event it holds as the state of its key.
//!
//! Both content modes; what the data states is read in `stated`.

use std::borrow::Cow;

use async_nats::HeaderMap;
use uuid::Uuid;

use crate::{
    cost::parse_instant,
    event::descend,
    transport::{StateRecord, StatedData, Stating},
};

/// The state a message states; the error says why it is no event of ours.
pub(super) fn read(headers: Option<&HeaderMap>, payload: &[u8]) -> Result<StateRecord, String> {
    let payload = std::str::from_utf8(payload).map_err(|e| format!("it is no UTF-8: {e}"))?;
    let [mut id, mut time, mut revision, mut change] = [const { None }; 4];
    let stated = if is_structured(headers) {
        let mut stating = Stating::default();
        let mut has_data = false;
        let whole = descend(payload, |name, scan| {
            if name == "data" {
                stating = Stating::default();
                has_data = scan.object(&mut |name, scan| stating.take(&name, scan))?;
                return Some(());
            }
            let value = scan.member()?;
            match &*name {
                "id" => id = value.text(),
                "time" => time = value.text(),
                // A number, and a text to those who know no others.
                "revision" => revision = value.text().or(Some(Cow::Borrowed(value.json()))),
                "change" => change = value.text(),
                _ => {}
            }
            Some(())
        });
        whole.map_err(|at| format!("it is no JSON object: byte {at}"))?;
        if has_data { stating.finish() } else { Err("its data is no JSON object".to_owned()) }
    } else {
        let header = |name: &str| Some(Cow::Borrowed(headers?.get(name)?.as_str()));
        (id, time) = (header("ce-id"), header("ce-time"));
        (revision, change) = (header("ce-revision"), header("ce-change"));
        StatedData::read(payload)
    };
    let id = id.and_then(|id| Uuid::try_parse(&id).ok()).ok_or("its id is not one of ours")?;
    let time = time.and_then(|time| parse_instant(&time)).ok_or("its time cannot be read")?;
    let revision = revision.and_then(|number| number.parse().ok()).ok_or("its revision is no number")?;
    let change = change.ok_or("it has no `change`")?;
    Ok(stated?.record(id, time, revision, &change))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        cost::GroupBy,
        dedup::ChangeKind,
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
                let message = encode(outgoing.event(), Binding::Nats, mode).unwrap();
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
