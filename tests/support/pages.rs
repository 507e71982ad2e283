//! The command blocks of the documents, and what runs them.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::path::Path;
use std::process::{Command, Stdio};

/// The blocks of a page that are for a shell: those that begin with ```sh or ```console.
pub fn blocks(page: &str) -> Vec<&str> {
    let mut blocks = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("\n```") {
        let (kind, after) = after.split_once('\n').unwrap_or((after, ""));
        let (block, after) = after.split_once("\n```").unwrap_or((after, ""));
        if matches!(kind, "sh" | "console") {
            blocks.push(block);
        }
        // What follows the fence.
        rest = after;
    }
    blocks
}

/// The one block of a page (by its path from the top of the repository) that begins so.
pub fn block(page: &str, start: &str) -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let top = here.ancestors().find(|directory| directory.join("docs").is_dir()).unwrap();
    let text = std::fs::read_to_string(top.join(page)).unwrap();
    let found: Vec<_> = blocks(&text).into_iter().filter(|block| block.starts_with(start)).collect();
    assert_eq!(found.len(), 1, "{page} must have one block that begins with {start:?}");
    found[0].to_owned()
}

/// A text in which names are put in the places of others, each of which must be there.
pub fn with(text: &str, names: &[(&str, &str)]) -> String {
    names.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from} is not in {text}");
        text.replace(from, to)
    })
}

/// Runs commands as they stand, and ends at the first that fails. The programs are found in this directory.
pub fn shell(commands: &str, programs: &Path) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut bash = Command::new("bash");
    bash.args(["-euc", commands]).env_clear().env("PATH", format!("{}:{path}", programs.display()));
    bash.stdin(Stdio::null());
    bash
}
