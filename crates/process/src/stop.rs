//! How the threads of a process learn that they must end.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

/// Tells threads to end. A thread that has nothing to do waits here or selects on
/// [`receiver`](Self::receiver). It wakes up at once when it must end, so it need not
/// poll.
#[derive(Debug)]
pub struct Stop {
    /// Dropped to stop. A closed channel wakes every thread that waits, and stays closed.
    open: Mutex<Option<Sender<Infallible>>>,
    stopped: Receiver<Infallible>,
}

impl Default for Stop {
    fn default() -> Self {
        let (sender, stopped) = bounded(0);
        Self { open: Mutex::new(Some(sender)), stopped }
    }
}

impl Stop {
    /// Tells all threads to end. A second call changes nothing.
    pub fn stop(&self) {
        drop(self.open.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Whether the threads must end.
    pub fn is_stopping(&self) -> bool {
        self.stopped.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Waits for `time`, or until the threads must end. Returns whether they must.
    pub fn wait(&self, time: Duration) -> bool {
        self.stopped.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
    }

    /// A channel without messages. It is closed when the threads must end.
    pub const fn receiver(&self) -> &Receiver<Infallible> {
        &self.stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_woken_and_who_comes_later_does_not_wait() {
        let stop = Stop::default();
        assert!(!stop.is_stopping());
        assert!(!stop.wait(Duration::from_millis(1)));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| stop.wait(Duration::from_secs(600)));
            stop.stop();
            stop.stop();
            assert!(waiting.join().unwrap());
        });
        assert!(stop.is_stopping() && stop.wait(Duration::from_secs(600)));
    }
}
