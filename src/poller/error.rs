//! What can go wrong with AWS, as kinds for the policy and hints for people.

use std::fmt;

/// Why AWS gave no page. The policy branches on this and never on text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FetchErrorKind {
    /// AWS asks for patience: `LimitExceededException`, `ThrottlingException`, HTTP 429.
    Throttled,
    /// No data yet: `DataUnavailableException`, `BillExpirationException`, a view being built.
    NotReady,
    /// No answer, or one that is AWS's own trouble: connect failure, timeout, 5xx.
    Unavailable,
    /// The token no longer fits: the window starts again from page one, once.
    RestartQuery,
    /// The credentials or their rights: missing, expired, denied, hourly data not enabled.
    Denied,
    /// AWS calls the request wrong: a fault of the configuration.
    Invalid,
    /// An answer that cannot be read: HTML, a number for an amount, a repeated page token.
    Malformed,
}

impl FetchErrorKind {
    /// The label in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::NotReady => "not_ready",
            Self::Unavailable => "unavailable",
            Self::RestartQuery => "restart_query",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::Malformed => "malformed",
        }
    }
}

/// A page that could not be fetched, with what to do about it.
#[derive(Debug)]
pub struct FetchError {
    /// For the policy.
    pub kind: FetchErrorKind,
    /// AWS's error code, where it gave one: `AccessDeniedException`.
    pub code: Option<String>,
    /// What was attempted and what came of it: lower case, no final stop.
    pub message: String,
    /// AWS's request id, for a support case.
    pub request_id: Option<String>,
    /// What to do, one sentence, where something can be done.
    pub hint: Option<String>,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(id) = &self.request_id {
            write!(f, " (request id {id})")?;
        }
        Ok(())
    }
}

impl std::error::Error for FetchError {}
