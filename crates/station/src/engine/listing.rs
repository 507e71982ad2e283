//! What a listing of containers shows.

use std::fmt;
use std::io::{BufReader, Read};

use pap_core::reconcile::{Container, Mark, Observed};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Labels of the containers that we make.
pub const MANAGED: (&str, &str) = ("kg.managed-by", "control-plane");
pub const CLIENT: &str = "kg.client";
pub const ROLE: &str = "kg.role";
pub const STATION: &str = "pap.station";
pub const TEMPLATE: &str = "pap.template";

/// The most containers, and the longest description of one, in bytes.
const MAX_LISTED: usize = 20_000;
const MAX_ROW: usize = 1 << 20;

/// A container in a listing.
#[derive(Debug)]
pub struct Listed {
    /// What decides about it.
    pub container: Container,
    /// Whether the engine may have started it again lately, so that its restarts should be counted.
    pub is_young: bool,
}

/// All containers.
#[derive(Debug, Default)]
pub struct Listing {
    /// The containers that could be read.
    pub containers: Vec<Listed>,
    /// How many could not be read: they may be anybody's.
    pub unread: usize,
}

/// Reads a listing, one container after the other: the whole answer is never in memory.
///
/// # Errors
/// The text is no listing.
pub fn read(from: impl Read, station: &str) -> serde_json::Result<Listing> {
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(from));
    let listing = Rows(station).deserialize(&mut json)?;
    json.end().map(|()| listing)
}

/// The rows of a listing, for the station with this id.
struct Rows<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = Listing;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Listing, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = Listing;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of containers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Listing, A::Error> {
        let mut listing = Listing::default();
        while let Some(row) = rows.next_element::<Box<RawValue>>()? {
            if listing.containers.len() + listing.unread == MAX_LISTED {
                return Err(A::Error::custom(format!("it lists more than {MAX_LISTED} containers")));
            }
            match listed(row.get(), self.0) {
                Some(listed) => listing.containers.push(listed),
                None => listing.unread += 1,
            }
        }
        Ok(listing)
    }
}

/// A container; None if it is not clear which container it is, or whose. All else may be missing.
fn listed(row: &str, station: &str) -> Option<Listed> {
    if row.len() > MAX_ROW {
        return None;
    }
    let row: Value = serde_json::from_str(row).ok()?;
    let labels = &row["Labels"];
    if !labels.is_null() && !labels.is_object() {
        return None;
    }
    let label = |name: &str| match &labels[name] {
        Value::Null => Some(None),
        Value::String(text) => Some(Some(text.clone())),
        _ => None,
    };
    let is_managed = label(MANAGED.0)?.is_some_and(|by| by == MANAGED.1);
    let hash = label(TEMPLATE)?.unwrap_or_default();
    let mark = match (label(STATION)?, label(CLIENT)?, label(ROLE)?) {
        (Some(by), Some(cluster), Some(role)) if is_managed && by == station => {
            Mark::Ours { cluster, role, hash }
        }
        (Some(_), ..) => Mark::Other,
        (None, Some(cluster), Some(role)) if is_managed => Mark::Predecessor { cluster, role },
        _ => Mark::None,
    };
    let text = |name: &str| row[name].as_str().unwrap_or_default();
    let is = match text("State") {
        "running" => Observed::Running,
        "paused" | "restarting" => Observed::Interrupted,
        "created" => Observed::Created,
        "exited" | "dead" | "stopped" => Observed::Stopped,
        _ => Observed::Unclear,
    };
    // "Up Less than a second", "Up 42 seconds": it was started within the last minute.
    let is_young =
        text("State") == "restarting" || (is == Observed::Running && text("Status").contains("second"));
    let names: Vec<&str> = row["Names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    // A container may have further names, of links: they have a second slash.
    let own = names.iter().filter_map(|name| name.strip_prefix('/')).find(|name| !name.contains('/'));
    let name = own.or(names.first().copied()).unwrap_or_default().to_owned();
    let (id, image) = (row["Id"].as_str()?.to_owned(), text("Image").to_owned());
    Some(Listed { container: Container { id, name, image, mark, is, restarts: None }, is_young })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(row: &Value) -> Option<Listed> {
        listed(&row.to_string(), "me")
    }

    #[test]
    fn labels_say_whose_a_container_is() {
        let listed = |labels: Value, state: &str| {
            let row = json!({ "Id": "1", "Names": ["/other/link", "/name"], "Labels": labels, "State": state,
                "Status": "Up 2 hours" });
            let container = one(&row).unwrap().container;
            assert_eq!(container.name, "name");
            (container.mark, container.is)
        };
        let managed = json!({ "kg.managed-by": "control-plane", "kg.client": "c", "kg.role": "r" });
        let with = |more: &[(&str, &str)]| {
            let mut labels = managed.clone();
            for (name, value) in more {
                labels[*name] = json!(value);
            }
            labels
        };
        let (cluster, role) = ("c".to_owned(), "r".to_owned());
        assert_eq!(
            listed(managed.clone(), "running"),
            (Mark::Predecessor { cluster: cluster.clone(), role: role.clone() }, Observed::Running)
        );
        assert_eq!(
            listed(with(&[("pap.station", "me"), ("pap.template", "h")]), "exited"),
            (Mark::Ours { cluster, role, hash: "h".into() }, Observed::Stopped)
        );
        assert_eq!(listed(with(&[("pap.station", "you")]), "paused"), (Mark::Other, Observed::Interrupted));
        assert_eq!(listed(json!(null), "removing"), (Mark::None, Observed::Unclear));
        assert_eq!(listed(json!({ "pap.station": "me" }), "what"), (Mark::Other, Observed::Unclear));
    }

    #[test]
    fn a_row_may_be_odd_but_for_its_id_and_its_labels() {
        let ours = json!({ "kg.managed-by": "control-plane", "kg.client": "c", "kg.role": "r", "pap.station": "me" });
        let odd = json!({ "Id": "1", "Names": {}, "Image": null, "Labels": ours, "State": 7, "Status": [] });
        let Listed { container, is_young } = one(&odd).unwrap();
        assert!(
            matches!(container.mark, Mark::Ours { .. }) && container.is == Observed::Unclear && !is_young
        );
        assert_eq!((container.name.as_str(), container.image.as_str()), ("", ""));
        for labels in [json!({ "a": null, "b": 7 }), json!(null)] {
            assert_eq!(one(&json!({ "Id": "1", "Labels": labels })).unwrap().container.mark, Mark::None);
        }
        let long = "x".repeat(MAX_ROW);
        for unclear in [
            json!({ "Id": 7, "Labels": ours }),
            json!({ "Names": ["/x"] }),
            json!({ "Id": "1", "Labels": ["a"] }),
            json!({ "Id": "1", "Labels": { "pap.station": 7 } }),
            json!({ "Id": "1", "Labels": { "kg.role": { "a": 1 } } }),
            json!({ "Id": long }),
            json!("x"),
            json!(null),
        ] {
            assert!(one(&unclear).is_none());
        }
    }

    #[test]
    fn a_listing_is_read_to_its_end_and_has_one() {
        let listing = read(&br#" [ {"Id":"1"}, 7, {"Id":"2"} ] "#[..], "me").unwrap();
        assert_eq!((listing.containers.len(), listing.unread), (2, 1));
        for wrong in ["", "{}", "null", "[{\"Id\":\"1\"}", "[] []", "[{\"Id\":\"1\"},]"] {
            assert!(read(wrong.as_bytes(), "me").is_err(), "{wrong}");
        }
        let rows = |number: usize| format!("[{}]", vec!["{}"; number].join(","));
        assert_eq!(read(rows(MAX_LISTED).as_bytes(), "me").unwrap().unread, MAX_LISTED);
        let error = read(rows(MAX_LISTED + 1).as_bytes(), "me").unwrap_err();
        assert!(error.to_string().starts_with("it lists more than 20000 containers"), "{error}");
    }
}
