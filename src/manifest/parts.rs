//! What a snapshot is to whoever puts it together himself: its parts, which are files that never change, and
//! where in which of them each run of the archive lies.
//!
//! It stands in a file of its own beside the metadata, made for who asks and not for the server. Format: see
//! [`super::meta`]'s codec; on the disk and on the wire it is one zstd frame of that.

use std::collections::HashSet;
use std::ops::Range;

use super::id::{EntryId, is_lower_hex};
use super::want::Want;
use crate::extent::{Extent, Layout, Segment};
use crate::limits::PART_STEM_BYTES_MAX;

/// Its file in an entry's directory.
pub const MANIFEST_NAME: &str = "manifest";
/// What it is when it is sent.
pub const MANIFEST_TYPE: &str = "application/x-tarpon-manifest";
/// What a request says that takes a manifest or the archive, whichever is there sooner.
pub const MANIFEST_OR_ARCHIVE: &str = "application/x-tarpon-manifest, application/zstd";
/// The same of one that would rather wait for the manifest: it has much of what is made.
pub const MANIFEST_BEFORE_ARCHIVE: &str = "application/x-tarpon-manifest, application/zstd;q=0.5";

/// The tag that it has then: it is another representation than the archive, whose tag is the id alone (RFC 9110,
/// section 8.8.3).
pub fn manifest_tag(id: &EntryId) -> String {
    format!("\"{id}{TAG_END}")
}

const TAG_END: &str = "-manifest\"";

/// The tag of the archive whose manifest has this one.
pub fn tag_of_archive(manifest_tag: &str) -> Option<String> {
    Some(format!("{}\"", manifest_tag.strip_suffix(TAG_END)?))
}

/// A file that snapshots are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Of a pack or one of its companions the name that it has below `.git/objects/pack`; of a file of frames
    /// a random one, which it has for good.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// XXH64 of a whole file of frames, with seed 0. A pack is sent in frames that have their checksums in the
    /// layout, and git has sums of it.
    pub whole: Option<u64>,
}

/// What stands in a stretch of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// The directories of `.git`, HEAD, the configuration and what belongs to them.
    GitDir,
    /// The files of refs.
    Refs,
    /// Packs with their companions.
    Packs,
    /// What is checked out.
    Worktree,
    /// `.git/index`.
    Index,
    /// The tags of a history that is one commit, and the end of the tar.
    End,
}

/// Where a stretch begins, which ends where the next one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// What stands there.
    pub contents: Contents,
    /// Its first byte in the archive.
    pub from: u64,
}

/// See the module's text. Any that was decoded is sound.
///
/// Invariants:
/// 1. Parts have names that [`is_part_name`] allows, each another one. Packs have no sum of the whole, files of
///    frames do. All together fit into a file's length.
/// 2. The last part is what the snapshot itself has written: as long as the layout's spool.
/// 3. Raw runs lie in packs and have all of each, in order. Stored frames lie in other files of frames.
/// 4. Sections begin with the archive, each behind the one before it, and within it.
/// 5. `commit` is 40 or 64 lower-case hex characters, and the one that the want names, if it names one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The snapshot's id, which is its `ETag`.
    pub id: EntryId,
    /// What of its repository it is.
    pub want: Want,
    /// The commit of HEAD; `None` when HEAD points nowhere.
    pub commit: Option<String>,
    /// The files. Extents name them by their place in this list; those of the spool lie in the last one.
    pub parts: Vec<Part>,
    /// What stands where in the archive.
    pub sections: Vec<Section>,
    /// The archive.
    pub layout: Layout,
}

/// Which invariant of [`Manifest`] does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    #[error("part {part} has the name {name:?}, which is none of a part")]
    Name { part: usize, name: String },
    #[error("part {part} repeats the name {name:?}")]
    Twice { part: usize, name: String },
    #[error("part {part} is a pack with a sum of frames, or frames without one")]
    Sum { part: usize },
    #[error("the parts have more bytes than a file can")]
    TooLong,
    #[error("the last part is not what the snapshot itself has written")]
    Own,
    #[error("extent {extent} reads beyond part {part}, or what is not in such a part")]
    Outside { extent: usize, part: u32 },
    #[error("part {part}, of a pack, is not all in the archive and in order")]
    NotWhole { part: usize },
    #[error("the sections are not in order, or begin beyond the archive")]
    Sections,
    #[error(
        "the commit {commit:?} is not a full lower-case hex hash, or another one than is wanted"
    )]
    Commit { commit: String },
}

/// Whether a part can have this name: that of a pack or of one of its companions, or of a file of frames.
#[must_use]
pub fn is_part_name(name: &str) -> bool {
    is_frames_name(name) || is_pack_name(name)
}

fn is_frames_name(name: &str) -> bool {
    name.len() == 32 && is_lower_hex(name.as_bytes())
}

fn is_pack_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let stem = name
        .strip_prefix("pack-")
        .and_then(|rest| rest.split_once('.'))
        .filter(|(_, extension)| matches!(*extension, "pack" | "idx" | "rev"));
    stem.is_some_and(|(stem, _)| {
        (1..=PART_STEM_BYTES_MAX).contains(&stem.len()) && stem.bytes().all(is_plain)
    })
}

/// The name of the part that lies at this path in an entry.
#[must_use]
pub fn part_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

impl Part {
    /// Whether it is a pack or one of its companions.
    #[must_use]
    pub fn is_of_pack(&self) -> bool {
        self.whole.is_none()
    }
}

impl Manifest {
    /// See [`manifest_tag`].
    #[must_use]
    pub fn tag(&self) -> String {
        manifest_tag(&self.id)
    }

    /// All parts but what the snapshot itself has written.
    #[must_use]
    pub fn linked(&self) -> &[Part] {
        self.parts.split_last().map_or(&[], |(_, linked)| linked)
    }

    /// Where the bytes of the archive are, from its first to its last. [`Segment::Spool`] is in the last part.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let segment = self.layout.segment_at(at)?;
            at += segment.wire_bytes();
            Some(segment)
        })
    }

    /// Where in the archive something stands: nowhere, or in one stretch or more.
    pub fn stretches(&self, contents: Contents) -> impl Iterator<Item = Range<u64>> + '_ {
        let ends = self.sections.iter().skip(1).map(|next| next.from);
        let all = self
            .sections
            .iter()
            .zip(ends.chain([self.layout.wire_bytes()]));
        all.filter(move |(section, _)| section.contents == contents)
            .map(|(section, end)| section.from..end)
    }

    /// Whether the invariants hold, so that nothing in it leads out of it.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.check().is_ok()
    }

    /// Checks the invariants.
    pub(super) fn check(&self) -> Result<(), Unsound> {
        self.check_parts()?;
        self.check_extents()?;
        let mut ends = self.sections.iter().map(|section| section.from);
        let is_first = self.sections.first().is_none_or(|first| first.from == 0);
        let are_within = ends.all(|from| from < self.layout.wire_bytes());
        if !is_first || !are_within || !self.sections.is_sorted_by(|a, b| a.from < b.from) {
            return Err(Unsound::Sections);
        }
        let commit = self.commit.as_deref();
        let is_hex = |hex: &str| matches!(hex.len(), 40 | 64) && is_lower_hex(hex.as_bytes());
        let wanted = self.want.commit().map(|id| id.to_string());
        let is_wanted = wanted.is_none() || wanted.as_deref() == commit;
        match commit.is_none_or(is_hex) && is_wanted {
            true => Ok(()),
            false => Err(Unsound::Commit {
                commit: commit.unwrap_or_default().to_owned(),
            }),
        }
    }

    fn check_parts(&self) -> Result<(), Unsound> {
        let (mut names, mut all_bytes) = (HashSet::new(), 0u64);
        for (number, part) in self.parts.iter().enumerate() {
            let name = || part.name.clone();
            if !is_part_name(&part.name) {
                return Err(Unsound::Name {
                    part: number,
                    name: name(),
                });
            }
            if !names.insert(&*part.name) {
                return Err(Unsound::Twice {
                    part: number,
                    name: name(),
                });
            }
            if part.is_of_pack() != is_pack_name(&part.name) {
                return Err(Unsound::Sum { part: number });
            }
            all_bytes = all_bytes
                .checked_add(part.bytes)
                .filter(|all| *all <= i64::MAX as u64)
                .ok_or(Unsound::TooLong)?;
        }
        let own = self.parts.last().filter(|own| !own.is_of_pack());
        match own {
            Some(own) if own.bytes == self.layout.spool_bytes() => Ok(()),
            _ => Err(Unsound::Own),
        }
    }

    fn check_extents(&self) -> Result<(), Unsound> {
        let mut sent = vec![0; self.parts.len()];
        for (extent, run) in self.layout.extents().iter().enumerate() {
            let (number, is_of_pack, end) = match *run {
                // The layout's own invariants and the last part's length bound these.
                Extent::Spool { .. } => continue,
                Extent::RawRun {
                    file, offset, len, ..
                } => (file, true, offset.saturating_add(len)),
                Extent::Stored { file, offset, len } => (file, false, offset.saturating_add(len)),
            };
            let part = self.linked().get(number as usize);
            let is_within =
                part.is_some_and(|part| part.is_of_pack() == is_of_pack && end <= part.bytes);
            if !is_within {
                let part = number;
                return Err(Unsound::Outside { extent, part });
            }
            if let Extent::RawRun { offset, .. } = *run {
                let before = std::mem::replace(&mut sent[number as usize], end);
                if before != offset {
                    return Err(Unsound::NotWhole {
                        part: number as usize,
                    });
                }
            }
        }
        let short = self
            .parts
            .iter()
            .zip(&sent)
            .position(|(part, sent)| part.is_of_pack() && *sent != part.bytes);
        short.map_or(Ok(()), |part| Err(Unsound::NotWhole { part }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_no_other_files() {
        let stem = "a".repeat(40);
        for end in ["pack", "idx", "rev"] {
            assert!(is_part_name(&format!("pack-{stem}.{end}")));
        }
        assert!(is_part_name(&"0f".repeat(16)));
        let long = format!("pack-{}.pack", "a".repeat(PART_STEM_BYTES_MAX + 1));
        for name in [
            "",
            "meta",
            "pack-.pack",
            "pack-a",
            "pack-a.",
            "pack-a.keep",
            "pack-a.pack.pack",
            "pack-..pack",
            "pack-a/b.pack",
            "../pack-a.pack",
            "pack-a\0.pack",
            "pack-ä.pack",
            "git-upload-pack",
            "status",
            &long,
            &"0F".repeat(16),
            &"0f".repeat(15),
        ] {
            assert!(!is_part_name(name), "{name:?}");
        }
        assert_eq!(part_name("objects/pack/pack-a.idx"), "pack-a.idx");
        assert_eq!(part_name("x"), "x");
    }
}
