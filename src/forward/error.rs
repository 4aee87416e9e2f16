//! Why a forwarder stops, what to do about it, and how the program ends then.

use std::time::Duration;

use super::endpoint::Failure;
use crate::{exit::Exit, http::HttpClientError, transport::TransportError};

/// Why a forwarder stopped before it was told to. The position is before everything that was not
/// delivered, so that the next start goes on there.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The output could not be read, or the position not be moved.
    #[error(transparent)]
    Output(#[from] TransportError),
    /// What was not delivered could not be put aside.
    #[error(transparent)]
    DeadLetter(TransportError),
    /// The client could not be made.
    #[error(transparent)]
    Client(#[from] HttpClientError),
    /// The endpoint is somewhere else.
    #[error("could not forward to `{endpoint}`: {answer}")]
    Moved {
        /// Its URL without secrets.
        endpoint: String,
        /// What it answered.
        answer: String,
    },
    /// An event was not taken, and there is no place to put it aside.
    #[error("could not forward the event `{id}` of `{key}` to `{endpoint}`: {}", told(failure))]
    Undelivered {
        /// The URL without secrets.
        endpoint: String,
        /// The event's.
        id: String,
        /// Its `partitionkey`.
        key: String,
        /// Why.
        failure: Failure,
    },
}

impl ForwardError {
    /// What to do.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Output(error) | Self::DeadLetter(error) => error.hint.as_deref(),
            Self::Client(_) => {
                Some("`--ca-file` is a PEM file; on Debian the host's roots are in `ca-certificates`")
            }
            Self::Moved { .. } => Some(
                "redirects are not followed: give the address itself with `--endpoint`; nothing is lost, the next start goes on here",
            ),
            Self::Undelivered { .. } => Some(
                "nothing is lost, the next start begins with this event; with `--dead-letter FILE` such events are put aside and the others go on",
            ),
        }
    }
}

impl From<&ForwardError> for Exit {
    fn from(error: &ForwardError) -> Self {
        match error {
            ForwardError::Output(error) | ForwardError::DeadLetter(error) => Self::from(error),
            ForwardError::Client(_) => Self::Config,
            ForwardError::Moved { .. } => Self::Failed,
            ForwardError::Undelivered { failure, .. } => match failure.status {
                None if !failure.refused => Self::Unavailable,
                _ => Self::Failed,
            },
        }
    }
}

fn told(failure: &Failure) -> String {
    let Failure { refused, reason, attempts, failing, .. } = failure;
    if *refused {
        return reason.clone();
    }
    let failing = Duration::from_secs(failing.as_secs());
    format!("{reason}; given up after {attempts} attempts in {failing:?}")
}
