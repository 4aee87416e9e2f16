//! What the command line offers beside `run`, a file each.

pub mod check;
pub mod demo;
pub mod ledger;
pub mod simulate;
