//! How much memory the static program takes. `.ci/ship` runs these tests with it.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be, and may look at the time"
)]

mod support;

use std::fs::{self, File, Permissions};
use std::io::Write as _;
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

/// Starts a copy of the program, with a station behind TLS.
fn start(directory: &Path) -> Collector {
    let path = directory.join("pap-collector");
    copy_by_pages(&path);
    let state = directory.join("state");
    let variables = [
        ("CLUSTER_ID", "test-cluster"),
        ("COLLECTOR_PORT", "0"),
        // Otherwise the number depends on the machine's processors.
        ("COLLECTOR_HTTP_WORKERS", "2"),
        ("RUST_LOG", "pap_collector=debug"),
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
    let collector = start(directory.path());
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
    let collector = start(directory.path());
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
