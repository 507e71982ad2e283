//! How alerts ended, in numbers.

use std::collections::BTreeMap;

use crate::alert::Kind;

/// Why the station will never be told an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// The queue was full of alerts that matter as much or more.
    QueueFull,
    /// The event waited too long to be fresh.
    Expired,
    /// The verdict stopped being true before the station was told.
    Cancelled,
    /// The agent said goodbye or was removed.
    Removed,
    /// The agent had the same alert less than a minute before.
    RateLimited,
}

impl Dropped {
    /// The reason's name in the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Removed => "removed",
            Self::RateLimited => "rate_limited",
        }
    }
}

/// How many alerts ended in which way.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Alerts that the station took, by type.
    pub delivered: BTreeMap<Kind, u64>,
    /// Alerts that the station refused for good, by type and status code.
    pub refused: BTreeMap<(Kind, u16), u64>,
    /// Alerts that the station will never be told, by type and reason.
    pub dropped: BTreeMap<(Kind, Dropped), u64>,
}

impl Tally {
    /// Counts one alert that the station will never be told.
    pub fn drop_one(&mut self, kind: Kind, why: Dropped) {
        *self.dropped.entry((kind, why)).or_default() += 1;
    }
}
