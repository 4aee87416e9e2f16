//! `connect list`: what is configured, without secrets and without the network.

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use comfy_table::{Table, presets};
use serde_json::{Value, json};

use crate::{
    commands::{environment, print},
    config::{self, ConnectionConfig, CredentialsConfig},
    exit::{Exit, report},
};

/// A table on a terminal, else a JSON object a line.
pub(super) fn run(path: &Path) -> Exit {
    let loaded = match config::load(&[PathBuf::from(path)], environment()) {
        Ok(loaded) => loaded,
        Err(error) => {
            report(&error, None);
            return Exit::Config;
        }
    };
    let connections = &loaded.config.connections;
    print(&if io::stdout().is_terminal() { table(connections) } else { lines(connections) })
}

fn lines(connections: &[ConnectionConfig]) -> String {
    connections.iter().map(|connection| line(connection).to_string() + "\n").collect()
}

fn line(connection: &ConnectionConfig) -> Value {
    let granularity: Vec<_> = connection.granularity.iter().map(|granularity| granularity.name()).collect();
    let metrics: Vec<_> = connection.metrics.iter().map(|metric| metric.aws_name()).collect();
    json!({
        "name": connection.name,
        "accountId": connection.account_id,
        "credentials": credentials(&connection.credentials),
        "granularity": granularity,
        "groupBy": connection.group_by.as_ref().map(ToString::to_string),
        "metrics": metrics,
        "filter": connection.filter,
        "endpointUrl": connection.endpoint_url,
    })
}

fn credentials(credentials: &CredentialsConfig) -> Value {
    const REDACTED: &str = "[redacted]";
    match credentials {
        CredentialsConfig::Default => json!({ "kind": "default" }),
        CredentialsConfig::Keys { access_key_id, .. } => {
            json!({ "kind": "keys", "accessKeyId": access_key_id, "secretAccessKey": REDACTED })
        }
        CredentialsConfig::Profile { profile } => json!({ "kind": "profile", "profile": profile }),
        CredentialsConfig::Role { role_arn, external_id, profile, .. } => json!({
            "kind": "role", "roleArn": role_arn, "externalId": external_id, "profile": profile,
        }),
    }
}

fn table(connections: &[ConnectionConfig]) -> String {
    if connections.is_empty() {
        return "no connection; `amazon-billing-source connect` creates one\n".to_owned();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["connection", "account", "credentials", "figures", "grouped by", "filter"]);
    for connection in connections {
        let who = match &connection.credentials {
            CredentialsConfig::Default => "default chain".to_owned(),
            CredentialsConfig::Keys { access_key_id, .. } => format!("key {access_key_id}"),
            CredentialsConfig::Profile { profile } => format!("profile {profile}"),
            CredentialsConfig::Role { role_arn, .. } => role_arn.clone(),
        };
        let figures: Vec<_> = connection.granularity.iter().map(|granularity| granularity.name()).collect();
        let group = connection.group_by.as_ref().map(|group| format!("service, {group}"));
        table.add_row([
            connection.name.clone(),
            connection.account_id.clone().unwrap_or_else(|| "asked of STS".to_owned()),
            who,
            figures.join(", "),
            group.unwrap_or_else(|| "service".to_owned()),
            if connection.filter.is_some() { "yes" } else { "no" }.to_owned(),
        ]);
    }
    format!("{}\n", table.trim_fmt())
}
