//! What the reconciler is told, and what it says.

use std::time::Duration;

use crate::time::Tick;

/// How old a decision may be when it is carried out.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// What stands for a cluster's id in a name.
pub const CLUSTER_ID: &str = "{cluster_id}";

/// A template of a worker, as far as it decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// What it is called among the templates.
    pub role: String,
    /// The name of its containers, with `{cluster_id}` in it.
    pub name: String,
    /// Changes with the template. What bears another one is replaced.
    pub hash: String,
    /// Its image. Without a label a container is adopted only if it is of the same repository.
    pub image: String,
}

impl Role {
    /// The name of a cluster's container.
    pub fn container(&self, cluster: &str) -> String {
        self.name.replace(CLUSTER_ID, cluster)
    }
}

/// The name of an image without its tag and its digest; None for an image's id, which is no name.
pub fn repository(image: &str) -> Option<&str> {
    let name = image.split('@').next().unwrap_or_default();
    let name = match name.rsplit_once(':') {
        // A colon before a slash is of a registry's port.
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    };
    (name != "sha256").then_some(name)
}

/// What is known of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It gives signs of life: each role has a worker.
    Live,
    /// It is registered, but was not heard yet: what runs goes on, nothing is made.
    Quiet,
    /// It is dead: its workers are removed until it is heard again.
    Parked,
    /// It was removed, and its workers with it.
    Removed,
    /// It is not registered and was not heard for long: it is as one that is not known.
    Unknown,
}

/// Who made a container, by its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// This station, for a cluster and a role.
    Ours {
        /// The cluster's id.
        cluster: String,
        /// The role.
        role: String,
        /// Of the template that it was made from.
        hash: String,
    },
    /// A predecessor that knew no station. It is adopted if its cluster is registered.
    Predecessor {
        /// The cluster's id.
        cluster: String,
        /// The role.
        role: String,
    },
    /// It bears none of our labels.
    None,
    /// Another station.
    Other,
}

/// What a listing shows of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// It runs.
    Running,
    /// It is paused, or between two starts.
    Interrupted,
    /// It was made and never started.
    Created,
    /// It ran and has ended.
    Stopped,
    /// It is being removed, or is in a state that we do not know.
    Unclear,
}

/// A container in a listing.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Who made it.
    pub mark: Mark,
    /// What it does.
    pub is: Observed,
    /// How often the engine has started it again, where that was looked up.
    pub restarts: Option<u32>,
}

/// What a listing shows.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// When it was asked for.
    pub listing: Listing,
    /// All containers that could be read.
    pub containers: &'a [Container],
    /// Whether those were all: what cannot be read may be a worker.
    pub is_whole: bool,
}

/// Whose worker: the id of a cluster and a role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The cluster's id.
    pub cluster: String,
    /// The role.
    pub role: String,
}

/// What is to be done with a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make and start one under the name of the worker.
    Create,
    /// Start the one that was made.
    Start(String),
    /// Remove it if it does not run.
    Remove(String),
    /// Stop and remove it, whatever it does.
    Stop(String),
}

/// Why it is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is none yet.
    Missing,
    /// It was found stopped.
    Stopped,
    /// It was made, and could not be started.
    Unstarted,
    /// Its template has changed.
    Changed,
    /// Its role is no longer a template.
    NoRole,
    /// There is another one for the same cluster and role.
    Double,
    /// It crashes in a loop.
    Crashing,
    /// Its cluster is dead.
    Parked,
    /// Its cluster was removed.
    Removed,
    /// A person asked to remove what no known cluster needs.
    Pruned,
}

/// An action. When it has ended, [`super::Reconciler::ended`] must be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Whose worker.
    pub key: Key,
    /// What to do.
    pub step: Step,
    /// Why.
    pub why: Why,
}

impl Action {
    /// Whether its reason still holds, by what is known of the cluster now. An action may have
    /// `waited` for its turn: the cluster was heard meanwhile, or a container is no longer as it was
    /// seen. To make one late does no harm, since it is made under a name that is given only once.
    pub fn holds(&self, standing: Option<Standing>, waited: Duration) -> bool {
        if waited > LONGEST_WAIT && self.step != Step::Create {
            return false;
        }
        match self.why {
            Why::Parked => standing == Some(Standing::Parked),
            Why::Removed => standing == Some(Standing::Removed),
            Why::Pruned => matches!(standing, None | Some(Standing::Unknown)),
            Why::Missing
            | Why::Stopped
            | Why::Unstarted
            | Why::Changed
            | Why::NoRole
            | Why::Double
            | Why::Crashing => standing == Some(Standing::Live),
        }
    }
}

/// What people must be told of a worker: it is said in each plan until what they were told is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It cannot run, or not as it is wanted.
    Failed(Key, String),
    /// It is not wanted any more, and its container cannot be removed.
    Stuck(Key, String),
    /// It runs again.
    Back(Key),
    /// It could not run, and is no longer wanted.
    Unwanted(Key),
}

impl Notice {
    /// Whose worker.
    pub const fn key(&self) -> &Key {
        match self {
            Self::Failed(key, _) | Self::Stuck(key, _) | Self::Back(key) | Self::Unwanted(key) => key,
        }
    }
}

/// A container that somebody else has made and that is kept as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Whose worker it is, whatever the templates say later.
    pub key: Key,
    /// The hash of the template when it was adopted: when that changes, it is replaced.
    pub hash: String,
}

/// A worker as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Whose.
    pub key: Key,
    /// Its container: id and name.
    pub container: Option<(String, String)>,
    /// What that does.
    pub is: Option<Observed>,
    /// Why it does not run.
    pub trouble: Option<String>,
    /// When it is tried again; None if nothing waits.
    pub again: Option<Tick>,
}

/// What is counted in a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Containers of ours.
    pub ours: usize,
    /// Those of clusters that are not known. They are left alone.
    pub unknown: usize,
    /// Workers that are not made since there are too many containers.
    pub over_limit: usize,
    /// Workers whose name somebody else's container bears.
    pub name_taken: usize,
    /// Workers that still run a former template.
    pub outdated: usize,
}

/// What a pass leads to.
#[derive(Debug, Default)]
pub struct Plan {
    /// What to do, at most one action for a worker.
    pub actions: Vec<Action>,
    /// What to tell people.
    pub notices: Vec<Notice>,
    /// All workers.
    pub workers: Vec<View>,
    /// Counts.
    pub counts: Counts,
    /// Whether the adopted containers have changed.
    pub is_adopted_changed: bool,
    /// When a pass is due although nothing else happens.
    pub again: Option<Duration>,
}

/// How many containers there may be, and which are adopted.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most containers of ours.
    pub max_containers: usize,
    /// Whether a container without labels of ours is adopted if it bears the name of a worker and is
    /// of the same image but for the tag.
    pub adopt_unlabelled: bool,
}

/// Which listing an answer belongs to: what was done after it began is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listing(pub(super) u64);
