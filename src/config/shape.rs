//! The merged tree held against the JSON Schema: unknown keys, wrong types, numbers out of bounds;
//! all of them, where serde would stop at the first.
//!
//! What is wrong is left out of the result, so that the rest can still be checked. Patterns and
//! enumerations of the schema are for editors; `check` judges them in its own words.

use config::{Value, ValueKind};
use serde_json::{Map, Value as Json, json};

use super::{
    BUILT_IN, VARIABLE_PREFIX,
    layers::Table,
    problem::{Problems, nearest, suggestion},
    show::{REDACTED, ShownValue, is_secret_name, without_user},
};

/// Holds a tree against a schema.
pub(crate) struct Shape<'a> {
    root: &'a Json,
    problems: &'a mut Problems,
    shown: Vec<ShownValue>,
}

/// The tree as JSON that fits the schema, and every value of it for showing.
pub(crate) fn fit(tree: &Value, schema: &Json, problems: &mut Problems) -> (Json, Vec<ShownValue>) {
    let mut shape = Shape { root: schema, problems, shown: Vec::new() };
    let json = shape.value(tree, schema, "").unwrap_or_else(|| json!({}));
    (json, shape.shown)
}

impl Shape<'_> {
    /// The value, or `None` and a problem.
    fn value(&mut self, value: &Value, schema: &Json, key: &str) -> Option<Json> {
        let schema = resolve(self.root, schema);
        let origin = value.origin().unwrap_or(BUILT_IN);
        if origin != BUILT_IN {
            self.problems.origin(key, origin);
        }
        let expected = schema["type"].as_str().unwrap_or("anything");
        match (expected, &value.kind) {
            ("object", ValueKind::Table(table)) => Some(self.table(table, schema, key)),
            ("array", ValueKind::Array(items)) => Some(self.list(items, schema, key, origin)),
            // The environment has no lists: a list of texts is written with commas.
            ("array", ValueKind::String(text)) if origin.starts_with(VARIABLE_PREFIX) => {
                let items: Vec<_> = text
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(|item| Value::new(Some(&origin.to_owned()), item))
                    .collect();
                Some(self.list(&items, schema, key, origin))
            }
            ("anything", _) => {
                let json = any(value);
                self.show(value, key, is_secret_name(key));
                Some(json)
            }
            _ => {
                let Some(json) = scalar(expected, value, origin) else {
                    self.wrong_type(value, schema, key);
                    return None;
                };
                if let Some(problem) = out_of_bounds(&json, schema) {
                    self.problems.add(key, problem);
                    return None;
                }
                self.show(value, key, schema["writeOnly"] == true || is_secret_name(key));
                if let Some(last) = self.shown.last_mut()
                    && last.key == key
                    && !json.is_string()
                {
                    last.value = json.clone();
                }
                Some(json)
            }
        }
    }

    fn table(&mut self, table: &Table, schema: &Json, key: &str) -> Json {
        let mut members = Map::new();
        let nothing = Map::new();
        let known = schema["properties"].as_object().unwrap_or(&nothing);
        for (name, schema) in known {
            if let Some(value) = table.get(name)
                && let Some(json) = self.value(value, schema, &join(key, name))
            {
                members.insert(name.clone(), json);
            }
        }
        let mut others: Vec<_> = table.iter().filter(|(name, _)| !known.contains_key(*name)).collect();
        others.sort_by_key(|(name, _)| *name);
        for (name, value) in others {
            let path = join(key, name);
            if schema["additionalProperties"] == false {
                self.unknown(name, value, key, &known.keys().map(String::as_str).collect::<Vec<_>>());
            } else if let Some(json) = self.value(value, &schema["additionalProperties"], &path) {
                members.insert(name.clone(), json);
            }
        }
        Json::Object(members)
    }

    fn unknown(&mut self, name: &str, value: &Value, table: &str, known: &[&str]) {
        let path = join(table, name);
        if let Some(origin) = value.origin() {
            self.problems.origin(&path, origin);
        }
        let elsewhere = || {
            let sections = self.root["properties"].as_object()?;
            let homes: Vec<_> = sections
                .iter()
                .filter(|(_, schema)| !resolve(self.root, schema)["properties"][name].is_null())
                .collect();
            match homes.as_slice() {
                [(section, _)] => Some(format!("it belongs in `[{section}]`")),
                _ => None,
            }
        };
        let hint = match nearest(name, known.iter().copied()) {
            Some(meant) => {
                self.problems.meant(join(table, meant));
                format!("did you mean `{meant}`?")
            }
            None => elsewhere().unwrap_or_else(|| suggestion(name, known).0),
        };
        self.problems.add_hint(path, "unknown key", hint);
    }

    fn list(&mut self, items: &[Value], schema: &Json, key: &str, origin: &str) -> Json {
        let of_texts = resolve(self.root, &schema["items"])["type"] == "string";
        let before = self.shown.len();
        let mut list = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let json = self.value(item, &schema["items"], &format!("{key}[{index}]"));
            // An element that is no table or text leaves its place empty, so that indexes stay true.
            list.push(json.unwrap_or_else(|| if of_texts { Json::Null } else { json!({}) }));
        }
        if of_texts {
            list.retain(|item| !item.is_null());
            self.shown.truncate(before);
            self.shown.push(ShownValue {
                key: key.to_owned(),
                value: without_user(Json::Array(list.clone())),
                origin: origin.to_owned(),
            });
        }
        Json::Array(list)
    }

    fn wrong_type(&mut self, value: &Value, schema: &Json, key: &str) {
        let found = match &value.kind {
            ValueKind::Nil => "nothing",
            ValueKind::Boolean(_) => "a boolean",
            ValueKind::Float(_) => "a number with a fraction",
            ValueKind::String(_) => "text",
            ValueKind::Table(_) => "a table",
            ValueKind::Array(_) => "a list",
            _ => "a number",
        };
        let items = resolve(self.root, &schema["items"])["type"].as_str();
        let example =
            schema["examples"][0].as_str().map(|example| format!("quote it, as in `\"{example}\"`"));
        let (expected, hint) = match (schema["type"].as_str().unwrap_or_default(), found) {
            ("string", "a number" | "a number with a fraction" | "a boolean") => {
                ("text", Some(example.as_deref().unwrap_or("quote it")))
            }
            ("string", _) => ("text", None),
            ("integer", "text") => ("a whole number", Some("write it without quotes")),
            ("integer", _) => ("a whole number", None),
            ("boolean", _) => ("`true` or `false`", None),
            ("array", "a table") => ("a list of tables", Some("write `[[connections]]`, in two brackets")),
            ("array", "text") if items == Some("string") => {
                ("a list of texts", Some("put it in brackets: `[\"...\"]`"))
            }
            ("array", _) if items == Some("object") => ("a list of tables", None),
            ("array", _) => ("a list of texts", None),
            _ => ("a table", None),
        };
        let from_environment = value.origin().is_some_and(|origin| origin.starts_with(VARIABLE_PREFIX));
        let hint = hint.filter(|_| !from_environment).map(str::to_owned);
        self.problems.push(key.to_owned(), format!("is {found}; expected {expected}"), hint);
    }

    /// Notes a value, leaf by leaf, for `config show`.
    fn show(&mut self, value: &Value, key: &str, secret: bool) {
        if let ValueKind::Table(table) = &value.kind {
            let mut members: Vec<_> = table.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            for (name, value) in members {
                self.show(value, &join(key, name), secret || is_secret_name(name));
            }
            return;
        }
        let shown = if secret { REDACTED.into() } else { without_user(any(value)) };
        let origin = value.origin().unwrap_or(BUILT_IN).to_owned();
        self.shown.push(ShownValue { key: key.to_owned(), value: shown, origin });
    }
}

/// A text, number or boolean of the expected type; from the environment everything is a text.
fn scalar(expected: &str, value: &Value, origin: &str) -> Option<Json> {
    let environment = origin.starts_with(VARIABLE_PREFIX);
    match (expected, &value.kind) {
        ("string", ValueKind::String(text)) => Some(text.as_str().into()),
        ("integer", ValueKind::I64(number)) => Some((*number).into()),
        ("integer", ValueKind::String(text)) if environment => {
            text.trim().parse::<i64>().ok().map(Json::from)
        }
        ("boolean", ValueKind::Boolean(truth)) => Some((*truth).into()),
        ("boolean", ValueKind::String(text)) if environment => {
            text.trim().parse::<bool>().ok().map(Json::from)
        }
        _ => None,
    }
}

/// Any value as JSON.
pub(crate) fn any(value: &Value) -> Json {
    match &value.kind {
        ValueKind::Nil => Json::Null,
        ValueKind::Boolean(truth) => (*truth).into(),
        ValueKind::I64(number) => (*number).into(),
        ValueKind::U64(number) => (*number).into(),
        ValueKind::Float(number) => (*number).into(),
        ValueKind::String(text) => text.as_str().into(),
        ValueKind::Array(items) => items.iter().map(any).collect(),
        ValueKind::Table(table) => table.iter().map(|(key, value)| (key.clone(), any(value))).collect(),
        other => other.to_string().into(),
    }
}

fn out_of_bounds(json: &Json, schema: &Json) -> Option<String> {
    let number = json.as_i64()?;
    let min = schema["minimum"].as_i64().filter(|min| number < *min);
    let max = schema["maximum"].as_i64().filter(|max| number > *max);
    min.map(|min| format!("`{number}` is too small; at least {min}"))
        .or_else(|| max.map(|max| format!("`{number}` is too large; at most {max}")))
}

/// Follows `$ref` into the definitions.
fn resolve<'a>(root: &'a Json, schema: &'a Json) -> &'a Json {
    match schema["$ref"].as_str().and_then(|reference| root.pointer(reference.trim_start_matches('#'))) {
        Some(definition) => definition,
        None => schema,
    }
}

fn join(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}
