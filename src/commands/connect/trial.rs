//! Trying what was answered: AWS and the output, as `check --connect` does.
//!
//! Errors are said where they are met, what is fine as it is found; what to do next is the caller's.

use super::{
    answers::Answers,
    draft::{Draft, new_of},
    guide,
    terminal::{Stop, label},
};
use crate::{
    commands::{aside, reach},
    config::{Loaded, TransportConfig, collide},
    cost::Granularity,
    exit::{Exit, report},
    poller::{CostExplorer, FetchErrorKind, http_client},
};

/// Something that is fine, or its own label.
pub(super) fn say(fact: &str) {
    let (name, text) = reach::labelled(fact);
    aside(&format!("{} {text}", label(name)));
}

/// What the file would mean with these answers.
///
/// # Errors
/// `Exit::Config`, everything that is wrong already said.
pub(super) fn load(draft: &Draft, answers: &Answers) -> Result<Loaded, Exit> {
    draft.load(answers).map_err(|error| {
        report(&error, None);
        Exit::Config
    })
}

/// Whose account it is, by a call that is free.
///
/// # Errors
/// What is wrong, already said.
pub(super) async fn identity(loaded: &Loaded, answers: &Answers) -> Result<(CostExplorer, String), Exit> {
    let connection = new_of(loaded, &answers.name);
    match reach::identity(connection, &http_client()).await {
        Ok((aws, account)) => {
            say(&format!("the credentials belong to account {account} (sts:GetCallerIdentity, free)"));
            Ok((aws, account))
        }
        Err(error) => {
            report(&error, error.hint.as_deref());
            Err(Exit::from(&error))
        }
    }
}

/// That no other connection turns out to be of the same account and to write the same keys. Only
/// those are asked about that do not say their account.
///
/// # Errors
/// `Exit::Config`, already said.
pub(super) async fn rivals(loaded: &Loaded, answers: &Answers, account: &str) -> Result<(), Exit> {
    let new = new_of(loaded, &answers.name);
    let others = loaded.config.connections.iter();
    for other in others.filter(|other| other.name != new.name && other.account_id.is_none()) {
        if !collide(other, new) {
            continue;
        }
        match reach::identity(other, &http_client()).await {
            Ok((_, theirs)) if theirs == account => {
                let message = format!(
                    "connections `{}` and `{}` would write the same keys of {account}",
                    other.name, new.name
                );
                report(&message, Some("give them different filters, groupings or granularities"));
                return Err(Exit::Config);
            }
            Ok(_) => {}
            Err(error) => {
                say(&format!(
                    "warning: whether `{}` is of the same account is not known: {error}",
                    other.name
                ));
            }
        }
    }
    Ok(())
}

/// Sends one paid request per granularity. Returns the granularity that failed, with its exit code.
///
/// # Errors
/// What is wrong, already said, with the way to the right where that is what is missing.
pub(super) async fn query(
    aws: &CostExplorer,
    loaded: &Loaded,
    answers: &Answers,
) -> Result<(), (Granularity, Exit)> {
    for granularity in &new_of(loaded, &answers.name).granularity {
        match reach::query(aws, *granularity, loaded.config.poll.settle_days).await {
            Ok(answer) => say(&answer),
            Err(error) => {
                report(&error, error.hint.as_deref());
                let hint = error.hint.as_deref().unwrap_or_default();
                if error.kind == FetchErrorKind::Denied && hint.contains("ce:GetCostAndUsage") {
                    aside(&format!("\n{}\n{}", guide::ATTACH, guide::POLICY.trim_end()));
                }
                return Err((*granularity, Exit::from(&error)));
            }
        }
    }
    Ok(())
}

/// Reaches the output.
///
/// # Errors
/// What is wrong, already said.
pub(super) async fn output(loaded: &Loaded) -> Result<(), Exit> {
    if !matches!(loaded.config.transport, TransportConfig::Local(_)) {
        aside("reaching the broker ...");
    }
    match reach::output(&loaded.config).await {
        Ok(facts) => {
            for fact in &facts {
                say(fact);
            }
            Ok(())
        }
        Err(error) => {
            report(&error, error.hint.as_deref());
            Err(Exit::from(&error))
        }
    }
}

impl From<Exit> for Stop {
    fn from(exit: Exit) -> Self {
        Self::Refused(exit)
    }
}
