//! A client's bytes: a request is found whole or not at all, whatever follows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pap_http::parse::{Parsed, Room, parse};

/// How long the request is that these bytes begin with; none where there is none.
fn whole(bytes: &[u8]) -> Option<usize> {
    match parse(bytes, &mut Room::new(&mut [0; 1024])) {
        Parsed::Whole { length, request, .. } => {
            assert!(request.body.len() <= 1024);
            Some(length)
        }
        Parsed::Partial { .. } | Parsed::Refused(_) => None,
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Some(length) = whole(bytes) {
        assert!(length <= bytes.len());
        assert_eq!(whole(&bytes[..length]), Some(length));
        assert_eq!(whole(&bytes[..length - 1]), None);
    }
});
