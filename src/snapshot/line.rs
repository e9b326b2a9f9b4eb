//! The line: what a build has started and not sent yet, in the order in which it leaves. The
//! encoders work on the first places at the same time; what leaves is in order.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gix::ObjectId;

use super::big;
use super::job::{Outcome, dates, encode, encode_heavy};
use super::output::BuildError;
use super::ring::Pending;
use super::source::JobError;
use super::sum::sum_frames;
use super::survey::{Survey, survey};
use super::work::Work;
use crate::io::fs::index_size;
use crate::limits::{RAW_JOB_BYTES, SMALL_BUILD_JOBS};
use crate::manifest::outline::Outline;
use crate::manifest::parts::{Contents, Section};
use crate::manifest::record::{Linked, Record};
use crate::tree::batch::Batch;
use crate::tree::dates::GIT_DATE_S;
use crate::tree::filter::Conversions;
use crate::tree::tar::{self, Kind};
use crate::tree::walk::{Go, Start, Step};

/// One place in the line of things that leave in order.
enum Place {
    /// Tar bytes, still to be compressed.
    Tar(Vec<u8>),
    /// A range of a linked file whose checksums are being made.
    Raw {
        file: Numbered,
        offset: u64,
        len: u64,
        pending: Pending<std::io::Result<Vec<u32>>>,
        path: PathBuf,
    },
    /// A linked file whose checksums an earlier snapshot has.
    Summed {
        file: Numbered,
        len: u64,
        sums: Vec<u32>,
    },
    /// Something else begins in the archive.
    Section(Contents),
    /// The jobs of this large directory begin.
    Begins(usize),
    /// All jobs below this large directory, which an earlier snapshot has under the other number.
    Known { large: usize, before: u32 },
    /// A job whose frames an earlier snapshot has.
    Taken { record: Record, dates: Vec<u32> },
    /// A job not yet given to the encoders.
    Waiting(Batch),
    /// A job at work.
    Running(Pending<Result<Outcome, JobError>>),
}

/// The numbers of a linked file: in the archive's layout, and among those that are checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbered {
    pub file: u32,
    pub checked: u32,
}

/// The line: what was started and has not left yet, in order.
///
/// Invariants: at most `window` places are looked at by the encoders ahead of the first one;
/// what leaves is handed to `output` in the order of the line.
pub(super) struct Line<'a> {
    pub(super) work: Work<'a>,
    places: VecDeque<Place>,
    /// Of what has left.
    pub(super) outline: Outline,
    /// What of the archive has begun.
    pub(super) sections: Vec<Section>,
    /// The dates of each job's files, unless all of its directory was known.
    pub(super) dates: Vec<Vec<u32>>,
    jobs_started: u64,
    /// Jobs that were encoded.
    pub(super) encoded: u64,
}

/// Notes what begins at `from`; what came before and has no byte is forgotten.
pub(super) fn push_section(sections: &mut Vec<Section>, contents: Contents, from: u64) {
    sections.pop_if(|last| last.from == from);
    sections.push(Section { contents, from });
}

impl<'a> Line<'a> {
    /// An empty line.
    pub(super) fn new(work: Work<'a>, outline: Outline, sections: Vec<Section>) -> Line<'a> {
        Line {
            work,
            places: VecDeque::new(),
            outline,
            sections,
            dates: Vec::new(),
            jobs_started: 0,
            encoded: 0,
        }
    }

    fn add(&mut self, place: Place) -> Result<(), BuildError> {
        self.places.push_back(place);
        self.start_waiting();
        self.drain(self.work.window())?;
        match self.work.is_turn_over() {
            true => {
                self.drain(0)?;
                self.work.pass_turn()
            }
            false => Ok(()),
        }
    }

    /// What follows in the archive is this.
    pub(super) fn section(&mut self, contents: Contents) -> Result<(), BuildError> {
        self.add(Place::Section(contents))
    }

    /// Gives the encoders the jobs that stand within the window.
    fn start_waiting(&mut self) {
        for index in 0..self.places.len().min(self.work.window()) {
            let Some(Place::Waiting(batch)) = self.places.get_mut(index) else {
                continue;
            };
            if batch.is_big() {
                continue;
            }
            let batch = std::mem::take(batch);
            self.places[index] = match self.known_at_once(&batch) {
                Some(known) => known,
                None => self.start(batch),
            };
        }
    }

    /// A job whose frames are known, where nothing can be converted: then to look for them takes less than
    /// to have an encoder do it.
    fn known_at_once(&self, batch: &Batch) -> Option<Place> {
        let source = &self.work.source;
        let converts = !source.attributes.get()?.is_empty();
        if converts || source.reuse.is_empty() {
            return None;
        }
        let conversions = vec![Conversions::default(); batch.items.len()];
        let key = batch.key(source.level, &conversions);
        let record = source.reuse.job(&key, batch.items.len())?.clone();
        let dates = dates(batch, &conversions);
        Some(Place::Taken { record, dates })
    }

    fn start(&mut self, batch: Batch) -> Place {
        let source = self.work.source.clone();
        let panics = self.work.output.faults.encoder_panics_at(self.jobs_started);
        self.jobs_started += 1;
        Place::Running(self.work.lane.submit(move |state| {
            assert!(!panics, "fault injected");
            encode(state, &source, &batch)
        }))
    }

    /// Lets places leave until at most `keep` are left.
    pub(super) fn drain(&mut self, keep: usize) -> Result<(), BuildError> {
        while self.places.len() > keep {
            let Some(place) = self.places.pop_front() else {
                break;
            };
            if self.jobs_started > SMALL_BUILD_JOBS {
                self.work.grow()?;
            }
            self.leave(place)?;
            self.start_waiting();
        }
        Ok(())
    }

    fn leave(&mut self, place: Place) -> Result<(), BuildError> {
        match place {
            Place::Tar(tar) => self.work.output.frames(&tar),
            Place::Raw {
                file,
                offset,
                len,
                pending,
                path,
            } => {
                let checksums = self.work.wait(pending)?.map_err(|source| BuildError::Io {
                    op: "read",
                    path,
                    source,
                })?;
                self.work.wait_checked(file.checked, offset + len)?;
                let fanout = self.work.output.fanout;
                Ok(fanout.push_raw(file.file, offset, len, &checksums)?)
            }
            Place::Summed { file, len, sums } => {
                self.work.wait_checked(file.checked, len)?;
                let fanout = self.work.output.fanout;
                Ok(fanout.push_raw(file.file, 0, len, &sums)?)
            }
            Place::Section(contents) => {
                let from = self.work.output.fanout.wire_bytes();
                push_section(&mut self.sections, contents, from);
                Ok(())
            }
            Place::Begins(large) => {
                let first = self.outline.jobs.len() as u32;
                self.outline.directories[large].first_job = first;
                Ok(())
            }
            Place::Known { large, before } => self.known(large, before),
            Place::Taken { record, dates } => self.take_over(record, dates),
            Place::Waiting(batch) => self.big_file(&batch),
            Place::Running(pending) => match self.work.wait(pending)?? {
                Outcome::Split(batches) => {
                    for batch in batches.into_iter().rev() {
                        self.places.push_front(Place::Waiting(batch));
                    }
                    Ok(())
                }
                Outcome::Heavy(batch) => self.heavy(batch),
                outcome => self.done(outcome),
            },
        }
    }

    /// Takes over all jobs below a directory that is known as a whole.
    fn known(&mut self, large: usize, before: u32) -> Result<(), BuildError> {
        let source = self.work.source.clone();
        let (earlier, before) = (source.reuse.outline(), before as usize);
        let jobs = earlier.jobs_below(before);
        let count = earlier.directories[before].count as usize;
        let moved = self.outline.jobs.len() as u32;
        for (n, directory) in earlier.directories[before..][..count].iter().enumerate() {
            let first = directory.first_job - jobs.start as u32 + moved;
            self.outline.directories[large + n].first_job = first;
        }
        for record in &earlier.jobs[jobs] {
            self.take_over(record.clone(), Vec::new())?;
            if self.work.is_turn_over() {
                self.work.pass_turn()?;
            }
        }
        Ok(())
    }

    /// Takes a job's frames over from an earlier snapshot.
    fn take_over(&mut self, mut record: Record, dates: Vec<u32>) -> Result<(), BuildError> {
        record.at = self.work.take_frames(record.at, record.checksum)?;
        self.outline.jobs.push(record);
        self.dates.push(dates);
        Ok(())
    }

    fn done(&mut self, outcome: Outcome) -> Result<(), BuildError> {
        match outcome {
            Outcome::Known { record, dates } => self.take_over(record, dates),
            Outcome::Done {
                key,
                frames,
                sizes,
                dates,
            } => {
                let begun = self.work.output.begin_record();
                self.work.output.piece(frames)?;
                self.end_record(key, begun, sizes, dates);
                Ok(())
            }
            Outcome::Split(_) | Outcome::Heavy(_) => Err(BuildError::Again),
        }
    }

    /// Keeps the record of frames that were made now, from `begun` in the spool file on.
    fn end_record(&mut self, key: [u8; 32], begun: u64, sizes: Vec<u32>, dates: Vec<u32>) {
        let (at, checksum) = self.work.output.end_record(begun);
        self.encoded += 1;
        self.dates.push(dates);
        self.outline.jobs.push(Record {
            key,
            at,
            checksum,
            sizes,
        });
    }

    /// A batch that takes much memory: only while no other build decodes such a one. What is
    /// being encoded meanwhile waits for nothing, so this ends.
    fn heavy(&mut self, batch: Batch) -> Result<(), BuildError> {
        self.work.grow()?;
        let source = self.work.source.clone();
        // Who has a grant may wait for a turn: who has a turn must not wait for a grant.
        let grant = self.work.output.rest(|| source.budget.take_all())?;
        let pending = self.work.lane.submit(move |state| {
            let done = encode_heavy(state, &source, &batch);
            drop(grant);
            done
        });
        let outcome = self.work.wait(pending)??;
        self.done(outcome)
    }

    /// A file of its own, streamed by this thread.
    fn big_file(&mut self, batch: &Batch) -> Result<(), BuildError> {
        let source = self.work.source.clone();
        // Who decodes it is this thread.
        self.work.output.fanout.tell();
        let mut local = source.take_local()?;
        let conversions = local.conversions(batch)?;
        let (key, dates) = (
            batch.key(source.level, &conversions),
            dates(batch, &conversions),
        );
        if let Some(record) = source.reuse.job(&key, batch.items.len()) {
            source.keep_local(local);
            return self.take_over(record.clone(), dates);
        }
        self.work.grow()?;
        let begun = self.work.output.begin_record();
        let size = big::stream(&mut self.work, &mut local, batch, &conversions)?;
        source.keep_local(local);
        self.end_record(key, begun, vec![index_size(size)], dates);
        Ok(())
    }

    /// A pack or one of its companions, as a tar entry whose data is a raw run.
    pub(super) fn linked(
        &mut self,
        directory: &Path,
        linked: &Linked,
        file: Numbered,
    ) -> Result<(), BuildError> {
        let path = directory.join(&linked.path);
        let opened = File::open(&path).map_err(|source| BuildError::Io {
            op: "open",
            path: path.clone(),
            source,
        })?;
        let opened = Arc::new(opened);
        let name = format!(".git/{}", linked.path);
        let mut header = Vec::new();
        let kind = Kind::File {
            size: linked.bytes,
            executable: false,
        };
        tar::push_header(&mut header, name.as_bytes(), kind, GIT_DATE_S);
        self.add(Place::Tar(header))?;
        let len = linked.bytes;
        match self.known_sums(&opened, len) {
            Some(sums) => self.add(Place::Summed { file, len, sums })?,
            None => self.sum(file, len, &opened, &path)?,
        }
        let mut padding = Vec::new();
        tar::pad(&mut padding, linked.bytes);
        match padding.is_empty() {
            true => Ok(()),
            false => self.add(Place::Tar(padding)),
        }
    }

    /// The checksums that an earlier snapshot has of the same file.
    fn known_sums(&self, file: &File, len: u64) -> Option<Vec<u32>> {
        let found = file.metadata().ok()?;
        let sums = self.work.source.reuse.sums.find(&found)?;
        (found.len() == len).then(|| sums.to_vec())
    }

    /// Has the encoders sum the frames of a linked file.
    fn sum(
        &mut self,
        file: Numbered,
        bytes: u64,
        opened: &Arc<File>,
        path: &Path,
    ) -> Result<(), BuildError> {
        let mut offset = 0;
        while offset < bytes {
            let len = (bytes - offset).min(RAW_JOB_BYTES);
            let opened = opened.clone();
            let range = offset..offset + len;
            let pending = self
                .work
                .lane
                .submit(move |state| sum_frames(&opened, range, &mut state.read));
            self.add(Place::Raw {
                file,
                offset,
                len,
                pending,
                path: path.to_owned(),
            })?;
            offset += len;
        }
        Ok(())
    }

    /// The first walk, of a build that is larger than it seemed.
    pub(super) fn survey(&mut self, tree: &ObjectId) -> Result<Survey, BuildError> {
        self.drain(0)?;
        self.work.grow()?;
        let (source, tree) = (self.work.source.clone(), *tree);
        let surveyed = self
            .work
            .lane
            .submit(move |_| survey(&source, &tree, u64::MAX));
        self.work.wait(surveyed)??.ok_or(BuildError::Again)
    }

    /// The second walk: cuts the worktree into jobs, directory by directory.
    pub(super) fn worktree(&mut self, survey: &Survey) -> Result<(), BuildError> {
        // The next one is the last: those below a directory come before those behind it.
        let mut pending = vec![0];
        while let Some(large) = pending.pop() {
            if let Some(before) = survey.known[large] {
                self.add(Place::Known { large, before })?;
                continue;
            }
            self.add(Place::Begins(large))?;
            let below = self.cut(survey, large)?;
            pending.extend(below.into_iter().rev());
        }
        self.drain(0)
    }

    /// Cuts what is in a large directory itself into jobs; gives the large ones in it.
    fn cut(&mut self, survey: &Survey, large: usize) -> Result<Vec<usize>, BuildError> {
        let source = self.work.source.clone();
        let directory = &survey.large[large];
        let start = Start {
            path: directory.path.as_slice().into(),
            id: ObjectId::from_bytes_or_panic(&directory.id),
            inherited: directory.inherited,
        };
        let (mut next, mut below) = (large + 1, Vec::new());
        let end = large + directory.count as usize;
        let mut batch = Batch::default();
        // How deep the walk is, the small directory that it is in, and what was met in that.
        let (mut depth, mut unit, mut entries) = (0, start.id, 0);
        source.walk(&start, |step| {
            let whole = match step {
                Step::Enter { path, id, .. } => {
                    if depth > 0 && next < end && survey.large[next].path == path {
                        below.push(next);
                        next += survey.large[next].count as usize;
                        return Ok(Go::Past);
                    }
                    if depth == 1 {
                        (unit, entries) = (id, 0);
                    }
                    depth += 1;
                    return Ok(Go::On);
                }
                Step::Leave => {
                    depth -= 1;
                    (depth == 1 && entries > 0).then_some((unit, entries))
                }
                Step::Entry(entry) => {
                    batch.push(entry.path, entry.kind, entry.id);
                    entries += 1;
                    if depth > 1 && batch.ends_within(entries) {
                        self.add(Place::Waiting(std::mem::take(&mut batch)))?;
                    }
                    (depth == 1).then_some((entry.id, 1))
                }
            };
            if let Some((id, entries)) = whole
                && batch.ends_after(&id, entries)
            {
                self.add(Place::Waiting(std::mem::take(&mut batch)))?;
            }
            Ok::<_, BuildError>(Go::On)
        })?;
        debug_assert_eq!(next, end, "all large ones were met");
        if !batch.is_empty() {
            self.add(Place::Waiting(batch))?;
        }
        Ok(below)
    }
}
