//! Which containers of workers are to be made, started and removed: from the clusters that are
//! known and from one listing of the engine to a few actions.
//!
//! A worker is the one container of a cluster and a role. It is judged only by what a listing
//! shows of it; a listing that failed, or that shows nothing clear, leads to nothing. Each pass
//! begins anew, so an action that failed, or of whose end nobody was told, is seen in the next
//! listing. Three rules keep a late effect harmless: a container is made under a name that the
//! engine gives only once, it is removed by its id, and what was seen stopped is removed only if
//! the engine still finds it stopped.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::time::Tick;

/// How long a worker must run before the next one of its role is replaced.
const SETTLED: Duration = Duration::from_secs(10);
/// How long a worker must run before it counts as well.
const WELL: Duration = Duration::from_secs(60);
/// A worker that ended `MANY` times within this time crashes in a loop.
const LOOP: Duration = Duration::from_secs(600);
const MANY: u32 = 5;
/// How long a worker in a crash loop rests: at first, and at most.
const REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(1800);
/// The wait after a first action that failed, and the longest.
const WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// After so many actions that failed in a row a worker counts as failed.
const FAILED: u32 = 3;
/// How long something may stand in a worker's way before it counts as failed,
const BLOCKED: Duration = Duration::from_secs(10);
/// and how long its container may be in a state that says nothing.
const UNCLEAR: Duration = Duration::from_secs(300);

/// What stands for a cluster's id in a name.
pub const CLUSTER_ID: &str = "{cluster_id}";

/// A template of a worker, as far as it decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// What it is called among the templates.
    pub role: String,
    /// The name of its containers, with `{cluster_id}` in it.
    pub name: String,
    /// Changes with the template. What bears another one is replaced.
    pub hash: String,
    /// Its image. Without a label a container is adopted only if it is of the same repository.
    pub image: String,
}

impl Role {
    /// The name of a cluster's container.
    pub fn container(&self, cluster: &str) -> String {
        self.name.replace(CLUSTER_ID, cluster)
    }
}

/// The name of an image without its tag and its digest.
fn repository(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or_default();
    match name.rsplit_once(':') {
        // A colon before a slash is of a registry's port.
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    }
}

/// What is known of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It gives signs of life: each role has a worker.
    Live,
    /// It is registered, but was not heard yet: what runs goes on, nothing is made.
    Quiet,
    /// It is dead: its workers are removed until it is heard again.
    Parked,
    /// It was removed, and its workers with it.
    Removed,
}

/// Who made a container, by its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// This station, for a cluster and a role.
    Ours {
        /// The cluster's id.
        cluster: String,
        /// The role.
        role: String,
        /// Of the template that it was made from.
        hash: String,
    },
    /// A predecessor that knew no station. It is adopted if its cluster is registered.
    Predecessor {
        /// The cluster's id.
        cluster: String,
        /// The role.
        role: String,
    },
    /// It bears none of our labels.
    None,
    /// Another station.
    Other,
}

/// What a listing shows of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// It runs.
    Running,
    /// It is paused, or between two starts.
    Interrupted,
    /// It was made and never started.
    Created,
    /// It ran and has ended.
    Stopped,
    /// It is being removed, or is in a state that we do not know.
    Unclear,
}

/// A container in a listing.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Who made it.
    pub mark: Mark,
    /// What it does.
    pub is: Observed,
    /// How often the engine has started it again, where that was looked up.
    pub restarts: Option<u32>,
}

/// Whose worker: the id of a cluster and a role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The cluster's id.
    pub cluster: String,
    /// The role.
    pub role: String,
}

/// What is to be done with a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make and start one under the name of the worker.
    Create,
    /// Start the one that was made.
    Start(String),
    /// Remove it if it does not run.
    Remove(String),
    /// Stop and remove it, whatever it does.
    Stop(String),
}

/// Why it is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is none yet.
    Missing,
    /// It was found stopped.
    Stopped,
    /// Its template has changed.
    Changed,
    /// Its role is no longer a template.
    NoRole,
    /// There is another one for the same cluster and role.
    Double,
    /// It crashes in a loop.
    Crashing,
    /// Its cluster is dead.
    Parked,
    /// Its cluster was removed.
    Removed,
    /// A person asked to remove what no known cluster needs.
    Pruned,
}

/// An action. When it has ended, [`Reconciler::ended`] must be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Whose worker.
    pub key: Key,
    /// What to do.
    pub step: Step,
    /// Why.
    pub why: Why,
}

impl Action {
    /// Whether its reason still holds, by what is known of the cluster now. An action may have
    /// waited for its turn, and the cluster was heard meanwhile.
    pub fn holds(&self, standing: Option<Standing>) -> bool {
        match self.why {
            Why::Parked => standing == Some(Standing::Parked),
            Why::Removed => standing == Some(Standing::Removed),
            Why::Pruned => standing.is_none(),
            Why::Missing | Why::Stopped | Why::Changed | Why::NoRole | Why::Double | Why::Crashing => {
                standing == Some(Standing::Live)
            }
        }
    }
}

/// What people must be told of a worker: it is said in each plan until what they were told is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It cannot run.
    Failed(Key, String),
    /// It runs again.
    Back(Key),
    /// It could not run, and is no longer wanted.
    Unwanted(Key),
}

impl Notice {
    /// Whose worker.
    pub const fn key(&self) -> &Key {
        match self {
            Self::Failed(key, _) | Self::Back(key) | Self::Unwanted(key) => key,
        }
    }
}

/// A container that somebody else has made and that is kept as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Whose worker it is, whatever the templates say later.
    pub key: Key,
    /// The hash of the template when it was adopted: when that changes, it is replaced.
    pub hash: String,
}

/// A worker as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Whose.
    pub key: Key,
    /// Its container: id and name.
    pub container: Option<(String, String)>,
    /// What that does.
    pub is: Option<Observed>,
    /// Why it does not run.
    pub trouble: Option<String>,
    /// When it is tried again; None if nothing waits.
    pub again: Option<Tick>,
}

/// What is counted in a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Containers of ours.
    pub ours: usize,
    /// Those of clusters that are not known. They are left alone.
    pub unknown: usize,
    /// Workers that are not made since there are too many containers.
    pub over_limit: usize,
    /// Workers whose name somebody else's container bears.
    pub name_taken: usize,
    /// Workers that still run a former template.
    pub outdated: usize,
}

/// What a pass leads to.
#[derive(Debug, Default)]
pub struct Plan {
    /// What to do, at most one action for a worker.
    pub actions: Vec<Action>,
    /// What to tell people.
    pub notices: Vec<Notice>,
    /// All workers.
    pub workers: Vec<View>,
    /// Counts.
    pub counts: Counts,
    /// Whether the adopted containers have changed.
    pub is_adopted_changed: bool,
    /// When a pass is due although nothing else happens.
    pub again: Option<Duration>,
}

/// How many containers there may be, and which are adopted.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most containers of ours.
    pub max_containers: usize,
    /// Whether a container without labels of ours is adopted if it bears the name of a worker and is
    /// of the same image but for the tag.
    pub adopt_unlabelled: bool,
}

/// Which listing an answer belongs to: what was done after it began is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listing(u64);

/// When a worker has ended, and how often.
#[derive(Debug, Default)]
struct Lapses(VecDeque<(Tick, u32)>);

impl Lapses {
    fn add(&mut self, now: Tick, count: u32) {
        if count > 0 {
            self.0.push_back((now, count));
            if self.0.len() > MANY as usize {
                self.0.pop_front();
            }
        }
    }

    fn are_many(&self, now: Tick) -> bool {
        let lately = self.0.iter().filter(|(at, _)| now.since(*at) <= LOOP);
        lately.map(|(_, count)| count).sum::<u32>() >= MANY
    }
}

/// What is remembered of a worker between two passes.
#[derive(Debug, Default)]
struct Worker {
    /// What is being done.
    under_way: Option<Step>,
    /// The last listing that had begun when its last action ended.
    ended: Option<Listing>,
    /// The container that an action of ours has made.
    made: Option<String>,
    /// The container that runs, and since when without an end.
    running: Option<(String, Tick)>,
    /// How often which container was started again, as last looked up,
    restarts: Option<(String, u32)>,
    /// and when and how often that was lately.
    restarted: Lapses,
    /// When it was found stopped lately.
    stopped: Lapses,
    failures: u32,
    rests: u32,
    not_before: Option<Tick>,
    /// From when on what stands in its way counts as a failure.
    blocked: Option<Tick>,
    trouble: Option<String>,
}

impl Worker {
    /// Takes note of what a listing shows of its container.
    fn observe(&mut self, now: Tick, container: &Container) {
        let growth = container.restarts.map_or(0, |count| {
            let before = match &self.restarts {
                Some((id, before)) if *id == container.id => *before,
                _ => {
                    self.restarted = Lapses::default();
                    // What happened before we came is not judged.
                    if self.made.as_ref() == Some(&container.id) { 0 } else { count }
                }
            };
            self.restarts = Some((container.id.clone(), count));
            count.saturating_sub(before)
        });
        self.restarted.add(now, growth);
        match (&self.running, container.is) {
            (Some((id, _)), Observed::Running) if *id == container.id && growth == 0 => {}
            (_, Observed::Running) => self.running = Some((container.id.clone(), now)),
            _ => self.running = None,
        }
        if self.runs_for(now).is_some_and(|long| long >= WELL) {
            (self.failures, self.not_before, self.trouble) = (0, None, None);
        }
        if self.runs_for(now).is_some_and(|long| long >= LOOP) {
            self.rests = 0;
        }
    }

    /// Whether nothing is being done with it, nor was since a listing was asked for.
    fn is_free(&self, listing: Listing) -> bool {
        self.under_way.is_none() && self.ended.is_none_or(|ended| ended < listing)
    }

    fn runs_for(&self, now: Tick) -> Option<Duration> {
        self.running.as_ref().map(|(_, since)| now.since(*since))
    }

    /// It rests, since it crashes in a loop.
    fn rest(&mut self, now: Tick) {
        self.not_before = Some(now + doubled(REST, self.rests, LONGEST_REST));
        self.rests += 1;
        (self.restarted, self.stopped) = (Lapses::default(), Lapses::default());
        self.failures = self.failures.max(FAILED);
        self.trouble = Some("it crashes in a loop".into());
    }

    fn fail(&mut self, now: Tick, why: String) {
        self.not_before = Some(now + doubled(WAIT, self.failures, LONGEST_WAIT));
        self.failures += 1;
        self.trouble = Some(why);
    }

    fn block(&mut self, until: Tick, why: &str) {
        self.blocked.get_or_insert(until);
        self.trouble = Some(why.into());
    }

    fn waits(&self, now: Tick) -> Option<Duration> {
        self.not_before.filter(|at| *at > now).map(|at| at.since(now))
    }

    fn has_failed(&self, now: Tick) -> bool {
        self.failures >= FAILED || self.blocked.is_some_and(|until| until <= now)
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(most)
}

/// The workers of all clusters.
#[derive(Debug)]
pub struct Reconciler {
    roles: Vec<Role>,
    limits: Limits,
    workers: BTreeMap<Key, Worker>,
    /// Containers that others have made and that are kept, by their ids.
    adopted: HashMap<String, Adopted>,
    listing: Listing,
}

impl Reconciler {
    /// Workers by these templates. `adopted` are the containers that a former reconciler has adopted.
    pub const fn new(roles: Vec<Role>, limits: Limits, adopted: HashMap<String, Adopted>) -> Self {
        Self { roles, limits, workers: BTreeMap::new(), adopted, listing: Listing(0) }
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
        worker.ended = Some(self.listing);
        match (outcome, action.why) {
            (Err(why), _) => worker.fail(now, why),
            (Ok(_), Why::Crashing) => worker.rest(now),
            (Ok(_), Why::Stopped) => {
                worker.stopped.add(now, 1);
                if worker.stopped.are_many(now) {
                    worker.rest(now);
                }
            }
            (Ok(Some(made)), _) => worker.made = Some(made),
            (Ok(None), _) => {}
        }
    }

    /// An action was not begun: it is as if it had never been planned.
    pub fn withdrawn(&mut self, action: &Action) {
        if let Some(worker) = self.workers.get_mut(&action.key) {
            worker.under_way = None;
        }
    }

    /// What is to be done. `listing` says when `containers` was asked for; `told`, of which workers
    /// people know that they cannot run; `prunes`, whether the workers of clusters that are not
    /// known are removed.
    pub fn plan(
        &mut self,
        now: Tick,
        listing: Listing,
        containers: &[Container],
        clusters: &BTreeMap<String, Standing>,
        told: &BTreeSet<Key>,
        prunes: bool,
    ) -> Plan {
        let mut plan = Plan::default();
        let mut seen = self.sort(containers, clusters, &mut plan);
        let is_wanted = |key: &Key| {
            clusters.get(&key.cluster) == Some(&Standing::Live)
                && self.roles.iter().any(|role| role.role == key.role)
        };
        // Who bears a name; what of ours is on its way out gives it back.
        let mut taken: HashMap<&str, bool> =
            containers.iter().map(|container| (container.name.as_str(), true)).collect();
        for (key, containers) in &seen {
            taken.extend(containers.iter().map(|it| (it.name.as_str(), is_wanted(key))));
        }
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
            let room = self.limits.max_containers.saturating_sub(plan.counts.ours + made);
            let worker = self.workers.entry(key.clone()).or_default();
            let mut pass = Pass { now, adopted: &self.adopted, taken: &taken, room, prunes, plan: &mut plan };
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
            plan.notices.extend(notice(worker, &key, now, (is_wanted, told.contains(&key))));
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

    /// The containers that are ours, by worker. Adopts what may be adopted.
    fn sort<'a>(
        &mut self,
        containers: &'a [Container],
        clusters: &BTreeMap<String, Standing>,
        plan: &mut Plan,
    ) -> BTreeMap<Key, Vec<&'a Container>> {
        let before = self.adopted.len();
        let there: HashSet<&str> = containers.iter().map(|container| container.id.as_str()).collect();
        self.adopted.retain(|id, _| there.contains(id.as_str()));
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
                    let is_same = |role: &Role| repository(&role.image) == repository(&container.image);
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
        let due = |worker: &Worker| {
            let runs = worker.runs_for(now);
            let until =
                |most: Duration| runs.filter(|long| *long < most).map(|long| most.saturating_sub(long));
            let well = until(WELL).filter(|_| worker.trouble.is_some());
            let blocked = worker.blocked.filter(|until| *until > now).map(|until| until.since(now));
            [worker.waits(now), until(SETTLED), well, blocked].into_iter().flatten().min()
        };
        self.workers.values().filter_map(due).min()
    }
}

/// Workers of each role that still run a former template, and how many others are not well.
#[derive(Debug, Default)]
struct Rollouts(BTreeMap<String, Rollout>);

#[derive(Debug, Default)]
struct Rollout {
    outdated: Vec<(Key, String)>,
    unsettled: usize,
}

/// One pass over all workers.
struct Pass<'a> {
    now: Tick,
    adopted: &'a HashMap<String, Adopted>,
    /// The names of all containers, and whether they stay taken.
    taken: &'a HashMap<&'a str, bool>,
    room: usize,
    prunes: bool,
    plan: &'a mut Plan,
}

impl Pass<'_> {
    /// What a worker needs that is to run.
    fn wanted(
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
        let waits = worker.waits(self.now).is_some();
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
            (rank >= 2, is_current(container), container.name == name, rank, &container.id)
        });
        let Some(&kept) = kept else {
            worker.running = None;
            let until = self.now + BLOCKED;
            // Nobody waits for one that cannot be made: it may never be well.
            match (self.taken.get(&*name), self.room) {
                (Some(true), _) => {
                    self.plan.counts.name_taken += 1;
                    worker.block(until, "another container bears its name");
                    return None;
                }
                (None, 0) => {
                    self.plan.counts.over_limit += 1;
                    worker.block(until, "there are as many containers as MAX_CONTAINERS allows");
                    return None;
                }
                (taken, _) => {
                    worker.blocked = None;
                    rollout.unsettled += 1;
                    return (taken.is_none() && !waits).then_some((Step::Create, Why::Missing));
                }
            }
        };
        worker.observe(self.now, kept);
        if kept.is == Observed::Unclear {
            let until = self.now + UNCLEAR;
            worker.block(until, "its container is being removed, or in a state that is not known");
        } else {
            worker.blocked = None;
        }
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
                None
            }
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
                    _ if is_current(kept) => (Step::Start(id), Why::Missing),
                    _ => (Step::Remove(id), Why::Changed),
                })
            }
        }
    }

    /// What happens to a worker that is not to run.
    fn unwanted(
        &mut self,
        worker: &mut Worker,
        standing: Option<Standing>,
        role: Option<&Role>,
        containers: &[&Container],
    ) -> Option<(Step, Why)> {
        worker.running = None;
        worker.blocked = None;
        let why = match standing {
            None => {
                self.plan.counts.unknown += containers.len();
                if !self.prunes {
                    return None;
                }
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
        let container = containers.iter().find(|container| container.is != Observed::Unclear)?;
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

fn notice(worker: &Worker, key: &Key, now: Tick, (is_wanted, is_told): (bool, bool)) -> Option<Notice> {
    let is_well = worker.runs_for(now).is_some_and(|long| long >= WELL);
    match (is_told, is_wanted) {
        (true, false) => Some(Notice::Unwanted(key.clone())),
        (true, true) if is_well => Some(Notice::Back(key.clone())),
        (false, true) if worker.has_failed(now) => {
            Some(Notice::Failed(key.clone(), worker.trouble.clone().unwrap_or_default()))
        }
        _ => None,
    }
}

fn view(worker: &Worker, key: &Key, now: Tick, containers: &[&Container]) -> View {
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
