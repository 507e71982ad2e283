//! Judges the deaths that the collector told. It knows of each agent when the
//! collector heard from it, between two bounds: a heartbeat that was answered
//! arrived between its sending and its answer.

use std::collections::HashMap;
use std::time::Duration;

use pap_core::heartbeat::Mode;

use super::Options;
use super::agents::Agent;
use super::drive::Outcome;
use crate::station::Post;

/// How much later than it is due a death may be told and still be expected.
const SLACK: Duration = Duration::from_secs(1);
/// How long after the end of a silence its death may still arrive.
const ON_THE_WAY: Duration = Duration::from_secs(5);

/// The last that the collector heard from an agent. Times count from the start.
#[derive(Clone, Copy, Debug)]
struct Heard {
    from: Duration,
    until: Duration,
    mode: Mode,
    /// Heartbeats after it that were not answered.
    missed: u32,
}

/// A silence that may have been long enough for a death.
#[derive(Debug)]
struct Silence {
    agent: usize,
    begun: Heard,
    /// When the collector heard from the agent again, between two bounds.
    ended: (Duration, Duration),
    /// The agent really died.
    has_died: bool,
    told: u32,
}

/// What the collector heard from the agents, and their silences.
#[derive(Debug)]
pub struct Ledger {
    heard: Vec<Option<Heard>>,
    silences: Vec<Silence>,
}

impl Ledger {
    pub fn new(agents: usize) -> Self {
        Self { heard: vec![None; agents], silences: Vec::new() }
    }

    /// A heartbeat was accepted between two moments.
    pub fn accepted(&mut self, options: &Options, agent: usize, mode: Mode, between: (Duration, Duration)) {
        self.end_silence(options, agent, between, false);
        self.heard[agent] = Some(Heard { from: between.0, until: between.1, mode, missed: 0 });
    }

    /// A heartbeat got no answer until now. It may have arrived.
    pub fn not_answered(&mut self, agent: usize, now: Duration) {
        if let Some(heard) = &mut self.heard[agent] {
            heard.until = now;
            heard.missed += 1;
        }
    }

    /// A heartbeat did not arrive, or was refused.
    pub fn not_accepted(&mut self, agent: usize) {
        if let Some(heard) = &mut self.heard[agent] {
            heard.missed += 1;
        }
    }

    /// The agent said goodbye between two moments.
    pub fn goodbye(
        &mut self,
        options: &Options,
        number: usize,
        agent: &Agent,
        between: (Duration, Duration),
    ) {
        self.end_silence(options, number, between, agent.dies.is_some());
        self.heard[number] = None;
    }

    /// The latest moment at which an agent may have been heard last.
    pub fn heard_until(&self, agent: usize) -> Option<Duration> {
        self.heard[agent].map(|heard| heard.until)
    }

    fn end_silence(&mut self, options: &Options, agent: usize, ended: (Duration, Duration), has_died: bool) {
        let Some(begun) = self.heard[agent] else { return };
        if ended.1 - begun.from >= options.dead_after(begun.mode) {
            self.silences.push(Silence { agent, begun, ended, has_died, told: 0 });
        }
    }
}

/// The deaths that were told, and those that were not.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// The agent had died, or had missed two heartbeats or more in a row.
    pub correct: usize,
    /// The agent lived, and had missed one heartbeat in a row at most.
    pub false_deaths: usize,
    /// The agent was not silent for as long as the collector's own rules say.
    pub early: usize,
    pub twice: usize,
    /// The silence was long enough, and no death was told.
    pub missed: usize,
    pub restarts: usize,
    pub emergencies: usize,
    /// Alerts that the station did not take.
    pub refused: usize,
    /// From the deadline to the alert's arrival at the station, at most.
    pub lags: Vec<Duration>,
}

impl Verdicts {
    pub fn are_good(&self) -> bool {
        self.false_deaths + self.early + self.twice + self.missed == 0
    }
}

/// Compares what the station was told with what happened.
pub fn judge(options: &Options, outcome: &Outcome, posts: &[Post]) -> Verdicts {
    let of_kind = |kind: &str| posts.iter().filter(|post| post.text("type") == kind).count();
    let mut verdicts = Verdicts {
        restarts: of_kind("RESTART_DETECTED"),
        emergencies: of_kind("EMERGENCY_MODE"),
        refused: posts.iter().filter(|post| post.status != 201).count(),
        ..Verdicts::default()
    };
    let numbers: HashMap<&str, usize> =
        outcome.agents.iter().enumerate().map(|(number, agent)| (agent.id.as_str(), number)).collect();
    let mut silences: HashMap<usize, Vec<Silence>> = HashMap::new();
    for silence in &outcome.ledger.silences {
        silences.entry(silence.agent).or_default().push(Silence { told: 0, ..*silence });
    }
    for post in posts.iter().filter(|post| post.text("type") == "AGENT_DEATH" && post.status == 201) {
        // Another client's agent is not ours to judge.
        let Some(number) = numbers.get(post.text("agent_uuid")) else { continue };
        let at = post.at.saturating_duration_since(outcome.start);
        let silence = silences.get_mut(number).and_then(|silences| {
            silences.iter_mut().find(|silence| {
                let earliest = silence.begun.from + options.dead_after(silence.begun.mode);
                (earliest..=silence.ended.1 + ON_THE_WAY).contains(&at)
            })
        });
        let Some(silence) = silence else {
            verdicts.early += 1;
            continue;
        };
        silence.told += 1;
        if silence.told > 1 {
            verdicts.twice += 1;
        } else if silence.has_died || silence.begun.missed >= 2 {
            verdicts.correct += 1;
            let deadline = silence.begun.until + options.dead_after(silence.begun.mode);
            verdicts.lags.push(at.saturating_sub(deadline));
        } else {
            verdicts.false_deaths += 1;
        }
    }
    verdicts.missed = silences
        .values()
        .flatten()
        .filter(|silence| {
            let certain = silence.ended.0.saturating_sub(silence.begun.until);
            silence.told == 0 && certain >= options.dead_after(silence.begun.mode) + SLACK
        })
        .count();
    verdicts
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use argh::FromArgs as _;

    use super::super::{agents, drive::Tally};
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// One agent in EMERGENCY: heard at 0 s, then `missed` heartbeats did not arrive,
    /// and at `again` it was heard or said goodbye. Deaths were told at `told`.
    fn verdicts(missed: u32, again: u64, dies: bool, told: &[u64]) -> [usize; 5] {
        let options = Options::from_args(&["swarm"], &["--agents", "1", "--mix", "1:0:0", "--grace-ms", "0"]);
        let options = options.unwrap();
        let mut agents = agents::draw(&options).unwrap();
        agents[0].dies = dies.then_some(s(1));
        let mut ledger = Ledger::new(1);
        ledger.accepted(&options, 0, Mode::Emergency, (s(0), s(0)));
        (0..missed).for_each(|_| ledger.not_accepted(0));
        if dies {
            ledger.goodbye(&options, 0, &agents[0], (s(again), s(again)));
        } else {
            ledger.accepted(&options, 0, Mode::Emergency, (s(again), s(again)));
        }
        let start = Instant::now();
        let body = serde_json::json!({ "type": "AGENT_DEATH", "agent_uuid": agents[0].id });
        let post = |&at: &u64| Post {
            at: start + s(at),
            method: String::new(),
            path: String::new(),
            authorization: None,
            length: 0,
            body: body.clone(),
            status: 201,
        };
        let posts: Vec<_> = told.iter().map(post).collect();
        let outcome = Outcome { start, agents, ledger, tally: Tally::default(), opened: 0, used: None };
        let Verdicts { correct, false_deaths, early, twice, missed, .. } = judge(&options, &outcome, &posts);
        [correct, false_deaths, early, twice, missed]
    }

    #[test]
    fn each_death_is_judged_by_what_happened() {
        let [correct, is_false, early, twice, missed] =
            [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]];
        assert_eq!(verdicts(0, 5, false, &[]), [0; 5]);
        assert_eq!(verdicts(1, 10, false, &[]), [0; 5], "whether it was long enough nobody knows");
        assert_eq!(verdicts(1, 10, false, &[10]), is_false);
        assert_eq!(verdicts(2, 15, false, &[10]), correct);
        assert_eq!(verdicts(2, 15, false, &[]), missed);
        assert_eq!(verdicts(2, 15, false, &[10, 11]), twice);
        assert_eq!(verdicts(0, 20, true, &[11]), correct);
        assert_eq!(verdicts(0, 20, true, &[]), missed);
        assert_eq!(verdicts(0, 9, true, &[9]), early);
        assert_eq!(verdicts(0, 5, false, &[3]), early);
    }
}
