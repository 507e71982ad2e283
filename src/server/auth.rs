//! Who may ask for agents: whoever has the key, where one is set.

use subtle::ConstantTimeEq as _;
use tiny_http::Header;

use super::answer::Answer;
use pap_process::settings::Secret;

/// Whether these headers carry the key: `X-Collector-Key: KEY` or
/// `Authorization: Bearer KEY`. The time it takes tells nothing but lengths.
pub fn has_key(headers: &[Header], key: &Secret) -> bool {
    headers.iter().any(|header| {
        let value = header.value.as_str();
        let offered = if header.field.equiv("X-Collector-Key") {
            Some(value)
        } else if header.field.equiv("Authorization") {
            bearer(value)
        } else {
            None
        };
        offered.is_some_and(|offered| bool::from(offered.as_bytes().ct_eq(key.reveal().as_bytes())))
    })
}

/// What whoever has no key is told.
pub fn unauthorized() -> Answer {
    let message = "Send the key as X-Collector-Key or as Authorization: Bearer";
    let body = serde_json::json!({ "error": "Unauthorized", "message": message });
    Answer::json(401, &body).with("WWW-Authenticate", "Bearer")
}

/// The token of a bearer credential; the scheme's case does not matter
/// (RFC 9110 §11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_tokens_are_found_in_any_case() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc"), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("abc"), None);
    }
}
