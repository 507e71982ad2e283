//! The README's tour gives what it shows: each `$ command` of its console
//! blocks is run, and its output compared, times aside.

use std::process::Command;

use crate::support::{Collector, command, has_programs, program};

/// Replaces what differs from run to run: how many seconds something was silent.
fn masked(text: &str) -> String {
    let is_seconds = |word: &&str| word.strip_suffix('s').is_some_and(|number| number.parse::<u32>().is_ok());
    let words = text.split_whitespace().map(|word| if is_seconds(&word) { "(seconds)" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_tour_gives_what_it_shows() {
    if !has_programs(&["sh", "curl"]) {
        return;
    }
    let readme = include_str!("../../README.md");
    let mut start = command(&[("CLUSTER_ID", "dev"), ("COLLECTOR_PORT", "0")]);
    let collector = Collector::spawn(&mut start);
    let port = collector.port.to_string();
    let mut steps = 0;
    for block in readme.split("```").skip(1).step_by(2) {
        if let Some(log) = block.strip_prefix("text\n") {
            for line in log.lines() {
                // From the name on: the time differs.
                let words = line.split_whitespace().skip(2).collect::<Vec<_>>().join(" ");
                collector.await_log(&words);
            }
        }
        let Some(console) = block.strip_prefix("console\n") else { continue };
        for step in console.split("$ ").skip(1) {
            let (shown, output) = step.split_once('\n').unwrap();
            let run = shown.replace("localhost:8080", &format!("localhost:{port}"));
            let run = run.replace("target/release/pap-collector", &program());
            let real = Command::new("sh").args(["-c", &run]).env("COLLECTOR_PORT", &port).output().unwrap();
            assert_eq!(masked(&String::from_utf8(real.stdout).unwrap()), masked(output), "{shown}");
            steps += 1;
        }
    }
    assert_eq!(steps, 5, "every step of the tour was taken");
}
