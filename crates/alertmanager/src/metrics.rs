//! What is counted about Alertmanagers; nothing where there are none. The label
//! `alertmanager` is the place in `ALERTMANAGER_URL`, from 1.

use std::time::Duration;

use pap_core::firing::{self, AlertName, Firing, Tally};
use pap_core::time::Tick;
use pap_process::metrics::{Histogram, Text};

/// A copy of the counts of conditions and Alertmanagers.
#[derive(Debug)]
pub struct Numbers {
    holding: Vec<(AlertName, usize)>,
    ended: usize,
    dropped: u64,
    targets: Vec<(Tally, Duration)>,
}

impl Numbers {
    /// A copy, with a gauge for each of these alerts; `None` if there is no Alertmanager.
    pub fn of<N: firing::Numbers>(firing: &Firing<N>, alerts: &[AlertName], now: Tick) -> Option<Self> {
        firing.is_on().then(|| Self {
            holding: alerts.iter().map(|&alert| (alert, firing.holding(alert))).collect(),
            ended: firing.ended(),
            dropped: firing.dropped(),
            targets: firing.tallies(now).map(|(tally, behind)| (tally.clone(), behind)).collect(),
        })
    }

    /// Writes the counts, and how long it took from changes until Alertmanagers took them.
    pub fn write(&self, text: &mut Text, delivery: &Histogram) {
        let name = "alertmanager_alerts_firing";
        text.family(name, "gauge", "Alerts that fire at the Alertmanagers, by alertname.");
        for (alert, count) in &self.holding {
            text.sample(name, &[("alertname", alert.as_str())], count);
        }
        text.one(
            "alertmanager_alerts_resolving",
            "gauge",
            "Alerts that are resolved, which some Alertmanager has not been told yet.",
            self.ended,
        );
        text.one(
            "alertmanager_alerts_dropped_total",
            "counter",
            "Resolved alerts that some Alertmanager could not be told in time; it ends them by itself.",
            self.dropped,
        );
        let places: Vec<String> = (1..=self.targets.len()).map(|place| place.to_string()).collect();
        let targets = || places.iter().map(String::as_str).zip(&self.targets);
        let name = "alertmanager_alerts_total";
        text.family(
            name,
            "counter",
            "Alerts that an Alertmanager took or refused for good, repeats included.",
        );
        for (place, (tally, _)) in targets() {
            for (result, count) in [("taken", tally.taken), ("refused", tally.refused)] {
                text.sample(name, &[("alertmanager", place), ("result", result)], count);
            }
        }
        let name = "alertmanager_posts_failed_total";
        text.family(name, "counter", "Posts to an Alertmanager that failed and are tried again.");
        for (place, (tally, _)) in targets() {
            text.sample(name, &[("alertmanager", place)], tally.failed);
        }
        let name = "alertmanager_behind_seconds";
        text.family(name, "gauge", "For how long something waits that an Alertmanager has not taken.");
        for (place, (_, behind)) in targets() {
            text.sample(name, &[("alertmanager", place)], behind.as_secs_f64());
        }
        text.family(
            "alertmanager_delivery_seconds",
            "histogram",
            "Time from a change until an Alertmanager took it.",
        );
        text.histogram("alertmanager_delivery_seconds", &[], delivery);
    }
}
