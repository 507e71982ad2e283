//! When an alert may go on.

use crate::time::Tick;

/// When an alert may go on. The kinds are in the order in which verdicts join
/// the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// At once: the alert was never posted. It goes before alerts that failed, so an
    /// alert that cannot be delivered does not hold up one that can.
    Now,
    /// From this moment on, or as soon as the station takes anything again.
    WhenAnswering(Tick),
    /// From this moment on.
    At(Tick),
}

impl Due {
    pub const KINDS: [Self; 3] = [Self::Now, Self::WhenAnswering(Tick::MIN), Self::At(Tick::MIN)];

    /// The moment. `answering` says whether the station answers again.
    pub const fn moment(self, answering: bool) -> Tick {
        match self {
            Self::Now => Tick::MIN,
            Self::WhenAnswering(_) if answering => Tick::MIN,
            Self::WhenAnswering(moment) | Self::At(moment) => moment,
        }
    }
}
