//! Limits how often the same kind of trouble is logged.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pap_core::time::Uptime;

/// The least time between two log lines about one kind of trouble.
const PAUSE: Duration = Duration::from_secs(60);

/// When each kind of trouble was last logged. The map has at most one entry for each
/// value of `K`.
#[derive(Debug)]
pub struct Throttle<K>(Mutex<HashMap<K, Uptime>>);

impl<K> Default for Throttle<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Throttle<K> {
    /// Whether to log trouble of this kind now: it was not logged within the last
    /// minute. If so, the minute starts again.
    pub fn is_news(&self, kind: K, now: Uptime) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = last.get(&kind).is_none_or(|&at| now.since(at) >= PAUSE);
        if is_news {
            last.insert(kind, now);
        }
        is_news
    }

    /// All is well again: the next trouble of any kind is logged.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_said_once_a_minute_until_all_is_well() {
        let (throttle, at) = (Throttle::default(), |seconds| Uptime::new(Duration::from_secs(seconds)));
        assert!(throttle.is_news(1, at(0)) && throttle.is_news(2, at(1)));
        assert!(!throttle.is_news(1, at(59)));
        assert!(throttle.is_news(1, at(60)));
        throttle.clear();
        assert!(throttle.is_news(1, at(61)));
    }
}
