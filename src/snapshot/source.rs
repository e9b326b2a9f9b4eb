//! What all jobs of one build read from, and the handles that each thread has on it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use gix::bstr::{BStr, BString};
use gix::objs::tree::EntryKind;
use gix::objs::{Find, Kind};
use gix::{ObjectId, oid};

use super::budget::Budget;
use super::reuse::Reuse;
use super::trees::{Kept, LargestTree};
use crate::io::shortage::Detail;
use crate::limits::{ATTRIBUTES_BYTES_MAX, DECODE_LIMIT_BYTES, DELTA_CACHE_BYTES};
use crate::tree::batch::Batch;
use crate::tree::decoder::{Decoder, Packs, Trees};
use crate::tree::filter::{Conversions, Filter, FilterError};
use crate::tree::frames::FrameError;
use crate::tree::rules::{AttributeFiles, RulesError};
use crate::tree::tar;
use crate::tree::walk::{Go, Start, Step, WalkError, walk};

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
        #[source]
        detail: Detail,
    },
    #[error("object {id} of '{path}' takes too much memory to be decoded")]
    TooLarge { id: ObjectId, path: BString },
    #[error("link '{path}' has a target that no file system takes; fix it in the repository")]
    LinkTarget { path: BString },
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("the pinned repository cannot be opened: {0}")]
    Open(#[source] Detail),
    #[error("attributes cannot be prepared: {0}")]
    Attributes(#[source] RulesError),
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
    /// Kept from one walk to the next.
    pub(super) largest_tree: LargestTree,
    /// What an earlier snapshot has of the worktree.
    pub reuse: Reuse,
    /// zstd level.
    pub level: i32,
}

impl Source {
    /// Walks what is below `start` (see [`walk`]).
    pub(super) fn walk<E: From<WalkError>>(
        &self,
        start: &Start,
        each: impl FnMut(Step<'_>) -> Result<Go, E>,
    ) -> Result<(), E> {
        let local = self.repository.to_thread_local();
        let hash = local.object_hash();
        let trees = Trees::new(&self.packs, &local.objects, hash);
        let kept = Kept {
            trees: &trees,
            largest: &self.largest_tree,
        };
        walk(&kept, hash, start, each)
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

    pub(super) fn open_for_blobs(
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
            .map_err(|e| JobError::Open(Detail::of(&e)))
    }

    pub(super) fn bounded(&self) -> Result<gix::Repository, JobError> {
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

impl Local {
    pub(super) fn open(source: &Source) -> Result<Local, JobError> {
        Local::new(source, source.bounded()?)
    }

    pub(super) fn new(source: &Source, repository: gix::Repository) -> Result<Local, JobError> {
        let unknown =
            || JobError::Attributes(std::io::Error::other("they are not known yet").into());
        let attributes = source.attributes.get().ok_or_else(unknown)?;
        let filter = match attributes.is_empty() {
            true => None,
            false => {
                Some(Filter::new(attributes, ATTRIBUTES_BYTES_MAX).map_err(JobError::Attributes)?)
            }
        };
        Ok(Local::with_filter(source, repository, filter))
    }

    pub(super) fn with_filter(
        source: &Source,
        repository: gix::Repository,
        filter: Option<Filter>,
    ) -> Local {
        Local {
            repository,
            packs: source.packs.clone(),
            decoder: Decoder::new(),
            filter,
            spent: false,
        }
    }

    /// Appends the file of the blob `id`, which goes into the worktree as it is, to `tar` if that can be
    /// done without another buffer: it is in a pack. Returns its size.
    pub(super) fn push_plain(
        &mut self,
        tar: &mut Vec<u8>,
        path: &BStr,
        executable: bool,
        id: &oid,
        mtime_s: i64,
    ) -> Result<Option<u64>, JobError> {
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
            detail: Detail::of(&e),
        })?;
        if let Some(size) = size {
            tar::pad(tar, size);
        }
        Ok(size)
    }

    /// Reads the blob `id` into `blob`.
    pub fn read(&self, path: &BStr, id: &oid, blob: &mut Vec<u8>) -> Result<(), JobError> {
        let error = |detail: Detail| JobError::Object {
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
            false => error(Detail::of(&e)),
        });
        match found? {
            None => Err(error("it is missing".into())),
            Some(data) if data.kind != Kind::Blob => {
                Err(error(format!("it is a {}", data.kind).into()))
            }
            Some(_) => Ok(()),
        }
    }

    /// The worktree file of a blob; `None` if it is the blob.
    pub(super) fn convert(
        &mut self,
        conversions: &Conversions,
        path: &BStr,
        id: &oid,
        blob: &[u8],
    ) -> Result<Option<&[u8]>, JobError> {
        match &mut self.filter {
            None => Ok(None),
            Some(filter) => Ok(filter.convert(conversions, path, id, blob)?),
        }
    }

    /// What each of the batch's files goes through.
    pub(super) fn conversions(&mut self, batch: &Batch) -> Result<Vec<Conversions>, JobError> {
        let objects = &self.repository.objects;
        let of = |(path, kind, _): (&BStr, EntryKind, &oid)| match &mut self.filter {
            Some(filter) if matches!(kind, EntryKind::Blob | EntryKind::BlobExecutable) => {
                Ok(filter.conversions(path, objects)?)
            }
            _ => Ok(Conversions::default()),
        };
        batch.entries().map(of).collect()
    }

    /// Sizes of the batch's blobs; 0 for what is none.
    pub(super) fn measure(&self, batch: &Batch) -> Result<Vec<u64>, JobError> {
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
                detail: Detail::of(&e),
            })?;
            Ok(header.size())
        };
        batch.entries().map(size).collect()
    }
}
