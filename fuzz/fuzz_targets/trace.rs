//! A trace of any content is replayed or passed over, and every record is judged.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pap_core::replay::Replay;
use pap_core::trace::read::{Found, block};
use pap_core::trace::tape::seal;

fuzz_target!(|bytes: &[u8]| {
    // Without a check sum that is right no record would be reached.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut whole = [b"PapT\x01".as_slice(), &length, &[0; 4], bytes].concat();
    seal(&mut whole);
    for offered in [bytes, &whole] {
        let (mut rest, mut replay) = (offered, Replay::new(Some(Duration::from_millis(1))));
        while !rest.is_empty() {
            rest = match block(rest) {
                Found::Block { records, length } => {
                    for record in records.flatten() {
                        replay.take(&record);
                    }
                    &rest[length..]
                }
                Found::Damaged(length) => &rest[length..],
                Found::Cut | Found::Newer(_) => break,
            };
        }
        if let Some(report) = replay.end() {
            assert!(report.false_deaths <= report.deaths);
        }
    }
});
