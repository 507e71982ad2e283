//! The real binary, a real station and a client for tests over real sockets.

#![allow(dead_code, reason = "no test file uses all of it")]

pub mod station;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// More than anything here should ever take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Lets time pass where time is what is tested.
pub fn wait(time: Duration) {
    let _ = crossbeam_channel::never::<()>().recv_timeout(time);
}

/// A running program. It is killed when dropped.
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

/// The command that starts a collector with nothing of our environment.
pub fn command(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program());
    command.env_clear().envs(variables.iter().copied()).stdin(Stdio::null());
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
        let mut collector = Self { port: 0, running: Running::spawn(command) };
        let line = collector.await_log("listening on ");
        let digits = line.rsplit(':').next().unwrap();
        collector.port = digits.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        collector.poll("it is ready", || collector.get("/ready").status == 200);
        collector
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
        // A reset after the answer still leaves the answer.
        let _ = stream.read_to_end(&mut answer);
        Answer::parse(&answer)
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// One value of `/metrics`; the labels as they are written, in order. A
    /// series with labels may begin with what it counts, and is 0 until then;
    /// everything else has to be there.
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
                // A test beside this one has just forked: until its child is
                // another program, a file that we have written is open in it.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < give_up => {
                    wait(Duration::from_millis(1));
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

    /// Waits for a line of the log with this text in it.
    pub fn await_log(&self, text: &str) -> String {
        let lines = self.log.0.lock().unwrap();
        let missing = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(text));
        let (lines, timeout) = self.log.1.wait_timeout_while(lines, PATIENCE, missing).unwrap();
        assert!(!timeout.timed_out(), "no \"{text}\" in the log:\n{}", lines.join("\n"));
        lines.iter().find(|line| line.contains(text)).unwrap().clone()
    }

    /// Asks until it is so.
    pub fn poll(&self, what: &str, done: impl Fn() -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < give_up, "waited in vain until {what}; log:\n{}", self.log().join("\n"));
            thread::yield_now();
            wait(Duration::from_millis(10));
        }
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
            wait(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
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
