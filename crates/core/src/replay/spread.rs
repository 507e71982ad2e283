//! Counts of durations, in memory that does not grow with their number.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::nanos;

/// Milliseconds below this are counted one by one, longer times to a thousandth and
/// better.
const EXACT: u64 = 1 << 14;

/// How many durations there were of each length, in milliseconds. There are at most
/// some hundred thousand lengths.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    counts: BTreeMap<u64, u64>,
    count: u64,
    max: Option<u64>,
}

impl Spread {
    pub fn record(&mut self, millis: u64) {
        // The highest bits stay.
        let low = (u64::BITS - millis.leading_zeros()).saturating_sub(EXACT.ilog2());
        *self.counts.entry(millis >> low << low).or_default() += 1;
        self.count += 1;
        self.max = self.max.max(Some(millis));
    }

    /// The length that this part of all durations does not exceed; None without any.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank is a count, and not negative"
    )]
    pub fn quantile(&self, part: f64) -> Option<u64> {
        let rank = ((self.count as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        self.counts
            .iter()
            .find(|&(_, count)| {
                seen += count;
                seen >= rank
            })
            .map(|(&length, _)| length)
    }

    pub const fn max(&self) -> Option<u64> {
        self.max
    }
}

/// The upper bounds of the jitter's buckets, in milliseconds.
const BOUNDS: [u64; 21] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 30_000, 60_000, 120_000, 300_000,
    600_000, 1_800_000, 3_600_000,
];

/// How far heartbeats were from the moment at which they were expected.
#[derive(Debug, Default)]
pub struct Jitter {
    /// One for each bound, and a last one beyond all bounds.
    counts: [u64; BOUNDS.len() + 1],
}

impl Jitter {
    pub fn record(&mut self, time: Duration) {
        let time = nanos(time);
        self.counts[BOUNDS.partition_point(|bound| bound * 1_000_000 < time)] += 1;
    }

    /// The buckets up to the last one that is not empty: the upper bound, None for the
    /// one without, and the count.
    pub fn counts(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let end = self.counts.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
        self.counts.into_iter().take(end).enumerate().map(|(at, count)| (BOUNDS.get(at).copied(), count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact_to_a_thousandth() {
        let mut spread = Spread::default();
        assert_eq!((spread.quantile(0.5), spread.max()), (None, None));
        for millis in 1..=1000 {
            spread.record(millis);
        }
        assert_eq!(
            (spread.quantile(0.5), spread.quantile(0.99), spread.max()),
            (Some(500), Some(990), Some(1000))
        );
        spread.record(1_800_321);
        assert_eq!(spread.max(), Some(1_800_321));
        let top = spread.quantile(1.0).unwrap();
        assert!((1_800_321 - 1_801..=1_800_321).contains(&top), "{top}");
        for millis in 0..2_000_000 {
            spread.record(millis);
        }
        assert!(spread.counts.len() < 80_000, "{}", spread.counts.len());
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let mut jitter = Jitter::default();
        for micros in [0, 1000, 1001, 5000] {
            jitter.record(Duration::from_micros(micros));
        }
        let counts: Vec<_> = jitter.counts().collect();
        assert_eq!(counts, [(Some(1), 2), (Some(2), 1), (Some(5), 1)]);
        jitter.record(Duration::from_secs(86_400));
        assert_eq!(jitter.counts().last(), Some((None, 1)));
    }
}
