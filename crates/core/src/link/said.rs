//! What a pap-station's answer to a beat says, as JSON.

use std::fmt;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::agent_id::AgentId;

/// The most agents in one answer that are looked at.
pub const MOST_ASKED: usize = 1000;

/// What the body of an answer to a beat says. Unknown fields are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Said {
    /// When the station expects the next beat, in milliseconds.
    pub next_heartbeat_ms: Option<u64>,
    /// Whether the cluster is registered, and not just heard: a station whose file was put back from a
    /// backup may not know of the registration any more. It says so only if it is not.
    pub registered: Option<bool>,
    /// The agents about which the station asks, [`MOST_ASKED`] at most.
    #[serde(deserialize_with = "asked")]
    pub ask: Vec<AgentId>,
}

/// The first ids of a list. What is no agent's id is left out.
fn asked<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<AgentId>, D::Error> {
    struct Ids;

    impl<'de> Visitor<'de> for Ids {
        type Value = Vec<AgentId>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of agents' ids")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut ids = Vec::new();
            let mut looked_at = 0;
            while looked_at < MOST_ASKED
                && let Some(text) = list.next_element::<String>()?
            {
                looked_at += 1;
                ids.extend(AgentId::new(&text));
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(ids)
        }
    }

    from.deserialize_seq(Ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_with_its_first_thousand_ids() {
        let read = |text: &str| serde_json::from_str::<Said>(text).unwrap();
        let said = |next_heartbeat_ms, asked: usize| {
            let ask = (0..asked).map(|number| AgentId::new(&format!("a{number}")).unwrap()).collect();
            Said { next_heartbeat_ms, ask, ..Said::default() }
        };
        assert_eq!(read("{\"received\":true}"), Said::default());
        let short = read(r#"{"next_heartbeat_ms":7,"ask":["a0","","a1","b\u0000"],"new":{}}"#);
        assert_eq!(short, said(Some(7), 2));
        assert_eq!(read("{\"registered\":false}"), Said { registered: Some(false), ..Said::default() });
        let many: Vec<String> = (0..2000).map(|number| format!("a{number}")).collect();
        let long = read(&serde_json::json!({ "ask": many, "next_heartbeat_ms": 9 }).to_string());
        assert_eq!(long, said(Some(9), MOST_ASKED));
    }
}
