//! What all threads of a station share.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pap_core::reconcile::Standing;
use pap_core::time::{Tick, Uptime, Wall, millis};
use pap_process::clock::{Clock, wall};
use pap_process::files::read_small;
use pap_process::settings::Secret;
use pap_process::stop::Stop;
use rusqlite::Connection;

use crate::access::{Attempts, Keys, SetKeys};
use crate::agents::Agents;
use crate::asking::Asking;
use crate::clients::Clients;
use crate::clusters::ClusterView;
use crate::conditions::Conditions;
use crate::config::Config;
use crate::control::Control;
use crate::elsewhere::Elsewhere;
use crate::kafka::Link;
use crate::metrics::Metrics;
use crate::notify::{Bell, Notifier};
use crate::store::{Store, StoreError};
use crate::watch::Watch;
use crate::{clusters, ids, machines};

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its threads are being started.
    Starting,
    /// It takes everything.
    Ready,
    /// It was told to stop.
    Stopping,
}

/// What has changed, for pages that show it: for each kind a number that rises.
#[derive(Debug, Default)]
pub struct News {
    incidents: AtomicU64,
    clusters: AtomicU64,
    machines: AtomicU64,
    agents: AtomicU64,
    channels: AtomicU64,
}

impl News {
    /// Notes that incidents have changed, or the alerts in them.
    pub fn incidents(&self) {
        self.incidents.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that clusters have changed.
    pub fn clusters(&self) {
        self.clusters.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that machines have changed.
    pub fn machines(&self) {
        self.machines.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that agents that beat here have changed.
    pub fn agents(&self) {
        self.agents.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that channels or their deliveries have changed.
    pub fn channels(&self) {
        self.channels.fetch_add(1, Ordering::Relaxed);
    }

    /// All numbers, by name.
    pub fn now(&self) -> [(&'static str, u64); 5] {
        [
            ("incidents", self.incidents.load(Ordering::Relaxed)),
            ("clusters", self.clusters.load(Ordering::Relaxed)),
            ("machines", self.machines.load(Ordering::Relaxed)),
            ("agents", self.agents.load(Ordering::Relaxed)),
            ("channels", self.channels.load(Ordering::Relaxed)),
        ]
    }
}

/// Signs of life of our own threads, for systemd's watchdog.
#[derive(Debug, Default)]
pub struct Vitals {
    sweeper: AtomicU64,
    edge: AtomicU64,
}

impl Vitals {
    /// Notes that the sweeper is awake.
    pub fn swept(&self, now: Uptime) {
        self.sweeper.store(millis(now.reading()), Ordering::Relaxed);
    }

    /// Notes that every event loop has given a sign of life.
    pub fn probed(&self, now: Uptime) {
        self.edge.store(millis(now.reading()), Ordering::Relaxed);
    }

    /// Whether all threads are well.
    ///
    /// # Errors
    /// Which thread is stuck.
    pub fn check(&self, now: Uptime) -> Result<(), &'static str> {
        let late = |since: &AtomicU64, allowed: Duration| {
            millis(now.reading()).saturating_sub(since.load(Ordering::Relaxed)) > millis(allowed)
        };
        if late(&self.sweeper, Duration::from_secs(10)) {
            Err("the sweeper is stuck")
        } else if late(&self.edge, Duration::from_secs(12)) {
            Err("an event loop is stuck")
        } else {
            Ok(())
        }
    }
}

/// What all threads share, one of each.
pub struct Station {
    /// The settings.
    pub config: Config,
    /// The file.
    pub store: Store,
    /// Who may do what.
    pub keys: Keys,
    /// How many wrong keys come from which address.
    pub attempts: Attempts,
    /// The clock. The sweeper renews the lease on awake time.
    pub clock: Clock,
    /// Tells the threads to end.
    pub stop: Stop,
    /// Rings when something may have to be delivered.
    pub bell: Bell,
    /// Rings when an agent that beats here may have to be told of.
    pub agent_bell: Bell,
    /// What has changed, for the page.
    pub news: News,
    /// What delivers to channels.
    pub notifier: Notifier,
    /// What Alertmanagers are told.
    pub conditions: Conditions,
    /// The clients with which collectors are asked.
    pub clients: Clients,
    /// Where agents that are silent here live.
    pub elsewhere: Elsewhere,
    /// Whether the wall clock was stepped.
    pub steps: Steps,
    /// After which time machines are silent,
    pub machines: Mutex<Watch<i64>>,
    /// and collectors.
    pub collectors: Mutex<Watch<String>>,
    /// After which time clusters are dead.
    pub lives: Mutex<Watch<String>>,
    /// When this station started, and which clusters were removed since, while that matters.
    started: Tick,
    left: Mutex<HashSet<String>>,
    /// The workers of clusters; None without templates.
    pub control: Option<Control>,
    /// The agents that beat here.
    pub agents: Agents,
    /// What collectors are to be asked with the answers to their next beats.
    pub asking: Asking,
    /// The state of the link to Kafka.
    pub kafka: Link,
    /// Counters.
    pub metrics: Metrics,
    /// Signs of life.
    pub vitals: Vitals,
    phase: AtomicU8,
    is_edge_alive: AtomicBool,
    /// How many requests wait for other programs now.
    pub errands: AtomicUsize,
    /// How many pages are told what has changed.
    pub watchers: AtomicUsize,
}

impl Station {
    /// A station whose clock starts now. Machines, collectors and clusters that were not silent when
    /// the last run stopped have their full time again.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn new(config: Config, store: Store, admin_key: &str) -> Result<Self, StoreError> {
        let (clock, steps) = (Clock::start(), Steps::default());
        // From here on a step of the wall clock is noticed.
        steps.since(clock.uptime());
        let agents = Agents::new(config.max_agents);
        let mut watched = Watch::new(config.machine_patience);
        let mut collectors = Watch::new(config.collector_patience);
        let mut lives = Watch::new(config.cleanup_timeout);
        let now = clock.now();
        let set = SetKeys {
            collectors: &config.collector_keys,
            agents: &config.agent_keys,
            admin: Some(admin_key),
            viewer: config.viewer_key.as_ref().map(Secret::reveal),
        };
        let keys = store.read(|connection| {
            machines::online(connection)?.iter().for_each(|machine| watched.hear(machine, now.tick));
            for cluster in clusters::beating(connection)? {
                collectors.hear(&cluster, now.tick);
            }
            for cluster in clusters::alive(connection)? {
                lives.hear(&cluster, now.tick);
            }
            let known = agents.restore(now, connection)?;
            if known > 0 {
                log::info!("{known} agents that beat here are known from before");
            }
            Keys::load(&set, connection)
        })?;
        let control = match &config.control {
            Some(settings) => Some(Control::new(settings, &store)?),
            None => None,
        };
        Ok(Self {
            control,
            lives: Mutex::new(lives),
            started: now.tick,
            left: Mutex::default(),
            notifier: Notifier::new(&config),
            conditions: Conditions::new(config.alertmanagers.as_ref()),
            clients: Clients::new(&config),
            elsewhere: Elsewhere::default(),
            steps,
            kafka: Link::new(config.kafka.is_some()),
            config,
            store,
            keys,
            attempts: Attempts::default(),
            clock,
            stop: Stop::default(),
            bell: Bell::default(),
            agent_bell: Bell::default(),
            news: News::default(),
            machines: Mutex::new(watched),
            collectors: Mutex::new(collectors),
            agents,
            asking: Asking::default(),
            metrics: Metrics::default(),
            vitals: Vitals::default(),
            phase: AtomicU8::new(Phase::Starting as u8),
            is_edge_alive: AtomicBool::new(true),
            errands: AtomicUsize::new(0),
            watchers: AtomicUsize::new(0),
        })
    }

    /// Stores something that people may have to be told.
    ///
    /// # Errors
    /// Nothing is stored.
    pub fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let written = self.store.write(work);
        match &written {
            Ok(_) => {
                self.bell.ring();
                self.news.incidents();
            }
            Err(error) => {
                self.metrics.store_failure();
                log::error!("not stored: {error}");
            }
        }
        written
    }

    /// A machine was heard, and that is stored.
    pub fn heard_machine(&self, id: i64) {
        let now = self.clock.now().tick;
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).hear(&id, now);
    }

    /// A collector's beat is stored.
    pub fn heard_collector(&self, cluster_id: &str) {
        let now = self.clock.now().tick;
        self.collectors.lock().unwrap_or_else(PoisonError::into_inner).hear(&cluster_id.to_owned(), now);
        self.heard_cluster(cluster_id);
    }

    /// A cluster gave a sign of life.
    pub fn heard_cluster(&self, cluster_id: &str) {
        let now = self.clock.now().tick;
        self.lives.lock().unwrap_or_else(PoisonError::into_inner).hear(&cluster_id.to_owned(), now);
    }

    /// A cluster is registered by something that is no sign of life: it has its full time to give
    /// one.
    pub fn await_cluster(&self, cluster_id: &str) {
        let now = self.clock.now().tick;
        let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        if lives.silence(&cluster_id.to_owned(), now).is_none() {
            lives.hear(&cluster_id.to_owned(), now);
        }
    }

    /// A cluster was removed: no sign of life is expected of it.
    pub fn forget_cluster(&self, cluster_id: &str) {
        for watch in [&self.collectors, &self.lives] {
            watch.lock().unwrap_or_else(PoisonError::into_inner).forget(&cluster_id.to_owned());
        }
        if self.may_be_restored() {
            self.left.lock().unwrap_or_else(PoisonError::into_inner).insert(cluster_id.to_owned());
        }
    }

    /// Whether clusters that the file calls removed may have been registered again since: for a while
    /// after a start, as the file may have been put back from a backup.
    fn may_be_restored(&self) -> bool {
        self.clock.now().tick.since(self.started) < self.config.cleanup_timeout
    }

    /// For a while after a start the workers that run go on, also those of clusters that the file
    /// calls dead or removed.
    pub fn give_time(&self, standings: &mut BTreeMap<String, Standing>) {
        let now = self.clock.now().tick;
        let may_be_restored = self.may_be_restored();
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if !may_be_restored && !left.is_empty() {
            *left = HashSet::new();
        }
        for (cluster, standing) in standings {
            let has_time = match standing {
                Standing::Parked | Standing::Unknown => {
                    lives.silence(cluster, now).is_some_and(|silence| silence < self.config.cleanup_timeout)
                }
                Standing::Removed => may_be_restored && !left.contains(cluster),
                Standing::Live | Standing::Quiet => false,
            };
            if has_time {
                *standing = Standing::Quiet;
            }
        }
    }

    /// The consumer groups of a cluster's workers, which are deleted when the cluster is removed; none
    /// if Kafka is not used.
    pub fn consumer_groups(&self, cluster_id: &str) -> Vec<String> {
        let control = self.control.as_ref().filter(|_| self.kafka.is_used());
        control.map(|control| control.consumer_groups(cluster_id)).unwrap_or_default()
    }

    /// Lets the reconciler look at once: which workers are wanted may have changed.
    pub fn reconcile(&self) {
        if let Some(control) = &self.control {
            control.bell.ring();
        }
    }

    /// Sets the state of clusters by how long they have given no sign of life.
    pub fn judge<'a>(&self, clusters: impl IntoIterator<Item = &'a mut ClusterView>) {
        let now = self.clock.now().tick;
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        for cluster in clusters {
            let silence = lives.silence(&cluster.id().to_owned(), now);
            cluster.judge(silence, self.config.collector_patience);
        }
    }

    /// A collector that beats here has sent something, which is not stored yet.
    pub fn refresh_collector(&self, cluster_id: &str) {
        let now = self.clock.now().tick;
        for watch in [&self.collectors, &self.lives] {
            watch.lock().unwrap_or_else(PoisonError::into_inner).refresh(&cluster_id.to_owned(), now);
        }
    }

    /// A machine has sent something, which is not stored yet.
    pub fn refresh_machine(&self, id: i64) {
        let now = self.clock.now().tick;
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).refresh(&id, now);
    }

    /// The next deadline.
    pub fn next_deadline(&self) -> Option<Tick> {
        let machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner).next();
        let collectors = self.collectors.lock().unwrap_or_else(PoisonError::into_inner).next();
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner).next();
        [machines, collectors, lives, self.agents.next_deadline()].into_iter().flatten().min()
    }

    /// What the process is doing.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Stopping,
        }
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// Takes note of whether every event loop answers.
    pub fn set_edge_alive(&self, is_alive: bool) {
        self.is_edge_alive.store(is_alive, Ordering::SeqCst);
    }

    /// Why nothing should be sent here now; None if all is well.
    pub fn trouble(&self) -> Option<&'static str> {
        match self.phase() {
            Phase::Starting => Some("starting"),
            Phase::Stopping => Some("stopping"),
            Phase::Ready if !self.is_edge_alive.load(Ordering::SeqCst) => Some("an event loop is stuck"),
            Phase::Ready if !self.store.is_well() => Some("STATION_DB cannot be written"),
            Phase::Ready if self.kafka.is_unread() => Some("Kafka cannot be read"),
            Phase::Ready => None,
        }
    }
}

/// The admin's key: the one that is set, or the one in `admin.key` beside the file, which is
/// made at the first start. Returns whether it is new, too.
///
/// # Errors
/// The file with the key cannot be read or written.
pub fn admin_key(config: &Config) -> io::Result<(String, bool)> {
    if let Some(key) = &config.admin_key {
        return Ok((key.reveal().to_owned(), false));
    }
    let path = admin_key_path(&config.db);
    match read_small(&path) {
        Ok((key, _)) if !key.trim().is_empty() => return Ok((key.trim().to_owned(), false)),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let key = ids::token();
    write_key(&path, &key)?;
    Ok((key, true))
}

/// Where the admin's key is if it is not set.
pub fn admin_key_path(db: &Path) -> std::path::PathBuf {
    db.with_file_name("admin.key")
}

fn write_key(path: &Path, key: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(format!("{key}\n").as_bytes())?;
    file.sync_all()
}

/// Whether the wall clock was stepped against the monotonic one: for a while after that no client's
/// timestamp is judged by it.
#[derive(Debug, Default)]
pub struct Steps(Mutex<Option<(i128, Option<Uptime>)>>);

impl Steps {
    /// How long ago the clock was stepped, if it was. Call it for each timestamp: it also looks for a
    /// step.
    pub fn since(&self, uptime: Uptime) -> Option<Duration> {
        self.judge(wall(), uptime)
    }

    fn judge(&self, wall: Wall, uptime: Uptime) -> Option<Duration> {
        let offset = i128::from(wall.0) - i128::from(millis(uptime.reading()));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, stepped) = known.get_or_insert((offset, None));
        if (offset - *before).abs() > 1000 {
            *stepped = Some(uptime);
        }
        // A clock that is slewed is followed, step by small step.
        *before = offset;
        stepped.map(|stepped| uptime.since(stepped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_stepped_is_noticed_and_one_that_is_slewed_is_followed() {
        let steps = Steps::default();
        let mut offset = 1_800_000_000_000;
        let mut judge = |seconds: u64, moved: i64| {
            offset += moved;
            let uptime = Uptime::new(Duration::from_secs(seconds));
            let wall = Wall(u64::try_from(offset).unwrap() + seconds * 1000);
            steps.judge(wall, uptime).map(|ago| ago.as_secs())
        };
        assert_eq!(
            (judge(5, 0), judge(65, 0)),
            (None, None),
            "nothing is known at first, and then it goes on"
        );
        // NTP slews by less than a millisecond a second; this is far more.
        assert!((0..100).all(|number| judge(66 + number, 900).is_none()));
        assert_eq!((judge(200, 3_600_000), judge(230, 0)), (Some(0), Some(30)), "forwards");
        assert_eq!((judge(300, -7_200_000), judge(360, 0)), (Some(0), Some(60)), "backwards");
    }
}
