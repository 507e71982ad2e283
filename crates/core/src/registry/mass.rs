//! What kind of silence a death is: how many other agents fell silent with it, and how
//! often the agent died before. If half of the agents fall silent at once, it is more
//! likely the network than the agents: a mass silence. Its deaths can be held back
//! for a while.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Change, Registry};
use crate::due_queues::{DueQueue, Slot};
use crate::time::{Now, Tick, Wall};
use crate::verdict::{Cue, Verdict};

/// A mass silence has at least this many agents, and half of the known ones.
const FEWEST: usize = 10;
/// The deaths of the last hour are counted in steps of this length.
const STEP: Duration = Duration::from_secs(300);

/// What else was silent when an agent's deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Around {
    /// Agents that fell silent within the same interval, this one included.
    pub together: u32,
    /// Agents that were not dead when that began.
    pub known: u32,
    /// Whether this is a mass silence.
    pub mass: bool,
}

/// What is kept of a dead agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Died {
    /// When its verdict turned dead.
    pub at: Tick,
    pub around: Around,
    /// How often it died in the hour before, this death included.
    pub last_hour: u32,
    /// Since when the collector was awake.
    pub awake_since: Wall,
}

/// A death that is held back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// When the deadline passed.
    pub at: Tick,
    pub around: Around,
}

/// The deaths of one agent in the last hour.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RecentDeaths {
    /// The number of the newest step.
    newest: u32,
    /// The newest step first.
    counts: [u8; 12],
}

impl RecentDeaths {
    fn step(now: Tick) -> u32 {
        u32::try_from(now.as_nanos() / crate::time::nanos(STEP)).unwrap_or(u32::MAX)
    }

    /// From the counts as they were saved, the newest first.
    pub fn restored(now: Tick, saved: &[u8]) -> Self {
        let mut counts = [0; 12];
        counts.iter_mut().zip(saved).for_each(|(count, &saved)| *count = saved);
        Self { newest: Self::step(now), counts }
    }

    /// The counts at this moment, the newest first.
    pub fn counts(&self, now: Tick) -> [u8; 12] {
        let mut counts = [0; 12];
        let past = usize::try_from(Self::step(now).saturating_sub(self.newest)).unwrap_or(usize::MAX).min(12);
        counts[past..].copy_from_slice(&self.counts[..12 - past]);
        counts
    }

    fn add(&mut self, now: Tick) {
        self.counts = self.counts(now);
        self.newest = Self::step(now);
        self.counts[0] = self.counts[0].saturating_add(1);
    }

    fn total(&self, now: Tick) -> u32 {
        self.counts(now).into_iter().map(u32::from).sum()
    }
}

/// A mass silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MassSilence {
    /// When it was found.
    pub since: Now,
    /// How many agents were silent then.
    pub silent: u32,
    /// Of how many.
    pub known: u32,
}

/// A mass silence began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MassChange {
    /// It was found.
    Began(MassSilence),
    /// Most of its agents are back, or were forgotten.
    Ended {
        /// How long it lasted, in awake time.
        lasted: Duration,
        /// How many of its agents are still dead.
        dead: usize,
    },
}

impl Registry {
    /// The mass silence that lasts, if there is one.
    pub const fn mass_silence(&self) -> Option<MassSilence> {
        self.mass
    }

    /// How many deaths are held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The collector starts, or wakes up after a pause. Deaths say since when it has
    /// been awake.
    pub const fn woke_up(&mut self, at: Wall) {
        self.awake_since = at;
    }

    /// Since when the collector has been awake.
    pub const fn awake_since(&self) -> Wall {
        self.awake_since
    }

    /// When the mass silence that may go on after a restart was found. To be called
    /// before the agents are restored.
    pub const fn remember_mass(&mut self, since: Option<Wall>) {
        self.former_mass = since;
    }

    /// An agent's deadline has passed. Passes the verdict, unless it is held back.
    pub(super) fn fall_silent(&mut self, now: Now, slot: Slot, due: Tick) -> Option<Change> {
        let around = self.around(now, slot);
        if around.mass {
            self.note_mass(now, slot, around);
            if !self.rules.mass_silence_hold.is_zero() {
                self.held.insert(slot, Held { at: now.tick, around });
                self.queues.move_to(&mut self.agents, slot, DueQueue::Held);
                return None;
            }
        }
        Some(self.die(now, slot, due, around))
    }

    /// An agent's death was held back for long enough.
    pub(super) fn hold_no_longer(&mut self, now: Now, slot: Slot, due: Tick) -> Change {
        let Some(held) = self.held.remove(slot) else {
            unreachable!("what stands in this due queue is held");
        };
        self.die(now, slot, due, held.around)
    }

    fn die(&mut self, now: Now, slot: Slot, due: Tick, around: Around) -> Change {
        self.counters.deaths += 1;
        let agent = &self.agents[slot as usize];
        self.silences.died(agent.mode, agent.last_seen);
        let change = self.pass(now, slot, Cue::Silent, Some(now.tick.since(due)));
        let mut recent = self.recent.get(slot).copied().unwrap_or_default();
        recent.add(now.tick);
        let last_hour = recent.total(now.tick);
        self.recent.insert_among(slot, recent, |other| other.total(now.tick) > 0);
        self.put_dead(slot, Died { at: now.tick, around, last_hour, awake_since: self.awake_since });
        self.owe_death(now, slot);
        self.begin_death(now, slot);
        change
    }

    /// Keeps what only a dead agent has.
    pub(super) fn put_dead(&mut self, slot: Slot, died: Died) {
        self.mass_dead += usize::from(died.around.mass);
        self.died.insert(slot, died);
    }

    /// Takes it back.
    pub(super) fn take_dead(&mut self, slot: Slot) -> Option<Died> {
        let died = self.died.remove(slot)?;
        self.mass_dead -= usize::from(died.around.mass);
        Some(died)
    }

    fn around(&mut self, now: Now, slot: Slot) -> Around {
        let agent = &self.agents[slot as usize];
        let together = self.silences.together(now.tick, agent.mode, agent.last_seen);
        let living = self.agents.len() - self.by_status[Verdict::Dead as usize];
        let known = living + together.dead as usize;
        let silent = together.silent as usize;
        let mass = silent >= FEWEST && 2 * silent >= known;
        Around { together: together.silent, known: u32::try_from(known).unwrap_or(u32::MAX), mass }
    }

    fn note_mass(&mut self, now: Now, slot: Slot, around: Around) {
        let until = now.tick + self.agents[slot as usize].mode.interval();
        self.mass_until = self.mass_until.max(until);
        if self.mass.is_some() {
            return;
        }
        let mass = MassSilence { since: now, silent: around.together, known: around.known };
        self.mass = Some(mass);
        self.counters.mass_silences += 1;
        self.told_mass = Some(MassChange::Began(mass));
        self.tell_mass_silence(now, Some(now.wall));
    }

    /// Whether the agents of a mass silence that did not come back are still a mass.
    fn is_mass(&self) -> bool {
        let silent = self.mass_dead + self.held.len();
        let living = self.agents.len() - self.by_status[Verdict::Dead as usize];
        let known = living + self.mass_dead;
        silent >= FEWEST && 2 * silent >= known
    }

    /// When the mass silence is over, if no death is added to it and no agent is heard.
    pub(super) fn mass_ends(&self) -> Option<Tick> {
        self.mass.filter(|_| !self.is_mass()).map(|_| self.mass_until)
    }

    pub(super) fn end_mass(&mut self, now: Now) {
        if self.mass_ends().is_none_or(|end| end > now.tick) {
            return;
        }
        if let Some(mass) = self.mass.take() {
            let lasted = now.tick.since(mass.since.tick);
            self.told_mass = Some(MassChange::Ended { lasted, dead: self.mass_dead });
            self.tell_mass_silence(now, None);
        }
    }

    /// After a restart, a mass silence whose agents are still dead goes on. It was said
    /// before.
    pub(super) fn resume_mass(&mut self, now: Now) {
        let living = self.agents.len() - self.by_status[Verdict::Dead as usize];
        if self.is_mass() {
            let count = |agents: usize| u32::try_from(agents).unwrap_or(u32::MAX);
            let silent = count(self.mass_dead + self.held.len());
            let known = count(living + self.mass_dead);
            let wall = self.former_mass.take().unwrap_or(now.wall);
            let tick = now.tick - Duration::from_millis(now.wall.0.saturating_sub(wall.0));
            self.mass = Some(MassSilence { since: Now { tick, wall }, silent, known });
            self.tell_mass_silence(now, Some(wall));
        }
    }
}
