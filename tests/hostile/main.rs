//! Attacks by a bad neighbour on the real binary. During each attack, honest
//! heartbeats on fresh connections are answered nearly as quickly as by a collector
//! that nobody attacks. After it, the numbers of threads and descriptors and the
//! memory are back near their old values.

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
mod crowd;
mod requests;
mod resources;
mod waiting;
