//! What signals ask the main thread to do.

use std::cell::Cell;
use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, bounded};
use pap_process::cli::STOPPED;
use pap_process::logging::Log;
use pap_process::signals::{Signal, Signals, UNASKED};
use pap_process::threads::spawn;

use super::FLUSH;

/// Orders that may wait.
const MOST_ORDERS: usize = 16;

/// The signals that a collector takes: those that it obeys, and those that must not end
/// it.
pub fn signals() -> Vec<Signal> {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().chain(UNASKED).collect()
}

/// What the main thread is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Finish and end.
    Stop,
    /// Start an in-place upgrade to the program that is now at the same path.
    Upgrade,
}

/// What signals have asked for and is not done yet; and the signals and the log, which a
/// re-exec needs.
pub struct Demands {
    /// The signals of this process.
    pub signals: Signals,
    /// The log, to be flushed before a re-exec.
    pub log: Log,
    is_stop_asked: AtomicBool,
    is_grace_asked: AtomicBool,
    is_upgrade_asked: AtomicBool,
}

impl Demands {
    /// Whether a service manager or an orchestrator has asked for the end (SIGTERM). Then
    /// agents still find this collector for a while.
    pub fn is_grace_asked(&self) -> bool {
        self.is_grace_asked.load(Ordering::SeqCst)
    }

    /// Whether a signal has asked for something.
    pub fn any(&self) -> bool {
        self.is_stop_asked() || self.is_upgrade_asked.load(Ordering::SeqCst)
    }

    /// Whether a signal has asked the process to stop.
    pub fn is_stop_asked(&self) -> bool {
        self.is_stop_asked.load(Ordering::SeqCst)
    }

    /// The requested upgrade begins. A signal from now on asks for another one.
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
        is_grace_asked: AtomicBool::new(false),
        is_upgrade_asked: AtomicBool::new(false),
    });
    let noted = Arc::clone(&demands);
    let work = move || loop {
        let again = Cell::new(false);
        let caught = noted.signals.next(|signal| {
            if UNASKED.contains(&signal) {
                return;
            }
            if signal == Signal::SIGHUP {
                return noted.is_upgrade_asked.store(true, Ordering::SeqCst);
            }
            noted.is_grace_asked.store(signal == Signal::SIGTERM, Ordering::SeqCst);
            again.set(noted.is_stop_asked.swap(true, Ordering::SeqCst));
        });
        if UNASKED.contains(&caught.signal) {
            log::info!("{} is not obeyed: SIGHUP upgrades in place, SIGTERM stops", caught.signal);
            continue;
        }
        if again.get() {
            noted.log.flush_within(FLUSH);
            process::exit(STOPPED);
        }
        let what = if caught.signal == Signal::SIGHUP { Order::Upgrade } else { Order::Stop };
        // The main thread holds the receiving end, and ends with the process.
        let _ = asked.send(what);
    };
    spawn("signals", work)?;
    Ok((demands, orders))
}
