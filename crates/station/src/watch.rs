//! Which machines, collectors and clusters must be heard within a time, and which were not.
//!
//! Time is awake time: time in which the station was not awake does not count as silence.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use pap_core::time::Tick;

/// All that are watched, and when each was last heard.
#[derive(Debug)]
pub struct Watch<K> {
    patience: Duration,
    last: HashMap<K, Tick>,
    /// Those that are not silent yet, by when they were last heard.
    waiting: BTreeSet<(Tick, K)>,
}

impl<K: Clone + Ord + Hash> Watch<K> {
    /// Nobody is watched yet. One that was not heard for `patience` is silent.
    pub fn new(patience: Duration) -> Self {
        Self { patience, last: HashMap::new(), waiting: BTreeSet::new() }
    }

    /// One is heard, and is watched from now on.
    pub fn hear(&mut self, who: &K, now: Tick) {
        if let Some(before) = self.last.insert(who.clone(), now) {
            self.waiting.remove(&(before, who.clone()));
        }
        self.waiting.insert((now, who.clone()));
    }

    /// One is heard; if it is not watched, that changes nothing.
    pub fn refresh(&mut self, who: &K, now: Tick) {
        if self.last.contains_key(who) {
            self.hear(who, now);
        }
    }

    /// One is not watched any more.
    pub fn forget(&mut self, who: &K) {
        if let Some(last) = self.last.remove(who) {
            self.waiting.remove(&(last, who.clone()));
        }
    }

    /// How long one has been silent; None if it is not watched.
    pub fn silence(&self, who: &K, now: Tick) -> Option<Duration> {
        self.last.get(who).map(|last| now.since(*last))
    }

    /// Those that are silent and were not taken yet. The one that is silent for longest comes first.
    pub fn overdue(&self, now: Tick, most: usize) -> Vec<K> {
        let silent = self.waiting.iter().take_while(|(last, _)| now.since(*last) >= self.patience);
        silent.take(most).map(|(_, who)| who.clone()).collect()
    }

    /// Takes one that is silent, until it is heard again; false if it was heard meanwhile, or is
    /// taken already.
    pub fn take(&mut self, who: &K, now: Tick) -> bool {
        let Some(&last) = self.last.get(who) else { return false };
        now.since(last) >= self.patience && self.waiting.remove(&(last, who.clone()))
    }

    /// Gives one back that was taken, because what was to follow could not be stored.
    pub fn give_back(&mut self, who: &K) {
        if let Some(&last) = self.last.get(who) {
            self.waiting.insert((last, who.clone()));
        }
    }

    /// When the next one will be silent.
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
