//! Whether a schema may follow another within one major version.
//!
//! | may differ | must not |
//! |---|---|
//! | titles, descriptions, examples, comments | which members are required |
//! | properties and definitions that are added | properties that were there, and what they allow |
//!
//! So events of any version 1.x meet any schema 1.y: an old consumer reads new events, and a new
//! one reads old events when it replays them.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Keywords that check nothing.
const ANNOTATIONS: [&str; 5] = ["$id", "$comment", "title", "description", "examples"];

/// What in `new` breaks the promise of `old`; empty where nothing does.
pub(crate) fn breaks(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", old, new, &mut found);
    found
}

fn compare(place: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else {
        if old != new {
            found.push(format!("{place}: {old} became {new}"));
        }
        return;
    };
    let keywords: BTreeSet<_> = old.keys().chain(new.keys()).map(String::as_str).collect();
    for keyword in keywords {
        let at = format!("{place}/{keyword}");
        match (keyword, old.get(keyword), new.get(keyword)) {
            (keyword, ..) if ANNOTATIONS.contains(&keyword) => {}
            ("properties" | "definitions", Some(old), new) => members(&at, old, new, found),
            // What is only added.
            ("properties" | "definitions", None, Some(_)) => {}
            ("required", old, new) => {
                let names = |list: Option<&Value>| -> BTreeSet<String> {
                    let list = list.and_then(Value::as_array).into_iter().flatten();
                    list.map(ToString::to_string).collect()
                };
                let (old, new) = (names(old), names(new));
                found.extend(old.difference(&new).map(|name| format!("{at}: {name} is required no more")));
                found.extend(new.difference(&old).map(|name| format!("{at}: {name} became required")));
            }
            (_, Some(old), Some(new)) if plain(old) == plain(new) => {}
            (_, Some(old), Some(new)) => found.push(format!("{at}: {old} became {new}")),
            (_, Some(old), None) => found.push(format!("{at}: {old} is gone")),
            (_, None, Some(new)) => found.push(format!("{at}: {new} was added")),
            (_, None, None) => {}
        }
    }
}

fn members(at: &str, old: &Value, new: Option<&Value>, found: &mut Vec<String>) {
    let none = Map::new();
    let new = new.and_then(Value::as_object).unwrap_or(&none);
    for (name, old) in old.as_object().unwrap_or(&none) {
        match new.get(name) {
            Some(new) => compare(&format!("{at}/{name}"), old, new, found),
            None => found.push(format!("{at}/{name}: is gone")),
        }
    }
}

/// Without what checks nothing, at any depth.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(name, _)| !ANNOTATIONS.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), plain(value)))
            .collect(),
        Value::Array(items) => items.iter().map(plain).collect(),
        other => other.clone(),
    }
}
