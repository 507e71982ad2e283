//! What a process uses, as proc(5) and its control group say.

use std::fs::read_to_string;
use std::time::{Duration, Instant};

use rustix::param::clock_ticks_per_second;

/// What a process used.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// In KiB.
    pub resident: u64,
    pub threads: u64,
    /// What the kernel holds for its control group, in bytes. None if the group is
    /// also ours, or the root.
    pub kernel: Option<u64>,
    /// Processor time since its start.
    pub cpu: Duration,
    pub at: Instant,
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
        let (resident, threads) = (field("VmRSS:")?, field("Threads:")?);
        Some(Self { resident, threads, kernel: kernel_memory(pid), cpu, at: Instant::now() })
    }
}

/// By cgroups(7), version 1 or 2.
fn kernel_memory(pid: u32) -> Option<u64> {
    let groups = read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    if groups == read_to_string("/proc/self/cgroup").ok()? {
        return None;
    }
    let group = |kind: &str| {
        let path = groups.lines().find_map(|line| line.split_once(kind).map(|(_, path)| path))?;
        (path != "/").then_some(path)
    };
    if let Some(path) = group(":memory:") {
        let used = format!("/sys/fs/cgroup/memory{path}/memory.kmem.usage_in_bytes");
        return read_to_string(used).ok()?.trim().parse().ok();
    }
    let used = read_to_string(format!("/sys/fs/cgroup{}/memory.stat", group("0::")?)).ok()?;
    used.lines().find_map(|line| line.strip_prefix("kernel "))?.parse().ok()
}
