//! Exit codes, and how an error is shown to a person. Scripts rely on the codes.

use std::{fmt::Display, process::ExitCode};

use crate::{
    poller::{FetchError, FetchErrorKind},
    transport::{TransportError, TransportErrorKind},
};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// 0: done, also after a drained signal.
    Done,
    /// 1: failed while running.
    Failed,
    /// 2: the command line cannot be understood.
    Usage,
    /// 69: the output could not be reached, or AWS for no connection at all.
    Unavailable,
    /// 78: the configuration, or what it points to.
    Config,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unavailable => 69,
            Self::Config => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<&TransportError> for Exit {
    fn from(error: &TransportError) -> Self {
        match error.kind {
            TransportErrorKind::Unavailable => Self::Unavailable,
            TransportErrorKind::StateMissing
            | TransportErrorKind::LayoutChanged
            | TransportErrorKind::Foreign => Self::Config,
            TransportErrorKind::Conflict
            | TransportErrorKind::Unknown
            | TransportErrorKind::Rejected
            | TransportErrorKind::Regressed
            | TransportErrorKind::InUse => Self::Failed,
        }
    }
}

impl From<&FetchError> for Exit {
    fn from(error: &FetchError) -> Self {
        match error.kind {
            FetchErrorKind::Unavailable => Self::Unavailable,
            _ => Self::Failed,
        }
    }
}

/// `error: what happened`, and below it what to do. To stderr; there is nowhere to report that
/// stderr is closed.
#[expect(clippy::print_stderr, reason = "the one place that speaks to people")]
pub fn report(error: &dyn Display, hint: Option<&str>) {
    eprintln!("error: {error}");
    if let Some(hint) = hint {
        eprintln!("  hint: {hint}");
    }
}
