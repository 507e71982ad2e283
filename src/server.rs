//! The HTTP server: tiny_http accepts and reads heads; our workers answer.
//!
//! No worker ever waits for a client: bodies that are not in memory are
//! refused, a connection has one answer in hand at a time, and whatever may be
//! big or may have to wait goes to a slow lane with a bounded queue.

mod accept;
mod agents;
mod answer;
mod api;
mod auth;
mod closing;
mod framing;
mod guard;
mod leave;
mod limits;
mod listener;
mod pipeline;
pub(crate) mod socket;
mod target;
mod watch;

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use tiny_http::Request;

pub use accept::DOOR;
pub use api::Api;
pub use limits::{most_connections, raise_descriptor_limit};
pub use listener::{adopt, bind};

use crate::metrics::{Closed, Refusal, Route};
use crate::panics::on_end_of_accept_loop;
use answer::{After, Answer};
use closing::{Closing, Doomed};
use framing::Body;
use guard::Guard;
use pipeline::{Admitted, Pipeline};
use target::Target;

/// Requests that may wait for the slow lane; more are told to come back.
const MOST_WAITING: usize = 32;
/// Threads of the slow lane.
pub const SLOW_LANES: usize = 2;
/// How long the slow lane waits for a body that comes with an upgrade.
const BODY_WAIT: Duration = Duration::from_secs(1);
/// How often the guard looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between two looks while somebody waits for room.
const CROWD_PAUSE: Duration = Duration::from_millis(3);
/// Between two looks for those that are doomed.
const DOOM_PAUSE: Duration = Duration::from_millis(2);
/// Connections that may wait to be ended.
const MOST_DOOMED: usize = 4096;
/// Every so many looks it looks for leaks too.
const LOOKS_FOR_LEAKS: u32 = 5;
/// Leaked connections beyond which the process goes on in a fresh image.
const MOST_LEAKED: usize = 256;
/// Ended accept loops beyond which it does so too.
const MOST_FORMER: usize = 64;

/// Who is answering.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// A worker, who must not wait.
    Worker,
    /// The slow lane, who may.
    Slow,
}

/// A request for the slow lane.
pub struct Slow {
    request: Request,
    arrived: Duration,
}

/// The server, shared by its threads.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    api: Api,
    workers: usize,
    most_connections: usize,
    current: RwLock<Arc<tiny_http::Server>>,
    /// Those whose accept loop ended; their connections live on.
    former: Mutex<Vec<watch::Former>>,
    pipeline: Pipeline,
    /// Whose turn it is to take a request.
    turn: Mutex<()>,
    guard: Mutex<Guard>,
    closing: Closing,
    slow: Sender<Slow>,
    doomed: Sender<Doomed>,
    trouble: Sender<()>,
}

/// The ends of the server's channels, for its threads.
pub struct Ends {
    /// For [`Server::slow_lane`].
    pub slow: Receiver<Slow>,
    /// For [`Server::guard`].
    pub doomed: Receiver<Doomed>,
    /// For [`Server::guard`] too.
    pub crowd: Receiver<()>,
    /// For [`Server::watch`].
    pub trouble: Receiver<()>,
}

impl Server {
    /// Serves on a listener that is already bound.
    ///
    /// # Errors
    /// The listener is not usable.
    pub fn new(
        listener: TcpListener,
        api: Api,
        workers: usize,
        most_connections: usize,
    ) -> io::Result<(Arc<Self>, Ends)> {
        let address = listener.local_addr()?;
        let inner = listener.try_clone()?;
        DOOR.serve(&inner)?;
        let current = tiny_http::Server::from_listener(inner, None).map_err(io::Error::other)?;
        let (slow, slow_end) = bounded(MOST_WAITING);
        let (doomed, doomed_end) = bounded(MOST_DOOMED);
        let (trouble, trouble_end) = bounded(1);
        let (crowd, crowd_end) = bounded(1);
        DOOR.ask_for_room(crowd);
        let spent = trouble.clone();
        on_end_of_accept_loop(move || {
            // One call that waits is enough.
            let _ = spent.try_send(());
        });
        let server = Self {
            listener,
            address,
            api,
            workers,
            most_connections,
            current: RwLock::new(Arc::new(current)),
            former: Mutex::default(),
            pipeline: Pipeline::default(),
            turn: Mutex::default(),
            guard: Mutex::default(),
            closing: Closing::default(),
            slow,
            doomed,
            trouble,
        };
        let ends = Ends { slow: slow_end, doomed: doomed_end, crowd: crowd_end, trouble: trouble_end };
        Ok((Arc::new(server), ends))
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

    /// Answers requests until it is stopped.
    pub fn work(&self) {
        while !self.api.shared.is_stopping() {
            let admitted = self.receive();
            if let Some(admitted) = admitted {
                self.handle(admitted);
            }
            // Those of a connection that sends many at once take turns with
            // everybody's first.
            if let Some(request) = self.pipeline.next() {
                self.take(request, Lane::Worker, self.api.shared.clock().uptime());
            }
        }
        // What has arrived is answered.
        while let Some(admitted) = self.take_arrived() {
            self.handle(admitted);
        }
        while let Some(request) = self.pipeline.next() {
            self.take(request, Lane::Worker, self.api.shared.clock().uptime());
        }
        // The look for what has arrived may have taken another worker's call.
        self.current().unblock();
    }

    /// Gives the answers that may have to wait, until it is stopped.
    pub fn slow_lane(&self, waiting: &Receiver<Slow>) {
        // What still waits at the end is answered too.
        while !self.api.shared.is_stopping() || !waiting.is_empty() {
            if let Ok(Slow { request, arrived }) = waiting.recv_timeout(Duration::from_millis(100)) {
                self.take(request, Lane::Slow, arrived);
            }
        }
    }

    /// Looks at all connections, many times a second, until it is stopped.
    /// Calls `refresh` when more is leaked than can be borne: a connection
    /// that was closed and is still held keeps a thread and two descriptors
    /// until the process image ends.
    pub fn guard(&self, doomed: &Receiver<Doomed>, crowd: &Receiver<()>, refresh: &dyn Fn()) {
        let budget = (self.most_connections / 4).clamp(4, MOST_LEAKED);
        let (clock, mut looks, mut looked) = (self.api.shared.clock(), 0_u32, Duration::ZERO);
        let mut due = Duration::ZERO;
        while !self.api.shared.is_stopping() {
            select! {
                recv(doomed) -> first => {
                    self.end_doomed(first.into_iter().chain(doomed.try_iter()).collect());
                    self.api.shared.pause(DOOM_PAUSE);
                }
                recv(crowd) -> _ => due = due.min(looked + CROWD_PAUSE),
                default(due.saturating_sub(clock.uptime())) => {}
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
        let accepted = DOOR.accepted();
        let connections = socket::connections(self.address.port());
        let mut pending = HashSet::new();
        let mut traffic = Vec::with_capacity(connections.len());
        for connection in &connections {
            if let Some(mut seen) = connection.traffic() {
                if seen.pending {
                    pending.insert(connection.peer);
                }
                let is_unread = seen.received > 0 && seen.unread == seen.received;
                seen.in_hand = !seen.pending && (is_unread || self.pipeline.is_busy(connection.peer));
                traffic.push((connection.cookie, seen));
            }
        }
        // A peer that resets leaves a socket without a name. If it stays, the
        // thread behind it is blocked for ever.
        let orphans = socket::orphans(self.address.port());
        let held = connections.len() + orphans.len();
        let is_crowded = DOOR.set_room(self.most_connections.saturating_sub(held), accepted);
        // What has no peer takes up places too; who waits gets a quarter of all.
        let most = self.most_connections.saturating_sub(orphans.len());
        let wanted = if is_crowded { most.saturating_sub(self.most_connections / 4) } else { most };
        let now = self.api.shared.clock().now().tick;
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let close = guard.look(now, &traffic, most, wanted);
        drop(guard);
        self.pipeline.look(&pending);
        for cookie in orphans {
            self.closing.note(cookie, self.api.shared.clock().uptime());
        }
        self.api.connections.store(connections.len(), Ordering::Relaxed);
        for (cookie, why) in close {
            if let Ok(at) = connections.binary_search_by_key(&cookie, |connection| connection.cookie) {
                self.close(&connections[at], why);
            }
        }
    }

    /// Answers and closes those that are doomed, all with one look at the
    /// descriptors.
    fn end_doomed(&self, all: Vec<Doomed>) {
        let connections = socket::connections(self.address.port());
        let by_peer: HashMap<SocketAddr, &socket::Connection> =
            connections.iter().map(|connection| (connection.peer, connection)).collect();
        for doomed in all {
            let (peer, refused) = (doomed.peer, doomed.refused.is_some());
            // One that is not found has gone by itself.
            if let Some(connection) = by_peer.get(&peer) {
                doomed.answer(connection);
                self.close(connection, doomed.why);
            }
            doomed.dispose();
            // What was sent after it goes the same way.
            if refused {
                self.pipeline.give_up(peer).into_iter().for_each(closing::dispose);
            }
        }
    }

    fn close(&self, connection: &socket::Connection, why: Closed) {
        // Who is refused with an answer should get it.
        connection.shut(matches!(why, Closed::Flood | Closed::Stalled));
        self.closing.note(connection.cookie, self.api.shared.clock().uptime());
        self.api.metrics.closed(why);
        log::debug!("closed the connection from {}: {}", connection.peer, why.as_str());
    }

    fn current(&self) -> Arc<tiny_http::Server> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for a request, unless there is something to do, and admits it.
    fn receive(&self) -> Option<Admitted> {
        // One worker at a time takes a request and admits it: two that took two
        // of one connection could admit them in the wrong order.
        let (_turn, request) = if self.pipeline.has_next() {
            // Who holds the turn may be waiting.
            let turn = self.turn.try_lock().ok()?;
            (turn, self.current().try_recv().transpose()?)
        } else {
            let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            (turn, self.current().recv())
        };
        match request {
            Ok(request) => Some(self.pipeline.admit(request)),
            Err(error) => {
                // The accept loop ended, and one call for the watch is enough;
                // or it was replaced, or there is something else to do.
                if error.raw_os_error().is_some() {
                    let _ = self.trouble.try_send(());
                }
                None
            }
        }
    }

    /// Takes a request that is there already, and admits it.
    fn take_arrived(&self) -> Option<Admitted> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.current().try_recv().ok().flatten().map(|request| self.pipeline.admit(request))
    }

    fn handle(&self, admitted: Admitted) {
        match admitted {
            Admitted::Now(request) => self.take(request, Lane::Worker, self.api.shared.clock().uptime()),
            Admitted::Later => {}
            Admitted::TooMany(request, is_first) => {
                if let Some(&peer) = request.remote_addr().filter(|_| is_first) {
                    self.doom(Doomed { peer, why: Closed::Flood, refused: None });
                }
                self.discard(request);
            }
        }
    }

    /// Takes note that a request of `peer` was answered.
    fn done(&self, peer: SocketAddr, lane: Lane) {
        if self.pipeline.done(peer) && lane != Lane::Worker {
            // All workers may be waiting; this one comes back by itself.
            self.current().unblock();
        }
    }

    /// Queues a request whose turn it is for the slow lane, or refuses it.
    fn hand_to_slow_lane(&self, request: Request, arrived: Duration) {
        if let Err(full) = self.slow.try_send(Slow { request, arrived }) {
            self.refuse(full.into_inner().request, busy(), Route::Other, arrived, Closed::Flood);
        }
    }

    /// Answers a request whose turn it is, or hands it to the slow lane.
    fn take(&self, mut request: Request, lane: Lane, arrived: Duration) {
        let Some(&peer) = request.remote_addr() else { return closing::dispose(request) };
        let target = Target::parse(request.method(), request.url());
        let route = target.route();
        let framing = framing::body(request.headers(), target.wants_body());
        let waits =
            target.is_big() || matches!(framing, Ok(Body::Unbuffered(_))) || self.pipeline.may_block(peer);
        if waits && lane == Lane::Worker {
            if self.slow.is_full() && target.is_big() && !self.pipeline.may_block(peer) {
                // There is no room to wait in, but this answer needs none.
                self.send(request, busy(), route, arrived);
                return self.done(peer, lane);
            }
            return self.hand_to_slow_lane(request, arrived);
        }
        match framing {
            Err(refused) => {
                if route == Route::Heartbeat {
                    self.api.metrics.refusal(Refusal::Body);
                }
                if refused.leaves_body() {
                    return self.refuse(request, refused.answer(), route, arrived, Closed::Body);
                }
                self.send(request, refused.answer(), route, arrived);
            }
            Ok(body) => {
                if let Body::Unbuffered(_) = body {
                    let stream = socket::connection_from(peer, self.address.port())
                        .and_then(|connection| connection.stream());
                    // Without it the guard ends the wait, a little later.
                    stream.map(|stream| stream.set_read_timeout(Some(BODY_WAIT)));
                }
                let body = framing::read(&mut request, body);
                let answer = self.api.answer(&target, request.headers(), &body);
                self.send(request, answer, route, arrived);
            }
        }
        self.done(peer, lane);
    }

    /// Leaves it to the guard to answer and to close, as what follows on the
    /// connection is not known.
    fn refuse(&self, request: Request, answer: Answer, route: Route, arrived: Duration, why: Closed) {
        self.api.metrics.request(route, self.api.shared.clock().uptime().saturating_sub(arrived));
        let Some(&peer) = request.remote_addr() else { return closing::dispose(request) };
        self.doom(Doomed { peer, why, refused: Some((request, answer)) });
    }

    fn send(&self, request: Request, answer: Answer, route: Route, arrived: Duration) {
        let peer = request.remote_addr().copied();
        let why = match answer.send(request) {
            Ok(After::Close) => Some(Closed::Done),
            // It did not take the answer in time; half of one is none.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Some(Closed::Stalled)
            }
            // It stays, or it is gone, and its address may be another's by now.
            Ok(After::Open) | Err(_) => None,
        };
        if let (Some(peer), Some(why)) = (peer, why) {
            self.doom(Doomed { peer, why, refused: None });
        }
        self.api.metrics.request(route, self.api.shared.clock().uptime().saturating_sub(arrived));
    }

    fn doom(&self, doomed: Doomed) {
        if let Err(full) = self.doomed.try_send(doomed) {
            // More bad requests than the guard can see to. To drop this one
            // may mean to wait for its client.
            let Doomed { peer, refused, .. } = full.into_inner();
            if let Some((request, _)) = refused {
                self.discard(request);
                self.pipeline.give_up(peer).into_iter().for_each(|request| self.discard(request));
            }
        }
    }

    /// Gets rid of a request whose connection is still open, without waiting.
    fn discard(&self, request: Request) {
        let is_read = matches!(framing::body(request.headers(), false), Ok(Body::None | Body::Buffered(_)));
        if is_read || request.body_length().is_none_or(|length| length == 0) {
            drop(request.into_writer());
        } else {
            // To drop it would be to wait for the rest of its body.
            self.closing.leak();
            std::mem::forget(request);
        }
    }
}

fn busy() -> Answer {
    Answer::error(503, "Too many big answers are waiting, try again").retry_after(1)
}
