//! The layers of the configuration: built-in defaults, files in order, environment; merged into one
//! tree in which every value knows where it comes from.
//!
//! Whether the keys are known and the values make sense is not looked at here.

use std::{collections::BTreeMap, fs, io, path::Path};

use config::{FileFormat, Format, Map, Value, ValueKind};
use serde_json::Value as Json;

use super::{BUILT_IN, VARIABLE_PREFIX, problem::Problems, show::is_secret_name};

/// A table of the tree.
pub(crate) type Table = Map<String, Value>;

/// Reads a file; problems where it cannot be read or is no TOML.
pub(crate) fn read_file(path: &Path, problems: &mut Problems) -> Option<Table> {
    let name = path.display().to_string();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let (problem, hint) = match error.kind() {
                io::ErrorKind::NotFound => (
                    "no such file".to_owned(),
                    Some("`--config` and `BILLING_SOURCE_CONFIG` are relative to the working directory"),
                ),
                io::ErrorKind::IsADirectory => (
                    "is a directory; expected a file".to_owned(),
                    Some("name each file with a `--config` of its own"),
                ),
                io::ErrorKind::PermissionDenied => ("may not be read by this user".to_owned(), None),
                io::ErrorKind::InvalidData => ("is not UTF-8 text".to_owned(), None),
                _ => (error.to_string(), None),
            };
            problems.push(name, problem, hint.map(str::to_owned));
            return None;
        }
    };
    read_text(&name, &text, problems)
}

/// Reads the text of a file; problems where it is no TOML.
pub(crate) fn read_text(name: &str, text: &str, problems: &mut Problems) -> Option<Table> {
    match FileFormat::Toml.parse(Some(&name.to_owned()), text) {
        Ok(table) => Some(table),
        Err(error) => {
            let (line, what) = syntax_error(&error.to_string());
            let place = line.map_or(name.to_owned(), |(line, column)| format!("{name}:{line}:{column}"));
            let hint = line.and_then(|(line, _)| text.lines().nth(line - 1)).and_then(number_hint);
            problems.push(place, format!("invalid TOML: {what}"), hint);
            None
        }
    }
}

/// Line, column and message of TOML's error text. The offending line it quotes is left out: it may
/// hold a secret.
fn syntax_error(text: &str) -> (Option<(usize, usize)>, String) {
    let Some(rest) = text.strip_prefix("TOML parse error at line ") else {
        return (None, text.trim().to_owned());
    };
    let mut lines = rest.lines();
    let position = lines.next().and_then(|first| {
        let (line, column) = first.split_once(", column ")?;
        Some((line.parse().ok()?, column.trim().parse().ok()?))
    });
    let message: Vec<_> = lines.skip(3).map(str::trim).filter(|line| !line.is_empty()).collect();
    (position, message.join("; "))
}

/// A number with leading zeros is no TOML, and most likely an account.
fn number_hint(line: &str) -> Option<String> {
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let rest = value[digits..].trim_start();
    let number = digits > 1 && value.starts_with('0') && (rest.is_empty() || rest.starts_with('#'));
    let text = || format!("quote it: `{key} = \"{}\"`", &value[..digits]);
    (number && !is_secret_name(key)).then(text)
}

/// The variables `BILLING_SOURCE__SECTION__KEY`, each a tree of one value.
pub(crate) fn read_environment(
    environment: impl IntoIterator<Item = (String, String)>,
    problems: &mut Problems,
) -> Vec<Table> {
    let ours: BTreeMap<_, _> =
        environment.into_iter().filter(|(name, _)| name.starts_with(VARIABLE_PREFIX)).collect();
    let mut layers = Vec::new();
    for (name, text) in ours {
        let path = name[VARIABLE_PREFIX.len()..].to_ascii_lowercase();
        let segments: Vec<_> = path.split("__").collect();
        if segments[0] == "connections" {
            problems.add_hint(
                name,
                "the environment cannot reach into the list `connections`",
                "set it in a file; a secret can stay outside of it with `secret_access_key_file` or `profile`",
            );
        } else if segments.len() < 2 || segments.iter().any(|segment| segment.is_empty()) {
            problems.add_hint(name, "names no key", "write `BILLING_SOURCE__SECTION__KEY`");
        } else {
            let leaf = Value::new(Some(&name), text);
            let value = segments.iter().skip(1).rev().fold(leaf, |value, segment| {
                Value::new(Some(&name), Table::from_iter([((*segment).to_owned(), value)]))
            });
            layers.push(Table::from_iter([(segments[0].to_owned(), value)]));
        }
    }
    layers
}

/// The built-in defaults as a layer.
pub(crate) fn built_in(json: Json) -> Value {
    let kind = match json {
        Json::Null => ValueKind::Nil,
        Json::Bool(value) => value.into(),
        Json::Number(number) => number.as_i64().map_or(ValueKind::Nil, ValueKind::from),
        Json::String(text) => text.into(),
        Json::Array(items) => ValueKind::Array(items.into_iter().map(built_in).collect()),
        Json::Object(members) => {
            ValueKind::Table(members.into_iter().map(|(key, value)| (key, built_in(value))).collect())
        }
    };
    Value::new(Some(&BUILT_IN.to_owned()), kind)
}

/// Lays `over` on `under`: tables are merged key by key, everything else is replaced, lists too.
pub(crate) fn merge(under: &mut Value, mut over: Value) {
    if let (ValueKind::Table(under), ValueKind::Table(over)) = (&mut under.kind, &mut over.kind) {
        for (key, value) in std::mem::take(over) {
            match under.get_mut(&key) {
                Some(existing) => merge(existing, value),
                None => {
                    under.insert(key, value);
                }
            }
        }
        return;
    }
    *under = over;
}
