//! `STATION_DB` on bad days: of a newer version, damaged, not to be written. The start ends with a
//! code and a line, and the file is as it was.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{ADMIN, COLLECTOR, Receiver, Start, alert, skipped, start, until};

/// A file of a station that ran and stopped: one death.
fn made() -> Start {
    let mut station = start().run();
    assert_eq!(station.alert("c", &alert("AGENT_DEATH", "a", 1)).0, 200);
    assert_eq!(station.stop(), 0);
    start().after(&station)
}

/// A start that is refused with this code and this text, and touches nothing.
fn refused(starting: &Start, code: i32, part: &str) {
    let before = fs::read(starting.database()).unwrap();
    let (ended, text) = starting.output(&[]);
    assert!(ended == code && text.contains(part), "{ended} {text}");
    let line = text.lines().last().unwrap();
    assert!(line.contains(starting.database().to_str().unwrap()), "it says which file: {line}");
    assert!(fs::read(starting.database()).unwrap() == before, "the file is not as it was");
}

#[test]
fn a_file_of_a_newer_station_is_refused() {
    let starting = made();
    let file = rusqlite::Connection::open(starting.database()).unwrap();
    file.pragma_update(None, "user_version", 99).unwrap();
    // A later version may keep its journal in another way.
    file.pragma_update(None, "journal_mode", "DELETE").unwrap();
    drop(file);
    refused(&starting, 78, "a newer pap-station has made it: its version is 99");
    let target = starting.database().with_file_name("copy.db");
    let (code, text) = starting.output(&["backup", target.to_str().unwrap()]);
    assert!(code == 74 && text.contains("a newer pap-station"), "{code} {text}");
    assert!(!target.exists());
}

#[test]
fn a_damaged_file_is_refused_and_says_that_a_backup_is_needed() {
    let starting = made();
    let whole = fs::read(starting.database()).unwrap();
    let page = usize::from(u16::from_be_bytes([whole[16], whole[17]]));
    // Pages in the middle are overwritten, as by a disk that fails; then half of it is missing.
    let mut bytes = whole.clone();
    bytes[2 * page..8 * page].fill(0xa5);
    for damaged in [&bytes[..], &whole[..whole.len() / 2]] {
        fs::write(starting.database(), damaged).unwrap();
        refused(&starting, 74, "it is damaged");
        let (_, text) = starting.output(&[]);
        assert!(text.contains("put a backup in its place"), "{text}");
    }
    fs::write(starting.database(), &whole).unwrap();
    assert_eq!(starting.run().seen("/api/incidents?state=open")["total"], 1);
}

/// Runs it as somebody whom permissions hold back; None if that cannot be done here.
fn output_as_nobody(starting: &Start) -> Option<Output> {
    let mut command = starting.command();
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            skipped(&format!("another user cannot run the program: {error}"));
            None
        }
    }
}

const NOBODY: u32 = 65534;

fn give(path: &Path, mode: u32) {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn names(directory: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|it| it.unwrap().file_name()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_file_or_a_directory_that_cannot_be_written_is_said_and_left_alone() {
    for (of_file, of_directory) in [(0o400, 0o700), (0o600, 0o500)] {
        let starting = made();
        let (file, before) = (starting.database(), fs::read(starting.database()).unwrap());
        let directory = file.parent().unwrap().to_owned();
        for beside in ["station.db-wal", "station.db-shm"] {
            // They are empty after a stop, and must be made again.
            let _ = fs::remove_file(directory.join(beside));
        }
        give(&file, of_file);
        give(&directory, of_directory);
        let output = output_as_nobody(&starting);
        give(&directory, 0o700);
        let Some(output) = output else { return };
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(74), "{text}");
        let line = text.lines().last().unwrap();
        assert!(line.contains(&format!("cannot use STATION_DB {}", file.display())), "{line}");
        assert!(fs::read(&file).unwrap() == before, "the file is not as it was");
        assert_eq!(names(&directory), ["station.db"], "nothing is left behind");
    }
}

#[test]
fn whoever_speaks_while_nothing_can_be_stored_is_not_accused() {
    let times = ["MACHINE_OFFLINE_THRESHOLD", "HEARTBEAT_TIMEOUT", "CLEANUP_TIMEOUT"];
    let starting = times.into_iter().fold(start(), |starting, name| starting.with(name, "15s"));
    let (station, receiver) = (starting.run(), Receiver::new());
    station.webhook(&receiver, &json!({}));
    let (_, machine) = station.ask("POST", "/agent/register", ADMIN, r#"{"name":"m"}"#);
    let key = machine["api_key"].as_str().unwrap();
    let speak = || {
        thread::scope(|scope| {
            let beat = scope.spawn(|| station.ask("POST", "/api/clusters/c/heartbeat", COLLECTOR, "").0);
            (station.ask("POST", "/agent/metrics", key, "{}").0, beat.join().unwrap())
        })
    };
    assert_eq!(speak(), (202, 200));
    let other = rusqlite::Connection::open(station.directory.path().join("station.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let began = Instant::now();
    // An answer takes five seconds: so long a lock is waited for.
    while began.elapsed() < Duration::from_secs(20) {
        assert_eq!(speak(), (503, 503));
    }
    assert_eq!(station.get("/ready", "").0, 503);
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(speak(), (202, 200));
    let died = || station.log().matches("no heartbeat came within CLEANUP_TIMEOUT").count();
    assert_eq!(died(), 0);
    // Whoever is silent now is told. Nothing was told before.
    receiver.await_count(2);
    until("the cluster is dead", || died() == 1);
    assert_eq!(station.seen("/api/incidents")["total"], 2);
    let mut events = receiver.events();
    events.sort_unstable();
    assert_eq!(events, ["collector.silent", "machine.offline"]);
}
