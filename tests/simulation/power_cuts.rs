//! The shortest ways to what was found, each tried with every fault, at every call, with many
//! outcomes of the power cut.

use std::path::{Path, PathBuf};

use crate::sim::SimFs;
use tarpon::extent::Layout;
use tarpon::io::fs::{Fs, WriteAt};
use tarpon::manifest::id::EntryId;
use tarpon::manifest::meta::{Fields, Meta};
use tarpon::manifest::parts::MANIFEST_NAME;
use tarpon::manifest::want::Want;
use tarpon::store::dir::StateDir;
use tarpon::store::files::StoreError;

/// Outcomes of a power cut that are tried.
const SEEDS: u64 = 400;
/// More calls than any of the operations makes.
const CALLS_MAX: u64 = 40;
const ROOT: &str = "/srv/state";

fn id() -> EntryId {
    EntryId::from_bytes([1; 16])
}

fn open(fs: &SimFs) -> StateDir<SimFs> {
    StateDir::open_on(fs.clone(), Path::new(ROOT)).unwrap()
}

/// The file of its own that a version of the entry has.
fn own(version: u64) -> String {
    format!("frames/{version}")
}

/// Publishes the entry as made at `version`, with as many bytes.
fn publish(fs: &SimFs, state: &StateDir<SimFs>, version: u64) -> Result<PathBuf, StoreError> {
    let mut layout = Layout::default();
    layout.push_spool(version);
    let fields = Fields {
        id: id(),
        repository: "host/repo".into(),
        want: Want::default(),
        commit: None,
        shown: [0; 32],
        created_unix_ms: version,
        linked: Vec::new(),
        spool: own(version),
        layout,
        spool_checksum: 0,
    };
    let meta = Meta::new(fields).unwrap().encode();
    let odds = fs.calm();
    let mut staging = state.staging()?;
    let spool = fs.create_new(&staging.own(&own(version))?).unwrap();
    spool.write_all_at(&vec![7; version as usize], 0).unwrap();
    fs.set_odds(odds);
    staging.write_aside(MANIFEST_NAME, &aside(version))?;
    staging.publish(id(), &meta)
}

/// What a version has beside its metadata.
fn aside(version: u64) -> Vec<u8> {
    version.to_le_bytes().into()
}

/// The version that is there; nothing may be broken.
fn found(state: &StateDir<SimFs>) -> Option<u64> {
    let (entries, rejected) = state.scan().unwrap();
    assert!(rejected.is_empty(), "{rejected:?}");
    entries.first().map(|entry| entry.meta.created_unix_ms)
}

/// What is there after the power was cut.
fn found_after_cut(fs: &SimFs, state: StateDir<SimFs>) -> Option<u64> {
    drop(state);
    fs.restart();
    fs.calm();
    let found = found(&open(fs));
    if let Some(version) = found {
        let dir = Path::new(ROOT).join("snapshots").join(id().as_str());
        let manifest = fs.read(&dir.join(MANIFEST_NAME)).unwrap();
        assert_eq!(manifest, aside(version), "version {version}");
    }
    found
}

fn each_outcome(mut test: impl FnMut(&SimFs)) {
    for seed in 0..SEEDS {
        test(&SimFs::new(seed, 1 << 20, true));
    }
}

/// The same, with each call of the file system at which it may happen.
fn each_call(mut test: impl FnMut(&SimFs, u64)) {
    for calls in 0..CALLS_MAX {
        each_outcome(|fs| test(fs, calls));
    }
}

/// The same, with an entry that was published before.
fn each_call_on_an_entry(mut test: impl FnMut(&SimFs, StateDir<SimFs>, PathBuf, u64)) {
    each_call(|fs, calls| {
        let state = open(fs);
        let dir = publish(fs, &state, 10).unwrap();
        test(fs, state, dir, calls);
    });
}

/// The directories that `open` makes were never synced, so the first entry went with them.
#[test]
fn the_first_entry_of_a_new_state_directory_lasts() {
    each_outcome(|fs| {
        let state = open(fs);
        publish(fs, &state, 10).unwrap();
        assert_eq!(found_after_cut(fs, state), Some(10));
    });
}

/// A first start made the directories above, then failed or died before it synced them; the
/// next one found them there and synced only the last.
#[test]
fn an_entry_lasts_though_the_first_start_failed() {
    each_call(|fs, calls| {
        fs.fail_after(calls);
        drop(StateDir::open_on(fs.clone(), Path::new(ROOT)));
        fs.calm();
        fs.kill();
        let state = open(fs);
        publish(fs, &state, 10).unwrap();
        assert_eq!(found_after_cut(fs, state), Some(10));
    });
}

/// The directories were there before the server, of a script or of a start that died, and
/// nobody has synced them.
#[test]
fn an_entry_lasts_in_directories_that_somebody_else_made() {
    each_outcome(|fs| {
        drop(open(fs));
        fs.kill();
        let snapshots = Path::new(ROOT).join("snapshots");
        fs.remove_dir_all(&snapshots).unwrap();
        fs.sync_all();
        fs.create_dir(&snapshots).unwrap();
        let state = open(fs);
        publish(fs, &state, 10).unwrap();
        assert_eq!(found_after_cut(fs, state), Some(10));
    });
}

/// Replacing an entry renamed the old one away first: a cut before the second rename lost both.
#[test]
fn a_power_cut_while_an_entry_is_replaced_leaves_one_of_both() {
    each_call_on_an_entry(|fs, state, _, calls| {
        fs.cut_power_after(calls);
        let published = publish(fs, &state, 20);
        let found = found_after_cut(fs, state);
        match published {
            Ok(_) => assert_eq!(found, Some(20)),
            Err(_) => assert!(matches!(found, Some(10 | 20)), "{found:?}"),
        }
    });
}

/// A sync that failed had the renames undone, but the staged files were deleted before that was
/// on disk: after a cut the entry's name was that of an empty directory.
#[test]
fn a_replacement_that_fails_costs_nothing_after_a_power_cut() {
    each_call_on_an_entry(|fs, state, _, calls| {
        fs.fail_after(calls);
        let published = publish(fs, &state, 20);
        fs.calm();
        let version = if published.is_ok() { 20 } else { 10 };
        assert_eq!(found_now(&state), Some(version));
        let after = found_after_cut(fs, state);
        let failed = published.is_err() && matches!(after, Some(10 | 20));
        assert!(failed || after == Some(20), "{after:?} after {published:?}");
    });
}

/// Where names cannot be exchanged, two replacements failed one after the other, each with the old
/// entry renamed away and back. Nothing of that was synced, and a cut kept the first way away and
/// the second way back: the entry had two names, and the start deleted what was under one of them.
#[test]
fn replacements_that_fail_one_after_the_other_leave_one_name() {
    for calls in 0..CALLS_MAX {
        for seed in 0..SEEDS {
            let fs = SimFs::new(seed, 1 << 20, false);
            let state = open(&fs);
            publish(&fs, &state, 10).unwrap();
            for version in [20, 30] {
                fs.fail_after(calls);
                // It may fail, or not, by the call.
                let _ = publish(&fs, &state, version);
                fs.calm();
            }
            found_after_cut(&fs, state);
        }
    }
}

/// A removal that failed left the entry under another name, neither there nor gone.
#[test]
fn a_removal_that_fails_leaves_the_entry() {
    each_call_on_an_entry(|fs, state, dir, calls| {
        fs.fail_after(calls);
        let removed = state.remove(&dir, &own(10));
        fs.calm();
        let version = removed.is_err().then_some(10);
        assert_eq!(found_now(&state), version);
        let after = found_after_cut(fs, state);
        assert!(after.is_none() || removed.is_err(), "it came back");
    });
}

/// A start deleted what a killed process had renamed away but not synced: a cut brought the
/// name back, without the files.
#[test]
fn a_kill_and_then_a_power_cut_break_no_entry() {
    each_call_on_an_entry(|fs, state, _, calls| {
        // The disk stops, so that the process ends between two calls; nothing is lost yet.
        fs.cut_power_after(calls);
        let published = publish(fs, &state, 20);
        drop(state);
        fs.calm();
        fs.kill();
        let mut state = open(fs);
        let before = found(&state);
        assert!(before == Some(20) || published.is_err());
        drop(state);
        fs.restart();
        state = open(fs);
        assert_eq!(found(&state), before);
    });
}

/// Like [`found`], where what is left of a failed operation may lie about.
fn found_now(state: &StateDir<SimFs>) -> Option<u64> {
    let (entries, _) = state.scan().unwrap();
    entries.first().map(|entry| entry.meta.created_unix_ms)
}
