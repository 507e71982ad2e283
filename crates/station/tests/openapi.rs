//! docs/openapi/station.yaml against the table of routes: it has every route with who may ask, and no
//! other. `.ci/openapi` checks the rest of it: schemas, examples, and answers to thousands of requests.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

#[path = "../../../tests/openapi/description.rs"]
mod description;

use std::collections::{BTreeMap, BTreeSet};

use description::{operations, version};
use pap_station::api::{Need, ROUTES};

const DESCRIPTION: &str = include_str!("../../../docs/openapi/station.yaml");

/// The security schemes that a need is described with.
const fn keys(need: Need) -> &'static [&'static str] {
    match need {
        Need::Nothing => &[],
        Need::Collector => &["collectorKey", "adminKey", "session"],
        Need::Agent => &["agentKey", "adminKey", "session"],
        Need::Machine => &["machineApiKey", "machineKey", "adminKey", "session"],
        Need::Viewer => &["viewerKey", "adminKey", "session"],
        Need::Admin => &["adminKey", "session"],
        Need::MetricsKey => &["metricsKey", "viewerKey", "adminKey", "session"],
    }
}

/// A path without the names of its parameters.
fn plain(path: &str) -> String {
    let parts = path.split('/').map(|part| if part.starts_with([':', '{']) { ":" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[test]
fn every_route_is_described_with_who_may_ask_and_no_other() {
    let routes: BTreeMap<_, BTreeSet<_>> = ROUTES
        .iter()
        .map(|route| {
            let keys = keys(route.need).iter().map(|&key| key.to_owned());
            ((plain(route.path), route.method.to_owned()), keys.collect())
        })
        .collect();
    let described: BTreeMap<_, _> = operations(DESCRIPTION)
        .into_iter()
        .map(|operation| ((plain(&operation.path), operation.method), operation.keys))
        .collect();
    assert_eq!(described, routes);
}

#[test]
fn whoever_needs_a_key_may_be_told_so() {
    for operation in operations(DESCRIPTION) {
        let needs_key = !operation.keys.is_empty();
        let is_signing_in = operation.path == "/api/session" && operation.method == "POST";
        for status in [401, 429] {
            let is_described = operation.statuses.contains(&status);
            assert_eq!(is_described, needs_key || is_signing_in, "{status}: {operation:?}");
        }
    }
}

#[test]
fn the_description_is_of_this_version() {
    assert_eq!(version(DESCRIPTION), Some(pap_station::VERSION));
}
