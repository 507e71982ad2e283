//! Tells people: a thread for each channel delivers what is owed to it.
//!
//! What is owed is in the file, written with what caused it. So a crash loses no delivery; it may
//! repeat one, with the same id. A channel that hangs delays nobody but itself.

mod backoff;
mod telegram;
mod webhook;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use pap_core::time::{Uptime, Wall, millis};
use pap_process::client::{agent, agent_with, config};
use pap_process::clock::wall;
use pap_process::settings::Secret;
use pap_process::threads::spawn;
use pap_process::url::Url;

use crate::channels::{self, Channel, Kind, Outcome, Owed};
use crate::clients::USER_AGENT;
use crate::config::Config;
use crate::ids;
use crate::reach::Guarded;
use crate::station::Station;
pub use webhook::{check_secret, check_url, hidden_url};

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection that was idle for longer is not used again: many servers close it then.
const KEEP_IDLE: Duration = Duration::from_secs(2);
/// After this time of trying a delivery is given up.
const GIVE_UP: Duration = Duration::from_secs(24 * 3600);
/// A thread that has nothing to do looks this often.
const LOOK_UP: Duration = Duration::from_secs(30);
/// Deliveries that are looked at in one turn.
const TURN: usize = 200;
/// The most messages that wait for one chat before they become one.
const MAX_SINGLE: usize = 5;
/// The most messages that become one.
const MAX_BATCH: usize = 1000;

/// Wakes the threads that wait for news.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<u64>,
    waiting: Condvar,
}

impl Bell {
    /// There is news.
    pub fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.waiting.notify_all();
    }

    /// How often it has rung.
    pub fn count(&self) -> u64 {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it has rung more often than `seen`, or for `longest`.
    pub fn wait(&self, seen: u64, longest: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        // A spurious wake-up is harmless: the thread then finds nothing to do.
        drop(self.waiting.wait_timeout_while(rung, longest, |rung| *rung == seen));
    }
}

/// What the threads of all channels need.
pub struct Notifier {
    /// For URLs that came by the API.
    webhooks: ureq::Agent,
    /// For the Bot API, whose URL is a setting.
    telegram: ureq::Agent,
    token: Option<Secret>,
    telegram_url: Url,
}

/// What an attempt leads to, and how long the channel asked to wait.
#[derive(Debug, PartialEq, Eq)]
struct Attempt {
    outcome: Outcome,
    wait: Option<Duration>,
}

impl Attempt {
    const fn ended(outcome: Outcome) -> Self {
        Self { outcome, wait: None }
    }
}

impl Notifier {
    /// With these settings.
    pub fn new(settings: &Config) -> Self {
        let client = || config(USER_AGENT).timeout_global(Some(PATIENCE)).max_idle_age(KEEP_IDLE);
        Self {
            webhooks: agent_with(client(), &settings.roots, Guarded::new(settings.reach.clone())),
            telegram: agent(client(), &settings.roots),
            token: settings.telegram_token.clone(),
            telegram_url: settings.telegram_url.clone(),
        }
    }

    /// Whether Telegram is configured.
    pub fn has_telegram(&self) -> bool {
        self.token.is_some()
    }

    /// One attempt that belongs to no event.
    pub fn test(&self, channel: &Channel, body: &str, text: &str) -> Outcome {
        self.post(channel, &ids::uuid(), body, text).outcome
    }

    /// Posts one delivery, or one message for several.
    fn post(&self, channel: &Channel, uuid: &str, body: &str, text: &str) -> Attempt {
        match channel.kind {
            Kind::Webhook => webhook::post(&self.webhooks, channel, uuid, wall(), body),
            Kind::Telegram => match &self.token {
                Some(token) => {
                    telegram::send(&self.telegram, &self.telegram_url, token, &channel.target, text)
                }
                None => Attempt::ended(Outcome::Failed("TELEGRAM_BOT_TOKEN is not set".into())),
            },
        }
    }
}

/// Starts a thread for each active channel, until the station stops.
pub fn run(station: &Arc<Station>) {
    let running: Arc<Mutex<Vec<i64>>> = Arc::default();
    while !station.stop.is_stopping() {
        let seen = station.bell.count();
        for channel in station.store.read(channels::active).unwrap_or_default() {
            let mut all = running.lock().unwrap_or_else(PoisonError::into_inner);
            if !all.contains(&channel) {
                if let Err(error) = start(station, &running, channel) {
                    log::error!("channel {channel} has no thread and is told nothing for now: {error}");
                } else {
                    all.push(channel);
                }
            }
        }
        station.bell.wait(seen, LOOK_UP);
    }
}

/// It is not joined: at the end of the process it may still wait for an answer.
fn start(station: &Arc<Station>, running: &Arc<Mutex<Vec<i64>>>, id: i64) -> io::Result<()> {
    let (station, running) = (Arc::clone(station), Arc::clone(running));
    spawn(&format!("channel-{id}"), move || {
        Deliverer { station: &station, id, tries: HashMap::new(), updated_at: Wall::default() }.run();
        running.lock().unwrap_or_else(PoisonError::into_inner).retain(|&channel| channel != id);
        // It may have been turned on again meanwhile.
        station.bell.ring();
    })
    .map(drop)
}

/// A delivery that failed in this run of the program.
struct Try {
    /// Up to when the time of trying was counted.
    counted: Uptime,
    due: Uptime,
}

/// Delivers what is owed to one channel.
struct Deliverer<'a> {
    station: &'a Station,
    id: i64,
    tries: HashMap<i64, Try>,
    /// When the channel was last changed. After a change, former failures do not matter.
    updated_at: Wall,
}

impl Deliverer<'_> {
    /// Delivers until the channel is gone or off, or the station stops.
    fn run(mut self) {
        while !self.station.stop.is_stopping() {
            let seen = self.station.bell.count();
            let channel = match self.station.store.read(|connection| channels::find(connection, self.id)) {
                Ok(Some(channel)) if channel.is_active => channel,
                Ok(_) => return,
                Err(error) => {
                    log::error!("the deliveries of channel {} cannot be read: {error}", self.id);
                    self.station.bell.wait(seen, LOOK_UP);
                    continue;
                }
            };
            if channel.record.updated_at != self.updated_at {
                self.updated_at = channel.record.updated_at;
                self.tries.clear();
            }
            let now = self.now();
            if let Some(quiet) = channel.quiet_hours.as_ref().and_then(|hours| hours.left(wall())) {
                // Quiet hours do not count as trying.
                self.tries.values_mut().for_each(|tried| tried.counted = now);
                self.station.bell.wait(seen, quiet.min(LOOK_UP));
                continue;
            }
            let due = self.due(&channel, now);
            if due.is_empty() {
                let next = self.tries.values().map(|tried| tried.due).min();
                let longest = next.map_or(LOOK_UP, |next| next.since(now).max(Duration::from_millis(10)));
                self.station.bell.wait(seen, longest.min(LOOK_UP));
                continue;
            }
            if self.station.store.lease().covers(PATIENCE) {
                self.deliver(&channel, &due);
            } else {
                // Another station may deliver it.
                self.station.stop.wait(Duration::from_secs(1));
            }
        }
    }

    fn now(&self) -> Uptime {
        self.station.clock.uptime()
    }

    /// What is delivered next: one delivery, or several that become one message.
    fn due(&mut self, channel: &Channel, now: Uptime) -> Vec<Owed> {
        let merges = channel.kind == Kind::Telegram;
        let limit = if merges { MAX_BATCH } else { TURN + self.tries.len() };
        let owed = self.station.store.read(|connection| channels::owed(connection, self.id, merges, limit));
        let mut owed = owed.unwrap_or_else(|error| {
            log::error!("the deliveries of channel {} cannot be read: {error}", self.id);
            Vec::new()
        });
        self.tries.retain(|id, _| owed.iter().any(|owed| owed.id == *id));
        // While one message to a chat waits after a failure, the others wait too.
        let waits = |owed: &Owed| self.tries.get(&owed.id).is_some_and(|tried| tried.due > now);
        if merges && owed.iter().any(waits) {
            return Vec::new();
        }
        owed.retain(|owed| !waits(owed));
        if !merges || owed.len() <= MAX_SINGLE {
            owed.truncate(1);
        }
        owed
    }

    fn deliver(&mut self, channel: &Channel, mut due: &[Owed]) {
        let Some(first) = due.first() else { return };
        let mut attempt = None;
        if due.len() > 1 {
            let merged =
                self.station.notifier.post(channel, &first.uuid, &first.body, &telegram::merged(due));
            if matches!(merged.outcome, Outcome::Refused(_)) {
                // One of them may be at fault, so each is tried alone.
                due = &due[..1];
            } else {
                attempt = Some(merged);
            }
        }
        let Attempt { outcome, wait } = attempt
            .unwrap_or_else(|| self.station.notifier.post(channel, &first.uuid, &first.body, &first.line));
        let now = self.now();
        let mut tried = Vec::new();
        for owed in due {
            let counted = self.tries.get(&owed.id).map_or(now, |tried| tried.counted);
            tried.push((owed.id, owed.tried_ms + millis(now.since(counted))));
            let waits = backoff::wait(owed.attempts, wait);
            self.tries.insert(owed.id, Try { counted: now, due: now + waits });
        }
        self.station.metrics.delivery(&outcome);
        match &outcome {
            Outcome::Delivered => {
                log::info!("{} told to channel {} ({})", first.event, self.id, due.len());
                self.tries.retain(|id, _| tried.iter().all(|(tried, _)| tried != id));
            }
            Outcome::Refused(why) => log::error!("channel {} refused {}: {why}", self.id, first.event),
            Outcome::Gone(why) => log::error!("channel {} is turned off: {why}", self.id),
            Outcome::Failed(why) => {
                log::warn!("channel {} did not take {}, it is tried again: {why}", self.id, first.event);
            }
        }
        let (id, at, updated_at) = (self.id, wall(), channel.record.updated_at);
        let stored = self.station.store.write(move |connection| {
            channels::settle(connection, at, (id, updated_at), &tried, &outcome, millis(GIVE_UP))
        });
        if let Err(error) = stored {
            // The delivery is repeated with the same id.
            log::error!("the outcome of a delivery is not stored: {error}");
            self.station.stop.wait(Duration::from_secs(1));
        }
        self.station.news.channels();
    }
}
