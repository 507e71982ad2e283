//! HTTP requests to other programs.
//!
//! The status of an answer decides. Its body is only words for the log, so little of it
//! is read, and for a short time.

mod heads;
mod post;
mod retry_after;
mod tls;
mod unix;

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::http::Response;
use ureq::tls::Certificate;
use ureq::typestate::AgentScope;
use ureq::unversioned::resolver::{DefaultResolver, Resolver};
use ureq::unversioned::transport::{Connector as _, TcpConnector};

use heads::Tidying;
pub use post::{Post, Told, posting_agent};
pub use retry_after::retry_after;
use tls::Tls;
pub(crate) use tls::check_root;
use unix::UnixConnector;

/// The most that is read of an answer's body, in bytes, and for how long. A body that
/// was read to its end leaves the connection open for the next request.
const MOST_READ: u64 = 64 * 1024;
const LONGEST_READ: Duration = Duration::from_secs(1);
/// The most of a body that people are shown, in bytes.
const EXCERPT: usize = 300;
/// The size of a connection's buffers, in bytes.
const BUFFER: usize = 16 * 1024;

/// The configuration of a client. It has no timeouts for the request and the status: the
/// caller sets them.
pub fn config(user_agent: &'static str) -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        // We use no proxy from the environment: it would see every request.
        .proxy(None)
        .user_agent(user_agent)
        .timeout_recv_body(Some(LONGEST_READ))
        .input_buffer_size(BUFFER)
        .output_buffer_size(BUFFER)
}

/// A client with this configuration, which trusts these certificates besides the
/// built-in roots (see `tls`), and takes answers with any head (see `heads`).
pub fn agent(config: ConfigBuilder<AgentScope>, roots: &[Certificate<'static>]) -> Agent {
    agent_with(config, roots, DefaultResolver::default())
}

/// A client whose server listens on a Unix socket, whatever host a URL names. It keeps no
/// connection open.
pub fn unix_agent(config: ConfigBuilder<AgentScope>, socket: PathBuf) -> Agent {
    Agent::with_parts(config.build(), UnixConnector(socket).chain(Tidying), DefaultResolver::default())
}

/// A client that shows a certificate of its own, in PEM and with its key, and trusts the roots
/// alone that are given.
///
/// # Errors
/// They are no certificates and no key.
pub fn mutual_agent(
    config: ConfigBuilder<AgentScope>,
    roots: &[Certificate<'static>],
    (chain, key): (&[u8], &[u8]),
) -> Result<Agent, rustls::Error> {
    let tls = Tls::mutual(roots, chain, key)?;
    let connector = TcpConnector::default().chain(tls).chain(Tidying);
    Ok(Agent::with_parts(config.build(), connector, DefaultResolver::default()))
}

/// A client as [`agent`] makes it, with a resolver that decides which addresses are connected to.
pub fn agent_with(
    config: ConfigBuilder<AgentScope>,
    roots: &[Certificate<'static>],
    resolver: impl Resolver,
) -> Agent {
    let connector = TcpConnector::default().chain(Tls::new(roots)).chain(Tidying);
    Agent::with_parts(config.build(), connector, resolver)
}

/// HTTP clients that keep no connections open. A connection may die between two
/// requests, and the next post would be lost with it.
pub struct Client {
    user_agent: &'static str,
    roots: Vec<Certificate<'static>>,
    /// One client for each time limit. The limit is set on the client, because a client
    /// prepares its TLS again for a request that has its own limit.
    agents: Vec<(Duration, Agent)>,
}

impl Client {
    /// Clients that trust these certificates besides the built-in roots.
    pub fn new(user_agent: &'static str, roots: &[Certificate<'static>]) -> Self {
        Self { user_agent, roots: roots.to_vec(), agents: Vec::new() }
    }

    /// A client whose requests take at most `patience`, from the look-up of the name to
    /// the end of the answer.
    pub fn within(&mut self, patience: Duration) -> Agent {
        if let Some((_, agent)) = self.agents.iter().find(|(known, _)| *known == patience) {
            return agent.clone();
        }
        let config = config(self.user_agent)
            .timeout_global(Some(patience))
            .max_idle_connections(0)
            .max_idle_connections_per_host(0);
        let agent = agent(config, &self.roots);
        self.agents.push((patience, agent.clone()));
        agent
    }
}

/// The beginning of an answer's body, for people.
pub fn excerpt(response: Response<ureq::Body>) -> String {
    let mut excerpt = Vec::new();
    // If it fails, what has come is shown.
    let _ = response.into_body().into_reader().take(MOST_READ).read_to_end(&mut excerpt);
    excerpt.truncate(EXCERPT);
    String::from_utf8_lossy(&excerpt).into_owned()
}

/// What went wrong, for people.
pub fn trouble(error: &ureq::Error) -> String {
    error.to_string()
}
