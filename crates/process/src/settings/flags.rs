//! The settings among the arguments of a program, and how `--help` describes them.

use std::fmt::Write as _;

use super::{Fallback, Setting, Table};

/// The most characters in a line of `--help`.
const WIDTH: usize = 80;

/// The settings that were given as flags.
#[derive(Default)]
pub struct Flags(Vec<(String, String)>);

impl Flags {
    /// The value that was given for a variable.
    pub fn get(&self, variable: &str) -> Option<String> {
        self.0.iter().find(|(known, _)| known == variable).map(|(_, value)| value.clone())
    }
}

/// Takes the settings out of the arguments. Returns them and the other arguments.
/// `--name VALUE` and `--name=VALUE` mean the same, also for the flags in `own`, the
/// program's other flags with a value. The arguments after `--` stay as they are.
///
/// # Errors
/// A setting has no value, or is given twice, or `--name=VALUE` names no setting. The
/// error is one line.
pub fn split(table: Table, own: &[&str], arguments: &[String]) -> Result<(Flags, Vec<String>), String> {
    let (mut flags, mut others) = (Flags::default(), Vec::new());
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            others.push(word.clone());
            break;
        }
        let (flag, given) = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value)),
            _ => (word.as_str(), None),
        };
        let Some(variable) = variable_of(table, flag) else {
            if let Some(value) = given.filter(|_| own.contains(&flag)) {
                others.extend([flag.to_owned(), value.to_owned()]);
                continue;
            }
            if given.is_some() {
                return Err(format!("{flag} takes no value, or is not known"));
            }
            others.push(word.clone());
            continue;
        };
        let value = match given {
            Some(value) => value.to_owned(),
            None => words.next().filter(|next| !next.starts_with("--")).cloned().ok_or_else(|| {
                format!("{flag} has no value: give {flag} VALUE, or {flag}=VALUE where it begins with --")
            })?,
        };
        if flags.get(&variable).is_some() {
            return Err(format!("{flag} is given twice"));
        }
        flags.0.push((variable, value));
    }
    others.extend(words.cloned());
    Ok((flags, others))
}

/// The variable that goes with a flag.
fn variable_of(table: Table, flag: &str) -> Option<String> {
    let names = |setting: &&Setting| [Some((setting.name.to_owned(), setting.flag())), setting.file()];
    let mut names = table.iter().flat_map(names).flatten();
    names.find(|(_, known)| known == flag).map(|(variable, _)| variable)
}

/// The part of `--help` that describes the settings.
pub fn describe(table: Table) -> String {
    let mut text = String::from(
        "Settings, each a flag or the environment variable beside it; the flag wins,\n\
         and an empty value counts as not set:\n",
    );
    for setting in table {
        let default = match setting.fallback {
            Fallback::Required => "required".to_owned(),
            Fallback::Value(value) => format!("default: {value}"),
            Fallback::Words(words) => format!("default: {words}"),
        };
        entry(&mut text, &setting.flag(), setting.name, setting.help());
        wrap(&mut text, &format!("({default}; allowed: {})", setting.allowed()));
        if let Some((variable, flag)) = setting.file() {
            entry(&mut text, &flag, &variable, "a file that holds it");
        }
    }
    text
}

fn entry(text: &mut String, flag: &str, variable: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {flag} VALUE, {variable}");
    wrap(text, help);
}

fn wrap(text: &mut String, words: &str) {
    let mut column = 0;
    for word in words.split(' ') {
        let length = word.chars().count();
        if column == 0 || column + 1 + length > WIDTH {
            text.push_str(if column == 0 { "      " } else { "\n      " });
            column = 6 + length;
        } else {
            text.push(' ');
            column += 1 + length;
        }
        text.push_str(word);
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    crate::settings! {
        /// the port
        /// to listen on
        PORT: Kind::Number(0..=9), Fallback::Value("8");
        /// what to ask
        PAP_PROBE as "probe": Kind::File, Fallback::Words("nobody");
        /// what to say
        API_KEY: Kind::Secret, Fallback::Required;
    }

    type Parts = (Vec<(String, String)>, Vec<String>);

    fn parts(arguments: &[&str]) -> Result<Parts, String> {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        split(SETTINGS, &["--status"], &arguments).map(|(flags, others)| (flags.0, others))
    }

    #[test]
    fn settings_are_taken_out_in_both_spellings() {
        let (flags, others) =
            parts(&["check", "--port", "1", "--live", "--probe=a=b", "--api-key-file", "-f", "--", "--port"])
                .unwrap();
        let expected = [("PORT", "1"), ("PAP_PROBE", "a=b"), ("API_KEY_FILE", "-f")];
        assert_eq!(flags, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(others, ["check", "--live", "--", "--port"]);
        assert_eq!(parts(&["--api-key=--x", "--probe="]).unwrap().0.len(), 2);
        assert_eq!(parts(&["--status=dead"]).unwrap().1, ["--status", "dead"]);
    }

    #[test]
    fn a_flag_without_its_value_is_refused() {
        for arguments in [&["--port"] as &[_], &["--port", "--live"], &["--port", "--", "1"]] {
            assert!(parts(arguments).unwrap_err().starts_with("--port has no value"), "{arguments:?}");
        }
        assert_eq!(parts(&["--port=1", "--port", "2"]).unwrap_err(), "--port is given twice");
        // The value may be a key behind a misspelt flag, so the error does not repeat it.
        assert_eq!(parts(&["--apikey=hush"]).unwrap_err(), "--apikey takes no value, or is not known");
        // If a setting has a shorter flag, its variable's name is not a flag.
        assert_eq!(parts(&["--pap-probe"]).unwrap().1, ["--pap-probe"]);
    }

    #[test]
    fn help_describes_every_setting() {
        let text = describe(SETTINGS);
        let port = "  --port VALUE, PORT\n      the port to listen on\n      \
                    (default: 8; allowed: a whole number from 0 to 9)\n";
        assert!(text.contains(port), "{text}");
        assert!(text.contains("--probe VALUE, PAP_PROBE\n") && text.contains("(required;"), "{text}");
        assert!(text.contains("--api-key-file VALUE, API_KEY_FILE\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    }
}
