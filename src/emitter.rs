//! An agent's half: heartbeats, posted in time, that mean something.
//!
//! `pap-heartbeat` runs one for an agent that cannot speak for itself; a
//! collector runs one to be watched by the collector above it. [`Pace`]
//! decides when, [`subject`] whether, [`ways`] posts; this file is the loop.

pub mod command;
pub mod config;
pub mod liveness;
mod mode_file;
pub mod program;
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

/// How we introduce ourselves.
const USER_AGENT: &str = concat!("pap-heartbeat/", env!("CARGO_PKG_VERSION"));

/// For how long a goodbye is tried at the end: the collector may be restarting
/// just now.
const LONGEST_GOODBYE: Duration = Duration::from_secs(3);

/// What an emitter is told while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Another mode, to be told at once.
    Mode(Mode),
    /// The agent was asked to stop and may need a while.
    Leaving,
    /// The agent is gone.
    End {
        /// As planned, so no death is to follow.
        planned: bool,
        /// What the process is to exit with.
        code: i32,
    },
}

/// What was last said in the log, so that only news is said.
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
    /// After so many failed looks it beats in EMERGENCY instead of not at all.
    emergency_after: Option<u32>,
    mode_file: Option<ModeFile>,
    status: Option<(StatusFile, Status)>,
    /// Failed looks in a row.
    unwell: u32,
    /// The uptime at the last good look, and when that was.
    lived: Option<(Duration, Monotonic)>,
    /// It said goodbye and has not beaten since.
    is_gone: bool,
    remark: Option<Remark>,
    is_status_written: bool,
    /// The last heartbeat was given up for news.
    was_interrupted: bool,
}

impl Emitter {
    /// For this agent, these ways and what it vouches for.
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

    /// After so many failed looks it beats in EMERGENCY.
    pub fn emergency_after(mut self, failures: Option<u32>) -> Self {
        self.emergency_after = failures;
        self
    }

    /// What is in this file is the mode.
    pub fn mode_file(mut self, file: Option<ModeFile>) -> Self {
        self.mode_file = file;
        self
    }

    /// How it goes is kept in this file.
    pub fn status_file(mut self, file: StatusFile, identity: &Identity) -> Self {
        self.status = Some((file, Status::new(identity, self.source.describe())));
        self
    }

    /// Beats until the end; returns what the process is to exit with, 0 if
    /// nobody can say so any more.
    pub fn run(mut self, events: &Receiver<Event>) -> i32 {
        // Nothing has been sent: the first heartbeat keeps its moment.
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
                // News comes first, though not for ever.
                let may_wait = std::mem::take(&mut self.was_interrupted);
                self.beat(&|| !may_wait && !events.is_empty());
            }
        };
        if let Some((file, _)) = &self.status {
            file.remove();
        }
        code
    }

    /// Follows an event; the exit code if that is the end.
    fn hear(&mut self, event: Event) -> Option<i32> {
        match event {
            Event::Mode(mode) => self.change(mode, monotonic()),
            Event::Leaving if self.is_gone => {}
            Event::Leaving => {
                // If it is not heard, there is the end for another.
                self.goodbye(Duration::ZERO);
                if self.is_gone {
                    // Nothing for as long as it would have been waited for.
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
        // It may be taken even if we never hear of it.
        self.is_gone = false;
        let tries = self.pace.tries();
        let Some(sent) = self.sender.send(mode, uptime, tries, interrupted) else {
            // What is due stays due.
            self.was_interrupted = true;
            return;
        };
        self.pace.settle(monotonic(), sent.taken);
        // Where only the collector was tried, the station has one of ours.
        let is_news = sent.taken != Taken::Nobody || tries.station_patience.is_some();
        if is_news && !self.is_emergency() {
            self.note(Remark::Taken(sent.taken), &sent.trouble);
        }
        self.tried(sent.taken, &sent.trouble);
    }

    /// Whether too many looks have failed for silence.
    fn is_emergency(&self) -> bool {
        // One that has never been well is only starting.
        self.lived.is_some() && self.emergency_after.is_some_and(|failures| self.unwell >= failures)
    }

    /// Another mode, with a heartbeat at `due`, unless there is a reason for
    /// none.
    fn change(&mut self, mode: Mode, due: Monotonic) {
        if mode == self.rhythm.mode {
            return;
        }
        log::info!("beating in {mode} from now on, not in {}", self.rhythm.mode);
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
                log::warn!("the collector did not hear our goodbye and will call this a death: {why}");
            }
        }
    }

    /// Says in the log what is new.
    fn note(&mut self, remark: Remark, trouble: &str) {
        if self.remark.replace(remark) == Some(remark) {
            return log::debug!("still so: {remark:?} {trouble}");
        }
        let collector = self.sender.collector_url();
        match (remark, collector) {
            (Remark::Taken(Taken::Collector), _) => {
                log::info!("{} takes our heartbeats", collector.unwrap_or_default());
            }
            (Remark::Taken(Taken::Station), None) => log::info!("the station takes our heartbeats"),
            (Remark::Taken(Taken::Station), Some(_)) => {
                log::warn!("the station takes our heartbeats in the collector's place: {trouble}");
            }
            (Remark::Taken(Taken::Nobody), _) => {
                log::warn!("nobody takes our heartbeats, trying on: {trouble}");
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
            log::warn!("the status cannot be kept, so --check fails (PAP_STATUS_FILE): {error}");
        }
        self.is_status_written = result.is_ok();
    }
}
