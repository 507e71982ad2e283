//! The agents and their fates, drawn from the seed.

use std::time::Duration;

use fastrand::Rng;
use pap_core::heartbeat::Mode;

use crate::Options;

/// An agent in EMERGENCY is dead after this silence, where `HEARTBEAT_GRACE_MS` is not
/// set.
pub const DEATH: Duration = Duration::from_millis(10_500);
/// A death must be due this long before the end, so that the run can see it.
const MARGIN: Duration = Duration::from_secs(3);

/// One agent and what will happen to it. Times count from the start.
#[derive(Clone, Debug)]
pub struct Agent {
    pub id: String,
    pub mode: Mode,
    pub first_beat: Duration,
    /// It falls silent after this.
    pub dies: Option<Duration>,
    /// Its uptime starts anew at this.
    pub restarts: Option<Duration>,
    /// It goes to EMERGENCY at this.
    pub alarmed: Option<Duration>,
    /// When its uptime counts from.
    pub started: Duration,
    /// When its last heartbeat that was answered was sent, and answered.
    pub answered: Option<(Duration, Duration)>,
}

/// Draws the agents, or says what is wrong with the options.
pub fn draw(options: &Options) -> Result<Vec<Agent>, String> {
    let mut rng = Rng::with_seed(options.seed);
    let parts: Vec<usize> = options.mix.split(':').filter_map(|part| part.parse().ok()).collect();
    let whole: usize = parts.iter().sum();
    if parts.len() != 3 || whole == 0 {
        return Err(format!("--mix \"{}\" is wrong; allowed: three numbers such as 10:85:5", options.mix));
    }
    let end = Duration::from_secs(options.seconds);
    let warm_up = (end / 4).min(Duration::from_secs(5));
    let latest_death = end.saturating_sub(DEATH + MARGIN);
    if options.die > 0 && latest_death <= warm_up {
        return Err("--seconds is too short for anyone to die and be found".to_owned());
    }
    let mut agents: Vec<Agent> = (0..options.agents)
        .map(|number| {
            let share = number * whole / options.agents.max(1);
            let mode = match share {
                share if share < parts[0] => Mode::Emergency,
                share if share < parts[0] + parts[1] => Mode::Idle,
                _ => Mode::Sleep,
            };
            let first_beat = warm_up.mul_f64(rng.f64());
            let id = format!("{:08x}-{:04x}-4000-8000-{:012x}", options.seed, number >> 16, number & 0xffff);
            Agent {
                id,
                mode,
                first_beat,
                dies: None,
                restarts: None,
                alarmed: None,
                started: Duration::ZERO,
                answered: None,
            }
        })
        .collect();
    let between =
        |rng: &mut Rng, from: Duration, to: Duration| from + to.saturating_sub(from).mul_f64(rng.f64());
    let fated = |mode, agents: &[Agent]| -> Vec<usize> {
        (0..agents.len()).filter(|&at| agents[at].mode == mode).collect()
    };
    let mut emergencies = fated(Mode::Emergency, &agents);
    let mut idle = fated(Mode::Idle, &agents);
    rng.shuffle(&mut emergencies);
    rng.shuffle(&mut idle);
    if options.die > emergencies.len() {
        return Err(format!("--die {}: only {} agents are in EMERGENCY", options.die, emergencies.len()));
    }
    for &at in emergencies.iter().take(options.die) {
        agents[at].dies = Some(between(&mut rng, agents[at].first_beat.max(warm_up), latest_death));
    }
    for &at in emergencies.iter().skip(options.die).chain(&idle).take(options.restart) {
        agents[at].restarts = Some(between(&mut rng, end / 2, end));
    }
    for &at in idle.iter().rev().take(options.alarm) {
        agents[at].alarmed = Some(between(&mut rng, warm_up, end));
    }
    Ok(agents)
}
