//! Ending a connection whose request has a body that nobody reads.
//!
//! To drop such a request is to wait for the body, or to ask for as much
//! memory as its length says. So the answer is written past tiny_http, the
//! connection is shut, and only then is the request dropped, or leaked where
//! even that would cost too much.

use std::collections::HashMap;
use std::mem;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tiny_http::Request;

use super::answer::Answer;
use super::socket::{Connection, still_open};
use crate::metrics::Closed;

/// Dropping a request allocates as much as is left of its body. Beyond this
/// the request is leaked instead, with its connection's thread.
const MOST_DROPPED: usize = 64 * 1024;
/// Whoever waits on a connection learns at once that it was shut; to let go of
/// it takes a moment. Until it is over, what is leaked takes places from those
/// who wait outside.
const RELEASE: Duration = Duration::from_millis(250);

/// A connection that is to be ended.
pub struct Doomed {
    /// Its other end.
    pub peer: SocketAddr,
    /// Why it is ended.
    pub why: Closed,
    /// A request that nobody reads, and what to answer it.
    pub refused: Option<Box<(Request, Answer)>>,
}

impl Doomed {
    /// Answers past tiny_http, if there is an answer and room for it in the
    /// connection's buffer.
    pub fn answer(&self, connection: &Connection) {
        let stream = self.refused.as_ref().and_then(|refused| Some((&refused.1, connection.stream()?)));
        if let Some((answer, stream)) = stream {
            // The peer may be gone; then nobody waits for the answer.
            let _ = SockRef::from(&stream).send_with_flags(&answer.to_bytes(), libc::MSG_DONTWAIT);
        }
    }

    /// Lets go of the request, now that its connection is shut or gone.
    pub fn dispose(self) {
        if let Some((request, _)) = self.refused.map(|refused| *refused) {
            dispose(request);
        }
    }
}

/// Gets rid of a request whose connection is shut or gone.
pub fn dispose(request: Request) {
    // Where the connection is not found it is gone already, and to read from
    // it takes no time either.
    if request.body_length().is_none_or(|unread| unread <= MOST_DROPPED) {
        // A request that is dropped as it is answers once more.
        drop(request.into_writer());
    } else {
        mem::forget(request);
    }
}

/// The connections that we closed and that may still be held.
#[derive(Default)]
pub struct Closing {
    noted: Mutex<HashMap<u64, Duration>>,
    given_up: AtomicUsize,
}

impl Closing {
    /// Takes note that the connection with this cookie was closed.
    pub fn note(&self, cookie: u64, now: Duration) {
        self.lock().entry(cookie).or_insert(now);
    }

    /// Counts a request that was given up as it was.
    pub fn leak(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    /// How many are held for longer than they should be: they are leaked.
    pub fn leaked(&self, now: Duration) -> usize {
        let noted = self.lock().clone();
        if noted.is_empty() {
            return self.given_up.load(Ordering::Relaxed);
        }
        let open = still_open(&|cookie| noted.contains_key(&cookie));
        // One that was noted since the copy was made is not to be forgotten.
        self.lock().retain(|cookie, _| !noted.contains_key(cookie) || open.binary_search(cookie).is_ok());
        self.given_up.load(Ordering::Relaxed)
            + open
                .iter()
                .filter(|cookie| noted.get(cookie).is_some_and(|&at| now.saturating_sub(at) > RELEASE))
                .count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Duration>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
