//! A whole server over real sockets, with a service that is as small as can be.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be, and may look at the time"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pap_core::time::{Tick, Wall};
use pap_http::listener;
use pap_http::parse::Refused;
use pap_http::request::Request;
use pap_http::response::Response;
use pap_http::server::{Adopted, Server};
use pap_http::service::{Closed, Next, Reply, Service, Upgraded};
use pap_process::clock::wall;
use pap_process::threads::Threads;
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);

/// Answers with what was asked.
struct Mirror {
    start: Instant,
    calls: AtomicUsize,
    closed: Mutex<Vec<Closed>>,
}

impl Service for Mirror {
    const NAME: &'static str = "mirror";
    const MAX_BODY: usize = 1024;
    const LANES: usize = 4;
    const MAX_WAITING: usize = 32;

    fn call(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Next {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match request.target {
            "/big" => Next::Lane(Box::new(|| Response::stream(std::io::repeat(b'x').take(8 << 20)))),
            "/lane" => Next::Lane(Box::new(|| Response::error(418, "from a lane"))),
            "/stream" => Next::Stream(Box::new(|Upgraded { mut socket, read }| {
                socket.set_nonblocking(false).unwrap();
                socket.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").unwrap();
                socket.write_all(&read).unwrap();
            })),
            target => {
                let body = String::from_utf8_lossy(request.body);
                reply.json(200, &json!({ "method": request.method, "target": target, "body": body }));
                Next::Answered
            }
        }
    }

    fn now(&self) -> Tick {
        Tick::from_start(self.start.elapsed())
    }

    fn wall(&self) -> Wall {
        wall()
    }

    fn refused(&self, _: Refused) {}

    fn closed(&self, why: Closed) {
        self.closed.lock().unwrap().push(why);
    }
}

struct Running {
    server: Server<Mirror>,
    service: Arc<Mirror>,
    threads: Option<Threads>,
}

impl Running {
    fn start(loops: usize, most: usize) -> Self {
        Self::on(
            vec![listener::bind(Some("127.0.0.1".parse().unwrap()), 0).unwrap()],
            loops,
            most,
            Vec::new(),
        )
    }

    fn on(listeners: Vec<TcpListener>, loops: usize, most: usize, adopted: Vec<Adopted>) -> Self {
        let service =
            Arc::new(Mirror { start: Instant::now(), calls: AtomicUsize::new(0), closed: Mutex::default() });
        let server = Server::new(Arc::clone(&service), listeners, loops, most).unwrap();
        server.adopt(adopted);
        let mut threads = Threads::default();
        server.start(&mut threads).unwrap();
        Self { server, service, threads: Some(threads) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.addresses()[0]).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends, and reads to the end of the connection.
    fn ask(&self, text: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        read_all(&mut stream)
    }

    fn until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let started = Instant::now();
        while !done(self) {
            assert!(started.elapsed() < PATIENCE, "{what}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.stop();
        assert_eq!(self.threads.take().unwrap().join(PATIENCE), Ok(()));
        assert_eq!(self.server.states().open, 0);
    }
}

fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read_some(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 4096];
    let count = stream.read(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

fn statuses(text: &str) -> Vec<u16> {
    text.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap()).collect()
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: c\r\n\r\n";
const LAST: &str = "GET /z HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n";

#[test]
fn requests_are_answered_in_their_order_wherever_they_are_answered() {
    let running = Running::start(2, 100);
    let lane = GET.replace("/a", "/lane");
    let text = running.ask(&format!("{GET}{lane}{}{lane}{LAST}", GET.replace("/a", "/b")));
    assert_eq!(statuses(&text), [200, 418, 200, 418, 200]);
    let places = ["/a", "/b", "/z"].map(|target| text.find(target).unwrap());
    assert!(places.is_sorted(), "{text}");
    assert_eq!(text.matches("Connection: close").count(), 1);
}

#[test]
fn a_request_may_come_in_any_pieces_and_bodies_in_chunks() {
    let running = Running::start(1, 100);
    let post = "POST /p HTTP/1.1\r\nHost: c\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    let mut stream = running.connect();
    for byte in post.as_bytes() {
        stream.write_all(&[*byte]).unwrap();
        stream.flush().unwrap();
    }
    assert!(read_all(&mut stream).contains(r#""body":"abc""#));
}

#[test]
fn who_waits_for_a_100_gets_one() {
    let running = Running::start(1, 100);
    let mut stream = running.connect();
    stream
        .write_all(b"POST /p HTTP/1.1\r\nHost: c\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .unwrap();
    assert_eq!(read_some(&mut stream), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ab").unwrap();
    assert!(read_some(&mut stream).contains(r#""body":"ab""#));
}

#[test]
fn a_client_that_has_sent_all_is_answered_and_then_left() {
    let running = Running::start(1, 100);
    let mut stream = running.connect();
    stream.write_all(format!("{GET}{GET}GET /unfinished").as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(statuses(&read_all(&mut stream)), [200, 200]);
}

#[test]
fn a_refusal_is_read_even_by_who_goes_on_sending() {
    let running = Running::start(1, 100);
    let mut stream = running.connect();
    let long = format!("POST / HTTP/1.1\r\nHost: c\r\nContent-Length: 30000\r\n\r\n{}", "x".repeat(30_000));
    stream.write_all(long.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(statuses(&read_all(&mut stream)), [413]);
    running.until("it is counted", |it| *it.service.closed.lock().unwrap() == [Closed::Refused]);
}

#[test]
fn a_big_answer_comes_whole_and_the_connection_goes_on() {
    let running = Running::start(1, 100);
    let text = running.ask(&format!("{}{LAST}", GET.replace("/a", "/big")));
    assert_eq!(text.matches('x').count(), 8 << 20);
    assert_eq!(statuses(&text), [200, 200]);
    let old = running.ask("GET /big HTTP/1.0\r\n\r\n");
    let (head, body) = old.split_once("\r\n\r\n").unwrap();
    assert_eq!(body.len(), 8 << 20);
    assert!(head.contains("Connection: close") && !head.contains("Length") && !head.contains("chunked"));
}

#[test]
fn a_stream_gets_what_was_sent_behind_its_request() {
    let running = Running::start(1, 100);
    let mut stream = running.connect();
    stream.write_all(format!("{}behind", GET.replace("/a", "/stream")).as_bytes()).unwrap();
    assert!(read_all(&mut stream).ends_with("\r\n\r\nbehind"));
}

#[test]
fn who_pipelines_and_does_not_read_is_held_back_and_loses_nothing() {
    let running = Running::start(1, 100);
    let mut stream = running.connect();
    let mut writing = stream.try_clone().unwrap();
    let count = 50_000;
    let writer = std::thread::spawn(move || {
        for _ in 0..count / 100 {
            writing.write_all(GET.repeat(100).as_bytes()).unwrap();
        }
        writing.write_all(LAST.as_bytes()).unwrap();
    });
    running.until("it is held back", |it| it.server.states().held_back == 1);
    let other = running.ask(LAST);
    assert_eq!(statuses(&other), [200], "another is served meanwhile");
    assert_eq!(statuses(&read_all(&mut stream)).len(), count + 1);
    writer.join().unwrap();
}

#[test]
fn beyond_the_most_newcomers_go_first_and_then_the_longest_idle() {
    let running = Running::start(1, 10);
    let ask = |stream: &mut TcpStream| {
        stream.write_all(GET.as_bytes()).unwrap();
        read_some(stream)
    };
    let mut kept: Vec<_> = (0..9).map(|_| running.connect()).collect();
    for stream in &mut kept {
        assert_eq!(statuses(&ask(stream)), [200]);
    }
    // A hundred that say nothing push each other out.
    let silent: Vec<_> = (0..100).map(|_| running.connect()).collect();
    let surplus = |it: &Running| *it.service.closed.lock().unwrap() == [Closed::Surplus; 99];
    running.until("one of them is left", surplus);
    for stream in &mut kept {
        assert_eq!(statuses(&ask(stream)), [200], "who has asked stays");
    }
    drop(silent);
    running.until("it has gone", |it| it.server.states().open == 9);
    // One that is being answered gives way to nobody.
    let mut big = running.connect();
    big.write_all(GET.replace("/a", "/big").as_bytes()).unwrap();
    running.until("a lane has it", |it| it.server.states().answering == 1);
    let newcomer = running.connect();
    assert_eq!(kept[0].read(&mut [0; 16]).unwrap(), 0, "the longest idle has gone");
    assert_eq!(statuses(&ask(&mut kept[1])), [200]);
    drop((newcomer, big));
}

#[test]
fn parts_of_requests_go_along_into_another_server() {
    let running = Running::start(2, 100);
    let mut streams: Vec<_> = (0..20).map(|_| running.connect()).collect();
    for stream in &mut streams {
        stream.write_all(GET.as_bytes()).unwrap();
        assert_eq!(statuses(&read_some(stream)), [200]);
        stream.write_all(&GET.as_bytes()[..12]).unwrap();
    }
    running.until("all parts are read", |it| it.server.states().reading == 20);
    let stopped = running.server.stand_still(PATIENCE, PATIENCE, true).unwrap();
    assert_eq!(stopped.connections.len(), 20);
    // An exec would keep the descriptors; here they are duplicated.
    let adopted = streams.len();
    let connections = stopped.connections.iter().map(|parked| {
        assert_eq!((parked.carried.input.len(), parked.carried.has_asked), (12, true));
        assert!(parked.carried.request_age.is_some());
        let duplicate = std::fs::File::open(format!("/proc/self/fd/{}", parked.descriptor));
        assert!(duplicate.is_err(), "a socket cannot be opened, only passed on");
    });
    assert_eq!(connections.count(), adopted);
    drop(stopped);
    for stream in &mut streams {
        stream.write_all(&GET.as_bytes()[12..]).unwrap();
        assert_eq!(statuses(&read_some(stream)), [200], "it goes on where it stood");
    }
}

#[test]
fn a_server_that_stops_answers_what_has_come() {
    let running = Running::start(1, 100);
    let mut streams: Vec<_> = (0..10).map(|_| running.connect()).collect();
    for stream in &mut streams {
        stream.write_all(GET.as_bytes()).unwrap();
    }
    drop(running);
    for stream in &mut streams {
        let text = read_all(stream);
        assert_eq!(statuses(&text), [200]);
    }
}

#[test]
fn an_idle_server_does_not_wake_up() {
    let running = Running::start(2, 100);
    running.server.ask();
    running.until("it lives", |it| it.server.is_alive());
    let mut stream = running.connect();
    stream.write_all(GET.as_bytes()).unwrap();
    assert_eq!(statuses(&read_some(&mut stream)), [200]);
    assert_eq!(running.service.calls.load(Ordering::SeqCst), 1);
}
