//! Ending a connection whose request has a body that nobody reads.
//!
//! To drop such a request is to wait for the body, or to ask for as much
//! memory as its length says. So the answer is written past tiny_http, the
//! connection is shut, and only then is the request dropped, or leaked where
//! even that would cost too much.

use std::collections::HashMap;
use std::io::Write as _;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tiny_http::Request;

use super::answer::Answer;
use super::socket::{Connection, still_open};

/// Dropping a request allocates as much as is left of its body. Beyond this
/// the request is leaked instead, with its connection's thread.
const MOST_DROPPED: usize = 64 * 1024;
/// Whoever waits on a connection learns at once that it was shut; to let go of
/// it takes a moment.
const RELEASE: Duration = Duration::from_secs(1);

/// Writes an answer past tiny_http, to a connection that is shut after it.
pub fn answer(connection: &Connection, answer: &Answer, may_write: bool) {
    if let Some(mut stream) = connection.stream().filter(|_| may_write) {
        // The peer may be gone; then nobody waits for the answer.
        let _ = stream.write_all(&answer.to_bytes());
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
pub struct Closing(Mutex<HashMap<u64, Duration>>);

impl Closing {
    /// Takes note that the connection with this cookie was closed.
    pub fn note(&self, cookie: u64, now: Duration) {
        self.lock().entry(cookie).or_insert(now);
    }

    /// How many are held for longer than they should be: they are leaked.
    pub fn leaked(&self, now: Duration) -> usize {
        let noted = self.lock().clone();
        if noted.is_empty() {
            return 0;
        }
        let open = still_open(&|cookie| noted.contains_key(&cookie));
        // One that was noted since the copy was made is not to be forgotten.
        self.lock().retain(|cookie, _| !noted.contains_key(cookie) || open.binary_search(cookie).is_ok());
        open.iter()
            .filter(|cookie| noted.get(cookie).is_some_and(|&at| now.saturating_sub(at) > RELEASE))
            .count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Duration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
