//! How long a delivery waits until it is tried again.

use std::time::Duration;

/// The wait after the first failure,
const FIRST: Duration = Duration::from_secs(5);
/// which doubles up to this.
const LONGEST: Duration = Duration::from_secs(600);
/// The longest wait that a receiver may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(24 * 3600);

/// The wait after a delivery failed that was tried `before` times already; not shorter than its
/// receiver `asked` for. Jitter of a quarter keeps deliveries that failed together from coming
/// back together.
pub fn wait(before: u32, asked: Option<Duration>) -> Duration {
    let doubled = FIRST.saturating_mul(1 << before.min(10)).min(LONGEST);
    let spread = doubled.mul_f64(0.75 + fastrand::f64() / 2.0).min(LONGEST);
    spread.max(asked.unwrap_or_default().min(LONGEST_ASKED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_from_five_seconds_to_ten_minutes() {
        let between =
            |before, from, to| (0..100).all(|_| (from..=to).contains(&wait(before, None).as_secs_f64()));
        assert!(between(0, 3.75, 6.25) && between(1, 7.5, 12.5) && between(5, 120.0, 200.0));
        assert!(between(7, 450.0, 600.0) && between(u32::MAX, 450.0, 600.0));
        assert_eq!(wait(0, Some(Duration::from_secs(90))), Duration::from_secs(90));
        assert_eq!(wait(0, Some(Duration::MAX)), LONGEST_ASKED);
    }
}
