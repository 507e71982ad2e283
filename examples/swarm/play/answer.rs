//! Bytes that came become an HTTP answer.

/// An answer.
#[derive(Debug, Eq, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// How many bytes it takes, head and body.
    pub length: usize,
    /// The server closes the connection after it.
    pub closes: bool,
}

/// The first answer in `bytes`; None if it is not complete. An answer whose length
/// its head does not say is an error.
pub fn parse(bytes: &[u8]) -> Result<Option<Answer>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("the answer is not HTTP: {error}")),
    };
    let status = head.code.unwrap_or(0);
    let find = |name: &str| {
        let header = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    let closes = find("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let body = find("content-length").and_then(|value| value.parse::<usize>().ok());
    let body = body.ok_or_else(|| format!("an answer {status} without Content-Length"))?;
    let length = length + body;
    Ok((bytes.len() >= length).then_some(Answer { status, length, closes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_body() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nconnection: Close\r\n\r\nabcHTTP";
        assert_eq!(parse(whole), Ok(Some(Answer { status: 200, length: whole.len() - 4, closes: true })));
        for end in 0..whole.len() - 4 {
            assert_eq!(parse(&whole[..end]), Ok(None), "{end}");
        }
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse(b"SSH-2.0\r\n\r\n").is_err());
    }
}
