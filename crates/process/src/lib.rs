//! What any of our programs is: a UNIX process. It knows no agents.
//!
//! - [`cli`], [`mod@settings`]: arguments and variables in, words and an exit code out
//! - [`clock`]: the only reader of time
//! - [`logging`], [`signals`], [`panics`], [`systemd`]: what the outside says and hears; [`throttle`]: not too often
//! - [`stop`], [`threads`]: threads that are named, owned and joined
//! - [`files`]: small files read, and files written whole
//! - [`reexec`]: the same process in another image
//! - `client` (feature `client`): requests to others over HTTP

#[cfg(not(target_os = "linux"))]
compile_error!("these programs run on Linux only: they use signalfd, memfd, /proc and abstract sockets");

pub mod cli;
#[cfg(feature = "client")]
pub mod client;
pub mod clock;
pub mod files;
pub mod logging;
pub mod panics;
pub mod reexec;
pub mod settings;
pub mod signals;
pub mod stop;
pub mod systemd;
pub mod threads;
pub mod throttle;
