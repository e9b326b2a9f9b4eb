//! Response heads, written into a buffer that the caller reuses; nothing else is allocated.
//!
//! Values that come from outside pass one check: a head that would hold a forbidden byte is not
//! written at all, so nobody can split a response by what they put into a name.

use std::num::NonZeroU64;

use super::caching::{Caching, Reach, VARY};
use super::{Reject, is_token_byte, is_value_byte};
use crate::limits::REFUSAL_RETRY_S;

/// When a client may try again that is answered with `status`, as far as the server can tell.
pub(crate) fn retry_after_s(status: u16) -> Option<u64> {
    (status == 503).then_some(REFUSAL_RETRY_S)
}

/// The interim response to `Expect: 100-continue`.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Behind the content of every chunk.
pub(crate) const CHUNK_END: &[u8] = b"\r\n";

/// Ends a chunked body. Sent only for a body that is complete: a client takes it as proof.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A header that must not be sent; the buffer is as it was before the head was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the value of the response header {name} holds a control character")]
pub(crate) struct BadHeader {
    /// The first such header.
    pub name: &'static str,
}

/// A response head in the making.
///
/// Invariant: `out[start..]` is a status line and whole header lines without forbidden bytes.
#[derive(Debug)]
#[must_use = "a head is complete only after finish()"]
pub(crate) struct Head<'b> {
    out: &'b mut Vec<u8>,
    start: usize,
    bad: Option<BadHeader>,
}

impl<'b> Head<'b> {
    /// Begins a head at the end of `out`. `date` is the current time as an HTTP date (RFC 9110
    /// section 5.6.7), made once a second by the caller; `caching` is what caches on the way may do with a
    /// success.
    pub(crate) fn new(out: &'b mut Vec<u8>, status: u16, date: &str, caching: Caching) -> Self {
        let start = out.len();
        out.extend_from_slice(b"HTTP/1.1 ");
        push_decimal(out, u64::from(status));
        out.push(b' ');
        out.extend_from_slice(reason(status).as_bytes());
        out.extend_from_slice(b"\r\n");
        let head = Self {
            out,
            start,
            bad: None,
        };
        let head = head
            .header("Date", date)
            .header("Cache-Control", caching.of_status(status).value());
        match caching.reach {
            Reach::Everybody => head,
            Reach::Asker => head.header("Vary", VARY),
        }
    }

    /// Any header. The value is checked; the name is the program's own.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        debug_assert!(!name.is_empty() && name.bytes().all(is_token_byte));
        if value.bytes().all(is_value_byte) {
            self.line(name, |out| out.extend_from_slice(value.as_bytes()));
        } else {
            self.bad = self.bad.or(Some(BadHeader { name }));
        }
        self
    }

    /// `Content-Length`, in bytes. Not together with [`Head::chunked`].
    pub(crate) fn content_length(self, length: u64) -> Self {
        self.number("Content-Length", length)
    }

    /// `Transfer-Encoding: chunked`. Only for HTTP/1.1 clients.
    pub(crate) fn chunked(self) -> Self {
        self.header("Transfer-Encoding", "chunked")
    }

    /// `Content-Range` of a 206; `len` is absent while the representation is still growing.
    pub(crate) fn content_range(
        mut self,
        start: u64,
        end_inclusive: u64,
        len: Option<u64>,
    ) -> Self {
        self.line("Content-Range", |out| {
            out.extend_from_slice(b"bytes ");
            push_decimal(out, start);
            out.push(b'-');
            push_decimal(out, end_inclusive);
            out.push(b'/');
            match len {
                Some(len) => push_decimal(out, len),
                None => out.push(b'*'),
            }
        });
        self
    }

    /// `Content-Range` of a 416.
    pub(crate) fn content_range_unsatisfiable(mut self, len: u64) -> Self {
        self.line("Content-Range", |out| {
            out.extend_from_slice(b"bytes */");
            push_decimal(out, len);
        });
        self
    }

    /// `ETag`, with its quotes.
    pub(crate) fn etag(self, etag: &str) -> Self {
        self.header("ETag", etag)
    }

    /// `Allow`, as a 405 must have it.
    pub(crate) fn allow(self, methods: &'static str) -> Self {
        self.header("Allow", methods)
    }

    /// `Age`, in seconds.
    pub(crate) fn age_s(self, seconds: u64) -> Self {
        self.number("Age", seconds)
    }

    /// `Retry-After`, in seconds.
    pub(crate) fn retry_after_s(self, seconds: u64) -> Self {
        self.number("Retry-After", seconds)
    }

    /// `Connection: keep-alive` or `close`. HTTP/1.0 clients need the first to be said.
    pub(crate) fn connection(self, keep_alive: bool) -> Self {
        self.header(
            "Connection",
            if keep_alive { "keep-alive" } else { "close" },
        )
    }

    /// Ends the head. When a header was bad, nothing of the head stays in the buffer.
    pub(crate) fn finish(self) -> Result<(), BadHeader> {
        if let Some(bad) = self.bad {
            self.out.truncate(self.start);
            return Err(bad);
        }
        self.out.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn number(mut self, name: &'static str, value: u64) -> Self {
        self.line(name, |out| push_decimal(out, value));
        self
    }

    fn line(&mut self, name: &'static str, value: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        value(self.out);
        self.out.extend_from_slice(b"\r\n");
    }
}

/// A whole response of one line of text, as all errors are answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    /// The status; not 204 or 304, which have no body.
    pub status: u16,
    /// The line, without its end. Control characters in it are sent as spaces.
    pub message: &'a str,
    /// `Allow`, for 405.
    pub allow: Option<&'static str>,
    /// `Retry-After` in seconds, for 503.
    pub retry_after_s: Option<u64>,
    /// What it is about: whether answers differ by who asks.
    pub reach: Reach,
    /// Whether the connection stays open afterwards.
    pub keep_alive: bool,
    /// The request was HEAD: the same head, but no body.
    pub head_only: bool,
}

impl<'a> Text<'a> {
    /// The answer to a request that is refused; `keep_alive` is what the connection would do
    /// without the reject.
    pub(crate) fn reject(reject: &Reject, keep_alive: bool, head_only: bool) -> Self {
        Self {
            status: reject.status,
            message: reject.message,
            allow: reject.allow,
            retry_after_s: retry_after_s(reject.status),
            reach: Reach::Everybody,
            keep_alive: keep_alive && !reject.close,
            head_only,
        }
    }

    /// Appends the response to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>, date: &str) -> Result<(), BadHeader> {
        let caching = Caching {
            reach: self.reach,
            ..Caching::NEVER
        };
        let mut head = Head::new(out, self.status, date, caching)
            .header("Content-Type", "text/plain; charset=utf-8")
            .content_length(self.message.len() as u64 + 1)
            .connection(self.keep_alive);
        if self.status == 401 {
            // git sends the password that its helper has for the server to whoever asks like this.
            head = head.header(
                "WWW-Authenticate",
                "Basic realm=\"tarpon\", charset=\"UTF-8\"",
            );
        }
        if let Some(methods) = self.allow {
            head = head.allow(methods);
        }
        if let Some(seconds) = self.retry_after_s {
            head = head.retry_after_s(seconds);
        }
        head.finish()?;
        if !self.head_only {
            let one_line = |byte: u8| if is_value_byte(byte) { byte } else { b' ' };
            out.extend(self.message.bytes().map(one_line));
            out.push(b'\n');
        }
        Ok(())
    }
}

/// The line before the content of a chunk, held inline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChunkHead {
    bytes: [u8; Self::BYTES_MAX],
    start: usize,
}

impl ChunkHead {
    /// Sixteen hex digits and CRLF.
    const BYTES_MAX: usize = 18;

    /// What to send.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

/// The line before `len` bytes of content, behind which [`CHUNK_END`] follows. Zero cannot be
/// asked for because it would end the body; that is [`LAST_CHUNK`]'s alone to say.
pub(crate) fn chunk_head(len: NonZeroU64) -> ChunkHead {
    let mut bytes = *b"0000000000000000\r\n";
    let digits = len.get().ilog2() as usize / 4 + 1;
    let start = ChunkHead::BYTES_MAX - 2 - digits;
    let mut rest = len.get();
    for slot in bytes.iter_mut().take(ChunkHead::BYTES_MAX - 2).rev() {
        // Masked to four bits, so the table always has it.
        *slot = b"0123456789abcdef"[(rest & 0xf) as usize];
        rest >>= 4;
    }
    ChunkHead { bytes, start }
}

fn push_decimal(out: &mut Vec<u8>, value: u64) {
    let digits = value.checked_ilog10().unwrap_or(0);
    for power in (0..=digits).rev() {
        // One decimal digit, so it fits.
        out.push(b'0' + (value / 10_u64.pow(power) % 10) as u8);
    }
}

/// The reason phrase of the statuses that are sent here; it means nothing to a client.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::wire::caching::Lifetime;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const PLAIN: Caching = Caching {
        lifetime: Lifetime::Asked,
        reach: Reach::Everybody,
    };

    /// Whatever is written, a refusal is not kept, and what differs by who asks says so.
    #[test]
    fn every_head_says_who_may_keep_it() {
        use crate::http::wire::caching::{Lifetime::*, Reach::*};
        let all = [Never, Live, Asked, Hour, Immutable];
        for (lifetime, reach) in all.into_iter().flat_map(|l| [(l, Everybody), (l, Asker)]) {
            for status in [200, 204, 206, 304, 400, 401, 404, 412, 416, 500, 503] {
                let mut out = Vec::new();
                let caching = Caching { lifetime, reach };
                let head = Head::new(&mut out, status, DATE, caching);
                head.finish().unwrap();
                let text = String::from_utf8(out).unwrap();
                let kept = text.matches("\r\nCache-Control: ").count();
                assert_eq!(kept, 1, "{text}");
                let is_never = status >= 400 || matches!(lifetime, Never | Live);
                assert_eq!(text.contains("no-store"), is_never, "{text}");
                let is_private = reach == Asker;
                assert_eq!(
                    text.contains("Cache-Control: private"),
                    is_private,
                    "{text}"
                );
                assert_eq!(text.contains(&format!("\r\nVary: {VARY}\r\n")), is_private);
            }
        }
    }

    #[test]
    fn a_full_head() {
        let mut out = b"kept".to_vec();
        Head::new(&mut out, 206, DATE, PLAIN)
            .etag("\"abc\"")
            .content_length(0)
            .content_range(0, u64::MAX, Some(10))
            .content_range(5, 9, None)
            .content_range_unsatisfiable(100)
            .chunked()
            .allow("GET, HEAD")
            .retry_after_s(30)
            .connection(true)
            .connection(false)
            .header("X-Name", "v\u{e9} \t~")
            .finish()
            .unwrap();
        let expected = "keptHTTP/1.1 206 Partial Content\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Cache-Control: no-cache\r\nETag: \"abc\"\r\nContent-Length: 0\r\n\
            Content-Range: bytes 0-18446744073709551615/10\r\n\
            Content-Range: bytes 5-9/*\r\nContent-Range: bytes */100\r\n\
            Transfer-Encoding: chunked\r\nAllow: GET, HEAD\r\nRetry-After: 30\r\n\
            Connection: keep-alive\r\nConnection: close\r\nX-Name: v\u{e9} \t~\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_bad_value_leaves_nothing_behind() {
        for value in [
            "a\r\nSet-Cookie: b",
            "a\n",
            "\r",
            "a\0",
            "\u{7f}",
            "\u{1b}[2J",
        ] {
            let mut out = b"kept".to_vec();
            let result = Head::new(&mut out, 200, DATE, PLAIN)
                .header("X", value)
                .etag("\n")
                .finish();
            assert_eq!(
                (result, &out[..]),
                (Err(BadHeader { name: "X" }), &b"kept"[..])
            );
        }
        assert!(
            Head::new(&mut Vec::new(), 200, "\r\n", PLAIN)
                .finish()
                .is_err()
        );
    }

    #[test]
    fn nothing_is_allocated_when_the_buffer_has_room() {
        let mut out = Vec::with_capacity(1024);
        let before = out.as_ptr();
        for _ in 0..3 {
            out.clear();
            Head::new(&mut out, 200, DATE, PLAIN)
                .content_length(u64::MAX)
                .finish()
                .unwrap();
            assert_eq!((out.as_ptr(), out.capacity()), (before, 1024));
        }
    }

    #[test]
    fn a_refusal_is_one_line_of_text() {
        let reject = Reject {
            allow: Some("GET"),
            ..Reject::new(405, "use GET")
        };
        let mut out = Vec::new();
        Text::reject(&reject, true, false)
            .write(&mut out, DATE)
            .unwrap();
        let expected = "HTTP/1.1 405 Method Not Allowed\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Cache-Control: no-store\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 8\r\n\
            Connection: keep-alive\r\nAllow: GET\r\n\r\nuse GET\n";
        assert_eq!(String::from_utf8(out.clone()).unwrap(), expected);
        out.clear();
        Text::reject(&reject, true, true)
            .write(&mut out, DATE)
            .unwrap();
        assert_eq!(
            out,
            expected.strip_suffix("use GET\n").unwrap().as_bytes(),
            "HEAD"
        );
        let closing = Text::reject(&Reject::closing(400, "x"), true, false);
        assert!(!closing.keep_alive);
        assert!(!Text::reject(&reject, false, false).keep_alive);
    }

    #[test]
    fn text_from_outside_stays_one_line_of_the_announced_length() {
        let message = "fatal: \u{e9}\r\nHTTP/1.1 200 OK\0";
        let text = Text {
            status: 502,
            message,
            allow: None,
            retry_after_s: Some(5),
            reach: Reach::Everybody,
            keep_alive: false,
            head_only: false,
        };
        let mut out = Vec::new();
        text.write(&mut out, DATE).unwrap();
        let (head, body) = std::str::from_utf8(&out)
            .unwrap()
            .split_once("\r\n\r\n")
            .unwrap();
        assert!(head.contains("\r\nRetry-After: 5") && head.contains("\r\nConnection: close"));
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert_eq!(body, "fatal: \u{e9}  HTTP/1.1 200 OK \n");
    }

    #[test]
    fn every_status_of_the_corpus_has_a_reason() {
        for &(name, _, status, _) in crate::http::wire::hostile::HOSTILE {
            assert_ne!(reason(status), "Unknown", "{name}: {status}");
        }
    }

    #[test]
    fn chunk_heads_at_the_edges() {
        for len in (0..64).flat_map(|bit| [1_u64 << bit, (1_u64 << bit).wrapping_sub(1).max(1)]) {
            let head = chunk_head(NonZeroU64::new(len).unwrap());
            assert_eq!(head.as_bytes(), format!("{len:x}\r\n").as_bytes());
        }
        assert_eq!(
            chunk_head(NonZeroU64::MAX).as_bytes(),
            b"ffffffffffffffff\r\n"
        );
    }

    proptest! {
        #[test]
        fn numbers(value in any::<u64>(), shift in 0_u32..64) {
            let value = value >> shift;
            let mut out = Vec::new();
            push_decimal(&mut out, value);
            prop_assert_eq!(out, value.to_string().into_bytes());
        }

        #[test]
        fn our_own_decoder_reads_our_chunks(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..5),
        ) {
            use crate::http::wire::{body::Decoder, head::Framing};
            let mut wire = Vec::new();
            for chunk in &chunks {
                let len = NonZeroU64::new(chunk.len() as u64).unwrap();
                wire.extend_from_slice(chunk_head(len).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(CHUNK_END);
            }
            let mut out = Vec::new();
            let mut decoder = Decoder::new(Framing::Chunked, 10_000).unwrap();
            prop_assert!(!decoder.decode(&wire, &mut out).unwrap().finished);
            prop_assert!(decoder.decode(LAST_CHUNK, &mut out).unwrap().finished);
            prop_assert_eq!(out, chunks.concat());
        }
    }
}
