//! Whole builds from real repositories, without a server around them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use gix::ObjectId;
use gix::bstr::ByteSlice;

use super::budget::Budget;
use super::job::EncoderState;
use super::output::{BuildError, Spool};
use super::produce::{self, Head, History, Input};
use super::reuse::{Base, Reuse};
use super::reverse::make_reverse_index;
use super::ring::{Ring, Size};
use super::turns::{Turn, Turns};
use super::verify::Verified;
use super::view::{self, AsItIs, PinError, View};
use crate::archive::fanout::Fanout;
use crate::archive::open_files::OpenFile;
use crate::classes::{Arrival, Urgency};
use crate::extent::{Layout, Next, Piece};
use crate::faults::Faults;
use crate::io::lasts::Lasts;
use crate::limits::{COMMIT_BYTES_MAX, DECODE_BUDGET_BYTES, DECODE_LIMIT_BYTES};
use crate::manifest::id::EntryId;
use crate::manifest::meta::{Fields, META_NAME, Meta};
use crate::manifest::outline::{OUTLINE_NAME, Outline};
use crate::manifest::record::{Linked, Record};
use crate::manifest::want::Want;
use crate::refs::{MirrorRefs, Recent};
use crate::telemetry::metrics::Metrics;

mod attributes;
mod golden;
mod histories;
mod shapes;

/// A repository with a worktree.
pub(crate) struct Repository {
    pub(crate) dir: tempfile::TempDir,
}

impl Repository {
    pub(crate) fn new() -> Repository {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository { dir };
        repository.git(&["init", "-q", "-b", "main", "."]);
        repository
    }

    pub(crate) fn git(&self, args: &[&str]) -> String {
        let mut command = Command::new("git");
        command
            .current_dir(self.dir.path())
            .args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null");
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), "t")
                .env(format!("GIT_{role}_EMAIL"), "t@example.com")
                .env(format!("GIT_{role}_DATE"), "1700000000 +0000");
        }
        let out = command.output().unwrap();
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "git {args:?}: {errors}");
        String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
    }

    pub(crate) fn write(&self, path: &str, data: impl AsRef<[u8]>) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, data).unwrap();
    }

    pub(crate) fn commit(&self) {
        self.git(&["add", "-A", "."]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "c"]);
    }

    pub(crate) fn commit_packed(&self) {
        self.commit();
        self.git(&["repack", "-adq"]);
    }
}

/// A spool in memory.
struct Memory<'f> {
    fanout: &'f Fanout,
    bytes: Mutex<Vec<u8>>,
}

impl Spool for Memory<'_> {
    fn write(&self, offset: u64, piece: Piece) {
        let mut bytes = self.bytes.lock().unwrap();
        assert_eq!(bytes.len() as u64, offset);
        bytes.extend_from_slice(&piece);
        self.fanout.spooled(offset + piece.len() as u64);
    }
}

/// What a build made: an entry in a directory of its own.
struct Built {
    archive: Vec<u8>,
    outline: Outline,
    layout: Layout,
    /// Where its own frames are in its directory, and what files of frames it links.
    spool: String,
    linked: Vec<Linked>,
    dir: tempfile::TempDir,
}

impl Built {
    /// How many of its jobs are the earlier one's.
    fn taken_from(&self, before: &Built) -> usize {
        let known = |job: &&Record| before.outline.jobs.iter().any(|b| b.key == job.key);
        self.outline.jobs.iter().filter(known).count()
    }

    /// Unpacks the files with `tar`, checks them with git, and gives their content.
    fn check(&self) -> BTreeMap<String, Vec<u8>> {
        let tar = decompress(&self.archive);
        let target = tempfile::tempdir().unwrap();
        let mut archive = tar::Archive::new(&tar[..]);
        archive.set_preserve_mtime(true);
        archive.unpack(target.path()).unwrap();
        let git = |args: &[&str]| {
            let command = &mut Command::new("git");
            let out = command.current_dir(target.path()).args(args).output();
            let out = out.unwrap();
            let errors = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "git {args:?}: {errors}");
            String::from_utf8(out.stdout).unwrap()
        };
        assert_eq!(git(&["status", "--porcelain"]), "");
        // Not by reading them: what the index says of the files is what they are.
        assert_eq!(git(&["diff-files", "--name-only"]), "");
        git(&["fsck", "--full", "--strict"]);
        files_of(self)
    }
}

/// The archive's entries and their content.
fn files_of(built: &Built) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let tar = decompress(&built.archive);
    for entry in tar::Archive::new(&tar[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        files.insert(path, data);
    }
    files
}

fn decompress(archive: &[u8]) -> Vec<u8> {
    let mut context = zstd_safe::DCtx::create();
    let mut out = Vec::new();
    let mut rest = archive;
    while !rest.is_empty() {
        let frame = zstd_safe::find_frame_compressed_size(rest).unwrap();
        let bytes = zstd_safe::get_frame_content_size(rest).unwrap().unwrap();
        let mut data = Vec::with_capacity(bytes as usize);
        context.decompress(&mut data, &rest[..frame]).unwrap();
        out.extend_from_slice(&data);
        rest = &rest[frame..];
    }
    out
}

fn none_put_aside(_: &MirrorRefs, loose: &[ObjectId], cruft: &[String]) -> bool {
    loose.is_empty() && cruft.is_empty()
}

/// Pins what the repository has, packed first if it is not.
fn pin(repository: &Repository, directory: &Path) -> View {
    let mirror = repository.dir.path().join(".git");
    let mut link = |source: &Path, relative: &str| {
        let target = directory.join(relative);
        fs::create_dir_all(target.parent().unwrap())?;
        if !target.exists() {
            fs::hard_link(source, &target)?;
        }
        Ok(fs::metadata(&target)?.len())
    };
    for _ in 0..100 {
        match view::pin(
            &mirror,
            &Recent::default(),
            AsItIs::No,
            &none_put_aside,
            &mut link,
        ) {
            Err(PinError::Loose { .. }) => drop(repository.git(&["repack", "-dkq"])),
            Err(PinError::NoReverse { packs }) => {
                let hash = view::object_hash(&mirror).unwrap();
                packs
                    .iter()
                    .for_each(|pack| make_reverse_index(pack, hash, Lasts::ByCaller).unwrap());
            }
            view => {
                let view = view.unwrap();
                view::make_repository(&view, directory).unwrap();
                return view;
            }
        }
    }
    panic!("it is never as it should be");
}

fn input(repository: &Repository, directory: PathBuf) -> Input {
    Input {
        view: pin(repository, &directory),
        directory,
        level: 1,
        reuse: Reuse::default(),
        parts: Vec::new(),
        faults: Faults::default(),
        budget: Budget::new(DECODE_BUDGET_BYTES),
        verified: Verified::default(),
    }
}

fn pack_index(repository: &Repository) -> String {
    let packs = fs::read_dir(repository.dir.path().join(".git/objects/pack")).unwrap();
    let mut files = packs.map(|file| file.unwrap().path());
    let index = files.find(|path| path.extension().is_some_and(|e| e == "idx"));
    index.unwrap().to_str().unwrap().to_owned()
}

fn build(repository: &Repository, threads: usize, before: Option<&Built>) -> Built {
    let directory = tempfile::tempdir().unwrap();
    let input = input(repository, directory.path().to_owned());
    let built = build_on(input, threads, before, directory);
    assert_unmapped(built.dir.path());
    built
}

fn build_input(input: Input, threads: usize) -> Built {
    build_on(input, threads, None, tempfile::tempdir().unwrap())
}

/// Builds in `dir`, an entry, on what an earlier one has.
fn build_on(input: Input, threads: usize, before: Option<&Built>, dir: tempfile::TempDir) -> Built {
    produce_on(input, threads, before, dir).unwrap()
}

fn produce_on(
    mut input: Input,
    threads: usize,
    before: Option<&Built>,
    dir: tempfile::TempDir,
) -> Result<Built, BuildError> {
    let open = |path: &Path| File::open(path).ok().map(OpenFile::uncounted);
    if let Some(base) = before.and_then(|before| Base::open(before.dir.path())) {
        input.reuse = base.take(&input.verified, || false, open);
        input.reuse.follow(input.view.packs.len());
    }
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let spool_name = format!("frames/{number}");
    fs::create_dir_all(dir.path().join("frames")).unwrap();
    let mut files = input.view.packs.clone();
    let packs = files.iter().map(|file| input.directory.join(&file.path));
    let mut linked = Vec::from_iter(packs);
    input.parts = vec![spool_name.clone()];
    for frames in &input.reuse.linked {
        let target = dir.path().join(&frames.file.path);
        fs::hard_link(&frames.source, &target).unwrap();
        input.parts.push(frames.file.path.clone());
        files.push(frames.file.clone());
        linked.push(target);
    }
    let ring = Ring::start(threads, EncoderState::default).unwrap();
    let fanout = Arc::new(Fanout::new());
    let spool = Memory {
        fanout: &fanout,
        bytes: Mutex::default(),
    };
    let objects = input.directory.join("objects");
    let size = produce::size(&input.view);
    let head = Head::read(&input.view, "https://example.com/r", &objects).unwrap();
    let opened = produce::open(input, head).unwrap();
    let mut turn = turn_for(size, threads, &fanout);
    let take = move || turn.take().map(|()| turn);
    let produced = produce::produce(opened, &fanout, &spool, &ring, History::Views, take, || ())?;
    fanout.finish();
    let spool = spool.bytes.into_inner().unwrap();
    fs::write(dir.path().join(&spool_name), &spool).unwrap();
    let built = Built {
        archive: read(&fanout, &spool, &linked),
        outline: produced.outline,
        layout: fanout.layout(),
        spool: spool_name,
        linked: files,
        dir,
    };
    let fields = Fields {
        id: EntryId::from_bytes([0; 16]),
        repository: "host/path".into(),
        want: Want::default(),
        commit: None,
        shown: [0; 32],
        created_unix_ms: 0,
        linked: built.linked.clone(),
        spool: built.spool.clone(),
        layout: built.layout.clone(),
        spool_checksum: xxhash_rust::xxh64::xxh64(&spool, 0),
    };
    let write = |name: &str, bytes| fs::write(built.dir.path().join(name), bytes).unwrap();
    write(META_NAME, Meta::new(fields).unwrap().encode());
    write(OUTLINE_NAME, built.outline.encode());
    assert!(Outline::decode(&built.outline.encode()).unwrap() == built.outline);
    Ok(built)
}

/// A turn that it need not wait for.
fn turn_for(size: Size, threads: usize, fanout: &Arc<Fanout>) -> Turn {
    let turns = Turns::new(threads, &Metrics::new(1).meter(0));
    let name = Arc::from("host/path");
    let seat = turns.enter(&name, size, &Urgency::default(), Arrival::New);
    turns.begin(seat.unwrap(), &name, size, fanout)
}

/// Reads the archive as a client does.
fn read(fanout: &Arc<Fanout>, spool: &[u8], linked: &[PathBuf]) -> Vec<u8> {
    let reader = fanout.join(0).unwrap();
    let mut out = Vec::new();
    loop {
        match reader.next(out.len() as u64, u64::MAX, Waker::noop()) {
            Next::Memory { piece, start, end } => out.extend_from_slice(&piece[start..end]),
            Next::Inline(inline) => out.extend_from_slice(inline.as_slice()),
            Next::File {
                file: None,
                offset,
                len,
            } => {
                out.extend_from_slice(&spool[offset as usize..(offset + len) as usize]);
            }
            Next::File {
                file: Some(file),
                offset,
                len,
            } => {
                let mut data = vec![0; len as usize];
                let file = File::open(&linked[file as usize]).unwrap();
                file.read_exact_at(&mut data, offset).unwrap();
                out.extend_from_slice(&data);
            }
            Next::End => return out,
            other => panic!("{other:?}"),
        }
    }
}

/// Nothing of the build's files is mapped or open in this process. The last piece of work may
/// still be on its way out of its thread.
fn assert_unmapped(directory: &Path) {
    let directory = directory.to_str().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while fs::read_to_string("/proc/self/maps")
        .unwrap()
        .contains(directory)
    {
        assert!(std::time::Instant::now() < deadline, "still mapped");
        std::thread::yield_now();
    }
}

/// Bytes that do not compress and differ by `seed`.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        out.extend_from_slice(&(state >> 16).to_le_bytes()[..4]);
    }
    out.truncate(bytes);
    out
}

/// Small files, jobs that have to be split, big files and a submodule, mixed.
fn mixed() -> Repository {
    let repository = Repository::new();
    for n in 0..300 {
        repository.write(&format!("d{}/f{n}", n % 7), format!("file {n}\n").repeat(n));
    }
    for n in 0..6 {
        repository.write(&format!("d3/split{n}"), noise(1_500_000, n));
    }
    repository.write("d2/big", noise(9_000_000, 50));
    repository.write("d4/exact", noise(8 << 20, 51));
    repository.write("d4/over", noise((8 << 20) + 1, 52));
    repository.write("d5/empty", "");
    std::os::unix::fs::symlink("../d2/big", repository.dir.path().join("d5/link")).unwrap();
    fs::create_dir(repository.dir.path().join("d4/sub")).unwrap();
    repository.git(&[
        "update-index",
        "--add",
        "--cacheinfo",
        "160000,1234567812345678123456781234567812345678,d4/sub",
    ]);
    repository.commit_packed();
    repository
}

/// The checksums of a pack are those that the earlier snapshot has, as long as it is the same file.
#[test]
fn a_pack_that_is_still_there_is_not_summed_again() {
    let repository = Repository::new();
    repository.write("big", noise(9_000_000, 1));
    repository.commit_packed();
    let first = tempfile::tempdir().unwrap();
    let before = input(&repository, first.path().to_owned());
    let files = before.view.packs.clone();
    let scratch = build_on(before, 2, None, first);
    let wrong = scratch.layout.checksums().iter().map(|sum| !sum).collect();
    let wrong = Layout::from_parts(scratch.layout.extents().to_vec(), wrong).unwrap();
    let path = scratch.dir.path().join(META_NAME);
    let mut fields = Meta::decode(&fs::read(&path).unwrap())
        .unwrap()
        .into_fields();
    fields.layout = wrong.clone();
    fs::write(&path, Meta::new(fields).unwrap().encode()).unwrap();
    let taken_over = build(&repository, 2, Some(&scratch)).layout;
    assert!(
        taken_over.checksums() == wrong.checksums(),
        "they were made anew"
    );
    // Files of the same names and lengths in their places.
    for file in &files {
        let path = repository.dir.path().join(".git").join(&file.path);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    let again = build(&repository, 2, Some(&scratch)).layout;
    assert_eq!(again.checksums(), scratch.layout.checksums());
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    let repository = mixed();
    let one = build(&repository, 1, None);
    let four = build(&repository, 4, None);
    assert!(one.archive == four.archive);
    assert_eq!(one.outline.jobs, four.outline.jobs);
    let files = one.check();
    assert_eq!(files["d4/over"], noise((8 << 20) + 1, 52));
    assert!(files.contains_key("d4/sub/"));
}

#[test]
fn a_later_snapshot_takes_over_what_did_not_change() {
    let repository = mixed();
    let first = build(&repository, 2, None);
    repository.write("d3/split2", noise(1_400_000, 99));
    repository.write("d4/more", "more\n");
    repository.commit_packed();
    let second = build(&repository, 2, Some(&first));
    let jobs = &second.outline.jobs;
    assert!(second.taken_from(&first) > 3);
    let over = jobs.iter().find(|r| r.sizes == [(8 << 20) + 1]).unwrap();
    assert!(over.at.part != 0, "it is linked");
    assert!(jobs.len() > second.taken_from(&first));
    let files = second.check();
    assert_eq!(files["d4/more"], b"more\n");
    assert_eq!(files["d4/over"], noise((8 << 20) + 1, 52));
    let scratch = build(&repository, 2, None);
    assert!(scratch.archive == second.archive);
}

/// What git's parser makes of odd attribute files, as a clone shows it.
#[test]
fn odd_attribute_files_are_read_as_git_reads_them() {
    let many = |count| (0..count).map(|n| format!("-a{n:04} ")).collect::<String>();
    for (what, attributes) in [
        (
            "byte order mark",
            "\u{feff}*.txt eol=crlf\n*.md eol=crlf\n".to_owned(),
        ),
        (
            "NUL",
            "*.txt eol=crlf\n*.x eol=lf\0\n*.md eol=crlf\n".to_owned(),
        ),
        (
            "long line",
            format!("*.txt {}eol=crlf\n*.md eol=crlf\n", many(300)),
        ),
        ("2,047 bytes", format!("*.txt {}   eol=crlf\n", many(290))),
        ("2,048 bytes", format!("*.txt {}    eol=crlf", many(290))),
        ("CRLF", "*.txt eol=crlf\r\n*.md eol=crlf\r\n".to_owned()),
    ] {
        let repository = Repository::new();
        repository.git(&["config", "core.autocrlf", "false"]);
        repository.write("a.txt", "1\n2\n");
        repository.write("b.md", "1\n2\n");
        // Last, so that what is committed of the others does not depend on it.
        repository.commit();
        repository.write(".gitattributes", &attributes);
        repository.git(&["add", ".gitattributes"]);
        repository.git(&["commit", "-qm", "attributes"]);
        let place = tempfile::tempdir().unwrap();
        let clone = place.path().join("clone");
        repository.git(&["clone", "-q", ".", clone.to_str().unwrap()]);
        let files = files_of(&build(&repository, 1, None));
        for file in ["a.txt", "b.md"] {
            let cloned = fs::read(clone.join(file)).unwrap();
            assert_eq!(files[file].as_bstr(), cloned.as_bstr(), "{what}: {file}");
        }
        let lines = attributes.lines().map(str::len).max();
        if let Some(bytes) = what.strip_suffix(" bytes") {
            assert_eq!(lines, bytes.replace(',', "").parse().ok(), "{what}");
        }
    }
}

/// A disk that has changed bytes, or has lost some: the frames are made anew, and the new
/// snapshot's own are sound again.
#[test]
fn frames_that_are_damaged_are_not_reused() {
    let repository = Repository::new();
    for number in 0..600 {
        repository.write(
            &format!("d{}/f{number}", number % 4),
            format!("{number}\n").repeat(40),
        );
    }
    repository.write("big", noise((8 << 20) + 100, 5));
    repository.commit_packed();
    let first = build(&repository, 2, None);
    let expected = first.check();
    let jobs = &first.outline.jobs;
    assert!(jobs.len() > 3);
    let big = jobs.iter().max_by_key(|r| r.at.bytes).unwrap().at;
    let middle = jobs[jobs.len() / 2].at;
    let path = first.dir.path().join(&first.spool);
    let sound = fs::read(&path).unwrap();
    for at in [middle.offset, big.offset + big.bytes - 1] {
        let mut damaged = sound.clone();
        damaged[at as usize] ^= 1;
        for bytes in [&damaged[..], &sound[..at as usize]] {
            fs::write(&path, bytes).unwrap();
            let again = build(&repository, 2, Some(&first));
            assert!(again.outline.jobs.iter().all(|job| job.at.part == 0));
            assert!(again.check() == expected, "other files with {at}");
            assert!(again.archive == first.archive, "other bytes with {at}");
        }
    }
    fs::write(&path, &sound).unwrap();
    let again = build(&repository, 2, Some(&first));
    assert!(
        again.outline.jobs.iter().all(|job| job.at.part == 1),
        "all is linked"
    );
    assert!(again.archive == first.archive);
}

/// A disk that gives other bytes than when it was looked at, behind everybody's back: no archive of these
/// gets its end, and who looks again makes them anew.
#[test]
fn frames_that_change_after_they_were_looked_at_end_no_archive() {
    let repository = Repository::new();
    for number in 0..200 {
        repository.write(&format!("d/f{number}"), noise(500, number));
    }
    repository.commit_packed();
    let first = build(&repository, 2, None);
    let path = first.dir.path().join(&first.spool);
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let sound = File::open(&path).unwrap();
    let checksum = xxhash_rust::xxh64::xxh64(&fs::read(&path).unwrap(), 0);
    let at = first.outline.entries[0].at.offset + 20;
    let changed = File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    changed.read_exact_at(&mut byte, at).unwrap();
    changed.write_all_at(&[!byte[0]], at).unwrap();
    changed.set_modified(modified).unwrap();
    let on_it = |verified: &Verified| {
        let directory = tempfile::tempdir().unwrap();
        let mut input = input(&repository, directory.path().to_owned());
        input.verified = verified.clone();
        produce_on(input, 2, Some(&first), directory)
    };
    let verified = Verified::default();
    verified.note(&sound, checksum);
    let refused = on_it(&verified).err().unwrap();
    assert!(matches!(refused, BuildError::Frames(_)), "{refused}");
    verified.clear();
    assert!(on_it(&verified).unwrap().archive == first.archive);
    // Another file in its place, however sound it is as what it was.
    let verified = Verified::default();
    verified.note(&sound, !checksum);
    assert!(on_it(&verified).unwrap().archive == first.archive);
}

/// Two versions of a file that git stores as deltas, one of them small: both take a grant of
/// the budget, and have the bytes that they have without deltas.
#[test]
fn big_deltas_wait_for_memory() {
    let repository = Repository::new();
    // More than an encoder decodes by itself.
    let base = noise(DECODE_LIMIT_BYTES as usize + (1 << 20), 6);
    repository.write("a-base", &base);
    repository.write("b-delta", [&base[..], b"more"].concat());
    repository.write("c-a", &base[..2 << 20]);
    repository.commit();
    repository.git(&["-c", "pack.window=0", "repack", "-adfq"]);
    let plain = build(&repository, 1, None);
    repository.git(&["-c", "pack.window=10", "repack", "-adfq", "--depth=50"]);
    let chains = repository.git(&["verify-pack", "-v", &pack_index(&repository)]);
    let deltas = chains
        .lines()
        .filter(|line| line.split_whitespace().count() == 7);
    assert_eq!(deltas.count(), 2, "{chains}");

    let directory = tempfile::tempdir().unwrap();
    let mut waiting = input(&repository, directory.path().to_owned());
    let budget = Budget::new(DECODE_BUDGET_BYTES);
    waiting.budget = budget.clone();
    let all = budget.take_all();
    let built = std::thread::scope(|scope| {
        let built = scope.spawn(|| build_input(waiting, 1));
        while budget.waiting() == 0 {
            assert!(!built.is_finished(), "no memory was asked for");
            std::thread::yield_now();
        }
        drop(all);
        built.join().unwrap()
    });
    let worktree = |built: &Built| {
        let mut files = files_of(built);
        files.retain(|path, _| !path.starts_with(".git/"));
        files
    };
    assert!(worktree(&built) == worktree(&plain), "other files");
    let checksums = |built: &Built| Vec::from_iter(built.outline.jobs.iter().map(|j| j.checksum));
    assert!(checksums(&built) == checksums(&plain), "other frames");
    // This test's, the big file's and the small one's.
    assert_eq!(budget.granted(), 3);
}

/// The same objects can be loose files of many forms, so they are packed first; what a power cut leaves
/// of one is left out.
#[test]
fn loose_objects_are_to_be_packed_first() {
    let repository = Repository::new();
    repository.write("file", "content");
    repository.commit();
    let mirror = repository.dir.path().join(".git");
    let pin = || {
        view::pin(
            &mirror,
            &Recent::default(),
            AsItIs::Yes,
            &none_put_aside,
            &mut |_, _| Ok(1),
        )
    };
    assert!(matches!(pin(), Err(PinError::Loose { .. })));
    repository.git(&["repack", "-adq"]);
    pin().unwrap();
    let expected = build(&repository, 1, None);
    let objects = mirror.join("objects");
    fs::create_dir_all(objects.join("12")).unwrap();
    fs::write(objects.join("12").join("12".repeat(19)), "").unwrap();
    assert!(build(&repository, 1, None).archive == expected.archive);
}

/// What tags lead to is said whether or not the mirror's own files say so.
#[test]
fn tags_are_peeled_however_the_mirror_keeps_them() {
    let repository = Repository::new();
    repository.write("file", "content");
    repository.commit();
    repository.git(&["tag", "-am", "one", "one"]);
    repository.git(&["tag", "-am", "two", "two", "one"]);
    repository.git(&["tag", "light"]);
    repository.git(&["repack", "-adq"]);
    let loose = build(&repository, 1, None);
    repository.git(&["pack-refs", "--all"]);
    let packed = build(&repository, 1, None);
    assert!(loose.archive == packed.archive);
    let refs = files_of(&loose)[".git/packed-refs"].clone();
    let commit = repository.git(&["rev-parse", "HEAD"]);
    assert_eq!(
        refs.to_str_lossy().matches(&format!("^{commit}\n")).count(),
        2
    );
    loose.check();
}

/// It would take that much memory before a byte has left.
#[test]
fn a_commit_of_any_size_is_refused() {
    let repository = Repository::new();
    repository.write("file", "content");
    repository.commit();
    let mut text = repository.git(&["cat-file", "commit", "HEAD"]).into_bytes();
    text.resize(COMMIT_BYTES_MAX as usize + 1, b'x');
    repository.write("commit", text);
    let id = repository.git(&["hash-object", "-t", "commit", "-w", "commit"]);
    repository.git(&["update-ref", "refs/heads/main", &id]);
    let directory = tempfile::tempdir().unwrap();
    let view = pin(&repository, directory.path());
    let objects = directory.path().join("objects");
    let refused = produce::Head::read(&view, "url", &objects).err().unwrap();
    let refused = refused.to_string();
    assert!(
        refused.contains(&id) && refused.contains("at most"),
        "{refused}"
    );
}

#[test]
fn a_pack_with_a_name_of_its_own_is_refused() {
    let repository = Repository::new();
    repository.write("file", "content");
    repository.commit();
    repository.git(&["repack", "-adq"]);
    let index = PathBuf::from(pack_index(&repository));
    for extension in ["pack", "idx"] {
        let file = index.with_extension(extension);
        let renamed = index.with_file_name(format!("mine.{extension}"));
        fs::rename(file, renamed).unwrap();
    }
    let mirror = repository.dir.path().join(".git");
    let refused = view::pin(
        &mirror,
        &Recent::default(),
        AsItIs::Yes,
        &none_put_aside,
        &mut |_, _| Ok(1),
    )
    .unwrap_err();
    assert!(refused.to_string().contains("mine.pack"), "{refused}");
}

/// What it lacks need not be missing at HEAD.
#[test]
fn a_pack_of_a_partial_clone_is_refused() {
    let repository = Repository::new();
    repository.write("file", "content");
    repository.commit();
    repository.git(&["repack", "-adq"]);
    let index = PathBuf::from(pack_index(&repository));
    fs::write(index.with_extension("promisor"), "").unwrap();
    let mirror = repository.dir.path().join(".git");
    let refused = view::pin(
        &mirror,
        &Recent::default(),
        AsItIs::Yes,
        &none_put_aside,
        &mut |_, _| Ok(1),
    )
    .unwrap_err();
    assert!(refused.to_string().contains("partial clone"), "{refused}");
}

/// `git repack` of somebody else, at work or killed.
#[test]
fn a_pack_that_is_about_to_get_its_name_is_not_looked_at() {
    let repository = Repository::new();
    repository.write("file", "file");
    repository.commit();
    repository.git(&["repack", "-adq"]);
    let packs = repository.dir.path().join(".git/objects/pack");
    let named = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let names: Vec<_> = fs::read_dir(&packs).unwrap().map(named).collect();
    for name in &names {
        let name = name.to_str().unwrap();
        fs::copy(packs.join(name), packs.join(format!(".tmp-7-{name}"))).unwrap();
    }
    let mirror = repository.dir.path().join(".git");
    let view = view::pin(
        &mirror,
        &Recent::default(),
        AsItIs::Yes,
        &none_put_aside,
        &mut |_, _| Ok(1),
    )
    .unwrap();
    assert_eq!(view.packs.len(), names.len(), "{:?}", view.packs);
    assert!(view.packs.iter().all(|l| !l.path.contains(".tmp-")));
}

/// Where no entry can be made, the mirror itself is read. What somebody has set up in it must not
/// change the archive.
#[test]
fn read_from_the_mirror_itself_it_is_the_same() {
    let repository = Repository::new();
    repository.write("file", "what was committed\n");
    repository.write("other", "something else\n");
    repository.commit();
    let expected = build(&repository, 1, None);

    let id = |file| repository.git(&["rev-parse", &format!("HEAD:{file}")]);
    let (file, other) = (id("file"), id("other"));
    repository.git(&["replace", file.trim(), other.trim()]);
    repository.git(&["config", "core.autocrlf", "true"]);
    let mirror = repository.dir.path().join(".git");
    fs::create_dir_all(mirror.join("info")).unwrap();
    fs::write(mirror.join("info/attributes"), "* text eol=crlf\n").unwrap();
    let seen = repository.git(&["cat-file", "blob", "HEAD:file"]);
    assert_eq!(seen, "something else", "git sees no replacement");

    let place = tempfile::tempdir().unwrap();
    let mut from_mirror = input(&repository, place.path().to_owned());
    from_mirror.directory = mirror;
    assert!(build_input(from_mirror, 1).archive == expected.archive);
}

/// Attributes of every kind, one to a line, over contents of every kind: what git checks out.
#[test]
fn attributes_convert_as_git_does() {
    let attributes = [
        "text",
        "-text",
        "!text",
        "text=auto",
        "text=input",
        "text=foo",
        "crlf",
        "-crlf",
        "crlf=input",
        "crlf=auto",
        "eol=crlf",
        "eol=lf",
        "eol",
        "-eol",
        "eol=CRLF",
        "ident",
        "-ident",
        "ident=yes",
        "text eol=crlf",
        "text=auto eol=crlf",
        "text=auto eol=lf",
        "-text eol=crlf",
        "binary",
        "binary eol=crlf",
        "dos",
        "-dos",
        "!dos",
        "dos -text",
        "dos=x",
        "inner",
        "working-tree-encoding=UTF-16",
        "working-tree-encoding=utf-16le-bom",
        "working-tree-encoding=UTF16BE-BOM",
        "working-tree-encoding=utf16",
        "working-tree-encoding=UTF-32",
        "working-tree-encoding=latin-1",
        "working-tree-encoding=utf8",
        "working-tree-encoding=",
        "working-tree-encoding=nothing",
        "!working-tree-encoding",
        "working-tree-encoding=UTF-16LE eol=crlf",
        "ident eol=crlf working-tree-encoding=UTF-16BE",
        "filter=lfs",
        "crlf eol=crlf",
        "text -crlf",
        "-text crlf eol=crlf",
        "eol=crlf eol=lf",
        "working-tree-encoding=SHIFT-JIS",
        "working-tree-encoding=ISO-8859-1//TRANSLIT",
    ];
    let contents: [&[u8]; 16] = [
        b"",
        b"one\n",
        b"one\ntwo",
        b"one\r\ntwo\r\n",
        b"one\ntwo\r\n",
        b"one\rtwo\n",
        b"a\0b\n",
        b"\x1a",
        b"x\n\x1a",
        b"\x01\x02\x03\n",
        b"$Id$ $Id: x $ $Id: a b $\n",
        b"$Id:\n$Id$\r\n$Id",
        "\u{e9}\u{20ac}\n".as_bytes(),
        b"\xff\xfe\n",
        b"\xef\xbb\xbfbom\n",
        b"\x7f\x08\x0c\n",
    ];
    let repository = Repository::new();
    let mut lines = String::from("[attr]dos text eol=crlf\n* -ident\n# comment\n");
    let mut files = Vec::new();
    for (a, attribute) in attributes.iter().enumerate() {
        // The index would keep what `add` converts: the blobs are made without attributes.
        lines.push_str(&format!(
            "a{a}/ ident\na{a}/* {attribute}\n\"a{a}/c\\0613\" {attribute}\n"
        ));
        for (c, content) in contents.iter().enumerate() {
            files.push((format!("a{a}/c{c}"), content.to_vec()));
            files.push((format!("sub/a{a}/c{c}"), content.to_vec()));
        }
    }
    for (path, content) in &files {
        repository.write(path, content);
    }
    repository.commit();
    repository.write(".gitattributes", &lines);
    repository.write(
        "sub/.gitattributes",
        "[attr]inner eol=crlf\na*/c1 text eol=crlf\n/a1/** ident\n!x text\n**/c10 -ident\n",
    );
    let _ = std::os::unix::fs::symlink(
        "../.gitattributes",
        repository.dir.path().join("a1/.gitattributes"),
    );
    repository.git(&[
        "add",
        ".gitattributes",
        "sub/.gitattributes",
        "a1/.gitattributes",
    ]);
    repository.git(&["commit", "-qm", "attributes"]);
    repository.git(&["repack", "-adq"]);
    let ours = files_of(&build(&repository, 1, None));
    let clone = tempfile::tempdir().unwrap();
    let target = clone.path().join("c");
    repository.git(&["clone", "-q", ".", target.to_str().unwrap()]);
    let differ: Vec<_> = files
        .iter()
        .filter(|(path, _)| ours[path] != fs::read(target.join(path)).unwrap())
        .map(|(path, _)| {
            let number = path.trim_start_matches("sub/").trim_start_matches('a');
            let number: usize = number.split('/').next().unwrap().parse().unwrap();
            (path, attributes[number])
        })
        .collect();
    assert_eq!(differ, []);
    let converted = files
        .iter()
        .filter(|(path, content)| ours[path] != *content);
    assert!(converted.count() > 100);
}
