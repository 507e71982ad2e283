//! Parse, run, exit code.

use std::io::{BufWriter, ErrorKind, stdout};
use std::process::exit;
use std::time::Duration;

use pap_collector::app;
use pap_collector::commands::agents::{self, ListError};
use pap_collector::commands::check::{self, Question};
use pap_collector::commands::replay::{self, ReplayError};
use pap_collector::commands::top;
use pap_collector::config::settings::SETTINGS;
use pap_collector::config::{Access, Config, Replay, Subcommand, Switches, Task};
use pap_process::cli::{self, BAD_CONFIG, IO_ERROR, STOPPED, UNWELL, environment, say};
use pap_process::logging::Log;
use pap_process::reexec::versions_line;
use pap_process::settings::Flags;
use pap_process::signals::Signals;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

const NAME: &str = "pap-collector";

fn main() {
    exit(match cli::parse::<Switches>(NAME, SETTINGS, &cli::arguments()) {
        Ok((switches, _)) if switches.version => say(&format!("{NAME} {}", pap_collector::VERSION)),
        Ok((switches, flags)) => match switches.misplaced() {
            Some(why) => complain(why, BAD_CONFIG),
            None => start(&switches, &flags),
        },
        Err(early) => cli::show(NAME, &early),
    })
}

fn start(switches: &Switches, flags: &Flags) -> i32 {
    if let Some(Subcommand::Replay(arguments)) = &switches.subcommand {
        return replay(arguments, flags);
    }
    match switches.task {
        Some(Task::Check) => check(switches, flags),
        Some(Task::Agents) => agents(switches, flags),
        Some(Task::Top) => top(switches, flags),
        None => match Config::new(flags, &environment) {
            Ok(config) if switches.check_config => {
                say(&format!("{}\n{}", config.to_text().trim_end(), versions_line()))
            }
            Ok(config) => run(&config),
            Err(error) => complain(&error.to_string(), BAD_CONFIG),
        },
    }
}

fn run(config: &Config) -> i32 {
    let inherited = match app::inherit() {
        Ok(inherited) => inherited,
        Err(error) => return complain(&format!("cannot keep descriptors: {error}"), IO_ERROR),
    };
    let signals = match Signals::take(&app::signals()) {
        Ok(signals) => signals,
        Err(error) => return complain(&format!("cannot take signals: {error}"), IO_ERROR),
    };
    let log = match Log::start(&config.log_filter, config.log_format) {
        Ok(log) => log,
        Err(error) => return complain(&format!("cannot start the log: {error}"), IO_ERROR),
    };
    let code = app::run(config, &log, signals, inherited)
        .map_or_else(|failure| complain(&failure.to_string(), failure.code()), |()| STOPPED);
    log.flush_within(Duration::from_millis(500));
    code
}

fn check(switches: &Switches, flags: &Flags) -> i32 {
    let question = if switches.live { Question::Live } else { Question::Ready };
    let access = Access::without_key(flags, &environment, switches.url.as_deref());
    match access.map(|access| check::ask(question, access)) {
        Ok(Ok(well)) => say(&well),
        Ok(Err(unwell)) => {
            say(&unwell);
            UNWELL
        }
        Err(error) => complain(&error.to_string(), BAD_CONFIG),
    }
}

fn agents(switches: &Switches, flags: &Flags) -> i32 {
    let mut out = BufWriter::new(stdout().lock());
    let listed = Access::new(flags, &environment, switches.url.as_deref())
        .map(|access| agents::list(access, switches.status, switches.json, &mut out));
    match listed {
        Ok(Ok(())) => STOPPED,
        // The reader of the pipe does not want the rest.
        Ok(Err(ListError::Write(error))) if error.kind() == ErrorKind::BrokenPipe => STOPPED,
        Ok(Err(ListError::Write(error))) => complain(&format!("cannot write: {error}"), IO_ERROR),
        Ok(Err(ListError::NoAnswer(why))) => complain(&why, UNWELL),
        Err(error) => complain(&error.to_string(), BAD_CONFIG),
    }
}

fn top(switches: &Switches, flags: &Flags) -> i32 {
    match Access::new(flags, &environment, switches.url.as_deref()).map(top::show) {
        Ok(Ok(())) => STOPPED,
        Ok(Err(why)) => complain(&why, UNWELL),
        Err(error) => complain(&error.to_string(), BAD_CONFIG),
    }
}

fn replay(arguments: &Replay, flags: &Flags) -> i32 {
    match replay::run(&arguments.file, arguments.json, flags) {
        Ok(text) => say(&text),
        Err(ReplayError::Grace(error)) => complain(&error.to_string(), BAD_CONFIG),
        Err(ReplayError::Trace(why)) => complain(&why, IO_ERROR),
    }
}

fn complain(text: &str, code: i32) -> i32 {
    cli::complain(NAME, text, code)
}
