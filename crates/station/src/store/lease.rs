//! Which of the stations that share a file acts: the one that holds the lease.
//!
//! The lease has two parts: a lock beside the file, which the kernel gives back when its holder
//! ends; and a row in the file, which the holder renews every [`RENEW`]. A station that waits takes
//! over when the lock is free, or when nobody has renewed the row for [`EXPIRED`]: then the holder
//! is stopped or stuck. Each write first looks at the row, in its own transaction, so a former holder
//! that wakes up writes nothing. Each call to others is made only while the lease is sure to
//! outlast it.
//!
//! The file itself is locked too. If that lock is held and the lock beside the file is not, another
//! station uses the file under another name (a hard link, a mount), and SQLite has another `-wal`
//! beside that name. The row under our name then says nothing, so this station waits until the
//! other one ends.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use pap_core::time::{Uptime, millis};
use pap_process::clock::Clock;
use rusqlite::{Connection, OptionalExtension as _};
use rustix::fs::{FlockOperation, flock, statfs};

use crate::ids;

/// How long a lease lasts after it was renewed,
const TERM: Duration = Duration::from_secs(30);
/// how often it is renewed,
pub const RENEW: Duration = Duration::from_secs(10);
/// and how long a station that waits must see it unchanged. Clocks of one host run alike, but not
/// exactly.
const EXPIRED: Duration = Duration::from_secs(35);

/// File systems whose locks do not reach other hosts, or not reliably, by the numbers in the
/// kernel's magic.h. Behind FUSE there may be any file system, also a local one.
const NETWORK: [(u32, &str); 10] = [
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xfe53_4d42, "smb2"),
    (0xff53_4d42, "cifs"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "fuse"),
    (0x00c3_6400, "ceph"),
    (0x0bd0_0bd0, "lustre"),
    (0x5346_414f, "afs"),
    (0x7461_636f, "ocfs2"),
];

/// The name of a network file system on which a file is; None if it is on none.
///
/// # Errors
/// The kernel does not say.
pub fn network(path: &Path) -> io::Result<Option<&'static str>> {
    let kind = statfs(path)?.f_type;
    // The kernel's word has 32 bits, whatever the field has.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "only these bits count")]
    let kind = kind as u32;
    Ok(NETWORK.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name))
}

/// The path of the lock beside a file. The file must exist: all symbolic links to it have one lock.
fn lock_path(db: &Path) -> io::Result<PathBuf> {
    let mut path = std::fs::canonicalize(db)?.into_os_string();
    path.push("-lock");
    Ok(path.into())
}

/// The lock beside a file, while it is held.
pub struct Lock {
    path: PathBuf,
    file: File,
    /// The file itself; None on a network file system, where its lock would be in SQLite's way. Its
    /// descriptor is closed with the lock, not before: closing any descriptor of the file drops
    /// SQLite's own locks (POSIX advisory locks).
    itself: Option<File>,
}

/// Who has a file.
pub enum Locked {
    /// This station, as long as the lock is kept.
    Ours(Lock),
    /// Another station.
    Taken,
    /// Another station, under another name.
    Elsewhere,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // It is removed while it is held: a station that has opened it then finds that it counts no
        // more. If it cannot be removed, it does no harm. Another station's lock must stay.
        if is_at(&self.file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes the lock beside a file, and that of the file itself.
///
/// # Errors
/// They cannot be opened or locked.
pub fn lock(db: &Path) -> io::Result<Locked> {
    let path = lock_path(db)?;
    let file = create(&path)?;
    if !try_lock(&file)? || !is_at(&file, &path) {
        // Another station holds it, or has put a new lock in its place.
        return Ok(Locked::Taken);
    }
    let lock = Lock { path, file, itself: itself(db)? };
    Ok(if lock.complete()? { Locked::Ours(lock) } else { Locked::Elsewhere })
}

/// The file itself, to be locked.
fn itself(db: &Path) -> io::Result<Option<File>> {
    Ok(if network(db)?.is_some() { None } else { Some(create(db)?) })
}

/// A file's device and its number there.
type Identity = (u64, u64);

fn identity(file: &Metadata) -> Identity {
    (file.dev(), file.ino())
}

/// Whether this open file is the one at a path.
fn is_at(file: &File, path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|there| file.metadata().is_ok_and(|ours| identity(&ours) == identity(&there)))
}

/// A new lock, to be put in the place of a lock whose holder is stuck.
///
/// # Errors
/// It cannot be made.
pub fn new_lock(db: &Path, holder: &str) -> io::Result<Lock> {
    let path = lock_path(db)?.with_extension(holder);
    let file = create(&path)?;
    try_lock(&file)?;
    Ok(Lock { path, file, itself: itself(db)? })
}

impl Lock {
    /// Locks the file itself, if it is free now: a station that is stuck may still have it locked.
    /// Returns whether it is locked.
    ///
    /// # Errors
    /// It cannot be locked.
    pub fn complete(&self) -> io::Result<bool> {
        self.itself.as_ref().map_or(Ok(true), try_lock)
    }

    /// Takes the place of the lock of a file.
    ///
    /// # Errors
    /// The other lock stays.
    pub fn replace(mut self, db: &Path) -> io::Result<Self> {
        let place = lock_path(db)?;
        std::fs::rename(&self.path, &place)?;
        self.path = place;
        Ok(self)
    }
}

/// Who holds the lease, and how often it was renewed.
pub type Row = (String, u64);

/// Reads the row; None if nobody ever held the lease.
///
/// # Errors
/// It cannot be read.
pub fn read(connection: &Connection) -> rusqlite::Result<Option<Row>> {
    let sql = "SELECT holder, renewals FROM lease WHERE id = 1";
    connection.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

/// The lease of this process.
pub struct Lease {
    holder: String,
    clock: Clock,
    /// The file: its path, and what it is there (device and inode); None before it is opened.
    file: Option<(PathBuf, Identity)>,
    is_replaced: AtomicBool,
    /// When the last renewal began that has succeeded, in milliseconds of uptime.
    renewed: AtomicU64,
    is_lost: AtomicBool,
    lost: (Sender<()>, Receiver<()>),
}

impl Default for Lease {
    /// A lease that is not taken yet.
    fn default() -> Self {
        Self {
            holder: ids::uuid(),
            clock: Clock::start(),
            file: None,
            is_replaced: AtomicBool::new(false),
            renewed: AtomicU64::new(0),
            is_lost: AtomicBool::new(false),
            lost: bounded(1),
        }
    }
}

impl Lease {
    /// The same lease, on the file that is open and at this path.
    ///
    /// # Errors
    /// There is none.
    pub fn on(mut self, path: &Path) -> io::Result<Self> {
        self.file = Some((path.to_owned(), identity(&std::fs::metadata(path)?)));
        Ok(self)
    }

    /// The text that stands for this process in the row.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Takes the lease, whoever has it.
    ///
    /// # Errors
    /// The lease is as it was.
    pub fn take(&self, connection: &Connection) -> rusqlite::Result<()> {
        let began = self.clock.uptime();
        let sql = "INSERT OR REPLACE INTO lease (id, holder, renewals) VALUES (1, ?1, 0)";
        connection.execute(sql, [&self.holder])?;
        self.renewed_at(began);
        Ok(())
    }

    /// Whether this process still holds it, as a transaction sees it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_held(&self, connection: &Connection) -> rusqlite::Result<bool> {
        // What is written into a file that is not at its place any more is lost.
        let is_replaced = self.file.as_ref().is_some_and(|(path, ours)| match std::fs::metadata(path) {
            Ok(there) => identity(&there) != *ours,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        });
        self.is_replaced.fetch_or(is_replaced, Ordering::SeqCst);
        let is_held = !is_replaced && read(connection)?.is_some_and(|(holder, _)| holder == self.holder);
        if !is_held {
            self.lose();
        }
        Ok(is_held)
    }

    /// Takes note that another station holds it.
    pub fn lose(&self) {
        self.is_lost.store(true, Ordering::SeqCst);
        // One message is enough.
        let _ = self.lost.0.try_send(());
    }

    /// Renews it. The transaction must have looked whether it is held.
    ///
    /// # Errors
    /// It is not renewed.
    pub fn renew(connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare_cached("UPDATE lease SET renewals = renewals + 1 WHERE id = 1")?
            .execute([])
            .map(drop)
    }

    /// The moment before a renewal.
    pub fn now(&self) -> Uptime {
        self.clock.uptime()
    }

    /// Takes note that a renewal which began at this moment is on disk.
    pub fn renewed_at(&self, began: Uptime) {
        self.renewed.store(millis(began.reading()), Ordering::SeqCst);
    }

    /// Whether it is sure to last for so long.
    pub fn covers(&self, time: Duration) -> bool {
        let renewed = Duration::from_millis(self.renewed.load(Ordering::SeqCst));
        let age = self.clock.uptime().reading().saturating_sub(renewed);
        !self.is_lost() && age + time < TERM
    }

    /// Why it is lost.
    pub fn why_lost(&self) -> &'static str {
        if self.is_replaced.load(Ordering::SeqCst) {
            "STATION_DB was moved or replaced while this station used it"
        } else {
            "another station has taken over STATION_DB, since this one did not act for so long"
        }
    }

    /// Whether it was found to be lost.
    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::SeqCst)
    }

    /// Gets a message when it is found to be lost.
    pub const fn lost(&self) -> &Receiver<()> {
        &self.lost.1
    }
}

/// Looks whether the holder renews its lease.
pub struct Watcher {
    clock: Clock,
    seen: Option<(Row, Uptime)>,
}

impl Default for Watcher {
    /// No row was seen yet.
    fn default() -> Self {
        Self { clock: Clock::start(), seen: None }
    }
}

impl Watcher {
    /// Takes note of the row. Returns it if it has not changed for so long that its holder does not
    /// act any more.
    pub fn look(&mut self, row: Option<Row>) -> Option<Row> {
        self.judge(row?, self.clock.uptime())
    }

    fn judge(&mut self, row: Row, now: Uptime) -> Option<Row> {
        match &self.seen {
            Some((seen, since)) if *seen == row => (now.since(*since) >= EXPIRED).then_some(row),
            _ => {
                self.seen = Some((row, now));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_given_once_and_a_replaced_one_counts_no_more() {
        // That for temporary files may be FUSE.
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let db = directory.path().join("db");
        File::create(&db).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&db, &link).unwrap();
        let ours = |path: &Path| match lock(path).unwrap() {
            Locked::Ours(lock) => Some(lock),
            Locked::Taken | Locked::Elsewhere => None,
        };
        let is_elsewhere = |path: &Path| matches!(lock(path).unwrap(), Locked::Elsewhere);
        let first = ours(&db).unwrap();
        assert!(matches!(lock(&db).unwrap(), Locked::Taken) && matches!(lock(&link).unwrap(), Locked::Taken));
        let other = directory.path().join("other");
        std::fs::hard_link(&db, &other).unwrap();
        assert!(is_elsewhere(&other));
        std::fs::remove_file(directory.path().join("db-lock")).unwrap();
        assert!(is_elsewhere(&db), "it is of use without its name");
        let second = new_lock(&db, "x").unwrap().replace(&db).unwrap();
        assert!(!second.complete().unwrap());
        drop(first);
        assert!(ours(&db).is_none(), "the second has it");
        assert!(second.complete().unwrap() && second.complete().unwrap());
        assert!(is_elsewhere(&other), "under each name");
        drop(second);
        assert!(ours(&db).is_some());
        assert_eq!(network(directory.path()).unwrap(), None);
    }

    #[test]
    fn a_lease_covers_what_ends_before_it_does() {
        let lease = Lease::default();
        lease.renewed_at(lease.now());
        assert!(lease.covers(Duration::from_secs(29)) && !lease.covers(TERM));
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE TABLE lease (id INTEGER PRIMARY KEY, holder TEXT, renewals INTEGER)")
            .unwrap();
        lease.take(&connection).unwrap();
        assert!(lease.is_held(&connection).unwrap());
        let other = Lease::default();
        other.take(&connection).unwrap();
        assert!(!lease.is_held(&connection).unwrap() && lease.is_lost());
        assert!(!lease.covers(Duration::ZERO) && lease.lost().try_recv().is_ok());
        Lease::renew(&connection).unwrap();
        assert_eq!(read(&connection).unwrap().unwrap(), (other.holder().to_owned(), 1));
    }

    #[test]
    fn only_a_row_that_never_changes_has_expired() {
        let mut watcher = Watcher::default();
        assert_eq!(watcher.look(None), None);
        let mut judge = |holder: &str, renewals, seconds| {
            watcher.judge((holder.into(), renewals), Uptime::new(Duration::from_secs(seconds))).is_some()
        };
        assert!(!judge("a", 1, 0) && !judge("a", 1, 34));
        assert!(!judge("a", 2, 35) && !judge("a", 2, 69), "it was renewed");
        assert!(!judge("b", 2, 70), "another one has it");
        assert!(judge("b", 2, 105));
    }
}
