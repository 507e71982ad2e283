//! What `/ready` answers: whether agents should send their heartbeats here.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its threads are being started.
    Starting,
    /// It takes heartbeats.
    Ready,
    /// It was told to stop, takes no new work, and finishes the work in hand. It passes no
    /// verdicts any more: an agent that is silent here may already send its heartbeats to the
    /// collector that replaces this one.
    Draining,
}

/// Whether agents should send their heartbeats here.
#[derive(Debug)]
pub struct Readiness {
    phase: AtomicU8,
    is_alive: AtomicBool,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { phase: AtomicU8::new(Phase::Starting as u8), is_alive: AtomicBool::new(true) }
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

    /// Whether every event loop answers.
    pub fn is_alive(&self) -> bool {
        self.is_alive.load(Ordering::SeqCst)
    }

    /// Takes note of whether every event loop answers.
    pub fn set_alive(&self, is_alive: bool) {
        self.is_alive.store(is_alive, Ordering::SeqCst);
    }
}
