//! Jobs: the worktree, cut into runs of files that are encoded independently of each other.
//!
//! Cuts are content-defined: a job ends after an entry whose object id ends in six zero bits,
//! or at a maximum. So the same files give the same job wherever they stand, and a later
//! snapshot finds the frames of the jobs it shares with an earlier one by their key.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use gix::bstr::{BStr, BString, ByteSlice};
use gix::objs::tree::EntryKind;
use gix::objs::{Find, Kind};
use gix::{ObjectId, oid};
use sha2::{Digest, Sha256};

use super::budget::Budget;
use super::filter::{AttributeFiles, Filter, FilterError};
use super::iconv::Identity;
use super::pack::{Decoder, Packs, Trees};
use super::tar;
use super::walk::{Chain, Entry, Step, WalkError, walk};
use super::zstd::frame::{Compressor, FrameError};
use crate::limits::{
    BIG_FILE_BYTES, DECODE_LIMIT_BYTES, DELTA_CACHE_BYTES, ENCODER_KEPT_BYTES, FRAME_TAR_BYTES,
    JOB_ENTRIES_MAX, JOB_TAR_BYTES, PATH_BYTES_MAX,
};

/// Version of everything that decides the bytes of a job besides its key's other parts: how the
/// worktree is cut, the tar format, the conversions and how they are set up, the settings of frames.
const JOB_FORMAT: u8 = 3;

/// Settings of the view's repository, which can be the mirror itself: an object is what its id
/// says, whatever `refs/replace` holds.
pub(super) const REPOSITORY_SETTINGS: [&str; 1] = ["core.useReplaceRefs=false"];

/// What went wrong in a job.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error("object {id} of '{path}' cannot be read: {detail}; run git fsck on the mirror")]
    Object {
        id: ObjectId,
        path: BString,
        detail: String,
    },
    #[error("object {id} of '{path}' takes too much memory to be decoded")]
    TooLarge { id: ObjectId, path: BString },
    #[error("link '{path}' has a target that no file system takes; fix it in the repository")]
    LinkTarget { path: BString },
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("the pinned repository cannot be opened: {0}")]
    Open(String),
    #[error("attributes cannot be prepared: {0}")]
    Attributes(std::io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("no memory for an encoder")]
    NoMemory,
}

/// What all jobs of one build share.
pub struct Source {
    /// The view, as a repository.
    pub repository: gix::ThreadSafeRepository,
    /// The same for decoding blobs: nothing in it takes more memory than
    /// [`DECODE_LIMIT_BYTES`]. Opened when it is first needed, after the first byte has left.
    pub bounded: Mutex<Option<gix::ThreadSafeRepository>>,
    /// Its packs.
    pub packs: Arc<Packs>,
    /// Memory for decoding what does not fit.
    pub budget: Arc<Budget>,
    /// The tree's attribute files; there before the first batch is given to an encoder.
    pub attributes: OnceLock<AttributeFiles>,
    /// Handles that no thread uses at the moment. They belong to the build and not to the
    /// threads: they hold its packs mapped, and with that their space on the disk.
    pub idle: Mutex<Vec<Local>>,
    /// Date of every file, seconds since 1970.
    pub mtime_s: i64,
    /// zstd level.
    pub level: i32,
}

/// One entry of a job.
#[derive(Debug, Clone, Copy)]
struct Item {
    path_end: u32,
    kind: EntryKind,
    id: ObjectId,
    in_force: InForce,
}

/// What decides, besides its path, which conversions a file goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InForce {
    /// The attribute files.
    pub attributes: Chain,
    /// What text is encoded by, where one of them names an encoding.
    pub iconv: Option<&'static Identity>,
}

/// A run of entries. Invariant: `paths` holds the paths one after the other, `items[i].path_end`
/// the end of each.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    paths: Vec<u8>,
    items: Vec<Item>,
    key: Sha256,
    /// Whether the sizes of its files were looked at already, so that it is not split again.
    measured: bool,
    big: bool,
}

impl Batch {
    /// Appends an entry, whose text is encoded by `iconv` if it is encoded at all.
    pub fn push(&mut self, entry: &Entry<'_>, iconv: Option<&'static Identity>) {
        let in_force = InForce {
            attributes: entry.attributes_in_force,
            iconv,
        };
        self.push_item(entry.path, entry.kind, entry.id, in_force);
    }

    /// Everything that decides the entry's bytes goes into the key, each thing whole and where
    /// nothing else can be taken for it: what varies in length has its length before it.
    fn push_item(&mut self, path: &BStr, kind: EntryKind, id: ObjectId, in_force: InForce) {
        if self.items.is_empty() {
            self.begin_key();
        }
        let InForce { attributes, iconv } = in_force;
        self.key.update(attributes);
        self.key.update([u8::from(iconv.is_some())]);
        self.key.update(iconv.map_or(&[][..], Identity::as_bytes));
        // All of the mode: its low byte is the same for a link and a submodule.
        self.key.update((kind as u16).to_le_bytes());
        for part in [id.as_bytes(), path] {
            self.key.update((part.len() as u32).to_le_bytes());
            self.key.update(part);
        }
        self.paths.extend_from_slice(path);
        let path_end = self.paths.len() as u32;
        self.items.push(Item {
            path_end,
            kind,
            id,
            in_force,
        });
    }

    fn begin_key(&mut self) {
        self.key.update([JOB_FORMAT]);
        self.key.update(zstd_safe::version_number().to_le_bytes());
        for bound in [FRAME_TAR_BYTES as u64, JOB_TAR_BYTES, BIG_FILE_BYTES] {
            self.key.update(bound.to_le_bytes());
        }
    }

    /// Whether the job ends here.
    pub fn ends(&self) -> bool {
        let Some(last) = self.items.last() else {
            return false;
        };
        let cut = last
            .id
            .as_bytes()
            .last()
            .is_some_and(|b| b.trailing_zeros() >= 6);
        cut || self.items.len() >= JOB_ENTRIES_MAX
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether it is one file too big to be decoded in memory.
    pub fn is_big(&self) -> bool {
        self.big
    }

    /// The key under which its frames can be found again: everything that decides its bytes
    /// but the date, which its [`Record`](crate::manifest::record::Record) has. A part of a split batch has the key that a batch of its own would have.
    pub fn key(&self, level: i32) -> [u8; 32] {
        let digest = self.key.clone().chain_update(level.to_le_bytes());
        digest.finalize().into()
    }

    /// Path, kind and id of each entry.
    pub fn entries(&self) -> impl Iterator<Item = (&BStr, EntryKind, &oid)> {
        let starts = std::iter::once(0).chain(self.items.iter().map(|i| i.path_end as usize));
        self.items.iter().zip(starts).map(|(item, start)| {
            let path = self.paths[start..item.path_end as usize].as_bstr();
            (path, item.kind, &*item.id)
        })
    }

    /// Cuts into batches whose files together stay below the maximum; big files stand alone.
    fn split(&self, sizes: &[u64]) -> Vec<Batch> {
        let mut out: Vec<Batch> = Vec::new();
        let mut bytes = 0;
        for (((path, kind, id), item), size) in self.entries().zip(&self.items).zip(sizes) {
            let big = *size > BIG_FILE_BYTES;
            let full = bytes + size > JOB_TAR_BYTES || out.last().is_none_or(|b| b.big);
            if full || big {
                bytes = 0;
                out.push(Batch {
                    measured: true,
                    big,
                    ..Batch::default()
                });
            }
            bytes += size;
            if let Some(batch) = out.last_mut() {
                batch.push_item(path, kind, id.to_owned(), item.in_force);
            }
        }
        out
    }
}

/// What became of a batch.
pub enum Outcome {
    /// Its frames, and the size of every entry's file as the index records it.
    Done { frames: Vec<u8>, sizes: Vec<u32> },
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

/// A thread's own handles for one build.
pub struct Local {
    /// The view's repository.
    pub repository: gix::Repository,
    packs: Arc<Packs>,
    decoder: Decoder,
    filter: Option<Filter>,
    /// Whether it has grown over what is kept for the next piece of work.
    pub spent: bool,
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

impl Source {
    /// Walks `tree` (see [`walk`]).
    pub fn walk<E: From<WalkError>>(
        &self,
        tree: &oid,
        each: impl FnMut(Step<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let local = self.repository.to_thread_local();
        let hash = local.object_hash();
        let trees = Trees::new(&self.packs, &local.objects, hash);
        walk(&trees, hash, tree, each)
    }

    /// What encodes text by the attribute file of this very directory, if that names an encoding.
    pub fn iconv_in(&self, directory: &BStr) -> Option<&'static Identity> {
        let attributes = self.attributes.get()?;
        let names = attributes.name_encoding_in(directory);
        names.then(Identity::of_system)
    }

    /// Handles for the calling thread.
    pub fn take_local(&self) -> Result<Local, JobError> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        idle.map_or_else(|| Local::open(self), Ok)
    }

    /// Handles that only read, and take at most so much memory to decode an object, or as
    /// much as there is.
    pub fn open_reader(&self, limit_bytes: Option<u64>) -> Result<Local, JobError> {
        let repository = self.open_for_blobs(limit_bytes)?.to_thread_local();
        Ok(Local::with_filter(self, repository, None))
    }

    fn open_for_blobs(
        &self,
        limit_bytes: Option<u64>,
    ) -> Result<gix::ThreadSafeRepository, JobError> {
        let mut settings = REPOSITORY_SETTINGS.map(str::to_owned).to_vec();
        settings.push(format!(
            "gitoxide.core.defaultPackCacheMemoryLimit={DELTA_CACHE_BYTES}"
        ));
        settings.extend(limit_bytes.map(|limit| format!("gitoxide.objects.allocLimit={limit}")));
        let options = gix::open::Options::isolated().config_overrides(settings);
        gix::ThreadSafeRepository::open_opts(self.repository.git_dir(), options)
            .map_err(|e| JobError::Open(e.to_string()))
    }

    fn bounded(&self) -> Result<gix::Repository, JobError> {
        let mut bounded = self.bounded.lock().unwrap_or_else(PoisonError::into_inner);
        let repository = match bounded.take() {
            Some(repository) => repository,
            None => self.open_for_blobs(Some(DECODE_LIMIT_BYTES))?,
        };
        let local = repository.to_thread_local();
        *bounded = Some(repository);
        Ok(local)
    }

    /// Gives handles back for the next piece of work.
    pub fn keep_local(&self, local: Local) {
        if local.spent {
            return;
        }
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(local);
    }
}

impl Local {
    fn open(source: &Source) -> Result<Local, JobError> {
        Local::new(source, source.bounded()?)
    }

    fn new(source: &Source, repository: gix::Repository) -> Result<Local, JobError> {
        let unknown = || JobError::Attributes(std::io::Error::other("they are not known yet"));
        let attributes = source.attributes.get().ok_or_else(unknown)?;
        let filter = match attributes.is_empty() {
            true => None,
            false => Some(Filter::new(attributes).map_err(JobError::Attributes)?),
        };
        Ok(Local::with_filter(source, repository, filter))
    }

    fn with_filter(source: &Source, repository: gix::Repository, filter: Option<Filter>) -> Local {
        Local {
            repository,
            packs: source.packs.clone(),
            decoder: Decoder::new(),
            filter,
            spent: false,
        }
    }

    /// Appends the file of the blob `id` to `tar` if that can be done without another buffer:
    /// it is in a pack and goes into the worktree as it is. Returns its size.
    fn push_plain(
        &mut self,
        tar: &mut Vec<u8>,
        path: &BStr,
        executable: bool,
        id: &oid,
        mtime_s: i64,
    ) -> Result<Option<u64>, JobError> {
        if self.converts(path)? {
            return Ok(None);
        }
        let begin = |tar: &mut Vec<u8>, size| {
            tar::push_header(tar, path, tar::Kind::File { size, executable }, mtime_s);
        };
        let decoder = &mut self.decoder;
        let pushed =
            self.packs
                .push_object(id, Kind::Blob, DECODE_LIMIT_BYTES, decoder, tar, begin);
        let size = pushed.map_err(|e| JobError::Object {
            id: id.to_owned(),
            path: path.to_owned(),
            detail: e.to_string(),
        })?;
        if let Some(size) = size {
            tar::pad(tar, size);
        }
        Ok(size)
    }

    /// Reads the blob `id` into `blob`.
    pub fn read(&self, path: &BStr, id: &oid, blob: &mut Vec<u8>) -> Result<(), JobError> {
        let error = |detail: String| JobError::Object {
            id: id.to_owned(),
            path: path.to_owned(),
            detail,
        };
        let found = self.repository.objects.try_find(id, blob);
        let found = found.map_err(|e| match e.is_resource_exhausted() {
            true => JobError::TooLarge {
                id: id.to_owned(),
                path: path.to_owned(),
            },
            false => error(e.to_string()),
        });
        match found? {
            None => Err(error("it is missing".into())),
            Some(data) if data.kind != Kind::Blob => Err(error(format!("it is a {}", data.kind))),
            Some(_) => Ok(()),
        }
    }

    /// The worktree file of a blob; `None` if it is the blob.
    pub fn convert(
        &mut self,
        path: &BStr,
        id: &oid,
        blob: &[u8],
    ) -> Result<Option<&[u8]>, JobError> {
        match &mut self.filter {
            None => Ok(None),
            Some(filter) => Ok(filter.convert(path, id, blob, &self.repository.objects)?),
        }
    }

    /// Whether the file at `path` may differ from its blob.
    pub fn converts(&mut self, path: &BStr) -> Result<bool, JobError> {
        match &mut self.filter {
            None => Ok(false),
            Some(filter) => Ok(filter.converts(path, &self.repository.objects)?),
        }
    }

    /// Sizes of the batch's blobs; 0 for what is none.
    fn measure(&self, batch: &Batch) -> Result<Vec<u64>, JobError> {
        let size = |(path, kind, id): (&BStr, EntryKind, &oid)| {
            if kind == EntryKind::Commit {
                return Ok(0);
            }
            if let Some(whole) = self.packs.find_whole(id) {
                return Ok(whole.size);
            }
            let header = self.repository.find_header(id.to_owned());
            let header = header.map_err(|e| JobError::Object {
                id: id.to_owned(),
                path: path.to_owned(),
                detail: e.to_string(),
            })?;
            Ok(header.size())
        };
        batch.entries().map(size).collect()
    }
}

/// Encodes a batch, or says how it is to be split.
pub fn encode(
    state: &mut EncoderState,
    source: &Arc<Source>,
    batch: &Batch,
) -> Result<Outcome, JobError> {
    let mut local = source.take_local()?;
    if !batch.measured {
        let sizes = local.measure(batch)?;
        let total: u64 = sizes.iter().sum();
        let one_big = sizes.iter().any(|s| *s > BIG_FILE_BYTES);
        if one_big || (total > JOB_TAR_BYTES && sizes.len() > 1) {
            source.keep_local(local);
            return Ok(Outcome::Split(batch.split(&sizes)));
        }
    }
    let done = encode_entries(state, source, &mut local, batch);
    source.keep_local(local);
    match done {
        Err(JobError::TooLarge { .. }) => Ok(Outcome::Heavy(batch.clone())),
        done => done,
    }
}

/// The same for a batch that is heavy, under a grant of memory; it gives the same frames.
pub fn encode_heavy(
    state: &mut EncoderState,
    source: &Source,
    batch: &Batch,
) -> Result<Outcome, JobError> {
    let repository = source.open_for_blobs(None)?.to_thread_local();
    let mut local = Local::new(source, repository)?;
    encode_entries(state, source, &mut local, batch)
}

fn encode_entries(
    state: &mut EncoderState,
    source: &Source,
    local: &mut Local,
    batch: &Batch,
) -> Result<Outcome, JobError> {
    let mut frames = Vec::new();
    let mut sizes = Vec::with_capacity(batch.items.len());
    let mut tar = std::mem::take(&mut state.tar);
    let mut blob = std::mem::take(&mut state.blob);
    tar.clear();
    for (path, kind, id) in batch.entries() {
        let size = push_entry(source, local, &mut blob, &mut tar, path, kind, id)?;
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
    Ok(Outcome::Done { frames, sizes })
}

/// Appends an entry to `tar`; returns the size of its file.
fn push_entry(
    source: &Source,
    local: &mut Local,
    blob: &mut Vec<u8>,
    tar: &mut Vec<u8>,
    path: &BStr,
    kind: EntryKind,
    id: &oid,
) -> Result<u64, JobError> {
    match kind {
        EntryKind::Commit | EntryKind::Tree => {
            tar::push_header(tar, path, tar::Kind::Directory, source.mtime_s);
            Ok(0)
        }
        EntryKind::Link => {
            local.read(path, id, blob)?;
            if blob.is_empty() || blob.len() > PATH_BYTES_MAX || blob.contains(&0) {
                return Err(JobError::LinkTarget {
                    path: path.to_owned(),
                });
            }
            tar::push_header(
                tar,
                path,
                tar::Kind::Symlink { target: blob },
                source.mtime_s,
            );
            Ok(blob.len() as u64)
        }
        EntryKind::Blob | EntryKind::BlobExecutable => {
            let executable = kind == EntryKind::BlobExecutable;
            let pushed = local.push_plain(tar, path, executable, id, source.mtime_s)?;
            if let Some(size) = pushed {
                return Ok(size);
            }
            local.read(path, id, blob)?;
            let converted = local.convert(path, id, blob)?;
            let data = converted.unwrap_or(&blob[..]);
            tar::push_file(tar, path, data, executable, source.mtime_s);
            Ok(data.len() as u64)
        }
    }
}
