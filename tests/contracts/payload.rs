//! What is emitted passes, and what is not as emitted fails.

use std::collections::BTreeSet;

use amazon_billing_source::{
    cost::{CostMetric, Granularity},
    event::{SCHEMA_BASE, schema_url},
};
use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    events::{self, database, function, histories, sample},
    mutants::{Part, mutants},
    schemas::{CLOUDEVENTS, DAILY, EVENT, HOURLY, closed, problems, properties, schema, validator},
};

/// The schemas of an event and of its data, as published and with nothing allowed beside them.
struct Contracts {
    cloudevents: Validator,
    event: [Validator; 2],
    daily: [Validator; 2],
    hourly: [Validator; 2],
}

impl Contracts {
    fn read() -> Self {
        let both = |path| [validator(&schema(path)), validator(&closed(schema(path)))];
        Self {
            cloudevents: validator(&schema(CLOUDEVENTS)),
            event: both(EVENT),
            daily: both(DAILY),
            hourly: both(HOURLY),
        }
    }

    /// The schemas of `data`, by what the event itself says.
    fn data(&self, event: &Value) -> &[Validator; 2] {
        let named = event["dataschema"].as_str().unwrap();
        match named.strip_prefix(SCHEMA_BASE).and_then(|path| path.strip_prefix('/')) {
            Some(DAILY) => &self.daily,
            Some(HOURLY) => &self.hourly,
            _ => panic!("there is no file for `{named}`"),
        }
    }

    fn problems(&self, event: &Value) -> Vec<String> {
        let mut found = problems(&self.cloudevents, event);
        for validator in &self.event {
            found.extend(problems(validator, event));
        }
        for validator in self.data(event) {
            found.extend(problems(validator, &event["data"]));
        }
        found
    }
}

#[test]
fn every_event_meets_its_schemas_and_has_nothing_they_do_not_name() {
    let contracts = Contracts::read();
    proptest!(|(history in histories())| {
        for event in history.json() {
            prop_assert_eq!(contracts.problems(&event), Vec::<String>::new(), "{:#}", event);
        }
    });
}

/// Every figure of the schemas is one of ours, and every metric has its place in them.
#[test]
fn every_property_of_the_schemas_is_emitted() {
    let mut missing: BTreeSet<(&str, String)> = BTreeSet::new();
    for path in [EVENT, DAILY, HOURLY] {
        missing.extend(properties(&schema(path)).into_iter().map(|property| (path, property)));
    }
    for metric in CostMetric::ALL {
        for path in [DAILY, HOURLY] {
            assert!(missing.contains(&(path, metric.member_name().to_owned())), "{path} {metric}");
            assert!(
                missing.contains(&(path, format!("previous.{}", metric.member_name()))),
                "{path} {metric}"
            );
        }
    }
    let mut changes = BTreeSet::new();
    for event in sample(300).iter().flat_map(events::History::json) {
        let path = if event["data"]["granularity"] == "DAILY" { DAILY } else { HOURLY };
        missing.retain(|(of, property)| {
            let whole = if *of == EVENT { &event } else { &event["data"] };
            let found = whole.pointer(&format!("/{}", property.replace('.', "/")));
            !(found.is_some() && (*of == EVENT || *of == path))
        });
        changes.insert((path, event["change"].as_str().unwrap().to_owned()));
    }
    assert_eq!(missing, BTreeSet::new());
    assert_eq!(changes.len(), 6, "new, revised and removed of both: {changes:?}");
}

#[test]
fn what_differs_from_an_event_fails() {
    let contracts = Contracts::read();
    let [open, _] = &contracts.event;
    let mut kinds = BTreeSet::new();
    let mut passed = BTreeSet::new();
    for event in sample(30).iter().flat_map(events::History::json) {
        let [data, _] = contracts.data(&event);
        for mutant in mutants(&event) {
            // The whole event's schema sees it, and where it is in `data`, that one's alone.
            let mut seen = !open.is_valid(&mutant.event);
            if mutant.part == Part::Data {
                seen &= !data.is_valid(&mutant.event["data"]);
            }
            if !seen {
                passed.insert(mutant.name.clone());
            }
            kinds.insert(mutant.name);
        }
    }
    assert_eq!(passed, BTreeSet::new(), "these passed");
    // Every member that is required was dropped, and of every type one with another.
    for path in [DAILY, EVENT] {
        for required in schema(path)["required"].as_array().unwrap() {
            let part = if path == EVENT { "" } else { "data." };
            let dropped = format!("without {part}{}", required.as_str().unwrap());
            assert!(kinds.contains(&dropped), "{dropped}");
        }
    }
    assert!(kinds.len() > 120, "{}", kinds.len());
}

/// The promise to consumers: what is added within version 1 is no fault.
#[test]
fn what_is_added_later_passes() {
    let contracts = Contracts::read();
    let [open, closed] = &contracts.event;
    for mut event in [database(), function()].iter().flat_map(events::History::json) {
        event["severity"] = json!("new");
        event["data"]["recordType"] = json!({ "name": "Usage" });
        event["data"]["unblendedCost"]["rounded"] = json!(true);
        assert_eq!(problems(open, &event), Vec::<String>::new());
        assert_eq!(problems(&contracts.cloudevents, &event), Vec::<String>::new());
        let [open, closed_data] = contracts.data(&event);
        assert_eq!(problems(open, &event["data"]), Vec::<String>::new());
        // The control: those that allow nothing do see it.
        assert!(!closed.is_valid(&event) && !closed_data.is_valid(&event["data"]));
    }
}

/// The base schema tells an event from what is none, too.
#[test]
fn the_schema_of_cloudevents_sees_what_it_can() {
    let cloudevents = validator(&schema(CLOUDEVENTS));
    let event = database().json().remove(0);
    assert!(cloudevents.is_valid(&event));
    for (name, value) in [
        ("id", json!("")),
        ("id", json!(7)),
        ("source", json!("not a uri %%")),
        ("specversion", json!(1.0)),
        ("time", json!("yesterday")),
        ("dataschema", json!("1.0.0.json")),
        ("subject", json!("")),
    ] {
        let mut other = event.clone();
        other[name] = value;
        assert!(!cloudevents.is_valid(&other), "{name} {}", other[name]);
    }
    for required in ["id", "source", "specversion", "type"] {
        let mut other = event.clone();
        other.as_object_mut().unwrap().remove(required);
        assert!(!cloudevents.is_valid(&other), "{required}");
    }
}

#[test]
fn days_and_hours_have_one_schema_but_for_their_periods() {
    let plain = |path| {
        let mut schema = schema(path);
        for name in ["$id", "title", "description", "examples"] {
            schema.as_object_mut().unwrap().remove(name);
        }
        for name in ["date", "granularity", "periodStart", "periodEnd"] {
            schema["properties"].as_object_mut().unwrap().remove(name).unwrap();
        }
        schema
    };
    assert_eq!(plain(DAILY), plain(HOURLY));
}

#[test]
fn dataschema_is_the_id_of_a_file_of_draft_07() {
    for (granularity, path) in [(Granularity::Daily, DAILY), (Granularity::Hourly, HOURLY)] {
        let schema = schema(path);
        assert_eq!(schema["$id"], schema_url(granularity).as_str());
        assert_eq!(schema_url(granularity).as_str(), format!("{SCHEMA_BASE}/{path}"));
        assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
        assert!(jsonschema::draft7::meta::is_valid(&schema));
    }
    let schema = schema(EVENT);
    assert_eq!(schema["$id"], format!("{SCHEMA_BASE}/{EVENT}"));
    assert!(jsonschema::draft7::meta::is_valid(&schema));
}

#[test]
fn the_examples_in_the_schemas_are_emitted_events() {
    let [database, function] = [database(), function()].map(|history| history.json());
    for (path, expected) in [
        (DAILY, database.iter().map(|event| event["data"].clone()).collect::<Vec<_>>()),
        (HOURLY, function.iter().map(|event| event["data"].clone()).collect()),
        (EVENT, vec![database[1].clone(), function[0].clone(), function[1].clone()]),
    ] {
        assert_eq!(schema(path)["examples"], json!(expected), "{path}: {:#}", json!(expected));
    }
}
