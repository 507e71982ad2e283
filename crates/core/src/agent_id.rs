//! An agent's id: checked once, at the edge, and small in memory.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use hashbrown::Equivalent;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::heartbeat::MAX_TEXT;

/// The characters that a path segment encodes (RFC 3986 §3.3): all but the unreserved.
const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Text as a path segment of a URL, percent-encoded (RFC 3986 §2.1).
pub fn path_segment(text: &str) -> String {
    utf8_percent_encode(text, PATH_SEGMENT).to_string()
}

/// An agent's id: 1 to 128 bytes of text without control characters.
///
/// Most ids are UUIDs, and a UUID takes 16 bytes instead of 36. Only the canonical
/// spelling is shortened, so an id always comes back exactly as the agent sent it.
/// Ids are ordered by their text.
#[derive(Clone, PartialEq, Eq)]
pub struct AgentId(Repr);

#[derive(Clone, PartialEq, Eq)]
enum Repr {
    Uuid([u8; 16]),
    Text(Box<str>),
}

/// The id of an agent whose text stands somewhere else. To make it allocates nothing,
/// so it is what a known agent is looked up by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdRef<'a>(ReprRef<'a>);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum ReprRef<'a> {
    Uuid([u8; 16]),
    Text(&'a str),
}

/// Room for the text of an id that is decoded.
#[derive(Debug)]
pub struct IdRoom([u8; MAX_TEXT]);

impl Default for IdRoom {
    fn default() -> Self {
        Self([0; MAX_TEXT])
    }
}

/// Why a text is not an agent id. The state is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdError {
    /// The id is empty or has more than 128 bytes.
    Length,
    /// A `%` is not followed by two hexadecimal digits, or the bytes are not UTF-8.
    Encoding,
    /// The id contains a control character.
    Control,
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "agent id must be 1 to 128 bytes",
            Self::Encoding => "agent id must be percent-encoded UTF-8",
            Self::Control => "agent id must not contain control characters",
        })
    }
}

impl<'a> IdRef<'a> {
    /// An id from plain text.
    ///
    /// # Errors
    /// [`IdError::Length`] or [`IdError::Control`].
    pub fn new(text: &'a str) -> Result<Self, IdError> {
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(IdError::Length);
        }
        if text.chars().any(char::is_control) {
            return Err(IdError::Control);
        }
        if let Ok(uuid) = Uuid::try_parse(text)
            && uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text
        {
            return Ok(Self(ReprRef::Uuid(uuid.into_bytes())));
        }
        Ok(Self(ReprRef::Text(text)))
    }

    /// An id from a percent-encoded path segment (RFC 3986 §2.1).
    ///
    /// # Errors
    /// Any [`IdError`].
    pub fn from_path(segment: &'a str, room: &'a mut IdRoom) -> Result<Self, IdError> {
        let Some(first) = segment.bytes().position(|byte| byte == b'%') else { return Self::new(segment) };
        let mut rest = &segment.as_bytes()[first..];
        while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
            match rest.get(at + 1..at + 3) {
                Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => rest = &rest[at + 3..],
                _ => return Err(IdError::Encoding),
            }
        }
        let mut length = 0;
        for byte in percent_decode_str(segment) {
            let Some(place) = room.0.get_mut(length) else {
                let is_text = percent_decode_str(segment).decode_utf8().is_ok();
                return Err(if is_text { IdError::Length } else { IdError::Encoding });
            };
            *place = byte;
            length += 1;
        }
        Self::new(str::from_utf8(&room.0[..length]).map_err(|_| IdError::Encoding)?)
    }

    /// Runs `f` on the id's text, without allocating.
    fn with_text<R>(self, f: impl FnOnce(&str) -> R) -> R {
        match self.0 {
            ReprRef::Uuid(bytes) => {
                let mut buffer = [0; Hyphenated::LENGTH];
                f(Uuid::from_bytes(bytes).hyphenated().encode_lower(&mut buffer))
            }
            ReprRef::Text(text) => f(text),
        }
    }
}

impl AgentId {
    /// An id from plain text.
    ///
    /// # Errors
    /// [`IdError::Length`] or [`IdError::Control`].
    pub fn new(text: &str) -> Result<Self, IdError> {
        IdRef::new(text).map(Into::into)
    }

    /// An id from a percent-encoded path segment (RFC 3986 §2.1).
    ///
    /// # Errors
    /// Any [`IdError`].
    pub fn from_path(segment: &str) -> Result<Self, IdError> {
        IdRef::from_path(segment, &mut IdRoom::default()).map(Into::into)
    }

    /// The id with the text of this UUID, in its canonical spelling.
    pub const fn from_uuid(bytes: [u8; 16]) -> Self {
        Self(Repr::Uuid(bytes))
    }

    /// The UUID, if the id's text is the canonical spelling of one.
    pub const fn as_uuid(&self) -> Option<&[u8; 16]> {
        match &self.0 {
            Repr::Uuid(bytes) => Some(bytes),
            Repr::Text(_) => None,
        }
    }

    /// The id as a path segment, which [`from_path`](Self::from_path) reads.
    pub fn to_path(&self) -> String {
        self.with_text(path_segment)
    }

    /// The same id, with its text in this one.
    pub const fn borrowed(&self) -> IdRef<'_> {
        IdRef(match &self.0 {
            Repr::Uuid(bytes) => ReprRef::Uuid(*bytes),
            Repr::Text(text) => ReprRef::Text(text),
        })
    }

    fn with_text<R>(&self, f: impl FnOnce(&str) -> R) -> R {
        self.borrowed().with_text(f)
    }
}

impl<'a> From<&'a AgentId> for IdRef<'a> {
    fn from(id: &'a AgentId) -> Self {
        id.borrowed()
    }
}

impl From<IdRef<'_>> for AgentId {
    fn from(id: IdRef<'_>) -> Self {
        Self(match id.0 {
            ReprRef::Uuid(bytes) => Repr::Uuid(bytes),
            ReprRef::Text(text) => Repr::Text(text.into()),
        })
    }
}

/// Both kinds of ids have one hash, so that either finds the other in a table.
impl Hash for AgentId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrowed().hash(state);
    }
}

impl Equivalent<AgentId> for IdRef<'_> {
    fn equivalent(&self, id: &AgentId) -> bool {
        *self == id.borrowed()
    }
}

/// Whether the id is this text. The comparison allocates nothing.
impl PartialEq<str> for AgentId {
    fn eq(&self, text: &str) -> bool {
        match &self.0 {
            Repr::Uuid(_) if text.len() != Hyphenated::LENGTH => false,
            Repr::Uuid(_) | Repr::Text(_) => self.with_text(|own| own == text),
        }
    }
}

impl Ord for AgentId {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            // Lower-case hexadecimal digits sort like the bytes that they stand for.
            (Repr::Uuid(a), Repr::Uuid(b)) => a.cmp(b),
            _ => self.with_text(|a| other.with_text(|b| a.cmp(b))),
        }
    }
}

impl PartialOrd for AgentId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for IdRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.pad(text))
    }
}

impl fmt::Debug for IdRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.borrowed().fmt(f)
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for AgentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

impl<'de> Deserialize<'de> for AgentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_decoded_and_checked() {
        let id = |path: &str| AgentId::from_path(path).map(|id| id.to_string());
        assert_eq!(id("pluggedin%2Fresearch@1.2.0").unwrap(), "pluggedin/research@1.2.0");
        assert_eq!(id("caf%C3%A9").unwrap(), "café");
        assert_eq!(id(""), Err(IdError::Length));
        assert_eq!(id(&"a".repeat(129)), Err(IdError::Length));
        assert_eq!(id(&"a".repeat(128)).unwrap().len(), 128);
        assert_eq!(id("a%"), Err(IdError::Encoding));
        assert_eq!(id("a%2"), Err(IdError::Encoding));
        assert_eq!(id("a%zz"), Err(IdError::Encoding));
        assert_eq!(id("%ff"), Err(IdError::Encoding));
        assert_eq!(id(&"%41".repeat(128)).unwrap(), "A".repeat(128));
        assert_eq!(id(&"%41".repeat(129)), Err(IdError::Length));
        assert_eq!(id(&format!("{}%ff", "%41".repeat(128))), Err(IdError::Encoding));
        assert_eq!(id("a%0Ab"), Err(IdError::Control));
        assert_eq!(id("a%C2%85b"), Err(IdError::Control));
    }

    #[test]
    fn a_uuid_is_small_and_keeps_its_spelling() {
        let lower = "550e8400-e29b-41d4-a716-446655440000";
        let id = AgentId::new(lower).unwrap();
        assert!(matches!(id.0, Repr::Uuid(_)));
        assert_eq!(id.to_string(), lower);
        assert_eq!(size_of::<AgentId>(), 24);
        for other in [lower.to_uppercase(), lower.replace('-', ""), format!("{{{lower}}}")] {
            let id = AgentId::new(&other).unwrap();
            assert!(matches!(id.0, Repr::Text(_)), "{other}");
            assert_eq!(id.to_string(), other);
        }
    }

    #[test]
    fn a_borrowed_id_finds_the_agent() {
        let mut table = hashbrown::HashMap::with_hasher(std::hash::RandomState::new());
        for text in ["550e8400-e29b-41d4-a716-446655440000", "pluggedin/research@1.2.0", "a"] {
            table.insert(AgentId::new(text).unwrap(), text);
            let mut room = IdRoom::default();
            let path = path_segment(text);
            let id = IdRef::from_path(&path, &mut room).unwrap();
            assert_eq!(table.get(&id), Some(&text));
            assert_eq!((id.to_string(), AgentId::from(id).borrowed()), (text.to_owned(), id));
        }
        assert_eq!(table.get(&IdRef::new("b").unwrap()), None);
    }

    proptest! {
        #[test]
        fn any_path_is_an_id_or_a_reason(path in "\\PC{0,200}") {
            if let Ok(id) = AgentId::from_path(&path) {
                let text = id.to_string();
                prop_assert!((1..=MAX_TEXT).contains(&text.len()));
                prop_assert!(!text.chars().any(char::is_control));
            }
        }

        #[test]
        fn an_encoded_id_comes_back(text in "\\PC{1,32}") {
            match AgentId::from_path(&path_segment(&text)) {
                Ok(id) => {
                    prop_assert_eq!(id.to_path(), path_segment(&text));
                    prop_assert_eq!(id.to_string(), text);
                }
                Err(error) => prop_assert_eq!(Err(error), AgentId::new(&text).map(|_| ())),
            }
        }

        #[test]
        fn ids_sort_by_their_text(a in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[ -~]{1,40}",
                                  b in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[ -~]{1,40}") {
            let order = AgentId::new(&a).unwrap().cmp(&AgentId::new(&b).unwrap());
            prop_assert_eq!(order, a.cmp(&b));
        }
    }
}
