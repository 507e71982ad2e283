//! An idle collector hardly wakes up.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::{Collector, let_pass};

/// How often all threads of a collector together may wake up each second, if it has
/// no agents, no station and no state file.
const IDLE_WAKEUPS: f64 = 5.0;
/// How long wake-ups are counted.
const SPAN: Duration = Duration::from_secs(10);

/// How often the threads of a process have waited so far (voluntary switches in
/// proc_pid_status(5)). A thread that never waits is not noticed here.
fn waits(collector: &Collector) -> u64 {
    let threads = fs::read_dir(format!("/proc/{}/task", collector.child.id())).unwrap();
    let waits = threads.map(|thread| {
        // A thread may have ended meanwhile.
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.map_or(0, |count| count.trim().parse().unwrap())
    });
    waits.sum()
}

/// A slow machine does not raise the rate: timers follow the clock, and the rate is
/// over the time that really passed.
#[test]
fn an_idle_collector_hardly_wakes_up() {
    let collector = Collector::start(&[]);
    // The start is over.
    let_pass(Duration::from_secs(1));
    let (before, started) = (waits(&collector), Instant::now());
    let_pass(SPAN);
    let rate = (waits(&collector) - before) as f64 / started.elapsed().as_secs_f64();
    println!("{rate:.1} wake-ups a second");
    assert!(rate <= IDLE_WAKEUPS, "{rate:.1} wake-ups a second, at most {IDLE_WAKEUPS} are allowed");
}
