//! What our programs have in common on the command line: exit codes, arguments, the
//! environment, and text for the user.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;

use argh::{ArgsInfo, EarlyExit, FlagInfoKind, FromArgs};

use crate::escape::lines_for_terminal;
use crate::settings::{self, Flags, Table};

/// The process ends because it was asked to, or has done what it was asked.
pub const STOPPED: i32 = 0;
/// The answer to a check is that the program is not well.
pub const UNWELL: i32 = 1;
/// The process ends because of a bug.
pub const BUG: i32 = 70;
/// The process ends because it cannot listen or write.
pub const IO_ERROR: i32 = 74;
/// The process did not start because its configuration is wrong.
pub const BAD_CONFIG: i32 = 78;

/// The arguments after the program's name.
pub fn arguments() -> Vec<String> {
    std::env::args_os().skip(1).map(lossy).collect()
}

/// The arguments before `--`, and the command after it, byte for byte.
pub fn split_command() -> (Vec<String>, Option<Vec<OsString>>) {
    let mut words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let command = words.iter().position(|word| word == "--").map(|at| words.split_off(at));
    let command = command.map(|words| words.into_iter().skip(1).collect());
    (words.iter().map(lossy).collect(), command)
}

/// A variable of the environment.
pub fn environment(name: &str) -> Option<String> {
    std::env::var_os(name).map(lossy)
}

/// Bytes that are not UTF-8 become U+FFFD, which no check lets pass.
fn lossy(text: impl AsRef<OsStr>) -> String {
    text.as_ref().to_string_lossy().into_owned()
}

/// Parses arguments: the settings of `table`, and the program's own `Switches`.
///
/// # Errors
/// The text to show, and whether the user asked for it (`--help`).
pub fn parse<Switches: FromArgs + ArgsInfo>(
    program: &str,
    table: Table,
    arguments: &[String],
) -> Result<(Switches, Flags), EarlyExit> {
    let own = Switches::get_args_info().flags;
    let own = own.iter().filter(|flag| !matches!(flag.kind, FlagInfoKind::Switch)).map(|flag| flag.long);
    let (flags, others) = settings::split(table, &own.collect::<Vec<_>>(), arguments)?;
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    match Switches::from_args(&[program], &others) {
        Ok(switches) => Ok((switches, flags)),
        Err(EarlyExit { output, status: Ok(()) }) => {
            Err(EarlyExit { output: format!("{output}\n{}", settings::describe(table)), status: Ok(()) })
        }
        Err(early) => Err(early),
    }
}

/// Writes an answer to standard output.
pub fn say(text: &str) -> i32 {
    // If the pipe is closed, the reader does not want the answer.
    let _ = writeln!(std::io::stdout(), "{}", lines_for_terminal(text));
    STOPPED
}

/// Writes to standard error why the process ends with `code`.
pub fn complain(program: &str, text: &str, code: i32) -> i32 {
    let _ = writeln!(std::io::stderr(), "{program}: {}", lines_for_terminal(text));
    code
}

/// Shows what ended the parsing of flags: help, or an error.
pub fn show(program: &str, early: &EarlyExit) -> i32 {
    if early.status.is_ok() {
        return say(early.output.trim_end());
    }
    // An error is one line.
    let text = early.output.split_whitespace().collect::<Vec<_>>().join(" ");
    complain(program, &format!("{text}; {program} --help shows all flags"), BAD_CONFIG)
}
