//! One request at a time for each connection: the next is read when it is
//! answered, so that nobody's requests fill our memory, and no thread of ours
//! waits for another's answer on the same connection. And a look at how many
//! answers were given, so that no worker fills the buffer of a peer that does
//! not read.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use tiny_http::Request;

use crate::clock::monotonic;

/// Answers that fit into a socket's send buffer whatever the peer does: each
/// takes up to 4 KiB of the 256 KiB there (see `listener`).
const UNREAD_ANSWERS: u32 = 50;

/// What was read and is neither in hand nor waiting for so long has become no
/// request of ours: the library has answered it by itself.
const NO_REQUEST: Duration = Duration::from_millis(50);

/// Requests of one connection that may wait for their turn.
const MOST_WAITING: usize = 64;

/// What becomes of a request.
pub enum Admitted {
    /// It is its turn.
    Now(Request),
    /// It comes from [`Pipeline::next`] when it is.
    Later,
    /// Too many of its connection wait already; whether it is the first.
    TooMany(Request, bool),
}

/// What a connection's request in hand waits for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Hand {
    /// There is none.
    #[default]
    Free,
    /// For us.
    Ours,
    /// For more from its client.
    Client,
    /// For nothing: it has become a stream.
    Stream,
}

#[derive(Default)]
struct Connection {
    hand: Hand,
    /// A request was read that is not answered.
    is_read: bool,
    /// Who is to read the next one.
    reader: Option<Thread>,
    waiting: VecDeque<Request>,
    /// More came than may wait.
    floods: bool,
    /// Answers given since the peer was last seen to have taken all.
    unread: u32,
}

#[derive(Default)]
struct State {
    connections: HashMap<SocketAddr, Connection>,
    /// Whose next request can be taken, in turn.
    turns: VecDeque<SocketAddr>,
}

/// The connections that ask for something.
#[derive(Default)]
pub struct Pipeline(Mutex<State>);

impl Pipeline {
    /// Waits until everything that was read from `peer` is answered. To be
    /// called before a request is read from there.
    pub fn await_turn(&self, peer: SocketAddr) {
        let mut since = None;
        loop {
            let mut state = self.lock();
            let connection = state.connections.entry(peer).or_default();
            let is_free = connection.hand == Hand::Free && connection.waiting.is_empty();
            let now = monotonic();
            let waited = since.map(|since| now.saturating_sub(since));
            if !connection.is_read || is_free && waited >= Some(NO_REQUEST) {
                (connection.is_read, connection.reader) = (true, None);
                return;
            }
            connection.reader = Some(thread::current());
            drop(state);
            since.get_or_insert(now);
            thread::park_timeout(NO_REQUEST);
        }
    }

    /// Takes a request in. Requests of one connection must come in the order
    /// in which they were sent.
    pub fn admit(&self, request: Request) -> Admitted {
        let Some(&peer) = request.remote_addr() else { return Admitted::Now(request) };
        let mut state = self.lock();
        let connection = state.connections.entry(peer).or_default();
        if connection.hand == Hand::Free {
            connection.hand = Hand::Ours;
            Admitted::Now(request)
        } else if connection.waiting.len() < MOST_WAITING {
            connection.waiting.push_back(request);
            Admitted::Later
        } else {
            let is_first = !std::mem::replace(&mut connection.floods, true);
            Admitted::TooMany(request, is_first)
        }
    }

    /// Takes note that a request of `peer` was answered. Returns whether its
    /// next one can be taken.
    pub fn done(&self, peer: SocketAddr) -> bool {
        let State { connections, turns } = &mut *self.lock();
        let Some(connection) = connections.get_mut(&peer) else { return false };
        connection.unread = connection.unread.saturating_add(1);
        let goes_on = !connection.waiting.is_empty();
        connection.hand = if goes_on { Hand::Ours } else { Hand::Free };
        if goes_on {
            turns.push_back(peer);
        } else {
            connection.is_read = false;
            if let Some(reader) = connection.reader.take() {
                reader.unpark();
            }
        }
        goes_on
    }

    /// Gives up what waits of a connection that is being ended.
    pub fn give_up(&self, peer: SocketAddr) -> VecDeque<Request> {
        self.lock().connections.remove(&peer).map_or_else(VecDeque::new, |connection| connection.waiting)
    }

    /// The next request of somebody who has sent several.
    pub fn next(&self) -> Option<Request> {
        let State { connections, turns } = &mut *self.lock();
        // Who was given up has none.
        std::iter::from_fn(|| turns.pop_front())
            .find_map(|peer| connections.get_mut(&peer)?.waiting.pop_front())
    }

    /// Whether there may be a next request.
    pub fn has_next(&self) -> bool {
        !self.lock().turns.is_empty()
    }

    /// Whether the next answer to `peer` may have to wait until it reads.
    pub fn may_block(&self, peer: SocketAddr) -> bool {
        self.lock().connections.get(&peer).is_some_and(|connection| connection.unread >= UNREAD_ANSWERS)
    }

    /// Whether a request of `peer` is in hand.
    pub fn is_busy(&self, peer: SocketAddr) -> bool {
        self.hand(peer) != Hand::Free
    }

    /// Whether a request of `peer` is in hand, and the next move ours.
    pub fn is_our_turn(&self, peer: SocketAddr) -> bool {
        self.hand(peer) == Hand::Ours
    }

    /// Whether the connection of `peer` has become a stream.
    pub fn is_stream(&self, peer: SocketAddr) -> bool {
        self.hand(peer) == Hand::Stream
    }

    /// The request of `peer` that is in hand waits for more from its client.
    pub fn await_client(&self, peer: SocketAddr) {
        self.set_hand(peer, Hand::Client);
    }

    /// The connection of `peer` becomes a stream.
    pub fn become_stream(&self, peer: SocketAddr) {
        self.set_hand(peer, Hand::Stream);
    }

    /// Takes note of all connections, and whether they have something of ours
    /// still to take. What is not among them is gone.
    pub fn look(&self, pending: &HashMap<SocketAddr, bool>) {
        self.lock().connections.retain(|peer, connection| {
            if pending.get(peer) != Some(&true) {
                connection.unread = 0;
            }
            let is_read = connection.is_read && pending.contains_key(peer);
            connection.hand != Hand::Free || connection.unread > 0 || is_read
        });
    }

    fn hand(&self, peer: SocketAddr) -> Hand {
        self.lock().connections.get(&peer).map_or(Hand::Free, |connection| connection.hand)
    }

    fn set_hand(&self, peer: SocketAddr, hand: Hand) {
        if let Some(connection) = self.lock().connections.get_mut(&peer) {
            connection.hand = hand;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
