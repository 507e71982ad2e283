//! What a panic does.
//!
//! In a thread of ours it ends the process: a collector that is half dead is
//! worse than one that is started again. The threads that tiny_http starts
//! have no name and serve one connection each; those may go. And a post may
//! fail where the HTTP client panics because it cannot start a thread.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::OnceLock;
use std::thread;

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

static ACCEPT_LOOP_ENDED: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// Calls `act` when tiny_http's accept loop panics, because descriptors or
/// threads have run out. Nobody else would say so.
pub fn on_end_of_accept_loop(act: impl Fn() + Send + Sync + 'static) {
    // Set once: there is one server.
    let _ = ACCEPT_LOOP_ENDED.set(Box::new(act));
}

/// Calls `end` with a text for the log when a thread of ours panics.
pub fn on_panic_of_ours(end: impl Fn(&str) + Send + Sync + 'static) {
    panic::set_hook(Box::new(move |panic| {
        let thread = thread::current();
        match thread.name() {
            Some(name) if !CONTAINED.get() => end(&format!("bug in thread {name}: {panic}")),
            Some(name) => log::error!("contained in thread {name}: {panic}"),
            None => {
                log::debug!("a connection's thread ended: {panic}");
                // Only its accept loop starts threads and copies descriptors.
                let text = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
                let spent = text.contains("failed to spawn thread") || text.contains("Os { code: 24");
                if let Some(accept_loop_ended) = ACCEPT_LOOP_ENDED.get().filter(|_| spent) {
                    accept_loop_ended();
                }
            }
        }
    }));
}

/// Runs code of others that may panic: where the system has run out of
/// something, or over what a client sends.
///
/// # Errors
/// It did; the text is for the log.
pub fn contain<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    CONTAINED.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(false);
    result.map_err(|_| "a library panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_panics_is_an_error_and_the_thread_goes_on() {
        assert!(contain(|| panic!("no threads left")).is_err());
        assert_eq!(contain(|| 7), Ok(7));
    }
}
