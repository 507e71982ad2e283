//! Sends the heartbeats on an open-loop schedule: a late answer does not move the
//! next heartbeat.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use pap_core::heartbeat::Mode;

use super::Options;
use super::agents::{Agent, Beat};
use super::client::{Client, Failure, Finished, Server};
use super::judge::Ledger;
use super::process::Usage;
use crate::station::{Post, Station};

/// How long after its deadline a death may still be told.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether all deaths are told.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many goodbyes are under way at once.
const GOODBYES: usize = 64;
/// How many heartbeats are sent before answers are read. In a burst, an answer would
/// else wait for us.
const BATCH: usize = 64;

/// How long after a failure a heartbeat is sent again, with `--retry`.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// After this all agents are known, and what is used no longer has to do with that.
const WARM_UP: Duration = Duration::from_secs(10);

/// How the heartbeats ended.
#[derive(Debug, Default)]
pub struct Tally {
    pub sent: usize,
    /// Lost on the way, as `--lose` asks.
    pub lost: usize,
    pub answered: usize,
    pub refused: usize,
    pub resets: usize,
    pub time_outs: usize,
    pub not_connected: usize,
    pub broken: usize,
    /// From a heartbeat's sending to its answer.
    pub latencies: Vec<Duration>,
    /// How much later than it was due each heartbeat was sent: the swarm's own fault.
    pub late: Vec<Duration>,
    pub first_error: Option<String>,
}

impl Tally {
    pub fn errors(&self) -> usize {
        self.resets + self.time_outs + self.not_connected + self.broken
    }
}

/// What the collector and the swarm used: when all agents were known, and after the
/// last heartbeat, with all connections open.
#[derive(Debug)]
pub struct Used {
    pub collector: (Usage, Usage),
    pub swarm: (Usage, Usage),
}

/// How the run ended.
pub struct Outcome {
    pub start: Instant,
    pub agents: Vec<Agent>,
    pub ledger: Ledger,
    pub tally: Tally,
    /// How many connections were opened.
    pub opened: usize,
    pub used: Option<Used>,
}

struct Drive<'a> {
    options: &'a Options,
    server: Server,
    client: Client,
    start: Instant,
    agents: Vec<Agent>,
    ledger: Ledger,
    tally: Tally,
    due: BinaryHeap<Reverse<(Duration, usize)>>,
}

/// Plays the agents to the end, then says goodbye for them.
pub fn run(options: &Options, agents: Vec<Agent>, station: Option<&Station>) -> Result<Outcome, String> {
    let server = Server::find(&options.collector)?;
    let client = Client::new(&server, options.connection_count(), options.fresh);
    let client = client.map_err(|error| format!("no event loop: {error}"))?;
    let numbered = || agents.iter().enumerate();
    let alarms = numbered().filter_map(|(at, agent)| Some(Reverse((agent.alarmed?, at))));
    let mut drive = Drive {
        options,
        server,
        client,
        start: Instant::now(),
        ledger: Ledger::new(agents.len()),
        tally: Tally::default(),
        due: numbered().map(|(at, agent)| Reverse((agent.due, at))).chain(alarms).collect(),
        agents,
    };
    let used = drive.play(station).map_err(|error| format!("the event loop: {error}"))?;
    drive.say_goodbye().map_err(|error| format!("the event loop: {error}"))?;
    let Drive { start, agents, ledger, tally, client, .. } = drive;
    Ok(Outcome { start, agents, ledger, tally, opened: client.opened, used })
}

impl Drive<'_> {
    fn play(&mut self, station: Option<&Station>) -> std::io::Result<Option<Used>> {
        let end = Duration::from_secs(self.options.seconds);
        let mut before = None;
        let mut next_line = Duration::ZERO;
        let line_every = Duration::from_millis(if std::io::stderr().is_terminal() { 200 } else { 5000 });
        while self.start.elapsed() < end {
            if self.start.elapsed() >= next_line {
                self.print_progress();
                next_line += line_every;
            }
            if before.is_none() && self.start.elapsed() >= WARM_UP {
                before = self.look_at_processes();
            }
            self.turn(next_line.min(end))?;
        }
        self.print_progress();
        eprintln!();
        let after = self.look_at_processes();
        let used = before.zip(after);
        let used = used.map(|([collector, swarm], [collector_after, swarm_after])| Used {
            collector: (collector, collector_after),
            swarm: (swarm, swarm_after),
        });
        // Meanwhile the others live on.
        if let Some(station) = station {
            let latest = self.latest_death();
            while self.start.elapsed() < latest && !self.all_are_told(station) {
                self.turn(self.start.elapsed() + LOOK_EVERY)?;
            }
        }
        Ok(used)
    }

    /// The collector and the swarm.
    fn look_at_processes(&self) -> Option<[Usage; 2]> {
        Some([Usage::of(self.options.pid?)?, Usage::of(std::process::id())?])
    }

    /// Sends what is due and takes what has ended, until this moment at most.
    fn turn(&mut self, until: Duration) -> std::io::Result<()> {
        for _ in 0..BATCH {
            let Some(&Reverse((due, at))) = self.due.peek() else { break };
            let now = self.start.elapsed();
            if due > now {
                break;
            }
            self.due.pop();
            if self.agents[at].alarmed == Some(due) {
                self.agents[at].bring_forward(due);
            }
            // An alarm may have brought the heartbeat forward.
            if self.agents[at].due == due {
                self.tally.late.push(now - due);
                self.beat(at);
            }
        }
        let next = self.due.peek().map_or(until, |Reverse((due, _))| until.min(*due));
        for finished in self.client.turn(next.saturating_sub(self.start.elapsed()))? {
            self.take(&finished);
        }
        Ok(())
    }

    fn beat(&mut self, at: usize) {
        let agent = &mut self.agents[at];
        let beat = agent.beat(at, self.options);
        match beat {
            Beat::None => return,
            Beat::Lost => {
                self.tally.lost += 1;
                self.ledger.not_accepted(at);
            }
            Beat::Sent(body) => {
                self.tally.sent += 1;
                let request = self.server.request("POST", &agent.id, &body, self.options.fresh);
                self.client.send(at, request);
            }
        }
        self.due.push(Reverse((self.agents[at].due, at)));
    }

    /// The end of a heartbeat.
    fn take(&mut self, finished: &Finished) {
        let Finished { agent, sent, ended, result } = finished;
        let between = (*sent - self.start, *ended - self.start);
        let (count, why) = match result {
            Ok(200) => {
                self.tally.answered += 1;
                self.tally.latencies.push(*ended - *sent);
                self.ledger.accepted(self.options, *agent, self.agents[*agent].mode, between);
                return;
            }
            Ok(status) => (&mut self.tally.refused, format!("answer {status}")),
            Err(Failure::Reset(why)) => (&mut self.tally.resets, why.clone()),
            Err(Failure::TimedOut) => (&mut self.tally.time_outs, "no answer in time".to_owned()),
            Err(Failure::NotConnected(why)) => (&mut self.tally.not_connected, why.clone()),
            Err(Failure::Broken(why)) => (&mut self.tally.broken, why.clone()),
        };
        *count += 1;
        self.tally.first_error.get_or_insert(why);
        match result {
            Ok(_) | Err(Failure::NotConnected(_)) => self.ledger.not_accepted(*agent),
            Err(_) => self.ledger.not_answered(*agent, between.1),
        }
        if self.options.retry && result.is_err() {
            let soon = between.1 + RETRY_AFTER;
            self.agents[*agent].bring_forward(soon);
            self.due.push(Reverse((self.agents[*agent].due, *agent)));
        }
    }

    /// When the last death must have been told.
    fn latest_death(&self) -> Duration {
        let dead = self.agents.iter().enumerate().filter(|(_, agent)| agent.dies.is_some());
        let last = dead.filter_map(|(at, _)| self.ledger.heard_until(at)).max().unwrap_or_default();
        last + self.options.dead_after(Mode::Emergency) + PATIENCE
    }

    fn all_are_told(&self, station: &Station) -> bool {
        station.wait_until(Duration::ZERO, |posts| {
            let deaths = posts.iter().filter(|post| post.text("type") == "AGENT_DEATH");
            let told: HashSet<&str> = deaths.map(|post: &Post| post.text("agent_uuid")).collect();
            let mut dead = self.agents.iter().filter(|agent| agent.dies.is_some());
            dead.all(|agent| told.contains(agent.id.as_str()))
        })
    }

    /// Without goodbyes the collector would report everybody's death.
    fn say_goodbye(&mut self) -> std::io::Result<()> {
        while self.client.under_way > 0 {
            for finished in self.client.turn(LOOK_EVERY)? {
                self.take(&finished);
            }
        }
        let mut next = 0;
        while next < self.agents.len() || self.client.under_way > 0 {
            while next < self.agents.len() && self.client.under_way < GOODBYES {
                let agent = &self.agents[next];
                let request = self.server.request("DELETE", &agent.id, "", self.options.fresh);
                self.client.send(next, request);
                next += 1;
            }
            for Finished { agent, sent, ended, result } in self.client.turn(LOOK_EVERY)? {
                let between = (sent - self.start, ended - self.start);
                self.ledger.goodbye(self.options, agent, &self.agents[agent], between);
                if matches!(result, Err(Failure::NotConnected(_))) {
                    // The collector is gone.
                    next = self.agents.len();
                }
            }
        }
        Ok(())
    }

    fn print_progress(&self) {
        const WIDTH: usize = 30;
        let share = (self.start.elapsed().as_secs_f64() / self.options.seconds as f64).min(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 30")]
        let done = (share * WIDTH as f64) as usize;
        let bar = format!("{}{}", "#".repeat(done), "-".repeat(WIDTH - done));
        let Tally { sent, answered, refused, .. } = &self.tally;
        let line = format!(
            "[{bar}] {:3.0} s of {}  sent {sent}  answered {answered}  refused {refused}  errors {}",
            share * self.options.seconds as f64,
            self.options.seconds,
            self.tally.errors(),
        );
        if std::io::stderr().is_terminal() {
            eprint!("\r{line} ");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }
}
