//! Sends the heartbeats on an open-loop schedule: a late answer does not move the
//! next heartbeat. A heartbeat's latency counts from the moment it is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use fastrand::Rng;
use pap_core::heartbeat::Mode;

use crate::Options;
use crate::agents::{Agent, DEATH};
use crate::station::Station;

/// How long an agent waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long after its deadline a death may still be told.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the heartbeats ended.
#[derive(Default)]
pub struct Tally {
    pub sent: AtomicUsize,
    pub answered: AtomicUsize,
    pub refused: AtomicUsize,
    pub errors: AtomicUsize,
    /// From the moment a heartbeat was due to its answer.
    pub latencies: Mutex<Vec<Duration>>,
    pub first_error: Mutex<Option<String>>,
}

/// How the run ended.
pub struct Outcome {
    pub start: Instant,
    pub agents: Vec<Agent>,
    pub tally: Arc<Tally>,
}

struct Job {
    agent: usize,
    due: Instant,
    body: String,
}

/// Plays the agents to the end, then says goodbye for them.
pub fn run(options: &Options, agents: Vec<Agent>, station: Option<&Station>) -> Outcome {
    let start = Instant::now();
    let tally = Arc::new(Tally::default());
    let agents = Arc::new(Mutex::new(agents));
    let (jobs, waiting) = bounded(100_000);
    let workers: Vec<_> = (0..options.workers)
        .map(|_| {
            let (options, agents, tally, jobs) =
                (options.clone(), Arc::clone(&agents), Arc::clone(&tally), waiting.clone());
            thread::spawn(move || work(&options, start, &agents, &tally, &jobs))
        })
        .collect();
    schedule(options, start, &agents, &tally, &jobs);
    drop(jobs);
    for worker in workers {
        worker.join().unwrap();
    }
    let agents = std::mem::take(&mut *agents.lock().unwrap());
    if let Some(station) = station {
        await_deaths(start, &agents, station);
    }
    say_goodbye(options, &agents);
    Outcome { start, agents, tally }
}

fn schedule(
    options: &Options,
    start: Instant,
    agents: &Mutex<Vec<Agent>>,
    tally: &Tally,
    jobs: &crossbeam_channel::Sender<Job>,
) {
    let mut rng = Rng::with_seed(options.seed ^ 0x5eed);
    let end = start + Duration::from_secs(options.seconds);
    let first = agents
        .lock()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(at, agent)| Reverse((start + agent.first_beat, at)))
        .collect();
    let mut due_beats: BinaryHeap<Reverse<(Instant, usize)>> = first;
    let mut next_line = start;
    while let Some(Reverse((due, at))) = due_beats.pop().filter(|Reverse((due, _))| *due < end) {
        while Instant::now() < due {
            if Instant::now() >= next_line {
                progress(options, start, tally);
                next_line += if std::io::stderr().is_terminal() {
                    Duration::from_millis(200)
                } else {
                    Duration::from_secs(5)
                };
            }
            thread::sleep((due - Instant::now()).min(Duration::from_millis(100)));
        }
        let mut agents = agents.lock().unwrap();
        let agent = &mut agents[at];
        let now = due - start;
        if agent.dies.is_some_and(|dies| dies <= now) {
            continue;
        }
        if agent.alarmed.is_some_and(|alarmed| alarmed <= now) {
            agent.mode = Mode::Emergency;
        }
        if agent.restarts.is_some_and(|restarts| restarts <= now) {
            agent.restarts = None;
            agent.started = now;
        }
        let uptime = (now - agent.started).as_secs_f64();
        let body =
            format!(r#"{{"mode":"{}","uptime_seconds":{uptime:.3},"agent_name":"swarm-{at}"}}"#, agent.mode);
        let jitter = f64::from(options.jitter) / 100.0 * (rng.f64() - 0.5);
        due_beats.push(Reverse((due + agent.mode.interval().mul_f64(1.0 + jitter), at)));
        drop(agents);
        tally.sent.fetch_add(1, Ordering::Relaxed);
        if jobs.try_send(Job { agent: at, due, body }).is_err() {
            tally.errors.fetch_add(1, Ordering::Relaxed);
        }
    }
    thread::sleep(end.saturating_duration_since(Instant::now()));
    progress(options, start, tally);
    eprintln!();
}

fn client(options: &Options) -> ureq::Agent {
    let config =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT)).proxy(None);
    let idle = usize::from(options.keep_alive);
    config.max_idle_connections(idle).max_idle_connections_per_host(idle).build().new_agent()
}

fn work(options: &Options, start: Instant, agents: &Mutex<Vec<Agent>>, tally: &Tally, jobs: &Receiver<Job>) {
    let client = client(options);
    let connection = if options.keep_alive { "keep-alive" } else { "close" };
    for Job { agent, due, body } in jobs {
        let id = agents.lock().unwrap()[agent].id.clone();
        let url = format!("{}/heartbeat/{id}", options.collector);
        let request =
            client.post(&url).header("Content-Type", "application/json").header("Connection", connection);
        let sent = start.elapsed();
        match request.send(&body) {
            Ok(mut response) => {
                let _ = response.body_mut().read_to_vec();
                let answered = Instant::now();
                tally.latencies.lock().unwrap().push(answered - due);
                if response.status() == 200 {
                    tally.answered.fetch_add(1, Ordering::Relaxed);
                    agents.lock().unwrap()[agent].answered = Some((sent, answered - start));
                } else {
                    tally.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(error) => {
                tally.errors.fetch_add(1, Ordering::Relaxed);
                tally.first_error.lock().unwrap().get_or_insert_with(|| error.to_string());
            }
        }
    }
}

/// Waits until every death is told, or is late.
fn await_deaths(start: Instant, agents: &[Agent], station: &Station) {
    let dead: Vec<&Agent> = agents.iter().filter(|agent| agent.dies.is_some()).collect();
    let last = dead.iter().filter_map(|agent| Some(agent.answered?.1)).max().unwrap_or_default();
    let latest = start + last + DEATH + PATIENCE;
    station.wait_until(latest.saturating_duration_since(Instant::now()), |posts| {
        dead.iter().all(|agent| {
            posts.iter().any(|post| post.text("type") == "AGENT_DEATH" && post.text("agent_uuid") == agent.id)
        })
    });
}

/// Without goodbyes the collector would report a thousand deaths.
fn say_goodbye(options: &Options, agents: &[Agent]) {
    let client = client(options);
    for agent in agents {
        let url = format!("{}/heartbeat/{}", options.collector, agent.id);
        if client.delete(&url).call().is_err() {
            return;
        }
    }
}

fn progress(options: &Options, start: Instant, tally: &Tally) {
    const WIDTH: usize = 30;
    let share = (start.elapsed().as_secs_f64() / options.seconds as f64).min(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 30")]
    let done = (share * WIDTH as f64) as usize;
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let bar = format!("{}{}", "#".repeat(done), "-".repeat(WIDTH - done));
    let line = format!(
        "[{bar}] {:3.0} s of {}  sent {}  answered {}  refused {}  errors {}",
        share * options.seconds as f64,
        options.seconds,
        count(&tally.sent),
        count(&tally.answered),
        count(&tally.refused),
        count(&tally.errors),
    );
    if std::io::stderr().is_terminal() {
        eprint!("\r{line} ");
        let _ = std::io::stderr().flush();
    } else {
        eprintln!("{line}");
    }
}
