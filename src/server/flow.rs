//! What becomes of a request: from tiny_http's queue to an answer, to another
//! lane, or to the end of its connection.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, select};
use tiny_http::Request;

use super::answer::{After, Answer};
use super::observer::Candidate;
use super::target::Target;
use super::{ACCEPT_GATE, Server};
use crate::metrics::{Closed, Refusal, Route};
use pap_core::fanout::Topic;
use pap_core::time::Uptime;

/// A client may take so long over a big answer.
const LONGEST: Duration = Duration::from_secs(30);
/// And so long where others wait for one.
const LONGEST_BEFORE_OTHERS: Duration = Duration::from_secs(3);
/// And so long while the image of the process changes and everybody waits,
const LONGEST_BEFORE_ALL: Duration = Duration::from_millis(250);
/// and so long where others wait for one even then.
const SHORTEST: Duration = Duration::from_millis(50);

/// Who is answering.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// A worker, who must not wait.
    Worker,
    /// The slow lane, who may.
    Slow,
}

/// A request for the slow lane.
pub struct Slow {
    request: Request,
    arrived: Uptime,
}

/// Who is being answered in the slow lanes, and since when.
#[derive(Default)]
pub(super) struct SlowPeers(Mutex<HashMap<SocketAddr, Uptime>>);

impl SlowPeers {
    fn begin(&self, peer: SocketAddr, now: Uptime) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, now);
    }

    fn end(&self, peer: SocketAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&peer);
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether `peer` keeps a lane busy for longer than it may.
    pub(super) fn is_over(&self, peer: SocketAddr, now: Uptime, others_wait: bool) -> bool {
        let longest = match (ACCEPT_GATE.is_open(), others_wait) {
            (false, true) => SHORTEST,
            (false, false) => LONGEST_BEFORE_ALL,
            (true, true) => LONGEST_BEFORE_OTHERS,
            (true, false) => LONGEST,
        };
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.get(&peer).is_some_and(|&since| now.since(since) > longest)
    }
}

impl Server {
    /// Answers requests until it is stopped.
    pub fn work(&self) {
        while !self.api.parts.stop.is_stopping() {
            match self.current().recv() {
                Ok(request) => self.begin(request),
                // The accept loop ended, and one call for the watch is enough;
                // or it was replaced, or we are to stop.
                Err(error) if error.raw_os_error().is_some() => {
                    let _ = self.trouble.try_send(());
                }
                Err(_) => {}
            }
        }
        // What has arrived is answered.
        while let Ok(Some(request)) = self.current().try_recv() {
            self.begin(request);
        }
        // The look for what has arrived may have taken another worker's call.
        self.current().unblock();
    }

    /// Gives the answers that may have to wait, until it is stopped.
    pub fn slow_lane(&self, waiting: &Receiver<Slow>) {
        loop {
            let next = select! {
                recv(waiting) -> next => next.ok(),
                // What still waits at the end is answered too.
                recv(self.api.parts.stop.receiver()) -> _ => match waiting.try_recv() {
                    Ok(next) => Some(next),
                    Err(_) => return,
                },
            };
            if let Some(Slow { request, arrived }) = next {
                let peer = request.remote_addr().copied();
                if let Some(peer) = peer {
                    self.slow_peers.begin(peer, self.api.parts.shared.clock().uptime());
                }
                self.take(request, Lane::Slow, arrived);
                if let Some(peer) = peer {
                    self.slow_peers.end(peer);
                }
            }
        }
    }

    /// Takes a request that has just arrived.
    pub(super) fn begin(&self, request: Request) {
        if let Some(&peer) = request.remote_addr() {
            self.pipeline.admit(peer);
        }
        self.take(request, Lane::Worker, self.api.parts.shared.clock().uptime());
    }

    /// Answers a request, or hands it to another lane.
    fn take(&self, mut request: Request, lane: Lane, arrived: Uptime) {
        let Some(&peer) = request.remote_addr() else { return let_go(request) };
        let target = Target::parse(request.method(), request.url());
        if matches!(target, Target::Observe(_)) && self.pipeline.may_block(peer) {
            // Whoever opens streams must not wait for it either.
            let_go(request);
            return self.doom(peer, Closed::Flood);
        }
        if lane == Lane::Worker && (target.is_big() || self.pipeline.may_block(peer)) {
            return match self.slow.try_send(Slow { request, arrived }) {
                // It has had answers that it did not take: one more might wait.
                Err(full) if self.pipeline.may_block(peer) => {
                    let_go(full.into_inner().request);
                    self.doom(peer, Closed::Flood);
                }
                Err(full) => self.send(full.into_inner().request, busy(), target.route(), arrived),
                Ok(()) => {}
            };
        }
        if let Target::Observe(topic @ (None | Some(Ok(_)))) = target {
            let topic = match topic {
                Some(Ok(id)) => Topic::One(id),
                _ => Topic::All,
            };
            if let Err(full) = self.streams.try_send(Candidate { request, topic, arrived }) {
                self.refuse_stream(full.into_inner().request, busy(), arrived);
            }
            return;
        }
        let length = request.body_length();
        let answer = if target.wants_body() && length.is_none() {
            self.api.parts.metrics.refusal(Refusal::Body);
            Answer::error(411, "A heartbeat needs a Content-Length")
        } else {
            let mut body = Vec::new();
            // So much has come, and it is short (see `framing`); behind an
            // upgrade tiny_http would read on. What a broken connection leaves
            // of it is no heartbeat.
            let _ = request.as_reader().take(length.unwrap_or(0) as u64).read_to_end(&mut body);
            self.api.answer(&target, request.headers(), &body)
        };
        self.send(request, answer, target.route(), arrived);
    }

    /// Answers, and takes note of it.
    pub(super) fn send(&self, request: Request, answer: Answer, route: Route, arrived: Uptime) {
        let (peer, length) = (request.remote_addr().copied(), answer.length());
        let sent = answer.send(request);
        self.api.parts.metrics.request(route, self.api.parts.shared.clock().uptime().since(arrived));
        let Some(peer) = peer else { return };
        match sent {
            Ok(After::Close) => self.doom(peer, Closed::Done),
            // It did not take the answer in time; half of one is none.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                self.doom(peer, Closed::Stalled);
            }
            // A fresh image must not wait for another request.
            Ok(After::Over) => drop(self.pipeline.end_of(peer)),
            // It stays, or it is gone.
            Ok(After::Open) | Err(_) => self.pipeline.done(peer, length),
        }
    }

    /// Leaves it to the guard to close the connection whose request is in hand.
    fn doom(&self, peer: SocketAddr, why: Closed) {
        if let Some(cookie) = self.pipeline.end_of(peer) {
            // If more of them wait than the guard can see to, the rules that
            // it goes by will find this one.
            let _ = self.doomed.try_send((cookie, why));
        }
    }

    /// Whether nobody is in a slow lane.
    pub(super) fn is_slow_lane_empty(&self) -> bool {
        self.slow.is_empty() && self.slow_peers.is_empty()
    }
}

/// Lets go of a request: one that is dropped as it is answers once more.
pub(super) fn let_go(request: Request) {
    drop(request.into_writer());
}

fn busy() -> Answer {
    Answer::error(503, "Too many requests of this kind are waiting, try again").retry_after(1)
}
