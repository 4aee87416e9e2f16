//! `[kafka]`: its own keys, and what may be passed through to librdkafka beside them.
//!
//! The broker is not asked: what the topics are like is `check --connect`'s.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::Value as Json;

use super::{credentials::secret_file, kafka_login::login, not_one_of};
use crate::{
    config::{
        problem::Problems,
        settings::{KafkaSettings, Secret},
        types::{DeliveryMode, KafkaConfig, LostState, TransportConfig},
    },
    event::ContentMode,
};

/// What librdkafka may not be told, and why: there is a friendly key, or the guarantee rests on it.
const RESERVED: [(&str, &str); 19] = [
    ("bootstrap.servers", "set `kafka.bootstrap_servers`"),
    ("metadata.broker.list", "set `kafka.bootstrap_servers`"),
    ("transactional.id", "it is `<state_topic>.<scope>`: the fence against a second process"),
    ("enable.idempotence", "it is always on: without it the client's own retries make duplicates"),
    ("acks", "it is always `all`: less loses events that were acknowledged"),
    ("request.required.acks", "it is always `all`: less loses events that were acknowledged"),
    ("isolation.level", "the state is read committed, its end uncommitted: the proof of the end needs both"),
    ("transaction.timeout.ms", "it is 30 seconds: how long a hung transaction may hold up consumers"),
    ("group.id", "partitions are assigned by hand, there is no group"),
    ("group.instance.id", "partitions are assigned by hand, there is no group"),
    ("enable.auto.commit", "the state topic is read from where the ledger stands"),
    ("auto.commit.enable", "the state topic is read from where the ledger stands"),
    ("enable.auto.offset.store", "the state topic is read from where the ledger stands"),
    ("auto.offset.reset", "an offset that is gone must be noticed, not skipped"),
    ("enable.partition.eof", "the end is proven by the position"),
    ("allow.auto.create.topics", "set `kafka.create_topics`: the broker's defaults do not fit the state"),
    ("delivery.timeout.ms", "it follows the transaction's timeout"),
    ("message.timeout.ms", "it follows the transaction's timeout"),
    ("check.crcs", "a state that was damaged on the way must be noticed"),
];

/// The typed table; `None` only when a problem was added.
pub(super) fn kafka(
    settings: Option<KafkaSettings>,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<TransportConfig> {
    let before = problems.count();
    let Some(mut settings) = settings else {
        problems.add_hint(
            "transport.kind",
            "is `kafka` but there is no `[kafka]` table",
            "copy the table from `config/example-kafka.toml`",
        );
        return None;
    };
    if settings.bootstrap_servers.trim().is_empty() {
        problems.add("kafka.bootstrap_servers", "is empty; expected `host:port`");
    }
    topic("kafka.topic", &settings.topic, problems);
    topic("kafka.state_topic", &settings.state_topic, problems);
    if settings.topic == settings.state_topic {
        problems.add_hint(
            "kafka.state_topic",
            format!("`{}` is also `kafka.topic`; expected a topic of its own", settings.state_topic),
            "it is compacted, which would delete the history of the events",
        );
    }
    let content_mode = one_of(
        "kafka.content_mode",
        &settings.content_mode,
        "a content mode",
        &[("binary", ContentMode::Binary), ("structured", ContentMode::Structured)],
        problems,
    );
    let delivery = one_of(
        "kafka.delivery",
        &settings.delivery,
        "a delivery mode",
        &[("exactly_once", DeliveryMode::ExactlyOnce), ("at_least_once", DeliveryMode::AtLeastOnce)],
        problems,
    );
    let on_lost_state = one_of(
        "kafka.on_lost_state",
        &settings.on_lost_state,
        "known",
        &[("refuse", LostState::Refuse), ("republish", LostState::Republish)],
        problems,
    );
    let mut librdkafka = pass_through(std::mem::take(&mut settings.librdkafka), problems);
    let login = login(&mut settings, &mut librdkafka, problems, warnings);
    for (name, value) in
        credentials(settings.username, settings.password, settings.password_file, problems, warnings)
    {
        if librdkafka.insert(name.to_owned(), value).is_some() {
            let friendly = if name == "sasl.username" { "username" } else { "password" };
            problems.add(
                format!("kafka.librdkafka.{name}"),
                format!("is set, and `kafka.{friendly}` too; expected one of them"),
            );
        }
    }
    if problems.count() > before {
        return None;
    }
    let config = KafkaConfig {
        bootstrap_servers: settings.bootstrap_servers,
        topic: settings.topic,
        state_topic: settings.state_topic,
        content_mode: content_mode?,
        delivery: delivery?,
        create_topics: settings.create_topics,
        state_partitions: settings.state_partitions,
        on_lost_state: on_lost_state?,
        login: login?,
        librdkafka,
    };
    #[cfg(feature = "kafka")]
    return Some(TransportConfig::Kafka(config));
    #[cfg(not(feature = "kafka"))]
    {
        drop(config);
        super::not_built_in("kafka", "Kafka", problems);
        None
    }
}

fn one_of<T: Copy>(
    key: &str,
    value: &str,
    what: &str,
    known: &[(&str, T)],
    problems: &mut Problems,
) -> Option<T> {
    let found = known.iter().find(|(name, _)| *name == value).map(|(_, typed)| *typed);
    if found.is_none() {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        let (problem, hint) = not_one_of(value, what, &names);
        problems.add_hint(key, problem, hint);
    }
    found
}

/// What Kafka takes for a topic's name.
fn topic(key: &str, name: &str, problems: &mut Problems) {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > 249 || name == "." || name == ".." || !name.chars().all(legal) {
        let hint = "1 to 249 letters, digits, `.`, `_` and `-`";
        problems.add_hint(key, format!("`{name}` is not a topic's name"), hint);
    }
}

fn credentials(
    username: Option<String>,
    password: Option<Secret>,
    file: Option<String>,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Vec<(&'static str, SecretString)> {
    let mut found = Vec::new();
    let (has_user, has_password) = (username.is_some(), password.is_some() || file.is_some());
    match (password, file) {
        (Some(_), Some(_)) => {
            problems.add("kafka.password", "is set, and `kafka.password_file` too; expected one of them");
        }
        (Some(Secret(secret)), None) => found.push(("sasl.password", secret)),
        (None, Some(path)) => {
            let secret =
                secret_file("kafka.password_file", path.as_ref(), "the password", problems, warnings);
            found.extend(secret.map(|secret| ("sasl.password", secret)));
        }
        (None, None) => {}
    }
    match username {
        Some(name) if name.is_empty() => problems.add("kafka.username", "is empty; expected a user's name"),
        Some(name) => found.push(("sasl.username", name.into())),
        None => {}
    }
    if has_user && !has_password {
        problems.add_hint("kafka.username", "is set without a password", "set `kafka.password_file`");
    } else if has_password && !has_user {
        problems.add("kafka.username", "is missing; there is a password");
    }
    found
}

/// The flat properties; TOML reads `a.b = 1` without quotes as a table in a table.
fn pass_through(table: BTreeMap<String, Json>, problems: &mut Problems) -> BTreeMap<String, SecretString> {
    let mut flat = BTreeMap::new();
    for (name, value) in table {
        flatten(name, value, &mut flat, problems);
    }
    flat.into_iter().map(|(name, value)| (name, value.into())).collect()
}

fn flatten(name: String, value: Json, flat: &mut BTreeMap<String, String>, problems: &mut Problems) {
    let value = match value {
        Json::Object(members) => {
            for (member, value) in members {
                flatten(format!("{name}.{member}"), value, flat, problems);
            }
            return;
        }
        Json::String(text) => text,
        Json::Bool(_) | Json::Number(_) => value.to_string(),
        Json::Null | Json::Array(_) => {
            problems.add(format!("kafka.librdkafka.{name}"), "is a list; expected text");
            return;
        }
    };
    let key = format!("kafka.librdkafka.{name}");
    if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
        problems.add_hint(key, "is not for passing through", *why);
        return;
    }
    #[cfg(feature = "kafka")]
    if let Some(problem) = crate::transport::kafka::not_a_property(&name, &value) {
        problems.add_hint(key, problem, "see CONFIGURATION.md of librdkafka 2.12");
        return;
    }
    flat.insert(name, value);
}
