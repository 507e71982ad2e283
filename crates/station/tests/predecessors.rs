//! docs/predecessors.md has one row for each fault, and the tests that it names are there.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// What a row says where it names no test first.
const WITHOUT_A_TEST: [&str; 2] = ["Cannot happen: ", "Concerns nothing of ours: "];

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/predecessors.md");
    fs::read_to_string(path).unwrap()
}

/// The tests that a text names: file and function.
fn cited(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|code| {
        let (file, name) = code.split_once(": ")?;
        (Path::new(file).extension()? == "rs").then_some((file, name))
    })
}

/// The functions of a file that are tests.
fn tests(source: &str) -> Vec<String> {
    let mut lines = source.lines().map(str::trim);
    let mut names = Vec::new();
    while let Some(line) = lines.next() {
        if line != "#[test]" {
            continue;
        }
        let name = lines.next().and_then(|line| line.strip_prefix("fn ")?.split_once('('));
        names.extend(name.map(|(name, _)| name.to_owned()));
    }
    names
}

/// Whether a line begins with a fault's letter and number.
fn is_row(line: &str) -> bool {
    let number = line.strip_prefix("| ").and_then(|line| line.strip_prefix(['L', 'C', 'K', 'V', 'P']));
    number.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[test]
fn each_fault_has_one_row_that_says_what_guards_against_it() {
    let page = page();
    let mut numbers = Vec::new();
    for line in page.lines().filter(|line| is_row(line)) {
        let cells: Vec<_> = line.trim_matches(['|', ' ']).split(" | ").collect();
        let [number, fault, guard] = cells[..] else { panic!("{line} has not three cells") };
        numbers.push(number.to_owned());
        let says_why = WITHOUT_A_TEST.iter().any(|start| guard.starts_with(start));
        let names_a_test = guard.starts_with('`') && cited(guard).next().is_some();
        assert!(fault.ends_with('.') && (says_why || names_a_test), "{line}");
    }
    let of = [("L", 34), ("C", 26), ("K", 20), ("V", 9), ("P", 6)];
    let all = of.iter().flat_map(|(letter, last)| (1..=*last).map(move |number| format!("{letter}{number}")));
    assert_eq!(numbers, all.collect::<Vec<_>>());
}

#[test]
fn each_test_that_the_page_names_is_there() {
    let page = page();
    let mut files: HashMap<&str, Vec<String>> = HashMap::new();
    for (file, name) in cited(&page) {
        let known = files.entry(file).or_insert_with(|| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            tests(&fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        });
        assert!(known.iter().any(|it| it == name), "{file} has no test {name}");
    }
    assert!(files.len() > 10, "the page was read: {files:?}");
}
