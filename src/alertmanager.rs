//! The threads that post to Alertmanagers, one for each. What is true is in
//! [`pap_core::firing`]; a thread posts what its Alertmanager has not taken, in
//! batches, one after the other. So one that hangs disturbs no other.

use std::cell::Cell;
use std::fs;

use crossbeam_channel::{after, never, select};

use crate::alert_client::{Post, Told};
use crate::config::Alertmanagers;
use crate::parts::Parts;
use pap_core::delivery::{Failure, Outcome, Reply};
use pap_core::firing::{self, Batch};
use pap_core::time::Uptime;
use pap_process::panics;
use pap_process::throttle::Throttle;
use pap_process::url::Url;

/// One Alertmanager, and what is posted to it.
pub struct Alertmanager {
    /// Its place in `ALERTMANAGER_URL`, from 0.
    number: usize,
    /// The number that it has among all senders.
    sender: usize,
    url: Url,
    post: Post,
    cluster_id: String,
    generator_url: String,
    /// What was last wrong, by the status of its answer; limits the log.
    troubles: Throttle<Option<u16>>,
    is_in_trouble: Cell<bool>,
}

impl Alertmanager {
    /// All that are configured. `senders` threads post to the station; their numbers
    /// come first.
    pub fn all(config: &Alertmanagers, cluster_id: &str, generator_url: &str, senders: usize) -> Vec<Self> {
        let urls = config.urls.iter().enumerate();
        let one = |(number, url): (usize, &Url)| Self {
            number,
            sender: senders + number,
            url: url.clone(),
            post: Post::new(url, config.credentials.header(), &config.roots, 1),
            cluster_id: cluster_id.to_owned(),
            generator_url: generator_url.to_owned(),
            troubles: Throttle::default(),
            is_in_trouble: Cell::new(false),
        };
        urls.map(one).collect()
    }

    /// The name of its thread.
    pub fn thread(&self) -> String {
        format!("alertmanager-{}", self.number)
    }

    /// Posts until the collector stops. What is new then is still posted, once.
    pub fn run(&self, parts: &Parts) {
        let shared = &parts.shared;
        loop {
            let is_stopping = parts.stop.is_stopping();
            while let Some(batch) = shared.with(|registry, now| registry.firing_mut().next(now, self.number))
            {
                self.tell(parts, &batch);
            }
            if is_stopping {
                return;
            }
            let wait = shared
                .with(|registry, now| registry.firing().next_due(self.number).map(|due| due.since(now.tick)));
            let due = wait.map_or_else(never, after);
            select! {
                recv(shared.bell(self.number)) -> _ => {}
                recv(due) -> _ => {}
                recv(parts.stop.receiver()) -> _ => {}
            }
        }
    }

    fn tell(&self, parts: &Parts, batch: &Batch) {
        let Parts { shared, metrics, vitals, .. } = parts;
        vitals.posting(self.sender, shared.clock().uptime());
        let told = panics::contain(|| self.post(batch)).unwrap_or_else(Told::nothing);
        vitals.posted(self.sender);
        let outcome = told.reply.outcome();
        let now = shared.with(|registry, now| {
            registry.firing_mut().settle(now.tick, batch, outcome);
            now.tick
        });
        let count = batch.alerts.len();
        match outcome {
            Outcome::Taken => {
                for changed in batch.alerts.iter().filter_map(|alert| alert.changed) {
                    metrics.alertmanager_delivery.record(now.since(changed));
                }
                self.troubles.clear();
                if self.is_in_trouble.replace(false) {
                    log::info!("{} takes alerts again", self.url);
                }
                let is_news = batch.alerts.iter().any(|alert| alert.changed.is_some());
                let level = if is_news { log::Level::Info } else { log::Level::Debug };
                log::log!(level, "{count} alerts told to {}", self.url);
            }
            Outcome::Refused(code) => {
                let advice = match code {
                    404 | 405 => "; check ALERTMANAGER_URL",
                    code if count > 1 && firing::may_be_one_alert(code) => "; they follow in smaller posts",
                    _ => "",
                };
                let level = self.level(Some(code), log::Level::Error, shared.clock().uptime());
                log::log!(level, "{} refused {count} alerts with {code}: {}{advice}", self.url, told.remark);
            }
            Outcome::Failed(failure, _) => self.log_failure(shared.clock().uptime(), count, failure, &told),
        }
    }

    fn post(&self, batch: &Batch) -> Told {
        match firing::to_json(&batch.alerts, &self.cluster_id, &self.generator_url) {
            Ok(body) => self.post.send(&body),
            Err(error) => Told::nothing(error.to_string()),
        }
    }

    fn log_failure(&self, now: Uptime, count: usize, failure: Failure, told: &Told) {
        let code = match told.reply {
            Reply::Status { code, .. } => Some(code),
            Reply::None => None,
        };
        let advice = match failure {
            Failure::Misconfigured(401 | 403) => {
                "; check ALERTMANAGER_KEY, or ALERTMANAGER_USER and ALERTMANAGER_PASSWORD"
            }
            Failure::Misconfigured(_) => "; check ALERTMANAGER_URL",
            Failure::Unreachable | Failure::Busy => "",
        };
        let answer = code.map_or_else(|| "no answer".to_owned(), |code| format!("answer {code}"));
        log::log!(
            self.level(code, log::Level::Warn, now),
            "{} has not taken {count} alerts yet, and will be told again: {answer}: {}{advice}",
            self.url,
            told.remark
        );
    }

    fn level(&self, trouble: Option<u16>, news: log::Level, now: Uptime) -> log::Level {
        self.is_in_trouble.set(true);
        if self.troubles.is_news(trouble, now) { news } else { log::Level::Debug }
    }
}

/// Where people reach this collector, if nobody has said it: this host's name, and
/// the port.
pub fn own_url(port: u16) -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let host = Some(name.trim()).filter(|name| !name.is_empty() && name.chars().all(is_host));
    format!("http://{}:{port}/", host.unwrap_or("localhost"))
}
