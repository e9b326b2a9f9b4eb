use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::archive::open_files::OpenFiles;
use crate::archive::place::{Archive, Files};
use crate::extent::Layout;
use crate::limits::MIRROR_DEPTH_MAX;
use crate::manifest::meta::Fields;
use crate::manifest::record::Linked;
use crate::manifest::want::Want;

const PACK: &str = "objects/pack/pack-1.pack";
const SPOOL: &[u8] = b"spooled bytes";
const PACKED: &[u8] = b"bytes of a pack";

fn id(number: u8) -> EntryId {
    EntryId::from_bytes([number; 16])
}

/// The file of its own that an entry has, by when its build began.
fn spool(created_unix_ms: u64) -> String {
    format!("{FRAMES_NAME}/{created_unix_ms:032x}")
}

fn meta(id: EntryId, created_unix_ms: u64) -> Meta {
    let mut layout = Layout::default();
    layout.push_spool(SPOOL.len() as u64);
    layout.push_raw(0, 0, PACKED.len() as u64, &[0]);
    Meta::new(Fields {
        id,
        repository: "host/repo".into(),
        want: Want::default(),
        commit: None,
        shown: [0; 32],
        created_unix_ms,
        linked: vec![Linked {
            path: PACK.into(),
            bytes: PACKED.len() as u64,
            whole: None,
        }],
        spool: spool(created_unix_ms),
        layout,
        spool_checksum: 0,
    })
    .unwrap()
}

/// A state directory beside a pack that stands for a mirror's.
struct Fixture {
    dir: TempDir,
    pack: PathBuf,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let pack = dir.path().join("mirror.pack");
        fs::write(&pack, PACKED).unwrap();
        Fixture { dir, pack }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn open(&self) -> StateDir {
        StateDir::open(&self.root()).unwrap()
    }

    fn staging(&self, state: &StateDir, created_unix_ms: u64) -> Staging {
        let mut staging = state.staging().unwrap();
        fs::write(staging.own(&spool(created_unix_ms)).unwrap(), SPOOL).unwrap();
        staging.link(&self.pack, PACK).unwrap();
        staging
    }

    fn publish(&self, state: &StateDir, number: u8, created_unix_ms: u64) -> PathBuf {
        let meta = meta(id(number), created_unix_ms);
        let mut staging = self.staging(state, created_unix_ms);
        staging.publish(id(number), &meta.encode()).unwrap()
    }

    fn in_snapshots(&self) -> Vec<String> {
        names(&self.root().join(SNAPSHOTS_NAME))
    }
}

fn names(dir: &Path) -> Vec<String> {
    list(&Os, dir)
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

/// Ids of the whole entries, and reasons of all else.
fn scan(state: &StateDir) -> (Vec<EntryId>, Vec<String>) {
    let (found, rejected) = state.scan().unwrap();
    let reasons = rejected.iter().map(|r| r.reason.to_string());
    (found.iter().map(|f| f.meta.id).collect(), reasons.collect())
}

#[test]
fn the_second_of_two_opens_is_told_who_is_there() {
    let fixture = Fixture::new();
    let first = fixture.open();
    assert_eq!(names(first.root()), ["lock", "mirrors", "snapshots", "tmp"]);
    let staging = first.staging().unwrap();
    let refused = StateDir::open(&fixture.root()).unwrap_err();
    assert!(matches!(&refused, StoreError::Locked { pid: Some(pid), .. }
        if *pid == std::process::id()));
    let text = refused.to_string();
    assert!(text.contains(fixture.root().to_str().unwrap()), "{text}");
    assert!(staging.dir().is_dir(), "a refused open deletes nothing");

    drop(first);
    let refused = StateDir::open(&fixture.root()).unwrap_err();
    assert!(matches!(refused, StoreError::Locked { .. }), "still staged");
    drop(staging);
    fixture.open();
}

/// A forked child shares the open lock file until it executes its program, so that a
/// `StateDir` which was only closed looked as if it were still in use.
#[test]
fn a_child_in_the_making_does_not_keep_the_lock() {
    let fixture = Fixture::new();
    let state = fixture.open();
    let in_the_child = state.lock.0.try_clone().unwrap();
    drop(state);
    fixture.open();
    drop(in_the_child);
}

const CHILD_DIR: &str = "TARPON_TEST_LOCK_DIR";

/// Not a test of its own: the other process of the next test.
#[test]
fn child_that_holds_the_lock() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let state = StateDir::open(Path::new(&dir)).unwrap();
    let _staging = state.staging().unwrap();
    println!("\nlocked");
    // Until the parent kills this process or goes away.
    let _ = io::stdin().read_line(&mut String::new());
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn another_process_holds_the_lock_until_it_is_killed() {
    let fixture = Fixture::new();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("store::dir::tests::child_that_holds_the_lock")
        .env(CHILD_DIR, fixture.root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let output = BufReader::new(child.0.stdout.take().unwrap());
    let mut lines = output.lines().map(|line| line.unwrap());
    assert!(
        lines.any(|line| line == "locked"),
        "the child took the lock"
    );

    let refused = StateDir::open(&fixture.root()).unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains(&format!("process {}", child.0.id())),
        "{text}"
    );
    assert_eq!(fixture.in_snapshots().len(), 1);
    drop(child);
    fixture.open();
    assert_eq!(fixture.in_snapshots(), [""; 0], "its staging is deleted");
}

#[test]
fn what_was_never_published_is_deleted_at_start() {
    let fixture = Fixture::new();
    let state = fixture.open();
    fixture.publish(&state, 1, 5);
    let mirror = state.mirror_path("host", "repo");
    fs::create_dir_all(&mirror).unwrap();
    std::mem::forget(fixture.staging(&state, 6));
    drop(state);
    // The forgotten staging stands for a killed process, but still holds this process's
    // lock: a new lock file stands for its end.
    let root = fixture.root();
    fs::remove_file(root.join(LOCK_NAME)).unwrap();
    fs::write(root.join(LOCK_NAME), "1\n").unwrap();
    fs::create_dir_all(root.join("tmp/clone/objects")).unwrap();
    fs::write(root.join("tmp/clone/objects/half"), "x").unwrap();
    fs::write(root.join("tmp/file"), "x").unwrap();
    std::os::unix::fs::symlink(&fixture.pack, root.join("tmp/link")).unwrap();
    fs::create_dir(root.join("snapshots/.removing-something")).unwrap();
    assert_eq!(fixture.in_snapshots().len(), 3);

    let state = fixture.open();
    assert_eq!(fixture.in_snapshots(), [id(1).as_str()]);
    assert_eq!(names(&state.tmp_dir()), [""; 0]);
    assert!(mirror.is_dir() && fixture.pack.is_file());
    assert_eq!(scan(&state), (vec![id(1)], vec![]));
}

#[test]
fn a_directory_of_somebody_else_is_refused_untouched() {
    let fixture = Fixture::new();
    let root = fixture.root();
    fs::create_dir_all(root.join("tmp")).unwrap();
    fs::write(root.join("tmp/theirs"), "x").unwrap();
    for _ in 0..2 {
        let refused = StateDir::open(&root).unwrap_err();
        assert!(matches!(refused, StoreError::NotOurs { .. }), "{refused}");
        assert_eq!(names(&root), ["tmp"]);
        assert_eq!(names(&root.join("tmp")), ["theirs"]);
    }
    fs::remove_file(root.join("tmp/theirs")).unwrap();
    fixture.open();
}

#[test]
fn published_entries_are_found_newest_first() {
    let fixture = Fixture::new();
    let state = fixture.open();
    let dirs = [
        fixture.publish(&state, 1, 10),
        fixture.publish(&state, 2, 30),
        fixture.publish(&state, 3, 20),
    ];
    drop(state);
    let state = fixture.open();
    let (found, rejected) = state.scan().unwrap();
    assert!(rejected.is_empty());
    let order: Vec<_> = found.iter().map(|f| f.dir.clone()).collect();
    assert_eq!(order, [&dirs[1], &dirs[2], &dirs[0]].map(PathBuf::clone));
    assert_eq!(found[0].meta, meta(id(2), 30));
    assert_eq!(fs::read(dirs[1].join(spool(30))).unwrap(), SPOOL);
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&dirs[1].join(PACK)), inode(&fixture.pack));
}

#[test]
fn an_abandoned_or_failed_staging_leaves_nothing() {
    let fixture = Fixture::new();
    let state = fixture.open();
    drop(fixture.staging(&state, 10));
    assert_eq!(fixture.in_snapshots(), [""; 0]);

    let mut bare = state.staging().unwrap();
    let promised = bare.own(&spool(10)).unwrap();
    let error = bare.publish(id(1), b"meta without a spool").unwrap_err();
    assert!(matches!(&error, StoreError::Io { path, .. } if *path == promised));
    drop(bare);
    assert_eq!(fixture.in_snapshots(), [""; 0]);

    let long = vec![0; META_BYTES_MAX as usize + 1];
    let mut staging = fixture.staging(&state, 10);
    let error = staging.publish(id(1), &long).unwrap_err();
    assert!(matches!(error, StoreError::MetaTooLong { .. }));
    drop(staging);
    assert_eq!(fixture.in_snapshots(), [""; 0]);
}

#[test]
fn two_stagings_of_one_id_do_not_meet_and_the_later_replaces() {
    let fixture = Fixture::new();
    let state = fixture.open();
    let mut first = fixture.staging(&state, 10);
    let mut second = fixture.staging(&state, 20);
    assert_ne!(first.dir(), second.dir());
    let dir = first.publish(id(1), &meta(id(1), 10).encode()).unwrap();
    let mut open = File::open(dir.join(spool(10))).unwrap();
    assert_eq!(
        second.publish(id(1), &meta(id(1), 20).encode()).unwrap(),
        dir
    );
    drop((first, second));
    assert_eq!(fixture.in_snapshots(), [id(1).as_str()]);
    let (found, _) = state.scan().unwrap();
    assert_eq!(found[0].meta.created_unix_ms, 20);
    let mut text = Vec::new();
    open.read_to_end(&mut text).unwrap();
    assert_eq!(text, SPOOL, "a reader of the old entry keeps its file");
}

#[test]
fn a_failed_publish_over_an_entry_keeps_it() {
    let fixture = Fixture::new();
    let state = fixture.open();
    let dir = fixture.publish(&state, 1, 10);
    let mut staging = fixture.staging(&state, 20);
    // The disk refuses to put the staged directory in the old entry's place.
    fs::remove_dir_all(staging.dir()).unwrap();
    let error = staging.swap_in(id(1)).unwrap_err();
    assert!(matches!(error, StoreError::Io { op: "exchange", .. }));
    assert_eq!(scan(&state), (vec![id(1)], vec![]));
    assert_eq!(fixture.in_snapshots(), [id(1).as_str()]);
    assert!(dir.is_dir());
}

/// Every state that a kill inside `publish` (over an old entry) or `remove` leaves.
#[test]
fn a_kill_between_any_two_steps_leaves_whole_entries_only() {
    let (old, new) = (10, 20);
    type Cut = fn(&Path);
    let cases: [(&str, Cut, Option<u64>); 5] = [
        ("staged", |_| {}, Some(old)),
        (
            "old renamed away",
            |s| fs::rename(s.join(id(1).as_str()), s.join(".removing-a")).unwrap(),
            None,
        ),
        (
            "new renamed in",
            |s| {
                fs::rename(s.join(id(1).as_str()), s.join(".removing-a")).unwrap();
                fs::rename(s.join("staged"), s.join(id(1).as_str())).unwrap();
            },
            Some(new),
        ),
        (
            "old half deleted",
            |s| {
                fs::rename(s.join(id(1).as_str()), s.join(".removing-a")).unwrap();
                fs::rename(s.join("staged"), s.join(id(1).as_str())).unwrap();
                fs::remove_file(s.join(".removing-a/meta")).unwrap();
            },
            Some(new),
        ),
        (
            "removal half done",
            |s| {
                fs::rename(s.join(id(1).as_str()), s.join(".removing-a")).unwrap();
                fs::remove_dir_all(s.join(".removing-a/objects")).unwrap();
            },
            None,
        ),
    ];
    for (name, cut, expected) in cases {
        let fixture = Fixture::new();
        let state = fixture.open();
        let snapshots = state.snapshots_dir();
        // A whole staged entry: published, and renamed to what it is while it is staged.
        let staged = snapshots.join(format!("{BUILDING}{}-7", id(1)));
        fs::rename(fixture.publish(&state, 1, new), &staged).unwrap();
        fixture.publish(&state, 1, old);
        fs::rename(&staged, snapshots.join("staged")).unwrap();
        cut(&snapshots);
        if exists(&Os, &snapshots.join("staged")).unwrap() {
            fs::rename(snapshots.join("staged"), &staged).unwrap();
        }
        drop(state);

        let state = fixture.open();
        let (found, rejected) = state.scan().unwrap();
        assert!(rejected.is_empty(), "{name}: {rejected:?}");
        let created = found.first().map(|f| f.meta.created_unix_ms);
        assert_eq!(created, expected, "{name}");
        assert_eq!(fixture.in_snapshots().len(), found.len(), "{name}");
    }
}

type Damage = fn(&Path);

#[test]
fn broken_entries_are_removed_and_named() {
    let cases: [(&str, Damage); 11] = [
        ("it has no meta", |d| {
            fs::remove_file(d.join("meta")).unwrap()
        }),
        ("it has no frames/00", |d| {
            fs::remove_file(d.join(spool(20))).unwrap()
        }),
        // What an older entry of that id had.
        ("it has no frames/00", |d| {
            fs::rename(d.join(spool(20)), d.join(spool(10))).unwrap()
        }),
        ("it has no objects/pack/pack-1.pack", |d| {
            fs::remove_dir_all(d.join("objects")).unwrap()
        }),
        (
            "frames/00000000000000000000000000000014 has 2 bytes instead of 13",
            |d| fs::write(d.join(spool(20)), "xx").unwrap(),
        ),
        ("objects/pack/pack-1.pack has 1 bytes instead of 15", |d| {
            // Not written through the link, which would change the mirror's file.
            fs::remove_file(d.join(PACK)).unwrap();
            fs::write(d.join(PACK), "x").unwrap()
        }),
        ("meta: the digest", |d| {
            let mut bytes = fs::read(d.join("meta")).unwrap();
            bytes[30] ^= 1;
            fs::write(d.join("meta"), bytes).unwrap()
        }),
        ("meta: at offset 3: the file ends too early", |d| {
            fs::write(d.join("meta"), "abc").unwrap()
        }),
        ("meta has 268435457 bytes", |d| {
            let file = File::create(d.join("meta")).unwrap();
            file.set_len(META_BYTES_MAX + 1).unwrap()
        }),
        ("meta belongs to entry 0303", |d| {
            fs::write(d.join("meta"), meta(id(3), 1).encode()).unwrap()
        }),
        ("it has no frames/00", |d| {
            fs::rename(d.join(spool(20)), d.join("kept")).unwrap();
            std::os::unix::fs::symlink("../kept", d.join(spool(20))).unwrap()
        }),
    ];
    for (expected, damage) in cases {
        let fixture = Fixture::new();
        let state = fixture.open();
        fixture.publish(&state, 1, 10);
        damage(&fixture.publish(&state, 2, 20));
        let (found, rejected) = state.scan().unwrap();
        assert_eq!(found.len(), 1, "{expected}");
        assert_eq!(found[0].meta.id, id(1), "{expected}");
        let reason = rejected[0].reason.to_string();
        assert!(reason.starts_with(expected), "{reason} is not {expected}");
        assert!(rejected.len() == 1 && rejected[0].removed);
        assert_eq!(fixture.in_snapshots(), [id(1).as_str()], "{expected}");
        assert_eq!(fs::read(&fixture.pack).unwrap(), PACKED);
    }
}

#[test]
fn what_has_no_entrys_name_is_reported_and_left_alone() {
    let fixture = Fixture::new();
    let state = fixture.open();
    fs::create_dir(state.snapshots_dir().join("lost+found")).unwrap();
    fs::write(state.snapshots_dir().join(id(1).as_str()), "a file").unwrap();
    let (found, rejected) = state.scan().unwrap();
    assert!(found.is_empty());
    let removed: Vec<bool> = rejected.iter().map(|r| r.removed).collect();
    assert_eq!(removed, [true, false], "{rejected:?}");
    assert_eq!(fixture.in_snapshots(), ["lost+found"]);
}

#[test]
fn only_entries_can_be_removed() {
    let fixture = Fixture::new();
    let state = fixture.open();
    let dir = fixture.publish(&state, 1, 10);
    let mirror = state.mirror_path("host", "repo");
    fs::create_dir_all(&mirror).unwrap();
    let elsewhere = state.tmp_dir().join(id(1).as_str());
    fs::create_dir(&elsewhere).unwrap();
    let snapshots = state.snapshots_dir();
    for wrong in [
        &mirror,
        &elsewhere,
        &snapshots,
        &snapshots.join(".building-x"),
    ] {
        fs::create_dir_all(wrong.join(FRAMES_NAME)).unwrap();
        fs::write(wrong.join(spool(10)), SPOOL).unwrap();
        let error = state.remove(wrong, &spool(10)).unwrap_err();
        assert!(matches!(error, StoreError::NotAnEntry { .. }), "{error}");
    }
    assert!(mirror.is_dir() && elsewhere.is_dir() && dir.is_dir());

    let mut open = File::open(dir.join(PACK)).unwrap();
    state.remove(&dir, &spool(10)).unwrap();
    assert_eq!(scan(&state).0, []);
    assert!(!dir.exists());
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, PACKED);
    let again = state.remove(&dir, &spool(10)).unwrap_err();
    assert!(matches!(&again, StoreError::Io { path, .. } if path.starts_with(&dir)));
    assert!(again.is_not_found(), "{again}");
}

#[test]
fn an_entry_that_took_the_place_of_another_is_not_removed_for_it() {
    let fixture = Fixture::new();
    let state = fixture.open();
    let dir = fixture.publish(&state, 1, 10);
    assert_eq!(fixture.publish(&state, 1, 20), dir);
    let error = state.remove(&dir, &spool(10)).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(scan(&state), (vec![id(1)], vec![]));
    assert_eq!(fixture.in_snapshots(), [id(1).as_str()]);
    state.remove(&dir, &spool(20)).unwrap();
    assert_eq!(fixture.in_snapshots(), [""; 0]);
}

/// The new entry of an id can hold the file that the older one has written, by way of an entry between
/// both: it is still not the older one.
#[test]
fn an_entry_that_holds_the_own_file_of_the_one_before_is_not_taken_for_it() {
    let fixture = Fixture::new();
    let state = fixture.open();
    let dir = fixture.publish(&state, 1, 10);
    let mut staging = fixture.staging(&state, 20);
    staging.link(&dir.join(spool(10)), &spool(10)).unwrap();
    let mut fields = meta(id(1), 20).into_fields();
    fields.linked.push(Linked {
        path: spool(10),
        bytes: SPOOL.len() as u64,
        whole: Some(1),
    });
    let written = Meta::new(fields).unwrap().encode();
    assert_eq!(staging.publish(id(1), &written).unwrap(), dir);
    drop(staging);
    let error = state.remove(&dir, &spool(10)).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(scan(&state), (vec![id(1)], vec![]));

    // Nobody can tell any more whose it is, and it can never be served.
    let mut damaged = written.clone();
    damaged[30] ^= 1;
    fs::write(dir.join(META_NAME), damaged).unwrap();
    state.remove(&dir, &spool(20)).unwrap();
    assert_eq!(fixture.in_snapshots(), [""; 0]);
}

/// An archive is found by the name of its own file: never are the bytes of another one its own, though
/// that has its id and lies in its directory.
#[test]
fn an_archive_that_was_replaced_opens_nothing() {
    let fixture = Fixture::new();
    let state = fixture.open();
    let open = OpenFiles::new(10, Box::new(|| false));
    let found = || {
        let (mut found, _) = state.scan().unwrap();
        let FoundEntry { dir, meta } = found.remove(0);
        let repository = Arc::from(&*meta.repository);
        Arc::new(Archive::found(repository, dir, meta))
    };
    fixture.publish(&state, 1, 10);
    let (idle, in_use) = (found(), found());
    let held = in_use.open_files(&open).unwrap();
    let dir = fixture.publish(&state, 1, 20);
    fs::write(dir.join(spool(20)), "other by byte").unwrap();

    let error = idle.open_files(&open).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(idle.files().is_none());
    let read = |files: &Files| {
        let mut bytes = [0; SPOOL.len()];
        files.spool.file().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert_eq!(&read(&held), SPOOL, "who has it open keeps it");
    let new = found().open_files(&open).unwrap();
    assert_eq!(&read(&new), b"other by byte");
    let pack = |files: &Files| files.linked(0).unwrap().clone();
    assert!(
        Arc::ptr_eq(&pack(&held), &pack(&new)),
        "the pack is the same"
    );

    state.remove(&dir, &spool(20)).unwrap();
    assert!(idle.open_files(&open).unwrap_err().is_not_found());
    drop((held, new, in_use));
    assert_eq!(open.count(), 0);
}

/// One thread publishes an id again while another removes the entry that had it: whichever comes first,
/// the new one stays.
#[test]
fn a_removal_beside_a_publication_never_takes_the_new_entry() {
    const ROUNDS: u64 = 100;
    let fixture = Fixture::new();
    let state = fixture.open();
    let dir = fixture.publish(&state, 1, 0);
    for old in 0..ROUNDS {
        let mut staging = fixture.staging(&state, old + 1);
        let meta = meta(id(1), old + 1).encode();
        fs::write(staging.dir().join(META_NAME), meta).unwrap();
        let both = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                both.wait();
                let removed = state.remove(&dir, &spool(old));
                assert!(
                    removed
                        .as_ref()
                        .map_or_else(StoreError::is_not_found, |()| true)
                );
            });
            both.wait();
            // Without the syncs before it, so that both meet.
            staging.swap_in(id(1)).unwrap();
        });
        let (found, _) = state.scan().unwrap();
        assert_eq!(found.len(), 1, "round {old}");
        assert_eq!(found[0].meta.created_unix_ms, old + 1);
    }
    assert_eq!(fixture.in_snapshots(), [id(1).as_str()]);
}

/// An entry links the file of frames that an earlier one has written; both lie on the disk once, and
/// each counts what it holds.
#[test]
fn a_file_of_frames_outlives_the_entry_that_wrote_it() {
    let fixture = Fixture::new();
    let state = fixture.open();
    let first = fixture.publish(&state, 1, 10);
    let mut staging = fixture.staging(&state, 20);
    staging.link(&first.join(spool(10)), &spool(10)).unwrap();
    let mut fields = meta(id(2), 20).into_fields();
    fields.linked.push(Linked {
        path: spool(10),
        bytes: SPOOL.len() as u64,
        whole: Some(1),
    });
    fields.layout.push_stored(1, 0, SPOOL.len() as u64);
    let written = Meta::new(fields).unwrap().encode();
    let second = staging.publish(id(2), &written).unwrap();
    let bytes = (2 * SPOOL.len() + written.len()) as u64;
    assert_eq!(state.entry_bytes(&second).unwrap(), bytes);

    state.remove(&first, &spool(10)).unwrap();
    assert_eq!(fs::read(second.join(spool(10))).unwrap(), SPOOL);
    assert_eq!(scan(&state), (vec![id(2)], vec![]));
    assert_eq!(state.entry_bytes(&second).unwrap(), bytes);

    fs::remove_file(second.join(spool(10))).unwrap();
    let reason = format!("it has no {}", spool(10));
    assert_eq!(scan(&state), (vec![], vec![reason]));
}

#[test]
fn links_are_to_files_and_stay_inside_the_entry() {
    let fixture = Fixture::new();
    let state = fixture.open();
    let mut staging = state.staging().unwrap();
    for path in [
        "",
        "/x",
        "../x",
        "a/../x",
        "a//b",
        "meta",
        "outline",
        "meta/x",
        "outline/x",
        "manifest",
        "manifest/x",
        "a\0b",
    ] {
        let own = staging.own(path).unwrap_err();
        assert!(matches!(own, StoreError::LinkPath { .. }), "{path:?}");
        let error = staging.link(&fixture.pack, path).unwrap_err();
        assert!(matches!(error, StoreError::LinkPath { .. }), "{path:?}");
    }
    let symlink = fixture.dir.path().join("symlink");
    std::os::unix::fs::symlink("mirror.pack", &symlink).unwrap();
    staging.link(&symlink, "a/b").unwrap();
    let linked = fs::symlink_metadata(staging.dir().join("a/b")).unwrap();
    assert_eq!(linked.ino(), fs::metadata(&fixture.pack).unwrap().ino());
    let gone = fixture.dir.path().join("gone");
    let error = staging.link(&gone, "c").unwrap_err();
    assert!(matches!(&error, StoreError::Io { op: "link", path, .. } if *path == gone));
    let twice = staging.link(&fixture.pack, "a/b").unwrap_err();
    assert!(matches!(twice, StoreError::Io { op: "link", .. }));
}

/// Whatever its length: nobody would hear of it.
#[test]
fn across_file_systems_nothing_is_copied() {
    let fixture = Fixture::new();
    let state = fixture.open();
    let device = |path: &Path| fs::metadata(path).map(|stat| stat.dev()).ok();
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: /dev/shm cannot be written");
        return;
    };
    if device(other.path()) == device(state.root()) {
        eprintln!("skipped: /dev/shm is the file system of the temporary directory");
        return;
    }
    let pack = other.path().join("pack");
    fs::write(&pack, PACKED).unwrap();
    let mut staging = state.staging().unwrap();
    let error = staging.link(&pack, PACK).unwrap_err();
    assert!(error.cannot_be_linked(), "{error}");
    assert!(!staging.dir().join(PACK).exists());
    assert_eq!(staging.links(), 0);
    let gone = staging.link(&other.path().join("gone"), PACK).unwrap_err();
    assert!(!gone.cannot_be_linked(), "{gone}");
}

#[test]
fn an_entry_owns_a_pack_once_the_mirror_has_dropped_it() {
    let fixture = Fixture::new();
    let state = fixture.open();
    let dir = fixture.publish(&state, 1, 10);
    let own = (SPOOL.len() + meta(id(1), 10).encode().len()) as u64;
    assert_eq!(state.entry_bytes(&dir).unwrap(), own);
    fs::remove_file(&fixture.pack).unwrap();
    assert_eq!(state.entry_bytes(&dir).unwrap(), own + PACKED.len() as u64);
    assert!(state.entry_bytes(&state.root().join("gone")).is_err());
}

#[test]
fn mirrors_are_found_at_any_depth_but_not_inside_each_other() {
    let fixture = Fixture::new();
    let state = fixture.open();
    let make = |dir: &Path| {
        fs::create_dir_all(dir.join("objects")).unwrap();
        fs::write(dir.join("HEAD"), "ref: refs/heads/main\n").unwrap();
    };
    let expected = [
        ("a.example", "b.git/c"),
        ("a.example", "deep/er/.github"),
        ("a.example", "repo"),
        ("localhost:3000", "x/y"),
    ];
    for (host, path) in expected {
        make(&state.mirror_path(host, path));
    }
    let mirrors = state.root().join(MIRRORS_NAME);
    make(&mirrors.join("a.example/repo.git/modules/inner.git"));
    make(&mirrors.join("a.example/not-a-mirror"));
    make(&mirrors.join("at-host-level.git"));
    make(&mirrors.join("at-host-level.git/modules/inner.git"));
    fs::create_dir_all(mirrors.join("a.example/no-head.git/objects")).unwrap();
    fs::create_dir_all(mirrors.join("a.example/.git")).unwrap();
    fs::write(mirrors.join("a.example/file.git"), "x").unwrap();
    std::os::unix::fs::symlink("..", mirrors.join("a.example/deep/loop")).unwrap();
    let outside = fixture.dir.path().join("elsewhere");
    make(&outside);
    std::os::unix::fs::symlink(&outside, mirrors.join("localhost:3000/link.git")).unwrap();
    let deepest = "d/".repeat(MIRROR_DEPTH_MAX);
    make(&mirrors.join("z").join(&deepest).join("in.git"));
    make(&mirrors.join("z").join(&deepest).join("d/out.git"));

    let mut expected: Vec<_> = expected
        .map(|(host, path)| (host.to_owned(), path.to_owned()))
        .into();
    expected.push(("localhost:3000".into(), "link".into()));
    expected.push(("z".into(), format!("{deepest}in")));
    expected.sort();
    assert_eq!(state.mirrors().unwrap(), expected);
    for (host, path) in &expected {
        assert!(state.mirror_path(host, path).join("HEAD").exists());
    }
}

#[test]
fn the_file_system_has_a_size() {
    let fixture = Fixture::new();
    let space = fixture.open().space().unwrap();
    assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
}
