//! The threads that post alerts: receive, tell the station, settle.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::metrics::Metrics;
use crate::shared::Shared;
use crate::station::{Station, Told};
use crate::vitals::Vitals;
use pap_core::alert::Alert;
use pap_core::delivery::{Failure, Outcome};
use pap_core::time::Tick;
use pap_process::clock::wall;
use pap_process::panics;

/// The same trouble with the station is worth a line only this often.
const REMARK_PAUSE: Duration = Duration::from_secs(60);

/// When each kind of trouble was last logged, by what the station answered.
#[derive(Default)]
pub struct Troubles(Mutex<HashMap<Option<u16>, Tick>>);

impl Troubles {
    /// Whether trouble of this kind should be logged now.
    fn is_news(&self, answer: Option<u16>, now: Tick) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = last.get(&answer).is_none_or(|&at| now.since(at) >= REMARK_PAUSE);
        if news {
            last.insert(answer, now);
        }
        news
    }

    /// An alert was taken: whatever comes next is news again.
    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Tells alerts until the channel is closed. `sender` is which of the senders
/// this is, for its signs of life.
pub fn run(
    shared: &Shared,
    metrics: &Metrics,
    station: &Station,
    troubles: &Troubles,
    sender: (&Vitals, usize),
    alerts: &Receiver<Alert>,
) {
    for alert in alerts {
        let (vitals, number) = sender;
        vitals.posting(number, shared.clock().uptime());
        let told = panics::contain(|| station.tell(&alert)).unwrap_or_else(Told::nothing);
        vitals.posted(number);
        let outcome = told.reply.outcome();
        shared.with(|registry, now| registry.settle(now, &alert, outcome));
        shared.wake();
        match outcome {
            Outcome::Taken => {
                let took = Duration::from_millis(wall().0.saturating_sub(alert.at.0));
                metrics.alert_delivery.record(took);
                troubles.clear();
                if !station.is_log() {
                    let (id, kind, name) = (&alert.agent, alert.kind().as_str(), alert.name.escape_debug());
                    log::info!(agent_uuid:% = id; "{kind} of {name} told to the station");
                }
            }
            Outcome::Refused(code) => log::error!(
                agent_uuid:% = alert.agent;
                "the station refused {} for good with {code}: {}", alert.kind().as_str(), told.remark
            ),
            Outcome::Failed(failure, _) => log_failure(shared, troubles, &alert, failure, &told),
        }
    }
}

fn log_failure(shared: &Shared, troubles: &Troubles, alert: &Alert, failure: Failure, told: &Told) {
    let answer = match told.reply {
        pap_core::delivery::Reply::Status { code, .. } => Some(code),
        pap_core::delivery::Reply::None => None,
    };
    let advice = match failure {
        Failure::Misconfigured(401 | 403) => "; check STATION_ALERT_KEY",
        Failure::Misconfigured(_) => "; check STATION_ALERT_URL",
        Failure::Unreachable | Failure::Busy => "",
    };
    let answer_text = answer.map_or_else(|| "no answer".to_owned(), |code| format!("answer {code}"));
    let level = if troubles.is_news(answer, shared.clock().now().tick) {
        log::Level::Warn
    } else {
        log::Level::Debug
    };
    log::log!(
        level, agent_uuid:% = alert.agent;
        "{} not told yet, it will be tried again: {answer_text}: {}{advice}", alert.kind().as_str(), told.remark
    );
}
