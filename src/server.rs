//! The HTTP server: tiny_http accepts and reads heads; our workers answer.
//!
//! Heartbeats and everything that is small are answered by the workers. Big
//! answers (`/agents`, `/metrics`) go to a lane of their own with a bounded
//! queue, so that no scraper delays a heartbeat.

mod agents;
mod answer;
mod api;
mod auth;
mod connection;
mod framing;
mod listener;
mod target;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use tiny_http::Request;

pub use api::Api;
pub use listener::bind;

use crate::metrics::{Closed, Refusal, Route};
use answer::Answer;
use framing::Body;
use target::Target;

/// Big answers that may wait for their lane; more are told to come back.
const MOST_WAITING: usize = 16;
/// Threads of the lane for big answers.
pub const REPORTERS: usize = 2;

/// A request for the lane of big answers.
pub struct Big {
    request: Request,
    target: Target,
    arrived: Duration,
}

/// The server, shared by its threads.
pub struct Server {
    inner: tiny_http::Server,
    address: SocketAddr,
    api: Api,
    big: Sender<Big>,
}

impl Server {
    /// Serves on a listener that is already bound. The receiver is for the
    /// threads that run [`report`](Self::report).
    ///
    /// # Errors
    /// The listener is not usable.
    pub fn new(listener: TcpListener, api: Api) -> io::Result<(Arc<Self>, Receiver<Big>)> {
        let address = listener.local_addr()?;
        let inner = tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)?;
        let (big, waiting) = bounded(MOST_WAITING);
        Ok((Arc::new(Self { inner, address, api, big }), waiting))
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until [`stop`](Self::stop).
    ///
    /// # Errors
    /// The port went deaf.
    pub fn work(&self) -> io::Result<()> {
        loop {
            match self.inner.recv() {
                Ok(request) => self.handle(request),
                Err(_) if self.api.shared.is_stopping() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives big answers until [`stop`](Self::stop).
    pub fn report(&self, waiting: &Receiver<Big>) {
        while !self.api.shared.is_stopping() {
            if let Ok(Big { request, target, arrived }) = waiting.recv_timeout(Duration::from_millis(100)) {
                let answer = self.api.answer(&target, request.headers(), &[]);
                self.send(request, answer, target.route(), arrived);
            }
        }
    }

    /// Lets `workers` threads end, after what they have in hand.
    pub fn stop(&self, workers: usize) {
        for _ in 0..workers {
            self.inner.unblock();
        }
    }

    fn handle(&self, mut request: Request) {
        let arrived = self.api.shared.clock().uptime();
        let target = Target::parse(request.method(), request.url());
        let route = target.route();
        let body = match framing::body(request.headers(), target.wants_body()) {
            Ok(Body::Buffered(length)) => framing::read(&mut request, length),
            Ok(Body::None) => Vec::new(),
            Err(refused) => {
                if route == Route::Heartbeat {
                    self.api.metrics.refusal(Refusal::Body);
                }
                let answer = refused.answer();
                if refused.leaves_body() {
                    self.api.metrics.closed(Closed::Body);
                    self.api.metrics.request(route, self.api.shared.clock().uptime().saturating_sub(arrived));
                    return connection::answer_and_close(request, &answer, self.address.port());
                }
                return self.send(request, answer, route, arrived);
            }
        };
        if !target.is_big() {
            let answer = self.api.answer(&target, request.headers(), &body);
            return self.send(request, answer, route, arrived);
        }
        if let Err(full) = self.big.try_send(Big { request, target, arrived }) {
            let answer = Answer::error(503, "Too many big answers are waiting, try again").retry_after(1);
            self.send(full.into_inner().request, answer, route, arrived);
        }
    }

    fn send(&self, request: Request, answer: Answer, route: Route, arrived: Duration) {
        // A client that has gone is not interested, and nobody else is.
        let _ = answer.send(request);
        self.api.metrics.request(route, self.api.shared.clock().uptime().saturating_sub(arrived));
    }
}
