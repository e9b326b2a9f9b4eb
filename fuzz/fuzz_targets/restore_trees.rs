//! The index that `restore` makes of HEAD's trees, against a plain walk of them and as gix reads it:
//! sorted, without flags and stages, no name that git refuses, and a `TREE` extension of those trees;
//! and what the real stat data makes of it.
//!
//! An input is a recipe for trees, each of files, links, submodules and trees before it.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use gix::ObjectId;
use gix::hash::Kind;
use libfuzzer_sys::fuzz_target;
use tarpon::restore::layers::{Dates, Expected, Stop, Unpacked, index_of, refresh};
use tarpon_fuzz::made::{id, loose};
use tarpon_fuzz::{Input, names, place};

static PLACE: LazyLock<PathBuf> = LazyLock::new(|| place::directory("restore-trees"));

const NAMES: [&[u8]; 12] = [
    b"a",
    b"a.b",
    b"a0",
    b"b",
    b"a-b",
    b".git",
    b".gitmodules",
    b"..",
    b".GIT",
    b"a\\.git",
    b"c",
    b"",
];
const MODES: [&[u8]; 8] = [
    b"100644", b"100755", b"120000", b"160000", b"40000", b"40000", b"100664", b"040000",
];
/// Most trees of an input, and most entries that are walked through: trees may have each other often.
const TREES: u8 = 10;
const STEPS: usize = 400;

/// One entry of a tree.
struct Entry {
    mode: &'static [u8],
    name: Vec<u8>,
    id: ObjectId,
}

/// A directory with all of its own entries, and those below.
#[derive(Debug, PartialEq, Eq)]
struct Directory {
    name: Vec<u8>,
    id: ObjectId,
    entries: u32,
    children: Vec<Directory>,
}

/// Path, mode and id.
type Listed = (Vec<u8>, u32, ObjectId);

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let _ = fs::remove_dir_all(&*PLACE);
    fs::create_dir_all(PLACE.join(".git/objects/pack")).expect("a place for objects");
    let (trees, root) = trees(&mut input);
    let text = format!("tree {root}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nx\n");
    let commit = write("commit", text.as_bytes());
    let mut walk = Walk {
        trees: &trees,
        listed: Vec::new(),
        is_sound: true,
        left: STEPS,
    };
    let directory = walk.directory(root, b"");
    if walk.left == 0 {
        // Trees that have each other often: that ends.
        let _ = index_of(&PLACE, commit, Unpacked::default(), &Stop::default());
        return;
    }
    let (listed, is_sound) = (walk.listed, walk.is_sound);
    let files = listed
        .iter()
        .filter(|(_, mode, _)| *mode != 0o160_000)
        .count() as u64;
    // Now and then the archive had something else.
    let more = match input.u8() {
        255 => [1, 0],
        254 => [0, 5000],
        _ => [0, 0],
    };
    let unpacked = Unpacked {
        files: files + more[0],
        directories: more[1],
    };
    let made = index_of(&PLACE, commit, unpacked, &Stop::default()).ok();
    let is_whole = more == [0, 0];
    assert_eq!(made.is_some(), is_sound && is_whole, "{listed:?}");
    let Some(made) = made else {
        return;
    };
    fs::write(PLACE.join(".git/index"), &made).expect("an index is written");
    check(&listed, &directory);
    if input.u8() % 2 == 0 && unpack(&listed) {
        let root = File::open(&*PLACE).expect("it is there");
        let expected = Expected::OfTheirKind { executable: true };
        refresh(
            root.as_fd(),
            false,
            Dates::now(),
            expected,
            &Stop::default(),
        )
        .expect("all is there");
        check(&listed, &directory);
        check_stat();
    }
});

/// Writes an object.
fn write(kind: &str, content: &[u8]) -> ObjectId {
    let (name, file) = loose(kind, content);
    let directory = PLACE.join(".git/objects").join(&name[..2]);
    let _ = fs::create_dir(&directory);
    fs::write(directory.join(&name[2..]), file).expect("an object is written");
    ObjectId::from_bytes_or_panic(&id(&name))
}

/// Trees by their ids, and the one that is HEAD's.
fn trees(input: &mut Input<'_>) -> (BTreeMap<ObjectId, Vec<Entry>>, ObjectId) {
    let mut trees = BTreeMap::new();
    let mut ids = vec![ObjectId::empty_tree(Kind::Sha1)];
    trees.insert(ids[0], Vec::new());
    for _ in 0..1 + input.u8() % TREES {
        let mut entries = Vec::new();
        let choice = input.u8();
        for _ in 0..choice % 7 {
            let mode = MODES[usize::from(input.u8()) % MODES.len()];
            let name = match NAMES.get(usize::from(input.u8())) {
                Some(name) => name.to_vec(),
                None => input
                    .text()
                    .iter()
                    .copied()
                    .filter(|byte| *byte > 0)
                    .collect(),
            };
            let which = input.u8();
            let id = match is_tree(mode) {
                true => ids[usize::from(which) % ids.len()],
                false => ObjectId::from_bytes_or_panic(&[which | 1; 20]),
            };
            entries.push(Entry { mode, name, id });
        }
        // As git has them, or not.
        if choice & 0x80 == 0 {
            entries.sort_by_key(as_sorted);
        }
        let text =
            |entry: &Entry| [entry.mode, b" ", &entry.name, b"\0", entry.id.as_bytes()].concat();
        let text: Vec<u8> = entries.iter().flat_map(text).collect();
        let id = write("tree", &text);
        ids.push(id);
        trees.insert(id, entries);
    }
    (trees, ids[ids.len() - 1])
}

/// What git sorts by.
fn as_sorted(entry: &Entry) -> Vec<u8> {
    let end: &[u8] = if is_tree(entry.mode) { b"/" } else { b"" };
    [&entry.name, end].concat()
}

fn is_tree(mode: &[u8]) -> bool {
    mode.ends_with(b"40000")
}

/// A walk through trees, which lists files, links and submodules, as they would be unpacked.
struct Walk<'t> {
    trees: &'t BTreeMap<ObjectId, Vec<Entry>>,
    listed: Vec<Listed>,
    /// No name is one that git refuses, or there twice, and their order is git's.
    is_sound: bool,
    left: usize,
}

impl Walk<'_> {
    /// A tree and what is below; all of it, unless there are no steps left.
    fn directory(&mut self, id: ObjectId, path: &[u8]) -> Directory {
        let entries = &self.trees[&id];
        let names: BTreeSet<&[u8]> = entries.iter().map(|entry| &entry.name[..]).collect();
        self.is_sound &= entries.is_sorted_by_key(as_sorted) && names.len() == entries.len();
        let before = self.listed.len();
        let mut children = Vec::new();
        for entry in entries {
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                break;
            }
            let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
            let path = [path, separator, &entry.name].concat();
            let is_link = entry.mode == b"120000";
            self.is_sound &= names::is_component(&entry.name, is_link) && path.len() < 4096;
            match is_tree(entry.mode) {
                true => children.push(self.directory(entry.id, &path)),
                false => self.listed.push((path, mode_of(entry.mode), entry.id)),
            }
        }
        // Git takes them in any order, gix gives them in this one.
        children.sort_by(|a: &Directory, b| a.name.cmp(&b.name));
        let name = path.rsplit(|byte| *byte == b'/').next();
        Directory {
            name: name.unwrap_or_default().to_vec(),
            id,
            entries: (self.listed.len() - before) as u32,
            children,
        }
    }
}

/// What an index has for the mode of a tree's entry.
fn mode_of(mode: &[u8]) -> u32 {
    match mode {
        b"120000" => 0o120_000,
        b"160000" => 0o160_000,
        b"100755" => 0o100_755,
        _ => 0o100_644,
    }
}

/// The index, as gix reads it.
fn check(listed: &[Listed], directory: &Directory) {
    let path = PLACE.join(".git/index");
    let options = gix::index::decode::Options::default();
    let index = gix::index::File::at(path, Kind::Sha1, true, options).expect("gix reads it");
    assert_eq!(index.version(), gix::index::Version::V2);
    let mut found = Vec::new();
    for entry in index.entries() {
        assert!(entry.flags.is_empty(), "{:?}", entry.flags);
        found.push((entry.path(&index).to_vec(), entry.mode.bits(), entry.id));
    }
    assert_eq!(found, listed);
    let is_other = index.link().is_some() || index.untracked().is_some();
    assert!(!is_other && index.fs_monitor().is_none() && index.resolve_undo().is_none());
    let tree = index.tree().expect("it has the extension");
    assert_eq!(as_directory(tree), *directory);
}

fn as_directory(tree: &gix::index::extension::Tree) -> Directory {
    Directory {
        name: tree.name.to_vec(),
        id: tree.id,
        entries: tree.num_entries.expect("none is out of date"),
        children: tree.children.iter().map(as_directory).collect(),
    }
}

/// Makes the files; whether that can be.
fn unpack(listed: &[Listed]) -> bool {
    let make = |path: &Path, mode: u32| {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        match mode {
            0o120_000 => std::os::unix::fs::symlink("x", path),
            0o160_000 => fs::create_dir_all(path),
            mode => {
                fs::write(path, path.as_os_str().as_bytes())?;
                fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o777))
            }
        }
    };
    let mut files = listed.iter();
    files.all(|(path, mode, _)| {
        let path = PLACE.join(std::ffi::OsStr::from_bytes(path));
        make(&path, *mode).is_ok()
    })
}

/// No entry is as young as the index, and its sum is right.
fn check_stat() {
    let path = PLACE.join(".git/index");
    let options = gix::index::decode::Options::default();
    let index = gix::index::File::at(&path, Kind::Sha1, false, options).expect("its sum is right");
    let date = path
        .metadata()
        .and_then(|meta| meta.modified())
        .expect("it has one");
    let date = date
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a later one");
    for entry in index.entries() {
        let path = PLACE.join(std::ffi::OsStr::from_bytes(entry.path(&index)));
        let meta = path.symlink_metadata().expect("it is there");
        if !meta.is_dir() {
            let stat = gix::index::entry::Stat::from_fs(
                &gix::index::fs::Metadata::from_path_no_follow(&path).expect("it is there"),
            );
            assert_eq!(entry.stat, stat.expect("dates after 1970"));
            assert!(u64::from(entry.stat.mtime.secs) < date.as_secs());
        }
    }
}
