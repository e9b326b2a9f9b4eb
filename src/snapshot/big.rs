//! Big files: encoded as a stream, so that memory does not grow with them.
//!
//! A big blob that is stored whole in a pack (git never stores files above
//! `core.bigFileThreshold` as deltas) is inflated chunk by chunk; one that is a delta, loose or
//! converted by attributes is decoded in memory first, as git does it, with a grant of the
//! [`budget`](super::budget). Both give the same frames.

use std::collections::VecDeque;

use gix::bstr::BStr;
use gix::objs::Kind as ObjectKind;
use gix::objs::tree::EntryKind;
use gix::oid;
use gix::zlib::{Decompress, FlushDecompress, Status};

use super::budget::Grant;
use super::output::{BuildError, Output};
use super::ring::Pending;
use super::source::{JobError, Local, Source};
use super::work::{LIVE_ONLY_JOBS, Work};
use crate::io::shortage::Detail;
use crate::limits::FRAME_TAR_BYTES;
use crate::tree::batch::Batch;
use crate::tree::dates::worktree_date_s;
use crate::tree::decoder::{Decoder, Stream};
use crate::tree::filter::Conversions;
use crate::tree::tar::{self, Kind};

/// What can leave between two looks at the readers of an archive that goes no faster than they do: the
/// chunks that its window lets be at work, and one more.
const AHEAD_BYTES: u64 = (LIVE_ONLY_JOBS as u64 + 1) * (FRAME_TAR_BYTES as u64 * 17 / 16);

/// Sends the batch's one file; returns its size.
pub(super) fn stream(
    work: &mut Work<'_>,
    local: &mut Local,
    batch: &Batch,
    conversions: &[Conversions],
) -> Result<u64, BuildError> {
    let mut size = 0;
    for ((path, kind, id), conversions) in batch.entries().zip(conversions) {
        if kind == EntryKind::Link {
            let path = path.to_owned();
            return Err(JobError::LinkTarget { path }.into());
        }
        let big = Big {
            path,
            executable: kind == EntryKind::BlobExecutable,
            id,
            conversions,
        };
        let source = work.source.clone();
        let whole_in_pack = match conversions.is_empty() {
            true => source.packs.find_whole(id),
            false => None,
        };
        size = match whole_in_pack {
            Some(blob) => stream_inflated(work, &big, blob)?,
            None => stream_decoded(work, local, &big)?,
        };
    }
    Ok(size)
}

/// A big file.
struct Big<'a> {
    path: &'a BStr,
    executable: bool,
    id: &'a oid,
    conversions: &'a Conversions,
}

fn object_error(path: &BStr, id: &oid, detail: Detail) -> BuildError {
    BuildError::Job(JobError::Object {
        id: id.to_owned(),
        path: path.to_owned(),
        detail,
    })
}

/// Tar bytes on their way through the encoders, in order and bounded. Cuts depend on nothing but
/// the number of bytes, so a file gives the same frames however it is stored.
struct Chunks<'w, 'a> {
    work: &'w mut Work<'a>,
    tar: Vec<u8>,
    pending: VecDeque<Pending<Result<Encoded, JobError>>>,
}

/// What an encoder makes of a chunk.
struct Encoded {
    frame: Vec<u8>,
    /// The chunk's buffer, empty, for another one.
    spare: Vec<u8>,
}

impl<'w, 'a> Chunks<'w, 'a> {
    /// Begins with the header of a file of `size` bytes.
    fn begin(work: &'w mut Work<'a>, big: &Big<'_>, size: u64) -> Self {
        let spare = work.spare.pop();
        let mut tar = spare.unwrap_or_else(|| Vec::with_capacity(FRAME_TAR_BYTES));
        let kind = Kind::File {
            size,
            executable: big.executable,
        };
        let date_s = worktree_date_s(big.id, big.conversions);
        tar::push_header(&mut tar, big.path, kind, date_s);
        Chunks {
            work,
            tar,
            pending: VecDeque::new(),
        }
    }

    /// Bytes that the chunk takes before it has to leave.
    fn room(&self) -> usize {
        FRAME_TAR_BYTES.saturating_sub(self.tar.len()).max(1)
    }

    /// Has the chunk leave if it is full.
    fn pass_on(&mut self) -> Result<(), BuildError> {
        if self.tar.len() < FRAME_TAR_BYTES {
            return Ok(());
        }
        let spare = self.work.spare.pop();
        let next = spare.unwrap_or_else(|| Vec::with_capacity(FRAME_TAR_BYTES));
        let tar = std::mem::replace(&mut self.tar, next);
        self.add(tar)
    }

    fn add(&mut self, mut tar: Vec<u8>) -> Result<(), BuildError> {
        let level = self.work.output.level;
        self.pending.push_back(self.work.lane.submit(move |state| {
            let mut frame = Vec::new();
            state.push_frame(level, &tar, &mut frame)?;
            frame.shrink_to_fit();
            tar.clear();
            Ok(Encoded { frame, spare: tar })
        }));
        self.drain(self.work.window())?;
        match self.work.is_turn_over() {
            true => {
                self.drain(0)?;
                self.work.pass_turn()
            }
            false => Ok(()),
        }
    }

    fn drain(&mut self, keep: usize) -> Result<(), BuildError> {
        while self.pending.len() > keep {
            let Some(pending) = self.pending.pop_front() else {
                break;
            };
            let Encoded { frame, spare } = self.work.wait(pending)??;
            self.work.spare.push(spare);
            self.work.output.piece(frame)?;
        }
        Ok(())
    }

    /// Ends a file of `size` bytes and waits until all of it has left.
    fn end(mut self, size: u64) -> Result<(), BuildError> {
        tar::pad(&mut self.tar, size);
        if !self.tar.is_empty() {
            let tar = std::mem::take(&mut self.tar);
            self.add(tar)?;
        }
        self.drain(0)
    }
}

fn stream_inflated(
    work: &mut Work<'_>,
    big: &Big<'_>,
    blob: Stream<'_>,
) -> Result<u64, BuildError> {
    let (path, id) = (big.path, big.id);
    let mut deflated = blob.deflated();
    let mut inflate = Decompress::new();
    let mut chunks = Chunks::begin(work, big, blob.size);
    let mut left = blob.size;
    let mut ended = false;
    while left > 0 {
        let start = chunks.tar.len();
        let room = left.min(chunks.room() as u64) as usize;
        chunks.tar.resize(start + room, 0);
        let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
        let status = inflate
            .decompress(deflated, &mut chunks.tar[start..], FlushDecompress::None)
            .map_err(|e| object_error(path, id, Detail::of(&e)))?;
        deflated = &deflated[(inflate.total_in() - before_in) as usize..];
        let made = inflate.total_out() - before_out;
        ended |= matches!(status, Status::StreamEnd);
        if made == 0 && (ended || deflated.is_empty()) {
            return Err(object_error(path, id, "its data ends too early".into()));
        }
        chunks.tar.truncate(start + made as usize);
        left -= made;
        chunks.pass_on()?;
    }
    if !ended {
        check_end(&mut inflate, deflated).map_err(|e| object_error(path, id, e.into()))?;
    }
    chunks.end(blob.size)?;
    Ok(blob.size)
}

/// After the last byte: lets zlib compare its checksum, and refuses more data than announced.
fn check_end(inflate: &mut Decompress, deflated: &[u8]) -> Result<(), String> {
    let mut one = [0];
    let before = inflate.total_out();
    let status = inflate
        .decompress(deflated, &mut one, FlushDecompress::None)
        .map_err(|e| e.to_string())?;
    match status {
        Status::StreamEnd if inflate.total_out() == before => Ok(()),
        _ => Err("its data does not end where its header says".into()),
    }
}

/// A blob in memory, as long as it has the grant for it.
struct Decoded {
    data: Vec<u8>,
    grant: Grant,
}

/// Decodes with as much memory as the object should take, or, if what its delta is made from is
/// larger, with as much as it takes, alone.
fn decode(
    output: &mut Output<'_>,
    local: &Local,
    source: &Source,
    path: &BStr,
    id: &oid,
) -> Result<Decoded, BuildError> {
    let header = local.repository.find_header(id.to_owned());
    let header = header.map_err(|e| JobError::Object {
        id: id.to_owned(),
        path: path.to_owned(),
        detail: Detail::of(&e),
    })?;
    // Two buffers that take turns, and the deltas.
    let limit_bytes = header.size().saturating_mul(3);
    // Who has a grant may wait for a turn: who has a turn must not wait for a grant.
    let mut grant = output.rest(|| source.budget.take(limit_bytes))?;
    let mut data = Vec::new();
    // The decoder ends with the call: what follows may take all of the grant.
    let pushed = source.packs.push_object(
        id,
        ObjectKind::Blob,
        limit_bytes,
        &mut Decoder::new(),
        &mut data,
        |_, _| (),
    );
    let pushed = pushed.map_err(|e| JobError::Object {
        id: id.to_owned(),
        path: path.to_owned(),
        detail: Detail::of(&e),
    })?;
    if pushed.is_some() {
        return Ok(Decoded { data, grant });
    }
    let read = source
        .open_reader(Some(limit_bytes))?
        .read(path, id, &mut data);
    match read {
        Err(JobError::TooLarge { .. }) => {
            data = Vec::new();
            drop(grant);
            grant = output.rest(|| source.budget.take_all())?;
            source.open_reader(None)?.read(path, id, &mut data)?;
        }
        read => read?,
    }
    data.shrink_to_fit();
    Ok(Decoded { data, grant })
}

/// What is in the worktree: the blob, or what the attributes make of it.
fn convert(local: &mut Local, big: &Big<'_>, mut blob: Decoded) -> Result<Decoded, JobError> {
    let converted = local.convert(big.conversions, big.path, big.id, &blob.data)?;
    if let Some(converted) = converted {
        blob.data = converted.to_vec();
        // Its buffers are as large as the file.
        local.spent = true;
    }
    let bytes = blob.data.len() as u64;
    let copies = if local.spent { 3 } else { 1 };
    blob.grant.keep(copies * bytes);
    Ok(blob)
}

fn stream_decoded(
    work: &mut Work<'_>,
    local: &mut Local,
    big: &Big<'_>,
) -> Result<u64, BuildError> {
    let (path, id) = (big.path, big.id);
    let source = work.source.clone();
    let mut again = |output: &mut Output<'_>| {
        let blob = decode(output, local, &source, path, id)?;
        Ok::<_, BuildError>(convert(local, big, blob)?)
    };
    let blob = again(&mut work.output)?;
    let size = blob.data.len();
    let mut chunks = Chunks::begin(work, big, size as u64);
    let (mut blob, mut at) = (Some(blob), 0);
    while at < size {
        // Readers may take hours: their build gives its memory back, and decodes once more.
        if chunks.work.output.fanout.waits_for_readers(AHEAD_BYTES)? {
            blob = None;
            chunks.drain(0)?;
            chunks.work.output.wait_drained()?;
        }
        let now = match blob.take() {
            Some(blob) => blob,
            None => again(&mut chunks.work.output)?,
        };
        let end = size.min(at + chunks.room());
        let part = now.data.get(at..end);
        let part = part.ok_or_else(|| object_error(path, id, "it has another size now".into()))?;
        chunks.tar.extend_from_slice(part);
        (blob, at) = (Some(now), end);
        chunks.pass_on()?;
    }
    drop(blob);
    chunks.end(size as u64)?;
    Ok(size as u64)
}
