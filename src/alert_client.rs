//! The alert client posts one alert to the station and says how the post
//! ended. Without a station the alert goes to the log, and that never fails.

use crate::USER_AGENT;
use crate::config;
use crate::state_file::Owner;
use pap_core::alert::{Alert, Severity};
use pap_core::delivery::Reply;
use pap_process::client::{Post, Told};
use pap_process::escape::in_json;

/// Where alerts go.
pub struct AlertClient {
    owner: Owner,
    way: Way,
}

enum Way {
    Station(Post),
    /// There is neither a station nor an Alertmanager.
    Log,
    /// There are only Alertmanagers, which are told what is true. Alerts are logged at level
    /// debug.
    Quiet,
}

impl AlertClient {
    /// The configured station, or the log.
    pub fn new(config: &config::Config, owner: Owner) -> Self {
        let way = match &config.station {
            Some(station) => {
                let key = format!("Bearer {}", station.key.reveal());
                Way::Station(Post::new(
                    USER_AGENT,
                    &station.url,
                    Some(key),
                    &station.roots,
                    config.rules.outbox.senders,
                ))
            }
            None if config.alertmanagers.is_some() => Way::Quiet,
            None => Way::Log,
        };
        Self { owner, way }
    }

    /// Whether alerts go to the log, and to no station.
    pub const fn is_log(&self) -> bool {
        matches!(self.way, Way::Log | Way::Quiet)
    }

    /// Posts or logs one alert. Waits for the station for at most 10 seconds.
    pub fn tell(&self, alert: &Alert) -> Told {
        let body = match alert.to_json(&self.owner.cluster_id, &self.owner.instance) {
            Ok(body) => body,
            Err(error) => return Told::nothing(error.to_string()),
        };
        let level = match (&self.way, alert.kind().severity()) {
            (Way::Station(post), _) => return post.send(&body),
            (Way::Quiet, _) => log::Level::Debug,
            (Way::Log, Severity::Critical) => log::Level::Error,
            (Way::Log, Severity::Warning) => log::Level::Warn,
            (Way::Log, Severity::Info) => log::Level::Info,
        };
        log::log!(level, agent_uuid:% = alert.agent; "alert {}", in_json(&String::from_utf8_lossy(&body)));
        Told { reply: Reply::Status { code: 200, retry_after: None }, remark: String::new() }
    }
}
