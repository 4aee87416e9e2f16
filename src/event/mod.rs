//! Events: what a change looks like to the world, as `CloudEvents`.
//!
//! The shape is a promise to consumers: attributes, members and the recipe of the id change only
//! with a new version of the schema. Nothing here does IO or reads a clock.

mod json;
mod members;
mod validate;
mod wire;

pub use cloudevents::Event;
pub(crate) use json::{Object, plain_ascii_run, plain_run, put_number, put_text};
pub(crate) use members::{MemberValue, Scan, descend, members};
pub use validate::{Violation, is_unencoded, validate};
pub(crate) use wire::percent_encode;
#[cfg(any(feature = "kafka", feature = "nats"))]
pub(crate) use wire::{ATTRIBUTE_ORDER, percent_decode};
pub use wire::{Binding, ContentMode, WireError, WireMessage, decode, encode, structured_json};

use std::{collections::BTreeMap, sync::Arc};

use chrono::DateTime;
use cloudevents::{EventBuilder as _, EventBuilderV10};
use jiff::Timestamp;
use sha1::{Digest as _, Sha1};
use url::Url;
use uuid::{Uuid, uuid};

use crate::{
    cost::{Amounts, Granularity, Scope, Slugs},
    dedup::{Change, ChangeKind},
};

/// The namespace of event ids: the version 5 UUID of `https://amazon-billing-source.github.io/events` in the URL
/// namespace.
const ID_NAMESPACE: Uuid = uuid!("acd09bd5-ddc1-5a78-b8cc-9fd5362b1d5c");

/// The address below which `schemas/` is published.
pub const SCHEMA_BASE: &str = "https://amazon-billing-source.github.io/schemas";
/// The version that events name in `dataschema`; it grows with the shape of `data`.
pub(crate) const SCHEMA_VERSION: &str = "1.0.0";

/// Builds the events of one scope. A clone is another handle of the same.
#[derive(Clone, Debug)]
pub struct EventFactory(Arc<Recipe>);

/// What the events of a scope have in common.
#[derive(Debug)]
struct Recipe {
    scope: Scope,
    /// The first segment of every key.
    segment: String,
    types: [String; 2],
    schemas: [Url; 2],
    slugs: Slugs,
}

impl EventFactory {
    /// The events of a scope, typed `<type_prefix>.daily` and `<type_prefix>.hourly`.
    pub fn new(scope: Scope, type_prefix: &str) -> Self {
        Self(Arc::new(Recipe {
            segment: scope.segment(),
            scope,
            slugs: Slugs::default(),
            types: Granularity::ALL.map(|granularity| format!("{type_prefix}.{granularity}")),
            schemas: Granularity::ALL.map(schema_url),
        }))
    }

    /// The scope the events belong to.
    pub fn scope(&self) -> &Scope {
        &self.0.scope
    }

    /// The event that states a change. `group_names`: what AWS calls the group values.
    pub fn event(&self, change: &Change<'_>, group_names: &BTreeMap<String, String>) -> Event {
        let group_name = change.key.group.and_then(|group| group_names.get(group));
        self.event_of(self.id(change), change, group_name.map(String::as_str))
    }

    /// The same, where the change's id and the name of its group value are known already.
    pub fn event_of(&self, id: Uuid, change: &Change<'_>, group_name: Option<&str>) -> Event {
        let recipe = &*self.0;
        let granularity = change.key.period.granularity() as usize;
        let subject = change.key.subject_by(&recipe.slugs);
        let partition_key = change.key.partition_key_of(&recipe.segment, &subject);
        let data = self.data(change, group_name);
        EventBuilderV10::new()
            .id(id.to_string())
            .source(&*recipe.scope.source)
            .ty(&*recipe.types[granularity])
            .subject(subject)
            .time(chrono_time(change.observed_at))
            .data_with_schema("application/json", recipe.schemas[granularity].clone(), data)
            .extension("partitionkey", partition_key)
            .extension("revision", i64::from(change.revision))
            .extension("change", change.kind.name())
            .build()
            .expect("every required attribute is set and every value was checked with the configuration")
    }

    /// `data`, member by member.
    fn data(&self, change: &Change<'_>, group_name: Option<&str>) -> String {
        let scope = self.scope();
        let period = change.key.period;
        let mut json = Vec::with_capacity(512);
        let mut data = Object::open(&mut json);
        data.text("date", &period.aws_start()).text("service", change.key.service);
        put_amounts(&mut data, &change.amounts);
        data.text("granularity", period.granularity().aws_name())
            .text("periodStart", &period.start_text())
            .text("periodEnd", &period.end_text())
            .text("accountId", &scope.account)
            .flag("estimated", change.estimated);
        if let (Some(group_by), Some(group)) = (&scope.group_by, change.key.group) {
            let group_by = group_by.to_string();
            put_one(data.value("groups"), &group_by, group);
            if let Some(name) = group_name {
                put_one(data.value("groupNames"), &group_by, name);
            }
        }
        // What the event before stated.
        if let Some((amounts, estimated)) = &change.previous {
            let mut previous = Object::open(data.value("previous"));
            put_amounts(&mut previous, amounts);
            previous.flag("estimated", *estimated);
            previous.close();
        }
        data.close();
        String::from_utf8(json).expect("texts and punctuation are UTF-8")
    }

    /// A version 5 UUID over source, key, revision and content, as the JSON array
    /// `[source, account segment, granularity, period, service, group by, group, revision,
    /// [[metric, normalised amount, unit], ...], estimated, removed]`: the same on every host.
    pub fn id(&self, change: &Change<'_>) -> Uuid {
        uuid_v5(ID_NAMESPACE, &self.name(change))
    }

    /// What the id is a digest of.
    fn name(&self, change: &Change<'_>) -> Vec<u8> {
        let mut json = Vec::with_capacity(256);
        let or_null = |json: &mut Vec<u8>, text: Option<&str>| match text {
            Some(text) => put_text(json, text),
            None => json.extend_from_slice(b"null"),
        };
        let group_by = self.scope().group_by.as_ref().map(ToString::to_string);
        json.push(b'[');
        put_text(&mut json, &self.scope().source);
        for text in [
            Some(&*self.0.segment),
            Some(change.key.period.granularity().name()),
            Some(&*change.key.period.label()),
            Some(change.key.service),
            group_by.as_deref(),
            change.key.group,
        ] {
            json.push(b',');
            or_null(&mut json, text);
        }
        json.push(b',');
        put_number(&mut json, i64::from(change.revision));
        json.extend_from_slice(b",[");
        for (place, (metric, amount)) in change.amounts.iter().enumerate() {
            json.extend_from_slice(if place == 0 { b"[" } else { b",[" });
            put_text(&mut json, metric.aws_name());
            json.push(b',');
            put_text(&mut json, &amount.normalised());
            json.push(b',');
            put_text(&mut json, amount.unit());
            json.push(b']');
        }
        json.push(b']');
        for flag in [change.estimated, change.kind == ChangeKind::Removed] {
            json.extend_from_slice(if flag { b",true" } else { b",false" });
        }
        json.push(b']');
        json
    }
}

/// A version 5 UUID (RFC 9562, 5.5). The `uuid` crate's own takes ten times as long, as its SHA-1 does
/// without the processor's instructions.
pub(crate) fn uuid_v5(namespace: Uuid, name: &[u8]) -> Uuid {
    let digest = Sha1::new().chain_update(namespace).chain_update(name).finalize();
    let (bytes, _) = digest.split_first_chunk().expect("a SHA-1 has 20 bytes");
    uuid::Builder::from_sha1_bytes(*bytes).into_uuid()
}

/// One member in an object of its own.
fn put_one(json: &mut Vec<u8>, name: &str, value: &str) {
    let mut object = Object::open(json);
    object.named(name, value);
    object.close();
}

fn put_amounts(members: &mut Object<'_>, amounts: &Amounts) {
    for (metric, amount) in amounts {
        let mut figure = Object::open(members.value(metric.member_name()));
        figure.text("amount", amount.text()).text("unit", amount.unit());
        figure.close();
    }
}

/// The schema an event of this granularity names in `dataschema`, whatever the type prefix.
pub fn schema_url(granularity: Granularity) -> Url {
    Url::parse(&format!("{SCHEMA_BASE}/amazon.billing.{granularity}/{SCHEMA_VERSION}.json"))
        .expect("a constant")
}

fn chrono_time(instant: Timestamp) -> DateTime<chrono::Utc> {
    DateTime::from_timestamp(instant.as_second(), 0).expect("both hold the years -9999 to 9999")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::borrow::Cow;

    use cloudevents::AttributesReader as _;

    use super::*;
    use crate::cost::{Amount, CostKey, CostMetric, GroupBy, Period};

    pub(crate) fn scope() -> Scope {
        Scope {
            source: "cloud.amazon.billing".to_owned(),
            account: "111122223333".to_owned(),
            group_by: None,
            filter: None,
        }
    }

    pub(crate) fn amounts(text: &str) -> Amounts {
        [CostMetric::AmortizedCost, CostMetric::UnblendedCost]
            .into_iter()
            .map(|metric| (metric, Amount::parse(text.to_owned(), "USD".to_owned()).unwrap()))
            .collect()
    }

    pub(crate) fn change(label: &'static str, service: &'static str) -> Change<'static> {
        Change {
            key: CostKey { period: Period::from_label(label).unwrap(), service, group: None },
            kind: ChangeKind::Revised,
            revision: 2,
            amounts: Cow::Owned(amounts("0.2672917174")),
            estimated: true,
            observed_at: "2023-01-28T06:11:10Z".parse().unwrap(),
            previous: Some((amounts("0.21"), true)),
        }
    }

    /// The event of the documentation, to the letter but for its id's namespace.
    #[test]
    fn an_event_has_the_documented_shape() {
        let factory = EventFactory::new(scope(), "amazon.billing");
        let event =
            factory.event(&change("2023-01-27", "Amazon Relational Database Service"), &BTreeMap::new());
        let json = String::from_utf8(structured_json(event).unwrap()).unwrap();
        insta::assert_snapshot!(json, @r#"{"specversion":"1.0","id":"f10cd2ac-f985-5fd4-a739-21f3a3054650","source":"cloud.amazon.billing","type":"amazon.billing.daily","subject":"2023-01-27/amazon-relational-database-service","time":"2023-01-28T06:11:10Z","datacontenttype":"application/json","dataschema":"https://amazon-billing-source.github.io/schemas/amazon.billing.daily/1.0.0.json","change":"revised","partitionkey":"111122223333/daily/2023-01-27/amazon-relational-database-service","revision":2,"data":{"date":"2023-01-27","service":"Amazon Relational Database Service","amortizedCost":{"amount":"0.2672917174","unit":"USD"},"unblendedCost":{"amount":"0.2672917174","unit":"USD"},"granularity":"DAILY","periodStart":"2023-01-27T00:00:00Z","periodEnd":"2023-01-28T00:00:00Z","accountId":"111122223333","estimated":true,"previous":{"amortizedCost":{"amount":"0.21","unit":"USD"},"unblendedCost":{"amount":"0.21","unit":"USD"},"estimated":true}}}"#);
    }

    #[test]
    fn an_hourly_event_with_a_named_group() {
        let mut scope = scope();
        scope.group_by = Some(GroupBy::Dimension("LINKED_ACCOUNT".to_owned()));
        let factory = EventFactory::new(scope, "acme.cost");
        let mut change = change("2023-01-27T13", "AWS Lambda");
        change.key.group = Some("444455556666");
        change.kind = ChangeKind::New;
        change.previous = None;
        change.revision = 1;
        let names = BTreeMap::from([("444455556666".to_owned(), "payments".to_owned())]);
        let event = factory.event(&change, &names);
        assert_eq!(event.ty(), "acme.cost.hourly");
        let json = String::from_utf8(structured_json(event).unwrap()).unwrap();
        insta::assert_snapshot!(json, @r#"{"specversion":"1.0","id":"308d991f-3ec8-5ea0-b670-250d8f48b636","source":"cloud.amazon.billing","type":"acme.cost.hourly","subject":"2023-01-27T13/aws-lambda-37e22690b3/444455556666-8aeee14dfb","time":"2023-01-28T06:11:10Z","datacontenttype":"application/json","dataschema":"https://amazon-billing-source.github.io/schemas/amazon.billing.hourly/1.0.0.json","change":"new","partitionkey":"111122223333/hourly/2023-01-27T13/aws-lambda-37e22690b3/444455556666-8aeee14dfb","revision":1,"data":{"date":"2023-01-27T13:00:00Z","service":"AWS Lambda","amortizedCost":{"amount":"0.2672917174","unit":"USD"},"unblendedCost":{"amount":"0.2672917174","unit":"USD"},"granularity":"HOURLY","periodStart":"2023-01-27T13:00:00Z","periodEnd":"2023-01-27T14:00:00Z","accountId":"111122223333","estimated":true,"groups":{"LINKED_ACCOUNT":"444455556666"},"groupNames":{"LINKED_ACCOUNT":"payments"}}}"#);
    }

    /// An id is a version 5 UUID over what `serde_json` writes, letter for letter.
    #[test]
    fn ids_are_over_the_documented_array() {
        let texts = ["Tax", "a \"b\" \\ \n\u{1} €", ""];
        for (group_by, filter) in
            [(None, None), (Some(GroupBy::Tag("te\"am".to_owned())), Some("{}".to_owned()))]
        {
            let scope = Scope { group_by, filter, ..scope() };
            let factory = EventFactory::new(scope.clone(), "amazon.billing");
            for (service, group) in texts.iter().zip([None, Some("x\\"), Some("")]) {
                for text in ["0.50", "-1e-3", "12345678901234567890"] {
                    let mut change = change("2023-01-27T13", "Tax");
                    (change.key.service, change.key.group) = (service, group);
                    change.amounts = Cow::Owned(amounts(text));
                    let content = change.amounts.iter().map(|(metric, amount)| {
                        (metric.aws_name(), amount.value().normalize().to_string(), amount.unit())
                    });
                    let name = serde_json::to_vec(&(
                        &scope.source,
                        scope.segment(),
                        "hourly",
                        "2023-01-27T13",
                        service,
                        scope.group_by.as_ref().map(ToString::to_string),
                        group,
                        2,
                        content.collect::<Vec<_>>(),
                        true,
                        false,
                    ));
                    assert_eq!(factory.name(&change), name.unwrap());
                    assert_eq!(factory.id(&change).get_version_num(), 5);
                }
            }
        }
    }

    #[test]
    fn ids_follow_source_key_revision_and_content_and_nothing_else() {
        let factory = EventFactory::new(scope(), "amazon.billing");
        let base = change("2023-01-27", "Tax");
        let id = factory.id(&base);
        // The same content: written otherwise, observed at another time, after another figure.
        let mut same = base.clone();
        same.amounts = Cow::Owned(amounts("0.26729171740"));
        same.observed_at = "2024-01-01T00:00:00Z".parse().unwrap();
        same.previous = None;
        assert_eq!(factory.id(&same), id);
        let mut ids = vec![id];
        ids.push(factory.id(&Change { revision: 3, ..base.clone() }));
        ids.push(factory.id(&Change { estimated: false, ..base.clone() }));
        ids.push(factory.id(&Change { amounts: Cow::Owned(amounts("0.3")), ..base.clone() }));
        ids.push(factory.id(&Change { kind: ChangeKind::Removed, ..base.clone() }));
        ids.push(factory.id(&change("2023-01-28", "Tax")));
        ids.push(factory.id(&change("2023-01-27T00", "Tax")));
        ids.push(factory.id(&change("2023-01-27", "TAX")));
        let other = Scope { source: "other".to_owned(), ..scope() };
        ids.push(EventFactory::new(other, "amazon.billing").id(&base));
        let other = Scope { filter: Some("{}".to_owned()), ..scope() };
        ids.push(EventFactory::new(other, "amazon.billing").id(&base));
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
        // Pinned: a released id never changes.
        assert_eq!(id.to_string(), "4aff99f4-851a-57ad-99b1-aaef1ce1efc4");
    }
}
