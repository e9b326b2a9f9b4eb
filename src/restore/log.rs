//! What was done to a target, to be undone. It may have any number of files, each of which moves: what was done is noted
//! in memory a little, and the rest in a file.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::mark::Mark;
use super::path::as_path;
use crate::limits::MOVES_BYTES;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// Tree and target have changed places.
    Exchanged(Mark),
    /// From the tree to the target.
    Placed(Mark),
    /// From the target to the trash, under this number.
    Taken(u32),
    /// The same, below that number, of a file of a directory that goes piece by piece.
    Piece(u32),
    /// An empty directory of the target, with its mode.
    Removed(u32),
    /// A directory of the target that was not there.
    Made,
}

/// Kind, a number, and the length of the path that follows, behind the mark of what was put there.
const RECORD_BYTES: usize = 9;

/// In the place of a mark, where there is none.
const NO_MARK: [u8; Mark::BYTES] = [0; Mark::BYTES];

/// What was done, in its order.
///
/// Invariant: `tail` are the last records, whole ones; those before are in `file`, in parts that end
/// at `ends`.
pub(super) struct Log {
    directory: PathBuf,
    file: Option<File>,
    ends: Vec<u64>,
    tail: Vec<u8>,
}

impl Log {
    pub(super) fn new(directory: PathBuf) -> Log {
        Log {
            directory,
            file: None,
            ends: Vec::new(),
            tail: Vec::new(),
        }
    }

    /// To be called before something is done that is then noted: that cannot fail any more.
    pub(super) fn make_room(&mut self) -> io::Result<()> {
        if self.tail.len() < MOVES_BYTES {
            return Ok(());
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => tempfile::tempfile_in(&self.directory)?,
        };
        let file = self.file.insert(file);
        let at = self.ends.last().copied().unwrap_or_default();
        file.write_all_at(&self.tail, at)?;
        self.ends.push(at + self.tail.len() as u64);
        self.tail.clear();
        Ok(())
    }

    pub(super) fn push(&mut self, done: Move, path: &Path) {
        let (kind, number, mark) = match done {
            Move::Exchanged(mark) => (0, 0, mark.to_bytes()),
            Move::Placed(mark) => (1, 0, mark.to_bytes()),
            Move::Taken(number) => (2, number, NO_MARK),
            Move::Removed(mode) => (3, mode, NO_MARK),
            Move::Made => (4, 0, NO_MARK),
            Move::Piece(number) => (5, number, NO_MARK),
        };
        let path = path.as_os_str().as_bytes();
        self.tail.push(kind);
        self.tail.extend_from_slice(&number.to_le_bytes());
        self.tail
            .extend_from_slice(&(path.len() as u32).to_le_bytes());
        self.tail.extend_from_slice(&mark);
        self.tail.extend_from_slice(path);
    }

    /// Takes the last of what was done, in its order; `None` if that was all.
    pub(super) fn take_last(&mut self) -> io::Result<Option<Vec<(Move, PathBuf)>>> {
        let mut tail = std::mem::take(&mut self.tail);
        if tail.is_empty() {
            let (Some(end), Some(file)) = (self.ends.pop(), &self.file) else {
                return Ok(None);
            };
            let begin = self.ends.last().copied().unwrap_or_default();
            tail.resize((end - begin) as usize, 0);
            file.read_exact_at(&mut tail, begin)?;
        }
        Ok(Some(records(&tail)))
    }
}

fn records(mut bytes: &[u8]) -> Vec<(Move, PathBuf)> {
    let mut found = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<RECORD_BYTES>()
        && let Some((mark, rest)) = rest.split_first_chunk()
    {
        let number = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        let len = u32::from_le_bytes([head[5], head[6], head[7], head[8]]) as usize;
        let mark = || Mark::from_bytes(mark);
        let done = match head[0] {
            0 => Move::Exchanged(mark()),
            1 => Move::Placed(mark()),
            2 => Move::Taken(number),
            3 => Move::Removed(number),
            4 => Move::Made,
            _ => Move::Piece(number),
        };
        let (path, rest) = rest.split_at(len);
        found.push((done, as_path(path)));
        bytes = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn however_much_was_done_it_comes_back_the_last_first() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::new(directory.path().to_owned());
        let name = "x".repeat(1000);
        let found = fs::metadata(directory.path()).unwrap();
        let mark = Mark::of(&found, directory.path());
        let done = |number: u32| match number % 6 {
            0 => Move::Exchanged(mark),
            1 => Move::Placed(mark),
            2 => Move::Taken(number),
            3 => Move::Removed(number),
            4 => Move::Made,
            _ => Move::Piece(number),
        };
        let count = 3 * MOVES_BYTES as u32 / 1000;
        for number in 0..count {
            log.make_room().unwrap();
            assert!(log.tail.capacity() <= 4 * MOVES_BYTES);
            log.push(done(number), Path::new(&format!("{name}{number}")));
        }
        assert!(log.ends.len() >= 2);
        let mut next = count;
        while let Some(moves) = log.take_last().unwrap() {
            for (move_, path) in moves.into_iter().rev() {
                next -= 1;
                assert_eq!(move_, done(next));
                assert_eq!(path, Path::new(&format!("{name}{next}")));
            }
        }
        assert_eq!(next, 0);
    }
}
