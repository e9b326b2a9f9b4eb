//! Jobs: a batch of files becomes frames, on an encoder thread.

use std::sync::Arc;

use gix::bstr::BStr;
use gix::objs::tree::EntryKind;
use gix::oid;

use super::source::{JobError, Local, Source};
use crate::limits::{
    BIG_FILE_BYTES, ENCODER_KEPT_BYTES, FRAME_TAR_BYTES, JOB_TAR_BYTES, PATH_BYTES_MAX,
};
use crate::manifest::record::Record;
use crate::tree::batch::Batch;
use crate::tree::dates::worktree_date_s;
use crate::tree::filter::Conversions;
use crate::tree::frames::Compressor;
use crate::tree::tar;

/// What became of a batch.
pub enum Outcome {
    /// Its frames under their key, and the size of every entry's file as the index records it.
    Done {
        key: [u8; 32],
        frames: Vec<u8>,
        sizes: Vec<u32>,
        dates: Vec<u32>,
    },
    /// An earlier snapshot has its frames.
    Known { record: Record, dates: Vec<u32> },
    /// It holds too much for one job.
    Split(Vec<Batch>),
    /// Decoding one of its files takes more memory than an encoder may take by itself.
    Heavy(Batch),
}

/// What an encoder thread keeps between jobs.
pub struct EncoderState {
    compressor: Option<Compressor>,
    tar: Vec<u8>,
    blob: Vec<u8>,
    /// What linked files are read through.
    pub(super) read: Vec<u8>,
}

impl Default for EncoderState {
    fn default() -> Self {
        EncoderState {
            compressor: Compressor::new(),
            tar: Vec::new(),
            blob: Vec::new(),
            read: Vec::new(),
        }
    }
}

impl EncoderState {
    /// Keeps buffers for the next job, unless a large file has made them large.
    fn keep(&mut self, tar: Vec<u8>, blob: Vec<u8>) {
        for (kept, buffer) in [(&mut self.tar, tar), (&mut self.blob, blob)] {
            if buffer.capacity() <= ENCODER_KEPT_BYTES {
                *kept = buffer;
            }
        }
    }
}

impl EncoderState {
    /// Appends `data` to `out` as one frame.
    pub fn push_frame(
        &mut self,
        level: i32,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), JobError> {
        let compressor = self.compressor.as_mut().ok_or(JobError::NoMemory)?;
        Ok(compressor.push_frame(level, data, out)?)
    }
}

/// Looks whether the frames of a batch are known, encodes it, or says how it is to be split.
pub fn encode(
    state: &mut EncoderState,
    source: &Arc<Source>,
    batch: &Batch,
) -> Result<Outcome, JobError> {
    let mut local = source.take_local()?;
    let outcome = encode_unknown(state, source, &mut local, batch);
    source.keep_local(local);
    match outcome {
        Err(JobError::TooLarge { .. }) => Ok(Outcome::Heavy(batch.clone())),
        outcome => outcome,
    }
}

fn encode_unknown(
    state: &mut EncoderState,
    source: &Source,
    local: &mut Local,
    batch: &Batch,
) -> Result<Outcome, JobError> {
    let conversions = local.conversions(batch)?;
    let key = batch.key(source.level, &conversions);
    if let Some(record) = source.reuse.job(&key, batch.items.len()) {
        return Ok(Outcome::Known {
            record: record.clone(),
            dates: dates(batch, &conversions),
        });
    }
    if !batch.measured {
        let sizes = local.measure(batch)?;
        let total: u64 = sizes.iter().sum();
        let one_big = sizes.iter().any(|s| *s > BIG_FILE_BYTES);
        if one_big || (total > JOB_TAR_BYTES && sizes.len() > 1) {
            return Ok(Outcome::Split(batch.split(&sizes)));
        }
    }
    encode_entries(state, source, local, batch, &conversions, key)
}

/// The same for a batch that is heavy, under a grant of memory; it gives the same frames.
pub fn encode_heavy(
    state: &mut EncoderState,
    source: &Source,
    batch: &Batch,
) -> Result<Outcome, JobError> {
    let repository = source.open_for_blobs(None)?.to_thread_local();
    let mut local = Local::new(source, repository)?;
    let conversions = local.conversions(batch)?;
    let key = batch.key(source.level, &conversions);
    encode_entries(state, source, &mut local, batch, &conversions, key)
}

/// The dates of the entries' files, in seconds since 1970.
pub(super) fn dates(batch: &Batch, conversions: &[Conversions]) -> Vec<u32> {
    let entries = batch.entries().zip(conversions);
    let date = |((_, _, id), conversions)| worktree_date_s(id, conversions) as u32;
    entries.map(date).collect()
}

fn encode_entries(
    state: &mut EncoderState,
    source: &Source,
    local: &mut Local,
    batch: &Batch,
    conversions: &[Conversions],
    key: [u8; 32],
) -> Result<Outcome, JobError> {
    let mut frames = Vec::new();
    let mut sizes = Vec::with_capacity(batch.items.len());
    let dates = dates(batch, conversions);
    let mut tar = std::mem::take(&mut state.tar);
    let mut blob = std::mem::take(&mut state.blob);
    tar.clear();
    for (n, ((path, kind, id), conversions)) in batch.entries().zip(conversions).enumerate() {
        let entry = Entry {
            path,
            kind,
            id,
            conversions,
            date_s: dates[n].into(),
        };
        let size = push_entry(local, &mut blob, &mut tar, &entry)?;
        sizes.push(size as u32);
        if tar.len() >= FRAME_TAR_BYTES {
            state.push_frame(source.level, &tar, &mut frames)?;
            tar.clear();
        }
    }
    if !tar.is_empty() {
        state.push_frame(source.level, &tar, &mut frames)?;
    }
    frames.shrink_to_fit();
    state.keep(tar, blob);
    Ok(Outcome::Done {
        key,
        frames,
        sizes,
        dates,
    })
}

/// An entry and what is known of it.
struct Entry<'a> {
    path: &'a BStr,
    kind: EntryKind,
    id: &'a oid,
    conversions: &'a Conversions,
    date_s: i64,
}

/// Appends an entry to `tar`; returns the size of its file.
fn push_entry(
    local: &mut Local,
    blob: &mut Vec<u8>,
    tar: &mut Vec<u8>,
    entry: &Entry<'_>,
) -> Result<u64, JobError> {
    let (path, id) = (entry.path, entry.id);
    match entry.kind {
        EntryKind::Commit | EntryKind::Tree => {
            tar::push_header(tar, path, tar::Kind::Directory, entry.date_s);
            Ok(0)
        }
        EntryKind::Link => {
            local.read(path, id, blob)?;
            if blob.is_empty() || blob.len() > PATH_BYTES_MAX || blob.contains(&0) {
                return Err(JobError::LinkTarget {
                    path: path.to_owned(),
                });
            }
            let kind = tar::Kind::Symlink { target: blob };
            tar::push_header(tar, path, kind, entry.date_s);
            Ok(blob.len() as u64)
        }
        EntryKind::Blob | EntryKind::BlobExecutable => {
            let executable = entry.kind == EntryKind::BlobExecutable;
            if entry.conversions.is_empty()
                && let Some(size) = local.push_plain(tar, path, executable, id, entry.date_s)?
            {
                return Ok(size);
            }
            local.read(path, id, blob)?;
            let converted = local.convert(entry.conversions, path, id, blob)?;
            let data = converted.unwrap_or(&blob[..]);
            tar::push_file(tar, path, data, executable, entry.date_s);
            Ok(data.len() as u64)
        }
    }
}
