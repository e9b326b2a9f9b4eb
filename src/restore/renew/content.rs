//! What the client writes for a blob: what a checkout without the user's filters makes of it.

use std::io::Read;
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::bstr::ByteSlice;
use gix::hash::{Kind, oid};
use gix::objs::{Data, Find};

use super::changes::Changes;
use super::entries::Entries;
use crate::limits::{
    HELD_CONVERTED_BYTES, PATH_BYTES_MAX, RENEWED_BLOB_BYTES_MAX, RESTORED_ATTRIBUTES_BYTES,
    STREAM_READ_BYTES, WORKTREE_WORKERS_MAX,
};
use crate::restore::blobs::{BlobReader, Blobs as LargeBlobs};
use crate::restore::error::RestoreError;
use crate::restore::large::{self, ToFile};
use crate::restore::objects::Objects;
use crate::restore::quota::Quota;
use crate::restore::spill::{Spill, Spilled};
use crate::restore::stop::Stop;
use crate::restore::write::stopped;
use crate::tree::filter::{Conversions, Filter};
use crate::tree::index::SUBMODULE;
use crate::tree::rules::AttributeFiles;
use crate::tree::walk::ATTRIBUTES_FILE;

/// Whether a path is that of a file of attributes.
pub(super) fn is_attributes(path: &[u8]) -> bool {
    let name = path.rsplit(|b| *b == b'/').next();
    name == Some(ATTRIBUTES_FILE)
}

/// The files of attributes in an index.
pub(super) fn attributes_of(entries: &Entries) -> AttributeFiles {
    let mut files = AttributeFiles::default();
    for number in 0..entries.len() {
        let entry = entries.get(number);
        if is_attributes(entry.path()) && !entry.is_submodule() {
            files.push(entry.path().as_bstr(), &entry.id());
        }
    }
    files
}

/// The same once an index has `changes`.
pub(super) fn attributes_with(entries: &Entries, changes: &Changes) -> AttributeFiles {
    let mut files = AttributeFiles::default();
    for number in 0..entries.len() {
        let entry = entries.get(number);
        let path = entry.path();
        if is_attributes(path) && !entry.is_submodule() && changes.find(path).is_none() {
            files.push(path.as_bstr(), &entry.id());
        }
    }
    for change in changes.iter() {
        let path = changes.path(change);
        match change.new {
            Some((mode, id)) if is_attributes(path) && mode != SUBMODULE => {
                files.push(path.as_bstr(), &id);
            }
            _ => {}
        }
    }
    files
}

/// The directories, each with its slash, in which files may be converted in another way after `changes`.
pub(super) fn differently(changes: &Changes) -> Vec<Vec<u8>> {
    let paths = changes.iter().map(|change| changes.path(change));
    let paths = paths.filter(|path| is_attributes(path));
    paths
        .map(|path| path[..path.len() - ATTRIBUTES_FILE.len()].to_vec())
        .collect()
}

/// Makes files of blobs; one for each thread.
pub(in crate::restore) struct Contents<'s> {
    objects: Objects<'s>,
    filter: Filter,
    has_attributes: bool,
    tree: PathBuf,
    git_dir: PathBuf,
    quota: &'s Quota,
    stop: &'s Stop,
    blob: Vec<u8>,
}

/// What is to be written for a blob.
#[derive(Debug)]
pub(super) enum Made<'m> {
    Bytes(&'m [u8]),
    /// One that is not held goes through these.
    Large(Conversions),
}

/// Blobs that attributes are read from.
struct Blobs<'o, 's>(&'o Objects<'s>);

impl Find for Blobs<'_, '_> {
    fn try_find<'b>(
        &self,
        id: &oid,
        buffer: &'b mut Vec<u8>,
    ) -> gix::error::Result<Option<Data<'b>>> {
        let read = self.0.read(id.to_owned(), gix::objs::Kind::Blob, buffer);
        read.map_err(|e| gix::error::message!("{e}"))?;
        Ok(Some(Data {
            kind: gix::objs::Kind::Blob,
            object_hash: id.kind(),
            data: buffer,
        }))
    }
}

impl<'s> Contents<'s> {
    /// With these files of attributes and the objects of the repository at `tree`.
    pub(super) fn new(
        tree: &Path,
        hash: Kind,
        attributes: &AttributeFiles,
        (quota, stop): (&'s Quota, &'s Stop),
    ) -> Result<Contents<'s>, RestoreError> {
        let filter = Filter::new(attributes, RESTORED_ATTRIBUTES_BYTES / 2);
        let filter = filter.map_err(|e| RestoreError::entry(ATTRIBUTES_FILE, e.to_string()))?;
        Ok(Contents {
            objects: Objects::open_for_files(tree, hash, stop)?,
            filter,
            has_attributes: !attributes.is_empty(),
            tree: tree.to_owned(),
            git_dir: tree.join(".git"),
            quota,
            stop,
            blob: Vec::new(),
        })
    }

    /// What a file goes through.
    pub(super) fn conversions(&mut self, path: &[u8]) -> Result<Conversions, RestoreError> {
        if !self.has_attributes {
            return Ok(Conversions::default());
        }
        let found = self
            .filter
            .conversions(path.as_bstr(), &Blobs(&self.objects));
        found.map_err(|e| RestoreError::entry(path, e.to_string()))
    }

    /// Whether the user's git would have a program of his own convert a file.
    pub(super) fn has_filter(&mut self, path: &[u8]) -> Result<bool, RestoreError> {
        if !self.has_attributes {
            return Ok(false);
        }
        let found = self
            .filter
            .has_driver(path.as_bstr(), &Blobs(&self.objects));
        found.map_err(|e| RestoreError::entry(path, e.to_string()))
    }

    /// What is to be written at `path` for the blob `id`. Links are written as they are.
    pub(super) fn make(
        &mut self,
        path: &[u8],
        id: ObjectId,
        is_link: bool,
    ) -> Result<Made<'_>, RestoreError> {
        let size = self.objects.size(id)?;
        let size = size.ok_or_else(|| RestoreError::entry(path, "its blob is not there"))?;
        let conversions = match is_link {
            true => Conversions::default(),
            false => self.conversions(path)?,
        };
        if is_link && size > PATH_BYTES_MAX as u64 {
            return Err(RestoreError::entry(path, "its target is too long"));
        }
        let most = match conversions.is_empty() {
            true => RENEWED_BLOB_BYTES_MAX,
            false => HELD_CONVERTED_BYTES as u64,
        };
        if size > most {
            return Ok(Made::Large(conversions));
        }
        let kind = gix::objs::Kind::Blob;
        self.objects.read(id, kind, &mut self.blob)?;
        let converted = self
            .filter
            .convert(&conversions, path.as_bstr(), &id, &self.blob);
        let converted = converted.map_err(|e| RestoreError::entry(path, e.to_string()))?;
        Ok(Made::Bytes(converted.unwrap_or(&self.blob)))
    }

    /// Whether a file that is `bytes` long is what is written at `path` for the blob `id`.
    pub(super) fn is_of(
        &mut self,
        (path, id): (&[u8], ObjectId),
        mut file: impl Read,
        bytes: u64,
        is_link: bool,
    ) -> Result<bool, RestoreError> {
        let failed = |e| RestoreError::disk("read", crate::restore::path::as_path(path), e);
        if is_link || self.conversions(path)?.is_empty() {
            return Ok(self.sum(file, bytes).map_err(failed)? == Some(id));
        }
        let stop = self.stop;
        let large;
        let expected = match self.make(path, id, false)? {
            Made::Bytes(held) => held,
            Made::Large(conversions) => {
                large = self.converted(id, &conversions)?;
                &large[..]
            }
        };
        if expected.len() as u64 != bytes {
            return Ok(false);
        }
        let mut piece = vec![0; STREAM_READ_BYTES.min(expected.len().max(1))];
        let mut left = expected;
        loop {
            if stop.is_set() {
                return Err(stopped());
            }
            let got = file.read(&mut piece).map_err(failed)?;
            match left.split_at_checked(got) {
                Some((same, rest)) if same == &piece[..got] => left = rest,
                _ => return Ok(false),
            }
            if got == 0 {
                return Ok(left.is_empty());
            }
        }
    }

    /// Has the `reader` of one blob that is not held, each of whose copies is compared with its id.
    fn with_reader<T>(
        &mut self,
        job: impl FnOnce(&mut BlobReader<'_>, &mut Filter, Spill<'_>) -> Result<T, RestoreError>,
    ) -> Result<T, RestoreError> {
        let (packs, hash) = (self.objects.packs().clone(), self.objects.hash());
        let spill = Spill {
            directory: &self.git_dir,
            quota: self.quota,
        };
        let blobs = LargeBlobs::of(
            packs,
            &self.tree,
            hash,
            spill,
            (true, WORKTREE_WORKERS_MAX),
            self.stop,
        )?;
        job(&mut blobs.reader(), &mut self.filter, spill)
    }

    /// What the conversions make of a blob that is not held.
    fn converted(&mut self, id: ObjectId, wanted: &Conversions) -> Result<Spilled, RestoreError> {
        let stop = self.stop;
        self.with_reader(|reader, filter, spill| {
            large::convert(reader, &id, (filter, wanted), spill, stop)
        })
    }

    /// Writes a file of a blob that is not held.
    pub(super) fn write_large(
        &mut self,
        file: ToFile<'_, '_>,
        id: ObjectId,
        wanted: &Conversions,
    ) -> Result<(), RestoreError> {
        self.with_reader(|reader, filter, spill| {
            let conversion = (!wanted.is_empty()).then_some((filter, wanted));
            large::write(file, reader, &id, conversion, spill)
        })
    }

    /// The id of the blob that a file is; `None` if it has not as many bytes as it had.
    fn sum(&self, mut file: impl Read, bytes: u64) -> std::io::Result<Option<ObjectId>> {
        let mut hasher = gix::hash::hasher(self.objects.hash());
        hasher.update(&gix::objs::encode::loose_header(
            gix::objs::Kind::Blob,
            bytes,
        ));
        let mut piece = vec![0; STREAM_READ_BYTES.min(bytes as usize + 1)];
        let mut left = bytes;
        loop {
            if self.stop.is_set() {
                return Err(std::io::Error::other("the restore ends"));
            }
            let got = file.read(&mut piece)?;
            if got == 0 {
                break;
            }
            let Some(rest) = left.checked_sub(got as u64) else {
                return Ok(None);
            };
            left = rest;
            hasher.update(&piece[..got]);
        }
        // One that is made to have another's sum is another.
        Ok(hasher.try_finalize().ok().filter(|_| left == 0))
    }
}
