//! Events with one thing wrong each.

use serde_json::{Value, json};

/// Where the fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// In an attribute, or between attributes and data.
    Event,
    /// In `data`, where its own schema must see it.
    Data,
}

#[derive(Clone, Debug)]
pub(crate) struct Mutant {
    /// What was done: the same for the same fault of another event.
    pub(crate) name: String,
    pub(crate) part: Part,
    pub(crate) event: Value,
}

/// Every fault the event has a place for.
pub(crate) fn mutants(event: &Value) -> Vec<Mutant> {
    let mut found = Vec::new();
    dropped(event, &mut found);
    retyped(event, &mut found);
    misformed(event, &mut found);
    contradictory(event, &mut found);
    found
}

fn push(found: &mut Vec<Mutant>, name: String, part: Part, event: Value) {
    found.push(Mutant { name, part, event });
}

/// The figures of a `data` or a `previous`, by member.
fn figures(members: &Value) -> Vec<String> {
    let members = members.as_object().unwrap();
    members.iter().filter(|(_, value)| value.get("amount").is_some()).map(|(name, _)| name.clone()).collect()
}

fn without(event: &Value, parent: &str, member: &str) -> Value {
    let mut event = event.clone();
    event.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(member).unwrap();
    event
}

fn with(event: &Value, pointer: &str, value: Value) -> Value {
    let mut event = event.clone();
    let (parent, member) = pointer.rsplit_once('/').unwrap();
    event.pointer_mut(parent).unwrap()[member] = value;
    event
}

fn dropped(event: &Value, found: &mut Vec<Mutant>) {
    for name in event.as_object().unwrap().keys() {
        push(found, format!("without {name}"), Part::Event, without(event, "", name));
    }
    for name in ["date", "service", "granularity", "periodStart", "periodEnd", "accountId", "estimated"] {
        push(found, format!("without data.{name}"), Part::Data, without(event, "/data", name));
    }
    for parent in ["/data", "/data/previous"] {
        let Some(members) = event.pointer(parent) else { continue };
        let mut none = event.clone();
        for figure in figures(members) {
            for member in ["amount", "unit"] {
                let mutant = without(event, &format!("{parent}/{figure}"), member);
                push(found, format!("without {parent}/{figure}/{member}"), Part::Data, mutant);
            }
            none = without(&none, parent, &figure);
        }
        push(found, format!("without a figure in {parent}"), Part::Data, none);
    }
    if event["data"].get("previous").is_some() {
        let mutant = without(event, "/data/previous", "estimated");
        push(found, "without previous.estimated".to_owned(), Part::Data, mutant);
    }
    if event["data"].get("groupNames").is_some() {
        push(found, "names without groups".to_owned(), Part::Data, without(event, "/data", "groups"));
    }
}

/// Each member as a value of every other type.
fn retyped(event: &Value, found: &mut Vec<Mutant>) {
    let values = [json!(null), json!(true), json!(7), json!(0.21), json!("text"), json!([]), json!({})];
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "a flag",
        Value::Number(number) if number.is_f64() => "a float",
        Value::Number(_) => "an integer",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    let mut places: Vec<_> = event.as_object().unwrap().keys().map(|name| format!("/{name}")).collect();
    places.extend(event["data"].as_object().unwrap().keys().map(|name| format!("/data/{name}")));
    for parent in ["/data", "/data/previous"] {
        let Some(members) = event.pointer(parent) else { continue };
        places.extend(
            figures(members)
                .iter()
                .flat_map(|figure| ["amount", "unit"].map(|member| format!("{parent}/{figure}/{member}"))),
        );
        places.extend(members.get("estimated").map(|_| format!("{parent}/estimated")));
    }
    for group in ["/data/groups", "/data/groupNames"] {
        if event.pointer(group).is_some() {
            places.push(format!("{group}/REGION"));
        }
    }
    for place in places {
        let was = event.pointer(&place).map(kind);
        for value in &values {
            if Some(kind(value)) != was && !(place.ends_with("/REGION") && value.is_string()) {
                let part = if place.starts_with("/data/") { Part::Data } else { Part::Event };
                let name = format!("{place} as {}", kind(value));
                push(found, name, part, with(event, &place, value.clone()));
            }
        }
    }
}

fn misformed(event: &Value, found: &mut Vec<Mutant>) {
    let hourly = event["data"]["granularity"] == "HOURLY";
    let other = if hourly { "2023-01-27" } else { "2023-01-27T13:00:00Z" };
    let half = if hourly { "2023-01-27T13:30:00Z" } else { "2023-01-27T13:00:00Z" };
    let instants =
        [half, "2023-01-27", "2023-01-27T00:00:00+01:00", "2023-02-30T00:00:00Z", "2023-01-27 00:00:00Z"];
    let mut texts = vec![
        ("/data/date", vec![other, "27.01.2023", "2023-1-27", "2023-02-30", ""]),
        (
            "/data/granularity",
            vec!["daily", "hourly", "MONTHLY", "", if hourly { "DAILY" } else { "HOURLY" }],
        ),
        ("/data/periodStart", instants.to_vec()),
        ("/data/periodEnd", instants.to_vec()),
        ("/data/accountId", vec!["11112222333", "1111222233334", "11112222333a", "1111-2222-3333", ""]),
        ("/specversion", vec!["0.3", "1.1", ""]),
        (
            "/id",
            vec!["", "7", "F10CD2AC-F985-5FD4-A739-21F3A3054650", "f10cd2ac-f985-4fd4-a739-21f3a3054650"],
        ),
        ("/source", vec!["", "not a uri %%"]),
        ("/type", vec!["", "amazon.billing", "daily", "amazon.billing.monthly", "amazon.billing.daily.v2"]),
        ("/subject", vec!["", "2023-01-27", "AWS Lambda", "2023-01-27/AWS Lambda", "2023-01/tax"]),
        (
            "/time",
            vec![
                "",
                "2023-01-28",
                "2023-01-28T06:11:10.5Z",
                "2023-01-28T06:11:10+00:00",
                "2023-01-28T26:11:10Z",
            ],
        ),
        ("/datacontenttype", vec!["", "text/plain", "application/cloudevents+json"]),
        ("/dataschema", vec!["", "1.0.0.json", "https://example.com/1.0.0.json"]),
        (
            "/partitionkey",
            vec!["", "111122223333", "main/daily/2023-01-27/tax", "111122223333/daily/2023-01-27/Tax"],
        ),
        ("/change", vec!["", "New", "changed", "deleted"]),
    ];
    for figure in figures(&event["data"]).iter().take(1) {
        let place = format!("/data/{figure}/amount");
        for text in
            ["", "1,5", "NaN", "Infinity", "0x10", "1_000", " 1", "1 USD", "--1", ".", "e5", "1e", "١"]
        {
            let name = format!("an amount `{text}`");
            push(found, name, Part::Data, with(event, &place, json!(text)));
        }
    }
    texts.retain(|(place, _)| event.pointer(place).is_some());
    for (place, values) in texts {
        for value in values {
            let part = if place.starts_with("/data/") { Part::Data } else { Part::Event };
            push(found, format!("{place} `{value}`"), part, with(event, place, json!(value)));
        }
    }
    for revision in [json!(0), json!(-1), json!(1.5), json!(2_147_483_648_i64), json!("1")] {
        push(found, format!("revision {revision}"), Part::Event, with(event, "/revision", revision));
    }
    for (name, groups) in [
        ("no group", json!({})),
        ("two groups", json!({ "REGION": "a", "AZ": "b" })),
        ("a group of no form", json!({ "team": "a" })),
        ("a tag without name", json!({ "TAG:": "a" })),
    ] {
        for member in ["groups", "groupNames"] {
            let mutant = with(event, &format!("/data/{member}"), groups.clone());
            push(found, format!("{name} in {member}"), Part::Data, mutant);
        }
    }
}

/// Every attribute in order by itself, but not together.
fn contradictory(event: &Value, found: &mut Vec<Mutant>) {
    let mut add = |name: &str, event: Value| push(found, name.to_owned(), Part::Event, event);
    let hourly = event["data"]["granularity"] == "HOURLY";
    let swap = |text: &str| {
        if hourly { text.replace("hourly", "daily") } else { text.replace("daily", "hourly") }
    };
    for attribute in ["type", "dataschema", "partitionkey"] {
        let text = swap(event[attribute].as_str().unwrap());
        add(
            &format!("{attribute} of the other granularity"),
            with(event, &format!("/{attribute}"), json!(text)),
        );
    }
    let subject = event["subject"].as_str().unwrap();
    let (period, rest) = subject.split_once('/').unwrap();
    let other = if hourly { &period[..10] } else { &format!("{period}T13") };
    add("subject of the other granularity", with(event, "/subject", json!(format!("{other}/{rest}"))));
    add("data as a text", with(event, "/data", json!(event["data"].to_string())));
    if event["change"] == "new" {
        let previous = json!({ "unblendedCost": { "amount": "1", "unit": "USD" }, "estimated": true });
        add("new with what was before", with(event, "/data/previous", previous));
        add("new of revision 2", with(event, "/revision", json!(2)));
    } else {
        add("changed without what was before", without(event, "/data", "previous"));
        add("changed in revision 1", with(event, "/revision", json!(1)));
    }
    if event["change"] == "removed" {
        for figure in figures(&event["data"]) {
            let place = format!("/data/{figure}/amount");
            add(&format!("removed with an amount of {figure}"), with(event, &place, json!("0.1")));
        }
    }
}
