//! Waits for the file that another station has. All requests but `/health` get 503 until that
//! station ends, or has not renewed its lease for too long.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use pap_core::time::{Tick, Wall};
use pap_http::parse::Refused;
use pap_http::request::Request;
use pap_http::response::Response;
use pap_http::server::Server;
use pap_http::service::{Closed, Next, Reply, Service};
use pap_process::clock::{Clock, wall};
use pap_process::systemd::Notifier;
use pap_process::threads::Threads;
use serde_json::json;

use crate::VERSION;
use crate::store::{OpenError, Store, Watcher, Writer};

/// How often the station looks whether the file is free.
const LOOK: Duration = Duration::from_millis(200);
/// The most connections meanwhile.
const MAX_CONNECTIONS: usize = 1024;
/// How long requests in hand may take when the wait is over.
const JOIN: Duration = Duration::from_secs(2);
/// What clients are told.
const WAITS: &str = "another station has STATION_DB; this one waits to take over";

/// Answers while the station waits.
struct Waiting(Clock);

impl Service for Waiting {
    const NAME: &'static str = "pap-station";
    const MAX_BODY: usize = 64 * 1024;
    const LANES: usize = 1;
    const MAX_WAITING: usize = 1;

    fn call(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Next {
        let path = request.target.split('?').next().unwrap_or_default();
        let response = match path {
            "/health" => Response::json(200, &json!({ "status": "standby", "version": VERSION })),
            "/ready" => Response::json(503, &json!({ "ready": false, "reason": WAITS })),
            _ => Response::error(503, WAITS),
        };
        reply.send(&if path == "/health" { response } else { response.retry_after(1) });
        Next::Answered
    }

    fn now(&self) -> Tick {
        self.0.now().tick
    }

    fn wall(&self) -> Wall {
        wall()
    }

    fn refused(&self, _: Refused) {}

    fn closed(&self, _: Closed) {}
}

/// Waits for the file; None if the process is told to stop before.
///
/// # Errors
/// The file cannot be used.
pub fn wait(
    db: &Path,
    listener: &TcpListener,
    notifier: &Notifier,
    stopped: &Receiver<()>,
) -> Result<Option<(Store, Writer)>, OpenError> {
    let mut watcher = Watcher::default();
    match Store::open_after(db, &mut watcher) {
        Ok(None) => log::info!("{WAITS}"),
        Err(OpenError::Elsewhere) => {}
        opened => return opened,
    }
    let waiting = Arc::new(Waiting(Clock::start()));
    let server = Server::new(
        Arc::clone(&waiting),
        vec![listener.try_clone().map_err(OpenError::Io)?],
        1,
        MAX_CONNECTIONS,
    );
    let server = server.map_err(OpenError::Io)?;
    let mut threads = Threads::default();
    server.start(&mut threads).map_err(OpenError::Io)?;
    for address in server.addresses() {
        log::info!("pap-station {VERSION} waits on {address}");
    }
    notifier.say("READY=1\nSTATUS=waits for the station that has STATION_DB");
    let mut trouble = None;
    let opened = loop {
        match stopped.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => break Ok(None),
        }
        waiting.0.renew(LOOK);
        notifier.say("WATCHDOG=1");
        match Store::open_after(db, &mut watcher) {
            Ok(None) => {}
            // The disk may be full, for the other station too: try again.
            Err(error @ (OpenError::Io(_) | OpenError::Sqlite(_) | OpenError::Elsewhere)) => {
                if trouble.replace(error.to_string()).as_ref() != Some(&error.to_string()) {
                    log::warn!("STATION_DB cannot be taken over now: {error}");
                }
            }
            opened => break opened,
        }
    };
    server.drain();
    server.stop();
    if threads.join(JOIN).is_err() {
        log::warn!("a connection from the time of waiting did not end in time");
    }
    if matches!(opened, Ok(Some(_))) {
        log::info!("this station takes over");
    }
    opened
}
