//! The members of a heartbeat's JSON as they come, borrowed from the bytes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The members of resource data, which no heartbeat may have.
const RESOURCE: [&str; 4] = ["cpu_percent", "memory_mb", "requests_handled", "custom_metrics"];

/// What a heartbeat's JSON has. Unknown members are skipped.
#[derive(Debug, Default)]
pub struct Wire<'a> {
    pub mode: Member<'a>,
    pub uptime_seconds: Member<'a>,
    pub agent_name: Member<'a>,
    /// A known member that is there twice.
    pub twice: Option<&'static str>,
    /// Which of [`RESOURCE`] there are.
    has_resource: [bool; RESOURCE.len()],
}

/// The value of a member.
#[derive(Debug, Default)]
pub enum Member<'a> {
    /// There is none, or it is null.
    #[default]
    Missing,
    Text(Cow<'a, str>),
    Number(f64),
    Other,
}

impl Wire<'_> {
    /// The first member of resource data.
    pub fn resource_data(&self) -> Option<&'static str> {
        RESOURCE.into_iter().zip(self.has_resource).find_map(|(name, is_there)| is_there.then_some(name))
    }
}

/// The name of a member.
#[derive(Clone, Copy)]
enum Key {
    Mode,
    Uptime,
    Name,
    /// The place in [`RESOURCE`].
    Resource(usize),
    Unknown,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfKey;
        impl Visitor<'_> for OfKey {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a member")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Key, E> {
                Ok(match name {
                    "mode" => Key::Mode,
                    "uptime_seconds" => Key::Uptime,
                    "agent_name" => Key::Name,
                    _ => RESOURCE.iter().position(|&known| known == name).map_or(Key::Unknown, Key::Resource),
                })
            }
        }
        deserializer.deserialize_identifier(OfKey)
    }
}

impl<'de> Deserialize<'de> for Wire<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfWire;
        impl<'de> Visitor<'de> for OfWire {
            type Value = Wire<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Wire<'de>, A::Error> {
                let mut wire = Wire::default();
                let (mut has_mode, mut has_uptime, mut has_name) = (false, false, false);
                while let Some(key) = map.next_key()? {
                    let (had_it, name) = match key {
                        Key::Mode => (std::mem::replace(&mut has_mode, true), "mode"),
                        Key::Uptime => (std::mem::replace(&mut has_uptime, true), "uptime_seconds"),
                        Key::Name => (std::mem::replace(&mut has_name, true), "agent_name"),
                        Key::Resource(at) => {
                            (std::mem::replace(&mut wire.has_resource[at], true), RESOURCE[at])
                        }
                        Key::Unknown => (false, ""),
                    };
                    if had_it {
                        wire.twice.get_or_insert(name);
                    }
                    match key {
                        Key::Mode => wire.mode = map.next_value()?,
                        Key::Uptime => wire.uptime_seconds = map.next_value()?,
                        Key::Name => wire.agent_name = map.next_value()?,
                        Key::Resource(_) | Key::Unknown => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(wire)
            }
        }
        deserializer.deserialize_map(OfWire)
    }
}

impl<'de> Deserialize<'de> for Member<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OfMember)
    }
}

struct OfMember;

impl<'de> Visitor<'de> for OfMember {
    type Value = Member<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<Member<'de>, E> {
        Ok(Member::Missing)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Member<'de>, E> {
        Ok(Member::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Member<'de>, E> {
        Ok(Member::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Member<'de>, E> {
        Ok(Member::Number(number))
    }

    #[expect(clippy::cast_precision_loss, reason = "an uptime needs no more than 53 bits")]
    fn visit_u64<E: Error>(self, number: u64) -> Result<Member<'de>, E> {
        Ok(Member::Number(number as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "an uptime needs no more than 53 bits")]
    fn visit_i64<E: Error>(self, number: i64) -> Result<Member<'de>, E> {
        Ok(Member::Number(number as f64))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Member<'de>, E> {
        Ok(Member::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Member<'de>, A::Error> {
        while values.next_element::<Member<'_>>()?.is_some() {}
        Ok(Member::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Member<'de>, A::Error> {
        while members.next_entry::<Member<'_>, Member<'_>>()?.is_some() {}
        Ok(Member::Other)
    }
}
