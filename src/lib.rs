//! AWS spend as a trustworthy event stream.
//!
//! Polls AWS Cost Explorer for the spend per service, finds out what is new, revised or gone, and
//! publishes CloudEvents, effectively once: **poller → dedup → transport**.
//!
//! One cost record's way: [`poller`] asks for a page, [`dedup`] compares each record with the
//! ledger, [`event`] states the change, [`transport`] moves event and state together; [`cycle`]
//! holds the four together and [`app`] runs it for every connection of the [`config`]. What costs
//! are is in [`cost`]; a whole AWS to try it on is in [`simulator`].

pub mod admin;
pub mod app;
pub mod backfill;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod consume;
pub mod cost;
pub mod cycle;
pub mod dedup;
pub mod event;
pub mod exit;
pub mod forward;
pub mod http;
pub mod poller;
mod signals;
pub mod simulator;
pub mod telemetry;
pub mod transport;
