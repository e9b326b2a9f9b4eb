//! A snapshot's parts, fetched into a directory: over several connections, resumed and tried again one by one, and
//! each under its name only after it was found to be what the manifest says.
//!
//! What a server says of parts is believed as little as an archive: a manifest is sound or it is refused
//! ([`Manifest::unpack`]), it is of the snapshot that the answer names, and what all of it
//! takes is counted before the first byte is asked for.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel};
use std::sync::{Arc, Mutex, MutexGuard};

use gix::hash::Kind;

use super::capture::Archive;
use super::error::{RestoreError, failed};
use super::http::Conn;
use super::landing::{self, Landing};
use super::packs;
use super::piece::{Coming, corrupt};
use super::pieces::{Piece, push_pieces, push_range};
use super::quota::Quota;
use super::reel::Reel;
use super::seed::Seed;
use super::source::Source;
use super::summed::Summed;
use super::write::stopped;
use crate::limits::{SEED_PLAYED_SHARE, STREAM_READ_BYTES};
use crate::manifest::parts::{Manifest, Part};
use crate::tree::decoder::Packs;
use crate::tree::frontier::Frontier;
use crate::tree::packed::Pack;

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
    /// Whether that was before anything else ended the restore.
    is_cause: bool,
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
    /// How far each part is there: a pack as it comes, anything else once it has its name.
    frontiers: Vec<Arc<Frontier>>,
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
        source.link.progress.parts_come(missing.len());
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
            frontiers: manifest.parts.iter().map(|_| Arc::default()).collect(),
            state: Mutex::new(State {
                jobs: Vec::new(),
                left: 0,
                has_failed: false,
                is_cause: false,
            }),
        };
        let others = (0..manifest.parts.len()).filter(|number| !missing.contains(number));
        others.for_each(|number| fetching.is_whole(number));
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
            if is_pack(part) {
                // It may be looked at before all of it is there.
                landing.extend(part.bytes)?;
            }
            let mut pieces = Vec::new();
            push_pieces(manifest, number, &mut pieces);
            fetching.begin(number, landing)?;
            jobs.extend(pieces.into_iter().map(Job::Fetch));
        }
        // Companions of packs come first: they say what is where.
        jobs.sort_by_key(|job| is_pack(&manifest.parts[job.part()]));
        jobs.reverse();
        let mut state = fetching.lock();
        (state.left, state.jobs) = (jobs.len(), jobs);
        drop(state);
        source.link.progress.download_begins();
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
                read.map_err(failed("read", seed.path()))?;
                self.source.link.progress.came_from_seed(into.len() as u64);
                Ok(true)
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

    /// The packs, to be read while they are fetched. Waits until their indexes are there, and looks at these.
    pub(super) fn open_coming(&self, hash: Kind) -> Result<Packs, RestoreError> {
        let parts = self.manifest.parts.iter().enumerate();
        let packs = parts
            .filter(|(_, part)| is_pack(part))
            .map(|(number, part)| {
                let path = self.to.dir.join(&part.name);
                let index = path.with_extension("idx");
                self.wait_for(&index)?;
                packs::check_index(&index, part.bytes, hash, self.source.link.stop)?;
                let opened = match &self.open[number] {
                    Some(open) => {
                        let frontier = self.frontiers[number].clone();
                        Pack::open_coming(&path, open.landing.file(), hash, frontier)
                    }
                    None => {
                        self.wait_for(&path)?;
                        Pack::open(&path, hash)
                    }
                };
                let name = part.name.as_bytes();
                opened.map_err(|e| RestoreError::entry(name, e.to_string()))
            });
        packs.collect::<Result<_, _>>().map(Packs::of)
    }

    /// Waits until so many bytes of packs are there, or all, or no more come.
    pub(super) fn wait(&self, mut bytes: u64) {
        let parts = self.manifest.parts.iter().zip(&self.frontiers);
        for (part, frontier) in parts.filter(|(part, _)| is_pack(part)) {
            let wanted = bytes.min(part.bytes);
            if !frontier.wait(wanted) {
                return;
            }
            bytes -= wanted;
        }
    }

    /// Waits until the part that is to be at `path` has its name.
    fn wait_for(&self, path: &Path) -> Result<(), RestoreError> {
        let mut parts = self.manifest.parts.iter().zip(&self.frontiers);
        let found = parts.find(|(part, _)| path.ends_with(&part.name));
        let name = path.as_os_str().as_encoded_bytes();
        let (part, frontier) = found.ok_or_else(|| RestoreError::entry(name, "it is not there"))?;
        match frontier.wait(part.bytes) {
            true => Ok(()),
            false => Err(stopped()),
        }
    }

    /// A part has its name.
    fn is_whole(&self, number: usize) {
        self.frontiers[number].came(0..self.manifest.parts[number].bytes);
    }

    /// Whether the restore ends because a job could not be done.
    pub(super) fn is_cause(&self) -> bool {
        self.lock().is_cause
    }

    /// Nothing more comes: nobody is to wait for it.
    fn give_up(&self) {
        let is_stopped = self.source.link.stop.is_set();
        let mut state = self.lock();
        (state.has_failed, state.is_cause) = (true, state.is_cause || !is_stopped);
        drop(state);
        self.frontiers.iter().for_each(|frontier| frontier.end());
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
            (0, _) => {
                self.source.link.progress.download_ends();
                Ok(())
            }
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
        let ends = Ends(self);
        self.run(&job, conn, buffer)?;
        std::mem::forget(ends);
        self.lock().left -= 1;
        Ok(true)
    }

    fn claim(&self) -> Option<Job> {
        if self.source.link.stop.is_set() {
            self.give_up();
        }
        let mut state = self.lock();
        match state.has_failed {
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
                self.fetch(piece, conn, buffer)?;
                self.done(piece, buffer)
            }
            (Job::Place(number, file), Some(seed)) => {
                let (part, stop) = (&self.manifest.parts[*number], self.source.link.stop);
                landing::place(seed, file, part, self.to.dir, stop)?;
                self.source.link.progress.came_from_seed(part.bytes);
                self.source.link.progress.part_is_there();
                self.is_whole(*number);
                Ok(())
            }
            (Job::Place(..), None) => Ok(()),
        }
    }

    fn fetch(
        &self,
        piece: &Piece,
        conn: &mut Option<Conn<'a>>,
        buffer: &mut [u8],
    ) -> Result<(), RestoreError> {
        let (part, Some(open)) = (&self.manifest.parts[piece.part], &self.open[piece.part]) else {
            return Ok(());
        };
        let coming = Coming {
            source: &self.source,
            part,
            piece,
            sums: &self.manifest.layout.checksums()[piece.sums.clone()],
            landing: &open.landing,
            frontier: is_pack(part).then_some(&*self.frontiers[piece.part]),
        };
        coming.fetch(conn, buffer)
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
            let found = landing.sum()?;
            match found == whole {
                true => {}
                // What was played of it has sums of its own.
                false if landing.is_spare() => return Ok(()),
                false => return Err(corrupt(part, 0)),
            }
        }
        landing.finish(part, self.to.dir, self.source.link.stop)?;
        if part.is_of_pack() {
            self.source.link.progress.part_is_there();
        }
        self.is_whole(number);
        Ok(())
    }
}

/// Held by who does a job: if that is not done, whatever the reason, nobody waits for it.
struct Ends<'e, 'f, 'a>(&'e Fetching<'f, 'a>);

impl Drop for Ends<'_, '_, '_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

fn is_pack(part: &Part) -> bool {
    part.name.ends_with(".pack")
}
