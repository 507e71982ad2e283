//! The only module that reads time.
//!
//! A [`Tick`] counts the time for which this process was **awake**. At every wake-up,
//! the sweeper renews a lease. Time beyond the lease does not count. So while the
//! process is stopped, starved or suspended, the silence of every agent stands still,
//! and no agent is dead because of our own pause.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pap_core::time::{Monotonic, Now, START, SinceBoot, Tick, Uptime, Wall, nanos};

/// A wake-up may be late by this much. Beyond it, the delay counts as a pause of ours.
pub const TOLERANCE: Duration = Duration::from_millis(500);

/// Awake time, shared by all threads.
pub struct Clock {
    start: Instant,
    /// Nanoseconds that were taken off so far, because the process was not awake.
    paused: AtomicU64,
    /// The end of the present lease. Awake time stands still there.
    lease_end: AtomicU64,
}

impl Clock {
    /// A clock that starts now, with a lease of [`TOLERANCE`].
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            paused: AtomicU64::new(0),
            lease_end: AtomicU64::new(nanos(START + TOLERANCE)),
        }
    }

    /// The present moment, never past the lease. A call that races with
    /// [`renew`](Self::renew) may return an earlier moment than the call before, so
    /// callers who need an order make both calls under one lock.
    pub fn now(&self) -> Now {
        Now { tick: self.tick(self.raw()), wall: wall() }
    }

    /// Renews the lease: the caller is awake, and intends to wake up again after
    /// `sleep`. The time since the end of the last lease is taken off. Only the sweeper
    /// calls this. To call it early does no harm.
    pub fn renew(&self, sleep: Duration) -> Now {
        let raw = self.raw();
        let paused = self.paused.load(Ordering::Relaxed);
        let lease_end = self.lease_end.load(Ordering::Relaxed);
        let overrun = (raw - paused).saturating_sub(lease_end);
        // In this order, a thread that reads between the two stores sees time stand
        // still. It never sees time jump ahead.
        self.paused.store(paused + overrun, Ordering::SeqCst);
        let tick = raw - paused - overrun;
        self.lease_end.store(tick + nanos(sleep) + nanos(TOLERANCE), Ordering::SeqCst);
        Now { tick: Tick::from_nanos(tick), wall: wall() }
    }

    /// The time that was taken off since the start.
    pub fn paused(&self) -> Duration {
        Duration::from_nanos(self.paused.load(Ordering::Relaxed))
    }

    /// The time since the start, pauses included.
    pub fn uptime(&self) -> Uptime {
        Uptime::new(self.start.elapsed())
    }

    fn raw(&self) -> u64 {
        nanos(START + self.start.elapsed())
    }

    fn tick(&self, raw: u64) -> Tick {
        // The end of the lease is read first. An old lease end with a new pause can
        // only show an earlier moment, never a later one.
        let lease_end = self.lease_end.load(Ordering::SeqCst);
        let paused = self.paused.load(Ordering::SeqCst);
        Tick::from_nanos(raw.saturating_sub(paused).min(lease_end))
    }
}

/// The wall clock's present moment.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn wall() -> Wall {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// The present moment on the system's monotonic clock.
pub fn monotonic() -> Monotonic {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Monotonic::new(Duration::try_from(now).unwrap_or_default())
}

/// The time since the system started, suspended time included.
pub fn since_boot() -> SinceBoot {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    SinceBoot::new(Duration::try_from(now).unwrap_or_default())
}

/// The moment `wait` from now, for a thread that waits until a deadline.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn deadline_in(wait: Duration) -> Instant {
    Instant::now() + wait
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock whose raw time the test has moved by shifting its start.
    #[expect(clippy::unchecked_time_subtraction, reason = "the machine has run for longer than that")]
    fn clock_at(raw: Duration, paused: Duration, lease_end: Duration) -> Clock {
        let clock = Clock::start();
        Clock {
            start: clock.start - raw,
            paused: AtomicU64::new(nanos(paused)),
            lease_end: AtomicU64::new(nanos(START + lease_end)),
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_stands_still_where_the_lease_ends() {
        let clock = clock_at(100 * SECOND, Duration::ZERO, 2 * SECOND);
        assert_eq!(clock.now().tick, Tick::from_start(2 * SECOND));
        let woken = clock.renew(SECOND);
        assert_eq!(woken.tick, Tick::from_start(2 * SECOND), "the pause is taken off");
        assert!(clock.paused() >= 98 * SECOND);
        assert!(clock.now().tick >= woken.tick, "time never runs backwards");
    }

    #[test]
    fn a_punctual_renewal_takes_nothing_off() {
        let clock = clock_at(10 * SECOND, SECOND, 20 * SECOND);
        let now = clock.renew(SECOND);
        assert!(now.tick >= Tick::from_start(9 * SECOND));
        assert_eq!(clock.paused(), SECOND);
    }

    #[test]
    fn wall_time_reads_as_iso_8601_in_utc() {
        assert_eq!(Wall(1_764_669_600_123).to_string(), "2025-12-02T10:00:00.123Z");
    }
}
