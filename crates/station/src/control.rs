//! Workers of clusters: one thread looks at them and decides, a few others do what it has decided.
//!
//! [`pap_core::reconcile`] decides. This file lists the containers, stores what people are told, and
//! hands the actions to the threads of `perform`.

pub mod metrics;
mod perform;
mod told;

use std::collections::HashMap;
use std::io;
use std::mem::Discriminant;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use pap_core::reconcile::{
    Action, Container, Counts, Mark, Notice, Plan, Reconciler, Sight, Step, View, repository,
};
use pap_core::time::Uptime;
use pap_process::clock::wall;
use pap_process::metrics::{FAST, Histogram};
use pap_process::threads::Threads;
use pap_process::throttle::Throttle;
use rusqlite::Connection;

use crate::clusters;
use crate::config::Workers;
use crate::engine::{Engine, EngineError, Listed, Listing};
use crate::notify::Bell;
use crate::station::Station;
use crate::store::{Store, StoreError};
use crate::workers::Template;

use perform::Queue;
use told::{adopted, close_all, failed, store_adopted, tell};

/// Threads that make, start and remove; threads that stop; and threads that pull images first.
const QUICK: usize = 4;
const STOPPING: usize = 4;
const PULLING: usize = 2;
/// Actions that may wait for a thread of their kind.
const MAX_WAITING: usize = 256;
/// The wait after a listing that failed.
const RETRY: Duration = Duration::from_secs(5);
/// How long an image counts as just pulled: a worker is stopped after its successor's image was pulled, and
/// the successor is made after that.
const FRESH: Duration = Duration::from_secs(60);
/// The shortest time between two passes.
const GAP: Duration = Duration::from_millis(100);
/// How many containers are looked at more closely in one pass, and for how long.
const MAX_LOOKS: usize = 100;
const LOOKING: Duration = Duration::from_secs(5);

/// How the last listing went.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// All workers.
    pub workers: Vec<View>,
    /// What was counted.
    pub counts: Counts,
    /// Why nothing is done; None if all is well.
    pub trouble: Option<String>,
    /// Whether the engine answered when it was asked last; None if it was never asked.
    pub is_reached: Option<bool>,
}

/// An action that waits for a thread.
#[derive(Clone, Debug)]
struct Planned {
    action: Action,
    at: Uptime,
}

/// What is counted.
#[derive(Debug)]
pub struct Counters {
    /// Containers that were made and started.
    pub spawned: AtomicU64,
    /// Workers that were removed because their cluster is dead or was removed.
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
    adopts_unlabelled: bool,
    engine: Engine,
    interval: Duration,
    reconciler: Mutex<Reconciler>,
    /// Rings when something may have to be done.
    pub bell: Bell,
    quick: (Sender<Planned>, Receiver<Planned>),
    stops: (Sender<Planned>, Receiver<Planned>),
    pulls: (Sender<Planned>, Receiver<Planned>),
    /// Images that were pulled within the last [`FRESH`], and when.
    pulled: Mutex<HashMap<String, Uptime>>,
    seen: Mutex<Seen>,
    /// What was adopted is not stored yet.
    is_adopted_owed: AtomicBool,
    /// Limits the log.
    troubles: Throttle<Discriminant<EngineError>>,
    prunes: AtomicBool,
    /// Counters.
    pub counters: Counters,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in a thread of ours ends the process.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// The workers with these templates. What the file keeps of them is read.
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
            adopts_unlabelled: settings.limits.adopt_unlabelled,
            engine,
            interval: settings.interval,
            reconciler: Mutex::new(Reconciler::new(roles, settings.limits, adopted)),
            bell: Bell::default(),
            quick: bounded(MAX_WAITING),
            stops: bounded(MAX_WAITING),
            pulls: bounded(MAX_WAITING),
            pulled: Mutex::default(),
            seen: Mutex::default(),
            is_adopted_owed: AtomicBool::new(false),
            troubles: Throttle::default(),
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

    /// The next pass removes workers of clusters that are not known. Returns how many such workers
    /// the last pass has seen.
    pub fn prune(&self) -> usize {
        self.prunes.store(true, Ordering::SeqCst);
        self.bell.ring();
        locked(&self.seen).counts.unknown
    }

    /// The consumer groups of a cluster's workers.
    pub fn consumer_groups(&self, cluster: &str) -> Vec<String> {
        self.templates.iter().filter_map(|template| template.consumer_group(cluster)).collect()
    }

    /// One pass. Returns when the next one is due at the latest; None if nothing could be seen.
    fn pass(&self, station: &Station) -> Option<Duration> {
        let listing = locked(&self.reconciler).begin();
        let listed = match self.engine.list() {
            Ok(listed) => listed,
            Err(error) => {
                self.unheard(station, &error);
                return None;
            }
        };
        let begun = station.clock.uptime();
        let is_whole = listed.unread == 0;
        let containers = self.look_closer(station, listed);
        let read =
            |connection: &Connection| Ok((clusters::standings(connection, None)?, failed(connection)?));
        let (mut standings, told) = match station.store.read(read) {
            Ok(read) => read,
            Err(error) => {
                log::error!("clusters cannot be read, so workers are left as they are: {error}");
                return None;
            }
        };
        station.give_time(&mut standings);
        let prunes = self.prunes.swap(false, Ordering::SeqCst);
        let now = station.clock.now().tick;
        let sight = Sight { listing, containers: &containers, is_whole };
        let plan = locked(&self.reconciler).plan(now, &sight, &standings, &told, prunes);
        let again = plan.again;
        self.follow(station, plan);
        self.counters.pass.record(station.clock.uptime().since(begun));
        Some(again.map_or(self.interval, |again| again.clamp(Duration::from_millis(100), self.interval)))
    }

    fn unheard(&self, station: &Station, error: &EngineError) {
        let why = error.to_string();
        let before = {
            let mut seen = locked(&self.seen);
            if !matches!(error, EngineError::Unasked) {
                self.counters.unheard.fetch_add(1, Ordering::Relaxed);
                seen.is_reached = Some(false);
            }
            seen.trouble.replace(why.clone())
        };
        // Each answer may say something else.
        let is_news = self.troubles.is_news(std::mem::discriminant(error), station.clock.uptime());
        if before.is_none() || is_news {
            log::error!("workers are left as they are: {why}");
            station.news.clusters();
        }
    }

    /// Asks for what a listing does not show: how often the engine has started young containers of
    /// workers again, as they may crash in a loop, and the images of containers that may be adopted.
    fn look_closer(&self, station: &Station, listing: Listing) -> Vec<Container> {
        let begun = station.clock.uptime();
        let mut looks = 0;
        let all = listing.containers.into_iter().map(|Listed { mut container, is_young }| {
            let is_due = match container.mark {
                Mark::Ours { .. } | Mark::Predecessor { .. } => is_young,
                Mark::None => self.may_be_adopted(&container),
                Mark::Other => false,
            };
            if is_due && looks < MAX_LOOKS && station.clock.uptime().since(begun) < LOOKING {
                looks += 1;
                match self.engine.inspect(&container.id) {
                    Ok(seen) => {
                        container.restarts = Some(seen.restart_count);
                        if let Some(made_from) = seen.config {
                            container.image = made_from.image;
                        }
                    }
                    // An engine that does not answer now is not asked again in this pass.
                    Err(EngineError::Unheard(_) | EngineError::Unasked) => looks = MAX_LOOKS,
                    Err(_) => {}
                }
            }
            container
        });
        all.collect()
    }

    /// Whether only the name of its image is missing to adopt a container without labels.
    fn may_be_adopted(&self, container: &Container) -> bool {
        self.adopts_unlabelled
            && repository(&container.image).is_none()
            && self.templates.iter().any(|template| template.may_bear(&container.name))
    }

    /// Stores what follows from a plan, and has its actions performed.
    fn follow(&self, station: &Station, mut plan: Plan) {
        let (is_back, is_news) = {
            let mut seen = locked(&self.seen);
            let is_back = seen.trouble.take().is_some();
            let is_news = seen.is_reached != Some(true) || is_back || seen.workers != plan.workers;
            seen.workers = std::mem::take(&mut plan.workers);
            seen.counts = plan.counts;
            seen.is_reached = Some(true);
            (is_back, is_news)
        };
        if is_back {
            log::info!("workers are looked after again");
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
                Notice::Stuck(key, why) => {
                    log::error!(
                        "a container of the {} of cluster {} cannot be removed: {why}",
                        key.role,
                        key.cluster
                    );
                }
                Notice::Back(key) => log::info!("the {} of cluster {} runs again", key.role, key.cluster),
                Notice::Unwanted(_) => {}
            }
        }
        let at = station.clock.uptime();
        for action in plan.actions {
            let queue = if matches!(action.step, Step::Stop(_)) { &self.stops.0 } else { &self.quick.0 };
            if let Err(full) = queue.try_send(Planned { action, at }) {
                // The next pass finds it again.
                locked(&self.reconciler).withdrawn(&full.into_inner().action);
            }
        }
    }

    fn store(&self, station: &Station, plan: &Plan) -> Result<(), StoreError> {
        self.is_adopted_owed.fetch_or(plan.is_adopted_changed, Ordering::SeqCst);
        let is_owed = self.is_adopted_owed.load(Ordering::SeqCst);
        if plan.notices.is_empty() && !is_owed {
            return Ok(());
        }
        let adopted = is_owed.then(|| locked(&self.reconciler).adopted().clone());
        let (notices, now) = (plan.notices.clone(), wall());
        station.write(move |connection| {
            if let Some(adopted) = adopted {
                store_adopted(connection, &adopted)?;
            }
            notices.iter().try_for_each(|notice| tell(connection, now, notice))
        })?;
        self.is_adopted_owed.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn waiting(&self, queue: Queue) -> &Receiver<Planned> {
        match queue {
            Queue::Quick => &self.quick.1,
            Queue::Stops => &self.stops.1,
            Queue::Pulls => &self.pulls.1,
        }
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
    let queues = [(Queue::Quick, QUICK), (Queue::Stops, STOPPING), (Queue::Pulls, PULLING)];
    let queues = queues.into_iter().flat_map(|(queue, count)| std::iter::repeat_n(queue, count));
    for (number, queue) in queues.enumerate() {
        let at = Arc::clone(station);
        threads.spawn(&format!("worker-{}", number + 1), move || perform::run(&at, queue))?;
    }
    Ok(())
}

fn run(station: &Station) {
    let Some(control) = &station.control else { return };
    // Many changes at once need only one pass.
    while !station.stop.wait(GAP) {
        let rung = control.bell.count();
        match control.pass(station) {
            // Whatever happens, an engine in trouble is not asked more often.
            None => drop(station.stop.wait(RETRY.min(control.interval))),
            Some(longest) if !station.stop.is_stopping() => control.bell.wait(rung, longest),
            Some(_) => {}
        }
    }
}
