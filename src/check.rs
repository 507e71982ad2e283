//! `pap-collector check`: asks a running collector whether it is well, for
//! containers without curl and shell. It starts no thread and opens one connection,
//! or a second one where the host lacks the first address.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use pap_process::clock::deadline_in;
use pap_process::escape::for_terminal;

/// How long connecting, asking and waiting for the answer may take together.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer that it reads, in bytes. A collector's has a few hundred.
const LONGEST_ANSWER: u64 = 16 * 1024;

/// What it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `/health`: whether it runs.
    Live,
    /// `/ready`: whether agents should be sent to it.
    Ready,
}

/// Asks the collector that listens on `port` of `bind`; None stands for all
/// addresses.
///
/// # Errors
/// The collector is not well, or does not answer. The text is one line for people.
pub fn ask(question: Question, bind: Option<IpAddr>, port: u16) -> Result<String, String> {
    let (path, well, unwell) = match question {
        Question::Live => ("/health", "live", "not live"),
        Question::Ready => ("/ready", "ready", "not ready"),
    };
    if port == 0 {
        return Err(format!(
            "{unwell}: COLLECTOR_PORT is 0, set it to the port that the log of the collector names"
        ));
    }
    let deadline = deadline_in(PATIENCE);
    let (first, other) = addresses(bind);
    let mut address = SocketAddr::new(first, port);
    let mut answer = get(address, path, deadline);
    // Some hosts lack IPv4 or IPv6.
    if let Some(other) = other.map(|other| SocketAddr::new(other, port))
        && answer.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::TimedOut)
        && let Ok(text) = get(other, path, deadline)
    {
        (address, answer) = (other, Ok(text));
    }
    match answer.as_deref().map(status_and_reason) {
        Ok((Some(200), _)) => Ok(format!("{well}: {address} answers")),
        Ok((Some(status), Some(reason))) => Err(format!("{unwell}: {address} answers {status}, {reason}")),
        Ok((Some(status), None)) => Err(format!("{unwell}: {address} answers {status}")),
        Ok((None, _)) => Err(format!("{unwell}: {address} does not speak HTTP")),
        Err(error) => Err(format!("{unwell}: {address}: {error}")),
    }
}

/// The addresses at which a collector that listens on `bind` is reached from the
/// same host: one to try first, and another where there is one.
fn addresses(bind: Option<IpAddr>) -> (IpAddr, Option<IpAddr>) {
    let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    match bind {
        None => (v4, Some(v6)),
        Some(IpAddr::V6(all)) if all.is_unspecified() => (v6, Some(v4)),
        Some(all) if all.is_unspecified() => (v4, None),
        Some(address) => (address, None),
    }
}

fn get(address: SocketAddr, path: &str, deadline: Instant) -> io::Result<String> {
    let left = || {
        let left = deadline.saturating_duration_since(deadline_in(Duration::ZERO));
        if left.is_zero() { Err(no_answer()) } else { Ok(left) }
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?).map_err(told)?;
    stream.set_write_timeout(Some(left()?))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(told)?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    loop {
        // One deadline holds for all pieces together.
        stream.set_read_timeout(Some(left()?))?;
        match (&stream).take(LONGEST_ANSWER - answer.len() as u64).read(&mut piece).map_err(told)? {
            0 => return Ok(String::from_utf8_lossy(&answer).into_owned()),
            length => answer.extend_from_slice(&piece[..length]),
        }
    }
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {PATIENCE:?}"))
}

/// The same error in plain words.
fn told(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => no_answer(),
        io::ErrorKind::ConnectionRefused => io::Error::new(error.kind(), "nobody listens there"),
        _ => error,
    }
}

/// The status of an answer, and the `reason` that its body gives.
fn status_and_reason(answer: &str) -> (Option<u16>, Option<String>) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.strip_prefix("HTTP/1.").and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let reason = body["reason"].as_str().map(|reason| for_terminal(reason).into_owned());
    (status, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_its_reason() {
        let reason = |text: &str| Some(text.to_owned());
        assert_eq!(status_and_reason("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{\"ready\":true}"), (Some(200), None));
        assert_eq!(
            status_and_reason("HTTP/1.0 503 No\r\n\r\n{\"reason\":\"a\\nb\"}"),
            (Some(503), reason("a\\nb"))
        );
        assert_eq!(status_and_reason("HTTP/1.1 404 Not Found\r\n\r\nsorry"), (Some(404), None));
        assert_eq!(status_and_reason("SSH-2.0-OpenSSH\r\n"), (None, None));
        assert_eq!(status_and_reason(""), (None, None));
    }

    #[test]
    fn it_is_asked_where_it_listens() {
        let (v4, v6): (IpAddr, IpAddr) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        let at = |bind: &str| addresses(Some(bind.parse().unwrap()));
        assert_eq!(addresses(None), (v4, Some(v6)));
        assert_eq!(at("0.0.0.0"), (v4, None));
        assert_eq!(at("::"), (v6, Some(v4)));
        assert_eq!(at("10.1.2.3"), ("10.1.2.3".parse().unwrap(), None));
    }
}
