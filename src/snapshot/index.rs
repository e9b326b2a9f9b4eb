//! The last walk: the index, with the sizes and dates of the jobs' files. It is cut into frames of its
//! own at the borders of large directories and between, by its content, so that an earlier snapshot's can
//! be taken over: those of a directory that was passed over without a look at what is in it, others by
//! what they hold.

use gix::{ObjectId, oid};
use sha2::{Digest, Sha256};
use zstd_safe::DCtx;

use super::line::Line;
use super::output::BuildError;
use super::reuse::changed;
use super::source::JobError;
use super::survey::{Border, Survey};
use crate::limits::{CHUNK_BYTES_MIN, CHUNK_ENTRIES, FRAME_TAR_BYTES};
use crate::manifest::record::Chunk;
use crate::tree::dates::GIT_DATE_S;
use crate::tree::index::{
    EXTENSION_HEADER_BYTES, HEADER_BYTES, STAT_FIELDS, extension_header, mode, push_entry,
    push_header,
};
use crate::tree::sum::Sum;
use crate::tree::tar::{self, Kind};
use crate::tree::walk::{Go, Start, Step};

/// Version of what decides the bytes of a frame of the index besides its content.
pub(super) const CHUNK_FORMAT: u8 = 1;

/// Which of the outline's two lists frames belong to.
#[derive(Debug, Clone, Copy)]
enum Kept {
    Entries,
    Lines,
}

/// What was written and is no frame yet, and the sum of all that was written.
struct Written {
    raw: Vec<u8>,
    sum: Sum,
    decompress: DCtx<'static>,
}

/// A large directory that the walk is in.
struct Inside {
    large: usize,
    /// Its next file: the job, and the place in that.
    job: usize,
    at: usize,
}

impl Line<'_> {
    /// Sends the index of the tree that was surveyed, whose jobs have all left.
    pub(super) fn index(&mut self, tree: &ObjectId, survey: &Survey) -> Result<(), BuildError> {
        let mut written = Written {
            raw: Vec::new(),
            sum: Sum::new(tree.kind()),
            decompress: DCtx::try_create().ok_or(JobError::NoMemory)?,
        };
        let line_bytes = self.line_bytes(survey);
        let extension = u32::try_from(line_bytes).unwrap_or(u32::MAX);
        let known = self.known_bytes(survey, Kept::Entries);
        let entry_bytes = survey.entry_bytes + known;
        let trailer_bytes = tree.kind().len_in_bytes() as u64;
        let around = (HEADER_BYTES + EXTENSION_HEADER_BYTES) as u64 + trailer_bytes;
        let bytes = around + entry_bytes + line_bytes;
        let mut head = Vec::new();
        let kind = Kind::File {
            size: bytes,
            executable: false,
        };
        tar::push_header(&mut head, b".git/index", kind, GIT_DATE_S);
        let begins = head.len();
        push_header(&mut head, survey.entries);
        written.sum.update(&head[begins..]);
        self.work.output.frames(&head)?;
        self.index_entries(tree, survey, &mut written)?;
        let header = extension_header(extension);
        written.sum.update(&header);
        self.work.output.frames(&header)?;
        self.index_lines(survey, &mut written)?;
        let mut tail = written.sum.finish();
        tar::pad(&mut tail, bytes);
        self.work.output.frames(&tail)
    }

    /// Bytes of what earlier snapshots have of directories that were passed over.
    fn known_bytes(&self, survey: &Survey, kept: Kept) -> u64 {
        let before = self.work.source.reuse.outline();
        let known = survey.marks.iter().filter_map(|mark| match mark.border {
            Border::Known(large) => survey.known[large as usize],
            _ => None,
        });
        let chunks = known.flat_map(|number| {
            let directory = &before.directories[number as usize];
            match kept {
                Kept::Entries => &before.entries[range(directory.entries)],
                Kept::Lines => &before.lines[range(directory.lines)],
            }
        });
        chunks.map(|chunk| u64::from(chunk.raw_bytes)).sum()
    }

    fn line_bytes(&self, survey: &Survey) -> u64 {
        let (mut line, mut bytes) = (Vec::new(), 0);
        for number in 0..survey.directories.count() {
            survey.directories.push_line(number, &mut line);
            bytes += line.len() as u64;
            line.clear();
        }
        bytes + self.known_bytes(survey, Kept::Lines)
    }

    fn index_entries(
        &mut self,
        tree: &ObjectId,
        survey: &Survey,
        written: &mut Written,
    ) -> Result<(), BuildError> {
        let source = self.work.source.clone();
        let mut next = 0;
        let mut inside: Vec<Inside> = Vec::new();
        // For each directory that the walk is in, whether it is a large one.
        let mut open = Vec::new();
        source.walk(&Start::root(tree), |step| {
            match step {
                Step::Enter { path, .. } => {
                    let is_large = survey.large.get(next).is_some_and(|l| l.path == path);
                    if !is_large {
                        open.push(false);
                        return Ok(Go::On);
                    }
                    self.end_chunk(written, Kept::Entries)?;
                    if survey.known[next].is_some() {
                        self.known_chunks(survey, next, written, Kept::Entries)?;
                        next += survey.large[next].count as usize;
                        return Ok(Go::Past);
                    }
                    open.push(true);
                    self.outline.directories[next].entries.0 = self.outline.entries.len() as u32;
                    let job = self.outline.own_jobs(next).start;
                    let (large, at) = (next, 0);
                    inside.push(Inside { large, job, at });
                    next += 1;
                }
                Step::Leave => {
                    if open.pop() == Some(true)
                        && let Some(done) = inside.pop()
                    {
                        self.end_chunk(written, Kept::Entries)?;
                        let end = self.outline.entries.len() as u32;
                        self.outline.directories[done.large].entries.1 = end;
                    }
                }
                Step::Entry(entry) => {
                    let Some(inside) = inside.last_mut() else {
                        return Ok(Go::On);
                    };
                    let (size, date_s) = self.size_and_date(inside);
                    let mut stat = [0; STAT_FIELDS];
                    // git leaves the stat data of a submodule's entry at zero.
                    if entry.kind != gix::objs::tree::EntryKind::Commit {
                        (stat[2], stat[STAT_FIELDS - 1]) = (date_s, size);
                    }
                    let (raw, mode) = (&mut written.raw, mode(entry.kind));
                    push_entry(raw, stat, mode, &entry.id, entry.path);
                    let is_drawn = raw.len() >= CHUNK_BYTES_MIN && ends_chunk(&entry.id);
                    if raw.len() >= FRAME_TAR_BYTES || is_drawn {
                        self.end_chunk(written, Kept::Entries)?;
                    }
                }
            }
            Ok::<_, BuildError>(Go::On)
        })
    }

    /// What the jobs of a directory say of its next file.
    fn size_and_date(&self, inside: &mut Inside) -> (u32, u32) {
        let jobs = &self.outline.jobs;
        while inside.at
            >= jobs
                .get(inside.job)
                .map_or(usize::MAX, |job| job.sizes.len())
        {
            (inside.job, inside.at) = (inside.job + 1, 0);
        }
        let at = inside.at;
        inside.at += 1;
        // The jobs were cut from the same tree.
        debug_assert!(self.outline.own_jobs(inside.large).contains(&inside.job));
        (jobs[inside.job].sizes[at], self.dates[inside.job][at])
    }

    fn index_lines(&mut self, survey: &Survey, written: &mut Written) -> Result<(), BuildError> {
        let mut marks = survey.marks.iter().peekable();
        for number in 0..=survey.directories.count() {
            while let Some(mark) = marks.next_if(|mark| mark.at as usize == number) {
                self.end_chunk(written, Kept::Lines)?;
                let here = self.outline.lines.len() as u32;
                match mark.border {
                    Border::Begins(large) => {
                        self.outline.directories[large as usize].lines.0 = here
                    }
                    Border::Ends(large) => self.outline.directories[large as usize].lines.1 = here,
                    Border::Known(large) => {
                        self.known_chunks(survey, large as usize, written, Kept::Lines)?;
                    }
                }
            }
            if number == survey.directories.count() {
                break;
            }
            survey.directories.push_line(number, &mut written.raw);
            if written.raw.len() >= FRAME_TAR_BYTES {
                self.end_chunk(written, Kept::Lines)?;
            }
        }
        debug_assert!(marks.next().is_none() && written.raw.is_empty());
        Ok(())
    }

    /// Makes a frame of what is written, or takes over the one that an earlier snapshot has of it.
    fn end_chunk(&mut self, written: &mut Written, kept: Kept) -> Result<(), BuildError> {
        if written.raw.is_empty() {
            return Ok(());
        }
        let raw = &written.raw;
        written.sum.update(raw);
        let key = key(self.work.output.level, raw);
        let source = self.work.source.clone();
        let (at, checksum) = match source.reuse.chunk(&key, raw.len()) {
            Some(known) => (
                self.work.take_frames(known.at, known.checksum)?,
                known.checksum,
            ),
            None => {
                let begun = self.work.output.begin_record();
                self.work.output.frame(raw)?;
                self.work.output.end_record(begun)
            }
        };
        let raw_bytes = raw.len() as u32;
        written.raw.clear();
        self.keep(
            kept,
            Chunk {
                key,
                at,
                checksum,
                raw_bytes,
            },
        );
        match self.work.is_turn_over() {
            true => self.work.pass_turn(),
            false => Ok(()),
        }
    }

    /// Takes over the frames of a directory that was passed over.
    fn known_chunks(
        &mut self,
        survey: &Survey,
        large: usize,
        written: &mut Written,
        kept: Kept,
    ) -> Result<(), BuildError> {
        let source = self.work.source.clone();
        let before = source.reuse.outline();
        let Some(number) = survey.known[large] else {
            return Err(BuildError::Again);
        };
        let number = number as usize;
        let count = before.directories[number].count as usize;
        let of = |n: usize| match kept {
            Kept::Entries => before.directories[n].entries,
            Kept::Lines => before.directories[n].lines,
        };
        let (first, here) = (of(number).0, self.kept(kept) as u32);
        for n in 0..count {
            let (from, to) = of(number + n);
            let moved = (from - first + here, to - first + here);
            let directory = &mut self.outline.directories[large + n];
            match kept {
                Kept::Entries => directory.entries = moved,
                Kept::Lines => directory.lines = moved,
            }
        }
        let chunks = match kept {
            Kept::Entries => &before.entries[range(of(number))],
            Kept::Lines => &before.lines[range(of(number))],
        };
        for chunk in chunks {
            // Only for the sum, which is over all of the index.
            let frame = source.reuse.read(&chunk.at, chunk.checksum);
            written.add_frame(&frame.map_err(BuildError::Frames)?, chunk.raw_bytes)?;
            let at = self.work.take_frames(chunk.at, chunk.checksum)?;
            self.keep(
                kept,
                Chunk {
                    at,
                    ..chunk.clone()
                },
            );
        }
        Ok(())
    }

    fn kept(&self, kept: Kept) -> usize {
        match kept {
            Kept::Entries => self.outline.entries.len(),
            Kept::Lines => self.outline.lines.len(),
        }
    }

    fn keep(&mut self, kept: Kept, chunk: Chunk) {
        match kept {
            Kept::Entries => self.outline.entries.push(chunk),
            Kept::Lines => self.outline.lines.push(chunk),
        }
    }
}

impl Written {
    /// Adds the content of a frame to the sum.
    fn add_frame(&mut self, frame: &[u8], raw_bytes: u32) -> Result<(), BuildError> {
        let mut raw = Vec::with_capacity(raw_bytes as usize);
        let read = self.decompress.decompress(&mut raw, frame);
        match read {
            Ok(bytes) if bytes == raw_bytes as usize => {
                self.sum.update(&raw);
                Ok(())
            }
            _ => Err(BuildError::Frames(changed())),
        }
    }
}

fn range((from, to): (u32, u32)) -> std::ops::Range<usize> {
    from as usize..to as usize
}

/// Whether a frame ends after the entry of this object, wherever it is.
fn ends_chunk(id: &oid) -> bool {
    let draw = id.as_bytes().last_chunk();
    let draw = draw.map_or(0, |low| u32::from_be_bytes(*low));
    u64::from(draw) < (1 << 32) / CHUNK_ENTRIES
}

/// Under which a frame is found again: all that decides its bytes.
fn key(level: i32, raw: &[u8]) -> [u8; 32] {
    let mut key = Sha256::new();
    key.update([CHUNK_FORMAT]);
    key.update(level.to_le_bytes());
    key.update(zstd_safe::version_number().to_le_bytes());
    key.update(raw);
    key.finalize().into()
}
