//! Tells Alertmanagers what is true, for as long as it is. What that is, a program says
//! with [`Owner`]; when it is told, [`pap_core::firing`] decides.
//!
//! - [`settings`]: where Alertmanagers are, and what lets us in
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

    /// What an alert says of a subject.
    fn concerned<'a>(&'a self, subject: &'a <Self::Numbers as Numbers>::Subject) -> Concerned<'a>;

    /// Rings when Alertmanager number `target` may have to be told something new.
    fn bell(&self, target: usize) -> &Receiver<()>;

    /// For how long the program has been awake.
    fn uptime(&self) -> Uptime;

    /// Tells the threads to end.
    fn stop(&self) -> &Stop;

    /// From a change until an Alertmanager took it.
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
