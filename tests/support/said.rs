//! What the programs say in their logs and the tests wait for or look for, so
//! that a change of words is a change of this file. What only one test looks
//! for, once, stays with that test where it is what the test is about.

/// A collector is open on a port, which ends the line.
pub const LISTENING: &str = "listening on ";
/// It begins to go on in another image.
pub const GOING_ON: &str = "in-place upgrade: ";
/// The next image has begun.
pub const WENT_ON: &str = "going on where the former image stopped";
/// There is no next image, and the former one goes on.
pub const CANNOT_GO_ON: &str = "the in-place upgrade failed";
/// It was told to stop and finishes what is in hand.
pub const STOPPING: &str = "stopping: ";
/// It stopped before all was told.
pub const STILL_OWED: &str = "verdicts still owed";
/// A state file was read; followed by how many agents it had.
pub const RESTORED: &str = "restored ";
/// Nothing is saved.
pub const NOT_SAVED: &str = "not saved, a restart forgets";
/// A state file could not be used.
pub const STATE_NOT_USED: &str = "the state file is not used";
/// A state file could not be written.
pub const STATE_CANNOT_BE_SAVED: &str = "the state cannot be saved";
/// It slept, was stopped or did not get a processor.
pub const WAS_NOT_AWAKE: &str = "was not awake for";
/// An agent's silence is longer than an interval should be.
pub const IS_SUSPECT: &str = "is suspect";
/// An agent's silence is two intervals long.
pub const IS_DEAD: &str = "is dead";
/// A dead agent beats.
pub const IS_BACK: &str = "is back after being dead";
/// The station did not know the key.
pub const ANSWER_401: &str = "answer 401";
/// A thread ended by a panic that is not ours.
pub const BUG_IN: &str = "bug in";

/// `pap-heartbeat` has a process to watch, whose id ends the line.
pub const VOUCHING: &str = "vouching for ";
/// It has none.
pub const VOUCHING_ALONE: &str = "vouching for itself alone";
/// Neither collector nor station takes its heartbeats.
pub const NOBODY_TAKES: &str = "nobody takes our heartbeats";
/// The station takes them; followed by what keeps the collector from it.
pub const IN_THE_COLLECTORS_PLACE: &str = "in the collector's place: the collector: ";
/// The collector takes them again; its URL is before it.
pub const TAKES: &str = " takes our heartbeats";
/// It does not beat; followed by why.
pub const NOT_BEATING: &str = "not beating: ";
/// There is no place for its status.
pub const STATUS_CANNOT_BE_KEPT: &str = "the status cannot be kept";
