//! AWS spend as a trustworthy event stream.

pub mod clock;
pub mod commands;
pub mod config;
pub mod cost;
pub mod poller;
pub mod simulator;
