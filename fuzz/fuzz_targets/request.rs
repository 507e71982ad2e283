//! A request's head: method, target and header lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pap_collector::server::parse_head;

fuzz_target!(|head: &str| {
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default();
    let (method, url) = first.split_once(' ').unwrap_or(("POST", first));
    parse_head(method, url, lines);
});
