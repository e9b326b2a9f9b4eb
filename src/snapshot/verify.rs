//! Whether the files of a build's packs are what git wrote. Most of a pack is never decoded here: a
//! bit that has rotted in it, or a file that was copied in part, would be in every archive.
//!
//! Each of these files ends with a hash of all that is before it (gitformat-pack(5), "the checksum
//! of all of the above"; the same of .idx, .rev and .mtimes). Git looks at it when it writes and in
//! `git fsck`. Of a pack, which is large, the CRC-32 of each entry is compared instead, which its
//! index has (there, "Version 2 pack-*.idx files"): that takes a small part of the time, and is what
//! git itself looks at when it copies entries.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use gix::odb::pack::index;

use super::checking::{EndOnDrop, Gate, Progress, VerifyError, Way};
use crate::io::uncached::{Pace, ReadExactAt, Uncached, forget};
use crate::io::{residency, sched};
use crate::limits::{SUM_READ_BYTES, VERIFIED_FILES_MAX, VERIFY_ENTRIES};
use crate::manifest::record::Linked;
use crate::tree::map::MappedFile;
use crate::tree::pack::{HEADER_BYTES, Header};
use crate::tree::sum::Sum;

/// Files that were found to be sound since the process began, so that they are read for it once.
/// Cheap to clone; all clones are of the same ones.
#[derive(Debug, Clone, Default)]
pub struct Verified {
    known: Arc<Mutex<Known>>,
}

/// A file, and the checksum that was found to be that of its content; of a file of a pack none, whose
/// content says itself what it is.
type Sound = (FileId, Option<u64>);

/// Files of which a half is forgotten when there are too many: that which nobody has asked for lately.
#[derive(Debug, Default)]
struct Known {
    lately: HashSet<Sound>,
    before: HashSet<Sound>,
    /// How often all was forgotten.
    forgotten: u64,
}

/// A file whatever its name: a pack in a mirror, and its link in an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl FileId {
    pub(super) fn of(found: &Metadata) -> FileId {
        FileId {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
        }
    }
}

impl Known {
    fn add(&mut self, sound: Sound) {
        self.lately.insert(sound);
        if self.lately.len() >= VERIFIED_FILES_MAX / 2 {
            self.before = std::mem::take(&mut self.lately);
        }
    }
}

impl Verified {
    /// Forgets all: what is built next is read again.
    pub fn clear(&self) {
        let mut known = self.lock();
        (known.lately, known.before) = (HashSet::new(), HashSet::new());
        known.forgotten += 1;
    }

    /// How often all was forgotten, for what was sound had rotted. What is linked unread must not be
    /// published if that has happened since it was looked at.
    pub(crate) fn forgotten(&self) -> u64 {
        self.lock().forgotten
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a file of frames is sound, for this process has written it, with this checksum.
    pub(crate) fn note(&self, file: &File, checksum: u64) {
        if let Ok(found) = file.metadata() {
            self.add(FileId::of(&found), Some(checksum));
        }
    }

    /// Whether the file was found to have this content: another may stand in its place.
    pub(super) fn has(&self, id: &FileId, checksum: Option<u64>) -> bool {
        let sound = (*id, checksum);
        let mut known = self.lock();
        let is_older = known.before.contains(&sound);
        if is_older {
            known.add(sound);
        }
        is_older || known.lately.contains(&sound)
    }

    pub(super) fn add(&self, id: FileId, checksum: Option<u64>) {
        self.lock().add((id, checksum));
    }

    /// Starts to check `linked`, below `directory`, on a thread of its own, which is that `nice`.
    pub fn start(
        &self,
        directory: &Path,
        linked: &[Linked],
        hash: gix::hash::Kind,
        nice: i32,
    ) -> Result<Verifying, VerifyError> {
        let (verified, gate) = (self.clone(), Arc::new(Gate::default()));
        let progress = Arc::new(Progress::default());
        // All of them now: in a mirror they may be gone later, when their build waits for readers.
        let open = |l: &Linked| {
            let path = directory.join(&l.path);
            match File::open(&path) {
                Ok(file) => Ok((path, file)),
                Err(source) => Err(VerifyError::Io { path, source }),
            }
        };
        let files = linked.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let (theirs, reached) = (gate.clone(), progress.clone());
        let thread = std::thread::Builder::new().name("verifier".into());
        let thread = thread.spawn(move || {
            sched::be_nice(nice);
            // A panic ends it, too.
            let mut end = EndOnDrop(&reached, None);
            let mut files = files.into_iter();
            let checked = files.try_for_each(|(path, file)| {
                verified.check(path, file, hash, &theirs, &reached)?;
                reached.next_file();
                Ok(())
            });
            end.1 = Some(checked);
        });
        Ok(Verifying {
            gate,
            progress,
            thread: Some(thread.map_err(VerifyError::Thread)?),
        })
    }

    fn check(
        &self,
        path: PathBuf,
        file: File,
        hash: gix::hash::Kind,
        gate: &Gate,
        progress: &Progress,
    ) -> Result<(), VerifyError> {
        let found = match file.metadata() {
            Ok(found) => found,
            Err(source) => return Err(VerifyError::Io { path, source }),
        };
        let id = FileId::of(&found);
        if self.has(&id, None) {
            return Ok(());
        }
        let file = Reader::new(file, gate);
        let sound_to = |at| progress.reach(at);
        match is_file_sound(&path, &file, id.bytes, hash, &sound_to) {
            Ok(true) => {
                self.add(id, None);
                Ok(())
            }
            // Nobody wants to know any more.
            Ok(false) if gate.is_stopped() => Ok(()),
            Ok(false) => Err(VerifyError::Damaged {
                name: path.file_name().unwrap_or_default().into(),
            }),
            Err(source) => Err(VerifyError::Io { path, source }),
        }
    }
}

/// Whether the file at `path`, a pack or one of its companions, is as git wrote it: all of it is
/// read from the disk.
pub fn is_sound_on_disk(path: &Path, hash: gix::hash::Kind, pace: &Pace) -> io::Result<bool> {
    let file = Uncached::open(path, pace)?;
    let bytes = file.metadata()?.len();
    // The pace says when to stop.
    let open = Gate::default();
    let file = Reader::new(file, &open);
    if path.extension().is_none_or(|extension| extension != "pack") {
        return is_file_sound(path, &file, bytes, hash, &|_| {});
    }
    // The index tells the place of each entry, and is mapped for that.
    let index = File::open(path.with_extension("idx"))?;
    let index_bytes = index.metadata()?.len();
    let was_in_memory = residency::in_memory(index.as_fd(), 0..index_bytes);
    let sound = is_file_sound(path, &file, bytes, hash, &|_| {});
    if was_in_memory == Some(false) {
        forget(&index, 0, index_bytes);
    }
    sound
}

/// Whether a file is sound; `sound_to` hears, now and then, up to where all that is before it is.
fn is_file_sound(
    path: &Path,
    file: &Reader<'_>,
    bytes: u64,
    hash: gix::hash::Kind,
    sound_to: &dyn Fn(u64),
) -> io::Result<bool> {
    let offset = bytes.saturating_sub(hash.len_in_bytes() as u64);
    match are_entries_sound(path, file, offset, hash, VERIFY_ENTRIES, sound_to)? {
        None => is_sound(file, offset, hash),
        Some(sound) => Ok(sound),
    }
}

/// A file that is read from its beginning to its end, as `gate` lets it.
struct Reader<'s> {
    file: Box<dyn ReadExactAt + 's>,
    gate: &'s Gate,
}

impl<'s> Reader<'s> {
    fn new(file: impl ReadExactAt + 's, gate: &'s Gate) -> Reader<'s> {
        let file = Box::new(file);
        Reader { file, gate }
    }

    /// Gives the bytes of `range` to `each`, some at a time; whether that was all of them.
    fn read(&self, range: Range<u64>, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        let mut buffer = vec![0; SUM_READ_BYTES];
        let mut at = range.start;
        while at < range.end && self.gate.passes() {
            let len = (range.end - at).min(buffer.len() as u64);
            let part = &mut buffer[..len as usize];
            self.file.read_exact_at(part, at)?;
            each(part);
            at += len;
        }
        Ok(at >= range.end)
    }

    fn bytes_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

/// Whether the hash at `offset` is that of all before it; false as well when it was stopped.
fn is_sound(file: &Reader<'_>, offset: u64, hash: gix::hash::Kind) -> io::Result<bool> {
    let mut sum = Sum::new(hash);
    let whole = file.read(0..offset, |part| sum.update(part))?;
    let own = sum.finish();
    Ok(whole && file.bytes_at(offset, own.len())? == own)
}

/// Whether the pack `file` is sound by its index: its header, its checksum at `end` and the CRC-32
/// of each entry. `None` if the index cannot tell, or `file` is no pack. The index was checked
/// before: its name is the lesser one. The places of `held` entries are held at a time, on average,
/// for an index may have millions.
fn are_entries_sound(
    path: &Path,
    file: &Reader<'_>,
    end: u64,
    hash: gix::hash::Kind,
    held: u64,
    sound_to: &dyn Fn(u64),
) -> io::Result<Option<bool>> {
    if path.extension().is_none_or(|extension| extension != "pack") {
        return Ok(None);
    }
    let index = path.with_extension("idx");
    let mapped = match MappedFile::open(&index) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        mapped => mapped?,
    };
    let Ok(index) = index::File::from_data(mapped, index, hash) else {
        return Ok(None);
    };
    if index.version() != index::Version::V2 {
        return Ok(None);
    }
    let mut header = [0; HEADER_BYTES];
    file.file.read_exact_at(&mut header, 0)?;
    let Ok(Header {
        version: 2,
        objects,
    }) = Header::parse(&header)
    else {
        // Perhaps of version 3, which git reads; perhaps damaged: the hash tells.
        return Ok(None);
    };
    let is_header = objects == index.num_objects();
    let trailer = file.bytes_at(end, hash.len_in_bytes())?;
    if !is_header || trailer != index.pack_checksum().as_bytes() {
        return Ok(Some(false));
    }
    let steps = u64::from(index.num_objects()) / held + 1;
    let step = end / steps + 1;
    let mut at = HEADER_BYTES as u64;
    for number in 0..steps {
        let range = step * number..step * (number + 1);
        let mut entries: Vec<(u64, u32)> = index
            .iter()
            .filter(|entry| range.contains(&entry.pack_offset))
            .map(|entry| (entry.pack_offset, entry.crc32.unwrap_or_default()))
            .collect();
        entries.sort_unstable();
        let Some(&(first, _)) = entries.first() else {
            continue;
        };
        if first != at {
            // Not by entry after entry, as git writes them.
            return Ok(None);
        }
        // The last one ends where that of the next step begins.
        let next = index.iter().map(|entry| entry.pack_offset);
        at = next.filter(|at| *at >= range.end).min().unwrap_or(end);
        if !match_entries(file, &entries, at, sound_to)? {
            return Ok(Some(false));
        }
    }
    Ok((at == end).then_some(true))
}

/// Whether `entries`, by their offsets, have these CRC-32; the last one ends at `end`.
fn match_entries(
    file: &Reader<'_>,
    entries: &[(u64, u32)],
    end: u64,
    sound_to: &dyn Fn(u64),
) -> io::Result<bool> {
    let Some(&(start, _)) = entries.first() else {
        return Ok(true);
    };
    let ends = entries.iter().skip(1).map(|entry| entry.0);
    let mut ends = ends.chain(std::iter::once(end)).zip(entries);
    let mut current = ends.next();
    let (mut crc, mut at, mut sound) = (crc32fast::Hasher::new(), start, true);
    // Where the last entry that was looked at ends.
    let mut ended = start;
    let whole = file.read(start..end, |mut part| {
        while let Some((entry_end, entry)) = current
            && !part.is_empty()
        {
            let len = part.len().min((entry_end - at) as usize);
            crc.update(&part[..len]);
            part = &part[len..];
            at += len as u64;
            if at == entry_end {
                sound &= std::mem::take(&mut crc).finalize() == entry.1;
                ended = at;
                current = ends.next();
            }
        }
        if sound {
            sound_to(ended);
        }
    })?;
    Ok(whole && sound && current.is_none())
}

/// A check that runs. Dropped, it is ended.
#[derive(Debug)]
pub struct Verifying {
    gate: Arc<Gate>,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl Verifying {
    /// What the check passes through all the time.
    pub fn gate(&self) -> Arc<Gate> {
        self.gate.clone()
    }

    /// How far it has come.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }
}

impl Drop for Verifying {
    fn drop(&mut self) {
        self.gate.set(Way::Stopped);
        if let Some(thread) = self.thread.take() {
            // The build has failed for another reason.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::Repository;
    use std::fs;

    fn check(verified: &Verified, directory: &Path, linked: &[Linked]) -> Result<(), VerifyError> {
        let kind = gix::hash::Kind::Sha1;
        let verifying = verified.start(directory, linked, kind, 0).unwrap();
        while !verifying.progress().wait_for_end()? {}
        Ok(())
    }

    #[test]
    fn what_is_not_as_git_wrote_it_is_found() {
        let repository = Repository::new();
        repository.write("file", "some content\n".repeat(100));
        repository.commit_packed();
        let packs = repository.dir.path().join(".git/objects/pack");
        let directory = tempfile::tempdir().unwrap();
        let mut linked = Vec::new();
        for entry in fs::read_dir(packs).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let bytes = fs::read(repository.dir.path().join(".git/objects/pack").join(&name));
            let bytes = bytes.unwrap();
            fs::write(directory.path().join(&name), &bytes).unwrap();
            linked.push(Linked {
                path: name,
                bytes: bytes.len() as u64,
                whole: None,
            });
        }
        assert!(linked.len() >= 2, "{linked:?}");
        let verified = Verified::default();
        check(&verified, directory.path(), &linked).unwrap();
        assert_eq!(verified.known.lock().unwrap().lately.len(), linked.len());
        for file in &linked {
            let path = directory.path().join(&file.path);
            let sound = fs::read(&path).unwrap();
            for at in (0..sound.len()).step_by(7).chain([sound.len() - 1]) {
                let mut damaged = sound.clone();
                damaged[at] ^= 1;
                // Another file, as a copy would be.
                fs::remove_file(&path).unwrap();
                fs::write(&path, damaged).unwrap();
                let error = check(&Verified::default(), directory.path(), &linked).unwrap_err();
                let error = error.to_string();
                assert!(error.contains(&file.path), "{error}");
                assert!(error.contains("is damaged"), "{error}");
            }
            fs::write(&path, &sound[..sound.len() - 1]).unwrap();
            check(&Verified::default(), directory.path(), &linked).unwrap_err();
            fs::write(&path, &sound).unwrap();
        }
    }

    /// The same when the entries are looked at a few at a time.
    #[test]
    fn entries_are_looked_at_in_steps() {
        let repository = Repository::new();
        for number in 0..50 {
            let text = format!("{number}\n").repeat(number * 10);
            repository.write(&format!("file{number}"), text);
        }
        repository.commit_packed();
        let packs = repository.dir.path().join(".git/objects/pack");
        let paths = fs::read_dir(packs).unwrap();
        let mut paths = paths.map(|entry| entry.unwrap().path());
        let path = paths.find(|path| path.extension().is_some_and(|e| e == "pack"));
        let path = path.unwrap();
        let gate = Gate::default();
        let (kind, sound) = (gix::hash::Kind::Sha1, fs::read(&path).unwrap());
        let end = sound.len() as u64 - 20;
        let look = |held| {
            let file = Reader::new(File::open(&path).unwrap(), &gate);
            are_entries_sound(&path, &file, end, kind, held, &|_| {}).unwrap()
        };
        for held in [1, 2, 7, 1000] {
            assert_eq!(look(held), Some(true), "{held} at a time");
        }
        fs::remove_file(&path).unwrap();
        for at in (0..sound.len()).step_by(31) {
            let mut damaged = sound.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, damaged).unwrap();
            for held in [1, 7, 1000] {
                assert_ne!(look(held), Some(true), "byte {at}, {held} at a time");
                assert!(look(held).is_some() || at < 8, "byte {at} is not looked at");
            }
        }
    }
}
