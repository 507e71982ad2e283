//! The HTTP server: tiny_http parses heads; our workers answer.
//!
//! No worker ever waits for a client: tiny_http gets to read whole requests
//! only, a connection has one in hand at a time, and whatever may be big or may
//! have to wait goes to a lane of its own with a bounded queue.

mod accept;
mod accept_watchdog;
mod agents;
mod answer;
mod api;
mod auth;
mod closing;
mod flow;
mod framing;
mod guard;
mod handshake;
mod leave;
mod limits;
mod listener;
mod observer;
mod page;
mod pipeline;
mod reading;
pub(crate) mod socket;
mod target;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};

pub use accept::ACCEPT_GATE;
pub use api::Api;
use limits::most_connections;
pub use limits::raise_descriptor_limit;
pub use listener::{adopt, bind};

use crate::config::Config;
use crate::metrics::Closed;
use crate::parts::Parts;
use closing::Closing;
use flow::{Slow, SlowPeers};
use guard::Guard;
use observer::Candidate;
use pap_core::time::Uptime;
use pap_process::panics::on_panic_of_others;
use pap_process::threads::Threads;
use pipeline::Pipeline;

/// Requests that may wait for the slow lane; more are told to come back.
const MOST_WAITING: usize = 32;
/// Threads of the slow lane.
const SLOW_LANES: usize = 4;
/// How often the guard looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between two looks while somebody waits for room.
const CROWD_PAUSE: Duration = Duration::from_millis(3);
/// Between two looks for those that are doomed.
const DOOM_PAUSE: Duration = Duration::from_millis(2);
/// Connections that may wait to be ended.
const MOST_DOOMED: usize = 1024;
/// Every so many looks it looks for leaks too.
const LOOKS_FOR_LEAKS: u32 = 5;
/// Leaked connections beyond which the process goes on in a fresh image.
const MOST_LEAKED: usize = 256;
/// Ended accept loops beyond which it does so too: each leaves some threads.
const MOST_FORMER: usize = 8;

/// The server, shared by its threads.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    api: Api,
    workers: usize,
    most_connections: usize,
    current: RwLock<Arc<tiny_http::Server>>,
    /// Those whose accept loop ended; their connections live on.
    former: Mutex<Vec<accept_watchdog::Former>>,
    pipeline: Arc<Pipeline>,
    guard: Mutex<Guard>,
    closing: Closing,
    slow: Sender<Slow>,
    slow_peers: SlowPeers,
    streams: Sender<Candidate>,
    doomed: Sender<(u64, Closed)>,
    trouble: Sender<()>,
}

/// The ends of the server's channels, for its threads. A channel touches the
/// memory of all its places at once.
pub struct Ends {
    slow: Receiver<Slow>,
    streams: Receiver<Candidate>,
    doomed: Receiver<(u64, Closed)>,
    crowd: Receiver<()>,
    trouble: Receiver<()>,
}

impl Server {
    /// Serves on a listener that is already bound.
    ///
    /// # Errors
    /// The listener is not usable.
    pub fn new(config: &Config, listener: TcpListener, parts: &Arc<Parts>) -> io::Result<(Arc<Self>, Ends)> {
        let address = listener.local_addr()?;
        let api = Api::new(config, Arc::clone(parts));
        let workers = config.http_workers;
        let other_threads = config.rules.outbox.senders + workers;
        let most_connections = most_connections(config.max_connections, config.max_observers, other_threads);
        let (slow, slow_end) = bounded(MOST_WAITING);
        let (streams, streams_end) = bounded(observer::MOST_CANDIDATES);
        let (doomed, doomed_end) = bounded(MOST_DOOMED);
        let (trouble, trouble_end) = bounded(1);
        let (crowd, crowd_end) = bounded(1);
        ACCEPT_GATE.ask_for_room(crowd);
        let pipeline = Arc::new(Pipeline::default());
        reading::keep_order(Arc::clone(&pipeline), Arc::clone(parts));
        let spent = trouble.clone();
        on_panic_of_others(move || {
            if accept::is_accept_loop() {
                // One call that waits is enough.
                let _ = spent.try_send(());
            }
        });
        // Now tiny_http may accept and read.
        let inner = listener.try_clone()?;
        ACCEPT_GATE.serve(&inner)?;
        let current = tiny_http::Server::from_listener(inner, None).map_err(io::Error::other)?;
        let server = Self {
            listener,
            address,
            api,
            workers,
            most_connections,
            current: RwLock::new(Arc::new(current)),
            former: Mutex::default(),
            pipeline,
            guard: Mutex::default(),
            closing: Closing::default(),
            slow,
            slow_peers: SlowPeers::default(),
            streams,
            doomed,
            trouble,
        };
        let ends = Ends {
            slow: slow_end,
            streams: streams_end,
            doomed: doomed_end,
            crowd: crowd_end,
            trouble: trouble_end,
        };
        Ok((Arc::new(server), ends))
    }

    /// Starts the server's threads. `refresh` is called when the process is to
    /// go on in a fresh image.
    ///
    /// # Errors
    /// The system has no threads left.
    pub fn start(
        self: &Arc<Self>,
        ends: Ends,
        threads: &mut Threads,
        refresh: impl Fn() + Send + 'static,
    ) -> io::Result<()> {
        for number in 0..self.workers {
            let server = Arc::clone(self);
            threads.spawn(&format!("http-{number}"), move || server.work())?;
        }
        let server = Arc::clone(self);
        threads.spawn("streams", move || server.open_streams(&ends.streams))?;
        for number in 0..SLOW_LANES {
            let (server, slow) = (Arc::clone(self), ends.slow.clone());
            threads.spawn(&format!("slow-{number}"), move || server.slow_lane(&slow))?;
        }
        let server = Arc::clone(self);
        threads.spawn("guard", move || server.guard(&ends.doomed, &ends.crowd, &refresh))?;
        let server = Arc::clone(self);
        threads.spawn("watch", move || server.watch(&ends.trouble))?;
        let server = Arc::clone(self);
        threads.spawn("former", move || server.drain_former())
    }

    /// The socket it listens on.
    pub const fn listener(&self) -> &TcpListener {
        &self.listener
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The most connections it keeps.
    pub const fn most_connections(&self) -> usize {
        self.most_connections
    }

    /// Looks at all connections, many times a second, until it is stopped.
    /// Calls `refresh` when more is leaked than can be borne, or more accept
    /// loops have ended: a connection that was closed and is still held keeps a
    /// thread and two descriptors until the process image ends.
    pub fn guard(&self, doomed: &Receiver<(u64, Closed)>, crowd: &Receiver<()>, refresh: &dyn Fn()) {
        let budget = (self.most_connections / 4).clamp(4, MOST_LEAKED);
        let (clock, mut looks, mut looked) = (self.api.parts.shared.clock(), 0_u32, Uptime::default());
        let mut due = Uptime::default();
        while !self.api.parts.stop.is_stopping() {
            select! {
                recv(doomed) -> first => {
                    self.close_all(&first.into_iter().chain(doomed.try_iter()).collect::<Vec<_>>());
                    self.api.parts.stop.wait(DOOM_PAUSE);
                }
                recv(crowd) -> _ => due = due.min(looked + CROWD_PAUSE),
                default(due.since(clock.uptime())) => {}
            }
            if clock.uptime() < due {
                continue;
            }
            looked = clock.uptime();
            due = looked + LOOK_EVERY;
            self.look();
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS_FOR_LEAKS) {
                let leaked = self.closing.leaked(clock.uptime());
                self.api.leaked.store(leaked, Ordering::Relaxed);
                let former = self.former.lock().unwrap_or_else(PoisonError::into_inner).len();
                if leaked > budget || former > MOST_FORMER {
                    log::info!("{leaked} connections are leaked and {former} accept loops were replaced");
                    refresh();
                }
            }
        }
    }

    /// Lets the workers end, after what they have in hand.
    pub fn stop(&self) {
        let current = self.current();
        (0..self.workers).for_each(|_| current.unblock());
        // The watch looks up too.
        let _ = self.trouble.try_send(());
    }

    /// Closes by rule, and lets in as many as there is room for.
    fn look(&self) {
        let accepted = ACCEPT_GATE.accepted();
        let waiting = ACCEPT_GATE.waiting();
        self.pipeline.begin_look();
        let connections = socket::connections(self.address.port());
        let mut pending = HashMap::with_capacity(connections.len());
        let mut traffic = Vec::with_capacity(connections.len());
        for connection in &connections {
            if let Some(mut seen) = connection.traffic() {
                pending.insert(connection.peer, seen.pending);
                let &socket::Connection { peer, cookie, .. } = connection;
                seen.watches = self.pipeline.is_stream(peer, cookie);
                let is_ours = waiting.contains(&cookie) || self.pipeline.is_our_turn(peer, cookie);
                seen.in_hand = is_ours && !seen.pending;
                traffic.push((connection.cookie, seen));
            }
        }
        // A peer that resets leaves a socket without a name. If it stays, the
        // thread behind it is blocked for ever.
        let orphans = socket::orphans(self.address.port());
        let held = connections.len() + orphans.len();
        let is_crowded = ACCEPT_GATE.set_room(self.most_connections.saturating_sub(held), accepted);
        // What has no peer takes up places too; who waits gets a quarter of all.
        let most = if is_crowded { self.most_connections / 4 * 3 } else { self.most_connections };
        let most = most.saturating_sub(orphans.len());
        let now = self.api.parts.shared.clock().now().tick;
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let close = guard.look(now, &traffic, most);
        drop(guard);
        self.pipeline.look(&pending);
        // While nobody is let in, who waits to be read is not let go of either.
        for cookie in orphans.into_iter().filter(|_| ACCEPT_GATE.is_open()) {
            self.closing.note(cookie, self.api.parts.shared.clock().uptime());
        }
        self.api.connections.store(connections.len(), Ordering::Relaxed);
        let (uptime, others_wait) = (self.api.parts.shared.clock().uptime(), !self.slow.is_empty());
        for connection in &connections {
            if self.slow_peers.is_over(connection.peer, uptime, others_wait) {
                self.close(connection, Closed::Stalled);
            }
        }
        // While nobody is let in, nobody is answered either.
        for (cookie, why) in close.into_iter().filter(|_| ACCEPT_GATE.is_open()) {
            if let Ok(at) = connections.binary_search_by_key(&cookie, |connection| connection.cookie) {
                self.close(&connections[at], why);
            }
        }
    }

    /// Closes these, all with one look at the descriptors.
    fn close_all(&self, doomed: &[(u64, Closed)]) {
        let connections = socket::connections(self.address.port());
        for &(cookie, why) in doomed {
            // One that is not found has gone by itself.
            if let Ok(at) = connections.binary_search_by_key(&cookie, |connection| connection.cookie) {
                self.close(&connections[at], why);
            }
        }
    }

    fn close(&self, connection: &socket::Connection, why: Closed) {
        // Who has had an answer should get it.
        connection.shut(matches!(why, Closed::Flood | Closed::Stalled));
        // What it has sent behind that is not asked any more.
        self.pipeline.end(connection.peer, connection.cookie);
        self.closing.note(connection.cookie, self.api.parts.shared.clock().uptime());
        self.api.parts.metrics.closed(why);
        log::debug!("closed the connection from {}: {}", connection.peer, why.as_str());
    }

    fn current(&self) -> Arc<tiny_http::Server> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What becomes of a client's bytes, for the fuzz targets.
#[cfg(fuzzing)]
pub fn frame(bytes: &[u8]) -> Option<usize> {
    framing::frame(bytes).ok().flatten()
}
