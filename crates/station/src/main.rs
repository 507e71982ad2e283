//! Parse, run, exit code.

use std::path::Path;
use std::process::exit;
use std::time::Duration;

use pap_process::cli::{self, BAD_CONFIG, IO_ERROR, STOPPED, UNWELL, environment, say};
use pap_process::logging::Log;
use pap_process::settings::Flags;
use pap_process::signals::Signals;
use pap_station::config::settings::SETTINGS;
use pap_station::config::{self, Config, Switches};
use pap_station::{app, check, import, store};

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

const NAME: &str = "pap-station";

fn main() {
    exit(match cli::parse::<Switches>(NAME, SETTINGS, &cli::arguments()) {
        Ok((switches, _)) if switches.version => say(&format!("{NAME} {}", pap_station::VERSION)),
        Ok((switches, flags)) => start(&switches, &flags),
        Err(early) => cli::show(NAME, &early),
    })
}

fn start(switches: &Switches, flags: &Flags) -> i32 {
    let words: Vec<&str> = switches.command.iter().map(String::as_str).collect();
    match words[..] {
        [] if switches.live => complain("--live goes with check", BAD_CONFIG),
        [] if switches.json || switches.prune => complain("--json and --prune go with clusters", BAD_CONFIG),
        [] => match Config::new(flags, &environment) {
            Ok(config) if switches.check_config => say(config.to_text().trim_end()),
            Ok(config) => run(&config),
            Err(error) => complain(&error.to_string(), BAD_CONFIG),
        },
        ["check"] => match config::address(flags, &environment) {
            Ok((bind, port)) => match check::ask(bind, port, switches.live) {
                Ok(well) => say(&well),
                Err(unwell) => {
                    say(&unwell);
                    UNWELL
                }
            },
            Err(error) => complain(&error.to_string(), BAD_CONFIG),
        },
        ["backup", file] => match config::database(flags, &environment) {
            Ok(database) => match store::backup(&database, Path::new(file)) {
                Ok(()) => say(&format!("{} is copied to {file}", database.display())),
                Err(error) => {
                    complain(&format!("cannot copy {} to {file}: {error}", database.display()), IO_ERROR)
                }
            },
            Err(error) => complain(&error.to_string(), BAD_CONFIG),
        },
        ["import", file] => match config::database_and_reach(flags, &environment) {
            Ok((database, reach)) => match import::run(Path::new(file), &database, &reach) {
                Ok(report) => say(&report),
                Err(error) => complain(&error.to_string(), error.code()),
            },
            Err(error) => complain(&error.to_string(), BAD_CONFIG),
        },
        ["clusters"] => match config::running(flags, &environment) {
            Ok(running) if switches.prune => answer(running.prune()),
            Ok(running) => answer(running.clusters(switches.json)),
            Err(error) => complain(&error.to_string(), BAD_CONFIG),
        },
        ["deregister", id] => match config::running(flags, &environment) {
            Ok(running) => answer(running.deregister(id)),
            Err(error) => complain(&error.to_string(), BAD_CONFIG),
        },
        _ => complain(
            "the commands are check, clusters, deregister ID, backup FILE and import FILE; --help shows all flags",
            BAD_CONFIG,
        ),
    }
}

fn answer(answered: Result<String, String>) -> i32 {
    answered.map_or_else(|why| complain(&why, UNWELL), |text| say(&text))
}

fn run(config: &Config) -> i32 {
    let signals = match Signals::take(&app::signals()) {
        Ok(signals) => signals,
        Err(error) => return complain(&format!("cannot take signals: {error}"), IO_ERROR),
    };
    let log = match Log::start(&config.log_filter, config.log_format) {
        Ok(log) => log,
        Err(error) => return complain(&format!("cannot start the log: {error}"), IO_ERROR),
    };
    let code = app::run(config, &log, signals)
        .map_or_else(|failure| complain(&failure.to_string(), failure.code()), |()| STOPPED);
    log.flush_within(Duration::from_millis(500));
    code
}

fn complain(text: &str, code: i32) -> i32 {
    cli::complain(NAME, text, code)
}
