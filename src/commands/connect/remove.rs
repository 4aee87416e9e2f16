//! `connect remove`: a connection taken out of a file. Its events, state and secret stay where they are.

use std::{fs, path::Path};

use tokio_util::sync::CancellationToken;

use super::{
    edit::{self, Unedited},
    files, is_asking, on_terminal, stopped,
    terminal::Stop,
    trial,
};
use crate::{
    commands::environment,
    config,
    exit::{Exit, report},
};

/// Asks, unless told not to, and removes.
pub(super) async fn run(path: &Path, name: &str, yes: bool, shutdown: &CancellationToken) -> Exit {
    match remove(path, name, yes, shutdown).await {
        Ok(exit) => exit,
        Err(stop) => stopped(stop),
    }
}

async fn remove(path: &Path, name: &str, yes: bool, shutdown: &CancellationToken) -> Result<Exit, Stop> {
    let shown = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            report(&format!("could not read `{shown}`: {error}"), Some("name the file with `--config`"));
            return Err(Exit::Config.into());
        }
    };
    let removed = match edit::remove(&text, name) {
        Ok(removed) => removed,
        Err(error) => {
            refuse(path, &text, name, error);
            return Err(Exit::Config.into());
        }
    };
    if let Err(error) = files::probe(path) {
        report(&error, error.hint);
        return Err(Exit::Config.into());
    }
    if !yes {
        if !is_asking(yes) {
            report(&"missing: --yes", Some("on a terminal it is asked"));
            return Err(Exit::Usage.into());
        }
        let prompt = format!("Remove the connection `{name}` from `{shown}`?");
        if !on_terminal(shutdown, move |ask, _| ask.confirm(&prompt, false)).await? {
            return Err(Stop::Left);
        }
    }
    if let Err(error) = files::write(path, Some(&text), &removed.text) {
        report(&error, error.hint);
        return Ok(Exit::Failed);
    }
    trial::say(&format!("removed the connection `{name}` from `{shown}`; its events and its state stay"));
    if let Some(file) = removed.secret_file {
        trial::say(&format!("warning: its secret is still in `{file}`; delete it if nothing else uses it"));
    }
    if removed.left == 0 {
        trial::say("warning: no connection is left, so there is nothing to poll");
    }
    // What else is wrong with the file was so before.
    if let Err(error) = config::load_text(path, &removed.text, environment()) {
        trial::say(&format!("warning: {error}"));
    }
    Ok(Exit::Done)
}

fn refuse(path: &Path, text: &str, name: &str, error: Unedited) {
    let shown = path.display();
    match error {
        Unedited::NoToml => match config::load_text(path, text, Vec::new()) {
            Err(error) => report(&error, None),
            Ok(_) => report(&format!("could not edit `{shown}`"), None),
        },
        Unedited::Unknown(names) if names.is_empty() => {
            report(&format!("there is no connection in `{shown}`"), None);
        }
        Unedited::Unknown(names) => {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            let hint = format!("there is {}", names.join(", "));
            report(&format!("there is no connection `{name}` in `{shown}`"), Some(&hint));
        }
        Unedited::Ambiguous => {
            let hint = "edit the file, and give each a name of its own";
            report(&format!("more than one connection of `{shown}` is called `{name}`"), Some(hint));
        }
    }
}
