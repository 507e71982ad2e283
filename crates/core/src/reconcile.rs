//! Which containers of workers are to be made, started and removed: from the clusters that are
//! known and from one listing of the engine to a few actions.
//!
//! A worker is the one container of a cluster and a role. It is judged only by what a listing
//! shows of it; a listing that failed, or that shows nothing clear, leads to nothing. Each pass
//! begins anew, so an action that failed, or of whose end nobody was told, is seen in the next
//! listing. Three rules keep a late effect harmless: a container is made under a name that the
//! engine gives only once, it is removed by its id, and what was seen stopped is removed only if
//! the engine still finds it stopped.

mod kinds;
mod pass;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use crate::time::Tick;

pub use kinds::{
    Action, Adopted, CLUSTER_ID, Container, Counts, Key, Limits, Listing, Mark, Notice, Observed, Plan, Role,
    Sight, Standing, Step, View, Why, repository,
};
use pass::{Pass, Rollouts, notice, view};
use worker::Worker;

/// How long no listing may show an adopted container before it is forgotten: an engine that has just
/// been started may show nothing.
const FORGET: Duration = Duration::from_secs(3600);

/// The workers of all clusters.
#[derive(Debug)]
pub struct Reconciler {
    roles: Vec<Role>,
    limits: Limits,
    workers: BTreeMap<Key, Worker>,
    /// Containers that others have made and that are kept, by their ids.
    adopted: HashMap<String, Adopted>,
    /// Those of them that no listing shows, and since when.
    missing: HashMap<String, Tick>,
    /// Containers that a person asked to remove, as no known cluster needs them.
    unneeded: HashSet<String>,
    listing: Listing,
}

impl Reconciler {
    /// Workers by these templates. `adopted` are the containers that a former reconciler has adopted.
    pub fn new(roles: Vec<Role>, limits: Limits, adopted: HashMap<String, Adopted>) -> Self {
        Self {
            roles,
            limits,
            workers: BTreeMap::new(),
            adopted,
            missing: HashMap::new(),
            unneeded: HashSet::new(),
            listing: Listing(0),
        }
    }

    /// A listing is about to be asked for.
    pub fn begin(&mut self) -> Listing {
        self.listing.0 += 1;
        self.listing
    }

    /// The containers that others have made and that are kept.
    pub const fn adopted(&self) -> &HashMap<String, Adopted> {
        &self.adopted
    }

    /// An action has ended: with the id of the container that it made, or with what went wrong.
    /// A time-out is an error, too: what came of it is seen in a listing that begins now.
    pub fn ended(&mut self, now: Tick, action: &Action, outcome: Result<Option<String>, String>) {
        let worker = self.workers.entry(action.key.clone()).or_default();
        worker.under_way = None;
        worker.is_postponed = false;
        worker.ended = Some(self.listing);
        match outcome {
            Err(why) => worker.failed(now, &action.step, why),
            Ok(made) => {
                worker.done(now, action, made);
                if action.why == Why::Stopped {
                    worker.stopped.add(now, 1);
                }
                if action.why == Why::Crashing || worker.stopped.are_many(now) {
                    worker.rest(now, "it crashes in a loop");
                }
            }
        }
    }

    /// An action was not begun: it is as if it had never been planned.
    pub fn withdrawn(&mut self, action: &Action) {
        if let Some(worker) = self.workers.get_mut(&action.key) {
            worker.under_way = None;
        }
    }

    /// An action was not begun, since too many of its kind wait.
    pub fn postponed(&mut self, now: Tick, action: &Action) {
        if let Some(worker) = self.workers.get_mut(&action.key) {
            worker.under_way = None;
            worker.postpone(now);
        }
    }

    /// What is to be done. `told` says of which workers people know that they cannot run; `prunes`,
    /// whether the workers in this listing are to be removed whose clusters are not known.
    pub fn plan(
        &mut self,
        now: Tick,
        sight: &Sight<'_>,
        clusters: &BTreeMap<String, Standing>,
        told: &BTreeSet<Key>,
        prunes: bool,
    ) -> Plan {
        let Sight { listing, containers, is_whole } = *sight;
        let mut plan = Plan::default();
        let mut seen = self.sort(now, containers, clusters, &mut plan);
        self.prune(&seen, clusters, prunes);
        let has_role = |key: &Key| self.roles.iter().any(|role| role.role == key.role);
        // Who bears a name; what of ours is on its way out gives it back.
        let goes = |key: &Key| match clusters.get(&key.cluster) {
            Some(Standing::Parked | Standing::Removed) => true,
            Some(Standing::Live) => !has_role(key),
            Some(Standing::Quiet | Standing::Unknown) | None => false,
        };
        let mut taken: HashMap<&str, bool> =
            containers.iter().map(|container| (container.name.as_str(), true)).collect();
        for (key, containers) in &seen {
            taken.extend(containers.iter().map(|it| (it.name.as_str(), !goes(key))));
        }
        // A container may be shown without its name.
        taken.remove("");
        for cluster in clusters.iter().filter(|(_, standing)| **standing == Standing::Live) {
            for role in &self.roles {
                seen.entry(Key { cluster: cluster.0.clone(), role: role.role.clone() }).or_default();
            }
        }
        // Who waits to be told of, or is busy, is looked at although nothing is there.
        for key in self.workers.keys().chain(told) {
            seen.entry(key.clone()).or_default();
        }
        plan.counts.ours = seen.values().map(Vec::len).sum();
        let mut rollouts = Rollouts::default();
        // Those that are being made and are not in this listing.
        let is_made = |key: &Key| {
            let worker = self.workers.get(key);
            worker.is_some_and(|worker| worker.under_way == Some(Step::Create))
        };
        let mut made = seen.iter().filter(|(key, found)| found.is_empty() && is_made(key)).count();
        for (key, containers) in seen {
            let role = self.roles.iter().find(|role| role.role == key.role);
            let standing = clusters.get(&key.cluster).copied();
            let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
            let room = count(self.limits.max_containers).saturating_sub(count(plan.counts.ours + made));
            let worker = self.workers.entry(key.clone()).or_default();
            if is_whole && worker.is_free(listing) {
                worker.verify(now, &containers);
            }
            let (adopted, unneeded) = (&self.adopted, &self.unneeded);
            let mut pass = Pass { now, adopted, taken: &taken, is_whole, room, unneeded, plan: &mut plan };
            let step = match (standing, role) {
                (Some(Standing::Live), Some(role)) => {
                    pass.wanted(worker, &key, role, &containers, &mut rollouts)
                }
                _ => pass.unwanted(worker, standing, role, &containers),
            };
            if let Some((step, why)) = step
                && worker.is_free(listing)
            {
                worker.under_way = Some(step.clone());
                made += usize::from(step == Step::Create);
                plan.actions.push(Action { key: key.clone(), step, why });
            }
            let is_wanted = standing == Some(Standing::Live) && role.is_some();
            let notice = notice(worker, &key, now, (is_wanted, told.contains(&key)));
            let is_kept = standing == Some(Standing::Quiet) && !containers.is_empty();
            plan.notices.extend(notice.filter(|it| match it {
                // Of a cluster that is not known nothing can be told.
                Notice::Stuck(..) => standing.is_some(),
                // What is there goes on until more is known.
                Notice::Unwanted(_) => !is_kept,
                Notice::Failed(..) | Notice::Back(_) => true,
            }));
            if is_wanted || !containers.is_empty() {
                plan.workers.push(view(worker, &key, now, &containers));
            }
            // What is remembered of a worker that is neither wanted nor there is of no use.
            if !is_wanted && containers.is_empty() && worker.under_way.is_none() {
                self.workers.remove(&key);
            }
        }
        self.roll(now, listing, rollouts, &mut plan);
        plan.again = self.again(now);
        plan
    }

    /// Takes note of the containers of unknown clusters if they are to be removed.
    fn prune(
        &mut self,
        seen: &BTreeMap<Key, Vec<&Container>>,
        clusters: &BTreeMap<String, Standing>,
        prunes: bool,
    ) {
        let is_unknown = |key: &Key| matches!(clusters.get(&key.cluster), None | Some(Standing::Unknown));
        let unknown = seen.iter().filter(|(key, _)| is_unknown(key)).flat_map(|(_, all)| all);
        let there: HashSet<&str> = unknown.map(|container| container.id.as_str()).collect();
        self.unneeded.retain(|id| there.contains(id.as_str()));
        if prunes {
            self.unneeded.extend(there.into_iter().map(str::to_owned));
        }
    }

    /// Forgets the adopted containers that are gone.
    fn forget(&mut self, now: Tick, containers: &[Container]) {
        let there: HashSet<&str> = containers.iter().map(|container| container.id.as_str()).collect();
        self.missing.retain(|id, _| !there.contains(id.as_str()));
        for id in self.adopted.keys().filter(|id| !there.contains(id.as_str())) {
            self.missing.entry(id.clone()).or_insert(now);
        }
        let is_gone = |since: &Tick| now.since(*since) >= FORGET;
        self.adopted.retain(|id, _| !self.missing.get(id).is_some_and(is_gone));
        self.missing.retain(|_, since| !is_gone(since));
    }

    /// The containers that are ours, by worker. Adopts what may be adopted.
    fn sort<'a>(
        &mut self,
        now: Tick,
        containers: &'a [Container],
        clusters: &BTreeMap<String, Standing>,
        plan: &mut Plan,
    ) -> BTreeMap<Key, Vec<&'a Container>> {
        let before = self.adopted.len();
        self.forget(now, containers);
        let kept = self.adopted.len();
        plan.is_adopted_changed = kept != before;
        let registered =
            |cluster: &str| matches!(clusters.get(cluster), Some(Standing::Live | Standing::Parked));
        let mut by_name = HashMap::new();
        if self.limits.adopt_unlabelled {
            for cluster in clusters.keys() {
                for role in &self.roles {
                    let key = Key { cluster: cluster.clone(), role: role.role.clone() };
                    by_name.insert(role.container(cluster), key);
                }
            }
        }
        let mut seen = BTreeMap::<Key, Vec<&Container>>::new();
        for container in containers {
            let by_labels =
                |cluster: &String, role: &String| Key { cluster: cluster.clone(), role: role.clone() };
            let known = self.adopted.get(&container.id).map(|adopted| adopted.key.clone());
            let key = match (&container.mark, known) {
                (Mark::Ours { cluster, role, .. }, _) => Some(by_labels(cluster, role)),
                (Mark::Other, _) => None,
                (_, Some(known)) => Some(known),
                (Mark::Predecessor { cluster, role }, None) => {
                    self.adopt(container, by_labels(cluster, role), registered, |_| true)
                }
                (Mark::None, None) => by_name.get(&container.name).and_then(|key| {
                    let named = repository(&container.image);
                    let is_same = |role: &Role| named.is_some() && repository(&role.image) == named;
                    self.adopt(container, key.clone(), registered, is_same)
                }),
            };
            if let Some(key) = key {
                seen.entry(key).or_default().push(container);
            }
        }
        plan.is_adopted_changed |= self.adopted.len() != kept;
        seen
    }

    /// Adopts a container as a worker, if that is one of a registered cluster.
    fn adopt(
        &mut self,
        container: &Container,
        key: Key,
        is_registered: impl Fn(&str) -> bool,
        fits: impl Fn(&Role) -> bool,
    ) -> Option<Key> {
        let role = self.roles.iter().find(|role| role.role == key.role && fits(role))?;
        if !is_registered(&key.cluster) {
            return None;
        }
        let adopted = Adopted { key: key.clone(), hash: role.hash.clone() };
        self.adopted.insert(container.id.clone(), adopted);
        Some(key)
    }

    /// Replaces one worker of each role whose template has changed, if all others of it are well.
    fn roll(&mut self, now: Tick, listing: Listing, rollouts: Rollouts, plan: &mut Plan) {
        for (role, rollout) in rollouts.0 {
            plan.counts.outdated += rollout.outdated.len();
            if rollout.unsettled > 0 {
                continue;
            }
            for (key, id) in rollout.outdated {
                let worker = self.workers.entry(key.clone()).or_default();
                if worker.is_free(listing) && worker.waits(now).is_none() {
                    debug_assert_eq!(key.role, role, "it is of this role");
                    let step = Step::Stop(id);
                    worker.under_way = Some(step.clone());
                    plan.actions.push(Action { key, step, why: Why::Changed });
                    break;
                }
            }
        }
    }

    /// When something changes by time alone.
    fn again(&self, now: Tick) -> Option<Duration> {
        self.workers.values().filter_map(|worker| worker.next(now)).min()
    }
}
