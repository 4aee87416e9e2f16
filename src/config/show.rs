//! The configuration in force, for people and for programs, with the origin of every value.
//!
//! Secrets never get this far: they are `[redacted]` before a value is noted.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value as Json;

use super::Loaded;

/// What stands in place of a secret.
pub(crate) const REDACTED: &str = "[redacted]";

/// A value in force and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShownValue {
    /// Its key, such as `connections[0].name`.
    pub key: String,
    /// As written, a secret as `[redacted]`.
    pub value: Json,
    /// `built-in default`, a file's path or a variable's name.
    pub origin: String,
}

/// The values in force: an aligned table, or one JSON object a line.
pub fn show(loaded: &Loaded, json: bool) -> String {
    let mut text = String::new();
    if json {
        for shown in &loaded.shown {
            text.push_str(&serde_json::to_string(shown).expect("texts and JSON values are JSON"));
            text.push('\n');
        }
        return text;
    }
    let rows: Vec<_> =
        loaded.shown.iter().map(|shown| (&shown.key, shown.value.to_string(), &shown.origin)).collect();
    let keys = rows.iter().map(|(key, ..)| key.chars().count()).max().unwrap_or(0);
    let values = rows.iter().map(|(_, value, _)| value.chars().count()).max().unwrap_or(0);
    for (key, value, origin) in rows {
        writeln!(text, "{key:keys$}  {value:values$}  {origin}").expect("a string takes everything");
    }
    text
}

/// Whether a key is a secret by its name: what is passed through to other programs has no schema.
/// The path of a file is none, nor is where tokens are had.
pub(crate) fn is_secret_name(key: &str) -> bool {
    const WORDS: [&str; 9] = [
        "secret",
        "password",
        "passphrase",
        "token",
        "seed",
        "private_key",
        "key.pem",
        "jaas",
        "oauthbearer.config",
    ];
    let key = key.to_ascii_lowercase();
    !key.ends_with("_file") && !key.ends_with("_endpoint") && WORDS.iter().any(|word| key.contains(word))
}

/// A URL without its `user:password@`; every text of a list, too. A password may hold a `/` that was
/// not encoded, so everything up to the last `@` is taken.
pub(crate) fn without_user(value: Json) -> Json {
    match value {
        Json::String(text) => match text.split_once("://") {
            Some((scheme, rest)) => match rest.rfind('@') {
                Some(at) => format!("{scheme}://{REDACTED}{}", &rest[at..]).into(),
                None => Json::String(text),
            },
            None => Json::String(text),
        },
        Json::Array(items) => items.into_iter().map(without_user).collect(),
        other => other,
    }
}
