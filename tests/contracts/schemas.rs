//! The schemas as files, and what can be asked of them.

use std::{error::Error, fs, path::Path};

use amazon_billing_source::event::SCHEMA_BASE;
use jsonschema::{Retrieve, Uri, Validator};
use serde_json::Value;

/// The folder that is published.
pub(crate) const TREE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas");

pub(crate) const EVENT: &str = "amazon.billing.event/1.0.0.json";
pub(crate) const DAILY: &str = "amazon.billing.daily/1.0.0.json";
pub(crate) const HOURLY: &str = "amazon.billing.hourly/1.0.0.json";
pub(crate) const CLOUDEVENTS: &str = "cloudevents.json";

/// Answers for the address the schemas are published at, out of the folder.
struct Published;

impl Retrieve for Published {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn Error + Send + Sync>> {
        let path = uri.as_str().strip_prefix(SCHEMA_BASE).ok_or_else(|| format!("`{uri}` is not ours"))?;
        Ok(serde_json::from_str(&fs::read_to_string(format!("{TREE}{path}"))?)?)
    }
}

/// A file of the folder.
pub(crate) fn schema(path: &str) -> Value {
    read(&Path::new(TREE).join(path))
}

pub(crate) fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Checks formats too, as a strict consumer would.
pub(crate) fn validator(schema: &Value) -> Validator {
    jsonschema::options()
        .with_base_uri(format!("{SCHEMA_BASE}/"))
        .with_retriever(Published)
        .should_validate_formats(true)
        .build(schema)
        .unwrap()
}

/// What a schema has against a value; empty where it is valid.
pub(crate) fn problems(validator: &Validator, value: &Value) -> Vec<String> {
    validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// The same schema with no member allowed that it does not name: an event with one is not
/// documented.
pub(crate) fn closed(mut schema: Value) -> Value {
    close(&mut schema);
    schema
}

fn close(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    for place in ["properties", "definitions"] {
        let Some(members) = object.get_mut(place).and_then(Value::as_object_mut) else { continue };
        for (name, member) in members {
            // In the schema of an event, `data` has a schema of its own.
            if name != "data" {
                close(member);
            }
        }
    }
    if object.contains_key("properties") && !object.contains_key("additionalProperties") {
        object.insert("additionalProperties".to_owned(), false.into());
    }
}

/// Every property a schema names, `previous.estimated` for one within another; figures as they are.
pub(crate) fn properties(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let Some(members) = schema["properties"].as_object() else { return found };
    for (name, member) in members {
        found.push(name.clone());
        if name != "data" {
            found.extend(properties(member).into_iter().map(|inner| format!("{name}.{inner}")));
        }
        if !member["allOf"].is_null() {
            found.extend(["amount", "unit"].map(|inner| format!("{name}.{inner}")));
        }
    }
    found
}
