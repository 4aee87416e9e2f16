//! The contracts of the events: the schemas, the AsyncAPI document, the catalogue, `schema`.
//!
//! Everything is held against what the program really emits, in both directions: what is emitted
//! passes, and what differs from it in any way that matters fails.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod asyncapi;
mod catalogue;
mod command;
mod compatible;
mod events;
mod mutants;
mod payload;
mod released;
mod schemas;
