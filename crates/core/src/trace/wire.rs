//! Numbers, texts, blocks and check sums as they are written.

use crate::agent_id::AgentId;
use crate::heartbeat::MAX_TEXT;

/// What a block begins with. A reader that lost its place looks for it.
pub const MAGIC: [u8; 4] = *b"PapT";
/// [`MAGIC`], the version, the length of the records and their check sum, each of these
/// two in four bytes, the lowest first.
pub const HEADER: usize = MAGIC.len() + 1 + 4 + 4;
/// A block is closed when its records have this many bytes.
pub const FULL_BLOCK: usize = 64 * 1024;
/// No record has more bytes.
const LONGEST_RECORD: usize = 256;
/// No block has more bytes of records.
pub const LONGEST_BLOCK: usize = FULL_BLOCK + LONGEST_RECORD;
/// The most bytes of a number.
const LONGEST_NUMBER: usize = 10;
/// The lengths of texts are at most 128, so this one says that 16 bytes of a UUID follow.
const UUID: u64 = MAX_TEXT as u64 + 1;

/// Stands in the place of a verdict: suspect, and the death is held back.
pub const HELD: u64 = 3;

/// The first byte of a record.
pub mod tag {
    /// A heartbeat: this, and the mode's place in `Mode::ALL`.
    pub const BEAT: u8 = 0;
    pub const NAMED: u8 = 3;
    pub const SWEPT: u8 = 4;
    pub const MARK: u8 = 5;
    pub const PAUSED: u8 = 6;
    pub const FORGOT: u8 = 7;
    pub const GAP: u8 = 8;
    pub const STOPPED: u8 = 9;
    pub const KNOWN: u8 = 10;
    pub const HEAD: u8 = 11;
}

/// Appends a number: seven bits a byte, the lowest first. The highest bit of a byte
/// says that another one follows.
pub fn number(out: &mut Vec<u8>, mut number: u64) {
    let (mut bytes, mut length) = ([0; LONGEST_NUMBER], 0);
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        bytes[length] = if number == 0 { low } else { low | 0x80 };
        length += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&bytes[..length]);
}

/// Appends an agent's id.
pub fn id(out: &mut Vec<u8>, id: &AgentId) {
    if let Some(uuid) = id.as_uuid() {
        number(out, UUID);
        out.extend_from_slice(uuid);
    } else {
        let text = id.to_string();
        number(out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
}

/// Takes values from the front of some bytes. None means that the bytes are no record.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    pub fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for place in 0..LONGEST_NUMBER {
            let byte = self.byte()?;
            let low = u64::from(byte & 0x7f);
            // The last byte has room for one bit.
            if place == LONGEST_NUMBER - 1 && low > 1 {
                return None;
            }
            number |= low << (7 * place);
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    pub fn bytes(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn id(&mut self) -> Option<AgentId> {
        match self.number()? {
            UUID => Some(AgentId::from_uuid(self.bytes(16)?.try_into().ok()?)),
            length => AgentId::new(std::str::from_utf8(self.bytes(length)?).ok()?).ok(),
        }
    }
}

/// The CRC-32 of ISO-HDLC, as in gzip (RFC 1952 §8).
pub fn check_sum(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !bytes.iter().fold(!0, |sum: u32, &byte| TABLE[((sum ^ u32::from(byte)) & 0xff) as usize] ^ (sum >> 8))
}

#[expect(clippy::cast_possible_truncation, reason = "the table has 256 places")]
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut place = 0;
    while place < table.len() {
        let (mut sum, mut bit) = (place as u32, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { 0xedb8_8320 ^ (sum >> 1) } else { sum >> 1 };
            bit += 1;
        }
        table[place] = sum;
        place += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_check_sum_is_the_known_one() {
        assert_eq!(check_sum(b"123456789"), 0xcbf4_3926);
        assert_eq!(check_sum(b""), 0);
    }

    #[test]
    fn a_number_that_has_no_end_or_no_room_is_none() {
        for wrong in
            [&[] as &[u8], &[0x80], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]]
        {
            assert_eq!(Input(wrong).number(), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value: u64, text in "\\PC{1,32}", uuid: [u8; 16]) {
            let mut out = Vec::new();
            number(&mut out, value);
            let named = AgentId::new(&text).unwrap();
            let short = AgentId::from_uuid(uuid);
            id(&mut out, &named);
            id(&mut out, &short);
            let mut input = Input(&out);
            prop_assert_eq!(input.number(), Some(value));
            prop_assert_eq!(input.id(), Some(named));
            prop_assert_eq!(input.id(), Some(short));
            prop_assert!(input.0.is_empty());
        }
    }
}
