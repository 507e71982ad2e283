//! Loads the state at the start, and saves it at intervals.

use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, BufReader, Write};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::config::Config;
use crate::shared::Shared;
use crate::state_file::{self, Locked, Owner, Saved, StateFile};
use pap_core::registry::Resume;
use pap_process::clock::wall;
use pap_process::stop::Stop;
use pap_process::throttle::Throttle;

/// How far `seq` skips ahead after a kill: more alerts than a collector can post
/// between two saves.
const UNSAVED_ALERTS: u64 = 1 << 20;

/// The keeper of the state.
pub struct StateKeeper {
    owner: Owner,
    file: Option<(StateFile, Duration)>,
    /// An unusable file could not be set aside, so the keeper must not overwrite it.
    hands_off: AtomicBool,
    /// Whether the last try to save failed; `hands_off` counts as one.
    is_failing: AtomicBool,
    /// Saves that succeeded, and saves that failed.
    saves: [AtomicU64; 2],
}

/// How saving the state goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saving {
    /// Whether there is a state file.
    pub is_configured: bool,
    /// Whether the last try to save succeeded; None until there was one.
    pub is_saved: Option<bool>,
    /// Saves that succeeded so far.
    pub succeeded: u64,
    /// Saves that failed so far.
    pub failed: u64,
}

impl StateKeeper {
    /// Restores the state that an in-place upgrade handed over, or else the state in
    /// the file.
    pub fn new(config: &Config, shared: &Shared, handed: Option<&File>) -> Self {
        let owner = Owner { cluster_id: config.cluster_id.clone(), instance: new_instance() };
        let file = config.state.as_ref().map(|state| (StateFile::new(&state.path), state.interval));
        let mut keeper = Self {
            owner,
            file,
            hands_off: AtomicBool::default(),
            is_failing: AtomicBool::default(),
            saves: Default::default(),
        };
        if let Some((file, _)) = &keeper.file {
            file.claim();
        }
        if let Some(state) = handed {
            match state_file::read(&keeper.owner.cluster_id, BufReader::new(state)) {
                Ok(saved) => return keeper.restored(shared, saved, Resume::Continued),
                Err(error) => {
                    log::error!("the state that the former program handed over is not used: {error}");
                }
            }
        }
        let loaded = keeper.file.as_ref().map(|(file, _)| file.load(&keeper.owner.cluster_id));
        match loaded {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(saved))) => {
                let resume = if saved.is_last { Resume::Stopped } else { Resume::Killed };
                keeper = keeper.restored(shared, saved, resume);
                // From now on agents are heard, so the file must no longer say that none was
                // heard after it.
                if resume == Resume::Stopped {
                    keeper.save(shared);
                }
            }
            Some(Err(error)) => {
                log::error!("the state file is not used: {error}");
                keeper.set_aside();
            }
        }
        keeper
    }

    fn restored(mut self, shared: &Shared, saved: Saved, resume: Resume) -> Self {
        let (agents, events) = (saved.agents.len(), saved.events.len());
        let no_room = shared.recorded(|registry, now, tape| {
            registry.restore_ended(now, saved.ended);
            registry.remember_mass(saved.mass_since);
            // During an upgrade the collector was awake.
            if let Some(since) = saved.awake_since.filter(|_| resume == Resume::Continued) {
                registry.woke_up(since);
            }
            let no_room = registry.restore(now, saved.agents, resume);
            // A collector that was killed may have used numbers beyond the saved one.
            let skipped = if resume == Resume::Continued { 0 } else { UNSAVED_ALERTS };
            registry.restore_events(now, saved.seq + skipped, saved.events);
            tape.known(now, registry);
            no_room
        });
        self.owner.instance = saved.instance;
        let age = Duration::from_millis(wall().0.saturating_sub(saved.saved_at));
        log::info!("restored {agents} agents and {events} events, saved {age:.1?} ago");
        if no_room > 0 {
            log::warn!("{no_room} saved agents are dropped: COLLECTOR_MAX_AGENTS is lower than before");
        }
        self
    }

    fn set_aside(&self) {
        let Some((file, _)) = &self.file else { return };
        match file.set_aside() {
            Ok(name) => log::warn!("the unusable state file was set aside as {}", name.display()),
            Err(error) => {
                log::error!(
                    "the unusable state file cannot be set aside ({error}), so the state is not saved; move it and restart"
                );
                self.hands_off.store(true, Ordering::Relaxed);
                self.is_failing.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Whose state it is.
    pub const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// How often the state is saved; None if it is not.
    pub fn interval(&self) -> Option<Duration> {
        let hands_off = self.hands_off.load(Ordering::Relaxed);
        self.file.as_ref().filter(|_| !hands_off).map(|(_, interval)| *interval)
    }

    /// Saves the state every `interval` if something changed, until `stop`.
    pub fn run(&self, shared: &Shared, stop: &Stop, interval: Duration) {
        let (mut saved, troubles) = (0, Throttle::default());
        while !stop.wait(interval) {
            let revision = shared.with(|registry, _| registry.revision());
            if revision == saved {
                continue;
            }
            match self.try_save(shared, false) {
                Ok(()) => {
                    saved = revision;
                    troubles.clear();
                }
                Err(error) if troubles.is_news((), shared.clock().uptime()) => {
                    log::error!("the state cannot be saved and will be tried again: {error}");
                }
                Err(_) => {}
            }
        }
    }

    /// Saves once. Returns false if STATE_FILE is set but does not hold the state.
    pub fn save(&self, shared: &Shared) -> bool {
        self.save_if_set(shared, false)
    }

    /// The same, when the collector hears no agent any more. At the next start the silence of
    /// every agent goes on as it was.
    pub fn save_last(&self, shared: &Shared) -> bool {
        self.save_if_set(shared, true)
    }

    fn save_if_set(&self, shared: &Shared, is_last: bool) -> bool {
        if self.interval().is_none() {
            return self.file.is_none();
        }
        self.try_save(shared, is_last)
            .inspect_err(|error| log::error!("the state cannot be saved: {error}"))
            .is_ok()
    }

    /// How saving goes, for the metrics and `/health`.
    pub fn saving(&self) -> Saving {
        let [succeeded, failed] = [0, 1].map(|at: usize| self.saves[at].load(Ordering::Relaxed));
        let is_failing = self.is_failing.load(Ordering::Relaxed);
        let is_saved = if is_failing { Some(false) } else { (succeeded > 0).then_some(true) };
        Saving { is_configured: self.file.is_some(), is_saved, succeeded, failed }
    }

    fn try_save(&self, shared: &Shared, is_last: bool) -> io::Result<()> {
        let Some((file, _)) = &self.file else { return Ok(()) };
        let result =
            file.save(&self.owner, is_last, &mut |step| shared.with(|registry, now| step(registry, now)));
        self.saves[usize::from(result.is_err())].fetch_add(1, Ordering::Relaxed);
        self.is_failing.store(result.is_err(), Ordering::Relaxed);
        result
    }

    /// Writes the state to `out`, for an in-place upgrade.
    ///
    /// # Errors
    /// The writer's own.
    pub fn write(&self, locked: &mut Locked<'_>, out: &mut dyn Write) -> io::Result<()> {
        state_file::write(&self.owner, false, locked, out)
    }
}

/// A number that no other run of a collector is likely to have.
pub fn run_number() -> u64 {
    RandomState::new().hash_one((process::id(), wall().0))
}

/// A text that no other run of a collector has. Event ids begin with it.
fn new_instance() -> String {
    format!("{:016x}", run_number())
}
