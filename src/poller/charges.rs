//! What AWS charges for: every attempt on the wire is judged once, by what came back.
//!
//! | what came of the attempt | counted as | costs |
//! |---|---|---|
//! | HTTP 2xx, read to its end | charged | one page |
//! | any other HTTP status | refused | nothing |
//! | no connection: name, TCP, TLS | unsent | nothing |
//! | sent, and no answer or half of one; or nobody waited for it | unknown | taken as one page |

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering},
};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        connection::CaptureSmithyConnection,
        interceptors::{
            Intercept,
            context::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef},
        },
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::{DateTime, config_bag::ConfigBag, date_time::Format};
use jiff::Timestamp;

/// Requests of a connection since it was made, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Answered with a page: $0.01 each.
    pub charged: u64,
    /// Answered with an error: free.
    pub refused: u64,
    /// Never sent, because there was no connection: free.
    pub unsent: u64,
    /// Sent, and the answer never came or broke off: taken as charged.
    pub unknown: u64,
}

impl RequestCounts {
    /// Those that cost something.
    pub const fn paid(self) -> u64 {
        self.charged + self.unknown
    }
}

/// The counters of one connection, shared by its requests.
#[derive(Debug, Default)]
pub(super) struct Charges {
    charged: AtomicU64,
    refused: AtomicU64,
    unsent: AtomicU64,
    unknown: AtomicU64,
    /// Charged and unknown, since last taken.
    untaken: AtomicU32,
}

impl Charges {
    /// Chargeable requests since last asked.
    pub(super) fn take_spent(&self) -> u32 {
        self.untaken.swap(0, Ordering::SeqCst)
    }

    pub(super) fn counts(&self) -> RequestCounts {
        RequestCounts {
            charged: self.charged.load(Ordering::SeqCst),
            refused: self.refused.load(Ordering::SeqCst),
            unsent: self.unsent.load(Ordering::SeqCst),
            unknown: self.unknown.load(Ordering::SeqCst),
        }
    }

    fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Charged => &self.charged,
            Outcome::Refused => &self.refused,
            Outcome::Unsent => &self.unsent,
            Outcome::Unknown => &self.unknown,
        };
        counter.fetch_add(1, Ordering::SeqCst);
        if matches!(outcome, Outcome::Charged | Outcome::Unknown) {
            self.untaken.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Charged,
    Refused,
    Unsent,
    Unknown,
}

/// Stands for a `Date` that did not come.
const NO_DATE: i64 = i64::MIN;

/// How far the newest attempt of a call got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not to the wire: it lacked credentials or a signature.
    Signing,
    /// To the HTTP client, which had no connection for it.
    Connecting,
    /// To a connection: whoever was at its other end may have read it.
    Sent,
    /// Nobody watched.
    Unwatched,
}

/// One call and its attempts. A call that is dropped with an attempt in flight counts it as unknown.
#[derive(Debug)]
pub(super) struct Call {
    /// `None`: the calls of this service are free.
    charges: Option<Arc<Charges>>,
    in_flight: AtomicBool,
    /// Whether the newest attempt was handed to the HTTP client, and whether that had a connection.
    transmitted: AtomicBool,
    connected: AtomicBool,
    /// `Date` of the newest answer, seconds since 1970.
    date: AtomicI64,
}

impl Call {
    pub(super) fn new(charges: Option<Arc<Charges>>) -> Arc<Self> {
        Arc::new(Self {
            charges,
            in_flight: AtomicBool::new(false),
            transmitted: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            date: AtomicI64::new(NO_DATE),
        })
    }

    /// `Date` of the newest answer, whole seconds.
    pub(super) fn date(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.date.load(Ordering::SeqCst)).ok()
    }

    pub(super) fn stage(&self) -> Stage {
        match (self.transmitted.load(Ordering::SeqCst), self.connected.load(Ordering::SeqCst)) {
            (false, _) => Stage::Signing,
            (true, false) => Stage::Connecting,
            (true, true) => Stage::Sent,
        }
    }

    fn settle(&self, outcome: Outcome) {
        if self.in_flight.swap(false, Ordering::SeqCst)
            && let Some(charges) = &self.charges
        {
            charges.count(outcome);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.settle(Outcome::Unknown);
    }
}

/// Watches the attempts of one call.
#[derive(Debug)]
pub(super) struct Meter(pub(super) Arc<Call>);

impl Intercept for Meter {
    fn name(&self) -> &'static str {
        "Meter"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.transmitted.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.transmitted.store(true, Ordering::SeqCst);
        self.0.in_flight.store(true, Ordering::SeqCst);
        self.0.date.store(NO_DATE, Ordering::SeqCst);
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let outcome = match context.response() {
            Some(response) if !response.status().is_success() => Outcome::Refused,
            // An operation error here is a body that was read and not understood: a page was made.
            Some(_) => match context.output_or_error() {
                Some(Ok(_)) => Outcome::Charged,
                Some(Err(error)) if error.is_operation_error() => Outcome::Charged,
                _ => Outcome::Unknown,
            },
            // The HTTP client names the connection once it has one, before it writes the request.
            None => match bag.load::<CaptureSmithyConnection>().and_then(CaptureSmithyConnection::get) {
                Some(_) => Outcome::Unknown,
                None => Outcome::Unsent,
            },
        };
        let date = context.response().and_then(|response| response.headers().get("date"));
        if let Some(date) = date.and_then(|text| DateTime::from_str(text, Format::HttpDate).ok()) {
            self.0.date.store(date.secs(), Ordering::SeqCst);
        }
        self.0.connected.store(outcome != Outcome::Unsent, Ordering::SeqCst);
        self.0.settle(outcome);
        Ok(())
    }
}
