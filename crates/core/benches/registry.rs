//! The registry at the size it is built for: `cargo bench`.

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
use pap_core::beat::{AgentId, Beat, Mode};
use pap_core::outbox::Limits;
use pap_core::registry::{Filter, Registry, Rules};
use pap_core::time::{Now, Tick, Wall};

const MILLION: usize = 1_000_000;

/// Counts the bytes that are allocated, and those that are asked for.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe by nature; this one only counts")]
// SAFETY: every call is handed to the system's allocator as it came.
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
    // Spread, as real UUIDs are.
    let spread = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    AgentId::new(&format!("{:08x}-0000-4000-8000-{number:012x}", spread >> 32)).unwrap()
}

fn beat() -> Beat {
    Beat { mode: Mode::Idle, uptime: 100.0, name: Some("agent-0123456789".into()) }
}

fn empty_registry(max_agents: usize) -> Registry {
    Registry::new(Rules {
        max_agents,
        grace: Duration::ZERO,
        retention: Duration::from_secs(86_400),
        recovery_alerts: false,
        outbox: Limits { queue: 100, ttl: Duration::from_secs(300), senders: 4 },
    })
}

/// A registry of so many agents, and their ids.
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

/// How long a heartbeat may have to wait for the registry to grow. The least of
/// several runs: in the others the machine did something else meanwhile.
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
                // All are heard, a thousand of them a little before the
                // others; then only the thousand fall due.
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

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).without_plots();
    targets = memory, growth, heartbeats, sweeps, saving, listing
}
criterion_main!(benches);
