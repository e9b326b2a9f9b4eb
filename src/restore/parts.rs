//! A snapshot's parts, fetched into a directory: over several connections, resumed and tried again one by one, and
//! each under its name only after it was found to be what the manifest says.
//!
//! What a server says of parts is believed as little as an archive: a manifest is sound or it is refused
//! ([`Manifest::unpack`]), it is of the snapshot that the answer names, and what all of it
//! takes is counted before the first byte is asked for.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use gix::hash::Kind;

use super::capture::Archive;
use super::error::{RestoreError, failed};
use super::http::Conn;
use super::landing::{Destination, Landing, SEALED, is_there};
use super::packs;
use super::piece::{Coming, corrupt};
use super::pieces::{Piece, push_pieces};
use super::reel::Reel;
use super::seed::{Lent, Seed};
use super::source::Source;
use super::stock::Stock;
use super::summed::Summed;
use super::sums::Running;
use super::write::stopped;
use crate::limits::{DOWNLOAD_TRIES_MAX, PART_READ_BYTES};
use crate::manifest::parts::{Manifest, Part};
use crate::tree::decoder::Packs;
use crate::tree::frontier::Frontier;
use crate::tree::packed::Pack;

/// A part of a pack that is being fetched, or copied.
struct Open<'f> {
    landing: Landing<'f>,
    /// What is not there yet.
    left_bytes: AtomicU64,
    /// Of a pack, unless that is believed.
    sum: Option<Summed<Running>>,
}

/// What a connection does next.
enum Job {
    /// Brings a piece of a part.
    Bring(Piece),
    /// Fetches a piece that is kept for the next restore.
    Keep(Piece),
}

/// What the connections share.
///
/// Invariant: where one has failed no job is handed out.
#[derive(Default)]
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
    /// The same of those of packs that the seed has.
    lent: Vec<Option<Lent<'f>>>,
    /// Files of frames.
    stock: Stock<'f>,
    /// How far each part is there: a pack as it comes, anything else once it has its name.
    frontiers: Vec<Arc<Frontier>>,
    /// Pieces of packs and their companions that are not there yet.
    coming: AtomicUsize,
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
        let mut fetching = Fetching {
            source,
            manifest,
            to,
            open: manifest.parts.iter().map(|_| None).collect(),
            lent: manifest.parts.iter().map(|_| None).collect(),
            stock: Stock::default(),
            frontiers: manifest.parts.iter().map(|_| Arc::default()).collect(),
            coming: AtomicUsize::new(0),
            state: Mutex::default(),
        };
        let others = (0..manifest.parts.len()).filter(|number| !missing.contains(number));
        others.for_each(|number| fetching.is_whole(number));
        let mut pieces = Vec::new();
        for number in missing {
            if !fetching.begin(number)? {
                push_pieces(manifest, number, &mut pieces);
            }
        }
        // Companions of packs come first: they say what is where.
        pieces.sort_by_key(|piece| is_pack(&manifest.parts[piece.part]));
        fetching.coming = AtomicUsize::new(pieces.len());
        if !pieces.is_empty() {
            source.link.progress.download_begins();
        }
        let jobs: Vec<Job> = pieces.into_iter().rev().map(Job::Bring).collect();
        let mut state = fetching.lock();
        (state.left, state.jobs) = (jobs.len(), jobs);
        drop(state);
        Ok(fetching)
    }

    /// Begins a part, of which nothing is there; whether all of it is there then.
    fn begin(&mut self, number: usize) -> Result<bool, RestoreError> {
        let (part, dir) = (&self.manifest.parts[number], self.to.dir);
        self.lent[number] = self.find(number);
        let lent = self.lent[number].as_ref();
        if let Some(lent) = lent {
            let directory = File::open(dir).map_err(failed("open", dir))?;
            let mode = rustix::fs::Mode::from_raw_mode(SEALED);
            if lent.place(directory.as_fd(), &part.name, mode) {
                self.source.link.progress.came_from_seed(part.bytes);
                self.source.link.progress.part_is_there();
                self.is_whole(number);
                return Ok(true);
            }
        }
        let landing = match lent {
            Some(_) => Landing::in_directory(dir, part)?,
            None => Landing::new(dir, self.to.seed, self.manifest, number)?,
        };
        if is_pack(part) {
            // It may be looked at before all of it is there.
            landing.extend(part.bytes)?;
        }
        let sum = Summed::of(self.manifest, part);
        self.open[number] = Some(Open {
            landing,
            left_bytes: AtomicU64::new(part.bytes),
            sum: sum.filter(|_| !lent.is_some_and(Lent::is_sound)),
        });
        if part.bytes == 0 {
            // There is nothing to be asked for.
            self.end(number)?;
        }
        Ok(part.bytes == 0)
    }

    /// The part, if the seed has it.
    fn find(&self, number: usize) -> Option<Lent<'f>> {
        let seed = self.to.seed?;
        seed.find(self.manifest, number, self.source.link.stop)
    }

    /// What is played of files of frames comes from the seed, where that has them; else they are kept there, with what
    /// is not played of them, which is fetched in the end, if it is little.
    pub(super) fn play(&mut self, reel: &Reel) {
        let Some(seed) = self.to.seed else {
            return;
        };
        let stop = self.source.link.stop;
        self.stock = Stock::find(seed, self.manifest, reel, stop);
        let pieces = self.stock.keep(seed, self.manifest, reel);
        let mut state = self.lock();
        state.left += pieces.len();
        state.jobs.splice(0..0, pieces.into_iter().map(Job::Keep));
    }

    /// What there is of files of frames.
    pub(super) fn stock(&self) -> &Stock<'f> {
        &self.stock
    }

    /// Where parts stay for the next restore.
    pub(super) fn seed(&self) -> Option<&'f Seed<'f>> {
        self.to.seed
    }

    /// How many bytes are to be fetched, with those to be played.
    pub(super) fn bytes(&self, reel: &Reel) -> u64 {
        let bytes = |number: usize| {
            let is_needed = self.open[number].is_some() || self.stock.spare(number).is_some();
            match self.lent[number].is_some() || self.stock.has(number) {
                true => 0,
                false if is_needed => self.manifest.parts[number].bytes,
                false => {
                    let played = reel.of_part(number);
                    played.iter().map(|range| range.end - range.start).sum()
                }
            }
        };
        (0..self.open.len()).map(bytes).sum()
    }

    /// How many bytes of packs were to come, with what belongs to them.
    pub(super) fn packs_bytes(&self) -> u64 {
        let parts = self.manifest.parts.iter().enumerate();
        let come = parts.filter(|(number, part)| {
            part.is_of_pack() && self.open[*number].is_some() && self.lent[*number].is_none()
        });
        come.map(|(_, part)| part.bytes).sum()
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

    /// Notes what is fetched as what an archive has had in `.git/objects/pack`, with the sums that are made, and with
    /// what need not be summed.
    pub(super) fn note(&self, archive: &mut Archive) -> Result<(), RestoreError> {
        for (number, part) in self.manifest.parts.iter().enumerate() {
            if !part.is_of_pack() {
                continue;
            }
            let path = format!(".git/objects/pack/{}", part.name).into_bytes();
            archive.captured.object(&path, part.bytes)?;
            let (open, lent) = (self.open[number].as_ref(), self.lent[number].as_ref());
            let kept = open.and_then(|open| open.landing.kept());
            let lent = lent.filter(|lent| !lent.is_lost());
            archive
                .kept
                .extend(kept.or(lent.map(|lent| lent.file().clone())));
            if let Some(sum) = open.and_then(|open| open.sum.as_ref()) {
                archive.sums.insert(path.clone(), sum.running.clone());
            }
            if lent.is_some_and(Lent::is_sound) {
                archive.believed.insert(path);
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

    /// Fetches what nobody else does, until nothing is left. `buffer` is memory for it.
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
        buffer.resize(PART_READ_BYTES, 0);
        match job {
            Job::Bring(piece) => self.bring(piece, conn, buffer),
            Job::Keep(piece) => {
                let of = (&self.source, self.manifest);
                self.stock.fetch(of, piece, conn, buffer);
                Ok(())
            }
        }
    }

    /// Copies a piece, or fetches it.
    fn bring(
        &self,
        piece: &Piece,
        conn: &mut Option<Conn<'a>>,
        buffer: &mut [u8],
    ) -> Result<(), RestoreError> {
        let number = piece.part;
        let (part, Some(open)) = (&self.manifest.parts[number], &self.open[number]) else {
            return Ok(());
        };
        let frontier = &self.frontiers[number];
        if self.copied(piece, &open.landing)? {
            if is_pack(part) {
                frontier.came(piece.range.clone());
            }
        } else {
            let coming = Coming {
                source: &self.source,
                part,
                piece,
                sums: &self.manifest.layout.checksums()[piece.sums.clone()],
                write: &|bytes, at| open.landing.write(bytes, at),
                frontier: is_pack(part).then_some(&**frontier),
                tries_max: DOWNLOAD_TRIES_MAX,
            };
            coming.fetch(conn, buffer)?;
        }
        if self.coming.fetch_sub(1, Relaxed) == 1 {
            self.source.link.progress.download_ends();
        }
        if let Some(sum) = &open.sum {
            // What is not summed once all is there is summed beside what is done then.
            let goes_on = || self.coming.load(Relaxed) > 0;
            sum.add(piece.range.clone(), open.landing.file(), buffer, goes_on)
                .map_err(failed("read", open.landing.path()))?;
        }
        let bytes = piece.range.end - piece.range.start;
        match open.left_bytes.fetch_sub(bytes, AcqRel) == bytes {
            true => self.end(number),
            false => Ok(()),
        }
    }

    /// Copies a piece out of the seed; whether it has it.
    fn copied(&self, piece: &Piece, landing: &Landing<'_>) -> Result<bool, RestoreError> {
        let Some(lent) = &self.lent[piece.part] else {
            return Ok(false);
        };
        let link = self.source.link;
        let copied = lent.copy(landing.file(), piece.range.clone(), link.stop);
        let copied = copied.map_err(failed("write", landing.path()))?;
        let bytes = piece.range.end - piece.range.start;
        match copied {
            true => link.progress.came_from_seed(bytes),
            false => link.progress.add_total(bytes),
        }
        Ok(copied)
    }

    /// Gives a part its name, if it is what the manifest says.
    fn end(&self, number: usize) -> Result<(), RestoreError> {
        let (part, Some(open)) = (&self.manifest.parts[number], &self.open[number]) else {
            return Ok(());
        };
        if let Some(whole) = part.whole
            && open.landing.sum()? != whole
        {
            return Err(corrupt(part, 0));
        }
        open.landing.finish(part, self.to.dir)?;
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
