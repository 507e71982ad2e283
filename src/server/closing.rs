//! The connections that we closed. Whoever waits on one learns of it at once;
//! one that is held on to for longer is leaked.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::socket::still_open;
use pap_core::time::Uptime;

/// To let go of a connection takes a moment. Until it is over, what is leaked
/// takes places from those who wait outside.
const RELEASE: Duration = Duration::from_millis(250);

/// The connections that we closed and that may still be held.
#[derive(Default)]
pub struct Closing(Mutex<HashMap<u64, Uptime>>);

impl Closing {
    /// Takes note that the connection with this cookie was closed.
    pub fn note(&self, cookie: u64, now: Uptime) {
        self.lock().entry(cookie).or_insert(now);
    }

    /// How many are held for longer than they should be: they are leaked.
    pub fn leaked(&self, now: Uptime) -> usize {
        let noted = self.lock().clone();
        if noted.is_empty() {
            return 0;
        }
        let open = still_open(&|cookie| noted.contains_key(&cookie));
        // One that was noted since the copy was made is not to be forgotten.
        self.lock().retain(|cookie, _| !noted.contains_key(cookie) || open.binary_search(cookie).is_ok());
        let is_leaked = |cookie: &&u64| noted.get(cookie).is_some_and(|&at| now.since(at) > RELEASE);
        open.iter().filter(is_leaked).count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Uptime>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
