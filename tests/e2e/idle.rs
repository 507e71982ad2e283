//! A collector that has nothing to do does nothing.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::{Collector, let_pass};

/// How often a collector without agents, station and state file may wake up, in
/// all its threads together, each second.
const IDLE_WAKEUPS: f64 = 30.0;
/// For how long that is counted.
const SPAN: Duration = Duration::from_secs(10);

/// How often the threads of a process gave up the processor to wait, so far:
/// proc_pid_status(5). A thread that is awake all the time is not noticed here.
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

/// A slow machine does not make it more: what wakes up by the clock finds the
/// clock as fast as ever. The rate is over the time that really passed.
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
