//! How we ask others over HTTP.

use std::io::Read as _;
use std::time::Duration;

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;

/// How much of an answer is worth reading.
const EXCERPT: u64 = 300;

/// A client that trusts these certificates besides the built-in roots. Whoever
/// makes it sets its timeouts: it has none by itself.
pub fn config(user_agent: &'static str, roots: &[Certificate<'static>]) -> ConfigBuilder<AgentScope> {
    let mut tls = TlsConfig::builder();
    if !roots.is_empty() {
        // Named roots replace the built-in ones, so those are named too.
        let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
        let mut all: Vec<_> = built_in.map(|der| Certificate::from_der(der).to_owned()).collect();
        all.extend_from_slice(roots);
        tls = tls.root_certs(RootCerts::new_with_certs(&all));
    }
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        // A proxy from the environment would see every request; none is used.
        .proxy(None)
        .user_agent(user_agent)
        .tls_config(tls.build())
}

/// Clients without kept connections: between two of our questions a
/// connection may die, and a post would be lost with it.
pub struct Client {
    user_agent: &'static str,
    roots: Vec<Certificate<'static>>,
    /// One for each patience. Time limits are the client's, not the request's:
    /// it prepares its TLS anew for requests that have their own.
    agents: Vec<(Duration, Agent)>,
}

impl Client {
    /// One that trusts these certificates besides the built-in roots.
    pub fn new(user_agent: &'static str, roots: &[Certificate<'static>]) -> Self {
        Self { user_agent, roots: roots.to_vec(), agents: Vec::new() }
    }

    /// One whose requests take at most `patience`, names and answers included.
    pub fn within(&mut self, patience: Duration) -> Agent {
        if let Some((_, agent)) = self.agents.iter().find(|(known, _)| *known == patience) {
            return agent.clone();
        }
        let agent = config(self.user_agent, &self.roots)
            .timeout_global(Some(patience))
            .max_idle_connections(0)
            .max_idle_connections_per_host(0)
            .build()
            .new_agent();
        self.agents.push((patience, agent.clone()));
        agent
    }
}

/// The beginning of an answer's body, for people.
pub fn excerpt(response: Response<ureq::Body>) -> String {
    let mut excerpt = Vec::new();
    // The status alone decides; the words are for the log.
    let _ = response.into_body().into_reader().take(EXCERPT).read_to_end(&mut excerpt);
    String::from_utf8_lossy(&excerpt).escape_debug().to_string()
}

/// What went wrong, for people.
pub fn trouble(error: &ureq::Error) -> String {
    error.to_string().escape_debug().to_string()
}
