//! Time as values: this crate never reads a clock.

use std::ops::{Add, Sub};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Awake time starts here, not at zero, so that moments before the start have a
/// value: an agent from a saved state may have been heard then.
pub const START: Duration = Duration::from_secs(3 * 365 * 86_400);

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

    /// The moment at which the awake clock shows `nanos`. It shows [`START`] at the
    /// collector's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// What the awake clock shows at this moment.
    pub const fn as_nanos(self) -> u64 {
        self.0
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

macro_rules! moments {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(Duration);

        impl $name {
            /// The moment at which the clock shows `reading`.
            pub const fn new(reading: Duration) -> Self {
                Self(reading)
            }

            /// What the clock shows at this moment.
            pub const fn reading(self) -> Duration {
                self.0
            }

            /// The time from `earlier` to this moment; zero if `earlier` is later.
            pub const fn since(self, earlier: Self) -> Duration {
                self.0.saturating_sub(earlier.0)
            }
        }

        impl Add<Duration> for $name {
            type Output = Self;
            fn add(self, duration: Duration) -> Self {
                Self(self.0.saturating_add(duration))
            }
        }

        impl Sub<Duration> for $name {
            type Output = Self;
            fn sub(self, duration: Duration) -> Self {
                Self(self.0.saturating_sub(duration))
            }
        }
    )+};
}

moments! {
    /// A moment on the system's monotonic clock. All processes of one boot share it.
    Monotonic;
    /// The time since this program started, pauses included. An in-place upgrade starts
    /// it again.
    Uptime;
    /// The time since the system started, suspended time included.
    SinceBoot;
}

/// A moment on the wall clock, in milliseconds since 1970. It is for people and
/// alerts, never for a verdict. It is written as ISO 8601 in UTC.
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

/// Whole milliseconds, as the API shows them.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whole nanoseconds, or the greatest number if they do not fit.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
