//! The heads of answers, before the HTTP library sees them.
//!
//! The library refuses an answer with a field over several lines, with more than 128
//! fields, or with one malformed line. Then the status would be lost, and the request
//! would be sent again. So a connection of ours brings each head into a form that the
//! library takes: fields are unfolded (RFC 9112 §5.2), and what is malformed or too
//! much is left out, unless the message depends on it.

use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

/// Where the status begins in a head: after the version and a space.
const STATUS: usize = 9;
/// The longest head, in bytes.
const LONGEST: usize = 64 * 1024;
/// Fields are passed on while they are at most this many, and this many bytes.
const MOST_FIELDS: usize = 64;
const MOST_BYTES: usize = 8 * 1024;
/// Fields that are always passed on: they say where the message ends, or are read.
const NEEDED: [&str; 7] = [
    "connection",
    "content-length",
    "transfer-encoding",
    "content-encoding",
    "content-type",
    "location",
    "retry-after",
];

/// Makes connections whose answers have tidy heads.
#[derive(Debug)]
pub struct Tidying;

impl<In: Transport> Connector<In> for Tidying {
    type Out = Tidied<In>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Tidied<In>>, ureq::Error> {
        let (input, output) = (details.config.input_buffer_size(), details.config.output_buffer_size());
        let tidied =
            |inner| Tidied { inner, buffers: LazyBuffers::new(input, output), head: Some(Head::default()) };
        Ok(chained.map(tidied))
    }
}

/// A connection whose answers have tidy heads.
#[derive(Debug)]
pub struct Tidied<T> {
    inner: T,
    buffers: LazyBuffers,
    /// The head of the answer as far as it came; none once it is complete.
    head: Option<Head>,
}

impl<T: Transport> Transport for Tidied<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        // A request is sent, so the next answer begins with a head.
        self.head.get_or_insert_default();
        let mut rest = &self.buffers.output()[..amount];
        while !rest.is_empty() {
            let room = self.inner.buffers().output();
            let count = rest.len().min(room.len());
            room[..count].copy_from_slice(&rest[..count]);
            self.inner.transmit_output(count, timeout)?;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Reads once, so that the library's time limits hold. While a head is incomplete,
    /// it has read something, and there is nothing to look at yet.
    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let has_read = self.inner.maybe_await_input(timeout)?;
        let input = self.inner.buffers().input();
        let room = self.buffers.input_append_buf();
        let (read, written) = if let Some(head) = &mut self.head {
            let (read, whole) = head.take(input);
            if head.bytes.len() > LONGEST {
                return Err(ureq::Error::LargeResponseHeader(head.bytes.len(), LONGEST));
            }
            let tidy = if whole { tidied(&std::mem::take(head).bytes) } else { Vec::new() };
            if tidy.len() > room.len() {
                return Err(ureq::Error::LargeResponseHeader(tidy.len(), room.len()));
            }
            room[..tidy.len()].copy_from_slice(&tidy);
            // The answer itself follows an interim answer (RFC 9110 §15.2).
            if whole && tidy.get(STATUS) != Some(&b'1') {
                self.head = None;
            }
            (read, tidy.len())
        } else {
            let count = input.len().min(room.len());
            room[..count].copy_from_slice(&input[..count]);
            (count, count)
        };
        self.inner.buffers().input_consume(read);
        self.buffers.input_appended(written);
        Ok(has_read)
    }

    fn is_open(&mut self) -> bool {
        self.buffers.input().is_empty() && self.inner.buffers().input().is_empty() && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// A head as far as it came.
#[derive(Debug, Default)]
struct Head {
    bytes: Vec<u8>,
    /// Where its last line begins.
    line: usize,
}

impl Head {
    /// Takes what belongs to the head. Returns how many bytes that were, and whether
    /// the head is complete.
    fn take(&mut self, input: &[u8]) -> (usize, bool) {
        for (at, &byte) in input.iter().enumerate() {
            self.bytes.push(byte);
            if byte != b'\n' {
                continue;
            }
            let is_empty = matches!(&self.bytes[self.line..], b"\n" | b"\r\n");
            let has_begun = self.line > 0;
            if is_empty && has_begun {
                return (at + 1, true);
            }
            // An empty line before the head is none of it.
            if is_empty {
                self.bytes.clear();
            }
            self.line = self.bytes.len();
        }
        (input.len(), false)
    }
}

/// A complete head in the form that the library takes.
fn tidied(head: &[u8]) -> Vec<u8> {
    let mut lines = head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut tidy = lines.next().unwrap_or_default().to_vec();
    tidy.extend_from_slice(b"\r\n");
    let mut fields: Vec<Vec<u8>> = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        match fields.last_mut() {
            Some(field) if line.starts_with(b" ") || line.starts_with(b"\t") => {
                field.push(b' ');
                field.extend_from_slice(line.trim_ascii());
            }
            _ => fields.push(line.to_vec()),
        }
    }
    let (mut count, mut bytes) = (0, 0);
    for field in fields {
        let Some(colon) = field.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = (field[..colon].trim_ascii_end(), field[colon + 1..].trim_ascii());
        let is_needed = NEEDED.iter().any(|needed| name.eq_ignore_ascii_case(needed.as_bytes()));
        let has_room = count < MOST_FIELDS && bytes + field.len() <= MOST_BYTES;
        let is_good = has_room && is_token(name) && is_text(value);
        if !(is_needed || is_good) {
            continue;
        }
        (count, bytes) = (count + 1, bytes + field.len());
        tidy.extend_from_slice(name);
        tidy.extend_from_slice(b": ");
        tidy.extend_from_slice(value);
        tidy.extend_from_slice(b"\r\n");
    }
    tidy.extend_from_slice(b"\r\n");
    tidy
}

/// Whether this is a field's name (RFC 9110 §5.6.2).
fn is_token(name: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Whether this is a field's value (RFC 9110 §5.5), without line breaks.
fn is_text(value: &[u8]) -> bool {
    value.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(head: &str) -> String {
        String::from_utf8(tidied(head.as_bytes())).unwrap()
    }

    #[test]
    fn a_good_head_stays_as_it_is() {
        for head in ["HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\n", "HTTP/1.0 404\r\n\r\n"] {
            assert_eq!(text(head), head);
        }
    }

    #[test]
    fn fields_are_unfolded_and_what_is_malformed_is_left_out() {
        let head = "HTTP/1.1 429 No\r\nRetry-After:\r\n\t 30\nno colon\r\nX: a\r\n  b\r\n c\r\n(: 1\r\n: 2\r\nY: \x01\r\n\
                    Content-Length : 2\r\n\r\n";
        let tidy = "HTTP/1.1 429 No\r\nRetry-After: 30\r\nX: a b c\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(text(head), tidy);
        // No field comes before this line, so it continues none.
        assert_eq!(text("HTTP/1.1 200 OK\r\n folded: no\r\nA: b\r\n\r\n"), "HTTP/1.1 200 OK\r\nA: b\r\n\r\n");
    }

    #[test]
    fn of_many_fields_those_that_matter_are_kept() {
        use std::fmt::Write as _;
        let mut head = "HTTP/1.1 200 OK\r\n".to_owned();
        for number in 0..1000 {
            let _ = write!(head, "X-{number}: {}\r\n", "y".repeat(number));
        }
        head.push_str("RETRY-AFTER: 5\r\nContent-Length: 0\r\n\r\n");
        let tidy = text(&head);
        assert!(tidy.ends_with("RETRY-AFTER: 5\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(tidy.matches("X-").count(), MOST_FIELDS);
        assert!(tidy.len() < MOST_BYTES + 1024, "{}", tidy.len());
    }

    #[test]
    fn a_head_is_found_however_it_arrives() {
        let bytes = b"\r\n\nHTTP/1.1 200 OK\r\nA: b\n\r\nbody";
        for size in 1..bytes.len() {
            let (mut head, mut total, mut is_whole) = (Head::default(), 0, false);
            for piece in bytes.chunks(size) {
                let (read, whole) = head.take(piece);
                total += read;
                is_whole = whole;
                if whole {
                    break;
                }
                assert_eq!(read, piece.len());
            }
            assert!(is_whole);
            assert_eq!(&bytes[total..], b"body", "in pieces of {size}");
            assert_eq!(head.bytes, b"HTTP/1.1 200 OK\r\nA: b\n\r\n");
        }
    }
}
