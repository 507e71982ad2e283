//! The records of both topics, as their producers write them: decoded, nothing else.
//!
//! Some producers are faulty, and cannot be upgraded from here:
//! - one splits its JSON at the first colon, so the key is `{"client_id"` and the value is the rest
//! - one writes each line of its JSON as a record of its own: nothing can be made of these
//! - one doubles the key, `af-10::af-10`
//!
//! What a registration may say is a type of its own: other members (`status`, `GraphBuilderID`)
//! are not taken.

use jiff::Timestamp;
use pap_core::time::Wall;
use serde_json::{Map, Value};

use crate::clusters::{Registration, What, is_id};

/// The longest key and the longest value that are looked at, in bytes.
const MAX_KEY: usize = 1024;
const MAX_VALUE: usize = 64 * 1024;
/// The most characters that are kept of a name, a region and a version.
const MAX_NAME: usize = 255;
const MAX_VERSION: usize = 100;
/// The most bytes of metadata that are kept.
const MAX_METADATA: usize = 16 * 1024;

/// The key of a record that was split at the first colon of its JSON.
const SPLIT_KEY: &[u8] = b"{\"client_id\"";

/// A record of the registry: its cluster, and what it says. None if it says nothing of a cluster.
pub fn registry(key: Option<&[u8]>, value: Option<&[u8]>) -> Option<(String, What)> {
    let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
    if key.len() > MAX_KEY || value.len() > MAX_VALUE {
        return None;
    }
    if value.is_empty() {
        return Some((id_of_key(key)?, What::Removed));
    }
    let members = if key == SPLIT_KEY { object(&[SPLIT_KEY, b":", value].concat()) } else { object(value) }?;
    let id = match members.get("client_id") {
        Some(Value::String(id)) if is_id(id) => id.clone(),
        Some(_) => return None,
        None => id_of_key(key)?,
    };
    let text = |name: &str, most: usize| {
        let text = members.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())?;
        Some(text.chars().take(most).collect::<String>())
    };
    let registration = Registration {
        name: text("cluster_name", MAX_NAME),
        version: text("version", MAX_VERSION).or_else(|| text("chart_version", MAX_VERSION)),
        region: text("region", MAX_NAME),
        metadata: members
            .get("metadata")
            .and_then(Value::as_object)
            .filter(|it| serde_json::to_vec(it).is_ok_and(|text| text.len() <= MAX_METADATA))
            .cloned(),
        ..Registration::default()
    };
    Some((id, What::Registered(Box::new(registration))))
}

/// A heartbeat: its cluster, and its time by its sender's clock. None if it is no heartbeat.
pub fn heartbeat(key: Option<&[u8]>, value: Option<&[u8]>) -> Option<(String, Option<Wall>)> {
    let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
    if key.len() > MAX_KEY || value.len() > MAX_VALUE || value.is_empty() {
        return None;
    }
    let members = object(value).unwrap_or_default();
    let said = members.get("client_id").and_then(Value::as_str).filter(|id| is_id(id));
    let id = said.map(str::to_owned).or_else(|| id_of_key(key))?;
    let time = members.get("timestamp").and_then(Value::as_str).and_then(|text| {
        let time: Timestamp = text.parse().ok()?;
        u64::try_from(time.as_millisecond()).ok().map(Wall)
    });
    Some((id, time))
}

fn object(json: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(json).ok()
}

/// The cluster that a key names, also if the key is doubled.
fn id_of_key(key: &[u8]) -> Option<String> {
    let key = std::str::from_utf8(key).ok()?;
    let id = key.split("::").next().unwrap_or(key);
    is_id(id).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(key: &str, value: &str) -> Option<(String, Registration)> {
        match registry(Some(key.as_bytes()), Some(value.as_bytes()))? {
            (id, What::Registered(registration)) => Some((id, *registration)),
            (_, What::Removed) => None,
        }
    }

    fn removed(key: &str, value: Option<&[u8]>) -> Option<String> {
        match registry(Some(key.as_bytes()), value)? {
            (id, What::Removed) => Some(id),
            (_, What::Registered(_)) => None,
        }
    }

    /// The JSON of the job register-cluster.
    const WHOLE: &str = r#"{"client_id":"af-10","cluster_name":"production-us-east","version":"2.1.2","registered_at":"2025-10-23T10:00:00Z","metadata":{"namespace":"observability","release_name":"kg","chart_version":"2.1.2"}}"#;

    #[test]
    fn registrations_of_all_producers_are_understood() {
        let (id, said) = registered("af-10", WHOLE).unwrap();
        assert_eq!((id.as_str(), said.name.as_deref()), ("af-10", Some("production-us-east")));
        assert_eq!(said.version.as_deref(), Some("2.1.2"));
        assert_eq!(said.metadata.unwrap()["namespace"], "observability");

        // kcat -K: splits at the first colon.
        let (key, value) = WHOLE.split_once(':').unwrap();
        let (id, said) = registered(key, value).unwrap();
        assert_eq!((id.as_str(), said.name.as_deref()), ("af-10", Some("production-us-east")));
        assert!(said.metadata.is_some());

        // The job cluster-registry.
        let value = r#"{"client_id":"af-10","cluster_name":"","region":"unknown","timestamp":"2025-10-23T10:00:00Z","chart_version":"2.0.9"}"#;
        let (id, said) = registered("af-10", value).unwrap();
        assert_eq!((id.as_str(), said.name), ("af-10", None), "an empty name is none");
        assert_eq!((said.version.as_deref(), said.region.as_deref()), (Some("2.0.9"), Some("unknown")));

        // By hand, with more and with less.
        let value =
            r#"{"client_id":"af-10","k8s_version":"1.30","events_sent":7,"registered_at":"yesterday"}"#;
        assert_eq!(registered("af-10", value).unwrap().0, "af-10");
        assert_eq!(registered("af-10", "{}").unwrap().0, "af-10", "by its key alone");
    }

    #[test]
    fn a_registration_sets_nothing_but_what_it_may_say() {
        let value = r#"{"client_id":"a","status":"dead","Status":"dead","GraphBuilderID":"kg-control-plane","collector_url":"http://127.0.0.1","collector_key":"k","description":"d","cluster_name":7,"metadata":"m"}"#;
        let (_, said) = registered("a", value).unwrap();
        let Registration { name, description, collector_url, collector_key, version, region, metadata } =
            said;
        assert!(name.is_none() && description.is_none() && collector_url.is_none());
        assert!(collector_key.is_none() && version.is_none() && region.is_none() && metadata.is_none());
    }

    #[test]
    fn null_and_empty_values_are_tombstones() {
        assert_eq!(removed("af-10", None).as_deref(), Some("af-10"));
        assert_eq!(removed("af-10", Some(b"")).as_deref(), Some("af-10"));
        assert_eq!(removed("af-10::af-10", None).as_deref(), Some("af-10"));
        assert_eq!(removed("{\"client_id\"", None), None);
        assert!(registry(None, None).is_none());
    }

    #[test]
    fn what_says_nothing_is_nothing() {
        // A producer that sends each line of its JSON.
        for (key, value) in [
            ("af-10", "{"),
            ("  \"client_id\"", " \"af-10\","),
            ("  \"metadata\"", " {"),
            ("    \"namespace\"", " \"observability\","),
            ("  }", ""),
            ("}", ""),
            ("{\"client_id\"", "\"af-10\""),
            ("{\"client_id\"", ""),
            ("a", "[]"),
            ("a", "\"a\""),
            ("a", r#"{"client_id":""}"#),
            ("a", r#"{"client_id":"../b"}"#),
            ("a", r#"{"client_id":7}"#),
            ("../b", "{}"),
        ] {
            assert!(registry(Some(key.as_bytes()), Some(value.as_bytes())).is_none(), "{key} {value}");
        }
        assert!(registry(Some(b"a"), Some(b"{\"client_id\":\"a\",\"x\":\"\xff\"}")).is_none());
        assert!(registry(Some(&vec![b'a'; MAX_KEY + 1]), None).is_none());
        assert!(registry(Some(b"a"), Some(&vec![b' '; MAX_VALUE + 1])).is_none());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let value = serde_json::json!({
            "client_id": "a", "cluster_name": "\u{1f600}".repeat(999), "version": "v".repeat(999),
            "region": "r".repeat(999), "metadata": { "x": "y".repeat(MAX_METADATA) },
        });
        let (_, said) = registered("a", &value.to_string()).unwrap();
        assert_eq!(said.name.unwrap().chars().count(), MAX_NAME);
        assert_eq!((said.version.unwrap().len(), said.region.unwrap().len()), (MAX_VERSION, MAX_NAME));
        assert!(said.metadata.is_none());
    }

    #[test]
    fn heartbeats_of_all_producers_are_understood() {
        let of = |key: &str, value: &str| heartbeat(Some(key.as_bytes()), Some(value.as_bytes()));
        let at = Some(Wall(1_761_213_900_000));
        let watcher = r#"{"client_id":"af-10","timestamp":"2025-10-23T10:05:00Z","status":"healthy","metrics":{"resources_sent":0,"uptime_seconds":30}}"#;
        assert_eq!(of("af-10::af-10", watcher), Some(("af-10".into(), at)));
        let cron = r#"{"client_id":"af-10","timestamp":"2025-10-23T12:05:00+02:00"}"#;
        assert_eq!(of("af-10", cron), Some(("af-10".into(), at)));
        assert_eq!(of("af-10::af-10", "{}"), Some(("af-10".into(), None)));
        assert_eq!(of("af-10", "alive"), Some(("af-10".into(), None)), "whatever it says");
        assert_eq!(of("af-10", r#"{"timestamp":"1969-01-01T00:00:00Z"}"#), Some(("af-10".into(), None)));
        assert_eq!(of("", r#"{"client_id":"af-10","timestamp":"soon"}"#), Some(("af-10".into(), None)));
        assert_eq!(of("a b", "{}"), None);
        assert_eq!(heartbeat(Some(b"af-10"), None), None);
        assert_eq!(of("af-10", ""), None);
    }
}
