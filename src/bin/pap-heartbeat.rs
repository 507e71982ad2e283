//! Parse, run, exit code: sends the heartbeats of an agent that cannot do so itself.

use std::ffi::OsString;
use std::process::exit;
use std::time::Duration;

use pap_collector::emitter::config::Config;
use pap_collector::emitter::settings::SETTINGS;
use pap_collector::emitter::switches::Switches;
use pap_collector::emitter::{command, machine, program, registration};
use pap_process::cli::{self, BAD_CONFIG, IO_ERROR, UNWELL, environment, say};
use pap_process::clock::monotonic;
use pap_process::logging::{Log, LogFormat};
use pap_process::settings::Flags;
use pap_process::signals::Signals;

const NAME: &str = "pap-heartbeat";

fn main() {
    let (arguments, command) = cli::split_command();
    exit(match cli::parse::<Switches>(NAME, SETTINGS, &arguments) {
        Ok((switches, _)) if switches.version => say(&format!("{NAME} {}", pap_collector::VERSION)),
        Ok((switches, flags)) => match switches.misplaced(command.is_some()) {
            Some(why) => complain(why, BAD_CONFIG),
            None => start(&switches, &flags, command),
        },
        Err(early) => cli::show(NAME, &early),
    })
}

fn start(switches: &Switches, flags: &Flags, command: Option<Vec<OsString>>) -> i32 {
    if switches.check || switches.status {
        return status(flags, switches.status);
    }
    if let Some(order) = switches.order() {
        return match registration::Config::new(flags, &environment) {
            Ok(config) if switches.check_config => say(config.to_text().trim_end()),
            Ok(config) => match registration::tell(&config, order) {
                Ok(done) => say(&done),
                Err(why) => complain(&why, UNWELL),
            },
            Err(error) => complain(&format!("{error}; {}", order.advice(None)), BAD_CONFIG),
        };
    }
    if switches.machine {
        return match machine::Config::new(flags, &environment) {
            Ok(config) if switches.check_config => say(config.to_text().trim_end()),
            Ok(config) => run(&config.log_filter, config.log_format, |log, signals| {
                machine::run(&config, log, &signals)
            }),
            Err(error) => complain(&error.to_string(), BAD_CONFIG),
        };
    }
    match Config::new(flags, &environment, command) {
        Ok(config) if switches.check_config => say(config.to_text().trim_end()),
        Ok(config) => {
            run(&config.log_filter, config.log_format, |log, signals| program::run(&config, log, signals))
        }
        Err(error) => complain(&error.to_string(), BAD_CONFIG),
    }
}

/// Takes signals, starts the log, and does the work.
fn run(filter: &str, format: LogFormat, work: impl FnOnce(&Log, Signals) -> i32) -> i32 {
    let signals = match Signals::take(&command::signals()) {
        Ok(signals) => signals,
        Err(error) => return complain(&format!("cannot take signals: {error}"), IO_ERROR),
    };
    let log = match Log::start(filter, format) {
        Ok(log) => log,
        Err(error) => return complain(&format!("cannot start the log: {error}"), IO_ERROR),
    };
    let code = work(&log, signals);
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
