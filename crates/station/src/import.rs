//! Takes over from the machine monitor LunaSentri: its machines with the hashes of their keys,
//! its webhooks with the hashes of their secrets, and its Telegram chats.
//!
//! LunaSentri's file is read as a whole before the station's file is opened, and that one is
//! written in one transaction. What is here already is left as it is, so a second import adds
//! only what is new.

mod source;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use pap_core::time::Wall;
use pap_process::cli::{BAD_CONFIG, IO_ERROR};
use pap_process::clock::wall;
use pap_process::url::Url;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::app::StartError;
use crate::channels::{self, Changes, Conflict, Kind, MAX_CHANNELS};
use crate::ids::KeyHash;
use crate::machines::MAX_TEXT;
use crate::notify::{check_url, hidden_url};
use crate::reach::Reach;
use crate::store;
use source::{Machine, Original, SourceError};

/// Why nothing is taken over.
#[derive(Debug)]
pub enum ImportError {
    /// LunaSentri's file cannot be read: its path, and why.
    Source(String, SourceError),
    /// The station's file cannot be written.
    Store(StartError),
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(path, error) => write!(f, "cannot import {path}: {error}"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ImportError {}

impl ImportError {
    /// The exit code of the process.
    pub const fn code(&self) -> i32 {
        match self {
            Self::Source(_, SourceError::Foreign | SourceError::InUse) => BAD_CONFIG,
            Self::Source(_, SourceError::Io(_) | SourceError::Sqlite(_)) => IO_ERROR,
            Self::Store(error) => error.code(),
        }
    }
}

/// Takes over what is in `file` into the station's file at `database`. Returns what to tell the
/// user: a line for each thing that is left, and a summary.
///
/// # Errors
/// Nothing is taken over.
pub fn run(file: &Path, database: &Path, reach: &Reach) -> Result<String, ImportError> {
    let original = source::read(file, database)
        .map_err(|error| ImportError::Source(file.display().to_string(), error))?;
    let now = wall();
    let done = store::write_alone(database, |connection| {
        let mut done = Done::default();
        take_machines(connection, now, &original, &mut done)?;
        take_channels(connection, now, &original, reach, &mut done)?;
        Ok(done)
    });
    let done =
        done.map_err(|error| ImportError::Store(StartError::Open(database.display().to_string(), error)))?;
    Ok(done.report(&original))
}

/// What was done with machines, webhooks and chats.
#[derive(Debug, Default)]
struct Done {
    taken: [usize; 3],
    known: [usize; 3],
    /// What is left, and why.
    left: Vec<String>,
}

const MACHINES: usize = 0;

const fn place(kind: Kind) -> usize {
    match kind {
        Kind::Webhook => 1,
        Kind::Telegram => 2,
    }
}

impl Done {
    fn report(mut self, original: &Original) -> String {
        if original.rules > 0 {
            let rules = count(usize::try_from(original.rules).unwrap_or(usize::MAX), "alert rule");
            self.left.push(format!("left: {rules} of LunaSentri, because a station has none"));
        }
        let users: HashSet<i64> = original.machines.iter().map(|it| it.user).collect();
        let told = original.webhooks.iter().map(|it| it.user).chain(original.chats.iter().map(|it| it.user));
        if self.taken[1] + self.taken[2] > 0 && told.chain(users).collect::<HashSet<_>>().len() > 1 {
            self.left.push(
                "LunaSentri told each of its users of the user's own machines; the station tells each channel \
                 of all machines, unless the channel has filters"
                    .into(),
            );
        }
        let of_these = |counts: [usize; 3]| {
            let parts = counts.into_iter().zip(["machine", "webhook", "Telegram chat"]);
            let parts: Vec<_> = parts.filter(|(it, _)| *it > 0).map(|(it, noun)| count(it, noun)).collect();
            let is_one = counts.iter().sum::<usize>() == 1;
            (!parts.is_empty()).then(|| (listed(&parts), is_one))
        };
        let taken = match of_these(self.taken) {
            Some((all, true)) => format!("{all} is taken over"),
            Some((all, false)) => format!("{all} are taken over"),
            None => "nothing is taken over".into(),
        };
        let known = match of_these(self.known) {
            Some((all, true)) => format!("; {all} was there already"),
            Some((all, false)) => format!("; {all} were there already"),
            None => String::new(),
        };
        self.left.push(format!("{taken}{known}"));
        self.left.join("\n")
    }
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn listed(parts: &[String]) -> String {
    match parts {
        [before @ .., last] if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        _ => parts.concat(),
    }
}

fn take_machines(
    connection: &Connection,
    now: Wall,
    original: &Original,
    done: &mut Done,
) -> rusqlite::Result<()> {
    let last: Option<i64> = connection
        .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'machine'", [], |row| row.get(0))
        .optional()?;
    let last = last.unwrap_or(0);
    // An id that a machine of the station has or had is never given again. Machines that keep
    // their ids come first, so that no new id is one of these.
    let (keeping, others): (Vec<_>, Vec<_>) = original.machines.iter().partition(|it| it.id > last);
    for machine in keeping.into_iter().chain(others) {
        let label = format!("machine {} ({})", machine.id, cut(&machine.name));
        // The key may have been rotated since, here or there.
        let mut is_known = false;
        for key in machine.keys.iter().chain(&machine.revoked) {
            is_known |= has_key(connection, key)?;
        }
        let key = machine.keys.first();
        if is_known {
            done.known[MACHINES] += 1;
            if let Some(key) = key
                && !has_key(connection, key)?
            {
                done.left.push(format!("{label} is there already, and its newest key of LunaSentri is left"));
            }
            continue;
        }
        let Some(key) = key else {
            done.left.push(format!("{label} is left: LunaSentri takes no key of it; register it anew"));
            continue;
        };
        let id = insert(connection, now, machine, (machine.id > last).then_some(machine.id), key)?;
        done.taken[MACHINES] += 1;
        if id != machine.id {
            let here = format!("{label} has the id {id} here: another machine has or had its id");
            done.left.push(here);
        }
        if let older @ 1.. = machine.keys.len() - 1 {
            done.left.push(format!(
                "{} of {label}: left, only the newest key is taken",
                count(older, "older key")
            ));
        }
    }
    Ok(())
}

fn has_key(connection: &Connection, key: &KeyHash) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM machine WHERE key_hash = ?1 OR former_key_hash = ?1)";
    connection.prepare_cached(sql)?.query_row([key], |row| row.get(0))
}

/// A text, cut to the length that the station allows: LunaSentri has no limit.
fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// Stores a machine.
fn insert(
    connection: &Connection,
    now: Wall,
    machine: &Machine,
    id: Option<i64>,
    key: &KeyHash,
) -> rusqlite::Result<i64> {
    // A machine that was online has its full time after the station's start; if it is not heard
    // by then, that is told. LunaSentri has told that a machine went offline: here such a machine
    // is offline without an incident, so that neither its silence nor its return is told.
    // LunaSentri also calls a machine offline that it has never seen; here that machine is
    // unknown, and so is a machine that is not watched.
    let status = match machine.last_seen {
        Some(_) if machine.is_enabled && machine.is_online => "online",
        Some(_) if machine.is_enabled => "offline",
        _ => "unknown",
    };
    connection.execute(
        "INSERT INTO machine (id, name, hostname, description, key_hash, is_enabled, status, last_seen, platform,
         platform_version, kernel_version, cpu_cores, memory_total_mb, disk_total_gb, last_boot_time, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        params![
            id,
            cut(&machine.name),
            cut(&machine.hostname),
            cut(&machine.description),
            key,
            machine.is_enabled,
            status,
            machine.last_seen.map(|at| at.min(now).0),
            machine.platform.as_deref().map(cut),
            machine.platform_version.as_deref().map(cut),
            machine.kernel_version.as_deref().map(cut),
            machine.cpu_cores,
            machine.memory_total_mb,
            machine.disk_total_gb,
            machine.last_boot_time.map(|at| at.to_string()),
            machine.created_at.unwrap_or(now).min(now).0,
        ],
    )?;
    Ok(connection.last_insert_rowid())
}

/// A channel to be made: its label, and what it is made of or why it cannot be.
type Wanted = (Kind, String, Result<Changes, &'static str>);

fn take_channels(
    connection: &Connection,
    now: Wall,
    original: &Original,
    reach: &Reach,
    done: &mut Done,
) -> rusqlite::Result<()> {
    let webhooks = original.webhooks.iter().map(|it| -> Wanted {
        // The path of a URL may be a secret, and text that is no URL is not shown at all.
        let shown = Url::parse(&it.url).map(|url| format!(" ({})", hidden_url(url.as_str())));
        let label = format!("webhook {}{}", it.id, shown.unwrap_or_default());
        let changes = check_url(reach, &it.url).and_then(|url| {
            let key = it.key.ok_or("LunaSentri has no hash of its secret")?;
            Ok(Changes {
                target: Some(url),
                signs_as_original: Some(true),
                original_key: Some(key),
                is_active: Some(it.is_active),
                ..Changes::default()
            })
        });
        (Kind::Webhook, label, changes)
    });
    let chats = original.chats.iter().map(|it| -> Wanted {
        let changes = it.id.trim().parse().map_err(|_| "its id is no number").map(|id: i64| Changes {
            target: Some(id.to_string()),
            is_active: Some(it.is_active),
            ..Changes::default()
        });
        (Kind::Telegram, format!("Telegram chat {}", it.id), changes)
    });
    // Several users of LunaSentri may have the same URL or chat: the first one is taken.
    let mut firsts = HashMap::new();
    for (kind, label, changes) in webhooks.chain(chats) {
        let changes = match changes {
            Ok(changes) => changes,
            Err(why) => {
                done.left.push(format!("{label} is left: {why}"));
                continue;
            }
        };
        if let Some(first) = firsts.get(&(place(kind), changes.target.clone())) {
            done.left.push(format!("{label} is left: another user's {first} leads to the same place"));
            continue;
        }
        match channels::create(connection, now, kind, &changes)? {
            Ok(_) => done.taken[place(kind)] += 1,
            Err(Conflict::Taken) => done.known[place(kind)] += 1,
            Err(Conflict::Full | Conflict::Missing | Conflict::Unsigned) => {
                done.left.push(format!("{label} is left: there are {MAX_CHANNELS} channels already"));
            }
        }
        firsts.insert((place(kind), changes.target), label);
    }
    Ok(())
}
