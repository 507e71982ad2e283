//! Posts of JSON to one URL.

use std::time::Duration;

use pap_core::delivery::Reply;
use ureq::Agent;
use ureq::tls::Certificate;

use super::{agent, config, excerpt, retry_after, trouble};
use crate::url::Url;

/// How long resolving the name and connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one post may take as a whole.
const POST_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that was idle for longer is not used again. Many servers close
/// idle connections after 5 s, and a post on a closed connection is lost and has
/// to be sent again.
const KEEP_IDLE: Duration = Duration::from_secs(2);

/// Posts JSON to one URL.
pub struct Post {
    agent: Agent,
    url: Url,
    authorization: Option<String>,
}

/// How a post ended.
pub struct Told {
    /// The answer, which decides what happens next.
    pub reply: Reply,
    /// The answer's words, or what went wrong; for the log.
    pub remark: String,
}

impl Told {
    /// There was no answer, or no post.
    pub fn nothing(why: String) -> Self {
        Self { reply: Reply::None, remark: why }
    }
}

impl Post {
    /// Posts to `url`, with this value of `Authorization`. At most `connections` posts
    /// are under way at once.
    pub fn new(
        user_agent: &'static str,
        url: &Url,
        authorization: Option<String>,
        roots: &[Certificate<'static>],
        connections: usize,
    ) -> Self {
        Self { agent: posting_agent(user_agent, roots, connections), url: url.clone(), authorization }
    }

    /// Posts one body. Waits for at most 10 seconds.
    pub fn send(&self, body: &[u8]) -> Told {
        let mut request = self.agent.post(self.url.as_str()).header("Content-Type", "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        match request.send(body) {
            Ok(response) => {
                let code = response.status().as_u16();
                let reply = Reply::Status { code, retry_after: retry_after(response.headers()) };
                Told { reply, remark: excerpt(response) }
            }
            Err(error) => Told::nothing(trouble(&error)),
        }
    }
}

/// A client whose requests take at most 10 seconds, with at most `connections` under way at
/// once.
pub fn posting_agent(user_agent: &'static str, roots: &[Certificate<'static>], connections: usize) -> Agent {
    let config = config(user_agent)
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_global(Some(POST_TIMEOUT))
        .max_idle_connections(connections)
        .max_idle_connections_per_host(connections)
        .max_idle_age(KEEP_IDLE);
    agent(config, roots)
}
