//! What a death says of the silence around it, and what happens when half of the
//! agents fall silent at once.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::BTreeMap;
use std::time::Duration;

use pap_core::agent_id::AgentId;
use pap_core::alert::{Death, Details};
use pap_core::delivery::Outcome;
use pap_core::heartbeat::{Heartbeat, Mode};
use pap_core::outbox::Limits;
use pap_core::registry::{MassChange, Registry, Resume, Rules, SavedAgent};
use pap_core::time::{Now, Tick, Wall};
use pap_core::verdict::Verdict;

const SECOND: Duration = Duration::from_secs(1);

fn at(millis: u64) -> Now {
    Now { tick: Tick::from_start(Duration::from_millis(millis)), wall: Wall(millis) }
}

fn id(number: usize) -> AgentId {
    AgentId::new(&format!("agent-{number}")).unwrap()
}

/// A registry, the time, and what the registry said.
struct World {
    registry: Registry,
    rules: Rules,
    time: u64,
    /// For each agent that died: when, and the details of its deaths.
    deaths: BTreeMap<String, Vec<(u64, Death)>>,
    masses: Vec<(u64, MassChange)>,
}

impl World {
    fn new(hold: Duration) -> Self {
        let rules = Rules {
            max_agents: 10_000,
            grace: None,
            mass_silence_hold: hold,
            retention: Duration::from_secs(86_400),
            recovery_alerts: false,
            outbox: Limits { queue: 100, ttl: Duration::from_secs(300), senders: 4 },
        };
        let mut registry = Registry::new(rules);
        registry.woke_up(Wall(77));
        Self { registry, rules, time: 0, deaths: BTreeMap::new(), masses: Vec::new() }
    }

    fn beat(&mut self, number: usize, mode: Mode) {
        let beat = Heartbeat { mode, uptime: 1e6, name: None };
        self.registry.beat(at(self.time), &id(number), &beat).unwrap();
    }

    /// Lets time pass to `end`, one sweep at each deadline.
    fn pass(&mut self, end: u64) {
        loop {
            let due = self.registry.next_deadline().map(|due| due.since(Tick::from_start(Duration::ZERO)));
            let due =
                due.map(|due| u64::try_from(due.as_nanos().div_ceil(1_000_000)).unwrap().max(self.time));
            let Some(due) = due.filter(|&due| due <= end) else { break };
            self.time = due;
            let swept = self.registry.sweep(at(due), 7);
            self.masses.extend(swept.mass.map(|change| (due, change)));
            while let Some(alert) = self.registry.next_alert(at(due)) {
                if let Details::Death(death) = &alert.details {
                    let deaths = self.deaths.entry(alert.agent.to_string()).or_default();
                    deaths.push((due, death.clone()));
                }
                self.registry.settle(at(due), &alert, Outcome::Taken);
            }
            self.registry.audit();
        }
        self.time = end;
    }

    /// `agents` send heartbeats in IDLE until `end`, evenly spread over the interval.
    fn beat_until(&mut self, agents: std::ops::Range<usize>, end: u64) {
        let mut due: Vec<(u64, usize)> =
            agents.map(|number| ((number as u64 * 731) % 30_000, number)).collect();
        for (moment, _) in &mut due {
            while *moment < self.time {
                *moment += 30_000;
            }
        }
        loop {
            due.sort_unstable();
            let Some((moment, number)) = due.first_mut().filter(|(moment, _)| *moment < end) else { break };
            let (now, number) = (*moment, *number);
            *moment += 30_000;
            self.pass(now);
            self.beat(number, Mode::Idle);
        }
        self.pass(end);
    }

    fn restart(&mut self, resume: Resume) {
        let (mut saved, now): (Vec<SavedAgent>, _) = (Vec::new(), at(self.time));
        assert_eq!(self.registry.save(now, 0, 100_000, &mut saved), None);
        let text = serde_json::to_string(&saved).unwrap();
        let seq = self.registry.outbox().seq();
        let mass = self.registry.mass_silence().map(|mass| mass.since.wall);
        self.registry = Registry::new(self.rules);
        self.registry.remember_mass(mass);
        self.registry.restore(now, serde_json::from_str(&text).unwrap(), resume);
        self.registry.restore_events(now, seq, Vec::new());
        self.registry.audit();
    }

    fn told(&self) -> usize {
        self.deaths.len()
    }
}

#[test]
fn a_mass_silence_is_said_once_at_its_first_death_and_its_end_once() {
    let mut world = World::new(Duration::ZERO);
    world.beat_until(0..40, 100_000);
    // The network of 20 breaks at 100 s.
    world.beat_until(20..40, 170_000);
    assert_eq!(world.told(), 20);
    let [(found, MassChange::Began(mass))] = world.masses[..] else { panic!("{:?}", world.masses) };
    let first = world.deaths.values().map(|deaths| deaths[0].0).min().unwrap();
    assert_eq!((found, mass.silent, mass.known), (first, 20, 40));
    for (_, death) in world.deaths.values().flatten() {
        assert_eq!((death.silent_together, death.known, death.mass_silence), (20, 40, true), "{death:?}");
        assert_eq!((death.deaths_last_hour, death.awake_since), (1, Wall(77)));
    }
    assert_eq!(world.registry.mass_silence(), Some(mass));
    // Then ten of them are back, and what is left is not half of the agents.
    world.beat_until(10..40, 300_000);
    let [_, (_, MassChange::Ended { dead, lasted })] = world.masses[..] else { panic!("{:?}", world.masses) };
    assert!((10..20).contains(&dead) && lasted > 30 * SECOND, "{:?}", world.masses);
    assert_eq!(world.registry.mass_silence(), None);
}

#[test]
fn fewer_than_ten_or_than_half_are_no_mass() {
    for (silent, of, is_mass) in
        [(9, 10, false), (10, 20, true), (10, 21, false), (10, 10, true), (30, 61, false)]
    {
        let mut world = World::new(Duration::ZERO);
        world.beat_until(0..of, 100_000);
        world.beat_until(silent..of, 200_000);
        assert_eq!(world.told(), silent);
        assert_eq!(world.masses.len(), usize::from(is_mass), "{silent} of {of}");
        for (_, death) in world.deaths.values().flatten() {
            assert_eq!((death.silent_together as usize, death.known as usize), (silent, of), "{death:?}");
            assert_eq!(death.mass_silence, is_mass);
        }
    }
}

#[test]
fn deaths_one_by_one_are_no_mass() {
    let mut world = World::new(Duration::ZERO);
    world.beat_until(0..40, 100_000);
    // Two agents fall silent in each interval.
    for silent in 1..20 {
        world.beat_until(silent * 2..40, 100_000 + 30_000 * silent as u64);
    }
    world.pass(1_000_000);
    assert_eq!(world.masses, []);
    assert!(world.deaths.values().flatten().any(|(_, death)| death.silent_together <= 4));
}

#[test]
fn what_comes_back_within_the_hold_was_never_dead_and_the_rest_is_told() {
    let mut world = World::new(60 * SECOND);
    world.beat_until(0..40, 100_000);
    world.pass(160_000);
    assert!(world.registry.held() > 20, "{}", world.registry.held());
    assert_eq!((world.told(), world.registry.counters().deaths), (0, 0), "nothing is told yet");
    assert!(world.registry.view(at(world.time), &id(0)).unwrap().healthy);
    assert_eq!(world.masses.len(), 1);
    // Ten come back before the first is held for 60 s, another twenty do not.
    world.beat_until(0..10, 190_000);
    world.beat_until(0..20, 400_000);
    world.registry.audit();
    let told: Vec<&String> = world.deaths.keys().collect();
    assert!(!told.iter().any(|name| (0..10).any(|number| **name == id(number).to_string())), "{told:?}");
    assert_eq!(
        told.iter().filter(|name| (20..40).any(|number| ***name == id(number).to_string())).count(),
        20
    );
    for (&(told, _), death) in world.deaths.values().map(|deaths| (&deaths[0], &deaths[0].1)) {
        assert!(death.mass_silence && death.silent_together == 40, "{death:?}");
        let silence = told - death.last_seen.0;
        assert!((123_000..123_010).contains(&silence), "two intervals, a tenth and the hold: {silence}");
    }
    assert_eq!(world.registry.counters().recoveries, world.registry.counters().deaths - 20);
}

#[test]
fn a_restart_within_the_hold_loses_no_death_and_holds_none_anew() {
    let mut world = World::new(60 * SECOND);
    world.beat_until(0..30, 100_000);
    world.pass(170_000);
    assert!(world.registry.held() > 25);
    for _ in 0..10 {
        world.restart(Resume::Continued);
        world.pass(world.time + 4000);
    }
    world.pass(230_000);
    assert_eq!(world.told(), 30);
    for deaths in world.deaths.values() {
        let (told, death) = &deaths[0];
        assert!((123_000..123_100).contains(&(told - death.last_seen.0)), "{told} {death:?}");
        assert!(death.mass_silence);
    }
    let began = world.masses.iter().filter(|(_, change)| matches!(change, MassChange::Began(_))).count();
    assert_eq!(began, 1, "said once");
    let MassChange::Began(found) = world.masses[0].1 else { panic!("it began") };
    let now = world.registry.mass_silence().unwrap();
    assert_eq!(now.since.wall, found.since.wall, "also after ten restarts");
}

#[test]
fn what_is_held_under_a_shorter_grace_waits_for_the_new_deadline() {
    let mut world = World::new(60 * SECOND);
    world.beat_until(0..30, 100_000);
    world.pass(170_000);
    assert!(world.registry.held() > 25);
    world.rules.grace = Some(120 * SECOND);
    world.restart(Resume::Stopped);
    assert_eq!(world.registry.held(), 0);
    world.pass(1_000_000);
    assert_eq!(world.told(), 30);
    for (told, death) in world.deaths.values().flatten() {
        assert!(
            told - death.last_seen.0 >= 240_000,
            "two intervals, the new grace and the hold: {told} {death:?}"
        );
    }
}

#[test]
fn the_end_of_a_mass_silence_is_said_when_too_few_are_left() {
    for forgotten in [false, true] {
        let mut world = World::new(Duration::ZERO);
        world.beat_until(0..30, 100_000);
        world.pass(200_000);
        assert_eq!(world.told(), 30);
        for number in 0..21 {
            if forgotten {
                let now = at(world.time);
                world.registry.forget(now, &id(number));
            } else {
                world.beat(number, Mode::Sleep);
            }
            world.pass(world.time + 1);
            // As long as it is half of those who are known, and ten.
            let lasts = 29 - number >= if forgotten { 10 } else { 15 };
            assert_eq!(world.registry.mass_silence().is_some(), lasts, "{number}, {forgotten}");
        }
        let ended = world.masses.get(1).map(|&(_, change)| change);
        let left = if forgotten { 9 } else { 14 };
        assert!(matches!(ended, Some(MassChange::Ended { dead, .. }) if dead == left), "{ended:?}");
        assert_eq!(world.masses.len(), 2);
        assert_eq!(world.registry.mass_silence(), None);
    }
}

#[test]
fn a_death_says_how_often_the_agent_died_in_the_last_hour() {
    let mut world = World::new(Duration::ZERO);
    for round in 0..10 {
        world.beat(1, Mode::Emergency);
        world.pass(world.time + 900_000);
        if round % 3 == 2 {
            world.restart(Resume::Continued);
        }
    }
    let counts: Vec<u32> = world.deaths["agent-1"].iter().map(|(_, death)| death.deaths_last_hour).collect();
    assert_eq!(counts, [1, 2, 3, 4, 4, 4, 4, 4, 4, 4], "one each quarter of an hour");
    assert_eq!(world.registry.stats().by_status[Verdict::Dead as usize], 1);
}
