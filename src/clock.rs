//! The only reader of time.
//!
//! A [`Tick`] counts the time this process was **awake**. The sweeper renews a
//! lease on it at every wake-up; time beyond the lease does not count. So when
//! the process is stopped, starved or suspended, the silence of every agent
//! stands still with it, and nobody is accused for a pause that was ours.

use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a wake-up may be late by before the rest counts as a pause of ours.
pub const TOLERANCE: Duration = Duration::from_millis(500);

/// Awake time starts here, not at zero, so that moments before the start can
/// be told: an agent restored from a saved state may have been heard then.
const START: Duration = Duration::from_secs(3 * 365 * 86_400);

/// A moment of awake, monotonic time, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u64);

impl Tick {
    /// A moment before all others.
    pub const MIN: Self = Self(0);

    /// The moment that lies `since_start` after the collector's start.
    pub fn from_start(since_start: Duration) -> Self {
        Self(nanos(START + since_start))
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Tick {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl Sub<Duration> for Tick {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

/// A moment on the wall clock: milliseconds since 1970, for people and alerts,
/// never for a verdict. It is written as ISO 8601 in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wall(pub u64);

impl std::fmt::Display for Wall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(self.0)).fmt(f)
    }
}

impl From<Wall> for SystemTime {
    fn from(wall: Wall) -> Self {
        UNIX_EPOCH + Duration::from_millis(wall.0)
    }
}

impl Wall {
    /// The time from `earlier` to this moment; zero if `earlier` is later.
    pub fn since(self, earlier: SystemTime) -> Duration {
        SystemTime::from(self).duration_since(earlier).unwrap_or_default()
    }
}

impl Serialize for Wall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Wall {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let moment = humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)?;
        let since_epoch = moment.duration_since(UNIX_EPOCH).map_err(serde::de::Error::custom)?;
        Ok(Self(millis(since_epoch)))
    }
}

/// The same moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For verdicts, deadlines and waits.
    pub tick: Tick,
    /// For what people read.
    pub wall: Wall,
}

/// Awake time, shared by all threads.
pub struct Clock {
    start: Instant,
    /// Nanoseconds taken off so far because nobody was awake to count them.
    paused: AtomicU64,
    /// Where the present lease ends; awake time stands still there.
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

    /// The present moment. It never runs backwards and never past the lease.
    pub fn now(&self) -> Now {
        Now { tick: self.tick(self.raw()), wall: wall() }
    }

    /// Renews the lease: the caller is awake, and means to be so again after
    /// `sleep`. Time since the end of the last lease is taken off. Only the
    /// sweeper calls this; calling it early is harmless.
    pub fn renew(&self, sleep: Duration) -> Now {
        let raw = self.raw();
        let paused = self.paused.load(Ordering::Relaxed);
        let lease_end = self.lease_end.load(Ordering::Relaxed);
        let overrun = (raw - paused).saturating_sub(lease_end);
        // In this order a reader between the two stores sees time stand
        // still, never jump ahead.
        self.paused.store(paused + overrun, Ordering::SeqCst);
        let tick = raw - paused - overrun;
        self.lease_end.store(tick + nanos(sleep) + nanos(TOLERANCE), Ordering::SeqCst);
        Now { tick: Tick(tick), wall: wall() }
    }

    /// The time taken off since the start.
    pub fn paused(&self) -> Duration {
        Duration::from_nanos(self.paused.load(Ordering::Relaxed))
    }

    /// The time since the start, pauses included.
    pub fn uptime(&self) -> Duration {
        self.start.elapsed()
    }

    fn raw(&self) -> u64 {
        nanos(START + self.start.elapsed())
    }

    fn tick(&self, raw: u64) -> Tick {
        // The lease is read first: an older lease end with newer pauses can
        // only show an earlier moment, which the lists of the registry accept.
        let lease_end = self.lease_end.load(Ordering::SeqCst);
        let paused = self.paused.load(Ordering::SeqCst);
        Tick(raw.saturating_sub(paused).min(lease_end))
    }
}

/// The wall clock's present moment.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn wall() -> Wall {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// The system's monotonic clock, which every image of the process sees alike.
pub fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

/// The time since the system was started, suspended or not.
pub fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

/// The moment `wait` from now, for a thread that waits and gives up.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn deadline_in(wait: Duration) -> Instant {
    Instant::now() + wait
}

/// Whole milliseconds, as the API gives them.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
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
    fn wall_time_is_read_as_it_is_written() {
        let read = |text: &str| serde_json::from_str::<Wall>(text).ok();
        let wall = Wall(1_764_669_600_123);
        assert_eq!(read(&serde_json::to_string(&wall).unwrap()), Some(wall));
        assert_eq!(read("\"2025-12-02T10:00:00Z\""), Some(Wall(1_764_669_600_000)));
        for wrong in ["\"2025-12-02T10:00:00\"", "\"2025-12-02T10:00:00+01:00\"", "1764669600123", "\"\""] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn wall_time_reads_as_iso_8601_in_utc() {
        assert_eq!(Wall(1_764_669_600_123).to_string(), "2025-12-02T10:00:00.123Z");
    }
}
