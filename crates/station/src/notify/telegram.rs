//! Messages by the Bot API of Telegram (core.telegram.org/bots/api, sendMessage).

use std::fmt::Write as _;
use std::io::Read as _;
use std::time::Duration;

use pap_process::client::trouble;
use pap_process::settings::Secret;
use pap_process::url::Url;
use serde::{Deserialize, Serialize};

use super::Attempt;
use crate::channels::{Outcome, Owed};

/// The longest message, in units of UTF-16, in which the API counts.
const MAX_TEXT: usize = 4096;
/// How many events a message for several names.
const MAX_NAMED: usize = 10;
/// The most that is read of an answer, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

#[derive(Serialize)]
struct Message<'a> {
    chat_id: &'a str,
    text: &'a str,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    description: String,
    parameters: Parameters,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Parameters {
    retry_after: Option<u64>,
}

/// Sends a text to a chat.
pub fn send(client: &ureq::Agent, api: &Url, token: &Secret, chat_id: &str, text: &str) -> Attempt {
    let text = cut(text);
    let body = serde_json::to_vec(&Message { chat_id, text }).unwrap_or_default();
    let url = api.join(&format!("/bot{}/sendMessage", token.reveal()));
    let sent = client.post(url.as_str()).header("Content-Type", "application/json").send(&body[..]);
    match sent {
        Ok(response) => {
            let status = response.status().as_u16();
            let mut answer = Vec::new();
            // If this fails, the part that has come is used.
            let _ = response.into_body().into_reader().take(MAX_ANSWER).read_to_end(&mut answer);
            judge(status, &serde_json::from_slice(&answer).unwrap_or_default())
        }
        Err(error) => {
            // The error may hold the URL, and so the token, which must not be shown.
            let why = trouble(&error).replace(token.reveal(), "(hidden)");
            Attempt::ended(Outcome::Failed(format!("no answer: {why}")))
        }
    }
}

/// As much of a text as a message may have.
fn cut(text: &str) -> &str {
    let mut units = 0;
    let end = text.char_indices().find(|(_, c)| {
        units += c.len_utf16();
        units > MAX_TEXT
    });
    end.map_or(text, |(at, _)| &text[..at])
}

/// What an answer means. A wrong token (401, 404) is a setting, which can be set right. A chat that
/// is wrong, or does not want the bot, stays so.
fn judge(status: u16, answer: &Answer) -> Attempt {
    let why = format!("answer {status}: {}", answer.description);
    match status {
        200..=299 => Attempt::ended(Outcome::Delivered),
        401 | 404 => Attempt::ended(Outcome::Failed(format!("{why}; check TELEGRAM_BOT_TOKEN"))),
        400 | 403 => Attempt::ended(Outcome::Refused(why)),
        _ => {
            let wait = answer.parameters.retry_after.map(Duration::from_secs);
            Attempt { outcome: Outcome::Failed(why), wait }
        }
    }
}

/// One message for many: it counts them and names the first.
pub fn merged(owed: &[Owed]) -> String {
    let is_good = owed.iter().all(|owed| owed.line.starts_with('\u{1f7e2}'));
    let mut text = format!("{} {} events", if is_good { '\u{1f7e2}' } else { '\u{1f534}' }, owed.len());
    for owed in owed.iter().take(MAX_NAMED) {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{}", owed.line.lines().next().unwrap_or_default());
    }
    if owed.len() > MAX_NAMED {
        let _ = write!(text, "\nand {} more", owed.len() - MAX_NAMED);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged() {
        let read = |status, text: &str| judge(status, &serde_json::from_str(text).unwrap());
        assert_eq!(read(200, r#"{"ok":true,"result":{}}"#).outcome, Outcome::Delivered);
        let slow =
            read(429, r#"{"ok":false,"description":"Too Many Requests","parameters":{"retry_after":17}}"#);
        assert_eq!(slow.wait, Some(Duration::from_secs(17)));
        assert!(matches!(slow.outcome, Outcome::Failed(_)));
        assert!(
            matches!(read(403, r#"{"description":"Forbidden: bot was blocked"}"#).outcome, Outcome::Refused(why) if why.contains("blocked"))
        );
        assert!(
            matches!(read(401, "{}").outcome, Outcome::Failed(why) if why.contains("TELEGRAM_BOT_TOKEN"))
        );
        assert!(matches!(read(502, "{}").outcome, Outcome::Failed(_)));
    }

    #[test]
    fn many_become_one_that_counts() {
        let owed: Vec<_> = (0..12)
            .map(|id| Owed {
                id,
                uuid: String::new(),
                attempts: 0,
                tried_ms: 0,
                event: "agent.dead".into(),
                body: String::new(),
                line: format!("\u{1f534} Agent {id} is dead\nAt: now"),
            })
            .collect();
        let text = merged(&owed);
        assert!(text.starts_with("\u{1f534} 12 events\n\u{1f534} Agent 0 is dead\n"), "{text}");
        assert!(text.contains("Agent 9 is dead") && text.ends_with("and 2 more"), "{text}");
    }
}
