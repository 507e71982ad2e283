//! LunaSentri's file: opened without a change to it, and read as a whole.
//!
//! Its schema grew by migrations, so a table or a column may be missing; then there was nothing
//! in it.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fmt, io};

use jiff::Timestamp;
use pap_core::time::Wall;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::ids::{self, KeyHash, hash_from_hex};

/// The endings of the names of files that hold what is not in the file itself yet.
const BESIDE: [&str; 2] = ["-wal", "-journal"];

/// Why it cannot be read. Nothing was changed anywhere.
#[derive(Debug)]
pub enum SourceError {
    /// It is not there, or cannot be opened or copied.
    Io(io::Error),
    /// It is no database, or another program's.
    Foreign,
    /// It changed meanwhile: LunaSentri runs.
    InUse,
    /// SQLite cannot read it.
    Sqlite(rusqlite::Error),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Foreign => f.write_str("it is no database of LunaSentri"),
            Self::InUse => f.write_str("it changed while it was read; stop LunaSentri, and import again"),
            Self::Sqlite(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SourceError {}

impl From<io::Error> for SourceError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rusqlite::Error> for SourceError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::Foreign,
            _ => Self::Sqlite(error),
        }
    }
}

/// What LunaSentri knows, as far as a station has a place for it.
#[derive(Debug)]
pub struct Original {
    /// By their ids.
    pub machines: Vec<Machine>,
    /// Webhooks that are on come first; then they are ordered by their ids.
    pub webhooks: Vec<Webhook>,
    /// In the same order.
    pub chats: Vec<Chat>,
    /// How many rules about percentages there are.
    pub rules: u64,
}

/// A machine of LunaSentri.
#[derive(Debug)]
pub struct Machine {
    pub id: i64,
    pub user: i64,
    pub name: String,
    pub hostname: String,
    pub description: String,
    pub is_enabled: bool,
    pub is_online: bool,
    pub last_seen: Option<Wall>,
    pub created_at: Option<Wall>,
    /// The hashes of the keys that are taken, the newest first,
    pub keys: Vec<KeyHash>,
    /// and of the keys that are not taken any more.
    pub revoked: Vec<KeyHash>,
    pub platform: Option<String>,
    pub platform_version: Option<String>,
    pub kernel_version: Option<String>,
    pub cpu_cores: Option<i64>,
    pub memory_total_mb: Option<i64>,
    pub disk_total_gb: Option<i64>,
    pub last_boot_time: Option<Wall>,
}

/// A webhook of LunaSentri.
#[derive(Debug)]
pub struct Webhook {
    pub id: i64,
    pub user: i64,
    pub url: String,
    /// The SHA-256 of its secret, which is the key of its signature.
    pub key: Option<KeyHash>,
    pub is_active: bool,
}

/// A Telegram recipient of LunaSentri.
#[derive(Debug)]
pub struct Chat {
    pub user: i64,
    pub id: String,
    pub is_active: bool,
}

/// Reads the file. If it was not closed properly, SQLite must repair it first: then a copy
/// of it is made beside `scratch`, is read, and is removed.
///
/// # Errors
/// It cannot be read.
pub fn read(file: &Path, scratch: &Path) -> Result<Original, SourceError> {
    // SQLite looks beside the file itself, not beside a link to it.
    let file = fs::canonicalize(file)?;
    if !file.is_file() {
        return Err(SourceError::Foreign);
    }
    let before = state(&file);
    let is_unfinished = BESIDE.iter().any(|end| fs::metadata(with(&file, end)).is_ok_and(|it| it.len() > 0));
    let original = if is_unfinished {
        let copy = Copy::of(&file, scratch)?;
        read_all(&open(&copy.0.join("db"), OpenFlags::SQLITE_OPEN_READ_WRITE, "")?)?
    } else {
        // Immutable: its directory may be one that nobody can write to, and no files appear there.
        read_all(&open(&file, OpenFlags::SQLITE_OPEN_READ_ONLY, "?immutable=1")?)?
    };
    // Neither way of reading notices the locks of a program that writes the file.
    if state(&file) == before { Ok(original) } else { Err(SourceError::InUse) }
}

fn with(file: &Path, end: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// What shows that the file, or a file beside it, was changed.
fn state(file: &Path) -> Vec<Option<(u64, SystemTime)>> {
    let all = ["", BESIDE[0], BESIDE[1]].into_iter().map(|end| fs::metadata(with(file, end)).ok());
    all.map(|it| it.and_then(|it| Some((it.len(), it.modified().ok()?)))).collect()
}

fn open(path: &Path, access: OpenFlags, query: &str) -> rusqlite::Result<Connection> {
    let path = percent_encode(path.as_os_str().as_bytes(), NON_ALPHANUMERIC);
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(format!("file:{path}{query}"), flags)
}

/// A directory with copies. It is removed when this value is dropped.
struct Copy(PathBuf);

impl Copy {
    fn of(file: &Path, scratch: &Path) -> io::Result<Self> {
        let directory = std::path::absolute(with(scratch, &format!("-import-{}", ids::uuid())))?;
        DirBuilder::new().mode(0o700).create(&directory)?;
        let copy = Self(directory);
        for end in ["", BESIDE[0], BESIDE[1]] {
            let mut from = match File::open(with(file, end)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            let to = with(&copy.0.join("db"), end);
            io::copy(&mut from, &mut OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?)?;
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // If this fails, the copies stay, readable for their owner alone.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn read_all(connection: &Connection) -> Result<Original, SourceError> {
    if !columns(connection, "migrations")?.contains("version")
        || !columns(connection, "users")?.contains("email")
    {
        return Err(SourceError::Foreign);
    }
    let rules = if columns(connection, "alert_rules")?.is_empty() {
        0
    } else {
        connection.query_row("SELECT count(*) FROM alert_rules", [], |row| row.get(0))?
    };
    Ok(Original {
        machines: machines(connection)?,
        webhooks: webhooks(connection)?,
        chats: chats(connection)?,
        rules,
    })
}

/// The columns of a table; none if there is no such table.
fn columns(connection: &Connection, table: &str) -> rusqlite::Result<HashSet<String>> {
    let mut statement = connection.prepare(
        "SELECT c.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c WHERE t.type = 'table' AND t.name = ?1",
    )?;
    let names = statement.query_map([table], |row| row.get(0))?;
    names.collect()
}

fn machines(connection: &Connection) -> rusqlite::Result<Vec<Machine>> {
    let there = columns(connection, "machines")?;
    if there.is_empty() {
        return Ok(Vec::new());
    }
    let or = |name: &'static str, other| if there.contains(name) { name } else { other };
    let sql = format!(
        "SELECT id, user_id, CAST(name AS TEXT), CAST(ifnull(hostname, '') AS TEXT),
         CAST(ifnull({}, '') AS TEXT), ifnull({}, 1) <> 0, ifnull(status, '') = 'online', CAST(last_seen AS TEXT),
         CAST(created_at AS TEXT), CAST({} AS TEXT), CAST({} AS TEXT), CAST({} AS TEXT), CAST({} AS INTEGER),
         CAST({} AS INTEGER), CAST({} AS INTEGER), CAST({} AS TEXT), CAST(api_key AS TEXT)
         FROM machines ORDER BY id",
        or("description", "NULL"),
        or("is_enabled", "NULL"),
        or("platform", "NULL"),
        or("platform_version", "NULL"),
        or("kernel_version", "NULL"),
        or("cpu_cores", "NULL"),
        or("memory_total_mb", "NULL"),
        or("disk_total_gb", "NULL"),
        or("last_boot_time", "NULL"),
    );
    let mut statement = connection.prepare(&sql)?;
    let time = |text: Option<String>| text.and_then(|text| time(&text));
    let rows = statement.query_map([], |row| {
        Ok(Machine {
            id: row.get(0)?,
            user: row.get(1)?,
            name: row.get(2)?,
            hostname: row.get(3)?,
            description: row.get(4)?,
            is_enabled: row.get(5)?,
            is_online: row.get(6)?,
            last_seen: time(row.get(7)?),
            created_at: time(row.get(8)?),
            platform: row.get(9)?,
            platform_version: row.get(10)?,
            kernel_version: row.get(11)?,
            cpu_cores: row.get(12)?,
            memory_total_mb: row.get(13)?,
            disk_total_gb: row.get(14)?,
            last_boot_time: time(row.get(15)?),
            keys: hash_from_hex(&row.get::<_, String>(16)?).into_iter().collect(),
            revoked: Vec::new(),
        })
    })?;
    let mut machines = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    if !columns(connection, "machine_api_keys")?.is_empty() {
        for machine in &mut machines {
            read_keys(connection, machine)?;
        }
    }
    Ok(machines)
}

/// The keys of a machine. If there is a table of keys, the machine's own column keeps its first
/// key for ever, and LunaSentri does not read the column any more.
fn read_keys(connection: &Connection, machine: &mut Machine) -> rusqlite::Result<()> {
    machine.keys.clear();
    let mut statement = connection.prepare_cached(
        "SELECT CAST(api_key_hash AS TEXT), revoked_at IS NULL FROM machine_api_keys WHERE machine_id = ?1
         ORDER BY id DESC",
    )?;
    let mut rows = statement.query([machine.id])?;
    while let Some(row) = rows.next()? {
        let Some(hash) = hash_from_hex(row.get_ref(0)?.as_str()?) else { continue };
        if row.get(1)? { machine.keys.push(hash) } else { machine.revoked.push(hash) }
    }
    Ok(())
}

fn webhooks(connection: &Connection) -> rusqlite::Result<Vec<Webhook>> {
    if columns(connection, "webhooks")?.is_empty() {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare(
        "SELECT id, user_id, CAST(url AS TEXT), CAST(secret_hash AS TEXT), ifnull(is_active, 1) <> 0
         FROM webhooks ORDER BY 5 DESC, id",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Webhook {
            id: row.get(0)?,
            user: row.get(1)?,
            url: row.get(2)?,
            key: hash_from_hex(row.get_ref(3)?.as_str()?),
            is_active: row.get(4)?,
        })
    })?;
    rows.collect()
}

fn chats(connection: &Connection) -> rusqlite::Result<Vec<Chat>> {
    if columns(connection, "telegram_recipients")?.is_empty() {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare(
        "SELECT user_id, CAST(chat_id AS TEXT), ifnull(is_active, 1) <> 0
         FROM telegram_recipients ORDER BY 3 DESC, id",
    )?;
    let rows = statement
        .query_map([], |row| Ok(Chat { user: row.get(0)?, id: row.get(1)?, is_active: row.get(2)? }))?;
    rows.collect()
}

/// A time as SQLite writes it (UTC), or as Go prints one: with the offset, and perhaps with
/// the zone's name and a monotonic reading. None before 1970: Go's zero is the year 1.
fn time(text: &str) -> Option<Wall> {
    let mut words = text.split_whitespace();
    let (date, clock) = (words.next()?, words.next()?);
    let offset = words.next().unwrap_or("Z");
    let at: Timestamp = format!("{date}T{clock}{offset}").parse().ok()?;
    u64::try_from(at.as_millisecond()).ok().map(Wall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_and_sqlite_write_them() {
        let at = |text| time(text).map(|at| at.to_string());
        let noon = Some("2025-10-11T12:00:00.000Z".to_owned());
        assert_eq!(at("2025-10-11 12:00:00"), noon);
        assert_eq!(at("2025-10-11 12:00:00.000999999 +0000 UTC m=+0.000123456"), noon);
        assert_eq!(at("2025-10-11 14:00:00 +0200 CEST"), noon);
        assert_eq!(at("2025-10-11 17:30:00 +0530 +0530 m=+7.5"), noon);
        for none in ["", "0001-01-01 00:00:00 +0000 UTC", "2025-10-11", "yesterday at noon", "1760184000"] {
            assert_eq!(at(none), None, "{none}");
        }
    }
}
