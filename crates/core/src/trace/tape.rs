//! The writing end of a trace: records become bytes in memory, and somebody else
//! writes them to a disk.
//!
//! The registry's lock is held while a record is made, so a record costs some tens of
//! nanoseconds, and the memory is bounded. When there is no room, records are counted
//! as lost, and the trace says so where it goes on.

use std::mem;
use std::time::Duration;

use crate::agent_id::{AgentId, IdRef};
use crate::due_queues::Slot;
use crate::heartbeat::{Heartbeat, Mode};
use crate::registry::{Filter, Received, Registry, Rules, Swept};
use crate::time::{Now, Tick, millis, nanos};
use crate::verdict::{Verdict, dead_after};

use super::wire::{self, FULL_BLOCK, HEADER, MAGIC, check_sum, tag};
use super::{Head, TracedRules, VERSION};

/// The thread that writes the bytes to a disk should write before its time when there are
/// this many, or when a quarter of the memory is used.
const HEAVY: usize = 256 * 1024;

/// Bytes that are to be written, and what is in them.
#[derive(Debug, Default)]
pub struct Cut {
    /// Whole blocks.
    pub bytes: Vec<u8>,
    /// How many records they hold.
    pub records: u64,
    /// How many records are missing behind them. The trace says so where it goes on.
    pub lost: u64,
    /// What follows belongs into the next file.
    pub ends_file: bool,
}

/// What the writer asks for when it cuts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// A deadline is open, so the time that passed is worth a record.
    pub marks: bool,
    /// What follows is to begin a new file.
    pub ends_file: bool,
    /// How many records of the cut before did not reach the disk. What was recorded
    /// since is of no use without them, so it is dropped.
    pub lost: u64,
}

/// A trace in the making. One that is [`Tape::OFF`] records nothing.
#[derive(Debug)]
pub struct Tape {
    /// None if nothing is recorded.
    head: Option<Head>,
    /// The most bytes that may wait.
    most: usize,
    bytes: Vec<u8>,
    /// Where the open block begins.
    open: Option<usize>,
    /// The moment of the record before, in this block.
    last: Tick,
    records: u64,
    lost: u64,
    /// Which slots were named since the last head.
    named: Vec<u64>,
}

impl TracedRules {
    /// The part of the registry's rules that is traced.
    pub fn of(rules: &Rules) -> Self {
        Self {
            graces: Mode::ALL.map(|mode| dead_after(mode, rules.grace).saturating_sub(2 * mode.interval())),
            retention: rules.retention,
            max_agents: rules.max_agents as u64,
            mass_silence_hold: rules.mass_silence_hold,
        }
    }
}

impl Tape {
    /// Records nothing.
    pub const OFF: Self = Self {
        head: None,
        most: 0,
        bytes: Vec::new(),
        open: None,
        last: Tick::MIN,
        records: 0,
        lost: 0,
        named: Vec::new(),
    };

    /// Begins a run with a head. At most about `most` bytes wait to be written.
    pub fn new(head: Head, most: usize) -> Self {
        let mut tape = Self { head: Some(head), most, ..Self::OFF };
        tape.write_head(head.at);
        tape
    }

    /// Records the agents that `registry` knows when the run begins. Call it at the
    /// moment at which they were restored: their silence is then in whole milliseconds.
    /// The work grows with the number of agents, and the limit on memory does not hold.
    pub fn known(&mut self, now: Now, registry: &Registry) {
        if self.head.is_none() {
            return;
        }
        let most = mem::replace(&mut self.most, usize::MAX);
        let mut ids = Vec::new();
        registry.scan(&Filter::default(), 0, usize::MAX, &mut ids);
        for agent in ids.iter().filter_map(|id| registry.view(now, id)) {
            let held = registry.held_for(now, &agent.agent_uuid);
            let dead = held.or_else(|| registry.dead_for(now, &agent.agent_uuid));
            self.put(now.tick, tag::KNOWN, |out| {
                wire::id(out, &agent.agent_uuid);
                wire::number(out, agent.mode as u64);
                wire::number(out, if held.is_some() { wire::HELD } else { agent.status as u64 });
                wire::number(out, whole_millis(agent.uptime_seconds));
                wire::number(out, agent.silence_ms);
                wire::number(out, dead.map_or(0, millis));
            });
        }
        self.most = most;
    }

    /// Records a heartbeat that the registry took.
    pub fn beat<'i>(
        &mut self,
        now: Now,
        id: impl Into<IdRef<'i>>,
        beat: &Heartbeat<'_>,
        received: &Received,
    ) {
        let slot = received.slot;
        if self.head.is_none() {
            return;
        }
        if received.is_new || !self.is_named(slot) {
            self.put(now.tick, tag::NAMED, |out| {
                wire::number(out, slot.into());
                wire::id(out, &AgentId::from(id.into()));
            });
            self.set_named(slot);
        }
        self.put(now.tick, tag::BEAT + beat.mode as u8, |out| {
            wire::number(out, slot.into());
            wire::number(out, whole_millis(beat.uptime));
        });
    }

    /// Records a sweep, if it did something.
    pub fn swept(&mut self, now: Now, swept: &Swept) {
        let steps = swept.steps as u64;
        if steps > 0 {
            self.put(now.tick, tag::SWEPT, |out| wire::number(out, steps));
        }
    }

    /// Records that an agent said goodbye or was removed.
    pub fn forgot(&mut self, now: Now, id: &AgentId) {
        self.put(now.tick, tag::FORGOT, |out| wire::id(out, id));
    }

    /// Records that the collector was not awake.
    pub fn paused(&mut self, now: Now, time: Duration) {
        self.put(now.tick, tag::PAUSED, |out| wire::number(out, nanos(time)));
    }

    /// Records that no verdicts are passed from here on.
    pub fn stopped(&mut self, now: Now) {
        self.put(now.tick, tag::STOPPED, |_| {});
    }

    /// Whether the writer should come at once.
    pub const fn is_heavy(&self) -> bool {
        self.head.is_some() && self.bytes.len() >= if self.most / 4 < HEAVY { self.most / 4 } else { HEAVY }
    }

    /// Hands over what was recorded. `spare` becomes the memory for what follows.
    pub fn cut(&mut self, now: Now, wish: Wish, mut spare: Vec<u8>) -> Cut {
        if wish.marks {
            self.put(now.tick, tag::MARK, |_| {});
        }
        self.close_block();
        spare.clear();
        let mut bytes = mem::replace(&mut self.bytes, spare);
        let (mut records, mut lost) = (mem::take(&mut self.records), mem::take(&mut self.lost));
        if wish.lost > 0 {
            bytes.clear();
            lost += mem::take(&mut records) + wish.lost;
        }
        if let Some(head) = &mut self.head {
            head.part += u64::from(wish.ends_file);
            if wish.ends_file || lost > 0 {
                self.write_head(now.tick);
            }
            if lost > 0 {
                self.put(now.tick, tag::GAP, |out| wire::number(out, lost));
            }
        }
        Cut { bytes, records, lost, ends_file: wish.ends_file }
    }

    /// Writes a head. From here on, slots are named again.
    fn write_head(&mut self, now: Tick) {
        let Some(Head { run, part, at, wall, rules }) = self.head else { return };
        self.named.clear();
        self.put(now, tag::HEAD, |out| {
            let mut fields = Vec::with_capacity(64);
            wire::number(&mut fields, run);
            wire::number(&mut fields, part);
            // Without the collector's pauses it is the same moment.
            wire::number(&mut fields, wall.0.saturating_add(millis(now.since(at))));
            for grace in rules.graces {
                wire::number(&mut fields, nanos(grace));
            }
            wire::number(&mut fields, nanos(rules.retention));
            wire::number(&mut fields, rules.max_agents);
            if !rules.mass_silence_hold.is_zero() {
                wire::number(&mut fields, nanos(rules.mass_silence_hold));
            }
            // The length lets a reader pass over fields that it does not know.
            wire::number(out, fields.len() as u64);
            out.extend_from_slice(&fields);
        });
    }

    /// Adds a record, or counts it as lost. After a loss nothing is added before the
    /// next cut: the slots in it could have other meanings.
    fn put(&mut self, at: Tick, tag: u8, fields: impl FnOnce(&mut Vec<u8>)) {
        if self.head.is_none() {
            return;
        }
        if self.lost > 0 || self.bytes.len() >= self.most {
            self.lost += 1;
            return;
        }
        let start = *self.open.get_or_insert_with(|| {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(&MAGIC);
            self.bytes.push(VERSION);
            self.bytes.resize(start + HEADER, 0);
            self.last = Tick::MIN;
            start
        });
        self.bytes.push(tag);
        wire::number(&mut self.bytes, nanos(at.since(self.last)));
        self.last = self.last.max(at);
        fields(&mut self.bytes);
        self.records += 1;
        if self.bytes.len() - start - HEADER >= FULL_BLOCK {
            self.close_block();
        }
    }

    /// Sets the length of the open block. [`seal`] adds the check sum.
    fn close_block(&mut self) {
        let Some(start) = self.open.take() else { return };
        let length = u32::try_from(self.bytes.len() - start - HEADER).unwrap_or(u32::MAX);
        self.bytes[start + 5..start + 9].copy_from_slice(&length.to_le_bytes());
    }

    fn is_named(&self, slot: Slot) -> bool {
        self.named.get(slot as usize / 64).is_some_and(|bits| bits >> (slot % 64) & 1 == 1)
    }

    fn set_named(&mut self, slot: Slot) {
        let place = slot as usize / 64;
        if place >= self.named.len() {
            self.named.resize(place + 1, 0);
        }
        self.named[place] |= 1 << (slot % 64);
    }
}

/// Adds the check sums to the blocks of a cut. It takes time, so it is done without the
/// registry's lock.
pub fn seal(blocks: &mut [u8]) {
    let mut rest = blocks;
    while rest.len() >= HEADER {
        let length = [rest[5], rest[6], rest[7], rest[8]];
        let end = HEADER + u32::from_le_bytes(length) as usize;
        debug_assert!(rest.starts_with(&MAGIC) && end <= rest.len(), "a cut holds whole blocks");
        let (block, others) = rest.split_at_mut(end.min(rest.len()));
        let sum = check_sum(&block[HEADER..]);
        block[HEADER - 4..HEADER].copy_from_slice(&sum.to_le_bytes());
        rest = others;
    }
}

/// Seconds as whole milliseconds; the greatest number if they do not fit.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the uptime is not negative, and a cast of what is too big gives the greatest number"
)]
fn whole_millis(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

/// The verdict with this place in [`Verdict::ALL`].
pub(super) fn verdict(place: u64) -> Option<Verdict> {
    Verdict::ALL.get(usize::try_from(place).ok()?).copied()
}

/// The mode with this place in [`Mode::ALL`].
pub(super) fn mode(place: u64) -> Option<Mode> {
    Mode::ALL.get(usize::try_from(place).ok()?).copied()
}
