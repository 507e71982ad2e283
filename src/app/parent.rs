//! This collector as an agent of another collector, its parent.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use pap_process::cli::STOPPED;
use pap_process::threads::Threads;

use crate::config;
use crate::emitter::liveness::uptime_of_this_process;
use crate::emitter::{Emitter, Event, LivenessSource};
use crate::parts::Parts;

/// This collector lives while its sweeper, its senders and its event loops do.
struct Ourselves(Arc<Parts>);

impl LivenessSource for Ourselves {
    fn look(&mut self, _: Duration) -> Result<Duration, String> {
        self.0.vitals.check(self.0.shared.clock().uptime())?;
        uptime_of_this_process()
    }

    fn describe(&self) -> String {
        "this collector".into()
    }
}

/// The thread that sends heartbeats to the parent; none without a parent.
#[derive(Default)]
pub struct Parent(Option<(Sender<Event>, Threads)>);

impl Parent {
    /// Starts to send heartbeats.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(parent: Option<&config::Parent>, parts: &Arc<Parts>) -> io::Result<Self> {
        let Some(parent) = parent.cloned() else { return Ok(Self::default()) };
        let (events, heard) = bounded(1);
        let source = Box::new(Ourselves(Arc::clone(parts)));
        let mut thread = Threads::default();
        thread.spawn("parent", move || {
            Emitter::new(&parent.identity, parent.rhythm, &parent.targets, source).run(&heard);
        })?;
        Ok(Self(Some((events, thread))))
    }

    /// Tells the parent that the end of this collector is planned. The goodbye is
    /// for this collector alone, not for its agents.
    pub fn say_goodbye(&self) {
        if let Some((events, _)) = &self.0 {
            // Nothing else was sent, so the channel has room.
            let _ = events.try_send(Event::End { planned: true, code: STOPPED });
        }
    }

    /// Waits until the parent took the goodbye, or the emitter gave up, at most for
    /// `longest`.
    pub fn await_end(self, longest: Duration) {
        if let Some((_, thread)) = self.0
            && thread.join(longest).is_err()
        {
            log::warn!(
                "the parent collector did not take our goodbye in time, so it will report a death of this collector"
            );
        }
    }
}
