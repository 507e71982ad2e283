//! What the event loops, the lanes and the server share.

use std::convert::Infallible;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender};
use mio::Waker;

use crate::connection::{Carried, Connection, LaneJob};
use crate::patience::is_nearly_full;
use crate::service::{Service, States};

/// What all event loops and lanes of a server share.
pub struct Common<S> {
    pub service: Arc<S>,
    pub most: usize,
    /// All connections, those in lanes and those of streams included.
    pub open: Arc<AtomicUsize>,
    /// Connections that have not sent a whole request, in any event loop.
    pub newcomers: AtomicUsize,
    /// Connections that had an answer and are in an event loop.
    pub asked: AtomicUsize,
    /// Connections with an unfinished request.
    pub reading: AtomicUsize,
    /// Connections whose clients do not take their answers.
    pub held_back: AtomicUsize,
    /// Connections in a lane, or waiting for one.
    pub in_lanes: AtomicUsize,
    /// Bytes that are kept for connections.
    pub held: AtomicUsize,
    /// How often event loops have asked for room and got none yet.
    pub wanted: AtomicUsize,
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
            newcomers: AtomicUsize::new(0),
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

    pub fn states(&self) -> States {
        States {
            open: self.open.load(Ordering::Relaxed),
            reading: self.reading.load(Ordering::Relaxed),
            answering: self.in_lanes.load(Ordering::Relaxed),
            held_back: self.held_back.load(Ordering::Relaxed),
        }
    }

    pub fn recount(&self, was: Counted, is: Counted) {
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

    pub fn is_full(&self) -> bool {
        self.open.load(Ordering::SeqCst) >= self.most
    }

    pub fn is_over_full(&self) -> bool {
        self.open.load(Ordering::SeqCst) > self.most
    }

    pub fn says_close(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
            || is_nearly_full(self.asked.load(Ordering::Relaxed), self.most)
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
    /// A connection comes back from a lane.
    Adopt(Box<(TcpStream, Place, Connection)>),
    /// Stand still: see [`Park`].
    Park(Park),
    /// Answer what has come, close all and end.
    Stop,
}

/// How an event loop stands still. It answers nothing any more, and only takes back
/// connections that lanes have had.
pub struct Park {
    /// Whether a re-exec is to leave the connections open.
    pub keeps: bool,
    /// It says here that it stands still.
    pub standing: Sender<()>,
    /// Once this channel is closed, it sends its connections to `parked`.
    pub gather: Receiver<Infallible>,
    pub parked: Sender<Vec<Parked>>,
    /// It stands still until this channel is closed.
    pub until: Receiver<Infallible>,
}

/// A connection that the next program can take over.
#[derive(Debug)]
pub struct Parked {
    /// Its descriptor, which a re-exec leaves open as long as the event loop stands still.
    pub descriptor: i32,
    /// What the hand-over says of it.
    pub carried: Carried,
}

/// Sends commands to an event loop, and asks it for signs of life.
pub struct Handle {
    commands: Sender<Command>,
    waker: Waker,
    asked: AtomicU64,
    answered: Arc<AtomicU64>,
}

impl Handle {
    pub fn new(commands: Sender<Command>, waker: Waker, answered: Arc<AtomicU64>) -> Self {
        Self { commands, waker, asked: AtomicU64::new(0), answered }
    }

    /// How often a sign of life was asked for.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

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

    /// Whether the event loop has given a sign of life since it was asked.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::SeqCst) >= self.asked.load(Ordering::SeqCst)
    }
}

/// In which state a connection is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counted {
    #[default]
    Idle,
    Reading,
    HeldBack,
}

/// A connection that waits for a lane, or is in one.
pub struct Item {
    /// Which event loop it came from.
    pub edge: usize,
    /// Its socket, which does not block.
    pub socket: TcpStream,
    /// Its place among all connections.
    pub place: Place,
    /// What was read and is not answered, and what was answered and is not sent.
    pub connection: Connection,
    /// The answer to give.
    pub job: LaneJob,
}
