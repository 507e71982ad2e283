//! Histograms, and metrics as text (Prometheus exposition format 0.0.4).

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets, in seconds, for work that should take milliseconds.
pub const FAST: [f64; 12] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Buckets, in seconds, for work that may take as long as an outage.
pub const SLOW: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0];

/// Counts durations by length.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and a last one for durations beyond all bounds.
    counts: Vec<AtomicU64>,
    sum_nanos: AtomicU64,
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

/// Metrics as text.
pub struct Text {
    out: String,
    prefix: &'static str,
    /// The labels of every sample, their values escaped.
    common: Vec<(String, String)>,
}

impl Text {
    /// Names begin with `prefix` and `_`, and each sample has the labels of `common`.
    pub fn new(prefix: &'static str, common: &[(&str, &str)]) -> Self {
        let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let common = common.iter().map(|(label, value)| ((*label).to_owned(), escape(value))).collect();
        Self { out: String::with_capacity(16 * 1024), prefix, common }
    }

    /// All that was written.
    pub fn finish(self) -> String {
        self.out
    }

    /// The samples that follow are of this family.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let prefix = self.prefix;
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "# HELP {prefix}_{name} {help}\n# TYPE {prefix}_{name} {kind}");
    }

    /// A sample. The values of `labels` are written as they are.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.out, "{}_{name}", self.prefix);
        let common = self.common.iter().map(|(label, value)| (label.as_str(), value.as_str()));
        let mut before = '{';
        for (label, value) in common.chain(labels.iter().copied()) {
            let _ = write!(self.out, "{before}{label}=\"{value}\"");
            before = ',';
        }
        if before == ',' {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }

    /// A family of one sample.
    pub fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The samples of a histogram.
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut count = 0;
        let bucket = format!("{name}_bucket");
        for (at, bucket_count) in histogram.counts.iter().enumerate() {
            count += bucket_count.load(Ordering::Relaxed);
            let bound = histogram.bounds.get(at).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            let labels = [labels, &[("le", &bound)]].concat();
            self.sample(&bucket, &labels, count);
        }
        let sum = Duration::from_nanos(histogram.sum_nanos.load(Ordering::Relaxed));
        self.sample(&format!("{name}_sum"), labels, sum.as_secs_f64());
        self.sample(&format!("{name}_count"), labels, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_upwards_and_ends_in_infinity() {
        let histogram = Histogram::new(&FAST);
        for millis in [0, 1, 3, 70_000] {
            histogram.record(Duration::from_millis(millis));
        }
        let mut text = Text::new("pap_collector", &[("cluster", "a\"b")]);
        text.histogram("x", &[("route", "y")], &histogram);
        let has = |line: &str| assert!(text.out.contains(line), "{line} in\n{}", text.out);
        has("pap_collector_x_bucket{cluster=\"a\\\"b\",route=\"y\",le=\"0.0001\"} 1\n");
        has("le=\"0.001\"} 2\n");
        has("le=\"0.005\"} 3\n");
        has("le=\"5\"} 3\n");
        has("le=\"+Inf\"} 4\n");
        has("pap_collector_x_sum{cluster=\"a\\\"b\",route=\"y\"} 70.004\n");
        has("pap_collector_x_count{cluster=\"a\\\"b\",route=\"y\"} 4\n");
        let mut plain = Text::new("pap_station", &[]);
        plain.one("agents", "gauge", "Agents.", 3);
        assert_eq!(
            plain.finish(),
            "# HELP pap_station_agents Agents.\n# TYPE pap_station_agents gauge\npap_station_agents 3\n"
        );
    }
}
