//! Sends the content of a source, as far as it is in memory.

use std::future::poll_fn;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::pin::pin;
use std::time::Instant;

use super::{SendError, Sent, Socket};
use crate::extent::{Next, Source};
use crate::http::wire::response::{CHUNK_END, LAST_CHUNK, chunk_head};
use crate::io::gather::Reading;
use crate::io::net;
use crate::limits::{CHUNK_BYTES_MAX, GATHER_BYTES, GATHERED_RANGE_BYTES_MAX};

/// Why nothing of a source was tried to be sent.
pub(super) enum Unsent {
    /// What is to be sealed is not in memory.
    Cold,
    Failed(SendError),
}

impl From<SendError> for Unsent {
    fn from(error: SendError) -> Unsent {
        Unsent::Failed(error)
    }
}

impl Unsent {
    /// By what came of reading a file.
    pub(super) fn of_file(error: io::Error) -> Unsent {
        match error.kind() {
            io::ErrorKind::WouldBlock => Unsent::Cold,
            _ => Unsent::Failed(SendError::Source(error.to_string())),
        }
    }
}

/// How far a source is in memory.
struct Memory {
    /// Said to be there below.
    until: u64,
    /// What was not, whatever was said.
    cold_at: Option<u64>,
}

impl Memory {
    /// How what stands at `at` is read: what was not there, although it has been read since, may never be.
    fn reading(&self, at: u64) -> Reading {
        match self.cold_at == Some(at) {
            true => Reading::Waiting,
            false => Reading::Now,
        }
    }
}

impl Socket {
    /// Sends the content of `source` from `start` to `end`; to its own end if that is `None`,
    /// in chunked coding. `sent` counts along, also when it fails.
    pub(crate) async fn send_source(
        &self,
        source: &mut dyn Source,
        start: u64,
        end: Option<u64>,
        sent: &mut Sent,
    ) -> Result<(), SendError> {
        // With a known length nothing waits for bytes that are still to be made: let the kernel
        // fill its segments instead of pushing one out after every block.
        let _cork = end.map(|_| net::cork(self.fd()));
        let mut at = start;
        let mut memory = Memory {
            until: start,
            cold_at: None,
        };
        let mut promised = end.unwrap_or(start);
        loop {
            if end.is_some_and(|end| at >= end) {
                return Ok(());
            }
            let open_chunk = end.is_none() && at < promised;
            if end.is_none() && !open_chunk {
                promised = at + self.open_chunk(source, at).await?;
                if promised == at {
                    return self.send(LAST_CHUNK, false).await;
                }
            }
            let next = pin!(poll_fn(|cx| source.poll_next(at, promised - at, cx)));
            let mut next = self.more(next).await?;
            // Only bytes of files can be missing from memory; others leave at once.
            if let Next::File { .. } = next {
                if at >= memory.until {
                    let read = pin!(poll_fn(|cx| source.poll_resident(at, cx)));
                    let read = self.more(read).await?;
                    memory.until = read.map_err(|e| SendError::Source(e.to_string()))?;
                }
                next.truncate(memory.until.saturating_sub(at).max(1));
            }
            let wire = at..promised.min(memory.until);
            let reading = memory.reading(at);
            let count = match self.attempt(source, next, (wire, end), reading).await {
                Ok(count) => count,
                Err(Unsent::Failed(why)) => return Err(why),
                Err(Unsent::Cold) => {
                    source.was_cold(at);
                    memory.until = at;
                    memory.cold_at = Some(at);
                    continue;
                }
            };
            if let Some(count) = count {
                at += count;
                sent.bytes = at - start;
                sent.first.get_or_insert_with(Instant::now);
                if end.is_none() && at == promised {
                    // Now, not with the next chunk: a client may wait for it to use this one.
                    self.send(CHUNK_END, false).await?;
                }
            }
        }
    }

    /// Begins a chunk of what is there at `at`, waiting until there is something. Returns its
    /// length: 0 at the end of the source, for which no chunk is begun.
    async fn open_chunk(&self, source: &mut dyn Source, at: u64) -> Result<u64, SendError> {
        let first = pin!(poll_fn(|cx| source.poll_next(at, 1, cx)));
        match self.more(first).await? {
            Next::End => return Ok(0),
            Next::Failed(why) => return Err(SendError::Source(why.to_string())),
            _ => {}
        }
        let len = source.available(at).min(CHUNK_BYTES_MAX);
        let Some(nonzero) = NonZeroU64::new(len) else {
            return Err(SendError::Source("the archive shrank".into()));
        };
        self.send(chunk_head(nonzero).as_bytes(), true).await?;
        Ok(len)
    }

    /// Sends what a source gave, or a part of it, with what stands behind it in `wire` or without, and returns how
    /// much; `None` if the client had to be waited for. Then the place is looked up again: a slow client must not keep
    /// a piece in memory that everybody else is done with.
    async fn attempt(
        &self,
        source: &mut dyn Source,
        next: Next,
        (wire, end): (Range<u64>, Option<u64>),
        reading: Reading,
    ) -> Result<Option<u64>, Unsent> {
        let last = end == Some(wire.start + next.wire_bytes());
        if is_framed(&next, &wire) {
            let gathered = self.timed(|| self.gather(source, wire, end, reading))?;
            if let Some(tried) = gathered {
                return Ok(self.settle(tried).await?);
            }
        }
        self.send_next(source, next, last, reading).await
    }

    async fn send_next(
        &self,
        source: &dyn Source,
        next: Next,
        last: bool,
        reading: Reading,
    ) -> Result<Option<u64>, Unsent> {
        match next {
            Next::Inline(inline) => {
                self.send(inline.as_slice(), !last).await?;
                Ok(Some(inline.as_slice().len() as u64))
            }
            Next::Memory { piece, start, end } => {
                let tried = self.timed(|| self.wire.send(self.fd(), &piece[start..end], false));
                drop(piece);
                Ok(self.settle(tried).await?)
            }
            Next::File { file, offset, len } => {
                let file = source
                    .file(file)
                    .map_err(|e| SendError::Source(e.to_string()))?;
                let (buffer, fd) = ((&self.core.buffer, reading), self.fd());
                let range = (offset, len);
                let tried = self.timed(|| self.wire.send_file(buffer, fd, file, range));
                match self.settle(tried.map_err(Unsent::of_file)?).await? {
                    Some(0) => Err(SendError::Source("a file is too short".into()).into()),
                    other => Ok(other),
                }
            }
            Next::Failed(why) => Err(SendError::Source(why.to_string()).into()),
            Next::End | Next::Wait => {
                Err(SendError::Source("the archive ends too early".into()).into())
            }
        }
    }

    /// What follows from one attempt to send: waits for room if there was none.
    pub(super) async fn settle(&self, tried: io::Result<usize>) -> Result<Option<u64>, SendError> {
        match tried {
            Ok(sent) => {
                self.sent(sent as u64).await?;
                Ok(Some(sent as u64))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.writable().await?;
                Ok(None)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(e) => Err(SendError::Left(e)),
        }
    }
}

/// Whether `next` begins a run of framing bytes and short ranges of files, long enough to be
/// gathered. What is not a file's may not be gathered: only pages of files stay where they are.
fn is_framed(next: &Next, wire: &Range<u64>) -> bool {
    let short = match next {
        Next::Inline(_) => true,
        Next::File { len, .. } => *len <= GATHERED_RANGE_BYTES_MAX,
        _ => false,
    };
    short && wire.end.saturating_sub(wire.start) >= GATHER_BYTES as u64 / 2
}
