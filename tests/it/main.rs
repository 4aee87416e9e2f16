//! The product from the outside: the real binary, or the whole program in this process where a
//! month has to pass, against the simulated Cost Explorer.
//!
//! Units have their tests beside them. Nothing here needs a network, an account or a broker, and
//! every process and port is the test's own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod admin;
mod backfill;
mod bad_input;
mod check;
mod cli;
mod connect;
#[cfg(target_os = "linux")]
mod connect_terminal;
mod crash;
mod cycle;
mod deployment;
mod faults;
mod grouping;
mod money;
mod output;
mod plan;
mod proxy;
mod secrets;
mod shutdown;
mod support;
