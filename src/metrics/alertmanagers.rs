//! What is counted about Alertmanagers; nothing where there are none. The label
//! `alertmanager` is the place in `ALERTMANAGER_URL`, from 1.

use std::time::Duration;

use pap_core::firing::{AlertName, Firing, Tally};
use pap_core::time::Tick;

use super::{Metrics, Text};

/// A copy of what the conditions and the Alertmanagers count.
#[derive(Debug)]
pub struct Numbers {
    holding: [usize; AlertName::ALL.len()],
    ended: usize,
    dropped: u64,
    targets: Vec<(Tally, Duration)>,
}

impl Numbers {
    pub fn of(firing: &Firing, now: Tick) -> Option<Self> {
        firing.is_on().then(|| Self {
            holding: firing.holding(),
            ended: firing.ended(),
            dropped: firing.dropped(),
            targets: firing.tallies(now).map(|(tally, behind)| (tally.clone(), behind)).collect(),
        })
    }
}

impl Text {
    pub(super) fn alertmanagers(&mut self, numbers: &Numbers, metrics: &Metrics) {
        let name = "alertmanager_alerts_firing";
        self.family(name, "gauge", "Alerts that fire at the Alertmanagers, by alertname.");
        for (alert, count) in AlertName::ALL.into_iter().zip(numbers.holding) {
            self.sample(name, &[("alertname", alert.as_str())], count);
        }
        self.one(
            "alertmanager_alerts_resolving",
            "gauge",
            "Alerts that are resolved, which some Alertmanager has not been told yet.",
            numbers.ended,
        );
        self.one(
            "alertmanager_alerts_dropped_total",
            "counter",
            "Resolved alerts that some Alertmanager could not be told in time; it ends them by itself.",
            numbers.dropped,
        );
        let places: Vec<String> = (1..=numbers.targets.len()).map(|place| place.to_string()).collect();
        let targets = || places.iter().map(String::as_str).zip(&numbers.targets);
        let name = "alertmanager_alerts_total";
        self.family(
            name,
            "counter",
            "Alerts that an Alertmanager took or refused for good, repeats included.",
        );
        for (place, (tally, _)) in targets() {
            for (result, count) in [("taken", tally.taken), ("refused", tally.refused)] {
                self.sample(name, &[("alertmanager", place), ("result", result)], count);
            }
        }
        let name = "alertmanager_posts_failed_total";
        self.family(name, "counter", "Posts to an Alertmanager that failed and are tried again.");
        for (place, (tally, _)) in targets() {
            self.sample(name, &[("alertmanager", place)], tally.failed);
        }
        let name = "alertmanager_behind_seconds";
        self.family(name, "gauge", "For how long something waits that an Alertmanager has not taken.");
        for (place, (_, behind)) in targets() {
            self.sample(name, &[("alertmanager", place)], behind.as_secs_f64());
        }
        self.family(
            "alertmanager_delivery_seconds",
            "histogram",
            "Time from a change until an Alertmanager took it.",
        );
        self.histogram("alertmanager_delivery_seconds", &[], &metrics.alertmanager_delivery);
    }
}
