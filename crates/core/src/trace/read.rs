//! From the bytes of a trace to its records.

use std::time::Duration;

use super::tape::{mode, verdict};
use super::wire::{HEADER, HELD, Input, LONGEST_BLOCK, MAGIC, check_sum, tag};
use super::{Beat, Head, Known, Record, TracedRules, VERSION};
use crate::heartbeat::Mode;
use crate::time::{Tick, Wall};
use crate::verdict::Verdict;

/// The most bytes from the start of a block to its end. A reader with this many
/// bytes is never asked for more.
pub const MOST_NEEDED: usize = HEADER + LONGEST_BLOCK;

/// What some bytes of a trace begin with.
#[derive(Debug)]
pub enum Found<'a> {
    /// A whole block.
    Block {
        /// Its records.
        records: Records<'a>,
        /// The bytes up to its end.
        length: usize,
    },
    /// The block's end is not there. At the end of a file it was cut off by a crash.
    Cut,
    /// These bytes are no block. The next block may begin after this many.
    Damaged(usize),
    /// A newer program wrote it, in this version of the format.
    Newer(u8),
}

/// Looks for a block at the start of `bytes`. They are not empty.
pub fn block(bytes: &[u8]) -> Found<'_> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Found::Damaged(next_magic(bytes));
    }
    let Some(header) = bytes.get(..HEADER) else { return Found::Cut };
    let four = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let length = four(5) as usize;
    if length > LONGEST_BLOCK {
        return Found::Damaged(next_magic(bytes));
    }
    match bytes.get(HEADER..HEADER + length) {
        None => Found::Cut,
        Some(records) if check_sum(records) != four(9) => Found::Damaged(next_magic(bytes)),
        Some(_) if header[4] > VERSION => Found::Newer(header[4]),
        Some(records) => Found::Block {
            records: Records { input: Input(records), last: Tick::MIN },
            length: HEADER + length,
        },
    }
}

/// After how many bytes a block may begin, other than the one at the start.
pub fn next_magic(bytes: &[u8]) -> usize {
    let mut places = 1..bytes.len();
    places.find(|&at| MAGIC.starts_with(&bytes[at..bytes.len().min(at + MAGIC.len())])).unwrap_or(bytes.len())
}

/// The records of a block, in their order.
pub struct Records<'a> {
    input: Input<'a>,
    last: Tick,
}

impl std::fmt::Debug for Records<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "records in {} bytes", self.input.0.len())
    }
}

/// No time in a trace is longer: some 73 years. Moments that are added to it stay
/// within their range.
const LONGEST: Duration = Duration::from_nanos(u64::MAX / 8);

impl Input<'_> {
    /// A span of time.
    fn time(&mut self) -> Option<Duration> {
        Some(Duration::from_nanos(self.number()?)).filter(|time| *time <= LONGEST)
    }
}

/// The rest of a block is no record, although its check sum is right: a program with a
/// bug wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRecord;

impl Iterator for Records<'_> {
    type Item = Result<Record, NoRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.input.0.is_empty() {
            return None;
        }
        let record = self.record();
        if record.is_none() {
            self.input = Input(&[]);
        }
        Some(record.ok_or(NoRecord))
    }
}

impl Records<'_> {
    fn record(&mut self) -> Option<Record> {
        let tag = self.input.byte()?;
        let at = self.last + self.input.time()?;
        if at.since(Tick::MIN) > LONGEST {
            return None;
        }
        self.last = at;
        let input = &mut self.input;
        Some(match tag {
            tag::BEAT..tag::NAMED => Record::Beat(Beat {
                at,
                mode: Mode::ALL[usize::from(tag - tag::BEAT)],
                slot: u32::try_from(input.number()?).ok()?,
                uptime_ms: input.number()?,
            }),
            tag::NAMED => Record::Named { slot: u32::try_from(input.number()?).ok()?, id: input.id()? },
            tag::SWEPT => Record::Swept { at, steps: input.number()? },
            tag::MARK => Record::Mark { at },
            tag::PAUSED => Record::Paused { at, time: Duration::from_nanos(input.number()?) },
            tag::FORGOT => Record::Forgot { at, id: input.id()? },
            tag::GAP => Record::Gap { at, lost: input.number()? },
            tag::STOPPED => Record::Stopped { at },
            tag::KNOWN => {
                let (id, mode, verdict) = (input.id()?, mode(input.number()?)?, input.number()?);
                let is_held = verdict == HELD;
                Record::Known(Known {
                    at,
                    id,
                    mode,
                    verdict: if is_held { Verdict::Suspect } else { self::verdict(verdict)? },
                    is_held,
                    uptime_ms: input.number()?,
                    silence_ms: input.number()?,
                    dead_ms: input.number()?,
                })
            }
            tag::HEAD => {
                let length = input.number()?;
                Record::Head(head(at, &mut Input(input.bytes(length)?))?)
            }
            _ => return None,
        })
    }
}

fn head(at: Tick, fields: &mut Input<'_>) -> Option<Head> {
    let (run, part, wall) = (fields.number()?, fields.number()?, Wall(fields.number()?));
    let mut graces = [Duration::ZERO; Mode::ALL.len()];
    for grace in &mut graces {
        *grace = fields.time()?;
    }
    let retention = fields.time()?;
    let max_agents = fields.number()?;
    // It is written only where it is not zero.
    let mass_silence_hold = fields.time().unwrap_or_default();
    let rules = TracedRules { graces, retention, max_agents, mass_silence_hold };
    Some(Head { run, part, at, wall, rules })
}
