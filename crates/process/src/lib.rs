//! What all our programs have in common as UNIX processes. This crate knows no agents.
//!
//! - [`cli`], [`mod@settings`]: arguments and environment variables in, text and an exit code out
//! - [`clock`]: the only module that reads time
//! - [`logging`], [`signals`], [`panics`], [`systemd`]: what the process tells others, and what it is told
//! - [`mod@metrics`]: histograms, and metrics as text
//! - [`escape`]: text of others on its way to a terminal or a log
//! - [`throttle`]: how often one kind of trouble is logged
//! - [`stop`], [`threads`]: threads that are named, owned and joined
//! - [`limits`]: how many connections the system allows
//! - [`files`]: small files are read, and files are replaced as a whole
//! - [`reexec`]: an in-place upgrade: the same process goes on with another program
//! - `client`, `url` (feature `client`): HTTP requests to other programs

#[cfg(not(target_os = "linux"))]
compile_error!("these programs run on Linux only: they use signalfd, memfd, /proc and abstract sockets");

pub mod cli;
#[cfg(feature = "client")]
pub mod client;
pub mod clock;
pub mod escape;
pub mod files;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod panics;
pub mod reexec;
pub mod settings;
pub mod signals;
pub mod stop;
pub mod systemd;
pub mod threads;
pub mod throttle;
#[cfg(feature = "client")]
pub mod url;
