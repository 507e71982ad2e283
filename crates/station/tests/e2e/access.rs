//! Who may do what, and what nobody is shown (C22, C24, L25, L30 to L32 of the originals).

use serde_json::json;

use crate::support::{ADMIN, AGENT, COLLECTOR, VIEWER, alert, start};

#[test]
fn each_key_opens_its_own_doors() {
    let station = start().run();
    let status = |method: &str, path: &str, key: &str| station.ask(method, path, key, "{}").0;
    for path in ["/api/clusters", "/api/incidents", "/machines", "/notifications/webhooks", "/api/agents"] {
        assert_eq!(status("GET", path, ""), 401, "{path}");
        assert_eq!(status("GET", path, "nobodys"), 401, "{path}");
        assert_eq!(status("GET", path, COLLECTOR), 403, "{path}");
        assert_eq!(status("GET", path, VIEWER), 200, "{path}");
        assert_eq!(status("GET", path, ADMIN), 200, "{path}");
    }
    for path in ["/api/clusters", "/agent/register", "/notifications/webhooks", "/notifications/telegram"] {
        assert_eq!(status("POST", path, VIEWER), 403, "{path}");
        assert_eq!(status("POST", path, ADMIN), 400, "{path}");
    }
    for path in ["/health", "/ready", "/metrics", "/"] {
        assert_eq!(status("GET", path, ""), 200, "{path}");
    }
    assert_eq!(status("POST", "/api/agents/a/heartbeat", COLLECTOR), 401);
    assert_eq!(status("POST", "/api/agents/a/heartbeat", AGENT), 400);
    assert_eq!(status("GET", "/nothing", ADMIN), 404);
    assert_eq!(status("PUT", "/machines", ADMIN), 405);
    let (status, head, _) = station.send("OPTIONS", "/api/clusters", &[], "");
    assert!(status == 204 && head.contains("Allow: GET, POST, OPTIONS"), "{head}");
}

#[test]
fn each_401_says_what_would_be_taken() {
    let station = start().run();
    // RFC 9110 15.5.2.
    for (method, path, key) in
        [("POST", "/api/session", ""), ("POST", "/agent/metrics", ADMIN), ("GET", "/machines", "")]
    {
        let bearer = format!("Bearer {key}");
        let headers = if key.is_empty() { vec![] } else { vec![("Authorization", bearer.as_str())] };
        let (status, head, _) = station.send(method, path, &headers, r#"{"key":"nobodys"}"#);
        assert!(status == 401 && head.contains("WWW-Authenticate: Bearer"), "{path}: {head}");
    }
}

#[test]
fn keys_of_one_cluster_and_one_agent_are_shown_once_and_end() {
    let station = start().run();
    assert_eq!(station.ask("POST", "/api/clusters/c/keys", ADMIN, "").0, 404);
    station.ask("PUT", "/api/clusters/c", ADMIN, "{}");
    let (status, made) = station.ask("POST", "/api/clusters/c/keys", ADMIN, "");
    assert_eq!(status, 201);
    let key = made["key"].as_str().unwrap();
    let post = |cluster: &str, key: &str| {
        let mut body = alert("AGENT_DEATH", "a", 1);
        body["cluster_id"] = json!(cluster);
        station.ask("POST", &format!("/api/clusters/{cluster}/alerts"), key, &body.to_string()).0
    };
    assert_eq!((post("c", key), post("d", key)), (200, 401));
    // It is not in the file, which holds its hash alone.
    let file = std::fs::read(station.directory.path().join("station.db")).unwrap();
    let wal = std::fs::read(station.directory.path().join("station.db-wal")).unwrap_or_default();
    for bytes in [file, wal] {
        assert!(!bytes.windows(key.len()).any(|window| window == key.as_bytes()));
    }
    assert_eq!(station.ask("DELETE", "/api/clusters/c/keys", ADMIN, "").1, json!({ "ended": 1 }));
    assert_eq!(post("c", key), 401);

    let (_, made) = station.ask("POST", "/api/agents/x/keys", ADMIN, "");
    let key = made["key"].as_str().unwrap();
    let beat = |agent: &str| {
        let body = r#"{"mode":"IDLE","uptime_seconds":1}"#;
        station.ask("POST", &format!("/api/agents/{agent}/heartbeat"), key, body).0
    };
    assert_eq!((beat("x"), beat("y")), (200, 401));
}

#[test]
fn a_session_is_a_cookie_that_no_script_reads_and_that_ends() {
    let mut station = start().with("TRUST_PROXY", "true").run();
    let (status, body) = station.ask("POST", "/api/session", "", r#"{"key":"wrong"}"#);
    assert_eq!(status, 401, "{body}");
    assert_eq!(station.ask("POST", "/api/session", "", "{}").0, 400);
    assert_eq!(station.ask("POST", "/api/session", "", &json!({ "key": COLLECTOR }).to_string()).0, 401);
    let sign_in = |headers: &[(&str, &str)], key: &str| {
        let (status, head, _) =
            station.send("POST", "/api/session", headers, &json!({ "key": key }).to_string());
        assert_eq!(status, 204);
        head.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")).unwrap().to_owned()
    };
    let cookie = sign_in(&[("X-Forwarded-Proto", "https")], ADMIN);
    assert!(cookie.contains("; HttpOnly; SameSite=Strict; Max-Age=43200; Secure"), "{cookie}");
    let cookie = sign_in(&[], VIEWER);
    assert!(!cookie.contains("Secure"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let get =
        |station: &crate::support::Station, path: &str| station.send("GET", path, &[("Cookie", &cookie)], "");
    assert_eq!(get(&station, "/api/session").2, r#"{"role":"viewer"}"#);
    // A page of another site cannot act with it, and a viewer's changes nothing.
    let headers = [("Cookie", cookie.as_str()), ("Sec-Fetch-Site", "cross-site")];
    assert_eq!(station.send("DELETE", "/api/session", &headers, "").0, 403);
    assert_eq!(station.send("POST", "/api/clusters", &[("Cookie", &cookie)], "{}").0, 403);

    // It outlives the process, but not its key.
    station.kill();
    let station = start().after(&station).run();
    assert_eq!(get(&station, "/api/incidents").0, 200);
    let mut station = station;
    assert_eq!(station.stop(), 0);
    let station = start().after(&station).with("STATION_VIEWER_KEY", "another-viewers-key").run();
    assert_eq!(get(&station, "/api/incidents").0, 401);

    let (_, head, _) = station.send("POST", "/api/session", &[], &json!({ "key": ADMIN }).to_string());
    let cookie = head.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")).unwrap();
    let cookie = cookie.split(';').next().unwrap();
    let with = |method: &str, path: &str| station.send(method, path, &[("Cookie", cookie)], "").0;
    assert_eq!(with("GET", "/api/incidents"), 200);
    assert_eq!(with("DELETE", "/api/session"), 204);
    assert_eq!(with("GET", "/api/incidents"), 401);
}

#[test]
fn whoever_guesses_is_slowed_down_and_whoever_knows_is_not() {
    let station = start().run();
    let statuses: Vec<_> = (0..7).map(|_| station.get("/api/clusters", "guess").0).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429]);
    let (_, head, _) = station.send("GET", "/machines", &[("X-API-Key", "guess")], "");
    assert!(head.contains("Retry-After: "), "{head}");
    assert_eq!(station.get("/api/clusters", ADMIN).0, 200);
    assert_eq!(station.ask("POST", "/api/session", "", r#"{"key":"guess"}"#).0, 429);
    assert_eq!(station.ask("POST", "/api/session", "", &json!({ "key": ADMIN }).to_string()).0, 204);
}

#[test]
fn without_an_admins_key_one_is_made_for_its_owner_alone() {
    let station = start().without("STATION_ADMIN_KEY").run();
    let path = station.directory.path().join("admin.key");
    let key = std::fs::read_to_string(&path).unwrap().trim().to_owned();
    assert_eq!(station.get("/api/clusters", &key).0, 200);
    assert!(station.log().contains("admin.key") && !station.log().contains(&key));
    use std::os::unix::fs::PermissionsExt as _;
    for name in ["admin.key", "station.db"] {
        let mode = std::fs::metadata(station.directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn metrics_are_open_or_have_their_own_key() {
    let station = start().with("METRICS_KEY", "a-key-for-the-metrics").run();
    assert_eq!(station.get("/metrics", "").0, 401);
    let (status, text) = station.get("/metrics", "a-key-for-the-metrics");
    assert_eq!(status, 200);
    assert!(text.as_str().unwrap().contains("pap_station_alerts_total{type=\"AGENT_DEATH\"} 0"));
}

#[test]
fn a_forged_address_hides_nobody_who_guesses() {
    let guess = |station: &crate::support::Station, from: &str| {
        let headers = [("Authorization", "Bearer guess"), ("X-Forwarded-For", from)];
        station.send("GET", "/api/clusters", &headers, "").0
    };
    let station = start().run();
    let statuses: Vec<_> = (0..7).map(|number| guess(&station, &format!("192.0.2.{number}"))).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429]);
    // Behind a proxy it is the address that the proxy adds, not what a client says before it.
    let station = start().with("TRUST_PROXY", "true").run();
    let statuses: Vec<_> =
        (0..7).map(|number| guess(&station, &format!("192.0.2.{number}, 10.0.0.1"))).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429]);
    assert_eq!(guess(&station, "192.0.2.1, 10.0.0.2"), 401);
}

#[test]
fn keys_are_changed_without_a_gap() {
    let station = start().with("PAP_COLLECTOR_API_KEY", "the-key-of-before,the-key-of-now-on").run();
    for (key, status) in [("the-key-of-before", 200), ("the-key-of-now-on", 200), ("the-key-of-nobody", 401)]
    {
        assert_eq!(station.ask("POST", "/api/clusters/c/heartbeat", key, "").0, status, "{key}");
    }
}

#[test]
fn nobody_has_a_password_that_could_be_reset() {
    let station = start().run();
    for path in ["/auth/login", "/auth/forgot-password", "/auth/reset-password"] {
        let (status, answer) = station.ask("POST", path, "", r#"{"email":"admin@example.com"}"#);
        assert_eq!((status, answer), (404, json!({ "error": "Not found" })), "{path}");
    }
}
