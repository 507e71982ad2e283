//! What all threads of a collector share.

use std::fs::File;
use std::sync::Arc;

use pap_alertmanager::settings::Alertmanagers;
use pap_process::stop::Stop;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::observers::Observers;
use crate::readiness::Readiness;
use crate::shared::Shared;
use crate::state_keeper::{StateKeeper, run_number};
use crate::trace_writer::most_waiting;
use crate::vitals::Vitals;

/// What all threads share, one of each.
pub struct Parts {
    /// The registry behind its lock, and the clock.
    pub shared: Shared,
    /// Has restored the registry at the start, and saves it.
    pub keeper: StateKeeper,
    /// Counters and durations, which threads record here.
    pub metrics: Metrics,
    /// When each thread last gave a sign of life.
    pub vitals: Vitals,
    /// The observers.
    pub observers: Arc<Observers>,
    /// Whether agents should be sent here.
    pub readiness: Readiness,
    /// Tells the threads to end.
    pub stop: Stop,
    /// Whether heartbeats are recorded in a trace, which a thread writes.
    pub is_traced: bool,
}

impl Parts {
    /// A collector whose clock starts now. Its state is the one that an in-place
    /// upgrade handed over, or else the one in the state file.
    pub fn new(config: &Config, handed_over: Option<&File>) -> Self {
        let repeat = Alertmanagers::repeat(config.alertmanagers.as_ref());
        let shared = Shared::new(config.rules, repeat);
        if let Some(trace) = &config.trace {
            // Before the agents are restored: the trace says which agents were known.
            shared.start_trace(&config.rules, run_number(), most_waiting(trace));
        }
        let keeper = StateKeeper::new(config, &shared, handed_over);
        let observers = Observers::new(keeper.owner().clone(), config.max_observers);
        Self {
            shared,
            keeper,
            metrics: Metrics::default(),
            vitals: Vitals::new(config.rules.outbox.senders + repeat.targets),
            observers: Arc::new(observers),
            readiness: Readiness::default(),
            stop: Stop::default(),
            is_traced: config.trace.is_some(),
        }
    }
}
