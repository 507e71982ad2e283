//! Workers of clusters: one thread looks at them and decides, a few others do what it decided.
//!
//! What decides is [`pap_core::reconcile`]. This lists the containers, performs the actions
//! outside any lock, and tells people. Stops take seconds, so they have threads of their own and
//! nobody waits for them.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use pap_core::reconcile::{
    Action, Adopted, Counts, Key, Mark, Notice, Observed, Plan, Reconciler, Step, View, Why,
};
use pap_core::time::Wall;
use pap_process::clock::wall;
use pap_process::metrics::{FAST, Histogram, Text};
use pap_process::threads::Threads;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::clusters;
use crate::config::Workers;
use crate::engine::{Engine, EngineError, Listed};
use crate::event::Event;
use crate::incidents::{self, Closer, ClusterName, Subject};
use crate::notify::Bell;
use crate::station::Station;
use crate::store::{Store, StoreError};
use crate::workers::Template;

/// Threads that make, start and remove; threads that stop; and threads that pull images first.
const QUICK: usize = 4;
const SLOW: usize = 4;
const PULLING: usize = 2;
/// Actions that may wait for a thread of their kind.
const MAX_WAITING: usize = 256;
/// The wait after a listing that failed.
const RETRY: Duration = Duration::from_secs(5);
/// The shortest time between two looks at all containers.
const GAP: Duration = Duration::from_millis(100);
/// How many containers are looked at more closely in one pass.
const MAX_LOOKS: usize = 100;
/// How much of a container's id people are shown.
const SHORT_ID: usize = 12;

/// How the last listing went.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// All workers.
    pub workers: Vec<View>,
    /// What was counted.
    pub counts: Counts,
    /// Why the engine was not reached; None if it was.
    pub trouble: Option<String>,
    /// Whether there was a listing yet.
    pub is_known: bool,
}

/// What is counted.
#[derive(Debug)]
pub struct Counters {
    /// Containers that were made and started.
    pub spawned: AtomicU64,
    /// Workers that were removed since their cluster is dead or was removed.
    pub cleaned: AtomicU64,
    /// Actions that failed.
    pub failed: AtomicU64,
    /// Listings that failed.
    pub unheard: AtomicU64,
    /// How long a pass took without its listing.
    pub pass: Histogram,
}

/// The workers of all clusters.
pub struct Control {
    templates: Vec<Template>,
    engine: Engine,
    interval: Duration,
    reconciler: Mutex<Reconciler>,
    /// Rings when something may have to be done.
    pub bell: Bell,
    quick: (Sender<Action>, Receiver<Action>),
    slow: (Sender<Action>, Receiver<Action>),
    pulling: (Sender<Action>, Receiver<Action>),
    seen: Mutex<Seen>,
    prunes: AtomicBool,
    /// Counters.
    pub counters: Counters,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in a thread of ours ends the process.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// Workers by these templates; what a former station knew of them is read.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn new(settings: &Workers, store: &Store) -> Result<Self, StoreError> {
        let (station, adopted) = store.read(|connection| {
            let sql = "SELECT value FROM about WHERE name = 'station_id'";
            let station: String = connection.query_row(sql, [], |row| row.get(0))?;
            Ok((station, adopted(connection)?))
        })?;
        let engine = Engine::new(settings.client.clone(), station, Arc::clone(store.lease()));
        let roles = settings.templates.iter().map(Template::decisive).collect();
        Ok(Self {
            templates: settings.templates.clone(),
            engine,
            interval: settings.interval,
            reconciler: Mutex::new(Reconciler::new(roles, settings.limits, adopted)),
            bell: Bell::default(),
            quick: bounded(MAX_WAITING),
            slow: bounded(MAX_WAITING),
            pulling: bounded(MAX_WAITING),
            seen: Mutex::default(),
            prunes: AtomicBool::new(false),
            counters: Counters {
                spawned: AtomicU64::new(0),
                cleaned: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                unheard: AtomicU64::new(0),
                pass: Histogram::new(&FAST),
            },
        })
    }

    /// How the last listing went.
    pub fn seen(&self) -> Seen {
        locked(&self.seen).clone()
    }

    /// The engine.
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Workers of clusters that nobody knows are removed in the next pass. Returns how many were
    /// seen in the last one.
    pub fn prune(&self) -> usize {
        self.prunes.store(true, Ordering::SeqCst);
        self.bell.ring();
        locked(&self.seen).counts.unknown
    }

    /// The consumer groups of a cluster's workers.
    pub fn consumer_groups(&self, cluster: &str) -> Vec<String> {
        self.templates.iter().filter_map(|template| template.consumer_group(cluster)).collect()
    }

    /// One pass. Returns when the next one is due at the latest.
    fn pass(&self, station: &Station) -> Duration {
        let listing = locked(&self.reconciler).begin();
        let listed = match self.engine.list() {
            Ok(listed) => listed,
            Err(error) => {
                self.unheard(station, &error);
                return RETRY.min(self.interval);
            }
        };
        let begun = station.clock.uptime();
        let containers = self.look_closer(listed);
        let read =
            |connection: &Connection| Ok((clusters::standings(connection, None)?, failed(connection)?));
        let (mut standings, told) = match station.store.read(read) {
            Ok(read) => read,
            Err(error) => {
                log::error!("clusters cannot be read, so workers are left as they are: {error}");
                return RETRY.min(self.interval);
            }
        };
        station.give_time(&mut standings);
        let prunes = self.prunes.swap(false, Ordering::SeqCst);
        let now = station.clock.now().tick;
        let plan = locked(&self.reconciler).plan(now, listing, &containers, &standings, &told, prunes);
        let again = plan.again;
        self.follow(station, plan);
        self.counters.pass.record(station.clock.uptime().since(begun));
        again.map_or(self.interval, |again| again.clamp(Duration::from_millis(100), self.interval))
    }

    fn unheard(&self, station: &Station, error: &EngineError) {
        self.counters.unheard.fetch_add(1, Ordering::Relaxed);
        let why = error.to_string();
        let before = locked(&self.seen).trouble.replace(why.clone());
        if before.as_ref() != Some(&why) {
            log::error!("workers are left as they are: {why}");
            station.news.clusters();
        }
    }

    /// Looks up how often young containers of workers were started again: they may crash in a loop.
    fn look_closer(&self, listed: Vec<Listed>) -> Vec<pap_core::reconcile::Container> {
        let mut looks = 0;
        let all = listed.into_iter().map(|Listed { mut container, is_young }| {
            let is_worker = matches!(container.mark, Mark::Ours { .. } | Mark::Predecessor { .. });
            if is_young && is_worker && looks < MAX_LOOKS {
                container.restarts = self.engine.restarts(&container.id).ok();
                // An engine that does not answer now is asked no more in this pass.
                looks = if container.restarts.is_some() { looks + 1 } else { MAX_LOOKS };
            }
            container
        });
        all.collect()
    }

    /// Stores what follows, and has the actions performed.
    fn follow(&self, station: &Station, mut plan: Plan) {
        let (is_back, is_news) = {
            let mut seen = locked(&self.seen);
            let is_back = seen.trouble.take().is_some();
            let is_news = is_back || !seen.is_known || seen.workers != plan.workers;
            seen.workers = std::mem::take(&mut plan.workers);
            seen.counts = plan.counts;
            seen.is_known = true;
            (is_back, is_news)
        };
        if is_back {
            log::info!("the container engine answers again");
        }
        if is_news {
            station.news.clusters();
        }
        if let Err(error) = self.store(station, &plan) {
            log::error!("what happens to workers cannot be stored, so they are left as they are: {error}");
            let mut reconciler = locked(&self.reconciler);
            plan.actions.iter().for_each(|action| reconciler.withdrawn(action));
            return;
        }
        for notice in &plan.notices {
            match notice {
                Notice::Failed(key, why) => {
                    log::error!("the {} of cluster {} cannot run: {why}", key.role, key.cluster);
                }
                Notice::Back(key) => log::info!("the {} of cluster {} runs again", key.role, key.cluster),
                Notice::Unwanted(_) => {}
            }
        }
        for action in plan.actions {
            let queue = if matches!(action.step, Step::Stop(_)) { &self.slow.0 } else { &self.quick.0 };
            if let Err(full) = queue.try_send(action) {
                // The next pass finds it again.
                locked(&self.reconciler).withdrawn(&full.into_inner());
            }
        }
    }

    fn store(&self, station: &Station, plan: &Plan) -> Result<(), StoreError> {
        if plan.notices.is_empty() && !plan.is_adopted_changed {
            return Ok(());
        }
        let adopted = plan.is_adopted_changed.then(|| locked(&self.reconciler).adopted().clone());
        let (notices, now) = (plan.notices.clone(), wall());
        station.write(move |connection| {
            if let Some(adopted) = adopted {
                connection.execute("DELETE FROM adopted", [])?;
                for (container, Adopted { key, hash }) in adopted {
                    let sql =
                        "INSERT INTO adopted (container, cluster_id, role, hash) VALUES (?1, ?2, ?3, ?4)";
                    connection.execute(sql, params![container, key.cluster, key.role, hash])?;
                }
            }
            notices.iter().try_for_each(|notice| tell(connection, now, notice))
        })
    }

    fn withdraw(&self, action: &Action) {
        locked(&self.reconciler).withdrawn(action);
        self.bell.ring();
    }

    fn perform(&self, station: &Station, action: &Action, lane: Lane) {
        if !holds(station, action) {
            return self.withdraw(action);
        }
        if lane != Lane::Pulling {
            announce(action);
        }
        let outcome = match self.attempt(station, action, lane) {
            Ok(Done::Made(id)) => Ok(Some(id)),
            Ok(Done::Removed) => Ok(None),
            Ok(Done::Withdrawn) => return self.withdraw(action),
            Ok(Done::NeedsPull) => {
                if let Err(full) = self.pulling.0.try_send(action.clone()) {
                    locked(&self.reconciler).withdrawn(&full.into_inner());
                }
                return;
            }
            Err(why) => Err(why),
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

    fn attempt(&self, station: &Station, action: &Action, lane: Lane) -> Result<Done, String> {
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
        let said = |error: EngineError| error.to_string();
        match &action.step {
            Step::Create => {
                let (hash, from) = (of_template()?.decisive().hash, filled()?);
                let said = |error: EngineError| from.without_secrets(&error.to_string());
                if self.engine.needs_pull(&from).map_err(said)? {
                    if lane != Lane::Pulling {
                        return Ok(Done::NeedsPull);
                    }
                    self.engine.pull(&from).map_err(said)?;
                    if !holds(station, action) {
                        return Ok(Done::Withdrawn);
                    }
                }
                self.engine.create(cluster, role, &hash, &from).map(Done::Made).map_err(said)
            }
            Step::Start(id) => {
                let from = filled()?;
                let started = self.engine.start(id, &from);
                started.map_err(|error| from.without_secrets(&error.to_string()))?;
                Ok(Done::Made(id.clone()))
            }
            Step::Remove(id) => self.engine.remove(id).map(|()| Done::Removed).map_err(said),
            Step::Stop(id) => {
                let timeout = template.map_or(Duration::from_secs(10), |template| template.stop_timeout);
                self.engine.stop(id, timeout).map_err(said)?;
                self.engine.remove(id).map(|()| Done::Removed).map_err(said)
            }
        }
    }

    fn queue(&self, lane: Lane) -> &Receiver<Action> {
        match lane {
            Lane::Quick => &self.quick.1,
            Lane::Slow => &self.slow.1,
            Lane::Pulling => &self.pulling.1,
        }
    }
}

/// Whether the reason of an action still holds, which may have waited for long.
fn holds(station: &Station, action: &Action) -> bool {
    let cluster = action.key.cluster.as_str();
    let standing = station.store.read(|connection| clusters::standings(connection, Some(cluster)));
    standing.is_ok_and(|mut standing| {
        station.give_time(&mut standing);
        action.holds(standing.get(cluster).copied())
    })
}

/// How an attempt ended.
enum Done {
    /// A container with this id runs.
    Made(String),
    /// A container is gone.
    Removed,
    /// Nothing was done yet: an image is missing, and the lane for pulls is to do it.
    NeedsPull,
    /// Its reason holds no more.
    Withdrawn,
}

/// Which threads do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Quick,
    Slow,
    Pulling,
}

/// The metrics of the control plane, with the names of the original. `states` counts clusters by
/// [`clusters::STATES`].
pub fn metrics(control: Option<&Control>, states: [u64; clusters::STATES.len()]) -> String {
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
            usize::from(seen.is_known && seen.trouble.is_none()),
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

/// Writes down what was done. It was done, so nothing waits for it if it cannot be written.
fn write_down(station: &Station, action: &Action, made: Option<&str>) {
    let (what, id) = match (&action.step, made) {
        (_, Some(id)) => ("worker.spawned", id),
        (Step::Remove(id) | Step::Stop(id), _) => ("worker.removed", id.as_str()),
        _ => return,
    };
    let details = json!({ "role": action.key.role, "container": id, "why": why(action.why) });
    let (cluster, now) = (action.key.cluster.clone(), wall());
    let written =
        station.store.write(move |connection| audit(connection, now, "station", &cluster, what, &details));
    if let Err(error) = written {
        log::error!("the audit is not written: {error}");
    }
}

/// Starts the threads.
///
/// # Errors
/// One cannot be started.
pub fn start(station: &Arc<Station>, threads: &mut Threads) -> io::Result<()> {
    let Some(control) = &station.control else {
        let at = Arc::clone(station);
        // The writer may not run yet.
        return threads.spawn("reconciler", move || close_all(&at));
    };
    log::info!(
        "🚀 Starting Control Plane Manager: {} for each cluster, by the engine at {}",
        control.templates.iter().map(Template::role).collect::<Vec<_>>().join(", "),
        control.engine.host()
    );
    let at = Arc::clone(station);
    threads.spawn("reconciler", move || run(&at))?;
    let lanes = [(Lane::Quick, QUICK), (Lane::Slow, SLOW), (Lane::Pulling, PULLING)];
    let lanes = lanes.into_iter().flat_map(|(lane, count)| std::iter::repeat_n(lane, count));
    for (number, lane) in lanes.enumerate() {
        let at = Arc::clone(station);
        threads.spawn(&format!("worker-{}", number + 1), move || perform(&at, lane))?;
    }
    Ok(())
}

fn run(station: &Station) {
    let Some(control) = &station.control else { return };
    // Many changes at once need one look.
    while !station.stop.wait(GAP) {
        let rung = control.bell.count();
        let longest = control.pass(station);
        if !station.stop.is_stopping() {
            control.bell.wait(rung, longest);
        }
    }
}

fn perform(station: &Station, lane: Lane) {
    let Some(control) = &station.control else { return };
    let queue = control.queue(lane);
    loop {
        select! {
            recv(queue) -> action => {
                let Ok(action) = action else { return };
                if station.stop.is_stopping() {
                    return;
                }
                control.perform(station, &action, lane);
            }
            recv(station.stop.receiver()) -> _ => return,
        }
    }
}

/// Says what is about to be done, in the words of the document.
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
        Why::Changed => "its template has changed",
        Why::NoRole => "its role is no longer a template",
        Why::Double => "there is another one",
        Why::Crashing => "it crashes in a loop",
        Why::Parked => "its cluster is dead",
        Why::Removed => "its cluster was removed",
        Why::Pruned => "its cluster is not known",
    }
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

fn tell(connection: &Connection, now: Wall, notice: &Notice) -> rusqlite::Result<()> {
    let Key { cluster, role } = notice.key();
    let Some((name, _)) = clusters::find(connection, cluster)? else { return Ok(()) };
    let subject = Subject::Worker(name, role.clone());
    let what = match notice {
        Notice::Failed(_, why) => {
            let details = json!({ "role": role, "reason": why });
            incidents::open(connection, now, Event::WorkerFailed, &subject, &details)?;
            audit(connection, now, "station", cluster, "worker.failed", &details)?;
            return Ok(());
        }
        Notice::Back(_) => Closer::Over,
        Notice::Unwanted(_) => Closer::Removed,
    };
    incidents::close(connection, now, Event::WorkerFailed, &subject, what)?;
    audit(connection, now, "station", cluster, "worker.back", &json!({ "role": role, "by": what.name() }))
}

/// Writes down what was done to a cluster, and by whom.
///
/// # Errors
/// It is not written.
pub fn audit(
    connection: &Connection,
    now: Wall,
    who: &str,
    cluster: &str,
    action: &str,
    details: &Value,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO audit (at, who, cluster_id, action, details) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![now.0, who, cluster, action, details.to_string()])
        .map(drop)
}

fn adopted(connection: &Connection) -> rusqlite::Result<HashMap<String, Adopted>> {
    let mut statement = connection.prepare("SELECT container, cluster_id, role, hash FROM adopted")?;
    let rows = statement.query_map([], |row| {
        let key = Key { cluster: row.get(1)?, role: row.get(2)? };
        Ok((row.get(0)?, Adopted { key, hash: row.get(3)? }))
    })?;
    rows.collect()
}

/// Without templates there are no workers, and nothing of them is open.
fn close_all(station: &Station) {
    let now = wall();
    let closed = station.write(move |connection| {
        for key in failed(connection)? {
            tell(connection, now, &Notice::Unwanted(key))?;
        }
        Ok(())
    });
    if let Err(error) = closed {
        log::error!("what is open of workers is not closed: {error}");
    }
}

/// The workers whose failure people were told.
fn failed(connection: &Connection) -> rusqlite::Result<BTreeSet<Key>> {
    let mut statement = connection.prepare_cached(
        "SELECT c.cluster_id, i.worker FROM incident i JOIN cluster c ON c.id = i.cluster
         WHERE i.kind = 'worker.failed' AND i.closed_at IS NULL",
    )?;
    let rows = statement.query_map([], |row| Ok(Key { cluster: row.get(0)?, role: row.get(1)? }))?;
    rows.collect()
}
