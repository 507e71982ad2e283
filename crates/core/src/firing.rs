//! What is true and told to Alertmanagers, such as which agents are dead.
//!
//! An Alertmanager is told conditions, not events: a condition is told again every
//! [`repeat`](Repeat::every) while it holds, and once more when it has ended. Each
//! condition has a number. A condition that begins, is due again or ends gets the next
//! number, so the numbers are in the order of their times. Each Alertmanager (a target)
//! has taken everything up to some number. What it must be told is what has a higher
//! one: however long it was away, that is each condition once, as it is now.
//!
//! The labels of an alert are those of the beginning of its condition. An Alertmanager
//! would take an alert with other labels for another alert.

mod condition;
mod wire;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use crate::delivery::{Outcome, wait_after};
use crate::time::{Now, Tick, Wall};

pub use condition::{AlertName, Condition, End, Ended};
pub use wire::{Agent, Concerned, Machine, to_json};

/// The most alerts in one post, and the most that are looked at under one lock.
pub const BATCH: usize = 256;
/// A firing alert is told to end after this many repeats, so that one lost repeat
/// does not end it, and the end of this collector ends it.
pub const ENDS_AFTER: u32 = 4;
/// A repeat may be early by this part of the time between two. What is due within
/// it then goes out together.
const EARLY: u32 = 8;
/// An ended condition that a target does not take is kept for at least this long.
const KEEP_ENDED: Duration = Duration::from_secs(15 * 60);

/// Who refuses so many alerts alone, and takes none, refuses all.
const MOST_ALONE: u32 = 16;
/// The status of a post that a server, or a proxy before it, finds too large.
const TOO_LARGE: u16 = 413;

/// Whether a refusal may be about one of the alerts, or about their number. Others are
/// about the URL.
pub const fn may_be_one_alert(code: u16) -> bool {
    matches!(code, 400 | TOO_LARGE | 422)
}

/// To how many targets everything is told, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// The number of Alertmanagers; 0 keeps no conditions at all.
    pub targets: usize,
    /// The time from one telling of a condition that holds to the next.
    pub every: Duration,
}

impl Repeat {
    /// No Alertmanager.
    pub const NONE: Self = Self { targets: 0, every: Duration::from_secs(60) };
}

/// The numbers of the conditions that hold, by what a program tells them apart with.
pub trait Numbers: Debug {
    /// Which condition. At most one of a key holds at a time.
    type Key: Clone + Debug;
    /// Whom a condition concerns.
    type Subject: Clone + Debug + PartialEq;

    /// The number of a condition that holds.
    fn get(&self, key: &Self::Key) -> Option<u64>;
    /// A condition has got this number.
    fn insert(&mut self, key: &Self::Key, number: u64);
    /// A condition no longer holds. Returns its number.
    fn remove(&mut self, key: &Self::Key) -> Option<u64>;
}

#[derive(Debug)]
struct Entry<K, S> {
    key: K,
    condition: Condition<S>,
    /// A target may know of it.
    is_handed: bool,
    /// When it began or ended.
    changed: Tick,
    /// When it got its number.
    numbered: Tick,
}

/// One alert to post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told<S> {
    /// What is told.
    pub condition: Condition<S>,
    /// When the alert ends. While the condition holds, this is [`ENDS_AFTER`] repeats
    /// ahead.
    pub ends_at: Wall,
    /// When the condition changed; `None` if this only repeats it.
    pub changed: Option<Tick>,
}

/// What one post tells a target. It is under way until [`Firing::settle`].
#[derive(Debug)]
pub struct Batch<S> {
    /// The alerts, at most [`BATCH`]; those that changed later come later.
    pub alerts: Vec<Told<S>>,
    target: usize,
    /// The target that takes it has taken everything up to this number.
    last: u64,
}

/// One Alertmanager.
#[derive(Clone, Debug)]
pub struct Target {
    /// It has taken everything up to this number.
    taken: u64,
    /// The most alerts in its next post. After a refusal it is halved, so that one alert
    /// that it does not take hides no other.
    size: usize,
    /// What this grows back to: less than [`BATCH`] for a while where a post was too
    /// large.
    most: usize,
    /// Alerts that it refused alone since it took any, or had all. From [`MOST_ALONE`] on
    /// it does not get each alert alone until then.
    refused_alone: u32,
    attempts: u32,
    not_before: Tick,
    is_under_way: bool,
    /// Since when there is something that it has not taken.
    behind_since: Option<Tick>,
    tally: Tally,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            taken: 0,
            size: BATCH,
            most: BATCH,
            refused_alone: 0,
            attempts: 0,
            not_before: Tick::MIN,
            is_under_way: false,
            behind_since: None,
            tally: Tally::default(),
        }
    }
}

/// Counts of one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Alerts that it took.
    pub taken: u64,
    /// Alerts in posts that it refused for good.
    pub refused: u64,
    /// Posts that failed and are tried again.
    pub failed: u64,
    /// How the last post ended: whether the target took or refused it. `None` before
    /// the first.
    pub is_reachable: Option<bool>,
}

/// All conditions, and what each target has taken of them.
#[derive(Debug)]
pub struct Firing<N: Numbers> {
    every: Duration,
    /// The most ended conditions.
    most_ended: usize,
    targets: Vec<Target>,
    /// The highest number so far.
    newest: u64,
    /// What holds, by number.
    holding: BTreeMap<u64, Entry<N::Key, N::Subject>>,
    /// What has ended and not every target has taken.
    ended: BTreeMap<u64, Entry<N::Key, N::Subject>>,
    numbers: N,
    /// How many conditions hold, in the order of [`AlertName::ALL`].
    counts: [usize; AlertName::ALL.len()],
    dropped: u64,
}

impl<N: Numbers> Firing<N> {
    /// No condition holds, and `numbers` has none.
    pub fn new(repeat: Repeat, most_ended: usize, numbers: N) -> Self {
        Self {
            every: repeat.every,
            most_ended,
            targets: vec![Target::default(); repeat.targets],
            newest: 0,
            holding: BTreeMap::new(),
            ended: BTreeMap::new(),
            numbers,
            counts: [0; AlertName::ALL.len()],
            dropped: 0,
        }
    }

    /// Whether there is a target.
    pub const fn is_on(&self) -> bool {
        !self.targets.is_empty()
    }

    /// A number that rises whenever there is something new to tell.
    pub const fn newest(&self) -> u64 {
        self.newest
    }

    /// How many conditions of this alert hold.
    pub const fn holding(&self, alert: AlertName) -> usize {
        self.counts[alert as usize]
    }

    /// How many ended conditions some target has not taken.
    pub fn ended(&self) -> usize {
        self.ended.len()
    }

    /// How many ended conditions were dropped before every target had taken them. An
    /// Alertmanager ends their alerts by itself.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What each target did, and for how long the oldest news has waited for it.
    pub fn tallies(&self, now: Tick) -> impl Iterator<Item = (&Tally, Duration)> {
        let waited =
            move |target: &Target| target.behind_since.map_or(Duration::ZERO, |since| now.since(since));
        self.targets.iter().map(move |target| (&target.tally, waited(target)))
    }

    /// Whether a target has taken all there is to tell.
    pub fn is_told(&self, target: usize) -> bool {
        self.targets[target].taken == self.newest
    }

    /// A condition begins to hold. If it holds already, nothing changes.
    pub fn begin(&mut self, now: Now, key: N::Key, condition: Condition<N::Subject>) {
        self.add(now, key, condition, false);
    }

    /// A condition that held before a restart still holds. It is told at once.
    pub fn resume(&mut self, now: Now, key: N::Key, condition: Condition<N::Subject>) {
        self.add(now, key, condition, true);
    }

    fn add(&mut self, now: Now, key: N::Key, condition: Condition<N::Subject>, is_handed: bool) {
        if !self.is_on() || self.numbers.get(&key).is_some() {
            return;
        }
        debug_assert_eq!(condition.ended, None);
        self.counts[condition.alert as usize] += 1;
        self.hold(Entry { key, condition, is_handed, changed: now.tick, numbered: now.tick });
    }

    /// A condition no longer holds. If it does not hold, nothing changes.
    pub fn end(&mut self, now: Now, key: &N::Key, why: End) {
        let number = self.numbers.remove(key);
        let Some(entry) = number.and_then(|number| self.holding.remove(&number)) else { return };
        self.counts[entry.condition.alert as usize] -= 1;
        // What nobody was told needs no end.
        if entry.is_handed {
            let ended = Some(Ended { at: now.wall.max(entry.condition.since), why });
            let condition = Condition { ended, ..entry.condition };
            self.keep_ended(Entry { condition, changed: now.tick, numbered: now.tick, ..entry });
        }
    }

    /// An ended condition from before a restart. It is told at once.
    pub fn resume_ended(&mut self, now: Now, key: N::Key, condition: Condition<N::Subject>) {
        if self.is_on() && condition.ended.is_some() {
            let now = now.tick;
            self.keep_ended(Entry { key, condition, is_handed: true, changed: now, numbered: now });
        }
    }

    /// The condition of this key, while it holds.
    pub fn condition(&self, key: &N::Key) -> Option<&Condition<N::Subject>> {
        self.numbers.get(key).and_then(|number| self.holding.get(&number)).map(|entry| &entry.condition)
    }

    /// The ended conditions in the next `steps`, from number `from` on, are added to
    /// `out`. Returns the number at which to go on, and `None` at the end.
    pub fn save_ended(&self, from: u64, steps: usize, out: &mut Vec<Condition<N::Subject>>) -> Option<u64> {
        let mut rest = self.ended.range(from..);
        out.extend(rest.by_ref().take(steps).map(|(_, entry)| entry.condition.clone()));
        rest.next().map(|(&number, _)| number)
    }

    /// What to post to a target now; `None` if there is nothing, if a post to it is
    /// under way, or if it has to wait after a failed one.
    pub fn next(&mut self, now: Now, target: usize) -> Option<Batch<N::Subject>> {
        self.drop_old(now.tick);
        self.repeat(now.tick);
        let to = &self.targets[target];
        if to.is_under_way || now.tick < to.not_before {
            return None;
        }
        let (alerts, last) = self.untold(now, to.taken, to.size);
        if alerts.is_empty() {
            self.took(target, last);
            return None;
        }
        self.targets[target].is_under_way = true;
        Some(Batch { alerts, target, last })
    }

    /// Takes note of how a post ended. What a target refused for good it gets once more in
    /// smaller posts. An alert that it refused alone it gets with the next repeat, if it
    /// still holds.
    pub fn settle(&mut self, now: Tick, batch: &Batch<N::Subject>, outcome: Outcome) {
        let count = batch.alerts.len() as u64;
        let target = &mut self.targets[batch.target];
        target.is_under_way = false;
        let is_settled = match outcome {
            Outcome::Taken => {
                target.tally.taken += count;
                target.refused_alone = 0;
                target.most = BATCH.min(target.most + 1);
                target.size = target.most.min(2 * target.size);
                true
            }
            Outcome::Refused(code)
                if may_be_one_alert(code) && count > 1 && target.refused_alone < MOST_ALONE =>
            {
                target.tally.failed += 1;
                target.size = batch.alerts.len() / 2;
                if code == TOO_LARGE {
                    target.most = target.size;
                }
                return;
            }
            Outcome::Refused(_) => {
                target.tally.refused += count;
                target.refused_alone += u32::from(count == 1);
                if target.refused_alone >= MOST_ALONE {
                    target.size = target.most;
                }
                true
            }
            Outcome::Failed(_, asked) => {
                target.tally.failed += 1;
                target.attempts = target.attempts.saturating_add(1);
                target.not_before = now + wait_after(asked, target.attempts, batch.target as u64);
                false
            }
        };
        target.tally.is_reachable = Some(is_settled);
        if is_settled {
            (target.attempts, target.not_before) = (0, Tick::MIN);
            if batch.last == self.newest {
                target.refused_alone = 0;
            }
            self.took(batch.target, batch.last);
        }
    }

    /// When [`next`](Self::next) may have something for the target, if nothing changes
    /// before. It may turn out to have nothing.
    pub fn next_due(&self, target: usize) -> Option<Tick> {
        let to = &self.targets[target];
        if self.newest > to.taken {
            return Some(to.not_before);
        }
        let (_, first) = self.holding.first_key_value()?;
        Some((first.numbered + self.every).max(to.not_before))
    }

    /// Checks all counts and links; for tests. It looks at every condition.
    ///
    /// # Panics
    /// A count or a link is wrong.
    pub fn audit(&self) {
        assert!(self.is_on() || (self.holding.is_empty() && self.ended.is_empty()));
        assert_eq!(self.holding.len(), self.counts.iter().sum::<usize>());
        assert!(self.ended.len() <= self.most_ended);
        for (&number, entry) in &self.holding {
            assert_eq!(self.numbers.get(&entry.key), Some(number));
            assert!(entry.condition.ended.is_none() && number <= self.newest);
        }
        for entries in [&self.holding, &self.ended] {
            assert!(entries.values().is_sorted_by_key(|entry| entry.numbered));
        }
        assert!(self.targets.iter().all(|target| target.taken <= self.newest));
    }

    /// A target has taken everything up to a number. What has ended and all have taken is
    /// done with.
    fn took(&mut self, target: usize, last: u64) {
        let untold = |entries: &BTreeMap<u64, Entry<N::Key, N::Subject>>| {
            entries.range(last + 1..).next().map(|(_, entry)| entry.numbered)
        };
        let behind_since = [&self.holding, &self.ended].into_iter().filter_map(untold).min();
        let target = &mut self.targets[target];
        (target.taken, target.behind_since) = (last, behind_since);
        let all = self.targets.iter().map(|target| target.taken).min().unwrap_or_default();
        while self.ended.first_key_value().is_some_and(|(&number, _)| number <= all) {
            self.ended.pop_first();
        }
    }

    /// The next number, for something that changed or is due again at this moment.
    fn news(&mut self, at: Tick) {
        self.newest += 1;
        for target in &mut self.targets {
            target.behind_since.get_or_insert(at);
        }
    }

    /// Gives a condition that holds the next number.
    fn hold(&mut self, entry: Entry<N::Key, N::Subject>) {
        self.news(entry.numbered);
        self.numbers.insert(&entry.key, self.newest);
        self.holding.insert(self.newest, entry);
    }

    fn keep_ended(&mut self, entry: Entry<N::Key, N::Subject>) {
        self.news(entry.numbered);
        self.ended.insert(self.newest, entry);
        if self.ended.len() > self.most_ended {
            self.ended.pop_first();
            self.dropped += 1;
        }
    }

    /// Drops what ended so long ago that every Alertmanager has ended it by itself.
    fn drop_old(&mut self, now: Tick) {
        let keep = KEEP_ENDED.max(self.every * (ENDS_AFTER + 1));
        let is_old = |entry: &Entry<_, _>| now.since(entry.changed) >= keep;
        while self.ended.first_key_value().is_some_and(|(_, entry)| is_old(entry)) {
            self.ended.pop_first();
            self.dropped += 1;
        }
    }

    /// Gives the next numbers to what is due again, in a bounded step.
    fn repeat(&mut self, now: Tick) {
        let every = self.every;
        let is_due = |entry: &Entry<_, _>, early| now + early >= entry.numbered + every;
        if !self.holding.first_key_value().is_some_and(|(_, first)| is_due(first, Duration::ZERO)) {
            return;
        }
        for _ in 0..BATCH {
            let due = self.holding.first_entry().filter(|first| is_due(first.get(), every / EARLY));
            let Some(due) = due else { return };
            let entry = due.remove();
            self.hold(Entry { numbered: now, ..entry });
        }
    }

    /// The next alerts with a number above `taken`, at most `size`, and the number up to
    /// which they go.
    fn untold(&mut self, now: Now, taken: u64, size: usize) -> (Vec<Told<N::Subject>>, u64) {
        let holding = self.holding.range(taken + 1..).take(size).map(|(&number, _)| (number, false));
        let ended = self.ended.range(taken + 1..).take(size).map(|(&number, _)| (number, true));
        let mut numbers: Vec<(u64, bool)> = holding.chain(ended).collect();
        numbers.sort_unstable();
        numbers.truncate(size);
        // What began and ended untold has left numbers that nothing has.
        let is_all = numbers.len() < size;
        let last = numbers.last().filter(|_| !is_all).map_or(self.newest, |&(number, _)| number);
        let ahead = u64::try_from((self.every * ENDS_AFTER).as_millis()).unwrap_or(u64::MAX);
        let mut alerts = Vec::with_capacity(numbers.len());
        for (number, is_ended) in numbers {
            let entries = if is_ended { &mut self.ended } else { &mut self.holding };
            let Some(entry) = entries.get_mut(&number) else { continue };
            entry.is_handed = true;
            let from = now.wall.max(entry.condition.since);
            let told = Told {
                condition: entry.condition.clone(),
                ends_at: entry.condition.ended.map_or(Wall(from.0.saturating_add(ahead)), |ended| ended.at),
                changed: (entry.changed == entry.numbered).then_some(entry.changed),
            };
            let key = entry.key.clone();
            // The end of an alert that fires again is not told: when an answer was lost, it
            // would come after the news that the alert fires.
            let again = |holds: &Condition<_>| holds.has_labels_of(&told.condition);
            if !(is_ended && self.condition(&key).is_some_and(again)) {
                alerts.push(told);
            }
        }
        (alerts, last)
    }
}
