//! `[nats]`: names JetStream takes, one way to log in, files that are there.
//!
//! Nothing is asked of a server.

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;

use super::{
    TransportConfig,
    credentials::{secret_file, word},
    duration, not_one_of,
};
use crate::{
    config::{
        problem::{Problems, listed},
        settings::{NatsSettings, NatsTlsSettings},
        types::{NatsConfig, NatsLogin, NatsTls},
    },
    event::ContentMode,
};

/// The typed table; `None` only when a problem was added.
pub(super) fn nats(
    settings: Option<NatsSettings>,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<TransportConfig> {
    let Some(settings) = settings else {
        problems.add_hint(
            "transport.kind",
            "is `nats` but there is no `[nats]` table",
            "copy the table from `config/example-nats.toml`",
        );
        return None;
    };
    let before = problems.count();
    servers(&settings.servers, problems);
    name("nats.stream", &settings.stream, problems);
    let bucket = settings.bucket.clone().unwrap_or_else(|| format!("{}_STATE", settings.stream));
    if settings.bucket.is_some() || problems.count() == before {
        bucket_name(&bucket, problems);
    }
    prefix(&settings.subject_prefix, problems);
    let content_mode = match &*settings.content_mode {
        "structured" => ContentMode::Structured,
        "binary" => ContentMode::Binary,
        other => {
            let (problem, hint) = not_one_of(other, "a content mode", &["structured", "binary"]);
            problems.add_hint("nats.content_mode", problem, hint);
            ContentMode::Structured
        }
    };
    let timeout = duration("nats.timeout", &settings.timeout, Duration::from_nanos(1), problems);
    let tls = tls(settings.tls.as_ref(), problems);
    let (servers, stream) = (settings.servers.clone(), settings.stream.clone());
    let (create_stream, replicas, max_in_flight) =
        (settings.create_stream, settings.replicas, settings.max_in_flight);
    let subject_prefix = settings.subject_prefix.clone();
    let login = login(settings, problems, warnings)?;
    if problems.count() > before {
        return None;
    }
    let config = NatsConfig {
        servers,
        stream,
        bucket,
        subject_prefix,
        content_mode,
        create_stream,
        replicas,
        timeout: timeout?,
        max_in_flight,
        login,
        tls,
    };
    #[cfg(feature = "nats")]
    return Some(TransportConfig::Nats(config));
    #[cfg(not(feature = "nats"))]
    {
        drop(config);
        super::not_built_in("nats", "NATS", problems);
        None
    }
}

fn servers(servers: &[String], problems: &mut Problems) {
    if servers.is_empty() && !problems.attempted("nats.servers") {
        problems.add_hint("nats.servers", "is empty", "write at least one: `nats://localhost:4222`");
    }
    for (index, server) in servers.iter().enumerate() {
        let key = format!("nats.servers[{index}]");
        let Ok(url) = url::Url::parse(server) else {
            problems.add_hint(key, "is not a URL", "write it with its scheme: `nats://localhost:4222`");
            continue;
        };
        if !url.username().is_empty() || url.password().is_some() {
            problems.add_hint(key, "contains a user or password", "set `user` and `password_file`");
        } else if !matches!(url.scheme(), "nats" | "tls") || url.host_str().is_none_or(str::is_empty) {
            problems.add_hint(
                key,
                format!("`{server}` is not a server of NATS"),
                "write `nats://host:4222` or `tls://host:4222`",
            );
        }
    }
}

/// A stream's name (ADR-6): it stands in subjects and on disks.
fn name(key: &str, text: &str, problems: &mut Problems) {
    if text.is_empty() {
        problems.add(key, "is empty; expected a name");
    } else if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic() || ".*>/\\".contains(*c)) {
        problems.add(key, format!("`{text}` is not a name of JetStream: {bad:?} may not be in one"));
    }
}

fn bucket_name(text: &str, problems: &mut Problems) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if text.is_empty() || !text.chars().all(allowed) {
        problems.add_hint(
            "nats.bucket",
            format!("`{text}` is not the name of a bucket"),
            "letters, digits, `_` and `-`",
        );
    }
}

fn prefix(text: &str, problems: &mut Problems) {
    let hint = "tokens of visible characters joined by dots: `amazon.billing`";
    let token = |token: &str| {
        !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic() && c != '*' && c != '>')
    };
    if !text.split('.').all(token) {
        problems.add_hint("nats.subject_prefix", format!("`{text}` cannot begin a subject"), hint);
    } else if text.starts_with('$') || text.starts_with("_INBOX") {
        problems.add_hint("nats.subject_prefix", format!("`{text}` belongs to NATS itself"), hint);
    }
}

/// At most one way, and all of it.
fn login(settings: NatsSettings, problems: &mut Problems, warnings: &mut Vec<String>) -> Option<NatsLogin> {
    let ways = [
        ("credentials_file", settings.credentials_file.is_some()),
        ("nkey_seed_file", settings.nkey_seed_file.is_some()),
        ("user", settings.user.is_some() || settings.password.is_some() || settings.password_file.is_some()),
        ("token", settings.token.is_some() || settings.token_file.is_some()),
    ];
    let set: Vec<_> = ways.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    if set.len() > 1 {
        problems.add(
            format!("nats.{}", set[0]),
            format!("{} are set; expected one way to log in", listed(&set, "and")),
        );
        return None;
    }
    match set.first() {
        None => Some(NatsLogin::Nobody),
        Some(&"credentials_file") => {
            let file = file("nats.credentials_file", settings.credentials_file.as_deref(), problems)?;
            Some(NatsLogin::Credentials(file))
        }
        Some(&"nkey_seed_file") => {
            let path = PathBuf::from(settings.nkey_seed_file?);
            secret_file("nats.nkey_seed_file", &path, "the seed", problems, warnings).map(NatsLogin::Nkey)
        }
        Some(&"user") => {
            let key = "nats.password";
            let password = match (settings.password, settings.password_file) {
                (Some(password), None) => word(key, password, problems),
                (None, Some(path)) => {
                    let path = PathBuf::from(path);
                    secret_file("nats.password_file", &path, "the password", problems, warnings)
                }
                (Some(_), Some(_)) => both(key, problems),
                (None, None) => {
                    problems.add_hint(key, "is missing", "set `password_file` to a file that holds it");
                    None
                }
            };
            let Some(user) = settings.user.filter(|user| !user.is_empty()) else {
                problems.add("nats.user", "is missing; expected whose password it is");
                return None;
            };
            Some(NatsLogin::User { user, password: password? })
        }
        Some(_) => {
            let token = match (settings.token, settings.token_file) {
                (Some(token), None) => word("nats.token", token, problems),
                (None, Some(path)) => {
                    let path = PathBuf::from(path);
                    secret_file("nats.token_file", &path, "the token", problems, warnings)
                }
                _ => both("nats.token", problems),
            };
            token.map(NatsLogin::Token)
        }
    }
}

fn both(key: &str, problems: &mut Problems) -> Option<SecretString> {
    problems.add(key, "is set, and its file too; expected one of them");
    None
}

fn tls(settings: Option<&NatsTlsSettings>, problems: &mut Problems) -> NatsTls {
    let Some(settings) = settings else { return NatsTls::default() };
    let ca_file = match &settings.ca_file {
        None => None,
        path => file("nats.tls.ca_file", path.as_deref(), problems),
    };
    let client = match (&settings.certificate_file, &settings.key_file) {
        (None, None) => None,
        (Some(certificate), Some(key)) => file("nats.tls.certificate_file", Some(certificate), problems)
            .zip(file("nats.tls.key_file", Some(key), problems)),
        (Some(_), None) => {
            problems.add("nats.tls.key_file", "is missing; expected the key of `certificate_file`");
            None
        }
        (None, Some(_)) => {
            problems.add("nats.tls.certificate_file", "is missing; expected the certificate of `key_file`");
            None
        }
    };
    NatsTls { required: settings.required, first: settings.first, ca_file, client }
}

/// A file that is there; what is in it is read when connecting.
fn file(key: &str, path: Option<&str>, problems: &mut Problems) -> Option<PathBuf> {
    let path = PathBuf::from(path?);
    if path.is_file() {
        return Some(path);
    }
    problems.add_hint(
        key,
        format!("there is no file `{}`", path.display()),
        "the path is relative to the working directory",
    );
    None
}
