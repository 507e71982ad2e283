//! A heartbeat of a known agent takes nothing of the heap, from the socket to the answer:
//! a whole server in this process, and an allocator that counts.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pap_collector::api::Api;
use pap_collector::config::Config;
use pap_collector::parts::Parts;
use pap_http::listener;
use pap_http::server::Server;
use pap_process::settings::Flags;
use pap_process::threads::Threads;

/// Counts the blocks that all threads but the test's own allocate.
struct Counting;

static BLOCKS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static IS_CLIENT: Cell<bool> = const { Cell::new(false) };
}

#[expect(unsafe_code, reason = "an allocator is unsafe by nature; this one only counts")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !IS_CLIENT.get() {
            BLOCKS.fetch_add(1, Ordering::SeqCst);
        }
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A client that keeps its connection.
struct Client(TcpStream);

impl Client {
    fn ask(&mut self, request: &str) -> String {
        self.0.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 1024];
        // The server writes an answer at once, and it is short.
        let count = self.0.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..count]).into_owned()
    }

    fn beat(&mut self, path: &str, body: &str) {
        let length = body.len();
        let head =
            format!("POST /heartbeat/{path} HTTP/1.1\r\nHost: c\r\nContent-Type: application/json\r\n");
        let answer =
            self.ask(&format!("{head}Authorization: Bearer old\r\nContent-Length: {length}\r\n\r\n{body}"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{body} gets {answer}");
    }
}

#[test]
fn a_heartbeat_of_a_known_agent_takes_nothing_of_the_heap_from_the_socket_to_the_answer() {
    IS_CLIENT.set(true);
    let variables = [("CLUSTER_ID", "c"), ("HEARTBEAT_API_KEY", "new,old")];
    let environment =
        |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let config = Config::new(&Flags::default(), &environment).unwrap();
    let api = Arc::new(Api::new(&config, Arc::new(Parts::new(&config, None))));
    let socket = listener::bind(Some("127.0.0.1".parse().unwrap()), 0).unwrap();
    // No other thread of a collector runs, so what is counted is the event loop's.
    let server = Server::new(api, vec![socket], 1, 8).unwrap();
    let mut threads = Threads::default();
    server.start(&mut threads).unwrap();
    let mut client = Client(TcpStream::connect(server.addresses()[0]).unwrap());

    let name = "a name of more than 22 bytes, which is not kept in place";
    let bodies = [
        r#"{"mode":"IDLE","uptime_seconds":86399.517}"#.to_owned(),
        format!(r#"{{"mode":"IDLE","uptime_seconds":86399.517,"agent_name":"{name}","x":7}}"#),
    ];
    let mut counted = Vec::new();
    for path in ["550e8400-e29b-41d4-a716-446655440000", "an-agent", "pluggedin%2Fresearch%401.2.0"] {
        for (number, body) in bodies.iter().enumerate() {
            // The first makes the agent known, or its name; buffers grow, the date is written.
            for _ in 0..3 {
                client.beat(path, body);
            }
            // A thread of the server that starts only now takes some blocks, once.
            let rounds = (0..5).map(|_| {
                let before = BLOCKS.load(Ordering::SeqCst);
                for _ in 0..100 {
                    client.beat(path, body);
                }
                BLOCKS.load(Ordering::SeqCst) - before
            });
            counted.push((path, number, rounds.min().unwrap()));
        }
    }
    assert!(counted.iter().all(|(.., blocks)| *blocks == 0), "blocks of 100 heartbeats: {counted:?}");
    server.stop();
    assert!(threads.join(Duration::from_secs(60)).is_ok());
}
