//! How often something took how long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets, in seconds, for what should take milliseconds.
pub const FAST: [f64; 12] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Buckets, in seconds, for what may take as long as an outage.
pub const SLOW: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0];

/// How often something took how long.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds, in seconds.
    pub bounds: &'static [f64],
    /// One more than there are bounds: the last holds what exceeds them all.
    pub counts: Vec<AtomicU64>,
    /// All durations together.
    pub sum_nanos: AtomicU64,
}

impl Histogram {
    /// An empty histogram with these upper bounds, in rising seconds.
    pub fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_nanos: AtomicU64::new(0) }
    }

    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.partition_point(|&bound| bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl Clone for Histogram {
    fn clone(&self) -> Self {
        let copy = |value: &AtomicU64| AtomicU64::new(value.load(Ordering::Relaxed));
        Self {
            bounds: self.bounds,
            counts: self.counts.iter().map(copy).collect(),
            sum_nanos: copy(&self.sum_nanos),
        }
    }
}
