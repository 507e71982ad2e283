//! A webhook: signed JSON, posted.
//!
//! Three signatures: over the body alone, as the machine monitor's document has it; the same with
//! the key that the machine monitor's program uses, if the channel asks for it; and the one of
//! Standard Webhooks (standardwebhooks.com), which also covers an id and the time, so that a
//! receiver can refuse a replay.

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pap_core::time::Wall;
use pap_process::client::{excerpt, retry_after, trouble};
use pap_process::url::Url;
use ring::hmac::{HMAC_SHA256, Key, sign};

use super::Attempt;
use crate::channels::{Channel, Outcome};
use crate::ids::hash;
use crate::reach::{FORBIDDEN, Reach, literal_address};

/// What a secret of Standard Webhooks begins with: the rest is the key in base64.
const PREFIX: &str = "whsec_";
/// How long a secret may be, in bytes,
const SECRET: std::ops::RangeInclusive<usize> = 16..=128;
/// and a key in base64.
const KEY: std::ops::RangeInclusive<usize> = 24..=64;

/// Whether a secret can sign.
///
/// # Errors
/// What is wrong.
pub fn check_secret(secret: &str) -> Result<(), &'static str> {
    if !SECRET.contains(&secret.len()) {
        return Err("secret must be between 16 and 128 characters");
    }
    match standard_key(secret) {
        Some(key) if secret.starts_with(PREFIX) && !KEY.contains(&key.len()) => {
            Err("a secret that begins with whsec_ must hold 24 to 64 bytes in base64")
        }
        Some(_) => Ok(()),
        None => Err("a secret that begins with whsec_ must hold 24 to 64 bytes in base64"),
    }
}

/// A webhook's URL as it is kept.
///
/// # Errors
/// Why nothing is posted there.
pub fn check_url(reach: &Reach, url: &str) -> Result<String, &'static str> {
    if url.is_empty() {
        return Err("url is required");
    }
    let parsed = Url::parse(url).map_err(|_| "invalid url format")?;
    if !parsed.as_str().starts_with("https://") && !reach.takes_http() {
        return Err("url must use HTTPS");
    }
    match literal_address(&parsed) {
        Some(address) if !reach.allows(address) => Err(FORBIDDEN),
        _ => Ok(parsed.as_str().to_owned()),
    }
}

fn standard_key(secret: &str) -> Option<Vec<u8>> {
    match secret.strip_prefix(PREFIX) {
        Some(key) => BASE64_STANDARD.decode(key).ok(),
        None => Some(secret.as_bytes().to_vec()),
    }
}

/// The part of a webhook's URL that is shown: its path may be a secret.
pub fn hidden_url(url: &str) -> String {
    let end = url.find("://").map_or(0, |at| at + 3);
    let host = url[end..].find(['/', '?']).map_or(url.len(), |at| end + at);
    format!("{}/\u{2026}", &url[..host])
}

/// The headers that prove who sends a body.
fn signatures(channel: &Channel, uuid: &str, at: Wall, body: &str) -> Vec<(&'static str, String)> {
    let mut headers = Vec::new();
    let hex = |key: &[u8]| {
        let mut text = String::from("sha256=");
        for byte in sign(&Key::new(HMAC_SHA256, key), body.as_bytes()).as_ref() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    };
    let seconds = at.0 / 1000;
    headers.push(("webhook-id", uuid.to_owned()));
    headers.push(("webhook-timestamp", seconds.to_string()));
    if let Some(secret) = &channel.secret {
        headers.push(("X-Webhook-Signature", hex(secret.as_bytes())));
        let key = Key::new(HMAC_SHA256, &standard_key(secret).unwrap_or_default());
        let signed = sign(&key, format!("{uuid}.{seconds}.{body}").as_bytes());
        headers.push(("webhook-signature", format!("v1,{}", BASE64_STANDARD.encode(signed))));
    }
    if channel.signs_as_original {
        let key = channel.secret.as_deref().map(|secret| hash(secret.as_bytes())).or(channel.original_key);
        if let Some(key) = key {
            headers.push(("X-LunaSentri-Signature", hex(&key)));
        }
    }
    headers
}

/// Posts a body.
pub fn post(client: &ureq::Agent, channel: &Channel, uuid: &str, at: Wall, body: &str) -> Attempt {
    let mut request = client.post(&channel.target).header("Content-Type", "application/json");
    for (name, value) in signatures(channel, uuid, at, body) {
        request = request.header(name, value);
    }
    match request.send(body) {
        Ok(response) => {
            let status = response.status().as_u16();
            let asked = retry_after(response.headers());
            judge(status, asked, &excerpt(response))
        }
        Err(error) => Attempt::ended(Outcome::Failed(format!("no answer: {}", trouble(&error)))),
    }
}

/// What an answer means.
fn judge(status: u16, asked: Option<Duration>, words: &str) -> Attempt {
    let why = format!("answer {status}: {words}");
    match status {
        200..=299 => Attempt::ended(Outcome::Delivered),
        410 => Attempt::ended(Outcome::Gone(why)),
        429 => Attempt { outcome: Outcome::Failed(why), wait: asked },
        400..=499 => Attempt::ended(Outcome::Refused(why)),
        _ => Attempt { outcome: Outcome::Failed(why), wait: asked },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::{Kind, Record};

    fn channel(secret: &str) -> Channel {
        Channel {
            id: 1,
            kind: Kind::Webhook,
            target: "https://r.example/hook".into(),
            secret: Some(secret.into()),
            signs_as_original: true,
            original_key: None,
            is_active: true,
            filters: None,
            quiet_hours: None,
            record: Record::default(),
        }
    }

    #[test]
    fn signatures_are_those_that_other_programs_compute() {
        // By Python's hmac and hashlib.
        let signed = |secret: &str, name: &str| {
            let all = signatures(&channel(secret), "msg_1", Wall(1_700_000_000_999), r#"{"event":"x"}"#);
            all.into_iter().find(|(header, _)| *header == name).unwrap().1
        };
        assert_eq!(signed("0123456789abcdef", "webhook-timestamp"), "1700000000");
        assert_eq!(
            signed("0123456789abcdef", "X-Webhook-Signature"),
            "sha256=f44c4bbb23df3817b336b5db84709111a8d1c1182ed63b71101845565fdf6baa"
        );
        assert_eq!(
            signed("0123456789abcdef", "X-LunaSentri-Signature"),
            "sha256=953a80a9f42b803cd845e61e4c8423173f034d242f8660d5bdfcd8492be6682e"
        );
        assert_eq!(
            signed("0123456789abcdef", "webhook-signature"),
            "v1,Lp19RDVsoa6CQ6OH9EVYooN6Ur/pi100eg9l5ZTSmxA="
        );
        assert_eq!(
            signed("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "webhook-signature"),
            "v1,lLRqh6UgFt3fS743HUmHcIy2/2sHsQLj9UbVMJyL/KI="
        );
    }

    #[test]
    fn secrets_are_checked_and_urls_hidden() {
        assert_eq!(check_secret("0123456789abcdef"), Ok(()));
        assert_eq!(check_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), Ok(()));
        assert!(check_secret("short").is_err() && check_secret(&"x".repeat(129)).is_err());
        assert!(
            check_secret("whsec_c2hvcnQgc2VjcmV0").is_err()
                && check_secret("whsec_not base64 at all!").is_err()
        );
        assert_eq!(
            hidden_url("https://hooks.example:81/services/T0/secret?x=1"),
            "https://hooks.example:81/\u{2026}"
        );
        assert_eq!(hidden_url("https://h"), "https://h/\u{2026}");
    }

    #[test]
    fn answers_are_judged() {
        let outcome = |status| judge(status, None, "w").outcome;
        assert_eq!(outcome(204), Outcome::Delivered);
        assert!(matches!(outcome(410), Outcome::Gone(_)));
        assert!(matches!(outcome(404), Outcome::Refused(_)));
        for status in [301, 429, 500, 503] {
            assert!(matches!(outcome(status), Outcome::Failed(_)), "{status}");
        }
        let asked = Some(Duration::from_secs(7));
        assert_eq!(judge(429, asked, "").wait, asked);
    }
}
