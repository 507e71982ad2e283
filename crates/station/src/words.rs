//! What people are told, in words. Names are text of clients, so they are kept short and on one
//! line.

use std::fmt::Write as _;

use pap_core::time::Wall;

use crate::event::Event;
use crate::incidents::Subject;

/// The longest name that is said to people, in characters.
const MAX_NAME: usize = 100;

/// What has happened; the first line says it all.
pub fn happened(event: Event, subject: &Subject, now: Wall) -> String {
    let mut text = format!("{} ", event.sign());
    let at = utc(now);
    // Writing to a String cannot fail.
    let _ = match subject {
        Subject::Machine(machine) => {
            let seen = machine.last_seen.as_deref().map_or_else(|| "never".to_owned(), for_people);
            let (what, when) = match event {
                Event::MachineOnline => ("back online", format!("Recovered at: {at}")),
                _ => ("offline", format!("Last seen: {seen}")),
            };
            let (name, host) = (short(&machine.name), short(&machine.hostname));
            write!(text, "Machine {name} is {what}\nHostname: {host}\n{when}")
        }
        Subject::Cluster(cluster) => {
            let name = short(&cluster.name);
            let what = match event {
                Event::CollectorSilent => format!("Collector of cluster {name} is silent"),
                Event::CollectorBack => format!("Collector of cluster {name} is back"),
                Event::MassSilence => format!("Many agents of cluster {name} fell silent together"),
                _ => format!("The mass silence in cluster {name} is over"),
            };
            write!(text, "{what}\nAt: {at}")
        }
        Subject::Worker(..) => {
            let what = if event == Event::WorkerFailed { "cannot run" } else { "runs again" };
            write!(text, "{} {what}\nAt: {at}", describe(subject))
        }
        Subject::Agent(_, agent) => {
            let what = match event {
                Event::AgentDead => "is dead",
                Event::AgentRecovered => "is back",
                Event::AgentEmergency => "is in EMERGENCY",
                Event::AgentEmergencyOver => "is no longer in EMERGENCY",
                _ => "has restarted",
            };
            let seen =
                agent.last_seen.as_deref().map(|seen| format!("\nLast seen: {}", for_people(&short(seen))));
            write!(text, "{} {what}{}\nAt: {at}", describe(subject), seen.unwrap_or_default())
        }
    };
    text
}

/// What people are told when an incident was closed although nobody was heard again.
pub fn closed(closing: Event, subject: &Subject, by: &str) -> String {
    format!("{} {} (closed: {by})", closing.sign(), describe(subject))
}

/// Whom it concerns.
fn describe(subject: &Subject) -> String {
    match subject {
        Subject::Machine(machine) => format!("Machine {}", short(&machine.name)),
        Subject::Cluster(cluster) => format!("Cluster {}", short(&cluster.name)),
        Subject::Worker(cluster, role) => format!("Worker {role} of cluster {}", short(&cluster.name)),
        Subject::Agent(cluster, agent) => {
            let name = if agent.agent_name.is_empty() { &agent.agent_uuid } else { &agent.agent_name };
            let place =
                cluster.as_ref().map_or_else(String::new, |it| format!(" of cluster {}", short(&it.name)));
            format!("Agent {}{place}", short(name))
        }
    }
}

/// A client's text for people.
fn short(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(MAX_NAME).collect()
}

/// A moment for people, with its zone.
fn utc(at: Wall) -> String {
    for_people(&at.to_string())
}

fn for_people(rfc3339: &str) -> String {
    let seconds = rfc3339.split(['.', 'Z']).next().unwrap_or_default();
    format!("{} UTC", seconds.replace('T', " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incidents::{AgentFacts, ClusterName, MachineFacts};

    #[test]
    fn the_first_line_says_what_happened_and_times_have_a_zone() {
        let machine = Subject::Machine(MachineFacts {
            id: 1,
            name: "production-server".into(),
            hostname: "web-1".into(),
            description: String::new(),
            status: "offline",
            last_seen: Some("2025-10-09T08:53:20Z".into()),
        });
        assert_eq!(
            happened(Event::MachineOffline, &machine, Wall(0)),
            "\u{1f534} Machine production-server is offline\nHostname: web-1\nLast seen: 2025-10-09 08:53:20 UTC"
        );
        let cluster = ClusterName { row: 1, cluster_id: "c".into(), name: "a\nb".into() };
        let facts =
            AgentFacts { agent_uuid: "id".into(), agent_name: "n".repeat(200), ..AgentFacts::default() };
        let agent = Subject::Agent(Some(cluster), facts);
        let name = "n".repeat(100);
        assert_eq!(
            happened(Event::AgentRecovered, &agent, Wall(1000)),
            format!("\u{1f7e2} Agent {name} of cluster a b is back\nAt: 1970-01-01 00:00:01 UTC")
        );
        assert_eq!(
            closed(Event::AgentRecovered, &agent, "admin"),
            format!("\u{1f7e2} Agent {name} of cluster a b (closed: admin)")
        );
    }
}
