//! One request at a time for each connection: the next is read when it is
//! answered, so that nobody's requests fill our memory, and no thread of ours
//! waits for another's answer on the same connection. And a look at how many
//! answers were given, so that no worker fills the buffer of a peer that does
//! not read.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use pap_process::clock::monotonic;

/// What a small answer takes of a socket's send buffer at most, in bytes; a
/// bigger one counts as several.
const ANSWER: usize = 4096;
/// Answers that fit into that buffer whatever the peer does, and one of our
/// biggest small ones behind them: it has 256 KiB (see `listener`).
const UNREAD_ANSWERS: u32 = 50;

/// What was read of a connection that had the same address before, and is not
/// in hand for so long, was its last: the connection is gone.
const NO_REQUEST: Duration = Duration::from_millis(50);

/// So many looks in a row that do not find a connection mean that it is gone:
/// in the first it may have been too young.
const LOOKS: u8 = 2;

/// Where a connection's present request is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Hand {
    /// There is none.
    #[default]
    Free,
    /// It is being read, or waits for a worker.
    Read,
    /// It is being answered.
    Ours,
    /// It has become a stream.
    Stream,
    /// There will be no other: the connection is being ended.
    Ending,
}

#[derive(Default)]
struct Connection {
    /// The kernel's own number for it; the address may have been another's.
    cookie: u64,
    hand: Hand,
    /// Who waits to read the next one, which is there already.
    reader: Option<Thread>,
    /// What was answered since the peer was last seen to have taken all, in
    /// small answers.
    unread: u32,
    /// The same since the present look began.
    since_look: u32,
    /// Looks in a row that did not find it.
    missing: u8,
}

impl Connection {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.unpark();
        }
    }
}

#[derive(Default)]
struct Table {
    connections: HashMap<SocketAddr, Connection>,
    is_frozen: bool,
}

/// The connections that ask for something.
#[derive(Default)]
pub struct Pipeline(Mutex<Table>);

impl Pipeline {
    /// Waits until everything that was read from `peer` is answered, and
    /// nothing is frozen. To be called before a request is read from there;
    /// returns whether it may be.
    pub fn await_turn(&self, peer: SocketAddr, cookie: u64) -> bool {
        let mut since = None;
        loop {
            let mut state = self.lock();
            let is_frozen = state.is_frozen;
            let connection = state.connections.entry(peer).or_default();
            let is_the_same = connection.cookie == cookie;
            let now = monotonic();
            let waited = now.since(*since.get_or_insert(now));
            let is_free = match connection.hand {
                Hand::Stream | Hand::Ending if is_the_same => return false,
                // If it is not free, it is another's that had the address before.
                Hand::Free | Hand::Stream | Hand::Ending => true,
                Hand::Read => !is_the_same && waited >= NO_REQUEST,
                Hand::Ours => false,
            };
            if is_free && !is_the_same {
                *connection = Connection { cookie, ..Connection::default() };
            }
            if is_free && !is_frozen {
                (connection.hand, connection.reader) = (Hand::Read, None);
                return true;
            }
            connection.reader = Some(thread::current());
            drop(state);
            thread::park_timeout(NO_REQUEST);
        }
    }

    /// Waits until nothing is frozen, for a request without an address.
    pub fn await_thaw(&self) {
        while self.lock().is_frozen {
            thread::park_timeout(NO_REQUEST);
        }
    }

    /// A worker begins with the request of `peer`.
    pub fn admit(&self, peer: SocketAddr) {
        self.lock().connections.entry(peer).or_default().hand = Hand::Ours;
    }

    /// Takes note that the request of `peer` was answered, and by how many
    /// bytes; none where nobody knows.
    pub fn done(&self, peer: SocketAddr, bytes: Option<usize>) {
        let mut state = self.lock();
        let Some(connection) = state.connections.get_mut(&peer) else { return };
        let answers =
            bytes.map_or(UNREAD_ANSWERS, |bytes| u32::try_from(1 + bytes / ANSWER).unwrap_or(u32::MAX));
        connection.unread = connection.unread.saturating_add(answers);
        connection.since_look = connection.since_look.saturating_add(answers);
        if connection.hand == Hand::Ours {
            connection.hand = Hand::Free;
        }
        connection.wake();
    }

    /// From now on no request is read, until [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.lock().is_frozen = true;
    }

    /// Requests are read again.
    pub fn thaw(&self) {
        let mut state = self.lock();
        state.is_frozen = false;
        // They still wait for us until they run.
        let readers = state.connections.values().filter_map(|connection| connection.reader.as_ref());
        readers.for_each(Thread::unpark);
    }

    /// Whether nothing that was read is unanswered.
    pub fn is_quiet(&self) -> bool {
        !self.lock().connections.values().any(|it| matches!(it.hand, Hand::Read | Hand::Ours))
    }

    /// Whether the next answer to `peer` may have to wait until it reads.
    pub fn may_block(&self, peer: SocketAddr) -> bool {
        self.lock().connections.get(&peer).is_some_and(|connection| connection.unread >= UNREAD_ANSWERS)
    }

    /// Whether a connection cannot go on elsewhere: something of it is in hand,
    /// or it is being ended.
    pub fn is_bound(&self, peer: SocketAddr, cookie: u64) -> bool {
        self.is(peer, cookie, |connection| connection.hand != Hand::Free)
    }

    /// Whether a connection waits for us: a request of it has come and is not
    /// answered.
    pub fn is_our_turn(&self, peer: SocketAddr, cookie: u64) -> bool {
        self.is(peer, cookie, |it| matches!(it.hand, Hand::Read | Hand::Ours) || it.reader.is_some())
    }

    /// Whether a connection has become a stream.
    pub fn is_stream(&self, peer: SocketAddr, cookie: u64) -> bool {
        self.is(peer, cookie, |connection| connection.hand == Hand::Stream)
    }

    /// The connection of `peer` becomes a stream.
    pub fn become_stream(&self, peer: SocketAddr) {
        if let Some(connection) = self.lock().connections.get_mut(&peer) {
            connection.hand = Hand::Stream;
        }
    }

    /// A connection is being ended.
    pub fn end(&self, peer: SocketAddr, cookie: u64) {
        if let Some(connection) = self.lock().connections.get_mut(&peer)
            && connection.cookie == cookie
        {
            connection.hand = Hand::Ending;
            connection.wake();
        }
    }

    /// The connection whose request of `peer` is in hand is being ended.
    pub fn end_of(&self, peer: SocketAddr) -> Option<u64> {
        let mut state = self.lock();
        let connection = state.connections.get_mut(&peer)?;
        connection.hand = Hand::Ending;
        connection.wake();
        Some(connection.cookie)
    }

    /// A look at all connections begins. What is answered from now on, it may
    /// not see.
    pub fn begin_look(&self) {
        self.lock().connections.values_mut().for_each(|connection| connection.since_look = 0);
    }

    /// Takes note of all connections, and whether they have something of ours
    /// still to take. What is not among them is gone.
    pub fn look(&self, pending: &HashMap<SocketAddr, bool>) {
        self.lock().connections.retain(|peer, connection| {
            let seen = pending.get(peer);
            if seen != Some(&true) {
                connection.unread = connection.since_look;
            }
            connection.missing = if seen.is_some() { 0 } else { connection.missing.saturating_add(1) };
            let is_in_use =
                connection.hand != Hand::Free || connection.unread > 0 || connection.reader.is_some();
            is_in_use && (connection.missing < LOOKS || connection.hand == Hand::Ours)
        });
    }

    fn is(&self, peer: SocketAddr, cookie: u64, so: impl Fn(&Connection) -> bool) -> bool {
        self.lock()
            .connections
            .get(&peer)
            .is_some_and(|connection| connection.cookie == cookie && so(connection))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{RecvTimeoutError, bounded};
    use std::sync::Arc;

    /// Long enough that who is let on would be.
    const MOMENT: Duration = Duration::from_millis(150);
    const PATIENCE: Duration = Duration::from_secs(60);

    fn peer() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 9))
    }

    /// Waits for a turn in a thread of its own, and says what came of it.
    fn ask(pipeline: &Arc<Pipeline>, cookie: u64) -> crossbeam_channel::Receiver<bool> {
        let (said, heard) = bounded(1);
        let pipeline = Arc::clone(pipeline);
        thread::spawn(move || said.send(pipeline.await_turn(peer(), cookie)));
        heard
    }

    #[test]
    fn the_next_is_read_when_the_former_is_answered() {
        let pipeline = Arc::new(Pipeline::default());
        assert!(pipeline.await_turn(peer(), 1));
        assert!(!pipeline.is_quiet(), "it is read, and no worker has it yet");
        let next = ask(&pipeline, 1);
        assert_eq!(next.recv_timeout(MOMENT), Err(RecvTimeoutError::Timeout));
        pipeline.admit(peer());
        assert_eq!(next.recv_timeout(MOMENT), Err(RecvTimeoutError::Timeout));
        pipeline.done(peer(), Some(10));
        assert_eq!(next.recv_timeout(PATIENCE), Ok(true));
    }

    #[test]
    fn in_the_frost_nothing_is_read_and_all_can_go_elsewhere() {
        let pipeline = Arc::new(Pipeline::default());
        assert!(pipeline.await_turn(peer(), 1));
        pipeline.admit(peer());
        pipeline.freeze();
        assert!(!pipeline.is_quiet());
        assert!(pipeline.is_bound(peer(), 1));
        pipeline.done(peer(), Some(10));
        let next = ask(&pipeline, 1);
        assert_eq!(next.recv_timeout(MOMENT), Err(RecvTimeoutError::Timeout));
        assert!(pipeline.is_quiet());
        assert!(!pipeline.is_bound(peer(), 1));
        // It waits for us, as soon as its thread has come that far.
        let give_up = monotonic() + PATIENCE;
        while !pipeline.is_our_turn(peer(), 1) {
            assert!(monotonic() < give_up);
            thread::yield_now();
        }
        pipeline.thaw();
        assert_eq!(next.recv_timeout(PATIENCE), Ok(true));
    }

    #[test]
    fn what_is_ended_is_over_for_itself_alone() {
        let pipeline = Arc::new(Pipeline::default());
        assert!(pipeline.await_turn(peer(), 1));
        pipeline.admit(peer());
        let behind = ask(&pipeline, 1);
        assert_eq!(behind.recv_timeout(MOMENT), Err(RecvTimeoutError::Timeout));
        assert_eq!(pipeline.end_of(peer()), Some(1));
        assert_eq!(behind.recv_timeout(PATIENCE), Ok(false));
        assert!(pipeline.is_bound(peer(), 1) && pipeline.is_quiet());
        // Its address is another's now.
        pipeline.end(peer(), 2);
        assert!(pipeline.await_turn(peer(), 2));
        pipeline.end(peer(), 1);
        assert!(!pipeline.is_bound(peer(), 1) && pipeline.is_our_turn(peer(), 2));
    }

    #[test]
    fn what_is_gone_is_forgotten_at_the_second_look() {
        let pipeline = Pipeline::default();
        assert!(pipeline.await_turn(peer(), 1));
        pipeline.look(&HashMap::new());
        assert!(!pipeline.is_quiet(), "the look may have begun before");
        pipeline.look(&HashMap::new());
        assert!(pipeline.is_quiet());
        assert!(pipeline.await_turn(peer(), 2));
        pipeline.admit(peer());
        (0..5).for_each(|_| pipeline.look(&HashMap::new()));
        assert!(!pipeline.is_quiet(), "a worker has it");
    }

    #[test]
    fn what_nobody_takes_may_block_until_it_is_taken() {
        let pipeline = Pipeline::default();
        let answer = |bytes| {
            assert!(pipeline.await_turn(peer(), 1));
            pipeline.admit(peer());
            pipeline.done(peer(), bytes);
            pipeline.may_block(peer())
        };
        assert!((0..UNREAD_ANSWERS - 1).all(|_| !answer(Some(100))));
        assert!(answer(Some(100)));
        pipeline.begin_look();
        pipeline.look(&HashMap::from([(peer(), true)]));
        assert!(pipeline.may_block(peer()), "it has not taken them");
        pipeline.begin_look();
        pipeline.look(&HashMap::from([(peer(), false)]));
        assert_eq!(
            (0..6).map(|_| answer(Some(40_000))).collect::<Vec<_>>(),
            [false, false, false, false, true, true]
        );
        pipeline.begin_look();
        assert!(answer(None), "nobody knows how big it was");
        pipeline.look(&HashMap::from([(peer(), false)]));
        assert!(pipeline.may_block(peer()), "the look had begun before");
    }
}
