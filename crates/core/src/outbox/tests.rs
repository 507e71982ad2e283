use super::*;
use crate::alert::Details;

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
    let (agent, kind, span) = (&id(number), Kind::AgentDeath, Duration::ZERO);
    outbox.owe(now, &Verdict { agent, slot, kind, span, held: false })
}

fn event(outbox: &mut Outbox, now: Now, number: usize, emergency: bool) -> bool {
    let details = if emergency {
        Details::Emergency { previous_mode: None, uptime_seconds: 1.0 }
    } else {
        Details::Restart { previous_uptime: 9.0, new_uptime: 1.0, mode: crate::beat::Mode::Idle }
    };
    let alert = Alert { agent: id(number), name: "n".into(), seq: 0, attempts: 0, at: now.wall, details };
    outbox.event(now.tick, alert)
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
        // Each post takes a while, so that there is always one due again.
        let mut seconds = 1;
        for _ in 0..2000 {
            seconds += 1;
            let due = seq(outbox.next(at(seconds).tick)).expect("some are always due");
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
    // Its first answer may well be about one alert only.
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
