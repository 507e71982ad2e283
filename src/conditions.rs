//! The conditions of the agents, for the threads that tell Alertmanagers.

use std::sync::Arc;

use crossbeam_channel::Receiver;
use pap_core::firing::{Concerned, Firing};
use pap_core::registry::{ByAgent, Subject, concerned};
use pap_core::time::{Now, Uptime};
use pap_process::metrics::Histogram;
use pap_process::stop::Stop;

use crate::config::Config;
use crate::parts::Parts;

/// The collector that knows these agents.
pub struct Owner {
    parts: Arc<Parts>,
    cluster_id: String,
    /// Threads that post to the station; their numbers among all senders come first.
    alert_senders: usize,
}

impl Owner {
    /// The collector with this configuration.
    pub fn new(config: &Config, parts: &Arc<Parts>) -> Self {
        let alert_senders = config.rules.outbox.senders;
        Self { parts: Arc::clone(parts), cluster_id: config.cluster_id.clone(), alert_senders }
    }
}

impl pap_alertmanager::Owner for Owner {
    type Numbers = ByAgent;

    fn with<R>(&self, work: impl FnOnce(&mut Firing<ByAgent>, Now) -> R) -> R {
        self.parts.shared.with(|registry, now| work(registry.firing_mut(), now))
    }

    fn concerned<'a>(&'a self, subject: &'a Option<Subject>) -> Concerned<'a> {
        concerned(&self.cluster_id, subject.as_ref())
    }

    fn bell(&self, target: usize) -> &Receiver<()> {
        self.parts.shared.bell(target)
    }

    fn uptime(&self) -> Uptime {
        self.parts.shared.clock().uptime()
    }

    fn stop(&self) -> &Stop {
        &self.parts.stop
    }

    fn delivery(&self) -> &Histogram {
        &self.parts.metrics.alertmanager_delivery
    }

    fn is_posting(&self, target: usize, is_posting: bool) {
        let (vitals, sender) = (&self.parts.vitals, self.alert_senders + target);
        if is_posting {
            vitals.posting(sender, self.uptime());
        } else {
            vitals.posted(sender);
        }
    }
}
