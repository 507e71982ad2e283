//! The requests of the original collector and of the original machine agent, byte for byte as
//! their HTTP libraries send them over one connection, and the whole answers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::{ADMIN, COLLECTOR, PATIENCE, Receiver, Station, start};

/// What a client can see of an answer: status, content type, body.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert_eq!(self.content_type, "application/json", "{self:?}");
        serde_json::from_str(&self.body).unwrap()
    }
}

fn answer(status: u16, content_type: &str, body: &str) -> Answer {
    Answer { status, content_type: content_type.into(), body: body.into() }
}

/// One connection that is kept, as both clients keep theirs.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn to(station: &Station) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", station.port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(socket))
    }

    fn send(&mut self, request: &str) -> Answer {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap_or_default().parse().unwrap();
        let (mut content_type, mut length) = (String::new(), None);
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name {
                "Content-Type" => value.clone_into(&mut content_type),
                "Content-Length" => length = Some(value.parse().unwrap()),
                "Transfer-Encoding" => panic!("a short answer has a length: {value}"),
                _ => {}
            }
        }
        let mut body =
            vec![0; length.expect("without a length the client waits for the end of the connection")];
        self.0.read_exact(&mut body).unwrap();
        Answer { status, content_type, body: String::from_utf8(body).unwrap() }
    }
}

/// A post of the collector: `fetch` of Node.js.
fn fetched(path: &str, key: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: station.example:8090\r\nconnection: keep-alive\r\n\
         Content-Type: application/json\r\nAuthorization: Bearer {key}\r\naccept: */*\r\naccept-language: *\r\n\
         sec-fetch-mode: cors\r\nuser-agent: node\r\naccept-encoding: gzip, deflate\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

const PATH: &str = "/api/clusters/is.plugged.in/alerts";
const DEATH: &str = r#"{"type":"AGENT_DEATH","agent_uuid":"550e8400-e29b-41d4-a716-446655440000","agent_name":"Compass","cluster_id":"is.plugged.in","severity":"critical","details":{"missed_intervals":2,"last_seen":"2026-01-31T12:00:00.000Z","mode":"IDLE","uptime_before_death":3605.25},"timestamp":"2026-01-31T12:01:05.123Z"}"#;
// The mode before is not known of a new agent, and then not said.
const EMERGENCY: &str = r#"{"type":"EMERGENCY_MODE","agent_uuid":"compass-local","agent_name":"","cluster_id":"is.plugged.in","severity":"warning","details":{"uptime_seconds":12.75},"timestamp":"2026-01-31T12:01:06.000Z"}"#;
const RESTART: &str = r#"{"type":"RESTART_DETECTED","agent_uuid":"550e8400-e29b-41d4-a716-446655440000","agent_name":"Compass","cluster_id":"is.plugged.in","severity":"info","details":{"previous_uptime":3605.25,"new_uptime":1.5,"mode":"IDLE"},"timestamp":"2026-01-31T12:02:00.000Z"}"#;

#[test]
fn the_original_collectors_alerts_byte_for_byte() {
    let (station, receiver) = (start().run(), Receiver::new());
    station.webhook(&receiver, &json!({}));
    let mut connection = Connection::to(&station);
    let mut ids = Vec::new();
    for body in [DEATH, EMERGENCY, RESTART, DEATH] {
        let taken = connection.send(&fetched(PATH, COLLECTOR, body));
        let uuid = taken.json()["alert_uuid"].as_str().unwrap().to_owned();
        assert_eq!((taken.status, taken.json()), (200, json!({ "received": true, "alert_uuid": uuid })));
        assert_eq!(uuid.len(), 36, "{uuid}");
        ids.push(uuid);
    }
    assert_eq!(ids[0], ids[3], "a repeat, as after an answer that came too late");
    // The words are the original's; what is wrong with which member are ours.
    let refused = |error: &str| format!(r#"{{"error":"{error}"}}"#);
    let wrong_key = connection.send(&fetched(PATH, "wrong", DEATH));
    assert_eq!(wrong_key, answer(401, "application/json", &refused("Invalid or missing collector API key")));
    let mismatch = connection.send(&fetched("/api/clusters/other/alerts", COLLECTOR, DEATH));
    assert_eq!(mismatch, answer(400, "application/json", &refused("Cluster ID mismatch")));
    let no_alert = DEATH.replace("AGENT_DEATH", "MODE_CHANGE");
    let invalid = connection.send(&fetched(PATH, COLLECTOR, &no_alert));
    assert_eq!((invalid.status, &invalid.json()["error"]), (400, &json!("Invalid alert payload")));
    assert_eq!(invalid.json()["details"][0]["path"], json!(["type"]));
    let long = DEATH.replace("Compass", &"x".repeat(10_001));
    let too_long = connection.send(&fetched(PATH, COLLECTOR, &long));
    assert_eq!(too_long, answer(413, "application/json", &refused("Request body too large")));
    assert_eq!(station.seen("/api/clusters/is.plugged.in/alerts")["total"], 3);
    let all = receiver.await_count(4);
    assert_eq!(receiver.events(), ["agent.dead", "agent.emergency", "agent.recovered", "agent.restarted"]);
    assert_eq!(all[0].body["agent"]["uptime_seconds"], 3605.25);
}

/// A post of the machine agent: `net/http` of Go.
fn posted(key: &str, body: &str) -> String {
    format!(
        "POST /agent/metrics HTTP/1.1\r\nHost: station.example:8090\r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
         Accept-Encoding: gzip\r\n\r\n{body}",
        body.len()
    )
}

// The first of a run, and each hour's, say what the machine is.
const FIRST: &str = r#"{"cpu_pct":12.345678901234567,"mem_used_pct":41.5,"disk_used_pct":70,"net_rx_bytes":9007199254740993,"net_tx_bytes":2048,"uptime_s":99.5,"system_info":{"hostname":"web-1","platform":"ubuntu","platform_version":"22.04","kernel_version":"5.15.0-91-generic","cpu_cores":4,"memory_total_mb":7937,"disk_total_gb":78,"last_boot_time":"2026-01-30T08:00:00Z"}}"#;
const NEXT: &str = r#"{"cpu_pct":0,"mem_used_pct":41.6,"disk_used_pct":100}"#;
const REGISTER: &str =
    r#"{"name":"production-server","hostname":"web-1","description":"Main production server"}"#;

#[test]
fn the_original_machine_agents_requests_byte_for_byte() {
    let station = start().run();
    let mut connection = Connection::to(&station);
    let register = |key: &str, body: &str| fetched("/agent/register", key, body);
    let made = connection.send(&register(ADMIN, REGISTER));
    let (said, nothing) = (made.json(), Value::Null);
    let expected = json!({
        "id": 1, "name": "production-server", "hostname": "web-1", "description": "Main production server",
        "api_key": said["api_key"], "created_at": said["created_at"],
    });
    assert_eq!((made.status, &said), (201, &expected));
    assert!(said["created_at"] != nothing && said["api_key"].as_str().unwrap().ends_with('='), "{said}");
    let without_a_name = connection.send(&register(ADMIN, r#"{"hostname":"web-1"}"#));
    assert_eq!(without_a_name, answer(400, "application/json", r#"{"error":"machine name is required"}"#));
    let plain = "text/plain; charset=utf-8";
    assert_eq!(connection.send(&register(ADMIN, "nonsense")), answer(400, plain, "Invalid request body\n"));

    let key = said["api_key"].as_str().unwrap();
    for body in [FIRST, NEXT] {
        assert_eq!(connection.send(&posted(key, body)), answer(202, "", ""), "{body}");
    }
    let by_header = posted("", NEXT).replace("Authorization: Bearer ", &format!("X-API-Key: {key}"));
    assert_eq!(connection.send(&by_header), answer(202, "", ""));
    for member in ["cpu_pct", "mem_used_pct", "disk_used_pct"] {
        for wrong in ["100.1", "-0.5"] {
            let refused = connection.send(&posted(key, &format!(r#"{{"{member}":{wrong}}}"#)));
            let why = format!(r#"{{"error":"{member} must be between 0 and 100"}}"#);
            assert_eq!(refused, answer(400, "application/json", &why));
        }
    }
    assert_eq!(connection.send(&posted(key, "nonsense")), answer(400, plain, "Invalid request body\n"));
    let wrong_key = connection.send(&posted("wrong", NEXT));
    assert_eq!(wrong_key, answer(401, plain, "Unauthorized: invalid API key\n"));
    let no_key = connection.send(&posted("", NEXT).replace("Authorization: Bearer \r\n", ""));
    assert_eq!(no_key, answer(401, plain, "Unauthorized: API key required\n"));

    let machine = station.seen("/machines/1");
    let expected = json!({
        "status": "online", "hostname": "web-1", "cpu_pct": 0.0, "mem_used_pct": 41.6, "disk_used_pct": 100.0,
        "net_rx_bytes": 9_007_199_254_740_993_i64, "net_tx_bytes": 2048, "uptime_s": 99.5, "platform": "ubuntu",
        "platform_version": "22.04", "kernel_version": "5.15.0-91-generic", "cpu_cores": 4,
        "memory_total_mb": 7937, "disk_total_gb": 78, "last_boot_time": "2026-01-30T08:00:00Z",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&machine[name], value, "{name}");
    }
}
