//! The real program, a client for it, and a receiver of webhooks.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const ADMIN: &str = "an-admins-key-of-a-test";
pub const VIEWER: &str = "a-viewers-key-of-a-test";
pub const COLLECTOR: &str = "a-collectors-key-of-a-test";
pub const AGENT: &str = "an-agents-key-of-a-test";

/// How long a condition is waited for. A test that gets there has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A station that runs in a directory of its own.
pub struct Station {
    pub directory: Arc<TempDir>,
    pub port: u16,
    child: Child,
    log: Arc<(Mutex<Vec<String>>, Condvar)>,
}

/// How a station is to be started.
pub struct Start {
    directory: Arc<TempDir>,
    file: Option<PathBuf>,
    variables: HashMap<String, String>,
}

pub fn start() -> Start {
    let mut variables = HashMap::new();
    for (name, value) in [
        ("STATION_PORT", "0"),
        ("STATION_BIND", "127.0.0.1"),
        ("STATION_ADMIN_KEY", ADMIN),
        ("STATION_VIEWER_KEY", VIEWER),
        ("PAP_COLLECTOR_API_KEY", COLLECTOR),
        ("AGENT_API_KEY", AGENT),
        ("ALLOW_PRIVATE_TARGETS", "true"),
    ] {
        variables.insert(name.to_owned(), value.to_owned());
    }
    Start { directory: Arc::new(local_directory()), file: None, variables }
}

/// The program under test: the one just built, or the one that `PAP_STATION_PROGRAM` names.
pub fn program() -> String {
    std::env::var("PAP_STATION_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_pap-station").into())
}

impl Start {
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    /// In the directory of a station that ran before.
    pub fn after(mut self, station: &Station) -> Self {
        self.directory = Arc::clone(&station.directory);
        self
    }

    /// With another file.
    pub fn in_file(mut self, path: &Path) -> Self {
        self.file = Some(path.to_owned());
        self
    }

    pub fn database(&self) -> PathBuf {
        self.file.clone().unwrap_or_else(|| self.directory.path().join("station.db"))
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(program());
        command.env_clear().envs(&self.variables).env("STATION_DB", self.database());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end, with these arguments: its code and what it says.
    pub fn output(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command().args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    /// Starts it, and waits until it is ready.
    pub fn run(self) -> Station {
        let station = self.listen();
        until("it is ready", || station.get("/ready", "").0 == 200);
        station
    }

    /// Starts it, and waits until it listens.
    pub fn listen(self) -> Station {
        let mut station = self.spawn();
        station.listens("listens on");
        station
    }

    /// Starts it while another station has the file, and waits until it says so.
    pub fn stand_by(self) -> Station {
        let mut station = self.spawn();
        station.listens("waits on");
        station
    }

    fn spawn(self) -> Station {
        let mut child = self.command().spawn().unwrap();
        let log: Arc<(Mutex<Vec<String>>, Condvar)> = Arc::default();
        let (lines, said) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                said.0.lock().unwrap().push(line);
                said.1.notify_all();
            }
        });
        Station { directory: self.directory, port: 0, child, log }
    }
}

impl Station {
    fn listens(&mut self, how: &str) {
        let line = self.await_log(&format!("{how} 127.0.0.1:"));
        self.port = line.rsplit(':').next().unwrap().trim().parse().unwrap();
    }

    /// Waits for a line of the log that holds this.
    pub fn await_log(&self, part: &str) -> String {
        let began = Instant::now();
        let mut lines = self.log.0.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            let left = PATIENCE.saturating_sub(began.elapsed());
            assert!(!left.is_zero(), "never logged: {part}; but:\n{}", lines.join("\n"));
            lines = self.log.1.wait_timeout(lines, left.min(Duration::from_secs(1))).unwrap().0;
        }
    }

    pub fn log(&self) -> String {
        self.log.0.lock().unwrap().join("\n")
    }

    /// Sends a request with these headers: the status, the headers, the body.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String, String) {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n", self.port);
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        // The station may answer and close before it has read all.
        let _ = socket.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = if head.contains("Transfer-Encoding: chunked") { unchunk(body) } else { body.to_owned() };
        (status, head.to_owned(), body)
    }

    /// Asks with a bearer key; none if it is empty.
    pub fn ask(&self, method: &str, path: &str, key: &str, body: &str) -> (u16, Value) {
        let bearer = format!("Bearer {key}");
        let headers = if key.is_empty() { vec![] } else { vec![("Authorization", bearer.as_str())] };
        let (status, _, body) = self.send(method, path, &headers, body);
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    pub fn get(&self, path: &str, key: &str) -> (u16, Value) {
        self.ask("GET", path, key, "")
    }

    /// What an admin asks for, which is there.
    pub fn seen(&self, path: &str) -> Value {
        let (status, body) = self.get(path, ADMIN);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub fn alert(&self, cluster: &str, body: &Value) -> (u16, Value) {
        self.ask("POST", &format!("/api/clusters/{cluster}/alerts"), COLLECTOR, &body.to_string())
    }

    /// Adds a webhook to a receiver.
    pub fn webhook(&self, receiver: &Receiver, more: &Value) -> i64 {
        let mut body = json!({ "url": receiver.url(), "secret": "0123456789abcdef" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, made) = self.ask("POST", "/notifications/webhooks", ADMIN, &body.to_string());
        assert_eq!(status, 201, "{made}");
        made["id"].as_i64().unwrap()
    }

    /// The most memory that it has ever had, in KiB.
    pub fn most_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// The memory that it has now, in KiB.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it as a service manager does; returns its code.
    pub fn stop(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// The code with which it ends by itself.
    pub fn await_end(&mut self) -> i32 {
        let mut code = None;
        until("it ends", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code().unwrap_or(-1)
    }

    pub fn signal(&self, signal: Signal) {
        let process = Pid::from_child(&self.child);
        kill_process(process, signal).unwrap();
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        text.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    text
}

/// Waits for something to become true.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        let_pass(Duration::from_millis(20));
    }
}

/// A delivery as it arrived.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub path: String,
    pub headers: HashMap<String, String>,
    pub text: String,
    pub body: Value,
}

impl Delivery {
    pub fn event(&self) -> &str {
        self.body["event"].as_str().unwrap_or_default()
    }

    pub fn id(&self) -> &str {
        self.headers.get("webhook-id").map_or("", String::as_str)
    }
}

type Decide = dyn Fn(&Delivery, usize) -> String + Send + Sync;

/// A server that takes webhooks, or what else is posted to it.
#[derive(Clone)]
pub struct Receiver {
    port: u16,
    got: Arc<(Mutex<Vec<Delivery>>, Condvar)>,
}

impl Receiver {
    /// One that takes everything.
    pub fn new() -> Self {
        Self::that(|_, _| "200 OK\r\n".into())
    }

    /// One that answers as `decide` says: a status line's rest and headers, then perhaps an
    /// empty line and a body. It is told how many posts came before.
    pub fn that(decide: impl Fn(&Delivery, usize) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Self { port: listener.local_addr().unwrap().port(), got: Arc::default() };
        let (got, decide): (_, Arc<Decide>) = (Arc::clone(&receiver.got), Arc::new(decide));
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (got, decide) = (Arc::clone(&got), Arc::clone(&decide));
                thread::spawn(move || take(socket, &got, &*decide));
            }
        });
        receiver
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn all(&self) -> Vec<Delivery> {
        self.got.0.lock().unwrap().clone()
    }

    /// Waits until so many have come, and returns all.
    pub fn await_count(&self, count: usize) -> Vec<Delivery> {
        until(&format!("{count} deliveries, not {}", self.all().len()), || self.all().len() >= count);
        self.all()
    }

    /// The events, each once: what was delivered just before a kill is repeated with the same id.
    pub fn told(&self) -> Vec<String> {
        let mut ids = std::collections::HashSet::new();
        let all = self.all();
        let first = all.iter().filter(|delivery| ids.insert(delivery.id().to_owned()));
        first.map(|delivery| delivery.event().to_owned()).collect()
    }

    /// Waits until so many have been told, and returns them.
    pub fn await_told(&self, count: usize) -> Vec<String> {
        until(&format!("{count} events, not {:?}", self.told()), || self.told().len() >= count);
        self.told()
    }

    pub fn events(&self) -> Vec<String> {
        self.all().iter().map(|delivery| delivery.event().to_owned()).collect()
    }
}

fn take(mut socket: TcpStream, got: &(Mutex<Vec<Delivery>>, Condvar), decide: &Decide) {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let text = String::from_utf8(body).unwrap();
        let body = serde_json::from_str(&text).unwrap_or_default();
        let delivery = Delivery { path, headers, text, body };
        let before = {
            let mut all = got.0.lock().unwrap();
            all.push(delivery.clone());
            all.len() - 1
        };
        got.1.notify_all();
        let answer = decide(&delivery, before);
        if answer.is_empty() {
            return;
        }
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer.trim_end(), ""));
        let answer = format!("HTTP/1.1 {}\r\nContent-Length: {}\r\n\r\n{body}", head.trim_end(), body.len());
        if socket.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// An alert of a collector of the original.
pub fn alert(kind: &str, agent: &str, second: u32) -> Value {
    let severity = match kind {
        "AGENT_DEATH" => "critical",
        "EMERGENCY_MODE" => "warning",
        _ => "info",
    };
    json!({
        "type": kind, "agent_uuid": agent, "agent_name": format!("name of {agent}"), "cluster_id": "c",
        "severity": severity, "details": { "mode": "IDLE", "last_seen": "2026-01-31T12:00:00.000Z" },
        "timestamp": format!("2026-01-31T12:{:02}:{:02}.000Z", second / 60, second % 60),
    })
}

/// A directory on a local file system, as a file needs that two stations share. That of a container may be
/// FUSE.
pub fn local_directory() -> TempDir {
    const FUSE: rustix::fs::FsWord = 0x6573_5546;
    let here = rustix::fs::statfs(std::env::temp_dir()).unwrap().f_type;
    if here == FUSE { TempDir::new_in("/dev/shm").unwrap() } else { TempDir::new().unwrap() }
}

/// Lets time pass, for tests about time itself.
pub fn let_pass(time: Duration) {
    let _ = crossbeam_channel::never::<()>().recv_timeout(time);
}

/// Whether to run a test that is slow or needs something special.
pub fn slow(why: &str) -> bool {
    let is_slow_run = std::env::var_os("PAP_SLOW_TESTS").is_some();
    if !is_slow_run {
        skipped(&format!("needs PAP_SLOW_TESTS=1 ({why})"));
    }
    is_slow_run
}

/// Whether a program is in `PATH`.
pub fn has_program(name: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&paths).any(|path| path.join(name).is_file());
    if !is_there {
        missing(&format!("{name} in PATH"));
    }
    is_there
}

/// Something that a test needs is not there: a slow run fails, another one prints that.
pub fn missing(what: &str) {
    assert!(std::env::var_os("PAP_SLOW_TESTS").is_none(), "missing: {what}");
    skipped(&format!("missing: {what}"));
}

/// Prints that a test was skipped, even where the output of tests is captured.
pub fn skipped(why: &str) {
    let current = thread::current();
    let _ = std::io::stderr()
        .write_all(format!("skipped: {why}: {}\n", current.name().unwrap_or("a test")).as_bytes());
}
