//! Where a request head ends, and whether every byte of it may stand where it stands.
//!
//! The verdict depends on the first offending byte alone, never on how many bytes have come, so
//! a head that arrives in pieces gets the same verdict as one that arrives whole.

use super::{Reject, is_token_byte, is_value_byte};
use crate::limits::{
    HEAD_BYTES_MAX, HEADERS_MAX, LEADING_EMPTY_LINES_MAX, METHOD_BYTES_MAX, TARGET_BYTES_MAX,
};

const VERSION_BYTES_MAX: usize = "HTTP/1.1".len();

const BARE_LF: Reject = Reject::closing(
    400,
    "a line ends with LF alone; end every line of the head with CRLF",
);
const BARE_CR: Reject = Reject::closing(
    400,
    "a CR stands without LF; end every line of the head with CRLF",
);
const REQUEST_LINE: Reject = Reject::closing(
    400,
    "malformed request line; send METHOD SP TARGET SP HTTP/1.1 CRLF",
);
const CONTROL: Reject = Reject::closing(
    400,
    "a header holds a control character; remove it or encode it",
);
const HEADER_NAME: Reject = Reject::closing(
    400,
    "malformed header line; send NAME: VALUE, no space before the colon",
);
const OBS_FOLD: Reject = Reject::closing(
    400,
    "a header line begins with white space; send every header on one line",
);
const TLS: Reject = Reject::closing(400, "this port speaks plain HTTP; use http:// in the URL");
const METHOD_TOO_LONG: Reject =
    Reject::closing(501, "unknown request method; use GET, HEAD or POST");
const TARGET_TOO_LONG: Reject = Reject::closing(
    414,
    "the request target is longer than 8 KiB; shorten the URL",
);
const HEAD_TOO_LONG: Reject = Reject::closing(
    431,
    "the request head is longer than 64 KiB; send fewer or shorter headers",
);
const TOO_MANY_HEADERS: Reject =
    Reject::closing(431, "the request has more than 100 headers; send fewer");

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    #[default]
    Start,
    /// Behind the CR of an empty line before the request.
    LeadingCr,
    Method,
    Target,
    Version,
    /// Behind the CR that ends the request line or a header.
    LineCr,
    /// First byte of a header line or of the empty line.
    LineStart,
    Name,
    Value,
    /// Behind the CR of the empty line.
    EndCr,
    End,
}

/// How far one request head has been checked. Each byte is looked at once, so a client that
/// sends byte by byte costs no more than one that sends the head whole.
///
/// Invariant: `buf[..pos]` was accepted and led to `at`; a later call sees the same bytes there.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    at: At,
    pos: usize,
    /// Where the request line starts, behind tolerated empty lines.
    request_start: usize,
    /// Where the current part of the request line starts.
    part_start: usize,
    leading_lines: u8,
    header_lines: usize,
}

impl Scan {
    /// Goes on over `buf`, which holds all bytes since the last request, those of earlier calls
    /// included. Gives the range of the head without leading empty lines once it is complete.
    pub(super) fn run(&mut self, buf: &[u8]) -> Result<Option<std::ops::Range<usize>>, Reject> {
        loop {
            if self.at == At::End {
                return Ok(Some(self.request_start..self.pos));
            }
            if self.pos >= HEAD_BYTES_MAX {
                return Err(HEAD_TOO_LONG);
            }
            let Some(&byte) = buf.get(self.pos) else {
                return Ok(None);
            };
            self.at = self.step(byte)?;
            self.pos += 1;
        }
    }

    fn step(&mut self, byte: u8) -> Result<At, Reject> {
        match self.at {
            At::Start => self.start(byte),
            At::LeadingCr => {
                self.request_start = self.pos + 1;
                self.part_start = self.pos + 1;
                if byte == b'\n' {
                    Ok(At::Start)
                } else {
                    Err(BARE_CR)
                }
            }
            At::Method | At::Target | At::Version => self.request_line(byte),
            At::LineCr if byte == b'\n' => Ok(At::LineStart),
            At::EndCr if byte == b'\n' => Ok(At::End),
            At::LineCr | At::EndCr => Err(BARE_CR),
            At::LineStart => self.line_start(byte),
            At::Name => match byte {
                b':' => Ok(At::Value),
                b'\n' => Err(BARE_LF),
                _ if is_token_byte(byte) => Ok(At::Name),
                _ => Err(HEADER_NAME),
            },
            At::Value => match byte {
                b'\r' => Ok(At::LineCr),
                b'\n' => Err(BARE_LF),
                _ if is_value_byte(byte) => Ok(At::Value),
                _ => Err(CONTROL),
            },
            At::End => Ok(At::End),
        }
    }

    fn start(&mut self, byte: u8) -> Result<At, Reject> {
        // The first byte of a TLS handshake record: a common mistake that deserves a clear answer.
        const TLS_HANDSHAKE: u8 = 0x16;
        match byte {
            b'\r' if self.leading_lines < LEADING_EMPTY_LINES_MAX => {
                self.leading_lines += 1;
                Ok(At::LeadingCr)
            }
            b'\n' => Err(BARE_LF),
            TLS_HANDSHAKE => Err(TLS),
            _ if is_token_byte(byte) => Ok(At::Method),
            _ => Err(REQUEST_LINE),
        }
    }

    fn request_line(&mut self, byte: u8) -> Result<At, Reject> {
        let part_bytes = self.pos - self.part_start;
        let (fits, next, too_long) = match self.at {
            At::Method => (is_token_byte(byte), At::Target, METHOD_TOO_LONG),
            At::Target => (byte.is_ascii_graphic(), At::Version, TARGET_TOO_LONG),
            _ => (byte.is_ascii_graphic(), At::LineCr, REQUEST_LINE),
        };
        let part_bytes_max = match self.at {
            At::Method => METHOD_BYTES_MAX,
            At::Target => TARGET_BYTES_MAX,
            _ => VERSION_BYTES_MAX,
        };
        let end = if self.at == At::Version { b'\r' } else { b' ' };
        match byte {
            _ if fits && part_bytes < part_bytes_max => Ok(self.at),
            _ if fits => Err(too_long),
            _ if byte == end && part_bytes > 0 => {
                self.part_start = self.pos + 1;
                Ok(next)
            }
            b'\n' => Err(BARE_LF),
            _ => Err(REQUEST_LINE),
        }
    }

    fn line_start(&mut self, byte: u8) -> Result<At, Reject> {
        match byte {
            b'\r' => Ok(At::EndCr),
            b'\n' => Err(BARE_LF),
            b' ' | b'\t' => Err(OBS_FOLD),
            _ if !is_token_byte(byte) => Err(HEADER_NAME),
            _ if self.header_lines == HEADERS_MAX => Err(TOO_MANY_HEADERS),
            _ => {
                self.header_lines += 1;
                Ok(At::Name)
            }
        }
    }
}
