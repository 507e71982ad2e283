//! The threads that post alerts, the senders. A sender receives an alert, posts it,
//! and reports the outcome to the registry.

use crossbeam_channel::Receiver;

use crate::alert_client::AlertClient;
use crate::parts::Parts;
use pap_core::alert::Alert;
use pap_core::delivery::{Failure, Outcome};
use pap_core::time::Uptime;
use pap_process::client::Told;
use pap_process::panics;
use pap_process::throttle::Throttle;

/// What the senders share besides the collector's parts.
pub struct Posting {
    /// Where alerts go.
    pub station: AlertClient,
    /// The setting to look at when the station's URL is wrong.
    pub url_name: &'static str,
    /// What was last wrong, by the status of the station's answer; limits the log.
    pub troubles: Throttle<Option<u16>>,
}

/// Posts alerts until the channel is closed. `number` says which of the senders
/// this is; the watchdog looks at each of them.
pub fn run(parts: &Parts, posting: &Posting, number: usize, alerts: &Receiver<Alert>) {
    let Parts { shared, metrics, vitals, .. } = parts;
    let Posting { station, .. } = posting;
    for alert in alerts {
        vitals.posting(number, shared.clock().uptime());
        let told = panics::contain(|| station.tell(&alert)).unwrap_or_else(Told::nothing);
        vitals.posted(number);
        let outcome = told.reply.outcome();
        shared.settle(&alert, outcome);
        match outcome {
            Outcome::Taken => {
                metrics.alert_delivery.record(shared.clock().now().tick.since(alert.at.tick));
                posting.troubles.clear();
                if !station.is_log() {
                    let (id, kind, name) = (&alert.agent, alert.kind().as_str(), &alert.name);
                    log::info!(agent_uuid:% = id; "{kind} of {name} told to the station");
                }
            }
            Outcome::Refused(code) => log::error!(
                agent_uuid:% = alert.agent;
                "the station refused {} for good with {code}: {}", alert.kind().as_str(), told.remark
            ),
            Outcome::Failed(failure, _) => {
                log_failure(shared.clock().uptime(), posting, &alert, failure, &told);
            }
        }
    }
}

fn log_failure(now: Uptime, posting: &Posting, alert: &Alert, failure: Failure, told: &Told) {
    let answer = match told.reply {
        pap_core::delivery::Reply::Status { code, .. } => Some(code),
        pap_core::delivery::Reply::None => None,
    };
    let advice = match failure {
        Failure::Misconfigured(401 | 403) => "; check STATION_ALERT_KEY".to_owned(),
        Failure::Misconfigured(_) => format!("; check {}", posting.url_name),
        Failure::Unreachable | Failure::Busy => String::new(),
    };
    let answer_text = answer.map_or_else(|| "no answer".to_owned(), |code| format!("answer {code}"));
    let level = if posting.troubles.is_news(answer, now) { log::Level::Warn } else { log::Level::Debug };
    log::log!(
        level, agent_uuid:% = alert.agent;
        "{} is not told yet and will be tried again: {answer_text}: {}{advice}", alert.kind().as_str(), told.remark
    );
}
