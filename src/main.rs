//! Parse, run, exit code.

use std::process::exit;
use std::time::Duration;

use pap_collector::app;
use pap_collector::check::{self, Question};
use pap_collector::config::settings::SETTINGS;
use pap_collector::config::{Config, Subcommand, Switches, Task};
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
        Ok((switches, flags)) if switches.task == Some(Task::Check) => check(&flags, switches.live),
        Ok((Switches { subcommand: Some(Subcommand::Replay(replay)), .. }, flags)) => {
            finish(replay.run(&flags))
        }
        Ok((switches, _)) if switches.live => complain("--live goes with check", BAD_CONFIG),
        Ok((switches, flags)) => match Config::new(&flags, &environment) {
            Ok(config) if switches.check_config => {
                say(&format!("{}\n{}", config.to_text().trim_end(), versions_line()))
            }
            Ok(config) => run(&config),
            Err(error) => complain(&error.to_string(), BAD_CONFIG),
        },
        Err(early) => cli::show(NAME, &early),
    })
}

fn run(config: &Config) -> i32 {
    let inherited = match app::inherit() {
        Ok(inherited) => inherited,
        Err(error) => return complain(&format!("cannot keep descriptors: {error}"), IO_ERROR),
    };
    let signals = match Signals::take(&app::SIGNALS) {
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

fn check(flags: &Flags, live: bool) -> i32 {
    let question = if live { Question::Live } else { Question::Ready };
    match Config::place(flags, &environment).map(|(bind, port)| check::ask(question, bind, port)) {
        Ok(Ok(well)) => say(&well),
        Ok(Err(unwell)) => {
            say(&unwell);
            UNWELL
        }
        Err(error) => complain(&error.to_string(), BAD_CONFIG),
    }
}

/// What a subcommand has to say, and its exit code.
fn finish(result: Result<String, (String, i32)>) -> i32 {
    match result {
        Ok(text) => say(&text),
        Err((text, code)) => complain(&text, code),
    }
}

fn complain(text: &str, code: i32) -> i32 {
    cli::complain(NAME, text, code)
}
