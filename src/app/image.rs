//! Going on in another image of the program: same process, same port, same
//! state. For an upgrade, and to get rid of what tiny_http leaks.

use std::env;
use std::fs::File;
use std::io::{self, BufWriter, Seek as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Demands;
use super::state::Keeper;
use crate::handover::{memory, replace};
use crate::server::{DOOR, Server};
use crate::systemd::Notifier;

/// How long posts under way may take to end.
const POSTS: Duration = Duration::from_secs(1);
/// How long watchers may take to hear that they should come again.
const GOODBYES: Duration = Duration::from_millis(200);
/// How long requests in hand may take to be answered. Without an attack there
/// are none after a few milliseconds.
const REQUESTS: Duration = Duration::from_secs(1);

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

/// Whether the program at `path` would start with our configuration.
///
/// # Errors
/// What it says, or what keeps it from saying anything.
pub fn check(path: &Path) -> Result<(), String> {
    let output = Command::new(path).args(env::args_os().skip(1)).arg("--check-config").output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Goes on in the image at `program`. Returns only if that failed, or if
/// there are other demands by then; all goes on as before.
pub fn go_on(program: &Path, server: &Server, keeper: &Keeper, notifier: &Notifier, demands: &Demands) {
    let (shared, observers) = (keeper.shared(), server.observers());
    log::info!("going on in {}", program.display());
    // If the new image fails, a file is better than nothing.
    keeper.save();
    notifier.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", crate::clock::monotonic().as_micros()));
    let mut state = match memory() {
        Ok(state) => state,
        Err(error) => {
            notifier.say("READY=1");
            return log::error!("cannot go on in another image: {error}");
        }
    };
    // What is being posted is waited for, so that nothing is told twice.
    shared.hold_alerts(true);
    shared.wait_until(POSTS, |registry| !registry.outbox().is_posting());
    // Whoever connects from now on waits for the next image.
    observers.end();
    DOOR.close();
    let give_up = shared.clock().uptime() + REQUESTS;
    loop {
        let left = give_up.saturating_sub(shared.clock().uptime());
        observers.await_end(left.min(GOODBYES));
        server.freeze(left);
        // From here on no heartbeat is taken by this image. The file is memory,
        // so nothing is waited for under the lock.
        let is_asked = shared.with(|registry, now| {
            let _signals = demands.signals.hold();
            let written = write(&mut state, &mut |out| keeper.write(&mut |step| step(registry, now), out));
            match written {
                // A signal that was read would be lost with this image.
                Ok(()) if demands.any() => false,
                // Somebody was quicker than the frost.
                Ok(()) if !left.is_zero() && server.is_asked() => true,
                Ok(()) => {
                    let error = replace(program, server.listener(), &state, &server.not_begun());
                    log::error!("cannot go on in {}: {error}", program.display());
                    false
                }
                Err(error) => {
                    log::error!("cannot hand over the state: {error}");
                    false
                }
            }
        });
        server.thaw();
        if !is_asked {
            break;
        }
    }
    shared.hold_alerts(false);
    observers.resume();
    DOOR.open();
    notifier.say("READY=1");
}

/// Writes to a file from its start on, and leaves it ready to be read.
fn write(
    file: &mut File,
    work: &mut dyn FnMut(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    let mut out = BufWriter::with_capacity(64 * 1024, &mut *file);
    work(&mut out)?;
    out.into_inner()?.rewind()
}
