//! One download as a client sees it: when its first byte could be decoded, when its last one
//! came, and whether it was whole. Shared with the benches.

use super::support::client::{Conn, End, Head};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use zstd_safe::{DCtx, InBuffer, OutBuffer};

/// Size of the buffer that bodies are read into.
const READ_BYTES: usize = 1 << 20;

/// How a client behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manners {
    /// It leaves once it has so many bytes and could decode the first one.
    pub leave_after_bytes: Option<u64>,
    /// It reads no faster than this.
    pub bytes_per_s: Option<u64>,
}

impl Manners {
    /// Reads to the end as fast as it can.
    pub const EAGER: Manners = Manners {
        leave_after_bytes: None,
        bytes_per_s: None,
    };
    /// Leaves with the first byte.
    pub const CURIOUS: Manners = Manners {
        leave_after_bytes: Some(0),
        bytes_per_s: None,
    };
}

/// What a client saw. Times count from before the connection was opened.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// When the client began.
    pub started: Instant,
    /// When the first byte of content could be decoded.
    pub first: Option<Duration>,
    /// When the client had all it wanted.
    pub total: Duration,
    /// Bytes of the body.
    pub bytes: u64,
    /// Status and header fields.
    pub head: Head,
    /// Whether the body came to its end, by its own framing.
    pub whole: bool,
}

/// `GET target`; every block of the body is shown to `each`, which says whether to go on. A
/// connection that breaks is a transfer that is not whole; a server that cannot be reached or
/// does not speak HTTP is an error.
pub fn get(
    address: SocketAddr,
    target: &str,
    manners: Manners,
    each: &mut dyn FnMut(&[u8]) -> bool,
) -> io::Result<Transfer> {
    let started = Instant::now();
    let mut conn = Conn::try_open(address)?;
    let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    conn.send(request.as_bytes())?;
    let head = conn.read_head("GET")?;
    if head.status >= 400 {
        // A line of text, which is no archive to be decoded.
        let mut text = [0; 1024];
        let bytes = conn.read_body(&mut text)? as u64;
        return Ok(Transfer {
            started,
            first: None,
            total: started.elapsed(),
            bytes,
            head,
            whole: true,
        });
    }
    let mut reader = Reader::new(started, manners);
    let end = reader.read(&mut |block| conn.read_body(block), each)?;
    Ok(Transfer {
        started,
        first: reader.first,
        total: started.elapsed(),
        bytes: reader.bytes,
        head,
        whole: end == Some(End::Complete),
    })
}

/// Reads a stream of zstd frames from any source and keeps the times.
pub struct Reader {
    started: Instant,
    manners: Manners,
    decoder: FirstByte,
    /// When the first byte of content could be decoded.
    pub first: Option<Duration>,
    /// Bytes read.
    pub bytes: u64,
}

impl Reader {
    /// A reader whose clock began at `started`.
    pub fn new(started: Instant, manners: Manners) -> Reader {
        Reader {
            started,
            manners,
            decoder: FirstByte::new(),
            first: None,
            bytes: 0,
        }
    }

    /// Reads to the end, or until `each` or the client's manners have it leave (`None`).
    pub fn read(
        &mut self,
        source: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
        each: &mut dyn FnMut(&[u8]) -> bool,
    ) -> io::Result<Option<End>> {
        // A hundredth of a second's worth, so that a slow reader is one that reads all the time.
        let step = self.manners.bytes_per_s.map(|rate| (rate / 100).max(1));
        let len = step.map_or(READ_BYTES, |step| READ_BYTES.min(step as usize));
        let mut block = vec![0; len];
        let reading = Instant::now();
        loop {
            let count = match source(&mut block) {
                Ok(0) => return Ok(Some(End::Complete)),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(Some(End::Truncated));
                }
                Err(e) => return Err(e),
            };
            self.bytes += count as u64;
            if self.first.is_none() && self.decoder.feed(&block[..count])? {
                self.first = Some(self.started.elapsed());
            }
            if !each(&block[..count]) {
                return Ok(None);
            }
            let had_enough = self.manners.leave_after_bytes;
            if self.first.is_some() && had_enough.is_some_and(|enough| self.bytes >= enough) {
                return Ok(None);
            }
            if let Some(rate) = self.manners.bytes_per_s {
                let due = Duration::from_secs_f64(self.bytes as f64 / rate as f64);
                std::thread::sleep(due.saturating_sub(reading.elapsed()));
            }
        }
    }
}

/// Decodes the beginning of a zstd stream until one byte of content came out.
struct FirstByte {
    decoder: DCtx<'static>,
}

impl FirstByte {
    fn new() -> FirstByte {
        FirstByte {
            decoder: DCtx::create(),
        }
    }

    /// Whether there is content now. Frames without content (skippable ones) do not count.
    fn feed(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let mut out = [0; 4096];
        let mut input = InBuffer::around(bytes);
        while input.pos() < bytes.len() {
            let mut output = OutBuffer::around(&mut out[..]);
            self.decoder
                .decompress_stream(&mut output, &mut input)
                .map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))?;
            if output.pos() > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(content: &[u8]) -> Vec<u8> {
        let mut out = vec![0; zstd_safe::compress_bound(content.len())];
        let len = zstd_safe::compress(&mut out[..], content, 1);
        out.truncate(len.unwrap_or_else(|code| panic!("{}", zstd_safe::get_error_name(code))));
        out
    }

    /// pzstd begins with a skippable frame, which is no content.
    #[test]
    fn the_first_byte_is_one_of_content() {
        let skippable = [0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
        let content = frame(b"content");
        let mut decoder = FirstByte::new();
        assert!(matches!(decoder.feed(&skippable), Ok(false)));
        for byte in &content[..5] {
            assert!(matches!(decoder.feed(&[*byte]), Ok(false)));
        }
        assert!(matches!(decoder.feed(&content[5..]), Ok(true)));
        assert!(FirstByte::new().feed(b"no zstd at all").is_err());
    }

    #[test]
    fn a_client_leaves_when_it_has_enough() {
        let content = frame(&[7; 100]);
        let manners = Manners {
            leave_after_bytes: Some(content.len() as u64 + 1),
            ..Manners::EAGER
        };
        let stream = [content.clone(), content.clone(), content.clone()].concat();
        let mut reader = Reader::new(Instant::now(), manners);
        let mut blocks = stream.chunks(content.len());
        let end = reader.read(
            &mut |out| {
                let block = blocks.next().unwrap_or_default();
                out[..block.len()].copy_from_slice(block);
                Ok(block.len())
            },
            &mut |_| true,
        );
        assert!(matches!(end, Ok(None)), "it did not leave: {end:?}");
        assert_eq!(reader.bytes, 2 * content.len() as u64);
        assert!(reader.first.is_some());
    }
}
