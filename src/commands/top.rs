//! `pap-collector top`: how a running collector and its agents are, on a screen that
//! refreshes. When standard output is not a terminal, it prints one view and ends.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use nix::sys::signal::{SigSet, raise};
use pap_core::agent_id::AgentId;
use pap_core::registry::AgentView;
use pap_core::time::Wall;
use pap_core::verdict::Verdict;
use pap_process::clock::wall;
use pap_process::escape::for_terminal;
use pap_process::signals::{Signal, Signals, is_ignored};
use pap_process::stop::Stop;
use pap_process::threads::spawn;
use rustix::termios::tcgetwinsize;
use serde::Deserialize;
use unicode_width::UnicodeWidthChar as _;

use super::listing::{self, Part};
use crate::ask::Collector;
use crate::config::Access;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time between two views.
const EVERY: Duration = Duration::from_secs(2);
/// Events that are shown.
const EVENTS: usize = 8;
/// Lines of agents where no terminal says how many fit.
const LINES: usize = 40;
/// The most agents with one verdict that are asked for.
const MOST: usize = 200;

/// Switches the terminal to its other screen and hides the cursor; and back.
const OPEN: &str = "\x1b[?1049h\x1b[?25l";
const CLOSE: &str = "\x1b[?25h\x1b[?1049l";
/// Goes to the top left corner; clears the rest of this line; clears the rest of the screen.
const HOME: &str = "\x1b[H";
const END_OF_LINE: &str = "\x1b[K\r\n";
const END_OF_SCREEN: &str = "\x1b[J";

/// What `/health` says, as far as it is shown.
#[derive(Deserialize)]
struct Health {
    version: String,
    uptime: u64,
    alert_queue: Queue,
    station: Station,
}

#[derive(Deserialize)]
struct Queue {
    owed: usize,
}

#[derive(Deserialize)]
struct Station {
    configured: bool,
    reachable: Option<bool>,
}

/// What a view shows.
struct Seen {
    health: Health,
    silent: Vec<AgentView>,
    all: Part<AgentView>,
}

/// Shows the collector until a signal comes.
///
/// # Errors
/// Nobody answers the first question, or the screen cannot be written. The text is one
/// line for people.
pub fn show(access: Access) -> Result<(), String> {
    let mut collector = Collector::new(access, PATIENCE)?;
    let mut seen = look(&mut collector)?;
    let mut events = Events::default();
    events.note(&seen, &mut collector);
    if !io::stdout().is_terminal() {
        let lines = view(&seen, &events, LINES);
        return write(&(lines.join("\n") + "\n"));
    }
    let stop = std::sync::Arc::new(Stop::default());
    let mut taken = vec![Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
    taken.extend(Some(Signal::SIGTSTP).filter(|&signal| !is_ignored(signal)));
    let signals = Signals::take(&taken);
    let (signals, asked) = (signals.map_err(|error| error.to_string())?, stop.clone());
    spawn("signals", move || {
        while signals.next(|_| ()).signal == Signal::SIGTSTP {
            pause();
        }
        asked.stop();
    })
    .map_err(|error| error.to_string())?;
    write(OPEN)?;
    let mut trouble = None;
    let result = loop {
        let (width, height) = size();
        let mut lines = view(&seen, &events, height);
        if let Some(trouble) = &trouble {
            lines.insert(0, format!("no answer, this view is old: {trouble}"));
        }
        if let Err(error) = draw(&lines, width, height) {
            break Err(error);
        }
        if stop.wait(EVERY) {
            break Ok(());
        }
        match look(&mut collector) {
            Ok(now) => {
                (seen, trouble) = (now, None);
                events.note(&seen, &mut collector);
            }
            Err(error) => trouble = Some(error),
        }
    };
    // The terminal is given back even if the view could not be written.
    write(CLOSE).and(result)
}

/// Gives the terminal back while the shell keeps this process stopped.
fn pause() {
    let mut out = io::stdout().lock();
    // If it cannot be written, there is no screen to be given back.
    let _ = out.write_all(CLOSE.as_bytes()).and_then(|()| out.flush());
    // SIGTSTP, and not SIGSTOP: where no shell could continue this process, the kernel drops
    // it.
    let stop: SigSet = [Signal::SIGTSTP].into_iter().collect();
    let _ = raise(Signal::SIGTSTP).and_then(|()| stop.thread_unblock()).and_then(|()| stop.thread_block());
    let _ = out.write_all(OPEN.as_bytes()).and_then(|()| out.flush());
}

/// Asks for all that a view shows.
fn look(collector: &mut Collector) -> Result<Seen, String> {
    let answer = collector.get("/health")?;
    let health = serde_json::from_slice(&answer.body)
        .map_err(|_| format!("{} answers {} and no health", answer.place, answer.status))?;
    let mut silent = Vec::new();
    for status in [Verdict::Dead, Verdict::Suspect] {
        let part: Part<AgentView> = listing::part(collector, Some(status), MOST, None)?;
        silent.extend(part.agents);
    }
    let all = listing::part(collector, None, MOST, None)?;
    // The dead first, and of each verdict those that are silent for longest.
    silent.sort_by_key(|agent| (agent.status != Verdict::Dead, u64::MAX - agent.silence_ms));
    Ok(Seen { health, silent, all })
}

/// The lines of a view, with as many agents as fit into `height` lines.
fn view(seen: &Seen, events: &Events, height: usize) -> Vec<String> {
    let (health, stats) = (&seen.health, &seen.all.stats);
    let station = match (health.station.configured, health.station.reachable) {
        (false, _) => "no station",
        (true, None) => "station not asked yet",
        (true, Some(true)) => "station reachable",
        (true, Some(false)) => "STATION NOT REACHABLE",
    };
    let modes: Vec<_> =
        stats.by_mode.iter().map(|(mode, count)| format!("{count} {}", mode.as_str())).collect();
    let mut lines = vec![
        format!(
            "pap-collector {}, cluster {} ({}), up {}",
            for_terminal(&health.version),
            for_terminal(&seen.all.cluster_id),
            for_terminal(&seen.all.cluster_name),
            listing::span(health.uptime),
        ),
        format!(
            "{} agents, {} dead; {}; {} alerts owed, {station}",
            stats.total,
            stats.unhealthy,
            modes.join(", "),
            health.alert_queue.owed,
        ),
        String::new(),
        listing::HEADING.to_owned(),
    ];
    let after = if events.told.is_empty() { 0 } else { events.told.len() + 2 };
    let room = height.saturating_sub(lines.len() + after + 1).max(1);
    let healthy = seen.all.agents.iter().filter(|agent| agent.status == Verdict::Healthy);
    let shown = seen.silent.iter().chain(healthy).take(room);
    lines.extend(shown.map(listing::line));
    if !events.told.is_empty() {
        lines.extend([String::new(), "What happened".to_owned()]);
        lines.extend(events.told.iter().cloned());
    }
    lines
}

/// What changed between two looks.
#[derive(Default)]
struct Events {
    told: VecDeque<String>,
    silent: BTreeMap<AgentId, Verdict>,
    has_looked: bool,
}

impl Events {
    fn note(&mut self, seen: &Seen, collector: &mut Collector) {
        let now = wall();
        let silent: BTreeMap<AgentId, Verdict> =
            seen.silent.iter().map(|agent| (agent.agent_uuid.clone(), agent.status)).collect();
        let before = std::mem::replace(&mut self.silent, silent);
        if !std::mem::replace(&mut self.has_looked, true) {
            return;
        }
        let changed: Vec<_> = self
            .silent
            .iter()
            .filter(|(id, status)| before.get(*id) != Some(*status))
            .map(|(id, status)| (id.clone(), status.as_str()))
            .collect();
        for (id, status) in changed {
            self.tell(now, &id, &format!("is {status}"));
        }
        for (id, status) in before {
            if self.silent.contains_key(&id) {
                continue;
            }
            let answer = collector.get(&format!("/agents/{}", id.to_path()));
            match answer.map(|answer| answer.status) {
                Ok(200) if status == Verdict::Dead => self.tell(now, &id, "is back"),
                Ok(200) => self.tell(now, &id, "is healthy"),
                Ok(404) => self.tell(now, &id, "is gone"),
                _ => {}
            }
        }
    }

    fn tell(&mut self, now: Wall, id: &AgentId, what: &str) {
        let mut line = String::new();
        // Writing to a String cannot fail.
        let _ = write!(line, "{now}  {} {what}", for_terminal(&id.to_string()));
        self.told.push_front(line);
        self.told.truncate(EVENTS);
    }
}

/// The width and the height of the terminal, or the usual ones if it does not know them.
fn size() -> (usize, usize) {
    let known = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    known.map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.max(5).into()))
}

fn draw(lines: &[String], width: usize, height: usize) -> Result<(), String> {
    let mut screen = String::from(HOME);
    for (number, line) in lines.iter().take(height - 1).enumerate() {
        if number > 0 {
            screen += END_OF_LINE;
        }
        screen += fitting(line, width);
    }
    screen += END_OF_LINE;
    screen += END_OF_SCREEN;
    write(&screen)
}

/// As much of a line as fits into so many cells. Many characters take two, some none.
fn fitting(line: &str, width: usize) -> &str {
    let mut cells = 0;
    let end = line.char_indices().find(|(_, character)| {
        cells += character.width().unwrap_or(0);
        cells > width
    });
    end.map_or(line, |(at, _)| &line[..at])
}

fn write(text: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| format!("cannot write: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_by_its_cells() {
        assert_eq!(fitting("agent", 80), "agent");
        assert_eq!(fitting("agent", 3), "age");
        assert_eq!(fitting("\u{65e5}\u{672c}\u{8a9e}", 5), "\u{65e5}\u{672c}");
        assert_eq!(fitting("e\u{301}x", 1), "e\u{301}");
    }
}
