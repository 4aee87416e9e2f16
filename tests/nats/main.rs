//! The NATS transport against real servers, which the tests start and end themselves.
//!
//! `bash tests/brokers/nats` installs them.

#![allow(clippy::unwrap_used, missing_docs, clippy::tests_outside_test_module)]

mod claims;
mod faults;
mod login;
mod publish;
mod soak;
mod support;
