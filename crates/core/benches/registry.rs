//! The registry with a million agents: `cargo bench`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench measures time, and criterion's macros write functions of their own"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use pap_core::agent_id::AgentId;
use pap_core::alert::VerdictKind;
use pap_core::delivery::{Failure, Outcome};
use pap_core::heartbeat::{Heartbeat, Mode};
use pap_core::outbox::{Dropped, Event, Limits, Next, Outbox, ToOwe, What};
use pap_core::registry::{Filter, Registry, Rules};
use pap_core::time::{Now, Tick, Wall};

const MILLION: usize = 1_000_000;

/// Counts the bytes that are allocated at the moment.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe by nature; this one only counts")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn at(seconds: f64) -> Now {
    Now { tick: Tick::from_start(Duration::from_secs_f64(seconds)), wall: Wall(1_764_669_600_000) }
}

fn id(number: usize) -> AgentId {
    // The ids are spread like real UUIDs.
    let spread = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    AgentId::new(&format!("{:08x}-0000-4000-8000-{number:012x}", spread >> 32)).unwrap()
}

fn beat() -> Heartbeat<'static> {
    Heartbeat { mode: Mode::Idle, uptime: 100.0, name: Some("agent-0123456789".into()) }
}

fn empty_registry(max_agents: usize) -> Registry {
    Registry::new(Rules {
        max_agents,
        grace: Some(Duration::ZERO),
        mass_silence_hold: Duration::ZERO,
        retention: Duration::from_secs(86_400),
        recovery_alerts: false,
        outbox: Limits { queue: 100, ttl: Duration::from_secs(300), senders: 4 },
    })
}

/// A registry of this many agents, and their ids.
fn registry(agents: usize) -> (Registry, Vec<AgentId>) {
    let mut registry = empty_registry(agents);
    let ids: Vec<AgentId> = (0..agents).map(id).collect();
    for id in &ids {
        registry.beat(at(41.0), id, &beat()).unwrap();
    }
    (registry, ids)
}

fn memory(_: &mut Criterion) {
    let ids: Vec<AgentId> = (0..MILLION).map(id).collect();
    let before = ALLOCATED.load(Ordering::Relaxed);
    let (registry, same_ids) = registry(MILLION);
    let ids_alone = ids.capacity() * size_of::<AgentId>();
    let used = ALLOCATED.load(Ordering::Relaxed) - before - ids_alone;
    println!("memory of {MILLION} agents with UUID ids and 16-byte names: {} bytes each", used / MILLION);
    drop((registry, same_ids));
}

/// How long a heartbeat may have to wait while the registry grows. The result is the
/// least of several runs: in the others the machine was busy with something else.
fn growth(_: &mut Criterion) {
    let beat = beat();
    for agents in [100_000, MILLION] {
        let ids: Vec<AgentId> = (0..agents).map(id).collect();
        let slowest = (0..7).map(|_| {
            let mut registry = empty_registry(agents);
            let one = |id| {
                let started = Instant::now();
                registry.beat(at(42.0), id, &beat).unwrap();
                started.elapsed()
            };
            ids.iter().map(one).max()
        });
        println!("slowest first heartbeat of {agents} agents: {:?}", slowest.min().flatten());
    }
}

fn heartbeats(criterion: &mut Criterion) {
    let (mut registry, ids) = registry(MILLION);
    let beat = beat();
    let (mut number, mut seconds) = (0, 42.0);
    criterion.bench_function("beat, one of 1,000,000 at random", |bencher| {
        bencher.iter(|| {
            number = (number + 618_033) % MILLION;
            seconds += 1e-6;
            black_box(registry.beat(at(seconds), &ids[number], &beat)).unwrap();
        });
    });
}

/// What the clients of this project send: a name, and an uptime with a fraction.
fn parsing(criterion: &mut Criterion) {
    let body = br#"{"mode":"IDLE","uptime_seconds":86399.517,"agent_name":"agent-0123456789"}"#;
    criterion.bench_function("a heartbeat's JSON", |bencher| {
        bencher.iter(|| black_box(Heartbeat::from_json(black_box(body))).is_ok());
    });
    for path in ["550e8400-e29b-41d4-a716-446655440000", "pluggedin%2Fresearch%401.2.0"] {
        criterion.bench_function(&format!("an id from the path {path}"), |bencher| {
            bencher.iter(|| black_box(AgentId::from_path(black_box(path))).is_ok());
        });
    }
}

fn sweeps(criterion: &mut Criterion) {
    for agents in [1_000, MILLION] {
        let (mut registry, _) = registry(agents);
        criterion.bench_function(&format!("sweep, none due of {agents}"), |bencher| {
            bencher.iter(|| black_box(registry.sweep(at(42.0), 256)));
        });
    }
    let (mut registry, ids) = registry(MILLION);
    let (mut seconds, beat) = (42.0, beat());
    criterion.bench_function("sweep, 1,000 due of 1,000,000", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                // All agents are heard, a thousand of them a second before the
                // others. Then only these thousand fall due.
                for (number, id) in ids.iter().enumerate() {
                    let heard = if number < 1_000 { seconds } else { seconds + 1.0 };
                    registry.beat(at(heard), id, &beat).unwrap();
                }
                seconds += 45.5;
                let started = Instant::now();
                assert_eq!(black_box(registry.sweep(at(seconds), 2_000)).changes.len(), 1_000);
                took += started.elapsed();
            }
            took
        });
    });
}

fn saving(criterion: &mut Criterion) {
    let (registry, _) = registry(MILLION);
    let mut from = 0;
    criterion.bench_function("save, one step of 1,024 of 1,000,000", |bencher| {
        bencher.iter(|| {
            let mut step = Vec::with_capacity(1024);
            from = registry.save(at(42.0), from, 1024, &mut step).unwrap_or(0);
            black_box(step)
        });
    });
}

fn listing(criterion: &mut Criterion) {
    let (registry, _) = registry(10_000);
    criterion.bench_function("JSON of 10,000 agents", |bencher| {
        bencher.iter(|| {
            let mut ids = Vec::new();
            registry.scan(&Filter::default(), 0, 10_000, &mut ids);
            let views: Vec<_> = ids.iter().filter_map(|id| registry.view(at(42.0), id)).collect();
            black_box(serde_json::to_vec(&views)).unwrap()
        });
    });
}

fn verdict(agent: &AgentId) -> ToOwe<'_> {
    ToOwe { agent, slot: 0, kind: VerdictKind::Death, at: at(1.0), held: false }
}

fn event(outbox: &mut Outbox, agent: &AgentId) -> bool {
    let what = What::Restart { previous_uptime: 9.0, uptime: 1.0, mode: Mode::Idle, twice: None };
    outbox.event(at(1.0).tick, Event { agent: agent.clone(), name: "n".into(), at: at(1.0), what })
}

/// Posts the next alert. The post ends with `outcome`. Returns whether there was one.
fn post(outbox: &mut Outbox, outcome: Outcome) -> bool {
    let seq = match outbox.next(at(1.0).tick) {
        None => return false,
        Some(Next::Verdict { seq, .. }) => seq,
        Some(Next::Event(alert)) => alert.seq,
    };
    outbox.settle(at(1.0).tick, seq, outcome).is_some()
}

/// The cost of one step must hardly grow with the number of alerts that wait.
fn outbox(criterion: &mut Criterion) {
    for waiting in [100, 10_000] {
        let limits = Limits { queue: waiting, ttl: Duration::from_secs(300), senders: 4 };
        let mut outbox = Outbox::new(limits, 0);
        let ids: Vec<AgentId> = (0..=2 * waiting).map(id).collect();
        let (new, ids) = ids.split_last().unwrap();
        // These deaths failed and wait outside the queue, and the queue is full.
        for id in &ids[..waiting] {
            outbox.owe(&verdict(id));
        }
        while post(&mut outbox, Outcome::Failed(Failure::Busy, None)) {}
        for id in &ids[waiting..] {
            assert!(event(&mut outbox, id));
        }
        let held = outbox.owe(&ToOwe { held: true, ..verdict(new) });
        assert_eq!((outbox.owed(), outbox.queued()), (waiting + 1, waiting));
        criterion.bench_function(
            &format!("outbox, a death is told and an event comes, of {waiting}"),
            |bencher| {
                bencher.iter(|| {
                    outbox.owe(&verdict(new));
                    assert!(post(&mut outbox, Outcome::Taken) && event(&mut outbox, new));
                });
            },
        );
        criterion.bench_function(
            &format!("outbox, a death is owed and cancelled, of {waiting}"),
            |bencher| {
                bencher.iter(|| {
                    let seq = outbox.owe(&verdict(new));
                    outbox.withdraw(seq, Dropped::Cancelled);
                });
            },
        );
        criterion.bench_function(&format!("outbox, an event finds no room, of {waiting}"), |bencher| {
            bencher.iter(|| assert!(!event(&mut outbox, new)));
        });
        criterion.bench_function(&format!("outbox, what is due and how old, of {waiting}"), |bencher| {
            bencher.iter(|| {
                let tick = at(1.0).tick;
                black_box((outbox.next_due(), outbox.oldest(tick), outbox.is_under_way(held)))
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).without_plots();
    targets = memory, growth, parsing, heartbeats, sweeps, saving, listing, outbox
}
criterion_main!(benches);
