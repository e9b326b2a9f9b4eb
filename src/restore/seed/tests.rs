use std::fs::{self, FileTimes, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::time::SystemTime;

use rustix::fs::FlockOperation;
use tempfile::TempDir;
use xxhash_rust::xxh64::xxh64;

use super::*;
use crate::config::{Command, parse};
use crate::extent::{Layout, RAW_FRAME_BYTES, content_checksum};
use crate::limits::DISK_BLOCK_BYTES;
use crate::manifest::id::EntryId;
use crate::manifest::parts::Part;
use crate::manifest::want::Want;
use crate::tree::sum::Sum;

const URL: &str = "http://host/git/a/b";
/// Of the pack and of the frames.
const PACK_BYTES: u64 = RAW_FRAME_BYTES + 5000;
const FRAMES_BYTES: u64 = 3000;
/// Of the sum at a pack's end, which it is called after.
const SUM_BYTES: usize = 20;
const PACK: usize = 0;
const FRAMES: usize = 1;

fn content(bytes: u64, seed: u8) -> Vec<u8> {
    let byte = |n: u64| (n.wrapping_mul(2_654_435_761) >> 7) as u8 ^ seed;
    (0..bytes).map(byte).collect()
}

/// A snapshot of one pack and its own frames, and what they contain.
fn snapshot(seed: u8) -> (Manifest, [Vec<u8>; 2]) {
    let (mut pack, frames) = (content(PACK_BYTES, seed), content(FRAMES_BYTES, !seed));
    let end = pack.len() - SUM_BYTES;
    let mut sum = Sum::new(gix::hash::Kind::Sha1);
    sum.update(&pack[..end]);
    pack[end..].copy_from_slice(&sum.finish());
    let hex: String = pack[end..]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut layout = Layout::default();
    layout.push_spool(FRAMES_BYTES);
    let (first, rest) = pack.split_at(RAW_FRAME_BYTES as usize);
    let sums = [content_checksum(first), content_checksum(rest)];
    layout.push_raw(0, 0, PACK_BYTES, &sums);
    let parts = vec![
        Part {
            name: format!("pack-{hex}.pack"),
            bytes: PACK_BYTES,
            whole: None,
        },
        Part {
            name: format!("{seed:032x}"),
            bytes: FRAMES_BYTES,
            whole: Some(xxh64(&frames, 0)),
        },
    ];
    let manifest = Manifest {
        id: EntryId::from_bytes([seed; 16]),
        want: Want::default(),
        commit: None,
        parts,
        sections: Vec::new(),
        layout,
    };
    assert!(manifest.is_sound());
    (manifest, [pack, frames])
}

struct Lab(TempDir);

impl Lab {
    fn new() -> Lab {
        Lab(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("seed")
    }

    fn args(&self, more: &[&str]) -> RestoreArgs {
        let words = ["tarpon", "restore", "a/b", "/nowhere", "--seed"].map(Into::into);
        let words = words.into_iter().chain([self.path().into_os_string()]);
        // How full this machine's disk is must not decide what a test sees.
        let words = words.chain(["--seed-free-floor", "0"].map(Into::into));
        let words = words.chain(more.iter().map(Into::into));
        match parse(words.collect::<Vec<_>>(), |_| None) {
            Ok(Command::Restore(args)) => *args,
            _ => panic!("the arguments are wrong"),
        }
    }

    fn open(&self, more: &[&str]) -> Seed<'static> {
        self.open_at(URL, more)
    }

    fn open_at(&self, url: &str, more: &[&str]) -> Seed<'static> {
        let ground = Ground::open(&self.path()).unwrap();
        Seed::new(ground, &self.path(), url, &self.args(more), None)
    }

    /// Every file below it but directories.
    fn files(&self) -> Vec<PathBuf> {
        let below = |dir: &Path| {
            let listing = fs::read_dir(dir)
                .unwrap()
                .map(|entry| entry.unwrap().path());
            listing.collect::<Vec<_>>()
        };
        let homes = below(&self.path());
        let mut files: Vec<_> = homes.iter().flat_map(|home| below(home)).collect();
        files.sort();
        files
    }

    /// The file of a part of the usual repository.
    fn file(&self, manifest: &Manifest, number: usize) -> PathBuf {
        let home = self.path().join(name::of_repository(URL));
        home.join(name::of_part(manifest, number))
    }
}

fn find<'s>(seed: &'s Seed<'s>, manifest: &Manifest, number: usize) -> Option<Lent<'s>> {
    seed.find(manifest, number, &Stop::default())
}

/// As a download does.
fn add(seed: &Seed<'_>, (manifest, contents): &(Manifest, [Vec<u8>; 2]), number: usize) -> bool {
    assert!(find(seed, manifest, number).is_none());
    let Some(incoming) = seed.begin(manifest, number) else {
        return false;
    };
    incoming.file().write_all_at(&contents[number], 0).unwrap();
    seed.keep(incoming);
    true
}

fn read(lent: &Lent<'_>) -> Vec<u8> {
    read_file(&lent.file)
}

fn read_file(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Changes a byte as a disk does: no date tells.
fn rot(path: &Path, at: u64) {
    let found = fs::metadata(path).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    let times = FileTimes::new();
    let times = times.set_modified(found.modified().unwrap());
    file.set_times(times.set_accessed(found.accessed().unwrap()))
        .unwrap();
    fs::set_permissions(path, found.permissions()).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn what_was_kept_is_found_by_the_next_one_and_nobody_else_may_look() {
    let lab = Lab::new();
    let both = snapshot(1);
    let seed = lab.open(&[]);
    assert!(add(&seed, &both, PACK) && add(&seed, &both, FRAMES));
    drop(seed);
    let seed = lab.open(&[]);
    for number in [PACK, FRAMES] {
        let file = find(&seed, &both.0, number).unwrap();
        assert!(read(&file) == both.1[number]);
        let found = fs::metadata(lab.file(&both.0, number)).unwrap();
        assert_eq!(found.mode() & 0o7777, 0o444);
    }
    assert_eq!(seed.used_bytes(), PACK_BYTES + FRAMES_BYTES);
    assert_eq!(lab.files().len(), 2);
    let mode = fs::metadata(lab.path()).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o700);
    // Another repository's server is not believed about this one.
    assert!(find(&lab.open_at("http://other/git/a/b", &[]), &both.0, PACK).is_none());
}

/// A part of the same name and length that contains something else is another part.
#[test]
fn a_name_says_what_is_in_it() {
    let lab = Lab::new();
    let seed = lab.open(&[]);
    let (one, mut other) = (snapshot(1), snapshot(2));
    other.0.parts[FRAMES].name = one.0.parts[FRAMES].name.clone();
    for number in [PACK, FRAMES] {
        assert!(add(&seed, &one, number));
        assert!(find(&seed, &other.0, number).is_none());
        assert!(add(&seed, &other, number));
        for (manifest, contents) in [&one, &other] {
            let file = find(&seed, manifest, number).unwrap();
            assert!(read(&file) == contents[number]);
        }
    }
}

/// Whoever answers once as the server can give another pack, and say of it the checksums that the right one has: they are
/// no proof. It is not kept, and not taken where somebody else has put it.
#[test]
fn a_pack_under_the_name_of_another_is_kept_by_nobody() {
    let lab = Lab::new();
    let seed = lab.open(&[]);
    let (right, mut other) = (snapshot(1), snapshot(2));
    // It ends as a pack does, and its manifest says what the right one's does not.
    other.0.parts[PACK].name = right.0.parts[PACK].name.clone();
    assert!(add(&seed, &other, PACK) && lab.files().is_empty());
    assert!(find(&seed, &other.0, PACK).is_none());
    // One was kept before, and is believed as read.
    let path = lab.file(&other.0, PACK);
    fs::write(&path, &other.1[PACK]).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
    seed.clock.note_read(&File::open(&path).unwrap()).unwrap();
    assert!(find(&seed, &other.0, PACK).is_none() && !path.exists());
    // Its end is the right one's: whoever sums it doubts the seed, which then sums it, too.
    let mut forged = other.1[PACK].clone();
    let end = forged.len() - SUM_BYTES;
    forged[end..].copy_from_slice(&right.1[PACK][end..]);
    let (first, rest) = forged.split_at(RAW_FRAME_BYTES as usize);
    let sums = [content_checksum(first), content_checksum(rest)];
    let mut layout = Layout::default();
    layout.push_spool(FRAMES_BYTES);
    layout.push_raw(0, 0, PACK_BYTES, &sums);
    other.0.layout = layout;
    other.1[PACK] = forged;
    assert!(add(&seed, &other, PACK));
    assert!(!find(&seed, &other.0, PACK).unwrap().is_sound());
    seed.is_doubted.store(true, Relaxed);
    assert!(find(&seed, &other.0, PACK).is_none());
    assert!(lab.files().is_empty());
}

/// What has rotted is believed until it is read again: after the interval, after a boot, after somebody did something
/// to it, and once something was found wrong.
#[test]
fn what_has_rotted_is_found_when_it_is_read_again() {
    let both = snapshot(1);
    type Change = fn(&mut Seed<'_>, &Path);
    let changes: [(&str, Change); 7] = [
        ("an interval", |seed, _| {
            seed.clock.ahead = Duration::from_secs(86_401)
        }),
        ("a boot", |seed, _| {
            seed.clock.boot = seed.clock.boot.map(|boot| boot ^ 2)
        }),
        ("no boot", |seed, _| seed.clock.boot = None),
        ("a doubt", |seed, _| seed.is_doubted.store(true, Relaxed)),
        ("a touch", |_, path| {
            let file = File::open(path).unwrap();
            file.set_modified(SystemTime::now()).unwrap();
        }),
        ("a chmod", |_, path| {
            fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap()
        }),
        ("a clock set back", |_, path| {
            let nanoseconds = fs::metadata(path).unwrap().mtime_nsec() as u32;
            let ahead = Duration::new(4_000_000_000, nanoseconds);
            File::open(path)
                .unwrap()
                .set_modified(SystemTime::UNIX_EPOCH + ahead)
                .unwrap();
        }),
    ];
    for (number, at) in [
        (PACK, RAW_FRAME_BYTES + 1),
        (PACK, 0),
        (FRAMES, FRAMES_BYTES - 1),
    ] {
        for (what, change) in changes {
            let sound = Lab::new();
            let mut seed = sound.open(&[]);
            assert!(add(&seed, &both, number));
            change(&mut seed, &sound.file(&both.0, number));
            let whole = find(&seed, &both.0, number).unwrap_or_else(|| panic!("{what}"));
            assert!(read(&whole) == both.1[number]);
            let lab = Lab::new();
            let mut seed = lab.open(&[]);
            assert!(add(&seed, &both, number));
            let path = lab.file(&both.0, number);
            rot(&path, at);
            assert!(
                find(&seed, &both.0, number).is_some(),
                "{what}: it is believed"
            );
            change(&mut seed, &path);
            assert!(find(&seed, &both.0, number).is_none(), "{what}");
            assert!(!path.exists(), "{what}");
            assert!(add(&seed, &both, number));
            assert!(read(&find(&seed, &both.0, number).unwrap()) == both.1[number]);
        }
    }
    let lab = Lab::new();
    assert!(add(&lab.open(&[]), &both, PACK));
    rot(&lab.file(&both.0, PACK), 7);
    assert!(find(&lab.open(&["--seed-check-interval", "0s"]), &both.0, PACK).is_none());
}

/// Anything can be at a part's name, and nothing of it is taken, waited for or followed.
#[test]
fn what_is_no_part_is_not_taken() {
    let both = snapshot(1);
    let lab = Lab::new();
    let seed = lab.open(&[]);
    assert!(add(&seed, &both, PACK));
    let path = lab.file(&both.0, PACK);
    let right = fs::read(&path).unwrap();
    let elsewhere = lab.0.path().join("elsewhere");
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    fs::rename(&path, &elsewhere).unwrap();
    let expect_refused = |what: &str| {
        assert!(find(&seed, &both.0, PACK).is_none(), "{what}");
        assert!(fs::symlink_metadata(&path).is_err(), "{what} stays");
    };
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    expect_refused("a link");
    let (home, name) = (path.parent().unwrap(), path.file_name().unwrap());
    let home = File::open(home).unwrap();
    rustix::fs::mknodat(&home, name, rustix::fs::FileType::Fifo, 0o444.into(), 0).unwrap();
    expect_refused("a pipe");
    let put = |bytes: &[u8], mode| {
        fs::write(&path, bytes).unwrap();
        File::open(&path).unwrap().set_modified(times).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    };
    put(&right[1..], 0o444);
    expect_refused("a short one");
    put(&[&right[..], b"x"].concat(), 0o444);
    expect_refused("a long one");
    put(&right, 0o664);
    expect_refused("one that others may write");
    if is_root() {
        put(&right, 0o444);
        std::os::unix::fs::chown(&path, Some(54_321), None).unwrap();
        expect_refused("another user's");
    } else {
        eprintln!("not root: nothing is given to another user");
    }
    fs::create_dir(&path).unwrap();
    expect_refused("a directory");
    // What is in one is nobody's to remove: that part cannot be kept, and all others can.
    fs::create_dir(&path).unwrap();
    fs::write(path.join("x"), "mine").unwrap();
    assert!(add(&seed, &both, PACK) && path.join("x").exists());
    assert!(find(&seed, &both.0, PACK).is_none());
    assert!(add(&seed, &both, FRAMES));
    assert!(find(&seed, &both.0, FRAMES).is_some());
    assert_eq!(lab.files().len(), 2, "{:?}", lab.files());
}

#[test]
fn a_seed_of_somebody_else_is_refused_and_none_at_all_is_done_without() {
    let lab = Lab::new();
    let progress = Progress::default();
    let open = |args: &RestoreArgs| Seed::open(args, URL, &progress);
    fs::create_dir(lab.path()).unwrap();
    fs::write(lab.path().join("x"), "").unwrap();
    for mode in [0o777, 0o720, 0o1777] {
        fs::set_permissions(lab.path(), PermissionsExt::from_mode(mode)).unwrap();
        let error = open(&lab.args(&[])).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let error = error.to_string();
        assert!(error.contains("others may write"), "{error}");
        assert_eq!(error.contains("chmod go-w"), mode != 0o1777, "{error}");
    }
    // Nor does one that is meant for all become this user's because nobody has put anything there yet, or is told to.
    let mode = || fs::metadata(lab.path()).unwrap().mode() & 0o7777;
    fs::remove_file(lab.path().join("x")).unwrap();
    fs::set_permissions(lab.path(), PermissionsExt::from_mode(0o1777)).unwrap();
    let error = open(&lab.args(&[])).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let error = error.to_string();
    assert!(
        error.contains("(mode 1777): name a directory in it"),
        "{error}"
    );
    assert!(!error.contains("chmod"), "{error}");
    assert_eq!(mode(), 0o1777);
    // What is done as is said there.
    let args = lab.args(&[]);
    let inside = RestoreArgs {
        seed: args.seed.as_ref().map(|seed| seed.join("inside")),
        ..args
    };
    assert!(open(&inside).unwrap().is_some());
    assert_eq!(mode(), 0o1777);
    fs::remove_dir_all(lab.path().join("inside")).unwrap();
    // As a volume is made for whoever may run in a container.
    for open_mode in [0o777, 0o2777, 0o775, 0o1700] {
        fs::set_permissions(lab.path(), PermissionsExt::from_mode(open_mode)).unwrap();
        assert!(open(&lab.args(&[])).unwrap().is_some(), "{open_mode:o}");
        assert_eq!(mode(), 0o700, "{open_mode:o}");
        fs::read_dir(lab.path()).unwrap().for_each(|entry| {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        });
    }
    fs::write(lab.path().join("x"), "").unwrap();
    // Opened to readers on purpose.
    fs::set_permissions(lab.path(), PermissionsExt::from_mode(0o755)).unwrap();
    assert!(open(&lab.args(&[])).unwrap().is_some());
    assert_eq!(mode(), 0o755);
    fs::remove_file(lab.path().join("x")).unwrap();
    assert!(open(&lab.args(&[])).unwrap().is_some());
    assert_eq!(mode(), 0o700);
    if is_root() {
        std::os::unix::fs::chown(lab.path(), Some(54_321), None).unwrap();
        let error = open(&lab.args(&[])).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("user 54321"), "{error}");
    }
    // A place in which nothing can be made.
    let mut args = lab.args(&["--quiet"]);
    args.seed = Some("/proc/seed".into());
    assert!(open(&args).unwrap().is_none());
}

/// The least recently used goes, but for what this restore uses, and only for what then fits.
#[test]
fn what_was_used_least_recently_leaves() {
    let lab = Lab::new();
    let whole = PACK_BYTES.next_multiple_of(DISK_BLOCK_BYTES);
    let limit = (3 * whole + 2 * DISK_BLOCK_BYTES).to_string();
    let limits = ["--seed-limit", limit.as_str()];
    let snapshots = [1, 2, 3, 4].map(snapshot);
    for (at, both) in snapshots[..3].iter().enumerate() {
        let mut seed = lab.open_at(&format!("http://host/git/{at}"), &limits);
        seed.clock.ahead = Duration::from_secs(at as u64);
        assert!(add(&seed, both, PACK));
    }
    let mut first = lab.open_at("http://host/git/0", &limits);
    first.clock.ahead = Duration::from_secs(10);
    assert!(find(&first, &snapshots[0].0, PACK).is_some());
    let there = |at: usize| {
        let url = format!("http://host/git/{at}");
        let path = lab.path().join(name::of_repository(&url));
        path.join(name::of_part(&snapshots[at].0, PACK)).exists()
    };
    assert!(there(0) && there(1) && there(2));
    let seed = lab.open(&limits);
    assert!(add(&seed, &snapshots[3], PACK));
    assert!(there(0) && !there(1) && there(2));
    // Frames fit beside them.
    assert!(add(&seed, &snapshots[3], FRAMES));
    assert!(there(0) && there(2));
    // More than may ever be there has nobody leave.
    let mut huge = snapshot(5);
    huge.0.parts[FRAMES].bytes = 4 * whole;
    assert!(seed.begin(&huge.0, FRAMES).is_none());
    huge.0.parts[FRAMES].bytes = u64::MAX >> 1;
    assert!(seed.begin(&huge.0, FRAMES).is_none());
    assert!(there(0) && there(2) && lab.files().len() == 4);
    // What this restore has found or brought stays.
    let small = (2 * whole + DISK_BLOCK_BYTES).to_string();
    let seed = lab.open(&["--seed-limit", small.as_str()]);
    assert!(find(&seed, &snapshots[3].0, PACK).is_some());
    assert!(find(&seed, &snapshots[3].0, FRAMES).is_some());
    assert!(seed.begin(&snapshot(6).0, PACK).is_none() || !there(0));
    drop(seed);
    let kept = lab.files().len();
    assert!(kept <= 3, "{kept} are more than may be there");
    assert!(lab.file(&snapshots[3].0, PACK).exists());
}

/// What others have begun is theirs for as long as they live, and counts.
#[test]
fn what_a_dead_one_has_begun_goes() {
    let lab = Lab::new();
    let both = snapshot(1);
    let seed = lab.open(&[]);
    let begun = seed.begin(&both.0, PACK).unwrap();
    let home = lab.path().join(name::of_repository(URL));
    let left = home.join(name::new());
    fs::write(&left, "left").unwrap();
    let other = home.join("of-nobody");
    fs::write(&other, "").unwrap();
    let elsewhere = lab.open_at("http://host/git/c", &[]);
    drop(elsewhere.begin(&both.0, FRAMES).unwrap());
    assert!(!left.exists() && other.exists());
    fs::remove_dir(lab.path().join(name::of_repository("http://host/git/c"))).unwrap();
    fs::write(&left, "left").unwrap();
    let next = lab.open(&[]);
    assert!(!left.exists() && other.exists());
    assert_eq!(lab.files().len(), 2, "what somebody downloads stays");
    begun.file().write_all_at(&both.1[PACK], 0).unwrap();
    seed.keep(begun);
    assert!(find(&next, &both.0, PACK).is_some());
    // Its lock is on what has another name now.
    let file = File::open(lab.file(&both.0, PACK)).unwrap();
    drop(seed);
    // What another test has just forked may hold it until it is another program.
    let is_free = || {
        std::thread::sleep(std::time::Duration::from_millis(10));
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
    };
    assert!((0..1000).any(|_| is_free()));
    let most = ["--seed-limit", "5M"];
    let full = lab.open(&most);
    let _mine = full.begin(&snapshot(2).0, PACK).unwrap();
    assert!(
        lab.open(&most).begin(&snapshot(3).0, PACK).is_none(),
        "it is full of what comes"
    );
}

/// Whatever a power cut leaves: shorter files, holes, names without files, files without names.
#[test]
fn behind_a_power_cut_nothing_is_believed() {
    let both = snapshot(1);
    for outcome in 0..60_u64 {
        let lab = Lab::new();
        let seed = lab.open(&[]);
        assert!(add(&seed, &both, PACK) && add(&seed, &both, FRAMES));
        drop(seed);
        for (number, bytes) in [(PACK, PACK_BYTES), (FRAMES, FRAMES_BYTES)] {
            let path = lab.file(&both.0, number);
            let found = fs::metadata(&path).unwrap();
            let at = (outcome * 7919 + 13) * 4096 % bytes;
            fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            match outcome % 5 {
                0 => file.set_len(at).unwrap(),
                1 => {
                    file.set_len(at).unwrap();
                    file.set_len(bytes).unwrap();
                }
                2 => file
                    .write_all_at(&vec![0; 4096.min((bytes - at) as usize)], at)
                    .unwrap(),
                3 => fs::remove_file(&path).unwrap(),
                _ => fs::rename(&path, path.with_file_name(name::new())).unwrap(),
            }
            file.set_modified(found.modified().unwrap()).unwrap();
            file.set_permissions(found.permissions()).unwrap();
        }
        let mut seed = lab.open(&[]);
        seed.clock.boot = Some(5);
        for number in [PACK, FRAMES] {
            if let Some(file) = find(&seed, &both.0, number) {
                assert!(read(&file) == both.1[number], "outcome {outcome}");
            } else {
                assert!(add(&seed, &both, number), "outcome {outcome}");
            }
            let file = find(&seed, &both.0, number).unwrap();
            assert!(read(&file) == both.1[number]);
        }
        drop(seed);
        assert_eq!(lab.files().len(), 2, "outcome {outcome}: {:?}", lab.files());
    }
}

/// By another name, or copied, whatever file systems they lie on.
#[test]
fn a_part_gets_its_place_in_a_working_copy() {
    let lab = Lab::new();
    let both = snapshot(1);
    let target = lab.0.path().join("copy");
    fs::create_dir(&target).unwrap();
    let to = File::open(&target).unwrap();
    let mode = Mode::from_raw_mode(0o440);
    let place = |seed: &Seed<'_>, to: &File, name| {
        let lent = find(seed, &both.0, PACK).unwrap();
        let is_there = lent.place(to.as_fd(), name, mode);
        if !is_there {
            assert!(!target.join(name).exists(), "what is no copy goes");
            let flags = OFlags::RDWR | OFlags::CREATE;
            let copy = File::from(rustix::fs::openat(to, name, flags, Mode::RWXU).unwrap());
            for range in [5..PACK_BYTES, 0..5] {
                assert!(lent.copy(&copy, range, &Stop::default()).unwrap());
            }
        }
        is_there
    };
    let seed = lab.open(&[]);
    assert!(add(&seed, &both, PACK));
    place(&seed, &to, "copied");
    let own = fs::metadata(lab.file(&both.0, PACK)).unwrap().ino();
    assert_ne!(fs::metadata(target.join("copied")).unwrap().ino(), own);
    assert!(fs::read(target.join("copied")).unwrap() == both.1[PACK]);
    let links = lab.open(&["--seed-link"]);
    assert!(place(&links, &to, "linked"));
    assert_eq!(fs::metadata(target.join("linked")).unwrap().ino(), own);
    assert!(find(&links, &both.0, PACK).is_some());
    // Somebody in the workspace.
    let file = target.join("linked");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let byte = both.1[PACK][9] ^ 1;
    let writes = OpenOptions::new().write(true).open(&file).unwrap();
    writes.write_all_at(&[byte], 9).unwrap();
    assert!(find(&links, &both.0, PACK).is_none(), "it was written into");
    assert!(
        fs::read(&file).unwrap()[9] == byte,
        "what is the user's stays"
    );
    assert!(add(&links, &both, PACK));
    // Another file system: nothing can be linked there.
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("no /dev/shm: nothing is placed on another file system");
        return;
    };
    assert!(!place(&links, &File::open(other.path()).unwrap(), "there"));
    assert!(fs::read(other.path().join("there")).unwrap() == both.1[PACK]);
    let stop = Stop::default();
    stop.set();
    let lent = find(&links, &both.0, PACK).unwrap();
    let copy = File::create(target.join("stopped")).unwrap();
    let stopped = lent.copy(&copy, 0..PACK_BYTES, &stop).unwrap_err();
    assert_eq!(stopped.kind(), io::ErrorKind::Interrupted);
    links.clock.note_used(&lent.file).unwrap();
    links.is_doubted.store(true, Relaxed);
    assert!(links.find(&both.0, PACK, &stop).is_none());
    assert!(
        find(&links, &both.0, PACK).is_some(),
        "nobody has read it, so it stays"
    );
}

/// Git's sums count only for as long as what they were made of is believed.
#[test]
fn what_git_s_formats_want_is_looked_at_as_often_as_the_rest() {
    let lab = Lab::new();
    let both = snapshot(1);
    let mut seed = lab.open(&[]);
    assert!(add(&seed, &both, PACK));
    let is_sound = |seed: &Seed<'_>| find(seed, &both.0, PACK).unwrap().is_sound();
    assert!(!is_sound(&seed));
    let lent = find(&seed, &both.0, PACK).unwrap();
    note_sound(&lent.file);
    drop(lent);
    assert!(is_sound(&seed) && is_sound(&lab.open(&[])));
    assert!(!is_sound(&lab.open(&["--seed-check-interval", "0s"])));
    assert!(!is_sound(&seed), "it was read anew");
    let lent = find(&seed, &both.0, PACK).unwrap();
    note_sound(&lent.file);
    drop(lent);
    seed.clock.ahead = Duration::from_secs(86_401);
    assert!(!is_sound(&seed));
    seed.clock.ahead = Duration::ZERO;
    seed.clock.boot = None;
    assert!(!is_sound(&seed));
}

/// To use a part is not to read it: whoever does that all day long finds what has rotted, when it is time.
#[test]
fn a_use_puts_off_no_reading() {
    // Nearly half of the time after which it is read again.
    const USED_EACH_S: u64 = 43_000;
    let lab = Lab::new();
    let both = snapshot(1);
    let seed = lab.open(&[]);
    assert!(add(&seed, &both, PACK));
    let path = lab.file(&both.0, PACK);
    for use_number in 0..3 {
        let lent = find(&seed, &both.0, PACK).unwrap();
        assert_eq!(lent.is_sound(), use_number > 0);
        note_sound(&lent.file);
        if use_number == 0 {
            rot(&path, 7);
        }
        // As it is that much later.
        let found = fs::metadata(&path).unwrap();
        let before = found.modified().unwrap() - Duration::from_secs(USED_EACH_S);
        lent.file.set_modified(before).unwrap();
    }
    assert!(find(&seed, &both.0, PACK).is_none(), "it is never read");
    assert!(!path.exists());
}

/// What gets shorter while it is used, as what a disk cannot read, is done without.
#[test]
fn what_cannot_be_read_while_it_is_used_goes() {
    let both = snapshot(1);
    for number in [PACK, FRAMES] {
        let lab = Lab::new();
        let seed = lab.open(&[]);
        assert!(add(&seed, &both, number));
        let (path, bytes) = (lab.file(&both.0, number), both.0.parts[number].bytes);
        let lent = find(&seed, &both.0, number).unwrap();
        let mut begin = [0; 10];
        assert!(lent.read(0, &mut begin) && begin[..] == both.1[number][..10]);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(bytes - 1).unwrap();
        let copy = tempfile::tempfile().unwrap();
        let copied = |range| lent.copy(&copy, range, &Stop::default()).unwrap();
        assert!(copied(0..bytes - 1));
        assert!(!copied(0..bytes) && !path.exists(), "it is wrong, and goes");
        assert!(!copied(0..1) && !lent.read(0, &mut begin) && !lent.is_sound());
        assert!(find(&seed, &both.0, number).is_none());
        // What cannot be written is not its fault.
        assert!(add(&seed, &both, number));
        let lent = find(&seed, &both.0, number).unwrap();
        let only_read = File::open(lab.file(&both.0, number)).unwrap();
        lent.copy(&only_read, 0..bytes, &Stop::default())
            .unwrap_err();
        assert!(lent.read(0, &mut begin));
    }
}
