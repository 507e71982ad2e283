//! Values that only few agents have at a time, by the slots of these agents.
//!
//! Of a million agents few are dead. A field for the dead would take its bytes in
//! every agent.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::due_queues::Slot;

/// When a table is full, it is written anew, and heartbeats wait. With this many
/// tables, each is small enough.
const TABLES: usize = 64;

/// At most one value for each slot.
#[derive(Debug)]
pub struct BySlot<T> {
    hasher: RandomState,
    tables: Box<[HashTable<(Slot, T)>]>,
}

impl<T> BySlot<T> {
    pub fn new() -> Self {
        Self { hasher: RandomState::new(), tables: (0..TABLES).map(|_| HashTable::new()).collect() }
    }

    pub fn len(&self) -> usize {
        self.tables.iter().map(HashTable::len).sum()
    }

    pub fn get(&self, slot: Slot) -> Option<&T> {
        let table = &self.tables[table(slot)];
        // Most tables are empty, and hashing is most of the work.
        if table.is_empty() {
            return None;
        }
        table.find(self.hasher.hash_one(slot), |&(other, _)| other == slot).map(|(_, value)| value)
    }

    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        let table = &mut self.tables[table(slot)];
        if table.is_empty() {
            return None;
        }
        table.find_mut(self.hasher.hash_one(slot), |&(other, _)| other == slot).map(|(_, value)| value)
    }

    /// Keeps a value for the slot. It replaces the slot's former value.
    pub fn insert(&mut self, slot: Slot, value: T) {
        self.insert_among(slot, value, |_| true);
    }

    /// Like [`insert`](Self::insert), for values that expire: a table that is full
    /// first drops the values that are not worth keeping.
    pub fn insert_among(&mut self, slot: Slot, value: T, is_worth_keeping: impl Fn(&T) -> bool) {
        let (hasher, table) = (&self.hasher, &mut self.tables[table(slot)]);
        let hash = hasher.hash_one(slot);
        if let Some((_, old)) = table.find_mut(hash, |&(other, _)| other == slot) {
            *old = value;
            return;
        }
        if table.len() == table.capacity() {
            table.retain(|(_, value)| is_worth_keeping(value));
            // If little room was gained, the table would soon be searched again.
            let spare = table.len().div_ceil(2).max(3);
            table.reserve(spare, |(slot, _)| hasher.hash_one(slot));
        }
        table.insert_unique(hash, (slot, value), |(slot, _)| hasher.hash_one(slot));
    }

    pub fn remove(&mut self, slot: Slot) -> Option<T> {
        let hash = self.hasher.hash_one(slot);
        let entry = self.tables[table(slot)].find_entry(hash, |&(other, _)| other == slot);
        entry.ok().map(|entry| entry.remove().0.1)
    }
}

const fn table(slot: Slot) -> usize {
    slot as usize % TABLES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_has_its_own_value() {
        let mut values = BySlot::new();
        for slot in 0..10_000 {
            values.insert(slot, slot + 1);
        }
        for slot in (0..10_000).step_by(2) {
            values.insert(slot, slot + 2);
            assert_eq!(values.remove(slot + 1), Some(slot + 2));
            assert_eq!(values.remove(slot + 1), None);
        }
        assert_eq!(values.len(), 5000);
        assert!((0..10_000).all(|slot| values.get(slot).copied() == (slot % 2 == 0).then_some(slot + 2)));
    }

    #[test]
    fn what_is_not_worth_keeping_takes_no_room_for_ever() {
        let mut values = BySlot::new();
        for round in 0..1_000_000 {
            values.insert_among(round, round, |&old| old + 1000 > round);
        }
        assert!(values.len() < 10_000, "{}", values.len());
        assert!((999_000..1_000_000).all(|slot| values.get(slot) == Some(&slot)));
    }
}
