//! Going on in another image of the program: same process, same port, same
//! state. For an upgrade, and to get rid of what tiny_http leaks.

use std::env;
use std::io::{BufWriter, Seek as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::state::Keeper;
use crate::handover::{close_tap, memory, replace};
use crate::server::Server;
use crate::systemd::Notifier;

/// How long posts under way may take to end.
const POSTS: Duration = Duration::from_secs(1);
/// How long requests in hand may take to be answered.
const REQUESTS: Duration = Duration::from_millis(80);
/// What a connection has said is answered within this, or is no request.
const FRESH: Duration = Duration::from_millis(40);

/// Where our program is.
pub struct Program {
    path: Option<PathBuf>,
}

impl Program {
    /// To be made at the start: later the file may have been replaced.
    pub fn new() -> Self {
        Self { path: env::current_exe().ok() }
    }

    /// The image that runs now, even if its file is gone.
    #[expect(clippy::unused_self, reason = "the other half of the choice")]
    pub fn itself(&self) -> &Path {
        Path::new("/proc/self/exe")
    }

    /// Whatever is at the path that we were started from.
    pub fn now_at_path(&self) -> &Path {
        self.path.as_deref().filter(|path| path.exists()).unwrap_or_else(|| self.itself())
    }
}

/// Goes on in the image at `program`. Returns only if that failed; then all
/// goes on as before.
pub fn go_on(program: &Path, server: &Server, listener: &TcpListener, keeper: &Keeper, notifier: &Notifier) {
    let shared = keeper.shared();
    log::info!("going on in {}", program.display());
    notifier.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", crate::clock::monotonic_micros()));
    let mut state = match memory() {
        Ok(state) => state,
        Err(error) => return log::error!("cannot go on in another image: {error}"),
    };
    // What is being posted is waited for, so that nothing is told twice.
    shared.hold_alerts(true);
    shared.wait_until(POSTS, |registry| !registry.outbox().is_posting());
    server.close_tap();
    if let Err(error) = close_tap(listener) {
        log::error!("cannot go on in another image: {error}");
    } else {
        server.finish_requests(REQUESTS, FRESH);
        // From here on no heartbeat is taken by this image. The file is
        // memory, so nothing is waited for under the lock.
        shared.with(|registry, now| {
            let mut out = BufWriter::with_capacity(64 * 1024, &mut state);
            let written = keeper.write(&mut |step| step(registry, now), &mut out);
            drop(out);
            match written.and_then(|()| state.rewind()) {
                Ok(()) => {
                    let error = replace(program, listener, &state);
                    log::error!("cannot go on in {}: {error}", program.display());
                }
                Err(error) => log::error!("cannot hand over the state: {error}"),
            }
        });
    }
    shared.hold_alerts(false);
    server.open_tap();
    notifier.say("READY=1");
}
