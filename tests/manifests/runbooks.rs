//! `docs/runbooks.md`: who is told of something finds there what to do. Each alert of the rules leads to its heading,
//! and each alert and event of the programs has one.

use std::collections::BTreeSet;

use pap_core::alert::Kind;
use pap_core::firing::AlertName;

use crate::file;

/// The page, as an annotation names it: where it is read, the folder of the version is known.
const PAGE: &str = "docs/runbooks.md";
const RULES: [&str; 4] = [
    "k8s/overlays/monitoring/prometheusrule.yaml",
    "k8s/overlays/station-monitoring/prometheusrule.yaml",
    "charts/pap/rules/pap-collector.yaml",
    "charts/pap/rules/pap-station.yaml",
];

/// The headings of runbooks.
fn headings(page: &str) -> Vec<&str> {
    page.lines().filter_map(|line| line.strip_prefix("### ")).collect()
}

/// The anchor that a heading gets where the page is read.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// What is wrong with the alerts of a file of rules.
fn wrong(rules: &str, anchors: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for alert in rules.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap_or_default();
        let field = |field: &str| alert.lines().find_map(|line| line.trim().strip_prefix(field));
        for needed in ["severity: ", "summary: ", "description: "] {
            if field(needed).is_none_or(str::is_empty) {
                wrong.push(format!("{name} has no {needed}"));
            }
        }
        let leads = field("runbook: ").and_then(|url| url.strip_prefix(PAGE)?.strip_prefix('#'));
        if leads.is_none_or(|to| to != anchor(name) || !anchors.contains(to)) {
            wrong.push(format!("{name} leads to {leads:?}, which is not its heading"));
        }
    }
    wrong
}

/// The names of the events of a station, as its code has them.
fn events() -> Vec<String> {
    let code = file("crates/station/src/event.rs");
    let (_, names) = code.split_once("pub const fn name(self)").unwrap();
    let (names, _) = names.split_once("\n    }\n").unwrap();
    names
        .lines()
        .filter_map(|line| Some(line.split_once("=> \"")?.1.trim_end_matches("\",").to_owned()))
        .collect()
}

#[test]
fn each_alert_of_the_rules_leads_to_its_runbook() {
    let page = file("docs/runbooks.md");
    let anchors: BTreeSet<String> = headings(&page).into_iter().map(anchor).collect();
    for path in RULES {
        let rules = file(path);
        assert!(rules.matches("- alert: ").count() > 5, "{path}");
        assert_eq!(wrong(&rules, &anchors), [""; 0], "{path}");
        for (good, bad) in [
            ("runbooks.md#papstationdown", "runbooks.md#papstationup"),
            ("runbooks.md#papcollectordown", "runbooks.md"),
            ("summary: ", "said: "),
            ("severity: critical", "level: critical"),
        ] {
            let broken = rules.replace(good, bad);
            assert_eq!(broken == rules, wrong(&broken, &anchors).is_empty(), "{path}: {bad} is not noticed");
        }
    }
}

#[test]
fn whatever_people_are_told_has_a_runbook_and_no_runbook_is_of_something_else() {
    let page = file("docs/runbooks.md");
    let named: Vec<&str> = headings(&page).into_iter().flat_map(|heading| heading.split(", ")).collect();
    let events = events();
    assert_eq!(events.len(), 13, "{events:?}");
    let rules = RULES.map(file);
    let mut told: BTreeSet<&str> = rules
        .iter()
        .flat_map(|rules| rules.split("- alert: ").skip(1))
        .filter_map(|alert| alert.lines().next())
        .collect();
    told.extend(AlertName::ALL.map(AlertName::as_str));
    told.extend(Kind::ALL.map(Kind::as_str));
    told.extend(events.iter().map(String::as_str));
    let has: BTreeSet<&str> = named.iter().copied().collect();
    assert_eq!(has.len(), named.len(), "a name has two runbooks: {named:?}");
    assert_eq!(told.difference(&has).collect::<Vec<_>>(), [&""; 0], "they have no runbook");
    assert_eq!(has.difference(&told).collect::<Vec<_>>(), [&""; 0], "nobody is told of them");
    // Each is short, and says the same things in the same order.
    for runbook in page.split("\n### ").skip(1) {
        let title = runbook.lines().next().unwrap();
        let mut rest = runbook;
        for part in ["**Means**", "**Urgent**", "**Look**", "**Do**", "**Ends**", "**False**"] {
            let at = rest.find(part).unwrap_or_else(|| panic!("{title}: no {part}, or not in its place"));
            rest = &rest[at..];
        }
        let body = runbook.split("\n## ").next().unwrap();
        assert!(body.lines().count() <= 26, "{title} is long");
    }
}

#[test]
fn anchors_are_those_of_the_place_where_the_page_is_read() {
    assert_eq!(anchor("PapAgentDead, AGENT_DEATH, agent.dead"), "papagentdead-agent_death-agentdead");
}
