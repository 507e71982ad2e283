//! What the program does instead of running a collector: it asks a running collector, or
//! replays a trace.

pub mod agents;
pub mod check;
mod listing;
pub mod replay;
pub mod top;
