//! This collector as an agent of another one.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::config::Parent;
use crate::emitter::subject::uptime_of_this_process;
use crate::emitter::{Emitter, Event, Subject};
use crate::shared::Shared;
use crate::vitals::Vitals;

/// Vouches for the sweeper, the senders and our own port.
struct Ourselves {
    shared: Arc<Shared>,
    vitals: Arc<Vitals>,
}

impl Subject for Ourselves {
    fn look(&mut self, _: Duration) -> Result<Duration, String> {
        self.vitals.check(self.shared.clock().uptime())?;
        uptime_of_this_process()
    }

    fn describe(&self) -> String {
        "this collector".into()
    }
}

/// Beats to the collector above until there is an end.
pub fn run(parent: &Parent, shared: Arc<Shared>, vitals: Arc<Vitals>, events: &Receiver<Event>) {
    let subject = Box::new(Ourselves { shared, vitals });
    Emitter::new(&parent.identity, parent.rhythm, &parent.ways, subject).run(events);
}
