//! AWS spend as a trustworthy event stream.

pub mod admin;
pub mod app;
pub mod clock;
pub mod config;
pub mod cost;
pub mod cycle;
pub mod dedup;
pub mod event;
pub mod exit;
pub mod poller;
pub mod telemetry;
pub mod transport;
