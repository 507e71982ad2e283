//! Bodies that are sent in chunks (RFC 9112 §7.1).

/// The most bytes of chunk lines and trailers, which are no content.
pub const MAX_FRAMING: usize = 4096;
/// More digits than any length that is taken has, leading zeros included.
const MAX_DIGITS: usize = 16;

/// What the bytes after a head are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// More is to come.
    Partial,
    /// The body ends after `consumed` bytes and has `length` bytes of content.
    Whole {
        /// Bytes that the body takes up, framing included.
        consumed: usize,
        /// Bytes of content in the buffer.
        length: usize,
    },
    /// The chunks announce more content than the buffer holds.
    TooLong,
    /// The bytes are no chunks, or have too much framing.
    Malformed,
}

/// Decodes a body from its beginning into `content`.
pub fn decode(bytes: &[u8], content: &mut [u8]) -> Decoded {
    let (mut at, mut length, mut framing) = (0, 0_usize, 0);
    loop {
        let line = match line(&bytes[at..], MAX_FRAMING - framing) {
            Ok(Some(line)) => line,
            Ok(None) => return Decoded::Partial,
            Err(()) => return Decoded::Malformed,
        };
        framing += line.len() + 2;
        at += line.len() + 2;
        let Some(size) = chunk_size(line) else { return Decoded::Malformed };
        if size == 0 {
            break;
        }
        // The announced size decides: we do not wait for a body that we will not take.
        if length.saturating_add(size) > content.len() {
            return Decoded::TooLong;
        }
        let Some(chunk) = bytes.get(at..at + size) else { return Decoded::Partial };
        content[length..length + size].copy_from_slice(chunk);
        (at, length, framing) = (at + size, length + size, framing + 2);
        match bytes.get(at..at + 2) {
            Some(b"\r\n") => at += 2,
            None if bytes.get(at).is_none_or(|&byte| byte == b'\r') => return Decoded::Partial,
            Some(_) | None => return Decoded::Malformed,
        }
        if framing > MAX_FRAMING {
            return Decoded::Malformed;
        }
    }
    // Trailers are skipped.
    loop {
        match line(&bytes[at..], MAX_FRAMING - framing) {
            Ok(Some([])) => return Decoded::Whole { consumed: at + 2, length },
            Ok(Some(trailer)) => {
                framing += trailer.len() + 2;
                at += trailer.len() + 2;
            }
            Ok(None) => return Decoded::Partial,
            Err(()) => return Decoded::Malformed,
        }
    }
}

/// The line that `bytes` begin with, without its CRLF; None while it is not complete, an
/// error if it is no line or longer than `most`.
fn line(bytes: &[u8], most: usize) -> Result<Option<&[u8]>, ()> {
    match bytes.iter().position(|&byte| matches!(byte, b'\n' | 0)) {
        Some(end) if bytes[end] == 0 || end + 1 > most => Err(()),
        Some(end) => bytes[..end].strip_suffix(b"\r").map(Some).ok_or(()),
        None if bytes.len() > most => Err(()),
        None => Ok(None),
    }
}

/// The size in a chunk's line; extensions are skipped.
fn chunk_size(line: &[u8]) -> Option<usize> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    let is_extension = rest.trim_ascii_start().first().is_none_or(|&byte| byte == b';');
    if digits.is_empty() || digits.len() > MAX_DIGITS || !is_extension {
        return None;
    }
    let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    Some(usize::try_from(size).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(bytes: &[u8]) -> (Decoded, Vec<u8>) {
        let mut content = [0; 1024];
        let decoded = decode(bytes, &mut content);
        let length = if let Decoded::Whole { length, .. } = decoded { length } else { 0 };
        (decoded, content[..length].to_vec())
    }

    #[test]
    fn chunks_extensions_and_trailers_are_read() {
        let body = b"4\r\n{\"a\"\r\n00A ; x=\"y\"\r\n:12345678}\r\n0\r\nX-Sum: 7\r\n\r\nnext";
        let (whole, content) = decoded(body);
        assert_eq!(whole, Decoded::Whole { consumed: body.len() - 4, length: 14 });
        assert_eq!(content, b"{\"a\":12345678}");
        for end in 0..body.len() - 4 {
            assert_eq!(decoded(&body[..end]).0, Decoded::Partial, "{end}");
        }
        assert_eq!(decoded(b"0\r\n\r\n").0, Decoded::Whole { consumed: 5, length: 0 });
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for body in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "0x1\r\n",
            "1\n",
            "1 2\r\n",
            "1\r\nab\r\n",
            "11111111111111111\r\n",
            "0\r\nX\n\r\n",
        ] {
            assert_eq!(decoded(body.as_bytes()).0, Decoded::Malformed, "{body:?}");
        }
        assert_eq!(decoded(format!("1;{}", "x".repeat(MAX_FRAMING)).as_bytes()).0, Decoded::Malformed);
        assert_eq!(decoded(format!("0\r\n{}", "X: 1\r\n".repeat(700)).as_bytes()).0, Decoded::Malformed);
        assert_eq!(decoded("1\r\na\r\n".repeat(1000).as_bytes()).0, Decoded::Malformed, "mostly framing");
    }

    #[test]
    fn exactly_what_fits_is_taken_and_more_is_known_by_its_announcement() {
        let body = format!("400\r\n{}\r\n0\r\n\r\n", "x".repeat(1024));
        assert_eq!(decoded(body.as_bytes()).0, Decoded::Whole { consumed: body.len(), length: 1024 });
        assert_eq!(decoded(b"401\r\n").0, Decoded::TooLong);
        assert_eq!(decoded(b"ffffffffffffffff\r\n").0, Decoded::TooLong);
        assert_eq!(decoded(format!("3ff\r\n{}\r\n2\r\n", "x".repeat(1023)).as_bytes()).0, Decoded::TooLong);
    }

    proptest! {
        #[test]
        fn whatever_is_chunked_comes_back(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 0..16)) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            let (whole, content) = decoded(&bytes);
            prop_assert_eq!(whole, Decoded::Whole { consumed: bytes.len(), length: content.len() });
            prop_assert_eq!(content, chunks.concat());
            for end in 0..bytes.len() {
                prop_assert_eq!(decoded(&bytes[..end]).0, Decoded::Partial);
            }
        }

        #[test]
        fn any_bytes_are_chunks_or_not(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let _ = decoded(&bytes);
        }
    }
}
