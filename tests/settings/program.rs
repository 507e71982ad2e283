//! What the docs say about a program, besides its settings. The modules beside this one are used
//! for each of our programs: the test of each package fills the table in.

use argh::{CommandInfoWithArgs, FlagInfoKind};
use pap_process::cli::{BAD_CONFIG, BUG, IO_ERROR, STOPPED, UNWELL};
use pap_process::settings::{Kind, Setting, Table};

pub struct Program {
    pub name: &'static str,
    /// The package whose test writes the files about it.
    pub package: &'static str,
    /// Where the program is.
    pub path: &'static str,
    /// What it is, in one line.
    pub summary: &'static str,
    /// What it does, in paragraphs.
    pub description: &'static [&'static str],
    /// How to call it, in lines.
    pub synopsis: &'static [&'static str],
    /// Its arguments besides the settings.
    pub own: CommandInfoWithArgs,
    pub table: Table,
    /// The words that make the program do something else, and what each one does.
    pub tasks: &'static [(&'static str, &'static str)],
    /// Those of them that a file's name follows.
    pub tasks_with_file: &'static [&'static str],
    /// Whether a command of somebody else may follow, after `--`.
    pub runs_a_command: bool,
    /// The exit codes and their meanings.
    pub codes: Vec<(String, &'static str)>,
    pub signals: &'static [(&'static str, &'static str)],
    pub files: &'static [(&'static str, &'static str)],
    pub see_also: &'static str,
}

impl Program {
    /// The flags without a value, and what each one does.
    pub fn switches(&self) -> Vec<(&'static str, String)> {
        let mut flags = self.own.flags.to_vec_of_switches();
        if !flags.iter().any(|(flag, _)| *flag == "--help") {
            flags.push(("--help", "print what can be given, and exit".into()));
        }
        flags
    }

    /// The flags with a value that are no settings: what each one does, the value's name,
    /// and what completes it.
    pub fn options(&self) -> Vec<(&'static str, String, &'static str, Values)> {
        let options = self.own.flags.iter().filter_map(|flag| match flag.kind {
            FlagInfoKind::Switch => None,
            FlagInfoKind::Option { arg_name } => {
                let values = match arg_name {
                    "verdict" => Values::Words(&["healthy", "suspect", "dead"]),
                    _ => Values::Unknown,
                };
                Some((flag.long, one_line(flag.description), arg_name, values))
            }
        });
        options.collect()
    }

    /// How the files about it are written anew.
    pub fn writes_docs(&self) -> String {
        format!("PAP_WRITE_DOCS=1 cargo test -p {} --test settings", self.package)
    }
}

trait Switches {
    fn to_vec_of_switches(&self) -> Vec<(&'static str, String)>;
}

impl Switches for &'static [argh::FlagInfo<'static>] {
    fn to_vec_of_switches(&self) -> Vec<(&'static str, String)> {
        let switches = self.iter().filter(|flag| matches!(flag.kind, FlagInfoKind::Switch));
        switches.map(|flag| (flag.long, one_line(flag.description))).collect()
    }
}

/// Text as one line.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What completes the value of a setting.
pub enum Values {
    Words(&'static [&'static str]),
    Files,
    Unknown,
}

pub fn values(setting: &Setting) -> Values {
    match setting.kind {
        Kind::Choice(words) => Values::Words(words),
        Kind::File | Kind::Socket | Kind::Certificates => Values::Files,
        Kind::Text(_)
        | Kind::Number(_)
        | Kind::Duration(_)
        | Kind::Address
        | Kind::LogFilter
        | Kind::Secret
        | Kind::SecretText
        | Kind::Url(_)
        | Kind::Link
        | Kind::BaseUrl
        | Kind::BaseUrls(_) => Values::Unknown,
    }
}

/// The exit codes that the programs share.
pub fn common(stopped: &'static str, unwell: &'static str) -> [(String, &'static str); 5] {
    [
        (STOPPED, stopped),
        (UNWELL, unwell),
        (BUG, "It ended because of a bug."),
        (IO_ERROR, "It could not listen, write, or start a thread."),
        (BAD_CONFIG, "Its configuration is wrong; one line on standard error names the variable, the value, and what is allowed. Nothing was started."),
    ]
    .map(|(code, text)| (code.to_string(), text))
}
