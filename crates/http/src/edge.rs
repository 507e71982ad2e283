//! The event loop: accepts, reads, has requests answered, writes. Each thread
//! has one; all of them accept on the same listeners.
//!
//! An event only means: try. What a read, a write or an accept returns decides.
//! A turn reads a bounded number of bytes of a connection and accepts a bounded
//! number of them; whoever has more stands in line for the next turn.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use mio::{Events, Interest, Poll, Token, Waker};
use pap_core::time::{Tick, Wall};
use pap_process::threads::spawn;
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use slab::Slab;

use crate::connection::{Connection, Desk, Ending, LaneJob, Step};
use crate::lanes::{Item, busy};
use crate::order::{Linked, Links, Order, Queue, Slot};
use crate::parse::{MAX_REQUEST, Refused};
use crate::response::{After, Response, stamp, write_whole};
use crate::service::{Closed, Service, Upgraded};

/// What is read of a connection in one turn, in bytes.
const TURN_READ: usize = 16 * 1024;
/// Connections that are accepted in one turn.
const TURN_ACCEPT: usize = 32;
/// Events that are taken from the kernel at once.
const TURN_EVENTS: usize = 1024;
/// A request must be complete this long after its first byte.
const REQUEST: Duration = Duration::from_secs(10);
/// A client must take something of an answer within this time.
const UNREAD: Duration = Duration::from_secs(5);
/// A connection without a request is closed after this time. Agents beat every
/// 5, 30 or 900 seconds: it must not fall near one of them.
const IDLE: Duration = Duration::from_secs(100);
/// How long, and how many bytes, a client may go on sending after the last answer.
const LINGER: Duration = Duration::from_secs(1);
/// See [`LINGER`].
const MOST_LINGERED: usize = 64 * 1024;
/// Without descriptors or memory, accepting is tried again after this time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Unfinished requests and unsent answers of all connections, in bytes.
const MOST_HELD: usize = 8 * 1024 * 1024;
/// Connections that are looked at when one has to give way.
const MOST_CANDIDATES: usize = 16;
/// Commands that may wait for an event loop.
const MOST_COMMANDS: usize = 1024;
/// A connection that had an answer stays while there are no more than this share
/// of the most connections, in percent; beyond it answers say `Connection: close`.
const CLOSE_FROM: usize = 90;

const WAKER: Token = Token(0);
const FIRST_LISTENER: usize = 1;

/// What all event loops and lanes of a server share.
pub struct Common<S> {
    pub service: Arc<S>,
    pub most: usize,
    /// Connections, lanes and streams included.
    pub open: Arc<AtomicUsize>,
    /// Those of them that had an answer and are in an event loop.
    asked: AtomicUsize,
    /// Those with an unfinished request.
    pub reading: AtomicUsize,
    /// Those that do not take their answers.
    pub held_back: AtomicUsize,
    /// Those in a lane, or waiting for one.
    pub in_lanes: AtomicUsize,
    /// Bytes that are kept for connections.
    held: AtomicUsize,
    /// Somebody waits for room.
    wanted: AtomicUsize,
    pub is_draining: AtomicBool,
    pub lanes: Sender<Item>,
    edges: OnceLock<Vec<Handle>>,
}

impl<S: Service> Common<S> {
    pub fn new(service: Arc<S>, most: usize, lanes: Sender<Item>) -> Self {
        Self {
            service,
            most,
            open: Arc::default(),
            asked: AtomicUsize::new(0),
            reading: AtomicUsize::new(0),
            held_back: AtomicUsize::new(0),
            in_lanes: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
            is_draining: AtomicBool::new(false),
            lanes,
            edges: OnceLock::new(),
        }
    }

    pub fn set_edges(&self, edges: Vec<Handle>) {
        let set = self.edges.set(edges);
        debug_assert!(set.is_ok(), "a server has its event loops once");
    }

    pub fn edges(&self) -> &[Handle] {
        self.edges.get().map_or(&[], Vec::as_slice)
    }

    fn recount(&self, was: Counted, is: Counted) {
        if was == is {
            return;
        }
        let counter = |counted| match counted {
            Counted::Idle => None,
            Counted::Reading => Some(&self.reading),
            Counted::HeldBack => Some(&self.held_back),
        };
        if let Some(former) = counter(was) {
            former.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(present) = counter(is) {
            present.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_full(&self) -> bool {
        self.open.load(Ordering::SeqCst) >= self.most
    }

    fn is_over_full(&self) -> bool {
        self.open.load(Ordering::SeqCst) > self.most
    }

    fn says_close(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
            || self.asked.load(Ordering::Relaxed) * 100 > self.most * CLOSE_FROM
    }
}

/// A place among all connections, given up when it is dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Place {
    pub fn take(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(open))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What an event loop is told.
pub enum Command {
    /// A connection comes back from a lane, or along from another program.
    Adopt(Box<(TcpStream, Place, Connection)>),
    /// Stand still and say what there is, until the other channel is closed.
    Park(Sender<Vec<Parked>>, Receiver<std::convert::Infallible>),
    /// Answer what has come, close all and end.
    Stop,
}

/// A connection that can go on in another program image.
#[derive(Debug)]
pub struct Parked {
    /// Its descriptor, which is not closed by an exec as long as its event loop
    /// is parked.
    pub descriptor: i32,
    /// What was read and is not answered.
    pub input: Vec<u8>,
    /// What was answered and is not sent.
    pub output: Vec<u8>,
    /// How long ago the first byte of the unfinished request came.
    pub request_age: Option<Duration>,
    /// A whole request was read of it.
    pub has_asked: bool,
    /// It ends when all is sent.
    pub is_ending: bool,
}

/// The way to an event loop.
pub struct Handle {
    commands: Sender<Command>,
    waker: Waker,
    asked: AtomicU64,
    answered: Arc<AtomicU64>,
}

impl Handle {
    /// Sends a command; waits while there is no room for it.
    pub fn command(&self, command: Command) {
        // An event loop that has ended needs none.
        let _ = self.commands.send(command);
        self.wake();
    }

    pub fn wake(&self) {
        // If it fails, it is full, and so the loop is awake.
        let _ = self.waker.wake();
    }

    /// Asks for a sign of life.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    /// Whether it has come since.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::SeqCst) >= self.asked.load(Ordering::SeqCst)
    }
}

struct Entry {
    socket: mio::net::TcpStream,
    place: Place,
    connection: Connection,
    links: Links,
    /// When it was opened, or last answered.
    since: Tick,
    /// When its unfinished request, its unsent answer or its end are given up.
    deadline: Option<Tick>,
    /// Since when it has not taken all of an answer.
    unsent_since: Option<Tick>,
    /// Bytes read over since the last answer; none while it is served.
    lingered: Option<usize>,
    /// What is counted in [`Common::held`].
    held: usize,
    counted: Counted,
    is_in_line: bool,
    is_registered: bool,
    waits_to_write: bool,
    /// An event said that there is an end to be read.
    has_end: bool,
}

impl Linked for Slab<Entry> {
    fn links(&mut self, slot: Slot) -> &mut Links {
        &mut self[slot as usize].links
    }
}

/// As what a connection is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Counted {
    #[default]
    Idle,
    Reading,
    HeldBack,
}

struct Listener {
    inner: mio::net::TcpListener,
    /// There may be somebody to accept.
    is_ready: bool,
}

/// One event loop.
pub struct Edge<S> {
    number: usize,
    common: Arc<Common<S>>,
    poll: Poll,
    listeners: Vec<Listener>,
    commands: Receiver<Command>,
    answered: Arc<AtomicU64>,
    entries: Slab<Entry>,
    order: Order,
    deadlines: BTreeSet<(Tick, Slot)>,
    line: VecDeque<Slot>,
    /// The system had no descriptor or memory: not to accept before this moment.
    exhausted_until: Option<Tick>,
    /// There was no room, and nobody of ours to give way: not to accept before
    /// there is room, to be looked at again at this moment.
    crowded_until: Option<Tick>,
    buffer: Vec<u8>,
    out: Vec<u8>,
    scratch: Vec<u8>,
    stamp: (u64, String),
    is_stopping: bool,
}

impl<S: Service> Edge<S> {
    /// An event loop on copies of these listeners.
    pub fn new(
        number: usize,
        common: Arc<Common<S>>,
        listeners: &[TcpListener],
    ) -> io::Result<(Self, Handle)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let (sender, commands) = bounded(MOST_COMMANDS);
        let answered = Arc::new(AtomicU64::new(0));
        let mut all = Vec::new();
        for (at, listener) in listeners.iter().enumerate() {
            let listener = listener.try_clone()?;
            listener.set_nonblocking(true)?;
            let mut inner = mio::net::TcpListener::from_std(listener);
            poll.registry().register(&mut inner, Token(FIRST_LISTENER + at), Interest::READABLE)?;
            all.push(Listener { inner, is_ready: true });
        }
        let handle =
            Handle { commands: sender, waker, asked: AtomicU64::new(0), answered: Arc::clone(&answered) };
        let edge = Self {
            number,
            common,
            poll,
            listeners: all,
            commands,
            answered,
            entries: Slab::new(),
            order: Order::default(),
            deadlines: BTreeSet::new(),
            line: VecDeque::new(),
            exhausted_until: None,
            crowded_until: None,
            buffer: vec![0; 2 * MAX_REQUEST + TURN_READ],
            out: Vec::new(),
            scratch: Vec::new(),
            stamp: (u64::MAX, String::new()),
            is_stopping: false,
        };
        Ok((edge, handle))
    }

    /// The counter of all connections.
    pub fn open(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.common.open)
    }

    /// Takes a connection in, for the next turn.
    pub fn insert_in_line(&mut self, socket: TcpStream, place: Place, connection: Connection) {
        let slot = self.insert(mio::net::TcpStream::from_std(socket), place, connection);
        self.stand_in_line(slot);
    }

    /// Serves until it is told to stop.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(TURN_EVENTS);
        while !self.is_stopping {
            let wait = self.wait();
            // A wait that fails is a turn too early.
            let polled = self.poll.poll(&mut events, wait);
            debug_assert!(polled.as_ref().is_ok_or_interrupted(), "an event loop's own descriptors are good");
            let asked =
                self.common.edges().get(self.number).map_or(0, |own| own.asked.load(Ordering::SeqCst));
            for event in &events {
                self.note(event);
            }
            while let Ok(command) = self.commands.try_recv() {
                self.obey(command);
            }
            self.accept();
            for _ in 0..self.line.len() {
                let Some(slot) = self.line.pop_front() else { break };
                if let Some(entry) = self.entries.get_mut(slot as usize) {
                    entry.is_in_line = false;
                    self.attend(slot);
                }
            }
            self.expire();
            self.keep_to_budget();
            self.make_room_for_others();
            self.answered.store(asked, Ordering::SeqCst);
        }
        self.end();
    }

    /// How long there is nothing to do without an event.
    fn wait(&self) -> Option<Duration> {
        let now = self.common.service.now();
        let not_before = self.exhausted_until.max(self.crowded_until);
        let may_accept = not_before.is_none_or(|until| until <= now);
        if !self.line.is_empty() || (may_accept && self.listeners.iter().any(|listener| listener.is_ready)) {
            return Some(Duration::ZERO);
        }
        let idle = [Queue::Newcomers, Queue::Idle].into_iter().filter_map(|queue| self.order.first(queue));
        let idle = idle.map(|slot| self.entries[slot as usize].since + IDLE);
        let deadline = self.deadlines.first().map(|&(due, _)| due);
        let due = idle.chain(deadline).chain(not_before).min()?;
        // A millisecond more: the system's waits end on whole ones.
        Some(due.since(now) + Duration::from_millis(1))
    }

    fn note(&mut self, event: &mio::event::Event) {
        let token = event.token();
        if token == WAKER {
            return;
        }
        if let Some(listener) = self.listeners.get_mut(token.0 - FIRST_LISTENER) {
            listener.is_ready = true;
            return;
        }
        let slot = slot(token.0 - FIRST_LISTENER - self.listeners.len());
        // It may be a former connection's event; then it is one try too many.
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            entry.has_end |= event.is_read_closed() || event.is_error() || event.is_write_closed();
            if !std::mem::replace(&mut entry.is_in_line, true) {
                self.line.push_back(slot);
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Adopt(adopted) => {
                let (socket, place, connection) = *adopted;
                let slot = self.insert(mio::net::TcpStream::from_std(socket), place, connection);
                self.attend(slot);
            }
            Command::Park(parked, until) => self.park(&parked, &until),
            Command::Stop => self.is_stopping = true,
        }
    }

    fn accept(&mut self) {
        let now = self.common.service.now();
        let is_crowded = self.crowded_until.is_some_and(|until| until > now) && self.common.is_full();
        if is_crowded || self.exhausted_until.is_some_and(|until| until > now) {
            return;
        }
        (self.exhausted_until, self.crowded_until) = (None, None);
        let mut budget = TURN_ACCEPT;
        for at in 0..self.listeners.len() {
            while self.listeners[at].is_ready && budget > 0 {
                if self.common.is_full() && self.candidate(None).is_none() {
                    // Somebody else may have one that can go.
                    self.common.wanted.fetch_add(1, Ordering::SeqCst);
                    self.common.edges().iter().for_each(Handle::wake);
                    self.crowded_until = Some(now + ACCEPT_PAUSE);
                    return;
                }
                budget -= 1;
                match self.listeners[at].inner.accept() {
                    Ok((socket, _)) => {
                        let place = Place::take(&self.common.open);
                        let slot = self.insert(socket, place, Connection::default());
                        // What it asks has often come with it.
                        self.attend(slot);
                        // One more than there may be, so that nobody is closed
                        // for a connection that is not there.
                        if self.common.is_over_full() {
                            self.give_way(Some(slot));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.listeners[at].is_ready = false
                    }
                    Err(error) if is_exhaustion(&error) => {
                        if !self.give_way(None) {
                            self.exhausted_until = Some(now + ACCEPT_PAUSE);
                            return;
                        }
                    }
                    // The client has given up, or a signal came.
                    Err(_) => {}
                }
            }
        }
    }

    fn insert(&mut self, socket: mio::net::TcpStream, place: Place, connection: Connection) -> Slot {
        if connection.has_asked {
            self.common.asked.fetch_add(1, Ordering::Relaxed);
        }
        let slot = slot(self.entries.insert(Entry {
            socket,
            place,
            connection,
            links: Links::default(),
            since: self.common.service.now(),
            deadline: None,
            unsent_since: None,
            lingered: None,
            held: 0,
            counted: Counted::default(),
            is_in_line: false,
            is_registered: false,
            waits_to_write: false,
            has_end: false,
        }));
        self.order.move_to(&mut self.entries, slot, Queue::Newcomers);
        slot
    }

    /// One turn of one connection.
    fn attend(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot as usize];
        if entry.lingered.is_some() {
            return self.linger(slot);
        }
        if !entry.connection.output.is_empty() {
            let output = std::mem::take(&mut entry.connection.output);
            if !self.send(slot, &output) {
                return;
            }
        }
        if self.entries[slot as usize].connection.ending.is_some() {
            return self.finish(slot);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let outcome = self.read(slot, &mut buffer);
        if let Some(length) = outcome {
            self.serve(slot, &buffer[..length]);
        }
        self.buffer = buffer;
    }

    /// Reads once, behind what was kept. Returns how many bytes there are to
    /// look at; none where the connection is gone.
    fn read(&mut self, slot: Slot, buffer: &mut [u8]) -> Option<usize> {
        let entry = &mut self.entries[slot as usize];
        let kept = std::mem::take(&mut entry.connection.input);
        let length = kept.len();
        buffer[..length].copy_from_slice(&kept);
        if buffer.len() - length < TURN_READ {
            // Whole requests stand behind answers that had to be sent first.
            self.stand_in_line(slot);
            return Some(length);
        }
        let read = loop {
            match entry.socket.read(&mut buffer[length..length + TURN_READ]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => {
                (entry.connection.is_read_closed, entry.has_end) = (true, false);
                Some(length)
            }
            Ok(count) => {
                // Less than there was room for is all there is, unless an end
                // was announced.
                if (count == TURN_READ || entry.has_end) && !std::mem::replace(&mut entry.is_in_line, true) {
                    self.line.push_back(slot);
                }
                Some(length + count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                entry.has_end = false;
                Some(length)
            }
            // The client has reset it.
            Err(_) => {
                self.remove(slot);
                None
            }
        }
    }

    /// Has the requests in `bytes` answered.
    fn serve(&mut self, slot: Slot, bytes: &[u8]) {
        let now = self.common.service.now();
        self.refresh_stamp(self.common.service.wall());
        let (mut out, mut scratch) = (std::mem::take(&mut self.out), std::mem::take(&mut self.scratch));
        let common = Arc::clone(&self.common);
        let mut desk = Desk {
            service: &*common.service,
            stamp: &self.stamp.1,
            out: &mut out,
            scratch: &mut scratch,
            says_close: common.says_close(),
            now,
        };
        let entry = &mut self.entries[slot as usize];
        let had_asked = entry.connection.has_asked;
        let (done, step) = entry.connection.take_in(bytes, &mut desk);
        if bytes.len() > done {
            entry.connection.input = bytes[done..].to_vec();
        }
        if entry.connection.has_asked && !had_asked {
            common.asked.fetch_add(1, Ordering::Relaxed);
        }
        let is_alive = match step {
            Step::Waiting => out.is_empty() || self.send(slot, &out),
            Step::Full => {
                let is_sent = self.send(slot, &out);
                if is_sent {
                    self.stand_in_line(slot);
                }
                is_sent
            }
            Step::Lane(job) => {
                self.to_lane(slot, &mut out, job);
                false
            }
            Step::Stream(run, answering) => {
                self.to_stream(slot, &mut out, run, answering.after, answering.is_head);
                false
            }
        };
        out.clear();
        (self.out, self.scratch) = (out, scratch);
        if is_alive {
            self.settle(slot, done > 0, now);
        }
    }

    /// Puts a connection where it belongs after a turn in which all was sent.
    fn settle(&mut self, slot: Slot, was_answered: bool, now: Tick) {
        let entry = &mut self.entries[slot as usize];
        if entry.connection.ending.is_some() {
            return self.finish(slot);
        }
        let queue = if entry.connection.has_asked { Queue::Idle } else { Queue::Newcomers };
        if was_answered || entry.links.queue() != queue {
            if was_answered {
                entry.since = now;
            }
            self.order.move_to(&mut self.entries, slot, queue);
        }
        let deadline = self.entries[slot as usize].connection.request_since.map(|since| since + REQUEST);
        self.set_deadline(slot, deadline);
        self.count(slot);
        self.register(slot);
    }

    /// Sends bytes of answers. Returns whether all of them went out; where the
    /// connection is gone or held back, its turn is over.
    fn send(&mut self, slot: Slot, bytes: &[u8]) -> bool {
        let now = self.common.service.now();
        let entry = &mut self.entries[slot as usize];
        let mut rest = bytes;
        while !rest.is_empty() {
            match entry.socket.write(rest) {
                Ok(0) => break,
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.remove(slot);
                    return false;
                }
            }
        }
        if rest.is_empty() {
            if entry.unsent_since.take().is_some() {
                self.set_deadline(slot, None);
                self.count(slot);
                self.register(slot);
            }
            return true;
        }
        entry.connection.output = rest.to_vec();
        let is_new = entry.unsent_since.is_none();
        let since = *entry.unsent_since.get_or_insert(now);
        // Within five seconds something, within thirty all.
        if is_new || rest.len() < bytes.len() {
            let due = (now + UNREAD).min(since + 6 * UNREAD);
            self.set_deadline(slot, Some(due));
        }
        self.order.move_to(&mut self.entries, slot, Queue::Busy);
        self.count(slot);
        self.register(slot);
        false
    }

    /// All is sent, and nothing more is answered.
    fn finish(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot as usize];
        if !entry.connection.lingers || entry.connection.is_read_closed {
            return self.remove_ended(slot);
        }
        // If it fails, the connection is gone, and the next read says so.
        let _ = entry.socket.shutdown(Shutdown::Write);
        entry.lingered = Some(0);
        entry.connection.input = Vec::new();
        let due = self.common.service.now() + LINGER;
        self.set_deadline(slot, Some(due));
        self.count(slot);
        self.order.move_to(&mut self.entries, slot, Queue::Busy);
        self.register(slot);
        self.linger(slot);
    }

    /// Reads over what a client still sends after its last answer.
    fn linger(&mut self, slot: Slot) {
        let Entry { socket, lingered, .. } = &mut self.entries[slot as usize];
        let total = lingered.get_or_insert(0);
        let mut unread = [0; 4096];
        let is_over = loop {
            match socket.read(&mut unread) {
                Ok(0) => break true,
                Ok(count) => {
                    *total += count;
                    if *total > MOST_LINGERED {
                        break true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break true,
            }
        };
        if is_over {
            self.remove_ended(slot);
        }
    }

    /// Closes a connection whose end was said in its last answer.
    fn remove_ended(&mut self, slot: Slot) {
        match self.entries[slot as usize].connection.ending {
            Some(Ending::Refused) => self.close(slot, Closed::Refused),
            Some(Ending::Said) => self.close(slot, Closed::Done),
            Some(Ending::ByClient) | None => self.remove(slot),
        }
    }

    fn to_lane(&mut self, slot: Slot, out: &mut Vec<u8>, job: LaneJob) {
        let edge = self.number;
        let is_head = job.answering.is_head;
        let Some((socket, place, mut connection)) = self.take_out(slot) else { return };
        connection.output = std::mem::take(out);
        let after = job.answering.after;
        self.common.in_lanes.fetch_add(1, Ordering::SeqCst);
        let item = Item { edge, socket, place, connection, job };
        if let Err(TrySendError::Full(item) | TrySendError::Disconnected(item)) =
            self.common.lanes.try_send(item)
        {
            self.common.in_lanes.fetch_sub(1, Ordering::SeqCst);
            let Item { socket, place, mut connection, .. } = item;
            let answer = Response::error(503, busy()).retry_after(1);
            write_whole(&mut connection.output, &answer, &self.stamp.1, after, is_head);
            connection.answered(after, !connection.input.is_empty());
            let slot = self.insert(mio::net::TcpStream::from_std(socket), place, connection);
            self.stand_in_line(slot);
        }
    }

    fn to_stream(
        &mut self,
        slot: Slot,
        out: &mut Vec<u8>,
        run: Box<dyn FnOnce(Upgraded) + Send>,
        after: After,
        is_head: bool,
    ) {
        let (sender, upgraded) = bounded(1);
        let work = move || {
            if let Ok((socket, read, place)) = upgraded.recv() {
                run(Upgraded { socket, read });
                drop::<Place>(place);
            }
        };
        if let Err(error) = spawn("observer", work) {
            log::warn!("a stream found no thread: {error}; check the limit on processes");
            let answer = Response::error(503, "No stream can be opened now").retry_after(1);
            write_whole(out, &answer, &self.stamp.1, after, is_head);
            let has_more = !self.entries[slot as usize].connection.input.is_empty();
            self.entries[slot as usize].connection.answered(after, has_more);
            if self.send(slot, out) {
                self.stand_in_line(slot);
            }
            return;
        }
        // What was asked before it is answered before it.
        if !out.is_empty() && !self.send(slot, out) {
            if self.entries.contains(slot as usize) {
                self.close(slot, Closed::Stalled);
            }
            return;
        }
        if let Some((socket, place, connection)) = self.take_out(slot) {
            // The thread waits for it.
            let _ = sender.send((socket, connection.input, place));
        }
    }

    fn stand_in_line(&mut self, slot: Slot) {
        if !std::mem::replace(&mut self.entries[slot as usize].is_in_line, true) {
            self.line.push_back(slot);
        }
    }

    /// Gives a connection out of this loop.
    fn take_out(&mut self, slot: Slot) -> Option<(TcpStream, Place, Connection)> {
        let mut entry = self.detach(slot);
        if entry.is_registered && self.poll.registry().deregister(&mut entry.socket).is_err() {
            return None;
        }
        Some((entry.socket.into(), entry.place, entry.connection))
    }

    fn remove(&mut self, slot: Slot) {
        drop(self.detach(slot));
        // There is room again.
        self.exhausted_until = None;
        if self.common.wanted.load(Ordering::SeqCst) > 0 {
            self.common.edges().iter().for_each(Handle::wake);
        }
    }

    fn close(&mut self, slot: Slot, why: Closed) {
        self.common.service.closed(why);
        self.remove(slot);
    }

    fn detach(&mut self, slot: Slot) -> Entry {
        self.order.leave(&mut self.entries, slot);
        self.set_deadline(slot, None);
        let entry = self.entries.remove(slot as usize);
        self.common.held.fetch_sub(entry.held, Ordering::Relaxed);
        self.common.recount(entry.counted, Counted::Idle);
        if entry.connection.has_asked {
            self.common.asked.fetch_sub(1, Ordering::Relaxed);
        }
        entry
    }

    fn set_deadline(&mut self, slot: Slot, deadline: Option<Tick>) {
        let entry = &mut self.entries[slot as usize];
        if entry.deadline == deadline {
            return;
        }
        if let Some(former) = std::mem::replace(&mut entry.deadline, deadline) {
            self.deadlines.remove(&(former, slot));
        }
        if let Some(due) = deadline {
            self.deadlines.insert((due, slot));
        }
    }

    /// Counts what a connection holds and as what it is shown.
    fn count(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot as usize];
        let held = entry.connection.input.len() + entry.connection.output.len();
        let counted = match (entry.unsent_since, entry.connection.input.is_empty()) {
            (Some(_), _) => Counted::HeldBack,
            (None, false) => Counted::Reading,
            (None, true) => Counted::Idle,
        };
        if held != entry.held {
            self.common.held.fetch_add(held, Ordering::Relaxed);
            self.common.held.fetch_sub(std::mem::replace(&mut entry.held, held), Ordering::Relaxed);
        }
        self.common.recount(std::mem::replace(&mut entry.counted, counted), counted);
    }

    /// Sees to it that the kernel tells us of what this connection waits for.
    fn register(&mut self, slot: Slot) {
        let token = Token(FIRST_LISTENER + self.listeners.len() + slot as usize);
        let entry = &mut self.entries[slot as usize];
        let waits_to_write = entry.unsent_since.is_some();
        let interest =
            if waits_to_write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let registry = self.poll.registry();
        let registered = if !entry.is_registered {
            registry.register(&mut entry.socket, token, interest)
        } else if waits_to_write != entry.waits_to_write {
            registry.reregister(&mut entry.socket, token, interest)
        } else {
            return;
        };
        (entry.is_registered, entry.waits_to_write) = (true, waits_to_write);
        if registered.is_err() {
            // The system has no memory for it.
            self.close(slot, Closed::Surplus);
        }
    }

    /// Who gives way next, other than `except`.
    fn candidate(&self, except: Option<Slot>) -> Option<Slot> {
        let first = self.order.first(Queue::Newcomers).filter(|&slot| Some(slot) != except);
        first.or_else(|| self.order.first(Queue::Idle))
    }

    /// Closes one of ours, other than `except`, to make room. Returns whether
    /// there was one.
    fn give_way(&mut self, except: Option<Slot>) -> bool {
        for _ in 0..MOST_CANDIDATES {
            let Some(slot) = self.candidate(except) else { return false };
            let (queue, since) =
                (self.entries[slot as usize].links.queue(), self.entries[slot as usize].since);
            // Its request may have come and not have been looked at.
            self.attend(slot);
            let Some(entry) = self.entries.get(slot as usize) else { return true };
            if entry.links.queue() == queue && entry.since == since {
                self.close(slot, Closed::Surplus);
                return true;
            }
        }
        false
    }

    fn make_room_for_others(&mut self) {
        while self.common.wanted.load(Ordering::SeqCst) > 0 && self.common.is_full() {
            if !self.give_way(None) {
                return;
            }
            self.common.wanted.fetch_sub(1, Ordering::SeqCst);
            self.common.edges().iter().for_each(Handle::wake);
        }
        if !self.common.is_full() {
            self.common.wanted.store(0, Ordering::SeqCst);
        }
    }

    /// Ends what has taken too long, after a last look at each.
    fn expire(&mut self) {
        let now = self.common.service.now();
        while let Some(&(due, slot)) = self.deadlines.first() {
            if due > now {
                break;
            }
            let entry = &self.entries[slot as usize];
            if entry.lingered.is_some() {
                self.remove_ended(slot);
                continue;
            }
            self.attend(slot);
            // Whoever has moved on has another deadline.
            let Some(entry) = self.entries.get(slot as usize) else { continue };
            if entry.deadline != Some(due) {
                continue;
            }
            if entry.unsent_since.is_some() {
                self.close(slot, Closed::Stalled);
            } else {
                self.refuse(slot, Refused::Timeout);
            }
        }
        for queue in [Queue::Newcomers, Queue::Idle] {
            while let Some(slot) = self.order.first(queue) {
                let since = self.entries[slot as usize].since;
                if since + IDLE > now {
                    break;
                }
                self.attend(slot);
                if self
                    .entries
                    .get(slot as usize)
                    .is_some_and(|entry| entry.since == since && entry.links.queue() == queue)
                {
                    self.close(slot, Closed::Idle);
                }
            }
        }
    }

    /// Answers an unfinished request with an error and ends its connection.
    fn refuse(&mut self, slot: Slot, why: Refused) {
        self.refresh_stamp(self.common.service.wall());
        let mut out = Vec::new();
        let common = Arc::clone(&self.common);
        let mut desk = Desk {
            service: &*common.service,
            stamp: &self.stamp.1,
            out: &mut out,
            scratch: &mut self.scratch,
            says_close: true,
            now: common.service.now(),
        };
        let entry = &mut self.entries[slot as usize];
        entry.connection.refuse(why, &mut desk);
        entry.connection.input = Vec::new();
        if self.send(slot, &out) {
            self.finish(slot);
        }
    }

    /// Gives up unfinished requests, the biggest first, while all of them
    /// together hold too much.
    fn keep_to_budget(&mut self) {
        while self.common.held.load(Ordering::Relaxed) > MOST_HELD {
            let biggest = self.deadlines.iter().max_by_key(|&&(_, slot)| self.entries[slot as usize].held);
            let Some(&(_, slot)) = biggest else { return };
            let entry = &self.entries[slot as usize];
            if entry.held == 0 {
                return;
            }
            if entry.unsent_since.is_some() {
                self.close(slot, Closed::Stalled);
            } else {
                self.refuse(slot, Refused::Timeout);
            }
        }
    }

    fn refresh_stamp(&mut self, now: Wall) {
        if self.stamp.0 != now.0 / 1000 {
            self.stamp = (now.0 / 1000, stamp(S::NAME, now.into()));
        }
    }

    /// Stands still, for another program image to go on with our connections.
    fn park(&mut self, parked: &Sender<Vec<Parked>>, until: &Receiver<std::convert::Infallible>) {
        let now = self.common.service.now();
        let keep = |entries: &Slab<Entry>, how: FdFlags| {
            let served = entries.iter().filter(|(_, entry)| entry.lingered.is_none());
            served
                .filter(|(_, entry)| fcntl_setfd(&entry.socket, how).is_ok())
                .map(|(slot, _)| slot)
                .collect::<Vec<_>>()
        };
        let kept = keep(&self.entries, FdFlags::empty()).into_iter().map(|slot| {
            let Entry { socket, connection, .. } = &self.entries[slot];
            Parked {
                descriptor: socket.as_raw_fd(),
                input: connection.input.clone(),
                output: connection.output.clone(),
                request_age: connection.request_since.map(|since| now.since(since)),
                has_asked: connection.has_asked,
                is_ending: connection.ending.is_some(),
            }
        });
        let _ = parked.send(kept.collect());
        // It is closed when the exec has failed.
        let _ = until.recv();
        keep(&self.entries, FdFlags::CLOEXEC);
    }

    /// Answers what has come, and closes all.
    fn end(&mut self) {
        self.common.is_draining.store(true, Ordering::SeqCst);
        for _ in 0..=self.common.most / TURN_ACCEPT {
            if !self.listeners.iter().any(|listener| listener.is_ready) {
                break;
            }
            self.accept();
        }
        for slot in self.entries.iter().map(|(slot, _)| slot).collect::<Vec<_>>() {
            let slot = self::slot(slot);
            if self.entries[slot as usize].lingered.is_none() {
                self.attend(slot);
            }
            if self.entries.contains(slot as usize) {
                self.close(slot, Closed::Stopping);
            }
        }
    }
}

/// A slot of a slab: there are at most as many connections as descriptors.
fn slot(key: usize) -> Slot {
    debug_assert!(Slot::try_from(key).is_ok(), "descriptors are 32 bits wide");
    Slot::try_from(key).unwrap_or(Slot::MAX)
}

/// Whether the system has run out of descriptors or memory.
fn is_exhaustion(error: &io::Error) -> bool {
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| exhausted.iter().any(|errno| errno.raw_os_error() == code))
}

trait OkOrInterrupted {
    fn is_ok_or_interrupted(self) -> bool;
}

impl OkOrInterrupted for Result<&(), &io::Error> {
    fn is_ok_or_interrupted(self) -> bool {
        self.err().is_none_or(|error| error.kind() == ErrorKind::Interrupted)
    }
}
