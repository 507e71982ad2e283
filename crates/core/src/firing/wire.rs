//! An alert as an Alertmanager takes it (API v2, `POST /api/v2/alerts`).

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::Serialize;

use super::{AlertName, Condition, End, Told};
use crate::alert::Severity;
use crate::heartbeat::Mode;
use crate::time::Wall;

/// Their names and values identify an alert.
#[derive(Serialize)]
struct Labels<'a> {
    alertname: &'static str,
    cluster: &'a str,
    severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_uuid: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<Mode>,
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

/// The body of one post. `cluster_id` is a label of each alert, and `generator_url`
/// its link.
///
/// # Errors
/// It does not fail: all keys are text, and there are no floats.
pub fn to_json(alerts: &[Told], cluster_id: &str, generator_url: &str) -> serde_json::Result<Vec<u8>> {
    let alerts: Vec<_> = alerts.iter().map(|told| alert(told, cluster_id, generator_url)).collect();
    serde_json::to_vec(&alerts)
}

fn alert<'a>(told: &'a Told, cluster_id: &'a str, generator_url: &'a str) -> Alert<'a> {
    let condition = &told.condition;
    let subject = condition.subject.as_ref();
    let id = subject.map(|subject| Cow::Owned(subject.id.to_string()));
    let name = subject.and_then(|subject| subject.name.as_deref()).map(Cow::Borrowed).or_else(|| id.clone());
    Alert {
        labels: Labels {
            alertname: condition.alert.as_str(),
            cluster: cluster_id,
            severity: condition.alert.severity(),
            agent_uuid: id,
            agent_name: name.clone(),
            mode: subject.map(|subject| subject.mode),
        },
        annotations: annotations(condition, cluster_id, name.as_deref().unwrap_or_default()),
        starts_at: condition.since,
        ends_at: told.ends_at,
        generator_url,
    }
}

fn annotations(condition: &Condition, cluster_id: &str, name: &str) -> Annotations {
    let since = condition.since;
    let mode = condition.subject.as_ref().map_or("", |subject| subject.mode.as_str());
    let (summary, mut description) = match condition.alert {
        AlertName::AgentDead => (
            format!("{name} is dead"),
            format!(
                "Agent {name} of cluster {cluster_id} has sent no heartbeat since {since}. Its mode was {mode}."
            ),
        ),
        AlertName::AgentEmergency => (
            format!("{name} is in EMERGENCY"),
            format!("Agent {name} of cluster {cluster_id} is in mode {mode} since {since}."),
        ),
        AlertName::MassSilence => (
            format!("many agents of {cluster_id} fell silent together"),
            format!(
                "At least half of the agents of cluster {cluster_id} fell silent together at {since}. The \
                 network between the agents and the collector may be the cause."
            ),
        ),
    };
    if let Some(ended) = condition.ended {
        let why = match (ended.why, condition.alert) {
            (End::Heard, AlertName::AgentEmergency) => "it announced another mode",
            (End::Heard, AlertName::AgentDead | AlertName::MassSilence) => "it sent a heartbeat",
            (End::Removed, _) => "it said goodbye or was removed",
            (End::Forgotten, _) => "it was dead for longer than AGENT_RETENTION_MS and is forgotten",
            (End::Over, _) => "heartbeats are back",
        };
        // Writing to a String cannot fail.
        let _ = write!(description, " This ended at {}: {why}.", ended.at);
    }
    Annotations { summary, description }
}
