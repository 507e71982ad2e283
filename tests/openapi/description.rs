//! What the descriptions in docs/openapi/ say of routes. They are read line by line: paths, methods,
//! security and statuses stand where these files have them. `.ci/openapi` reads all of it.

use std::collections::BTreeSet;

/// An operation of a description.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    pub method: String,
    /// With the name of a parameter in braces.
    pub path: String,
    /// The security schemes of which one is needed.
    pub keys: BTreeSet<String>,
    pub statuses: BTreeSet<u16>,
}

/// All operations of a description, in its order.
pub fn operations(description: &str) -> Vec<Operation> {
    let paths = description.lines().skip_while(|line| *line != "paths:").skip(1);
    let (mut path, mut part) = ("", "");
    let mut all: Vec<Operation> = Vec::new();
    for line in paths.take_while(|line| line.is_empty() || line.starts_with(' ')) {
        let text = line.trim_start();
        match (line.len() - text.len(), &mut all[..]) {
            (2, _) => path = text.trim_end_matches(':'),
            (4, _) if text != "parameters:" => {
                let method = text.trim_end_matches(':').to_uppercase();
                all.push(Operation { method, path: path.into(), ..Operation::default() });
            }
            (6, _) => part = text,
            (8, [.., last]) if part == "security:" => {
                let name = text.trim_start_matches("- {").split(':').next().unwrap();
                last.keys.insert(name.into());
            }
            (8, [.., last]) if part == "responses:" => {
                last.statuses.insert(text[1..4].parse().unwrap());
            }
            _ => {}
        }
    }
    all
}

/// The version that a description is of.
pub fn version(description: &str) -> Option<&str> {
    description.lines().find_map(|line| line.strip_prefix("  version: "))
}
