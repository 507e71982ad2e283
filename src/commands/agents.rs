//! `pap-collector agents`: the agents that a running collector knows, as a table or as
//! JSON. It is read and written in parts, so a million agents need little memory.

use std::io::{self, Write};
use std::time::Duration;

use pap_core::registry::AgentView;
use pap_core::verdict::Verdict;
use pap_process::escape::in_json;

use super::listing::{self, Json, Part};
use crate::ask::Collector;
use crate::config::Access;

/// How long a part of the list may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Agents in a part of the list.
const PART: usize = 1000;

/// Why there is no list, or only a part of it.
#[derive(Debug)]
pub enum ListError {
    /// The collector gave none. The text is one line for people.
    NoAnswer(String),
    /// It could not be written.
    Write(io::Error),
}

impl From<String> for ListError {
    fn from(text: String) -> Self {
        Self::NoAnswer(text)
    }
}

impl From<io::Error> for ListError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// Writes the list.
///
/// # Errors
/// As [`ListError`] says.
pub fn list(
    access: Access,
    status: Option<Verdict>,
    is_json: bool,
    out: &mut impl Write,
) -> Result<(), ListError> {
    let mut collector = Collector::new(access, PATIENCE)?;
    if is_json { json(&mut collector, status, out) } else { table(&mut collector, status, out) }
}

fn table(collector: &mut Collector, status: Option<Verdict>, out: &mut impl Write) -> Result<(), ListError> {
    let mut part: Part<AgentView> = listing::part(collector, status, PART, None)?;
    writeln!(out, "{}", listing::HEADING)?;
    loop {
        for agent in &part.agents {
            writeln!(out, "{}", listing::line(agent))?;
        }
        let Some(next) = part.next else { return Ok(out.flush()?) };
        part = listing::part(collector, status, PART, Some(&next))?;
    }
}

/// One object, as `GET /agents` answers.
fn json(collector: &mut Collector, status: Option<Verdict>, out: &mut impl Write) -> Result<(), ListError> {
    let mut part: Part<Json> = listing::part(collector, status, PART, None)?;
    let numbers = serde_json::to_string(&part.stats).map_err(io::Error::from)?;
    let text = |value: &str| serde_json::to_string(value).map_err(io::Error::from);
    let (id, name) = (text(&part.cluster_id)?, text(&part.cluster_name)?);
    write!(out, r#"{{"cluster_id":{id},"cluster_name":{name},"stats":{numbers},"agents":["#)?;
    let mut comma = "";
    loop {
        for agent in &part.agents {
            write!(out, "{comma}{}", in_json(agent.get()))?;
            comma = ",";
        }
        let Some(next) = part.next else { break };
        part = listing::part(collector, status, PART, Some(&next))?;
    }
    writeln!(out, "]}}")?;
    Ok(out.flush()?)
}
