//! The refs of an old repository, and whose they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use gix::ObjectId;
use gix::bstr::{BStr, BString, ByteSlice};

use crate::limits::{
    LOCAL_TRIED_MAX, LOOSE_REF_BYTES_MAX, OLD_LOOSE_REFS_BYTES_MAX, OLD_PACKED_REFS_BYTES_MAX,
};
use crate::refs::{self, Head, Loose, RefsError};
use crate::restore::data::read;

/// Why the refs of an old repository cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum TipsError {
    #[error("{0}")]
    Refs(#[from] RefsError),
    #[error("{0}")]
    Copy(#[from] io::Error),
    #[error("they are in a reftable")]
    Reftable,
    #[error("they are ids of different lengths")]
    Kinds,
}

/// Whose the tags, notes and the like of an old repository are, of which nobody says whose they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::restore) enum Others<'o> {
    /// Somebody else's.
    Known,
    /// Own, unless they are packed as a restore or a clone has left them, or the upstream has exactly these: its
    /// sorted ids, if they are known.
    Own(Option<&'o [ObjectId]>),
}

/// How a restore begins its `packed-refs`; git says more.
const PACKED_BY_RESTORE: &[u8] = b"# pack-refs with: sorted \n";

/// What a ref of an old repository is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Own,
    /// The same, and what it leads to may be its alone, of whatever kind that is.
    Tag,
    /// Somebody else has it, too.
    Known,
    Stash,
    Nobodys,
}

/// The refs of an old repository, of which there may be any number: they go into a `packed-refs` of
/// ours, `refs/own/` and `refs/known/` with a number each, and only the first few names are kept.
pub(super) struct Tips<'o> {
    out: BufWriter<File>,
    /// A line for each tag, note or the like that is own: what it leads to.
    tagged: BufWriter<File>,
    /// How many, and the first of their names.
    pub tags: (usize, Vec<String>),
    written: u64,
    kind: Option<gix::hash::Kind>,
    /// The first of HEAD, those of worktrees, and branches by their short names.
    pub own: Vec<(String, ObjectId)>,
    pub has_stash: bool,
    /// The commit that is checked out.
    pub head: Option<ObjectId>,
    others: Others<'o>,
}

impl<'o> Tips<'o> {
    /// Refs go to `out`, and what tags lead to goes to `tagged`.
    pub(super) fn new(out: File, tagged: File, others: Others<'o>) -> Tips<'o> {
        Tips {
            others,
            out: BufWriter::new(out),
            tagged: BufWriter::new(tagged),
            tags: (0, Vec::new()),
            written: 0,
            kind: None,
            own: Vec::new(),
            has_stash: false,
            head: None,
        }
    }

    pub(super) fn read(&mut self, git_dir: &Path, known: &[ObjectId]) -> Result<(), TipsError> {
        if fs::symlink_metadata(git_dir.join("reftable")).is_ok() {
            return Err(TipsError::Reftable);
        }
        let head = refs::read_head(git_dir)?;
        let loose = refs::read_loose_within(git_dir, OLD_LOOSE_REFS_BYTES_MAX)?;
        let led_to = led_to(&head, &loose);
        for id in known {
            self.write("known", *id)?;
        }
        let branch = match &head {
            Head::Detached(id) => {
                self.head = Some(*id);
                self.own("HEAD".into(), *id)?;
                None
            }
            Head::Symbolic(name) => Some(name),
        };
        self.worktrees(git_dir)?;
        let are_own = self.others != Others::Known;
        for (name, loose) in &loose {
            match loose {
                Loose::Direct(id) => {
                    if branch == Some(name) {
                        self.head = Some(*id);
                    }
                    self.take(name, *id, whose(name.as_bstr(), &led_to, are_own))?;
                }
                Loose::Symbolic(_) => {}
            }
        }
        let mut packed_here = match self.others {
            Others::Known => false,
            Others::Own(theirs) => theirs.is_some() && !is_packed_by_restore(git_dir)?,
        };
        refs::each_packed(git_dir, OLD_PACKED_REFS_BYTES_MAX, |name, id| {
            // A clone packs none of its own: git has done so since.
            packed_here |= are_own && name.starts_with(b"refs/heads/");
            match loose.contains_key(name.as_bstr()) {
                true => Ok(()),
                false => {
                    if branch.is_some_and(|branch| branch == name) {
                        self.head = Some(id);
                    }
                    self.take(name, id, whose(name.as_bstr(), &led_to, packed_here))
                }
            }
        })?;
        self.tagged.flush()?;
        Ok(self.out.flush()?)
    }

    /// What tags and the like lead to, as lines.
    pub(super) fn tagged(&mut self) -> io::Result<File> {
        self.tagged.rewind()?;
        self.tagged.get_ref().try_clone()
    }

    /// HEAD of each linked worktree.
    fn worktrees(&mut self, git_dir: &Path) -> Result<(), TipsError> {
        let listing = fs::read_dir(git_dir.join("worktrees"));
        for entry in listing.into_iter().flatten().flatten() {
            let head = read(&entry.path().join("HEAD"), LOOSE_REF_BYTES_MAX);
            let head = head.ok();
            if let Some(id) = head.and_then(|text| ObjectId::from_hex(text.trim()).ok()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                self.own(format!("HEAD of worktree {name}"), id)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, name: &[u8], id: ObjectId, whose: Whose) -> Result<(), TipsError> {
        let short = || {
            let short = name.strip_prefix(b"refs/heads/").unwrap_or(name);
            short.to_str_lossy().into_owned()
        };
        match whose {
            Whose::Own => self.own(short(), id),
            Whose::Tag if self.is_theirs(&id) => Ok(()),
            Whose::Tag => {
                writeln!(self.tagged, "{id}")?;
                self.tags.0 += 1;
                if self.tags.1.len() < LOCAL_TRIED_MAX {
                    self.tags.1.push(short());
                }
                self.own(short(), id)
            }
            Whose::Known => self.write("known", id),
            Whose::Stash => {
                self.has_stash = true;
                Ok(())
            }
            Whose::Nobodys => Ok(()),
        }
    }

    /// Whether the upstream has it.
    fn is_theirs(&self, id: &ObjectId) -> bool {
        match self.others {
            Others::Own(Some(theirs)) => theirs.binary_search(id).is_ok(),
            _ => false,
        }
    }

    fn own(&mut self, name: String, id: ObjectId) -> Result<(), TipsError> {
        if self.is_theirs(&id) {
            return Ok(());
        }
        self.write("own", id)?;
        if self.own.len() < LOCAL_TRIED_MAX {
            self.own.push((name, id));
        }
        Ok(())
    }

    fn write(&mut self, directory: &str, id: ObjectId) -> Result<(), TipsError> {
        if *self.kind.get_or_insert(id.kind()) != id.kind() {
            return Err(TipsError::Kinds);
        }
        let number = self.written;
        self.written += 1;
        Ok(writeln!(self.out, "{id} refs/{directory}/{number:09}")?)
    }
}

/// The names that HEAD and symbolic refs lead to, wherever those are.
fn led_to<'r>(head: &'r Head, loose: &'r BTreeMap<BString, Loose>) -> BTreeSet<&'r BStr> {
    let head = match head {
        Head::Symbolic(name) => Some(name.as_bstr()),
        Head::Detached(_) => None,
    };
    let symbolic = loose.values().filter_map(|loose| match loose {
        Loose::Symbolic(to) => Some(to.as_bstr()),
        Loose::Direct(_) => None,
    });
    head.into_iter().chain(symbolic).collect()
}

/// Whose a ref is; what nobody says whose it is, `is_own` or not.
fn whose(name: &BStr, led_to: &BTreeSet<&BStr>, is_own: bool) -> Whose {
    if name == "refs/stash" {
        return Whose::Stash;
    }
    match name.starts_with(b"refs/heads/") {
        true => Whose::Own,
        false if name.starts_with(b"refs/remotes/") => Whose::Known,
        false if is_own => Whose::Tag,
        false if name.starts_with(b"refs/tags/") => Whose::Known,
        false if led_to.contains(name) => Whose::Own,
        false => Whose::Nobodys,
    }
}

/// Whether `packed-refs` is as a restore has written it: nothing that was made here is in it.
fn is_packed_by_restore(git_dir: &Path) -> io::Result<bool> {
    let mut options = File::options();
    let options = options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut first = Vec::new();
    match options.open(git_dir.join("packed-refs")) {
        Ok(file) => file
            .take(PACKED_BY_RESTORE.len() as u64)
            .read_to_end(&mut first)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(e),
    };
    Ok(first == PACKED_BY_RESTORE)
}
