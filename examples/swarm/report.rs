//! The table at the end, and whether the run was good.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::Options;
use crate::agents::{Agent, DEATH};
use crate::drive::Outcome;
use crate::station::{Post, Station};

/// Prints the table. Returns whether every death was told once, and no other death was told.
pub fn print(options: &Options, outcome: &Outcome, station: Option<&Station>) -> bool {
    let tally = &outcome.tally;
    row("agents", options.agents);
    row("heartbeats sent", tally.sent.load(Ordering::Relaxed));
    row("  answered", tally.answered.load(Ordering::Relaxed));
    row("  refused", tally.refused.load(Ordering::Relaxed));
    row("  errors", tally.errors.load(Ordering::Relaxed));
    if let Some(error) = &*tally.first_error.lock().unwrap() {
        row("  first error", error);
    }
    quantiles("heartbeat latency", tally.latencies.lock().unwrap().clone());
    station.is_none_or(|station| deaths(outcome, &station.posts()))
}

fn deaths(outcome: &Outcome, posts: &[Post]) -> bool {
    let mut told: HashMap<&str, Vec<&Post>> = HashMap::new();
    for post in posts.iter().filter(|post| post.text("type") == "AGENT_DEATH" && post.status == 201) {
        told.entry(post.text("agent_uuid")).or_default().push(post);
    }
    let dead: HashMap<&str, &Agent> = outcome
        .agents
        .iter()
        .filter(|agent| agent.dies.is_some())
        .map(|agent| (agent.id.as_str(), agent))
        .collect();
    let ours: HashSet<&str> = outcome.agents.iter().map(|agent| agent.id.as_str()).collect();
    let missed = dead.keys().filter(|id| !told.contains_key(*id)).count();
    let invented = told.keys().filter(|id| ours.contains(*id) && !dead.contains_key(*id)).count();
    let twice = told.values().filter(|posts| posts.len() > 1).count();
    let refused = posts.iter().filter(|post| post.status != 201).count();
    let mut early = 0;
    let mut lags = Vec::new();
    for (id, agent) in &dead {
        let (Some(post), Some((sent, answered))) =
            (told.get(id).and_then(|posts| posts.first()), agent.answered)
        else {
            continue;
        };
        // The heartbeat was taken between the two.
        early += usize::from(post.at < outcome.start + sent + DEATH);
        lags.push(post.at.saturating_duration_since(outcome.start + answered + DEATH));
    }
    row("deaths", dead.len());
    row("  told", dead.len() - missed);
    row("  missed", missed);
    row("  invented", invented + early);
    row("  told twice", twice);
    let of_kind = |kind: &str| posts.iter().filter(|post| post.text("type") == kind).count();
    row("restarts told", of_kind("RESTART_DETECTED"));
    row("emergencies told", of_kind("EMERGENCY_MODE"));
    row("alerts refused by the station", refused);
    quantiles("detection lag", lags);
    missed + invented + early + twice == 0
}

fn row(name: &str, value: impl std::fmt::Display) {
    println!("{name:32} {value}");
}

fn quantiles(name: &str, mut durations: Vec<Duration>) {
    durations.sort_unstable();
    let Some(last) = durations.len().checked_sub(1) else { return };
    let at = |percent: usize| durations[last * percent / 100].as_secs_f64() * 1000.0;
    row(
        name,
        format!("p50 {:.1} ms  p90 {:.1} ms  p99 {:.1} ms  max {:.1} ms", at(50), at(90), at(99), at(100)),
    );
}
