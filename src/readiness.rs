//! What `/ready` and `/health` are asked: whether agents should be sent here.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its threads are being started.
    Starting,
    /// It takes heartbeats.
    Ready,
    /// It was told to stop, and finishes what is in hand. No verdict is passed
    /// any more: an agent that is silent here may be talking to the collector
    /// that takes our place.
    Draining,
}

/// Whether agents should be sent here.
#[derive(Debug)]
pub struct Readiness {
    phase: AtomicU8,
    is_reachable: AtomicBool,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { phase: AtomicU8::new(Phase::Starting as u8), is_reachable: AtomicBool::new(true) }
    }
}

impl Readiness {
    /// What the process is doing.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// Whether our own port can be reached.
    pub fn is_reachable(&self) -> bool {
        self.is_reachable.load(Ordering::SeqCst)
    }

    /// Takes note of whether our own port can be reached.
    pub fn set_reachable(&self, is_reachable: bool) {
        self.is_reachable.store(is_reachable, Ordering::SeqCst);
    }
}
