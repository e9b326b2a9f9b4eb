//! Refs that were read lately: one push has them looked at half a dozen times, by requests, the comparison
//! with the upstream and the build, and reading a list of 10,000 takes milliseconds each time.

use std::collections::VecDeque;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::list::{Follow, Ref};
use crate::limits;

/// What tells one version of a `packed-refs` from another. git replaces the file and never writes into
/// it, and goes by the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    inode: u64,
    size: u64,
    modified_ns: (i64, i64),
}

impl Stamp {
    /// That of an open file, or of one that was looked at.
    pub(crate) fn of(found: &Metadata) -> Stamp {
        Stamp {
            inode: found.ino(),
            size: found.len(),
            modified_ns: (found.mtime(), found.mtime_nsec()),
        }
    }

    /// That of the file at `path`, if there is one.
    pub(crate) fn at(path: &Path) -> io::Result<Option<Stamp>> {
        match std::fs::metadata(path) {
            Ok(found) => Ok(Some(Stamp::of(&found))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The followed refs of one version of a `packed-refs`, sorted by name.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub refs: Arc<Vec<Ref>>,
    pub fully_peeled: bool,
}

#[derive(Debug)]
struct Kept {
    mirror: PathBuf,
    follow: Follow,
    stamp: Stamp,
    listed: Listed,
    bytes: usize,
}

/// The packed refs of mirrors that were read last, shared by all clones of it.
///
/// Invariant: they take at most [`REFS_KEPT_BYTES_MAX`](limits::REFS_KEPT_BYTES_MAX), the last used
/// first; a mirror is there once for each list of what is followed.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    kept: Arc<Mutex<VecDeque<Kept>>>,
}

impl Recent {
    /// What the `packed-refs` of this stamp lists.
    pub(super) fn find(&self, mirror: &Path, follow: &Follow, stamp: &Stamp) -> Option<Listed> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |k: &Kept| k.stamp == *stamp && k.mirror == mirror && k.follow == *follow;
        let at = kept.iter().position(is_it)?;
        let found = kept.remove(at)?;
        let listed = found.listed.clone();
        kept.push_front(found);
        Some(listed)
    }

    /// Keeps what the `packed-refs` of this stamp lists.
    pub(crate) fn keep(&self, mirror: &Path, follow: &Follow, stamp: Stamp, listed: &Listed) {
        let names: usize = listed.refs.iter().map(|r| r.name.len()).sum();
        let bytes = names + size_of_val(listed.refs.as_slice());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|k| k.mirror != mirror || k.follow != *follow);
        if bytes > limits::REFS_KEPT_BYTES_MAX / 2 {
            return;
        }
        kept.push_front(Kept {
            mirror: mirror.to_owned(),
            follow: follow.clone(),
            stamp,
            listed: listed.clone(),
            bytes,
        });
        let mut sum = 0;
        let within = kept.iter().take_while(|k| {
            sum += k.bytes;
            sum <= limits::REFS_KEPT_BYTES_MAX
        });
        let within = within.count();
        kept.truncate(within);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(count: usize) -> Listed {
        let target = gix::ObjectId::null(gix::hash::Kind::Sha1);
        let one = |n| Ref {
            name: format!("refs/heads/{n:020}").into(),
            target,
            peeled: None,
        };
        Listed {
            refs: Arc::new((0..count).map(one).collect()),
            fully_peeled: true,
        }
    }

    fn stamp(inode: u64) -> Stamp {
        Stamp {
            inode,
            size: 7,
            modified_ns: (1, 2),
        }
    }

    #[test]
    fn the_last_used_are_kept_within_the_bytes() {
        let (recent, follow) = (Recent::default(), Follow::default());
        let names: Vec<PathBuf> = (0..60).map(|n| format!("/{n}").into()).collect();
        let is_kept = |at: usize| recent.find(&names[at], &follow, &stamp(1)).is_some();
        for name in &names {
            recent.keep(name, &follow, stamp(1), &listed(5_000));
            assert!(is_kept(0) || name == &names[0], "it is used all the time");
        }
        let sum = || -> usize { recent.kept.lock().unwrap().iter().map(|k| k.bytes).sum() };
        assert!(sum() <= limits::REFS_KEPT_BYTES_MAX);
        assert!(sum() > limits::REFS_KEPT_BYTES_MAX / 2);
        assert!(is_kept(59) && !is_kept(1));
        recent.keep(&names[59], &follow, stamp(2), &listed(1));
        assert!(!is_kept(59), "another version");
        recent.keep(&names[59], &follow, stamp(3), &listed(500_000));
        assert!(
            recent.find(&names[59], &follow, &stamp(3)).is_none(),
            "too large"
        );
    }
}
