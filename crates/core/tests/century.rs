//! Years of heartbeats, simulated: agents in IDLE whose heartbeats come up to 5 %
//! early or late, of which one in a hundred is lost, and of which some agents miss
//! several in a row; a collector that is paused, stopped, killed and upgraded; a wall
//! clock that steps. A ledger beside the registry knows what really happened. It
//! accepts no death but of agents that missed two heartbeats in a row, and it misses
//! none of those.
//!
//! `CENTURY_YEARS=100 cargo test --release -p pap-core --test century` simulates a
//! hundred agent-years instead of one. `CENTURY_SEED=n` begins with another seed.

#![allow(
    clippy::unwrap_used,
    clippy::unchecked_time_subtraction,
    reason = "a test ends where something is not as it should be"
)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;
use pap_core::agent_id::AgentId;
use pap_core::heartbeat::{Heartbeat, Mode};
use pap_core::outbox::Limits;
use pap_core::registry::{Registry, Resume, Rules, SavedAgent};
use pap_core::time::{Now, Tick, Wall};
use pap_core::verdict::{Verdict, dead_after};

const AGENTS: usize = 100;
const INTERVAL: Duration = Mode::Idle.interval();
const YEAR: Duration = Duration::from_secs(31_557_600);
/// A collector that is killed has saved its state at most this long before.
const UNSAVED: Duration = Duration::from_secs(5);

/// What happens next in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Heartbeat(usize),
    /// Something happens to the collector.
    Fate,
    /// The collector is killed. It saved its state a moment ago.
    Kill,
}

/// One agent as it really is.
struct Agent {
    id: AgentId,
    /// When its last heartbeat was taken, and the ledger's count of awake time then.
    heard: Duration,
    heard_awake: Duration,
    /// Heartbeats in a row that were not taken.
    missed: u32,
    /// The misses that are still to come in this row.
    to_miss: u32,
    /// A kill may have given it a full deadline since it was heard.
    was_killed: bool,
    is_dead: bool,
}

#[derive(Debug, Default)]
struct Tally {
    heartbeats: u64,
    lost: u64,
    deaths: u64,
    restarts: u64,
    pauses: u64,
}

struct World {
    rng: Rng,
    rules: Rules,
    registry: Registry,
    agents: Vec<Agent>,
    events: BinaryHeap<Reverse<(Duration, Event)>>,
    time: Duration,
    /// The time in which no collector was awake, by the ledger.
    absent: Duration,
    /// How far the wall clock is ahead, in milliseconds.
    wall_step: u64,
    /// The state as it was saved before a kill, and the awake time then.
    saved: Option<(Vec<SavedAgent>, Duration)>,
    last_kill: Duration,
    fates: Fates,
    tally: Tally,
}

/// What happens to the collector, and how often.
#[derive(Clone, Debug)]
struct Fates {
    mean: Duration,
    kinds: std::ops::Range<u32>,
    longest_downtime: Duration,
}

impl World {
    fn new(seed: u64, fates: Fates) -> Self {
        let rules = Rules {
            max_agents: AGENTS,
            grace: None,
            mass_silence_hold: Duration::ZERO,
            retention: 100 * YEAR,
            recovery_alerts: false,
            outbox: Limits { queue: 1, ttl: Duration::from_secs(1), senders: 1 },
        };
        let mut rng = Rng::with_seed(seed);
        let agents = (0..AGENTS).map(|number| Agent {
            id: AgentId::new(&format!("550e8400-e29b-41d4-a716-{number:012}")).unwrap(),
            heard: Duration::ZERO,
            heard_awake: Duration::ZERO,
            missed: 0,
            to_miss: 0,
            was_killed: false,
            is_dead: false,
        });
        let mut world = Self {
            rules,
            registry: Registry::new(rules),
            agents: agents.collect(),
            events: BinaryHeap::new(),
            time: Duration::ZERO,
            absent: Duration::ZERO,
            wall_step: 1 << 40,
            saved: None,
            last_kill: Duration::ZERO,
            fates,
            tally: Tally::default(),
            rng: rng.fork(),
        };
        for number in 0..AGENTS {
            let first = INTERVAL.mul_f64(rng.f64());
            world.events.push(Reverse((first, Event::Heartbeat(number))));
        }
        world.events.push(Reverse((world.fates.mean, Event::Fate)));
        world
    }

    fn awake(&self) -> Duration {
        self.time - self.absent
    }

    fn now(&self) -> Now {
        let since_start = u64::try_from(self.time.as_millis()).unwrap();
        Now { tick: Tick::from_start(self.awake()), wall: Wall(self.wall_step + since_start) }
    }

    fn run(&mut self, end: Duration) {
        while self.time < end {
            let Reverse((at, event)) = self.events.pop().unwrap();
            self.pass(at.max(self.time));
            match event {
                Event::Heartbeat(number) => self.heartbeat(number, at),
                Event::Fate => {
                    self.fate();
                    let next = self.time + self.fates.mean.mul_f64(self.rng.f64() * 2.0);
                    self.events.push(Reverse((next, Event::Fate)));
                }
                Event::Kill => self.kill(),
            }
        }
        self.pass(end);
        self.registry.audit();
    }

    /// Lets time pass to `until`, one sweep at each deadline.
    fn pass(&mut self, until: Duration) {
        loop {
            let due = self.registry.next_verdict().map(|due| due.since(Tick::from_start(Duration::ZERO)));
            let Some(due) = due.filter(|&due| due + self.absent <= until) else { break };
            self.time = self.time.max(due + self.absent);
            for change in self.registry.sweep(self.now(), 1000).changes {
                if change.agent.status == Verdict::Dead {
                    let number = self.agents.iter().position(|agent| agent.id == change.agent.agent_uuid);
                    self.judge_death(number.unwrap());
                }
            }
        }
        self.time = until;
    }

    /// A death is declared: the agent has missed two heartbeats, and was silent for so
    /// long while a collector was there.
    fn judge_death(&mut self, number: usize) {
        self.tally.deaths += 1;
        let (time, awake) = (self.time, self.awake());
        let agent = &mut self.agents[number];
        let silence = awake - agent.heard_awake;
        let truth =
            format!("{number} at {time:?}: silent for {:?}, {silence:?} of it counts", time - agent.heard);
        assert!(agent.missed >= 2, "a false death: {truth}, {} missed", agent.missed);
        assert!(silence >= dead_after(Mode::Idle, None), "too early: {truth}");
        let allowed = dead_after(Mode::Idle, None) * if agent.was_killed { 2 } else { 1 };
        let longest = allowed + if agent.was_killed { UNSAVED } else { Duration::ZERO };
        // Each restart drops less than a millisecond.
        assert!(silence <= longest + Duration::from_millis(100), "too late: {truth}");
        agent.is_dead = true;
    }

    /// A heartbeat that was sent at `at` comes, or does not.
    fn heartbeat(&mut self, number: usize, at: Duration) {
        let next = at + INTERVAL.mul_f64(self.rng.f64().mul_add(0.0999, 0.950_05));
        self.events.push(Reverse((next, Event::Heartbeat(number))));
        let (now, time, awake) = (self.now(), self.time, self.awake());
        let agent = &mut self.agents[number];
        if agent.to_miss == 0 && agent.missed == 0 {
            agent.to_miss = match self.rng.u32(0..100_000) {
                0..1000 => 1,
                1000..1020 => self.rng.u32(2..8),
                _ => 0,
            };
        }
        // One that was sent into an absence is lost after the client's 5 s.
        if agent.to_miss > 0 || at + Duration::from_secs(5) < time {
            agent.to_miss = agent.to_miss.saturating_sub(1);
            agent.missed += 1;
            self.tally.lost += 1;
            return;
        }
        let silence = awake - agent.heard_awake;
        let allowed = dead_after(Mode::Idle, None) * if agent.was_killed { 2 } else { 1 };
        if silence > allowed + UNSAVED && agent.heard > Duration::ZERO {
            assert!(agent.is_dead, "{number} at {time:?}: a missed death, {silence:?} of silence count");
        }
        let beat = Heartbeat { mode: Mode::Idle, uptime: time.as_secs_f64(), name: None };
        let received = self.registry.beat(now, &agent.id, &beat).unwrap();
        assert_eq!(received.change.is_some_and(|change| change.was == Verdict::Dead), agent.is_dead);
        self.tally.heartbeats += 1;
        (agent.heard, agent.heard_awake) = (time, awake);
        (agent.missed, agent.is_dead, agent.was_killed) = (0, false, false);
    }

    fn fate(&mut self) {
        match self.rng.u32(self.fates.kinds.clone()) {
            // From 0.1 s to an hour, short ones more often.
            0..5 => {
                let pause = Duration::from_secs_f64(0.1 * 36_000_f64.powf(self.rng.f64()));
                self.be_absent(pause);
                self.tally.pauses += 1;
            }
            5 => self.restart(Resume::Continued),
            6 => self.restart(Resume::Stopped),
            // Two kills within the time of a deadline are a crash loop, which may cost an
            // agent a second deadline.
            7 if self.saved.is_none() && self.time > self.last_kill + 4 * INTERVAL => {
                self.saved = Some((self.save(), self.awake()));
                let kill = self.time + UNSAVED.mul_f64(self.rng.f64());
                self.events.push(Reverse((kill, Event::Kill)));
            }
            _ => {
                let hours = self.rng.u64(0..10) * 3_600_000;
                self.wall_step =
                    if self.rng.bool() { self.wall_step + hours } else { self.wall_step - hours };
            }
        }
    }

    fn save(&self) -> Vec<SavedAgent> {
        let mut saved = Vec::new();
        assert_eq!(self.registry.save(self.now(), 0, usize::MAX / 2, &mut saved), None);
        saved
    }

    /// The collector is not awake for a while. A heartbeat that was sent less than 5 s
    /// before its end is still in the kernel.
    fn be_absent(&mut self, pause: Duration) {
        self.time += pause;
        self.absent += pause;
    }

    fn restart(&mut self, resume: Resume) {
        if self.saved.is_some() {
            return;
        }
        let saved = self.save();
        self.start_again(saved, resume);
    }

    fn start_again(&mut self, saved: Vec<SavedAgent>, resume: Resume) {
        self.tally.restarts += 1;
        if resume != Resume::Continued {
            let downtime = self.fates.longest_downtime.mul_f64(self.rng.f64());
            self.be_absent(downtime);
        }
        self.registry = Registry::new(self.rules);
        assert_eq!(self.registry.restore(self.now(), saved, resume), 0);
        self.registry.audit();
    }

    fn kill(&mut self) {
        let (saved, _) = self.saved.take().unwrap();
        self.last_kill = self.time;
        self.agents.iter_mut().for_each(|agent| agent.was_killed = true);
        self.start_again(saved, Resume::Killed);
        // What died after the state was saved is found dead again.
        for agent in &mut self.agents {
            let view = self.registry.view(Now { tick: Tick::MIN, wall: Wall(0) }, &agent.id);
            agent.is_dead = view.is_some_and(|view| view.status == Verdict::Dead);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().unwrap())
}

fn run(seed: u64, agent_years: f64, fates: Fates) -> Tally {
    let mut world = World::new(seed, fates);
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    world.run(YEAR.mul_f64(agent_years / AGENTS as f64));
    world.tally
}

#[test]
fn a_century_without_a_false_death_and_without_a_missed_one() {
    let years = u32::try_from(number("CENTURY_YEARS").unwrap_or(1)).unwrap();
    let hour = Duration::from_secs(3600);
    let fates = Fates { mean: hour, kinds: 0..10, longest_downtime: Duration::from_secs(120) };
    let tally = run(number("CENTURY_SEED").unwrap_or(1), f64::from(years), fates);
    println!("{years} agent-years: {tally:?}");
    assert!(tally.deaths > 100 * u64::from(years) && tally.pauses > 0 && tally.restarts > 0, "{tally:?}");
}

#[test]
fn a_collector_that_is_restarted_all_the_time_hides_no_death_and_invents_none() {
    let mut deaths = 0;
    for seed in 0..20 {
        // Every 5 to 52 s, so hardly ever does it run for two intervals. One in three
        // restarts is a kill, as long as kills are not a crash loop.
        let mean = Duration::from_secs(5 + seed * 5 / 2);
        let tally = run(seed, 0.1, Fates { mean, kinds: 5..8, longest_downtime: Duration::from_secs(2) });
        assert!(tally.restarts > 300, "{seed}: {tally:?}");
        deaths += tally.deaths;
    }
    assert!(deaths > 100, "{deaths}");
}
