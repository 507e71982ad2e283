//! An agent's name beside its id.

use std::fmt;

use crate::agent_id::AgentId;

/// The longest name that is kept in place, in bytes. One byte more would make every
/// agent eight bytes larger.
const SHORT: usize = 22;

/// A name in 24 bytes. Most names are short. In place, a short name takes less
/// memory than an address, a length and a block of the heap.
#[derive(Clone, PartialEq, Eq)]
pub enum Name {
    /// The agent gave no name, or gave its id as its name.
    Id,
    /// At most [`SHORT`] bytes.
    Short {
        length: u8,
        bytes: [u8; SHORT],
    },
    Long(Box<str>),
}

impl Name {
    /// The name that an agent gave, if it gave one. A name that equals the id is not
    /// stored again.
    pub fn new(id: &AgentId, given: Option<&str>) -> Self {
        let Some(given) = given.filter(|given| id != *given) else { return Self::Id };
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..given.len()), u8::try_from(given.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(given.as_bytes());
                Self::Short { length, bytes }
            }
            _ => Self::Long(given.into()),
        }
    }

    /// The name. `None` if the id stands for it.
    pub fn get(&self) -> Option<&str> {
        match self {
            Self::Id => None,
            Self::Short { .. } => match str::from_utf8(self.bytes()) {
                Ok(name) => Some(name),
                Err(_) => unreachable!("the bytes came from a str"),
            },
            Self::Long(name) => Some(name),
        }
    }

    /// Whether an agent with this id gave this name now. The comparison allocates
    /// nothing.
    pub fn is(&self, id: &AgentId, given: Option<&str>) -> bool {
        match given {
            None => *self == Self::Id,
            Some(given) if *self == Self::Id => id == given,
            Some(given) => self.bytes() == given.as_bytes(),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Id => &[],
            Self::Short { length, bytes } => &bytes[..usize::from(*length)],
            Self::Long(name) => name.as_bytes(),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_back_whatever_its_length() {
        let id = AgentId::new("550e8400-e29b-41d4-a716-446655440000").unwrap();
        for given in ["", "a", "näme", &"x".repeat(SHORT), &"x".repeat(SHORT + 1), &"é".repeat(64)] {
            let name = Name::new(&id, Some(given));
            assert_eq!(name.get(), Some(given));
            assert!(name.is(&id, Some(given)));
            assert!(!name.is(&id, Some("other")) && !name.is(&id, None));
            assert_eq!(matches!(name, Name::Short { .. }), given.len() <= SHORT, "{given}");
        }
    }

    #[test]
    fn the_id_is_not_kept_twice() {
        for id in ["550e8400-e29b-41d4-a716-446655440000", "a text", &"long ".repeat(20)] {
            let (text, id) = (id, AgentId::new(id).unwrap());
            for given in [None, Some(text)] {
                let name = Name::new(&id, given);
                assert_eq!(name, Name::Id);
                assert!(name.is(&id, None) && name.is(&id, Some(text)) && !name.is(&id, Some("x")));
            }
        }
    }
}
