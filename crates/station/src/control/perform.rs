//! Performs actions, outside any lock. Each kind has threads of its own, so that what takes long holds up
//! nothing else: stops take seconds, pulls of images minutes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::select;
use pap_core::reconcile::{Action, Key, Step, Why};
use pap_process::clock::wall;
use serde_json::json;

use super::{Control, FRESH, Planned, locked};
use crate::engine::EngineError;
use crate::incidents::ClusterName;
use crate::station::Station;
use crate::workers::{Container, Pull};
use crate::{audit, clusters};

/// How an attempt ended.
enum Done {
    /// A container with this id runs.
    Made(String),
    /// A container is gone.
    Removed,
    /// Nothing was done yet: an image is missing, and it has to be pulled first.
    NeedsPull,
    /// The reason for the action holds no more.
    Withdrawn,
}

/// Why an attempt did nothing, or failed.
enum Undone {
    /// The engine was not asked: that says nothing of the worker.
    Unasked,
    /// It failed.
    Failed(String),
}

impl From<EngineError> for Undone {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Unasked => Self::Unasked,
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<String> for Undone {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// Where an action waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// What is made, started or removed.
    Quick,
    /// What is stopped, and removed after that.
    Stops,
    /// What is made of an image that has to be pulled first.
    Pulls,
}

impl Control {
    fn withdraw(&self, action: &Action) {
        locked(&self.reconciler).withdrawn(action);
        self.bell.ring();
    }

    fn perform(&self, station: &Station, planned: &Planned, queue: Queue) {
        let action = &planned.action;
        if !holds(station, planned) {
            return self.withdraw(action);
        }
        let outcome = match self.attempt(station, planned, queue) {
            Ok(Done::Made(id)) => Ok(Some(id)),
            Ok(Done::Removed) => Ok(None),
            Ok(Done::Withdrawn) | Err(Undone::Unasked) => return self.withdraw(action),
            Ok(Done::NeedsPull) => {
                if self.pulls.0.try_send(planned.clone()).is_err() {
                    locked(&self.reconciler).postponed(station.clock.now().tick, action);
                }
                return;
            }
            Err(Undone::Failed(why)) => Err(why),
        };
        let Key { cluster, role } = &action.key;
        match &outcome {
            Ok(made) => {
                if let Some(id) = made {
                    self.counters.spawned.fetch_add(1, Ordering::Relaxed);
                    log::info!("✅ Spawned {role}-{cluster} (container: {})", short(id));
                } else if matches!(action.why, Why::Parked | Why::Removed) {
                    self.counters.cleaned.fetch_add(1, Ordering::Relaxed);
                    log::info!("✅ Cleaned up cluster: {cluster} ({role})");
                }
                write_down(station, action, made.as_deref());
            }
            Err(why) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                log::warn!("the {role} of cluster {cluster}: {why}");
            }
        }
        let now = station.clock.now().tick;
        locked(&self.reconciler).ended(now, action, outcome);
        self.bell.ring();
    }

    fn needs_pull(&self, station: &Station, from: &Container) -> Result<bool, EngineError> {
        let now = station.clock.uptime();
        let is_fresh = {
            let mut pulled = locked(&self.pulled);
            pulled.retain(|_, at| now.since(*at) < FRESH);
            pulled.contains_key(&from.image)
        };
        Ok(!(is_fresh && from.pull == Pull::Always) && self.engine.needs_pull(from)?)
    }

    fn pull(&self, station: &Station, from: &Container) -> Result<(), EngineError> {
        self.engine.pull(from)?;
        locked(&self.pulled).insert(from.image.clone(), station.clock.uptime());
        Ok(())
    }

    fn attempt(&self, station: &Station, planned: &Planned, queue: Queue) -> Result<Done, Undone> {
        let action = &planned.action;
        let Key { cluster, role } = &action.key;
        let template = self.templates.iter().find(|template| template.role() == role);
        let of_template = || template.ok_or_else(|| "its template is gone".to_owned());
        let filled = || {
            let found = station.store.read(|connection| clusters::find(connection, cluster));
            let name = match found {
                Ok(Some((ClusterName { name, .. }, false))) => name,
                Ok(_) => return Err("its cluster is gone".to_owned()),
                Err(error) => return Err(error.to_string()),
            };
            of_template()?.fill(cluster, &name)
        };
        if matches!(action.step, Step::Start(_) | Step::Remove(_)) {
            announce(action);
        }
        match &action.step {
            Step::Create => {
                let (hash, from) = (of_template()?.decisive().hash, filled()?);
                let hidden = |error: EngineError| error.hiding(&from);
                let needs_pull = self.needs_pull(station, &from).map_err(hidden)?;
                if needs_pull && queue != Queue::Pulls {
                    return Ok(Done::NeedsPull);
                }
                announce(action);
                if needs_pull {
                    self.pull(station, &from).map_err(hidden)?;
                    if !holds(station, planned) {
                        return Ok(Done::Withdrawn);
                    }
                }
                Ok(Done::Made(self.engine.create(cluster, role, &hash, &from).map_err(hidden)?))
            }
            Step::Start(id) => {
                let from = filled()?;
                self.engine.start(id, &from).map_err(|error| error.hiding(&from))?;
                Ok(Done::Made(id.clone()))
            }
            Step::Remove(id) => {
                self.engine.remove(id)?;
                Ok(Done::Removed)
            }
            Step::Stop(id) => {
                if action.why == Why::Changed {
                    // Without a successor a worker is better than none.
                    let from = filled()?;
                    let hidden = |error: EngineError| error.hiding(&from);
                    if from.pull == Pull::Never && !self.engine.has_image(&from).map_err(hidden)? {
                        return Err(format!("the image {} is not there", from.image).into());
                    }
                    if self.needs_pull(station, &from).map_err(hidden)? {
                        if queue != Queue::Pulls {
                            return Ok(Done::NeedsPull);
                        }
                        self.pull(station, &from).map_err(hidden)?;
                        if !holds(station, planned) {
                            return Ok(Done::Withdrawn);
                        }
                    }
                }
                announce(action);
                let timeout = template.map_or(Duration::from_secs(10), |template| template.stop_timeout);
                self.engine.stop(id, timeout)?;
                self.engine.remove(id)?;
                Ok(Done::Removed)
            }
        }
    }
}

/// Whether the reason for an action still holds: the action may have waited for long.
fn holds(station: &Station, Planned { action, at }: &Planned) -> bool {
    let cluster = action.key.cluster.as_str();
    let waited = station.clock.uptime().since(*at);
    let standing = station.store.read(|connection| clusters::standings(connection, Some(cluster)));
    standing.is_ok_and(|mut standing| {
        station.give_time(&mut standing);
        action.holds(standing.get(cluster).copied(), waited)
    })
}

/// Performs what waits in a queue, until the station stops.
pub fn run(station: &Station, queue: Queue) {
    let Some(control) = &station.control else { return };
    let waiting = control.waiting(queue);
    loop {
        select! {
            recv(waiting) -> planned => {
                let Ok(planned) = planned else { return };
                if station.stop.is_stopping() {
                    return;
                }
                control.perform(station, &planned, queue);
            }
            recv(station.stop.receiver()) -> _ => return,
        }
    }
}

/// How much of a container's id people are shown.
const SHORT_ID: usize = 12;

/// Logs what is about to be done, in the words of kg-control-plane.
fn announce(action: &Action) {
    let Key { cluster, role } = &action.key;
    match (&action.step, action.why) {
        (Step::Create | Step::Start(_), _) => log::info!("🔧 Spawning {role} for cluster: {cluster}"),
        (_, Why::Stopped) => {
            let mut letters = role.chars();
            let first = letters.next().map(|letter| letter.to_ascii_uppercase());
            let role: String = first.into_iter().chain(letters).collect();
            log::warn!("⚠️  {role} container stopped, respawning: {cluster}");
        }
        (_, Why::Parked | Why::Removed) => log::info!("💀 Cleaning up dead cluster: {cluster}"),
        (_, reason) => log::info!("the {role} of cluster {cluster} is removed: {}", why(reason)),
    }
    if let Step::Stop(id) = &action.step {
        log::info!("🛑 Stopping container: {}", short(id));
    }
}

fn short(id: &str) -> &str {
    id.get(..SHORT_ID).unwrap_or(id)
}

/// A reason for people and for the audit.
const fn why(why: Why) -> &'static str {
    match why {
        Why::Missing => "there was none",
        Why::Stopped => "it was found stopped",
        Why::Unstarted => "it could not be started",
        Why::Changed => "its template has changed",
        Why::NoRole => "its role is no longer a template",
        Why::Double => "there is another one",
        Why::Crashing => "it crashes in a loop",
        Why::Parked => "its cluster is dead",
        Why::Removed => "its cluster was removed",
        Why::Pruned => "its cluster is not known",
    }
}

/// Writes what was done into the audit. If that fails, the action is not done again.
fn write_down(station: &Station, action: &Action, made: Option<&str>) {
    let (what, id) = match (&action.step, made) {
        (_, Some(id)) => ("worker.spawned", id),
        (Step::Remove(id) | Step::Stop(id), _) => ("worker.removed", id.as_str()),
        _ => return,
    };
    let details = json!({ "role": action.key.role, "container": id, "why": why(action.why) });
    let (cluster, now) = (action.key.cluster.clone(), wall());
    let written = station
        .store
        .write(move |connection| audit::write(connection, now, "station", &cluster, what, &details));
    if let Err(error) = written {
        log::error!("the audit is not written: {error}");
    }
}
