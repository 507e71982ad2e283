//! Keeps the state: loads it at the start, saves it now and then.

use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, BufReader, Write};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::config::Config;
use crate::shared::Shared;
use crate::state_file::{self, Locked, Owner, Saved, StateFile};
use pap_core::registry::Resume;
use pap_process::clock::wall;
use pap_process::stop::Stop;
use pap_process::throttle::Throttle;

/// More alerts than can be told between two saves.
const UNSAVED_ALERTS: u64 = 1 << 20;

/// The keeper of the state.
pub struct StateKeeper {
    owner: Owner,
    file: Option<(StateFile, Duration)>,
    /// The file is not ours to write to: it could not be set aside.
    hands_off: AtomicBool,
}

impl StateKeeper {
    /// Restores what the former image handed over, or what the file holds.
    pub fn new(config: &Config, shared: &Shared, handed: Option<&File>) -> Self {
        let owner = Owner { cluster_id: config.cluster_id.clone(), instance: new_instance() };
        let file = config.state.as_ref().map(|state| (StateFile::new(&state.path), state.interval));
        let mut keeper = Self { owner, file, hands_off: AtomicBool::new(false) };
        if let Some(state) = handed {
            match state_file::read(&keeper.owner.cluster_id, BufReader::new(state)) {
                Ok(saved) => return keeper.restored(shared, saved, Resume::Continued),
                Err(error) => log::error!("the former image's state is lost: {error}"),
            }
        }
        let loaded = keeper.file.as_ref().map(|(file, _)| file.load(&keeper.owner.cluster_id));
        match loaded {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(saved))) => keeper = keeper.restored(shared, saved, Resume::Restarted),
            Some(Err(error)) => {
                log::error!("the state file is not used: {error}");
                keeper.set_aside();
            }
        }
        keeper
    }

    fn restored(mut self, shared: &Shared, saved: Saved, resume: Resume) -> Self {
        let (agents, events) = (saved.agents.len(), saved.events.len());
        let no_room = shared.with(|registry, now| {
            let no_room = registry.restore(now, saved.agents, resume);
            // After a kill, numbers beyond the saved one may have been used.
            let skipped = if resume == Resume::Restarted { UNSAVED_ALERTS } else { 0 };
            registry.restore_events(now, saved.seq + skipped, saved.events);
            no_room
        });
        self.owner.instance = saved.instance;
        let age = Duration::from_millis(wall().0.saturating_sub(saved.saved_at));
        log::info!("restored {agents} agents and {events} events, saved {age:.1?} ago");
        if no_room > 0 {
            log::warn!("{no_room} agents found no room: COLLECTOR_MAX_AGENTS is lower than it was");
        }
        self
    }

    fn set_aside(&self) {
        let Some((file, _)) = &self.file else { return };
        match file.set_aside() {
            Ok(name) => log::warn!("it was set aside as {}", name.display()),
            Err(error) => {
                log::error!("it cannot be set aside ({error}), so nothing is saved");
                self.hands_off.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Whose state it is.
    pub const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// How often it is saved, if it is.
    pub fn interval(&self) -> Option<Duration> {
        let hands_off = self.hands_off.load(Ordering::Relaxed);
        self.file.as_ref().filter(|_| !hands_off).map(|(_, interval)| *interval)
    }

    /// Saves every `interval` when something changed, until it is stopped.
    pub fn run(&self, shared: &Shared, stop: &Stop, interval: Duration) {
        let (mut saved, troubles) = (0, Throttle::default());
        while !stop.wait(interval) {
            let revision = shared.with(|registry, _| registry.revision());
            if revision == saved {
                continue;
            }
            match self.try_save(shared) {
                Ok(()) => {
                    saved = revision;
                    troubles.clear();
                }
                Err(error) if troubles.is_news((), shared.clock().uptime()) => {
                    log::error!("the state cannot be saved, trying on: {error}");
                }
                Err(_) => {}
            }
        }
    }

    /// Saves once. Returns false if there is a file and it does not hold the state.
    pub fn save(&self, shared: &Shared) -> bool {
        if self.interval().is_none() {
            return self.file.is_none();
        }
        self.try_save(shared).inspect_err(|error| log::error!("the state cannot be saved: {error}")).is_ok()
    }

    fn try_save(&self, shared: &Shared) -> io::Result<()> {
        let Some((file, _)) = &self.file else { return Ok(()) };
        file.save(&self.owner, &mut |step| shared.with(|registry, now| step(registry, now)))
    }

    /// Writes the state elsewhere.
    ///
    /// # Errors
    /// The writer's own.
    pub fn write(&self, locked: &mut Locked<'_>, out: &mut dyn Write) -> io::Result<()> {
        state_file::write(&self.owner, locked, out)
    }
}

/// Something that no other run of a collector has, for the ids of its alerts.
fn new_instance() -> String {
    format!("{:016x}", RandomState::new().hash_one((process::id(), wall().0)))
}
