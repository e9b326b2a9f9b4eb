//! The refs of an old repository, and whose they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
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

/// What a ref of an old repository is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Own,
    /// Somebody else has it, too.
    Known,
    Stash,
    Nobodys,
}

/// The refs of an old repository, of which there may be any number: they go into a `packed-refs` of
/// ours, `refs/own/` and `refs/known/` with a number each, and only the first few names are kept.
pub(super) struct Tips {
    out: BufWriter<File>,
    written: u64,
    kind: Option<gix::hash::Kind>,
    /// The first of HEAD, those of worktrees, and branches by their short names.
    pub own: Vec<(String, ObjectId)>,
    pub has_stash: bool,
    /// The commit that is checked out.
    pub head: Option<ObjectId>,
    /// Whether tags and the like that have files of their own were made here: those of a server are packed.
    loose_are_own: bool,
}

impl Tips {
    pub(super) fn new(out: File, loose_are_own: bool) -> Tips {
        Tips {
            loose_are_own,
            out: BufWriter::new(out),
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
        for (name, loose) in &loose {
            match loose {
                Loose::Direct(id) => {
                    if branch == Some(name) {
                        self.head = Some(*id);
                    }
                    let whose = match whose(name.as_bstr(), &led_to) {
                        Whose::Known | Whose::Nobodys
                            if self.loose_are_own && !name.starts_with(b"refs/remotes/") =>
                        {
                            Whose::Own
                        }
                        whose => whose,
                    };
                    self.take(name, *id, whose)?;
                }
                Loose::Symbolic(_) => {}
            }
        }
        refs::each_packed(git_dir, OLD_PACKED_REFS_BYTES_MAX, |name, id| {
            match loose.contains_key(name.as_bstr()) {
                true => Ok(()),
                false => {
                    if branch.is_some_and(|branch| branch == name) {
                        self.head = Some(id);
                    }
                    self.take(name, id, whose(name.as_bstr(), &led_to))
                }
            }
        })?;
        Ok(self.out.flush()?)
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
        match whose {
            Whose::Own => {
                let short = name.strip_prefix(b"refs/heads/").unwrap_or(name);
                self.own(short.to_str_lossy().into_owned(), id)
            }
            Whose::Known => self.write("known", id),
            Whose::Stash => {
                self.has_stash = true;
                Ok(())
            }
            Whose::Nobodys => Ok(()),
        }
    }

    fn own(&mut self, name: String, id: ObjectId) -> Result<(), TipsError> {
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

fn whose(name: &BStr, led_to: &BTreeSet<&BStr>) -> Whose {
    if name == "refs/stash" {
        return Whose::Stash;
    }
    let is_known = name.starts_with(b"refs/remotes/") || name.starts_with(b"refs/tags/");
    match name.starts_with(b"refs/heads/") {
        true => Whose::Own,
        false if is_known => Whose::Known,
        false if led_to.contains(name) => Whose::Own,
        false => Whose::Nobodys,
    }
}
