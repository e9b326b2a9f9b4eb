//! The line: what a build has started and not sent yet, in the order in which it leaves. The
//! encoders work on the first places at the same time; what leaves is in order.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gix::ObjectId;

use super::big;
use super::job::{Outcome, encode, encode_heavy};
use super::output::BuildError;
use super::reuse::Reuse;
use super::ring::Pending;
use super::source::JobError;
use super::sum::sum_frames;
use super::survey::{Survey, survey};
use super::work::Work;
use crate::io::fs::index_size;
use crate::limits::{FRAME_TAR_BYTES, RAW_JOB_BYTES, SMALL_BUILD_JOBS};
use crate::manifest::record::{Linked, Record};
use crate::tree::batch::Batch;
use crate::tree::index::{Plan, Writer};
use crate::tree::tar::{self, Kind};
use crate::tree::walk::Step;

/// One place in the line of things that leave in order.
enum Place {
    /// Tar bytes, still to be compressed.
    Tar(Vec<u8>),
    /// A range of a linked file whose checksums are being made.
    Raw {
        file: u32,
        offset: u64,
        len: u64,
        pending: Pending<std::io::Result<Vec<u32>>>,
        path: PathBuf,
    },
    /// A linked file whose checksums an earlier snapshot has.
    Summed { file: u32, len: u64, sums: Vec<u32> },
    /// A job not yet given to the encoders.
    Waiting(Batch),
    /// A job at work.
    Running {
        key: [u8; 32],
        pending: Pending<Result<Outcome, JobError>>,
    },
    /// A job whose frames an earlier snapshot has.
    Known { record: Record, batch: Batch },
}

/// The line: what was started and has not left yet, in order.
///
/// Invariants: at most `window` places are looked at by the encoders ahead of the first one;
/// what leaves is handed to `output` in the order of the line.
pub(super) struct Line<'a> {
    pub(super) work: Work<'a>,
    reuse: Option<Reuse>,
    places: VecDeque<Place>,
    pub(super) records: Vec<Record>,
    jobs_started: u64,
}

impl<'a> Line<'a> {
    /// An empty line.
    pub(super) fn new(work: Work<'a>, reuse: Option<Reuse>) -> Line<'a> {
        Line {
            work,
            reuse,
            places: VecDeque::new(),
            records: Vec::new(),
            jobs_started: 0,
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
            let key = batch.key(self.work.output.level);
            self.places[index] = match self.known(&key, &batch) {
                Some(record) => Place::Known { record, batch },
                None => self.start(key, batch),
            };
        }
    }

    fn start(&mut self, key: [u8; 32], batch: Batch) -> Place {
        let source = self.work.source.clone();
        let panics = self.work.output.faults.encoder_panics_at(self.jobs_started);
        self.jobs_started += 1;
        let pending = self.work.lane.submit(move |state| {
            assert!(!panics, "fault injected");
            encode(state, &source, &batch)
        });
        Place::Running { key, pending }
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
                let checksums = pending.wait()?.map_err(|source| BuildError::Io {
                    op: "read",
                    path,
                    source,
                })?;
                let fanout = self.work.output.fanout;
                Ok(fanout.push_raw(file, offset, len, &checksums)?)
            }
            Place::Summed { file, len, sums } => {
                let fanout = self.work.output.fanout;
                Ok(fanout.push_raw(file, 0, len, &sums)?)
            }
            Place::Waiting(batch) => self.big_file(&batch),
            Place::Running { key, pending } => match pending.wait()?? {
                Outcome::Done { frames, sizes } => self.done(key, frames, sizes),
                Outcome::Split(batches) => {
                    for batch in batches.into_iter().rev() {
                        self.places.push_front(Place::Waiting(batch));
                    }
                    Ok(())
                }
                Outcome::Heavy(batch) => self.heavy(key, batch),
            },
            Place::Known { record, batch } => {
                if !self.take_over(record)? {
                    self.places.push_front(Place::Waiting(batch));
                }
                Ok(())
            }
        }
    }

    /// Copies the frames of a job from the earlier snapshot; `false` if they are not what they were,
    /// and then no others are copied either.
    fn take_over(&mut self, mut record: Record) -> Result<bool, BuildError> {
        let Some(reuse) = &self.reuse else {
            return Ok(false);
        };
        // All of it before the first byte is handed on.
        if let Err(e) = reuse.check(&record) {
            tracing::warn!("frames of the previous snapshot are not used: {e}");
            self.reuse = None;
            return Ok(false);
        }
        let from = record.spool_offset;
        record.spool_offset = self.work.output.begin_record();
        let mut at = 0;
        while at < record.spool_bytes {
            let len = (record.spool_bytes - at).min(FRAME_TAR_BYTES as u64);
            let mut frames = vec![0; len as usize];
            let read = reuse.spool.read_exact_at(&mut frames, from + at);
            read.map_err(|source| BuildError::Io {
                op: "read frames of the previous",
                path: "spool".into(),
                source,
            })?;
            self.work.output.piece(frames)?;
            at += len;
        }
        // They were read twice: a disk can give other bytes the second time.
        let (_, checksum) = self.work.output.end_record(record.spool_offset);
        if checksum != record.checksum {
            return Err(BuildError::Io {
                op: "read frames of the previous",
                path: "spool".into(),
                source: std::io::Error::other("it gives other bytes each time"),
            });
        }
        self.records.push(record);
        Ok(true)
    }

    /// The job of the earlier snapshot that has the same key, if there is one.
    fn known(&self, key: &[u8; 32], batch: &Batch) -> Option<Record> {
        let record = self.reuse.as_ref()?.records.get(key)?;
        (record.sizes.len() == batch.entries().count()).then(|| record.clone())
    }

    fn done(&mut self, key: [u8; 32], frames: Vec<u8>, sizes: Vec<u32>) -> Result<(), BuildError> {
        let spool_offset = self.work.output.begin_record();
        self.work.output.piece(frames)?;
        self.end_record(key, spool_offset, sizes);
        Ok(())
    }

    /// Keeps the record of frames that were made now, from `spool_offset` on.
    fn end_record(&mut self, key: [u8; 32], spool_offset: u64, sizes: Vec<u32>) {
        let (spool_bytes, checksum) = self.work.output.end_record(spool_offset);
        self.records.push(Record {
            key,
            spool_offset,
            spool_bytes,
            checksum,
            mtime_s: self.work.source.mtime_s,
            sizes,
        });
    }

    /// A batch that takes much memory: only while no other build decodes such a one. What is
    /// being encoded meanwhile waits for nothing, so this ends.
    fn heavy(&mut self, key: [u8; 32], batch: Batch) -> Result<(), BuildError> {
        self.work.grow()?;
        let source = self.work.source.clone();
        // Who has a grant may wait for a turn: who has a turn must not wait for a grant.
        let grant = self.work.output.rest(|| source.budget.take_all())?;
        let pending = self.work.lane.submit(move |state| {
            let done = encode_heavy(state, &source, &batch);
            drop(grant);
            done
        });
        match pending.wait()?? {
            Outcome::Done { frames, sizes } => self.done(key, frames, sizes),
            Outcome::Split(_) | Outcome::Heavy(_) => Err(BuildError::Again),
        }
    }

    /// A file of its own, streamed by this thread.
    fn big_file(&mut self, batch: &Batch) -> Result<(), BuildError> {
        let key = batch.key(self.work.output.level);
        if let Some(record) = self.known(&key, batch)
            && self.take_over(record)?
        {
            return Ok(());
        }
        self.work.grow()?;
        let spool_offset = self.work.output.begin_record();
        let mut local = self.work.source.take_local()?;
        let size = big::stream(&mut self.work, &mut local, batch)?;
        self.work.source.keep_local(local);
        self.end_record(key, spool_offset, vec![index_size(size)]);
        Ok(())
    }

    /// A pack or one of its companions, as a tar entry whose data is a raw run.
    pub(super) fn linked(
        &mut self,
        directory: &Path,
        linked: &Linked,
        all: &[Linked],
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
        tar::push_header(&mut header, name.as_bytes(), kind, self.work.source.mtime_s);
        self.add(Place::Tar(header))?;
        let file = all.iter().position(|l| l == linked).unwrap_or_default() as u32;
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
        let sums = self.reuse.as_ref()?.sums.find(&found)?;
        (found.len() == len).then(|| sums.to_vec())
    }

    /// Has the encoders sum the frames of a linked file.
    fn sum(
        &mut self,
        file: u32,
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

    /// A loose object: small as a rule, but it can be a file of any size.
    pub(super) fn loose(&mut self, directory: &Path, linked: &Linked) -> Result<(), BuildError> {
        let path = directory.join(&linked.path);
        let failed = |op| {
            let path = path.clone();
            move |source| BuildError::Io { op, path, source }
        };
        let file = File::open(&path).map_err(failed("open"))?;
        let name = format!(".git/{}", linked.path);
        let kind = Kind::File {
            size: linked.bytes,
            executable: false,
        };
        let mut out = Vec::new();
        tar::push_header(&mut out, name.as_bytes(), kind, self.work.source.mtime_s);
        let mut at = 0;
        while at < linked.bytes {
            let start = out.len();
            let len = (linked.bytes - at).min((FRAME_TAR_BYTES - start) as u64);
            out.resize(start + len as usize, 0);
            file.read_exact_at(&mut out[start..], at)
                .map_err(failed("read"))?;
            at += len;
            if out.len() == FRAME_TAR_BYTES {
                self.add(Place::Tar(std::mem::take(&mut out)))?;
            }
        }
        tar::pad(&mut out, linked.bytes);
        match out.is_empty() {
            true => Ok(()),
            false => self.add(Place::Tar(out)),
        }
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
        surveyed.wait()??.ok_or(BuildError::Again)
    }

    /// The second walk: cuts the worktree into jobs.
    pub(super) fn worktree(&mut self, tree: &ObjectId) -> Result<(), BuildError> {
        let source = self.work.source.clone();
        let mut batch = Batch::default();
        // For each directory that is open, what encodes the text of files in it.
        let mut iconv = vec![None];
        source.walk(tree, |step| {
            let inherited = iconv.last().copied().flatten();
            let entry = match step {
                Step::Enter { path, .. } => {
                    iconv.push(inherited.or_else(|| source.iconv_in(path)));
                    return Ok(());
                }
                Step::Leave => {
                    iconv.pop();
                    return Ok(());
                }
                Step::Entry(entry) => entry,
            };
            batch.push(&entry, inherited);
            if batch.ends() {
                self.add(Place::Waiting(std::mem::take(&mut batch)))?;
            }
            Ok::<(), BuildError>(())
        })?;
        if !batch.is_empty() {
            self.add(Place::Waiting(batch))?;
        }
        self.drain(0)
    }

    /// The third walk: the index, with the sizes and dates of the jobs.
    pub(super) fn index(&mut self, tree: &ObjectId, plan: Plan) -> Result<(), BuildError> {
        let entries = plan.entries() as usize;
        let (bytes, mut writer) = plan.into_writer();
        // Later than every entry, or git would take the entries for racily clean.
        let mtime_s = self.records.iter().map(|r| r.mtime_s).max().unwrap_or(0) + 1;
        let records = std::mem::take(&mut self.records);
        let dated = records
            .iter()
            .flat_map(|r| r.sizes.iter().map(|size| (*size, r.mtime_s)));
        let mut dated = dated.take(entries);
        let mut out = Vec::new();
        let kind = Kind::File {
            size: bytes,
            executable: false,
        };
        tar::push_header(&mut out, b".git/index", kind, mtime_s);
        let header_bytes = out.len() as u64;
        let mut written = 0;
        let source = self.work.source.clone();
        source.walk(tree, |step| {
            let Step::Entry(entry) = step else {
                return Ok(());
            };
            let (size, mtime_s) = dated.next().unwrap_or_default();
            writer.entry(entry.path, entry.kind, &entry.id, size, mtime_s);
            if writer.pending_bytes() >= FRAME_TAR_BYTES {
                self.index_part(&mut writer, &mut out, &mut written)?;
            }
            Ok::<(), BuildError>(())
        })?;
        writer
            .finish(&mut out)
            .map_err(|e| BuildError::Index(e.to_string()))?;
        debug_assert_eq!(written + out.len() as u64, header_bytes + bytes);
        tar::pad(&mut out, bytes);
        self.work.output.frames(&out)?;
        self.records = records;
        Ok(())
    }

    fn index_part(
        &mut self,
        writer: &mut Writer,
        out: &mut Vec<u8>,
        written: &mut u64,
    ) -> Result<(), BuildError> {
        writer.take(out);
        *written += out.len() as u64;
        self.work.output.frames(out)?;
        out.clear();
        match self.work.is_turn_over() {
            true => self.work.pass_turn(),
            false => Ok(()),
        }
    }
}
