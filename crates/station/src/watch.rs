//! Who has to say something within a time, and who has not: machines, and collectors.
//!
//! Time is awake time, so silence that the station itself slept through accuses nobody.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use pap_core::time::Tick;

/// Those who are watched, by when they were last heard.
#[derive(Debug)]
pub struct Watch<K> {
    patience: Duration,
    last: HashMap<K, Tick>,
    /// Those who are not silent yet, by their last word.
    waiting: BTreeSet<(Tick, K)>,
}

impl<K: Clone + Ord + Hash> Watch<K> {
    /// Nobody is watched yet. After `patience` without a word somebody is silent.
    pub fn new(patience: Duration) -> Self {
        Self { patience, last: HashMap::new(), waiting: BTreeSet::new() }
    }

    /// A word of somebody, who is watched from now on.
    pub fn hear(&mut self, who: &K, now: Tick) {
        if let Some(before) = self.last.insert(who.clone(), now) {
            self.waiting.remove(&(before, who.clone()));
        }
        self.waiting.insert((now, who.clone()));
    }

    /// A word of somebody, if they are watched.
    pub fn refresh(&mut self, who: &K, now: Tick) {
        if self.last.contains_key(who) {
            self.hear(who, now);
        }
    }

    /// Nobody waits for them any more.
    pub fn forget(&mut self, who: &K) {
        if let Some(last) = self.last.remove(who) {
            self.waiting.remove(&(last, who.clone()));
        }
    }

    /// How long somebody has been silent who is watched.
    pub fn silence(&self, who: &K, now: Tick) -> Option<Duration> {
        self.last.get(who).map(|last| now.since(*last))
    }

    /// Those who are silent and have not been taken yet, the longest silent first.
    pub fn overdue(&self, now: Tick, most: usize) -> Vec<K> {
        let silent = self.waiting.iter().take_while(|(last, _)| now.since(*last) >= self.patience);
        silent.take(most).map(|(_, who)| who.clone()).collect()
    }

    /// Takes somebody who is silent, until the next word; false if they were heard
    /// meanwhile, or are taken.
    pub fn take(&mut self, who: &K, now: Tick) -> bool {
        let Some(&last) = self.last.get(who) else { return false };
        now.since(last) >= self.patience && self.waiting.remove(&(last, who.clone()))
    }

    /// Gives somebody back who was taken: what was to follow could not be done.
    pub fn give_back(&mut self, who: &K) {
        if let Some(&last) = self.last.get(who) {
            self.waiting.insert((last, who.clone()));
        }
    }

    /// When the next one is silent.
    pub fn next(&self) -> Option<Tick> {
        self.waiting.first().map(|&(last, _)| last + self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_found_once_and_a_word_in_time_counts() {
        let at = |seconds| Tick::from_start(Duration::from_secs(seconds));
        let mut watch = Watch::new(Duration::from_secs(120));
        watch.hear(&1, at(0));
        watch.hear(&2, at(10));
        assert_eq!((watch.overdue(at(119), 9), watch.next()), (vec![], Some(at(120))));
        assert_eq!(watch.overdue(at(120), 9), [1]);
        watch.refresh(&3, at(120));
        watch.hear(&1, at(121));
        assert!(!watch.take(&1, at(121)), "it was heard meanwhile");
        assert!(watch.take(&2, at(130)) && !watch.take(&2, at(131)));
        assert_eq!(watch.silence(&2, at(131)), Some(Duration::from_secs(121)), "taken or not");
        assert_eq!(watch.silence(&9, at(131)), None);
        watch.give_back(&2);
        assert!(watch.take(&2, at(131)));
        watch.hear(&2, at(200));
        assert_eq!(watch.overdue(at(241), 9), [1]);
        watch.forget(&1);
        watch.forget(&1);
        assert_eq!((watch.overdue(at(241), 9), watch.next()), (vec![], Some(at(320))));
        assert!(!watch.take(&1, at(999)));
    }
}
