//! When the next heartbeat is due, and how long each target may take to answer.
//!
//! Time comes in as moments, and chance from a seed. The collector calls an agent
//! dead after two intervals and a grace, by default a tenth of an interval. A
//! heartbeat that failed is tried again well before two intervals, so that no grace
//! is needed.

use std::time::Duration;

use fastrand::Rng;

use crate::time::Monotonic;

/// How long the collector may take to answer.
const COLLECTOR_PATIENCE: Duration = Duration::from_secs(2);
/// How long the collector may take to answer an extra try, which comes before the
/// next heartbeat is due.
const EXTRA_PATIENCE: Duration = Duration::from_secs(1);
/// How long the station may take to answer.
const STATION_PATIENCE: Duration = Duration::from_secs(5);
/// The first heartbeat comes at most this long after the start.
const LATEST_START: Duration = Duration::from_secs(3);

/// Which target took a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The collector.
    Collector,
    /// The station, because the collector did not take it or there is no collector.
    Station,
    /// No target.
    Nobody,
}

/// How one heartbeat is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// How often to try the collector.
    pub collector: u32,
    /// How long the collector may take at the first try; half of it at the second.
    pub collector_patience: Duration,
    /// How long the station may take after that. `None` if it is not tried.
    pub station_patience: Option<Duration>,
}

/// The pace of one agent's heartbeats.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    has_collector: bool,
    /// When to send something.
    due: Monotonic,
    /// What is due is an extra try, for the collector alone.
    is_extra: bool,
    /// The next heartbeat of the steady phase. `None` until there is a phase.
    steady: Option<Monotonic>,
    /// When the collector last took a heartbeat, and the interval that this heartbeat
    /// promised. The collector waits for two of these intervals and a tenth, or longer.
    heard: Option<(Monotonic, Duration)>,
    /// Heartbeats in a row that no target took, or that could not be sent.
    vain: u32,
    /// The collector did not take the last heartbeat.
    is_away: bool,
    random: Rng,
}

impl Pace {
    /// The first heartbeat is due soon, but agents that start together do not send it
    /// together.
    pub fn new(now: Monotonic, interval: Duration, has_collector: bool, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let due = now + (interval / 10).min(LATEST_START).mul_f64(random.f64());
        Self {
            interval,
            has_collector,
            due,
            is_extra: false,
            steady: None,
            heard: None,
            vain: 0,
            is_away: false,
            random,
        }
    }

    /// When the next heartbeat is due.
    pub const fn due(&self) -> Monotonic {
        self.due
    }

    /// The time between two heartbeats.
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// How to send the heartbeat that is due. Even if every try takes all of its time,
    /// a fifth of the interval is left.
    pub fn tries(&self) -> Tries {
        let interval = self.shortest();
        let patience = COLLECTOR_PATIENCE.min(interval * 2 / 5);
        let (collector, patience) = match (self.has_collector, self.is_extra) {
            (false, _) => (0, patience),
            // It delays no heartbeat.
            (true, true) => {
                let most = EXTRA_PATIENCE.min(interval / 5);
                (1, self.steady.map_or(most, |steady| most.min(steady.since(self.due))))
            }
            (true, false) if !self.is_away => (2, patience),
            // A collector that is away is tried once before the station. If no
            // target answers, every second try is short: while we wait for an
            // answer, we miss the moment at which the collector is back.
            (true, false) => (1, if self.vain % 2 == 1 { patience / 2 } else { patience }),
        };
        Tries {
            collector,
            collector_patience: patience,
            station_patience: (!self.is_extra).then(|| STATION_PATIENCE.min(interval / 5)),
        }
    }

    /// Takes note of which target took the heartbeat that was due. The tries ended at
    /// `now`.
    pub fn settle(&mut self, now: Monotonic, taken: Taken) {
        self.is_away = self.has_collector && taken != Taken::Collector;
        match taken {
            Taken::Collector => {
                self.heard = Some((now, self.interval));
                self.go_on(now);
            }
            Taken::Nobody if !self.is_extra => self.in_vain(now),
            Taken::Station | Taken::Nobody => {
                if let Some(steady) = self.steady.filter(|&steady| self.is_extra && steady <= now) {
                    // A heartbeat fell due during the extra try. The station waits for it.
                    (self.due, self.is_extra) = (steady, false);
                    return;
                }
                self.go_on(now);
                // Until the collector's deadline, an extra try may still reach it in time. After that it is tried once an interval. The
                // jitter keeps agents apart that lost the collector together.
                let Some((heard, promised)) = self.heard.filter(|_| self.is_away) else { return };
                let left = (heard + promised * 21 / 10).since(now);
                let pause = (self.shortest() / 4).min(left / 2);
                let extra = now + pause.mul_f64(0.5 + self.share() / 2.0);
                if pause > promised / 32 && extra + promised / 32 < self.due {
                    (self.due, self.is_extra) = (extra, true);
                }
            }
        }
    }

    /// Takes note that no target took the heartbeat, or that there was none to send
    /// because the liveness source is not well. The next try comes soon.
    pub fn in_vain(&mut self, now: Monotonic) {
        let doubled = self.shortest() / 16 * (1 << self.vain.min(2));
        self.vain += 1;
        self.is_extra = false;
        self.due = now + doubled.mul_f64(0.5 + self.share() / 2.0);
    }

    /// Changes the interval. The next heartbeat is due at `due`.
    pub fn change(&mut self, due: Monotonic, interval: Duration) {
        self.interval = interval;
        (self.due, self.steady, self.is_extra, self.vain) = (due, None, false, 0);
    }

    /// The shorter of the present interval and the interval that the collector was
    /// promised last. The collector counts with the promised one until it takes the
    /// next heartbeat.
    pub fn shortest(&self) -> Duration {
        self.heard.map_or(self.interval, |(_, promised)| promised.min(self.interval))
    }

    /// Goes on to the next heartbeat of the steady phase.
    fn go_on(&mut self, now: Monotonic) {
        let steady = self.steady.unwrap_or_else(|| now + self.interval.mul_f64(self.share()));
        let past = now.since(steady).as_nanos();
        let missed = if now < steady { 0 } else { past / self.interval.as_nanos() + 1 };
        let steady = steady + self.interval * u32::try_from(missed).unwrap_or(u32::MAX);
        (self.due, self.steady, self.is_extra, self.vain) = (steady, Some(steady), false, 0);
    }

    /// A random share: more than 0, at most 1.
    fn share(&mut self) -> f64 {
        1.0 - self.random.f64()
    }
}

#[cfg(test)]
#[expect(clippy::unchecked_time_subtraction, reason = "moments in their order")]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    const fn at(reading: Duration) -> Monotonic {
        Monotonic::new(reading)
    }

    /// Runs a pace whose collector is there at the moments that `is_there` names. A
    /// try that fails takes `cost`. Returns when the collector took a heartbeat, and
    /// how often it was tried in vain.
    fn simulate(
        seed: u64,
        interval: Duration,
        (has_station, cost): (bool, Duration),
        until: Duration,
        is_there: impl Fn(Duration) -> bool,
    ) -> (Vec<Duration>, usize) {
        let mut pace = Pace::new(at(Duration::ZERO), interval, true, seed);
        let (mut taken, mut vain) = (Vec::new(), 0);
        let mut now = Duration::ZERO;
        while pace.due().reading() < until {
            // What fell due while a try lasted comes after it.
            now = pace.due().reading().max(now);
            let tries = pace.tries();
            let mut result = if has_station { Taken::Station } else { Taken::Nobody };
            for attempt in 1..=tries.collector {
                if is_there(now) {
                    taken.push(now);
                    result = Taken::Collector;
                    break;
                }
                now += cost.min(tries.collector_patience / attempt);
                vain += 1;
            }
            match (result, tries.station_patience) {
                (Taken::Station, None) => result = Taken::Nobody,
                (Taken::Station, Some(patience)) => now += patience.min(cost),
                _ => {}
            }
            pace.settle(at(now), result);
        }
        (taken, vain)
    }

    fn longest_gap(taken: &[Duration]) -> Duration {
        taken.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    #[test]
    fn it_starts_soon_and_then_keeps_its_phase() {
        for seed in 0..100 {
            let (taken, vain) = simulate(seed, INTERVAL, (false, Duration::ZERO), 20 * INTERVAL, |_| true);
            assert!(taken[0] < LATEST_START && taken[1] - taken[0] <= INTERVAL, "{taken:?}");
            assert!(taken[1..].windows(2).all(|pair| pair[1] - pair[0] == INTERVAL), "{taken:?}");
            assert_eq!(vain, 0);
        }
    }

    #[test]
    fn those_that_start_together_spread_over_the_interval() {
        let mut tenths = [0; 10];
        for seed in 0..1000 {
            let (taken, _) = simulate(seed, INTERVAL, (false, Duration::ZERO), 4 * INTERVAL, |_| true);
            let phase = taken[2].as_nanos() % INTERVAL.as_nanos() * 10 / INTERVAL.as_nanos();
            tenths[usize::try_from(phase).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|count| (60..140).contains(count)), "{tenths:?}");
    }

    #[test]
    fn one_lost_post_never_leads_to_two_intervals_of_silence() {
        for interval in [Duration::from_secs(5), INTERVAL] {
            for seed in 0..2000 {
                // The collector is away for a moment, at any time. It does not
                // answer, or it refuses at once.
                let away = interval * u32::try_from(seed % 100).unwrap() / 20 + interval * 2;
                let blip = interval.mul_f64(0.7) * u32::try_from(seed % 30).unwrap() / 30;
                let is_there = |now| !(away..away + blip).contains(&now);
                for costs in [(false, Duration::ZERO), (true, Duration::ZERO), (true, interval / 50)] {
                    let (taken, _) = simulate(seed, interval, costs, 12 * interval, is_there);
                    let gap = longest_gap(&taken);
                    assert!(gap < interval * 2, "{gap:?} with {seed}, {costs:?}, {interval:?}");
                }
            }
        }
    }

    /// The longest time for which the collector hears nothing, in percent of the
    /// interval, over 500 seeds in each mode. `lost` posts in a row fail, or the
    /// collector is away for `away` percent of the interval. A post fails at once, or
    /// takes all of its time. Also that time without the part for which the collector
    /// was away.
    fn worst(has_station: bool, lost: usize, away: u32) -> (u128, u128) {
        let (mut worst, mut counted) = (0, 0);
        for interval in [5, 30, 900].map(Duration::from_secs) {
            for seed in 0..500 {
                let from = interval * 3 + interval * u32::try_from(seed % 50).unwrap() / 50;
                let till = from + interval * away / 100;
                for cost in [Duration::ZERO, COLLECTOR_PATIENCE] {
                    let left = std::cell::Cell::new(lost);
                    let is_there = |now: Duration| {
                        let is_lost = now >= from && left.get() > 0;
                        left.set(left.get() - usize::from(is_lost));
                        !is_lost && !(from..till).contains(&now)
                    };
                    let (taken, _) = simulate(seed, interval, (has_station, cost), 18 * interval, is_there);
                    // Rounded up.
                    let percent = |gap: Duration| gap.as_nanos() * 100 / interval.as_nanos() + 1;
                    worst = worst.max(percent(longest_gap(&taken)));
                    for pair in taken.windows(2) {
                        let absent = till.min(pair[1]).saturating_sub(from.max(pair[0]));
                        counted = counted.max(percent(pair[1] - pair[0] - absent));
                    }
                }
            }
        }
        (worst, counted)
    }

    /// The table in docs/heartbeat.md.
    #[test]
    fn what_is_promised_when_posts_are_lost_or_the_collector_is_away_holds() {
        // Posts that are lost in a row; percent of an interval for which the collector is
        // away; percent of an interval that the silence takes at most.
        for (lost, away, longest) in
            [(1, 0, 150), (2, 0, 200), (3, 0, 205), (0, 50, 200), (0, 70, 200), (0, 80, 210)]
        {
            for has_station in [true, false] {
                let (silence, _) = worst(has_station, lost, away);
                assert!(silence <= longest, "{silence} %: {lost} lost, {away} % away, {has_station}");
            }
        }
        // A collector with a state file takes off the time for which it was away.
        for away in [10, 100, 250, 1000] {
            for has_station in [true, false] {
                let (_, counted) = worst(has_station, 0, away);
                assert!(counted <= 205, "{counted} %: {away} % away, {has_station}");
            }
        }
    }

    #[test]
    fn posts_that_take_all_their_time_never_lead_to_it_either() {
        let interval = Duration::from_secs(5);
        for seed in 0..2000 {
            let away = interval * 2 + Duration::from_millis(seed * 5);
            let is_there = |now| !(away..away + Duration::from_millis(3900)).contains(&now);
            for has_station in [false, true] {
                let costs = (has_station, COLLECTOR_PATIENCE);
                let (taken, _) = simulate(seed, interval, costs, 12 * interval, is_there);
                let gap = longest_gap(&taken);
                assert!(gap < interval * 2, "{gap:?} with {seed}, {costs:?}");
            }
        }
    }

    #[test]
    fn while_the_collector_hangs_the_station_misses_nothing() {
        let interval = Duration::from_secs(5);
        for seed in 0..4000 {
            let hangs = Duration::from_millis(seed * 5);
            let mut pace = Pace::new(at(Duration::ZERO), interval, true, seed);
            let (mut told, mut now) = (Vec::new(), Duration::ZERO);
            while pace.due().reading() < hangs + 5 * interval {
                now = pace.due().reading().max(now);
                let tries = pace.tries();
                let taken = if now < hangs {
                    Taken::Collector
                } else {
                    now += (1..=tries.collector).map(|attempt| tries.collector_patience / attempt).sum();
                    tries.station_patience.map_or(Taken::Nobody, |_| Taken::Station)
                };
                if taken != Taken::Nobody {
                    told.push(now);
                }
                pace.settle(at(now), taken);
            }
            let gap = longest_gap(&told);
            assert!(gap < interval * 2, "{gap:?} with {seed}");
        }
    }

    #[test]
    fn until_it_has_heard_of_a_longer_interval_the_collector_counts_with_the_former() {
        let (short, long) = (Duration::from_secs(5), Duration::from_secs(900));
        for seed in 0..500 {
            for taken in [Taken::Nobody, Taken::Station] {
                let mut pace = Pace::new(at(Duration::ZERO), short, true, seed);
                let heard = pace.due().reading();
                pace.settle(at(heard), Taken::Collector);
                let mut now = heard + Duration::from_secs(2);
                pace.change(at(now), long);
                let mut tries = 0;
                while pace.due().reading() < heard + 2 * short {
                    now = pace.due().reading();
                    pace.settle(
                        at(now),
                        if pace.tries().station_patience.is_some() { taken } else { Taken::Nobody },
                    );
                    tries += 1;
                }
                assert!(tries >= 4, "{tries} tries with {seed}, {taken:?}");
            }
        }
    }

    #[test]
    fn after_an_outage_it_is_back_soon() {
        for seed in 0..500 {
            let back = 4 * INTERVAL + Duration::from_millis(seed * 97);
            let is_there = |now| now < 2 * INTERVAL || now >= back;
            let (alone, _) = simulate(seed, INTERVAL, (false, Duration::ZERO), 9 * INTERVAL, is_there);
            let first = alone.iter().find(|&&at| at >= back).unwrap();
            assert!(*first - back <= INTERVAL / 4, "with nobody else it keeps trying");
            let (beside, vain) = simulate(seed, INTERVAL, (true, Duration::ZERO), 9 * INTERVAL, is_there);
            let first = beside.iter().find(|&&at| at >= back).unwrap();
            assert!(*first - back <= INTERVAL, "beside a station it costs one try an interval");
            assert!(vain <= 2 + 12 + 3, "{vain} tries in vain in at most four intervals");
        }
    }

    #[test]
    fn all_tries_end_within_the_interval() {
        for seconds in 1..=900 {
            let interval = Duration::from_secs(seconds);
            let mut pace = Pace::new(at(Duration::ZERO), interval, true, seconds);
            for _ in 0..2 {
                let tries = pace.tries();
                let station = tries.station_patience.unwrap();
                assert!(tries.collector_patience * 3 / 2 + station <= interval * 4 / 5);
                assert!(station >= interval.min(STATION_PATIENCE) / 5);
                pace.settle(at(Duration::ZERO), Taken::Station);
            }
            assert_eq!(pace.tries().collector, 1);
        }
    }

    #[test]
    fn a_change_is_sent_at_once_and_then_the_phase_is_another() {
        let mut pace = Pace::new(at(Duration::ZERO), INTERVAL, true, 1);
        pace.settle(at(Duration::ZERO), Taken::Collector);
        let (now, short) = (Duration::from_secs(7), Duration::from_secs(5));
        pace.change(at(now), short);
        assert_eq!((pace.due().reading(), pace.interval()), (now, short));
        pace.settle(at(now), Taken::Collector);
        assert!(pace.due().reading() > now && pace.due().reading() <= now + short);
    }
}
