//! How many connections the system allows us. Each connection takes a descriptor,
//! and memory of the kernel, which counts against the container's limit.

use std::fs::read_to_string;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything other than connections of clients.
const OTHER_DESCRIPTORS: u64 = 64;
/// Memory that a container needs without connections, in bytes.
const OTHER_MEMORY: u64 = 24 * 1024 * 1024;
/// Memory that one connection takes from a container, in bytes. For an idle
/// connection the kernel takes about half of this.
const CONNECTION_MEMORY: u64 = 8 * 1024;
/// The most connections, if neither the setting nor the container says less.
const MOST: u64 = 65_536;
/// The fewest that make sense.
const LEAST: u64 = 8;

/// Raises the limit on descriptors to what the system allows us.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // If this fails, the old limit stays, and `most_connections` respects it.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// The most connections to keep: as many as are `configured`, or else as many as
/// the memory of the container allows. The limit on descriptors may lower either;
/// each observer takes one descriptor more.
pub fn most_connections(configured: Option<usize>, observers: usize) -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let descriptors = descriptors.saturating_sub(OTHER_DESCRIPTORS + observers as u64);
    let most = match configured {
        Some(configured) => configured as u64,
        None => MOST.min(by_memory(memory_limit())),
    };
    usize::try_from(most.min(descriptors).max(LEAST)).unwrap_or(usize::MAX)
}

fn by_memory(limit: Option<u64>) -> u64 {
    limit.map_or(u64::MAX, |limit| limit.saturating_sub(OTHER_MEMORY) / CONNECTION_MEMORY)
}

/// The memory limit of the container, if we run in one (cgroups(7), versions 2 and 1).
fn memory_limit() -> Option<u64> {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = files.into_iter().find_map(|path| read_to_string(path).ok())?;
    limit.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_follow_from_memory_and_descriptors() {
        assert_eq!(by_memory(None), u64::MAX);
        assert_eq!(by_memory(Some(128 << 20)), 13_312);
        assert_eq!(by_memory(Some(16 << 20)), 0);
        assert_eq!(most_connections(Some(100), 64), 100);
        let least = most_connections(Some(1), 0);
        assert_eq!(u64::try_from(least).unwrap(), LEAST);
    }
}
