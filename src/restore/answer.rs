//! The head of an answer: what it says, and where what follows it ends.

use std::io;
use std::time::Duration;

use crate::limits::{COME_AGAIN_MAX_MS, HEADERS_MAX};

pub(super) fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Where the body behind a head ends (RFC 9112, section 6.3).
pub(super) enum Body {
    /// There is none.
    None,
    Known(u64),
    Chunks,
    /// All that comes.
    UntilEnd,
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    /// The target that it is of, where the server has sent the request to another.
    pub moved: Option<String>,
    fields: Vec<(String, String)>,
    /// Whether no other follows it on its connection.
    pub closes: bool,
}

impl Answer {
    /// Reads a head and gives its length, if all of it is there.
    pub(super) fn parse(bytes: &[u8]) -> io::Result<Option<(Answer, usize)>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let parsed = head
            .parse(bytes)
            .map_err(|_| bad("the answer is not HTTP"))?;
        let httparse::Status::Complete(len) = parsed else {
            return Ok(None);
        };
        let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
        let fields = head.headers.iter();
        let mut answer = Answer {
            status: head.code.unwrap_or_default(),
            moved: None,
            fields: fields
                .map(|h| (h.name.to_ascii_lowercase(), text(h.value)))
                .collect(),
            closes: head.version == Some(0),
        };
        let connection = answer.get("connection").unwrap_or_default();
        answer.closes |= connection.to_ascii_lowercase().contains("close");
        Ok(Some((answer, len)))
    }

    /// Whether another answer follows this one. 101 gives the connection another protocol, which nobody asked for.
    pub(super) fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..=199)
    }

    pub(super) fn body(&self) -> io::Result<Body> {
        if matches!(self.status, 204 | 304) || self.is_interim() {
            return Ok(Body::None);
        }
        match (self.get("transfer-encoding"), self.length()?) {
            (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => Ok(Body::Chunks),
            (Some(_), _) => Err(bad("the answer is in an encoding that nobody asked for")),
            (None, Some(len)) => Ok(Body::Known(len)),
            (None, None) => Ok(Body::UntilEnd),
        }
    }

    /// A header's value; `name` in lower case.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// After how long a server that is busy is to be asked again, if it says so.
    pub(super) fn again(&self) -> Option<Duration> {
        let seconds: u64 = self.get("retry-after")?.trim().parse().ok()?;
        let after = Duration::from_secs(seconds.max(1));
        Some(after.min(Duration::from_millis(COME_AGAIN_MAX_MS)))
    }

    /// The length of the body, if it is said: a number of digits, each time the same.
    fn length(&self) -> io::Result<Option<u64>> {
        let all = self
            .fields
            .iter()
            .filter(|(name, _)| name == "content-length");
        let mut length = None;
        for (_, value) in all {
            let is_number = value.bytes().all(|b| b.is_ascii_digit());
            let said = value.parse().ok().filter(|_| is_number);
            let said = said.ok_or_else(|| bad("the length of the answer is no number"))?;
            if *length.get_or_insert(said) != said {
                return Err(bad("the answer has two lengths"));
            }
        }
        Ok(length)
    }

    /// First byte and total of `Content-Range`; the total is `None` while it is unknown.
    pub(super) fn content_range(&self) -> Option<(Option<u64>, Option<u64>)> {
        let value = self.get("content-range")?.strip_prefix("bytes ")?;
        let (range, total) = value.split_once('/')?;
        let start = range
            .split_once('-')
            .and_then(|(start, _)| start.parse().ok());
        Some((start, total.parse().ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(fields: &str) -> Result<Body, String> {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        let (answer, len) = Answer::parse(head.as_bytes()).unwrap().unwrap();
        assert_eq!(len, head.len());
        answer.body().map_err(|e| e.to_string())
    }

    /// Who would have to guess where an answer ends does not.
    #[test]
    fn where_a_body_ends_is_said_or_unknown() {
        let known = |fields| matches!(body(fields), Ok(Body::Known(5)));
        assert!(known("Content-Length: 5\r\n"));
        assert!(known("Content-Length: 5\r\ncontent-length: 5\r\n"));
        let chunked = "Transfer-Encoding: Chunked\r\nContent-Length: 5\r\n";
        assert!(matches!(body(chunked), Ok(Body::Chunks)));
        assert!(matches!(body("X: y\r\n"), Ok(Body::UntilEnd)));
        for wrong in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 18446744073709551616\r\n",
            "Content-Length:\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
        ] {
            assert!(body(wrong).is_err(), "{wrong}");
        }
    }
}
