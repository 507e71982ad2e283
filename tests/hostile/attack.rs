//! Runs an attack, and measures honest heartbeats meanwhile.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::{Answer, Collector, PATIENCE, let_pass, until};

/// How long an honest heartbeat may take during an attack, on a machine that keeps
/// up.
const HONEST: Duration = Duration::from_millis(250);
/// How long one heartbeat in twenty may take, as the machine may be busy with
/// something else. It is as long as a client would wait.
const LONGEST: Duration = Duration::from_secs(5);
/// On a machine that does not keep up, a heartbeat may take this many times as long as
/// one to another collector that nobody attacks.
const TIMES: u32 = 20;

/// The measurements need an otherwise idle machine, so these tests run one after the
/// other.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends honest heartbeats, each on a fresh connection, until it is told to stop.
struct Honest {
    stop: Arc<AtomicBool>,
    beats: Arc<AtomicUsize>,
    thread: JoinHandle<Result<Times, String>>,
}

/// The longest time that nineteen of twenty heartbeats took, and the longest of all.
#[derive(Clone, Copy, Debug)]
struct Times {
    most: Duration,
    slowest: Duration,
}

impl Honest {
    fn start(port: u16) -> Self {
        let (stop, beats) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&beats));
        let thread = thread::spawn(move || {
            let mut times = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                times.push(honest_beat(port)?);
                counted.fetch_add(1, Ordering::Relaxed);
                let_pass(Duration::from_millis(10));
            }
            times.sort_unstable();
            Ok(Times { most: times[times.len() * 19 / 20], slowest: times[times.len() - 1] })
        });
        Self { stop, beats, thread }
    }

    /// Lets it send `more` heartbeats, then ends it. None may have failed.
    fn finish(self, more: usize) -> Times {
        let target = self.beats.load(Ordering::Relaxed) + more;
        let enough = || self.beats.load(Ordering::Relaxed) >= target || self.thread.is_finished();
        until("it has beaten some more", enough);
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap()
    }
}

fn honest_beat(port: u16) -> Result<Duration, String> {
    let started = Instant::now();
    let beat = || -> std::io::Result<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = r#"{"mode":"IDLE","uptime_seconds":5}"#;
        stream.write_all(format!("POST /heartbeat/honest HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(Answer::parse(&answer).status)
    };
    let status = beat().map_err(|error| format!("an honest heartbeat failed: {error}"))?;
    let took = started.elapsed();
    if status != 200 {
        return Err(format!("an honest heartbeat was answered {status}"));
    }
    Ok(took)
}

/// The first number of a line of proc_pid_status(5).
pub fn status(collector: &Collector, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", collector.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The threads, descriptors and kilobytes of memory of the collector.
pub fn usage(collector: &Collector) -> (usize, usize, usize) {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", collector.child.id())).unwrap().count();
    (status(collector, "Threads:"), descriptors, status(collector, "VmRSS:"))
}

/// How many descriptors of the collector refer to the connection from this port. The
/// tenth field of `/proc/net/tcp` is the socket's inode.
pub fn holds(collector: &Collector, client: u16) -> usize {
    let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/net/{table}")).unwrap());
    let mut rows = tables.iter().flat_map(|table| table.lines().skip(1)).map(str::split_ascii_whitespace);
    let ends = [collector.port, client].map(|port| format!(":{port:04X}"));
    let is_it = |row: &[&str]| row[1].ends_with(&ends[0]) && row[2].ends_with(&ends[1]);
    let inode = rows.find_map(|row| {
        let row: Vec<_> = row.collect();
        is_it(&row).then(|| format!("socket:[{}]", row[9]))
    });
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", collector.child.id())).unwrap();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.to_str() == inode.as_deref()).count()
}

/// Runs an attack beside honest heartbeats, then waits until threads, descriptors and
/// memory are back.
pub fn attack(variables: &[(&str, &str)], attack: impl FnOnce(&Collector)) {
    let collector = Collector::start(&[&[("RUST_LOG", "info,pap_collector=info")], variables].concat());
    under_attack(&collector, attack);
}

pub fn under_attack(collector: &Collector, attack: impl FnOnce(&Collector)) {
    let beside = Collector::start(&[]);
    let (honest, control) = (Honest::start(collector.port), Honest::start(beside.port));
    until("they beat", || [&honest, &control].iter().all(|one| one.beats.load(Ordering::Relaxed) > 5));
    let before = usage(collector);
    attack(collector);
    let (honest, control) = (honest.finish(20), control.finish(0));
    println!("honest heartbeats took {honest:.1?}, and {control:.1?} where nobody attacks");
    assert!(honest.most <= HONEST.max(TIMES * control.most), "{honest:?}, without an attack {control:?}");
    assert!(
        honest.slowest <= LONGEST.max(TIMES * control.slowest),
        "{honest:?}, without an attack {control:?}"
    );
    // No thread comes or goes with connections.
    let most = (before.0, before.1 + 48, before.2 + 24 * 1024);
    println!("threads, descriptors and kilobytes: {before:?} before, {:?} now", usage(collector));
    collector.poll(&format!("no more than {most:?} are in use"), || {
        let now = usage(collector);
        now.0 <= most.0 && now.1 <= most.1 && now.2 <= most.2
    });
    assert_eq!(collector.get("/ready").status, 200);
}

/// Whether the collector still holds its end of this connection.
pub fn is_held(collector: &Collector, stream: &TcpStream) -> bool {
    holds(collector, stream.local_addr().unwrap().port()) > 0
}

/// Many connections that each send these bytes and then wait.
pub fn hold(collector: &Collector, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    (0..count)
        .map(|_| {
            let mut stream = collector.connect();
            // The collector may refuse and close the connection at once.
            let _ = stream.write_all(bytes);
            stream
        })
        .collect()
}

/// Waits until the other side has closed all of them.
pub fn await_closed(streams: Vec<TcpStream>) {
    for mut stream in streams {
        let mut rest = Vec::new();
        // An answer or a reset may come before the end: all of them count as closed.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it was not closed");
        }
    }
}
