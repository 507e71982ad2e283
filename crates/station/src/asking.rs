//! Asks collectors of their agents by their own heartbeats, which works behind NAT: the
//! answer to a heartbeat holds the ids, and the next heartbeat what is known of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pap_core::time::{Uptime, Wall};

/// Ids in one question: as many as a collector's answer has room for.
pub const MAX_IDS: usize = 200;
/// How often a collector is asked of agents whose incidents are open. Collectors of the
/// original say nothing when an agent is back.
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
    /// Agents that beat here, of which every collector is asked.
    wanted: BTreeSet<String>,
    /// What was said of them, by agent and cluster.
    said: HashMap<(String, String), Said>,
    /// Which clusters were asked of which agents.
    asked: BTreeSet<(String, String)>,
    /// When each cluster was last asked of those in its open incidents.
    followed_up: HashMap<String, (Uptime, Wall)>,
}

/// The questions that wait for heartbeats of collectors.
#[derive(Default)]
pub struct Asking(Mutex<Questions>);

impl Asking {
    fn lock(&self) -> MutexGuard<'_, Questions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on collectors are asked of this agent.
    pub fn want(&self, agent: &str) {
        self.lock().wanted.insert(agent.into());
    }

    /// They are asked of it no more.
    pub fn forget(&self, agent: &str) {
        let mut questions = self.lock();
        questions.wanted.remove(agent);
        questions.said.retain(|(of, _), _| of != agent);
        questions.asked.retain(|(of, _)| of != agent);
    }

    /// Whether a cluster's collector is to be asked of those in its open incidents again.
    pub fn is_due(&self, cluster_id: &str, now: Uptime) -> bool {
        self.lock().followed_up.get(cluster_id).is_none_or(|(at, _)| now.since(*at) >= FOLLOW_UP)
    }

    /// What a heartbeat of a cluster's collector is answered with: some of those in its open
    /// incidents, if that [is due](Self::is_due), and the agents that it was not asked of.
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

    /// A collector has answered, if perhaps not at once: with what it knows; of the others it knows nothing.
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

    /// When a cluster was last asked of those in its open incidents.
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
