//! Parse, run, exit code: sends the heartbeats of an agent that cannot do so itself.

use std::process::exit;
use std::time::Duration;

use pap_collector::emitter::config::Config;
use pap_collector::emitter::settings::SETTINGS;
use pap_collector::emitter::switches::Switches;
use pap_collector::emitter::{command, program};
use pap_process::cli::{self, BAD_CONFIG, IO_ERROR, UNWELL, environment, say};
use pap_process::clock::monotonic;
use pap_process::logging::Log;
use pap_process::settings::Flags;
use pap_process::signals::Signals;

const NAME: &str = "pap-heartbeat";

fn main() {
    let (arguments, command) = cli::split_command();
    exit(match cli::parse::<Switches>(NAME, SETTINGS, &arguments) {
        Ok((switches, _)) if switches.version => say(&format!("{NAME} {}", pap_collector::VERSION)),
        Ok((switches, flags)) if switches.check || switches.status => status(&flags, switches.status),
        Ok((switches, flags)) => match Config::new(&flags, &environment, command) {
            Ok(config) if switches.check_config => say(config.to_text().trim_end()),
            Ok(config) => run(&config),
            Err(error) => complain(&error.to_string(), BAD_CONFIG),
        },
        Err(early) => cli::show(NAME, &early),
    })
}

fn run(config: &Config) -> i32 {
    let signals = match Signals::take(&command::signals()) {
        Ok(signals) => signals,
        Err(error) => return complain(&format!("cannot take signals: {error}"), IO_ERROR),
    };
    let log = match Log::start(&config.log_filter, config.log_format) {
        Ok(log) => log,
        Err(error) => return complain(&format!("cannot start the log: {error}"), IO_ERROR),
    };
    let code = program::run(config, &log, signals);
    log.flush_within(Duration::from_millis(500));
    code
}

/// `--check`; or `--status`, which prints the whole status.
fn status(flags: &Flags, all: bool) -> i32 {
    let now = monotonic();
    let file = match Config::status_file(flags, &environment) {
        Ok(file) => file,
        Err(error) => return complain(&error.to_string(), BAD_CONFIG),
    };
    let answer = file
        .read()
        .map_err(|why| format!("not beating: {why}"))
        .and_then(|status| if all { Ok(status.describe(now)) } else { status.check(now) });
    match answer {
        Ok(text) => say(&text),
        Err(text) => {
            say(&text);
            UNWELL
        }
    }
}

fn complain(text: &str, code: i32) -> i32 {
    cli::complain(NAME, text, code)
}
