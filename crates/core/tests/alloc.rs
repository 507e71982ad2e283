//! How much heap the registry takes: none for a heartbeat of a known agent, and few
//! bytes for a new agent.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use pap_core::agent_id::AgentId;
use pap_core::heartbeat::{Heartbeat, Mode};
use pap_core::outbox::Limits;
use pap_core::registry::{Registry, Rules};
use pap_core::time::{Now, Tick, Wall};

/// Counts the blocks and bytes that this thread allocates.
struct Counting;

thread_local! {
    static BLOCKS: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

/// What a block of `size` bytes costs in dlmalloc: 8 bytes more, rounded up to a
/// multiple of 16, and at least 32.
fn cost(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

#[expect(unsafe_code, reason = "an allocator is unsafe by nature; this one only counts")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BLOCKS.set(BLOCKS.get() + 1);
        BYTES.set(BYTES.get().wrapping_add(cost(layout.size())));
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // This thread may free what another thread allocated.
        BYTES.set(BYTES.get().wrapping_sub(cost(layout.size())));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn at(seconds: u64) -> Now {
    Now { tick: Tick::from_start(Duration::from_secs(seconds)), wall: Wall(seconds * 1000) }
}

fn registry(max_agents: usize) -> Registry {
    Registry::new(Rules {
        max_agents,
        grace: Some(Duration::ZERO),
        mass_silence_hold: Duration::ZERO,
        retention: Duration::from_secs(86_400),
        recovery_alerts: true,
        outbox: Limits { queue: 100, ttl: Duration::from_secs(300), senders: 4 },
    })
}

fn uuid(number: usize) -> String {
    let spread = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!("{:08x}-0000-4000-8000-{number:012x}", spread >> 32)
}

#[test]
fn a_heartbeat_of_a_known_agent_takes_nothing_of_the_heap() {
    let long = "a name that is longer than what is kept in place: ".repeat(2);
    let uuid = uuid(7);
    for id in [uuid.as_str(), "pluggedin/research@1.2.0", &long] {
        // By default, pap-heartbeat sends the id as the name.
        for name in [None, Some(id), Some("short"), Some(long.as_str()), Some(uuid.as_str())] {
            let mut registry = registry(10);
            let id = AgentId::new(id).unwrap();
            let beats = [Mode::Idle, Mode::Idle, Mode::Sleep, Mode::Idle].map(|mode| Heartbeat {
                mode,
                uptime: 100.0,
                name: name.map(Into::into),
            });
            registry.beat(at(1), &id, &beats[0]).unwrap();
            let before = BLOCKS.get();
            for (seconds, beat) in (2..).zip(&beats) {
                assert!(!registry.beat(at(seconds), &id, beat).unwrap().is_new);
            }
            assert_eq!(BLOCKS.get() - before, 0, "{id} named {name:?}");
            let view = registry.view(at(9), &id).unwrap();
            assert_eq!(view.agent_name, name.map_or_else(|| id.to_string(), Into::into));
        }
    }
}

/// An agent takes 96 bytes in the slab, which is reserved at the start. A place in the
/// index takes 5 bytes. The index's tables double when they are 7/8 full, so the index
/// takes 5.7 to 11.4 bytes an agent; with 100,000 agents it takes 6.7.
#[test]
fn an_agent_takes_104_bytes() {
    const AGENTS: usize = 100_000;
    let name = Some("agent-0123456789".into());
    let beat = Heartbeat { mode: Mode::Idle, uptime: 100.0, name };
    let ids: Vec<AgentId> = (0..AGENTS).map(|number| AgentId::new(&uuid(number)).unwrap()).collect();
    let before = BYTES.get();
    let mut registry = registry(AGENTS);
    for id in &ids {
        registry.beat(at(1), id, &beat).unwrap();
    }
    let each = (BYTES.get() - before) / AGENTS;
    assert!((96..=104).contains(&each), "{each} bytes an agent");
}
