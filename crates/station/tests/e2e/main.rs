//! The real station over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::format_push_string,
    clippy::needless_pass_by_value,
    clippy::items_after_statements,
    reason = "a test ends where something is not as it should be, and may look at the time"
)]

mod access;
mod agents;
mod alertmanager;
mod alerts;
mod bad_days;
mod books;
mod channels;
mod clusters;
#[path = "../../../../tests/support/pages.rs"]
mod commands;
mod crowd;
mod files;
mod import;
#[cfg(feature = "kafka")]
mod kafka;
mod machines;
mod many_clusters;
mod old_files;
mod originals;
mod pages;
mod phases;
mod receivers;
mod sharing;
mod strange_engine;
mod support;
mod together;
mod workers;
