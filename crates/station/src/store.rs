//! One SQLite file (`STATION_DB`): a thread that writes, and readers beside it.
//!
//! The writer takes what has gathered and commits it at once, so a thousand alerts a
//! second are a few dozen syncs. Each piece of work is a savepoint: if it fails, it
//! leaves nothing behind, and the others are committed. The thread that gave the work is
//! told when it is on disk, not before.

mod conditions;
mod lease;
mod migrations;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

pub use conditions::Conditions;
use lease::Locked;
pub use lease::{Lease, RENEW, Watcher};
pub use migrations::VERSION;

/// Pieces of work that may wait for the writer.
const MAX_WAITING: usize = 1024;
/// The most pieces of work in one transaction.
const MAX_BATCH: usize = 256;
/// How long another program may hold a lock on the file.
const BUSY: Duration = Duration::from_secs(5);
/// Connections for reading that are kept open.
const MAX_IDLE_READERS: usize = 4;
/// Memory for pages that the writer keeps, and that each reader keeps, in KiB.
const WRITER_CACHE: u32 = 2048;
const READER_CACHE: u32 = 512;
/// Pages that a backup copies before others get their turn.
const BACKUP_STEP: i32 = 256;

/// Why something is not stored, or cannot be read.
#[derive(Debug)]
pub enum StoreError {
    /// The station stops.
    Stopping,
    /// SQLite says so.
    Sqlite(rusqlite::Error),
    /// The transaction with it was not committed: why, in words.
    Commit(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopping => f.write_str("the station stops"),
            Self::Sqlite(error) => error.fmt(f),
            Self::Commit(why) => write!(f, "not committed: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl StoreError {
    /// Whether any other write would fail in the same way.
    fn is_of_disk(&self) -> bool {
        let code = match self {
            Self::Stopping => return false,
            Self::Commit(_) => return true,
            Self::Sqlite(error) => error.sqlite_error_code(),
        };
        matches!(
            code,
            Some(
                ErrorCode::DiskFull
                    | ErrorCode::ReadOnly
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::DatabaseCorrupt
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::CannotOpen
            )
        )
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Why the file cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// It cannot be opened or locked.
    Io(std::io::Error),
    /// Another station has it.
    Taken,
    /// Another station has it under another name.
    Elsewhere,
    /// Another station has it, and it is on a network file system of this kind.
    Shared(&'static str),
    /// It is another program's.
    Foreign,
    /// A newer station has made it: its version, and ours.
    Newer(u32, u32),
    /// It is damaged: the first thing that is wrong.
    Damaged(String),
    /// SQLite cannot use it.
    Sqlite(rusqlite::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Taken => f.write_str("another pap-station uses it"),
            Self::Elsewhere => f.write_str(
                "another pap-station uses it under another name (a hard link or a mount), or is stuck: it can \
                 be used once that one has ended",
            ),
            Self::Shared(kind) => write!(
                f,
                "another pap-station uses it, and two cannot share it on a network or FUSE file system ({kind})"
            ),
            Self::Foreign => f.write_str("it is a database of another program"),
            Self::Newer(theirs, ours) => write!(
                f,
                "a newer pap-station has made it: its version is {theirs}, and this program knows {ours}"
            ),
            Self::Damaged(what) => write!(f, "it is damaged ({what}); put a backup in its place"),
            Self::Sqlite(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Damaged(error.to_string()),
            _ => Self::Sqlite(error),
        }
    }
}

/// What is done when a piece of work is on disk, or could not be stored.
type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// A piece of work. It says whether it is to be kept.
type Job = Box<dyn FnOnce(&Connection) -> (bool, Finish) + Send>;

/// The file, for all threads.
pub struct Store {
    path: PathBuf,
    jobs: Sender<Job>,
    readers: Mutex<Vec<Connection>>,
    /// Whether the last write did not fail because of the disk.
    is_well: AtomicBool,
    /// The lease on the file: whether this station acts, or another one that shares the file.
    lease: Arc<Lease>,
    /// Keeps other stations from the file.
    lock: Mutex<Option<lease::Lock>>,
}

/// The writer, for its thread.
pub struct Writer {
    connection: Connection,
    jobs: Receiver<Job>,
    lease: Arc<Lease>,
}

impl Store {
    /// Opens the file, or makes it, readable for its owner alone.
    ///
    /// # Errors
    /// The file cannot be used, and is as it was.
    pub fn open(path: &Path) -> Result<(Self, Writer), OpenError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        // SQLite would make it readable for others.
        drop(options.open(path).map_err(OpenError::Io)?);
        match lease::lock(path).map_err(OpenError::Io)? {
            Locked::Ours(lock) => Self::open_locked(path, Lease::default(), lock),
            Locked::Taken => Err(OpenError::Taken),
            Locked::Elsewhere => Err(OpenError::Elsewhere),
        }
    }

    /// The file, if the station that has it is gone, or has not renewed its lease for so long that
    /// it does not act any more. None if this station has to wait.
    ///
    /// # Errors
    /// The file cannot be used, or not by two stations.
    pub fn open_after(path: &Path, watcher: &mut Watcher) -> Result<Option<(Self, Writer)>, OpenError> {
        match Self::open(path) {
            Err(OpenError::Taken) => {}
            opened => return opened.map(Some),
        }
        if let Some(name) = lease::network(path).map_err(OpenError::Io)? {
            return Err(OpenError::Shared(name));
        }
        let mut connection = Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))?;
        prepare(&connection, READER_CACHE)?;
        let expired = match lease::read(&connection) {
            Ok(row) => watcher.look(row),
            // The other station may be making the file.
            Err(_) => None,
        };
        let Some(expired) = expired else { return Ok(None) };
        // A file that this program cannot use is left to the one that has it.
        migrations::check(&connection)?;
        let lease = Lease::default();
        let lock = lease::new_lock(path, lease.holder()).map_err(OpenError::Io)?;
        let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = match begun {
            // The other station was stopped in the middle of a write.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => return Ok(None),
            begun => begun?,
        };
        if lease::read(&transaction)? != Some(expired) {
            return Ok(None);
        }
        lease.take(&transaction)?;
        transaction.commit()?;
        let lock = lock.replace(path).map_err(OpenError::Io)?;
        Self::open_locked(path, lease, lock).map(Some)
    }

    fn open_locked(path: &Path, lease: Lease, lock: lease::Lock) -> Result<(Self, Writer), OpenError> {
        let connection = connect(path, &lease)?;
        let lease = Arc::new(lease.on(path).map_err(OpenError::Io)?);
        let (jobs, receiver) = bounded(MAX_WAITING);
        let store = Self {
            path: path.to_owned(),
            jobs,
            readers: Mutex::default(),
            is_well: AtomicBool::new(true),
            lease: Arc::clone(&lease),
            lock: Mutex::new(Some(lock)),
        };
        Ok((store, Writer { connection, jobs: receiver, lease }))
    }

    /// Lets another station have the file. To be called once the writer has ended.
    pub fn release(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// The lease by which this station acts.
    pub const fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// Renews the lease.
    ///
    /// # Errors
    /// It is not renewed.
    pub fn renew(&self) -> Result<(), StoreError> {
        let began = self.lease.now();
        self.write(Lease::renew)?;
        self.lease.renewed_at(began);
        if let Some(lock) = self.lock.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            // A station that was stuck may be gone now. If not, the lease is ours all the same.
            let _ = lock.complete();
        }
        Ok(())
    }

    /// Has `work` done by the writer, and waits until it is on disk.
    ///
    /// # Errors
    /// Nothing of it is stored.
    pub fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (told, outcome) = bounded(1);
        let job: Job = Box::new(move |connection| {
            let result = work(connection);
            let is_kept = result.is_ok();
            let finish: Finish = Box::new(move |committed| {
                // The thread that gave the work waits for this.
                let _ = told.send(match (result, committed) {
                    (Err(error), _) => Err(StoreError::Sqlite(error)),
                    (Ok(_), Err(error)) => Err(error),
                    (Ok(value), Ok(())) => Ok(value),
                });
            });
            (is_kept, finish)
        });
        self.jobs.send(job).map_err(|_| StoreError::Stopping)?;
        // If a transaction fails, the work that was to follow in it is dropped.
        let left_out = || Err(StoreError::Commit("the transaction failed before it".into()));
        let written = outcome.recv().unwrap_or_else(|_| left_out());
        match &written {
            Ok(_) => self.is_well.store(true, Ordering::Relaxed),
            Err(error) if error.is_of_disk() => self.is_well.store(false, Ordering::Relaxed),
            Err(_) => {}
        }
        written
    }

    /// Whether the last write did not fail because of the disk.
    pub fn is_well(&self) -> bool {
        self.is_well.load(Ordering::Relaxed)
    }

    /// Reads what is committed. The answer is from one moment.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let idle = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => reader(&self.path)?,
        };
        let transaction = connection.unchecked_transaction()?;
        let result = work(&transaction);
        drop(transaction);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < MAX_IDLE_READERS {
            readers.push(connection);
        }
        Ok(result?)
    }
}

impl Writer {
    /// Writes until `stop` is closed and nothing waits.
    pub fn run(mut self, stop: &Receiver<std::convert::Infallible>) {
        let mut batch = Vec::new();
        loop {
            crossbeam_channel::select! {
                recv(self.jobs) -> job => batch.extend(job.ok()),
                recv(stop) -> _ => {}
            }
            while batch.len() < MAX_BATCH
                && let Ok(job) = self.jobs.try_recv()
            {
                batch.push(job);
            }
            if batch.is_empty() {
                break;
            }
            write_all(&mut self.connection, &self.lease, batch.drain(..));
        }
        // The file alone then holds everything. If this fails, the next start does it.
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
}

/// Does pieces of work in one transaction.
fn write_all(connection: &mut Connection, lease: &Lease, jobs: impl Iterator<Item = Job>) {
    let begun = connection.execute_batch("BEGIN IMMEDIATE").and_then(|()| lease.is_held(connection));
    let mut finishes = Vec::new();
    let mut failed = match begun {
        Ok(true) => None,
        Ok(false) => Some(lease.why_lost().to_owned()),
        Err(error) => Some(error.to_string()),
    };
    for job in jobs {
        if failed.is_some() {
            // Dropping the work tells its sender that nothing is stored.
            finishes.push(None);
            continue;
        }
        let saved = connection.execute_batch("SAVEPOINT work");
        let (is_kept, finish) = job(connection);
        let ended = saved.and_then(|()| {
            connection.execute_batch(if is_kept { "RELEASE work" } else { "ROLLBACK TO work; RELEASE work" })
        });
        finishes.push(Some(finish));
        // A full disk may have rolled back the whole transaction.
        if let Err(error) = ended {
            failed = Some(error.to_string());
        }
    }
    if failed.is_none() {
        failed = connection.execute_batch("COMMIT").err().map(|error| error.to_string());
    }
    if let Some(why) = &failed {
        log::error!("{} writes are not stored: {why}", finishes.len());
        if !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
    }
    for finish in finishes.into_iter().flatten() {
        finish(failed.as_ref().map_or(Ok(()), |why| Err(StoreError::Commit(why.clone()))));
    }
}

/// Does `work` on the file while no station uses it: all of it is stored, or nothing.
///
/// # Errors
/// The file cannot be used, or cannot be written.
pub fn write_alone<T>(
    path: &Path,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T, OpenError> {
    // The writer is dropped first, so SQLite still has its locks when it closes the file.
    let (_store, mut writer) = Store::open(path)?;
    let transaction = writer.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = work(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

/// Copies the file at `from` to `to` while a station uses it.
///
/// # Errors
/// One of them cannot be used, or `to` is there already. Then nothing is left there.
pub fn backup(from: &Path, to: &Path) -> Result<(), OpenError> {
    let source = Connection::open_with_flags(from, flags(OpenFlags::SQLITE_OPEN_READ_ONLY))?;
    prepare(&source, READER_CACHE)?;
    migrations::check(&source)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(to).map_err(OpenError::Io)?;
    let copied = copy(&source, to);
    if copied.is_err() {
        // A part of a copy is no backup.
        let _ = std::fs::remove_file(to);
    }
    copied
}

fn copy(source: &Connection, to: &Path) -> Result<(), OpenError> {
    let mut target = Connection::open_with_flags(to, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))?;
    {
        // One transaction, so that writers cannot make it begin again and again.
        let backup = Backup::new(source, &mut target)?;
        loop {
            match backup.step(BACKUP_STEP)? {
                StepResult::Done => break,
                StepResult::More => {}
                _ => {
                    let _ = crossbeam_channel::never::<()>().recv_timeout(Duration::from_millis(50));
                }
            }
        }
    }
    target.pragma_update(None, "journal_mode", "DELETE")?;
    File::open(to).and_then(|file| file.sync_all()).map_err(OpenError::Io)
}

/// The writer's connection, to a file of today's version, with the lease.
fn connect(path: &Path, lease: &Lease) -> Result<Connection, OpenError> {
    let mut connection = Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))?;
    prepare(&connection, WRITER_CACHE)?;
    migrations::check(&connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    migrations::migrate(&mut connection)?;
    // The containers that this station makes bear this id.
    let sql = "INSERT OR IGNORE INTO about (name, value) VALUES ('station_id', ?1)";
    connection.execute(sql, [crate::ids::uuid()])?;
    lease.take(&connection)?;
    Ok(connection)
}

fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_ONLY))?;
    prepare(&connection, READER_CACHE)?;
    Ok(connection)
}

/// A connection belongs to one thread at a time, and paths are no URIs.
fn flags(access: OpenFlags) -> OpenFlags {
    access | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn prepare(connection: &Connection, cache: u32) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "cache_size", -i64::from(cache))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn opened(directory: &Path) -> Store {
        let (store, writer) = Store::open(&directory.join("db")).unwrap();
        std::thread::spawn(move || writer.run(&crossbeam_channel::never()));
        store
    }

    fn note(connection: &Connection, name: &str) -> rusqlite::Result<usize> {
        connection.execute("INSERT INTO about (name, value) VALUES (?1, '')", [name])
    }

    #[test]
    fn a_file_that_cannot_be_written_is_known_until_it_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let store = opened(directory.path());
        let other = Connection::open(directory.path().join("db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(store.write(|connection| note(connection, "x")).is_err() && !store.is_well());
        other.execute_batch("ROLLBACK").unwrap();
        assert!(store.write(|connection| note(connection, "x")).is_ok() && store.is_well());
        assert!(
            store.write(|connection| note(connection, "x")).is_err() && store.is_well(),
            "the name is taken"
        );
    }

    fn noted(store: &Store, like: &str) -> i64 {
        let sql = "SELECT count(*) FROM about WHERE name LIKE ?1";
        store.read(|connection| connection.query_row(sql, [like], |row| row.get(0))).unwrap()
    }

    #[test]
    fn what_fails_leaves_nothing_and_harms_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(opened(directory.path()));
        std::thread::scope(|scope| {
            for number in 0..64 {
                let store = Arc::clone(&store);
                scope.spawn(move || {
                    let written = store.write(move |connection| {
                        note(connection, &format!("x{number}"))?;
                        // The second one of the same name violates the primary key.
                        if number % 2 == 0 { note(connection, &format!("x{number}")) } else { Ok(1) }
                    });
                    assert_eq!(written.is_ok(), number % 2 == 1);
                });
            }
        });
        assert_eq!(noted(&store, "x%"), 32);
    }

    #[test]
    fn every_connection_is_set_up_alike() {
        let directory = tempfile::tempdir().unwrap();
        let store = opened(directory.path());
        let number = |connection: &Connection, name| {
            connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0))
        };
        let all = move |it: &Connection| {
            let mode = it.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0))?;
            Ok((number(it, "foreign_keys")?, number(it, "busy_timeout")?, mode))
        };
        let expected = (1, 5000, "wal".to_owned());
        assert_eq!(store.write(all).unwrap(), expected);
        // Two at once, so that the second is no connection that was kept.
        let both = store.read(|first| Ok((all(first)?, store.read(all).unwrap()))).unwrap();
        assert_eq!(both, (expected.clone(), expected));
    }

    #[test]
    fn a_second_station_and_foreign_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let store = opened(directory.path());
        assert!(matches!(Store::open(&path), Err(OpenError::Taken)));
        drop(store);
        let refused = |path: &Path| Store::open(path).err().map(|error| error.to_string());

        let foreign = directory.path().join("foreign");
        Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE x (y)").unwrap();
        assert!(refused(&foreign).unwrap().contains("another program"));

        let text = directory.path().join("text");
        std::fs::write(&text, "This is no database, and never was one.".repeat(100)).unwrap();
        assert!(refused(&text).unwrap().contains("damaged"));
        assert!(std::fs::read_to_string(&text).unwrap().starts_with("This"), "it is as it was");

        let newer = directory.path().join("newer");
        drop(Store::open(&newer).unwrap());
        let connection = Connection::open(&newer).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(refused(&newer).unwrap().contains("newer"));

        assert!(matches!(Store::open(directory.path()), Err(OpenError::Io(_))));
    }

    #[test]
    fn a_backup_is_made_while_others_write() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(opened(directory.path()));
        store.write(|connection| note(connection, "before")).unwrap();
        let (path, copy) = (directory.path().join("db"), directory.path().join("copy"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..200 {
                    store.write(move |connection| note(connection, &format!("n{number}"))).unwrap();
                }
            });
            backup(&path, &copy).unwrap();
        });
        let again = backup(&path, &copy).unwrap_err();
        assert!(matches!(again, OpenError::Io(error) if error.kind() == std::io::ErrorKind::AlreadyExists));
        let (copied, _writer) = Store::open(&copy).unwrap();
        assert_eq!(noted(&copied, "before"), 1);
    }
}
