//! Attacks by numbers: memory, connections, agents, and a system without threads.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use crate::attack::{alone, attack, hold, status, under_attack, usage};
use crate::support::{self, Answer, Collector, command, skipped, slow};

#[test]
fn requests_and_heads_fill_no_memory() {
    if !slow("some 40 MB through 800 connections") {
        return;
    }
    let _alone = alone();
    attack(&[], |collector| {
        let before = usage(collector).2;
        let line = |length: usize| format!("GET /health HTTP/1.1\r\nHost: c\r\nx: {}", "x".repeat(length));
        for bytes in [
            "GET /health HTTP/1.1\r\nHost: c\r\n\r\n".repeat(1600),
            format!("GET /health HTTP/1.1\r\nHost: c\r\n{}", "a:b\r\n".repeat(11_000)),
            line(55_000),
            line(16_000),
        ] {
            let held = hold(collector, 200, bytes.as_bytes());
            assert_eq!(collector.get("/ready").status, 200);
            drop(held);
        }
        let most = status(collector, "VmHWM:");
        println!("{before} KB before, {most} KB at most");
        assert!(most < before + 24 * 1024, "{before} KB before, {most} KB at most");
    });
}

#[test]
fn three_thousand_connections_with_a_thousand_descriptors() {
    if !slow("9000 connections") {
        return;
    }
    let _alone = alone();
    let mut limited = command(&[("CLUSTER_ID", "test-cluster"), ("COLLECTOR_PORT", "0")]);
    limit(&mut limited, rustix::process::Resource::Nofile, 1024);
    let collector = Collector::spawn(limited.stdout(Stdio::null()));
    // This process needs as many descriptors for its own ends.
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let raised = rustix::process::Rlimit { current: most, maximum: most };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    under_attack(&collector, |collector| {
        for _ in 0..3 {
            let held = hold(collector, 3000, b"");
            drop(held);
        }
    });
}

#[test]
fn beyond_the_most_connections_the_longest_idle_go() {
    let _alone = alone();
    attack(&[("COLLECTOR_MAX_CONNECTIONS", "50")], |collector| {
        let held = hold(collector, 400, b"");
        let closed = || collector.metric("connections_closed_total{reason=\"surplus\"}");
        collector
            .poll("the surplus is closed", || closed() > 300.0 && collector.metric("connections") <= 60.0);
        drop(held);
    });
}

#[test]
fn more_agents_than_allowed() {
    let _alone = alone();
    attack(&[("COLLECTOR_MAX_AGENTS", "1000")], |collector| {
        let mut stream = collector.connect();
        let body = r#"{"mode":"IDLE","uptime_seconds":1}"#;
        let (mut taken, mut refused) = (0, 0);
        for number in 0..20_000 {
            let length = body.len();
            stream
                .write_all(
                    format!(
                        "POST /heartbeat/flood-{number} HTTP/1.1\r\nHost: c\r\nContent-Length: {length}\r\n\r\n{body}"
                    )
                    .as_bytes(),
                )
                .unwrap();
            let mut answer = [0; 1024];
            let length = stream.read(&mut answer).unwrap();
            match Answer::parse(&answer[..length]).status {
                200 => taken += 1,
                503 => refused += 1,
                other => panic!("{other}"),
            }
        }
        assert_eq!((taken, refused), (999, 19_001), "the honest one is the thousandth");
    });
}

/// A collector whose user may have at most this many threads. The limit does not hold
/// for root, so the collector runs as another user; None if we are not root, because
/// only root can choose the user.
fn with_few_threads(most: u64) -> Option<(Collector, tempfile::TempDir)> {
    if !rustix::process::geteuid().is_root() {
        skipped("not root, so no other user can be had");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("pap-collector");
    std::fs::copy(support::program(), &program).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let mut limited = std::process::Command::new(&program);
    limited.env_clear().envs([
        ("CLUSTER_ID", "test-cluster"),
        ("COLLECTOR_PORT", "0"),
        ("COLLECTOR_BIND", "127.0.0.1"),
    ]);
    limit(&mut limited, rustix::process::Resource::Nproc, most);
    // The limit counts all threads of a user, so this user runs nothing else.
    let user = 50_000 + std::process::id() % 10_000;
    limited.uid(user).gid(user).stdin(Stdio::null()).stdout(Stdio::null());
    Some((Collector::spawn(&mut limited), directory))
}

#[test]
fn a_system_without_threads() {
    if !slow("3000 connections") {
        return;
    }
    let _alone = alone();
    let Some((collector, _directory)) = with_few_threads(80) else { return };
    under_attack(&collector, |collector| {
        for _ in 0..10 {
            drop(hold(collector, 300, b"GET / HTT"));
        }
    });
}

#[test]
fn without_new_threads_heartbeats_go_on() {
    let _alone = alone();
    let Some((mut collector, _directory)) = with_few_threads(400) else { return };
    let threads = || status(&collector, "Threads:");
    let before = threads();
    // Without root's rights, only a process of the same user may set this limit.
    let (id, user) = (collector.child.id().to_string(), u32::try_from(status(&collector, "Uid:")).unwrap());
    let mut prlimit = std::process::Command::new("prlimit");
    assert!(prlimit.args(["--pid", &id, "--nproc=1:400"]).uid(user).gid(user).status().unwrap().success());
    under_attack(&collector, |collector| drop(hold(collector, 300, b"GET / HTT")));
    let headers = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    let text = format!("GET /observe HTTP/1.1\r\nHost: c\r\n{}\r\n\r\n", headers.join("\r\n"));
    let mut stream = collector.connect();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).unwrap();
    assert_eq!(Answer::parse(&answer[..length]).status, 503, "an observer needs a thread");
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n").unwrap();
    let length = stream.read(&mut answer).unwrap();
    assert_eq!(Answer::parse(&answer[..length]).status, 200, "its connection goes on");
    assert_eq!(threads(), before);
    assert!(collector.child.try_wait().unwrap().is_none());
}

fn limit(command: &mut std::process::Command, resource: rustix::process::Resource, most: u64) {
    let limits = rustix::process::Rlimit { current: Some(most), maximum: Some(most) };
    let set = move || rustix::process::setrlimit(resource, limits).map_err(std::io::Error::from);
    #[expect(unsafe_code, reason = "limits are set between fork and exec")]
    // SAFETY: setrlimit is one system call, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(set);
    }
}
