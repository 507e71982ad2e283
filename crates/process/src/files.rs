//! Small files are read without waiting, and files are replaced as a whole.

use std::fs::{File, Metadata, OpenOptions, remove_file, rename};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// The most that is read of a small file, in bytes.
const LONGEST_FILE: u64 = 16 * 1024;

/// Reads a small file, at most its first 16 KiB, and its metadata. It never waits: a
/// pipe, or anything else that is not a regular file, is an error.
///
/// # Errors
/// The file system's own, or it is not a regular file, or its text is not UTF-8.
pub fn read_small(path: &Path) -> io::Result<(String, Metadata)> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut text = String::new();
    file.take(LONGEST_FILE).read_to_string(&mut text)?;
    Ok((text, about))
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
/// content or the new content, never a part of it, even after a crash. The new content
/// is first written to `<path><suffix>`. A file that is there already was left by a
/// crash or by somebody else: it is removed, and a symbolic link is not followed.
///
/// # Errors
/// The file system's own. The former file is still there, with one exception: if
/// [`Durability::Synced`] fails for the directory, the new file is in place, but may
/// not survive a loss of power.
pub fn replace(
    path: &Path,
    suffix: &str,
    durability: Durability,
    write: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(suffix);
    let _ = remove_file(&beside);
    let file = OpenOptions::new().write(true).create_new(true).open(&beside)?;
    let written = write(&file).and_then(|()| (&file).flush()).and_then(|()| match durability {
        Durability::Synced => file.sync_all(),
        Durability::Cached => Ok(()),
    });
    written.and_then(|()| rename(&beside, path)).inspect_err(|_| drop(remove_file(&beside)))?;
    if durability == Durability::Synced {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{read_to_string, write};
    use std::os::unix::fs::symlink;

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
}
