//! Bad input and bad days: crashes, files that cannot be used, wrong settings.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::{ADMIN, Receiver, alert, skipped, start, until};

#[test]
fn nothing_that_was_answered_is_lost_by_a_kill() {
    let receiver = Receiver::new();
    let mut station = start().run();
    station.webhook(&receiver, &json!({}));
    for round in 0..5 {
        for number in 0..10 {
            let agent = format!("{round}-{number}");
            assert_eq!(station.alert("c", &alert("AGENT_DEATH", &agent, 1)).0, 200);
        }
        // In the middle of delivering.
        station.kill();
        station = start().after(&station).run();
        assert_eq!(station.seen("/api/incidents?state=open")["total"], (round + 1) * 10);
    }
    let distinct = || receiver.all().iter().map(|it| it.id().to_owned()).collect::<BTreeSet<_>>();
    until("all are delivered", || distinct().len() == 50);
    for round in 0..5 {
        for number in 0..10 {
            station.alert("c", &alert("AGENT_RECOVERED", &format!("{round}-{number}"), 9));
        }
        station.kill();
        station = start().after(&station).run();
    }
    until("all are told to be back", || distinct().len() == 100);
    // No return before its death, and each death with one id.
    let mut dead = BTreeSet::new();
    let mut ids = std::collections::HashMap::new();
    for delivery in receiver.all() {
        let agent = delivery.body["agent"]["agent_uuid"].as_str().unwrap().to_owned();
        match delivery.event() {
            "agent.dead" => drop(dead.insert(agent.clone())),
            _ => assert!(dead.contains(&agent), "{agent} is back before its death"),
        }
        let known =
            ids.entry((agent, delivery.event().to_owned())).or_insert_with(|| delivery.id().to_owned());
        assert_eq!(known, delivery.id());
    }
}

#[test]
fn a_stop_is_clean_and_quick_and_leaves_one_file() {
    let mut station = start().run();
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    // What writes alone is refused meanwhile.
    let (code, text) = start().after(&station).output(&["import", "/etc/hostname"]);
    assert_eq!(code, 78, "{text}");
    assert_eq!(station.stop(), 0);
    assert!(!station.directory.path().join("station.db-lock").exists());
    let wal = std::fs::metadata(station.directory.path().join("station.db-wal"));
    assert!(wal.is_err() || wal.is_ok_and(|wal| wal.len() == 0), "one file holds everything");
    let station = start().after(&station).run();
    assert_eq!(station.seen("/api/incidents")["total"], 1);
}

#[test]
fn files_that_cannot_be_used_are_left_as_they_are() {
    let starting = start();
    std::fs::write(starting.database(), "no database ".repeat(1000)).unwrap();
    let (code, text) = starting.output(&[]);
    assert!(code == 74 && text.contains("damaged"), "{code} {text}");
    assert_eq!(std::fs::read_to_string(starting.database()).unwrap(), "no database ".repeat(1000));
    let (code, text) = start().with("STATION_PORT", "x").output(&[]);
    assert!(code == 78 && text.contains("STATION_PORT=\"x\" is wrong"), "{code} {text}");
    let (code, text) = start().with("ALLOW_PRIVATE_TARGETS", "some").output(&[]);
    assert!(code == 78 && text.contains("ALLOW_PRIVATE_TARGETS"), "{code} {text}");
    let (code, text) = start().with("ALERT_RETENTION", "7").output(&[]);
    assert!(code == 78 && text.contains("1m30s"), "{code} {text}");
    let (code, text) = start().output(&["nonsense"]);
    assert!(code == 78 && text.contains("backup FILE and import FILE"), "{code} {text}");
    let (code, text) = start().output(&["--check-config"]);
    assert!(
        code == 0 && text.contains("ALERT_RETENTION=4320h0m0s") && !text.contains(ADMIN),
        "{code} {text}"
    );
}

#[test]
fn a_kafka_that_this_program_cannot_use_is_refused() {
    let refused = |with: &[(&str, &str)], why: &str| {
        let starting = with.iter().fold(start(), |starting, (name, value)| starting.with(name, value));
        let (code, text) = starting.output(&["--check-config"]);
        assert!(code == 78 && text.lines().count() == 1 && text.contains(why), "{with:?}: {code} {text}");
    };
    let brokers = ("KAFKA_BROKERS", "kafka:9092");
    if !cfg!(feature = "kafka") {
        refused(&[brokers], "was built without Kafka");
        return;
    }
    refused(&[("KAFKA_BROKERS", "http://kafka")], "KAFKA_BROKERS=\"http://kafka\" is wrong");
    refused(&[brokers, ("KAFKA_REGISTRY_TOPIC", "a b")], "KAFKA_REGISTRY_TOPIC");
    refused(&[brokers, ("KAFKA_SASL_MECHANISM", "PLAIN")], "KAFKA_SASL_USER");
    refused(&[brokers, ("KAFKA_CERT_FILE", "/nowhere/x")], "KAFKA_KEY_FILE");
    if !cfg!(feature = "kafka-tls") {
        refused(&[brokers, ("KAFKA_TLS", "true")], "was built without TLS for Kafka");
        refused(&[brokers, ("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")], "was built without TLS for Kafka");
    }
}

#[test]
fn a_full_disk_is_said_and_loses_nothing() {
    // A file system of four megabytes, which needs to be allowed to mount.
    let directory = tempfile::TempDir::new().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(directory.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        skipped("a full disk needs the right to mount a tmpfs");
        return;
    }
    let mut station = start().in_file(&directory.path().join("station.db")).run();
    let receiver = Receiver::new();
    station.webhook(&receiver, &json!({}));
    let mut refused = None;
    let ballast = directory.path().join("ballast");
    let mut taken = 0_u64;
    for number in 0..10_000 {
        if number == 20 {
            let free = vec![0; 8 << 20];
            // As much as there is room for.
            let _ = std::fs::write(&ballast, free);
        }
        let mut death = alert("AGENT_DEATH", &number.to_string(), 1);
        death["details"]["ballast"] = json!("x".repeat(8000));
        match station.alert("c", &death).0 {
            200 => taken += 1,
            503 => {
                refused = Some(death);
                break;
            }
            other => panic!("{other}"),
        }
    }
    assert!(taken >= 20, "{taken}");
    assert_eq!(station.get("/ready", "").0, 503);
    assert_eq!(station.seen("/api/incidents?state=open&limit=1")["total"], taken);
    std::fs::remove_file(&ballast).unwrap();
    // Its collector posts it again until it is taken, and once more if the answer is lost.
    let refused = refused.unwrap();
    let (status, once) = station.alert("c", &refused);
    assert_eq!(status, 200, "{once}");
    assert_eq!(station.alert("c", &refused), (200, once));
    assert_eq!(station.get("/ready", "").0, 200);
    assert_eq!(station.seen("/api/incidents?state=open&limit=1")["total"], taken + 1);
    let told = || receiver.all().iter().map(|it| it.id().to_owned()).collect::<BTreeSet<_>>().len() as u64;
    until("everything that was taken is told", || told() == taken + 1);
    let agents =
        receiver.all().iter().map(|it| it.body["agent"]["agent_uuid"].to_string()).collect::<BTreeSet<_>>();
    assert_eq!(agents.len() as u64, taken + 1, "each once, and the refused one too");
    station.kill();
    let unmounted = std::process::Command::new("umount").arg(directory.path()).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
}

#[test]
fn a_backup_is_made_while_it_runs_and_another_station_starts_from_it() {
    let station = start().run();
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    let target = station.directory.path().join("copy.db");
    let (code, text) = start().after(&station).output(&["backup", target.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = start().after(&station).output(&["backup", target.to_str().unwrap()]);
    assert!(code == 74 && text.contains("exists"), "{code} {text}");
    let copy = start().in_file(&target).run();
    assert_eq!(copy.seen("/api/incidents?state=open")["total"], 1);
}

#[test]
fn check_asks_a_running_station() {
    let mut station = start().run();
    let port = station.port.to_string();
    let (code, text) = start().with("STATION_PORT", &port).output(&["check"]);
    assert!(code == 0 && text.starts_with("ready: "), "{code} {text}");
    station.stop();
    let (code, text) = start().with("STATION_PORT", &port).output(&["check"]);
    assert!(code == 1 && text.starts_with("not ready: "), "{code} {text}");
}

#[test]
fn a_file_of_each_former_version_is_taken_over() {
    // Made by the first version: two deaths, one of them over, a delivery that is owed.
    let starting = start();
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/files/version-1.db"), starting.database())
        .unwrap();
    let station = starting.run();
    assert_eq!(station.seen("/api/incidents?state=open")["incidents"][0]["agent"]["agent_name"], "B");
    assert_eq!(station.seen("/api/incidents")["total"], 2);
    assert_eq!(station.seen("/api/clusters")["clusters"][0]["name"], "Cluster");
    assert_eq!(station.seen("/api/clusters/c/alerts")["total"], 3);
    assert_eq!(station.seen("/machines")[0]["status"], "online");
    assert_eq!(
        station.ask("POST", "/agent/metrics", "s8VhtCiBFmCdotzyuGuSYX_vC44TzGPQjmYV1Oph-fw=", "{}").0,
        202
    );
    assert_eq!(station.seen("/api/agents/x")["agent"]["mode"], "SLEEP");
    let channel = &station.seen("/notifications/webhooks")[0];
    assert_eq!(channel["quiet_hours"]["timezone"], "Europe/Berlin");
    assert_eq!(station.seen("/notifications/webhooks/1/deliveries")["total"], 2);
}

#[test]
fn what_is_older_than_is_kept_is_removed() {
    let mut station = start().run();
    for agent in ["old", "new"] {
        station.alert("c", &alert("AGENT_DEATH", agent, 1));
    }
    assert_eq!(station.stop(), 0);
    let file = rusqlite::Connection::open(station.directory.path().join("station.db")).unwrap();
    file.execute("UPDATE alert SET received_at = 1000 WHERE agent = 'old'", []).unwrap();
    file.execute("UPDATE incident SET opened_at = 1000 WHERE agent = 'old'", []).unwrap();
    drop(file);
    let station = start().after(&station).with("ALERT_RETENTION", "1h").run();
    until("the old alert is gone", || station.seen("/api/clusters/c/alerts")["total"] == 1);
    assert_eq!(station.seen("/api/clusters/c/alerts")["alerts"][0]["agent_uuid"], "new");
    let closed = station.seen("/api/incidents?state=closed");
    assert_eq!((&closed["total"], &closed["incidents"][0]["closed_by"]), (&json!(1), &json!("retention")));
    assert_eq!(station.seen("/api/incidents?state=open")["incidents"][0]["agent"]["agent_uuid"], "new");
}
