//! Files that settings name. What is no file (a directory, a device) is never opened,
//! written or renamed; symbolic links are followed and kept; nothing is waited for but
//! the writer of a pipe with a key, and that for a limited time.

use std::fs::{self, File, FileType, Metadata, OpenOptions, remove_file, rename};
use std::io::{self, ErrorKind, Read as _, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::geteuid;

use crate::clock::monotonic;

/// The most that is read of a small file, in bytes.
const LONGEST_FILE: u64 = 16 * 1024;
/// The most that is read of a file with keys or certificates, in bytes.
const LONGEST_WHOLE: usize = 1024 * 1024;
/// How long the writer of a pipe with a key is waited for.
const PIPE_PATIENCE: Duration = Duration::from_secs(5);
/// The most links that are followed, one after the other, as in Linux.
const MOST_LINKS: usize = 40;
/// The mode of a directory in which everybody may make files, and remove only their own.
const SHARED_DIRECTORY: u32 = 0o1002;

/// What may be at a path. Nothing may be there in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A regular file.
    File,
    /// A Unix socket.
    Socket,
}

/// Checks what is at a path, with links followed.
///
/// # Errors
/// Something else is there, or nothing can ever be.
pub fn check(path: &Path, expected: Expected) -> io::Result<()> {
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(wrong("it ends with a slash, as only a directory does"));
    }
    match fs::symlink_metadata(destination(path)?) {
        Ok(about) => is_expected(about.file_type(), expected),
        // What cannot be looked at now may be there later: the log says so then.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_expected(found: FileType, expected: Expected) -> io::Result<()> {
    match expected {
        Expected::File if found.is_file() => Ok(()),
        Expected::Socket if found.is_socket() => Ok(()),
        Expected::Socket if found.is_file() => Err(wrong("it is a regular file")),
        _ if found.is_dir() => Err(wrong("it is a directory")),
        _ if found.is_fifo() => Err(wrong("it is a pipe")),
        _ if found.is_socket() => Err(wrong("it is a socket")),
        _ => Err(wrong("it is a device")),
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, what)
}

/// Where a path leads when its links are followed, whether or not something is there.
///
/// # Errors
/// The file system's own, there are too many links, or a link is not to be trusted:
/// where everybody may make files, one of another user may lead anywhere (as
/// `protected_symlinks` in proc(5)).
pub fn destination(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let about = match fs::symlink_metadata(&path) {
            Ok(about) if about.is_symlink() => about,
            _ => return Ok(path),
        };
        let directory = directory(&path);
        let around = fs::metadata(directory)?;
        let is_shared = around.mode() & SHARED_DIRECTORY == SHARED_DIRECTORY;
        if is_shared && about.uid() != around.uid() && about.uid() != geteuid().as_raw() {
            return Err(io::Error::new(
                ErrorKind::PermissionDenied,
                "it is a link of another user, in a directory that everybody may write to",
            ));
        }
        path = directory.join(fs::read_link(&path)?);
    }
    Err(wrong("it is a link that leads to itself, or through too many others"))
}

/// The directory that a path is in.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Opens a regular file, and never waits for it.
///
/// # Errors
/// The file system's own, or it is something else than a regular file.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<(File, Metadata)> {
    // To open a device may already have an effect.
    if let Ok(about) = fs::metadata(path) {
        is_expected(about.file_type(), Expected::File)?;
    }
    let file = options.custom_flags(unblocked()).open(path)?;
    let about = file.metadata()?;
    is_expected(about.file_type(), Expected::File)?;
    Ok((file, about))
}

/// To open a pipe does not wait for its other end, and no terminal becomes ours.
fn unblocked() -> i32 {
    (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed()
}

/// Reads a small file, at most its first 16 KiB, and its metadata. It never waits.
///
/// # Errors
/// As for [`open`], or its text is not UTF-8.
pub fn read_small(path: &Path) -> io::Result<(String, Metadata)> {
    let (file, about) = open(path, OpenOptions::new().read(true))?;
    let mut text = String::new();
    file.take(LONGEST_FILE).read_to_string(&mut text)?;
    Ok((text, about))
}

/// Reads a file, or what comes through a pipe within five seconds: at most 1 MiB.
///
/// # Errors
/// The file system's own, it is neither a file nor a pipe, nothing came, or too much.
pub fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let is_readable = |about: &Metadata| match about.file_type() {
        found if found.is_fifo() => Ok(()),
        found => is_expected(found, Expected::File),
    };
    is_readable(&fs::metadata(path)?)?;
    let mut file = OpenOptions::new().read(true).custom_flags(unblocked()).open(path)?;
    let about = file.metadata()?;
    is_readable(&about)?;
    let deadline = monotonic() + PIPE_PATIENCE;
    let (mut content, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        if about.file_type().is_fifo() {
            let left = deadline.since(monotonic());
            let mut ready = [PollFd::new(&file, PollFlags::IN)];
            let timeout = Timespec::try_from(left).ok();
            if left.is_zero() || poll(&mut ready, timeout.as_ref())? == 0 {
                return Err(io::Error::new(ErrorKind::TimedOut, "nobody wrote into this pipe within 5s"));
            }
        }
        match file.read(&mut piece) {
            Ok(0) => return Ok(content),
            Ok(length) => content.extend_from_slice(&piece[..length]),
            // Another reader of the pipe was quicker.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if content.len() > LONGEST_WHOLE {
            return Err(io::Error::new(ErrorKind::FileTooLarge, "it has more than 1 MiB"));
        }
    }
}

/// Whether a replaced file survives a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The file is on the disk before the call returns.
    Synced,
    /// The file survives the end of the process, but not a loss of power.
    Cached,
}

/// Replaces the file at `path` with what `write` writes. A reader finds the former
/// content or the new content, never a part of it, even after a crash. If `path` is a
/// symbolic link, it stays one, and what it leads to is replaced. The new content is
/// first written beside it, to a file with `suffix` behind its name. The suffix is one
/// that only we use: a file that is there already was left by a crash and is removed,
/// and a link is not followed.
///
/// # Errors
/// The file system's own, or `path` is something else than a regular file. The former
/// file is still there, with one exception: if
/// [`Durability::Synced`] fails for the directory, the new file is in place, but may
/// not survive a loss of power.
pub fn replace(
    path: &Path,
    suffix: &str,
    durability: Durability,
    write: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let path = destination(path)?;
    check(&path, Expected::File)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(suffix);
    if fs::symlink_metadata(&beside).is_ok_and(|about| about.is_file() || about.is_symlink()) {
        let _ = remove_file(&beside);
    }
    let file = OpenOptions::new().write(true).create_new(true).open(&beside)?;
    let written = write(&file).and_then(|()| (&file).flush()).and_then(|()| match durability {
        Durability::Synced => file.sync_all(),
        Durability::Cached => Ok(()),
    });
    written.and_then(|()| rename(&beside, &path)).inspect_err(|_| drop(remove_file(&beside)))?;
    if durability == Durability::Synced {
        File::open(directory(&path))?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{read_to_string, write};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use rustix::fs::{CWD, Mode, mkfifoat};

    fn pipe(path: &Path) {
        mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
    }

    #[test]
    fn a_file_is_replaced_whole_and_what_stands_beside_it_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (directory.path().join("f"), directory.path().join("elsewhere"));
        write(&path, "former").unwrap();
        write(&elsewhere, "kept").unwrap();
        symlink(&elsewhere, directory.path().join("f.new")).unwrap();
        let failed = replace(&path, ".new", Durability::Cached, |mut file| {
            file.write_all(b"part")?;
            Err(io::Error::other("disk"))
        });
        assert!(failed.is_err());
        assert_eq!(read_to_string(&path).unwrap(), "former");
        assert!(!directory.path().join("f.new").exists());
        replace(&path, ".new", Durability::Synced, |mut file| file.write_all(b"whole")).unwrap();
        assert_eq!(read_to_string(&path).unwrap(), "whole");
        assert_eq!(read_to_string(&elsewhere).unwrap(), "kept");
    }

    #[test]
    fn what_is_no_file_is_an_error_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read_small(directory.path()).is_err());
        assert!(read_small(Path::new("/dev/tty")).is_err());
        write(directory.path().join("f"), "IDLE\n").unwrap();
        assert_eq!(read_small(&directory.path().join("f")).unwrap().0, "IDLE\n");
    }

    #[test]
    fn links_are_followed_and_kept_also_to_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let [link, second, target] = ["link", "second", "target"].map(|name| directory.path().join(name));
        symlink("second", &link).unwrap();
        symlink(&target, &second).unwrap();
        assert_eq!(destination(&link).unwrap(), target);
        assert!(check(&link, Expected::File).is_ok());
        for content in ["one", "two"] {
            replace(&link, ".new", Durability::Cached, |mut file| file.write_all(content.as_bytes()))
                .unwrap();
            assert_eq!(read_to_string(&target).unwrap(), content);
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        }
        let round = directory.path().join("round");
        symlink(&round, &round).unwrap();
        assert!(check(&round, Expected::File).is_err());
        assert!(replace(&round, ".new", Durability::Cached, |_| Ok(())).is_err());
    }

    #[test]
    fn what_is_no_file_is_neither_opened_nor_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let [fifo, socket, folder] = ["fifo", "socket", "folder"].map(|name| directory.path().join(name));
        pipe(&fifo);
        let _listener = UnixListener::bind(&socket).unwrap();
        fs::create_dir(&folder).unwrap();
        for path in [&fifo, &socket, &folder, Path::new("/dev/null"), &directory.path().join("new/")] {
            let before = fs::symlink_metadata(path).map(|about| about.ino()).ok();
            assert!(check(path, Expected::File).is_err(), "{path:?}");
            assert!(open(path, OpenOptions::new().read(true)).is_err(), "{path:?}");
            assert!(replace(path, ".new", Durability::Cached, |_| Ok(())).is_err(), "{path:?}");
            assert_eq!(fs::symlink_metadata(path).map(|about| about.ino()).ok(), before, "{path:?}");
        }
        assert!(check(&socket, Expected::Socket).is_ok());
        assert!(check(&directory.path().join("none"), Expected::Socket).is_ok());
        assert!(check(Path::new("/dev/null/x"), Expected::File).is_err());
        // What has the name of the file beside it, and is none, is not removed.
        pipe(&directory.path().join("f.new"));
        assert!(replace(&directory.path().join("f"), ".new", Durability::Cached, |_| Ok(())).is_err());
        assert!(directory.path().join("f.new").exists());
    }

    #[test]
    fn a_key_comes_from_a_file_or_through_a_pipe() {
        let directory = tempfile::tempdir().unwrap();
        let [file, fifo, long] = ["file", "fifo", "long"].map(|name| directory.path().join(name));
        write(&file, "hush").unwrap();
        assert_eq!(read_whole(&file).unwrap(), b"hush");
        pipe(&fifo);
        let writer = {
            let fifo = fifo.clone();
            thread::spawn(move || write(fifo, "x".repeat(100_000)))
        };
        assert_eq!(read_whole(&fifo).unwrap().len(), 100_000);
        writer.join().unwrap().unwrap();
        write(&long, vec![b'x'; LONGEST_WHOLE + 1]).unwrap();
        for path in [&long, directory.path(), Path::new("/dev/null"), Path::new("/dev/zero")] {
            assert!(read_whole(path).is_err(), "{path:?}");
        }
        assert_eq!(read_whole(&fifo).unwrap_err().kind(), ErrorKind::TimedOut, "nobody writes");
    }
}
