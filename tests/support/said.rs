//! Log texts that tests wait for or look for. A change of words in the programs is
//! then a change of this file alone. A text that only one test looks for may stay
//! in that test.

/// A collector listens on a port; the port's number ends the line.
pub const LISTENING: &str = "listening on ";
/// An in-place upgrade begins.
pub const UPGRADE_BEGINS: &str = "in-place upgrade: ";
/// The program after a re-exec has started.
pub const UPGRADED: &str = "continuing after an in-place upgrade";
/// An in-place upgrade failed, and the process keeps its program.
pub const UPGRADE_FAILED: &str = "the in-place upgrade failed";
/// A collector was told to stop and finishes the work in hand.
pub const STOPPING: &str = "stopping: ";
/// A collector stopped before all verdicts were told.
pub const STILL_OWED: &str = "verdicts still owed";
/// A state was read; the number of agents follows.
pub const RESTORED: &str = "restored ";
/// No state file is configured.
pub const NOT_SAVED: &str = "not saved, so a restart forgets";
/// A state file could not be used.
pub const STATE_NOT_USED: &str = "the state file is not used";
/// A state file could not be written.
pub const STATE_CANNOT_BE_SAVED: &str = "the state cannot be saved";
/// Records of heartbeats are missing in the trace; the reason follows.
pub const TRACE_LACKS: &str = "heartbeats are missing in the trace";
/// The process slept, was stopped, or did not get a processor.
pub const WAS_NOT_AWAKE: &str = "was not awake for";
/// An agent's silence is longer than an interval should be.
pub const IS_SUSPECT: &str = "is suspect";
/// An agent's silence has reached its deadline.
pub const IS_DEAD: &str = "is dead";
/// A dead agent sent a heartbeat.
pub const IS_BACK: &str = "is back after being dead";
/// Half of the agents fell silent at once.
pub const MASS_SILENCE: &str = "mass silence: ";
/// Most of them are back.
pub const MASS_SILENCE_ENDS: &str = "the mass silence is over";
/// Two agents have one id; their addresses follow.
pub const USED_TWICE: &str = "is probably used twice";
/// The station refused the key.
pub const ANSWER_401: &str = "answer 401";
/// A signal that changes nothing was sent.
pub const NOT_OBEYED: &str = "is not obeyed";
/// An Alertmanager takes alerts after a time in which it did not.
pub const TAKES_AGAIN: &str = "takes alerts again";
/// An Alertmanager took a post with news; the number of alerts comes before this text.
pub const ALERTS_TOLD: &str = " alerts told to ";
/// A thread of ours panicked, which ends the process.
pub const BUG_IN: &str = "bug in";

/// `pap-heartbeat` has a liveness source. For a command, the process's number ends
/// the line.
pub const LIVENESS: &str = "liveness source: ";
/// `pap-heartbeat` has no liveness source.
pub const NO_LIVENESS: &str = "no liveness source: ";
/// Neither collector nor station takes its heartbeats.
pub const NOBODY_TAKES: &str = "nobody takes our heartbeats";
/// The station takes them; the reason why the collector does not follows.
pub const IN_THE_COLLECTORS_PLACE: &str = "in the collector's place: the collector: ";
/// A target takes them; its URL comes before this text.
pub const TAKES: &str = " takes our heartbeats";
/// `pap-heartbeat` sends no heartbeats; the reason follows.
pub const NOT_BEATING: &str = "not beating: ";
/// `pap-heartbeat` has no place to keep its status.
pub const STATUS_CANNOT_BE_KEPT: &str = "the status cannot be kept";
