//! `pap-collector check`: asks a running collector whether it is well, for
//! containers without curl and shell.

use std::time::Duration;

use pap_process::escape::for_terminal;

use crate::ask::Collector;
use crate::config::Access;

/// How long connecting, asking and waiting for the answer may take together.
const PATIENCE: Duration = Duration::from_secs(2);

/// What it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `/health`: whether it runs.
    Live,
    /// `/ready`: whether agents should be sent to it.
    Ready,
}

/// Asks the collector.
///
/// # Errors
/// The collector is not well, or does not answer. The text is one line for people.
pub fn ask(question: Question, access: Access) -> Result<String, String> {
    let (path, well, unwell) = match question {
        Question::Live => ("/health", "live", "not live"),
        Question::Ready => ("/ready", "ready", "not ready"),
    };
    let answer = Collector::new(access, PATIENCE).and_then(|mut collector| collector.get(path));
    let answer = answer.map_err(|why| format!("{unwell}: {why}"))?;
    match (answer.status, answer.member("reason")) {
        (200, _) => Ok(format!("{well}: {} answers", answer.place)),
        (status, Some(reason)) => {
            Err(format!("{unwell}: {} answers {status}, {}", answer.place, for_terminal(&reason)))
        }
        (status, None) => Err(format!("{unwell}: {} answers {status}", answer.place)),
    }
}
