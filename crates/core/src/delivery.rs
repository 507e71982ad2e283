//! What to do next with one alert, from what the station answered.

use std::time::Duration;

use fastrand::Rng;

/// The longest wait after the first failed post. It doubles up to [`LONGEST_WAIT`].
pub const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait between two posts of one alert, unless the station asks for more.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The longest `Retry-After` that is respected.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// How a post ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The station answered.
    Status {
        /// The status code.
        code: u16,
        /// What `Retry-After` asked for, if anything.
        retry_after: Option<Duration>,
    },
    /// There was no connection, no answer in time, or an answer that is not HTTP.
    None,
}

/// What a reply means for the alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The station took the alert.
    Taken,
    /// The station will never take the alert. This is the status code.
    Refused(u16),
    /// The station did not take the alert, and we try again. If the station asked
    /// for a time to wait, we try again only after it.
    Failed(Failure, Option<Duration>),
}

/// Why an alert was not taken this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The station takes no alert at all. As soon as it takes one again, all are due.
    Unreachable,
    /// The station cannot take this alert now. That says nothing about other alerts.
    Busy,
    /// Our URL or our key is wrong. This is the status code.
    Misconfigured(u16),
}

impl Failure {
    /// Whether any other alert would have failed in the same way.
    pub const fn is_general(self) -> bool {
        match self {
            Self::Unreachable | Self::Misconfigured(_) => true,
            Self::Busy => false,
        }
    }
}

impl Reply {
    /// The outcome that follows from a reply: the contract's delivery promise 3.
    pub fn outcome(&self) -> Outcome {
        let (code, retry_after) = match *self {
            Self::None => return Outcome::Failed(Failure::Unreachable, None),
            Self::Status { code, retry_after } => (code, retry_after),
        };
        let failure = match code {
            200..=299 => return Outcome::Taken,
            // The URL is wrong. We do not follow a redirect with our key.
            300..=399 | 401 | 403 => Failure::Misconfigured(code),
            408 | 425 | 429 | 500 => Failure::Busy,
            400..=499 => return Outcome::Refused(code),
            _ => Failure::Unreachable,
        };
        Outcome::Failed(failure, retry_after.map(|asked| asked.min(LONGEST_RETRY_AFTER)))
    }
}

/// How long to wait after failed post number `attempts` (1 is the first).
///
/// The backoff doubles from post to post; jitter takes away up to half of it. If
/// the station asked for a time, the wait is at least that time and up to a second
/// more. `salt` makes the jitter differ between alerts. The same `salt` gives the
/// same jitter, for tests.
pub fn wait_after(asked: Option<Duration>, attempts: u32, salt: u64) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1_u32 << attempts.saturating_sub(1).min(6));
    let longest = doubled.min(LONGEST_WAIT);
    let share = u32::from(Rng::with_seed(salt ^ u64::from(attempts)).u8(..));
    let backoff = longest / 2 + (longest / 2) * share / 255;
    match asked {
        Some(asked) => backoff.max(asked + FIRST_WAIT * share / 255),
        None => backoff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> Outcome {
        Reply::Status { code, retry_after: None }.outcome()
    }

    #[test]
    fn replies_are_sorted_as_the_contract_says() {
        for code in [200, 201, 202, 204] {
            assert_eq!(status(code), Outcome::Taken);
        }
        for code in [400, 402, 404, 405, 409, 410, 413, 418, 422] {
            assert_eq!(status(code), Outcome::Refused(code));
        }
        for code in [301, 307, 401, 403] {
            assert_eq!(status(code), Outcome::Failed(Failure::Misconfigured(code), None));
        }
        for code in [408, 425, 429, 500] {
            assert_eq!(status(code), Outcome::Failed(Failure::Busy, None));
        }
        for code in [502, 503, 504, 599] {
            assert_eq!(status(code), Outcome::Failed(Failure::Unreachable, None));
        }
        assert_eq!(Reply::None.outcome(), Outcome::Failed(Failure::Unreachable, None));
    }

    #[test]
    fn the_wait_doubles_to_a_minute_with_jitter() {
        let mut seen = std::collections::HashSet::new();
        for salt in 0..200 {
            for (attempts, longest) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (u32::MAX, 60)] {
                let wait = wait_after(None, attempts, salt);
                let longest = Duration::from_secs(longest);
                assert!(wait >= longest / 2 && wait <= longest, "{attempts}: {wait:?}");
                seen.insert((attempts, wait));
            }
        }
        assert!(seen.len() > 300, "the jitter spreads: {}", seen.len());
    }

    #[test]
    fn what_the_station_asks_for_is_given_within_reason() {
        let asked = |seconds, attempts| {
            let retry_after = Some(Duration::from_secs(seconds));
            let Outcome::Failed(Failure::Busy, asked) = (Reply::Status { code: 429, retry_after }).outcome()
            else {
                panic!("a 429 fails");
            };
            wait_after(asked, attempts, 0)
        };
        let within = |wait: Duration, seconds| (seconds..=seconds + 1).contains(&wait.as_secs());
        assert!(within(asked(7, 1), 7));
        assert!(within(asked(90, 9), 90));
        assert!(within(asked(u64::MAX, 1), LONGEST_RETRY_AFTER.as_secs()));
        assert!(asked(0, 1) >= FIRST_WAIT / 2, "no hot loop");
        assert!(asked(1, 9) >= LONGEST_WAIT / 2, "the backoff goes on");
    }
}
