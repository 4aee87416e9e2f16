//! Faults: what a request meets instead of, or in, its answer.
//!
//! Faults are queued and met by the next requests that match; what they do on the wire is in the
//! server.

use std::sync::{Arc, Mutex, PoisonError};

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{query::Bucketing, refusal::Refusal};
use crate::cost::Amount;

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum Fault {
    /// `LimitExceededException`, HTTP 400.
    Throttled,
    /// HTTP 429 with an empty body.
    TooManyRequests,
    /// HTTP 500, `InternalServerException`.
    InternalError,
    /// HTTP 503 with a page of HTML, as from a load balancer.
    Unavailable,
    /// HTTP 200 with a page of HTML, as from a proxy.
    Html,
    /// The request is taken and never answered, until the client or the simulator gives up.
    Stall,
    /// The connection is reset before a byte of the answer.
    Reset,
    /// The connection is reset in the middle of the answer's body.
    Cut,
    /// HTTP 200 with half of the JSON.
    Truncated,
    /// The first amount of the answer is a JSON number.
    NumericAmount,
    /// HTTP 200 with `{}`.
    Empty,
    /// Every bucket without rows.
    NoRows,
    /// Every page has the token that asked for it, or the first one.
    RepeatedToken,
    /// There is always one more page.
    EndlessPages,
    /// `DataUnavailableException`: Cost Explorer was just enabled.
    DataUnavailable,
    /// `ExpiredTokenException`.
    ExpiredToken,
    /// `InvalidSignatureException`: the client's clock is wrong.
    InvalidSignature,
    /// `UnrecognizedClientException`.
    UnrecognizedClient,
    /// `InvalidNextTokenException`, also without a token.
    InvalidNextToken,
    /// `RequestChangedException`.
    RequestChanged,
    /// `AccessDeniedException` with a message of its own, or the usual one about the permission.
    AccessDenied {
        /// AWS's words.
        #[serde(default)]
        message: Option<String>,
    },
    /// Another refusal: code, message and HTTP status.
    Refused {
        /// Such as `BillExpirationException`.
        code: String,
        /// AWS's words.
        #[serde(default)]
        message: String,
        /// The HTTP status; 400 unless told.
        #[serde(default = "bad_request")]
        status: u16,
    },
    /// The rows of a service are missing.
    DropService {
        /// AWS's display name.
        service: String,
    },
    /// Nothing of the answer is newer than an instant so many hours ago, `Date` included.
    Stale {
        /// Hours before the clock.
        hours: u32,
    },
    /// Money figures are higher by an amount.
    Change {
        /// Only rows of this service; all rows where none is named.
        #[serde(default)]
        service: Option<String>,
        /// What is added, such as `0.01` or `-3`; a text in JSON.
        #[serde(deserialize_with = "exact")]
        add: Decimal,
    },
}

fn exact<'de, D: Deserializer<'de>>(text: D) -> Result<Decimal, D::Error> {
    let amount = Amount::parse(String::deserialize(text)?, String::new());
    amount.map(|amount| amount.value()).map_err(D::Error::custom)
}

const fn bad_request() -> u16 {
    400
}

impl Fault {
    /// Whether the answer is given with changed data, so that several such faults may meet in it.
    pub(super) const fn changes_data(&self) -> bool {
        matches!(
            self,
            Self::DropService { .. }
                | Self::Stale { .. }
                | Self::Change { .. }
                | Self::NoRows
                | Self::RepeatedToken
                | Self::EndlessPages
                | Self::NumericAmount
        )
    }

    /// The refusal, where the fault is one.
    pub(super) fn refusal(&self, account: &str) -> Option<Refusal> {
        let (code, message) = match self {
            Self::Throttled => ("LimitExceededException", "Rate limit exceeded"),
            Self::InternalError => {
                let refusal = Refusal::new("InternalServerException", "An internal error occurred.");
                return Some(Refusal { status: 500, ..refusal });
            }
            Self::DataUnavailable => (
                "DataUnavailableException",
                "Data is not available. Please try to adjust the time period. If just enabled Cost Explorer, \
                 data might not be ingested yet",
            ),
            Self::ExpiredToken => {
                ("ExpiredTokenException", "The security token included in the request is expired")
            }
            Self::InvalidSignature => {
                ("InvalidSignatureException", "Signature expired: the request was signed too long ago")
            }
            Self::UnrecognizedClient => {
                ("UnrecognizedClientException", "The security token included in the request is invalid.")
            }
            Self::InvalidNextToken => ("InvalidNextTokenException", "Invalid next page token."),
            Self::RequestChanged => (
                "RequestChangedException",
                "Your request parameters changed between pages. Try again with the old parameters or without \
                 a pagination token.",
            ),
            Self::AccessDenied { message } => {
                let usual = format!(
                    "User: arn:aws:iam::{account}:user/simulated is not authorized to perform: \
                     ce:GetCostAndUsage on resource: arn:aws:ce:us-east-1:{account}:/GetCostAndUsage because \
                     no identity-based policy allows the ce:GetCostAndUsage action"
                );
                return Some(Refusal::new("AccessDeniedException", message.as_ref().unwrap_or(&usual)));
            }
            Self::Refused { code, message, status } => {
                return Some(Refusal { status: *status, ..Refusal::new(code, message) });
            }
            _ => return None,
        };
        Some(Refusal::new(code, message))
    }
}

/// A fault with the requests it is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Injection {
    /// What goes wrong.
    #[serde(flatten)]
    pub fault: Fault,
    /// For how many requests; 1 unless told, 0 for ever.
    #[serde(default = "one")]
    pub times: u32,
    /// How many matching requests pass before it begins.
    #[serde(default)]
    pub after: u32,
    /// Only requests of this paying account.
    #[serde(default)]
    pub account: Option<String>,
    /// Only requests of this granularity, `DAILY`, `HOURLY` or `MONTHLY`.
    #[serde(default)]
    pub granularity: Option<String>,
    /// Requests to STS instead of Cost Explorer. Only refusals, HTML, an empty 429, a stall and a
    /// reset apply there; other faults are used up without effect.
    #[serde(default)]
    pub sts: bool,
}

const fn one() -> u32 {
    1
}

impl From<Fault> for Injection {
    fn from(fault: Fault) -> Self {
        Self { fault, times: 1, after: 0, account: None, granularity: None, sts: false }
    }
}

/// What a request is matched by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) account: &'a str,
    pub(super) granularity: Option<Bucketing>,
    pub(super) sts: bool,
}

/// The handle to queue faults with. Clones share one queue.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Vec<Injection>>>);

impl Faults {
    /// The next request to Cost Explorer meets the fault.
    pub fn once(&self, fault: Fault) {
        self.inject(fault.into());
    }

    /// The next so many requests to Cost Explorer meet the fault.
    pub fn times(&self, times: u32, fault: Fault) {
        if times > 0 {
            self.inject(Injection { times, ..fault.into() });
        }
    }

    /// Every request to Cost Explorer meets the fault, until [`Faults::clear`].
    pub fn always(&self, fault: Fault) {
        self.inject(Injection { times: 0, ..fault.into() });
    }

    /// Queues a fault for the requests it names.
    pub fn inject(&self, injection: Injection) {
        self.queue().push(injection);
    }

    /// Forgets every queued fault.
    pub fn clear(&self) {
        self.queue().clear();
    }

    /// How many faults are queued.
    pub fn pending(&self) -> usize {
        self.queue().len()
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Vec<Injection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the next request meets: one fault that stands for the answer, or else every fault
    /// that changes its data, in the order they were queued.
    pub(super) fn take(&self, subject: Subject<'_>) -> Vec<Fault> {
        let mut queue = self.queue();
        let mut due = Vec::new();
        for (number, injection) in queue.iter_mut().enumerate() {
            if !injection.matches(subject) {
                continue;
            }
            if injection.after > 0 {
                injection.after -= 1;
                continue;
            }
            due.push(number);
        }
        if let Some(alone) = due.iter().copied().find(|number| !queue[*number].fault.changes_data()) {
            due = vec![alone];
        }
        let faults = due.iter().map(|number| queue[*number].fault.clone()).collect();
        for number in due.into_iter().rev() {
            match queue[number].times {
                0 => {}
                1 => drop(queue.remove(number)),
                _ => queue[number].times -= 1,
            }
        }
        faults
    }
}

impl Injection {
    fn matches(&self, subject: Subject<'_>) -> bool {
        let granularity = subject.granularity.map(|of| format!("{of:?}").to_uppercase());
        self.sts == subject.sts
            && self.account.as_ref().is_none_or(|account| account == subject.account)
            && (self.granularity.is_none() || self.granularity == granularity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAILY: Subject<'_> =
        Subject { account: "111122223333", granularity: Some(Bucketing::Daily), sts: false };

    #[test]
    fn faults_are_met_in_order_and_as_often_as_asked() {
        let faults = Faults::default();
        faults.times(2, Fault::Throttled);
        faults.once(Fault::Empty);
        for expected in [vec![Fault::Throttled], vec![Fault::Throttled], vec![Fault::Empty], vec![]] {
            assert_eq!(faults.take(DAILY), expected);
        }
        faults.always(Fault::Reset);
        assert_eq!(faults.take(DAILY), faults.take(DAILY));
        faults.clear();
        assert_eq!(faults.pending(), 0);
    }

    #[test]
    fn faults_of_the_data_meet_in_one_answer_and_wait_for_one() {
        let faults = Faults::default();
        let drop = Fault::DropService { service: "Tax".to_owned() };
        let stale = Fault::Stale { hours: 8 };
        faults.once(drop.clone());
        faults.once(stale.clone());
        faults.once(Fault::Throttled);
        assert_eq!(faults.take(DAILY), [Fault::Throttled]);
        assert_eq!(faults.take(DAILY), [drop, stale]);
        assert_eq!(faults.take(DAILY), []);
    }

    #[test]
    fn a_fault_is_for_the_requests_it_names() {
        let json = r#"{"fault": "access-denied", "times": 0, "granularity": "HOURLY", "account": "444455556666", "after": 1}"#;
        let injection: Injection = serde_json::from_str(json).unwrap();
        assert_eq!(injection.fault, Fault::AccessDenied { message: None });
        let faults = Faults::default();
        faults.inject(injection);
        let hourly = Subject { granularity: Some(Bucketing::Hourly), ..DAILY };
        let other = Subject { account: "444455556666", ..hourly };
        for (subject, met) in [(DAILY, 0), (hourly, 0), (other, 0), (other, 1), (hourly, 0), (other, 1)] {
            assert_eq!(faults.take(subject).len(), met, "{subject:?}");
        }
        let change = r#"{"fault": "change", "add": "-0.0000000001"}"#;
        let change: Injection = serde_json::from_str(change).unwrap();
        assert_eq!(change.fault, Fault::Change { service: None, add: Decimal::new(-1, 10) });
        assert!(serde_json::from_str::<Injection>(r#"{"fault": "unknown"}"#).is_err());
    }
}
