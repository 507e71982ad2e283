//! Threads that are named, owned and joined.

use std::convert::Infallible;
use std::io;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::panics;

/// Threads that end together. Each thread holds one end of a channel while it runs, so
/// one wait is enough for all of them.
#[derive(Debug)]
pub struct Threads {
    handles: Vec<JoinHandle<()>>,
    running: Sender<Infallible>,
    ended: Receiver<Infallible>,
}

impl Default for Threads {
    fn default() -> Self {
        let (running, ended) = bounded(0);
        Self { handles: Vec::new(), running, ended }
    }
}

impl Threads {
    /// Starts a thread.
    ///
    /// # Errors
    /// The system cannot start one more thread.
    pub fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let running = self.running.clone();
        self.handles.push(spawn(name, move || {
            work();
            drop(running);
        })?);
        Ok(())
    }

    /// Waits until all of them have ended, at most for `longest`.
    ///
    /// # Errors
    /// The names of the threads that have not ended.
    pub fn join(self, longest: Duration) -> Result<(), Vec<String>> {
        let Self { handles, running, ended } = self;
        drop(running);
        if ended.recv_timeout(longest) == Err(RecvTimeoutError::Timeout) {
            let late = handles.iter().filter(|thread| !thread.is_finished());
            return Err(late.map(|thread| thread.thread().name().unwrap_or_default().to_owned()).collect());
        }
        for thread in handles {
            // A thread of ours that panics ends the process (panics.rs).
            let _ = thread.join();
        }
        Ok(())
    }
}

/// Starts a named thread, marked as ours. The caller may join it.
///
/// # Errors
/// The system cannot start one more thread.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.into()).spawn(move || {
        panics::is_ours();
        work();
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_waited_for_and_the_late_ones_are_named() {
        let mut threads = Threads::default();
        threads.spawn("quick", || ()).unwrap();
        assert_eq!(threads.join(Duration::from_secs(600)), Ok(()));

        let (end, wait) = bounded::<Infallible>(0);
        let mut threads = Threads::default();
        threads.spawn("late", move || assert!(wait.recv().is_err())).unwrap();
        assert_eq!(threads.join(Duration::from_millis(1)), Err(vec!["late".to_owned()]));
        drop(end);
    }
}
