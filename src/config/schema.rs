//! The JSON Schema of the configuration, generated from the settings.
//!
//! It knows shapes and simple bounds only: the rules that cross keys are `check`'s.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::settings::Settings;

/// The JSON Schema of a configuration file, as kept in `config/billing-source.schema.json`.
pub fn json_schema() -> Value {
    let generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let mut schema = generator.into_root_schema_for::<Settings>().to_value();
    schema["title"] = "Amazon Billing Source".into();
    tidy(&mut schema);
    schema
}

/// TOML has no null: an optional key may be left out, but not be null. Nor are formats such as
/// `uint32` any use to an editor.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(members) => {
            if let Some(Value::Array(types)) = members.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    members.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(choices)) = members.get_mut("anyOf") {
                choices.retain(|choice| choice["type"] != "null");
                if let [Value::Object(only)] = choices.as_slice() {
                    let only = only.clone();
                    members.shift_remove("anyOf");
                    members.extend(only);
                }
            }
            if members.get("default").is_some_and(Value::is_null) {
                members.shift_remove("default");
            }
            if members
                .get("format")
                .is_some_and(|format| format.as_str().is_some_and(|f| f.starts_with("uint")))
            {
                members.shift_remove("format");
            }
            members.values_mut().for_each(tidy);
        }
        _ => {}
    }
}
