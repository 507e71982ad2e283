//! Reads one value at a time: where the value comes from, and whether it is allowed.
//! After that, it shows the values in effect.

use std::fmt::{Display, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::{ConfigError, Fallback, Flags, GoDuration, Kind, Secret, Setting, Table};
use crate::files::{Expected, check, read_whole};

/// The environment: from the name of a variable to its value.
pub type Source<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Reads the settings of one program, and notes the values in effect.
pub struct Reader<'a> {
    table: Table,
    flags: &'a Flags,
    environment: &'a Source<'a>,
    effective: Vec<(&'static str, String)>,
}

impl<'a> Reader<'a> {
    /// A reader of `table`. A flag wins over the environment.
    pub fn new(table: Table, flags: &'a Flags, environment: &'a Source<'a>) -> Self {
        Self { table, flags, environment, effective: Vec::new() }
    }

    /// The value that was given. An empty value counts as not set.
    pub(super) fn given(&self, variable: &str) -> Option<String> {
        self.flags.get(variable).or_else(|| (self.environment)(variable)).filter(|value| !value.is_empty())
    }

    /// The value, or the table's default.
    ///
    /// # Errors
    /// The value is not allowed, or there is neither a value nor a default.
    pub fn value<T: FromStr + Display>(&mut self, setting: &'static Setting) -> Result<T, ConfigError> {
        self.value_if_any(setting)?.ok_or_else(|| setting.missing())
    }

    /// The value, or else the one that `otherwise` works out.
    ///
    /// # Errors
    /// The value is not allowed.
    pub fn value_or<T: FromStr + Display>(
        &mut self,
        setting: &'static Setting,
        otherwise: impl FnOnce() -> T,
    ) -> Result<T, ConfigError> {
        let value = self.value_if_any(setting)?.unwrap_or_else(otherwise);
        self.show(setting, &value);
        Ok(value)
    }

    /// The value, or the table's default if it has one.
    ///
    /// # Errors
    /// The value is not allowed.
    pub fn value_if_any<T: FromStr + Display>(
        &mut self,
        setting: &'static Setting,
    ) -> Result<Option<T>, ConfigError> {
        let Some(raw) = self.checked(setting)? else { return Ok(None) };
        let value: T = raw.parse().map_err(|_| setting.wrong(&raw))?;
        self.show(setting, &value);
        Ok(Some(value))
    }

    fn checked(&self, setting: &Setting) -> Result<Option<String>, ConfigError> {
        let default = match setting.fallback {
            Fallback::Value(value) => Some(value.to_owned()),
            Fallback::Required | Fallback::Words(_) => None,
        };
        match self.given(setting.name).or(default) {
            Some(raw) if !setting.takes(&raw) => Err(setting.wrong(&raw)),
            raw => Ok(raw),
        }
    }

    /// A duration in whole milliseconds.
    ///
    /// # Errors
    /// The value is not allowed, or there is neither a value nor a default.
    pub fn millis(&mut self, setting: &'static Setting) -> Result<Duration, ConfigError> {
        self.value(setting).map(Duration::from_millis)
    }

    /// A duration in Go's notation.
    ///
    /// # Errors
    /// The value is not allowed, or there is neither a value nor a default.
    pub fn duration(&mut self, setting: &'static Setting) -> Result<Duration, ConfigError> {
        self.value(setting).map(|GoDuration(duration)| duration)
    }

    /// The path of a file or socket that is there or may be made.
    ///
    /// # Errors
    /// The value is not allowed, or something else is at the path.
    pub fn path(&mut self, setting: &'static Setting) -> Result<Option<PathBuf>, ConfigError> {
        let Some(raw) = self.value_if_any::<String>(setting)? else { return Ok(None) };
        let expected = if matches!(setting.kind, Kind::Socket) { Expected::Socket } else { Expected::File };
        check(Path::new(&raw), expected).map_err(|why| setting.wrong_as(&raw, &why))?;
        Ok(Some(raw.into()))
    }

    /// A key, from its own variable or from the file that `<NAME>_FILE` names.
    ///
    /// # Errors
    /// Both are set, the file cannot be read, it holds no key, or the key is not
    /// allowed.
    pub fn secret(&mut self, setting: &'static Setting) -> Result<Option<Secret>, ConfigError> {
        let Some((file_variable, _)) = setting.file() else { return Err(setting.missing()) };
        let (variable, raw) = match (self.given(setting.name), self.file(&file_variable)?) {
            (Some(_), Some((path, _))) => {
                let allowed = format!("either {} or {file_variable}, not both", setting.name);
                return Err(ConfigError::new(&file_variable, Some(&path), &allowed));
            }
            (Some(raw), None) => (setting.name, raw),
            (None, Some((path, bytes))) => {
                let text = String::from_utf8(bytes).unwrap_or_default();
                let key = text.trim_end_matches(['\r', '\n']).to_owned();
                if key.is_empty() {
                    return Err(ConfigError::new(&file_variable, Some(&path), "a file that holds a key"));
                }
                (file_variable.as_str(), key)
            }
            (None, None) => return Ok(None),
        };
        if !setting.takes(&raw) {
            return Err(ConfigError::new(variable, Some("(hidden)"), &setting.allowed()));
        }
        self.show(setting, &"(hidden)");
        Ok(Some(Secret(raw)))
    }

    /// Keys, separated by commas; none if there are none.
    ///
    /// # Errors
    /// As for [`secret`](Self::secret), or one of the keys is empty.
    pub fn secrets(&mut self, setting: &'static Setting) -> Result<Vec<Secret>, ConfigError> {
        let Some(Secret(all)) = self.secret(setting)? else { return Ok(Vec::new()) };
        let keys: Vec<_> = all.split(',').map(|key| Secret(key.to_owned())).collect();
        if keys.iter().any(|key| key.0.is_empty()) {
            let allowed = "one key, or several separated by commas, none of them empty";
            return Err(ConfigError::new(setting.name, Some("(hidden)"), allowed));
        }
        Ok(keys)
    }

    /// The path and the content of the file that a variable names.
    pub(super) fn file(&self, variable: &str) -> Result<Option<(String, Vec<u8>)>, ConfigError> {
        let Some(path) = self.given(variable) else { return Ok(None) };
        match read_whole(Path::new(&path)) {
            Ok(content) => Ok(Some((path, content))),
            Err(error) => {
                let allowed = format!("a file that can be read, or a pipe ({error})");
                Err(ConfigError::new(variable, Some(&path), &allowed))
            }
        }
    }

    /// Notes the value in effect. It replaces the one that was noted before.
    pub fn show(&mut self, setting: &'static Setting, value: &dyn Display) {
        debug_assert!(self.table.iter().any(|known| known.name == setting.name), "{}", setting.name);
        self.effective.retain(|(name, _)| *name != setting.name);
        self.effective.push((setting.name, value.to_string()));
    }

    /// The values in effect: one line for each setting, in the order of the table. Keys
    /// are hidden. A setting that has no effect has an empty value.
    pub fn effective(&self) -> String {
        let mut text = String::new();
        for setting in self.table {
            let value = self.effective.iter().find(|(name, _)| *name == setting.name);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}={}", setting.name, value.map_or("", |(_, value)| value));
        }
        text
    }
}
