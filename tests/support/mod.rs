//! The real binary, a real station and a client for tests over real sockets.

#![allow(dead_code, reason = "no test file uses all of it")]

pub mod pages;
pub mod said;
pub mod station;
pub mod tls;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The longest that anything in a test may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a test that waits looks again.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Lets time pass, for tests about time itself and for steady rhythms. To wait until
/// something has happened, use [`until`].
pub fn let_pass(time: Duration) {
    let _ = crossbeam_channel::never::<()>().recv_timeout(time);
}

/// Lets time pass until a moment.
pub fn let_pass_until(moment: Instant) {
    let_pass(moment.saturating_duration_since(Instant::now()));
}

/// Looks again and again until `is_so` is true.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < give_up, "waited in vain until {what}");
        let_pass(LOOK_EVERY);
    }
}

/// Checks for this long that `is_so` stays true. A slow machine checks less often,
/// so it may miss a failure but never invents one.
pub fn stays_so(time: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + time;
    loop {
        assert!(is_so(), "this did not stay true: {what}");
        if Instant::now() >= end {
            return;
        }
        let_pass(LOOK_EVERY);
    }
}

/// Whether this run may take minutes and needs every tool: `PAP_SLOW_TESTS=1`.
pub fn is_slow_run() -> bool {
    std::env::var("PAP_SLOW_TESTS").is_ok_and(|value| value == "1")
}

/// Whether to run a test that is slow or needs something special. If not, it prints
/// that, even where the output of tests is captured.
#[must_use]
pub fn slow(why: &str) -> bool {
    if !is_slow_run() {
        skipped(&format!("needs PAP_SLOW_TESTS=1 ({why})"));
    }
    is_slow_run()
}

/// Whether all of these programs are in `PATH`. If one is missing, a slow run fails;
/// another run prints that and skips the test.
#[must_use]
pub fn has_programs(names: &[&str]) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| std::env::split_paths(&paths).any(|path| path.join(name).is_file());
    let missing: Vec<_> = names.iter().copied().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty() || !is_slow_run(), "not in PATH: {}", missing.join(", "));
    if !missing.is_empty() {
        skipped(&format!("not in PATH: {}", missing.join(", ")));
    }
    missing.is_empty()
}

/// Prints that a test, or the rest of it, was skipped.
pub fn skipped(why: &str) {
    let current = thread::current();
    let name = current.name().unwrap_or("a test");
    // One write, because other tests write there too. If it fails, nobody reads it.
    let _ = std::io::stderr().write_all(format!("skipped: {why}: {name}\n").as_bytes());
}

/// A reserved port on which nobody listens yet: connections are refused. It stays
/// bound, so the kernel gives it to nobody else. The program under test can bind it
/// too, because both set `SO_REUSEADDR` and this socket does not listen (socket(7)).
pub struct Port {
    pub number: u16,
    _socket: socket2::Socket,
}

impl Port {
    pub fn reserve() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let number = socket.local_addr().unwrap().as_socket().unwrap().port();
        Self { number, _socket: socket }
    }
}

/// A running program. Dropping it kills the program.
pub struct Running {
    pub child: Child,
    log: Arc<(Mutex<Vec<String>>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

/// A running collector.
pub struct Collector {
    pub port: u16,
    running: Running,
}

impl Deref for Collector {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl DerefMut for Collector {
    fn deref_mut(&mut self) -> &mut Running {
        &mut self.running
    }
}

/// The program under test: the one just built, or the one that
/// `PAP_COLLECTOR_PROGRAM` names.
pub fn program() -> String {
    std::env::var("PAP_COLLECTOR_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_pap-collector").into())
}

/// The command that starts a collector without our environment.
pub fn command(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program());
    // Nobody sends heartbeats to a collector that a test stops.
    command.env_clear().env("SHUTDOWN_GRACE_MS", "0").envs(variables.iter().copied()).stdin(Stdio::null());
    command
}

impl Collector {
    /// Starts a collector on a free port and waits until it is ready.
    pub fn start(variables: &[(&str, &str)]) -> Self {
        let defaults = [("CLUSTER_ID", "test-cluster"), ("COLLECTOR_PORT", "0")];
        let mut command = command(&[&defaults, variables].concat());
        Self::spawn(command.stdout(Stdio::null()))
    }

    /// Starts a collector that posts its alerts to `station`.
    pub fn with_station(station: &station::Station, variables: &[(&str, &str)]) -> Self {
        let url = format!("http://127.0.0.1:{}/api/clusters/{{cluster_id}}/alerts", station.port);
        let alerts = [("STATION_ALERT_URL", url.as_str()), ("STATION_ALERT_KEY", "k")];
        Self::start(&[&alerts, variables].concat())
    }

    /// Runs a prepared command and waits until it is ready.
    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_saying(command, said::LISTENING)
    }

    /// The same for a program that says in other words where it listens.
    pub fn spawn_saying(command: &mut Command, listening: &str) -> Self {
        let mut collector = Self { port: 0, running: Running::spawn(command) };
        let line = collector.await_log(listening);
        let digits = line.rsplit(':').next().unwrap();
        collector.port = digits.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        collector.poll("it is ready", || collector.get("/ready").status == 200);
        collector
    }

    /// Starts a collector that inherits this socket, as from systemd.
    pub fn on_socket(listener: TcpListener, variables: &[(&str, &str)]) -> Self {
        // The shell keeps its process number when it becomes the collector.
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "LISTEN_PID=$$ exec \"$0\" 3<&0 </dev/null", &program()]);
        shell.env_clear().envs([("CLUSTER_ID", "test-cluster"), ("LISTEN_FDS", "1")]);
        shell.envs(variables.iter().copied()).stdin(OwnedFd::from(listener)).stdout(Stdio::null());
        Self::spawn(&mut shell)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], "")
    }

    pub fn beat(&self, agent: &str, mode: &str, uptime: f64) -> Answer {
        let body = format!(r#"{{"mode":"{mode}","uptime_seconds":{uptime}}}"#);
        self.request("POST", &format!("/heartbeat/{agent}"), &[], &body)
    }

    /// One request on a connection of its own.
    pub fn request(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: c\r\nConnection: close\r\n");
        for header in headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        self.raw(format!("{text}{length}\r\n{body}").as_bytes())
    }

    /// Sends these bytes and reads until the connection is closed.
    pub fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // If a reset follows the answer, the answer is still complete.
        let _ = stream.read_to_end(&mut answer);
        Answer::parse(&answer)
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// One value of `/metrics`; give labels in the order in which they are written. A
    /// series with labels may not exist before its first event, and then counts as 0.
    /// Every other metric must exist.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let (family, labels) = match name.split_once('{') {
            Some((family, labels)) => (family, format!(",{labels}")),
            None => (name, "}".to_owned()),
        };
        let series = format!("pap_collector_{family}{{cluster=\"test-cluster\"{labels} ");
        let kind = format!("# TYPE pap_collector_{family} ");
        assert!(text.lines().any(|line| line.starts_with(&kind)), "no metric {family} in\n{text}");
        match text.lines().find_map(|line| line.strip_prefix(&series)) {
            Some(value) => value.parse().unwrap(),
            None if name.contains('{') => 0.0,
            None => panic!("no value of {name} in\n{text}"),
        }
    }
}

impl Running {
    /// Starts a prepared command and collects what it logs.
    pub fn spawn(command: &mut Command) -> Self {
        let give_up = Instant::now() + PATIENCE;
        let mut child = loop {
            match command.stderr(Stdio::piped()).spawn() {
                // Another test has just forked. Until its child runs another program,
                // the child keeps a file open that we have just written.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < give_up => {
                    let_pass(Duration::from_millis(1));
                }
                result => break result.unwrap(),
            }
        };
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log: Arc<(Mutex<Vec<String>>, Condvar)> = Arc::default();
        let lines = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.0.lock().unwrap().push(line);
                lines.1.notify_all();
            }
        });
        Self { child, log, reader: Some(reader) }
    }

    pub fn log(&self) -> Vec<String> {
        self.log.0.lock().unwrap().clone()
    }

    /// Waits for a log line with this text, and returns the line.
    pub fn await_log(&self, text: &str) -> String {
        let lines = self.log.0.lock().unwrap();
        let missing = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(text));
        let (lines, timeout) = self.log.1.wait_timeout_while(lines, PATIENCE, missing).unwrap();
        assert!(!timeout.timed_out(), "no \"{text}\" in the log:\n{}", lines.join("\n"));
        lines.iter().find(|line| line.contains(text)).unwrap().clone()
    }

    /// Waits until this many log lines have this text.
    pub fn await_logs(&self, text: &str, count: usize) {
        self.poll(&format!("the log has \"{text}\" {count} times"), || self.logged(text) >= count);
    }

    /// How many log lines have this text.
    pub fn logged(&self, text: &str) -> usize {
        self.log().iter().filter(|line| line.contains(text)).count()
    }

    /// Asks again and again until `done` is true.
    pub fn poll(&self, what: &str, done: impl Fn() -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < give_up, "waited in vain until {what}; log:\n{}", self.log().join("\n"));
            let_pass(LOOK_EVERY);
        }
    }

    /// The state of the process in proc_pid_stat(5), such as `T` for stopped.
    pub fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let signal = match name {
            "HUP" => Signal::HUP,
            "INT" => Signal::INT,
            "TERM" => Signal::TERM,
            "KILL" => Signal::KILL,
            "STOP" => Signal::STOP,
            "CONT" => Signal::CONT,
            "USR1" => Signal::USR1,
            "USR2" => Signal::USR2,
            "ALRM" => Signal::ALARM,
            "VTALRM" => Signal::VTALARM,
            "PROF" => Signal::PROF,
            "IO" => Signal::IO,
            "PWR" => Signal::POWER,
            "STKFLT" => Signal::STKFLT,
            "XFSZ" => Signal::XFSZ,
            "WINCH" => Signal::WINCH,
            other => panic!("unknown signal {other}"),
        };
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end and returns the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(reader) = self.reader.take() {
                    reader.join().unwrap();
                }
                return status.code();
            }
            assert!(Instant::now() < give_up, "it does not end; log:\n{}", self.log().join("\n"));
            let_pass(LOOK_EVERY);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The program may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { unchunk(body) } else { body.to_owned() };
        Self { status, head: head.to_owned(), body }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

fn unchunk(mut text: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = text.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
        if length == 0 {
            break;
        }
        body.push_str(&rest[..length]);
        text = &rest[length + 2..];
    }
    body
}

/// A UUID for each number.
pub fn uuid(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}
