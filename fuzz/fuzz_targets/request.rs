//! A client's bytes: a request is found whole or not at all, whatever follows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pap_collector::server::frame;

fuzz_target!(|bytes: &[u8]| {
    if let Some(length) = frame(bytes) {
        assert!(length <= bytes.len());
        assert_eq!(frame(&bytes[..length]), Some(length));
        assert_eq!(frame(&bytes[..length - 1]), None);
    }
});
