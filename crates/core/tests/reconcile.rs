//! Workers in a simulated world: clusters that come, fall silent and leave; an engine that
//! fails, hangs, answers late and restarts; people with their own hands in it; a station that is
//! killed at any moment. Everything comes from one seed.
//!
//! `SIM_SEED=n cargo test -p pap-core --test reconcile` runs the one seed that failed.
//! `SIM_SEEDS=n` runs n seeds instead of 400 (2000 with `PAP_SLOW_TESTS=1`).

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use fastrand::Rng;
use pap_core::reconcile::{
    Action, Adopted, Container, Key, Limits, Listing, Mark, Notice, Observed, Plan, Reconciler, Role, Sight,
    Standing, Step, Why,
};
use pap_core::time::Tick;

const SECOND: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(30);
const CLUSTERS: usize = 5;

fn tick(time: Duration) -> Tick {
    Tick::from_start(time)
}

/// A container as it really is.
#[derive(Clone, Debug)]
struct Real {
    id: String,
    name: String,
    mark: Mark,
    is: Observed,
    restarts: u32,
}

/// A call on its way to the engine, or in it.
struct Call {
    action: Action,
    planned: Duration,
    role: Role,
    /// When its turn comes; None once it has come.
    starts: Option<Duration>,
    /// When the engine does it; None if it fails before.
    takes_effect: Option<Duration>,
    /// When the station has its answer; None if the call outlives the station.
    answered: Option<Duration>,
    is_timed_out: bool,
    result: Option<Result<Option<String>, String>>,
}

struct World {
    rng: Rng,
    time: Duration,
    containers: Vec<Real>,
    next_id: u32,
    clusters: BTreeMap<String, Standing>,
    roles: Vec<Role>,
    limits: Limits,
    reconciler: Reconciler,
    /// What the station's file holds.
    adopted: HashMap<String, Adopted>,
    told: BTreeSet<Key>,
    calls: Vec<Call>,
    /// A listing on its way: what it shows, whether all of it can be read, and when the answer comes.
    listing: Option<(Listing, Vec<Container>, bool, Duration)>,
    /// A person asks to remove the workers of unknown clusters; those that were asked for.
    prunes: bool,
    pruned: BTreeSet<String>,
    /// When the last listing was asked for, and when the last action on a worker ended.
    asked: Duration,
    /// The workers that had two containers when it was asked for.
    seen_double: BTreeSet<Key>,
    ended: HashMap<Key, Duration>,
    next_pass: Duration,
    is_calm: bool,
    /// Roles whose containers crash at once.
    crashing: BTreeSet<String>,
    trace: Vec<String>,
}

fn roles(version: u32) -> Vec<Role> {
    let role = |name: &str| Role {
        role: name.into(),
        name: format!("kg-{name}-{{cluster_id}}"),
        hash: format!("{name}-{version}"),
        image: format!("registry:5000/worker:{version}"),
    };
    vec![role("builder"), role("normalizer")]
}

impl World {
    fn new(seed: u64) -> Self {
        let limits = Limits { max_containers: 100, adopt_unlabelled: seed % 2 == 1 };
        let reconciler = Reconciler::new(roles(1), limits, HashMap::new());
        let mut world = Self {
            rng: Rng::with_seed(seed),
            limits,
            asked: Duration::ZERO,
            seen_double: BTreeSet::new(),
            ended: HashMap::new(),
            time: Duration::ZERO,
            containers: Vec::new(),
            next_id: 0,
            clusters: BTreeMap::new(),
            roles: roles(1),
            reconciler,
            adopted: HashMap::new(),
            told: BTreeSet::new(),
            calls: Vec::new(),
            listing: None,
            prunes: false,
            pruned: BTreeSet::new(),
            next_pass: Duration::ZERO,
            is_calm: false,
            crashing: BTreeSet::new(),
            trace: Vec::new(),
        };
        // Neighbours: one that bears a worker's name, one of another station, one of nobody's.
        world.add("kg-builder-c0", Mark::None, Observed::Running);
        world.add("kg-normalizer-c3", Mark::Other, Observed::Running);
        world.add("postgres", Mark::None, Observed::Stopped);
        // A predecessor's worker.
        let mark = Mark::Predecessor { cluster: "c1".into(), role: "builder".into() };
        world.add("kg-builder-c1", mark, Observed::Running);
        // One of a cluster that nobody knows.
        let mark = Mark::Ours { cluster: "gone".into(), role: "builder".into(), hash: "builder-1".into() };
        world.add("kg-builder-gone", mark, Observed::Running);
        world
    }

    fn add(&mut self, name: &str, mark: Mark, is: Observed) -> String {
        self.next_id += 1;
        let id = format!("id{}", self.next_id);
        self.containers.push(Real { id: id.clone(), name: name.into(), mark, is, restarts: 0 });
        id
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        let line = format!("{:>7.1} {}", self.time.as_secs_f64(), what());
        self.trace.push(line);
    }

    /// The engine does what was asked.
    fn effect(&mut self, action: &Action, role: &Role) -> Result<Option<String>, String> {
        let at = |id: &str, world: &Self| world.containers.iter().position(|real| real.id == id);
        let result = match &action.step {
            Step::Create => {
                let name = role.container(&action.key.cluster);
                if self.containers.iter().any(|real| real.name == name) {
                    return Err("the name is taken".into());
                }
                let Key { cluster, role: name_of_role } = action.key.clone();
                let mark = Mark::Ours { cluster, role: name_of_role, hash: role.hash.clone() };
                // The engine may make it and then fail to start it.
                let starts = self.is_calm || self.rng.u8(..10) > 0;
                let is = if starts { Observed::Running } else { Observed::Created };
                let id = self.add(&name, mark, is);
                if starts { Ok(Some(id)) } else { Err("it does not start".into()) }
            }
            Step::Start(id) => match at(id, self) {
                Some(place) => {
                    self.containers[place].is = Observed::Running;
                    Ok(Some(id.clone()))
                }
                None => Err("no such container".into()),
            },
            Step::Remove(id) => match at(id, self) {
                Some(place) if self.containers[place].is == Observed::Running => Err("it runs".into()),
                Some(place) => {
                    self.containers.remove(place);
                    Ok(None)
                }
                None => Ok(None),
            },
            Step::Stop(id) => {
                if let Some(place) = at(id, self) {
                    self.containers.remove(place);
                }
                Ok(None)
            }
        };
        self.say(|| format!("engine: {action:?}: {result:?}"));
        self.one_each();
        result
    }

    /// At most one container of a cluster and role runs that we have made.
    fn one_each(&self) {
        let mut running = BTreeSet::new();
        for real in &self.containers {
            if let Mark::Ours { cluster, role, .. } = &real.mark
                && real.is == Observed::Running
            {
                assert!(running.insert((cluster, role)), "two run: {real:?}");
            }
        }
    }

    fn marked(&self, id: &str) -> &Real {
        self.containers.iter().find(|real| real.id == id).unwrap()
    }

    /// What is decided must have its reason in what can be seen.
    fn check(&self, action: &Action) {
        let (Step::Start(id) | Step::Remove(id) | Step::Stop(id)) = &action.step else {
            assert_eq!(self.clusters[&action.key.cluster], Standing::Live, "made for {action:?}");
            return;
        };
        if !self.containers.iter().any(|real| real.id == *id) {
            return;
        }
        let real = self.marked(id);
        match &real.mark {
            Mark::Ours { cluster, .. } => assert_eq!(*cluster, action.key.cluster),
            Mark::Predecessor { cluster, .. } => {
                assert_eq!(*cluster, action.key.cluster);
                assert!(self.reconciler.adopted().contains_key(id), "not adopted: {action:?}");
            }
            Mark::None => {
                let is_adopted = self.reconciler.adopted().contains_key(id);
                assert!(self.limits.adopt_unlabelled && is_adopted, "not ours: {action:?}");
            }
            Mark::Other => panic!("another's: {action:?}"),
        }
        let standing = self.clusters.get(&action.key.cluster);
        let is_unknown = matches!(standing, None | Some(Standing::Unknown));
        let is_allowed =
            if is_unknown { self.pruned.contains(id) } else { standing != Some(&Standing::Quiet) };
        assert!(is_allowed, "not asked for: {action:?}");
        if matches!(action.step, Step::Stop(_)) && standing == Some(&Standing::Live) {
            let is_old = match &real.mark {
                Mark::Ours { hash, .. } => !self.roles.iter().any(|role| role.hash == *hash),
                _ => !self.roles.iter().any(|role| role.hash == self.reconciler.adopted()[id].hash),
            };
            let crashes = real.restarts >= 5;
            let is_allowed = match action.why {
                Why::Changed => is_old,
                Why::Crashing => crashes,
                // Somebody may have removed the other one since the listing.
                Why::Double => self.seen_double.contains(&action.key),
                _ => false,
            };
            assert!(is_allowed, "a healthy worker: {action:?} {real:?}");
        }
    }

    /// The containers of a worker, whoever made them.
    fn of(&self, key: &Key) -> Vec<&Real> {
        let role = self.roles.iter().find(|role| role.role == key.role);
        let name = role.map(|role| role.container(&key.cluster));
        let is_of = |real: &&Real| match &real.mark {
            Mark::Ours { cluster, role, .. } | Mark::Predecessor { cluster, role } => {
                *cluster == key.cluster && *role == key.role
            }
            Mark::None => self.limits.adopt_unlabelled && name.as_ref() == Some(&real.name),
            Mark::Other => false,
        };
        self.containers.iter().filter(is_of).collect()
    }

    fn listed(&self) -> Vec<Container> {
        let show = |real: &Real| Container {
            id: real.id.clone(),
            name: real.name.clone(),
            image: if real.name.starts_with("kg-") { "registry:5000/worker:0" } else { "postgres" }.into(),
            mark: real.mark.clone(),
            is: real.is,
            restarts: Some(real.restarts),
        };
        self.containers.iter().map(show).collect()
    }

    /// Workers whose template has changed are replaced one by one, and only while nobody misses one.
    fn check_roll(&self, action: &Action) {
        if action.why != Why::Changed || !matches!(action.step, Step::Stop(_)) {
            return;
        }
        let is_live = |key: &Key| self.clusters.get(&key.cluster) == Some(&Standing::Live);
        let is_roll = |call: &&Call| {
            call.action.why == Why::Changed && call.answered.is_some() && is_live(&call.action.key)
        };
        let others = self.calls.iter().filter(is_roll).filter(|call| call.action.key.role == action.key.role);
        assert_eq!(others.count(), 0, "two at once: {action:?}");
    }

    /// A call sets out. It may fail, hang, or be done long after nobody waits for it.
    fn send(&mut self, action: Action) {
        let is_under_way = |call: &Call| call.action.key == action.key && call.answered.is_some();
        assert!(!self.calls.iter().any(is_under_way), "two at once for one worker: {action:?}");
        let ended = self.ended.get(&action.key);
        assert!(ended.is_none_or(|ended| *ended <= self.asked), "from an old listing: {action:?}");
        let role = self.roles.iter().find(|role| role.role == action.key.role).cloned();
        let role = role.unwrap_or_else(|| self.roles[0].clone());
        let quick = SECOND / 10 * self.rng.u32(1..20);
        // Stops wait for those before them.
        let is_queued = !self.is_calm && matches!(action.step, Step::Stop(_));
        let starts = self.time + if is_queued { SECOND * self.rng.u32(0..40) } else { Duration::ZERO };
        let fate = if self.is_calm { 9 } else { self.rng.u8(..20) };
        let (takes_effect, answered, is_timed_out) = match fate {
            0 => (None, quick, false),
            1 => (None, 15 * SECOND, true),
            // It is done although the answer does not come in time, perhaps long after.
            2 => (Some(starts + SECOND * self.rng.u32(1..60)), 15 * SECOND, true),
            _ => (Some(starts + quick), quick, false),
        };
        let answered = Some(starts + answered);
        let (starts, planned) = (Some(starts), self.time);
        // The engine says that it is done, and it is not.
        let result = (fate == 3).then(|| Ok((action.step == Step::Create).then(|| "none".to_owned())));
        let takes_effect = takes_effect.filter(|_| fate != 3);
        self.calls.push(Call { action, planned, role, starts, takes_effect, answered, is_timed_out, result });
    }

    fn calls(&mut self) {
        let mut calls = std::mem::take(&mut self.calls);
        calls.retain_mut(|call| {
            if call.starts.is_some_and(|at| at <= self.time) {
                call.starts = None;
                if call.answered.is_none() {
                    // Its station was killed before.
                    return false;
                }
                let standing = self.clusters.get(&call.action.key.cluster).copied();
                if !call.action.holds(standing, self.time.saturating_sub(call.planned)) {
                    self.reconciler.withdrawn(&call.action);
                    self.next_pass = self.time;
                    return false;
                }
                let is_live = standing == Some(Standing::Live);
                let why = call.action.why;
                assert!(
                    !is_live || !matches!(why, Why::Parked | Why::Removed),
                    "it lives: {:?}",
                    call.action
                );
            }
            if call.takes_effect.is_some_and(|at| at <= self.time) {
                call.takes_effect = None;
                call.result = Some(self.effect(&call.action, &call.role.clone()));
            }
            if call.answered.is_some_and(|at| at <= self.time) {
                call.answered = None;
                let lost = || Err("nothing was heard".to_owned());
                let result = if call.is_timed_out { lost() } else { call.result.take().unwrap_or_else(lost) };
                self.reconciler.ended(tick(self.time), &call.action, result);
                self.ended.insert(call.action.key.clone(), self.time);
                self.next_pass = self.time;
            }
            call.takes_effect.is_some() || call.answered.is_some()
        });
        self.calls.extend(calls);
    }

    fn pass(&mut self) {
        if let Some((listing, containers, is_whole, at)) = self.listing.take() {
            if at > self.time {
                self.listing = Some((listing, containers, is_whole, at));
                return;
            }
            let fails = !self.is_calm && self.rng.u8(..10) == 0;
            if !fails {
                let now = tick(self.time);
                let prunes = std::mem::take(&mut self.prunes);
                if prunes {
                    self.pruned.extend(containers.iter().map(|it| it.id.clone()));
                }
                let sight = Sight { listing, containers: &containers, is_whole };
                let plan = self.reconciler.plan(now, &sight, &self.clusters, &self.told, prunes);
                let makes = |action: &Action| action.step == Step::Create;
                assert!(is_whole || !plan.actions.iter().any(makes), "made, although something was not read");
                self.perform(plan);
            }
        }
        if self.time >= self.next_pass {
            self.next_pass = self.time + INTERVAL;
            // What it shows may be as old as the moment when it was asked for.
            self.asked = self.time;
            let keys = (0..CLUSTERS).flat_map(|number| {
                self.roles
                    .iter()
                    .map(move |role| Key { cluster: format!("c{number}"), role: role.role.clone() })
            });
            self.seen_double = keys.filter(|key| self.of(key).len() > 1).collect();
            let (listing, mut shown) = (self.reconciler.begin(), self.listed());
            // Rows that cannot be read, and an engine that shows nothing when it has just been started.
            let fate = if self.is_calm { 9 } else { self.rng.u8(..20) };
            let is_whole = fate != 0;
            if fate == 0 {
                shown.retain(|_| self.rng.bool());
            } else if fate == 1 {
                shown.clear();
            }
            let takes = SECOND / 10 * self.rng.u32(1..30);
            self.listing = Some((listing, shown, is_whole, self.time + takes));
        }
    }

    fn perform(&mut self, plan: Plan) {
        if plan.is_adopted_changed {
            for id in self.reconciler.adopted().keys().filter(|id| !self.adopted.contains_key(*id)) {
                let key = |real: &Real| match &real.mark {
                    Mark::Predecessor { cluster, .. } => Some(cluster.clone()),
                    _ => real.name.rsplit('-').next().map(str::to_owned),
                };
                let real = self.containers.iter().find(|real| real.id == *id);
                let standing = real.and_then(key).and_then(|cluster| self.clusters.get(&cluster).copied());
                let is_registered = matches!(standing, Some(Standing::Live | Standing::Parked));
                assert!(real.is_none() || is_registered, "adopted, but {standing:?}: {real:?}");
            }
            self.adopted = self.reconciler.adopted().clone();
        }
        for notice in &plan.notices {
            self.say(|| format!("{notice:?}"));
            match notice {
                Notice::Failed(key, why) | Notice::Stuck(key, why) => {
                    assert!(!why.is_empty() && self.told.insert(key.clone()), "told twice: {key:?}");
                }
                Notice::Back(key) | Notice::Unwanted(key) => {
                    assert!(self.told.remove(key), "never told: {key:?}");
                }
            }
        }
        for action in plan.actions {
            // The queue is full, now and then.
            if !self.is_calm && self.rng.u8(..10) == 0 {
                self.reconciler.withdrawn(&action);
                self.next_pass = self.time;
                continue;
            }
            self.check(&action);
            self.check_roll(&action);
            self.say(|| format!("{action:?}"));
            self.send(action);
        }
        if let Some(again) = plan.again {
            self.next_pass = self.next_pass.min(self.time + again.max(SECOND / 10));
        }
    }

    /// Something happens by itself.
    fn event(&mut self) {
        let cluster = format!("c{}", self.rng.usize(..CLUSTERS));
        match self.rng.u8(..14) {
            0..=3 => {
                let known = self.clusters.get(&cluster).copied();
                let next = match (known, self.rng.u8(..4)) {
                    (None, 3) => Standing::Unknown,
                    // By an old word, for the first time or again.
                    (None | Some(Standing::Removed), 0) => Standing::Quiet,
                    (_, 1) if known.is_some() => Standing::Parked,
                    (_, 2) if known.is_some() => Standing::Removed,
                    _ => Standing::Live,
                };
                self.say(|| format!("{cluster} is {next:?}"));
                self.clusters.insert(cluster, next);
                self.next_pass = self.time;
            }
            4 => self.kill(),
            9 => self.prunes = true,
            5 => {
                // A person stops, starts, pauses or removes one of all containers.
                if let Some(place) =
                    (!self.containers.is_empty()).then(|| self.rng.usize(..self.containers.len()))
                {
                    let others = |world: &Self| {
                        let mark = &world.containers[place].mark;
                        world.containers.iter().any(|it| it.mark == *mark && it.is == Observed::Running)
                    };
                    match self.rng.u8(..4) {
                        0 => self.containers[place].is = Observed::Stopped,
                        1 if self.containers[place].is == Observed::Running => {
                            self.containers[place].is = Observed::Interrupted;
                        }
                        2 if !others(self) => self.containers[place].is = Observed::Running,
                        3 => drop(self.containers.remove(place)),
                        _ => {}
                    }
                }
            }
            6 => {
                // The engine restarts: what is not to be started again stays stopped.
                for real in &mut self.containers {
                    real.is = if self.rng.bool() { real.is } else { Observed::Stopped };
                }
            }
            8 => {
                // A person starts what the predecessor would have.
                let name = format!("old-builder-{cluster}");
                if !self.containers.iter().any(|real| real.name == name) {
                    let mark = Mark::Predecessor { cluster, role: "builder".into() };
                    self.add(&name, mark, Observed::Running);
                }
            }
            7 => {
                let role = self.roles[self.rng.usize(..self.roles.len())].role.clone();
                if !self.crashing.remove(&role) {
                    self.crashing.insert(role);
                }
            }
            _ => {}
        }
        for real in &mut self.containers {
            if let Mark::Ours { role, .. } = &real.mark
                && self.crashing.contains(role)
                && matches!(real.is, Observed::Running | Observed::Interrupted)
            {
                real.restarts += self.rng.u32(..3);
            }
        }
    }

    /// The station is killed and started again, perhaps with other templates. Its calls go on.
    fn kill(&mut self) {
        self.say(|| "killed".into());
        if self.rng.bool() {
            self.roles = roles(self.rng.u32(1..3));
        }
        self.reconciler = Reconciler::new(self.roles.clone(), self.limits, self.adopted.clone());
        self.listing = None;
        for call in &mut self.calls {
            call.answered = None;
        }
        self.next_pass = self.time;
    }

    fn step(&mut self) {
        self.time += SECOND / 10;
        self.calls();
        self.pass();
    }

    fn run(&mut self) {
        for _ in 0..600 {
            for _ in 0..self.rng.u32(1..80) {
                self.step();
            }
            self.event();
        }
        self.is_calm = true;
        self.crashing.clear();
        self.say(|| "calm".into());
        // Longer than the longest rest and the longest wait, and a rollout of all.
        for _ in 0..10 * 60 * 60 {
            self.step();
        }
        self.settled();
    }

    fn settled(&self) {
        for (cluster, standing) in &self.clusters {
            for role in &self.roles {
                let key = Key { cluster: cluster.clone(), role: role.role.clone() };
                let found = self.of(&key);
                let is_taken = || {
                    let name = role.container(cluster);
                    let is_foreign = |it: &Real| match it.mark {
                        Mark::None => !self.limits.adopt_unlabelled,
                        Mark::Other => true,
                        _ => false,
                    };
                    self.containers.iter().any(|it| it.name == name && is_foreign(it))
                };
                match standing {
                    // What a person has paused is left to that person.
                    Standing::Live if found.iter().any(|real| real.is == Observed::Interrupted) => {}
                    Standing::Live if is_taken() && found.is_empty() => {
                        assert!(self.told.contains(&key), "{key:?} is not told");
                    }
                    Standing::Live => {
                        assert!(
                            found.len() == 1 && found[0].is == Observed::Running,
                            "{key:?} has {found:?}"
                        );
                        let is_current = match &found[0].mark {
                            Mark::Ours { hash, .. } => *hash == role.hash,
                            _ => self.adopted[&found[0].id].hash == role.hash,
                        };
                        let waits_for_a_person = self.clusters.keys().any(|cluster| {
                            let key = Key { cluster: cluster.clone(), role: role.role.clone() };
                            self.of(&key).iter().any(|real| real.is == Observed::Interrupted)
                        });
                        // Without a successor it is better than none, and people are told.
                        let is_hindered =
                            !is_current && found[0].name != role.container(cluster) && is_taken();
                        assert!(is_current || waits_for_a_person || is_hindered, "{key:?} is old: {found:?}");
                        assert_eq!(self.told.contains(&key), is_hindered, "{key:?} is told, or is not");
                    }
                    Standing::Parked | Standing::Removed => {
                        let ours = found.iter().filter(|it| {
                            matches!(it.mark, Mark::Ours { .. }) || self.adopted.contains_key(&it.id)
                        });
                        assert_eq!(ours.count(), 0, "{key:?} is {standing:?}: {found:?}");
                        assert!(!self.told.contains(&key));
                    }
                    Standing::Quiet | Standing::Unknown => {}
                }
            }
        }
    }
}

#[test]
fn in_a_bad_world_every_live_cluster_has_its_workers_and_nobody_else_is_harmed() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = if let Some(seed) = number("SIM_SEED") {
        seed..seed + 1
    } else {
        let usual = std::env::var_os("PAP_SLOW_TESTS").map_or(400, |_| 2000);
        0..number("SIM_SEEDS").unwrap_or(usual)
    };
    let is_one = seeds.end - seeds.start == 1;
    for seed in seeds {
        let mut world = World::new(seed);
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
        if is_one {
            eprintln!("{}", world.trace.join("\n"));
        }
        if let Err(panic) = done {
            eprintln!("SIM_SEED={seed} cargo test -p pap-core --test reconcile");
            std::panic::resume_unwind(panic);
        }
    }
}
