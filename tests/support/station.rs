//! A small station: takes alerts over real HTTP, with the checks of the real station.
//! The swarm and the tests use it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The longest body the real station takes, in bytes.
const MAX_BODY: usize = 10_000;

/// A post as it arrived.
#[derive(Clone, Debug)]
pub struct Post {
    pub at: Instant,
    pub method: String,
    pub path: String,
    pub authorization: Option<String>,
    pub length: usize,
    pub body: Value,
    /// The status of the answer; 0 if there was none.
    pub status: u16,
}

impl Post {
    pub fn text(&self, field: &str) -> &str {
        self.body[field].as_str().unwrap_or_default()
    }

    /// The status that the real station would answer: 201, 400 or 401.
    pub fn judge(&self, key: &str) -> u16 {
        if self.authorization.as_deref() != Some(&format!("Bearer {key}")) {
            return 401;
        }
        let type_known = matches!(self.text("type"), "AGENT_DEATH" | "EMERGENCY_MODE" | "RESTART_DETECTED");
        let uuid = self.text("agent_uuid");
        let is_uuid = uuid.len() == 36
            && uuid.char_indices().all(|(at, c)| match at {
                8 | 13 | 18 | 23 => c == '-',
                _ => c.is_ascii_hexdigit(),
            });
        let cluster = self.path.split('/').nth(3);
        let severity_known = matches!(self.text("severity"), "critical" | "warning" | "info");
        let good = self.length <= MAX_BODY
            && type_known
            && is_uuid
            && cluster == Some(self.text("cluster_id"))
            && severity_known
            && self.text("timestamp").ends_with('Z')
            && self.body["details"].is_object();
        if good { 201 } else { 400 }
    }
}

/// What to do with a post.
#[derive(Clone, Debug)]
pub enum Answer {
    Status(u16),
    StatusWith(u16, String),
    /// A 200 with this body.
    Json(Value),
    /// Gives no answer for this long, then closes the connection.
    Silence(Duration),
}

type Decide = dyn Fn(&Post) -> Answer + Send + Sync;

/// A station that listens.
#[derive(Clone)]
pub struct Station {
    pub port: u16,
    posts: Arc<(Mutex<Vec<Post>>, Condvar)>,
    decide: Arc<Mutex<Arc<Decide>>>,
}

impl Station {
    /// Starts a station on `port` (0 for any) that decides with `decide`.
    pub fn start(port: u16, decide: impl Fn(&Post) -> Answer + Send + Sync + 'static) -> io::Result<Self> {
        Self::start_with(port, decide, Ok)
    }

    /// The same, with something between the socket and HTTP, such as TLS.
    pub fn start_with<S: Read + Write + Send + 'static>(
        port: u16,
        decide: impl Fn(&Post) -> Answer + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> io::Result<S> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::listen(TcpListener::bind(("127.0.0.1", port))?, decide, wrap)
    }

    /// The same on a listener that is there already.
    pub fn listen<S: Read + Write + Send + 'static>(
        listener: TcpListener,
        decide: impl Fn(&Post) -> Answer + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> io::Result<S> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let station = Self {
            port: listener.local_addr()?.port(),
            posts: Arc::default(),
            decide: Arc::new(Mutex::new(Arc::new(decide))),
        };
        let (served, wrap) = (station.clone(), Arc::new(wrap));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (station, wrap) = (served.clone(), Arc::clone(&wrap));
                // A broken connection is the client's business.
                thread::spawn(move || wrap(stream).and_then(|stream| station.serve(stream)));
            }
        });
        Ok(station)
    }

    /// Changes how the station decides.
    pub fn behave(&self, decide: impl Fn(&Post) -> Answer + Send + Sync + 'static) {
        *self.decide.lock().unwrap() = Arc::new(decide);
    }

    /// All posts so far.
    pub fn posts(&self) -> Vec<Post> {
        self.posts.0.lock().unwrap().clone()
    }

    /// The posts of one type that were taken.
    pub fn taken(&self, kind: &str) -> Vec<Post> {
        let mut posts = self.posts();
        posts.retain(|post| (200..300).contains(&post.status) && post.text("type") == kind);
        posts
    }

    /// Waits until `done` holds for the posts, at most for `longest`.
    pub fn wait_until(&self, longest: Duration, done: impl Fn(&[Post]) -> bool) -> bool {
        let posts = self.posts.0.lock().unwrap();
        let waited = self.posts.1.wait_timeout_while(posts, longest, |posts| !done(posts));
        !waited.unwrap().1.timed_out()
    }

    fn serve(&self, stream: impl Read + Write) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        while let Some(mut post) = read_post(&mut stream)? {
            let decide = Arc::clone(&self.decide.lock().unwrap());
            let answer = decide(&post);
            let (status, header) = match &answer {
                Answer::Status(status) => (*status, String::new()),
                Answer::StatusWith(status, header) => (*status, format!("{header}\r\n")),
                Answer::Json(_) => (200, String::new()),
                Answer::Silence(_) => (0, String::new()),
            };
            post.status = status;
            self.posts.0.lock().unwrap().push(post);
            self.posts.1.notify_all();
            let body = match answer {
                Answer::Silence(longest) => {
                    // Holds the connection open until the client gives up.
                    let _ = crossbeam_channel::never::<()>().recv_timeout(longest);
                    return Ok(());
                }
                Answer::Json(body) => body.to_string(),
                _ if status < 300 => "{\"ok\":true}".to_owned(),
                _ => "{\"error\":\"no\"}".to_owned(),
            };
            let length = body.len();
            write!(
                stream.get_mut(),
                "HTTP/1.1 {status} X\r\n{header}Content-Length: {length}\r\n\r\n{body}"
            )?;
            stream.get_mut().flush()?;
        }
        Ok(())
    }
}

/// Reads one request; None if the client has closed.
fn read_post(stream: &mut BufReader<impl Read>) -> io::Result<Option<Post>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut header = String::new();
        stream.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            "authorization" => authorization = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or_default();
    Ok(Some(Post { at: Instant::now(), method, path, authorization, length, body, status: 0 }))
}
