//! Asks a running collector: on its admin socket, on its port, or at a URL. It starts
//! no thread, and opens a connection for each question.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pap_process::client::{agent, config, trouble};
use pap_process::clock::deadline_in;
use pap_process::settings::Secret;
use pap_process::url::Url;

use crate::USER_AGENT;
use crate::config::Access;

/// The longest answer that it reads, in bytes. The largest, a part of the list of
/// agents, has less than a megabyte.
const LONGEST_ANSWER: u64 = 8 << 20;

/// A collector that may be running, and the key that it may ask for.
pub struct Collector {
    places: Vec<Place>,
    key: Option<Secret>,
    client: ureq::Agent,
    /// How long a question and its answer may take together.
    patience: Duration,
}

/// Where a collector may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Socket(PathBuf),
    Port(SocketAddr),
    Url(Url),
}

/// What a collector answered.
#[derive(Debug)]
pub struct Answer {
    /// Who answered, for people.
    pub place: String,
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The text member `name` of a JSON body.
    pub fn member(&self, name: &str) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(body.get(name)?.as_str()?.to_owned())
    }
}

impl Collector {
    /// The collector at its URL, or else the one on this host with this configuration.
    ///
    /// # Errors
    /// The configuration does not say which port it has.
    pub fn new(access: Access, patience: Duration) -> Result<Self, String> {
        // A list may be long, and all of it is read.
        let config = config(USER_AGENT).timeout_global(Some(patience)).timeout_recv_body(None);
        let client = agent(config, &access.roots);
        let mut places = Vec::new();
        if let Some(url) = access.url {
            places.push(Place::Url(url));
        } else {
            places.extend(access.socket.filter(|path| path.exists()).map(Place::Socket));
            if access.port != 0 {
                let hosts = addresses(access.bind);
                places.extend(hosts.map(|host| Place::Port(SocketAddr::new(host, access.port))));
            } else if places.is_empty() {
                return Err(
                    "COLLECTOR_PORT is 0, set it to the port that the log of the collector names".into()
                );
            }
        }
        Ok(Self { places, key: access.key, client, patience })
    }

    /// Asks for `path`, at one place after the other until somebody answers.
    ///
    /// # Errors
    /// Nobody answers. The text says in one line where and why: for the first place, which the
    /// other places only stand in for.
    pub fn get(&mut self, path: &str) -> Result<Answer, String> {
        let deadline = deadline_in(self.patience);
        let mut first = None;
        for place in self.places.clone() {
            let answer = match &place {
                Place::Socket(socket) => self
                    .plainly(&socket.display().to_string(), path, deadline, || UnixStream::connect(socket)),
                Place::Port(address) => self.plainly(&address.to_string(), path, deadline, || {
                    TcpStream::connect_timeout(address, left(deadline, self.patience)?)
                }),
                Place::Url(url) => self.by_url(url, path),
            };
            match answer {
                Ok(answer) => return Ok(answer),
                // A collector that does not answer in time is there, so no other place is asked.
                Err(Failure { is_late: true, text }) => return Err(first.unwrap_or(text)),
                Err(Failure { text, .. }) => first = first.or(Some(text)),
            }
        }
        Err(first.unwrap_or_default())
    }

    /// Asks in HTTP/1.0 over a connection of its own. The answer ends with the connection.
    fn plainly<S: Stream>(
        &self,
        place: &str,
        path: &str,
        deadline: Instant,
        connect: impl FnOnce() -> io::Result<S>,
    ) -> Result<Answer, Failure> {
        let failed = |error: io::Error| {
            let is_late = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
            let text = match error.kind() {
                _ if is_late => format!("{place}: no answer within {:?}", self.patience),
                io::ErrorKind::ConnectionRefused => format!("{place}: nobody listens there"),
                _ => format!("{place}: {error}"),
            };
            Failure { is_late, text }
        };
        let key = self.key.as_ref().map(|key| format!("X-Collector-Key: {}\r\n", key.reveal()));
        let key = key.unwrap_or_default();
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n{key}\r\n");
        let exchange = || {
            let mut stream = connect()?;
            stream.limit(left(deadline, self.patience)?)?;
            stream.write_all(request.as_bytes())?;
            let (mut bytes, mut piece) = (Vec::new(), [0; 8192]);
            loop {
                // All parts of the answer have one deadline.
                stream.limit(left(deadline, self.patience)?)?;
                match stream.read(&mut piece)? {
                    0 => return Ok(bytes),
                    length => bytes.extend_from_slice(&piece[..length]),
                }
                if bytes.len() as u64 > LONGEST_ANSWER {
                    return Err(io::Error::other("the answer is too long"));
                }
            }
        };
        let bytes = exchange().map_err(failed)?;
        parse(place, &bytes)
            .ok_or_else(|| Failure { is_late: false, text: format!("{place} does not speak HTTP") })
    }

    fn by_url(&mut self, url: &Url, path: &str) -> Result<Answer, Failure> {
        let failed = |why: String| Failure { is_late: true, text: format!("{url}: {why}") };
        let mut request = self.client.get(url.join(path).as_str());
        if let Some(key) = &self.key {
            request = request.header("X-Collector-Key", key.reveal());
        }
        let answer = request.call().map_err(|error| failed(trouble(&error)))?;
        let status = answer.status().as_u16();
        let mut body = Vec::new();
        let read = answer.into_body().into_reader().take(LONGEST_ANSWER).read_to_end(&mut body);
        read.map_err(|error| failed(error.to_string()))?;
        Ok(Answer { place: url.to_string(), status, body })
    }
}

/// Why there is no answer.
struct Failure {
    /// No time is left to ask elsewhere.
    is_late: bool,
    text: String,
}

/// A connection whose calls wait for a limited time.
trait Stream: Read + Write {
    fn limit(&self, time: Duration) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

impl Stream for UnixStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

/// The time until the deadline; an error when none is left.
fn left(deadline: Instant, patience: Duration) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(deadline_in(Duration::ZERO)).min(patience);
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The addresses at which a collector that listens on `bind` is reached from the
/// same host. Some hosts lack IPv4 or IPv6, so there may be a second one.
fn addresses(bind: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
    let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    let (first, other) = match bind {
        None => (v4, Some(v6)),
        Some(IpAddr::V6(all)) if all.is_unspecified() => (v6, Some(v4)),
        Some(all) if all.is_unspecified() => (v4, None),
        Some(address) => (address, None),
    };
    std::iter::once(first).chain(other)
}

/// The answer in `bytes`; None if it is not HTTP.
fn parse(place: &str, bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { place: place.to_owned(), status, body: bytes[end + 4..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_its_body() {
        let answer = |text: &str| parse("p", text.as_bytes());
        let status = |text: &str| answer(text).map(|answer| answer.status);
        assert_eq!(status("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{\"ready\":true}"), Some(200));
        assert_eq!(status("HTTP/1.1 404 Not Found\r\n\r\nsorry"), Some(404));
        assert_eq!(status("SSH-2.0-OpenSSH\r\n"), None);
        assert_eq!(status(""), None);
        let unwell = answer("HTTP/1.0 503 No\r\n\r\n{\"reason\":\"draining\"}").unwrap();
        assert_eq!(unwell.member("reason").as_deref(), Some("draining"));
        assert_eq!(unwell.member("error"), None);
    }

    #[test]
    fn it_is_asked_where_it_listens() {
        let (v4, v6): (IpAddr, IpAddr) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        let at = |bind: Option<&str>| addresses(bind.map(|bind| bind.parse().unwrap())).collect::<Vec<_>>();
        assert_eq!(at(None), [v4, v6]);
        assert_eq!(at(Some("0.0.0.0")), [v4]);
        assert_eq!(at(Some("::")), [v6, v4]);
        assert_eq!(at(Some("10.1.2.3")), ["10.1.2.3".parse::<IpAddr>().unwrap()]);
    }
}
