//! What a panic does.
//!
//! A panic in a thread of ours ends the process: a program that is half dead is worse
//! than one that is started again. A panic in a thread that a library started ends
//! that thread only. A panic in a call of a library can be contained: the HTTP client
//! panics if it cannot start a thread.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::thread;

thread_local! {
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
    static IS_CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as one of ours.
pub(crate) fn is_ours() {
    IS_OURS.set(true);
}

/// Calls `end` with a text for the log when a thread of ours panics. Ours are the
/// threads that [`threads`](crate::threads) starts, and the one that calls this.
pub fn on_panic_of_ours(end: impl Fn(&str) + Send + Sync + 'static) {
    is_ours();
    panic::set_hook(Box::new(move |panic| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("without a name");
        if IS_CONTAINED.get() {
            log::error!("contained in thread {name}: {panic}");
        } else if IS_OURS.get() {
            end(&format!("bug in thread {name}: {panic}"));
        } else {
            log::debug!("a library's thread ended: {panic}");
        }
    }));
}

/// Runs code of a library that may panic, for instance because the system has run out
/// of something.
///
/// # Errors
/// The code panicked. The text is for the log.
pub fn contain<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    IS_CONTAINED.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    IS_CONTAINED.set(false);
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
