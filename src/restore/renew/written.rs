//! The index of a working copy that was brought to another commit: what stayed as it was before, what changed with
//! the stat data of what is there now.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use gix::ObjectId;
use gix::hash::Kind;

use super::changes::Changes;
use super::entries::{Entries, Entry};
use super::look::{Ground, Looked, StatData};
use crate::restore::dates::Dates;
use crate::restore::error::{RestoreError, failed};
use crate::restore::index::{Directory, is_of_kind, put};
use crate::restore::path::as_path;
use crate::restore::steps;
use crate::restore::write::stopped;
use crate::tree::index::{
    STAT_BYTES, STAT_FIELDS, SUBMODULE, extension_header, push_entry, push_header,
};
use crate::tree::sum::Sum;

/// What an index is made of.
pub(super) struct Parts<'p> {
    pub old: &'p Entries,
    pub changes: &'p Changes,
    /// Numbers of entries that stay the same and whose files were written anew.
    pub rewritten: &'p [usize],
    pub looked: &'p Looked,
}

/// Writes it to `path`, and dates it.
pub(super) fn write(
    path: &Path,
    parts: &Parts<'_>,
    ground: Ground<'_>,
    dates: Dates,
) -> Result<(), RestoreError> {
    let unwritten = || failed("write", path);
    let file = steps::create(path).map_err(unwritten())?;
    let mut out = Out {
        file: BufWriter::with_capacity(1 << 20, &file),
        sum: Sum::new(parts.old.hash),
        hash: parts.old.hash,
        path,
        directory: Directory::new(ground.root, ground.stop),
        executable: ground.executable,
        dates,
        entry: Vec::new(),
    };
    let is_new = |change: &&super::changes::Change| change.new.is_some() && !change.is_there;
    let is_gone = |change: &&super::changes::Change| change.new.is_none();
    let count = parts.old.len() + parts.changes.iter().filter(is_new).count()
        - parts.changes.iter().filter(is_gone).count();
    push_header(&mut out.entry, count as u32);
    out.flush_entry()?;
    entries(parts, &mut out, ground)?;
    if !parts.changes.lines.is_empty() {
        let lines = &parts.changes.lines;
        out.entry
            .extend_from_slice(&extension_header(lines.len() as u32));
        out.entry.extend_from_slice(lines);
        out.flush_entry()?;
    }
    let Out {
        file: mut sink,
        sum,
        ..
    } = out;
    let finished = sink.write_all(&sum.finish()).and_then(|()| sink.flush());
    finished.map_err(unwritten())?;
    drop(sink);
    // Not later than now: what is as young as that is looked at again.
    dates
        .date_index(&file, dates.file_s())
        .map_err(failed("date", path))
}

fn entries(parts: &Parts<'_>, out: &mut Out<'_>, ground: Ground<'_>) -> Result<(), RestoreError> {
    let Parts {
        old,
        changes,
        rewritten,
        looked,
    } = parts;
    let (mut changes_left, mut rewritten, mut touched) = (
        changes.iter().peekable(),
        rewritten.iter().peekable(),
        looked.touched.iter().peekable(),
    );
    for number in 0..=old.len() {
        if ground.stop.is_set() {
            return Err(stopped());
        }
        while let Some(change) = changes_left.next_if(|c| c.at == number && !c.is_there) {
            if let Some(new) = change.new {
                out.made(changes.path(change), new)?;
            }
        }
        if number == old.len() {
            break;
        }
        let entry = old.get(number);
        let stat = touched.next_if(|(n, _)| *n == number).map(|(_, stat)| stat);
        let is_rewritten = rewritten.next_if(|n| **n == number).is_some();
        match changes_left.next_if(|c| c.at == number) {
            Some(change) => {
                if let Some(new) = change.new {
                    out.made(entry.path(), new)?;
                }
            }
            None if is_rewritten => out.made(entry.path(), (entry.mode(), entry.id()))?,
            None => out.kept(entry, stat)?,
        }
    }
    Ok(())
}

struct Out<'o> {
    file: BufWriter<&'o File>,
    sum: Sum,
    hash: Kind,
    path: &'o Path,
    directory: Directory<'o>,
    executable: bool,
    dates: Dates,
    entry: Vec<u8>,
}

impl Out<'_> {
    fn flush_entry(&mut self) -> Result<(), RestoreError> {
        self.sum.update(&self.entry);
        let written = self.file.write_all(&self.entry);
        self.entry.clear();
        written.map_err(failed("write", self.path))
    }

    /// A file that stayed.
    fn kept(&mut self, entry: Entry<'_>, stat: Option<&StatData>) -> Result<(), RestoreError> {
        let stat = stat.map_or(entry.stat(), |stat| &stat[..]);
        self.push(stat, entry.mode(), entry.id(), entry.path())
    }

    /// One that was written, or a submodule.
    fn made(&mut self, path: &[u8], (mode, id): (u32, ObjectId)) -> Result<(), RestoreError> {
        let found = self.directory.stat(path);
        let found = found.map_err(|e| RestoreError::disk("look at", as_path(path), e))?;
        if !is_of_kind(mode, found.st_mode, self.executable) {
            return Err(RestoreError::Usage(format!(
                "{} was changed by somebody else meanwhile",
                as_path(path).display()
            )));
        }
        let mut stat = [0; STAT_BYTES];
        // It came with its date. One with another was written by somebody else since, or by a file system that keeps no
        // such dates: git is to look at it.
        let has_date = (found.st_mtime, found.st_mtime_nsec) == (self.dates.file_s(), 0);
        if mode != SUBMODULE && has_date {
            put(&mut stat, mode, &found);
        }
        self.push(&stat, mode, id, path)
    }

    fn push(
        &mut self,
        stat: &[u8],
        mode: u32,
        id: ObjectId,
        path: &[u8],
    ) -> Result<(), RestoreError> {
        debug_assert_eq!(id.kind(), self.hash);
        let mut fields = [0; STAT_FIELDS];
        for (field, bytes) in fields.iter_mut().zip(stat.chunks_exact(4)) {
            *field = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        push_entry(&mut self.entry, fields, mode, &id, path);
        match self.entry.len() > WRITTEN_AT_ONCE_BYTES {
            true => self.flush_entry(),
            false => Ok(()),
        }
    }
}

/// So much of an index is put together before it is summed and written.
const WRITTEN_AT_ONCE_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::time::{Duration, SystemTime};

    /// Between its move and the index a file is anybody's.
    #[test]
    fn what_was_written_since_it_came_is_not_taken_for_clean() {
        let root = tempfile::tempdir().unwrap();
        let (dates, stop) = (Dates::now(), crate::restore::stop::Stop::default());
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(dates.file_s().cast_unsigned());
        for name in ["came", "edited"] {
            let path = root.path().join(name);
            std::fs::write(&path, "comes").unwrap();
            let file = File::options().append(true).open(&path).unwrap();
            file.set_modified(date).unwrap();
        }
        let edited = root.path().join("edited");
        std::fs::write(&edited, "mine!").unwrap();
        let written = std::fs::metadata(&edited).unwrap().modified().unwrap();
        let (opened, index) = (
            File::open(root.path()).unwrap(),
            tempfile::tempfile().unwrap(),
        );
        let mut out = Out {
            file: BufWriter::new(&index),
            sum: Sum::new(Kind::Sha1),
            hash: Kind::Sha1,
            path: Path::new("index"),
            directory: Directory::new(opened.as_fd(), &stop),
            executable: false,
            dates,
            entry: Vec::new(),
        };
        let id = ObjectId::null(Kind::Sha1);
        let mut stat_of = |path: &[u8]| {
            out.entry.clear();
            out.made(path, (0o100_644, id)).unwrap();
            // But for the mode.
            [&out.entry[..24], &out.entry[28..STAT_BYTES]].concat()
        };
        assert!(stat_of(b"came").iter().any(|byte| *byte != 0));
        assert!(stat_of(b"edited").iter().all(|byte| *byte == 0));
        let now = std::fs::metadata(&edited).unwrap().modified().unwrap();
        assert_eq!(now, written);
    }
}
