//! How many connections the system allows us: each takes a thread and two
//! descriptors, and a third while the image of the process changes.

use std::fs::read_to_string;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything that is no connection of ours.
const OTHER_DESCRIPTORS: u64 = 64;
/// Threads that are no connection's.
const OTHER_THREADS: u64 = 32;

/// Raises the limit on descriptors to what the system allows us.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // If it fails, the limit stays, and is respected below.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// The most connections to keep: what is configured, or less where the system
/// would not bear them.
pub fn most_connections(configured: usize, observers: usize, other_threads: usize) -> usize {
    // A watcher takes a descriptor more than any other, and a thread of ours
    // instead of one of tiny_http's.
    let observers = observers as u64;
    let descriptors = getrlimit(Resource::Nofile)
        .current
        .map_or(u64::MAX, |most| most.saturating_sub(OTHER_DESCRIPTORS + observers) / 3);
    let other_threads = OTHER_THREADS + other_threads as u64;
    let threads = [thread_limit(), getrlimit(Resource::Nproc).current.unwrap_or(u64::MAX)];
    // Others may count towards the same limit: a quarter is left to them.
    let threads = threads.into_iter().min().unwrap_or(u64::MAX).saturating_sub(other_threads) / 4 * 3;
    configured.min(usize::try_from(descriptors.min(threads)).unwrap_or(usize::MAX)).max(8)
}

/// What the container allows, if it is one.
fn thread_limit() -> u64 {
    let limit = ["/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"];
    let limit = limit.into_iter().find_map(|path| read_to_string(path).ok());
    limit.and_then(|limit| limit.trim().parse().ok()).unwrap_or(u64::MAX)
}
