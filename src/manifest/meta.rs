//! What is known of a cache entry, and what must hold of it. Its fields come from a build or from
//! the metadata file ([`codec`]); what is handed on has been checked.

use std::collections::HashSet;
use std::ops::Deref;

use super::id::{EntryId, is_lower_hex};
use super::outline::OUTLINE_NAME;
use super::parts::{MANIFEST_NAME, Manifest, Part, Section, Unsound, part_name};
use super::path::is_plain_path;
use super::record::Linked;
use super::want::Want;
use crate::extent::{Extent, Layout};

mod codec;

pub use codec::parts::UnpackError;
pub use codec::{MetaError, VERSION};

/// The metadata file in an entry's directory.
pub const META_NAME: &str = "meta";
/// The directory of files of frames in an entry's directory.
pub const FRAMES_NAME: &str = "frames";

/// What is known of an entry; [`Meta`] is the checked form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// The entry's id.
    pub id: EntryId,
    /// `host/path` of the repository as it was spelled first: so its origin is spelled, too.
    pub repository: String,
    /// What of it somebody wanted.
    pub want: Want,
    /// The commit of HEAD as full lower-case hex; `None` when HEAD points nowhere.
    pub commit: Option<String>,
    /// Digest of what the archive shows, to tell whether it is up to date.
    pub shown: [u8; 32],
    /// When the build began, in milliseconds since the epoch.
    pub created_unix_ms: u64,
    /// The linked files: packs, then files of frames; extents name them by their place in this list.
    pub linked: Vec<Linked>,
    /// Where in its directory the entry's own bytes are; later entries link it by the same path.
    pub spool: String,
    /// The archive.
    pub layout: Layout,
    /// XXH64 of the whole spool file, with seed 0.
    pub spool_checksum: u64,
}

/// The metadata of an entry. Its fields can be read, and are changed by making a new one.
///
/// Invariants:
/// 1. `repository` is a plain path (see [`is_plain_path`]) of at least two parts.
/// 2. `commit` is 40 or 64 lower-case hex characters.
/// 3. Paths of `linked` and `spool` are plain, differ, and do not lie at or below `meta`, `outline` or
///    `manifest`.
/// 4. Raw runs and stored frames lie inside linked files that exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta(Fields);

/// Which invariant of [`Meta`] does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMeta {
    #[error("repository {repository:?} is not a plain host/path")]
    Repository { repository: String },
    #[error("commit {commit:?} is not a full lower-case hex hash")]
    Commit { commit: String },
    #[error("linked file {file} has the path {path:?}, which is not allowed")]
    LinkedPath { file: usize, path: String },
    #[error("linked file {file} repeats the path {path:?}")]
    LinkedTwice { file: usize, path: String },
    #[error("extent {extent} reads beyond what linked file {file} holds")]
    RunOutside { extent: usize, file: u32 },
}

impl InvalidMeta {
    /// The field of [`Fields`] that is wrong.
    fn field(&self) -> &'static str {
        match self {
            InvalidMeta::Repository { .. } => "repository",
            InvalidMeta::Commit { .. } => "commit",
            InvalidMeta::LinkedPath { .. } | InvalidMeta::LinkedTwice { .. } => "linked",
            InvalidMeta::RunOutside { .. } => "layout",
        }
    }
}

impl Deref for Meta {
    type Target = Fields;
    fn deref(&self) -> &Fields {
        &self.0
    }
}

impl Meta {
    /// Checks the fields against the invariants of [`Meta`].
    pub fn new(fields: Fields) -> Result<Meta, InvalidMeta> {
        fields.check()?;
        Ok(Meta(fields))
    }

    /// Gives the fields back.
    pub fn into_fields(self) -> Fields {
        self.0
    }

    /// Length of the archive in bytes.
    pub fn wire_bytes(&self) -> u64 {
        self.layout.wire_bytes()
    }

    /// What the entry is to whoever puts its archive together himself, in which that stands where the sections say.
    ///
    /// # Errors
    /// Files that a part cannot be: an operator has given a pack such a name.
    pub fn manifest(&self, sections: &[Section]) -> Result<Manifest, Unsound> {
        let linked = self.linked.iter().map(|linked| Part {
            name: part_name(&linked.path).to_owned(),
            bytes: linked.bytes,
            whole: linked.whole,
        });
        let own = Part {
            name: part_name(&self.spool).to_owned(),
            bytes: self.spool_bytes(),
            whole: Some(self.spool_checksum),
        };
        let manifest = Manifest {
            id: self.id,
            want: self.want.clone(),
            commit: self.commit.clone(),
            parts: linked.chain([own]).collect(),
            sections: sections.to_vec(),
            layout: self.layout.clone(),
        };
        manifest.check().map(|()| manifest)
    }

    /// Length of the spool file.
    pub fn spool_bytes(&self) -> u64 {
        self.layout.spool_bytes()
    }
}

impl Fields {
    fn check(&self) -> Result<(), InvalidMeta> {
        let repository = &self.repository;
        if !is_plain_path(repository) || !repository.contains('/') {
            return Err(InvalidMeta::Repository {
                repository: repository.clone(),
            });
        }
        if let Some(commit) = &self.commit
            && !(matches!(commit.len(), 40 | 64) && is_lower_hex(commit.as_bytes()))
        {
            return Err(InvalidMeta::Commit {
                commit: commit.clone(),
            });
        }
        self.check_linked()?;
        self.check_runs()
    }

    fn check_linked(&self) -> Result<(), InvalidMeta> {
        let mut seen = HashSet::new();
        let paths = self.linked.iter().map(|linked| &linked.path);
        // The spool file is the one behind them.
        for (file, path) in paths.chain([&self.spool]).enumerate() {
            if !is_linkable(path) {
                let path = path.clone();
                return Err(InvalidMeta::LinkedPath { file, path });
            }
            if !seen.insert(path) {
                let path = path.clone();
                return Err(InvalidMeta::LinkedTwice { file, path });
            }
        }
        Ok(())
    }

    fn check_runs(&self) -> Result<(), InvalidMeta> {
        for (extent, run) in self.layout.extents().iter().enumerate() {
            if let Extent::RawRun {
                file, offset, len, ..
            }
            | Extent::Stored { file, offset, len } = *run
            {
                let holder = self.linked.get(file as usize);
                if !holder.is_some_and(|linked| lies_within(offset, len, linked.bytes)) {
                    return Err(InvalidMeta::RunOutside { extent, file });
                }
            }
        }
        Ok(())
    }
}

fn lies_within(offset: u64, len: u64, whole: u64) -> bool {
    offset.checked_add(len).is_some_and(|end| end <= whole)
}

/// Whether a linked file may have this path in an entry.
pub fn is_linkable(path: &str) -> bool {
    let first = path.split('/').next();
    let is_taken = |first| [META_NAME, OUTLINE_NAME, MANIFEST_NAME].contains(&first);
    is_plain_path(path) && !first.is_some_and(is_taken)
}
