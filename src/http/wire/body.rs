//! Request bodies: an incremental decoder for `Content-Length` and chunked coding (RFC 9112
//! sections 6 and 7). It takes any split of the input, writes the content to the caller's buffer
//! and says exactly where the body ends, so that the next request starts at the right byte.

use super::head::Framing;
use super::{Reject, is_token_byte, is_value_byte};
use crate::limits::{CHUNK_EXTENSION_BYTES_MAX, TRAILER_BYTES_MAX};

const TOO_LARGE: Reject = Reject::closing(413, "the request body is too large; send less");
const CHUNK_SIZE: Reject = Reject::closing(
    400,
    "malformed chunk size; send up to 16 hex digits and CRLF",
);
const CHUNK_EXTENSION: Reject =
    Reject::closing(400, "malformed or too long chunk extensions; send none");
const CHUNK_END: Reject = Reject::closing(
    400,
    "a chunk is longer or shorter than its size says; end it with CRLF",
);
const TRAILER: Reject = Reject::closing(400, "malformed trailer; send NAME: VALUE CRLF or none");
const TRAILERS_TOO_LONG: Reject = Reject::closing(431, "the trailers are too long; send none");

/// What one call of [`Decoder::decode`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that belong to this body; all of them unless `finished`.
    pub consumed: usize,
    /// The body is complete; what follows `consumed` is the next request.
    pub finished: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Content of a chunk or of the whole body; `left_bytes` is never zero.
    Data {
        left_bytes: u64,
    },
    /// In the hex digits of a chunk size.
    Size {
        digits: u8,
        size_bytes: u64,
    },
    /// Behind a size and its first white space or semicolon.
    Extension {
        at: Extension,
        size_bytes: u64,
    },
    SizeLf {
        size_bytes: u64,
    },
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// A place in chunk extensions: `*( BWS ";" BWS NAME [ BWS "=" BWS ( TOKEN / QUOTED ) ] )`, RFC 9112
/// section 7.1.1. They mean nothing here, but what is no extension may be anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extension {
    /// White space before a semicolon.
    Gap,
    /// Behind a semicolon, before the name.
    Start,
    Name,
    /// White space behind a name: an equals sign or a semicolon follows.
    NameGap,
    /// Behind an equals sign, before the value.
    Equals,
    Token,
    Quoted,
    /// Behind a backslash in quotes.
    Escape,
    /// Behind the second quote.
    QuoteEnd,
}

impl Extension {
    /// Where `byte` leads, if it may stand here; what ends the line is not looked at.
    fn step(self, byte: u8) -> Option<Extension> {
        let is_space = matches!(byte, b' ' | b'\t');
        match (self, byte) {
            (Self::Quoted, b'"') => Some(Self::QuoteEnd),
            (Self::Quoted, b'\\') => Some(Self::Escape),
            (Self::Quoted | Self::Escape, _) => is_value_byte(byte).then_some(Self::Quoted),
            (Self::Gap | Self::Name | Self::NameGap, b';') => Some(Self::Start),
            (Self::Token | Self::QuoteEnd, b';') => Some(Self::Start),
            (Self::Name | Self::NameGap, b'=') => Some(Self::Equals),
            (Self::Equals, b'"') => Some(Self::Quoted),
            (Self::Gap | Self::Start | Self::NameGap | Self::Equals, _) if is_space => Some(self),
            (Self::Name, _) if is_space => Some(Self::NameGap),
            (Self::Token | Self::QuoteEnd, _) if is_space => Some(Self::Gap),
            (Self::Start | Self::Name, _) => is_token_byte(byte).then_some(Self::Name),
            (Self::Equals | Self::Token, _) => is_token_byte(byte).then_some(Self::Token),
            _ => None,
        }
    }

    /// Whether the line may end here.
    fn is_whole(self) -> bool {
        matches!(self, Self::Name | Self::Token | Self::QuoteEnd)
    }
}

/// Decodes one request body.
///
/// Invariant: `room_bytes` plus all announced content is the maximum given at the start, so no
/// more than that ever reaches the output. After a [`Reject`] the connection is out of step: do
/// not call again.
#[derive(Debug, Clone)]
pub struct Decoder {
    state: State,
    chunked: bool,
    room_bytes: u64,
    extension_bytes: u32,
    trailer_bytes: u32,
}

impl Decoder {
    /// A decoder for a body framed as the head said, of at most `max_bytes` of content. A
    /// `Content-Length` over the maximum is refused here with 413, before `100 Continue`.
    pub fn new(framing: Framing, max_bytes: u64) -> Result<Self, Reject> {
        let (state, announced_bytes) = match framing {
            Framing::None | Framing::Length(0) => (State::Done, 0),
            Framing::Length(left_bytes) => (State::Data { left_bytes }, left_bytes),
            Framing::Chunked => (
                State::Size {
                    digits: 0,
                    size_bytes: 0,
                },
                0,
            ),
        };
        Ok(Self {
            state,
            chunked: framing == Framing::Chunked,
            room_bytes: max_bytes.checked_sub(announced_bytes).ok_or(TOO_LARGE)?,
            extension_bytes: 0,
            trailer_bytes: 0,
        })
    }

    /// True when the body is complete, also before any input when there is no body.
    pub fn is_finished(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the next bytes of the connection and appends the content in them to `out`. Stops at
    /// the end of the body. When it fails, `out` may hold content from before the violation.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, Reject> {
        let mut rest = input;
        while let (Some((&byte, tail)), false) = (rest.split_first(), self.is_finished()) {
            if let State::Data { left_bytes } = self.state {
                rest = self.copy(left_bytes, rest, out);
            } else {
                self.state = self.step(byte)?;
                rest = tail;
            }
        }
        Ok(Progress {
            consumed: input.len() - rest.len(),
            finished: self.is_finished(),
        })
    }

    /// Copies content and gives what is behind it.
    fn copy<'a>(&mut self, left_bytes: u64, input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        // Cannot truncate: the smaller of the two is at most the length of a slice.
        let take_bytes = left_bytes.min(input.len() as u64) as usize;
        let (content, rest) = input.split_at(take_bytes);
        out.extend_from_slice(content);
        self.state = match left_bytes - take_bytes as u64 {
            0 if self.chunked => State::DataCr,
            0 => State::Done,
            left_bytes => State::Data { left_bytes },
        };
        rest
    }

    fn step(&mut self, byte: u8) -> Result<State, Reject> {
        match (self.state, byte) {
            (State::Size { digits, size_bytes }, _) => size(digits, size_bytes, byte),
            (State::Extension { at, size_bytes }, b'\r') if at.is_whole() => {
                Ok(State::SizeLf { size_bytes })
            }
            (State::Extension { at, size_bytes }, _) => {
                self.extension_bytes += 1;
                match at.step(byte) {
                    Some(at) if self.extension_bytes <= CHUNK_EXTENSION_BYTES_MAX => {
                        Ok(State::Extension { at, size_bytes })
                    }
                    _ => Err(CHUNK_EXTENSION),
                }
            }
            (State::SizeLf { size_bytes: 0 }, b'\n') => Ok(State::TrailerStart),
            (State::SizeLf { size_bytes }, b'\n') => {
                self.room_bytes = self.room_bytes.checked_sub(size_bytes).ok_or(TOO_LARGE)?;
                Ok(State::Data {
                    left_bytes: size_bytes,
                })
            }
            (State::SizeLf { .. }, _) => Err(CHUNK_SIZE),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size {
                digits: 0,
                size_bytes: 0,
            }),
            (State::DataCr | State::DataLf, _) => Err(CHUNK_END),
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::EndLf, b'\n') => Ok(State::Done),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            _ => self.trailer(byte),
        }
    }

    /// A trailer line. Dropped, but read strictly: a line that is no header could be the start
    /// of a request that someone wants to hide.
    fn trailer(&mut self, byte: u8) -> Result<State, Reject> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(TRAILERS_TOO_LONG);
        }
        match (self.state, byte) {
            (State::TrailerStart | State::TrailerName, _) if is_token_byte(byte) => {
                Ok(State::TrailerName)
            }
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if is_value_byte(byte) => Ok(State::TrailerValue),
            _ => Err(TRAILER),
        }
    }
}

fn size(digits: u8, size_bytes: u64, byte: u8) -> Result<State, Reject> {
    // Sixteen hex digits are exactly what an u64 holds, so the value below cannot overflow.
    const DIGITS_MAX: u8 = 16;
    match (byte, char::from(byte).to_digit(16)) {
        (_, Some(digit)) if digits < DIGITS_MAX => Ok(State::Size {
            digits: digits + 1,
            size_bytes: size_bytes << 4 | u64::from(digit),
        }),
        (b';' | b' ' | b'\t', _) if digits > 0 => {
            let at = match byte {
                b';' => Extension::Start,
                _ => Extension::Gap,
            };
            Ok(State::Extension { at, size_bytes })
        }
        (b'\r', _) if digits > 0 => Ok(State::SizeLf { size_bytes }),
        _ => Err(CHUNK_SIZE),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::wire::hostile::HOSTILE_CHUNKS;

    const MAX: u64 = 1000;

    /// Feeds the pieces as a connection would; gives the content and what was not consumed.
    fn decode(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>, bool), Reject> {
        let mut decoder = Decoder::new(framing, MAX)?;
        let (mut out, mut rest) = (Vec::new(), Vec::new());
        for piece in pieces {
            let progress = decoder.decode(piece, &mut out)?;
            assert!(progress.finished || progress.consumed == piece.len());
            assert_eq!(progress.finished, decoder.is_finished());
            rest.extend_from_slice(&piece[progress.consumed..]);
        }
        Ok((out, rest, decoder.is_finished()))
    }

    fn assert_splits(framing: Framing, bytes: &[u8]) {
        let whole = decode(framing, &[bytes]);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(decode(framing, &single), whole, "{}", bytes.escape_ascii());
        for at in 0..=bytes.len() {
            assert_eq!(
                decode(framing, &[&bytes[..at], &bytes[at..]]),
                whole,
                "split at {at}"
            );
        }
    }

    #[test]
    fn length_stops_at_the_next_request() {
        let (out, rest, finished) = decode(Framing::Length(5), &[b"helloGET /"]).unwrap();
        assert_eq!(
            (&out[..], &rest[..], finished),
            (&b"hello"[..], &b"GET /"[..], true)
        );
        assert!(!decode(Framing::Length(5), &[b"hell"]).unwrap().2);
        for framing in [Framing::None, Framing::Length(0)] {
            let (out, rest, finished) = decode(framing, &[b"GET /"]).unwrap();
            assert_eq!(
                (&out[..], &rest[..], finished),
                (&b""[..], &b"GET /"[..], true)
            );
        }
    }

    #[test]
    fn chunks_with_extensions_and_trailers() {
        let bytes =
            b"5;a=\"b;\\\"\\\\\"; c\r\nhello\r\n00001\r\n,\r\n6 ;\tq = r ;s\r\n world\r\n0;z\r\nX: y\r\nZ:\r\n\r\nGET /";
        let (out, rest, finished) = decode(Framing::Chunked, &[bytes]).unwrap();
        assert_eq!(
            (&out[..], &rest[..], finished),
            (&b"hello, world"[..], &b"GET /"[..], true)
        );
        assert_splits(Framing::Chunked, bytes);
        for end in 0..bytes.len() - 5 {
            assert!(
                !decode(Framing::Chunked, &[&bytes[..end]]).unwrap().2,
                "whole at {end}"
            );
        }
    }

    #[test]
    fn the_maximum_is_exact() {
        assert!(Decoder::new(Framing::Length(MAX), MAX).is_ok());
        assert_eq!(
            Decoder::new(Framing::Length(MAX + 1), MAX).unwrap_err(),
            TOO_LARGE
        );
        assert_eq!(
            Decoder::new(Framing::Length(u64::MAX), MAX).unwrap_err(),
            TOO_LARGE
        );
        let chunk = [&b"1f4\r\n"[..], &[b'x'; 500], b"\r\n"].concat();
        let full = [&chunk[..], &chunk, b"0\r\n\r\n"].concat();
        assert_eq!(decode(Framing::Chunked, &[&full]).unwrap().0.len(), 1000);
        let over = [&chunk[..], &chunk, b"1\r\n"].concat();
        assert_eq!(decode(Framing::Chunked, &[&over]), Err(TOO_LARGE));
        assert_eq!(
            decode(Framing::Chunked, &[b"ffffffffffffffff\r\n"]),
            Err(TOO_LARGE)
        );
    }

    #[test]
    fn extensions_are_bounded_over_all_chunks() {
        let chunk = [&b"1;"[..], &[b'x'; 100], b"\r\na\r\n"].concat();
        let fits = CHUNK_EXTENSION_BYTES_MAX as usize / 100;
        assert!(decode(Framing::Chunked, &[&chunk.repeat(fits)]).is_ok());
        assert_eq!(
            decode(Framing::Chunked, &[&chunk.repeat(fits + 1)]),
            Err(CHUNK_EXTENSION)
        );
        let trailers = [&b"0\r\n"[..], &b"abcd:\r\n".repeat(2000)].concat();
        assert_eq!(
            decode(Framing::Chunked, &[&trailers]),
            Err(TRAILERS_TOO_LONG)
        );
    }

    #[test]
    fn hostile_chunks_split_anywhere() {
        for (_, bytes, _) in HOSTILE_CHUNKS {
            if bytes.len() < 1000 {
                assert_splits(Framing::Chunked, bytes);
            } else {
                let single: Vec<&[u8]> = bytes.chunks(1).collect();
                assert_eq!(
                    decode(Framing::Chunked, &single),
                    decode(Framing::Chunked, &[bytes])
                );
            }
        }
    }

    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            &b"5\r\nhello\r\n"[..],
            b"1\r\na\r\n",
            b"0\r\n",
            b"\r\n",
            b"\r",
            b"\n",
            b"5",
            b"f",
            b";",
            b";a",
            b"=",
            b"\"",
            b"\\",
            b" ",
            b"-",
            b"X: y\r\n",
            b"hello",
            b"0\r\n\r\n",
            b"\0",
            b":",
        ]);
        prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn random_pieces(bytes in pieces()) {
            assert_splits(Framing::Chunked, &bytes);
        }

        #[test]
        fn what_is_encoded_comes_back(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..20),
            rest in prop::collection::vec(any::<u8>(), 0..20),
            step in 1_usize..50,
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            wire.extend_from_slice(&rest);
            let pieces: Vec<&[u8]> = wire.chunks(step).collect();
            prop_assert_eq!(decode(Framing::Chunked, &pieces), Ok((chunks.concat(), rest, true)));
        }
    }
}
