//! A snapshot's parts, fetched into a directory: over several connections, resumed and tried again one by one, and
//! each under its name only after it was found to be what the manifest says.
//!
//! What a server says of parts is believed as little as an archive: a manifest is sound or it is refused
//! ([`Manifest::unpack`]), it is of the snapshot that the answer names, and what all of it
//! takes is counted before the first byte is asked for.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};
use std::sync::{Arc, Mutex, MutexGuard};

use gix::hash::Kind;
use xxhash_rust::xxh64::Xxh64;

use super::capture::Archive;
use super::error::{RestoreError, failed};
use super::http::Conn;
use super::link::pause;
use super::packs;
use super::pieces::{Piece, Taken, push_pieces};
use super::quota::Quota;
use super::source::Source;
use super::sums::{self, Running};
use super::untaken::{Untaken, reusable};
use super::write::stopped;
use crate::limits::{CORRUPT_TRIES_MAX, DOWNLOAD_TRIES_MAX, PACE_BYTES, STREAM_READ_BYTES};
use crate::manifest::parts::{Manifest, Part};
use crate::tree::decoder::Packs;
use crate::tree::frontier::Frontier;
use crate::tree::packed::Pack;

/// Whether it was fetched and found right before: until then it has another name.
fn is_there(path: &Path, bytes: u64) -> bool {
    let found = fs::symlink_metadata(path);
    found.is_ok_and(|found| found.is_file() && found.len() == bytes)
}

/// A part that is being fetched.
struct Open {
    file: File,
    /// Until it is whole and right.
    path: PathBuf,
    /// Pieces that are not there yet.
    left: AtomicUsize,
    /// How far a pack is there; anything else, once it has its name.
    frontier: Arc<Frontier>,
    /// Of a pack.
    sum: Option<Summed>,
}

/// The sum of a pack whose pieces come in any order.
struct Summed {
    running: Arc<Mutex<Running>>,
    there: Mutex<There>,
}

/// Invariant: while `is_taken`, one thread adds to the sum what `pieces` has that is next.
#[derive(Default)]
struct There {
    is_taken: bool,
    /// What was fetched and is not summed: where it begins and ends.
    pieces: BTreeMap<u64, u64>,
}

/// What the connections share.
///
/// Invariant: where one has failed no piece is handed out.
struct State {
    /// What nobody fetches yet; the last one is next.
    pieces: Vec<Piece>,
    /// Pieces that are not there yet.
    left: usize,
    /// Whether one could not be fetched: who has met that says why.
    has_failed: bool,
}

/// Parts that are fetched into a directory.
pub(super) struct Fetching<'f, 'a> {
    source: Source<'a>,
    manifest: &'f Manifest,
    dir: &'f Path,
    /// By their place in the manifest; `None` for those that are there or not fetched.
    open: Vec<Option<Open>>,
    state: Mutex<State>,
}

impl<'f, 'a> Fetching<'f, 'a> {
    /// Fetches the parts of these numbers, but for those that are there: who may write there is believed.
    pub(super) fn new(
        source: Source<'a>,
        manifest: &'f Manifest,
        numbers: impl IntoIterator<Item = usize>,
        dir: &'f Path,
        quota: &Quota,
    ) -> Result<Self, RestoreError> {
        let is_missing = |number: &usize| {
            let part = &manifest.parts[*number];
            !is_there(&dir.join(&part.name), part.bytes)
        };
        let missing: Vec<usize> = numbers.into_iter().filter(is_missing).collect();
        for number in &missing {
            quota.take_entry(manifest.parts[*number].bytes)?;
        }
        let mut pieces = Vec::new();
        let mut open: Vec<Option<Open>> = manifest.parts.iter().map(|_| None).collect();
        for number in &missing {
            let (part, before) = (&manifest.parts[*number], pieces.len());
            push_pieces(manifest, *number, &mut pieces);
            let path = dir.join(format!(".{}", part.name));
            let file = create(&path)?;
            if is_pack(part) {
                // It may be looked at before all of it is there.
                file.set_len(part.bytes).map_err(failed("extend", &path))?;
            }
            open[*number] = Some(Open {
                file,
                frontier: Arc::default(),
                path,
                left: AtomicUsize::new(pieces.len() - before),
                sum: summed(manifest, part),
            });
        }
        // Companions of packs come first: they say what is where.
        pieces.sort_by_key(|piece| is_pack(&manifest.parts[piece.part]));
        pieces.reverse();
        let state = State {
            left: pieces.len(),
            pieces,
            has_failed: false,
        };
        let fetching = Fetching {
            source,
            manifest,
            dir,
            open,
            state: Mutex::new(state),
        };
        for number in missing
            .into_iter()
            .filter(|number| manifest.parts[*number].bytes == 0)
        {
            // There is nothing to be asked for.
            fetching.end(number)?;
        }
        Ok(fetching)
    }

    /// How many bytes are to be fetched.
    pub(super) fn bytes(&self) -> u64 {
        let fetched = self.open.iter().zip(&self.manifest.parts);
        fetched
            .filter(|(open, _)| open.is_some())
            .map(|(_, part)| part.bytes)
            .sum()
    }

    /// The packs, to be read while they are fetched. Waits until their indexes are there, and looks at these.
    pub(super) fn open_coming(&self, hash: Kind) -> Result<Packs, RestoreError> {
        let parts = self.manifest.parts.iter().zip(&self.open);
        let packs = parts.filter(|(part, _)| is_pack(part)).map(|(part, open)| {
            let path = self.dir.join(&part.name);
            let index = path.with_extension("idx");
            self.wait_for(&index)?;
            packs::check_index(&index, part.bytes, hash, self.source.link.stop)?;
            let opened = match open {
                Some(open) => Pack::open_coming(&path, &open.file, hash, open.frontier.clone()),
                None => Pack::open(&path, hash),
            };
            let name = part.name.as_bytes();
            opened.map_err(|e| RestoreError::entry(name, e.to_string()))
        });
        packs.collect::<Result<_, _>>().map(Packs::of)
    }

    /// Waits until the part that is to be at `path` has its name, if it is one that is fetched.
    fn wait_for(&self, path: &Path) -> Result<(), RestoreError> {
        let mut parts = self.manifest.parts.iter().zip(&self.open);
        let found = parts.find(|(part, _)| path.ends_with(&part.name));
        match found {
            Some((part, Some(open))) if !open.frontier.wait(part.bytes) => Err(stopped()),
            _ => Ok(()),
        }
    }

    /// Whether a piece could not be fetched.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().has_failed
    }

    /// No more pieces come: nobody is to wait for them.
    fn give_up(&self) {
        self.lock().has_failed = true;
        self.open
            .iter()
            .flatten()
            .for_each(|open| open.frontier.end());
    }

    /// Notes what is fetched as what an archive has had in `.git/objects/pack`, with the sums that are made.
    pub(super) fn note(&self, archive: &mut Archive) -> Result<(), RestoreError> {
        for (open, part) in self.open.iter().zip(&self.manifest.parts) {
            if !part.is_of_pack() {
                continue;
            }
            let path = format!(".git/objects/pack/{}", part.name).into_bytes();
            archive.captured.object(&path, part.bytes)?;
            if let Some(sum) = open.as_ref().and_then(|open| open.sum.as_ref()) {
                archive.sums.insert(path, sum.running.clone());
            }
        }
        Ok(())
    }

    /// Once all who fetched have ended: whether all is there.
    pub(super) fn finish(&self) -> Result<(), RestoreError> {
        match (self.lock().left, self.source.link.stop.is_set()) {
            (0, _) => Ok(()),
            (_, true) => Err(stopped()),
            (_, false) => Err(RestoreError::Thread("downloads")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Fetches what nobody else does, until nothing is left of it. `buffer` is memory for it.
    pub(super) fn fetch_all(
        &self,
        conn: &mut Option<Conn<'a>>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), RestoreError> {
        while self.fetch_next(conn, buffer)? {}
        Ok(())
    }

    /// Fetches the next piece that nobody else does; whether there was one.
    pub(super) fn fetch_next(
        &self,
        conn: &mut Option<Conn<'a>>,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, RestoreError> {
        let Some(piece) = self.claim() else {
            return Ok(false);
        };
        let ends = Ends(self);
        buffer.resize(STREAM_READ_BYTES, 0);
        let fetched = self.piece(conn, &piece, buffer);
        let done = fetched.and_then(|()| self.done(&piece, buffer));
        done?;
        std::mem::forget(ends);
        Ok(true)
    }

    fn claim(&self) -> Option<Piece> {
        if self.source.link.stop.is_set() {
            self.give_up();
        }
        let mut state = self.lock();
        match state.has_failed {
            true => None,
            false => state.pieces.pop(),
        }
    }

    /// A piece is there; with the last one of it the part is.
    fn done(&self, piece: &Piece, buffer: &mut [u8]) -> Result<(), RestoreError> {
        let Some(open) = &self.open[piece.part] else {
            return Ok(());
        };
        if let Some(sum) = &open.sum {
            sum.add(piece, &open.file, buffer)
                .map_err(failed("read", &open.path))?;
        }
        if open.left.fetch_sub(1, AcqRel) == 1 {
            self.end(piece.part)?;
            open.frontier.came(0..self.manifest.parts[piece.part].bytes);
        }
        self.lock().left -= 1;
        Ok(())
    }

    /// Gives a part its name, if it is what the manifest says.
    fn end(&self, number: usize) -> Result<(), RestoreError> {
        let (part, Some(open)) = (&self.manifest.parts[number], &self.open[number]) else {
            return Ok(());
        };
        if let Some(whole) = part.whole {
            let found = sum(&open.file).map_err(failed("read", &open.path))?;
            if found != whole {
                return Err(corrupt(part, 0));
            }
        }
        let sealed = open.file.set_permissions(PermissionsExt::from_mode(0o444));
        sealed.map_err(failed("seal", &open.path))?;
        fs::rename(&open.path, self.dir.join(&part.name)).map_err(failed("name", &open.path))
    }

    /// Fetches a piece, with as many tries as bring more than a little, and few that bring what is not right.
    fn piece(
        &self,
        conn: &mut Option<Conn<'a>>,
        piece: &Piece,
        buffer: &mut [u8],
    ) -> Result<(), RestoreError> {
        let (mut taken, mut tries, mut corrupted) = (Taken::new(piece), 0, 0);
        loop {
            let before = taken.at;
            let why = match self.try_piece(conn, piece, &mut taken, buffer) {
                Ok(true) => return Ok(()),
                Ok(false) => "the answer ended early".to_owned(),
                Err(Failed::Corrupt(error)) => {
                    corrupted += 1;
                    if corrupted >= CORRUPT_TRIES_MAX {
                        return Err(error);
                    }
                    error.to_string()
                }
                Err(Failed::Untaken(Untaken::Final(error))) => return Err(error),
                Err(Failed::Untaken(Untaken::Again(why))) => why,
            };
            *conn = None;
            let is_much = taken.at.saturating_sub(before) >= PACE_BYTES as u64;
            tries = if is_much { 1 } else { tries + 1 };
            let link = self.source.link;
            if tries >= DOWNLOAD_TRIES_MAX || link.stop.is_set() {
                let (name, at) = (&self.manifest.parts[piece.part].name, taken.at);
                let what = format!("{name} broke at byte {at}, {tries} tries: {why}");
                return Err(RestoreError::Server(what));
            }
            link.progress.resumed();
            pause(link.stop, tries);
        }
    }

    /// One request for what is left of a piece; whether it is whole now.
    fn try_piece(
        &self,
        slot: &mut Option<Conn<'a>>,
        piece: &Piece,
        taken: &mut Taken,
        buffer: &mut [u8],
    ) -> Result<bool, Failed> {
        let (part, Some(open)) = (&self.manifest.parts[piece.part], &self.open[piece.part]) else {
            return Ok(true);
        };
        let link = self.source.link;
        let conn = reusable(slot, link)?;
        self.source.ask(conn, part, taken.at..piece.range.end)?;
        while taken.at < piece.range.end {
            let left = usize::try_from(piece.range.end - taken.at).unwrap_or(usize::MAX);
            let want = left.min(buffer.len());
            let got = conn.read(&mut buffer[..want])?;
            if got == 0 {
                return Ok(false);
            }
            link.progress.received(got);
            let written = open.file.write_all_at(&buffer[..got], taken.at);
            written.map_err(|e| Untaken::Final(RestoreError::disk("write", &open.path, e)))?;
            let sums = &self.manifest.layout.checksums()[piece.sums.clone()];
            if let Err(at) = taken.add(&buffer[..got], piece, sums) {
                return Err(Failed::Corrupt(corrupt(part, at)));
            }
            if is_pack(part) {
                open.frontier
                    .came(piece.range.start..taken.sound_end(piece));
            }
        }
        Ok(true)
    }
}

/// Held by who fetches a piece: if it does not come, whatever the reason, nobody waits for it.
struct Ends<'e, 'f, 'a>(&'e Fetching<'f, 'a>);

impl Drop for Ends<'_, '_, '_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

fn is_pack(part: &Part) -> bool {
    part.name.ends_with(".pack")
}

/// A part is not what the manifest says from `offset` on, or before.
fn corrupt(part: &Part, offset: u64) -> RestoreError {
    let what = format!("{} is not what the manifest says", part.name);
    RestoreError::Corrupt { offset, what }
}

/// Why a request brought no piece.
enum Failed {
    Untaken(Untaken),
    /// What came of it is not right.
    Corrupt(RestoreError),
}

impl<E: Into<Untaken>> From<E> for Failed {
    fn from(error: E) -> Failed {
        Failed::Untaken(error.into())
    }
}

/// The sum to be made of a part, if it is a pack.
fn summed(manifest: &Manifest, part: &Part) -> Option<Summed> {
    if !is_pack(part) {
        return None;
    }
    let kind = match manifest.commit.as_deref().map_or(0, str::len) {
        64 => Kind::Sha256,
        _ => Kind::Sha1,
    };
    Some(Summed {
        running: Arc::new(Mutex::new(Running::new(part.bytes, kind))),
        there: Mutex::default(),
    })
}

impl Summed {
    fn lock(&self) -> MutexGuard<'_, There> {
        self.there
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds a piece of `file`, and what it is in front of, to the sum; or leaves that to who is at it.
    fn add(&self, piece: &Piece, file: &File, buffer: &mut [u8]) -> io::Result<()> {
        let mut there = self.lock();
        there.pieces.insert(piece.range.start, piece.range.end);
        if std::mem::replace(&mut there.is_taken, true) {
            return Ok(());
        }
        let mut running = sums::lock(&self.running);
        while let Some(end) = there.pieces.remove(&running.next()) {
            drop(there);
            while running.next() < end {
                let left = usize::try_from(end - running.next()).unwrap_or(usize::MAX);
                let want = left.min(buffer.len());
                file.read_exact_at(&mut buffer[..want], running.next())?;
                running.add(&buffer[..want]);
            }
            there = self.lock();
        }
        there.is_taken = false;
        Ok(())
    }
}

/// A new file in the place of what an earlier run has left there.
fn create(path: &Path) -> Result<File, RestoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", path)(e)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path).map_err(failed("create", path))
}

/// XXH64 of a whole file.
fn sum(file: &File) -> io::Result<u64> {
    let (mut sum, mut at) = (Xxh64::new(0), 0);
    let mut buffer = vec![0; STREAM_READ_BYTES];
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(sum.digest()),
            got => {
                sum.update(&buffer[..got]);
                at += got as u64;
            }
        }
    }
}
