//! What the program does instead of running a collector: it asks one that runs, or
//! replays what one recorded.

pub mod agents;
pub mod check;
mod listing;
pub mod replay;
pub mod top;
