//! How many connections the system allows us. Each connection takes a descriptor,
//! and memory of the kernel, which counts against the container's limit.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

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

/// The limit on descriptors, if it is too low for more than a few connections.
pub fn low_descriptor_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current.filter(|&limit| limit < OTHER_DESCRIPTORS + LEAST)
}

/// The most connections to keep: as many as are `configured`, or else as many as
/// the memory of the container allows. The limit on descriptors may lower either;
/// `others` of them are kept free.
pub fn most_connections(configured: Option<usize>, others: usize) -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let descriptors = descriptors.saturating_sub(OTHER_DESCRIPTORS + others as u64);
    let most = match configured {
        Some(configured) => configured as u64,
        None => MOST.min(by_memory(memory_limit())),
    };
    usize::try_from(most.min(descriptors).max(LEAST)).unwrap_or(usize::MAX)
}

fn by_memory(limit: Option<u64>) -> u64 {
    limit.map_or(u64::MAX, |limit| limit.saturating_sub(OTHER_MEMORY) / CONNECTION_MEMORY)
}

/// The least memory limit of our control group and of those around it, if there is one
/// (cgroups(7), versions 2 and 1): of a container, or of a service of systemd.
fn memory_limit() -> Option<u64> {
    let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups).into_iter().filter_map(|path| read_to_string(path).ok());
    // Version 2 writes "max" where there is no limit, version 1 a number near 2^63.
    limits.filter_map(|limit| limit.trim().parse().ok()).min()
}

/// Where the limits stand for a process with this proc_pid_cgroup(5). In a container the
/// path may be the host's, and then only the root is there.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let path = Path::new(path.trim_start_matches('/'));
        files.extend(path.ancestors().map(|path| Path::new(root).join(path).join(file)));
    }
    files
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
        // The limits of systemd's services, version 2 and version 1, and of a container.
        let files = |groups| -> Vec<String> {
            limit_files(groups).iter().map(|path| path.to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(
            files("0::/system.slice/pap-collector.service\n"),
            [
                "/sys/fs/cgroup/system.slice/pap-collector.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(
            files("5:cpu,memory:/a\n4:cpuset:/\n0::/\n"),
            [
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(files("nonsense"), [""; 0]);
        let least = most_connections(Some(1), 0);
        assert_eq!(u64::try_from(least).unwrap(), LEAST);
    }
}
