//! The event loop: accepts, reads, has requests answered, writes. Each thread
//! has one; all of them accept on the same listeners.
//!
//! An event only means: try. What a read, a write or an accept returns decides.
//! A turn reads a bounded number of bytes of a connection, and accepts a bounded number of
//! connections. A connection that has more waits for the next turn.

mod handing;
mod rules;
mod turn;

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use mio::{Events, Interest, Poll, Token, Waker};
use pap_core::time::Tick;
use rustix::io::Errno;
use slab::Slab;

use crate::common::{Command, Common, Counted, Handle, Place};
use crate::connection::Connection;
use crate::order::{Linked, Links, Order, Queue, Slot};
use crate::parse::max_request;
use crate::patience::Wait;
use crate::service::{Closed, Service};
use turn::TURN_READ;

/// Connections that are accepted in one turn.
const TURN_ACCEPT: usize = 32;
/// Events that are taken from the kernel at once.
const TURN_EVENTS: usize = 1024;
/// Without descriptors or memory, accepting is tried again after this time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Commands that may wait for an event loop.
const MOST_COMMANDS: usize = 1024;

const WAKER: Token = Token(0);
const FIRST_LISTENER: usize = 1;

/// A connection, its socket and its place in the loop.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
struct Entry {
    socket: mio::net::TcpStream,
    /// Who is at the other end.
    peer: Option<IpAddr>,
    place: Place,
    connection: Connection,
    links: Links,
    /// When it was opened, or last answered.
    since: Tick,
    /// When we give up waiting for the rest of its request, for the client to take its answer,
    /// or for its end.
    deadline: Option<Tick>,
    /// Since when its client has not taken all of an answer.
    unsent_since: Option<Tick>,
    /// Bytes read and dropped since the last answer; None while it is served.
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

struct Listener {
    inner: mio::net::TcpListener,
    /// A connection may wait to be accepted.
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
    /// There was no room, and no connection of this loop could give way: not to accept before
    /// there is room, and to look again at this moment.
    crowded_until: Option<Tick>,
    buffer: Vec<u8>,
    out: Vec<u8>,
    /// For bodies that come in chunks.
    body: Vec<u8>,
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
        let handle = Handle::new(sender, waker, Arc::clone(&answered));
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
            buffer: vec![0; 2 * max_request(S::MAX_BODY) + TURN_READ],
            body: vec![0; S::MAX_BODY],
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

    /// Takes a connection in, and serves it in the next turn.
    pub fn insert_in_line(&mut self, socket: TcpStream, place: Place, connection: Connection) {
        let slot = self.insert(mio::net::TcpStream::from_std(socket), place, connection);
        self.stand_in_line(slot);
    }

    /// Serves until it is told to stop.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(TURN_EVENTS);
        while !self.is_stopping {
            let wait = self.wait();
            // If the wait fails, the turn only comes too early.
            let polled = self.poll.poll(&mut events, wait);
            let is_fine = polled.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::Interrupted);
            debug_assert!(is_fine, "an event loop's own descriptors are good");
            let asked = self.common.edges().get(self.number).map_or(0, Handle::asked);
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
        let idle = idle.map(|slot| Wait::Idle(self.entries[slot as usize].since).until());
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
        // It may be the event of a former connection in this slot; then the try does no harm.
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
            Command::Park(park) => self.park(&park),
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
                    // Another event loop may have a connection that can give way.
                    self.common.wanted.fetch_add(1, Ordering::SeqCst);
                    self.common.edges().iter().for_each(Handle::wake);
                    let pause = now + ACCEPT_PAUSE;
                    self.crowded_until =
                        self.next_candidate().map_or(Some(pause), |soon| Some(soon.min(pause)));
                    return;
                }
                budget -= 1;
                match self.listeners[at].inner.accept() {
                    Ok((socket, _)) => {
                        let place = Place::take(&self.common.open);
                        let slot = self.insert(socket, place, Connection::default());
                        // Its request has often come already.
                        self.attend(slot);
                        // Only now, with one connection too many: none is closed to make room
                        // for a connection that never came.
                        if self.common.is_over_full() {
                            self.give_way(Some(slot));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.listeners[at].is_ready = false;
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
        // The socket's family may be another than IP: a service manager made the listener.
        let peer = socket.peer_addr().ok().map(|peer| peer.ip().to_canonical());
        let slot = slot(self.entries.insert(Entry {
            socket,
            peer,
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
        self.move_to(slot, Queue::Newcomers);
        slot
    }

    /// Puts a connection at the end of another queue.
    fn move_to(&mut self, slot: Slot, queue: Queue) {
        let is_newcomer = |edge: &Self| edge.entries[slot as usize].links.queue() == Queue::Newcomers;
        let was_newcomer = is_newcomer(self);
        self.order.move_to(&mut self.entries, slot, queue);
        match (was_newcomer, is_newcomer(self)) {
            (false, true) => drop(self.common.newcomers.fetch_add(1, Ordering::SeqCst)),
            (true, false) => drop(self.common.newcomers.fetch_sub(1, Ordering::SeqCst)),
            (false, false) | (true, true) => {}
        }
    }

    fn stand_in_line(&mut self, slot: Slot) {
        if !std::mem::replace(&mut self.entries[slot as usize].is_in_line, true) {
            self.line.push_back(slot);
        }
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
        self.move_to(slot, Queue::Busy);
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

    /// Counts the bytes that a connection holds, and in which state it is.
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

    /// Asks the kernel for the events for which this connection waits.
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
