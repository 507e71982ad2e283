//! Many clients at once, and clients that send a byte a second (C21, L29 of the originals).

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{COLLECTOR, Station, alert, let_pass, start, until};

/// A connection on which a request comes slowly, and what was answered.
struct Dripping {
    socket: TcpStream,
    left: Vec<u8>,
    answer: String,
    is_open: bool,
}

impl Dripping {
    /// Every second one drips in its head, the others in their bodies.
    fn begin(station: &Station, number: usize) -> Self {
        let head = format!(
            "POST /api/clusters/c/alerts HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {COLLECTOR}\r\nContent-Length: 5000\r\n"
        );
        let (begun, left) =
            if number.is_multiple_of(2) { head.split_at(30) } else { (head.as_str(), "\r\n") };
        let mut socket = TcpStream::connect(("127.0.0.1", station.port)).unwrap();
        // Where all places are taken, it may be closed by now.
        let _ = socket.write_all(begun.as_bytes());
        socket.set_nonblocking(true).unwrap();
        let mut left = left.as_bytes().to_vec();
        left.resize(5000, b' ');
        Self { socket, left, answer: String::new(), is_open: true }
    }

    fn drip(&mut self) {
        let byte = self.left.remove(0);
        let _ = self.socket.write(&[byte]);
        let mut answer = [0; 1024];
        match self.socket.read(&mut answer) {
            Ok(0) => self.is_open = false,
            Ok(length) => self.answer.push_str(&String::from_utf8_lossy(&answer[..length])),
            Err(error) => self.is_open = error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// Has so many clients drip until all are closed, and posts alerts meanwhile. Returns what the
/// clients were answered.
fn drip(station: &Station, count: usize) -> Vec<String> {
    let mut all: Vec<_> = (0..count).map(|number| Dripping::begin(station, number)).collect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            until("all are closed", || {
                all.iter_mut().filter(|it| it.is_open).for_each(Dripping::drip);
                let_pass(Duration::from_secs(1));
                all.iter().all(|it| !it.is_open)
            });
            over.store(true, Ordering::SeqCst);
        });
        let mut posted = 0;
        until("the others are answered meanwhile", || {
            for _ in 0..10 {
                let agent = format!("a{posted}");
                assert_eq!(station.alert("c", &alert("AGENT_DEATH", &agent, 1)).0, 200, "{agent}");
                assert_eq!(station.get("/health", "").0, 200);
                posted += 1;
            }
            over.load(Ordering::SeqCst)
        });
        assert_eq!(station.seen("/api/incidents?state=open&limit=1")["total"], posted);
    });
    all.into_iter().map(|it| it.answer).collect()
}

#[test]
fn a_byte_a_second_holds_up_nobody_and_is_given_up() {
    let station = start().run();
    let answers = drip(&station, 60);
    let wrong: Vec<_> = answers.iter().filter(|answer| !answer.starts_with("HTTP/1.1 408 ")).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn more_slow_clients_than_places_keep_nobody_out() {
    let station = start().with("STATION_MAX_CONNECTIONS", "40").run();
    drip(&station, 200);
}

#[test]
fn one_address_may_post_as_much_as_it_has_to() {
    let station = start().run();
    for number in 0..300 {
        assert_eq!(station.alert("c", &alert("AGENT_DEATH", &number.to_string(), 1)).0, 200, "{number}");
    }
}
