//! What the next snapshot of a repository can use of this one without looking at its files: the large
//! directories of its worktree, and for each the jobs and the frames of the index that belong to it.
//!
//! It stands in a file of its own beside the metadata: only a build needs it, and it grows with the
//! number of files. Format: see [`super::meta`]'s codec.

use std::ops::Range;

use super::record::{Chunk, Record, Stretch};

/// Its file in an entry's directory.
pub const OUTLINE_NAME: &str = "outline";

/// See the module's text.
///
/// Invariants:
/// 1. `directories` stand in the order of the index, each before those below it.
/// 2. Each one's ranges lie in the lists; the jobs of a directory begin where those of the one before
///    it end.
/// 3. All frames lie in files that `parts` has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// Digest of all that decides frames besides what they are made of. Of an outline with another one,
    /// nothing is taken over unseen.
    pub made_with: [u8; 32],
    /// The files of frames by their paths in the entry; the first one is what the entry itself has
    /// written.
    pub parts: Vec<String>,
    /// The large directories, the root among them unless it is small.
    pub directories: Vec<LargeDirectory>,
    /// The jobs of the worktree, in the order of the archive.
    pub jobs: Vec<Record>,
    /// The frames of the index's entries, in order.
    pub entries: Vec<Chunk>,
    /// The frames of what its extension says of directories, in order.
    pub lines: Vec<Chunk>,
}

/// A directory whose border no job crosses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LargeDirectory {
    /// Its path from the root; empty for the root.
    pub path: Vec<u8>,
    /// The id of its tree, in bytes.
    pub id: Vec<u8>,
    /// Digest of the attribute files above it.
    pub inherited: [u8; 32],
    /// How many of the list it stands for: itself and the large ones below it, which follow it.
    pub count: u32,
    /// Files, links and submodules below it.
    pub entries_below: u32,
    /// Directories, itself included.
    pub directories: u32,
    /// Its first job; its own come before those of the large directories below it.
    pub first_job: u32,
    /// The frames of the index for all that is below it: from, to.
    pub entries: (u32, u32),
    /// The same of what the extension says.
    pub lines: (u32, u32),
}

impl Outline {
    /// The jobs below a directory, those of the large ones below it included.
    #[must_use]
    pub fn jobs_below(&self, number: usize) -> Range<usize> {
        let directory = &self.directories[number];
        let after = number + directory.count as usize;
        let end = self.directories.get(after);
        let end = end.map_or(self.jobs.len(), |next| next.first_job as usize);
        directory.first_job as usize..end
    }

    /// The jobs of a directory alone.
    #[must_use]
    pub fn own_jobs(&self, number: usize) -> Range<usize> {
        let next = self.directories.get(number + 1);
        let end = next.map_or(self.jobs.len(), |next| next.first_job as usize);
        self.directories[number].first_job as usize..end
    }

    /// All stretches of frames that it names, with their checksums.
    pub fn stretches(&self) -> impl Iterator<Item = (Stretch, u64)> {
        let jobs = self.jobs.iter().map(|job| (job.at, job.checksum));
        let chunks = self.entries.iter().chain(&self.lines);
        jobs.chain(chunks.map(|chunk| (chunk.at, chunk.checksum)))
    }

    /// Whether the invariants hold, so that nothing in it leads out of it.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let mut first_job = 0;
        for (number, directory) in self.directories.iter().enumerate() {
            let within =
                |(from, to): (u32, u32), list: &[Chunk]| from <= to && to as usize <= list.len();
            let count = directory.count as usize;
            let is_sound = (1..=self.directories.len() - number).contains(&count)
                && (first_job..=self.jobs.len() as u32).contains(&directory.first_job)
                && within(directory.entries, &self.entries)
                && within(directory.lines, &self.lines);
            if !is_sound {
                return false;
            }
            first_job = directory.first_job;
        }
        let known = |at: Stretch| {
            (at.part as usize) < self.parts.len() && at.offset.checked_add(at.bytes).is_some()
        };
        self.stretches().all(|(at, _)| known(at))
    }
}
