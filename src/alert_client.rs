//! The alert client posts one alert to the station and says how the post
//! ended. Without a station the alert goes to the log, and that never fails. Its
//! [`Post`] also serves the threads that post to Alertmanagers.

use std::time::Duration;

use ureq::tls::Certificate;

use crate::config;
use crate::state_file::Owner;
use pap_core::alert::{Alert, Severity};
use pap_core::delivery::Reply;
use pap_process::client;
use pap_process::escape::in_json;
use pap_process::url::Url;

/// How long resolving the station's name and connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one post may take as a whole.
const POST_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that was idle for longer is not used again. Many servers close
/// idle connections after 5 s, and a post on a closed connection is lost and has
/// to be sent again.
const KEEP_IDLE: Duration = Duration::from_secs(2);

/// Where alerts go.
pub struct AlertClient {
    owner: Owner,
    way: Way,
}

enum Way {
    Station(Post),
    /// There is neither a station nor an Alertmanager.
    Log,
    /// Alertmanagers are told what is true. What happened is in the log on request.
    Quiet,
}

/// Posts JSON to one URL.
pub struct Post {
    agent: ureq::Agent,
    url: Url,
    authorization: Option<String>,
}

/// How a post ended.
pub struct Told {
    /// The station's answer, which decides what happens next.
    pub reply: Reply,
    /// The station's words, or what went wrong; for the log.
    pub remark: String,
}

impl Told {
    /// The station gave no answer, or there was no post.
    pub fn nothing(why: String) -> Self {
        Self { reply: Reply::None, remark: why }
    }
}

impl AlertClient {
    /// The configured station, or the log.
    pub fn new(config: &config::Config, owner: Owner) -> Self {
        let way = match &config.station {
            Some(station) => {
                let key = format!("Bearer {}", station.key.reveal());
                Way::Station(Post::new(&station.url, Some(key), &station.roots, config.rules.outbox.senders))
            }
            None if config.alertmanagers.is_some() => Way::Quiet,
            None => Way::Log,
        };
        Self { owner, way }
    }

    /// Whether alerts only go to the log.
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

impl Post {
    /// Posts to `url`, with this value of `Authorization`. At most `connections` posts
    /// are under way at once.
    pub fn new(
        url: &Url,
        authorization: Option<String>,
        roots: &[Certificate<'static>],
        connections: usize,
    ) -> Self {
        Self { agent: agent(roots, connections), url: url.clone(), authorization }
    }

    /// Posts one body. Waits for at most 10 seconds.
    pub fn send(&self, body: &[u8]) -> Told {
        let mut request = self.agent.post(self.url.as_str()).header("Content-Type", "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        match request.send(body) {
            Ok(response) => {
                let code = response.status().as_u16();
                let reply = Reply::Status { code, retry_after: client::retry_after(response.headers()) };
                Told { reply, remark: client::excerpt(response) }
            }
            Err(error) => Told::nothing(client::trouble(&error)),
        }
    }
}

/// A client whose requests take at most 10 seconds, with at most `senders` under way at
/// once.
pub(crate) fn agent(roots: &[Certificate<'static>], senders: usize) -> ureq::Agent {
    let config = client::config(concat!("pap-collector/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_global(Some(POST_TIMEOUT))
        .max_idle_connections(senders)
        .max_idle_connections_per_host(senders)
        .max_idle_age(KEEP_IDLE);
    client::agent(config, roots)
}
