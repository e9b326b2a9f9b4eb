//! The small files of an archive's `.git`, in memory: what they say is checked, and the files
//! themselves are never written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::{Arc, Mutex};

use super::error::RestoreError;
use super::origin;
use super::path::{Place, place};
use super::quota::entry_bytes;
use super::sums::{Running, Sums};
use super::tar::Event;
use super::tree::Unpacked;
use crate::limits::{
    CAPTURED_BYTES_MAX, CAPTURED_FILE_BYTES, LOOSE_REF_BYTES_MAX, RESTORED_CONFIG_BYTES_MAX,
};

/// What is known of an archive besides the files that were written.
#[derive(Debug, Default)]
pub(super) struct Archive {
    pub captured: Captured,
    pub unpacked: Unpacked,
    /// Of packs that come in parts.
    pub sums: Sums,
    /// Files of objects that need not be summed once more.
    pub believed: BTreeSet<Vec<u8>>,
    /// Files of a seed that are what they are to be if those are that were made of them.
    pub kept: Vec<Arc<File>>,
    /// Which commit its manifest says that it is of, if it has come with one.
    pub said_commit: Option<String>,
    /// What the worktree has in it that is not unpacked, if it is not to be: it is made from the packs.
    pub left_out: Option<LeftOut>,
    /// Whether of objects only packs are taken, with their indexes.
    pub only_packs: bool,
    /// Whether objects come as parts, which its manifest names: then nothing else of it may bring some. Who looks at the
    /// parts would not see them.
    pub has_parts: bool,
    /// Where the data goes of the file that comes in parts.
    part: Option<Place>,
}

/// Entries that were counted and are not written, and what they would take.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct LeftOut {
    pub entries: u64,
    pub bytes: u64,
}

impl Archive {
    /// Takes an event whose data is in `piece`; whether anything of it is to be written.
    pub(super) fn takes(&mut self, event: &Event<'_>, piece: &[u8]) -> Result<bool, RestoreError> {
        let place = match event {
            Event::Whole { meta, data } => {
                let place = self.file(meta.path, data.len() as u64)?;
                if place == Place::Captured {
                    self.captured.push(&piece[data.clone()])?;
                }
                place
            }
            Event::Begin { meta, size } => {
                let place = self.file(meta.path, *size)?;
                self.part = Some(place);
                place
            }
            Event::Data { data, .. } => {
                let place = self.part.unwrap_or(Place::Skipped);
                if place == Place::Captured {
                    self.captured.push(&piece[data.clone()])?;
                }
                place
            }
            Event::Symlink { path, .. } => self.file(path, 0)?,
            // Those of objects are made with their files.
            Event::Directory { path } => match place(path) {
                Place::Worktree => self.worktree(0),
                _ => Place::Skipped,
            },
        };
        Ok(matches!(place, Place::Worktree | Place::Objects))
    }

    /// An entry of the worktree, of so many bytes.
    fn worktree(&mut self, size: u64) -> Place {
        let Some(left_out) = &mut self.left_out else {
            return Place::Worktree;
        };
        left_out.entries += 1;
        left_out.bytes = left_out.bytes.saturating_add(entry_bytes(size));
        Place::Skipped
    }

    /// The sum that is made of the file at `path` while it is written, which has `size` bytes: of a
    /// pack, once it is known how.
    pub(super) fn sum(&mut self, path: &[u8], size: u64) -> Option<Arc<Mutex<Running>>> {
        if place(path) != Place::Objects || !path.ends_with(b".pack") {
            return None;
        }
        let config = self.captured.file("config")?;
        let running = Running::new(size, origin::read(config).ok()?.hash);
        let running = Arc::new(Mutex::new(running));
        self.sums.insert(path.to_owned(), running.clone());
        Some(running)
    }

    /// A file or link begins.
    fn file(&mut self, path: &[u8], size: u64) -> Result<Place, RestoreError> {
        let place = match place(path) {
            Place::Worktree => self.worktree(size),
            Place::Objects if self.only_packs && !is_of_pack(path) => Place::Skipped,
            place => place,
        };
        match place {
            Place::Worktree => self.unpacked.files += 1,
            Place::Captured => self.captured.begin(path)?,
            Place::Objects if self.has_parts => {
                return Err(RestoreError::entry(path, "its manifest does not have it"));
            }
            Place::Objects => self.captured.object(path, size)?,
            Place::Skipped => {}
        }
        Ok(place)
    }
}

/// Whether a file of objects is a pack's own, or one that can be compared with it.
fn is_of_pack(path: &[u8]) -> bool {
    let endings: [&[u8]; 3] = [b".pack", b".idx", b".rev"];
    endings.into_iter().any(|ending| path.ends_with(ending))
}

/// What an archive has had in its `.git` so far.
///
/// Invariant: `held_bytes` is at most [`CAPTURED_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct Captured {
    files: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Files of objects that are being written, with their sizes.
    objects: BTreeMap<Vec<u8>, u64>,
    held_bytes: usize,
    /// The file whose data comes in parts.
    open: Option<Vec<u8>>,
}

impl Captured {
    /// A file whose data follows in [`Self::push`]. Each path comes once.
    pub fn begin(&mut self, path: &[u8]) -> Result<(), RestoreError> {
        self.take(path, path.len() + CAPTURED_FILE_BYTES)?;
        if self.files.insert(path.to_owned(), Vec::new()).is_some() {
            return Err(RestoreError::entry(path, "it is there twice"));
        }
        self.open = Some(path.to_owned());
        Ok(())
    }

    /// Data of the file that began last.
    pub fn push(&mut self, data: &[u8]) -> Result<(), RestoreError> {
        let path = self.open.clone().unwrap_or_default();
        self.take(&path, data.len())?;
        let limit = bytes_max(&path);
        let Some(file) = self.files.get_mut(&path) else {
            return Ok(());
        };
        if file.len() + data.len() > limit {
            let why = format!("it has more than {limit} bytes");
            return Err(RestoreError::entry(&path, why));
        }
        file.extend_from_slice(data);
        Ok(())
    }

    /// A file of objects is going to be written.
    pub fn object(&mut self, path: &[u8], size: u64) -> Result<(), RestoreError> {
        self.take(path, path.len() + CAPTURED_FILE_BYTES)?;
        match self.objects.insert(path.to_owned(), size) {
            None => Ok(()),
            Some(_) => Err(RestoreError::entry(path, "it is there twice")),
        }
    }

    fn take(&mut self, path: &[u8], bytes: usize) -> Result<(), RestoreError> {
        self.held_bytes += bytes;
        match self.held_bytes > CAPTURED_BYTES_MAX {
            true => {
                let mib = CAPTURED_BYTES_MAX >> 20;
                let why = format!(
                    "its refs and the like are more than {mib} MiB, about a million refs: more than \
                     a restore takes; --fallback clone clones such a repository"
                );
                Err(RestoreError::entry(path, why))
            }
            false => Ok(()),
        }
    }

    /// The file at `path`, which is below `.git/`.
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        let path = format!(".git/{path}");
        self.files.get(path.as_bytes()).map(Vec::as_slice)
    }

    /// The loose refs: full names and what their files hold.
    pub fn refs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let all = self.files.iter();
        let refs = all.filter(|(path, _)| path.starts_with(b".git/refs/"));
        refs.map(|(path, data)| (&path[b".git/".len()..], &data[..]))
    }

    /// The files of objects, with their sizes.
    pub fn objects(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.objects.iter().map(|(path, size)| (&path[..], *size))
    }
}

/// The most that a captured file may hold.
fn bytes_max(path: &[u8]) -> usize {
    match path {
        b".git/config" => RESTORED_CONFIG_BYTES_MAX,
        b".git/packed-refs" | b".git/shallow" => CAPTURED_BYTES_MAX,
        _ => LOOSE_REF_BYTES_MAX as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tar::Meta;
    use super::*;

    /// What looks at the packs of a manifest would not see another one.
    #[test]
    fn nothing_but_its_parts_brings_objects() {
        let id = "0123456789".repeat(4);
        for path in [
            format!(".git/objects/pack/pack-{id}.pack"),
            format!(".git/objects/pack/pack-{id}.idx"),
            format!(".git/objects/{}/{}", &id[..2], &id[2..]),
        ] {
            let meta = Meta {
                path: path.as_bytes(),
                executable: false,
                mtime_s: 0,
            };
            let event = Event::Whole { meta, data: 0..4 };
            let mut stream = Archive::default();
            assert!(stream.takes(&event, b"PACK").unwrap());
            let mut parts = Archive {
                has_parts: true,
                ..Archive::default()
            };
            parts.takes(&event, b"PACK").unwrap_err();
        }
    }

    #[test]
    fn what_is_held_is_bounded_and_nothing_comes_twice() {
        let mut captured = Captured::default();
        captured.begin(b".git/HEAD").unwrap();
        captured.push(b"ref: ").unwrap();
        captured.push(b"refs/heads/a\n").unwrap();
        assert_eq!(captured.file("HEAD").unwrap(), b"ref: refs/heads/a\n");
        captured.begin(b".git/HEAD").unwrap_err();
        captured.begin(b".git/refs/heads/a").unwrap();
        captured.push(&vec![b'a'; 8 << 20]).unwrap_err();
        captured.object(b".git/objects/x", 7).unwrap();
        captured.object(b".git/objects/x", 7).unwrap_err();
        captured.begin(b".git/packed-refs").unwrap();
        let endless = (0..1000).map(|_| captured.push(&[0; 1 << 20]));
        assert!(endless.take_while(Result::is_ok).count() < 96);
        let mut many = Captured::default();
        let one = |number: u32| many.begin(format!(".git/refs/tags/{number}").as_bytes());
        assert!((0..2_000_000).map(one).take_while(Result::is_ok).count() < 800_000);
    }
}
