//! The tips of an annex: objects that somebody has asked for by their ids, and when the upstream gave each.
//!
//! A file of lines in the annex. It is written after the objects have come, and before anybody is
//! served from them, so that nothing is served whose age is not known. One that has left stays in it as
//! gone until nothing of it is on the disk.

use std::collections::BTreeMap;
use std::fs::File;
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

impl Tips {
    /// Reads those of a mirror's annex; there are none where there is no annex. Lines that make no sense are left
    /// out.
    pub(crate) fn read(mirror: &Path) -> io::Result<Tips> {
        let file = match File::open(path(mirror)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Tips::default()),
            file => file?,
        };
        let mut tips = Tips::default();
        for line in BufReader::new(file.take(ANNEX_TIPS_BYTES_MAX)).lines() {
            if let Some((id, tip)) = parse(&line?) {
                tips.0.insert(id, tip);
            }
        }
        Ok(tips)
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
        assert_eq!(Tips::read(mirror).unwrap(), Tips::default());
        std::fs::create_dir(annex(mirror)).unwrap();
        let tips = Tips([(id(1), kept(8, 9)), (id(2), Tip::Gone)].into());
        tips.write(mirror).unwrap();
        assert_eq!(Tips::read(mirror).unwrap(), tips);
        let mut file = File::options().append(true).open(path(mirror)).unwrap();
        file.write_all(b"0303 1\nxx gone\n04").unwrap();
        assert_eq!(Tips::read(mirror).unwrap(), tips);
        assert_eq!(std::fs::read_dir(annex(mirror)).unwrap().count(), 1);
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
