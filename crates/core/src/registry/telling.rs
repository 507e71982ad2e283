//! What the station knows of a verdict, against what is true.
//!
//! Told verdicts alternate: a death, then (where those are told) its recovery,
//! then the next death. An agent has at most one recovery and one death
//! outstanding, the recovery first; a pair of which nothing was told cancels
//! out.

use std::time::Duration;

use super::{Agent, Registry};
use crate::alert::{Alert, Death, Details, HEARTBEAT_TIMEOUT, Recovered, VerdictKind};
use crate::delivery::Outcome;
use crate::due_queues::{DueQueue, Slot};
use crate::outbox::{Dropped, Next, Settled, ToOwe};
use crate::time::{Now, millis};

impl Registry {
    /// The next alert to post, if any may go now. It is under way until
    /// [`settle`](Self::settle); at most one is under way for an agent.
    pub fn next_alert(&mut self, now: Now) -> Option<Alert> {
        match self.outbox.next(now.tick)? {
            Next::Event(alert) => Some(alert),
            Next::Verdict { seq, slot, kind, at, attempts } => {
                let alert = self.agents[slot as usize].verdict_alert(now, seq, kind, at);
                Some(Alert { attempts, ..alert })
            }
        }
    }

    /// Takes note of how the post of an alert ended.
    pub fn settle(&mut self, now: Now, alert: &Alert, outcome: Outcome) {
        self.revision += 1;
        match self.outbox.settle(now.tick, alert.seq, outcome) {
            None | Some(Settled::Event) => {}
            Some(Settled::Current(slot, kind)) => match outcome {
                Outcome::Failed(..) => {}
                Outcome::Taken => self.told(slot, kind, kind == VerdictKind::Death),
                Outcome::Refused(_) => self.told(slot, kind, false),
            },
            Some(Settled::Over(slot)) => {
                // The agent may be gone, and another in its place.
                let same = |agent: &Agent| agent.id == alert.agent;
                if self.agents.get(slot as usize).is_some_and(same) {
                    self.told_late(slot, outcome == Outcome::Taken);
                }
            }
        }
    }

    /// How many agents the station holds to be dead.
    pub const fn alerted(&self) -> usize {
        self.told_dead
    }

    /// Owes the death of an agent whose verdict has just turned dead.
    pub(super) fn owe_death(&mut self, now: Now, slot: Slot) {
        debug_assert!(self.deaths.get(slot).is_none(), "a death is owed once");
        let verdict = ToOwe {
            agent: &self.agents[slot as usize].id,
            slot,
            kind: VerdictKind::Death,
            at: now,
            held: self.recoveries.get(slot).is_some(),
        };
        let seq = self.outbox.owe(&verdict);
        self.deaths.insert(slot, seq);
    }

    /// Settles what is owed about an agent that came back after `dead_for`.
    /// Returns whether there is something new to tell.
    pub(super) fn owe_recovery(&mut self, now: Now, slot: Slot, dead_for: Duration) -> bool {
        let agent = &self.agents[slot as usize];
        let death = self.deaths.remove(slot);
        // A death that is being posted may or may not be told; its recovery
        // waits for that answer.
        let being_told = death.is_some_and(|seq| self.outbox.is_under_way(seq));
        let told = death.is_none() && agent.told_dead;
        if let Some(seq) = death {
            self.outbox.withdraw(seq, Dropped::Cancelled);
        }
        if self.rules.recovery_alerts && (told || being_told) {
            let kind = VerdictKind::Recovery { dead_for };
            let verdict = ToOwe { agent: &agent.id, slot, kind, at: now, held: being_told };
            let seq = self.outbox.owe(&verdict);
            self.recoveries.insert(slot, seq);
            return told;
        }
        if told {
            self.set_told_dead(slot, false);
        }
        false
    }

    /// The station knows the verdict, or will never know it.
    fn told(&mut self, slot: Slot, kind: VerdictKind, dead: bool) {
        self.set_told_dead(slot, dead);
        let settled = match kind {
            VerdictKind::Death => self.deaths.remove(slot),
            VerdictKind::Recovery { .. } => self.recoveries.remove(slot),
        };
        debug_assert!(settled.is_some(), "what is settled was owed");
        if let Some(&death) = self.deaths.get(slot) {
            self.outbox.release(death);
        } else if self.agents[slot as usize].line == DueQueue::Lingering {
            self.retire(slot);
        }
    }

    /// A death was posted whose agent came back meanwhile.
    fn told_late(&mut self, slot: Slot, taken: bool) {
        let Some(&recovery) = self.recoveries.get(slot) else { return };
        if taken {
            self.outbox.release(recovery);
            self.set_told_dead(slot, true);
        } else {
            self.outbox.withdraw(recovery, Dropped::Cancelled);
            self.recoveries.remove(slot);
            if let Some(&death) = self.deaths.get(slot) {
                self.outbox.release(death);
            }
        }
    }

    fn set_told_dead(&mut self, slot: Slot, dead: bool) {
        let agent = &mut self.agents[slot as usize];
        self.told_dead -= usize::from(agent.told_dead);
        self.told_dead += usize::from(dead);
        agent.told_dead = dead;
    }
}

impl Agent {
    fn verdict_alert(&self, now: Now, seq: u64, kind: VerdictKind, at: Now) -> Alert {
        let silence = now.tick.since(self.last_seen);
        let details = match kind {
            VerdictKind::Recovery { dead_for } => {
                Details::Recovered(Recovered { dead_ms: millis(dead_for), mode: self.mode })
            }
            VerdictKind::Death => Details::Death(Death {
                reason: HEARTBEAT_TIMEOUT.into(),
                missed_intervals: silence.as_secs() / self.mode.interval().as_secs(),
                last_seen: self.last_seen_wall,
                mode: self.mode,
                uptime_before_death: self.uptime,
                silence_ms: millis(silence),
            }),
        };
        Alert { agent: self.id.clone(), name: self.name(), seq, attempts: 0, at, details }
    }
}
