//! What a bad neighbour can send, against the real binary. While each attack
//! runs, honest heartbeats on fresh connections are answered, nearly as quickly
//! as those to a collector that nobody attacks; after it threads, descriptors
//! and memory are back near where they were.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a test ends where something is not as it should be, and may look at the time"
)]

#[path = "../support/mod.rs"]
mod support;

mod attack;
mod requests;
mod resources;
mod waiting;
