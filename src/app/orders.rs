//! What the main thread is asked for, by signals and by the server.

use std::cell::Cell;
use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, bounded};
use pap_process::cli::STOPPED;
use pap_process::logging::Log;
use pap_process::signals::{Signal, Signals};
use pap_process::threads::spawn;

use super::FLUSH;

/// Orders that may wait.
const MOST_ORDERS: usize = 16;

/// The signals that a collector obeys.
pub const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// What the main thread is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Finish and end.
    Stop,
    /// Go on in the image that is now at our path.
    Upgrade,
}

/// What signals have asked for and is not done yet; and the log, which both an
/// end and a fresh image would cut short.
pub struct Demands {
    /// The signals of this process.
    pub signals: Signals,
    /// The log, to be flushed before this image ends.
    pub log: Log,
    is_stop_asked: AtomicBool,
    is_upgrade_asked: AtomicBool,
}

impl Demands {
    /// Whether a signal has asked for something.
    pub fn any(&self) -> bool {
        self.is_stop_asked() || self.is_upgrade_asked.load(Ordering::SeqCst)
    }

    /// Whether a signal has asked for the end.
    pub fn is_stop_asked(&self) -> bool {
        self.is_stop_asked.load(Ordering::SeqCst)
    }

    /// The upgrade that was asked for begins: the next signal asks for another.
    pub fn begin_upgrade(&self) {
        self.is_upgrade_asked.store(false, Ordering::SeqCst);
    }
}

/// Starts the thread that turns signals into orders. The second request to stop
/// ends the process.
///
/// # Errors
/// The thread cannot be started.
pub fn obey(signals: Signals, log: &Log) -> io::Result<(Arc<Demands>, Receiver<Order>)> {
    let (asked, orders) = bounded(MOST_ORDERS);
    let demands = Arc::new(Demands {
        signals,
        log: log.clone(),
        is_stop_asked: AtomicBool::new(false),
        is_upgrade_asked: AtomicBool::new(false),
    });
    let noted = Arc::clone(&demands);
    let work = move || loop {
        let again = Cell::new(false);
        let caught = noted.signals.next(|signal| match signal {
            Signal::SIGHUP => noted.is_upgrade_asked.store(true, Ordering::SeqCst),
            _ => again.set(noted.is_stop_asked.swap(true, Ordering::SeqCst)),
        });
        if again.get() {
            noted.log.flush_within(FLUSH);
            process::exit(STOPPED);
        }
        let what = if caught.signal == Signal::SIGHUP { Order::Upgrade } else { Order::Stop };
        // The main thread is there as long as the process is.
        let _ = asked.send(what);
    };
    spawn("signals", work)?;
    Ok((demands, orders))
}
