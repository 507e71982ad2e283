//! This collector as an agent of another one, the parent.

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

/// How long the parent may take to hear our goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// Vouches for the sweeper, the senders and our own port.
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

/// The thread that beats to the parent, where there is one.
#[derive(Default)]
pub struct Parent(Option<(Sender<Event>, Threads)>);

impl Parent {
    /// Starts to beat.
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

    /// Lets the parent know that only this collector ends, as planned: its agents go on.
    pub fn say_goodbye(&self) {
        if let Some((events, _)) = &self.0 {
            // Nothing else was sent, so there is room.
            let _ = events.try_send(Event::End { planned: true, code: STOPPED });
        }
    }

    /// Waits until the goodbye was heard or given up.
    pub fn await_end(self) {
        if let Some((_, thread)) = self.0
            && thread.join(GOODBYE).is_err()
        {
            log::warn!("the collector above did not hear our goodbye in time and will call this a death");
        }
    }
}
