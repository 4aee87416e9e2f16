//! `check`: syntax and meaning of the configuration, then, asked to, what it points to.

use super::{ConfigFiles, print, reach};
use crate::{
    config::{Config, ConnectionConfig, Loaded, collide},
    exit::{Exit, report},
    poller::{FetchError, http_client},
};

/// How deep to look.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Example:
  amazon-billing-source check --config billing.toml --connect")]
pub struct CheckArgs {
    #[command(flatten)]
    files: ConfigFiles,
    /// Reach the output, and AWS by a call that is free
    #[arg(long)]
    connect: bool,
    /// Also send one Cost Explorer request per granularity; each costs $0.01
    #[arg(long, requires = "connect")]
    query: bool,
}

/// Says what is fine on stdout and what is not on stderr; the worst of it is the exit code.
pub async fn run(args: CheckArgs) -> Exit {
    let loaded = match args.files.load_connections() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let mut exit = say("ok", &summary(&loaded));
    for warning in &loaded.warnings {
        exit = exit.max(say("warning", warning));
    }
    if !args.connect {
        return exit.max(say("skipped", "nothing was reached; add `--connect` to reach AWS and the output"));
    }
    exit = exit.max(output(&loaded.config).await);
    exit.max(connections(&loaded.config, args.query).await)
}

fn summary(loaded: &Loaded) -> String {
    let files: Vec<_> = loaded.sources.iter().map(|source| format!("`{source}`")).collect();
    let (files_keys, environment) = loaded.written();
    let from = if files.is_empty() { "built-in defaults".to_owned() } else { files.join(", ") };
    format!("configuration {from} ({files_keys} keys from files, {environment} from the environment)")
}

async fn output(config: &Config) -> Exit {
    match reach::output(config).await {
        Ok(facts) => facts.iter().map(|fact| said(fact)).max().unwrap_or(Exit::Done),
        Err(error) => {
            report(&error, error.hint.as_deref());
            Exit::from(&error)
        }
    }
}

async fn connections(config: &Config, query: bool) -> Exit {
    let http = http_client();
    let (mut exit, mut unreachable) = (Exit::Done, 0);
    let mut known: Vec<(String, &ConnectionConfig)> = Vec::new();
    for connection in &config.connections {
        let name = &connection.name;
        let (aws, account) = match reach::identity(connection, &http).await {
            Ok(checked) => checked,
            Err(error) => {
                unreachable += usize::from(Exit::from(&error) == Exit::Unavailable);
                exit = exit.max(failed(&error).min(Exit::Failed));
                continue;
            }
        };
        exit = exit.max(say(
            "ok",
            &format!(
                "connection `{name}`: credentials belong to account {account} (sts:GetCallerIdentity, free)"
            ),
        ));
        let account = match &connection.account_id {
            Some(configured) if *configured != account => {
                let note = format!(
                    "connection `{name}`: `account_id` is {configured}; events will say so, not {account}"
                );
                exit = exit.max(say("warning", &note));
                configured.clone()
            }
            _ => account,
        };
        let rival = known.iter().find(|(other, config)| *other == account && collide(config, connection));
        if let Some((_, other)) = rival {
            let message =
                format!("connections `{}` and `{name}` would write the same keys of {account}", other.name);
            report(&message, Some("give them different filters, groupings or granularities"));
            exit = exit.max(Exit::Config);
        }
        known.push((account, connection));
        if query {
            for granularity in &connection.granularity {
                exit = exit.max(match reach::query(&aws, *granularity, config.poll.settle_days).await {
                    Ok(answer) => say("ok", &format!("connection `{name}`: {answer}")),
                    Err(error) => failed(&error).min(Exit::Failed),
                });
            }
        }
    }
    // As with `run --once`: one account out of reach is a failure, all of them are AWS.
    if unreachable == config.connections.len() {
        exit = exit.max(Exit::Unavailable);
    }
    if !query {
        let note = "Cost Explorer was not queried; each request costs $0.01, add `--query` to send one per \
                    granularity";
        exit = exit.max(say("skipped", note));
    }
    exit
}

/// The message names the connection itself.
fn failed(error: &FetchError) -> Exit {
    report(error, error.hint.as_deref());
    Exit::from(error)
}

/// A fact of a transport: fine, or what it says of itself.
fn said(fact: &str) -> Exit {
    let (label, text) = reach::labelled(fact);
    say(label, text)
}

fn say(label: &str, text: &str) -> Exit {
    print(&format!("{label}: {text}\n"))
}
