//! What a trace costs, and how fast it is replayed: `cargo bench --bench trace`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a bench measures; criterion's macros write functions of their own"
)]

use std::hint::black_box;
use std::mem;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use pap_core::agent_id::AgentId;
use pap_core::heartbeat::{Heartbeat, Mode};
use pap_core::outbox::Limits;
use pap_core::registry::{Registry, Rules};
use pap_core::replay::Replay;
use pap_core::time::{Now, Tick, Wall};
use pap_core::trace::read::{Found, block};
use pap_core::trace::tape::{Wish, seal};
use pap_core::trace::{Head, Tape, TracedRules};

const HEARTBEATS: usize = 1_000_000;

fn at(seconds: f64) -> Now {
    Now { tick: Tick::from_start(Duration::from_secs_f64(seconds)), wall: Wall(1_764_669_600_000) }
}

fn id(number: usize) -> AgentId {
    // The ids are spread like real UUIDs.
    let spread = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    AgentId::new(&format!("{:08x}-0000-4000-8000-{number:012x}", spread >> 32)).unwrap()
}

fn beat(uptime: f64) -> Heartbeat<'static> {
    Heartbeat { mode: Mode::Idle, uptime, name: Some("agent-0123456789".into()) }
}

fn collector(agents: usize) -> (Registry, Tape, Vec<AgentId>) {
    let rules = Rules {
        max_agents: agents,
        grace: Duration::ZERO,
        retention: Duration::from_secs(86_400),
        recovery_alerts: false,
        outbox: Limits { queue: 100, ttl: Duration::from_secs(300), senders: 4 },
    };
    let head = Head { run: 1, part: 0, at: at(0.0).tick, wall: at(0.0).wall, rules: TracedRules::of(&rules) };
    (Registry::new(rules), Tape::new(head, usize::MAX), (0..agents).map(id).collect())
}

/// What a trace adds to a heartbeat: the record, and its share of the check sum, which
/// is made without the lock.
fn recording(criterion: &mut Criterion) {
    let (mut registry, mut tape, ids) = collector(10_000);
    let beat = beat(3600.5);
    let received: Vec<_> = ids.iter().map(|id| registry.beat(at(1.0), id, &beat).unwrap()).collect();
    // Only the first heartbeat of an agent names it.
    for (id, received) in ids.iter().zip(&received) {
        tape.beat(at(1.0), id, &beat, received);
    }
    let received: Vec<_> = ids.iter().map(|id| registry.beat(at(2.0), id, &beat).unwrap()).collect();
    let (mut number, mut seconds, mut spare) = (0, 2.0, Vec::new());
    for (name, sealed) in [("record a heartbeat", false), ("record a heartbeat, check sum included", true)] {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                number = (number + 6_181) % ids.len();
                seconds += 1e-5;
                tape.beat(at(seconds), &ids[number], &beat, &received[number]);
                if tape.is_heavy() {
                    let mut bytes = tape.cut(at(seconds), Wish::default(), mem::take(&mut spare)).bytes;
                    if sealed {
                        seal(&mut bytes);
                    }
                    spare = bytes;
                }
            });
        });
    }
}

/// A million heartbeats, each some milliseconds away from its agent's rhythm.
fn trace(agents: usize) -> Vec<u8> {
    let (mut registry, mut tape, ids) = collector(agents);
    let between = 30.0 / agents as f64;
    for number in 0..HEARTBEATS {
        let seconds = 1.0 + number as f64 * between;
        let (now, id) = (at(seconds + (number % 7) as f64 * 1e-9), &ids[number * 61 % agents]);
        let beat = beat(seconds);
        let received = registry.beat(now, id, &beat).unwrap();
        tape.beat(now, id, &beat, &received);
    }
    let mut bytes = tape.cut(at(1e6), Wish::default(), Vec::new()).bytes;
    seal(&mut bytes);
    println!("{HEARTBEATS} heartbeats of {agents} agents take {} bytes", bytes.len());
    bytes
}

fn replaying(criterion: &mut Criterion) {
    for agents in [1_000, 100_000] {
        let trace = trace(agents);
        for (name, asked) in
            [("as recorded", None), ("and under another grace", Some(Duration::from_secs(3)))]
        {
            let name = format!("replay {HEARTBEATS} heartbeats of {agents} agents, {name}");
            criterion.bench_function(&name, |bencher| {
                bencher.iter(|| {
                    let (mut rest, mut replay) = (trace.as_slice(), Replay::new(asked));
                    while !rest.is_empty() {
                        let Found::Block { records, length } = block(rest) else { panic!("no block") };
                        for record in records {
                            replay.take(&record.unwrap());
                        }
                        rest = &rest[length..];
                    }
                    let report = black_box(replay.end().unwrap());
                    assert_eq!((report.heartbeats, report.deaths), (HEARTBEATS as u64, 0));
                });
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).without_plots();
    targets = recording, replaying
}
criterion_main!(benches);
