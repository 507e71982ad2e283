//! A simulated collector writes a trace, and a replay of the trace passes the same
//! verdicts at the same moments. Everything comes from one seed.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::time::Duration;

use fastrand::Rng;
use pap_core::agent_id::AgentId;
use pap_core::delivery::Outcome;
use pap_core::heartbeat::{Heartbeat, Mode};
use pap_core::outbox::Limits;
use pap_core::registry::{Change, Registry, Resume, Rules};
use pap_core::replay::Replay;
use pap_core::replay::report::Report;
use pap_core::time::{Now, Tick, Wall};
use pap_core::trace::read::{Found, block};
use pap_core::trace::tape::{Wish, seal};
use pap_core::trace::{Beat, Head, Known, Record, Tape, TracedRules, VERSION};
use pap_core::verdict::Verdict;
use proptest::collection::vec;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

/// A verdict: the silence at that moment, the agent, and what it turned to.
type Verdicts = Vec<(u64, AgentId, Verdict)>;

fn note(verdicts: &mut Verdicts, changes: &[Change]) {
    let row =
        |change: &Change| (change.agent.silence_ms, change.agent.agent_uuid.clone(), change.agent.status);
    verdicts.extend(changes.iter().map(row));
}

/// The records in some blocks.
fn records(mut bytes: &[u8]) -> Vec<Record> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let Found::Block { records, length } = block(bytes) else { panic!("no block") };
        all.extend(records.map(Result::unwrap));
        bytes = &bytes[length..];
    }
    all
}

fn replay(bytes: &[u8], asked: Option<Duration>) -> (Report, Verdicts) {
    let (mut replay, mut verdicts) = (Replay::new(asked), Verdicts::new());
    for record in records(bytes) {
        note(&mut verdicts, &replay.take(&record));
    }
    (replay.end().unwrap(), verdicts)
}

struct Agent {
    id: AgentId,
    mode: Mode,
    alive: bool,
    started: Duration,
    next: Duration,
}

/// A collector and its agents.
struct World {
    rng: Rng,
    rules: Rules,
    registry: Registry,
    tape: Tape,
    trace: Vec<u8>,
    time: Duration,
    agents: Vec<Agent>,
    verdicts: Verdicts,
    accepted: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let rules = Rules {
            max_agents: 30,
            grace: rng.bool().then(|| Duration::from_millis(rng.u64(0..2000))),
            mass_silence_hold: if rng.bool() { Duration::ZERO } else { Duration::from_secs(rng.u64(1..60)) },
            retention: Duration::from_secs(if rng.bool() { 60 } else { 86_400 }),
            recovery_alerts: rng.bool(),
            outbox: Limits { queue: 5, ttl: 30 * SECOND, senders: 2 },
        };
        let time = Duration::from_nanos(rng.u64(0..1_000_000_000));
        let agents = (0..rng.usize(1..40)).map(|number| {
            let id = if rng.bool() {
                format!("agent {number}")
            } else {
                format!("00000000-0000-4000-8000-{number:012}")
            };
            let mode = Mode::ALL[rng.usize(0..2)];
            let next = time + mode.interval().mul_f64(rng.f64());
            Agent { id: AgentId::new(&id).unwrap(), mode, alive: true, started: time, next }
        });
        let agents = agents.collect();
        let mut world = Self {
            registry: Registry::new(rules),
            rules,
            tape: Tape::OFF,
            trace: Vec::new(),
            time,
            agents,
            verdicts: Vec::new(),
            accepted: 0,
            rng,
        };
        world.begin();
        world
    }

    fn now(&self) -> Now {
        Now {
            tick: Tick::from_start(self.time),
            wall: Wall(1_764_669_600_000 + u64::try_from(self.time.as_millis()).unwrap()),
        }
    }

    fn begin(&mut self) {
        let now = self.now();
        let rules = TracedRules::of(&self.rules);
        let head = Head { run: self.rng.u64(..), part: 0, at: now.tick, wall: now.wall, rules };
        self.tape = Tape::new(head, 1 << 20);
    }

    fn cut(&mut self, ends_file: bool) {
        let wish = Wish { marks: self.registry.next_verdict().is_some(), ends_file, lost: 0 };
        let mut cut = self.tape.cut(self.now(), wish, Vec::new());
        assert_eq!(cut.lost, 0);
        seal(&mut cut.bytes);
        self.trace.extend(cut.bytes);
    }

    /// The collector is upgraded in place, or is killed and started again.
    fn restart(&mut self) {
        self.cut(false);
        let (now, mut saved) = (self.now(), Vec::new());
        self.registry.save(now, 0, usize::MAX, &mut saved);
        self.registry = Registry::new(self.rules);
        self.time += Duration::from_nanos(self.rng.u64(0..20_000_000_000));
        self.begin();
        let now = self.now();
        self.registry.restore(now, saved, if self.rng.bool() { Resume::Continued } else { Resume::Killed });
        self.tape.known(now, &self.registry);
    }

    fn sweep(&mut self) {
        let now = self.now();
        while let Some(alert) = self.registry.next_alert(now) {
            self.registry.settle(now, &alert, Outcome::Taken);
        }
        let swept = self.registry.sweep(now, self.rng.usize(1..4));
        self.tape.swept(now, &swept);
        note(&mut self.verdicts, &swept.changes);
    }

    fn step(&mut self) {
        // The sweeper is late by up to some milliseconds, and heartbeats come between.
        self.time += Duration::from_nanos(self.rng.u64(0..700_000_000));
        match self.rng.usize(0..100) {
            0 => self.tape.paused(self.now(), 3 * SECOND),
            1 => self.restart(),
            2 => {
                let ends_file = self.rng.bool();
                self.cut(ends_file);
            }
            3 => {
                let at = self.rng.usize(0..self.agents.len());
                if self.registry.forget(self.now(), &self.agents[at].id) {
                    self.tape.forgot(self.now(), &self.agents[at].id);
                }
            }
            4..40 => self.sweep(),
            _ => {}
        }
        for at in 0..self.agents.len() {
            let fate = self.rng.usize(0..3000);
            let now = self.now();
            let (time, agent) = (self.time, &mut self.agents[at]);
            match fate {
                0..6 => agent.alive = !agent.alive,
                6..9 => agent.started = time,
                9..12 => agent.mode = Mode::ALL[self.rng.usize(0..2)],
                _ => {}
            }
            if !agent.alive || agent.next > time {
                continue;
            }
            let late = if self.rng.usize(0..8) == 0 { 2.0 * self.rng.f64() } else { 0.1 * self.rng.f64() };
            agent.next = time + agent.mode.interval().mul_f64(1.0 + late);
            let uptime = time.saturating_sub(agent.started).as_secs_f64();
            let beat = Heartbeat { mode: agent.mode, uptime, name: Some("name".into()) };
            if let Ok(received) = self.registry.beat(now, &agent.id, &beat) {
                self.tape.beat(now, &agent.id, &beat, &received);
                self.accepted += 1;
                note(&mut self.verdicts, received.change.as_slice());
            }
        }
    }
}

fn world(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..1500 {
        world.step();
    }
    world.tape.stopped(world.now());
    world.cut(false);
    world
}

#[test]
fn a_replay_passes_the_same_verdicts() {
    let (mut deaths, mut untrue) = (0, 0);
    for seed in 0..60 {
        let world = world(seed);
        let (report, verdicts) = replay(&world.trace, None);
        assert!(verdicts == world.verdicts, "seed {seed}: {verdicts:?}\n{:?}", world.verdicts);
        let dead = verdicts.iter().filter(|(_, _, verdict)| *verdict == Verdict::Dead).count() as u64;
        assert_eq!((report.deaths, report.recorded.deaths, report.heartbeats), (dead, dead, world.accepted));
        deaths += dead;
        untrue += report.false_deaths;
        let asked =
            replay(&world.trace, Some(world.rules.grace.unwrap_or_default().max(Duration::from_millis(1)))).0;
        assert_eq!(asked.recorded, report.recorded, "seed {seed}: another grace changes nothing of then");
    }
    assert!(deaths > 1000 && untrue > 100 && untrue < deaths, "{deaths} {untrue}");
}

/// One agent in EMERGENCY, heard at these moments with these uptimes; the trace ends
/// with a mark.
fn trace(beats: &[(u64, f64)], end: u64) -> Vec<u8> {
    let at = |millis| Now { tick: Tick::from_start(Duration::from_millis(millis)), wall: Wall(millis) };
    let rules = Rules {
        max_agents: 10,
        grace: Some(Duration::ZERO),
        mass_silence_hold: Duration::ZERO,
        retention: 3600 * SECOND,
        recovery_alerts: false,
        outbox: Limits { queue: 5, ttl: 30 * SECOND, senders: 2 },
    };
    let head = Head { run: 1, part: 0, at: at(0).tick, wall: at(0).wall, rules: TracedRules::of(&rules) };
    let (mut registry, mut tape) = (Registry::new(rules), Tape::new(head, 1 << 20));
    let id = AgentId::new("a").unwrap();
    let sweep_to = |registry: &mut Registry, tape: &mut Tape, until: u64| {
        while let Some(due) = registry.next_verdict().filter(|&due| due <= at(until).tick) {
            let now = Now { tick: due, wall: Wall(0) };
            tape.swept(now, &registry.sweep(now, 100));
        }
    };
    for &(millis, uptime) in beats {
        sweep_to(&mut registry, &mut tape, millis);
        let beat = Heartbeat { mode: Mode::Emergency, uptime, name: None };
        let received = registry.beat(at(millis), &id, &beat).unwrap();
        tape.beat(at(millis), &id, &beat, &received);
    }
    sweep_to(&mut registry, &mut tape, end);
    let mut bytes = tape.cut(at(end), Wish { marks: true, ..Wish::default() }, Vec::new()).bytes;
    seal(&mut bytes);
    bytes
}

#[test]
fn the_least_grace_spares_the_agent_and_one_less_does_not() {
    let trace = trace(&[(0, 1.0), (5000, 6.0), (17_250, 18.25), (22_250, 23.25)], 30_000);
    let (report, _) = replay(&trace, None);
    assert_eq!((report.deaths, report.false_deaths), (1, 1));
    let [irregular] = report.irregular.as_slice() else { panic!("{report:?}") };
    assert_eq!(irregular.least_grace_ms, 2251);
    let deaths = |millis| {
        let report = replay(&trace, Some(Duration::from_millis(millis))).0;
        (report.deaths, report.false_deaths)
    };
    assert_eq!((deaths(2251), deaths(2250), deaths(1)), ((0, 0), (1, 1), (1, 1)));
    // The heartbeats were expected after 5 s each.
    let counts: Vec<_> = report
        .jitter
        .iter()
        .filter(|bucket| bucket.count > 0)
        .map(|bucket| (bucket.upto_ms, bucket.count))
        .collect();
    assert_eq!(counts, [(Some(1), 2), (Some(10_000), 1)]);
}

#[test]
fn a_true_death_is_late_by_its_silence() {
    // The agent dies, and restarts at 40 s. It dies again, and the trace ends.
    let trace = trace(&[(0, 100.0), (40_000, 1.0)], 60_000);
    let (report, verdicts) = replay(&trace, None);
    assert_eq!((report.deaths, report.false_deaths), (2, 0));
    assert_eq!(verdicts.len(), 5);
    assert_eq!(report.lateness_ms.max, Some(10_000));
    let asked = replay(&trace, Some(Duration::from_millis(2500))).0;
    assert_eq!((asked.deaths, asked.lateness_ms.p50), (2, Some(12_500)));
    assert_eq!((asked.recorded.deaths, asked.recorded.grace_ms), (2, Some(0)));
    // The trace ends at 60 s: whether 20 s of silence go on is not known.
    assert_eq!(replay(&trace, Some(Duration::from_millis(10_001))).0.deaths, 1);
    assert_eq!(replay(&trace, Some(10 * SECOND)).0.deaths, 2);
}

#[test]
fn nobody_is_judged_over_lost_records() {
    let at =
        |seconds| Now { tick: Tick::from_start(Duration::from_secs(seconds)), wall: Wall(seconds * 1000) };
    let rules = World::new(0).rules;
    let head = Head { run: 1, part: 0, at: at(0).tick, wall: at(0).wall, rules: TracedRules::of(&rules) };
    let (mut registry, mut tape) = (Registry::new(rules), Tape::new(head, 100));
    let mut beat = |tape: &mut Tape, seconds: u64, id: &str| {
        let (id, now) = (AgentId::new(id).unwrap(), at(seconds));
        let beat = Heartbeat {
            mode: Mode::Emergency,
            uptime: Duration::from_secs(seconds).as_secs_f64(),
            name: None,
        };
        tape.beat(now, &id, &beat, &registry.beat(now, &id, &beat).unwrap());
    };
    beat(&mut tape, 1, "a");
    beat(&mut tape, 1, "b");
    for seconds in 2..=30 {
        beat(&mut tape, seconds, "b");
    }
    let first = tape.cut(at(31), Wish::default(), Vec::new());
    assert!(first.lost > 0, "{first:?}");
    beat(&mut tape, 32, "b");
    let mut second = tape.cut(at(90), Wish { marks: true, ..Wish::default() }, Vec::new());
    let mut bytes = [first.bytes, std::mem::take(&mut second.bytes)].concat();
    seal(&mut bytes);
    let all = records(&bytes);
    assert!(all.iter().any(|record| matches!(record, Record::Gap { lost, .. } if *lost == first.lost)));
    let (report, _) = replay(&bytes, Some(Duration::from_millis(5)));
    // Only "b" is heard after the gap. It then falls silent, so it dies once.
    assert_eq!((report.agents, report.deaths, report.irregular.len()), (2, 1, 0));
}

#[test]
fn damage_ends_a_block_and_not_the_trace() {
    let world = world(7);
    let whole = records(&world.trace).len();
    for cut in 0..world.trace.len().min(3000) {
        let mut rest = &world.trace[..cut];
        let mut found = 0;
        while !rest.is_empty() {
            match block(rest) {
                Found::Block { records, length } => {
                    found += records.map(Result::unwrap).count();
                    rest = &rest[length..];
                }
                Found::Cut => break,
                other => panic!("{other:?} after a cut at {cut}"),
            }
        }
        assert!(found <= whole);
    }
    // A block that was torn by a crash, and a whole trace behind it.
    let torn = [&world.trace[..world.trace.len() - 1], &world.trace].concat();
    let (mut rest, mut found, mut damaged) = (torn.as_slice(), 0, 0);
    while !rest.is_empty() {
        match block(rest) {
            Found::Block { records, length } => {
                found += records.map(Result::unwrap).count();
                rest = &rest[length..];
            }
            Found::Damaged(length) => {
                damaged += 1;
                rest = &rest[length..];
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(damaged > 0 && found >= whole, "{damaged} {found} {whole}");
}

/// A trace with a record of each kind.
fn all_kinds() -> Vec<u8> {
    let at = |millis: u64| Now {
        tick: Tick::from_start(Duration::from_millis(millis)),
        wall: Wall(1_764_669_600_000 + millis),
    };
    let rules = Rules {
        max_agents: 1000,
        grace: Some(Duration::from_millis(250)),
        mass_silence_hold: Duration::ZERO,
        retention: 86_400 * SECOND,
        recovery_alerts: false,
        outbox: Limits { queue: 5, ttl: 30 * SECOND, senders: 2 },
    };
    let id = |text: &str| AgentId::new(text).unwrap();
    let beat = |mode, uptime| Heartbeat { mode, uptime, name: None };
    let (uuid, named) = (id("550e8400-e29b-41d4-a716-446655440000"), id("café@1.2.0"));
    let mut former = Registry::new(rules);
    former.beat(at(0), &uuid, &beat(Mode::Emergency, 4.5)).unwrap();
    former.beat(at(19_000), &named, &beat(Mode::Sleep, 86_400.0)).unwrap();
    while former.sweep(at(20_000), 10).more {}
    let mut saved = Vec::new();
    former.save(at(20_000), 0, usize::MAX, &mut saved);

    let mut registry = Registry::new(rules);
    let (now, traced) = (at(20_000), TracedRules::of(&rules));
    let mut tape = Tape::new(Head { run: 77, part: 0, at: now.tick, wall: now.wall, rules: traced }, 1 << 20);
    registry.restore(now, saved, Resume::Continued);
    tape.known(now, &registry);
    for (millis, agent, mode) in
        [(21_000, &uuid, Mode::Emergency), (21_500, &named, Mode::Idle), (22_000, &uuid, Mode::Sleep)]
    {
        let beat = beat(mode, 0.25);
        tape.beat(at(millis), agent, &beat, &registry.beat(at(millis), agent, &beat).unwrap());
    }
    tape.paused(at(22_001), 90 * SECOND);
    let mut trace = tape.cut(at(23_000), Wish { ends_file: true, ..Wish::default() }, Vec::new()).bytes;
    tape.swept(at(67_000), &registry.sweep(at(67_000), 10));
    registry.forget(at(67_001), &uuid);
    tape.forgot(at(67_001), &uuid);
    trace.extend(tape.cut(at(68_000), Wish { marks: true, ..Wish::default() }, Vec::new()).bytes);
    tape.cut(at(69_000), Wish { lost: 3, ..Wish::default() }, Vec::new());
    tape.stopped(at(70_000));
    trace.extend(tape.cut(at(71_000), Wish::default(), Vec::new()).bytes);
    seal(&mut trace);
    trace
}

#[test]
fn the_format_is_the_golden_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/trace-v1.bin");
    if std::env::var_os("PAP_WRITE_GOLDEN").is_some() {
        std::fs::write(path, all_kinds()).unwrap();
    }
    let golden = std::fs::read(path).unwrap();
    let at = |millis: u64| Tick::from_start(Duration::from_millis(millis));
    let (uuid, named) = ("550e8400-e29b-41d4-a716-446655440000", "café@1.2.0");
    let id = |text: &str| AgentId::new(text).unwrap();
    let graces = [Duration::from_millis(250); 3];
    let rules = TracedRules {
        graces,
        retention: 86_400 * SECOND,
        max_agents: 1000,
        mass_silence_hold: Duration::ZERO,
    };
    let head = |part, millis| {
        Record::Head(Head { run: 77, part, at: at(millis), wall: Wall(1_764_669_600_000 + millis), rules })
    };
    let beat = |millis, slot, mode| Record::Beat(Beat { at: at(millis), slot, mode, uptime_ms: 250 });
    let dead = Known {
        at: at(20_000),
        id: id(uuid),
        mode: Mode::Emergency,
        verdict: Verdict::Dead,
        uptime_ms: 4500,
        silence_ms: 20_000,
        is_held: false,
        dead_ms: 0,
    };
    let alive = Known {
        id: id(named),
        mode: Mode::Sleep,
        verdict: Verdict::Healthy,
        uptime_ms: 86_400_000,
        silence_ms: 1000,
        ..dead.clone()
    };
    let expected = [
        head(0, 20_000),
        Record::Known(alive),
        Record::Known(dead),
        Record::Named { slot: 1, id: id(uuid) },
        beat(21_000, 1, Mode::Emergency),
        Record::Named { slot: 0, id: id(named) },
        beat(21_500, 0, Mode::Idle),
        beat(22_000, 1, Mode::Sleep),
        Record::Paused { at: at(22_001), time: 90 * SECOND },
        head(1, 23_000),
        Record::Swept { at: at(67_000), steps: 1 },
        Record::Forgot { at: at(67_001), id: id(uuid) },
        Record::Mark { at: at(68_000) },
        head(1, 69_000),
        Record::Gap { at: at(69_000), lost: 3 },
        Record::Stopped { at: at(70_000) },
    ];
    assert_eq!(records(&golden), expected);
    assert_eq!(all_kinds(), golden, "version {VERSION} is written as it always was");
}

#[test]
fn no_number_in_a_trace_is_too_large_to_count() {
    let end = Tick::from_nanos(u64::MAX / 8);
    let rules = TracedRules {
        graces: [Duration::from_nanos(u64::MAX / 8); 3],
        retention: Duration::from_nanos(u64::MAX / 8),
        max_agents: u64::MAX,
        mass_silence_hold: Duration::from_nanos(u64::MAX / 8),
    };
    let head = Head { run: u64::MAX, part: u64::MAX, at: end, wall: Wall(u64::MAX), rules };
    let id = AgentId::new("a").unwrap();
    let known = Known {
        at: end,
        id: id.clone(),
        mode: Mode::Idle,
        verdict: Verdict::Suspect,
        is_held: true,
        uptime_ms: u64::MAX,
        silence_ms: u64::MAX,
        dead_ms: u64::MAX,
    };
    let mut replay = Replay::new(Some(Duration::ZERO));
    for _ in 0..2 {
        for record in [
            Record::Head(head),
            Record::Known(known.clone()),
            Record::Named { slot: 0, id: id.clone() },
            Record::Beat(Beat { at: end, slot: 0, mode: Mode::Sleep, uptime_ms: u64::MAX }),
            Record::Swept { at: end, steps: u64::MAX },
            Record::Paused { at: end, time: Duration::MAX },
            Record::Gap { at: end, lost: u64::MAX },
            Record::Stopped { at: end },
        ] {
            replay.take(&record);
        }
    }
    assert_eq!((replay.lost(), replay.pauses()), (u64::MAX, (2, Duration::MAX)));
    assert!(replay.end().is_some());
}

proptest! {
    #[test]
    fn any_records_are_judged_or_passed_over(bytes in vec(prop_oneof![0_u8..12, 0_u8..4, any::<u8>()], 0..400)) {
        let golden = all_kinds();
        let Found::Block { length, .. } = block(&golden) else { panic!("no block") };
        // Without a check sum that is right no record would be reached.
        let sealed = |records: &[u8]| {
            let length = u32::try_from(records.len()).unwrap().to_le_bytes();
            let mut whole = [b"PapT\x01".as_slice(), &length, &[0; 4], records].concat();
            seal(&mut whole);
            whole
        };
        let with_head = sealed(&[&golden[13..length], &bytes].concat());
        for offered in [&bytes, &sealed(&bytes), &with_head] {
            let (mut rest, mut replay) = (offered.as_slice(), Replay::new(Some(Duration::from_millis(1))));
            while !rest.is_empty() {
                rest = match block(rest) {
                    Found::Block { records, length } => {
                        for record in records.flatten() {
                            replay.take(&record);
                        }
                        &rest[length..]
                    }
                    Found::Damaged(length) => &rest[length..],
                    Found::Cut | Found::Newer(_) => break,
                };
            }
            if let Some(report) = replay.end() {
                prop_assert!(report.false_deaths <= report.deaths);
            }
        }
    }
}
