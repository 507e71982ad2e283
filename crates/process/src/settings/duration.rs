//! Durations as Go's `time.ParseDuration` reads and `Duration.String` writes them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Units in nanoseconds; the longer name first where one begins with another.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("\u{b5}s", 1e3),
    ("\u{3bc}s", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// A duration in Go's notation, such as `1m30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

/// The text is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoDuration;

impl FromStr for GoDuration {
    type Err = NoDuration;

    fn from_str(text: &str) -> Result<Self, NoDuration> {
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut nanos = 0.0;
        while !rest.is_empty() {
            let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).ok_or(NoDuration)?;
            let (number, unit) = rest.split_at(end);
            let number: f64 = number.parse().map_err(|_| NoDuration)?;
            let (name, length) =
                UNITS.into_iter().find(|(name, _)| unit.starts_with(name)).ok_or(NoDuration)?;
            nanos += number * length;
            rest = &unit[name.len()..];
        }
        // As many as Go's 64 bits hold.
        if text.is_empty() || nanos >= 9.223e18 {
            return Err(NoDuration);
        }
        Duration::try_from_secs_f64(nanos / 1e9).map(Self).map_err(|_| NoDuration)
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(duration) = self;
        let seconds = duration.as_secs();
        if seconds == 0 && !duration.is_zero() {
            return write!(f, "{}ms", duration.as_secs_f64() * 1e3);
        }
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        // The rest of a second as the shortest fraction that is exact to the millisecond.
        let rest = f64::from(u32::try_from(seconds % 60).unwrap_or_default())
            + f64::from(duration.subsec_millis()) / 1e3;
        write!(f, "{rest}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_reads_and_writes_the_same() {
        for (text, seconds, written) in [
            ("30s", 30.0, "30s"),
            ("2m", 120.0, "2m0s"),
            ("1m30s", 90.0, "1m30s"),
            ("1.5h", 5400.0, "1h30m0s"),
            ("4320h", 15_552_000.0, "4320h0m0s"),
            ("1h0m5.25s", 3605.25, "1h0m5.25s"),
            ("150ms", 0.15, "150ms"),
            ("0", 0.0, "0s"),
            (".5s", 0.5, "500ms"),
        ] {
            let read: GoDuration = text.parse().unwrap();
            assert_eq!((read.0, read.to_string().as_str()), (Duration::from_secs_f64(seconds), written));
        }
        for wrong in ["", "30", "s", "1x", "-1s", "1m 30s", "1.2.3s", "9999999999h", "."] {
            assert_eq!(wrong.parse::<GoDuration>(), Err(NoDuration), "{wrong}");
        }
    }
}
