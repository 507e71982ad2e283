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

static NAMELESS_ENDED: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// Calls `act` in a thread without a name that panics: it is not one of ours.
pub fn on_panic_of_others(act: impl Fn() + Send + Sync + 'static) {
    // Set once: there is one library that starts such threads.
    let _ = NAMELESS_ENDED.set(Box::new(act));
}

/// Calls `end` with a text for the log when a thread of ours panics.
pub fn on_panic_of_ours(end: impl Fn(&str) + Send + Sync + 'static) {
    panic::set_hook(Box::new(move |panic| {
        let thread = thread::current();
        match thread.name() {
            Some(name) if !CONTAINED.get() => end(&format!("bug in thread {name}: {panic}")),
            Some(name) => log::error!("contained in thread {name}: {panic}"),
            None => {
                log::debug!("a thread of a library ended: {panic}");
                if let Some(act) = NAMELESS_ENDED.get() {
                    act();
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
