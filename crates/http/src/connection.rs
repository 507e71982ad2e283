//! One connection, without its socket: bytes in, answers out, in their order.

use std::net::IpAddr;
use std::time::Duration;

use pap_core::time::Tick;

use crate::parse::{Parsed, Refused, Room, parse};
use crate::request::Version;
use crate::response::{After, Response, write_whole};
use crate::service::{Next, Reply, Service, Upgraded};

/// Answers are sent before more requests are answered from here on, in bytes.
const MOST_UNSENT: usize = 64 * 1024;
/// The interim answer (RFC 9110 §15.2.1).
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What a connection keeps between two of its turns. While it is idle it keeps
/// nothing.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
pub struct Connection {
    /// What was read and is not answered: a part of a request, or requests that wait until
    /// earlier answers are sent.
    pub input: Vec<u8>,
    /// What was answered and is not sent.
    pub output: Vec<u8>,
    /// When the first byte of the unfinished request came.
    pub request_since: Option<Tick>,
    /// A whole request was read from it.
    pub has_asked: bool,
    /// Why no request of it is answered any more; it is closed when all is sent.
    pub ending: Option<Ending>,
    /// It ends while bytes of the client are unread or on their way. We read and drop them for
    /// a moment; else the kernel would send a reset, and the client might lose the answer
    /// (RFC 9112 §9.6).
    pub lingers: bool,
    /// The client has sent all that it will.
    pub is_read_closed: bool,
    /// The client of the unfinished request got a 100.
    said_continue: bool,
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A request was not taken.
    Refused,
    /// An answer said so.
    Said,
    /// The client has sent all that it will.
    ByClient,
}

/// What a hand-over says of a connection, besides its socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
pub struct Carried {
    /// What was read and is not answered.
    pub input: Vec<u8>,
    /// What was answered and is not sent.
    pub output: Vec<u8>,
    /// How long ago the first byte of its unfinished request came.
    pub request_age: Option<Duration>,
    /// How long ago it was opened, or last answered.
    pub idle_age: Duration,
    /// For how long the client has not taken all of its answers.
    pub unsent_age: Option<Duration>,
    /// A whole request was read from it.
    pub has_asked: bool,
    /// The client of its unfinished request got a 100.
    pub said_continue: bool,
    /// It ends when all is sent,
    pub is_ending: bool,
    /// and the client may still be sending then.
    pub lingers: bool,
}

impl Connection {
    /// A connection that the former program has handed over.
    pub fn handed_over(carried: Carried, now: Tick) -> Self {
        let Carried { input, output, has_asked, said_continue, lingers, .. } = carried;
        let request_since = carried.request_age.map(|age| now - age);
        let ending = carried.is_ending.then_some(Ending::Said);
        Self { input, output, request_since, has_asked, ending, lingers, said_continue, ..Self::default() }
    }

    /// What the next program needs to know of it.
    pub fn carried(&self, now: Tick) -> Carried {
        Carried {
            input: self.input.clone(),
            output: self.output.clone(),
            request_age: self.request_since.map(|since| now.since(since)),
            has_asked: self.has_asked,
            said_continue: self.said_continue,
            is_ending: self.ending.is_some(),
            lingers: self.lingers,
            ..Carried::default()
        }
    }
}

/// What is to be done after bytes of a connection were looked at.
pub enum Step {
    /// All whole requests are answered.
    Waiting,
    /// There are answers to be sent before more requests are answered.
    Full,
    /// A lane gives the next answer.
    Lane(LaneJob),
    /// A thread of its own takes over; if none can be started, the client gets an answer.
    Stream(Box<dyn FnOnce(Upgraded) + Send>, Answering),
}

/// What an answer needs to know of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answering {
    /// What the connection does after it.
    pub after: After,
    /// The client wants only the head.
    pub is_head: bool,
    /// The client's version.
    pub version: Version,
}

/// An answer that a lane is to give.
pub struct LaneJob {
    /// Makes the answer.
    pub work: Box<dyn FnOnce() -> Response + Send>,
    /// What it needs to know of its request.
    pub answering: Answering,
}

/// What an event loop lends to its connections, one after the other.
pub struct Desk<'a, S> {
    /// Who answers.
    pub service: &'a S,
    /// The lines that all heads of this second share.
    pub stamp: &'a str,
    /// Where answers go.
    pub out: &'a mut Vec<u8>,
    /// For the body of a request that comes in chunks.
    pub body: &'a mut [u8],
    /// For bodies of answers whose length is not known yet.
    pub scratch: &'a mut Vec<u8>,
    /// Connections are to end after their next answer.
    pub says_close: bool,
    /// The present moment.
    pub now: Tick,
    /// Who is at the other end of this connection.
    pub peer: Option<IpAddr>,
}

impl Connection {
    /// Answers the whole requests in `bytes`, which begin with what was kept as
    /// [`input`](Self::input). Returns how many of the bytes are done with.
    pub fn take_in<S: Service>(&mut self, bytes: &[u8], desk: &mut Desk<'_, S>) -> (usize, Step) {
        let mut done = 0;
        while self.ending.is_none() {
            if desk.out.len() >= MOST_UNSENT {
                return (done, Step::Full);
            }
            let rest = &bytes[done..];
            if rest.is_empty() {
                break;
            }
            let mut room = Room::new(&mut *desk.body);
            match parse(rest, &mut room) {
                Parsed::Partial { wants_continue } => {
                    if wants_continue && !self.said_continue {
                        self.said_continue = true;
                        desk.out.extend_from_slice(CONTINUE);
                    }
                    break;
                }
                Parsed::Refused(why) => self.refuse(why, desk),
                Parsed::Whole { mut request, length, persists } => {
                    request.peer = desk.peer;
                    done += length;
                    (self.has_asked, self.said_continue, self.request_since) = (true, false, None);
                    let after = match (persists && !desk.says_close, request.version) {
                        (false, _) => After::Close,
                        (true, Version::Http11) => After::Open,
                        (true, Version::Http10) => After::KeepAlive,
                    };
                    let answering = Answering { after, is_head: request.is_head(), version: request.version };
                    let mut reply = Reply {
                        out: desk.out,
                        scratch: desk.scratch,
                        stamp: desk.stamp,
                        after,
                        is_head: answering.is_head,
                        is_sent: false,
                    };
                    let next = desk.service.call(&request, &mut reply);
                    debug_assert_eq!(
                        reply.is_sent,
                        matches!(next, Next::Answered),
                        "one answer for a request"
                    );
                    match next {
                        Next::Answered => self.answered(after, done < bytes.len()),
                        Next::Lane(work) => return (done, Step::Lane(LaneJob { work, answering })),
                        Next::Stream(run) => return (done, Step::Stream(run, answering)),
                    }
                }
            }
        }
        if self.ending.is_some() {
            // What follows the last answer is never answered.
            done = bytes.len();
        } else if done < bytes.len() {
            self.request_since.get_or_insert(desk.now);
        }
        if self.is_read_closed {
            self.ending.get_or_insert(Ending::ByClient);
        }
        (done, Step::Waiting)
    }

    /// Takes note that an answer was given; `has_more` if more bytes of the client follow
    /// its request.
    pub fn answered(&mut self, after: After, has_more: bool) {
        if after == After::Close {
            (self.ending, self.lingers) = (Some(Ending::Said), has_more);
        }
    }

    /// Answers a request that is not taken.
    pub fn refuse<S: Service>(&mut self, why: Refused, desk: &mut Desk<'_, S>) {
        desk.service.refused(why);
        write_whole(desk.out, &Response::refusal(why), desk.stamp, After::Close, false);
        (self.ending, self.lingers, self.request_since) = (Some(Ending::Refused), true, None);
    }
}
