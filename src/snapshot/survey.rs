//! The first walk over a tree: what a build has to know of it before it begins with it. Directories
//! that an earlier snapshot has as a whole are passed over.

use gix::ObjectId;
use gix::bstr::BStr;
use gix::objs::tree::EntryKind;

use super::source::Source;
use crate::limits::{
    LARGE_DIRECTORIES_MAX, LARGE_DIRECTORY_DEPTH_MAX, LARGE_DIRECTORY_ENTRIES,
    LARGE_DIRECTORY_PATHS_BYTES_MAX, TREE_DIRECTORIES_MAX, TREE_ENTRIES_MAX,
};
use crate::manifest::outline::LargeDirectory;
use crate::tree::index::{Directories, entry_bytes};
use crate::tree::rules::AttributeFiles;
use crate::tree::walk::{ATTRIBUTES_FILE, Chain, Go, Start, Step, WalkError};

/// What a build has to know of its tree before it begins with it.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The directories that were walked, as the index's extension has them.
    pub directories: Directories,
    /// The large ones, in the order of the index, with what is known of them now: the jobs and frames of
    /// the index come later.
    pub large: Vec<LargeDirectory>,
    /// For each of them, the number of the earlier snapshot's that is the same, and was not walked.
    pub known: Vec<Option<u32>>,
    /// Where large directories begin and end among `directories`, in the order of the walk.
    pub marks: Vec<Mark>,
    /// The attribute files that were met.
    pub attributes: AttributeFiles,
    /// Files, links and submodules, all of them.
    pub entries: u32,
    /// Bytes of the index's entries for those that were walked.
    pub entry_bytes: u64,
    /// Directories below those that were passed over, themselves included.
    passed: u32,
    /// Bytes of the paths in `large`.
    path_bytes: usize,
}

/// A border of a large directory, before directory number `at` of those that were walked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub at: u32,
    pub border: Border,
}

/// Which border, of the large directory of this number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Border {
    Begins(u32),
    Ends(u32),
    /// It was passed over.
    Known(u32),
}

/// A directory that has not ended.
struct Open {
    /// Its number among those that were walked.
    directory: usize,
    /// Its number among the large ones, should it be one.
    large: usize,
    /// How many borders stand before its own.
    marks: usize,
    /// Directories that were passed over before it.
    passed: u32,
}

/// The first walk. Work for an encoder: what comes first, the packs, does not need it. `None` if it
/// takes more than `steps_max` steps.
pub(super) fn survey(
    source: &Source,
    tree: &ObjectId,
    steps_max: u64,
) -> Result<Option<Survey>, WalkError> {
    let mut survey = Survey::default();
    let mut open = Vec::new();
    let mut steps = 0;
    let walked = source.walk(&Start::root(tree), |step| {
        steps += 1;
        if steps > steps_max {
            return Err(Left::Long);
        }
        match step {
            Step::Enter {
                path,
                id,
                inherited,
            } => {
                if let Some(number) = source.reuse.directory(path, &id, &inherited) {
                    survey.pass(source, number);
                    survey.check()?;
                    survey.check_large()?;
                    return Ok(Go::Past);
                }
                open.push(survey.enter(path, &id, inherited));
                survey.check()?;
            }
            Step::Leave => {
                if let Some(done) = open.pop()
                    && survey.leave(&done, open.is_empty())
                {
                    survey.check_large()?;
                }
            }
            Step::Entry(entry) => {
                survey.directories.entry();
                survey.entries += 1;
                survey.check()?;
                survey.entry_bytes +=
                    entry_bytes(tree.kind().len_in_bytes(), entry.path.len()) as u64;
                let name = entry.path.rsplit(|b| *b == b'/').next();
                // Of a link, git takes the target for the file's lines.
                let is_blob = entry.kind != EntryKind::Commit;
                if is_blob && name == Some(ATTRIBUTES_FILE) {
                    survey.attributes.push(entry.path, &entry.id);
                }
            }
        }
        Ok(Go::On)
    });
    match walked {
        Ok(()) => Ok(Some(survey)),
        Err(Left::Long) => Ok(None),
        Err(Left::Walk(e)) => Err(e),
    }
}

impl Survey {
    /// Bounds the tree as a whole, with what was passed over: it is the same whatever that was.
    fn check(&self) -> Result<(), WalkError> {
        let directories = self.directories.count() as u64 + u64::from(self.passed);
        let is_within =
            u64::from(self.entries) <= TREE_ENTRIES_MAX && directories <= TREE_DIRECTORIES_MAX;
        is_within.then_some(()).ok_or(WalkError::TooMany)
    }

    /// The same of large directories, when one more is known: then all that are open are large ones, too.
    fn check_large(&self) -> Result<(), WalkError> {
        let is_within = self.large.len() <= LARGE_DIRECTORIES_MAX
            && self.path_bytes <= LARGE_DIRECTORY_PATHS_BYTES_MAX;
        is_within.then_some(()).ok_or(WalkError::TooManyLarge)
    }

    /// Whether a directory is a large one is known when it ends. Until then it is taken for one.
    fn enter(&mut self, path: &BStr, id: &ObjectId, inherited: Chain) -> Open {
        let open = Open {
            directory: self.directories.count(),
            large: self.large.len(),
            marks: self.marks.len(),
            passed: self.passed,
        };
        self.mark(Border::Begins(open.large as u32));
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        self.directories.enter(name, id);
        self.known.push(None);
        self.path_bytes += path.len();
        self.large.push(LargeDirectory {
            path: path.to_vec(),
            id: id.as_bytes().to_vec(),
            inherited,
            count: 0,
            entries_below: 0,
            directories: 0,
            first_job: 0,
            entries: (0, 0),
            lines: (0, 0),
        });
        open
    }

    /// Whether it was a large one.
    fn leave(&mut self, done: &Open, is_root: bool) -> bool {
        self.directories.leave();
        let entries = self.directories.entries_below(done.directory);
        let path = &self.large[done.large].path;
        let depth = 1 + path.iter().filter(|byte| **byte == b'/').count();
        let is_small = u64::from(entries) < LARGE_DIRECTORY_ENTRIES;
        if (is_small || depth > LARGE_DIRECTORY_DEPTH_MAX) && !is_root {
            // What is below a small one is small, and what is below a deep one is deep.
            debug_assert_eq!(self.large.len(), done.large + 1);
            let small = self.large.pop();
            self.path_bytes -= small.map_or(0, |small| small.path.len());
            self.known.pop();
            self.marks.truncate(done.marks);
            return false;
        }
        let count = (self.large.len() - done.large) as u32;
        let directories = (self.directories.count() - done.directory) as u32;
        let large = &mut self.large[done.large];
        (large.count, large.entries_below) = (count, entries);
        large.directories = directories + (self.passed - done.passed);
        self.mark(Border::Ends(done.large as u32));
        true
    }

    fn pass(&mut self, source: &Source, number: u32) {
        let before = source.reuse.outline();
        let from = number as usize;
        let count = before.directories[from].count as usize;
        let entries = before.directories[from].entries_below;
        self.mark(Border::Known(self.large.len() as u32));
        self.directories.pass(entries);
        self.entries += entries;
        self.passed += before.directories[from].directories;
        for (n, directory) in before.directories[from..from + count].iter().enumerate() {
            self.path_bytes += directory.path.len();
            self.large.push(directory.clone());
            self.known.push(Some(number + n as u32));
        }
    }

    fn mark(&mut self, border: Border) {
        let at = self.directories.count() as u32;
        self.marks.push(Mark { at, border });
    }
}

/// Why a survey has ended before the tree's end.
enum Left {
    Long,
    Walk(WalkError),
}

impl From<WalkError> for Left {
    fn from(e: WalkError) -> Left {
        Left::Walk(e)
    }
}
