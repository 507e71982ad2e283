//! Asks collectors about agents by their beats, which works behind NAT too: the answer to a
//! beat holds the ids, and the next beat what the collector knows of these agents.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pap_core::time::{Uptime, Wall};

/// Ids in one question: as many as a collector's answer has room for.
pub const MAX_IDS: usize = 200;
/// How often a collector is asked about agents whose incidents are open. The original collector
/// posts no recovery.
pub const FOLLOW_UP: Duration = Duration::from_secs(30);

/// What a collector says of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Whether it is alive.
    pub healthy: bool,
    /// Its mode.
    pub mode: Option<String>,
    /// When it was last heard, by the collector's clock.
    pub last_seen: Option<Wall>,
}

#[derive(Default)]
struct Questions {
    /// Agents that beat here, about which every collector is asked.
    wanted: BTreeSet<String>,
    /// What collectors said of them, by agent and cluster.
    said: HashMap<(String, String), Said>,
    /// Which agents and clusters: the cluster's collector was asked about the agent.
    asked: BTreeSet<(String, String)>,
    /// When each cluster's collector was last asked about the agents in its open incidents.
    followed_up: HashMap<String, (Uptime, Wall)>,
}

/// The questions that wait for beats of collectors.
#[derive(Default)]
pub struct Asking(Mutex<Questions>);

impl Asking {
    fn lock(&self) -> MutexGuard<'_, Questions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on collectors are asked about this agent.
    pub fn want(&self, agent: &str) {
        self.lock().wanted.insert(agent.into());
    }

    /// From now on collectors are not asked about this agent.
    pub fn forget(&self, agent: &str) {
        let mut questions = self.lock();
        questions.wanted.remove(agent);
        questions.said.retain(|(of, _), _| of != agent);
        questions.asked.retain(|(of, _)| of != agent);
    }

    /// Whether a cluster's collector is to be asked again about the agents in its open incidents.
    pub fn is_due(&self, cluster_id: &str, now: Uptime) -> bool {
        self.lock().followed_up.get(cluster_id).is_none_or(|(at, _)| now.since(*at) >= FOLLOW_UP)
    }

    /// The ids in the answer to a beat: some of the agents in the cluster's open incidents, if
    /// that [is due](Self::is_due), and the agents about which its collector was not asked yet.
    pub fn questions(
        &self,
        cluster_id: &str,
        of_incidents: Vec<String>,
        (now, wall): (Uptime, Wall),
    ) -> Vec<String> {
        let mut questions = self.lock();
        let mut ids = Vec::new();
        if !of_incidents.is_empty() {
            questions.followed_up.insert(cluster_id.into(), (now, wall));
            ids = of_incidents;
        }
        let wanted = questions.wanted.iter().map(|agent| (agent.clone(), cluster_id.to_owned()));
        let open = wanted.filter(|question| !questions.said.contains_key(question));
        for question in open.take(MAX_IDS).collect::<Vec<_>>() {
            ids.insert(0, question.0.clone());
            questions.asked.insert(question);
        }
        ids.truncate(MAX_IDS);
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// A collector has answered, perhaps not with the first beat after the question. It does not
    /// know the agents that its answer leaves out.
    pub fn answer(&self, cluster_id: &str, said: &[(String, Said)]) {
        let mut questions = self.lock();
        let asked: Vec<_> =
            questions.asked.iter().filter(|(_, cluster)| cluster == cluster_id).cloned().collect();
        for (agent, cluster) in asked {
            let known = said.iter().find(|(id, _)| *id == agent).map(|(_, said)| said.clone());
            let said = known.unwrap_or(Said { healthy: false, mode: None, last_seen: None });
            questions.said.insert((agent, cluster), said);
        }
    }

    /// When a cluster's collector was last asked about the agents in its open incidents.
    pub fn asked_at(&self, cluster_id: &str) -> Option<Wall> {
        self.lock().followed_up.get(cluster_id).map(|(_, wall)| *wall)
    }

    /// What a cluster's collector has said of an agent since it was asked.
    pub fn said(&self, agent: &str, cluster_id: &str) -> Option<Said> {
        self.lock().said.get(&(agent.to_owned(), cluster_id.to_owned())).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_that_was_asked_and_says_nothing_knows_nothing() {
        let (asking, at) = (Asking::default(), |seconds| Uptime::new(Duration::from_secs(seconds)));
        let ask = |ids: &[&str], seconds| {
            asking.questions("c", ids.iter().map(|id| (*id).to_owned()).collect(), (at(seconds), Wall(0)))
        };
        asking.want("a");
        asking.want("b");
        asking.answer("c", &[]);
        assert_eq!(asking.said("a", "c"), None, "it was not asked");
        assert_eq!(ask(&["x", "a"], 0), ["a", "b", "x"]);
        let well = Said { healthy: true, mode: Some("IDLE".into()), last_seen: None };
        asking.answer("c", &[("a".into(), well.clone())]);
        assert_eq!(asking.said("a", "c"), Some(well));
        assert_eq!(asking.said("b", "c"), Some(Said { healthy: false, mode: None, last_seen: None }));
        assert!(!asking.is_due("c", at(29)) && asking.is_due("c", at(30)) && asking.is_due("d", at(1)));
        assert_eq!(ask(&["x"], 30), ["x"]);
        asking.forget("a");
        assert_eq!(asking.said("a", "c"), None);
        asking.want("a");
        assert_eq!(ask(&[], 31), ["a"]);
    }
}
