//! What becomes of a request: from tiny_http's queue to an answer, to another
//! lane, or to the end of its connection.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::Receiver;
use tiny_http::Request;

use super::Server;
use super::answer::{After, Answer};
use super::bodies::Late;
use super::closing::{self, Doomed};
use super::framing::{self, Body};
use super::observer::Candidate;
use super::pipeline::Admitted;
use super::target::Target;
use crate::fanout::Subject;
use crate::metrics::{Closed, Refusal, Route};

/// A client may take so long over a big answer.
const LONGEST: Duration = Duration::from_secs(30);
/// And so long where others wait for one.
const LONGEST_BEFORE_OTHERS: Duration = Duration::from_secs(3);

/// Who is answering.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// A worker, who must not wait.
    Worker,
    /// The slow lane, who may.
    Slow,
    /// Who waits for bodies.
    Body,
    /// Who opens streams.
    Stream,
}

/// A request for the slow lane.
pub struct Slow {
    request: Request,
    arrived: Duration,
}

/// Who is being answered in the slow lanes, and since when.
#[derive(Default)]
pub(super) struct SlowPeers(Mutex<HashMap<SocketAddr, Duration>>);

impl SlowPeers {
    fn begin(&self, peer: SocketAddr, now: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, now);
    }

    fn end(&self, peer: SocketAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&peer);
    }

    /// Whether `peer` keeps a lane busy for longer than it may.
    pub(super) fn is_over(&self, peer: SocketAddr, now: Duration, others_wait: bool) -> bool {
        let longest = if others_wait { LONGEST_BEFORE_OTHERS } else { LONGEST };
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.get(&peer).is_some_and(|&since| now.saturating_sub(since) > longest)
    }
}

impl Server {
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
                let peer = request.remote_addr().copied();
                if let Some(peer) = peer {
                    self.slow_peers.begin(peer, self.api.shared.clock().uptime());
                }
                self.take(request, Lane::Slow, arrived);
                if let Some(peer) = peer {
                    self.slow_peers.end(peer);
                }
            }
        }
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

    pub(super) fn handle(&self, admitted: Admitted) {
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
    pub(super) fn done(&self, peer: SocketAddr, lane: Lane) {
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
    pub(super) fn take(&self, mut request: Request, lane: Lane, arrived: Duration) {
        let Some(&peer) = request.remote_addr() else { return closing::dispose(request) };
        let target = Target::parse(request.method(), request.url());
        let route = target.route();
        let framing = framing::body(request.headers(), target.wants_body());
        let may_block = self.pipeline.may_block(peer);
        if (target.is_big() || may_block) && lane == Lane::Worker {
            let is_read = matches!(framing, Ok(Body::None | Body::Buffered(_)));
            if self.slow.is_full() && !may_block && is_read {
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
            Ok(Body::None) if matches!(target, Target::Observe(None | Some(Ok(_)))) => {
                let subject = match target {
                    Target::Observe(Some(Ok(id))) => Subject::One(id),
                    _ => Subject::All,
                };
                if let Err(full) = self.streams.try_send(Candidate { request, subject, arrived }) {
                    self.refuse_stream(full.into_inner().request, busy(), arrived);
                }
                return;
            }
            Ok(Body::Unbuffered(length)) => {
                self.pipeline.await_client(peer);
                if let Err(full) = self.late.try_send(Box::new(Late::new(request, length, arrived))) {
                    self.refuse(full.into_inner().request, busy(), route, arrived, Closed::Flood);
                }
                return;
            }
            Ok(body) => {
                let body = framing::read(&mut request, body);
                let answer = self.api.answer(&target, request.headers(), &body);
                self.send(request, answer, route, arrived);
            }
        }
        self.done(peer, lane);
    }

    /// Leaves it to the guard to answer and to close, as what follows on the
    /// connection is not known.
    pub(super) fn refuse(
        &self,
        request: Request,
        answer: Answer,
        route: Route,
        arrived: Duration,
        why: Closed,
    ) {
        self.api.metrics.request(route, self.api.shared.clock().uptime().saturating_sub(arrived));
        let Some(&peer) = request.remote_addr() else { return closing::dispose(request) };
        self.doom(Doomed { peer, why, refused: Some(Box::new((request, answer))) });
    }

    pub(super) fn send(&self, request: Request, answer: Answer, route: Route, arrived: Duration) {
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

    pub(super) fn doom(&self, doomed: Doomed) {
        if let Err(full) = self.doomed.try_send(Box::new(doomed)) {
            // More bad requests than the guard can see to. To drop this one
            // may mean to wait for its client.
            let Doomed { peer, refused, .. } = *full.into_inner();
            if let Some((request, _)) = refused.map(|refused| *refused) {
                self.discard(request);
                self.pipeline.give_up(peer).into_iter().for_each(|request| self.discard(request));
            }
        }
    }

    /// Gets rid of a request whose connection is still open, without waiting.
    pub(super) fn discard(&self, request: Request) {
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
    Answer::error(503, "Too many requests of this kind are waiting, try again").retry_after(1)
}
