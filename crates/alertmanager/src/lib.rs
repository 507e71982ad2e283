//! Tells Alertmanagers which conditions hold, for as long as they do. A program says with
//! [`Owner`] which they are; [`pap_core::firing`] decides when they are told.
//!
//! - [`settings`]: where Alertmanagers are, and with which credentials we post
//! - [`sender`]: the threads that post, one for each Alertmanager
//! - [`metrics`]: what is counted

pub mod metrics;
pub mod sender;
pub mod settings;

use crossbeam_channel::Receiver;
use pap_core::firing::{Concerned, Firing, Numbers};
use pap_core::time::{Now, Uptime};
use pap_process::metrics::Histogram;
use pap_process::stop::Stop;

/// The program whose conditions are told.
pub trait Owner {
    /// How it tells conditions apart.
    type Numbers: Numbers;

    /// Runs `work` on its conditions, under their lock.
    fn with<R>(&self, work: impl FnOnce(&mut Firing<Self::Numbers>, Now) -> R) -> R;

    /// What an alert says of the subject of a condition.
    fn concerned<'a>(&'a self, subject: &'a <Self::Numbers as Numbers>::Subject) -> Concerned<'a>;

    /// Rings when Alertmanager number `target` may have to be told something new.
    fn bell(&self, target: usize) -> &Receiver<()>;

    /// For how long the program has been awake.
    fn uptime(&self) -> Uptime;

    /// Tells the threads to end.
    fn stop(&self) -> &Stop;

    /// How long it took from a change until an Alertmanager took it.
    fn delivery(&self) -> &Histogram;

    /// Whether the program still speaks for its conditions. If not, nothing is posted.
    fn may_post(&self) -> bool {
        true
    }

    /// A post to Alertmanager number `target` begins, or has ended.
    fn is_posting(&self, target: usize, is_posting: bool) {
        let _ = (target, is_posting);
    }
}
