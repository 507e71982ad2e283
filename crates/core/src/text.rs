//! Text that JSON allows and Unicode does not.

use std::borrow::Cow;

/// The JSON with the escape of U+FFFD in place of each `\u` escape of half a surrogate
/// pair (RFC 8259 §8.2). A client makes such halves when it cuts a text between two
/// UTF-16 units, and parsers of JSON refuse them.
pub fn with_whole_characters(json: &[u8]) -> Cow<'_, [u8]> {
    let mut whole = Cow::Borrowed(json);
    let mut at = 0;
    while let Some(next) = json.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == b'\\')) {
        at += next;
        at += match escaped_unit(json, at) {
            Some(0xD800..=0xDBFF) if matches!(escaped_unit(json, at + 6), Some(0xDC00..=0xDFFF)) => 12,
            Some(0xD800..=0xDFFF) => {
                whole.to_mut()[at..at + 6].copy_from_slice(b"\\ufffd");
                6
            }
            Some(_) => 6,
            // Another escape. Its second byte may be a backslash, too.
            None => 2,
        };
    }
    whole
}

/// The UTF-16 unit whose escape begins here.
fn escaped_unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let digits =
        str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|it| it.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(json: &str) -> String {
        String::from_utf8(with_whole_characters(json.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn half_a_pair_becomes_the_replacement_character() {
        assert_eq!(whole(r#""x\ud83d""#), r#""x\ufffd""#);
        assert_eq!(whole(r#""\uDE00\uD83D\uDE00\uD83d\u0041""#), r#""\ufffd\uD83D\uDE00\ufffd\u0041""#);
        for same in [r#""\\ud83d""#, r#""\ud83"#, r"\", r#""\u+83d""#, r#""\n\"\u00e9\ud83d\ude00""#, "é", ""]
        {
            assert_eq!(whole(same), same);
            assert!(matches!(with_whole_characters(same.as_bytes()), Cow::Borrowed(_)), "{same}");
        }
        assert_eq!(whole(r#""\\\ud83d""#), r#""\\\ufffd""#);
    }

    proptest! {
        #[test]
        fn any_units_are_read_as_utf_16_is(
            units in proptest::collection::vec(prop_oneof![any::<u16>(), 0xD7F0_u16..0xE010, 0x20_u16..0x60], 0..12),
        ) {
            let escapes: Vec<String> = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let read: String = serde_json::from_str(&whole(&format!("\"{}\"", escapes.concat()))).unwrap();
            prop_assert_eq!(read, String::from_utf16_lossy(&units));
        }

        #[test]
        fn whatever_is_read_without_it_stays(json in "[\\\\u\"dD89abf{}: ]{0,40}") {
            if serde_json::from_str::<serde_json::Value>(&json).is_ok() {
                prop_assert_eq!(whole(&json), json);
            }
        }
    }
}
