//! Configuration: files, then environment, checked into typed values.
//!
//! Nothing here touches the network. Past this module no configured value can be wrong in itself.

mod broker_settings;
mod check;
mod layers;
mod problem;
mod proxy;
mod schema;
mod settings;
mod shape;
mod show;
#[cfg(test)]
mod tests;
mod types;

pub(crate) use problem::suggestion;
pub use problem::{ConfigError, Problem};
pub(crate) use proxy::HttpsProxy;
pub use schema::json_schema;
pub use show::{ShownValue, show};
pub use types::{
    BudgetConfig, ClientAuth, Config, ConnectionConfig, CredentialsConfig, DeliveryMode, Filter,
    FilterValues, KafkaConfig, KafkaLogin, LocalConfig, LostState, MskIamConfig, NatsConfig, NatsLogin,
    NatsTls, OauthConfig, PollConfig, SecretSource, SourceConfig, TransportConfig, collide,
};

use std::path::{Path, PathBuf};

use ::config::{Value, ValueKind};

use problem::Problems;
use settings::{ConnectionSettings, KafkaSettings, NatsSettings, Settings};

/// The origin of what nobody wrote.
pub(crate) const BUILT_IN: &str = "built-in default";
/// The environment among the sources.
pub(crate) const ENVIRONMENT: &str = "the environment";
/// What every variable of the configuration begins with. `BILLING_SOURCE_CONFIG` does not.
pub(crate) const VARIABLE_PREFIX: &str = "BILLING_SOURCE__";

/// A usable configuration and how it came about.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// What is allowed and probably not meant.
    pub warnings: Vec<String>,
    /// Every value with its origin, secrets redacted.
    pub shown: Vec<ShownValue>,
    /// The files that were read, and `the environment` where it set anything.
    pub sources: Vec<String>,
}

impl Loaded {
    /// How many values come from files, and how many from the environment.
    pub fn written(&self) -> (usize, usize) {
        let written = self.shown.iter().filter(|shown| shown.origin != BUILT_IN);
        let (variables, files): (Vec<_>, Vec<_>) =
            written.partition(|shown| shown.origin.starts_with(VARIABLE_PREFIX));
        (files.len(), variables.len())
    }
}

/// Reads the files in order, then the variables `BILLING_SOURCE__SECTION__KEY`, over the built-in
/// defaults. Later sources override earlier ones key by key; a list is replaced whole.
///
/// That no connection is configured is no problem here: see [`Config::require_connections`].
///
/// # Errors
/// When a file cannot be read, a key is unknown or a value wrong: with all the problems at once. Only
/// files that cannot be read or parsed are reported before anything else is looked at.
pub fn load(
    files: &[PathBuf],
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let mut problems = Problems::default();
    let sources = files.iter().map(|path| path.display().to_string()).collect();
    let read = files.iter().map(|path| layers::read_file(path, &mut problems)).collect();
    resolve(sources, read, environment, problems)
}

/// As [`load`], for one file as it will be: its text, and the path it will have.
///
/// # Errors
/// As [`load`].
pub fn load_text(
    path: &Path,
    text: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let mut problems = Problems::default();
    let name = path.display().to_string();
    let read = layers::read_text(&name, text, &mut problems);
    resolve(vec![name], vec![read], environment, problems)
}

/// Layers on the built-in defaults, and the environment on them.
fn resolve(
    mut sources: Vec<String>,
    read: Vec<Option<layers::Table>>,
    environment: impl IntoIterator<Item = (String, String)>,
    mut problems: Problems,
) -> Result<Loaded, ConfigError> {
    let files = sources.len();
    if !problems.is_empty() {
        return Err(problems.into_error(sources, files));
    }
    let environment: Vec<_> = environment.into_iter().collect();
    let near: Vec<_> = environment.iter().filter_map(|(name, _)| nearly_ours(name)).collect();
    let variables = layers::read_environment(environment, &mut problems);
    if !variables.is_empty() || !problems.is_empty() {
        sources.push(ENVIRONMENT.to_owned());
    }

    let mut tree = built_in(&Settings::default());
    for layer in read.into_iter().flatten().chain(variables) {
        layers::merge(&mut tree, Value::new(None, layer));
    }
    default_connections(&mut tree);
    default_table(&mut tree, "nats", &NatsSettings::default());
    default_table(&mut tree, "kafka", &KafkaSettings::default());

    let (json, shown) = shape::fit(&tree, &json_schema(), &mut problems);
    let settings: Settings = serde_json::from_value(json).expect("what fits the schema fits the settings");
    let mut warnings = Vec::new();
    for (name, words) in near {
        let meant = shown.iter().find(|shown| shown.key.replace(['.', '_'], "") == words);
        warnings.extend(meant.map(|shown| {
            let key = shown.key.to_ascii_uppercase().replace('.', "__");
            format!(
                "{name}: it is not read; sections are set apart by two underscores: `{VARIABLE_PREFIX}{key}`"
            )
        }));
    }
    let config = check::check(settings, &mut problems, &mut warnings);
    match config {
        Some(config) if problems.is_empty() => Ok(Loaded { config, warnings, shown, sources }),
        _ => Err(problems.into_error(sources, files)),
    }
}

/// A variable that begins as ours do, but for an underscore, and its words as one. It may be somebody
/// else's: Kubernetes makes `BILLING_SOURCE_PORT` of a service of that name.
fn nearly_ours(name: &str) -> Option<(String, String)> {
    let rest = name.strip_prefix("BILLING_SOURCE_")?;
    let words = rest.to_ascii_lowercase().replace('_', "");
    (!rest.starts_with('_')).then(|| (name.to_owned(), words))
}

/// Settings as the lowest layer of the tree.
fn built_in(settings: &impl serde::Serialize) -> Value {
    layers::built_in(serde_json::to_value(settings).expect("settings are plain data"))
}

/// Lays every connection over the defaults of one.
fn default_connections(tree: &mut Value) {
    let ValueKind::Table(sections) = &mut tree.kind else { return };
    let Some(ValueKind::Array(connections)) = sections.get_mut("connections").map(|list| &mut list.kind)
    else {
        return;
    };
    for connection in connections {
        if matches!(connection.kind, ValueKind::Table(_)) {
            let mut merged = built_in(&ConnectionSettings::default());
            layers::merge(&mut merged, std::mem::take(connection));
            default_session_name(&mut merged);
            *connection = merged;
        }
    }
}

/// Lays a table that is only there where it is written over its defaults.
fn default_table(tree: &mut Value, name: &str, defaults: &impl serde::Serialize) {
    let ValueKind::Table(sections) = &mut tree.kind else { return };
    if let Some(table) = sections.get_mut(name)
        && matches!(table.kind, ValueKind::Table(_))
    {
        let mut merged = built_in(defaults);
        layers::merge(&mut merged, std::mem::take(table));
        *table = merged;
    }
}

/// Only a role has a session, so only its table has a default name for it.
fn default_session_name(connection: &mut Value) {
    let ValueKind::Table(keys) = &mut connection.kind else { return };
    let Some(ValueKind::Table(credentials)) = keys.get_mut("credentials").map(|table| &mut table.kind) else {
        return;
    };
    if credentials.get("kind").is_some_and(|kind| kind.kind == ValueKind::from("role")) {
        let name = || Value::new(Some(&BUILT_IN.to_owned()), check::SESSION_NAME);
        credentials.entry("session_name".to_owned()).or_insert_with(name);
    }
}
