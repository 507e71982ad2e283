//! The versions of the file, and how an older one becomes today's.
//!
//! A migration is never changed once it was released: a test starts from a stored file of
//! each version.

use rusqlite::{Connection, TransactionBehavior};

use super::OpenError;

/// "PAPS": whose file it is (PRAGMA application_id).
const APPLICATION: u32 = 0x5041_5053;

/// From each version to the next one, beginning with an empty file.
const MIGRATIONS: [&str; 2] = [include_str!("0001.sql"), include_str!("0002.sql")];

/// Today's version.
#[expect(clippy::cast_possible_truncation, reason = "there are few")]
pub const VERSION: u32 = MIGRATIONS.len() as u32;

/// Whether the file is one of ours that this program knows.
///
/// # Errors
/// It is not, or it is damaged.
pub fn check(connection: &Connection) -> Result<(), OpenError> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, version, tables) {
        (0, 0, 0) => return Ok(()),
        (APPLICATION, 1..=VERSION, _) => {}
        (APPLICATION, newer, _) => return Err(OpenError::Newer(newer, VERSION)),
        _ => return Err(OpenError::Foreign),
    }
    let well: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    // SQLite's text has several lines, and a start that fails shows one line.
    if well == "ok" { Ok(()) } else { Err(OpenError::Damaged(well.replace('\n', " "))) }
}

/// Brings the file to today's version, all at once or not at all.
///
/// # Errors
/// It is as it was.
pub fn migrate(connection: &mut Connection) -> Result<(), OpenError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version = transaction.pragma_query_value(None, "user_version", |row| row.get::<_, usize>(0))?;
    for migration in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(())
}
