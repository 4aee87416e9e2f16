//! What other languages make of the events: the `CloudEvents` SDKs of Python, `JavaScript`, Go and Java, and
//! the worked examples in `examples/`, each against real brokers.

#![allow(missing_docs, unreachable_pub, reason = "a test program")]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test program")]

#[path = "../kafka/broker.rs"]
#[allow(dead_code, reason = "shared with the tests of Kafka")]
mod broker;
mod examples;
mod home;
mod interop;
#[path = "../kafka/support.rs"]
#[allow(dead_code, reason = "shared with the tests of Kafka")]
mod kafka;
#[path = "../nats/support.rs"]
#[allow(dead_code, reason = "shared with the tests of NATS")]
mod nats;
mod setup;
mod story;

use std::time::{Duration, Instant};

/// Waits; only ever between two looks at a condition.
#[allow(clippy::disallowed_methods, reason = "no worker is blocked by it")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Looks until it holds; what is waited for is in the message.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(4);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        pause(Duration::from_millis(200));
    }
}
