//! What the command line offers beside `run`, a file each, and what they share.

pub mod backfill;
pub mod check;
pub mod connect;
pub mod demo;
pub mod filter_args;
pub mod forward;
pub mod ledger;
pub mod plan;
mod reach;
pub mod read;
pub mod schema;
pub mod simulate;

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use jiff::civil::Date;

use crate::{
    config::{self, Loaded},
    exit::{Exit, report},
};

/// Where the configuration is.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigFiles {
    /// Configuration file; repeated, later ones override earlier ones
    #[arg(long = "config", value_name = "FILE", env = "BILLING_SOURCE_CONFIG")]
    pub files: Vec<PathBuf>,
}

impl ConfigFiles {
    /// Loads the files and the environment; problems are reported.
    ///
    /// # Errors
    /// `Exit::Config`, everything already said.
    pub fn load(&self) -> Result<Loaded, Exit> {
        config::load(&self.files, environment()).map_err(|error| {
            report(&error, None);
            Exit::Config
        })
    }

    /// The same, with at least one connection.
    ///
    /// # Errors
    /// `Exit::Config`, everything already said.
    pub fn load_connections(&self) -> Result<Loaded, Exit> {
        let loaded = self.load()?;
        loaded.config.require_connections().map_err(|error| {
            report(&error, None);
            Exit::Config
        })?;
        Ok(loaded)
    }
}

/// The environment, but for what is no text: no value of ours can be.
pub(crate) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
}

/// A date alone. Of a text with a time, only its date would be taken otherwise, without a word.
///
/// # Errors
/// In words.
pub(crate) fn date(text: &str) -> Result<Date, String> {
    let date: Date = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    if date.to_string() == text {
        return Ok(date);
    }
    Err("it has a time, and a date alone is meant, such as 2026-11-25".to_owned())
}

/// What was asked for, to stdout. A reader that has enough is no failure.
pub(crate) fn print(text: &str) -> Exit {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Exit::Done,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            report(&format!("could not write to stdout: {error}"), None);
            Exit::Failed
        }
    }
}

/// What is said beside what was asked for, to stderr.
#[expect(clippy::print_stderr, reason = "what is said to people, not logged")]
pub(crate) fn aside(text: &str) {
    eprintln!("{text}");
}
