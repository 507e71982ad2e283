//! The one mutex and its condvar. Critical sections are short, and nobody is
//! notified before the lock is released. Whoever asks "can it deadlock" has
//! this page to read: no code outside it locks the registry.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pap_core::alert::Alert;
use pap_core::registry::{Registry, Rules};
use pap_core::time::Now;
use pap_process::clock::Clock;

/// What the process is doing, as `/ready` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet ready.
    Starting,
    /// Taking heartbeats.
    Ready,
    /// Told to stop; what is in hand is finished.
    Draining,
}

struct State {
    registry: Registry,
    /// Somebody wants the sweeper to look again.
    woken: bool,
    /// No alert is to be handed out.
    alerts_held: bool,
}

/// What all threads share.
pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    clock: Clock,
    phase: AtomicU8,
    reachable: AtomicBool,
    stopping: AtomicBool,
}

impl Shared {
    /// An empty registry and a clock that starts now.
    pub fn new(rules: Rules) -> Self {
        Self {
            state: Mutex::new(State { registry: Registry::new(rules), woken: false, alerts_held: false }),
            changed: Condvar::new(),
            clock: Clock::start(),
            phase: AtomicU8::new(Phase::Starting as u8),
            reachable: AtomicBool::new(true),
            stopping: AtomicBool::new(false),
        }
    }

    /// Runs `f` under the lock. It must do no I/O, and nothing in proportion
    /// to the number of agents. The moment is read under the lock too, so
    /// that moments and changes come in the same order.
    pub fn with<R>(&self, f: impl FnOnce(&mut Registry, Now) -> R) -> R {
        let mut state = self.lock();
        let now = self.clock.now();
        f(&mut state.registry, now)
    }

    /// The same for the sweeper, who renews the lease on awake time.
    pub fn with_renewed<R>(&self, f: impl FnOnce(&mut Registry, Now) -> R) -> R {
        let mut state = self.lock();
        state.woken = false;
        let now = self.clock.renew(Duration::ZERO);
        f(&mut state.registry, now)
    }

    /// The next alerts to post, unless they are held.
    pub fn next_alerts(&self) -> Vec<Alert> {
        let mut state = self.lock();
        if state.alerts_held {
            return Vec::new();
        }
        let now = self.clock.now();
        std::iter::from_fn(|| state.registry.next_alert(now)).collect()
    }

    /// Holds all alerts back, or lets them go again.
    pub fn hold_alerts(&self, hold: bool) {
        self.lock().alerts_held = hold;
        self.wake();
    }

    /// Lets the sweeper look again at once.
    pub fn wake(&self) {
        self.lock().woken = true;
        self.changed.notify_all();
    }

    /// The sweeper's sleep: until the next deadline, at most `longest`, or
    /// until it is woken.
    pub fn sleep(&self, longest: Duration) {
        let state = self.lock();
        // While alerts are held, those that are due must not keep it awake.
        let deadline = if state.alerts_held { None } else { state.registry.next_deadline() };
        let now = self.clock.now().tick;
        let sleep = deadline.map_or(longest, |deadline| deadline.since(now)).min(longest);
        self.clock.renew(sleep);
        // Waking for nothing is harmless: the sweeper then finds nothing due.
        drop(self.changed.wait_timeout_while(state, sleep, |state| !state.woken));
    }

    /// Waits until `done`, at most for `longest`. Returns whether it came to that.
    pub fn wait_until(&self, longest: Duration, done: impl Fn(&Registry) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), longest, |state| !done(&state.registry));
        let (_state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    /// The clock, for what needs no lock.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

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

    /// Waits for `time`, or until the threads are to end.
    pub fn pause(&self, time: Duration) {
        let waiting = |_: &mut State| !self.is_stopping();
        drop(self.changed.wait_timeout_while(self.lock(), time, waiting));
    }

    /// Whether our own port can be reached.
    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::SeqCst)
    }

    /// Takes note of whether our own port can be reached.
    pub fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::SeqCst);
    }

    /// Tells the threads to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether the threads are to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread of ours that panics ends the process (app.rs), so nobody
        // gets to see a poisoned lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
