//! A heartbeat collector for PAP agents: it takes heartbeats, keeps who is
//! alive in memory, notices silence, restarts and emergencies by itself, and
//! tells the station only when something is wrong.
//!
//! ```text
//!  agents --HTTP--> server --Beat--> registry --Change--> log
//!                   (pool)           (mutex)  \
//!                                      ^       `--Alert--> bounded channel --> alerters --HTTPS--> station
//!                                   sweeper                                    (owed again when not taken)
//! ```
//!
//! Heartbeats flow from left to right; nothing on the right can make the left
//! wait. There are two kinds of code. **The core decides** and holds no I/O,
//! no clock, no lock and no log; read it first:
//!
//! - [`beat`]: what a heartbeat is, parsed at the edge
//! - [`verdict`]: healthy, suspect, dead, and what leads from one to another
//! - [`lines`]: agents in the order in which they fall due
//! - [`registry`]: who is alive, and what of it the station knows
//! - [`alert`]: an alert and its JSON
//! - [`delivery`]: what to do next with one alert
//! - [`outbox`]: what the station has still to be told, and what goes next
//! - [`fanout`]: who watches what, and what each has still to be sent
//!
//! **The shell performs**, in files too small to be wrong:
//!
//! - [`clock`]: the only reader of time
//! - [`shared`]: the one mutex and its condvar
//! - [`sweeper`]: waits for the earliest deadline
//! - [`station`], [`alerter`]: post alerts and settle them
//! - [`server`]: requests in, answers out
//! - [`observers`]: what happens, told to whoever watches
//! - [`metrics`], [`logging`], [`systemd`], [`vitals`]: what the outside sees of the inside
//! - [`state_file`], [`handover`], [`signals`]: through a restart, and into another image
//! - [`check`]: asks a running collector how it is
//! - [`emitter`]: the other half, an agent's heartbeats; `pap-heartbeat` is one, and so is a collector below another
//! - [`client`], [`cli`]: how we ask others, and how we are called
//! - [`config`], [`panics`], [`app`]: from the environment to running threads, and back

pub mod alert;
pub mod alerter;
pub mod app;
pub mod beat;
pub mod check;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod emitter;
pub mod fanout;
pub mod handover;
pub mod lines;
pub mod logging;
pub mod metrics;
pub mod observers;
pub mod outbox;
pub mod panics;
pub mod registry;
pub mod resident;
pub mod server;
pub mod shared;
pub mod signals;
pub mod state_file;
pub mod station;
pub mod sweeper;
pub mod systemd;
pub mod verdict;
pub mod vitals;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
