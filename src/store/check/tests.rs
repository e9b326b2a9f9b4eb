use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use xxhash_rust::xxh64::xxh64;

use super::*;
use crate::extent::{Layout, content_checksum};
use crate::manifest::meta::Fields;
use crate::manifest::record::Linked;
use crate::manifest::want::Want;

const PACK: &str = "objects/pack/pack-1.pack";
const OLD: &str = "frames/old";
const OWN: &str = "frames/own";

/// An entry with a pack, frames of an earlier entry, which it sends a part of, and its own.
struct Entry {
    dir: tempfile::TempDir,
}

impl Entry {
    fn new() -> Entry {
        let entry = Entry {
            dir: tempfile::tempdir().unwrap(),
        };
        let files = [
            (PACK, &b"bytes of a pack"[..]),
            (OLD, b"frames of another entry, of which some are dead"),
            (OWN, b"its own frames"),
        ];
        for (path, bytes) in files {
            let path = entry.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let [(_, pack), (_, old), (_, own)] = files;
        let mut layout = Layout::default();
        layout.push_spool(own.len() as u64);
        layout.push_raw(0, 0, pack.len() as u64, &[content_checksum(pack)]);
        layout.push_stored(1, 10, 5);
        let linked = |path: &str, bytes: &[u8], whole| Linked {
            path: path.into(),
            bytes: bytes.len() as u64,
            whole,
        };
        let meta = Meta::new(Fields {
            id: id(),
            repository: "host/repo".into(),
            want: Want::default(),
            commit: None,
            shown: [0; 32],
            created_unix_ms: 1,
            linked: vec![
                linked(PACK, pack, None),
                linked(OLD, old, Some(xxh64(old, 0))),
            ],
            spool: OWN.into(),
            layout,
            spool_checksum: xxh64(own, 0),
        });
        fs::write(entry.path(META_NAME), meta.unwrap().encode()).unwrap();
        entry
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    fn check(&self) -> Result<(), Fault> {
        check_entry(self.dir.path(), id(), &Pace::new(None, Arc::default()))
    }

    /// What a look finds to be damaged, and whether that is the mirror's as well.
    fn damaged(&self) -> (String, bool) {
        match self.check() {
            Err(Fault::Damaged {
                file, is_linked, ..
            }) => (file, is_linked),
            other => panic!("not damaged: {other:?}"),
        }
    }
}

fn id() -> EntryId {
    EntryId::from_bytes([1; 16])
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_byte_that_has_changed_is_found_in_each_file() {
    // Those of files of frames that nobody is sent, too: the next entry may send them.
    for at in [0, 12, 46] {
        let entry = Entry::new();
        entry.check().unwrap();
        flip(&entry.path(OLD), at);
        assert_eq!(entry.damaged(), (OLD.into(), false), "byte {at}");
    }
    for (file, is_linked) in [(PACK, true), (OWN, false), (META_NAME, false)] {
        let entry = Entry::new();
        flip(&entry.path(file), 3);
        assert_eq!(entry.damaged(), (file.into(), is_linked));
    }
}

#[test]
fn a_linked_file_of_another_length_is_damaged() {
    let entry = Entry::new();
    let old = fs::read(entry.path(OLD)).unwrap();
    fs::write(entry.path(OLD), &old[..old.len() - 1]).unwrap();
    assert_eq!(entry.damaged(), (OLD.into(), false));
    fs::write(entry.path(OLD), [&old[..], b"x"].concat()).unwrap();
    assert_eq!(entry.damaged(), (OLD.into(), false));
    fs::remove_file(entry.path(OLD)).unwrap();
    assert!(matches!(entry.check(), Err(Fault::Gone)));
}
