//! `HEARTBEAT_TRACE` and `pap-collector replay`, with the real program: the verdicts come
//! back, and neither a kill nor a full disk spoils the record.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pap_core::replay::Replay;
use pap_core::trace::read::{Found, block};
use pap_core::verdict::Verdict;
use serde_json::Value;

use crate::support::station::{Answer as Reply, Station};
use crate::support::{Collector, PATIENCE, command, let_pass_until, said, skipped, until, uuid};

/// Runs `pap-collector replay`: the exit code, standard output and standard error.
fn run(trace: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = command(&[]).arg("replay").arg(trace).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn report(trace: &Path, arguments: &[&str]) -> Value {
    let (code, out, err) = run(trace, &[&["--json"], arguments].concat());
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    serde_json::from_str(&out).unwrap()
}

/// How often a replay finds each agent dead.
fn deaths(trace: &Path) -> BTreeMap<String, usize> {
    let bytes = fs::read(trace).unwrap();
    let (mut rest, mut replay, mut deaths) = (bytes.as_slice(), Replay::new(None), BTreeMap::new());
    while !rest.is_empty() {
        let Found::Block { records, length } = block(rest) else { panic!("damaged") };
        for record in records {
            for change in replay.take(&record.unwrap()) {
                if change.agent.status == Verdict::Dead {
                    *deaths.entry(change.agent.agent_uuid.to_string()).or_default() += 1;
                }
            }
        }
        rest = &rest[length..];
    }
    deaths
}

/// Posts heartbeats of these agents on one connection, and reads all answers.
fn beat_all(collector: &Collector, agents: &[String]) {
    let mut stream = collector.connect();
    let body = r#"{"mode":"IDLE","uptime_seconds":1}"#;
    let one = |agent| {
        let length = body.len();
        format!("POST /heartbeat/{agent} HTTP/1.1\r\nHost: c\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let mut text: String = agents.iter().map(one).collect();
    text += "GET /ready HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n";
    stream.write_all(text.as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("\"received\":true").count(), agents.len(), "{answers}");
}

#[test]
fn the_verdicts_of_a_real_collector_come_back() {
    let station = Station::start(0, |post| Reply::Status(post.judge("k"))).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let variables = [("HEARTBEAT_TRACE", trace.to_str().unwrap()), ("HEARTBEAT_GRACE_MS", "0")];
    let mut collector = Collector::with_station(&station, &variables);
    let started = Instant::now();
    // 0 lives; 1 is falsely dead; 2 dies and restarts; 3 and 4 stay dead; 5 says goodbye.
    for agent in 0..6 {
        collector.beat(&uuid(agent), "EMERGENCY", 100.0);
    }
    let mut heartbeats = 6;
    for second in [4, 8] {
        let_pass_until(started + Duration::from_secs(second));
        collector.beat(&uuid(0), "EMERGENCY", 100.0 + Duration::from_secs(second).as_secs_f64());
        heartbeats += 1;
        if second == 4 {
            assert_eq!(collector.request("DELETE", &format!("/heartbeat/{}", uuid(5)), &[], "").status, 200);
            // The silence of all agents goes on.
            collector.signal("HUP");
            collector.await_log(said::UPGRADED);
        }
    }
    assert!(station.wait_until(PATIENCE, |posts| {
        posts.iter().filter(|post| post.text("type") == "AGENT_DEATH").count() >= 4
    }));
    collector.beat(&uuid(1), "EMERGENCY", 111.0);
    collector.beat(&uuid(2), "EMERGENCY", 1.0);
    heartbeats += 2;
    collector.signal("INT");
    assert_eq!(collector.wait(), Some(0));

    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for post in station.taken("AGENT_DEATH") {
        *told.entry(post.text("agent_uuid").to_owned()).or_default() += 1;
    }
    assert_eq!(deaths(&trace), told);
    // On a slow machine agent 0 may be dead, too.
    let all = told.values().sum::<usize>();
    let recorded = report(&trace, &[]);
    assert_eq!(recorded["deaths"], all, "{recorded}");
    assert_eq!(recorded["false_deaths"], recorded["recorded"]["false_deaths"]);
    assert_eq!((&recorded["agents"], &recorded["heartbeats"]), (&6.into(), &heartbeats.into()));
    assert_eq!(recorded["recorded"]["grace_ms"], 0);
    assert_eq!(recorded["irregular"][0]["agent_uuid"], uuid(1));
    assert!(recorded["lateness_ms"]["p50"].as_u64().unwrap() >= 9990, "{recorded}");
    // With a long grace the collector would have said nothing.
    let patient = report(&trace, &["--heartbeat-grace-ms", "3600000"]);
    assert_eq!((&patient["deaths"], &patient["recorded"]["deaths"]), (&0.into(), &all.into()));
    let keys: Vec<&String> = patient.as_object().unwrap().keys().collect();
    let expected =
        ["agents", "deaths", "false_deaths", "heartbeats", "irregular", "jitter", "lateness_ms", "recorded"];
    assert_eq!(keys, expected);
    let (code, text, _) = run(&trace, &["--heartbeat-grace-ms=2000"]);
    assert!(code == 0 && text.contains("0 ms, as recorded") && text.contains("2,000 ms, as asked"), "{text}");
    assert!(text.contains("####") && text.contains(&uuid(1)), "{text}");
}

#[test]
fn a_kill_in_the_middle_of_a_record_costs_that_record() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let variables = [("HEARTBEAT_TRACE", trace.to_str().unwrap())];
    let length = || fs::metadata(&trace).map_or(0, |about| about.len());
    let mut collector = Collector::start(&variables);
    let agents: Vec<String> = (0..500).map(uuid).collect();
    beat_all(&collector, &agents);
    until("the heartbeats are written", || {
        report_now(&trace).is_some_and(|report| report["heartbeats"] == 500)
    });
    beat_all(&collector, &agents[..50]);
    until("others are written", || report_now(&trace).is_some_and(|report| report["heartbeats"] == 550));
    collector.signal("KILL");
    collector.wait();
    // The kill met the program while it wrote the last block.
    let whole = length();
    fs::OpenOptions::new().write(true).open(&trace).unwrap().set_len(whole - 3).unwrap();
    let (code, out, err) = run(&trace, &["--json"]);
    assert!(code == 0 && err.contains("bytes of the trace are damaged"), "{err}");
    let kept: Value = serde_json::from_str(&out).unwrap();
    assert!((500..550).contains(&kept["heartbeats"].as_u64().unwrap()), "{kept}");
    // The next run goes on behind the torn block.
    let mut collector = Collector::start(&variables);
    beat_all(&collector, &agents[..100]);
    collector.signal("INT");
    assert_eq!(collector.wait(), Some(0));
    let (code, out, _) = run(&trace, &["--json"]);
    let both: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, both["heartbeats"].as_u64()),
        (0, kept["heartbeats"].as_u64().map(|count| count + 100))
    );
    assert_eq!(both["deaths"], 0);
}

/// The report on a trace that is being written; None while there is none.
fn report_now(trace: &Path) -> Option<Value> {
    let (code, out, _) = run(trace, &["--json"]);
    (code == 0).then(|| serde_json::from_str(&out).unwrap())
}

#[test]
fn files_are_rotated_and_together_they_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let mut collector =
        Collector::start(&[("HEARTBEAT_TRACE", trace.to_str().unwrap()), ("HEARTBEAT_TRACE_MAX_MB", "1")]);
    let rotated = |number: usize| PathBuf::from(format!("{}.{number}", trace.display()));
    let files =
        || fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    let mut sent = 0;
    // Each batch of new agents with long ids takes about 14 kB.
    let mut batch = |collector: &Collector| {
        let before = files().sum::<u64>();
        let agents: Vec<String> = (sent..sent + 100).map(|number| format!("{number:0>128}")).collect();
        beat_all(collector, &agents);
        sent += 100;
        until("the batch is written", || files().sum::<u64>() != before);
        sent
    };
    while !rotated(1).exists() {
        batch(&collector);
    }
    let all = batch(&collector);
    // Nothing is lost where one file ends and the next one begins.
    until("all is written", || report_now(&trace).is_some_and(|report| report["heartbeats"] == all));
    while !rotated(3).exists() {
        batch(&collector);
    }
    for _ in 0..40 {
        batch(&collector);
    }
    assert!(files().count() == 4 && files().sum::<u64>() <= 1_000_000, "{:?}", files().collect::<Vec<_>>());
    assert!(collector.metric("trace_dropped_total") < 1.0);
    let all = batch(&collector);
    collector.signal("INT");
    assert_eq!(collector.wait(), Some(0));
    let kept = report(&trace, &[])["heartbeats"].as_u64().unwrap();
    assert!(kept > 4000 && kept < u64::try_from(all).unwrap(), "{kept} of {all}");
    // Whoever asks for one old file gets it alone.
    let oldest = report(&rotated(3), &[])["heartbeats"].as_u64().unwrap();
    assert!(oldest > 1000 && oldest < kept, "{oldest} of {kept}");
}

/// A small file system; None where none can be mounted.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(directory.path()).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Self(directory))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_costs_records_and_nothing_else() {
    let Some(mounted) = Mounted::new("size=256k") else { return skipped("no file system can be mounted") };
    let (trace, filler) = (mounted.0.path().join("trace"), mounted.0.path().join("filler"));
    fs::write(&filler, vec![0; 128 * 1024]).unwrap();
    let mut collector = Collector::start(&[("HEARTBEAT_TRACE", trace.to_str().unwrap())]);
    let agents: Vec<String> = (0..1000).map(|number| format!("{number:0>128}")).collect();
    collector.poll("the disk is full", || {
        beat_all(&collector, &agents);
        collector.metric("trace_dropped_total") > 0.0
    });
    collector.await_log(said::TRACE_LACKS);
    fs::remove_file(&filler).unwrap();
    let before = report_now(&trace).map_or(0, |report| report["heartbeats"].as_u64().unwrap());
    collector.poll("heartbeats are recorded again", || {
        beat_all(&collector, &agents[..10]);
        report_now(&trace).is_some_and(|report| report["heartbeats"].as_u64().unwrap() > before)
    });
    collector.signal("INT");
    assert_eq!(collector.wait(), Some(0));
    let (code, text, err) = run(&trace, &[]);
    assert!(code == 0 && text.contains("records are missing"), "{text}{err}");
}

#[test]
fn what_is_no_trace_is_said_and_left_alone_and_heartbeats_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let mine = directory.path().join("mine");
    fs::write(&mine, "my notes").unwrap();
    let mut collector = Collector::start(&[("HEARTBEAT_TRACE", mine.to_str().unwrap())]);
    assert_eq!(collector.beat("a", "IDLE", 1.0).status, 200);
    assert!(collector.await_log(said::TRACE_LACKS).contains("something else than a trace"));
    collector.signal("INT");
    assert_eq!(collector.wait(), Some(0));
    assert_eq!(fs::read_to_string(&mine).unwrap(), "my notes");
}

#[test]
fn a_trace_that_is_removed_or_renamed_goes_on_in_a_new_file() {
    let directory = tempfile::tempdir().unwrap();
    let (trace, moved) = (directory.path().join("trace"), directory.path().join("moved"));
    let mut collector = Collector::start(&[("HEARTBEAT_TRACE", trace.to_str().unwrap())]);
    let has_some = || report_now(&trace).is_some_and(|report| report["heartbeats"].as_u64().unwrap() > 0);
    let beat_until_some = || {
        collector.poll("heartbeats are recorded", || {
            collector.beat("a", "SLEEP", 5.0);
            has_some()
        });
    };
    beat_until_some();
    fs::rename(&trace, &moved).unwrap();
    beat_until_some();
    fs::remove_file(&trace).unwrap();
    beat_until_some();
    assert_eq!(collector.logged("was removed or renamed"), 2);
    collector.signal("INT");
    assert_eq!(collector.wait(), Some(0));
    assert!(report(&moved, &[])["heartbeats"].as_u64().unwrap() > 0);
}

#[test]
fn the_json_of_a_report_is_json_whatever_an_agent_is_called() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let mut collector = Collector::start(&[("HEARTBEAT_TRACE", trace.to_str().unwrap())]);
    // Two intervals of silence make it irregular, so that the report names it.
    assert_eq!(collector.beat("a%E2%80%AEb", "EMERGENCY", 1.0).status, 200);
    collector.await_log(said::IS_DEAD);
    assert_eq!(collector.beat("a%E2%80%AEb", "EMERGENCY", 12.0).status, 200);
    collector.signal("INT");
    assert_eq!(collector.wait(), Some(0));
    let (code, out, _) = run(&trace, &["--json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, report["irregular"][0]["agent_uuid"].as_str()), (0, Some("a\u{202e}b")));
    assert!(!out.contains('\u{202e}'), "{out}");
}

#[test]
fn what_cannot_be_replayed_is_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let (foreign, newer) = (directory.path().join("foreign"), directory.path().join("newer"));
    fs::write(&foreign, "PapTree, but no trace").unwrap();
    fs::write(&newer, b"PapT\x02\0\0\0\0\0\0\0\0").unwrap();
    for (path, arguments, code, why) in [
        (&directory.path().join("none"), &[] as &[&str], 74, "no such file"),
        (&foreign, &[], 74, "no record of heartbeats"),
        (&newer, &[], 74, "version 2 of the format is newer"),
        (&foreign, &["--heartbeat-grace-ms=-1"], 78, "HEARTBEAT_GRACE_MS"),
    ] {
        let (is, out, err) = run(path, arguments);
        assert_eq!(
            (is, out.as_str(), BufReader::new(err.as_bytes()).lines().count()),
            (code, "", 1),
            "{err}"
        );
        assert!(err.contains(why), "{err}");
    }
}
