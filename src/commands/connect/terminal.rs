//! Questions on a terminal, and the terminal as it was before them.
//!
//! What is asked and what an answer means is not known here.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use dialoguer::{
    Confirm, Input, MultiSelect, Password, Select,
    console::{Term, style},
    theme::ColorfulTheme,
};

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Stop {
    /// Stopping was chosen.
    Left,
    /// Ctrl-C, in the middle of a line.
    Interrupted,
    /// It cannot go on, and why was said.
    Refused(crate::exit::Exit),
    /// The terminal gives no answers.
    Terminal(io::Error),
}

impl From<dialoguer::Error> for Stop {
    fn from(error: dialoguer::Error) -> Self {
        let dialoguer::Error::IO(error) = error;
        match error.kind() {
            io::ErrorKind::Interrupted => Self::Interrupted,
            _ => Self::Terminal(error),
        }
    }
}

/// Asks, and shows what was answered in its place.
#[derive(Clone, Default)]
pub(super) struct Ask {
    theme: Arc<ColorfulTheme>,
    gate: Arc<Gate>,
}

/// Between the thread that asks and the one that takes signals.
#[derive(Default)]
struct Gate {
    /// No question begins any more.
    closed: AtomicBool,
    /// A question is being asked: the terminal is set to single keys, or will be in a moment.
    asking: AtomicBool,
}

impl Ask {
    /// Asks one question, unless the gate is closed.
    fn one<T>(&self, question: impl FnOnce(&ColorfulTheme) -> dialoguer::Result<T>) -> Result<T, Stop> {
        self.gate.asking.store(true, SeqCst);
        let answer = if self.gate.closed.load(SeqCst) {
            Err(Stop::Interrupted)
        } else {
            question(&self.theme).map_err(Stop::from)
        };
        self.gate.asking.store(false, SeqCst);
        answer
    }

    /// From now on no question begins.
    pub(super) fn close(&self) {
        self.gate.closed.store(true, SeqCst);
    }

    /// Whether a question has begun and not ended.
    pub(super) fn is_asking(&self) -> bool {
        self.gate.asking.load(SeqCst)
    }

    /// A line that passes a check, which says what is wrong with one.
    pub(super) fn text(
        &self,
        prompt: &str,
        default: Option<&str>,
        check: impl Fn(&str) -> Option<String>,
    ) -> Result<String, Stop> {
        let answer = self.one(|theme| {
            let mut input = Input::<String>::with_theme(theme).with_prompt(prompt);
            if let Some(default) = default {
                input = input.default(default.to_owned());
            }
            input.validate_with(|text: &String| check(text.trim()).map_or(Ok(()), Err)).interact_text()
        })?;
        Ok(answer.trim().to_owned())
    }

    /// A line that may be empty.
    pub(super) fn optional(
        &self,
        prompt: &str,
        check: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<String>, Stop> {
        let check = |text: &String| match text.trim() {
            "" => Ok(()),
            text => check(text).map_or(Ok(()), Err),
        };
        let answer = self.one(|theme| {
            let input = Input::<String>::with_theme(theme).with_prompt(prompt).allow_empty(true);
            input.validate_with(check).interact_text()
        })?;
        Ok(Some(answer.trim().to_owned()).filter(|answer| !answer.is_empty()))
    }

    /// A line that is not shown.
    pub(super) fn hidden(
        &self,
        prompt: &str,
        check: impl Fn(&str) -> Option<String>,
    ) -> Result<secrecy::SecretString, Stop> {
        let answer = self.one(|theme| {
            let password = Password::with_theme(theme).with_prompt(prompt);
            password.validate_with(|text: &String| check(text.trim()).map_or(Ok(()), Err)).interact()
        })?;
        Ok(answer.trim().into())
    }

    /// One of several, by its index.
    pub(super) fn choose(&self, prompt: &str, items: &[&str], default: usize) -> Result<usize, Stop> {
        self.one(|theme| {
            Select::with_theme(theme).with_prompt(prompt).items(items).default(default).interact()
        })
    }

    /// Some of several, by their indexes.
    pub(super) fn several(&self, prompt: &str, items: &[(&str, bool)]) -> Result<Vec<usize>, Stop> {
        self.one(|theme| {
            let select = MultiSelect::with_theme(theme).with_prompt(prompt);
            select.items_checked(items.iter().copied()).interact()
        })
    }

    /// Yes or no.
    pub(super) fn confirm(&self, prompt: &str, default: bool) -> Result<bool, Stop> {
        self.one(|theme| Confirm::with_theme(theme).with_prompt(prompt).default(default).interact())
    }
}

/// A label in colour where stderr shows any.
pub(super) fn label(label: &str) -> String {
    let styled = style(format!("{label}:")).for_stderr();
    match label {
        "ok" => styled.green(),
        "warning" => styled.yellow(),
        _ => styled.dim(),
    }
    .to_string()
}

/// The terminal's settings before the first question: one that is left in the middle of it has
/// switched off the cursor, or what is typed.
pub(super) struct Before {
    #[cfg(unix)]
    settings: Option<rustix::termios::Termios>,
}

impl Before {
    pub(super) fn now() -> Self {
        Self {
            #[cfg(unix)]
            settings: rustix::termios::tcgetattr(io::stdin()).ok(),
        }
    }

    /// Whether they are other ones now: somebody waits for a key, or for a line that is not shown.
    pub(super) fn differ(&self) -> bool {
        #[cfg(unix)]
        if let Some(settings) = &self.settings {
            let now = rustix::termios::tcgetattr(io::stdin());
            return now.is_ok_and(|now| now.local_modes != settings.local_modes);
        }
        true
    }

    /// Puts them back. A terminal that is gone needs none.
    pub(super) fn restore(&self) {
        #[cfg(unix)]
        if let Some(settings) = &self.settings {
            use rustix::termios::{OptionalActions, tcsetattr};
            tcsetattr(io::stdin(), OptionalActions::Now, settings).unwrap_or_default();
        }
        Term::stderr().show_cursor().unwrap_or_default();
    }
}
