//! `[connections.credentials]`: which keys go with which kind, and the file of a secret.
//!
//! Nothing is asked of AWS, and no secret is ever part of a problem.

use std::{fs, io, path::Path};

use secrecy::{ExposeSecret, SecretString};

use super::{not_one_of, text::is_role_arn};
use crate::config::{
    problem::Problems,
    settings::{CredentialsSettings, Secret},
    types::CredentialsConfig,
};

/// What a role's session is called in `CloudTrail` unless configured.
pub(crate) const SESSION_NAME: &str = "amazon-billing-source";

const KINDS: [&str; 4] = ["default", "keys", "profile", "role"];

/// The credentials; `None` only when a problem was added.
pub(crate) fn credentials(
    key: &str,
    settings: CredentialsSettings,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<CredentialsConfig> {
    let before = problems.count();
    let kind = settings.kind.clone();
    let allowed: &[&str] = match kind.as_str() {
        "default" => &[],
        "keys" => &["access_key_id", "secret_access_key", "secret_access_key_file", "session_token"],
        "profile" => &["profile"],
        "role" => &["role_arn", "external_id", "session_name", "profile"],
        _ => {
            let (problem, hint) = not_one_of(&kind, "a kind of credentials", &KINDS);
            problems.add_hint(format!("{key}.kind"), problem, hint);
            return None;
        }
    };
    if problems.attempted(&format!("{key}.kind")) {
        // The kind was written, if wrongly: which keys belong to it is anybody's guess.
        return None;
    }
    for (name, kinds) in misplaced(&settings, allowed) {
        problems.add_hint(
            format!("{key}.{name}"),
            format!("does not belong to kind `{kind}`"),
            format!("set `kind = \"{kinds}\"`, or remove it"),
        );
    }
    let credentials = match kind.as_str() {
        "keys" => keys(key, settings, problems, warnings),
        "profile" => required(key, "profile", settings.profile, "a profile of `~/.aws/config`", problems)
            .map(|profile| CredentialsConfig::Profile { profile }),
        "role" => role(key, settings, problems),
        _ => Some(CredentialsConfig::Default),
    };
    credentials.filter(|_| problems.count() == before)
}

/// The keys that are set and not allowed, with the kind they belong to.
fn misplaced(settings: &CredentialsSettings, allowed: &[&str]) -> Vec<(&'static str, &'static str)> {
    [
        ("access_key_id", "keys", settings.access_key_id.is_some()),
        ("secret_access_key", "keys", settings.secret_access_key.is_some()),
        ("secret_access_key_file", "keys", settings.secret_access_key_file.is_some()),
        ("session_token", "keys", settings.session_token.is_some()),
        ("profile", "profile", settings.profile.is_some()),
        ("role_arn", "role", settings.role_arn.is_some()),
        ("external_id", "role", settings.external_id.is_some()),
        ("session_name", "role", settings.session_name.is_some()),
    ]
    .into_iter()
    .filter(|(name, _, set)| *set && !allowed.contains(name))
    .map(|(name, kind, _)| (name, kind))
    .collect()
}

/// A key that its kind cannot do without.
fn required(
    key: &str,
    name: &str,
    value: Option<String>,
    expected: &str,
    problems: &mut Problems,
) -> Option<String> {
    let key = format!("{key}.{name}");
    match value {
        Some(value) if value.trim().is_empty() => problems.add(key, format!("is empty; expected {expected}")),
        Some(value) => return Some(value),
        None if problems.attempted(&key) => {}
        None => problems.add(key, format!("is missing; expected {expected}")),
    }
    None
}

fn keys(
    key: &str,
    settings: CredentialsSettings,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<CredentialsConfig> {
    let id = required(
        key,
        "access_key_id",
        settings.access_key_id,
        "an id such as `AKIAIOSFODNN7EXAMPLE`",
        problems,
    );
    let id = id.filter(|id| {
        let one_word = !id.contains(char::is_whitespace);
        if !one_word {
            problems.add(format!("{key}.access_key_id"), "contains white space");
        }
        one_word
    });
    let secret_key = format!("{key}.secret_access_key");
    let file_key = format!("{key}.secret_access_key_file");
    let secret = match (settings.secret_access_key, settings.secret_access_key_file) {
        (Some(secret), None) => word(&secret_key, secret, problems),
        (None, Some(path)) => secret_file(&file_key, Path::new(&path), problems, warnings),
        (Some(_), Some(_)) => {
            problems.add_hint(
                &secret_key,
                "is set, and `secret_access_key_file` too; expected one of them",
                "keep the file: it can be mounted, and rotated without touching the configuration",
            );
            None
        }
        (None, None) => {
            if !problems.attempted(&secret_key) && !problems.attempted(&file_key) {
                problems.add_hint(
                    secret_key,
                    "is missing",
                    "set `secret_access_key_file` to a file that holds it, or `secret_access_key` itself",
                );
            }
            None
        }
    };
    let session_token = match settings.session_token {
        None => None,
        Some(token) => Some(word(&format!("{key}.session_token"), token, problems)?),
    };
    Some(CredentialsConfig::Keys { access_key_id: id?, secret_access_key: secret?, session_token })
}

/// A secret that is one word, which is all that is said of it.
fn word(key: &str, Secret(secret): Secret, problems: &mut Problems) -> Option<SecretString> {
    match fault(secret.expose_secret()) {
        None => Some(secret),
        Some(fault) => {
            problems.add(key, fault);
            None
        }
    }
}

fn fault(secret: &str) -> Option<&'static str> {
    if secret.is_empty() {
        Some("is empty")
    } else if secret.contains(char::is_whitespace) {
        Some("contains white space")
    } else {
        None
    }
}

/// Reads a file that holds a secret and nothing else.
pub(super) fn secret_file(
    key: &str,
    path: &Path,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<SecretString> {
    let shown = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let what = match error.kind() {
                io::ErrorKind::NotFound => "there is no file",
                io::ErrorKind::PermissionDenied => "this user may not read",
                io::ErrorKind::InvalidData => "it is not text in",
                _ => "it was not possible to read",
            };
            problems.add_hint(
                key,
                format!("{what} `{shown}`"),
                "the path is relative to the working directory",
            );
            return None;
        }
    };
    let secret = SecretString::from(text.trim());
    match fault(secret.expose_secret()) {
        Some("is empty") => problems.add(key, format!("`{shown}` is an empty file")),
        Some(_) => problems.add_hint(
            key,
            format!("`{shown}` holds more than one word"),
            "the file holds the secret and nothing else",
        ),
        None => {
            if readable_by_others(path) {
                warnings.push(format!(
                    "{key}: `{shown}` can be read by every user of this machine; `chmod 600` it"
                ));
            }
            return Some(secret);
        }
    }
    None
}

#[cfg(unix)]
fn readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    // The group is left alone: Kubernetes shows mounted secrets to it.
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn readable_by_others(_: &Path) -> bool {
    false
}

fn role(key: &str, settings: CredentialsSettings, problems: &mut Problems) -> Option<CredentialsConfig> {
    let form = "`arn:aws:iam::111122223333:role/name`";
    let role_arn = required(key, "role_arn", settings.role_arn, form, problems);
    if let Some(arn) = &role_arn
        && !is_role_arn(arn)
    {
        problems.add(format!("{key}.role_arn"), format!("`{arn}` is not the ARN of a role; expected {form}"));
    }
    let session_name = settings.session_name.unwrap_or_else(|| SESSION_NAME.to_owned());
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    if !(2..=64).contains(&session_name.len()) || !session_name.chars().all(allowed) {
        problems.add_hint(
            format!("{key}.session_name"),
            format!("`{session_name}` is not a session name"),
            "2 to 64 letters, digits and `_+=,.@-`",
        );
    }
    for (name, value) in [("external_id", &settings.external_id), ("profile", &settings.profile)] {
        if value.as_ref().is_some_and(|value| value.trim().is_empty()) {
            problems.add_hint(format!("{key}.{name}"), "is empty", "leave it out");
        }
    }
    Some(CredentialsConfig::Role {
        role_arn: role_arn?,
        external_id: settings.external_id,
        session_name,
        profile: settings.profile,
    })
}
