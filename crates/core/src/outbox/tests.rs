use super::*;
use crate::time::Wall;
use proptest::prelude::*;

use crate::agent_id::AgentId;
use crate::delivery::Failure;
use crate::due_queues::Slot;
use crate::heartbeat::Mode;
use crate::time::Now;

fn at(seconds: u64) -> Now {
    Now { tick: Tick::from_start(Duration::from_secs(seconds)), wall: Wall(seconds * 1000) }
}

fn id(number: usize) -> AgentId {
    AgentId::new(&format!("agent-{number}")).unwrap()
}

fn outbox(queue: usize, senders: usize) -> Outbox {
    Outbox::new(Limits { queue, ttl: Duration::from_secs(300), senders }, 0)
}

fn owe(outbox: &mut Outbox, now: Now, number: usize) -> u64 {
    let slot = Slot::try_from(number).unwrap();
    outbox.owe(&ToOwe { agent: &id(number), slot, kind: VerdictKind::Death, at: now, held: false })
}

fn event(outbox: &mut Outbox, now: Now, number: usize, emergency: bool) -> bool {
    let what = if emergency {
        What::Emergency { previous_mode: None, uptime: 1.0 }
    } else {
        What::Restart { previous_uptime: 9.0, uptime: 1.0, mode: Mode::Idle, twice: None }
    };
    outbox.event(now.tick, Event { agent: id(number), name: "n".into(), at: now, what })
}

fn seq(next: Option<Next>) -> Option<u64> {
    next.map(|next| match next {
        Next::Verdict { seq, .. } => seq,
        Next::Event(alert) => alert.seq,
    })
}

const UNKNOWN_AGENT: Outcome = Outcome::Failed(Failure::Busy, None);
const NOBODY_THERE: Outcome = Outcome::Failed(Failure::Unreachable, None);

#[test]
fn a_crowd_of_undeliverable_deaths_does_not_stand_before_a_new_one() {
    for outcome in [UNKNOWN_AGENT, NOBODY_THERE] {
        let mut outbox = outbox(20, 4);
        for number in 0..500 {
            owe(&mut outbox, at(1), number);
        }
        // Each post takes a second, so an alert is always due again.
        let mut seconds = 1;
        for _ in 0..2000 {
            seconds += 1;
            let due = seq(outbox.next(at(seconds).tick)).expect("an alert is always due");
            outbox.settle(at(seconds).tick, due, outcome);
        }
        let new = owe(&mut outbox, at(seconds), 1000);
        let next = seq(outbox.next(at(seconds + 1).tick));
        assert_eq!(next, Some(new), "{outcome:?}");
    }
}

#[test]
fn less_gives_way_to_more_and_what_failed_to_what_is_new() {
    let mut outbox = outbox(2, 1);
    assert!(event(&mut outbox, at(1), 1, false));
    assert!(event(&mut outbox, at(1), 2, true));
    assert!(event(&mut outbox, at(1), 3, true), "a warning puts out an info");
    assert!(!event(&mut outbox, at(1), 4, false), "an info puts out nothing");
    let tried = seq(outbox.next(at(2).tick)).unwrap();
    outbox.settle(at(2).tick, tried, UNKNOWN_AGENT);
    assert!(event(&mut outbox, at(3), 5, true), "a warning puts out one that failed");
    let death = owe(&mut outbox, at(3), 6);
    assert_eq!(seq(outbox.next(at(4).tick)), Some(death), "a death puts out a warning, and goes first");
    assert_eq!(outbox.queued(), 2);
    let full = |kind| outbox.tally().dropped.get(&(kind, Dropped::QueueFull)).copied();
    assert_eq!((full(Kind::RestartDetected), full(Kind::EmergencyMode)), (Some(2), Some(2)));
}

#[test]
fn in_an_outage_one_post_a_second_goes_and_then_all_that_stalled() {
    let mut outbox = outbox(50, 2);
    for number in 0..30 {
        owe(&mut outbox, at(0), number);
    }
    let mut posts = 0;
    for millis in (0..60_000).step_by(10) {
        let now = Tick::from_start(Duration::from_millis(millis));
        while let Some(due) = seq(outbox.next(now)) {
            posts += 1;
            outbox.settle(now, due, NOBODY_THERE);
        }
    }
    assert!((55..=65).contains(&posts), "{posts} posts in a minute");
    // The station's first answer may concern one alert only.
    let first = seq(outbox.next(at(62).tick)).unwrap();
    outbox.settle(at(62).tick, first, UNKNOWN_AGENT);
    let mut told = 0;
    while let Some(due) = seq(outbox.next(at(62).tick)) {
        outbox.settle(at(62).tick, due, Outcome::Taken);
        told += 1;
    }
    assert_eq!(told, 29, "all that stalled is due at once");
}

#[test]
fn who_is_asked_to_wait_waits_even_when_others_are_taken() {
    let mut outbox = outbox(50, 1);
    let (asked, other) = (owe(&mut outbox, at(0), 1), owe(&mut outbox, at(0), 2));
    assert_eq!(seq(outbox.next(at(0).tick)), Some(asked));
    let retry_after = Some(Duration::from_secs(30));
    outbox.settle(at(0).tick, asked, Outcome::Failed(Failure::Unreachable, retry_after));
    assert_eq!(seq(outbox.next(at(2).tick)), Some(other));
    outbox.settle(at(2).tick, other, Outcome::Taken);
    assert_eq!(seq(outbox.next(at(29).tick)), None);
    assert_eq!(seq(outbox.next(at(31).tick)), Some(asked));
}

#[test]
fn an_event_grows_stale_and_a_death_does_not() {
    let mut outbox = outbox(1, 1);
    event(&mut outbox, at(0), 1, true);
    let sent = seq(outbox.next(at(0).tick)).unwrap();
    outbox.settle(at(0).tick, sent, UNKNOWN_AGENT);
    assert_eq!(seq(outbox.next(at(301).tick)), None);
    assert_eq!(outbox.tally().dropped.get(&(Kind::EmergencyMode, Dropped::Expired)), Some(&1));
    let death = owe(&mut outbox, at(301), 2);
    for round in 0..5 {
        let now = at(302 + round * 400);
        assert_eq!(seq(outbox.next(now.tick)), Some(death));
        outbox.settle(now.tick, death, UNKNOWN_AGENT);
    }
    assert_eq!(outbox.owed(), 1);
}

/// Every alert that may go at this moment. The station takes one at a time.
fn all(outbox: &mut Outbox, now: Now) -> Vec<u64> {
    let mut gone = Vec::new();
    while let Some(due) = seq(outbox.next(now.tick)) {
        outbox.settle(now.tick, due, Outcome::Taken);
        gone.push(due);
    }
    gone
}

#[test]
fn the_most_severe_goes_first_and_then_the_oldest() {
    let mut outbox = outbox(50, 1);
    for (number, emergency) in [(1, false), (2, true), (3, false), (4, true)] {
        event(&mut outbox, at(1), number, emergency);
    }
    let death = owe(&mut outbox, at(2), 5);
    assert_eq!(all(&mut outbox, at(3)), [death, 2, 4, 1, 3]);
}

#[test]
fn the_oldest_of_the_least_worth_gives_way() {
    let mut outbox = outbox(4, 1);
    for (number, emergency) in [(1, true), (2, false), (3, false), (4, true), (5, true)] {
        event(&mut outbox, at(1), number, emergency);
    }
    assert_eq!(all(&mut outbox, at(2)), [1, 4, 5, 3]);
}

#[test]
fn an_agent_that_is_busy_holds_up_no_other() {
    let mut outbox = outbox(500, 3);
    for _ in 0..400 {
        event(&mut outbox, at(1), 1, true);
    }
    event(&mut outbox, at(1), 2, false);
    assert_eq!(seq(outbox.next(at(1).tick)), Some(1));
    assert_eq!(seq(outbox.next(at(1).tick)), Some(401), "what the other has matters less, but it may go");
    assert_eq!(seq(outbox.next(at(1).tick)), None);
    outbox.settle(at(1).tick, 1, Outcome::Taken);
    assert_eq!(seq(outbox.next(at(1).tick)), Some(2));
    outbox.audit();
}

#[test]
fn events_that_stalled_go_when_the_station_answers_and_wait_when_it_is_gone_again() {
    let mut outbox = outbox(50, 1);
    for number in 1..=3 {
        event(&mut outbox, at(0), number, true);
    }
    // The third failure is 2 s after the first. The first wait may be over then.
    for (number, seconds) in [(1, 10), (2, 11), (3, 12)] {
        assert_eq!(seq(outbox.next(at(seconds).tick)), Some(number));
        outbox.settle(at(seconds).tick, number, NOBODY_THERE);
    }
    let waited = outbox.next_due().unwrap();
    assert!(waited > at(12).tick);
    let answered = event(&mut outbox, at(13), 9, true);
    assert!(answered && seq(outbox.next(at(13).tick)) == Some(4));
    outbox.settle(at(13).tick, 4, UNKNOWN_AGENT);
    assert!(outbox.next_due() <= Some(at(13).tick), "all that stalled is due");
    assert_eq!(seq(outbox.next(at(13).tick)), Some(1));
    outbox.settle(at(13).tick, 1, NOBODY_THERE);
    assert!(outbox.in_outage());
    assert!(outbox.next_due() >= Some(at(14).tick), "one post a second");
    outbox.audit();
}

#[test]
fn a_verdict_that_is_withdrawn_while_it_is_posted_is_over() {
    for (outcome, cancelled) in [(Outcome::Taken, None), (UNKNOWN_AGENT, Some(&1))] {
        let mut outbox = outbox(5, 2);
        let death = owe(&mut outbox, at(1), 3);
        assert_eq!(seq(outbox.next(at(1).tick)), Some(death));
        outbox.withdraw(death, Dropped::Removed);
        outbox.audit();
        assert_eq!((outbox.owed(), outbox.queued(), outbox.saved(death)), (0, 1, None));
        assert_eq!(outbox.settle(at(2).tick, death, outcome), Some(Settled::Over(3)));
        assert_eq!(outbox.settle(at(2).tick, death, outcome), None, "it is settled once");
        assert!(outbox.is_empty());
        assert_eq!(outbox.tally().dropped.get(&(Kind::AgentDeath, Dropped::Cancelled)), cancelled);
    }
}

#[test]
fn a_number_that_is_taken_is_not_given_twice() {
    let mut outbox = outbox(5, 5);
    let ids = [1, 2, 3, 4].map(id);
    let [a, b, c, d] = ids.each_ref().map(|agent| ToOwe {
        agent,
        slot: 0,
        kind: VerdictKind::Death,
        at: at(0),
        held: false,
    });
    assert_eq!(outbox.owe_again(&a, 7), 7);
    assert_eq!(outbox.owe_again(&b, 7), 8, "only a damaged file has it twice");
    assert_eq!(outbox.owe_again(&c, 3), 3);
    assert_eq!(outbox.owe(&d), 9);
    assert_eq!(all(&mut outbox, at(1)), [3, 7, 8, 9]);
}

proptest! {
    /// Whatever happens, the orders agree, the limits hold, and `next_due` agrees with
    /// `next`.
    #[test]
    fn whatever_happens_the_orders_agree(
        queue in 1..6_usize,
        senders in 1..4_usize,
        steps in proptest::collection::vec((0..9_u8, 0..5_usize, 0..4_000_u64), 1..200),
    ) {
        let mut outbox = Outbox::new(Limits { queue, ttl: Duration::from_secs(20), senders }, 0);
        let (mut now, mut posted, mut owed) = (at(1), Vec::new(), Vec::new());
        for (what, number, millis) in steps {
            now.tick = now.tick + Duration::from_millis(if what == 8 { 20 * millis } else { millis / 4 });
            let outcome = [Outcome::Taken, NOBODY_THERE, UNKNOWN_AGENT, NOBODY_THERE, Outcome::Refused(422)];
            match what {
                0 => owed.push(owe(&mut outbox, now, number)),
                1 => drop(event(&mut outbox, now, number, millis % 2 == 0)),
                2 => {
                    let dead_for = Duration::from_millis(millis);
                    let kind = VerdictKind::Recovery { dead_for };
                    let verdict = ToOwe { agent: &id(number), slot: 0, kind, at: now, held: number == 0 };
                    owed.push(outbox.owe(&verdict));
                }
                3 if !owed.is_empty() => {
                    outbox.withdraw(owed.swap_remove(number % owed.len()), Dropped::Removed);
                }
                4 if !owed.is_empty() => outbox.release(owed[number % owed.len()]),
                5..=7 if !posted.is_empty() => {
                    let seq = posted.swap_remove(number % posted.len());
                    prop_assert!(outbox.settle(now.tick, seq, outcome[number]).is_some());
                }
                _ => {}
            }
            outbox.audit();
            let (queued, oldest) = (outbox.queued(), outbox.oldest(now.tick));
            prop_assert!(queued <= queue && oldest.is_some() == (queued > 0));
            if what % 2 == 0 {
                posted.extend(std::iter::from_fn(|| seq(outbox.next(now.tick))));
                outbox.audit();
                prop_assert!(posted.len() <= senders);
                let due = outbox.next_due();
                prop_assert!(due.is_none_or(|due| due > now.tick), "{due:?} at {now:?}");
            }
        }
    }
}
