//! What the program does instead of running a collector: it asks one that runs.

pub mod agents;
pub mod check;
mod listing;
pub mod top;
