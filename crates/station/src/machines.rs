//! Machines: what they say of themselves, and when they are offline.

use pap_core::time::Wall;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::access::FORMER_KEY;
use crate::event::Event;
use crate::ids::{self, hash};
use crate::incidents::{self, Closer, MachineFacts, Subject, whole_seconds};

/// The longest text that is kept of a machine, in characters.
pub const MAX_TEXT: usize = 255;

/// A machine as it is shown: no key and no hash of one.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// What people say about it.
    pub description: String,
    /// Whether it is watched.
    pub is_enabled: bool,
    /// `unknown`, `online` or `offline`.
    pub status: String,
    /// When it was last heard.
    pub last_seen: Option<Wall>,
    cpu_pct: Option<f64>,
    mem_used_pct: Option<f64>,
    disk_used_pct: Option<f64>,
    net_rx_bytes: Option<i64>,
    net_tx_bytes: Option<i64>,
    uptime_s: Option<f64>,
    platform: Option<String>,
    platform_version: Option<String>,
    kernel_version: Option<String>,
    cpu_cores: Option<i64>,
    memory_total_mb: Option<i64>,
    disk_total_gb: Option<i64>,
    last_boot_time: Option<String>,
    created_at: Wall,
}

const COLUMNS: &str = "id, name, hostname, description, is_enabled, status, last_seen, cpu_pct, mem_used_pct,
    disk_used_pct, net_rx_bytes, net_tx_bytes, uptime_s, platform, platform_version, kernel_version, cpu_cores,
    memory_total_mb, disk_total_gb, last_boot_time, created_at";

fn machine(row: &Row<'_>) -> rusqlite::Result<Machine> {
    Ok(Machine {
        id: row.get(0)?,
        name: row.get(1)?,
        hostname: row.get(2)?,
        description: row.get(3)?,
        is_enabled: row.get(4)?,
        status: row.get(5)?,
        last_seen: row.get::<_, Option<u64>>(6)?.map(Wall),
        cpu_pct: row.get(7)?,
        mem_used_pct: row.get(8)?,
        disk_used_pct: row.get(9)?,
        net_rx_bytes: row.get(10)?,
        net_tx_bytes: row.get(11)?,
        uptime_s: row.get(12)?,
        platform: row.get(13)?,
        platform_version: row.get(14)?,
        kernel_version: row.get(15)?,
        cpu_cores: row.get(16)?,
        memory_total_mb: row.get(17)?,
        disk_total_gb: row.get(18)?,
        last_boot_time: row.get(19)?,
        created_at: Wall(row.get(20)?),
    })
}

impl Machine {
    fn facts(&self, status: &'static str, last_seen: Option<Wall>) -> Subject {
        Subject::Machine(MachineFacts {
            id: self.id,
            name: self.name.clone(),
            hostname: self.hostname.clone(),
            description: self.description.clone(),
            status,
            last_seen: last_seen.map(whole_seconds),
        })
    }
}

/// All machines, the newest first.
///
/// # Errors
/// They cannot be read.
pub fn list(connection: &Connection) -> rusqlite::Result<Vec<Machine>> {
    let sql = format!("SELECT {COLUMNS} FROM machine ORDER BY created_at DESC, id DESC");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([], machine)?;
    rows.collect()
}

/// One machine.
///
/// # Errors
/// It cannot be read.
pub fn find(connection: &Connection, id: i64) -> rusqlite::Result<Option<Machine>> {
    let sql = format!("SELECT {COLUMNS} FROM machine WHERE id = ?1");
    connection.prepare_cached(&sql)?.query_row([id], machine).optional()
}

/// What people say of a machine; members that are left out stay as they were.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct About {
    /// Its name.
    pub name: Option<String>,
    /// Its host name.
    pub hostname: Option<String>,
    /// What it is for.
    pub description: Option<String>,
}

/// Registers a machine. Returns it with its key, which is not kept.
///
/// # Errors
/// It cannot be stored.
pub fn register(connection: &Connection, now: Wall, about: &About) -> rusqlite::Result<(i64, String)> {
    let key = ids::key();
    connection.execute(
        "INSERT INTO machine (name, hostname, description, key_hash, created_at)
         VALUES (?1, ifnull(?2, ''), ifnull(?3, ''), ?4, ?5)",
        params![about.name, about.hostname, about.description, hash(key.as_bytes()), now.0],
    )?;
    Ok((connection.last_insert_rowid(), key))
}

/// Changes what is said of a machine. Returns whether there is one.
///
/// # Errors
/// It cannot be stored.
pub fn change(connection: &Connection, id: i64, about: &About) -> rusqlite::Result<bool> {
    let changed = connection.execute(
        "UPDATE machine SET name = ifnull(?2, name), hostname = ifnull(?3, hostname),
         description = ifnull(?4, description) WHERE id = ?1",
        params![id, about.name, about.hostname, about.description],
    )?;
    Ok(changed > 0)
}

/// Removes a machine; its open incident closes. Returns whether there was one.
///
/// # Errors
/// It cannot be stored.
pub fn remove(connection: &Connection, now: Wall, id: i64) -> rusqlite::Result<bool> {
    if let Some(machine) = find(connection, id)? {
        let subject = machine.facts("offline", machine.last_seen);
        incidents::close(connection, now, Event::MachineOffline, &subject, Closer::Removed)?;
    }
    Ok(connection.execute("DELETE FROM machine WHERE id = ?1", [id])? > 0)
}

/// Has a machine watched, or not watched any more: then its open incident closes. Returns whether
/// there is one.
///
/// # Errors
/// It cannot be stored.
pub fn enable(
    connection: &Connection,
    now: Wall,
    id: i64,
    is_enabled: bool,
    by: &str,
) -> rusqlite::Result<bool> {
    let Some(machine) = find(connection, id)? else { return Ok(false) };
    connection.execute("UPDATE machine SET is_enabled = ?2 WHERE id = ?1", params![id, is_enabled])?;
    if !is_enabled {
        let subject = machine.facts("offline", machine.last_seen);
        incidents::close(connection, now, Event::MachineOffline, &subject, Closer::Person(by))?;
        connection.execute("UPDATE machine SET status = 'unknown' WHERE id = ?1", [id])?;
    }
    Ok(true)
}

/// Gives a machine a new key. The present key is taken for [`FORMER_KEY`] longer. Returns
/// the key; None if there is no such machine.
///
/// # Errors
/// It cannot be stored.
pub fn rotate(connection: &Connection, now: Wall, id: i64) -> rusqlite::Result<Option<String>> {
    let key = ids::key();
    let until = now.0 + pap_core::time::millis(FORMER_KEY);
    let changed = connection.execute(
        "UPDATE machine SET former_key_hash = key_hash, former_key_until = ?3, key_hash = ?2 WHERE id = ?1",
        params![id, hash(key.as_bytes()), until],
    )?;
    Ok((changed > 0).then_some(key))
}

/// What a machine says of itself. Members that are left out stay as they were.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Percentages that are used, of the processors,
    pub cpu_pct: Option<f64>,
    /// of memory,
    pub mem_used_pct: Option<f64>,
    /// and of the disk.
    pub disk_used_pct: Option<f64>,
    /// Bytes that it received,
    pub net_rx_bytes: Option<i64>,
    /// and sent.
    pub net_tx_bytes: Option<i64>,
    /// Seconds since it started.
    pub uptime_s: Option<f64>,
    /// Its hardware and its operating system.
    #[serde(deserialize_with = "object")]
    pub system_info: Option<SystemInfo>,
}

/// An object. For serde a list of all values, in their order, is an object as well; here it is
/// none.
fn object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemInfo>, D::Error> {
    let members: Option<Map<String, Value>> = Deserialize::deserialize(deserializer)?;
    let info = members.map(|members| SystemInfo::deserialize(Value::Object(members)));
    info.transpose().map_err(D::Error::custom)
}

/// The hardware and the operating system of a machine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SystemInfo {
    /// Its host name.
    pub hostname: Option<String>,
    /// Its operating system,
    pub platform: Option<String>,
    /// the version of it,
    pub platform_version: Option<String>,
    /// and of its kernel.
    pub kernel_version: Option<String>,
    /// How many processors it has,
    pub cpu_cores: Option<i64>,
    /// how much memory,
    pub memory_total_mb: Option<i64>,
    /// and disk.
    pub disk_total_gb: Option<i64>,
    /// When it started.
    pub last_boot_time: Option<String>,
}

impl Report {
    /// The name of the first percentage that is not from 0 to 100.
    pub fn wrong_percentage(&self) -> Option<&'static str> {
        let all = [
            ("cpu_pct", self.cpu_pct),
            ("mem_used_pct", self.mem_used_pct),
            ("disk_used_pct", self.disk_used_pct),
        ];
        all.into_iter().find_map(|(name, value)| {
            value.is_some_and(|value| !(0.0..=100.0).contains(&value)).then_some(name)
        })
    }
}

/// Whether a machine was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Yes; and its name if it was offline before.
    Yes(Option<String>),
    /// There is none with this id, or it is disabled.
    No,
}

/// A heartbeat or a report of a machine: the machine is online, and its open incident closes.
///
/// # Errors
/// It cannot be stored.
pub fn hear(connection: &Connection, now: Wall, id: i64, report: &Report) -> rusqlite::Result<Heard> {
    let before = find(connection, id)?;
    let Some(before) = before.filter(|machine| machine.is_enabled) else { return Ok(Heard::No) };
    let mut info = report.system_info.clone().unwrap_or_default();
    let texts = [
        &mut info.hostname,
        &mut info.platform,
        &mut info.platform_version,
        &mut info.kernel_version,
        &mut info.last_boot_time,
    ];
    for text in texts.into_iter().flatten() {
        *text = text.chars().take(MAX_TEXT).collect();
    }
    connection
        .prepare_cached(
            "UPDATE machine SET status = 'online', last_seen = ?2, cpu_pct = ifnull(?3, cpu_pct),
             mem_used_pct = ifnull(?4, mem_used_pct), disk_used_pct = ifnull(?5, disk_used_pct),
             net_rx_bytes = ifnull(?6, net_rx_bytes), net_tx_bytes = ifnull(?7, net_tx_bytes),
             uptime_s = ifnull(?8, uptime_s), hostname = ifnull(?9, hostname), platform = ifnull(?10, platform),
             platform_version = ifnull(?11, platform_version), kernel_version = ifnull(?12, kernel_version),
             cpu_cores = ifnull(?13, cpu_cores), memory_total_mb = ifnull(?14, memory_total_mb),
             disk_total_gb = ifnull(?15, disk_total_gb), last_boot_time = ifnull(?16, last_boot_time) WHERE id = ?1",
        )?
        .execute(params![
            id,
            now.0,
            report.cpu_pct,
            report.mem_used_pct,
            report.disk_used_pct,
            report.net_rx_bytes,
            report.net_tx_bytes,
            report.uptime_s,
            info.hostname.filter(|name| !name.is_empty()),
            info.platform,
            info.platform_version,
            info.kernel_version,
            info.cpu_cores,
            info.memory_total_mb,
            info.disk_total_gb,
            info.last_boot_time
        ])?;
    if before.status != "offline" {
        return Ok(Heard::Yes(None));
    }
    if let Some(machine) = find(connection, id)? {
        let subject = machine.facts("online", Some(now));
        incidents::close(connection, now, Event::MachineOffline, &subject, Closer::Over)?;
    }
    Ok(Heard::Yes(Some(before.name)))
}

/// A machine fell silent: it is offline, and an incident opens. Returns it; None if it is not
/// watched any more.
///
/// # Errors
/// It cannot be stored.
pub fn lose(connection: &Connection, now: Wall, id: i64) -> rusqlite::Result<Option<Machine>> {
    let machine = find(connection, id)?.filter(|machine| {
        // A machine that was never heard is unknown, not offline.
        machine.is_enabled && machine.status != "offline" && machine.last_seen.is_some()
    });
    let Some(machine) = machine else { return Ok(None) };
    connection.execute("UPDATE machine SET status = 'offline' WHERE id = ?1", [id])?;
    let details = serde_json::json!({
        "last_seen": machine.last_seen, "machine_id": machine.id, "machine_name": machine.name,
    });
    incidents::open(
        connection,
        now,
        Event::MachineOffline,
        &machine.facts("offline", machine.last_seen),
        &details,
    )?;
    Ok(Some(machine))
}

/// The machines that are watched and not offline.
///
/// # Errors
/// They cannot be read.
pub fn online(connection: &Connection) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare(
        "SELECT id FROM machine WHERE is_enabled AND last_seen IS NOT NULL AND status <> 'offline'",
    )?;
    let rows = statement.query_map([], |row| row.get(0))?;
    rows.collect()
}
