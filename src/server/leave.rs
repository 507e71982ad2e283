//! Leaving the connections to another image of the process: what was begun is
//! finished, and what was not goes along.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::{Server, socket};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);

impl Server {
    /// Waits until nobody is taking a big answer, or until `enough`, at most for
    /// `longest`: while everybody waits it would be cut off.
    pub fn await_slow_lane(&self, longest: Duration, enough: impl Fn() -> bool) {
        self.await_so(longest, || self.is_slow_lane_empty() || enough());
    }

    /// Lets no request be read any more: it waits in the kernel, for the next
    /// image or for [`thaw`](Self::thaw). Waits until those that were read are
    /// answered, at most for `longest`, and returns whether they are. To be
    /// called while the door is closed.
    pub fn freeze(&self, longest: Duration) -> bool {
        self.pipeline.freeze();
        self.await_so(longest, || self.pipeline.is_quiet())
    }

    fn await_so(&self, longest: Duration, so: impl Fn() -> bool) -> bool {
        let clock = self.api.parts.shared.clock();
        let give_up = clock.uptime() + longest;
        while !so() {
            if clock.uptime() >= give_up {
                return false;
            }
            self.api.parts.stop.wait(PAUSE);
        }
        true
    }

    /// Goes on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.pipeline.thaw();
    }

    /// The connections of which nothing was read that is not answered.
    pub fn not_begun(&self) -> Vec<OwnedFd> {
        let all = socket::connections(self.address.port()).into_iter();
        let left = all.filter(|it| !self.pipeline.is_bound(it.peer, it.cookie));
        left.filter_map(|it| it.stream()).map(OwnedFd::from).collect()
    }
}
