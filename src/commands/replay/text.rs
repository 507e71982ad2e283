//! The report for people.

use std::fmt::Write as _;
use std::time::Duration;

use pap_core::replay::report::{Bucket, Report};

/// The most agents that are listed.
const MOST_LISTED: usize = 20;
/// The longest bar, in characters.
const BAR: u64 = 40;

/// What the report says besides its numbers.
pub struct About {
    /// The time that the trace covers.
    pub time: Duration,
    /// The pauses of the collector: how many, and how long together.
    pub pauses: (u64, Duration),
    /// How many records the collector could not write.
    pub lost: u64,
    /// The grace that was asked for, in milliseconds.
    pub asked_ms: Option<u64>,
}

/// The whole report, without the last line's end.
pub fn write(report: &Report, about: &About) -> String {
    let mut text = String::new();
    head(&mut text, report, about);
    deaths(&mut text, report, about);
    jitter(&mut text, &report.jitter);
    irregular(&mut text, report);
    text.truncate(text.trim_end().len());
    text
}

fn head(text: &mut String, report: &Report, about: &About) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} agents, {} heartbeats in {}",
        grouped(report.agents as u64),
        grouped(report.heartbeats),
        span(about.time)
    );
    if let (count @ 1.., time) = about.pauses {
        let _ = writeln!(text, "the collector was paused {count} times, for {} together", span(time));
    }
    if about.lost > 0 {
        let _ = writeln!(
            text,
            "{} records are missing, because the disk was full or too slow; nobody is judged over them",
            grouped(about.lost)
        );
    }
}

fn deaths(text: &mut String, report: &Report, about: &About) {
    let recorded = &report.recorded;
    let grace = |millis: Option<u64>| {
        millis.map_or("a tenth of the interval".into(), |millis| format!("{} ms", grouped(millis)))
    };
    text.push_str("\ndeaths     false  grace\n");
    let mut row = |deaths, untrue, grace: String| {
        let _ = writeln!(text, "{:>6}  {:>8}  {grace}", grouped(deaths), grouped(untrue));
    };
    row(recorded.deaths, recorded.false_deaths, format!("{}, as recorded", grace(recorded.grace_ms)));
    if about.asked_ms.is_some() {
        row(report.deaths, report.false_deaths, format!("{}, as asked", grace(about.asked_ms)));
    }
    let lateness = &report.lateness_ms;
    if let (Some(p50), Some(p99), Some(max)) = (lateness.p50, lateness.p99, lateness.max) {
        let seconds = |millis| span(Duration::from_millis(millis));
        let _ = writeln!(
            text,
            "A true death was told this long after the last heartbeat: half within {}, 99 % within {}, all within {}.",
            seconds(p50),
            seconds(p99),
            seconds(max)
        );
    }
}

/// The histogram. Every bucket that is not empty has a bar.
fn jitter(text: &mut String, buckets: &[Bucket]) {
    let Some(most) = buckets.iter().map(|bucket| bucket.count).max() else { return };
    text.push_str("\nHow far heartbeats came from the moment at which they were expected:\n");
    let start = buckets.iter().position(|bucket| bucket.count > 0).unwrap_or_default();
    for Bucket { upto_ms, count } in &buckets[start..] {
        let bound =
            upto_ms.map_or("beyond".into(), |millis| format!("<= {}", span(Duration::from_millis(millis))));
        let length = (count * BAR).div_ceil(most.max(1));
        let bar = "#".repeat(usize::try_from(length).unwrap_or_default());
        let _ = writeln!(text, "{bound:>11}  {bar:<40}  {}", grouped(*count));
    }
}

fn irregular(text: &mut String, report: &Report) {
    if report.irregular.is_empty() {
        text.push_str("\nNo agent was silent for two intervals while it lived.\n");
        return;
    }
    let _ = writeln!(
        text,
        "\n{} agents were silent for two intervals or more while they lived. The least grace that spares each one:",
        grouped(report.irregular.len() as u64)
    );
    for agent in report.irregular.iter().take(MOST_LISTED) {
        let _ = writeln!(text, "{:>12} ms  {}", grouped(agent.least_grace_ms), agent.agent_uuid);
    }
    if report.irregular.len() > MOST_LISTED {
        let _ = writeln!(text, "and others with less; --json lists all");
    }
}

/// How far the replay is: a bar for a terminal.
pub fn progress(read: u64, all: u64, heartbeats: u64) -> String {
    let part = |whole: u64| (read.min(all) * whole).checked_div(all).unwrap_or(whole);
    let done = usize::try_from(part(BAR)).unwrap_or_default();
    format!("[{:<40}] {:>3} %, {} heartbeats", "#".repeat(done), part(100), grouped(heartbeats))
}

/// A number with a comma after every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in its largest whole units.
fn span(time: Duration) -> String {
    let (seconds, millis) = (time.as_secs(), time.subsec_millis());
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0) => format!("{millis} ms"),
        (0, 0, whole) if millis > 0 => format!("{whole}.{millis:03} s"),
        (0, 0, whole) => format!("{whole} s"),
        (0, minutes, 0) => format!("{minutes} min"),
        (0, minutes, whole) => format!("{minutes} min {whole} s"),
        (hours, 0, _) => format!("{hours} h"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_for_people() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        let spans =
            [0, 7, 1000, 10_500, 60_000, 90_000, 3_600_000, 12_000_000].map(Duration::from_millis).map(span);
        assert_eq!(spans, ["0 ms", "7 ms", "1 s", "10.500 s", "1 min", "1 min 30 s", "1 h", "3 h 20 min"]);
    }

    #[test]
    fn a_histogram_has_a_bar_for_each_bucket_that_is_not_empty() {
        let bucket = |upto_ms, count| Bucket { upto_ms, count };
        let mut text = String::new();
        jitter(&mut text, &[bucket(Some(1), 0), bucket(Some(2), 4000), bucket(Some(5), 0), bucket(None, 1)]);
        let rows: Vec<&str> = text.lines().skip(2).collect();
        let bar = |length| format!("{:<40}", "#".repeat(length));
        assert_eq!(
            rows,
            [
                format!("    <= 2 ms  {}  4,000", bar(40)),
                format!("    <= 5 ms  {}  0", bar(0)),
                format!("     beyond  {}  1", bar(1)),
            ]
        );
    }

    #[test]
    fn progress_goes_from_nothing_to_all() {
        assert!(progress(0, 10, 0).contains("] "), "{}", progress(0, 10, 0));
        assert!(progress(5, 10, 1000).ends_with(" 50 %, 1,000 heartbeats"));
        assert!(progress(0, 0, 0).contains("100 %"));
    }
}
