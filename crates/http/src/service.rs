//! What a program gives its server: the answers.

use std::net::TcpStream;

use pap_core::time::{Tick, Wall};
use serde::Serialize;

use crate::request::Request;
use crate::response::{After, JSON, Length, Response, write_head, write_whole};

/// Answers requests.
pub trait Service: Send + Sync + 'static {
    /// What `Server` says in every answer.
    const NAME: &'static str;

    /// The longest body of a request that is taken, in bytes of content.
    const MAX_BODY: usize;

    /// How many lanes there are: threads that give the answers which may be big or have
    /// to be waited for.
    const LANES: usize;

    /// How many requests may wait for a lane; further ones get 503 with `Retry-After`.
    const MAX_WAITING: usize;

    /// Answers a request on the thread of the event loop, or says who does. It must not wait:
    /// all other connections of the loop wait for it.
    fn call(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Next;

    /// The present moment in awake time, by which time-outs are judged.
    fn now(&self) -> Tick;

    /// The wall clock, for `Date`.
    fn wall(&self) -> Wall;

    /// Called when a request was not taken; its connection ends.
    fn refused(&self, why: crate::parse::Refused);

    /// Called when the server has closed a connection.
    fn closed(&self, why: Closed);
}

/// Who answers a request.
pub enum Next {
    /// It is answered: the reply was sent.
    Answered,
    /// A lane answers: the answer may be big, or has to be waited for.
    Lane(Box<dyn FnOnce() -> Response + Send>),
    /// A thread of its own answers, and gets the connection.
    Stream(Box<dyn FnOnce(Upgraded) + Send>),
}

/// A connection that has become something other than HTTP.
#[derive(Debug)]
pub struct Upgraded {
    /// The connection; it does not block. We have sent nothing on it yet.
    pub socket: TcpStream,
    /// What was read from it after the request.
    pub read: Vec<u8>,
}

/// Why the server closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// A request was not taken.
    Refused,
    /// The answer said so, because the client or we wanted it.
    Done,
    /// Too long without a request.
    Idle,
    /// A request did not arrive, or an answer was not taken.
    Stalled,
    /// It gave way to another connection.
    Surplus,
    /// The program stops.
    Stopping,
}

/// How many connections are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States {
    /// All of them.
    pub open: usize,
    /// With an unfinished request.
    pub reading: usize,
    /// In a lane, or waiting for one.
    pub answering: usize,
    /// With a client that does not take its answers.
    pub held_back: usize,
}

/// Where an answer goes that is given in the loop.
pub struct Reply<'a> {
    pub(crate) out: &'a mut Vec<u8>,
    pub(crate) scratch: &'a mut Vec<u8>,
    pub(crate) stamp: &'a str,
    pub(crate) after: After,
    pub(crate) is_head: bool,
    pub(crate) is_sent: bool,
}

impl Reply<'_> {
    /// Sends an answer.
    pub fn send(&mut self, response: &Response) {
        debug_assert!(!self.is_sent, "a request has one answer");
        write_whole(self.out, response, self.stamp, self.after, self.is_head);
        self.is_sent = true;
    }

    /// Sends JSON, without allocating.
    pub fn json(&mut self, status: u16, body: &impl Serialize) {
        debug_assert!(!self.is_sent, "a request has one answer");
        self.scratch.clear();
        let written = serde_json::to_writer(&mut *self.scratch, body);
        debug_assert!(written.is_ok(), "what is answered has text keys and finite numbers");
        let length = Length::Known(self.scratch.len());
        write_head(self.out, (status, JSON), self.stamp, (length, self.after), std::iter::empty());
        if !self.is_head {
            self.out.extend_from_slice(self.scratch);
        }
        self.is_sent = true;
    }
}
