//! The emitter: posts the heartbeats of one agent in time, while that agent lives.
//!
//! `pap-heartbeat` runs one for an agent that cannot send heartbeats itself. A
//! collector runs one to be an agent of its parent collector. [`Pace`] decides when
//! a heartbeat is due, a [`LivenessSource`] whether the agent lives, and [`targets`]
//! posts the heartbeat. This file is the loop. [`machine`] sends heartbeats of a machine
//! instead, in a loop of its own. [`registration`] tells a station about a cluster, once.

pub mod command;
pub mod config;
pub mod liveness;
pub mod machine;
mod mode_file;
pub mod program;
pub mod registration;
pub mod settings;
pub mod status;
pub mod switches;
pub mod targets;

use std::hash::{BuildHasher as _, RandomState};
use std::process;
use std::time::Duration;

use crossbeam_channel::Receiver;

use pap_core::heartbeat::Mode;
use pap_core::pace::{Pace, Taken};
use pap_core::time::Monotonic;
use pap_process::clock::{deadline_in, monotonic};

pub use config::Rhythm;
pub use liveness::LivenessSource;
pub use mode_file::ModeFile;
pub use status::{Status, StatusFile};
pub use targets::{Identity, Sender, Sent, Targets};

/// The `User-Agent` of our requests.
const USER_AGENT: &str = concat!("pap-heartbeat/", env!("CARGO_PKG_VERSION"));

/// For how long the last goodbye is tried: the collector may be restarting.
const LONGEST_GOODBYE: Duration = Duration::from_secs(3);

/// What an emitter is told while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The mode changes; a heartbeat says so at once.
    Mode(Mode),
    /// The agent was asked to stop and may need a while.
    Leaving,
    /// The agent is gone.
    End {
        /// The end is planned: a goodbye keeps the collector from reporting a death.
        planned: bool,
        /// What the process is to exit with.
        code: i32,
    },
}

/// What the log last said, so that only news is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remark {
    Taken(Taken),
    NotWell,
    Emergency,
}

/// Sends the heartbeats of one agent.
pub struct Emitter {
    rhythm: Rhythm,
    source: Box<dyn LivenessSource>,
    sender: Sender,
    pace: Pace,
    /// After this many failures of the liveness source in a row, the emitter sends heartbeats
    /// in EMERGENCY; None: a failure means silence.
    emergency_after: Option<u32>,
    mode_file: Option<ModeFile>,
    status: Option<(StatusFile, Status)>,
    /// How often the liveness source has failed in a row.
    unwell: u32,
    /// The agent's uptime when the liveness source last said that it lives, and when that was.
    lived: Option<(Duration, Monotonic)>,
    /// The goodbye was taken, and no heartbeat was sent after it.
    is_gone: bool,
    remark: Option<Remark>,
    is_status_written: bool,
    /// An event interrupted the tries of the last heartbeat.
    was_interrupted: bool,
}

impl Emitter {
    /// An emitter for this agent, these targets and this liveness source.
    pub fn new(
        identity: &Identity,
        rhythm: Rhythm,
        targets: &Targets,
        source: Box<dyn LivenessSource>,
    ) -> Self {
        let sender = Sender::new(identity, targets);
        let seed = RandomState::new().hash_one(process::id());
        let pace = Pace::new(monotonic(), rhythm.interval(), sender.has_collector(), seed);
        Self {
            rhythm,
            source,
            sender,
            pace,
            emergency_after: None,
            mode_file: None,
            status: None,
            unwell: 0,
            lived: None,
            is_gone: false,
            remark: None,
            is_status_written: true,
            was_interrupted: false,
        }
    }

    /// After this many failures of the liveness source in a row, heartbeats are sent in
    /// EMERGENCY.
    pub fn emergency_after(mut self, failures: Option<u32>) -> Self {
        self.emergency_after = failures;
        self
    }

    /// Takes the mode from this file.
    pub fn mode_file(mut self, file: Option<ModeFile>) -> Self {
        self.mode_file = file;
        self
    }

    /// Keeps its status in this file.
    pub fn status_file(mut self, file: StatusFile, identity: &Identity) -> Self {
        self.status = Some((file, Status::new(identity, self.source.describe())));
        self
    }

    /// Sends heartbeats until [`Event::End`], and returns its exit code; 0 if the
    /// channel is closed.
    pub fn run(mut self, events: &Receiver<Event>) -> i32 {
        // No heartbeat was sent yet, so a mode from the file does not hurry the first.
        self.follow_mode_file(self.pace.due());
        self.write_status();
        let code = loop {
            let mut wait = self.pace.due().since(monotonic());
            if self.mode_file.is_some() {
                wait = wait.min(ModeFile::LOOK_EVERY);
            }
            let first = match events.recv_deadline(deadline_in(wait)) {
                Ok(event) => Some(event),
                Err(timeout) if timeout.is_timeout() => None,
                Err(_) => break 0,
            };
            if let Some(code) = first.into_iter().chain(events.try_iter()).find_map(|event| self.hear(event))
            {
                break code;
            }
            self.follow_mode_file(monotonic());
            if self.pace.due() <= monotonic() {
                // Events come first, but may not delay a heartbeat twice.
                let may_wait = std::mem::take(&mut self.was_interrupted);
                self.beat(&|| !may_wait && !events.is_empty());
            }
        };
        if let Some((file, _)) = &self.status {
            file.remove();
        }
        code
    }

    /// Handles an event; returns the exit code if it is the end.
    fn hear(&mut self, event: Event) -> Option<i32> {
        match event {
            Event::Mode(mode) => self.change(mode, monotonic()),
            Event::Leaving if self.is_gone => {}
            Event::Leaving => {
                // One try: if it fails, the goodbye at the end is tried for longer.
                self.goodbye(Duration::ZERO);
                if self.is_gone {
                    // Silence for two intervals. If the agent still lives after them,
                    // heartbeats begin again.
                    self.pace.change(monotonic() + 2 * self.pace.interval(), self.pace.interval());
                }
            }
            Event::End { planned, code } => {
                if planned && !self.is_gone {
                    self.goodbye(LONGEST_GOODBYE);
                }
                return Some(code);
            }
        }
        None
    }

    fn beat(&mut self, interrupted: &dyn Fn() -> bool) {
        let began = monotonic();
        let (mode, uptime) = match self.source.look(self.pace.shortest() / 2) {
            Ok(uptime) => {
                if self.is_emergency() {
                    self.pace.change(began, self.rhythm.interval());
                }
                (self.unwell, self.lived) = (0, Some((uptime, began)));
                (self.rhythm.mode, uptime)
            }
            Err(why) => {
                let was_emergency = self.is_emergency();
                self.unwell = self.unwell.saturating_add(1);
                if !self.is_emergency() {
                    self.pace.in_vain(monotonic());
                    self.note(Remark::NotWell, &why);
                    return self.tried(Taken::Nobody, &why);
                }
                if !was_emergency {
                    let rhythm = Rhythm { mode: Mode::Emergency, ..self.rhythm };
                    self.pace.change(began, rhythm.interval());
                }
                self.note(Remark::Emergency, &why);
                let since = |(uptime, at): (Duration, Monotonic)| uptime + began.since(at);
                (Mode::Emergency, self.lived.map_or(Duration::ZERO, since))
            }
        };
        // The collector may take it even if its answer never comes.
        self.is_gone = false;
        let tries = self.pace.tries();
        let Some(sent) = self.sender.send(mode, uptime, tries, interrupted) else {
            // The heartbeat stays due.
            self.was_interrupted = true;
            return;
        };
        self.pace.settle(monotonic(), sent.taken);
        // If only the collector was tried, the station has already taken this heartbeat.
        let is_news = sent.taken != Taken::Nobody || tries.station_patience.is_some();
        if is_news && !self.is_emergency() {
            self.note(Remark::Taken(sent.taken), &sent.trouble);
        }
        self.tried(sent.taken, &sent.trouble);
    }

    /// Whether the liveness source has failed so often that heartbeats are sent in EMERGENCY.
    fn is_emergency(&self) -> bool {
        // An agent that was never well is still starting.
        self.lived.is_some() && self.emergency_after.is_some_and(|failures| self.unwell >= failures)
    }

    /// Changes the mode, and sends a heartbeat at `due`; not after a goodbye, and
    /// not in EMERGENCY because the liveness source failed.
    fn change(&mut self, mode: Mode, due: Monotonic) {
        if mode == self.rhythm.mode {
            return;
        }
        log::info!("the mode changes to {mode}, from {}", self.rhythm.mode);
        self.rhythm.mode = mode;
        if !self.is_emergency() {
            let due = if self.is_gone { self.pace.due() } else { due };
            self.pace.change(due, self.rhythm.interval());
        }
    }

    fn follow_mode_file(&mut self, due: Monotonic) {
        if let Some(mode) = self.mode_file.as_mut().and_then(ModeFile::look) {
            self.change(mode, due);
        }
    }

    fn goodbye(&mut self, longest: Duration) {
        match self.sender.goodbye(longest) {
            Ok(()) => self.is_gone = true,
            Err(why) => {
                log::warn!("the collector did not take our goodbye, so it will report a death: {why}");
            }
        }
    }

    /// Logs a remark if it is news.
    fn note(&mut self, remark: Remark, trouble: &str) {
        if self.remark.replace(remark) == Some(remark) {
            return log::debug!("unchanged: {remark:?} {trouble}");
        }
        let collector = self.sender.collector_url().map(ToString::to_string);
        match (remark, &collector) {
            (Remark::Taken(Taken::Collector), _) => {
                log::info!("{} takes our heartbeats", collector.as_deref().unwrap_or_default());
            }
            (Remark::Taken(Taken::Station), None) => log::info!("the station takes our heartbeats"),
            (Remark::Taken(Taken::Station), Some(_)) => {
                log::warn!("the station takes our heartbeats in the collector's place: {trouble}");
            }
            (Remark::Taken(Taken::Nobody), _) => {
                log::warn!("nobody takes our heartbeats, they will be tried again: {trouble}");
            }
            (Remark::NotWell, _) => log::warn!("not beating: {trouble}"),
            (Remark::Emergency, _) => log::warn!("beating in EMERGENCY: {trouble}"),
        }
    }

    fn tried(&mut self, taken: Taken, trouble: &str) {
        let interval = self.pace.interval();
        if let Some((_, status)) = &mut self.status {
            status.tried(taken, interval, trouble);
        }
        self.write_status();
    }

    fn write_status(&mut self) {
        let mode = if self.is_emergency() { Mode::Emergency } else { self.rhythm.mode };
        let Some((file, status)) = &mut self.status else { return };
        status.paced(mode, self.pace.interval());
        let result = file.write(status);
        if let Err(error) = &result
            && self.is_status_written
        {
            log::warn!(
                "the status cannot be kept, so --check will fail; set PAP_STATUS_FILE to a file that can be written: {error}"
            );
        }
        self.is_status_written = result.is_ok();
    }
}
