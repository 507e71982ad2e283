//! The registry behind the one mutex. Critical sections are short, and no thread
//! is notified before the lock is released. To answer "can it deadlock", read this
//! page: no code outside it locks the registry.
//!
//! Only the sweeper sleeps on the registry's mutex. A thread that waits until
//! alerts are delivered waits on another mutex, for a report of the sweeper.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pap_core::alert::Alert;
use pap_core::delivery::Outcome;
use pap_core::registry::{Registry, Rules};
use pap_core::time::Now;
use pap_process::clock::Clock;

struct Guarded {
    registry: Registry,
    /// The sweeper is to look again at once, not at its deadline.
    is_woken: bool,
    /// The senders get no alerts for now.
    alerts_held: bool,
}

/// What the sweeper last reported about alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deliveries {
    /// An alert is being posted.
    pub is_posting: bool,
    /// Nothing is owed, queued or being posted.
    pub is_done: bool,
}

/// The registry and the clock, for all threads.
pub struct Shared {
    guarded: Mutex<Guarded>,
    /// Wakes the sweeper. No other thread waits on it.
    sweeper: Condvar,
    clock: Clock,
    deliveries: Mutex<Option<Deliveries>>,
    reported: Condvar,
}

impl Shared {
    /// An empty registry and a clock that starts now.
    pub fn new(rules: Rules) -> Self {
        let (mut registry, clock) = (Registry::new(rules), Clock::start());
        registry.woke_up(clock.now().wall);
        Self {
            guarded: Mutex::new(Guarded { registry, is_woken: false, alerts_held: false }),
            sweeper: Condvar::new(),
            clock,
            deliveries: Mutex::default(),
            reported: Condvar::new(),
        }
    }

    /// Runs `f` under the lock. `f` must do no I/O, and its work must not grow with
    /// the number of agents. The clock is read under the lock too, so changes
    /// have the same order as their times.
    pub fn with<R>(&self, f: impl FnOnce(&mut Registry, Now) -> R) -> R {
        let mut guarded = self.lock();
        let now = self.clock.now();
        f(&mut guarded.registry, now)
    }

    /// The same for the sweeper, which also renews the lease on awake time.
    pub fn with_renewed<R>(&self, f: impl FnOnce(&mut Registry, Now) -> R) -> R {
        let mut guarded = self.lock();
        guarded.is_woken = false;
        let now = self.clock.renew(Duration::ZERO);
        f(&mut guarded.registry, now)
    }

    /// The next alerts to post; none while alerts are held back. Also reports to
    /// [`await_deliveries`](Self::await_deliveries).
    pub fn next_alerts(&self) -> Vec<Alert> {
        let mut guarded = self.lock();
        let now = self.clock.now();
        let alerts = if guarded.alerts_held {
            Vec::new()
        } else {
            std::iter::from_fn(|| guarded.registry.next_alert(now)).collect()
        };
        let outbox = guarded.registry.outbox();
        let deliveries = Deliveries { is_posting: outbox.is_posting(), is_done: outbox.is_empty() };
        drop(guarded);
        let mut reported = self.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.replace(deliveries) != Some(deliveries) {
            drop(reported);
            self.reported.notify_all();
        }
        alerts
    }

    /// Records the outcome of a post, and lets the sweeper hand out the next alert.
    pub fn settle(&self, alert: &Alert, outcome: Outcome) {
        self.with(|registry, now| registry.settle(now, alert, outcome));
        self.wake();
    }

    /// Holds all alerts back, or lets them go again.
    pub fn hold_alerts(&self, hold: bool) {
        self.lock().alerts_held = hold;
        self.wake();
    }

    /// Lets the sweeper look again at once.
    pub fn wake(&self) {
        self.lock().is_woken = true;
        self.sweeper.notify_one();
    }

    /// The sweeper's sleep: until the next deadline, until another thread wakes it,
    /// or for `longest`, whichever comes first. A sweeper that passes no verdicts
    /// ignores their deadlines.
    pub fn sleep(&self, longest: Duration, passes_verdicts: bool) {
        let guarded = self.lock();
        let registry = &guarded.registry;
        let alerts = registry.outbox().next_due().filter(|_| !guarded.alerts_held);
        let verdicts = registry.next_verdict().filter(|_| passes_verdicts);
        let now = self.clock.now().tick;
        let deadline = alerts.into_iter().chain(verdicts).min();
        let sleep = deadline.map_or(longest, |deadline| deadline.since(now)).min(longest);
        self.clock.renew(sleep);
        // A spurious wake-up is harmless: the sweeper then finds nothing due.
        drop(self.sweeper.wait_timeout_while(guarded, sleep, |guarded| !guarded.is_woken));
    }

    /// Waits until the sweeper reports deliveries for which `are_so` is true, at
    /// most for `longest`. Returns whether that happened.
    pub fn await_deliveries(&self, longest: Duration, are_so: impl Fn(Deliveries) -> bool) -> bool {
        let mut reported = self.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
        // Only a new report counts: an older one may no longer be true.
        *reported = None;
        self.wake();
        let is_waiting = |reported: &mut Option<Deliveries>| !reported.is_some_and(&are_so);
        let waited = self.reported.wait_timeout_while(reported, longest, is_waiting);
        let (_reported, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    /// The clock, which needs no lock.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        // A panic in a thread of ours ends the process (panics.rs), so no thread
        // sees a poisoned lock.
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
