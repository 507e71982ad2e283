//! Hands alerts that are due to the senders.

use crossbeam_channel::Sender;
use pap_core::alert::Alert;

use crate::shared::Shared;

/// Hands out what is due, and returns it for those who watch. The registry
/// gives at most as many as there are senders without one.
pub fn dispatch(shared: &Shared, senders: &Sender<Alert>) -> Vec<Alert> {
    let next = shared.next_alerts();
    for alert in &next {
        let sent = senders.try_send(alert.clone());
        debug_assert!(sent.is_ok(), "the channel holds as many alerts as may be under way");
        if sent.is_err() {
            log::error!("an alert found no sender; it is owed until this collector is restarted");
        }
    }
    next
}
