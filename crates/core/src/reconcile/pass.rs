//! What one worker needs, by what is seen of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::worker::{BLOCKED, PASSING, SETTLED, WELL, Worker};
use super::{Adopted, Container, Key, Mark, Notice, Observed, Plan, Role, Standing, Step, View, Why};
use crate::time::Tick;

/// Workers of each role that still run a former template, and how many others are not well.
#[derive(Debug, Default)]
pub struct Rollouts(pub BTreeMap<String, Rollout>);

#[derive(Debug, Default)]
pub struct Rollout {
    pub outdated: Vec<(Key, String)>,
    pub unsettled: usize,
}

/// One pass over all workers.
pub struct Pass<'a> {
    pub now: Tick,
    pub adopted: &'a HashMap<String, Adopted>,
    /// The names of all containers, and whether they stay taken.
    pub taken: &'a HashMap<&'a str, bool>,
    /// Whether there is nothing in the listing that cannot be read.
    pub is_whole: bool,
    /// How many more containers there may be. If there are too many it is below zero.
    pub room: i64,
    /// Containers that a person asked to remove.
    pub unneeded: &'a HashSet<String>,
    pub plan: &'a mut Plan,
}

impl Pass<'_> {
    /// Why a container cannot be made now, which needs so much room, and how long that may last.
    fn hindrance(&self, name: &str, room: i64) -> Option<(Duration, &'static str)> {
        Some(match self.taken.get(name) {
            Some(true) => (BLOCKED, "another container bears its name"),
            Some(false) => (PASSING, "a worker that is to be removed still bears its name"),
            None if !self.is_whole => (BLOCKED, "the engine lists a container that cannot be read"),
            None if self.room < room => (BLOCKED, "there are as many containers as MAX_CONTAINERS allows"),
            None => return None,
        })
    }

    /// What a worker needs that is to run.
    pub fn wanted(
        &mut self,
        worker: &mut Worker,
        key: &Key,
        role: &Role,
        containers: &[&Container],
        rollouts: &mut Rollouts,
    ) -> Option<(Step, Why)> {
        let is_current = |container: &Container| match &container.mark {
            Mark::Ours { hash, .. } => *hash == role.hash,
            _ => self.adopted.get(&container.id).is_some_and(|adopted| adopted.hash == role.hash),
        };
        let name = role.container(&key.cluster);
        let rollout = rollouts.0.entry(key.role.clone()).or_default();
        // One that is being replaced still runs in this listing.
        rollout.unsettled += usize::from(worker.under_way.is_some());
        let kept = containers.iter().max_by_key(|container| {
            let rank = match container.is {
                Observed::Running => 4,
                Observed::Interrupted => 3,
                Observed::Unclear => 2,
                Observed::Created => 1,
                Observed::Stopped => 0,
            };
            // A copy of a container has its labels, but not its name.
            (rank == 4, rank >= 2, is_current(container), container.name == name, rank, &container.id)
        });
        let Some(&kept) = kept else {
            let is_under_way = worker.under_way.is_some();
            if self.is_whole && !is_under_way {
                worker.miss(self.now);
            }
            worker.running = None;
            // Its own room is counted as taken once it is being made.
            let in_the_way = if is_under_way { None } else { self.hindrance(&name, 1) };
            let is_coming = is_under_way || worker.is_postponed;
            let coming = (PASSING, "it is still to be made: images may be slow to come");
            let hindered = in_the_way.or(is_coming.then_some(coming));
            // Nobody waits for one that cannot be made: it may never be well.
            rollout.unsettled += usize::from(hindered.is_none_or(|(patience, _)| patience != BLOCKED));
            self.plan.counts.name_taken += usize::from(self.taken.get(&*name) == Some(&true));
            self.plan.counts.over_limit += usize::from(!self.taken.contains_key(&*name) && self.room < 1);
            worker.hinder(self.now, hindered);
            let waits = worker.waits(self.now).is_some();
            return (in_the_way.is_none() && !waits).then_some((Step::Create, Why::Missing));
        };
        worker.observe(self.now, kept);
        let waits = worker.waits(self.now).is_some();
        let hindered = match kept.is {
            Observed::Unclear => {
                Some((PASSING, "its container is being removed, or in a state that is not known"))
            }
            // Its own name is free once it is gone.
            Observed::Running if !is_current(kept) => {
                let other = if kept.name == name { "" } else { &name };
                self.hindrance(other, 0)
            }
            _ => None,
        };
        worker.hinder(self.now, hindered);
        if let Some(double) = containers.iter().find(|it| it.id != kept.id && it.is != Observed::Unclear) {
            rollout.unsettled += 1;
            return (!waits).then(|| (removal(double), Why::Double));
        }
        if matches!(kept.is, Observed::Running | Observed::Interrupted) && worker.restarted.are_many(self.now)
        {
            rollout.unsettled += 1;
            return (!waits).then(|| (Step::Stop(kept.id.clone()), Why::Crashing));
        }
        match kept.is {
            Observed::Running if is_current(kept) => {
                let settled = worker.runs_for(self.now).is_some_and(|long| long >= SETTLED);
                rollout.unsettled += usize::from(!settled);
                // Nothing is to be removed, or not any more.
                worker.stuck = None;
                None
            }
            // Without a successor it is better than none.
            Observed::Running if hindered.is_some() => None,
            Observed::Running => {
                rollout.outdated.push((key.clone(), kept.id.clone()));
                None
            }
            // A paused one is left to the person who has paused it.
            Observed::Interrupted | Observed::Unclear => {
                rollout.unsettled += 1;
                None
            }
            Observed::Created | Observed::Stopped => {
                rollout.unsettled += 1;
                let id = kept.id.clone();
                (!waits).then(|| match kept.is {
                    Observed::Stopped => (Step::Remove(id), Why::Stopped),
                    // Another one may be made of another image, or with what was missing.
                    _ if worker.unstartable.as_ref() == Some(&id) => (Step::Remove(id), Why::Unstarted),
                    _ if is_current(kept) => (Step::Start(id), Why::Missing),
                    _ => (Step::Remove(id), Why::Changed),
                })
            }
        }
    }

    /// What happens to a worker that is not to run.
    pub fn unwanted(
        &mut self,
        worker: &mut Worker,
        standing: Option<Standing>,
        role: Option<&Role>,
        containers: &[&Container],
    ) -> Option<(Step, Why)> {
        worker.running = None;
        worker.blocked = None;
        if worker.stuck.is_none() {
            // What failed before was to make it run.
            (worker.not_before, worker.failures) = (None, 0);
        }
        let why = match standing {
            None | Some(Standing::Unknown) => {
                self.plan.counts.unknown += containers.len();
                Why::Pruned
            }
            Some(Standing::Quiet) => return None,
            Some(Standing::Parked) => Why::Parked,
            Some(Standing::Removed) => Why::Removed,
            Some(Standing::Live) => {
                debug_assert!(role.is_none(), "it would be wanted");
                Why::NoRole
            }
        };
        if worker.waits(self.now).is_some() {
            return None;
        }
        let is_due = |it: &&&Container| why != Why::Pruned || self.unneeded.contains(&it.id);
        let container = containers.iter().filter(is_due).find(|it| it.is != Observed::Unclear)?;
        Some((removal(container), why))
    }
}

/// What ends a container, whatever it does, if it was not seen to be at an end.
fn removal(container: &Container) -> Step {
    match container.is {
        Observed::Created | Observed::Stopped => Step::Remove(container.id.clone()),
        Observed::Running | Observed::Interrupted | Observed::Unclear => Step::Stop(container.id.clone()),
    }
}

pub fn notice(worker: &Worker, key: &Key, now: Tick, (is_wanted, is_told): (bool, bool)) -> Option<Notice> {
    let is_stuck = worker.stuck.is_some();
    let is_well = worker.blocked.is_none() && worker.runs_for(now).is_some_and(|long| long >= WELL);
    let why = || worker.trouble.clone().unwrap_or_default();
    match (is_told, is_wanted) {
        (true, false) if !is_stuck => Some(Notice::Unwanted(key.clone())),
        (true, true) if is_well && !is_stuck => Some(Notice::Back(key.clone())),
        (false, true) if worker.has_failed(now) => Some(Notice::Failed(key.clone(), why())),
        (false, false) if is_stuck && worker.has_failed(now) => Some(Notice::Stuck(key.clone(), why())),
        _ => None,
    }
}

pub fn view(worker: &Worker, key: &Key, now: Tick, containers: &[&Container]) -> View {
    let running = |it: &&&Container| worker.running.as_ref().is_some_and(|(id, _)| *id == it.id);
    let shown = containers.iter().find(running).or(containers.first());
    View {
        key: key.clone(),
        container: shown.map(|it| (it.id.clone(), it.name.clone())),
        is: shown.map(|it| it.is),
        trouble: worker.trouble.clone(),
        again: worker.not_before.filter(|at| *at > now),
    }
}
