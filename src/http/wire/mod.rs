//! HTTP/1.x as pure functions over bytes: no I/O, no clock, no allocation beyond the caller's
//! buffers. What a request means is decided here; when bytes are read and sent is not.
//!
//! ```text
//! bytes -> head::parse_from -> RequestHead -> route::route -> Route of the table
//!                                  |-> body::Decoder (request body, bounded)
//!                                  |-> precondition::evaluate, range::requested
//! answer -> response::Head, response::chunk_head -> the caller's Vec<u8>
//! ```
//!
//! Whatever leaves doubt about where a request ends is refused and closes the connection
//! ([`Reject::close`]): guessing is how one request is smuggled inside another.

pub mod body;
pub(crate) mod cache_control;
pub(crate) mod caching;
pub mod forwarded;
pub(crate) mod gzip;
pub mod head;
pub(crate) mod payload;
pub mod precondition;
mod query;
pub mod range;
mod repo_ref;
pub(crate) mod response;
pub mod route;
mod scan;
pub mod table;

use crate::limits::FIELD_LINES_MAX;

/// A request that is not served, and how to say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct Reject {
    /// The status to answer with, 4xx or 5xx.
    pub status: u16,
    /// One line without line end: what is wrong and what to do.
    pub message: &'static str,
    /// True when the bytes behind this request can no longer be trusted to be a request: answer,
    /// then close. When false, the request's own framing still tells where it ends.
    pub close: bool,
    /// The value of `Allow`; present exactly with status 405.
    pub allow: Option<&'static str>,
}

impl Reject {
    /// A refusal after which the connection can go on.
    pub(crate) const fn new(status: u16, message: &'static str) -> Self {
        Self {
            status,
            message,
            close: false,
            allow: None,
        }
    }

    /// A refusal after which the connection must be closed.
    pub(crate) const fn closing(status: u16, message: &'static str) -> Self {
        Self {
            status,
            message,
            close: true,
            allow: None,
        }
    }
}

/// The request method (RFC 9110 section 9). Names are case-sensitive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`: as GET, but no body may be sent, not even with an error.
    Head,
    /// `POST`
    Post,
    /// Any other token. [`route::route`] answers it with 501; it is not refused earlier because
    /// its framing is as good as any other's, so the connection need not be closed.
    Other,
}

/// The protocol version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunked coding in either direction, closes unless asked not to.
    Http10,
    /// HTTP/1.1
    Http11,
}

/// The values of a header that may be repeated, in the order of the request. Lines of one list
/// mean the same as one line joined by commas (RFC 9110 section 5.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FieldLines<'a> {
    lines: [&'a [u8]; FIELD_LINES_MAX],
    len: usize,
}

impl<'a> FieldLines<'a> {
    /// Adds a line; false, and nothing changes, when there is no room for another.
    #[must_use]
    pub fn push(&mut self, line: &'a [u8]) -> bool {
        let Some(slot) = self.lines.get_mut(self.len) else {
            return false;
        };
        *slot = line;
        self.len += 1;
        true
    }

    /// True when the header was not sent at all.
    pub fn is_absent(&self) -> bool {
        self.len == 0
    }

    /// The lines in order, without the white space around them.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &'a [u8]> + '_ {
        self.lines.iter().take(self.len).copied()
    }
}

/// The characters of a token, such as a method or a header name (RFC 9110 section 5.6.2).
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+')
        || matches!(byte, b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// The characters of a header value: everything but control characters (RFC 9110 section 5.5).
pub(crate) const fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
#[path = "../../../tests/corpus/hostile.rs"]
pub(crate) mod hostile;

#[cfg(test)]
mod tests {
    use super::head::{Framing, Parse, parse};
    use super::hostile::{HOSTILE, HOSTILE_CHUNKS};
    use super::{Reject, body, route};
    use crate::limits::BODY_BYTES_MAX;

    /// What the server decides before it does anything for a request.
    fn verdict(bytes: &[u8]) -> Result<(), Reject> {
        let Parse::Complete { head, .. } = parse(bytes)? else {
            panic!("the head is not complete");
        };
        route::route(head.method, head.target)?.named().map(|_| ())
    }

    #[test]
    fn hostile_requests_get_their_status() {
        for &(name, bytes, status, closes) in HOSTILE {
            let reject = verdict(bytes).expect_err(name);
            assert_eq!(
                (reject.status, reject.close),
                (status, closes),
                "{name}: {reject}"
            );
            assert_eq!(reject.allow.is_some(), status == 405, "{name}");
        }
    }

    #[test]
    fn hostile_chunks_close_the_connection() {
        for &(name, bytes, status) in HOSTILE_CHUNKS {
            let mut decoder = body::Decoder::new(Framing::Chunked, BODY_BYTES_MAX).unwrap();
            let reject = decoder.decode(bytes, &mut Vec::new()).expect_err(name);
            assert_eq!(
                (reject.status, reject.close),
                (status, true),
                "{name}: {reject}"
            );
        }
    }

    #[test]
    fn messages_are_one_line_that_fits_a_terminal() {
        let chunks = HOSTILE_CHUNKS.iter().map(|&(_, bytes, _)| {
            let mut decoder = body::Decoder::new(Framing::Chunked, BODY_BYTES_MAX).unwrap();
            decoder.decode(bytes, &mut Vec::new()).unwrap_err()
        });
        let heads = HOSTILE
            .iter()
            .map(|&(_, bytes, ..)| verdict(bytes).unwrap_err());
        for Reject { message, .. } in heads.chain(chunks) {
            assert!(
                message.bytes().all(|b| (b' '..0x7f).contains(&b)),
                "{message}"
            );
            assert!((20..=90).contains(&message.len()), "{message}");
        }
    }
}
