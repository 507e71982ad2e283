//! The table at the end, and whether the run was good.

use std::time::Duration;

use super::Options;
use super::drive::{Outcome, Tally, Used};
use super::judge::Verdicts;
use super::process::Usage;

/// What the run showed.
#[derive(Debug)]
pub struct Report {
    pub agents: usize,
    /// How many of them died.
    pub died: usize,
    /// How many connections were opened.
    pub connections: usize,
    pub tally: Tally,
    /// None without a station.
    pub verdicts: Option<Verdicts>,
    used: Option<Used>,
}

impl Report {
    pub fn new(options: &Options, outcome: Outcome, verdicts: Option<Verdicts>) -> Self {
        let Outcome { tally, opened: connections, used, .. } = outcome;
        Self { agents: options.agents, died: options.die, connections, tally, verdicts, used }
    }

    /// Whether every death was told once, and none was false.
    pub fn is_good(&self) -> bool {
        self.verdicts.as_ref().is_none_or(Verdicts::are_good)
    }

    pub fn print(&self) {
        let tally = &self.tally;
        row("agents", self.agents);
        row("connections opened", self.connections);
        row("heartbeats sent", tally.sent + tally.lost);
        row("  lost on the way, as asked", tally.lost);
        row("  answered", tally.answered);
        row("  refused", tally.refused);
        row("  resets", tally.resets);
        row("  time-outs", tally.time_outs);
        row("  not connected", tally.not_connected);
        row("  not HTTP", tally.broken);
        if let Some(error) = &tally.first_error {
            row("  first of these", error);
        }
        quantiles("heartbeat latency", &tally.latencies);
        quantiles("sent later than due", &tally.late);
        if let Some(verdicts) = &self.verdicts {
            row("agents that died", self.died);
            row("deaths told", verdicts.correct + verdicts.false_deaths + verdicts.early + verdicts.twice);
            row("  true", verdicts.correct);
            row("  false", verdicts.false_deaths);
            row("  too early", verdicts.early);
            row("  told twice", verdicts.twice);
            row("deaths missed", verdicts.missed);
            row("restarts told", verdicts.restarts);
            row("emergencies told", verdicts.emergencies);
            row("alerts refused by the station", verdicts.refused);
            quantiles("detection lag", &verdicts.lags);
        }
        if let Some(used) = &self.used {
            usage("the collector", used.collector);
            usage("the swarm", used.swarm);
        }
    }
}

fn row(name: &str, value: impl std::fmt::Display) {
    println!("{name:32} {value}");
}

fn usage(name: &str, (before, after): (Usage, Usage)) {
    let share = (after.cpu - before.cpu).as_secs_f64() / (after.at - before.at).as_secs_f64().max(0.001);
    let Usage { resident, threads, kernel, .. } = after;
    let resident = resident as f64 / 1024.0;
    let kernel = kernel.map(|kernel| format!(", {:.1} MiB of the kernel", kernel as f64 / 1_048_576.0));
    let kernel = kernel.unwrap_or_default();
    row(
        name,
        format!("{resident:.1} MiB resident{kernel}, {threads} threads, {:.1} % of a CPU", 100.0 * share),
    );
}

fn quantiles(name: &str, durations: &[Duration]) {
    let mut durations = durations.to_vec();
    durations.sort_unstable();
    let Some(last) = durations.len().checked_sub(1) else { return };
    let at = |percent: usize| durations[last * percent / 100].as_secs_f64() * 1000.0;
    row(
        name,
        format!("p50 {:.1} ms  p90 {:.1} ms  p99 {:.1} ms  max {:.1} ms", at(50), at(90), at(99), at(100)),
    );
}
