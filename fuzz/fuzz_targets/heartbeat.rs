//! A heartbeat's body: what is accepted keeps its promises.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pap_core::heartbeat::Heartbeat;

fuzz_target!(|body: &[u8]| {
    if let Ok(beat) = Heartbeat::from_json(body) {
        assert!(beat.uptime.is_finite() && beat.uptime >= 0.0);
        assert!(beat.name.is_none_or(|name| name.len() <= 128));
    }
});
