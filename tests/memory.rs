//! How much memory the static program takes. `.ci/ship` runs these tests with it.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be, and may look at the time"
)]

mod support;

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use support::{Collector, is_slow_run, let_pass, program, skipped, uuid};

/// Copies the program page by page. Some kernels map a whole folio of a file when one
/// page is touched, and large writes make large folios. After this copy every page is
/// its own folio.
fn copy_by_pages(to: &Path) {
    let mut copy = File::create(to).unwrap();
    fs::read(program()).unwrap().chunks(4096).for_each(|page| copy.write_all(page).unwrap());
    copy.set_permissions(Permissions::from_mode(0o755)).unwrap();
}

/// Whether the program under test is the static one: the bounds hold only for it.
fn is_static() -> bool {
    let is_static = is_slow_run() && std::env::var_os("PAP_COLLECTOR_PROGRAM").is_some();
    if !is_static {
        skipped("needs PAP_SLOW_TESTS=1 and the static program (.ci/ship has both)");
    }
    is_static
}

/// Starts a copy for a station behind TLS.
fn start(directory: &Path, log: &str) -> Collector {
    let path = directory.join("pap-collector");
    copy_by_pages(&path);
    let state = directory.join("state");
    let variables = [
        ("CLUSTER_ID", "test-cluster"),
        ("COLLECTOR_PORT", "0"),
        // Otherwise the number depends on the machine's processors.
        ("COLLECTOR_HTTP_WORKERS", "2"),
        ("RUST_LOG", log),
        ("STATE_FILE", state.to_str().unwrap()),
        ("STATION_ALERT_URL", "https://127.0.0.1:1/api/clusters/{cluster_id}/alerts"),
        ("STATION_ALERT_KEY", "k"),
    ];
    let mut command = Command::new(path);
    command.env_clear().envs(variables).stdout(Stdio::null());
    Collector::spawn(&mut command)
}

/// The resident memory, in KB. It does not come from proc_pid_status(5), where some
/// kernels only give an estimate.
fn resident(collector: &Collector) -> usize {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", collector.child.id())).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn an_idle_collector_takes_three_megabytes() {
    if !is_static() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let collector = start(directory.path(), "pap_collector=debug");
    // An idle collector repeats all of its work each second.
    let most = (0..10).map(|_| {
        let_pass(Duration::from_secs(1));
        resident(&collector)
    });
    let most = most.max().unwrap();
    println!("{most} KB when idle");
    assert!(most <= 3 * 1024, "{most} KB");
}

#[test]
fn ten_thousand_agents_take_twelve() {
    if !is_static() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let collector = start(directory.path(), "pap_collector=debug");
    thread::scope(|scope| {
        for lane in 0..8 {
            let collector = &collector;
            scope.spawn(move || {
                for agent in (lane..10_000).step_by(8) {
                    assert_eq!(collector.beat(&uuid(agent), "SLEEP", 1.0).status, 200);
                }
            });
        }
    });
    let resident = resident(&collector);
    println!("{resident} KB with 10,000 agents");
    assert!(resident <= 12 * 1024, "{resident} KB");
}

/// Each with a UUID and a name of 16 bytes.
#[test]
fn a_hundred_thousand_agents_take_130_bytes_each() {
    const AGENTS: usize = 100_000;
    if !is_static() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let collector = start(directory.path(), "pap_collector=info");
    let mut stream = collector.connect();
    let mut beat_up_to = |from: usize, to: usize| {
        for agent in from..to {
            let body = format!(r#"{{"mode":"SLEEP","uptime_seconds":1.5,"agent_name":"agent-{agent:010}"}}"#);
            let head = format!(
                "POST /heartbeat/{} HTTP/1.1\r\nHost: c\r\nContent-Length: {}",
                uuid(agent),
                body.len()
            );
            stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
            let mut answer = [0; 1024];
            let length = stream.read(&mut answer).unwrap();
            assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        }
    };
    // What the first agents need besides themselves is there.
    beat_up_to(0, 1000);
    let before = resident(&collector);
    beat_up_to(1000, AGENTS);
    // Saving the state takes memory for a moment.
    let least = (0..20).map(|_| {
        let_pass(Duration::from_millis(500));
        resident(&collector)
    });
    let each = (least.min().unwrap() - before) * 1024 / (AGENTS - 1000);
    println!("{each} bytes for each of 100,000 agents");
    assert!(each <= 130, "{each} bytes");
}
