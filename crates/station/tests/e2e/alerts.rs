//! Alerts in, and what follows from them (C2, C3, C4, C16, C17, C18 of the original).

use serde_json::{Value, json};

use crate::support::{ADMIN, COLLECTOR, Receiver, VIEWER, alert, start};

#[test]
fn the_originals_alert_gets_the_originals_answers() {
    let station = start().run();
    let (status, taken) = station.alert("c", &alert("AGENT_DEATH", "a", 1));
    assert_eq!((status, &taken["received"]), (200, &json!(true)));
    let uuid = taken["alert_uuid"].as_str().unwrap().to_owned();
    assert_eq!(uuid.len(), 36);
    station.await_log("[Clusters] Alert received: AGENT_DEATH for agent name of a in cluster c");
    // The same again is the same.
    assert_eq!(station.alert("c", &alert("AGENT_DEATH", "a", 1)), (200, taken));

    let (status, body) = station.alert("other", &alert("AGENT_DEATH", "a", 2));
    assert_eq!((status, &body["error"]), (400, &json!("Cluster ID mismatch")));
    let (status, body) = station.alert("c", &json!({ "type": "MODE_CHANGE" }));
    assert_eq!((status, &body["error"]), (400, &json!("Invalid alert payload")));
    assert_eq!(body["details"][0]["path"], json!(["type"]));
    let post = |key: &str, body: &str| station.ask("POST", "/api/clusters/c/alerts", key, body);
    let (status, body) = post("", "{}");
    assert_eq!((status, &body["error"]), (401, &json!("Invalid or missing collector API key")));
    assert_eq!(post(VIEWER, "{}").0, 401);
    assert_eq!(post(COLLECTOR, "{").0, 400);
    let mut big = alert("AGENT_DEATH", "a", 3);
    big["details"] = json!({ "x": "y".repeat(10_000) });
    let (status, body) = station.alert("c", &big);
    assert_eq!((status, &body["error"]), (413, &json!("Request body too large")));

    let listed = station.seen("/api/clusters/c/alerts");
    assert_eq!((&listed["total"], &listed["cluster_name"]), (&json!(1), &json!("c")));
    let row = &listed["alerts"][0];
    assert_eq!((&row["uuid"], &row["alert_type"]), (&json!(uuid), &json!("AGENT_DEATH")));
    assert_eq!(row["alert_timestamp"], json!("2026-01-31T12:00:01.000Z"));
}

fn kinds(incidents: &Value) -> Vec<&str> {
    incidents["incidents"].as_array().unwrap().iter().map(|it| it["kind"].as_str().unwrap()).collect()
}

#[test]
fn an_incident_opens_once_and_closes_once_and_people_are_told_in_order() {
    let (station, receiver) = (start().run(), Receiver::new());
    station.webhook(&receiver, &json!({}));
    for second in [1, 2, 3] {
        station.alert("c", &alert("AGENT_DEATH", "a", second));
    }
    assert_eq!(kinds(&station.seen("/api/incidents?state=open")), ["agent.dead"]);
    // Of a collector of the original: a restart is the word of a living agent.
    station.alert("c", &alert("RESTART_DETECTED", "a", 10));
    // It was tried for so long that the agent was heard since.
    station.alert("c", &alert("AGENT_DEATH", "a", 9));
    assert_eq!(kinds(&station.seen("/api/incidents?state=open")), [""; 0]);
    station.alert("c", &alert("EMERGENCY_MODE", "a", 11));
    station.alert("c", &alert("AGENT_DEATH", "a", 20));
    assert_eq!(kinds(&station.seen("/api/incidents?state=open")), ["agent.dead", "agent.emergency"]);
    station.alert("c", &alert("AGENT_RECOVERED", "a", 30));
    assert_eq!(kinds(&station.seen("/api/incidents?state=open")), [""; 0], "it is back, and in another mode");
    receiver.await_count(7);
    assert_eq!(
        receiver.events(),
        [
            "agent.dead",
            "agent.recovered",
            "agent.restarted",
            "agent.emergency",
            "agent.dead",
            "agent.recovered",
            "agent.emergency_over"
        ]
    );
    let all = receiver.all();
    assert_eq!(all[0].body["incident"]["id"], all[1].body["incident"]["id"]);
    assert_eq!(
        (&all[0].body["incident"]["state"], &all[1].body["incident"]["state"]),
        (&json!("open"), &json!("closed"))
    );
    assert_eq!(all[0].body["agent"]["last_seen"], json!("2026-01-31T12:00:00.000Z"));
    assert_eq!(all[2].body["incident"], json!(null), "a restart opens nothing");
    let mut ids: Vec<_> = all.iter().map(super::support::Delivery::id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 7);
}

#[test]
fn a_mass_silence_is_told_besides_its_deaths_and_ends_with_the_last() {
    let (station, receiver) = (start().run(), Receiver::new());
    station.webhook(&receiver, &json!({ "filters": { "events": ["mass_silence", "mass_silence.over"] } }));
    for agent in ["a", "b", "d"] {
        let mut death = alert("AGENT_DEATH", agent, 1);
        death["details"]["mass_silence"] = json!(true);
        station.alert("c", &death);
    }
    assert_eq!(station.seen("/api/incidents?state=open")["total"], 4);
    for (agent, left) in [("a", 3), ("b", 2), ("d", 0)] {
        station.alert("c", &alert("AGENT_RECOVERED", agent, 9));
        assert_eq!(station.seen("/api/incidents?state=open")["total"], left);
    }
    receiver.await_count(2);
    assert_eq!(receiver.events(), ["mass_silence", "mass_silence.over"]);
}

#[test]
fn alerts_are_filtered_paged_and_acknowledged() {
    let station = start().run();
    for number in 0..5 {
        let (kind, agent) =
            if number == 4 { ("EMERGENCY_MODE", "e") } else { ("AGENT_DEATH", ["a", "b", "d", "f"][number]) };
        station.alert("c", &alert(kind, agent, 1));
    }
    station.alert("c", &alert("AGENT_RECOVERED", "a", 5));
    let agents = |query: &str| -> Vec<String> {
        let listed = station.seen(&format!("/api/clusters/c/alerts?{query}"));
        let rows = listed["alerts"].as_array().unwrap();
        rows.iter().map(|row| row["agent_uuid"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(agents(""), ["a", "e", "f", "d", "b", "a"]);
    assert_eq!(agents("open=true"), ["e", "f", "d", "b"]);
    assert_eq!(agents("severity=warning"), ["e"]);
    assert_eq!(agents("type=AGENT_RECOVERED&open=false"), ["a"]);
    assert_eq!(agents("limit=2"), ["a", "e"]);
    let second =
        station.seen("/api/clusters/c/alerts?limit=2")["alerts"][1]["uuid"].as_str().unwrap().to_owned();
    assert_eq!(agents(&format!("limit=2&after={second}")), ["f", "d"]);
    for wrong in ["limit=0", "limit=501", "limit=x", "severity=fatal", "acknowledged=yes", "type=x"] {
        assert_eq!(station.get(&format!("/api/clusters/c/alerts?{wrong}"), ADMIN).0, 400, "{wrong}");
    }
    let ack = |method: &str, key: &str, body: &str| {
        station.ask(method, &format!("/api/alerts/{second}/ack"), key, body).0
    };
    assert_eq!(ack("POST", VIEWER, ""), 403);
    assert_eq!(ack("POST", ADMIN, r#"{"note":"looking"}"#), 200);
    assert_eq!(agents("acknowledged=true"), ["e"]);
    let incidents = station.seen("/api/incidents?kind=agent.emergency");
    let incident = &incidents["incidents"][0];
    assert_eq!((&incident["acknowledged_by"], &incident["note"]), (&json!("admin"), &json!("looking")));
    assert_eq!(ack("DELETE", ADMIN, ""), 200);
    assert_eq!(agents("acknowledged=true"), [""; 0]);
    assert_eq!(station.ask("POST", "/api/alerts/none/ack", ADMIN, "").0, 404);

    let id = incident["id"].as_str().unwrap();
    assert_eq!(station.ask("POST", &format!("/api/incidents/{id}/close"), ADMIN, "").0, 200);
    assert_eq!(station.seen("/api/incidents?kind=agent.emergency")["incidents"][0]["closed_by"], "admin");
    assert_eq!(agents("open=true"), ["f", "d", "b"]);
}

#[test]
fn any_agent_id_is_taken_and_many_first_alerts_make_one_cluster() {
    let station = start().run();
    std::thread::scope(|scope| {
        for number in 0..40 {
            let station = &station;
            scope.spawn(move || {
                let agent = format!("collector/\u{fc}-{number}");
                assert_eq!(station.alert("c", &alert("AGENT_DEATH", &agent, 1)).0, 200);
            });
        }
    });
    assert_eq!(station.seen("/api/clusters")["total"], 1);
    assert_eq!(station.seen("/api/incidents?state=open&limit=1")["total"], 40);
}

#[test]
fn a_clock_that_was_ahead_hides_no_death() {
    let station = start().run();
    let mut ahead = alert("AGENT_RECOVERED", "a", 1);
    ahead["timestamp"] = json!("2999-01-01T00:00:00.000Z");
    assert_eq!(station.alert("c", &ahead).0, 200);
    let mut death = alert("AGENT_DEATH", "a", 1);
    death["timestamp"] = json!("2998-01-01T00:00:00.000Z");
    assert_eq!(station.alert("c", &death).0, 200);
    assert_eq!(station.seen("/api/incidents?state=open")["total"], 1);
}

#[test]
fn a_mass_silence_ends_when_its_deaths_are_closed_by_hand() {
    let station = start().run();
    let mut death = alert("AGENT_DEATH", "a", 1);
    death["details"]["mass_silence"] = json!(true);
    station.alert("c", &death);
    let open = station.seen("/api/incidents?kind=agent.dead");
    let id = open["incidents"][0]["id"].as_str().unwrap();
    assert_eq!(station.ask("POST", &format!("/api/incidents/{id}/close"), ADMIN, "").0, 200);
    assert_eq!(station.seen("/api/incidents?state=open")["total"], 0);
}
