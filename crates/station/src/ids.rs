//! Random ids and keys, and what is kept of a key.

use base64::Engine as _;
use base64::prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use uuid::Builder;

/// What is kept of a key: its SHA-256.
pub type KeyHash = [u8; 32];

/// The hash of a key.
pub fn hash(key: &[u8]) -> KeyHash {
    let mut hash = KeyHash::default();
    hash.copy_from_slice(digest(&SHA256, key).as_ref());
    hash
}

/// The SHA-256 that a column holds; None if it holds something else.
pub fn kept_hash(column: &[u8]) -> Option<KeyHash> {
    column.try_into().ok()
}

/// The SHA-256 in these hexadecimal digits; None if the text is none.
pub fn hash_from_hex(text: &str) -> Option<KeyHash> {
    let mut hash = KeyHash::default();
    if text.len() != 2 * hash.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(hash)
}

/// Random bytes. If the system has none, the process ends: keys would not be safe.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    assert!(filled.is_ok(), "the system gives no random bytes");
    bytes
}

/// A random UUID (RFC 9562, version 4).
pub fn uuid() -> String {
    Builder::from_random_bytes(random()).into_uuid().to_string()
}

/// A random key of 32 bytes, as the machine monitor makes them: base64 for URLs, padded.
pub fn key() -> String {
    BASE64_URL_SAFE.encode(random::<32>())
}

/// A random token for a cookie.
pub fn token() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(random::<32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_keys_are_of_the_known_forms() {
        assert_eq!(uuid().as_bytes()[14], b'4');
        assert_ne!(uuid(), uuid());
        assert_eq!((key().len(), token().len()), (44, 43));
        assert_eq!(hash(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(kept_hash(&hash(b"x")), Some(hash(b"x")));
        assert_eq!(kept_hash(b"x"), None);
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015aD";
        assert_eq!(hash_from_hex(hex), Some(hash(b"abc")));
        for wrong in [&hex[1..], &hex.replace('b', "+"), &hex.replace("ba", "\u{e9}"), ""] {
            assert_eq!(hash_from_hex(wrong), None, "{wrong}");
        }
    }
}
