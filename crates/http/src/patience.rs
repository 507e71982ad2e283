//! How long the server waits for clients, as values: neither a clock nor a socket is here.

use std::time::Duration;

use pap_core::time::Tick;

/// A request must be complete this long after its first byte.
const REQUEST: Duration = Duration::from_secs(10);
/// A client must take something of an answer within this time,
const UNREAD: Duration = Duration::from_secs(5);
/// and all of it within this one.
const UNREAD_IN_ALL: Duration = Duration::from_secs(30);
/// How long a client may go on sending after the last answer.
const LINGER: Duration = Duration::from_secs(1);
/// A connection without a request is closed after this time. Agents send heartbeats every
/// 5, 30 or 900 seconds: the time must not be near one of these.
const IDLE: Duration = Duration::from_secs(100);
/// A newcomer has this long to send its request before it gives way. A client on a busy
/// machine is not always quick enough to write before a flood has filled all places.
const NEWCOMER: Duration = Duration::from_millis(50);

/// What we wait for at a connection, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The rest of a request, whose first byte came at this moment.
    Request(Tick),
    /// That the client takes the rest of its answers.
    Unsent {
        /// Since when the client has not taken all.
        since: Tick,
        /// When the client last took something.
        taken: Tick,
    },
    /// That the client stops sending, since its last answer.
    Linger(Tick),
    /// The next request, since the last one was answered or the connection came.
    Idle(Tick),
}

impl Wait {
    /// Until when we wait.
    pub fn until(self) -> Tick {
        match self {
            Self::Request(since) => since + REQUEST,
            Self::Unsent { since, taken } => (taken + UNREAD).min(since + UNREAD_IN_ALL),
            Self::Linger(since) => since + LINGER,
            Self::Idle(since) => since + IDLE,
        }
    }
}

/// From when on a connection that came at `since`, and has sent no request, may give way.
pub fn may_give_way(since: Tick) -> Tick {
    since + NEWCOMER
}

/// Connections that had an answer stay open while they are at most this share of the most
/// connections, in percent; beyond it answers say `Connection: close`.
const CLOSE_FROM: usize = 90;

/// Whether answers are to say `Connection: close`.
pub const fn is_nearly_full(asked: usize, most: usize) -> bool {
    asked * 100 > most * CLOSE_FROM
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick::from_start(Duration::from_millis(millis))
    }

    #[test]
    fn a_request_has_ten_seconds_from_its_first_byte_however_it_drips() {
        assert_eq!(Wait::Request(at(3000)).until(), at(13_000));
    }

    #[test]
    fn an_answer_must_be_taken_bit_by_bit_and_in_the_end_as_a_whole() {
        let until = |taken| Wait::Unsent { since: at(1000), taken: at(taken) }.until();
        assert_eq!(until(1000), at(6000), "nothing is taken");
        assert_eq!(until(5999), at(10_999), "a little, in time");
        // A byte every four seconds ends after thirty all the same.
        let mut now = 1000;
        while at(now + 4000) < until(now) {
            now += 4000;
        }
        assert_eq!((now, until(now)), (29_000, at(31_000)));
    }

    #[test]
    fn no_agent_beats_when_its_idle_connection_is_closed() {
        let until = Wait::Idle(at(0)).until();
        for interval in [5, 30, 900_u64] {
            for beats in 1..=20 {
                let beat = at(interval * beats * 1000);
                let apart = beat.since(until).max(until.since(beat));
                assert!(interval == 5 || apart >= Duration::from_secs(10), "{interval} {beats}");
            }
        }
        assert_eq!(Wait::Linger(at(0)).until(), at(1000));
        assert_eq!(may_give_way(at(7)), at(57));
    }

    #[test]
    fn answers_end_connections_from_nine_tenths_on() {
        assert!(!is_nearly_full(90, 100) && is_nearly_full(91, 100));
        assert!(!is_nearly_full(7, 8) && is_nearly_full(8, 8));
    }
}
