//! The agents, their fates and their heartbeats, drawn from the seed. Nothing here
//! depends on how the collector answers.

use std::time::Duration;

use fastrand::Rng;
use pap_core::heartbeat::Mode;

use super::Options;

/// A death must be due this long before the end, so that the run can see it.
const MARGIN: Duration = Duration::from_secs(3);

/// One agent and what will happen to it. Times count from the start.
#[derive(Clone, Debug)]
pub struct Agent {
    pub id: String,
    pub mode: Mode,
    /// When its next heartbeat is due.
    pub due: Duration,
    /// It falls silent after this.
    pub dies: Option<Duration>,
    /// Its uptime starts anew at this.
    restarts: Option<Duration>,
    /// It goes to EMERGENCY at this.
    pub alarmed: Option<Duration>,
    /// When its uptime counts from.
    started: Duration,
    beats: u32,
    lost_in_a_row: u32,
    rng: Rng,
}

/// What an agent does when its heartbeat is due.
pub enum Beat {
    Sent(String),
    /// It is sent, and lost on the way.
    Lost,
    /// The agent is dead: no heartbeat follows.
    None,
}

/// The id of an agent.
pub fn id(seed: u64, number: usize) -> String {
    format!("{seed:08x}-{:04x}-4000-8000-{:012x}", number >> 16, number & 0xffff)
}

/// Draws the agents, or says what is wrong with the options.
pub fn draw(options: &Options) -> Result<Vec<Agent>, String> {
    let mut rng = Rng::with_seed(options.seed);
    let parts: Vec<usize> = options.mix.split(':').filter_map(|part| part.parse().ok()).collect();
    let whole: usize = parts.iter().sum();
    if parts.len() != 3 || whole == 0 {
        return Err(format!("--mix \"{}\" is wrong; allowed: three numbers such as 10:85:5", options.mix));
    }
    if options.lose > 40 || options.jitter > 90 {
        return Err("allowed: --lose 0 to 40, --jitter 0 to 90".to_owned());
    }
    let end = Duration::from_secs(options.seconds);
    let warm_up = (end / 4).min(Duration::from_secs(5));
    let latest_death = end.saturating_sub(options.dead_after(Mode::Emergency) + MARGIN);
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
            Agent {
                id: id(options.seed, number),
                mode,
                due: warm_up.mul_f64(rng.f64()),
                dies: None,
                restarts: None,
                alarmed: None,
                started: Duration::ZERO,
                beats: 0,
                lost_in_a_row: 0,
                rng: Rng::with_seed(rng.u64(..)),
            }
        })
        .collect();
    let mut between = |from: Duration, to: Duration| from + to.saturating_sub(from).mul_f64(rng.f64());
    let fated = |mode, agents: &[Agent]| -> Vec<usize> {
        (0..agents.len()).filter(|&at| agents[at].mode == mode).collect()
    };
    let mut emergencies = fated(Mode::Emergency, &agents);
    let mut idle = fated(Mode::Idle, &agents);
    let mut order = Rng::with_seed(options.seed ^ 0x5eed);
    order.shuffle(&mut emergencies);
    order.shuffle(&mut idle);
    if options.die > emergencies.len() {
        return Err(format!("--die {}: only {} agents are in EMERGENCY", options.die, emergencies.len()));
    }
    for &at in emergencies.iter().take(options.die) {
        agents[at].dies = Some(between(agents[at].due.max(warm_up), latest_death));
    }
    for &at in emergencies.iter().skip(options.die).chain(&idle).take(options.restart) {
        agents[at].restarts = Some(between(end / 2, end));
    }
    for &at in idle.iter().rev().take(options.alarm) {
        let drawn = between(warm_up, end);
        agents[at].alarmed = Some(options.alarm_at.map_or(drawn, Duration::from_secs));
    }
    Ok(agents)
}

impl Agent {
    /// Its heartbeat is due now; draws when the next one is.
    pub fn beat(&mut self, number: usize, options: &Options) -> Beat {
        let now = self.due;
        if self.dies.is_some_and(|dies| dies <= now) {
            return Beat::None;
        }
        if self.alarmed.is_some_and(|alarmed| alarmed <= now) {
            self.mode = Mode::Emergency;
        }
        if self.restarts.is_some_and(|restarts| restarts <= now) {
            self.restarts = None;
            self.started = now;
        }
        let interval = options.interval(self.mode);
        // The second heartbeat comes early, so that agents which started together
        // spread over the interval.
        let factor = match self.beats {
            0 => self.rng.f64(),
            _ => 1.0 + f64::from(options.jitter) / 100.0 * (2.0 * self.rng.f64() - 1.0),
        };
        self.due = now + interval.mul_f64(factor);
        self.beats += 1;
        if self.is_lost(options) {
            return Beat::Lost;
        }
        let (mode, uptime) = (self.mode, (now - self.started).as_secs_f64());
        Beat::Sent(format!(
            r#"{{"mode":"{mode}","uptime_seconds":{uptime:.3},"agent_name":"swarm-{number}"}}"#
        ))
    }

    /// Its next heartbeat is due at this moment, if not before.
    pub fn bring_forward(&mut self, to: Duration) {
        self.due = self.due.min(to);
    }

    /// Of all heartbeats but the first, `--lose` percent are lost on the way.
    fn is_lost(&mut self, options: &Options) -> bool {
        let (drawn, run) = (self.rng.f64(), if options.lose_two { 2 } else { 1 });
        let percent = f64::from(options.lose);
        // The chance that a run of losses starts now, so that the share of all comes out.
        let starts = drawn < percent / (f64::from(run) * (100.0 - percent));
        let goes_on = (1..run).contains(&self.lost_in_a_row);
        let is_lost = goes_on || (self.lost_in_a_row == 0 && self.beats > 2 && starts);
        self.lost_in_a_row = if is_lost { self.lost_in_a_row + 1 } else { 0 };
        is_lost
    }
}

#[cfg(test)]
mod tests {
    use argh::FromArgs as _;

    use super::*;

    fn losses(arguments: &[&str]) -> (f64, usize) {
        let options = Options::from_args(&["swarm"], arguments).unwrap();
        let (mut lost, mut all, mut longest) = (0, 0, 0);
        for (number, agent) in draw(&options).unwrap().iter_mut().enumerate() {
            let mut run = 0;
            for _ in 0..1000 {
                let is_lost = matches!(agent.beat(number, &options), Beat::Lost);
                run = if is_lost { run + 1 } else { 0 };
                longest = longest.max(run);
                lost += usize::from(is_lost);
                all += 1;
            }
        }
        (100.0 * lost as f64 / f64::from(all), longest)
    }

    #[test]
    fn as_many_are_lost_as_asked_and_never_more_in_a_row() {
        let (percent, longest) = losses(&["--lose", "5", "--agents", "100"]);
        assert!((4.5..5.5).contains(&percent) && longest == 1, "{percent} {longest}");
        let (percent, longest) = losses(&["--lose", "5", "--lose-two", "--agents", "100"]);
        assert!((4.5..5.5).contains(&percent) && longest == 2, "{percent} {longest}");
        assert_eq!(losses(&["--agents", "10"]), (0.0, 0));
    }

    #[test]
    fn a_seed_draws_the_same_again() {
        let schedule = |seed| {
            let options = Options::from_args(&["swarm"], &["--lose", "9", "--die", "20", "--seed", seed]);
            let options = options.unwrap();
            let mut agents = draw(&options).unwrap();
            let mut beats = Vec::new();
            for (number, agent) in agents.iter_mut().enumerate() {
                for _ in 0..50 {
                    let is_sent = matches!(agent.beat(number, &options), Beat::Sent(_));
                    beats.push((agent.due, agent.dies, is_sent));
                }
            }
            beats
        };
        assert_eq!(schedule("7"), schedule("7"));
        assert_ne!(schedule("7"), schedule("8"));
    }
}
