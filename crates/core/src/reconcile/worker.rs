//! What is remembered of a worker between two passes: its failures, its ends, and when it may be tried again.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Action, Container, Listing, Observed, Step};
use crate::time::Tick;

/// How long a worker must run before the next one of its role is replaced.
pub const SETTLED: Duration = Duration::from_secs(10);
/// How long a worker must run before it counts as well.
pub const WELL: Duration = Duration::from_secs(60);
/// A worker that ended `MANY` times within this time crashes in a loop.
const LOOP: Duration = Duration::from_secs(600);
const MANY: u32 = 5;
/// How long a worker in a crash loop rests: at first, and at most.
const REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(1800);
/// The wait after a first action that failed, and the longest.
const WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// The wait if too many others are before it.
const POSTPONED: Duration = Duration::from_secs(30);
/// After so many actions that failed in a row a worker counts as failed.
const FAILED: u32 = 3;
/// How long something may stand in a worker's way before it counts as failed,
pub const BLOCKED: Duration = Duration::from_secs(10);
/// and how long, if that ends by itself as a rule.
pub const PASSING: Duration = Duration::from_secs(300);

/// When a worker has ended, and how often.
#[derive(Debug, Default)]
pub struct Lapses(VecDeque<(Tick, u32)>);

impl Lapses {
    pub fn add(&mut self, now: Tick, count: u32) {
        if count > 0 {
            self.0.push_back((now, count));
            if self.0.len() > MANY as usize {
                self.0.pop_front();
            }
        }
    }

    pub fn are_many(&self, now: Tick) -> bool {
        let lately = self.0.iter().filter(|(at, _)| now.since(*at) <= LOOP);
        lately.fold(0, |sum: u32, (_, count)| sum.saturating_add(*count)) >= MANY
    }
}

/// What the engine says that it has done. The next listing must show it.
#[derive(Debug)]
enum Done {
    Started(String),
    Removed(String),
}

/// What is remembered of a worker between two passes.
#[derive(Debug, Default)]
pub struct Worker {
    /// What is being done.
    pub under_way: Option<Step>,
    /// The last listing that had begun when its last action ended.
    pub ended: Option<Listing>,
    done: Option<Done>,
    /// The container that an action of ours has made, and when.
    made: Option<(String, Tick)>,
    /// The last container that an action of ours has removed.
    removed: Option<String>,
    /// The container that could not be stopped or removed.
    pub stuck: Option<String>,
    /// The container that could not be started.
    pub unstartable: Option<String>,
    /// The container that runs, and since when without an end.
    pub running: Option<(String, Tick)>,
    /// How often which container was started again, and when that was last looked up,
    restarts: Option<(String, u32, Tick)>,
    /// and when and how often that was lately.
    pub restarted: Lapses,
    /// When it was found stopped lately.
    pub stopped: Lapses,
    /// Its last action was not begun, since too many were before it.
    pub is_postponed: bool,
    pub failures: u32,
    pub rests: u32,
    pub not_before: Option<Tick>,
    /// From when on what stands in its way counts as a failure.
    pub blocked: Option<Tick>,
    pub trouble: Option<String>,
}

impl Worker {
    /// An action has ended, as the engine says: with the id of the container that runs now.
    pub fn done(&mut self, now: Tick, action: &Action, made: Option<String>) {
        self.done = match (&action.step, made) {
            (Step::Remove(id) | Step::Stop(id), _) => {
                self.removed = Some(id.clone());
                Some(Done::Removed(id.clone()))
            }
            (Step::Create | Step::Start(_), made) => {
                self.made = made.clone().map(|id| (id, now));
                made.map(Done::Started)
            }
        };
    }

    /// An action has failed.
    pub fn failed(&mut self, now: Tick, step: &Step, why: String) {
        match step {
            Step::Create => {}
            Step::Start(id) => self.unstartable = Some(id.clone()),
            Step::Remove(id) | Step::Stop(id) => self.stuck = Some(id.clone()),
        }
        self.fail(now, why);
    }

    /// Compares what the engine says that it has done with what a later listing shows: without
    /// this it would be done again and again, without a pause.
    pub fn verify(&mut self, now: Tick, containers: &[&Container]) {
        let found = |id: &str| containers.iter().find(|it| it.id == id).map(|it| it.is);
        self.stuck = self.stuck.take().filter(|id| found(id).is_some());
        match self.done.take() {
            Some(Done::Removed(id)) if found(&id).is_some_and(|is| is != Observed::Unclear) => {
                self.stuck = Some(id);
                let why = "the engine says that it has removed its container, which is still there";
                self.fail(now, why.into());
            }
            Some(Done::Started(id)) if matches!(found(&id), None | Some(Observed::Created)) => {
                let why =
                    "the engine says that it has started its container, which is not there or never ran";
                self.fail(now, why.into());
            }
            _ => {}
        }
    }

    /// Takes note that a listing shows no container of it.
    pub fn miss(&mut self, now: Tick) {
        let Some((id, _)) = self.running.take() else { return };
        if self.removed.as_ref() != Some(&id) {
            self.stopped.add(now, 1);
            if self.stopped.are_many(now) {
                self.rest(now, "its containers vanish");
            }
        }
    }

    /// Takes note of what a listing shows of its container.
    pub fn observe(&mut self, now: Tick, container: &Container) {
        let growth = container.restarts.map_or(0, |count| {
            let (before, looked) = match (&self.restarts, &self.made) {
                (Some((id, before, looked)), _) if *id == container.id => (*before, *looked),
                (_, made) => {
                    self.restarted = Lapses::default();
                    match made {
                        Some((id, made)) if *id == container.id => (0, *made),
                        // What happened before we came is not judged.
                        _ => (count, now),
                    }
                }
            };
            self.restarts = Some((container.id.clone(), count, now));
            let growth = count.saturating_sub(before);
            // At the earliest: of what was not looked at for long it is not known that it was lately.
            self.restarted.add(looked, growth);
            growth
        });
        match (&self.running, container.is) {
            (Some((id, _)), Observed::Running) if *id == container.id && growth == 0 => {}
            (_, Observed::Running) => self.running = Some((container.id.clone(), now)),
            _ => self.running = None,
        }
        // That it runs says nothing of a container that cannot be removed.
        if self.stuck.is_none() && self.runs_for(now).is_some_and(|long| long >= WELL) {
            (self.failures, self.not_before, self.trouble) = (0, None, None);
        }
        if self.runs_for(now).is_some_and(|long| long >= LOOP) {
            self.rests = 0;
        }
    }

    /// Whether nothing is being done with it, nor was since a listing was asked for.
    pub fn is_free(&self, listing: Listing) -> bool {
        self.under_way.is_none() && self.ended.is_none_or(|ended| ended < listing)
    }

    pub fn runs_for(&self, now: Tick) -> Option<Duration> {
        self.running.as_ref().map(|(_, since)| now.since(*since))
    }

    /// It rests, since it ends again and again.
    pub fn rest(&mut self, now: Tick, why: &str) {
        self.not_before = Some(now + doubled(REST, self.rests, LONGEST_REST));
        self.rests += 1;
        (self.restarted, self.stopped) = (Lapses::default(), Lapses::default());
        self.failures = self.failures.max(FAILED);
        self.trouble = Some(why.into());
    }

    fn fail(&mut self, now: Tick, why: String) {
        let again = now + doubled(WAIT, self.failures, LONGEST_WAIT);
        self.not_before = self.not_before.max(Some(again));
        self.failures += 1;
        self.trouble = Some(why);
    }

    /// There is no room for its action yet. That is no failure of its own.
    pub fn postpone(&mut self, now: Tick) {
        self.is_postponed = true;
        self.not_before = self.not_before.max(Some(now + POSTPONED));
    }

    /// Takes note of what stands in its way, and how long it may.
    pub fn hinder(&mut self, now: Tick, hindered: Option<(Duration, &str)>) {
        let Some((patience, why)) = hindered else {
            self.blocked = None;
            return;
        };
        let until = self.blocked.map_or(now + patience, |until| until.min(now + patience));
        self.blocked = Some(until);
        // What ends by itself is no trouble before it has lasted for too long.
        if patience == BLOCKED || until <= now {
            self.trouble = Some(why.into());
        }
    }

    pub fn waits(&self, now: Tick) -> Option<Duration> {
        self.not_before.filter(|at| *at > now).map(|at| at.since(now))
    }

    /// When something changes by time alone.
    pub fn next(&self, now: Tick) -> Option<Duration> {
        let runs = self.runs_for(now);
        let until = |most: Duration| runs.filter(|long| *long < most).map(|long| most.saturating_sub(long));
        let well = until(WELL).filter(|_| self.trouble.is_some());
        let blocked = self.blocked.filter(|until| *until > now).map(|until| until.since(now));
        [self.waits(now), until(SETTLED), well, blocked].into_iter().flatten().min()
    }

    pub fn has_failed(&self, now: Tick) -> bool {
        self.failures >= FAILED || self.blocked.is_some_and(|until| until <= now)
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(most)
}
