//! A server: its event loops and its lanes, as the program that runs it sees them.

use std::cmp::Reverse;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, never};
use pap_process::clock::monotonic;
use pap_process::threads::Threads;

use crate::common::{Command, Common, Handle, Item, Park, Parked};
pub use crate::connection::Carried;
use crate::edge::Edge;
use crate::lanes;
use crate::service::{Service, States};

/// A connection that the former program has handed over.
#[derive(Debug)]
pub struct Adopted {
    /// The connection.
    pub descriptor: OwnedFd,
    /// What the hand-over says of it.
    pub carried: Carried,
}

/// How often the server looks whether the lanes are free.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The event loops and the lanes' queue, until their threads are started.
type Unstarted<S> = (Vec<Edge<S>>, Receiver<Item>);

/// A server whose threads share it.
pub struct Server<S> {
    common: Arc<Common<S>>,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    unstarted: Mutex<Option<Unstarted<S>>>,
    /// Dropped to let the lanes end.
    lanes_open: Mutex<Option<Sender<Infallible>>>,
    lanes_end: Receiver<Infallible>,
}

/// All event loops stand still until this is dropped.
pub struct Standstill {
    /// Every connection that the next program can take over.
    pub connections: Vec<Parked>,
    _until: Sender<Infallible>,
}

impl<S: Service> Server<S> {
    /// A server on listeners that are bound already, with this many event loops
    /// and at most this many connections.
    ///
    /// # Errors
    /// The system has no descriptors left, or a listener is none.
    pub fn new(service: Arc<S>, listeners: Vec<TcpListener>, loops: usize, most: usize) -> io::Result<Self> {
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        let (lanes, items) = bounded(S::MAX_WAITING);
        let common = Arc::new(Common::new(service, most, lanes));
        let (mut edges, mut handles) = (Vec::new(), Vec::new());
        for number in 0..loops {
            let (edge, handle): (Edge<S>, Handle) = Edge::new(number, Arc::clone(&common), &listeners)?;
            edges.push(edge);
            handles.push(handle);
        }
        common.set_edges(handles);
        let (open, lanes_end) = bounded(0);
        let unstarted = Mutex::new(Some((edges, items)));
        Ok(Self { common, listeners, addresses, unstarted, lanes_open: Mutex::new(Some(open)), lanes_end })
    }

    /// Gives the event loops the connections that the former program has handed over. Call it
    /// before [`start`](Self::start).
    pub fn adopt(&self, mut connections: Vec<Adopted>) {
        // As in the event loops' queues: those that are idle for longest come first.
        connections.sort_by_key(|adopted| Reverse(adopted.carried.idle_age));
        let loops = self.common.edges().len();
        let mut unstarted = self.unstarted.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((edges, _)) = unstarted.as_mut() else { return };
        for (number, adopted) in connections.into_iter().enumerate() {
            edges[number % loops].take_over(TcpStream::from(adopted.descriptor), adopted.carried);
        }
    }

    /// Starts the threads of the event loops and of the lanes.
    ///
    /// # Errors
    /// The system has no threads left.
    pub fn start(&self, threads: &mut Threads) -> io::Result<()> {
        let unstarted = self.unstarted.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((edges, items)) = unstarted else { return Ok(()) };
        for (number, edge) in edges.into_iter().enumerate() {
            threads.spawn(&format!("edge-{number}"), move || edge.run())?;
        }
        for number in 0..S::LANES {
            let (common, items, end) = (Arc::clone(&self.common), items.clone(), self.lanes_end.clone());
            threads.spawn(&format!("lane-{number}"), move || lanes::run(&common, &items, &end))?;
        }
        Ok(())
    }

    /// The sockets it listens on.
    pub fn listeners(&self) -> &[TcpListener] {
        &self.listeners
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The most connections it keeps.
    pub fn most_connections(&self) -> usize {
        self.common.most
    }

    /// How many connections are in which state.
    pub fn states(&self) -> States {
        self.common.states()
    }

    /// The same as a function, which may live longer than this borrow.
    pub fn counter(&self) -> impl Fn() -> States + Send + Sync + 'static {
        let common = Arc::downgrade(&self.common);
        move || common.upgrade().map_or_else(States::default, |common| common.states())
    }

    /// Who answers.
    pub fn service(&self) -> &S {
        &self.common.service
    }

    /// Asks every event loop for a sign of life.
    pub fn ask(&self) {
        self.common.edges().iter().for_each(Handle::ask);
    }

    /// Whether every event loop has given the sign of life that was last asked for.
    pub fn is_alive(&self) -> bool {
        self.common.edges().iter().all(Handle::is_answered)
    }

    /// Whether no lane is taken.
    pub fn are_lanes_free(&self) -> bool {
        self.common.in_lanes.load(Ordering::SeqCst) == 0
    }

    /// From now on every connection ends with its next answer.
    pub fn drain(&self) {
        self.common.is_draining.store(true, Ordering::SeqCst);
    }

    /// Lets all event loops stand still between two turns; None if they do not
    /// within `longest`. Then waits for the lanes, at most for `lanes`: a connection that is
    /// still in a lane is not among the connections. If it `keeps` connections, a re-exec
    /// leaves them open.
    pub fn stand_still(&self, longest: Duration, lanes: Duration, keeps: bool) -> Option<Standstill> {
        let count = self.common.edges().len();
        let (standing, stand) = bounded(count);
        let (parked, connections) = bounded(count);
        let (gather, gathering) = bounded(0);
        let (end, until) = bounded(0);
        for edge in self.common.edges() {
            edge.command(Command::Park(Park {
                keeps,
                standing: standing.clone(),
                gather: gathering.clone(),
                parked: parked.clone(),
                until: until.clone(),
            }));
        }
        for _ in 0..count {
            stand.recv_timeout(longest).ok()?;
        }
        let give_up = monotonic() + lanes;
        while !self.are_lanes_free() && monotonic() < give_up {
            let _ = never::<()>().recv_timeout(LOOK_EVERY);
        }
        drop(gather);
        let mut all = Vec::new();
        for _ in 0..count {
            all.append(&mut connections.recv_timeout(longest).ok()?);
        }
        Some(Standstill { connections: all, _until: end })
    }

    /// Answers what has come, closes all connections and lets the threads end.
    pub fn stop(&self) {
        drop(self.lanes_open.lock().unwrap_or_else(PoisonError::into_inner).take());
        for edge in self.common.edges() {
            edge.command(Command::Stop);
        }
    }
}
