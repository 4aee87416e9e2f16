//! The Kafka transport against a real Apache Kafka, which `tests/run` fetches.

#![allow(missing_docs, unreachable_pub, reason = "a test program")]
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::print_stdout,
    clippy::format_collect,
    reason = "a test program"
)]

mod backfill;
mod binary;
mod broker;
mod check;
mod cluster;
mod codes;
mod connect;
mod contract;
#[cfg(target_os = "linux")]
#[path = "../support/disk.rs"]
mod disk;
mod faults;
mod proxy;
mod rights;
mod security;
mod support;
mod tokens;

use std::time::Duration;

/// Waits; only ever between two looks at a condition.
#[allow(clippy::disallowed_methods, reason = "no worker is blocked by it")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
