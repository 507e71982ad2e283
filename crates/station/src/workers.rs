//! Templates of workers: which containers each cluster gets (`WORKERS_FILE`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pap_core::reconcile::{CLUSTER_ID, Role};
use pap_process::files::read_whole;
use pap_process::settings::GoDuration;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids;

/// What stands for a cluster's name in a command and in the environment.
const CLUSTER_NAME: &str = "{cluster_name}";
/// The most templates.
const MAX_WORKERS: usize = 16;
/// The longest part of a name that is not the cluster's id, in bytes.
const MAX_NAME: usize = 128;
/// The least memory that the engine grants, in bytes.
const LEAST_MEMORY: u64 = 6 << 20;
/// The longest time between SIGTERM and SIGKILL.
const LONGEST_STOP: Duration = Duration::from_secs(60);

/// What `WORKERS_FILE` says of one container.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    role: String,
    image: String,
    command: Option<Vec<String>>,
    network: Option<String>,
    memory: Option<String>,
    cpus: Option<f64>,
    #[serde(default)]
    restart: Restart,
    #[serde(default)]
    pull: Pull,
    stop_timeout: Option<String>,
    consumer_group: Option<String>,
    #[serde(default)]
    secrets_env: bool,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    secrets: BTreeMap<String, PathBuf>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    worker: Vec<Written>,
}

/// A line of a secret of at least so many bytes is a secret, too.
const SECRET_LINE: usize = 8;

/// When the engine starts a container again by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    No,
    /// Whenever it ends.
    Always,
    /// Whenever it ends, unless somebody has stopped it.
    #[default]
    UnlessStopped,
    /// If it ends with an error.
    OnFailure,
}

impl Restart {
    /// Its name for the engine.
    pub const fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
            Self::OnFailure => "on-failure",
        }
    }
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    /// If it is not there.
    #[default]
    Missing,
    /// Before each container that is made.
    Always,
    /// Never.
    Never,
}

/// A template that is valid.
#[derive(Clone, Debug)]
pub struct Template {
    written: Written,
    /// In bytes.
    memory: Option<u64>,
    /// How long a container may take to end before it is killed.
    pub stop_timeout: Duration,
    hash: String,
}

/// What a container is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Its command; None for the image's own.
    pub command: Option<Vec<String>>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Its labels, without ours.
    pub labels: BTreeMap<String, String>,
    /// Its network; None for the engine's default.
    pub network: Option<String>,
    /// In bytes.
    pub memory: Option<u64>,
    /// In billionths of a processor.
    pub nano_cpus: Option<u64>,
    /// When the engine starts it again.
    pub restart: Restart,
    /// When its image is pulled.
    pub pull: Pull,
    /// Files under /run/secrets: names and contents.
    pub secrets: Vec<(String, String)>,
    /// The values of all secrets, which must not be in an error.
    pub hidden: Vec<String>,
}

impl Container {
    /// A text about it without its secrets, nor their lines. The text may quote them as they stand in JSON, and
    /// that JSON in JSON.
    pub fn without_secrets(&self, text: &str) -> String {
        let escaped = |text: &str| {
            let json = Value::from(text).to_string();
            json[1..json.len() - 1].to_owned()
        };
        let parts = self.hidden.iter().flat_map(|secret| {
            let lines = secret.lines().map(str::trim).filter(|line| line.len() >= SECRET_LINE);
            [secret.as_str(), secret.trim()].into_iter().chain(lines)
        });
        let mut shown: Vec<String> = parts
            .filter(|part| !part.is_empty())
            .flat_map(|part| [part.to_owned(), escaped(part), escaped(&escaped(part))])
            .collect();
        // Longer ones first: a secret may be a part of another.
        shown.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        shown.into_iter().fold(text.to_owned(), |text, secret| text.replace(&secret, "(hidden)"))
    }
}

/// Reads and checks the templates. What is missing now and may be there later is a warning.
///
/// # Errors
/// What is wrong, on one line.
pub fn read(path: &Path) -> Result<(Vec<Template>, Vec<String>), String> {
    let text = read_text(path)?;
    let templates = parse(&text)?;
    let secrets = templates.iter().flat_map(|template| {
        template.written.secrets.iter().filter_map(move |(name, path)| {
            let why = read_secret(path).err()?;
            Some(format!("the {} cannot be made before the secret {name} is there: {why}", template.role()))
        })
    });
    let warnings = secrets.collect();
    Ok((templates, warnings))
}

fn parse(text: &str) -> Result<Vec<Template>, String> {
    let file: File = toml::from_str(text).map_err(|error| {
        let line =
            error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        format!("line {line}: {}", error.message().replace('\n', " "))
    })?;
    if file.worker.is_empty() {
        return Err("it has no [[worker]]".into());
    }
    if file.worker.len() > MAX_WORKERS {
        return Err(format!("it has more than {MAX_WORKERS} [[worker]]"));
    }
    let mut templates: Vec<Template> = Vec::new();
    for written in file.worker {
        let role = written.role.clone();
        let template = check(written).map_err(|why| format!("worker {role:?}: {why}"))?;
        if templates.iter().any(|other| other.written.role == role) {
            return Err(format!("two workers have the role {role:?}"));
        }
        if templates.iter().any(|other| other.written.name == template.written.name) {
            return Err(format!("two workers have the name {:?}", template.written.name));
        }
        templates.push(template);
    }
    Ok(templates)
}

/// Letters, digits, `_`, `.` and `-`, the first a letter or digit: what the engine takes as a name.
fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// What may stand left of `=` in an environment.
fn is_variable(text: &str) -> bool {
    !text.is_empty()
        && !text.as_bytes()[0].is_ascii_digit()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn check(written: Written) -> Result<Template, String> {
    if !is_name(&written.role) {
        return Err("role must be a letter or digit, then letters, digits, '.', '-' and '_'".into());
    }
    if !written.name.contains(CLUSTER_ID) {
        return Err(format!("name must contain {CLUSTER_ID}, so that each cluster gets its own"));
    }
    if !is_name(&written.name.replace(CLUSTER_ID, "c")) {
        return Err("name must be a letter or digit, then letters, digits, '.', '-' and '_'".into());
    }
    if written.image.is_empty() || written.image.contains(char::is_whitespace) {
        return Err("image must be the name of an image".into());
    }
    for (what, text) in [("name", Some(&written.name)), ("image", Some(&written.image))]
        .into_iter()
        .chain([("network", written.network.as_ref()), ("consumer_group", written.consumer_group.as_ref())])
        .chain(written.labels.values().map(|value| ("labels", Some(value))))
    {
        if text.is_some_and(|text| text.contains(CLUSTER_NAME)) {
            return Err(format!(
                "{CLUSTER_NAME} is a client's text: it may stand in command and env alone, not in {what}"
            ));
        }
    }
    if written.image.contains(CLUSTER_ID) {
        return Err(format!("{CLUSTER_ID} may not stand in image"));
    }
    if written.consumer_group.as_ref().is_some_and(|group| !group.contains(CLUSTER_ID)) {
        return Err(format!("consumer_group must contain {CLUSTER_ID}: it is deleted with its cluster"));
    }
    let is_word =
        |text: &String| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    if !written.network.iter().chain(written.labels.keys()).all(is_word) {
        return Err("network and the names of labels must be words".into());
    }
    let texts = written.command.iter().flatten().chain(written.env.values()).chain(written.labels.values());
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err("no text may hold a NUL byte".into());
    }
    if let Some(name) = written.env.keys().chain(written.secrets.keys()).find(|name| !is_variable(name)) {
        return Err(format!("{name:?} is no name of a variable"));
    }
    if let Some(name) = written.secrets.keys().find(|name| written.env.contains_key(*name)) {
        return Err(format!("{name} is in both env and secrets"));
    }
    if let Some(name) = written.labels.keys().find(|name| name.starts_with("kg.") || name.starts_with("pap."))
    {
        return Err(format!("the label {name} is the station's: no label may begin with kg. or pap."));
    }
    let memory = written.memory.as_deref().map(memory).transpose()?;
    if written.cpus.is_some_and(|cpus| !(0.01..=1024.0).contains(&cpus)) {
        return Err("cpus must be a number from 0.01 to 1024".into());
    }
    let stop_timeout = match &written.stop_timeout {
        None => Duration::from_secs(10),
        Some(text) => match text.parse::<GoDuration>() {
            Ok(GoDuration(time)) if time <= LONGEST_STOP && time.subsec_nanos() == 0 => time,
            _ => {
                return Err(format!(
                    "stop_timeout must be whole seconds up to {}, such as 10s",
                    GoDuration(LONGEST_STOP)
                ));
            }
        },
    };
    // The path of a secret is part of the hash, its content is not.
    let canonical = serde_json::to_vec(&written).unwrap_or_default();
    let mut hash = String::with_capacity(16);
    for byte in &ids::hash(&canonical)[..8] {
        // Writing to a String cannot fail.
        let _ = write!(hash, "{byte:02x}");
    }
    Ok(Template { written, memory, stop_timeout, hash })
}

/// Bytes, with k, m or g for powers of 1024.
fn memory(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let unit = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (digits, unit) = lower.split_at(unit);
    let shift = match unit {
        "" | "b" => Some(0),
        "k" | "kb" => Some(10),
        "m" | "mb" => Some(20),
        "g" | "gb" => Some(30),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift?));
    bytes
        .filter(|bytes| (LEAST_MEMORY..=1 << 50).contains(bytes))
        .ok_or_else(|| format!("memory must be a size of at least 6m, such as 256m or 1g, not {text:?}"))
}

/// The text of a file, all of it.
fn read_text(path: &Path) -> Result<String, String> {
    let bytes = read_whole(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

fn read_secret(path: &Path) -> Result<String, String> {
    let text = read_text(path).map_err(|why| format!("cannot read {}: {why}", path.display()))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.contains('\0') {
        // No variable can hold it, and errors about it would quote the rest.
        return Err(format!("{} has a NUL byte", path.display()));
    }
    Ok(text.to_owned())
}

impl Template {
    /// Its role.
    pub fn role(&self) -> &str {
        &self.written.role
    }

    /// The parts of it that decide.
    pub fn decisive(&self) -> Role {
        let Written { role, name, image, .. } = &self.written;
        Role { role: role.clone(), name: name.clone(), hash: self.hash.clone(), image: image.clone() }
    }

    /// Whether a container of this name may be a worker of some cluster.
    pub fn may_bear(&self, name: &str) -> bool {
        let (before, after) = self.written.name.split_once(CLUSTER_ID).unwrap_or_default();
        name.starts_with(before) && after.rsplit(CLUSTER_ID).next().is_some_and(|after| name.ends_with(after))
    }

    /// The consumer group of a cluster's container.
    pub fn consumer_group(&self, cluster: &str) -> Option<String> {
        Some(self.written.consumer_group.as_ref()?.replace(CLUSTER_ID, cluster))
    }

    /// What a cluster's container is made from.
    ///
    /// # Errors
    /// A secret cannot be read.
    pub fn fill(&self, cluster: &str, name: &str) -> Result<Container, String> {
        let written = &self.written;
        let id = |text: &String| text.replace(CLUSTER_ID, cluster);
        // The name is a client's text: text in it that looks like a variable stays as it is.
        let name: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let both = |text: &String| id(text).replace(CLUSTER_NAME, &name);
        let mut env: Vec<_> = written.env.iter().map(|(key, value)| (key.clone(), both(value))).collect();
        let (mut secrets, mut hidden) = (Vec::new(), Vec::new());
        for (key, path) in &written.secrets {
            let secret = read_secret(path).map_err(|why| format!("the secret {key}: {why}"))?;
            hidden.push(secret.clone());
            let into = if written.secrets_env { &mut env } else { &mut secrets };
            into.push((key.clone(), secret));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is checked to be from 0.01 to 1024"
        )]
        let nano_cpus = written.cpus.map(|cpus| (cpus * 1e9).round() as u64);
        Ok(Container {
            name: id(&written.name),
            image: written.image.clone(),
            command: written.command.as_ref().map(|words| words.iter().map(both).collect()),
            env,
            labels: written.labels.iter().map(|(key, value)| (key.clone(), id(value))).collect(),
            network: written.network.as_ref().map(id),
            memory: self.memory,
            nano_cpus,
            restart: written.restart,
            pull: written.pull,
            secrets,
            hidden,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "[[worker]]\nname = \"w-{cluster_id}\"\nrole = \"r\"\nimage = \"i\"\n";

    #[test]
    fn a_template_is_filled_in() {
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("pass");
        std::fs::write(&secret, "geheim\n").unwrap();
        let text = format!(
            "[[worker]]
            name = \"kg-graph-builder-{{cluster_id}}\"
            role = \"graph-builder\"
            image = \"example/kg-graph-builder:1.0.20\"
            command = [\"./graph-builder\", \"{{cluster_name}}\"]
            network = \"net-{{cluster_id}}\"
            memory = \"256m\"
            cpus = 0.5
            restart = \"on-failure\"
            pull = \"never\"
            stop_timeout = \"3s\"
            consumer_group = \"kg-builder-{{cluster_id}}\"
            [worker.env]
            CLIENT_ID = \"{{cluster_id}}\"
            NAME = \"{{cluster_name}}\"
            [worker.secrets]
            NEO4J_PASS = \"{}\"
            [worker.labels]
            team = \"of {{cluster_id}}\"",
            secret.display()
        );
        let path = directory.path().join("workers.toml");
        std::fs::write(&path, &text).unwrap();
        let (templates, warnings) = read(&path).unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        let template = &templates[0];
        assert_eq!(template.stop_timeout, Duration::from_secs(3));
        assert_eq!(template.consumer_group("af-10").as_deref(), Some("kg-builder-af-10"));
        let filled = template.fill("af-10", "{cluster_id} & co").unwrap();
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(
            filled,
            Container {
                name: "kg-graph-builder-af-10".into(),
                image: "example/kg-graph-builder:1.0.20".into(),
                command: Some(vec!["./graph-builder".into(), "{cluster_id} & co".into()]),
                env: pairs(&[("CLIENT_ID", "af-10"), ("NAME", "{cluster_id} & co")]),
                labels: pairs(&[("team", "of af-10")]).into_iter().collect(),
                network: Some("net-af-10".into()),
                memory: Some(256 << 20),
                nano_cpus: Some(500_000_000),
                restart: Restart::OnFailure,
                pull: Pull::Never,
                secrets: pairs(&[("NEO4J_PASS", "geheim")]),
                hidden: vec!["geheim".into()],
            }
        );
        assert_eq!(filled.without_secrets("bad PASS=geheim, no"), "bad PASS=(hidden), no");
        // As a proxy quotes the request, and as an engine quotes that; a file may have several lines.
        let hidden = "t\"s\\ret\nof more lines\n\n".to_owned();
        let hiding = Container { hidden: vec![hidden.clone()], ..filled.clone() };
        let body = Value::from(hidden.as_str()).to_string();
        let message = Value::from(body.as_str()).to_string();
        for text in [&hidden, &body, &message, "cut: of more lines"] {
            let shown = hiding.without_secrets(text);
            assert!(!shown.contains("ret") && !shown.contains("lines"), "{shown}");
        }
        // At the place where an error is cut, too.
        let cut = crate::engine::EngineError::Refused(400, format!("{}geheim", "x".repeat(297)));
        assert!(!cut.hiding(&filled).to_string().contains("geh"));
        // A secret that changes changes no template; where it comes from does.
        let hash = template.decisive().hash;
        std::fs::write(&secret, "anders").unwrap();
        assert_eq!(read(&path).unwrap().0[0].decisive().hash, hash);
        let other = text.replace("256m", "257m");
        assert_ne!(parse(&other).unwrap()[0].decisive().hash, hash);
        let as_variable = text.replace("pull = \"never\"", "pull = \"never\"\nsecrets_env = true");
        let filled = parse(&as_variable).unwrap()[0].fill("c", "n").unwrap();
        assert!(filled.secrets.is_empty() && filled.env.contains(&("NEO4J_PASS".into(), "anders".into())));
        std::fs::remove_file(&secret).unwrap();
        assert!(read(&path).unwrap().1[0].contains("NEO4J_PASS"));
        assert!(template.fill("c", "n").unwrap_err().contains("NEO4J_PASS"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let with = |more: &str| parse(&format!("{MINIMAL}{more}")).err();
        assert_eq!(with(""), None);
        let in_place = |from: &str, to: &str| parse(&MINIMAL.replace(from, to)).err().unwrap_or_default();
        for example in ["graph-builder", "three-workers"] {
            let path = format!("{}/../../examples/workers/{example}.toml", env!("CARGO_MANIFEST_DIR"));
            assert!(read(Path::new(&path)).is_ok(), "{example}");
        }
        for (why, said) in [
            ("no [[worker]]", parse("").err().unwrap_or_default()),
            ("line 5: unknown field", with("imagge = \"x\"").unwrap_or_default()),
            ("name must contain {cluster_id}", in_place("-{cluster_id}", "")),
            ("name must be a letter", in_place("w-", "/w-")),
            ("role must be", in_place("\"r\"", "\"\"")),
            ("image must be", in_place("\"i\"", "\"a b\"")),
            ("may not stand in image", in_place("\"i\"", "\"i:{cluster_id}\"")),
            ("not in network", with("network = \"{cluster_name}\"").unwrap_or_default()),
            ("memory must be", with("memory = \"5m\"").unwrap_or_default()),
            ("memory must be", with("memory = \"much\"").unwrap_or_default()),
            ("memory must be", with("memory = \"8388608mg\"").unwrap_or_default()),
            ("stop_timeout must be", with("stop_timeout = \"500ms\"").unwrap_or_default()),
            ("must be words", with("network = \" a b\"").unwrap_or_default()),
            ("NUL", with("command = [\"a\\u0000\"]").unwrap_or_default()),
            ("cpus must be", with("cpus = 0").unwrap_or_default()),
            ("cpus must be", with("cpus = nan").unwrap_or_default()),
            ("stop_timeout must be", with("stop_timeout = \"61s\"").unwrap_or_default()),
            ("consumer_group must contain", with("consumer_group = \"all\"").unwrap_or_default()),
            ("no name of a variable", with("[worker.env]\n\"a=b\" = \"x\"").unwrap_or_default()),
            ("in both", with("[worker.env]\nA = \"x\"\n[worker.secrets]\nA = \"/x\"").unwrap_or_default()),
            ("the station's", with("[worker.labels]\n\"kg.role\" = \"x\"").unwrap_or_default()),
            ("unknown variant", with("restart = \"sometimes\"").unwrap_or_default()),
            ("two workers have the role", parse(&MINIMAL.repeat(2)).err().unwrap_or_default()),
        ] {
            assert!(said.contains(why) && !said.contains('\n'), "{why}: {said}");
        }
    }

    #[test]
    fn sizes_are_as_the_engine_reads_them() {
        for (text, bytes) in
            [("256m", 256 << 20), ("256MB", 256 << 20), ("1g", 1 << 30), ("8388608", 8 << 20)]
        {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
    }
}
