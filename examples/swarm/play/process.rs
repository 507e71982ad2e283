//! What the collector's process uses, as proc(5) says.

use std::fs::read_to_string;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;

/// What a process used.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// In KiB.
    pub resident: u64,
    pub threads: u64,
    /// Processor time since its start.
    pub cpu: Duration,
}

impl Usage {
    /// None if there is no such process.
    pub fn of(pid: u32) -> Option<Self> {
        let status = read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may hold anything. utime and stime are
        // fields 14 and 15; the first one after the name is field 3.
        let mut rest = stat.rsplit(") ").next()?.split_whitespace().skip(11);
        let mut ticks = || rest.next()?.parse::<u64>().ok();
        let ticks = ticks()? + ticks()?;
        let cpu = Duration::from_millis(1000 * ticks / clock_ticks_per_second());
        Some(Self { resident: field("VmRSS:")?, threads: field("Threads:")?, cpu })
    }
}
