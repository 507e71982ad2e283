//! What the station knows of an agent, compared with what is true.
//!
//! The station is told alternate verdicts: a death, then its recovery (if
//! recoveries are told), then the next death. At most one recovery and one death of
//! an agent are owed at a time, and the recovery goes first. If the station was not
//! told of a death, the death and its recovery cancel out.

use std::time::Duration;

use super::mass::Died;
use super::{Agent, Marks, Registry};
use crate::alert::{Alert, Death, Details, HEARTBEAT_TIMEOUT, Recovered, VerdictKind};
use crate::delivery::Outcome;
use crate::due_queues::{DueQueue, Slot};
use crate::outbox::{Dropped, Next, Settled, ToOwe};
use crate::time::{Now, millis};

impl Registry {
    /// The next alert to post, if one may go now. The alert is under way until
    /// [`settle`](Self::settle). At most one alert about an agent is under way.
    pub fn next_alert(&mut self, now: Now) -> Option<Alert> {
        match self.outbox.next(now.tick)? {
            Next::Event(alert) => Some(alert),
            Next::Verdict { seq, slot, kind, at, attempts } => {
                let alert = self.verdict_alert(now, slot, (seq, kind, at));
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
                Outcome::Taken => self.told(now, slot, kind, kind == VerdictKind::Death),
                Outcome::Refused(_) => self.told(now, slot, kind, false),
            },
            Some(Settled::Over(slot)) => {
                // The agent may be gone, and another agent may have its slot.
                let same = |agent: &Agent| agent.id == alert.agent;
                if self.agents.get(slot as usize).is_some_and(same) {
                    self.told_late(slot, outcome == Outcome::Taken);
                }
            }
        }
    }

    /// How many agents have a death that the station took, and a recovery that is not
    /// settled yet.
    pub const fn alerted(&self) -> usize {
        self.told_dead
    }

    /// Owes the death of an agent whose verdict has just turned dead.
    pub(super) fn owe_death(&mut self, now: Now, slot: Slot) {
        debug_assert!(self.deaths.get(slot).is_none(), "an agent has at most one death owed");
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

    /// Withdraws the death that is owed about an agent that came back after
    /// `dead_for`, and owes its recovery if the station needs to be told. Returns
    /// whether the recovery may be posted now.
    pub(super) fn owe_recovery(&mut self, now: Now, slot: Slot, dead_for: Duration) -> bool {
        let agent = &self.agents[slot as usize];
        let death = self.deaths.remove(slot);
        // While the death is being posted, we do not know whether the station will
        // take it. The recovery waits for that answer.
        let being_told = death.is_some_and(|seq| self.outbox.is_under_way(seq));
        let told = death.is_none() && agent.marks.told_dead();
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

    /// The station took the verdict, or refused it for good.
    fn told(&mut self, now: Now, slot: Slot, kind: VerdictKind, dead: bool) {
        self.set_told_dead(slot, dead);
        let settled = match kind {
            VerdictKind::Death => self.deaths.remove(slot),
            VerdictKind::Recovery { .. } => self.recoveries.remove(slot),
        };
        debug_assert!(settled.is_some(), "a verdict that is settled was owed");
        if let Some(&death) = self.deaths.get(slot) {
            self.outbox.release(death);
        } else if self.agents[slot as usize].queue == DueQueue::Lingering {
            self.retire(now, slot);
        }
    }

    /// The post of a death has ended, and the agent came back while it was under way.
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
        self.told_dead -= usize::from(agent.marks.told_dead());
        self.told_dead += usize::from(dead);
        agent.marks = Marks::new(dead, agent.marks.was_spared());
    }

    fn verdict_alert(&self, now: Now, slot: Slot, (seq, kind, at): (u64, VerdictKind, Now)) -> Alert {
        let agent = &self.agents[slot as usize];
        let silence = now.tick.since(agent.last_seen);
        let details = match kind {
            VerdictKind::Recovery { dead_for } => {
                Details::Recovered(Recovered { dead_ms: millis(dead_for), mode: agent.mode })
            }
            VerdictKind::Death => {
                let Some(&Died { around, last_hour, awake_since, .. }) = self.died.get(slot) else {
                    unreachable!("a death that is owed is true");
                };
                Details::Death(Death {
                    reason: HEARTBEAT_TIMEOUT.into(),
                    missed_intervals: silence.as_secs() / agent.mode.interval().as_secs(),
                    last_seen: agent.last_seen_wall,
                    mode: agent.mode,
                    uptime_before_death: agent.uptime,
                    silence_ms: millis(silence),
                    silent_together: around.together,
                    known: around.known,
                    deaths_last_hour: last_hour,
                    awake_since,
                    mass_silence: around.mass,
                })
            }
        };
        Alert { agent: agent.id.clone(), name: agent.name(), seq, attempts: 0, at, details }
    }
}
