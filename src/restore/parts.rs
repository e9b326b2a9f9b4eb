//! A snapshot's parts, fetched into a directory: over several connections, resumed and tried again one by one, and
//! each under its name only after it was found to be what the manifest says.
//!
//! What a server says of parts is believed as little as an archive: a manifest is sound or it is refused
//! ([`Manifest::unpack`]), it is of the snapshot that the answer names, and what all of it
//! takes is counted before the first byte is asked for.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel};
use std::sync::{Mutex, MutexGuard};

use xxhash_rust::xxh64::Xxh64;

use super::capture::Archive;
use super::error::{RestoreError, failed};
use super::http::Conn;
use super::landing::{self, Landing};
use super::link::pause;
use super::pieces::{Piece, Taken, push_pieces, push_range};
use super::quota::Quota;
use super::reel::Reel;
use super::seed::Seed;
use super::source::Source;
use super::summed::Summed;
use super::untaken::{Untaken, reusable};
use super::write::stopped;
use crate::limits::{
    CORRUPT_TRIES_MAX, DOWNLOAD_TRIES_MAX, PACE_BYTES, SEED_PLAYED_SHARE, STREAM_READ_BYTES,
};
use crate::manifest::parts::{Manifest, Part};

/// Where parts go.
#[derive(Clone, Copy)]
pub(super) struct Destination<'f> {
    pub dir: &'f Path,
    pub quota: &'f Quota,
    /// Where they stay.
    pub seed: Option<&'f Seed<'f>>,
}

/// Whether it was fetched and found right before: until then it has another name.
fn is_there(path: &Path, bytes: u64) -> bool {
    let found = fs::symlink_metadata(path);
    found.is_ok_and(|found| found.is_file() && found.len() == bytes)
}

/// A part that is being fetched.
struct Open<'f> {
    landing: Landing<'f>,
    /// What is not there yet.
    left_bytes: AtomicU64,
    /// Of a pack.
    sum: Option<Summed>,
}

/// What a connection does next.
enum Job {
    /// Fetches a piece.
    Fetch(Piece),
    /// Gives a part that the seed has its place.
    Place(usize, File),
}

impl Job {
    /// Whose it is, by its place in the manifest.
    fn part(&self) -> usize {
        match self {
            Job::Fetch(piece) => piece.part,
            Job::Place(part, _) => *part,
        }
    }
}

/// What the connections share.
///
/// Invariant: where one has failed no job is handed out.
struct State {
    /// What nobody does yet; the last one is next.
    jobs: Vec<Job>,
    /// Jobs that are not done yet.
    left: usize,
    /// Whether one could not be done: who has met that says why.
    has_failed: bool,
}

/// Parts that are fetched into a directory.
pub(super) struct Fetching<'f, 'a> {
    source: Source<'a>,
    manifest: &'f Manifest,
    to: Destination<'f>,
    /// By their place in the manifest; `None` for those that are there or not fetched.
    open: Vec<Option<Open<'f>>>,
    /// The same of files of frames that the seed has.
    had: Vec<Option<File>>,
    state: Mutex<State>,
}

impl<'f, 'a> Fetching<'f, 'a> {
    /// Fetches the parts of these numbers, but for those that are there: who may write there is believed.
    pub(super) fn new(
        source: Source<'a>,
        manifest: &'f Manifest,
        numbers: impl IntoIterator<Item = usize>,
        to: Destination<'f>,
    ) -> Result<Self, RestoreError> {
        let is_missing = |number: &usize| {
            let part = &manifest.parts[*number];
            !is_there(&to.dir.join(&part.name), part.bytes)
        };
        let missing: Vec<usize> = numbers.into_iter().filter(is_missing).collect();
        for number in &missing {
            to.quota.take_entry(manifest.parts[*number].bytes)?;
        }
        let mut jobs = Vec::new();
        let mut fetching = Fetching {
            source,
            manifest,
            to,
            open: manifest.parts.iter().map(|_| None).collect(),
            had: manifest.parts.iter().map(|_| None).collect(),
            state: Mutex::new(State {
                jobs: Vec::new(),
                left: 0,
                has_failed: false,
            }),
        };
        for number in missing {
            if let Some(file) = fetching.find(number) {
                jobs.push(Job::Place(number, file));
                continue;
            }
            let part = &manifest.parts[number];
            let kept = to
                .seed
                .and_then(|seed| Landing::in_seed(seed, manifest, number));
            let landing = match kept {
                Some(kept) => kept,
                None => Landing::in_directory(to.dir, part)?,
            };
            let mut pieces = Vec::new();
            push_pieces(manifest, number, &mut pieces);
            fetching.begin(number, landing)?;
            jobs.extend(pieces.into_iter().map(Job::Fetch));
        }
        // Companions of packs come first: they say what is where.
        jobs.sort_by_key(|job| manifest.parts[job.part()].name.ends_with(".pack"));
        jobs.reverse();
        let mut state = fetching.lock();
        (state.left, state.jobs) = (jobs.len(), jobs);
        drop(state);
        Ok(fetching)
    }

    /// The part, if the seed has it.
    fn find(&self, number: usize) -> Option<File> {
        let seed = self.to.seed?;
        seed.find(self.manifest, number, self.source.link.stop)
    }

    /// Begins a part, of which nothing is there.
    fn begin(&mut self, number: usize, landing: Landing<'f>) -> Result<(), RestoreError> {
        let part = &self.manifest.parts[number];
        self.open[number] = Some(Open {
            landing,
            left_bytes: AtomicU64::new(part.bytes),
            sum: Summed::of(self.manifest, part),
        });
        match part.bytes {
            // There is nothing to be asked for.
            0 => self.end(number),
            _ => Ok(()),
        }
    }

    /// What is played of files of frames comes from the seed, where that has them; else they are kept there, with what
    /// is not played of them, which is fetched in the end.
    pub(super) fn play(&mut self, reel: &Reel) -> Result<(), RestoreError> {
        let Some(seed) = self.to.seed else {
            return Ok(());
        };
        let mut pieces = Vec::new();
        for number in 0..self.manifest.parts.len() {
            let part = &self.manifest.parts[number];
            let played = reel.of_part(number);
            let played_bytes: u64 = played.iter().map(|range| range.end - range.start).sum();
            if part.is_of_pack() || played_bytes == 0 {
                continue;
            }
            self.had[number] = self.find(number);
            // What is played twice would be counted twice.
            let is_plain = played.is_sorted_by(|one, next| one.end <= next.start);
            let is_much = played_bytes >= part.bytes / SEED_PLAYED_SHARE;
            if self.had[number].is_some() || !is_plain || !is_much {
                continue;
            }
            let Some(landing) = Landing::in_seed(seed, self.manifest, number) else {
                continue;
            };
            self.begin(number, landing)?;
            let mut at = 0;
            for range in &played {
                push_range(number, at..range.start, None, &mut pieces);
                at = range.end;
            }
            push_range(number, at..part.bytes, None, &mut pieces);
        }
        let mut state = self.lock();
        state.left += pieces.len();
        state.jobs.splice(0..0, pieces.into_iter().map(Job::Fetch));
        Ok(())
    }

    /// Gives bytes of a part to be played, if the seed has it.
    pub(super) fn had(
        &self,
        number: usize,
        at: u64,
        into: &mut [u8],
    ) -> Result<bool, RestoreError> {
        match (self.had.get(number), self.to.seed) {
            (Some(Some(file)), Some(seed)) => {
                let read = file.read_exact_at(into, at);
                read.map_err(failed("read", seed.path())).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// What came of a part to be played is kept, if the part is.
    pub(super) fn played(&self, number: usize, at: u64, bytes: &[u8]) -> Result<(), RestoreError> {
        match self.open.get(number) {
            Some(Some(open)) => {
                open.landing.write(bytes, at)?;
                self.came(number, bytes.len() as u64)
            }
            _ => Ok(()),
        }
    }

    /// How many bytes are to be fetched, with those to be played.
    pub(super) fn bytes(&self, reel: &Reel) -> u64 {
        let bytes = |number: usize| match (&self.open[number], &self.had[number]) {
            (Some(_), _) => self.manifest.parts[number].bytes,
            (None, Some(_)) => 0,
            (None, None) => {
                let played = reel.of_part(number);
                played.iter().map(|range| range.end - range.start).sum()
            }
        };
        (0..self.open.len()).map(bytes).sum()
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

    /// Fetches the next piece that nobody else does, or the like; whether there was one.
    pub(super) fn fetch_next(
        &self,
        conn: &mut Option<Conn<'a>>,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, RestoreError> {
        let Some(job) = self.claim() else {
            return Ok(false);
        };
        let done = self.run(&job, conn, buffer);
        done.inspect_err(|_| self.lock().has_failed = true)?;
        self.lock().left -= 1;
        Ok(true)
    }

    fn claim(&self) -> Option<Job> {
        let mut state = self.lock();
        match state.has_failed || self.source.link.stop.is_set() {
            true => None,
            false => state.jobs.pop(),
        }
    }

    fn run(
        &self,
        job: &Job,
        conn: &mut Option<Conn<'a>>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), RestoreError> {
        match (job, self.to.seed) {
            (Job::Fetch(piece), _) => {
                buffer.resize(STREAM_READ_BYTES, 0);
                self.piece(conn, piece, buffer)?;
                self.done(piece, buffer)
            }
            (Job::Place(number, file), Some(seed)) => {
                let (part, stop) = (&self.manifest.parts[*number], self.source.link.stop);
                landing::place(seed, file, part, self.to.dir, stop)
            }
            (Job::Place(..), None) => Ok(()),
        }
    }

    /// A piece is there.
    fn done(&self, piece: &Piece, buffer: &mut [u8]) -> Result<(), RestoreError> {
        let Some(open) = &self.open[piece.part] else {
            return Ok(());
        };
        if let Some(sum) = &open.sum {
            sum.add(piece, open.landing.file(), buffer)
                .map_err(failed("read", open.landing.path()))?;
        }
        self.came(piece.part, piece.range.end - piece.range.start)
    }

    /// So much more of a part is there; with the last of it the part is.
    fn came(&self, number: usize, bytes: u64) -> Result<(), RestoreError> {
        match &self.open[number] {
            Some(open) if open.left_bytes.fetch_sub(bytes, AcqRel) == bytes => self.end(number),
            _ => Ok(()),
        }
    }

    /// Gives a part its name, if it is what the manifest says.
    fn end(&self, number: usize) -> Result<(), RestoreError> {
        let (part, Some(open)) = (&self.manifest.parts[number], &self.open[number]) else {
            return Ok(());
        };
        let landing = &open.landing;
        if let Some(whole) = part.whole {
            let found = sum(landing.file()).map_err(failed("read", landing.path()))?;
            match found == whole {
                true => {}
                // What was played of it has sums of its own.
                false if landing.is_spare() => return Ok(()),
                false => return Err(corrupt(part, 0)),
            }
        }
        landing.finish(part, self.to.dir, self.source.link.stop)
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
            let written = open.landing.write(&buffer[..got], taken.at);
            written.map_err(Untaken::Final)?;
            let sums = &self.manifest.layout.checksums()[piece.sums.clone()];
            if let Err(at) = taken.add(&buffer[..got], piece, sums) {
                return Err(Failed::Corrupt(corrupt(part, at)));
            }
        }
        Ok(true)
    }
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
