//! From an agent's id to its slot.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use slab::Slab;

use super::Agent;
use crate::agent_id::{AgentId, IdRef};
use crate::due_queues::Slot;

/// A power of two. When a table is full, it is written anew, and heartbeats wait.
/// With this many tables, each is small enough.
const TABLES: usize = 256;

#[derive(Debug)]
pub struct Index {
    hasher: RandomState,
    tables: Box<[HashTable<Slot>]>,
}

impl Index {
    pub fn new() -> Self {
        Self { hasher: RandomState::new(), tables: (0..TABLES).map(|_| HashTable::new()).collect() }
    }

    /// How many agents are in the index.
    pub fn len(&self) -> usize {
        self.tables.iter().map(HashTable::len).sum()
    }

    pub fn find(&self, agents: &Slab<Agent>, id: IdRef<'_>) -> Option<Slot> {
        let hash = self.hasher.hash_one(id);
        self.tables[table(hash)].find(hash, |&slot| agents[slot as usize].id.borrowed() == id).copied()
    }

    /// Adds the agent in `slot`. It is not in the index before.
    pub fn insert(&mut self, agents: &Slab<Agent>, slot: Slot) {
        let hash_of = |&slot: &Slot| self.hasher.hash_one(&agents[slot as usize].id);
        let hash = hash_of(&slot);
        self.tables[table(hash)].insert_unique(hash, slot, hash_of);
    }

    pub fn remove(&mut self, id: &AgentId, slot: Slot) {
        let hash = self.hasher.hash_one(id);
        if let Ok(entry) = self.tables[table(hash)].find_entry(hash, |&other| other == slot) {
            entry.remove();
        }
    }
}

/// The table of an id with this hash. hashbrown uses the lowest bits for the bucket
/// and the highest seven for the tag, so bits 40 to 47 choose the table.
const fn table(hash: u64) -> usize {
    (hash >> 40) as usize % TABLES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tables_are_used_alike_and_each_as_a_whole() {
        let (hasher, mut counts) = (RandomState::new(), [0; TABLES]);
        // The bits that hashbrown uses, of all hashes in one table.
        let (mut places, mut tags) = ([false; 16], [false; 16]);
        for hash in (0..100 * TABLES).map(|number| hasher.hash_one(number)) {
            counts[table(hash)] += 1;
            if table(hash) == 0 {
                places[(hash % 16) as usize] = true;
                tags[(hash >> 60) as usize] = true;
            }
        }
        // 100 is expected, and ten standard deviations are 100.
        assert!(counts.iter().all(|count| (1..200).contains(count)), "{counts:?}");
        let used = |bits: [bool; 16]| bits.iter().filter(|&&is_used| is_used).count();
        assert!(used(places) > 8 && used(tags) > 8, "{places:?} {tags:?}");
    }
}
