//! Hands due alerts to the senders.

use crossbeam_channel::Sender;
use pap_core::alert::Alert;

use crate::shared::Shared;

/// Hands out the due alerts, and returns them for the observers. The registry
/// gives at most as many alerts as there are free senders.
pub fn dispatch(shared: &Shared, senders: &Sender<Alert>) -> Vec<Alert> {
    let next = shared.next_alerts();
    for alert in &next {
        let sent = senders.try_send(alert.clone());
        debug_assert!(sent.is_ok(), "the channel holds as many alerts as may be under way");
        if sent.is_err() {
            log::error!(
                "no sender took an alert, which is a bug; the alert stays owed until this collector is restarted"
            );
        }
    }
    next
}
