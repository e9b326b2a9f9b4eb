//! The tips of an annex: objects that somebody has asked for by their ids, and when the upstream gave each.
//!
//! A file of lines in the annex. It is written after the objects have come, and before anybody is
//! served from them, so that nothing is served whose age is not known. One that has left stays in it as
//! gone until nothing of it is on the disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use gix::ObjectId;

use super::annex::{TMP, annex};
use crate::limits::{ANNEX_TIPS_BYTES_MAX, ANNEX_TIPS_MAX};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tip {
    Kept(KeptTip),
    /// It is served no more, and goes.
    Gone,
}

/// One that can be served, as long as its upstream is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptTip {
    /// When the upstream was asked for it that last gave it.
    pub(crate) given_unix_ms: u64,
    /// When somebody last wanted it.
    pub(crate) used_unix_ms: u64,
    /// Of the packs that came with it.
    pub(crate) bytes: u64,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tips(pub(crate) BTreeMap<ObjectId, Tip>);

/// Where they stand.
pub(super) fn path(mirror: &Path) -> PathBuf {
    annex(mirror).join("tips")
}

/// What there is of them on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FoundTips {
    pub(crate) tips: Tips,
    /// Whether something of it could not be read: there may have been others.
    pub(crate) is_damaged: bool,
}

impl Tips {
    /// Finds those of a mirror's annex; there are none where there is no annex. Lines that make no sense are left
    /// out. What cannot be read at all is put aside, for the next start to remove: whoever asks for what it named
    /// has the upstream asked.
    pub(crate) fn find(mirror: &Path) -> FoundTips {
        let path = path(mirror);
        match Tips::read(&path) {
            Ok(found) => {
                if found.is_damaged {
                    tracing::error!(
                        path = %path.display(),
                        "lines of this file make no sense, and what they named is fetched again when it is asked for"
                    );
                }
                found
            }
            Err(error) => {
                tracing::error!(
                    path = %path.display(),
                    %error,
                    "this file cannot be read: it is put aside, and what it named is fetched again when it is asked for"
                );
                let aside = annex(mirror).join(format!("{TMP}unreadable_tips"));
                if let Err(error) = fs::rename(&path, &aside) {
                    tracing::error!(path = %path.display(), %error, "nor can it be put aside");
                }
                FoundTips {
                    tips: Tips::default(),
                    is_damaged: true,
                }
            }
        }
    }

    pub(super) fn read(path: &Path) -> io::Result<FoundTips> {
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(FoundTips::default()),
            file => file?,
        };
        let mut found = FoundTips::default();
        // One more than there may be.
        let lines = BufReader::new(file.take(ANNEX_TIPS_BYTES_MAX + 1)).split(b'\n');
        for line in lines {
            match str::from_utf8(&line?).ok().and_then(parse) {
                Some((id, tip)) => drop(found.tips.0.insert(id, tip)),
                None => found.is_damaged = true,
            }
        }
        Ok(found)
    }

    /// Puts these in the place of what is on the disk.
    pub(crate) fn write(&self, mirror: &Path) -> io::Result<()> {
        let dir = annex(mirror);
        let mut file = tempfile::Builder::new().prefix(TMP).tempfile_in(&dir)?;
        for (id, tip) in &self.0 {
            match tip {
                Tip::Gone => writeln!(file, "{id} gone")?,
                Tip::Kept(kept) => {
                    let (given, used) = (kept.given_unix_ms, kept.used_unix_ms);
                    writeln!(file, "{id} {given} {used} {}", kept.bytes)?;
                }
            }
        }
        file.as_file().sync_all()?;
        file.persist(path(mirror)).map_err(|e| e.error)?;
        File::open(dir)?.sync_all()
    }

    /// Those that are not gone.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (ObjectId, KeptTip)> {
        self.0.iter().filter_map(|(id, tip)| match tip {
            Tip::Kept(kept) => Some((*id, *kept)),
            Tip::Gone => None,
        })
    }

    /// Which have to go, so that no more than this are kept: those that were used longest ago. `bytes_max` counts
    /// for all together.
    pub(crate) fn too_many(&self, bytes_max: u64) -> Vec<ObjectId> {
        let mut kept = Vec::from_iter(self.kept());
        kept.sort_by_key(|(_, tip)| std::cmp::Reverse(tip.used_unix_ms));
        let mut bytes = 0_u64;
        let mut stays = |(number, (_, tip)): &(usize, (ObjectId, KeptTip))| {
            bytes = bytes.saturating_add(tip.bytes);
            // The last that came is wanted now.
            *number == 0 || (*number < ANNEX_TIPS_MAX && bytes <= bytes_max)
        };
        let gone = kept.into_iter().enumerate().filter(|one| !stays(one));
        gone.map(|(_, (id, _))| id).collect()
    }
}

fn parse(line: &str) -> Option<(ObjectId, Tip)> {
    let (id, rest) = line.split_once(' ')?;
    let id = ObjectId::from_hex(id.as_bytes()).ok()?;
    if rest == "gone" {
        return Some((id, Tip::Gone));
    }
    let mut numbers = rest.split(' ').map(str::parse);
    let mut next = || numbers.next()?.ok();
    let kept = KeptTip {
        given_unix_ms: next()?,
        used_unix_ms: next()?,
        bytes: next()?,
    };
    Some((id, Tip::Kept(kept)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> ObjectId {
        ObjectId::from_bytes_or_panic(&[byte; 20])
    }

    fn kept(used_unix_ms: u64, bytes: u64) -> Tip {
        Tip::Kept(KeptTip {
            given_unix_ms: 7,
            used_unix_ms,
            bytes,
        })
    }

    #[test]
    fn they_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = dir.path();
        assert_eq!(Tips::find(mirror), FoundTips::default());
        fs::create_dir(annex(mirror)).unwrap();
        let tips = Tips([(id(1), kept(8, 9)), (id(2), Tip::Gone)].into());
        tips.write(mirror).unwrap();
        let found = |is_damaged| FoundTips {
            tips: tips.clone(),
            is_damaged,
        };
        assert_eq!(Tips::find(mirror), found(false));
        for damage in [&b"0303 1\n"[..], b"\xff\xfe\n", b"04"] {
            tips.write(mirror).unwrap();
            let mut file = File::options().append(true).open(path(mirror)).unwrap();
            file.write_all(damage).unwrap();
            assert_eq!(Tips::find(mirror), found(true));
        }
        assert_eq!(fs::read_dir(annex(mirror)).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = dir.path();
        fs::create_dir_all(path(mirror)).unwrap();
        assert!(Tips::find(mirror).is_damaged);
        assert_eq!(Tips::find(mirror), FoundTips::default());
        Tips::default().write(mirror).unwrap();
    }

    #[test]
    fn those_that_were_used_last_stay() {
        let many = (0..=ANNEX_TIPS_MAX).map(|number| {
            let mut bytes = [0; 20];
            bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
            (
                ObjectId::from_bytes_or_panic(&bytes),
                kept(number as u64, 1),
            )
        });
        let tips = Tips(many.collect());
        let oldest = ObjectId::null(gix::hash::Kind::Sha1);
        assert_eq!(tips.too_many(u64::MAX), [oldest]);
        let tips = Tips(
            [
                (id(1), kept(1, 5)),
                (id(2), kept(3, 5)),
                (id(3), kept(2, 5)),
            ]
            .into(),
        );
        assert!(tips.too_many(15).is_empty());
        assert_eq!(tips.too_many(14), [id(1)]);
        assert_eq!(tips.too_many(0), [id(3), id(1)]);
    }
}
