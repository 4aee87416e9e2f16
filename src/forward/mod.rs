//! Forwarding: the events of the output, one after the other per key, to an HTTP endpoint.

mod lanes;
mod retry;
mod sign;

pub use lanes::{Lanes, Placed};
pub use retry::{RetryPolicy, Verdict, judge, retry_after};
pub use sign::Signer;
