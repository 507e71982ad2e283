//! Going on in another image of the program: same process, same port, same
//! state. For an upgrade, and to get rid of what has piled up.

use std::env;
use std::fs::File;
use std::io::{self, BufWriter, Seek as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::FLUSH;
use super::orders::Demands;
use crate::parts::Parts;
use crate::server::{DOOR, Server};
use pap_process::clock::monotonic;
use pap_process::reexec::{memory, replace};
use pap_process::systemd::Notifier;

/// How long posts under way may take to end.
const POSTS: Duration = Duration::from_secs(1);
/// How long watchers may take to hear that they should come again.
const GOODBYES: Duration = Duration::from_millis(200);
/// How long somebody may take over a big answer before an attempt.
const BIG_ANSWERS: Duration = Duration::from_secs(3);
/// How long requests in hand may take to be answered, in one attempt after the
/// other; at the end of the last they are cut off, and big answers after 250 ms.
/// On a machine that keeps up there are none after a few milliseconds, and who
/// waits outside waits for 5 s.
const REQUESTS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3)];
/// How long everybody is let in between two attempts.
const OPEN: Duration = Duration::from_secs(2);
/// Between two looks for other demands meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);

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
pub fn go_on(program: &Path, server: &Server, parts: &Parts, notifier: &Notifier, demands: &Demands) {
    let shared = &parts.shared;
    log::info!("going on in {}", program.display());
    // If the new image fails, a file is better than nothing.
    parts.keeper.save(shared);
    let mut state = match memory() {
        Ok(state) => state,
        Err(error) => return log::error!("cannot go on in another image: {error}"),
    };
    let attempt = |patience, is_last| {
        notifier.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic().reading().as_micros()));
        let is_asked = try_to_go_on(program, server, parts, &mut state, demands, (patience, is_last));
        notifier.say("READY=1");
        is_asked
    };
    in_attempts(attempt, || {
        log::info!("requests are still in hand, so we go on a little later");
        let until = shared.clock().uptime() + OPEN;
        while shared.clock().uptime() < until && !demands.any() {
            parts.stop.wait(LOOK_EVERY);
        }
        !demands.any()
    });
}

/// Makes attempts, each with its patience and whether it is the last, as long
/// as one says that more patience is needed and the pause after it is not cut
/// short.
fn in_attempts(mut attempt: impl FnMut(Duration, bool) -> bool, pause: impl Fn() -> bool) {
    for (number, patience) in (1..).zip(REQUESTS) {
        let is_last = number == REQUESTS.len();
        if !attempt(patience, is_last) || is_last || !pause() {
            return;
        }
    }
}

/// One attempt. Returns whether it was given up only for requests in hand, as
/// it is unless it is the last.
fn try_to_go_on(
    program: &Path,
    server: &Server,
    parts: &Parts,
    state: &mut File,
    demands: &Demands,
    (patience, is_last): (Duration, bool),
) -> bool {
    let Parts { shared, observers, keeper, .. } = parts;
    server.await_slow_lane(BIG_ANSWERS, || demands.any());
    // What is being posted is waited for, so that nothing is told twice.
    shared.hold_alerts(true);
    shared.await_deliveries(POSTS, |deliveries| !deliveries.is_posting);
    // Whoever connects from now on waits for the next image.
    observers.end();
    DOOR.close();
    observers.await_end(patience.min(GOODBYES));
    let is_asked = !server.freeze(patience);
    if !is_asked || is_last {
        demands.log.flush_within(FLUSH);
        // From here on no heartbeat is taken by this image. The file is memory,
        // so nothing is waited for under the lock.
        shared.with(|registry, now| {
            let _signals = demands.signals.hold();
            let written = write(state, &mut |out| keeper.write(&mut |step| step(registry, now), out));
            match written {
                // A signal that was read would be lost with this image.
                Ok(()) if demands.any() => {}
                Ok(()) => {
                    let error = replace(program, server.listener(), state, &server.not_begun());
                    log::error!("cannot go on in {}: {error}", program.display());
                }
                Err(error) => log::error!("cannot hand over the state: {error}"),
            }
        });
    }
    server.thaw();
    shared.hold_alerts(false);
    observers.resume();
    DOOR.open();
    is_asked
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_hand_is_cut_off_only_at_last() {
        let made = |succeeds_at: usize, pauses: bool| {
            let mut made = Vec::new();
            in_attempts(
                |patience, is_last| {
                    made.push((patience.as_secs(), is_last));
                    made.len() < succeeds_at
                },
                || pauses,
            );
            made
        };
        assert_eq!(made(1, true), [(1, false)]);
        assert_eq!(made(2, true), [(1, false), (2, false)]);
        assert_eq!(made(9, true), [(1, false), (2, false), (3, true)]);
        assert_eq!(made(9, false), [(1, false)], "there are other demands");
    }
}
