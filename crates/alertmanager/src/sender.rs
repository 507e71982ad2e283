//! The threads that post to Alertmanagers, one for each. [`pap_core::firing`] has the
//! conditions; a thread posts what its Alertmanager has not taken, in batches, one after
//! the other. So an Alertmanager that hangs holds up no other.

use std::cell::Cell;
use std::fs;
use std::time::Duration;

use crossbeam_channel::{after, never, select};
use pap_core::delivery::{Failure, Outcome, Reply};
use pap_core::firing::{self, Numbers};
use pap_core::time::Uptime;
use pap_process::client::{Post, Told};
use pap_process::panics;
use pap_process::throttle::Throttle;
use pap_process::url::Url;

use crate::Owner;
use crate::settings::Alertmanagers;

/// How often a thread asks whether the program may post again.
const LOOK: Duration = Duration::from_secs(1);

type Batch<O> = firing::Batch<<<O as Owner>::Numbers as Numbers>::Subject>;

/// One Alertmanager, and what is posted to it.
pub struct Alertmanager {
    /// Its place in `ALERTMANAGER_URL`, from 0.
    number: usize,
    url: Url,
    post: Post,
    generator_url: String,
    /// What was last wrong, by the status of its answer; limits the log.
    troubles: Throttle<Option<u16>>,
    is_in_trouble: Cell<bool>,
}

impl Alertmanager {
    /// All configured Alertmanagers. Alerts link to `generator_url`.
    pub fn all(config: &Alertmanagers, user_agent: &'static str, generator_url: &str) -> Vec<Self> {
        let urls = config.urls.iter().enumerate();
        let one = |(number, url): (usize, &Url)| Self {
            number,
            url: url.clone(),
            post: Post::new(user_agent, url, config.credentials.header(), &config.roots, 1),
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

    /// Posts until the program stops. What is new then is still posted, once.
    pub fn run<O: Owner>(&self, owner: &O) {
        loop {
            let is_stopping = owner.stop().is_stopping();
            while !owner.may_post() {
                if owner.stop().wait(LOOK) {
                    return;
                }
            }
            while let Some(batch) = owner.with(|firing, now| firing.next(now, self.number)) {
                self.tell(owner, &batch);
            }
            if is_stopping {
                return;
            }
            let wait = owner.with(|firing, now| firing.next_due(self.number).map(|due| due.since(now.tick)));
            let due = wait.map_or_else(never, after);
            select! {
                recv(owner.bell(self.number)) -> _ => {}
                recv(due) -> _ => {}
                recv(owner.stop().receiver()) -> _ => {}
            }
        }
    }

    fn tell<O: Owner>(&self, owner: &O, batch: &Batch<O>) {
        owner.is_posting(self.number, true);
        let told = panics::contain(|| self.post(owner, batch)).unwrap_or_else(Told::nothing);
        owner.is_posting(self.number, false);
        let outcome = told.reply.outcome();
        let now = owner.with(|firing, now| {
            firing.settle(now.tick, batch, outcome);
            now.tick
        });
        let count = batch.alerts.len();
        match outcome {
            Outcome::Taken => {
                for changed in batch.alerts.iter().filter_map(|alert| alert.changed) {
                    owner.delivery().record(now.since(changed));
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
                let level = self.level(Some(code), log::Level::Error, owner.uptime());
                log::log!(level, "{} refused {count} alerts with {code}: {}{advice}", self.url, told.remark);
            }
            Outcome::Failed(failure, _) => self.log_failure(owner.uptime(), count, failure, &told),
        }
    }

    fn post<O: Owner>(&self, owner: &O, batch: &Batch<O>) -> Told {
        let concerned = |subject| owner.concerned(subject);
        match firing::to_json(&batch.alerts, &self.generator_url, concerned) {
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

/// The URL at which people reach this program, if no setting says it: this host's name, and
/// the port.
pub fn own_url(port: u16) -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let host = Some(name.trim()).filter(|name| !name.is_empty() && name.chars().all(is_host));
    format!("http://{}:{port}/", host.unwrap_or("localhost"))
}
