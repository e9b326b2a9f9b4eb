//! What takes how much of the state directory: each thing that leaves as a whole, its own bytes, and the
//! files that it may share with others by hard links, which are counted once.
//!
//! Bytes are those that the disk keeps (`st_blocks`). A look costs a listing of `snapshots/` and `tmp/`,
//! and a walk through what is new there or still growing. What an operator changes in mirrors is seen by
//! a full look, which compares dates and walks through what has others; how often that is done is bounded by
//! what it takes ([`LOOK_REST`](crate::limits::LOOK_REST)).

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::dir::{MIRRORS_NAME, SNAPSHOTS_NAME, TMP_NAME};
use super::evict::Shared;
use super::files::{At, StoreError, is_repository};
use crate::limits::{LOOK_AGAIN_MS, MIRROR_DEPTH_MAX, SHARED_FILES_MAX};
use crate::manifest::id::EntryId;

/// What the disk keeps a block's count in, whatever its own blocks are (stat(2)).
const BLOCK_BYTES: u64 = 512;
/// Directories whose files get other names.
const SHARING: [&str; 2] = ["pack", "frames"];

/// What a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// A mirror.
    Mirror,
    /// A snapshot.
    Snapshot,
    /// What is being made or removed, and all else.
    Other,
}

/// A file whatever its name.
type FileId = (u64, u64);

#[derive(Debug)]
struct File {
    bytes: u64,
    /// As the file system counts them.
    names: u64,
    /// Those of units.
    known: u64,
}

/// Dates and numbers of the directories in which something changes.
type Stamp = Vec<(u64, i64, i64)>;

#[derive(Debug)]
struct Unit {
    part: Part,
    /// Whether it is being made, or removed.
    is_passing: bool,
    own_bytes: u64,
    files: Vec<FileId>,
    stamp: Stamp,
    looked: Instant,
}

/// See the module's text.
///
/// Invariant: `total_bytes` is the sum of what units have of their own and of all `files`, each of which
/// is a unit's.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    units: HashMap<PathBuf, Unit>,
    files: HashMap<FileId, File>,
    total_bytes: u64,
    /// When the last full look ended, and what it took.
    full: Option<(Instant, Duration)>,
}

impl Ledger {
    /// Brings it up to date: whole if the last time was `rest` times as long ago as it took, otherwise but for
    /// the mirrors that are not among `changed`.
    pub(crate) fn look(
        &mut self,
        root: &Path,
        changed: &HashSet<PathBuf>,
        rest: u32,
    ) -> Result<(), StoreError> {
        let began = Instant::now();
        let is_over = |(at, took): (Instant, Duration)| at.elapsed() >= took.saturating_mul(rest);
        let is_full = self.full.is_none_or(is_over);
        let mut found = found_below(root).at("look through", root)?;
        let mirrors = root.join(MIRRORS_NAME);
        match is_full {
            true => found.extend(find_mirrors(&mirrors).at("look through", &mirrors)?),
            false => found.extend(self.known_below(&mirrors, changed)),
        }
        let there: HashSet<&PathBuf> = found.iter().map(|one| &one.path).collect();
        let gone = self.units.keys().filter(|path| !there.contains(path));
        let gone: Vec<PathBuf> = gone.cloned().collect();
        for path in gone {
            self.forget(&path);
        }
        for one in found {
            let is_unknown = !self.units.contains_key(&one.path);
            if is_unknown || one.is_passing || changed.contains(&one.path) {
                self.walk(one);
            } else if is_full || one.part != Part::Mirror {
                self.walk_if_changed(one, is_full);
            }
        }
        if is_full {
            self.full = Some((Instant::now(), began.elapsed()));
        }
        Ok(())
    }

    /// The mirrors that are known, and those of `changed` that are there.
    fn known_below(&self, mirrors: &Path, changed: &HashSet<PathBuf>) -> Vec<Found> {
        let known = self
            .units
            .iter()
            .filter(|(path, _)| path.starts_with(mirrors));
        let known = known.filter(|(path, _)| !changed.contains(*path));
        let mut found = Vec::from_iter(known.map(|(path, unit)| Found {
            path: path.clone(),
            part: unit.part,
            is_passing: false,
        }));
        let changed = changed
            .iter()
            .filter(|path| path.starts_with(mirrors) && path.is_dir());
        found.extend(changed.map(|path| Found {
            path: path.clone(),
            part: Part::Mirror,
            is_passing: false,
        }));
        found
    }

    fn walk_if_changed(&mut self, found: Found, is_full: bool) {
        let again = Duration::from_millis(LOOK_AGAIN_MS);
        let is_same = self.units.get(&found.path).is_some_and(|unit| {
            let is_other = is_full && unit.part == Part::Other;
            !is_other && unit.looked.elapsed() < again && unit.stamp == stamp(&found)
        });
        if !is_same {
            self.walk(found);
        }
    }

    /// What is at `path` is gone.
    pub(crate) fn forget(&mut self, path: &Path) {
        let Some(unit) = self.units.remove(path) else {
            return;
        };
        self.total_bytes -= unit.own_bytes;
        for id in unit.files {
            if let Some(file) = self.files.get_mut(&id) {
                file.known -= 1;
                file.names = file.names.saturating_sub(1);
                if file.known == 0 {
                    self.total_bytes -= file.bytes;
                    self.files.remove(&id);
                }
            }
        }
    }

    fn walk(&mut self, found: Found) {
        self.forget(&found.path);
        let mut unit = Unit {
            part: found.part,
            is_passing: found.is_passing,
            own_bytes: 0,
            files: Vec::new(),
            stamp: stamp(&found),
            looked: Instant::now(),
        };
        let mut pending = vec![found.path.clone()];
        while let Some(path) = pending.pop() {
            let Ok(stat) = fs::symlink_metadata(&path) else {
                // Somebody has removed it meanwhile.
                continue;
            };
            if !stat.is_dir() {
                self.add(&path, &stat, &mut unit);
                continue;
            }
            unit.own_bytes += stat.blocks() * BLOCK_BYTES;
            let inside = fs::read_dir(&path).into_iter().flatten().flatten();
            let inside = inside.map(|entry| entry.path());
            // Of the directories between mirrors, only these themselves.
            let is_inside = |path: &PathBuf| !found.is_mirrors() || !is_repository(path);
            pending.extend(inside.filter(is_inside));
        }
        self.total_bytes += unit.own_bytes;
        self.units.insert(found.path, unit);
    }

    fn add(&mut self, path: &Path, found: &Metadata, unit: &mut Unit) {
        let bytes = found.blocks() * BLOCK_BYTES;
        let parent = path.parent().and_then(Path::file_name);
        let is_sharing = parent.is_some_and(|name| SHARING.iter().any(|one| name == *one));
        if found.nlink() <= 1 && !is_sharing {
            unit.own_bytes += bytes;
            return;
        }
        let id = (found.dev(), found.ino());
        if self.files.len() >= SHARED_FILES_MAX && !self.files.contains_key(&id) {
            unit.own_bytes += bytes / found.nlink().max(1);
            return;
        }
        let file = self.files.entry(id).or_insert(File {
            bytes: 0,
            names: 0,
            known: 0,
        });
        // It may have grown since another name of it was seen.
        self.total_bytes = self.total_bytes - file.bytes + bytes;
        (file.bytes, file.names) = (bytes, found.nlink());
        file.known += 1;
        unit.files.push(id);
    }

    /// Bytes of all that is there, each once.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Whether there is something at `path`.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.units.contains_key(path)
    }

    /// Bytes of what is at these paths, each once; files that are counted already are in `counted`.
    pub(crate) fn bytes_of<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p PathBuf>,
        counted: &mut HashSet<FileId>,
    ) -> u64 {
        let units = paths.into_iter().filter_map(|path| self.units.get(path));
        let mut bytes = 0;
        for unit in units {
            bytes += unit.own_bytes;
            let new = unit.files.iter().filter(|id| counted.insert(**id));
            bytes += new
                .filter_map(|id| Some(self.files.get(id)?.bytes))
                .sum::<u64>();
        }
        bytes
    }

    /// Bytes of each part: of files that mirrors and snapshots share, with the mirrors.
    pub(crate) fn by_part(&self) -> [(Part, u64); 3] {
        let mut counted = HashSet::new();
        [Part::Mirror, Part::Snapshot, Part::Other].map(|part| {
            let of_it = self.units.iter().filter(|(_, unit)| unit.part == part);
            let bytes = self.bytes_of(of_it.map(|(path, _)| path), &mut counted);
            (part, bytes)
        })
    }

    /// Mirrors that are there.
    pub(crate) fn mirrors(&self) -> u64 {
        let mirrors = self.units.values().filter(|unit| unit.part == Part::Mirror);
        mirrors.count() as u64
    }

    /// Bytes that the largest thing has which is being made, without what it shares; of what is in none of
    /// `leaving`.
    pub(crate) fn largest_passing_bytes(&self, leaving: &HashSet<&Path>) -> u64 {
        let alone = |id: &FileId| self.files.get(id).filter(|file| file.known == 1);
        let bytes = |unit: &Unit| {
            let files = unit.files.iter().filter_map(alone);
            unit.own_bytes + files.map(|file| file.bytes).sum::<u64>()
        };
        let passing = self.units.iter();
        let passing =
            passing.filter(|(path, unit)| unit.is_passing && !leaving.contains(path.as_path()));
        passing
            .map(|(_, unit)| bytes(unit))
            .max()
            .unwrap_or_default()
    }

    /// Bytes of all that stays, whoever goes: what is in none of `leaving`, and not being made. With them each
    /// of that, what it shares with others included, the largest first.
    pub(crate) fn fixed(&self, leaving: &HashSet<&Path>) -> (u64, Vec<(PathBuf, u64)>) {
        let stays = |(path, unit): &(&PathBuf, &Unit)| {
            !unit.is_passing && !leaving.contains(path.as_path())
        };
        let fixed = self.units.iter().filter(stays).map(|(path, _)| path);
        let fixed = Vec::from_iter(fixed);
        let bytes = self.bytes_of(fixed.iter().copied(), &mut HashSet::new());
        let alone = |path: &PathBuf| self.bytes_of([path], &mut HashSet::new());
        let mut all = Vec::from_iter(fixed.into_iter().map(|path| (path.clone(), alone(path))));
        all.sort_by_key(|(_, bytes)| Reverse(*bytes));
        (bytes, all)
    }
}

/// What a plan is made of: shared files by their places.
pub(crate) struct Places<'l> {
    ledger: &'l Ledger,
    places: HashMap<FileId, usize>,
    shared: Vec<Shared>,
}

impl<'l> Places<'l> {
    /// None yet.
    pub(crate) fn new(ledger: &'l Ledger) -> Places<'l> {
        Places {
            ledger,
            places: HashMap::new(),
            shared: Vec::new(),
        }
    }

    /// What is at `path` has of its own, and its names of shared files; `None` if nothing is there.
    pub(crate) fn of(&mut self, path: &Path) -> Option<(u64, Vec<usize>)> {
        let unit = self.ledger.units.get(path)?;
        let files = unit.files.iter().filter_map(|id| {
            let file = self.ledger.files.get(id)?;
            let next = self.shared.len();
            let place = *self.places.entry(*id).or_insert(next);
            if place == next {
                self.shared.push(Shared {
                    bytes: file.bytes,
                    names: file.names.max(file.known),
                });
            }
            Some(place)
        });
        Some((unit.own_bytes, files.collect()))
    }

    /// The files that were met.
    pub(crate) fn shared(&self) -> &[Shared] {
        &self.shared
    }
}

/// Something in the state directory.
struct Found {
    path: PathBuf,
    part: Part,
    is_passing: bool,
}

impl Found {
    /// Whether it is the directory that mirrors are in.
    fn is_mirrors(&self) -> bool {
        self.part == Part::Other && self.path.ends_with(MIRRORS_NAME)
    }
}

/// What there is but mirrors.
fn found_below(root: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut add = |path, part, is_passing| {
        found.push(Found {
            path,
            part,
            is_passing,
        });
    };
    for entry in list(root)? {
        let (name, path) = (entry.file_name(), entry.path());
        match name.to_str() {
            Some(MIRRORS_NAME) => {}
            Some(SNAPSHOTS_NAME) => {
                for entry in list(&path)? {
                    let name = entry.file_name();
                    let name = name.to_str().and_then(|name| EntryId::parse(name).ok());
                    let part = name.map_or(Part::Other, |_| Part::Snapshot);
                    add(entry.path(), part, name.is_none());
                }
            }
            Some(TMP_NAME) => {
                for entry in list(&path)? {
                    add(entry.path(), Part::Other, true);
                }
            }
            _ => add(path, Part::Other, false),
        }
    }
    Ok(found)
}

/// The mirrors, and the directory that they are in.
fn find_mirrors(mirrors: &Path) -> io::Result<Vec<Found>> {
    let found = |path: &Path, part| Found {
        path: path.to_owned(),
        part,
        is_passing: false,
    };
    let mut all = vec![found(mirrors, Part::Other)];
    let mut pending = vec![(mirrors.to_owned(), 0)];
    while let Some((dir, depth)) = pending.pop() {
        for entry in list(&dir)? {
            // A link's mirror is elsewhere.
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if is_repository(&path) {
                all.push(found(&path, Part::Mirror));
            } else if depth <= MIRROR_DEPTH_MAX {
                pending.push((path, depth + 1));
            }
        }
    }
    Ok(all)
}

/// What is in a directory; nothing where there is none, or none that may be read.
fn list(dir: &Path) -> io::Result<Vec<DirEntry>> {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    match fs::read_dir(dir).and_then(Iterator::collect) {
        Err(e) if [NotADirectory, NotFound, PermissionDenied].contains(&e.kind()) => Ok(Vec::new()),
        found => found,
    }
}

fn stamp(found: &Found) -> Stamp {
    let below: &[&str] = match found.part {
        Part::Mirror => &["", "objects", "objects/pack"],
        Part::Snapshot | Part::Other => &[""],
    };
    let dates = |below: &&str| {
        let found = fs::symlink_metadata(found.path.join(below)).ok()?;
        Some((found.ino(), found.mtime(), found.mtime_nsec()))
    };
    below.iter().filter_map(dates).collect()
}

#[cfg(test)]
mod tests;
