//! The agents' connections, all on one event loop. A connection carries one request
//! at a time and is opened when the first request needs it. When the server has
//! closed it, the next request opens another one, as HTTP clients do. A request that
//! was under way on it has failed: a heartbeat is not sent again.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use pap_process::url::Url;

use super::answer::parse;

/// How long an agent waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How much is read at once.
const READ: usize = 16 * 1024;

/// Where the collector is.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    pub host: String,
    /// What comes before each path.
    prefix: String,
}

impl Server {
    pub fn find(url: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{url}: allowed: http://HOST:PORT ({why})");
        let base = Url::base(url).map_err(|error| wrong(&error.to_string()))?;
        let rest = base.as_str().strip_prefix("http://").ok_or_else(|| wrong("it speaks no TLS"))?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // The parser has left out the default port.
        let has_port = host.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
        let named = if has_port { host.to_owned() } else { format!("{host}:80") };
        let mut found = named.to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
        let address = found.next().ok_or(format!("{host} has no address"))?;
        Ok(Self { address, host: host.to_owned(), prefix: path.to_owned() })
    }

    /// The bytes of a request about an agent.
    pub fn request(&self, method: &str, agent: &str, body: &str, closes: bool) -> Vec<u8> {
        let Self { host, prefix, .. } = self;
        let connection = if closes { "Connection: close\r\n" } else { "" };
        format!(
            "{method} {prefix}/heartbeat/{agent} HTTP/1.1\r\nHost: {host}\r\n{connection}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

/// Why a request got no answer.
#[derive(Debug)]
pub enum Failure {
    /// No connection could be opened.
    NotConnected(String),
    /// The connection ended before the answer.
    Reset(String),
    TimedOut,
    /// What came is no answer.
    Broken(String),
}

/// How a request of an agent ended.
pub struct Finished {
    pub agent: usize,
    /// When it was handed to [`Client::send`], and when it ended.
    pub sent: Instant,
    pub ended: Instant,
    pub result: Result<u16, Failure>,
}

struct Request {
    agent: usize,
    bytes: Vec<u8>,
    sent: Instant,
    serial: u64,
}

#[derive(Default)]
struct Connection {
    stream: Option<TcpStream>,
    is_open: bool,
    under_way: Option<Request>,
    /// How many of its bytes the kernel has taken.
    written: usize,
    /// What came of its answer.
    answer: Vec<u8>,
    waiting: VecDeque<Request>,
}

pub struct Client {
    address: SocketAddr,
    /// Each answer ends its connection.
    is_fresh: bool,
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    /// When each request is given up, with its connection and its serial number.
    time_outs: VecDeque<(Instant, usize, u64)>,
    serial: u64,
    buffer: Vec<u8>,
    finished: Vec<Finished>,
    pub opened: usize,
    pub under_way: usize,
}

/// Raises the limit on descriptors to what the system allows us.
pub fn raise_descriptor_limit(connections: usize) -> Result<(), String> {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })
        .map_err(|error| format!("the limit on descriptors: {error}"))?;
    match most.filter(|&most| most < connections as u64 + 64) {
        None => Ok(()),
        Some(most) => {
            Err(format!("{connections} connections need more than the {most} descriptors of ulimit -Hn"))
        }
    }
}

impl Client {
    pub fn new(server: &Server, connections: usize, is_fresh: bool) -> std::io::Result<Self> {
        Ok(Self {
            address: server.address,
            is_fresh,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            connections: (0..connections).map(|_| Connection::default()).collect(),
            time_outs: VecDeque::new(),
            serial: 0,
            buffer: vec![0; READ],
            finished: Vec::new(),
            opened: 0,
            under_way: 0,
        })
    }

    /// Sends a request of an agent, now or when the requests before it on its
    /// connection have ended.
    pub fn send(&mut self, agent: usize, bytes: Vec<u8>) {
        let at = agent % self.connections.len();
        let (sent, serial) = (Instant::now(), self.serial);
        self.serial += 1;
        self.under_way += 1;
        self.time_outs.push_back((sent + TIMEOUT, at, serial));
        self.connections[at].waiting.push_back(Request { agent, bytes, sent, serial });
        self.begin(at);
    }

    /// Waits for something to do, at most this long, does it, and returns what has
    /// ended.
    pub fn turn(&mut self, longest: Duration) -> std::io::Result<Vec<Finished>> {
        let next = self.time_outs.front().map(|(at, ..)| at.saturating_duration_since(Instant::now()));
        let longest = if self.finished.is_empty() { longest } else { Duration::ZERO };
        match self.poll.poll(&mut self.events, Some(next.map_or(longest, |next| next.min(longest)))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        // An event only means: try. It may be of the connection that was here before.
        let ready: Vec<_> =
            self.events.iter().map(|event| (event.token().0, event.is_read_closed())).collect();
        for (at, is_read_closed) in ready {
            self.attend(at, is_read_closed);
        }
        self.give_up_late_ones();
        Ok(std::mem::take(&mut self.finished))
    }

    /// Takes the next request in hand, if there is none.
    fn begin(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        if connection.under_way.is_some() {
            return;
        }
        let Some(request) = connection.waiting.pop_front() else { return };
        connection.under_way = Some(request);
        connection.written = 0;
        if connection.stream.is_some() {
            self.write(at);
            return;
        }
        let opened = TcpStream::connect(self.address).and_then(|mut stream| {
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(at), both)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => {
                self.opened += 1;
                // Requests are written whole.
                let _ = stream.set_nodelay(true);
                connection.stream = Some(stream);
            }
            Err(error) => self.end(at, Err(Failure::NotConnected(error.to_string()))),
        }
    }

    fn attend(&mut self, at: usize, is_read_closed: bool) {
        let connection = &mut self.connections[at];
        let Some(stream) = &connection.stream else { return };
        if !connection.is_open {
            match (stream.take_error(), stream.peer_addr()) {
                (Ok(None), Ok(_)) => connection.is_open = true,
                (Ok(None), Err(error)) if error.kind() == ErrorKind::NotConnected => return,
                (Ok(Some(error)) | Err(error), _) | (_, Err(error)) => {
                    self.close(at, Failure::NotConnected(error.to_string()));
                    return;
                }
            }
        }
        self.write(at);
        self.read(at, is_read_closed);
    }

    fn write(&mut self, at: usize) {
        let Connection { stream: Some(stream), is_open: true, under_way: Some(request), written, .. } =
            &mut self.connections[at]
        else {
            return;
        };
        while *written < request.bytes.len() {
            match stream.write(&request.bytes[*written..]) {
                Ok(count) => *written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.close(at, Failure::Reset(error.to_string()));
                    return;
                }
            }
        }
    }

    fn read(&mut self, at: usize, is_read_closed: bool) {
        loop {
            let connection = &mut self.connections[at];
            let Connection { stream: Some(stream), is_open: true, .. } = connection else { return };
            match stream.read(&mut self.buffer) {
                Ok(0) => {
                    self.close(at, Failure::Reset("closed before the answer".to_owned()));
                    return;
                }
                Ok(count) => {
                    connection.answer.extend_from_slice(&self.buffer[..count]);
                    self.take_answer(at);
                    // The kernel has no more, and will say so when it has.
                    if count < READ && !is_read_closed {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.close(at, Failure::Reset(error.to_string()));
                    return;
                }
            }
        }
    }

    fn take_answer(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        match parse(&connection.answer) {
            Ok(None) => {}
            Ok(Some(answer)) if connection.under_way.is_some() => {
                let is_more = connection.answer.len() > answer.length;
                connection.answer.clear();
                // Nothing may come that was not asked for.
                if answer.closes || self.is_fresh || is_more {
                    Self::drop_stream(connection);
                }
                self.end(at, Ok(answer.status));
            }
            // The server closes a connection on which nothing was asked, and says why.
            Ok(Some(_)) => Self::drop_stream(connection),
            Err(why) => self.close(at, Failure::Broken(why)),
        }
    }

    fn drop_stream(connection: &mut Connection) {
        connection.stream = None;
        connection.is_open = false;
        connection.answer = Vec::new();
    }

    /// The connection has ended, and the request that is under way on it has failed.
    fn close(&mut self, at: usize, why: Failure) {
        Self::drop_stream(&mut self.connections[at]);
        self.end(at, Err(why));
    }

    fn end(&mut self, at: usize, result: Result<u16, Failure>) {
        if let Some(Request { agent, sent, .. }) = self.connections[at].under_way.take() {
            self.under_way -= 1;
            self.finished.push(Finished { agent, sent, ended: Instant::now(), result });
        }
        self.begin(at);
    }

    fn give_up_late_ones(&mut self) {
        let now = Instant::now();
        while let Some(&(until, at, serial)) = self.time_outs.front() {
            if until > now {
                return;
            }
            self.time_outs.pop_front();
            let connection = &mut self.connections[at];
            if connection.under_way.as_ref().is_some_and(|request| request.serial == serial) {
                self.close(at, Failure::TimedOut);
            } else if let Some(place) = connection.waiting.iter().position(|request| request.serial == serial)
                && let Some(Request { agent, sent, .. }) = connection.waiting.remove(place)
            {
                self.under_way -= 1;
                self.finished.push(Finished { agent, sent, ended: now, result: Err(Failure::TimedOut) });
            }
        }
    }
}
