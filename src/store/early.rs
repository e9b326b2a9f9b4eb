//! What answers began before their archives lately, as a file: who was cut off within such an answer may come back
//! to the next process, and takes the bytes of its preamble for the archive's.
//!
//! Lines, in the order of writing: when, and what stands for the repository and for what was asked for of it. They
//! are appended and synced before an answer begins. Lines that make no sense are left out; what is too much, or too
//! old, goes when the file is written anew. It never says less than was written within [`EARLY_KEPT_MS`].

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::files::{At, StoreError};
use crate::limits::{EARLY_FILE_BYTES_MAX, EARLY_KEPT_MS, EARLY_LINE_BYTES, EARLY_STEP_MS};

/// Stands for a repository, or for what was asked for of one.
pub type Stand = [u8; 16];

/// Of which answers it is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Of {
    All,
    Repository(Stand),
    Named(Stand, Stand),
}

/// That an answer began before its archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    pub unix_ms: u64,
    pub of: Of,
}

fn hex(stand: &Stand) -> String {
    stand.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stand(hex: &str) -> Option<Stand> {
    let number = u128::from_str_radix(hex, 16).ok()?;
    (hex.len() == 32).then(|| number.to_be_bytes())
}

impl Noted {
    fn line(&self) -> String {
        let any = || "*".to_owned();
        let (repository, named) = match &self.of {
            Of::All => (any(), any()),
            Of::Repository(one) => (hex(one), any()),
            Of::Named(one, named) => (hex(one), hex(named)),
        };
        format!("{} {repository} {named}\n", self.unix_ms)
    }

    fn parse(line: &str) -> Option<Noted> {
        let mut words = line.split(' ');
        let mut next = || words.next();
        let (unix_ms, repository, named) = (next()?.parse().ok()?, next()?, next()?);
        let of = match (repository, named) {
            ("*", "*") => Of::All,
            (one, "*") => Of::Repository(stand(one)?),
            (one, named) => Of::Named(stand(one)?, stand(named)?),
        };
        next().is_none().then_some(Noted { unix_ms, of })
    }

    /// Whether it still counts.
    fn is_kept(&self, now_unix_ms: u64) -> bool {
        // It is not noted at each step that the time since goes.
        now_unix_ms.saturating_sub(self.unix_ms) < EARLY_KEPT_MS + EARLY_STEP_MS
    }
}

/// The same in fewer lines, for not a bit less.
fn fewer(lines: Vec<Noted>, max: usize, now_unix_ms: u64) -> Vec<Noted> {
    let join = |lines: Vec<Noted>, wider: &dyn Fn(Of) -> Of| {
        let mut last = HashMap::new();
        for noted in lines {
            let at = last.entry(wider(noted.of)).or_insert(0);
            *at = noted.unix_ms.max(*at);
        }
        let joined = last.into_iter().map(|(of, unix_ms)| Noted { unix_ms, of });
        Vec::from_iter(joined)
    };
    let mut lines = lines;
    lines.retain(|noted| noted.is_kept(now_unix_ms));
    let mut lines = join(lines, &|of| of);
    if lines.len() > max {
        lines = join(lines, &|of| match of {
            Of::Named(one, _) => Of::Repository(one),
            of => of,
        });
    }
    if lines.len() > max {
        lines = join(lines, &|_| Of::All);
    }
    lines
}

/// See the module's text.
#[derive(Debug)]
pub struct EarlyFile {
    path: PathBuf,
    bytes: u64,
}

impl EarlyFile {
    /// That of a state directory, and what is in it. One that cannot be read counts for all that there may have been.
    pub fn open(root: &Path, now_unix_ms: u64) -> (EarlyFile, Vec<Noted>) {
        let path = root.join("early");
        let mut file = EarlyFile { path, bytes: 0 };
        let lines = file.read().unwrap_or_else(|error| {
            tracing::error!("{error}; ranges that name no archive are answered whole for an hour");
            vec![Noted {
                unix_ms: now_unix_ms,
                of: Of::All,
            }]
        });
        let lines = fewer(lines, lines_max(), now_unix_ms);
        if let Err(error) = file.write_anew(&lines) {
            tracing::error!("{error}");
        }
        (file, lines)
    }

    fn read(&self) -> Result<Vec<Noted>, StoreError> {
        let file = match File::open(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file.at("open", &self.path)?,
        };
        let mut bytes = Vec::new();
        // It has never more.
        let max = 2 * EARLY_FILE_BYTES_MAX;
        let read = file.take(max).read_to_end(&mut bytes);
        read.at("read", &self.path)?;
        let lines = bytes.split(|byte| *byte == b'\n');
        let lines = lines.filter_map(|line| Noted::parse(str::from_utf8(line).ok()?));
        Ok(lines.collect())
    }

    /// Puts these in the place of what there is.
    fn write_anew(&mut self, lines: &[Noted]) -> Result<(), StoreError> {
        let text: String = lines.iter().map(Noted::line).collect();
        let new = self.path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.path)
        };
        write().at("write", &self.path)?;
        self.bytes = text.len() as u64;
        Ok(())
    }

    /// Adds these. They are on the disk when this returns.
    pub fn add(&mut self, lines: &[Noted], now_unix_ms: u64) -> Result<(), StoreError> {
        let more = (lines.len() * EARLY_LINE_BYTES) as u64;
        if self.bytes + more > EARLY_FILE_BYTES_MAX {
            let mut all = self.read()?;
            all.extend(lines);
            return self.write_anew(&fewer(all, lines_max(), now_unix_ms));
        }
        let text: String = lines.iter().map(Noted::line).collect();
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).open(&self.path);
        let mut file = file.at("open", &self.path)?;
        // A part of it may be there after an error: the next ones come into a new file.
        let before = std::mem::replace(&mut self.bytes, EARLY_FILE_BYTES_MAX);
        file.write_all(text.as_bytes()).at("write", &self.path)?;
        file.sync_data().at("sync", &self.path)?;
        self.bytes = before + text.len() as u64;
        Ok(())
    }
}

/// Half of what there may be: room for as many more.
fn lines_max() -> usize {
    EARLY_FILE_BYTES_MAX as usize / EARLY_LINE_BYTES / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 2_000_000_000_000;

    fn noted(unix_ms: u64, of: Of) -> Noted {
        Noted { unix_ms, of }
    }

    fn named(repository: u8, number: usize) -> Of {
        let number = (number as u128).to_be_bytes();
        Of::Named([repository; 16], number)
    }

    #[test]
    fn what_was_noted_is_found_for_an_hour() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, lines) = EarlyFile::open(dir.path(), NOW);
        assert!(lines.is_empty());
        let old = noted(NOW - EARLY_KEPT_MS - EARLY_STEP_MS, named(1, 1));
        let young = [
            noted(NOW - EARLY_KEPT_MS, named(1, 2)),
            noted(NOW, Of::Repository([7; 16])),
        ];
        file.add(&[old], NOW).unwrap();
        file.add(&young, NOW).unwrap();
        let longest = noted(u64::MAX, named(255, usize::MAX)).line();
        assert!(longest.len() <= EARLY_LINE_BYTES);
        // A line that was cut off, and one that has rotted.
        let path = dir.path().join("early");
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend(b"\xff\n17 xx yy\n2000000000000 07");
        fs::write(&path, bytes).unwrap();
        let (_, mut found) = EarlyFile::open(dir.path(), NOW);
        found.sort_by_key(|noted| noted.unix_ms);
        assert_eq!(found, young);
        // Nor does one that cannot be read say that there was nothing.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let (_, found) = EarlyFile::open(dir.path(), NOW);
        assert_eq!(found, [noted(NOW, Of::All)]);
    }

    #[test]
    fn it_is_bounded_and_says_no_less() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, _) = EarlyFile::open(dir.path(), NOW);
        let max = lines_max();
        file.add(&[noted(NOW, named(2, 0))], NOW).unwrap();
        for from in (0..3 * max).step_by(max / 4) {
            let lines = (from..from + max / 4).map(|number| noted(NOW, named(1, number)));
            file.add(&Vec::from_iter(lines), NOW).unwrap();
            let bytes = fs::metadata(dir.path().join("early")).unwrap().len();
            assert!(bytes <= EARLY_FILE_BYTES_MAX, "{bytes}");
        }
        let (_, found) = EarlyFile::open(dir.path(), NOW);
        let has = |of| found.iter().any(|noted| noted.of == of);
        assert!(has(Of::Repository([1; 16])));
        assert!(has(named(2, 0)) || has(Of::Repository([2; 16])));
        let many = (0..=max).map(|number| {
            let one = (number as u128).to_be_bytes();
            noted(NOW, Of::Repository(one))
        });
        assert_eq!(fewer(many.collect(), max, NOW), [noted(NOW, Of::All)]);
    }
}
