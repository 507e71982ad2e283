//! One answer at a time for each connection, so that no thread of ours waits
//! for another's answer on the same connection; turns among those that send
//! many requests at once; and a look at how many answers were given, so that
//! no worker fills the buffer of a peer that does not read.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tiny_http::Request;

/// Answers that fit into a socket's send buffer whatever the peer does: each
/// takes up to 4 KiB of the 256 KiB there (see `listener`).
const UNREAD_ANSWERS: u32 = 50;

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

    /// Takes note of who has something of ours still to take; all others have
    /// taken all, or are gone.
    pub fn look(&self, pending: &HashSet<SocketAddr>) {
        self.lock().connections.retain(|peer, connection| {
            if !pending.contains(peer) {
                connection.unread = 0;
            }
            connection.hand != Hand::Free || connection.unread > 0
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
