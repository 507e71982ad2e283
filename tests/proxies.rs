//! The collector behind real proxies, with the configurations that docs/proxies.md
//! shows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::float_cmp,
    reason = "a test ends where something is not as it should be, may look at the time, and counts are whole"
)]

#[path = "support/browser.rs"]
mod browser;
mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use browser::Browser;
use serde_json::{Value, json};
use support::{Answer, Collector, PATIENCE, Port, Running, has_programs, let_pass, said, slow, until};
use tempfile::TempDir;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::HeaderValue;
use tungstenite::{Error, Message, WebSocket};

/// What the documents of nginx show first. It passes no upgrade on.
const NGINX_WITHOUT_UPGRADE: &str =
    "server { listen 80; location /pap/ { proxy_pass http://127.0.0.1:8080/; } }";

const LIVE: &str = "document.querySelector('#f-stream').textContent.includes('Live')";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nginx,
    Haproxy,
    Traefik,
}

const KINDS: [Kind; 3] = [Kind::Nginx, Kind::Haproxy, Kind::Traefik];

/// A proxy in front of a collector. Dropping it ends the proxy.
struct Proxy {
    kind: Kind,
    port: Port,
    /// What comes before the collector's own paths.
    prefix: &'static str,
    running: Running,
    directory: TempDir,
}

/// The code blocks below a heading of the page about proxies.
fn blocks(heading: &str) -> Vec<String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/proxies.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    // Text and blocks alternate; the first line of a block is its language.
    let blocks = section.split("```").skip(1).step_by(2);
    blocks.map(|block| block.split_once('\n').unwrap().1.to_owned()).collect()
}

/// Whether a test with proxies can run.
fn can_run(what: &str) -> bool {
    slow(what) && has_programs(&["nginx", "haproxy", "traefik"])
}

impl Proxy {
    /// A proxy with the page's configuration for a port of its own or for a path.
    fn start(kind: Kind, collector: &Collector, under_a_path: bool) -> Self {
        let (heading, first) = match kind {
            Kind::Nginx => ("nginx", 0),
            Kind::Haproxy => ("HAProxy", 0),
            Kind::Traefik => ("Traefik", 1),
        };
        let text = &blocks(heading)[first + usize::from(under_a_path)];
        Self::with(kind, collector, text, if under_a_path { "/pap" } else { "" })
    }

    /// A proxy with this configuration.
    fn with(kind: Kind, collector: &Collector, text: &str, prefix: &'static str) -> Self {
        let (port, directory) = (Port::reserve(), tempfile::tempdir().unwrap());
        let ours = |text: &str| {
            let text = text.replace("127.0.0.1:8080", &format!("127.0.0.1:{}", collector.port));
            let text = text.replace("listen 80;", &format!("listen {};", port.number));
            text.replace("*:80\n", &format!("*:{}\n", port.number))
                .replace("\":80\"", &format!("\":{}\"", port.number))
        };
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let mut command = match kind {
            Kind::Nginx => {
                let path = write("nginx.conf", &in_http(&ours(text), directory.path()));
                let mut command = Command::new("nginx");
                command.arg("-p").arg(directory.path()).args(["-e", "stderr", "-c"]).arg(path);
                command
            }
            Kind::Haproxy => {
                let socket = directory.path().join("stats");
                let global = format!("global\n    stats socket {}\n", socket.display());
                let mut command = Command::new("haproxy");
                command.args(["-db", "-f"]).arg(write("global.cfg", &global));
                command.arg("-f").arg(write("haproxy.cfg", &ours(text)));
                command
            }
            Kind::Traefik => {
                let rest = write("dynamic.yml", &ours(text));
                let named = blocks("Traefik")[0].replace("/etc/traefik/dynamic.yml", rest.to_str().unwrap());
                let mut command = Command::new("traefik");
                command.arg(format!("--configFile={}", write("traefik.yml", &ours(&named)).display()));
                command
            }
        };
        let running = Running::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()));
        let proxy = Self { kind, port, prefix, running, directory };
        proxy.running.poll(&format!("{kind:?} serves the collector"), || {
            TcpStream::connect(("127.0.0.1", proxy.port.number)).is_ok()
                && proxy.request("GET", "/ready", &[], "").status == 200
        });
        proxy
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port.number)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What a browser has in its address line.
    fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number)
    }

    /// The head of a request, up to the last line of headers.
    fn head(&self, method: &str, path: &str) -> String {
        format!("{method} {}{path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n", self.prefix, self.port.number)
    }

    /// One request on a connection of its own.
    fn request(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let mut stream = self.connect();
        let lines: String = headers.iter().flat_map(|line| [*line, "\r\n"]).collect();
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        write!(stream, "{}Connection: close\r\n{lines}{length}\r\n{body}", self.head(method, path)).unwrap();
        let mut answer = Vec::new();
        // A proxy that is just starting may reset the connection.
        let _ = stream.read_to_end(&mut answer);
        Answer::parse(&answer)
    }

    /// Opens a stream with these headers, or says which answer it got.
    fn observe(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<WebSocket<TcpStream>, Answer> {
        let url = format!("ws://127.0.0.1:{}{}{path}", self.port.number, self.prefix);
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
        }
        match tungstenite::client(request, self.connect()) {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::HandshakeError::Failure(Error::Http(answer))) => {
                let body = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned();
                Err(Answer { status: answer.status().as_u16(), head: String::new(), body })
            }
            Err(error) => panic!("{:?}: {error}", self.kind),
        }
    }

    /// The ticket that a page of the same origin reads.
    fn ticket(&self) -> String {
        let list = self.request("GET", "/agents?limit=1", &[], "");
        list.header("X-Collector-Ticket").unwrap_or_else(|| panic!("{list:?}")).to_owned()
    }
}

/// A configuration of nginx around what belongs into `http`.
fn in_http(text: &str, directory: &Path) -> String {
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let paths = kinds.map(|kind| format!("{kind}_temp_path {}/{kind};\n", directory.display()));
    // Its workers must be able to enter the directory, and end with it.
    format!(
        "user root;\ndaemon off;\nmaster_process off;\npid {}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{}{text}}}\n",
        directory.display(),
        paths.concat(),
    )
}

/// Each proxy, on a port of its own and under a path.
fn each(collector: &Collector) -> impl Iterator<Item = Proxy> + '_ {
    let both = KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]);
    both.map(|(kind, under_a_path)| Proxy::start(kind, collector, under_a_path))
}

fn next_of(socket: &mut WebSocket<TcpStream>, kind: &str) -> Value {
    loop {
        if let Message::Text(text) = socket.read().unwrap() {
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["type"] == kind {
                return message;
            }
        }
    }
}

/// Reads one answer with a length, and leaves the connection open.
fn answer(from: &mut BufReader<TcpStream>) -> Answer {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        assert_ne!(from.read_line(&mut text).unwrap(), 0, "the connection stays open: {text}");
    }
    let head = Answer::parse(text.as_bytes());
    let length = head.header("Content-Length").unwrap_or_else(|| panic!("{head:?}")).parse().unwrap();
    let mut body = vec![0; length];
    from.read_exact(&mut body).unwrap();
    Answer { body: String::from_utf8(body).unwrap(), ..head }
}

#[test]
fn heartbeats_pass_on_kept_connections_with_lengths_and_in_chunks() {
    if !can_run("nginx, HAProxy and Traefik") {
        return;
    }
    let collector = Collector::start(&[]);
    for (number, proxy) in each(&collector).enumerate() {
        let agent = format!("agent-{number}");
        let mut stream = proxy.connect();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        let head = proxy.head("POST", &format!("/heartbeat/{agent}"));
        for uptime in 0..20 {
            let body = format!(r#"{{"mode":"IDLE","uptime_seconds":{uptime}}}"#);
            if uptime % 2 == 0 {
                write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
            } else {
                let (one, other) = body.split_at(7);
                write!(stream, "{head}Transfer-Encoding: chunked\r\n\r\n7\r\n{one}\r\n").unwrap();
                write!(stream, "{:x}\r\n{other}\r\n0\r\n\r\n", other.len()).unwrap();
            }
            let answer = answer(&mut answers);
            assert_eq!(
                (answer.status, &answer.json()["is_new"]),
                (200, &json!(uptime == 0)),
                "{:?}",
                proxy.kind
            );
        }
        let known = collector.get(&format!("/agents/{agent}")).json();
        assert_eq!(known["agent"]["consecutive_heartbeats"], 20, "{:?}", proxy.kind);
        let refused = proxy.request("POST", &format!("/heartbeat/{agent}"), &[], "{}");
        assert_eq!(refused.status, 400, "{refused:?}");
        assert_eq!(proxy.request("DELETE", &format!("/heartbeat/{agent}"), &[], "").status, 200);
        let list = proxy.request("GET", "/agents", &[], "");
        assert_eq!(list.json()["stats"]["total"], 0, "{list:?}");
        let page = proxy.request("GET", "/", &["Accept: text/html"], "");
        assert!(page.status == 200 && page.body.ends_with("</script>\n"), "{:?}: {}", proxy.kind, page.head);
    }
}

#[test]
fn ids_with_slashes_pass() {
    if !can_run("nginx, HAProxy and Traefik") {
        return;
    }
    let collector = Collector::start(&[]);
    for (number, proxy) in each(&collector).enumerate() {
        let beat = proxy.request(
            "POST",
            &format!("/heartbeat/a%2F{number}@1"),
            &[],
            r#"{"mode":"IDLE","uptime_seconds":1}"#,
        );
        assert_eq!(beat.status, 200, "{:?} {}: {beat:?}", proxy.kind, proxy.prefix);
        let known = collector.get(&format!("/agents/a%2F{number}@1"));
        assert_eq!(known.status, 200, "{:?} {}", proxy.kind, proxy.prefix);
    }
}

#[test]
fn the_bare_health_check_of_haproxy_finds_the_collector_healthy() {
    if !can_run("HAProxy") {
        return;
    }
    let collector = Collector::start(&[]);
    let proxy = Proxy::start(Kind::Haproxy, &collector, false);
    until("a check has passed", || {
        let mut socket = UnixStream::connect(proxy.directory.path().join("stats")).unwrap();
        socket.write_all(b"show stat\n").unwrap();
        let mut table = String::new();
        socket.read_to_string(&mut table).unwrap();
        let server = table.lines().find(|line| line.starts_with("collector,collector1,")).unwrap();
        assert!(!server.contains(",DOWN"), "{server}");
        server.contains(",UP,") && server.contains(",L7OK,204,")
    });
}

#[test]
fn a_stream_opens_for_our_own_page_and_not_for_another_sites() {
    if !can_run("nginx, HAProxy and Traefik") {
        return;
    }
    let collector = Collector::start(&[]);
    for (number, proxy) in each(&collector).enumerate() {
        let agent = format!("agent-{number}");
        let (origin, ticket) = (proxy.origin(), format!("pap.ticket.{}", proxy.ticket()));
        let protocols = format!("pap.observe, {ticket}");
        let ours = [("Origin", origin.as_str()), ("Sec-WebSocket-Protocol", &protocols)];
        for headers in [&[][..], &ours] {
            let mut socket = proxy.observe(&format!("/observe/{agent}"), headers).unwrap();
            assert_eq!(next_of(&mut socket, "initial")["agent"]["agent_uuid"], agent);
            collector.beat(&agent, "IDLE", 1.0);
            assert_eq!(next_of(&mut socket, "heartbeat")["agent"]["agent_uuid"], agent);
            socket.send(Message::text(r#"{"type":"ping"}"#)).unwrap();
            next_of(&mut socket, "pong");
        }
        // nginx sends a Host of its own, so there the origin alone is not enough.
        let by_origin = proxy.observe("/observe", &ours[..1]).map_or_else(|answer| answer.status, |_| 101);
        assert_eq!(by_origin, if proxy.kind == Kind::Nginx { 403 } else { 101 }, "{:?}", proxy.kind);
        let behind = format!("http://127.0.0.1:{}", collector.port);
        for foreign in ["http://evil.example", "null", "https://127.0.0.1", "http://localhost"] {
            let refused = proxy.observe("/observe", &[("Origin", foreign)]).unwrap_err();
            assert_eq!(refused.status, 403, "{:?}: {foreign}: {}", proxy.kind, refused.body);
        }
        // The address behind the proxy is another origin, too, but for a proxy that hides its own.
        let hidden =
            proxy.observe("/observe", &[("Origin", &behind)]).map_or_else(|answer| answer.status, |_| 101);
        assert_eq!(hidden, if proxy.kind == Kind::Nginx { 101 } else { 403 }, "{:?}", proxy.kind);
    }
    collector
        .poll("no proxy keeps a stream that its client has left", || collector.metric("observers") == 0.0);
}

/// Nothing happens for longer than any of their time-outs.
#[test]
fn a_stream_outlives_the_time_outs_of_proxies() {
    if !can_run("nginx, HAProxy and Traefik, for 70 seconds") {
        return;
    }
    let collector = Collector::start(&[]);
    let proxies: Vec<_> = KINDS.map(|kind| Proxy::start(kind, &collector, false)).into();
    thread::scope(|scope| {
        for proxy in &proxies {
            let mut socket = proxy.observe("/observe/quiet", &[]).unwrap();
            next_of(&mut socket, "initial");
            // A thread reads, and so answers pings.
            scope.spawn(move || next_of(&mut socket, "heartbeat"));
        }
        let_pass(Duration::from_secs(70));
        assert_eq!(collector.metric("observers"), 3.0);
        collector.beat("quiet", "SLEEP", 1.0);
    });
}

#[test]
fn the_page_goes_live_through_each_of_them() {
    let Some(browser) = Browser::start() else { return };
    let collector = Collector::start(&[]);
    for (number, proxy) in each(&collector).enumerate() {
        let agent = format!("agent-{number}");
        collector.beat(&agent, "IDLE", 1.0);
        let mut tab = browser.tab();
        tab.open(&format!("{}{}/", proxy.origin(), proxy.prefix));
        tab.poll("it is live", LIVE);
        tab.poll("the agent is there", "document.querySelector('#rows .row').textContent.includes('agent-')");
        let curl = tab.evaluate("document.querySelector('#curl').textContent").to_string();
        assert!(curl.contains(&format!("{}{}/heartbeat/", proxy.origin(), proxy.prefix)), "{curl}");
        tab.evaluate("document.querySelector('#rows .row').click()");
        tab.poll("the agent is opened", "document.querySelector('#one').open");
        collector.poll("its own stream is open", || collector.metric("observers") == 2.0);
        assert_eq!(tab.complaints(), [""; 0], "{:?} {}", proxy.kind, proxy.prefix);
        tab.call("Page.close", &json!({}));
        collector.poll("its streams are closed", || collector.metric("observers") == 0.0);
        assert_eq!(collector.request("DELETE", &format!("/agents/{agent}"), &[], "").status, 200);
    }
}

/// The collector gives other tickets after an upgrade.
#[test]
fn the_page_comes_back_through_nginx_after_an_upgrade() {
    let Some(browser) = Browser::start() else { return };
    let collector = Collector::start(&[]);
    let proxy = Proxy::start(Kind::Nginx, &collector, true);
    let mut tab = browser.tab();
    tab.open(&format!("{}/pap/", proxy.origin()));
    tab.poll("it is live", LIVE);
    let before = proxy.ticket();
    collector.signal("HUP");
    collector.await_log(said::UPGRADED);
    assert_ne!(proxy.ticket(), before);
    collector.poll("its stream is open again", || collector.metric("observers") == 1.0);
    tab.poll("it is live again", LIVE);
}

#[test]
fn the_page_says_why_it_polls() {
    let Some(browser) = Browser::start() else { return };
    let collector = Collector::start(&[]);
    let proxy = Proxy::with(Kind::Nginx, &collector, NGINX_WITHOUT_UPGRADE, "/pap");
    let mut tab = browser.tab();
    tab.open(&format!("{}/pap/", proxy.origin()));
    tab.poll(
        "the banner says why",
        "document.querySelector('#b-text').checkVisibility() && document.querySelector('#b-text').textContent\
            .includes('There is no live stream: The answer is HTTP 400, Not a WebSocket handshake: ')",
    );
    collector.beat("polled", "IDLE", 1.0);
    tab.poll("it asks", "document.querySelector('#rows .row').textContent.includes('polled')");
    assert_eq!(collector.metric("observers"), 0.0);
}
