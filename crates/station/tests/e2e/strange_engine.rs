//! What an engine does that is busy, broken or in other hands, and what becomes of workers then.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use crate::books::{Engine, TEMPLATE, beat, delete, put, with_engine, with_templates};
use crate::support::{ADMIN, PATIENCE, Station, let_pass, slow, start, until};

/// The open incidents of workers.
fn failures(station: &Station) -> Vec<Value> {
    station.seen("/api/incidents?kind=worker.failed&state=open")["incidents"].as_array().unwrap().clone()
}

#[test]
fn more_than_may_wait_at_once_is_no_crash_loop_and_no_flood() {
    let engine = Engine::default();
    let station = with_engine(start(), &engine).run();
    for number in 0..400 {
        put(&station, &format!("c{number}"));
    }
    until("all workers run", || engine.running() == 400);
    engine.stop_all();
    until("all run again", || engine.running() == 400);
    assert_eq!(station.seen("/api/incidents?kind=worker.failed&state=all")["total"], 0);
    let said = station.log().matches("respawning").count();
    assert_eq!(said, 400, "each is said once");
}

#[test]
fn what_cannot_be_removed_is_tried_again_after_a_while() {
    let engine = Engine::default();
    let station = with_engine(start(), &engine).run();
    put(&station, "c");
    until("the worker runs", || engine.running() == 1);
    engine.refuses_removal.store(true, Ordering::SeqCst);
    engine.stop_all();
    until("people are told", || station.seen("/api/incidents?kind=worker.failed")["total"] == 1);
    // After 5 and 10 seconds: whoever asks without a pause has asked a thousand times.
    assert!(engine.removals.load(Ordering::SeqCst) <= 4);
    engine.refuses_removal.store(false, Ordering::SeqCst);
    until("it runs again", || engine.running() == 1);
}

#[test]
fn a_stop_that_has_waited_is_not_done_to_a_cluster_that_was_heard() {
    let engine = Engine::default();
    let starting = start().with("HEARTBEAT_TIMEOUT", "10s").with("CLEANUP_TIMEOUT", "10s");
    let station = with_engine(starting, &engine).run();
    let ids: Vec<_> = (0..8).map(|number| format!("c{number}")).collect();
    engine.holds_stops.store(true, Ordering::SeqCst);
    for id in &ids {
        put(&station, id);
    }
    until("all workers run", || {
        for id in &ids {
            beat(&station, id);
        }
        engine.running() == 8
    });
    let is_dead = |id: &String| station.seen(&format!("/api/clusters/{id}"))["cluster"]["state"] == "dead";
    until("all are dead", || ids.iter().all(is_dead));
    until("four stops are under way", || station.log().matches("Stopping container").count() == 4);
    let log = station.log();
    let waiting: Vec<_> =
        ids.iter().filter(|id| !log.contains(&format!("Cleaning up dead cluster: {id}"))).collect();
    assert_eq!(waiting.len(), 4);
    let beat_all = || {
        for id in &waiting {
            beat(&station, id);
        }
    };
    beat_all();
    engine.holds_stops.store(false, Ordering::SeqCst);
    until("those that wait no more are gone", || {
        beat_all();
        engine.running() == 4
    });
    assert!(waiting.iter().all(|id| engine.runs(&format!("w-{id}"))));
    assert_eq!(station.log().matches("Stopping container").count(), 4);
}

#[test]
fn a_failure_is_told_again_whoever_has_ended_it_and_shows_no_secret() {
    let engine = Engine::default();
    let starting = start();
    let secret = starting.database().with_file_name("secret");
    std::fs::write(&secret, "correct-horse\n").unwrap();
    let templates =
        format!("{TEMPLATE}secrets_env = true\n[worker.secrets]\nPASSWORD = \"{}\"\n", secret.display());
    let station = with_templates(starting, &engine, &templates).run();
    engine.refuses_creation.store(true, Ordering::SeqCst);
    put(&station, "c");
    until("people are told", || failures(&station).len() == 1);
    let first = failures(&station).remove(0);
    let said = first.to_string();
    assert!(said.contains("PASSWORD=(hidden)") && !said.contains("horse"), "{said}");
    let close = format!("/api/incidents/{}/close", first["id"].as_str().unwrap());
    assert_eq!(station.ask("POST", &close, ADMIN, "{}").0, 200);
    until("it is told again", || failures(&station).len() == 1);
    assert_ne!(failures(&station)[0]["id"], first["id"]);

    delete(&station, "c");
    until("it is of no interest", || failures(&station).is_empty());
    put(&station, "c");
    until("it is told once more", || failures(&station).len() == 1);
    engine.refuses_creation.store(false, Ordering::SeqCst);
    until("it runs", || engine.runs("w-c"));
    assert!(!station.log().contains("horse"));
}

#[test]
fn without_templates_nothing_of_a_worker_stays_open() {
    let engine = Engine::default();
    let mut station = with_engine(start(), &engine).run();
    engine.refuses_creation.store(true, Ordering::SeqCst);
    put(&station, "c");
    until("people are told", || failures(&station).len() == 1);
    assert_eq!(station.stop(), 0);
    let station = start().after(&station).run();
    until("nobody is asked to do something", || failures(&station).is_empty());
}

#[test]
fn pulls_that_hang_hinder_no_worker_whose_image_is_there() {
    let engine = Engine::default();
    let far = "[[worker]]\nname = \"far-{cluster_id}\"\nrole = \"far\"\nimage = \"far\"\n";
    let station = with_templates(start(), &engine, &format!("{TEMPLATE}{far}")).run();
    engine.holds_pulls.store(true, Ordering::SeqCst);
    (0..8).for_each(|number| put(&station, &format!("c{number}")));
    until("all run whose image is there", || engine.running() == 8);
    until("images are pulled", || engine.pulls.load(Ordering::SeqCst) > 0);
    (0..8).for_each(|number| delete(&station, &format!("c{number}")));
    until("all are gone", || engine.books().is_empty());
    engine.holds_pulls.store(false, Ordering::SeqCst);
    put(&station, "c");
    until("both run", || engine.runs("w-c") && engine.runs("far-c"));
    assert_eq!(engine.running(), 2, "nothing is made for those that are gone");
}

#[test]
fn without_labels_only_a_container_of_the_same_image_is_adopted_and_it_stays_so() {
    let engine = Engine::default();
    let foreign = engine.add("w-a", "postgres:16", json!({ "com.docker.compose.project": "x" }), "running");
    let former = engine.add("w-b", "i:1", Value::Null, "running");
    let mut station = with_engine(start(), &engine).with("ADOPT_UNLABELLED", "true").run();
    put(&station, "a");
    put(&station, "b");
    until("the foreign one is in the way", || failures(&station).len() == 1);
    assert_eq!(failures(&station)[0]["cluster"]["cluster_id"], "a");
    until("the former one is seen", || station.seen("/api/workers")["workers"][1]["state"] == "running");
    assert_eq!(station.stop(), 0);

    // It stays a worker, although its name is no longer that of one, and is not doubled.
    let _station = with_templates(start().after(&station), &engine, &TEMPLATE.replace("w-", "new-")).run();
    until("the name is free", || engine.runs("new-a"));
    until("it is replaced", || engine.runs("new-b"));
    assert!(engine.books().contains_key(&foreign) && !engine.books().contains_key(&former));
    assert_eq!(engine.running(), 3);
}

#[test]
fn a_worker_that_could_not_be_made_again_is_kept() {
    let engine = Engine::default();
    let mut station = with_engine(start(), &engine).run();
    put(&station, "c");
    until("the worker runs", || engine.runs("w-c"));
    assert_eq!(station.stop(), 0);
    engine.add("new-c", "postgres:16", Value::Null, "running");
    // A long file is read to its end.
    let templates =
        format!("{}{}\n{}", TEMPLATE.replace("w-", "new-"), "# a comment\n".repeat(2000), TEMPLATE)
            .replace("name = \"w-{cluster_id}\"\nrole = \"w\"", "name = \"v-{cluster_id}\"\nrole = \"v\"");
    let station = with_templates(start().after(&station), &engine, &templates).run();
    until("the last template has its worker", || engine.runs("v-c"));
    until("people are told", || failures(&station).len() == 1);
    assert!(engine.runs("w-c") && engine.runs("new-c"), "{}", station.log());
}

#[test]
fn while_a_container_cannot_be_read_nothing_is_made() {
    let engine = Engine::default();
    let station = with_engine(start(), &engine).run();
    engine.has_unread.store(true, Ordering::SeqCst);
    put(&station, "c");
    until("people are told", || failures(&station).len() == 1);
    assert!(failures(&station)[0].to_string().contains("cannot be read") && engine.running() == 0);
    engine.has_unread.store(false, Ordering::SeqCst);
    until("it runs", || engine.runs("w-c"));
}

#[test]
fn a_decision_that_has_waited_is_made_again_by_what_is_there_now() {
    let engine = Engine::default();
    let station = with_engine(start(), &engine).run();
    let removed: Vec<_> = (0..4).map(|number| format!("a{number}")).collect();
    for id in &removed {
        put(&station, id);
    }
    put(&station, "c");
    until("all workers run", || engine.running() == 5);
    engine.holds_stops.store(true, Ordering::SeqCst);
    for id in &removed {
        delete(&station, id);
    }
    until("four stops are under way", || station.log().matches("Stopping container").count() == 4);
    // A copy has all labels of the worker. Its removal waits, and then it is the only one.
    let labels = engine.books()["w-c-id"].labels.clone();
    engine.add("copy", "i", labels, "running");
    until("there are two", || station.seen("/api/workers")["containers"] == 6);
    let seen = engine.listings.load(Ordering::SeqCst);
    until("it was looked at", || engine.listings.load(Ordering::SeqCst) > seen + 1);
    let_pass(Duration::from_secs(6));
    engine.books().remove("w-c-id");
    engine.holds_stops.store(false, Ordering::SeqCst);
    until("the others are gone", || engine.running() == 1);
    let seen = engine.listings.load(Ordering::SeqCst);
    until("it was looked at", || engine.listings.load(Ordering::SeqCst) > seen + 2);
    assert!(engine.runs("copy"), "{}", station.log());
}

#[test]
fn an_image_that_has_lost_its_name_is_known_by_what_its_container_was_made_from() {
    let engine = Engine::default();
    for (name, image) in [("w-a", "i:1"), ("w-b", "postgres:16"), ("other", "i:1")] {
        let id = engine.add(name, image, Value::Null, "running");
        engine.books().get_mut(&id).unwrap().is_untagged = true;
    }
    let station = with_engine(start(), &engine).with("ADOPT_UNLABELLED", "true").run();
    put(&station, "a");
    put(&station, "b");
    until("the foreign one is in the way", || failures(&station).len() == 1);
    assert_eq!(failures(&station)[0]["cluster"]["cluster_id"], "b");
    assert_eq!(station.seen("/api/workers")["workers"][0]["state"], "running");
}

#[test]
fn what_is_only_said_to_be_removed_is_told_and_not_removed_without_a_pause() {
    let engine = Engine::default();
    let station = with_engine(start(), &engine).run();
    put(&station, "c");
    until("the worker runs", || engine.running() == 1);
    engine.lies_of_removal.store(true, Ordering::SeqCst);
    engine.stop_all();
    until("people are told", || failures(&station).len() == 1);
    assert!(failures(&station)[0].to_string().contains("still there"));
    // After 5 and 10 seconds.
    assert!(engine.removals.load(Ordering::SeqCst) <= 4);
    engine.lies_of_removal.store(false, Ordering::SeqCst);
    until("it runs again", || engine.running() == 1);
}

#[test]
fn images_that_hang_are_neither_said_nor_asked_for_again_and_again() {
    let engine = Engine::default();
    let far = "[[worker]]\nname = \"far-{cluster_id}\"\nrole = \"far\"\nimage = \"far\"\n";
    let station = with_templates(start(), &engine, far).run();
    engine.holds_pulls.store(true, Ordering::SeqCst);
    (0..300).for_each(|number| put(&station, &format!("c{number}")));
    until("two are pulled", || engine.pulls.load(Ordering::SeqCst) == 2);
    until("all were asked for", || engine.images.load(Ordering::SeqCst) >= 300);
    let seen = engine.listings.load(Ordering::SeqCst);
    until("five more looks", || engine.listings.load(Ordering::SeqCst) > seen + 5);
    assert!(engine.images.load(Ordering::SeqCst) < 450, "those for which there is no room wait");
    assert_eq!(station.log().matches("Spawning").count(), 2);
    engine.holds_pulls.store(false, Ordering::SeqCst);
}

#[test]
fn looks_at_single_containers_do_not_hold_up_the_others() {
    let engine = Engine::default();
    let station = with_engine(start(), &engine).run();
    (0..60).for_each(|number| put(&station, &format!("c{number}")));
    until("all workers run", || engine.running() == 60);
    engine.is_slow.store(true, Ordering::SeqCst);
    let (mut before, mut most) = (engine.looks.load(Ordering::SeqCst), 0);
    for _ in 0..2 {
        let listed = engine.listings.load(Ordering::SeqCst);
        until("there is another look at all", || engine.listings.load(Ordering::SeqCst) > listed);
        let now = engine.looks.load(Ordering::SeqCst);
        most = most.max(now - before);
        before = now;
    }
    // Half a second each: five seconds are ten of them.
    assert!((1..=12).contains(&most), "{most}");
}

#[test]
fn a_file_that_cannot_be_written_is_not_told_as_an_engine_that_is_down() {
    if !slow("a lease must be too old to act by") {
        return;
    }
    let engine = Engine::default();
    let station = with_engine(start(), &engine).run();
    put(&station, "c");
    until("the worker runs", || engine.running() == 1);
    let file = rusqlite::Connection::open(station.directory.path().join("station.db")).unwrap();
    file.busy_timeout(PATIENCE).unwrap();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    let engine_seen = || station.seen("/api/workers")["engine"].clone();
    until("it is not asked any more", || engine_seen()["error"].to_string().contains("STATION_DB"));
    until("that is said", || station.log().contains("is not renewed"));
    assert_eq!(engine_seen()["reachable"], true);
    assert!(station.get("/metrics", "").1.to_string().contains("pap_station_engine_up 1"));
    file.execute_batch("ROLLBACK").unwrap();
    until("it is asked again", || engine_seen()["error"].is_null());
    until("that is said, too", || station.log().contains("is renewed again"));
    let log = station.log();
    assert!(log.matches("is not renewed").count() <= 3, "{log}");
}

#[test]
fn a_worker_that_cannot_be_removed_is_told_although_its_cluster_is_gone() {
    let engine = Engine::default();
    let station = with_engine(start(), &engine).run();
    put(&station, "c");
    until("the worker runs", || engine.running() == 1);
    engine.refuses_stops.store(true, Ordering::SeqCst);
    delete(&station, "c");
    until("people are told", || !failures(&station).is_empty());
    let reason = failures(&station)[0]["details"]["reason"].to_string();
    assert!(reason.contains("cannot be removed") && reason.contains("permission denied"), "{reason}");
    engine.refuses_stops.store(false, Ordering::SeqCst);
    until("it is gone", || engine.running() == 0);
    until("that is over", || failures(&station).is_empty());
}

#[test]
fn what_was_adopted_while_the_file_could_not_be_written_is_remembered() {
    let engine = Engine::default();
    engine.refuses_creation.store(true, Ordering::SeqCst);
    let station = with_engine(start().with("ADOPT_UNLABELLED", "true"), &engine).run();
    put(&station, "c");
    until("none can be made", || station.log().contains("refused"));
    let file = rusqlite::Connection::open(station.directory.path().join("station.db")).unwrap();
    file.busy_timeout(PATIENCE).unwrap();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    engine.add("w-c", "i:1", json!({}), "running");
    until("it cannot be stored", || station.log().contains("cannot be stored"));
    file.execute_batch("ROLLBACK").unwrap();
    let adopted = || -> u32 { file.query_row("SELECT count(*) FROM adopted", [], |row| row.get(0)).unwrap() };
    until("it is stored", || adopted() == 1);
}

#[test]
fn no_worker_is_stopped_for_a_successor_that_cannot_be_made() {
    let engine = Engine::default();
    let mut station = with_engine(start(), &engine).run();
    put(&station, "c");
    until("the worker runs", || engine.running() == 1);
    let id = engine.books().keys().next().unwrap().clone();
    assert_eq!(station.stop(), 0);
    let secret = station.directory.path().join("secret");
    let missing = [
        format!("{TEMPLATE}secrets_env = true\n[worker.secrets]\nPASS = \"{}\"\n", secret.display()),
        TEMPLATE.replace("image = \"i\"", "image = \"none\"\npull = \"never\""),
    ];
    for template in &missing {
        station = with_templates(start().after(&station), &engine, template).run();
        until("people are told", || !failures(&station).is_empty());
        assert!(engine.books()[&id].state == "running" && engine.removals.load(Ordering::SeqCst) == 0);
        assert_eq!(station.stop(), 0);
    }
    std::fs::write(&secret, "geheim").unwrap();
    station = with_templates(start().after(&station), &engine, &missing[0]).run();
    until("it is replaced", || station.log().contains("Spawned w-c") && engine.running() == 1);
}

#[test]
fn a_cluster_that_was_only_heard_can_be_registered_by_an_admin() {
    let engine = Engine::default();
    let station = with_engine(start(), &engine).run();
    beat(&station, "c");
    let post = || station.ask("POST", "/api/clusters", ADMIN, r#"{"cluster_id":"c","name":"C"}"#).0;
    assert_eq!(post(), 201);
    until("the worker runs", || engine.running() == 1);
    assert_eq!(post(), 409);
}

#[test]
fn an_engine_whose_answers_differ_is_neither_said_nor_asked_again_and_again() {
    let engine = Engine::default();
    let station = with_engine(start(), &engine).run();
    put(&station, "c");
    until("the worker runs", || engine.running() == 1);
    engine.refuses_listings.store(true, Ordering::SeqCst);
    until("it is said", || station.log().contains("left as they are"));
    let listed = engine.listings.load(Ordering::SeqCst);
    for number in 0..40 {
        put(&station, &format!("c{number}"));
        let_pass(Duration::from_millis(50));
    }
    // Two seconds, and a second for each listing.
    let listed = engine.listings.load(Ordering::SeqCst) - listed;
    let said = station.log().matches("left as they are").count();
    assert!(listed <= 6 && said == 1, "{listed} {said}");
}

#[test]
fn a_worker_goes_on_while_the_image_of_its_successor_is_pulled() {
    if !slow("a pull must take longer than a decision holds") {
        return;
    }
    let engine = Engine::default();
    let former = TEMPLATE.replace("image = \"i\"", "image = \"j\"\npull = \"always\"");
    let mut station = with_templates(start(), &engine, &former).run();
    put(&station, "c");
    until("the worker runs", || engine.running() == 1);
    assert_eq!((station.stop(), engine.pulls.load(Ordering::SeqCst)), (0, 1));
    engine.holds_pulls.store(true, Ordering::SeqCst);
    station = with_templates(start().after(&station), &engine, &format!("{former}memory = \"16m\"\n")).run();
    until("it is pulled", || engine.pulls.load(Ordering::SeqCst) == 2);
    let_pass(Duration::from_secs(7));
    assert_eq!((engine.running(), station.log().contains("Stopping")), (1, false));
    engine.holds_pulls.store(false, Ordering::SeqCst);
    until("its successor runs", || station.log().contains("Spawned w-c") && engine.running() == 1);
    assert_eq!(engine.pulls.load(Ordering::SeqCst), 2, "it is fresh");
}
