//! An alert as an Alertmanager takes it (API v2, `POST /api/v2/alerts`).

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::Serialize;

use super::{AlertName, Condition, End, Told};
use crate::alert::Severity;
use crate::time::Wall;

/// Whom an alert concerns. What is here becomes labels.
#[derive(Clone, Debug, Default)]
pub struct Concerned<'a> {
    /// The cluster, by its id.
    pub cluster: Option<&'a str>,
    /// The agent.
    pub agent: Option<Agent<'a>>,
    /// The machine.
    pub machine: Option<Machine<'a>>,
    /// The role of the worker.
    pub worker: Option<&'a str>,
}

/// An agent.
#[derive(Clone, Debug)]
pub struct Agent<'a> {
    /// Its id.
    pub id: Cow<'a, str>,
    /// Its name; `None` if the id stands for it.
    pub name: Option<&'a str>,
    /// The mode that it had announced.
    pub mode: Option<&'a str>,
}

/// A machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: &'a str,
}

/// Their names and values identify an alert.
#[derive(Serialize)]
struct Labels<'a> {
    alertname: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_uuid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    machine_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    machine_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'a str>,
}

/// For people. They may change while an alert fires.
#[derive(Serialize)]
struct Annotations {
    summary: String,
    description: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Alert<'a> {
    labels: Labels<'a>,
    annotations: Annotations,
    starts_at: Wall,
    ends_at: Wall,
    #[serde(rename = "generatorURL")]
    generator_url: &'a str,
}

/// The body of one post. `generator_url` is the link of each alert.
///
/// # Errors
/// It does not fail: all keys are text, and there are no floats.
pub fn to_json<'a, S>(
    alerts: &'a [Told<S>],
    generator_url: &str,
    concerned: impl Fn(&'a S) -> Concerned<'a>,
) -> serde_json::Result<Vec<u8>> {
    let all: Vec<_> = alerts.iter().map(|told| (told, concerned(&told.condition.subject))).collect();
    let all: Vec<_> = all.iter().map(|(told, concerned)| alert(told, concerned, generator_url)).collect();
    serde_json::to_vec(&all)
}

fn alert<'a, S>(told: &'a Told<S>, concerned: &'a Concerned<'a>, generator_url: &'a str) -> Alert<'a> {
    let condition = &told.condition;
    let agent = concerned.agent.as_ref();
    Alert {
        labels: Labels {
            alertname: condition.alert.as_str(),
            cluster: concerned.cluster,
            severity: condition.alert.severity(),
            agent_uuid: agent.map(|agent| &*agent.id),
            agent_name: agent.map(Agent::name),
            mode: agent.and_then(|agent| agent.mode),
            machine_id: concerned.machine.map(|machine| machine.id.to_string()),
            machine_name: concerned.machine.map(|machine| machine.name),
            worker: concerned.worker,
        },
        annotations: annotations(condition, concerned),
        starts_at: condition.since,
        ends_at: told.ends_at,
        generator_url,
    }
}

impl Agent<'_> {
    fn name(&self) -> &str {
        self.name.unwrap_or(&self.id)
    }
}

fn annotations<S>(condition: &Condition<S>, concerned: &Concerned<'_>) -> Annotations {
    let since = condition.since;
    let cluster = concerned.cluster.unwrap_or_default();
    let of_cluster = concerned.cluster.map_or_else(String::new, |cluster| format!(" of cluster {cluster}"));
    let name = concerned.agent.as_ref().map_or("", Agent::name);
    let mode = concerned.agent.as_ref().and_then(|agent| agent.mode).unwrap_or("unknown");
    let machine = concerned.machine.map_or("", |machine| machine.name);
    let worker = concerned.worker.unwrap_or_default();
    let (summary, mut description) = match condition.alert {
        AlertName::AgentDead => (
            format!("{name} is dead"),
            format!("Agent {name}{of_cluster} has sent no heartbeat since {since}. Its mode was {mode}."),
        ),
        AlertName::AgentEmergency => (
            format!("{name} is in EMERGENCY"),
            format!("Agent {name}{of_cluster} is in mode {mode} since {since}."),
        ),
        AlertName::MassSilence => (
            format!("many agents of {cluster} fell silent together"),
            format!(
                "At least half of the agents of cluster {cluster} fell silent together at {since}. The \
                 network between the agents and the collector may be the cause."
            ),
        ),
        AlertName::MachineOffline => {
            (format!("{machine} is offline"), format!("Machine {machine} has sent nothing since {since}."))
        }
        AlertName::CollectorSilent => (
            format!("the collector of {cluster} is silent"),
            format!(
                "The collector of cluster {cluster} has sent no heartbeat since {since}. Nobody knows \
                 which of its agents live."
            ),
        ),
        AlertName::WorkerFailed => (
            format!("the {worker} of {cluster} cannot run"),
            format!("The {worker} of cluster {cluster} cannot run since {since}; the station says why."),
        ),
    };
    if let Some(ended) = condition.ended {
        let why = match (ended.why, condition.alert) {
            (End::Heard, AlertName::AgentEmergency) => "it announced another mode",
            (End::Heard, _) => "it sent a heartbeat",
            (End::Removed, _) => "it said goodbye or was removed",
            (End::Forgotten, _) => "it was dead for longer than AGENT_RETENTION_MS and is forgotten",
            (End::Over, AlertName::WorkerFailed) => "it runs again",
            (End::Over, _) => "heartbeats are back",
            (End::Closed, _) => "somebody closed it",
        };
        // Writing to a String cannot fail.
        let _ = write!(description, " This ended at {}: {why}.", ended.at);
    }
    Annotations { summary, description }
}
