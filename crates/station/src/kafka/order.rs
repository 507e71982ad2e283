//! At which moment a record of the registry counts.
//!
//! Producers put records of one cluster into different partitions, and only a record's time
//! orders these. That time is a client's, so it counts as not later than the moment at which we
//! first read the record, and within one partition always as later than that of the cluster's
//! record before.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use pap_core::time::Wall;

/// The times of the records that were read, by partition and cluster.
#[derive(Debug)]
pub struct Order {
    last: HashMap<(i32, u64), Wall>,
    hasher: RandomState,
    most: usize,
}

impl Order {
    /// Nothing was read yet. At most `most` entries are remembered. If there are more, all are
    /// forgotten: then a client whose clock goes backwards is not noticed.
    pub fn new(most: usize) -> Self {
        Self { last: HashMap::new(), hasher: RandomState::new(), most }
    }

    /// The moment at which the next record of this partition counts, if its time is `time` and it
    /// was first read at `read_at`.
    pub fn place(&mut self, partition: i32, cluster_id: &str, time: Wall, read_at: Wall) -> Wall {
        // A hash, since ids are long: two ids with the same hash are not to be expected.
        let key = (partition, self.hasher.hash_one(cluster_id));
        if self.last.len() >= self.most && !self.last.contains_key(&key) {
            self.last.clear();
        }
        let time = time.min(read_at);
        let last = self.last.entry(key).and_modify(|last| *last = time.max(Wall(last.0 + 1))).or_insert(time);
        *last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clusters::{self, Admission, Registration, What, Word};
    use rusqlite::Connection;
    use std::time::Duration;

    #[test]
    fn a_record_is_never_later_than_its_reading_nor_earlier_than_the_one_before() {
        let mut order = Order::new(9);
        let mut place = |partition, id: &str, time| order.place(partition, id, Wall(time), Wall(1000)).0;
        assert_eq!((place(0, "a", 100), place(0, "a", 50), place(0, "a", 101)), (100, 101, 102));
        assert_eq!((place(1, "a", 60), place(0, "b", 70)), (60, 70), "of other partitions and clusters");
        assert_eq!((place(2, "a", 5000), place(2, "a", 900)), (1000, 1001));
        let mut small = Order::new(2);
        for number in 0..100 {
            small.place(0, &number.to_string(), Wall(number), Wall(1000));
            assert!(small.last.len() <= 2);
        }
    }

    const ADMISSION: Admission = Admission { auto_register: true, max_clusters: 100 };

    fn file() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        for sql in [include_str!("../store/0001.sql"), include_str!("../store/0002.sql")] {
            connection.execute_batch(sql).unwrap();
        }
        connection
    }

    #[derive(Clone)]
    struct Record {
        time: u64,
        id: String,
        /// The version that it registers; None for a tombstone.
        version: Option<String>,
    }

    fn registration(version: &str) -> Registration {
        Registration { version: Some(version.into()), ..Registration::default() }
    }

    fn take(file: &Connection, order: &mut Order, now: u64, partition: usize, record: &Record) {
        let at = order.place(i32::try_from(partition).unwrap(), &record.id, Wall(record.time), Wall(now));
        let what = match &record.version {
            Some(version) => What::Registered(Box::new(registration(version))),
            None => What::Removed,
        };
        let word = Word { cluster_id: record.id.clone(), at, what };
        clusters::apply(file, Wall(now), &word, ADMISSION, Duration::from_secs(300)).unwrap();
    }

    fn state(file: &Connection) -> Vec<(String, String)> {
        let sql = "SELECT cluster_id, version FROM cluster WHERE deleted_at IS NULL ORDER BY cluster_id";
        let mut statement = file.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<rusqlite::Result<_>>().unwrap()
    }

    /// Reads all partitions from their beginnings, in any order among them, up to `ends`.
    fn reread(
        random: &mut fastrand::Rng,
        file: &Connection,
        now: u64,
        topic: &[Vec<Record>],
        ends: &[usize],
    ) {
        let (mut order, mut read) = (Order::new(1000), vec![0; topic.len()]);
        while let Some(partition) =
            random.choice((0..topic.len()).filter(|&it| read[it] < ends[it]).collect::<Vec<_>>())
        {
            take(file, &mut order, now, partition, &topic[partition][read[partition]]);
            read[partition] += 1;
        }
    }

    /// A topic after compaction: of some keys in a partition only the last record is left.
    fn compacted(random: &mut fastrand::Rng, topic: &[Vec<Record>]) -> Vec<Vec<Record>> {
        let compact = |partition: &Vec<Record>| {
            let is_last = |at: usize| partition[at + 1..].iter().all(|later| later.id != partition[at].id);
            let mut kept = Vec::new();
            for (at, record) in partition.iter().enumerate() {
                if is_last(at) || random.bool() {
                    kept.push(record.clone());
                }
            }
            kept
        };
        topic.iter().map(compact).collect()
    }

    #[test]
    fn what_is_read_in_any_order_and_again_ends_in_the_same_state() {
        for seed in 0..150 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut topic, mut now) = (vec![Vec::new(); 3], 1000);
            let mut expected = std::collections::BTreeMap::new();
            let (file, mut order, mut read) = (file(), Order::new(1000), vec![0; 3]);
            for number in 0..random.usize(1..80) {
                now += random.u64(1..50);
                let (id, version) =
                    (format!("c{}", random.u8(0..4)), random.bool().then(|| number.to_string()));
                let is_ours = random.u8(0..4) == 0;
                let mut time = now;
                if is_ours {
                    // By HTTP, and then in the topic too.
                    match &version {
                        Some(version) => {
                            let said = registration(version);
                            let _ =
                                clusters::register(&file, Wall(now), &id, &said, ADMISSION, true).unwrap();
                        }
                        None => drop(clusters::remove(&file, Wall(now), &id).unwrap()),
                    }
                    let sql = "SELECT registry_at FROM cluster WHERE cluster_id = ?1";
                    time = file.query_row(sql, [&id], |row| row.get(0)).unwrap_or(now);
                }
                match &version {
                    Some(version) => drop(expected.insert(id.clone(), version.clone())),
                    None => drop(expected.remove(&id)),
                }
                topic[random.usize(0..3)].push(Record { time, id, version });
                // Reading lags behind, each partition for itself, and sometimes begins anew.
                for partition in 0..3 {
                    while read[partition] < topic[partition].len() && random.u8(0..3) > 0 {
                        take(&file, &mut order, now, partition, &topic[partition][read[partition]]);
                        read[partition] += 1;
                    }
                }
                if random.u8(0..20) == 0 {
                    reread(&mut random, &file, now, &topic, &read);
                }
            }
            let expected: Vec<_> = expected.into_iter().collect();
            let ends = |topic: &[Vec<Record>]| topic.iter().map(Vec::len).collect::<Vec<_>>();
            reread(&mut random, &file, now, &topic, &ends(&topic));
            assert_eq!(state(&file), expected, "seed {seed}");
            // And after compaction, for this station and for a new one.
            let compacted = compacted(&mut random, &topic);
            reread(&mut random, &file, now + 9, &compacted, &ends(&compacted));
            assert_eq!(state(&file), expected, "seed {seed}");
            let new = self::file();
            reread(&mut random, &new, now + 9, &compacted, &ends(&compacted));
            assert_eq!(state(&new), expected, "seed {seed}, a new station");
        }
    }

    #[test]
    fn two_words_of_one_moment_leave_the_cluster_removed() {
        let records = [Some("1"), None].map(|version| Record {
            time: 500,
            id: "a".into(),
            version: version.map(str::to_owned),
        });
        for turns in [[0, 1, 0, 1], [1, 0, 1, 0]] {
            let file = file();
            for turn in turns {
                // Each in a partition of its own.
                take(&file, &mut Order::new(9), 1000, turn, &records[turn]);
            }
            assert_eq!(state(&file), [], "{turns:?}");
        }
    }

    #[test]
    fn an_old_registration_is_no_sign_of_life_and_a_later_word_here_beats_all() {
        let file = file();
        let sign = |id: &str| {
            let sql = "SELECT last_sign_at FROM cluster WHERE cluster_id = ?1";
            file.query_row(sql, [id], |row| row.get::<_, Option<u64>>(0)).unwrap()
        };
        let now = 10_000_000;
        let record = |id: &str, time| Record { time, id: id.into(), version: Some("1".into()) };
        let take = |record: &Record, now| take(&file, &mut Order::new(9), now, 0, record);
        take(&record("old", now - 300_000), now);
        take(&record("new", now - 299_999), now);
        assert_eq!((sign("old"), sign("new")), (None, Some(now - 299_999)));
        take(&record("new", now - 400_000), now);
        assert_eq!(sign("new"), Some(now - 299_999), "it never goes back");
        // A clock that was set back does not let an older word win.
        assert!(clusters::remove(&file, Wall(now - 999_999), "new").unwrap());
        take(&record("new", now - 299_999), now);
        assert_eq!(state(&file).len(), 1);
    }

    #[test]
    fn removals_of_unknown_clusters_are_remembered_but_not_without_end() {
        let file = file();
        let few = Admission { max_clusters: 10, ..ADMISSION };
        let count =
            || file.query_row("SELECT count(*) FROM cluster", [], |row| row.get::<_, u64>(0)).unwrap();
        for number in 0..250_u64 {
            let word = Word { cluster_id: format!("c{number}"), at: Wall(number), what: What::Removed };
            clusters::apply(&file, Wall(1000), &word, few, Duration::ZERO).unwrap();
        }
        clusters::forget_removed(&file, few).unwrap();
        assert_eq!(count(), 100);
        let take = |id: &str, time| {
            let record = Record { time, id: id.into(), version: Some("1".into()) };
            take(&file, &mut Order::new(9), 1000, 0, &record);
        };
        take("c249", 248);
        assert_eq!(state(&file), [], "the newest are remembered");
        take("c249", 250);
        assert_eq!(state(&file).len(), 1);
    }
}
