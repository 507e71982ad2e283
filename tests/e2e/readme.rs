//! The README's tour gives what it shows: each `$ command` of its console
//! blocks is run, and its output compared, times aside.

use std::process::Command;

use crate::support::{Collector, command, has_programs};

/// Replaces what differs from run to run: digits in times and in milliseconds.
fn masked(text: &str) -> String {
    let mut masked = text.to_owned();
    for field in
        ["\"last_seen\":\"", "\"first_seen\":\"", "\"timestamp\":\"", "\"event_id\":\"", "\"silence_ms\":"]
    {
        let mut from = 0;
        while let Some(at) = masked[from..].find(field) {
            let start = from + at + field.len();
            let length = masked[start..].find(['"', ',', '}']).unwrap();
            masked.replace_range(start..start + length, "...");
            from = start;
        }
    }
    masked
}

#[test]
fn the_tour_gives_what_it_shows() {
    if !has_programs(&["sh", "curl"]) {
        return;
    }
    let readme = include_str!("../../README.md");
    let mut start = command(&[("CLUSTER_ID", "dev"), ("COLLECTOR_PORT", "0")]);
    let collector = Collector::spawn(&mut start);
    let local = format!("localhost:{}", collector.port);
    let mut steps = 0;
    for block in readme.split("```").skip(1).step_by(2) {
        if let Some(log) = block.strip_prefix("text\n") {
            for line in log.lines() {
                // From the name on: the time and the silence differ.
                let words = line.split_whitespace().skip(2).take(4).collect::<Vec<_>>().join(" ");
                let words = words.split_once(",\"agent_uuid").map_or(words.as_str(), |(start, _)| start);
                collector.await_log(words);
            }
        }
        let Some((shown, output)) = block.strip_prefix("console\n$ ").and_then(|step| step.split_once('\n'))
        else {
            continue;
        };
        let real =
            Command::new("sh").args(["-c", &shown.replace("localhost:8080", &local)]).output().unwrap();
        let real = String::from_utf8(real.stdout).unwrap();
        assert_eq!(masked(real.trim()), masked(output.trim()), "{shown}");
        steps += 1;
    }
    assert_eq!(steps, 6, "every step of the tour was taken");
}
