//! Channels: where people are told, and the deliveries of each.

use pap_core::time::Wall;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;

use crate::filters::{Filters, QuietHours};
use crate::ids::{KeyHash, kept_hash};

/// The most channels: each has a thread.
pub const MAX_CHANNELS: usize = 64;

/// Counts the deliveries that are owed by channels that are on.
pub const OWED: &str = "SELECT count(*) FROM delivery d JOIN channel c ON c.id = d.channel
    WHERE d.state = 'owed' AND c.is_active";

/// The kinds of channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// JSON, posted to a URL.
    Webhook,
    /// A message in a Telegram chat.
    Telegram,
}

impl Kind {
    /// Its name in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Telegram => "telegram",
        }
    }
}

/// A channel with all that delivering needs.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Its id.
    pub id: i64,
    /// Its kind.
    pub kind: Kind,
    /// A URL, or a chat's id.
    pub target: String,
    /// The secret that signs.
    pub secret: Option<String>,
    /// Whether `X-LunaSentri-Signature` is sent too.
    pub signs_as_original: bool,
    /// The key of that signature, if the secret is not known.
    pub original_key: Option<KeyHash>,
    /// Whether it is told anything.
    pub is_active: bool,
    /// What it wants.
    pub filters: Option<Filters>,
    /// At which hours nothing is sent.
    pub quiet_hours: Option<QuietHours>,
    /// How its deliveries went.
    pub record: Record,
}

/// How deliveries to a channel went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Record {
    /// Failures since the last success.
    pub failure_count: u64,
    /// The last attempt,
    pub last_attempt_at: Option<Wall>,
    /// the last that was taken,
    pub last_success_at: Option<Wall>,
    /// the last that was not,
    pub last_error_at: Option<Wall>,
    /// and why.
    pub last_error: Option<String>,
    /// When it was made,
    pub created_at: Wall,
    /// and changed.
    pub updated_at: Wall,
}

const COLUMNS: &str = "id, kind, target, secret, signs_as_original, original_key, is_active, filters,
    quiet_hours, failure_count, last_attempt_at, last_success_at, last_error_at, last_error, created_at,
    updated_at";

fn channel(row: &Row<'_>) -> rusqlite::Result<Channel> {
    let wall = |column| row.get::<_, Option<u64>>(column).map(|at| at.map(Wall));
    // They were checked when they were stored.
    let filters = row.get::<_, Option<String>>(7)?.and_then(|json| serde_json::from_str(&json).ok());
    let quiet_hours = row.get::<_, Option<String>>(8)?.and_then(|json| serde_json::from_str(&json).ok());
    Ok(Channel {
        id: row.get(0)?,
        kind: if row.get_ref(1)?.as_str()? == "webhook" { Kind::Webhook } else { Kind::Telegram },
        target: row.get(2)?,
        secret: row.get(3)?,
        signs_as_original: row.get(4)?,
        original_key: row.get_ref(5)?.as_blob_or_null()?.and_then(kept_hash),
        is_active: row.get(6)?,
        filters,
        quiet_hours,
        record: Record {
            failure_count: row.get(9)?,
            last_attempt_at: wall(10)?,
            last_success_at: wall(11)?,
            last_error_at: wall(12)?,
            last_error: row.get(13)?,
            created_at: Wall(row.get(14)?),
            updated_at: Wall(row.get(15)?),
        },
    })
}

/// The channels of a kind, the oldest first.
///
/// # Errors
/// They cannot be read.
pub fn list(connection: &Connection, kind: Kind) -> rusqlite::Result<Vec<Channel>> {
    let sql = format!("SELECT {COLUMNS} FROM channel WHERE kind = ?1 ORDER BY id");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([kind.name()], channel)?;
    rows.collect()
}

/// One channel.
///
/// # Errors
/// It cannot be read.
pub fn find(connection: &Connection, id: i64) -> rusqlite::Result<Option<Channel>> {
    let sql = format!("SELECT {COLUMNS} FROM channel WHERE id = ?1");
    connection.prepare_cached(&sql)?.query_row([id], channel).optional()
}

/// The ids of the channels that are told.
///
/// # Errors
/// They cannot be read.
pub fn active(connection: &Connection) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached("SELECT id FROM channel WHERE is_active")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    rows.collect()
}

/// What a channel is made of, or what is changed of it.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// A URL, or a chat's id.
    pub target: Option<String>,
    /// The secret that signs.
    pub secret: Option<String>,
    /// Whether `X-LunaSentri-Signature` is sent too.
    pub signs_as_original: Option<bool>,
    /// The key of that signature, if the secret is not known.
    pub original_key: Option<KeyHash>,
    /// Whether it is told anything.
    pub is_active: Option<bool>,
    /// What it wants; None in it for everything.
    pub filters: Option<Option<Filters>>,
    /// At which hours nothing is sent; None in it for none.
    pub quiet_hours: Option<Option<QuietHours>>,
}

/// Why a channel is not made or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Another channel has the same URL or chat.
    Taken,
    /// There are [`MAX_CHANNELS`] already.
    Full,
    /// There is no such channel.
    Missing,
    /// Its secret is not known, and the change would leave out the one signature that needs no
    /// secret.
    Unsigned,
}

/// Makes a channel.
///
/// # Errors
/// It cannot be stored.
pub fn create(
    connection: &Connection,
    now: Wall,
    kind: Kind,
    changes: &Changes,
) -> rusqlite::Result<Result<i64, Conflict>> {
    let target = changes.target.as_deref().unwrap_or_default();
    if is_taken(connection, kind, target, 0)? {
        return Ok(Err(Conflict::Taken));
    }
    let count: usize = connection.query_row("SELECT count(*) FROM channel", [], |row| row.get(0))?;
    if count >= MAX_CHANNELS {
        return Ok(Err(Conflict::Full));
    }
    connection.execute(
        "INSERT INTO channel (kind, target, created_at, updated_at) VALUES (?1, ?2, ?3, ?3)",
        params![kind.name(), target, now.0],
    )?;
    let id = connection.last_insert_rowid();
    update(connection, now, id, changes)?;
    Ok(Ok(id))
}

fn is_taken(connection: &Connection, kind: Kind, target: &str, but: i64) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM channel WHERE kind = ?1 AND target = ?2 AND id <> ?3)";
    connection.query_row(sql, params![kind.name(), target, but], |row| row.get(0))
}

/// Changes a channel.
///
/// # Errors
/// It cannot be stored.
pub fn change(
    connection: &Connection,
    now: Wall,
    (kind, id): (Kind, i64),
    changes: &Changes,
) -> rusqlite::Result<Result<(), Conflict>> {
    let Some(channel) = find(connection, id)?.filter(|channel| channel.kind == kind) else {
        return Ok(Err(Conflict::Missing));
    };
    let has_secret = channel.secret.is_some() || changes.secret.is_some();
    if kind == Kind::Webhook && !has_secret && changes.signs_as_original == Some(false) {
        return Ok(Err(Conflict::Unsigned));
    }
    if let Some(target) = &changes.target
        && is_taken(connection, kind, target, id)?
    {
        return Ok(Err(Conflict::Taken));
    }
    update(connection, now, id, changes)?;
    Ok(Ok(()))
}

fn update(connection: &Connection, now: Wall, id: i64, changes: &Changes) -> rusqlite::Result<()> {
    let Changes { target, secret, signs_as_original, original_key, is_active, filters, quiet_hours } =
        changes;
    let json = |value: Option<serde_json::Result<String>>| value.and_then(Result::ok);
    connection.execute(
        "UPDATE channel SET target = ifnull(?2, target), secret = ifnull(?3, secret),
         secret_last_four = ifnull(substr(?3, -4), secret_last_four),
         signs_as_original = ifnull(?4, signs_as_original), is_active = ifnull(?5, is_active),
         filters = iif(?6, ?7, filters), quiet_hours = iif(?8, ?9, quiet_hours), updated_at = ?10,
         failure_count = iif(?5, 0, failure_count),
         original_key = iif(?3 IS NULL, ifnull(?11, original_key), NULL) WHERE id = ?1",
        params![
            id,
            target,
            secret,
            signs_as_original,
            is_active,
            filters.is_some(),
            json(filters.as_ref().and_then(Option::as_ref).map(serde_json::to_string)),
            quiet_hours.is_some(),
            json(quiet_hours.as_ref().and_then(Option::as_ref).map(serde_json::to_string)),
            now.0,
            original_key
        ],
    )?;
    Ok(())
}

/// Removes a channel with its deliveries. Returns whether there was one.
///
/// # Errors
/// It cannot be stored.
pub fn remove(connection: &Connection, kind: Kind, id: i64) -> rusqlite::Result<bool> {
    let removed =
        connection.execute("DELETE FROM channel WHERE id = ?1 AND kind = ?2", params![id, kind.name()])?;
    Ok(removed > 0)
}

/// A delivery that is owed.
#[derive(Clone, Debug)]
pub struct Owed {
    /// Its row.
    pub id: i64,
    /// Its id, the same at each attempt.
    pub uuid: String,
    /// How often it was tried.
    pub attempts: u32,
    /// For how long it was tried, in milliseconds.
    pub tried_ms: u64,
    /// The event's name.
    pub event: String,
    /// A webhook's body.
    pub body: String,
    /// The message for a person.
    pub line: String,
}

/// The owed deliveries of a channel, the oldest first; of those with the same subject only
/// the first, unless `all` are wanted.
///
/// # Errors
/// They cannot be read.
pub fn owed(connection: &Connection, channel: i64, all: bool, limit: usize) -> rusqlite::Result<Vec<Owed>> {
    let mut statement = connection.prepare_cached(
        "SELECT d.id, d.uuid, d.attempts, d.tried_ms, e.name, e.body, e.line
         FROM delivery d JOIN event e ON e.id = d.event
         WHERE d.channel = ?1 AND d.state = 'owed' AND (?2 OR NOT EXISTS (
             SELECT 1 FROM delivery f WHERE f.channel = d.channel AND f.subject = d.subject
             AND f.state = 'owed' AND f.id < d.id))
         ORDER BY d.id LIMIT ?3",
    )?;
    let rows = statement.query_map(params![channel, all, limit], |row| {
        Ok(Owed {
            id: row.get(0)?,
            uuid: row.get(1)?,
            attempts: row.get(2)?,
            tried_ms: row.get(3)?,
            event: row.get(4)?,
            body: row.get(5)?,
            line: row.get(6)?,
        })
    })?;
    rows.collect()
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is delivered.
    Delivered,
    /// It is refused for good, and why.
    Refused(String),
    /// It is refused for good, and the channel is turned off.
    Gone(String),
    /// It is tried again, or given up if it was tried for long enough.
    Failed(String),
}

/// Takes note of an attempt at these deliveries, each with how long it was tried by now. If the
/// channel was changed meanwhile, only a success counts: a failure was of the channel as it was
/// before.
///
/// # Errors
/// It cannot be stored.
pub fn settle(
    connection: &Connection,
    now: Wall,
    (channel, updated_at): (i64, Wall),
    deliveries: &[(i64, u64)],
    outcome: &Outcome,
    give_up_ms: u64,
) -> rusqlite::Result<()> {
    let sql = "SELECT EXISTS (SELECT 1 FROM channel WHERE id = ?1 AND updated_at = ?2)";
    let is_same: bool =
        connection.prepare_cached(sql)?.query_row(params![channel, updated_at.0], |row| row.get(0))?;
    if !is_same && *outcome != Outcome::Delivered {
        return Ok(());
    }
    for &(delivery, tried_ms) in deliveries {
        let (state, error) = match outcome {
            Outcome::Delivered => ("delivered", None),
            Outcome::Refused(why) | Outcome::Gone(why) => ("refused", Some(why)),
            Outcome::Failed(why) if tried_ms >= give_up_ms => ("given_up", Some(why)),
            Outcome::Failed(why) => ("owed", Some(why)),
        };
        connection
            .prepare_cached(
                "UPDATE delivery SET state = ?2, attempts = attempts + 1, tried_ms = ?3, last_error = ?4,
                 ended_at = iif(?2 = 'owed', NULL, ?5) WHERE id = ?1 AND channel = ?6 AND state = 'owed'",
            )?
            // The channel may be removed, and the row's number then another delivery's.
            .execute(params![delivery, state, tried_ms, error, now.0, channel])?;
    }
    let error = match outcome {
        Outcome::Delivered => None,
        Outcome::Refused(why) | Outcome::Gone(why) | Outcome::Failed(why) => Some(why),
    };
    connection
        .prepare_cached(
            "UPDATE channel SET last_attempt_at = ?2, last_success_at = iif(?3 IS NULL, ?2, last_success_at),
             failure_count = iif(?3 IS NULL, 0, failure_count + 1),
             last_error_at = iif(?3 IS NULL, last_error_at, ?2), last_error = ifnull(?3, last_error),
             is_active = iif(?4, 0, is_active) WHERE id = ?1",
        )?
        .execute(params![channel, now.0, error, matches!(outcome, Outcome::Gone(_))])?;
    Ok(())
}

/// A delivery as it is shown.
#[derive(Debug, Serialize)]
pub struct DeliveryView {
    id: String,
    event: String,
    line: String,
    state: String,
    attempts: u32,
    last_error: Option<String>,
    at: Wall,
    ended_at: Option<Wall>,
}

/// The deliveries of a channel, the newest first, and how many there are.
///
/// # Errors
/// They cannot be read.
pub fn deliveries(
    connection: &Connection,
    channel: i64,
    limit: u32,
) -> rusqlite::Result<(Vec<DeliveryView>, u64)> {
    let sql = "SELECT count(*) FROM delivery WHERE channel = ?1";
    let total = connection.prepare_cached(sql)?.query_row([channel], |row| row.get(0))?;
    let mut statement = connection.prepare_cached(
        "SELECT d.uuid, e.name, e.line, d.state, d.attempts, d.last_error, e.at, d.ended_at
         FROM delivery d JOIN event e ON e.id = d.event WHERE d.channel = ?1 ORDER BY d.id DESC LIMIT ?2",
    )?;
    let rows = statement.query_map(params![channel, limit], |row| {
        Ok(DeliveryView {
            id: row.get(0)?,
            event: row.get(1)?,
            line: row.get(2)?,
            state: row.get(3)?,
            attempts: row.get(4)?,
            last_error: row.get(5)?,
            at: Wall(row.get(6)?),
            ended_at: row.get::<_, Option<u64>>(7)?.map(Wall),
        })
    })?;
    Ok((rows.collect::<rusqlite::Result<Vec<_>>>()?, total))
}
