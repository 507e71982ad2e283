//! A state file of any content is read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pap_collector::state_file;

fuzz_target!(|content: &[u8]| {
    let _ = state_file::read("cluster", content);
});
