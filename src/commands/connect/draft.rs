//! A file as it will be: its text, the answers so far, and what `config` says of both together.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use toml_edit::DocumentMut;

use super::{
    answers::{Answers, Secrets},
    edit::{self, Unedited},
};
use crate::config::{self, ConfigError, ConnectionConfig, Loaded};

/// A configuration file, there or not, before anything is written.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// As given.
    pub(super) path: PathBuf,
    /// `None`: there is no such file yet.
    pub(super) text: Option<String>,
    /// The names it has.
    pub(super) names: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Draft {
    /// Reads the file and has it checked: what is wrong before is not made worse.
    ///
    /// # Errors
    /// All that is wrong with it, or that it cannot be read.
    pub(super) fn open(path: &Path, environment: Vec<(String, String)>) -> Result<Self, ConfigError> {
        let mut draft = Self { path: path.to_owned(), text: None, names: Vec::new(), environment };
        // A link that leads nowhere is no new file: writing it would put the file elsewhere.
        if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(draft);
        }
        let loaded = config::load(&[path.to_owned()], draft.environment.clone())?;
        let names = loaded.config.connections.iter().map(|connection| connection.name.clone());
        draft.names = names.collect();
        draft.text = Some(fs::read_to_string(path).unwrap_or_default());
        Ok(draft)
    }

    /// A file of the new connection alone, to try its credentials: whether it goes with the others is
    /// not decided yet.
    pub(super) fn alone(&self) -> Self {
        Self { path: self.path.clone(), text: None, names: Vec::new(), environment: Vec::new() }
    }

    /// Whether the file says where events go. Where there are connections, it does so even by silence.
    pub(super) fn has_output(&self) -> bool {
        !self.names.is_empty()
            || self.text.as_deref().is_some_and(|text| edit::has_output(text).unwrap_or(true))
    }

    /// The whole file with the answers in it.
    ///
    /// # Errors
    /// Only where the file is no TOML, which [`Draft::open`] refused.
    pub(super) fn with(&self, answers: &Answers, secrets: Secrets) -> Result<String, Unedited> {
        let output: Option<DocumentMut> = answers.output.as_ref().map(|output| output.tables(secrets));
        let connection = answers.connection(secrets);
        match &self.text {
            Some(text) => edit::add(text, &connection, output.as_ref()),
            None => edit::add(&self.header(), &connection, output.as_ref()),
        }
    }

    /// What a new file begins with.
    fn header(&self) -> String {
        format!(
            "# Every key in force, with its origin: `amazon-billing-source config show --config {}`.\n\
             # Paths are relative to the working directory.\n",
            self.path.display()
        )
    }

    /// What the file with the answers means.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(super) fn load(&self, answers: &Answers) -> Result<Loaded, ConfigError> {
        let text = self.with(answers, Secrets::Inline).unwrap_or_default();
        config::load_text(&self.path, &text, self.environment.clone())
    }

    /// The first problem of a key of the new connection: `name`, `credentials.role_arn`.
    pub(super) fn problem(&self, answers: &Answers, key: &str) -> Option<String> {
        let error = self.load(answers).err()?;
        let full = format!("connections[{}].{key}", self.names.len());
        let problem = error.problems.into_iter().find(|problem| problem.key.starts_with(&full))?;
        let hint = problem.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        Some(format!("{}{hint}", problem.problem))
    }
}

/// The new connection among all.
pub(super) fn new_of<'a>(loaded: &'a Loaded, name: &str) -> &'a ConnectionConfig {
    let found = loaded.config.connections.iter().find(|connection| connection.name == name);
    found.expect("what was written is read back")
}
