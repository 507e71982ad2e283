//! The metrics of the control plane.

use std::sync::atomic::{AtomicU64, Ordering};

use pap_core::reconcile::Observed;
use pap_process::metrics::Text;

use super::{Control, Counters};
use crate::clusters;

/// The metrics of the control plane, with the names that kg-control-plane gives them. `states`
/// counts clusters by [`clusters::STATES`].
pub fn write(control: Option<&Control>, states: [u64; clusters::STATES.len()]) -> String {
    let mut text = Text::new("kg_control_plane", &[]);
    let seen = control.map(Control::seen).unwrap_or_default();
    let read = |of: fn(&Counters) -> &AtomicU64| {
        control.map_or(0, |control| of(&control.counters).load(Ordering::Relaxed))
    };
    let running = seen.workers.iter().filter(|worker| worker.is == Some(Observed::Running)).count();
    text.family("clusters_total", "gauge", "Clusters, by what their signs of life say.");
    for (state, number) in clusters::STATES.iter().zip(states) {
        text.sample("clusters_total", &[("status", state)], number);
    }
    text.one("graph_builders_total", "gauge", "Containers of workers that run.", running);
    for (name, help, value) in [
        ("spawn_operations_total", "Containers that were made and started.", read(|it| &it.spawned)),
        (
            "cleanup_operations_total",
            "Workers of dead and removed clusters that were removed.",
            read(|it| &it.cleaned),
        ),
    ] {
        text.one(name, "counter", help, value);
    }
    let mut all = text.finish();
    let Some(control) = control else { return all };
    let mut text = Text::new("pap_station", &[]);
    text.family("workers", "gauge", "Workers, by what their containers do.");
    let states =
        [Observed::Running, Observed::Interrupted, Observed::Created, Observed::Stopped, Observed::Unclear];
    for is in states.into_iter().map(Some).chain([None]) {
        let number = seen.workers.iter().filter(|worker| worker.is == is).count();
        text.sample("workers", &[("state", is.map_or("missing", state))], number);
    }
    let troubled = seen.workers.iter().filter(|worker| worker.trouble.is_some()).count();
    for (name, help, value) in [
        ("workers_in_trouble", "Workers that do not run as they should.", troubled),
        ("workers_outdated", "Workers that still run a former template.", seen.counts.outdated),
        ("workers_of_unknown_clusters", "Containers of clusters that are not known.", seen.counts.unknown),
        ("workers_over_limit", "Workers that MAX_CONTAINERS forbids.", seen.counts.over_limit),
        (
            "engine_up",
            "Whether the container engine answered last.",
            usize::from(seen.is_reached == Some(true)),
        ),
    ] {
        text.one(name, "gauge", help, value);
    }
    for (name, help, value) in [
        ("worker_failures_total", "Actions on workers that failed.", read(|it| &it.failed)),
        ("engine_failures_total", "Listings of containers that failed.", read(|it| &it.unheard)),
    ] {
        text.one(name, "counter", help, value);
    }
    text.family("reconcile_seconds", "histogram", "How long a look at all workers took without its listing.");
    text.histogram("reconcile_seconds", &[], &control.counters.pass);
    all.push_str(&text.finish());
    all
}

/// What a container does, in a word.
pub const fn state(is: Observed) -> &'static str {
    match is {
        Observed::Running => "running",
        Observed::Interrupted => "interrupted",
        Observed::Created => "created",
        Observed::Stopped => "stopped",
        Observed::Unclear => "unclear",
    }
}
