//! The container engine, by its API (Docker Engine API 1.25 to 1.47; Podman answers the same).
//!
//! Each call has a deadline and is made outside any lock. A call does no harm if the engine acts
//! on it after the deadline: a container is made under a name that the engine gives only once,
//! and is removed by its id.

mod listing;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pap_process::client::{agent, config, mutual_agent, unix_agent};
use pap_process::files::read_whole;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::{Value, json};
use ureq::http::Method;
use ureq::tls::{Certificate, PemItem, parse_pem};
use ureq::{Agent, Body, http};

use crate::clients::USER_AGENT;
use crate::store::Lease;
use crate::workers::{Container, Pull};

use listing::{CLIENT, MANAGED, ROLE, STATION, TEMPLATE};
pub use listing::{Listed, Listing};

/// The newest version of the API that we know, and the oldest that has all that we use.
const NEWEST: (u32, u32) = (1, 47);
const OLDEST: (u32, u32) = (1, 25);
/// How long a call may take.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How long a pull of an image may take. Only workers that need a pull as well wait for it.
const PULL: Duration = Duration::from_secs(600);
/// How long a look at one container may take.
const GLANCE: Duration = Duration::from_secs(5);
/// The most that is read of an answer, in bytes: a listing of some ten thousand containers.
const MAX_ANSWER: u64 = 64 << 20;
/// The most that is said of an error, in characters.
const MAX_ERROR: usize = 300;

/// Where the engine listens (`DOCKER_HOST`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// On a socket.
    Unix(PathBuf),
    /// On a port: `host:port`.
    Tcp(String),
}

impl Host {
    /// What the setting says; None if it is none of its forms.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix://") {
            return path.starts_with('/').then(|| Self::Unix(path.into()));
        }
        let address = text.strip_prefix("tcp://")?.trim_end_matches('/');
        let (host, port) = address.rsplit_once(':')?;
        // A user and a password would be shown.
        let is_well =
            !host.is_empty() && !host.contains('@') && port.parse::<u16>().is_ok_and(|port| port > 0);
        let uri = format!("http://{address}/").parse::<http::Uri>();
        (is_well && uri.is_ok()).then(|| Self::Tcp(address.into()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Why a call failed.
#[derive(Debug)]
pub enum EngineError {
    /// The engine was not asked, because another station may act by now.
    Unasked,
    /// The engine was not reached, or did not answer in time. It may still do what was asked.
    Unheard(String),
    /// The engine refused.
    Refused(u16, String),
    /// Its answer makes no sense to us.
    Answer(String),
}

impl EngineError {
    /// The same without the secrets of a container. Call it before the text is cut or replaced.
    pub fn hiding(self, secrets_of: &Container) -> Self {
        let hide = |why: String| secrets_of.without_secrets(&why);
        match self {
            Self::Unasked => Self::Unasked,
            Self::Unheard(why) => Self::Unheard(hide(why)),
            Self::Refused(status, why) => Self::Refused(status, hide(why)),
            Self::Answer(why) => Self::Answer(hide(why)),
        }
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |why: &str| -> String {
            why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ERROR).collect()
        };
        match self {
            Self::Unasked => f.write_str(
                "the container engine is not asked: STATION_DB could not be written lately, so another \
                 station may act by now",
            ),
            Self::Unheard(why) => write!(f, "the container engine did not answer: {}", short(why)),
            Self::Refused(status, why) => {
                write!(f, "the container engine refused ({status}): {}", short(why))
            }
            Self::Answer(why) => write!(f, "the container engine's answer makes no sense: {}", short(why)),
        }
    }
}

/// What a look at one container shows.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspected {
    /// How often the engine has started it again.
    #[serde(default)]
    pub restart_count: u32,
    /// What it was made from.
    #[serde(default)]
    pub config: Option<MadeFrom>,
}

/// What a container was made from.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MadeFrom {
    /// The image as the container was made from it. A listing shows the image's id once the name
    /// belongs to another image.
    #[serde(default)]
    pub image: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Made {
    id: String,
}

/// How the engine is reached.
#[derive(Clone, Debug)]
pub struct Client {
    host: Host,
    base: String,
    agent: Agent,
}

impl Client {
    /// `certificates` is a directory with ca.pem, cert.pem and key.pem, as the engine's own
    /// client has it. Nothing is sent yet.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub fn new(host: Host, certificates: Option<&Path>) -> Result<Self, String> {
        let config = config(USER_AGENT)
            .timeout_recv_body(None)
            .max_idle_connections(0)
            .max_idle_connections_per_host(0);
        let (base, agent) = match (&host, certificates) {
            (Host::Unix(path), _) => ("http://127.0.0.1".to_owned(), unix_agent(config, path.clone())),
            (Host::Tcp(address), None) => (format!("http://{address}"), agent(config, &[])),
            (Host::Tcp(address), Some(directory)) => {
                (format!("https://{address}"), mutual(config, directory)?)
            }
        };
        Ok(Self { host, base, agent })
    }
}

/// The engine.
pub struct Engine {
    client: Client,
    /// The id of this station: containers that bear it are ours.
    station: String,
    /// The lease on the file: whether this station may act.
    lease: Arc<Lease>,
    /// The version of the API on which we agreed; None until the first call.
    version: Mutex<Option<String>>,
}

impl Engine {
    /// The engine. Nothing is sent before the first call.
    pub fn new(client: Client, station: String, lease: Arc<Lease>) -> Self {
        Self { client, station, lease, version: Mutex::default() }
    }

    /// Where it listens.
    pub const fn host(&self) -> &Host {
        &self.client.host
    }

    /// The version of the API that is spoken; None if it was never reached.
    pub fn version(&self) -> Option<String> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Agrees on a version of the API.
    fn agree(&self) -> Result<String, EngineError> {
        if let Some(version) = self.version() {
            return Ok(version);
        }
        let answer =
            self.send(Method::GET, &format!("{}/_ping", self.client.base), &Sent::Nothing, PATIENCE)?;
        let header = answer.headers().get("Api-Version").and_then(|value| value.to_str().ok());
        let theirs = header.and_then(|text| {
            let (major, minor) = text.split_once('.')?;
            Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
        });
        let Some(theirs) = theirs else {
            return Err(EngineError::Answer("it does not say which version of the API it speaks".into()));
        };
        if theirs < OLDEST {
            let (major, minor) = OLDEST;
            let why = format!(
                "it speaks version {}.{} of the API, but {major}.{minor} is needed",
                theirs.0, theirs.1
            );
            return Err(EngineError::Answer(why));
        }
        let (major, minor) = theirs.min(NEWEST);
        let version = format!("{major}.{minor}");
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = Some(version.clone());
        Ok(version)
    }

    fn send(
        &self,
        method: Method,
        url: &str,
        body: &Sent<'_>,
        patience: Duration,
    ) -> Result<http::Response<Body>, EngineError> {
        let unheard = |error: ureq::Error| EngineError::Unheard(error.to_string());
        if !self.lease.covers(patience.min(PATIENCE)) {
            return Err(EngineError::Unasked);
        }
        let request = http::Request::builder().method(method).uri(url);
        let request = match body {
            Sent::Nothing => request.body(&[][..]),
            Sent::Json(_) => request.header("Content-Type", "application/json").body(&[][..]),
            Sent::Tar(tar) => request.header("Content-Type", "application/x-tar").body(*tar),
        };
        let text;
        let mut request = request.map_err(|error| EngineError::Answer(error.to_string()))?;
        if let Sent::Json(value) = body {
            text = value.to_string();
            *request.body_mut() = text.as_bytes();
        }
        let agent = &self.client.agent;
        let request = agent.configure_request(request).timeout_global(Some(patience)).build();
        let answer = agent.run(request).map_err(unheard)?;
        let status = answer.status().as_u16();
        if matches!(status, 200..=299 | 304) {
            return Ok(answer);
        }
        if status == 400 {
            // The engine may have been replaced by one that speaks another version.
            *self.version.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let mut said = String::new();
        // If this fails, the part that has come is shown.
        let _ = answer.into_body().into_reader().take(64 << 10).read_to_string(&mut said);
        let message = serde_json::from_str::<Value>(&said).ok();
        let message = message.as_ref().and_then(|it| it["message"].as_str()).unwrap_or(&said);
        Err(EngineError::Refused(status, message.to_owned()))
    }

    fn answer(
        &self,
        method: Method,
        path: &str,
        body: &Sent<'_>,
        patience: Duration,
    ) -> Result<impl Read, EngineError> {
        let version = self.agree()?;
        let answer = self.send(method, &format!("{}/v{version}{path}", self.client.base), body, patience)?;
        Ok(answer.into_body().into_reader().take(MAX_ANSWER))
    }

    fn call(
        &self,
        method: Method,
        path: &str,
        body: &Sent<'_>,
        patience: Duration,
    ) -> Result<Vec<u8>, EngineError> {
        let mut read = Vec::new();
        let mut answer = self.answer(method, path, body, patience)?;
        answer.read_to_end(&mut read).map_err(|error| EngineError::Unheard(error.to_string()))?;
        Ok(read)
    }

    fn json<T: for<'a> Deserialize<'a>>(
        &self,
        method: Method,
        path: &str,
        body: &Sent<'_>,
        patience: Duration,
    ) -> Result<T, EngineError> {
        let read = self.call(method, path, body, patience)?;
        serde_json::from_slice(&read).map_err(|error| EngineError::Answer(error.to_string()))
    }

    /// All containers, by one call.
    ///
    /// # Errors
    /// Nothing is known of them.
    pub fn list(&self) -> Result<Listing, EngineError> {
        let answer = self.answer(Method::GET, "/containers/json?all=1", &Sent::Nothing, PATIENCE)?;
        listing::read(answer, &self.station).map_err(|error| match error.classify() {
            Category::Io => EngineError::Unheard(error.to_string()),
            Category::Syntax | Category::Data | Category::Eof => EngineError::Answer(error.to_string()),
        })
    }

    /// Looks at one container.
    ///
    /// # Errors
    /// Nothing is known of it.
    pub fn inspect(&self, id: &str) -> Result<Inspected, EngineError> {
        let path = format!("/containers/{}/json", segment(id));
        self.json(Method::GET, &path, &Sent::Nothing, GLANCE)
    }

    /// Makes a container and starts it. Returns its id.
    ///
    /// # Errors
    /// It does not run, as far as is known. It may have been made.
    pub fn create(
        &self,
        cluster: &str,
        role: &str,
        hash: &str,
        from: &Container,
    ) -> Result<String, EngineError> {
        let mut labels: BTreeMap<&str, &str> =
            from.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        labels.extend([MANAGED, (CLIENT, cluster), (ROLE, role), (STATION, &self.station), (TEMPLATE, hash)]);
        let env: Vec<String> = from.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut host = json!({ "RestartPolicy": { "Name": from.restart.name() } });
        if let Some(network) = &from.network {
            host["NetworkMode"] = json!(network);
        }
        if let Some(memory) = from.memory {
            host["Memory"] = json!(memory);
        }
        if let Some(cpus) = from.nano_cpus {
            host["NanoCpus"] = json!(cpus);
        }
        let mut body = json!({ "Image": from.image, "Env": env, "Labels": labels, "HostConfig": host });
        if let Some(command) = &from.command {
            body["Cmd"] = json!(command);
        }
        let path = format!("/containers/create?name={}", segment(&from.name));
        let made: Made = self.json(Method::POST, &path, &Sent::Json(&body), PATIENCE)?;
        self.start(&made.id, from)?;
        Ok(made.id)
    }

    /// Whether its image has to be pulled first.
    ///
    /// # Errors
    /// It is not known.
    pub fn needs_pull(&self, from: &Container) -> Result<bool, EngineError> {
        match from.pull {
            Pull::Never => Ok(false),
            Pull::Always => Ok(true),
            Pull::Missing => Ok(!self.has_image(from)?),
        }
    }

    /// Whether its image is there.
    ///
    /// # Errors
    /// It is not known.
    pub fn has_image(&self, from: &Container) -> Result<bool, EngineError> {
        let path = format!("/images/{}/json", segment(&from.image));
        match self.call(Method::GET, &path, &Sent::Nothing, PATIENCE) {
            Ok(_) => Ok(true),
            Err(EngineError::Refused(404, _)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Pulls its image. That may take long.
    ///
    /// # Errors
    /// It is not there, as far as is known.
    pub fn pull(&self, from: &Container) -> Result<(), EngineError> {
        let image = &from.image;
        // Without a tag the engine would pull all tags of the image.
        let last = image.rsplit('/').next().unwrap_or_default();
        let tag = if last.contains([':', '@']) { "" } else { "&tag=latest" };
        let path = format!("/images/create?fromImage={}{tag}", segment(image));
        let progress = self.call(Method::POST, &path, &Sent::Nothing, PULL)?;
        // A pull that fails is a 200 too; a line of the answer says that it failed.
        let mut failed = progress.split(|&byte| byte == b'\n').filter_map(|line| {
            serde_json::from_slice::<Value>(line).ok()?["error"].as_str().map(str::to_owned)
        });
        match failed.next() {
            None => Ok(()),
            Some(why) => Err(EngineError::Refused(404, format!("the image {image} cannot be pulled: {why}"))),
        }
    }

    /// Gives a container that was made its secrets, and starts it.
    ///
    /// # Errors
    /// It does not run, as far as is known.
    pub fn start(&self, id: &str, from: &Container) -> Result<(), EngineError> {
        if !from.secrets.is_empty() {
            let tar = secrets(&from.secrets).map_err(|error| EngineError::Answer(error.to_string()))?;
            let path = format!("/containers/{}/archive?path=/", segment(id));
            self.call(Method::PUT, &path, &Sent::Tar(&tar), PATIENCE)?;
        }
        let path = format!("/containers/{}/start", segment(id));
        self.call(Method::POST, &path, &Sent::Nothing, PATIENCE).map(drop)
    }

    /// Stops a container: SIGTERM, and SIGKILL after `timeout`.
    ///
    /// # Errors
    /// It may still run.
    pub fn stop(&self, id: &str, timeout: Duration) -> Result<(), EngineError> {
        let path = format!("/containers/{}/stop?t={}", segment(id), timeout.as_secs());
        absent(self.call(Method::POST, &path, &Sent::Nothing, timeout + PATIENCE))
    }

    /// Removes a container that does not run.
    ///
    /// # Errors
    /// It is still there. If it runs, it goes on.
    pub fn remove(&self, id: &str) -> Result<(), EngineError> {
        let path = format!("/containers/{}?v=1&force=0", segment(id));
        absent(self.call(Method::DELETE, &path, &Sent::Nothing, PATIENCE))
    }
}

/// What is sent.
enum Sent<'a> {
    Nothing,
    Json(&'a Value),
    Tar(&'a [u8]),
}

/// A container that is not there any more is as it should be.
fn absent(result: Result<Vec<u8>, EngineError>) -> Result<(), EngineError> {
    match result {
        Ok(_) | Err(EngineError::Refused(404, _)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn segment(text: &str) -> impl fmt::Display {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// An archive with the secrets as files.
fn secrets(secrets: &[(String, String)]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    for directory in ["run", "run/secrets"] {
        archive.append_data(&mut header.clone(), directory, std::io::empty())?;
    }
    for (name, content) in secrets {
        let mut header = tar::Header::new_ustar();
        // The program in the container may be any user.
        header.set_mode(0o444);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, format!("run/secrets/{name}"), content.as_bytes())?;
    }
    archive.into_inner()
}

fn mutual(
    config: ureq::config::ConfigBuilder<ureq::typestate::AgentScope>,
    directory: &Path,
) -> Result<Agent, String> {
    let read = |name: &str| {
        let path = directory.join(name);
        read_whole(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let roots: Vec<Certificate<'static>> = parse_pem(&read("ca.pem")?)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if roots.is_empty() {
        return Err(format!("{} holds no certificate", directory.join("ca.pem").display()));
    }
    mutual_agent(config, &roots, (&read("cert.pem")?, &read("key.pem")?))
        .map_err(|error| format!("the certificate in {} cannot be used: {error}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_sockets_or_ports() {
        assert_eq!(Host::parse("unix:///run/x.sock"), Some(Host::Unix("/run/x.sock".into())));
        assert_eq!(Host::parse("tcp://10.0.0.1:2375"), Some(Host::Tcp("10.0.0.1:2375".into())));
        assert_eq!(Host::parse("tcp://[::1]:2376/"), Some(Host::Tcp("[::1]:2376".into())));
        for wrong in [
            "",
            "/run/x.sock",
            "unix://x",
            "tcp://host",
            "tcp://:1",
            "tcp://h:0",
            "ssh://h",
            "tcp://a b:1",
            "tcp://u:p@h:1",
        ] {
            assert_eq!(Host::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn without_the_lease_nothing_is_asked() {
        let client = Client::new(Host::Unix("/none".into()), None).unwrap();
        let lease = Arc::new(Lease::default());
        lease.renewed_at(lease.now());
        let engine = Engine::new(client, "me".into(), Arc::clone(&lease));
        assert!(matches!(engine.list(), Err(EngineError::Unheard(_))));
        lease.lose();
        let error = engine.list().unwrap_err();
        assert!(matches!(error, EngineError::Unasked) && error.to_string().contains("STATION_DB"));
    }

    #[test]
    fn secrets_become_files_that_nobody_may_write() {
        let archive = secrets(&[("PASS".into(), "geheim".into())]).unwrap();
        let mut archive = tar::Archive::new(&archive[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap(), content)
        });
        let entries = entries.collect::<Vec<_>>();
        assert_eq!(entries[1].0.trim_end_matches('/'), "run/secrets");
        assert_eq!(entries[2], ("run/secrets/PASS".into(), 0o444, "geheim".into()));
    }
}
