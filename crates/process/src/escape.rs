//! Text of others, such as an agent's name, on its way to a terminal or a log.
//!
//! A terminal obeys control characters (C0, DEL and C1: U+009B starts a command as ESC
//! [ does) and the controls of the bidirectional algorithm, which show a line in another
//! order than it has. Readers of lines take more than LF for an end: U+0085, U+2028 and
//! U+2029. All these are written as escapes. Everything else stays as it is.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// Whether a terminal or a reader of lines would obey this character.
pub const fn is_obeyed(character: char) -> bool {
    matches!(
        character,
        // Controls: C0, DEL and C1.
        '\0'..='\x1f' | '\x7f'..='\u{9f}'
        // The ends of lines and paragraphs, marks, embeddings, overrides and isolates;
        // and the deprecated controls of Unicode's first versions.
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
        // A byte order mark, and the marks around annotations.
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
    )
}

/// One line of text in which nothing is obeyed: `\n`, `\r` and `\t` for these three, and
/// `\u{9b}` and the like for the others. It borrows where nothing has to be escaped.
pub fn for_terminal(text: &str) -> Cow<'_, str> {
    if text.contains(is_obeyed) { Cow::Owned(shown(text).to_string()) } else { Cow::Borrowed(text) }
}

/// The same for several lines: the line feeds stay.
pub fn lines_for_terminal(text: &str) -> Cow<'_, str> {
    let is_obeyed = |character| character != '\n' && is_obeyed(character);
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let lines: Vec<_> = text.split('\n').map(for_terminal).collect();
    Cow::Owned(lines.join("\n"))
}

/// JSON in which nothing is obeyed. It means the same: JSON has escapes of its own, and
/// outside of its texts it has no such characters but spaces.
pub fn in_json(json: &str) -> Cow<'_, str> {
    if !json.contains(is_obeyed) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if is_obeyed(character) {
            // All of them are below U+10000. Writing to a String cannot fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// What is written of `value`, as by [`for_terminal`], without allocating.
pub const fn shown<T: fmt::Display>(value: T) -> Shown<T> {
    Shown(value)
}

/// See [`shown`].
#[derive(Clone, Copy, Debug)]
pub struct Shown<T>(T);

impl<T: fmt::Display> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        while let Some(at) = text.find(is_obeyed) {
            self.0.write_str(&text[..at])?;
            let mut rest = text[at..].chars();
            for escaped in rest.next().into_iter().flat_map(char::escape_default) {
                self.0.write_char(escaped)?;
            }
            text = rest.as_str();
        }
        self.0.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every character that must not get through, and neighbours that must.
    const HOSTILE: &str =
        "a\x1b[2J\u{9b}31m\x7f\r\u{85}\u{2028}\u{2029}\u{202e}\u{2066}\u{61c}\u{feff}\u{fffb}\tz";
    const HARMLESS: &str = "näme ☠ \u{a0}\u{200d}\u{2027}\u{202f} \"q\" 'q' \\ \u{1f468}\u{200d}\u{1f469}";

    #[test]
    fn what_would_be_obeyed_is_escaped_and_nothing_else() {
        let expected =
            r"a\u{1b}[2J\u{9b}31m\u{7f}\r\u{85}\u{2028}\u{2029}\u{202e}\u{2066}\u{61c}\u{feff}\u{fffb}\tz";
        assert_eq!(for_terminal(HOSTILE), expected);
        assert_eq!(shown(format_args!("<{HOSTILE}>")).to_string(), format!("<{expected}>"));
        assert!(matches!(for_terminal(HARMLESS), Cow::Borrowed(text) if text == HARMLESS));
        assert_eq!(shown(HARMLESS).to_string(), HARMLESS);
        assert_eq!(for_terminal("a\nb"), r"a\nb");
        assert_eq!(lines_for_terminal("a\nb\u{9b}\n\n"), "a\nb\\u{9b}\n\n");
        assert!(matches!(lines_for_terminal("a\nb"), Cow::Borrowed(_)));
    }

    /// The categories of Unicode that a terminal or a reader of lines obeys.
    #[test]
    fn no_control_and_no_bidirectional_control_is_missing() {
        assert!(('\0'..=char::MAX).filter(|c| c.is_control()).all(is_obeyed));
        let bidirectional = [0x61c, 0x200e, 0x200f, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e];
        let isolates = 0x2066..=0x2069;
        assert!(bidirectional.into_iter().chain(isolates).filter_map(char::from_u32).all(is_obeyed));
        assert!((' '..='~').chain('\u{a0}'..='\u{ff}').all(|c| !is_obeyed(c)));
    }

    #[test]
    fn json_means_the_same_and_nothing_in_it_is_obeyed() {
        let json = serde_json::to_string(&[HOSTILE, HARMLESS]).unwrap();
        assert!(json.contains(is_obeyed), "serde_json escapes C0 only");
        let escaped = in_json(&json);
        assert!(!escaped.contains(is_obeyed) && escaped.contains(r"\u009b31m"), "{escaped}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&escaped).unwrap(), [HOSTILE, HARMLESS]);
        assert!(matches!(in_json("{\"a\":1}"), Cow::Borrowed(_)));
    }
}
