//! Attacks by time: clients that send or read slowly, not at all, or leave early.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::attack::{alone, attack, await_closed, hold, holds, is_held};
use crate::support::{Answer, Collector, let_pass, said, slow, uuid};

#[test]
fn stalled_heads_bodies_and_chunks() {
    if !slow("it waits for every time limit of the server, 15 s") {
        return;
    }
    let _alone = alone();
    attack(&[], |collector| {
        let mut held = hold(collector, 30, b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Le");
        held.extend(hold(
            collector,
            30,
            b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: 500\r\n\r\n{",
        ));
        held.extend(hold(
            collector,
            30,
            b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: 5000\r\n\r\n{",
        ));
        held.extend(hold(
            collector,
            30,
            b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        ));
        held.extend(hold(
            collector,
            30,
            b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        ));
        held.extend(hold(
            collector,
            4,
            b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Length: 9\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n",
        ));
        await_closed(held);
    });
}

#[test]
fn bodies_that_do_not_come_hold_up_no_other() {
    let _alone = alone();
    attack(&[], |collector| {
        let h2c =
            "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
        let head = format!("POST /heartbeat/late HTTP/1.1\r\nHost: c\r\n{h2c}Content-Length: 34\r\n\r\n");
        let empty = hold(collector, 200, head.as_bytes());
        let mut hesitant = collector.connect();
        hesitant.write_all(format!("{head}{{\"mode\":\"IDLE\",").as_bytes()).unwrap();
        let whole = format!("{head}{}", r#"{"mode":"IDLE","uptime_seconds":5}"#);
        assert_eq!(collector.raw(whole.as_bytes()).status, 200);
        // The whole body was answered while the missing bodies were still awaited.
        let waiting = empty.iter().any(|stream| is_held(collector, stream));
        assert!(waiting, "it was answered only after the others had been closed");
        hesitant.write_all(br#""uptime_seconds":5}"#).unwrap();
        let mut answer = Vec::new();
        hesitant.read_to_end(&mut answer).unwrap();
        assert_eq!(Answer::parse(&answer).status, 200, "one that comes in pieces");
        if slow("bodies that do not come are waited for 10 s") {
            await_closed(empty);
        }
    });
}

#[test]
fn bodies_are_not_waited_for_where_the_slow_lanes_are_full() {
    if !slow("the slow lanes are full for 5 s") {
        return;
    }
    let _alone = alone();
    attack(&[], |collector| {
        let mut all = Vec::new();
        for round in 0..40 {
            all.extend(hold(collector, 10, "GET /metrics HTTP/1.1\r\nHost: c\r\n\r\n".repeat(50).as_bytes()));
            let length = ["60000", "18446744073709551615", "2000"][round % 3];
            let bytes = format!("GET /metrics HTTP/1.1\r\nHost: c\r\nContent-Length: {length}\r\n\r\n");
            all.extend(hold(collector, 4, bytes.as_bytes()));
        }
        assert!(collector.logged(said::BUG_IN) == 0, "{:?}", collector.log());
        drop(all);
    });
}

#[test]
fn pipelining_without_reading() {
    let _alone = alone();
    attack(&[], |collector| {
        for number in 0..200 {
            collector.beat(&uuid(number), "SLEEP", 1.0);
        }
        let many = |request: &str| request.repeat(2000).into_bytes();
        let mut held = hold(collector, 3, &many("GET /agents HTTP/1.1\r\nHost: c\r\n\r\n"));
        held.extend(hold(collector, 3, &many("GET /health HTTP/1.1\r\nHost: c\r\n\r\n")));
        let mixed = "GET /agents HTTP/1.1\r\nHost: c\r\n\r\nGET /health HTTP/1.1\r\nHost: c\r\n\r\nPOST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Length: -1\r\n\r\n";
        held.extend(hold(collector, 3, &many(mixed)));
        // The clients read nothing, so the collector closes their connections in the end.
        collector.poll("those are given up", || collector.metric("connections") < 8.0);
        drop(held);
    });
}

/// A few pages fill the buffers of a connection, and then a lane waits.
#[test]
fn pages_that_nobody_takes_hold_up_nobody() {
    let _alone = alone();
    attack(&[("COLLECTOR_HTTP_WORKERS", "2")], |collector| {
        let page = "GET / HTTP/1.1\r\nHost: c\r\nAccept: text/html\r\n\r\n";
        let held = hold(collector, 12, page.repeat(200).as_bytes());
        // Honest heartbeats are measured meanwhile; this time is only printed.
        let began = Instant::now();
        for _ in 0..40 {
            assert_eq!(collector.get("/ready").status, 200);
        }
        println!("40 answers beside them took {:.1?}", began.elapsed());
        let waiting = held.iter().any(|stream| is_held(collector, stream));
        assert!(waiting, "they were answered only after the others had been closed");
        drop(held);
    });
}

#[test]
fn slow_readers_make_room_for_others() {
    if !slow("slow readers are borne for 10 s") {
        return;
    }
    let _alone = alone();
    attack(&[], |collector| {
        let mut stream = collector.connect();
        for number in 0..4000 {
            let body = r#"{"mode":"SLEEP","uptime_seconds":5}"#;
            let head = format!(
                "POST /heartbeat/{} HTTP/1.1\r\nHost: c\r\nContent-Length: {}",
                uuid(number),
                body.len()
            );
            stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
            assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        }
        let slow: Vec<_> = (0..12).map(|_| slow_reader(collector)).collect();
        collector.poll("the slow ones are being answered", || {
            slow.iter().filter(|stream| stream.peek(&mut [0]).is_ok()).count() >= 4
        });
        // They read a little, so they do not count as stalled.
        let enough = AtomicBool::new(false);
        let answer = thread::scope(|scope| {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    for mut stream in &slow {
                        let _ = stream.read(&mut [0; 512]);
                    }
                    let_pass(Duration::from_millis(100));
                }
            });
            let answer = collector.get("/agents");
            enough.store(true, Ordering::Relaxed);
            answer
        });
        assert_eq!(answer.json()["stats"]["total"], 4001, "{}", answer.status);
    });
}

/// Asks for all agents and reads almost nothing of the answer.
fn slow_reader(collector: &Collector) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], collector.port));
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET /agents HTTP/1.1\r\nHost: c\r\n\r\n").unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

/// Clients that do not wait for an answer.
#[test]
fn a_heartbeat_before_an_immediate_reset_counts() {
    let _alone = alone();
    let collector = Collector::start(&[]);
    let beat = |agent: &str| {
        let body = r#"{"mode":"SLEEP","uptime_seconds":5}"#;
        format!("POST /heartbeat/{agent} HTTP/1.1\r\nHost: c\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    for number in 0..20 {
        let mut stream = collector.connect();
        let client = stream.local_addr().unwrap().port();
        collector.poll("it is accepted", || holds(&collector, client) == 1);
        if number >= 10 {
            // Here the connection has carried a heartbeat before.
            stream.write_all(beat("known").as_bytes()).unwrap();
            assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        }
        // The client is gone before the collector reads the heartbeat.
        collector.signal("STOP");
        stream.write_all(beat(&uuid(number)).as_bytes()).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        collector.signal("CONT");
        let path = format!("/agents/{}", uuid(number));
        collector.poll("it is heard", || collector.get(&path).status == 200);
    }
}

#[test]
fn resets_before_and_after_accept() {
    let _alone = alone();
    attack(&[], |collector| {
        for round in 0..400 {
            let mut stream = collector.connect();
            if round % 2 == 0 {
                let _ = stream.write_all(b"GET /agents HTTP/1.1\r\nHost: c\r\n\r\nPOST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Length: -1\r\n\r\nGET / HTTP/1.1\r\nHost: c\r\n\r\n");
            }
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    });
}
