//! The NATS transport against real servers, which the tests start and end themselves.
//!
//! `bash tests/brokers/nats` installs them.

#![allow(clippy::unwrap_used, reason = "what fails is the test")]

mod backfill;
mod claims;
mod cluster;
mod commands;
mod connect;
#[cfg(target_os = "linux")]
#[path = "../support/disk.rs"]
mod disk;
mod faults;
mod history;
mod limits;
mod login;
#[path = "../support/ports.rs"]
mod ports;
mod proxy;
mod publish;
mod soak;
mod support;
