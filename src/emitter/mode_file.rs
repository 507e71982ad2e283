//! A file that holds the mode, for those who cannot send signals.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use pap_core::heartbeat::Mode;
use pap_process::files::read_small;

/// The file, and what it last held.
#[derive(Debug)]
pub struct ModeFile {
    path: PathBuf,
    last: Option<Result<String, io::ErrorKind>>,
}

impl ModeFile {
    /// How often to look. Watching the file (inotify(7)) would miss a replacement,
    /// which is how Kubernetes changes files.
    pub const LOOK_EVERY: Duration = Duration::from_millis(500);

    /// The file at `path`.
    pub const fn new(path: PathBuf) -> Self {
        Self { path, last: None }
    }

    /// The mode, if the file changed and holds one.
    pub fn look(&mut self) -> Option<Mode> {
        let held = read_small(&self.path).map(|(text, _)| text.trim().to_owned());
        let remembered = held.as_ref().map(Clone::clone).map_err(io::Error::kind);
        if self.last.as_ref() == Some(&remembered) {
            return None;
        }
        self.last = Some(remembered);
        let path = self.path.display();
        match held {
            Ok(text) => {
                let mode = Mode::from_name(&text);
                if mode.is_none() {
                    log::warn!(
                        "{path} holds \"{text}\", so the mode does not change; allowed: EMERGENCY, IDLE, SLEEP"
                    );
                }
                mode
            }
            Err(error) => {
                log::warn!("{path} cannot be read, so the mode does not change: {error}");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_what_changed_and_is_a_mode_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mode");
        let mut file = ModeFile::new(path.clone());
        assert_eq!(file.look(), None);
        fs::write(&path, "SLEEP\n").unwrap();
        assert_eq!(file.look(), Some(Mode::Sleep));
        assert_eq!(file.look(), None);
        fs::write(&path, "sleep").unwrap();
        assert_eq!(file.look(), None);
        fs::write(&path, [0xff; 100]).unwrap();
        assert_eq!(file.look(), None);
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        assert_eq!(file.look(), None, "it does not wait for a writer of a pipe");
        fs::remove_file(&path).unwrap();
        fs::write(&path, " EMERGENCY ").unwrap();
        assert_eq!(file.look(), Some(Mode::Emergency));
    }
}
