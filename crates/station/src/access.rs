//! Who may do what: keys, sessions, and addresses from which wrong keys come.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use pap_core::time::{Uptime, Wall, millis};
use pap_http::request::Request;
use pap_process::settings::Secret;
use rusqlite::{Connection, params};

use crate::ids::{self, KeyHash, hash, kept_hash};

/// The name of the session's cookie.
pub const COOKIE: &str = "pap_session";
/// How long a session lasts.
pub const SESSION: Duration = Duration::from_secs(12 * 3600);
/// How long a key is still taken after a rotation.
pub const FORMER_KEY: Duration = Duration::from_secs(600);
/// Wrong keys from one address within a minute that are answered with 401.
const MAX_WRONG: u32 = 5;
const MINUTE: Duration = Duration::from_secs(60);
/// The most addresses whose wrong keys are counted.
const MAX_ADDRESSES: usize = 4096;

/// What a person may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read everything.
    Viewer,
    /// Do everything.
    Admin,
}

impl Role {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Admin => "admin",
        }
    }

    fn from_name(name: &str) -> Self {
        if name == "admin" { Self::Admin } else { Self::Viewer }
    }
}

/// What a client with a key may do. One key may be valid for several purposes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// As a person.
    pub role: Option<Role>,
    /// For every cluster.
    pub all_clusters: bool,
    /// For these clusters.
    pub clusters: Vec<String>,
    /// For every agent.
    pub all_agents: bool,
    /// For these agents.
    pub agents: Vec<String>,
    /// For this machine.
    pub machine: Option<i64>,
}

impl Grants {
    fn join(&mut self, other: &Self) {
        self.role = self.role.max(other.role);
        self.all_clusters |= other.all_clusters;
        self.clusters.extend_from_slice(&other.clusters);
        self.all_agents |= other.all_agents;
        self.agents.extend_from_slice(&other.agents);
        self.machine = self.machine.or(other.machine);
    }

    /// Whether they are those of this cluster's collector, or of an admin.
    pub fn may_speak_for_cluster(&self, cluster_id: &str) -> bool {
        self.all_clusters || self.role == Some(Role::Admin) || self.clusters.iter().any(|id| id == cluster_id)
    }

    /// Whether they are those of this agent, or of an admin.
    pub fn may_speak_for_agent(&self, agent: &str) -> bool {
        self.all_agents || self.role == Some(Role::Admin) || self.agents.iter().any(|id| id == agent)
    }

    /// Whether they are those of a person who has at least this role.
    pub fn is(&self, role: Role) -> bool {
        self.role >= Some(role)
    }
}

/// Who has a key that the station has made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A cluster's collector.
    Cluster(String),
    /// An agent.
    Agent(String),
    /// A machine.
    Machine(i64),
}

impl Holder {
    fn grants(&self) -> Grants {
        match self {
            Self::Cluster(id) => Grants { clusters: vec![id.clone()], ..Grants::default() },
            Self::Agent(id) => Grants { agents: vec![id.clone()], ..Grants::default() },
            Self::Machine(id) => Grants { machine: Some(*id), ..Grants::default() },
        }
    }
}

/// A key that the station has made, and until when it is taken.
#[derive(Clone, Debug)]
struct Made {
    holder: Holder,
    until: Option<Wall>,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    role: Role,
    /// The hash of the key for which it was opened.
    key: KeyHash,
    until: Wall,
}

/// All keys that are taken, by their hashes. How long a look-up by a hash takes shows nothing
/// of a key.
#[derive(Default)]
pub struct Keys {
    set: HashMap<KeyHash, Grants>,
    made: RwLock<HashMap<KeyHash, Made>>,
    sessions: RwLock<HashMap<KeyHash, Session>>,
}

/// The keys from the settings.
#[derive(Debug, Default)]
pub struct SetKeys<'a> {
    /// `PAP_COLLECTOR_API_KEY`
    pub collectors: &'a [Secret],
    /// `AGENT_API_KEY`
    pub agents: &'a [Secret],
    /// `STATION_ADMIN_KEY`
    pub admin: Option<&'a str>,
    /// `STATION_VIEWER_KEY`
    pub viewer: Option<&'a str>,
}

impl Keys {
    /// The keys from the settings and from the file.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn load(set: &SetKeys<'_>, connection: &Connection) -> rusqlite::Result<Self> {
        let mut keys = Self::default();
        let mut grant = |key: &str, grants: &Grants| {
            keys.set.entry(hash(key.as_bytes())).or_default().join(grants);
        };
        for key in set.collectors {
            grant(key.reveal(), &Grants { all_clusters: true, ..Grants::default() });
        }
        for key in set.agents {
            grant(key.reveal(), &Grants { all_agents: true, ..Grants::default() });
        }
        for (key, role) in [(set.admin, Role::Admin), (set.viewer, Role::Viewer)] {
            if let Some(key) = key {
                grant(key, &Grants { role: Some(role), ..Grants::default() });
            }
        }
        let mut made = HashMap::new();
        let mut statement = connection.prepare(
            "SELECT hash, kind, subject, NULL FROM key
             UNION ALL SELECT key_hash, 'machine', id, NULL FROM machine
             UNION ALL SELECT former_key_hash, 'machine', id, former_key_until FROM machine
                 WHERE former_key_hash IS NOT NULL",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let Some(hash) = kept_hash(row.get_ref(0)?.as_blob()?) else { continue };
            let holder = match row.get_ref(1)?.as_str()? {
                "cluster" => Holder::Cluster(row.get(2)?),
                "agent" => Holder::Agent(row.get(2)?),
                _ => Holder::Machine(row.get(2)?),
            };
            made.insert(hash, Made { holder, until: row.get::<_, Option<u64>>(3)?.map(Wall) });
        }
        let mut sessions = HashMap::new();
        let mut statement = connection.prepare("SELECT hash, role, key_hash, ends_at FROM session")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let hashes = (kept_hash(row.get_ref(0)?.as_blob()?), kept_hash(row.get_ref(2)?.as_blob()?));
            let (Some(token), Some(key)) = hashes else { continue };
            let role = Role::from_name(row.get_ref(1)?.as_str()?);
            // A session ends with the key for which it was opened.
            if keys.set.get(&key).is_some_and(|grants| grants.is(role)) {
                sessions.insert(token, Session { role, key, until: Wall(row.get(3)?) });
            }
        }
        keys.made = RwLock::new(made);
        keys.sessions = RwLock::new(sessions);
        Ok(keys)
    }

    /// Takes a key that the station has made.
    pub fn add(&self, key: KeyHash, holder: Holder) {
        self.made.write().unwrap_or_else(PoisonError::into_inner).insert(key, Made { holder, until: None });
    }

    /// The holder's keys are not taken any more.
    pub fn end(&self, holder: &Holder) {
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        made.retain(|_, it| it.holder != *holder);
    }

    /// From `until` on the holder's present keys are not taken any more.
    pub fn end_at(&self, holder: &Holder, until: Wall) {
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        for it in made.values_mut().filter(|it| it.holder == *holder) {
            it.until = Some(it.until.map_or(until, |before| before.min(until)));
        }
    }

    /// What a client with this key may do; None if the key is nobody's.
    pub fn of_key(&self, key: &[u8], now: Wall) -> Option<Grants> {
        let hash = hash(key);
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        let made = made.get(&hash).filter(|made| made.until.is_none_or(|until| now < until));
        match (self.set.get(&hash), made) {
            (None, None) => None,
            (set, made) => {
                let mut grants = set.cloned().unwrap_or_default();
                if let Some(made) = made {
                    grants.join(&made.holder.grants());
                }
                Some(grants)
            }
        }
    }

    fn of_session(&self, token: &[u8], now: Wall) -> Option<Grants> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        let session = sessions.get(&hash(token)).filter(|session| now < session.until)?;
        Some(Grants { role: Some(session.role), ..Grants::default() })
    }

    /// Opens a session for a person's key: the cookie's token, and what is to be stored.
    pub fn open_session(&self, key: &str, role: Role, now: Wall) -> (String, NewSession) {
        let token = ids::token();
        let session = Session { role, key: hash(key.as_bytes()), until: Wall(now.0 + millis(SESSION)) };
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| now < session.until);
        sessions.insert(hash(token.as_bytes()), session);
        let stored = NewSession { token: hash(token.as_bytes()), session };
        (token, stored)
    }

    /// Ends the session of a request, if it has one. Returns its token's hash.
    pub fn end_session(&self, request: &Request<'_>) -> Option<KeyHash> {
        let hash = hash(cookie(request)?.as_bytes());
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).remove(&hash).map(|_| hash)
    }

    /// What the sender of a request may do.
    pub fn judge(&self, request: &Request<'_>, now: Wall) -> Credentials {
        let mut credentials = Credentials::default();
        for key in offered(request) {
            match self.of_key(key, now) {
                Some(grants) => credentials.grants.join(&grants),
                None => credentials.has_wrong_key = true,
            }
        }
        if let Some(grants) = cookie(request).and_then(|token| self.of_session(token.as_bytes(), now)) {
            credentials.is_by_cookie = credentials.grants == Grants::default();
            credentials.grants.join(&grants);
        }
        credentials
    }
}

/// What a request shows to prove who sends it.
#[derive(Debug, Default)]
pub struct Credentials {
    /// What its sender may do.
    pub grants: Grants,
    /// One of its keys is nobody's.
    pub has_wrong_key: bool,
    /// It shows nothing but a cookie, which a browser sends by itself.
    pub is_by_cookie: bool,
}

/// The hashes of the keys that were made for a cluster.
///
/// # Errors
/// They cannot be read.
pub fn keys_of(connection: &Connection, cluster_id: &str) -> rusqlite::Result<Vec<KeyHash>> {
    let mut statement =
        connection.prepare_cached("SELECT hash FROM key WHERE kind = 'cluster' AND subject = ?1")?;
    let rows = statement.query_map([cluster_id], |row| Ok(kept_hash(row.get_ref(0)?.as_blob()?)))?;
    rows.filter_map(Result::transpose).collect()
}

/// A session, to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewSession {
    token: KeyHash,
    session: Session,
}

impl NewSession {
    /// Stores it, and removes the sessions that have ended.
    ///
    /// # Errors
    /// It cannot be stored.
    pub fn store(&self, connection: &Connection, now: Wall) -> rusqlite::Result<()> {
        connection.execute("DELETE FROM session WHERE ends_at <= ?1", [now.0])?;
        let Session { role, key, until } = self.session;
        connection.execute(
            "INSERT INTO session (hash, role, key_hash, ends_at) VALUES (?1, ?2, ?3, ?4)",
            params![self.token, role.name(), key, until.0],
        )?;
        Ok(())
    }
}

/// The session's token.
fn cookie<'a>(request: &Request<'a>) -> Option<&'a str> {
    let lines = request.values("Cookie").filter_map(|line| std::str::from_utf8(line).ok());
    let mut cookies = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    cookies.find(|(name, _)| *name == COOKIE).map(|(_, token)| token)
}

/// The keys that a request shows.
pub fn offered<'a>(request: &Request<'a>) -> impl Iterator<Item = &'a [u8]> {
    request.values("X-API-Key").chain(request.values("Authorization").filter_map(bearer))
}

/// The token of a bearer credential; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let at = value.iter().position(|&byte| byte == b' ')?;
    value[..at].eq_ignore_ascii_case(b"Bearer").then(|| value[at..].trim_ascii_start())
}

/// Counts wrong keys by the address that they come from.
#[derive(Default)]
pub struct Attempts(Mutex<HashMap<IpAddr, (u32, Uptime)>>);

impl Attempts {
    /// Counts a wrong key from this address. Returns how long its sender must wait, if it was
    /// one too many. Right keys are not counted.
    pub fn wrong(&self, address: IpAddr, now: Uptime) -> Option<Duration> {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.len() >= MAX_ADDRESSES && !attempts.contains_key(&address) {
            attempts.retain(|_, (_, since)| now.since(*since) < MINUTE);
            if attempts.len() >= MAX_ADDRESSES {
                attempts.clear();
            }
        }
        let (count, since) = attempts.entry(address).or_insert((0, now));
        if now.since(*since) >= MINUTE {
            (*count, *since) = (0, now);
        }
        *count = count.saturating_add(1);
        (*count > MAX_WRONG).then(|| MINUTE.saturating_sub(now.since(*since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_wrong_key_of_a_minute_is_too_many() {
        let (attempts, at) = (Attempts::default(), |seconds| Uptime::new(Duration::from_secs(seconds)));
        let address = |last| IpAddr::from([10, 0, 0, last]);
        assert!((0..5).all(|_| attempts.wrong(address(1), at(0)).is_none()));
        assert_eq!(attempts.wrong(address(1), at(20)), Some(Duration::from_secs(40)));
        assert_eq!(attempts.wrong(address(2), at(20)), None);
        assert_eq!(attempts.wrong(address(1), at(60)), None);
    }

    #[test]
    fn addresses_that_try_are_not_kept_for_ever() {
        let attempts = Attempts::default();
        for number in 0..20_000_u32 {
            attempts.wrong(IpAddr::from(number.to_be_bytes()), Uptime::new(Duration::ZERO));
        }
        assert!(attempts.0.lock().unwrap().len() <= MAX_ADDRESSES);
    }

    #[test]
    fn a_key_may_be_for_several_and_a_replaced_one_ends() {
        let keys = Keys::default();
        let now = Wall(1000);
        keys.add(hash(b"old"), Holder::Machine(1));
        keys.end_at(&Holder::Machine(1), Wall(2000));
        keys.add(hash(b"new"), Holder::Machine(1));
        let machine = |key: &[u8], now| keys.of_key(key, now).and_then(|grants| grants.machine);
        assert_eq!((machine(b"old", now), machine(b"new", now)), (Some(1), Some(1)));
        assert_eq!((machine(b"old", Wall(2000)), machine(b"new", Wall(2000))), (None, Some(1)));
        keys.end(&Holder::Machine(1));
        assert_eq!((machine(b"old", now), machine(b"new", now)), (None, None), "also if the clock goes back");
        keys.add(hash(b"c"), Holder::Cluster("a".into()));
        let grants = keys.of_key(b"c", now).unwrap();
        assert!(grants.may_speak_for_cluster("a") && !grants.may_speak_for_cluster("b"));
        assert!(!grants.may_speak_for_agent("a") && !grants.is(Role::Viewer));
        assert_eq!(keys.of_key(b"", now), None);
    }
}
