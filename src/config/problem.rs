//! What is wrong with a configuration: every problem with its key and, where one is known, its fix.
//!
//! No value of a secret key may ever be put into a problem; what is put in is printed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, `connections[1].granularity`, or the file where no key can be named.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
    /// How to put it right.
    pub hint: Option<String>,
    /// The file or variable it comes from, where that is not plain.
    pub origin: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // "transport.kind is `nats` but ..." reads on from the key; other problems stand alone.
        let separator = if self.problem.starts_with("is ") { "" } else { ":" };
        write!(f, "{}{separator} {}", self.key, self.problem)?;
        if let Some(origin) = &self.origin {
            write!(f, " (from `{origin}`)")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n    hint: {hint}")?;
        }
        Ok(())
    }
}

/// A configuration that cannot be used, with all its problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The files that were read, and `the environment` where it set anything.
    pub sources: Vec<String>,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "invalid configuration: {count} {}", if count == 1 { "problem" } else { "problems" })?;
        for (index, source) in self.sources.iter().enumerate() {
            let before = if index == 0 { " in " } else { ", " };
            if source == super::ENVIRONMENT {
                write!(f, "{before}{source}")?;
            } else {
                write!(f, "{before}`{source}`")?;
            }
        }
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

/// A value that was refused: its problem was added.
#[derive(Debug)]
pub(crate) struct Refused;

/// Problems as they are found.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: Vec<Problem>,
    /// Keys that somebody wrote, if wrongly: they are not also reported as missing.
    attempted: BTreeSet<String>,
    /// Where each written key comes from.
    origins: BTreeMap<String, String>,
}

impl Problems {
    /// Adds a problem without a fix.
    pub(crate) fn add(&mut self, key: impl Into<String>, problem: impl Into<String>) {
        self.push(key.into(), problem.into(), None);
    }

    /// Adds a problem and its fix.
    pub(crate) fn add_hint(
        &mut self,
        key: impl Into<String>,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push(key.into(), problem.into(), Some(hint.into()));
    }

    /// Adds a problem with a fix only where one is known.
    pub(crate) fn push(&mut self, key: String, problem: String, hint: Option<String>) {
        self.attempted.insert(key.clone());
        self.found.push(Problem { key, problem, hint, origin: None });
    }

    /// Notes that a misspelt key was meant as this one.
    pub(crate) fn meant(&mut self, key: String) {
        self.attempted.insert(key);
    }

    /// Notes where a written key comes from.
    pub(crate) fn origin(&mut self, key: &str, origin: &str) {
        self.origins.insert(key.to_owned(), origin.to_owned());
    }

    /// Whether the key was written, if wrongly.
    pub(crate) fn attempted(&self, key: &str) -> bool {
        self.attempted.contains(key)
    }

    /// Whether the key or anything in it was written wrongly.
    pub(crate) fn attempted_within(&self, key: &str) -> bool {
        let inside = |other: &String| {
            other.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.attempted.iter().any(inside)
    }

    /// How many were found so far.
    pub(crate) fn count(&self) -> usize {
        self.found.len()
    }

    /// Whether nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The error, the problems in the order of the documented keys.
    pub(crate) fn into_error(self, sources: Vec<String>, files: usize) -> ConfigError {
        let Self { mut found, origins, .. } = self;
        for problem in &mut found {
            problem.origin = origin_of(&origins, &problem.key)
                .filter(|origin| files > 1 || origin.starts_with(super::VARIABLE_PREFIX))
                .cloned();
        }
        found.sort_by_key(|problem| rank(&problem.key));
        ConfigError { sources, problems: found }
    }
}

/// The origin of a key, or of the nearest key around it that was written.
fn origin_of<'a>(origins: &'a BTreeMap<String, String>, key: &str) -> Option<&'a String> {
    let mut key = key;
    loop {
        if let Some(origin) = origins.get(key) {
            return Some(origin);
        }
        key = &key[..key.rfind(['.', '['])?];
    }
}

/// Files first, then sections in the documented order, connections by their index.
fn rank(key: &str) -> (usize, usize) {
    const SECTIONS: [&str; 9] =
        ["source", "poll", "budget", "connections", "transport", "local", "kafka", "nats", "admin"];
    let end = key.find(['.', '[']).unwrap_or(key.len());
    let section = SECTIONS.iter().position(|section| *section == &key[..end]).map_or(0, |index| index + 1);
    let index = key[end..].strip_prefix('[').and_then(|rest| rest.split(']').next()?.parse().ok());
    (section, index.unwrap_or(0))
}

/// The candidate that somebody who wrote `text` most likely meant.
pub(crate) fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['_', '-', ' '], "");
    let written = plain(text);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&written, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| distance * 3 <= candidate.len().min(text.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// "did you mean `x`?", or else what there is to choose from.
pub(crate) fn suggestion<'a>(text: &str, candidates: &[&'a str]) -> (String, Option<&'a str>) {
    match nearest(text, candidates.iter().copied()) {
        Some(candidate) => (format!("did you mean `{candidate}`?"), Some(candidate)),
        None => (format!("there is {}", listed(candidates, "and")), None),
    }
}

/// "`a`, `b` or `c`".
pub(crate) fn listed(items: &[&str], conjunction: &str) -> String {
    match items {
        [] => "nothing".to_owned(),
        [only] => format!("`{only}`"),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(|item| format!("`{item}`")).collect();
            format!("{} {conjunction} `{last}`", first.join(", "))
        }
    }
}
