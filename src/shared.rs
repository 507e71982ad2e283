//! The registry behind the one mutex. Critical sections are short, and no thread
//! is notified before the lock is released. To answer "can it deadlock", read this
//! page: no code outside it locks the registry.
//!
//! Only the sweeper sleeps on the registry's mutex. A thread that waits until
//! alerts are delivered waits on another mutex, for a report of the sweeper.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use pap_core::alert::Alert;
use pap_core::delivery::Outcome;
use pap_core::firing::Repeat;
use pap_core::registry::{Registry, Rules};
use pap_core::time::Now;
use pap_core::trace::tape::{Cut, Wish};
use pap_core::trace::{Head, Tape, TracedRules};
use pap_process::clock::Clock;

use crate::trace_writer::Calls;

struct Guarded {
    registry: Registry,
    /// Records in memory what the registry is told, for the trace.
    tape: Tape,
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
    /// For each Alertmanager: wakes the thread that posts to it.
    bells: Vec<(Sender<()>, Receiver<()>)>,
    /// Calls for the thread that writes the trace.
    calls: Calls,
}

impl Shared {
    /// An empty registry and a clock that starts now.
    pub fn new(rules: Rules, alertmanagers: Repeat) -> Self {
        let (mut registry, clock) = (Registry::new(rules), Clock::start());
        registry.tell_alertmanagers(alertmanagers);
        registry.woke_up(clock.now().wall);
        Self {
            guarded: Mutex::new(Guarded { registry, tape: Tape::OFF, is_woken: false, alerts_held: false }),
            sweeper: Condvar::new(),
            clock,
            deliveries: Mutex::default(),
            reported: Condvar::new(),
            bells: (0..alertmanagers.targets).map(|_| bounded(1)).collect(),
            calls: Calls::default(),
        }
    }

    /// From here on, what the registry is told is recorded. At most about `most` bytes
    /// wait to be written. No other run is likely to have the same number `run`.
    pub fn start_trace(&self, rules: &Rules, run: u64, most: usize) {
        let mut guarded = self.lock();
        let now = self.clock.now();
        let head = Head { run, part: 0, at: now.tick, wall: now.wall, rules: TracedRules::of(rules) };
        guarded.tape = Tape::new(head, most);
    }

    /// Runs `f` under the lock. `f` must do no I/O, and its work must not grow with
    /// the number of agents. The clock is read under the lock too, so changes
    /// have the same order as their times.
    pub fn with<R>(&self, f: impl FnOnce(&mut Registry, Now) -> R) -> R {
        self.recorded(|registry, now, _| f(registry, now))
    }

    /// The same for what changes verdicts: `f` also records it.
    pub fn recorded<R>(&self, f: impl FnOnce(&mut Registry, Now, &mut Tape) -> R) -> R {
        let guarded = self.lock();
        let now = self.clock.now();
        self.run(guarded, now, f)
    }

    /// The same for the sweeper, which also renews the lease on awake time.
    pub fn with_renewed<R>(&self, f: impl FnOnce(&mut Registry, Now, &mut Tape) -> R) -> R {
        let mut guarded = self.lock();
        guarded.is_woken = false;
        let now = self.renew(&mut guarded, Duration::ZERO);
        self.run(guarded, now, f)
    }

    /// Runs `f`. Wakes the threads that post to Alertmanagers if there is something new to tell,
    /// and the thread that writes the trace if much was recorded.
    fn run<R>(
        &self,
        mut guarded: MutexGuard<'_, Guarded>,
        now: Now,
        f: impl FnOnce(&mut Registry, Now, &mut Tape) -> R,
    ) -> R {
        let Guarded { registry, tape, .. } = &mut *guarded;
        let told = registry.firing().newest();
        let result = f(registry, now, tape);
        let is_news = registry.firing().newest() != told;
        let is_heavy = tape.is_heavy();
        drop(guarded);
        if is_news {
            for (bell, _) in &self.bells {
                // A bell that rings already is enough.
                let _ = bell.try_send(());
            }
        }
        if is_heavy {
            self.calls.call();
        }
        result
    }

    /// Rings when Alertmanager number `target` may have to be told something new.
    pub fn bell(&self, target: usize) -> &Receiver<()> {
        &self.bells[target].1
    }

    /// Renews the lease on awake time, and records the pause that this ends, if any.
    fn renew(&self, guarded: &mut Guarded, sleep: Duration) -> Now {
        let paused = self.clock.paused();
        let now = self.clock.renew(sleep);
        let pause = self.clock.paused().saturating_sub(paused);
        if !pause.is_zero() {
            guarded.tape.paused(now, pause);
        }
        now
    }

    /// Takes what was recorded; `spare` becomes the memory for what follows. A time
    /// mark ends it while a verdict may fall due.
    pub fn cut_trace(&self, wish: Wish, spare: Vec<u8>) -> Cut {
        let mut guarded = self.lock();
        let now = self.clock.now();
        let marks = guarded.registry.next_verdict().is_some();
        guarded.tape.cut(now, Wish { marks, ..wish }, spare)
    }

    /// Calls for the thread that writes the trace.
    pub const fn trace_calls(&self) -> &Calls {
        &self.calls
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

    /// The sweeper's sleep: until the next deadline, until another thread wakes the sweeper, or
    /// for `longest`, whichever comes first. If it passes no verdicts, it ignores their
    /// deadlines.
    pub fn sleep(&self, longest: Duration, passes_verdicts: bool) {
        let mut guarded = self.lock();
        let registry = &guarded.registry;
        let alerts = registry.outbox().next_due().filter(|_| !guarded.alerts_held);
        let verdicts = registry.next_verdict().filter(|_| passes_verdicts);
        let now = self.clock.now().tick;
        let deadline = alerts.into_iter().chain(verdicts).min();
        let sleep = deadline.map_or(longest, |deadline| deadline.since(now)).min(longest);
        self.renew(&mut guarded, sleep);
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
