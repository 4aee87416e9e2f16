//! `forward`, the real binary, on a real file, a real Apache Kafka and a real NATS server, to endpoints
//! that behave as the worst ones do, and to one on the CloudEvents SDK for `JavaScript`.

#![allow(missing_docs, unreachable_pub, reason = "a test program")]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, clippy::format_collect, reason = "a test program")]

#[path = "../kafka/broker.rs"]
#[allow(dead_code, reason = "shared with the tests of Kafka")]
mod broker;
mod brokers;
mod dead_letters;
mod delivery;
mod endpoint;
mod foreign_sdk;
mod home;
#[path = "../nats/support.rs"]
#[allow(dead_code, reason = "shared with the tests of NATS")]
mod nats;
mod order;
#[path = "../it/support/running.rs"]
#[allow(dead_code, reason = "shared with the tests of the pipeline")]
mod running;
mod stopping;
mod usage;

use std::time::{Duration, Instant};

/// Nothing takes so long unless it hangs.
const DEADLINE: Duration = Duration::from_secs(90);

/// Waits; only ever between two looks at a condition.
#[allow(clippy::disallowed_methods, reason = "no worker is blocked by it")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Looks until it holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        pause(Duration::from_millis(20));
    }
}
