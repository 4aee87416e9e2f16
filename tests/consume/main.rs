//! Reading events back with `tail` and `replay`, from files and real brokers, which `tests/run` fetches.

#![allow(missing_docs, unreachable_pub, reason = "a test program")]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test program")]

#[allow(dead_code, reason = "what the tests of the Kafka transport use")]
#[path = "../kafka/broker.rs"]
mod broker;
mod current;
mod files;
mod help;
mod kafka;
mod names;
mod nats;
#[allow(dead_code, reason = "what the tests of the NATS transport use")]
#[path = "../nats/support.rs"]
mod nats_server;
mod support;
#[allow(dead_code, clippy::format_collect, reason = "what the tests of the Kafka transport use")]
#[path = "../kafka/support.rs"]
mod topics;

use std::time::Duration;

/// Waits; only ever between two looks at a condition.
#[allow(clippy::disallowed_methods, reason = "no worker is blocked by it")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
