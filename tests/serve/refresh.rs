//! Snapshots that follow others: what stayed the same is linked, however often and whatever befalls
//! what they are built on.

use super::pressure::Relax;
use super::support::client::Response;
use super::support::lab::{self, Lab};
use super::support::repos::{self, EXECUTABLE, FILE, Importer, Layout, SYMLINK};
use super::support::rng::Rng;
use super::support::server::Server;
use super::support::steps::{ensure, hit};
use super::support::{git, wait};
use super::{begin, expect_clone, finish, new_lab};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{DirEntryExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const NAME: &str = "wide";
const MAIN: &str = "refs/heads/main";
/// Entries of each directory: more than make it a large one.
const FILES: u64 = 80;

/// A repository of `directories` large directories, whose files have `bytes` each that do not compress.
fn wide_lab(directories: u64, bytes: usize) -> Lab {
    let lab = new_lab();
    wide(&lab, NAME, directories, bytes);
    lab
}

fn wide(lab: &Lab, name: &str, directories: u64, bytes: usize) {
    let path = lab.upstream(name);
    repos::init_bare(&path, "main", "sha1");
    let mut import = Importer::start(&path, Layout::Packed);
    import.commit(MAIN, "wide");
    fill(&mut import, 0..directories, bytes, 1);
    import.finish();
}

/// Writes all files of these directories, others for every seed.
fn fill(import: &mut Importer, directories: std::ops::Range<u64>, bytes: usize, seed: u64) {
    for directory in directories {
        let mut rng = Rng::new(seed * 1000 + directory);
        for number in 0..FILES {
            let path = format!("dir{directory}/file{number}.bin");
            import.file(FILE, path.as_bytes(), &rng.bytes(bytes));
        }
    }
}

/// Commits other content of these directories; gives the commit.
fn rewrite(lab: &Lab, directories: std::ops::Range<u64>, bytes: usize, seed: u64) -> String {
    let path = lab.upstream(NAME);
    let mut import = Importer::start(&path, Layout::Packed);
    import.commit_on(MAIN, &format!("{MAIN}^0"), "again");
    fill(&mut import, directories, bytes, seed);
    import.finish();
    git::text(&path, &["rev-parse", MAIN])
}

/// Has the mirror fetch what `main` is now, and waits for its snapshot in the cache.
fn refresh(server: &Server, name: &str, commit: &str) -> Response {
    let json = format!(r#"{{"refs":{{"{MAIN}":"{commit}"}}}}"#);
    let answer = ensure(server, name, &json);
    assert_eq!(answer["refs"][MAIN], *commit, "{answer}");
    shown(server, name, commit)
}

/// Waits until the snapshot of this commit is in the cache.
fn shown(server: &Server, name: &str, commit: &str) -> Response {
    wait::until("the new snapshot is shown", || {
        let head = server.fetch("HEAD", &lab::target(name), &[]).head;
        let is_shown = head.get("x-cachew-snapshot-commit") == Some(commit);
        (head.status == 200 && is_shown).then_some(())
    });
    hit(server, name)
}

/// Pushes one file and has the snapshot follow.
fn push(lab: &Lab, server: &Server, name: &str, path: &str, content: &[u8]) -> Response {
    let commit = repos::add_commit(&lab.upstream(name), "main", path, content);
    refresh(server, name, &commit)
}

/// The directory of the entry that an answer came from.
fn entry_of(state: &Path, answer: &Response) -> PathBuf {
    let id = answer.head.etag().trim_matches('"');
    state.join("snapshots").join(id)
}

/// The files of frames of an entry: inode and bytes.
fn frames(entry: &Path) -> BTreeMap<u64, u64> {
    let directory = entry.join("frames");
    let listing = fs::read_dir(&directory);
    let listing = listing.unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let files = listing.map(|file| file.unwrap());
    files
        .map(|file| (file.ino(), file.metadata().unwrap().len()))
        .collect()
}

fn inodes(entry: &Path) -> BTreeSet<u64> {
    frames(entry).into_keys().collect()
}

/// Jobs encoded and taken over so far.
fn jobs(server: &Server) -> (u64, u64) {
    let metrics = server.metrics();
    let count = |what: &str| metrics.count(&format!("tarpon_jobs_{what}_total"), &[]);
    (count("encoded"), count("reused"))
}

/// What a commit has not touched is neither encoded nor written again.
#[test]
fn a_push_of_one_file_links_the_frames_of_all_others() {
    let lab = wide_lab(6, 2000);
    // Other jobs of its own directory are to be found, too.
    let mut import = Importer::start(&lab.upstream(NAME), Layout::Packed);
    import.commit_on(MAIN, &format!("{MAIN}^0"), "more");
    let mut rng = Rng::new(9);
    for number in 0..800 {
        let path = format!("dir3/more{number}.bin");
        import.file(FILE, path.as_bytes(), &rng.bytes(200));
    }
    import.finish();
    let server = lab.start();
    let old = hit(&server, NAME);
    let (encoded_before, _) = jobs(&server);
    assert!(encoded_before >= 12, "{encoded_before} jobs");
    let new = push(&lab, &server, NAME, "dir3/file7.bin", b"another");
    let (encoded, reused) = jobs(&server);
    assert!(
        (1..=2).contains(&(encoded - encoded_before)),
        "{encoded} jobs encoded, {encoded_before} before"
    );
    assert!(reused >= encoded_before - 2, "{reused} jobs taken over");
    // What is linked from one to the next is to be looked at on the disk when it was due before.
    let looked_at = |answer: &Response| {
        let meta = fs::metadata(entry_of(&lab.state(), answer).join("meta"));
        meta.and_then(|meta| meta.modified()).unwrap()
    };
    assert_eq!(looked_at(&new), looked_at(&old));
    let before = frames(&entry_of(&lab.state(), &old));
    let after = frames(&entry_of(&lab.state(), &new));
    assert_eq!((before.len(), after.len()), (1, 2));
    let (linked, bytes) = before.first_key_value().unwrap();
    assert_eq!(after.get(linked), Some(bytes), "it is another file");
    let own: u64 = after
        .iter()
        .filter(|(inode, _)| *inode != linked)
        .map(|(_, bytes)| bytes)
        .sum();
    assert!(own < bytes / 4, "{own} of {bytes} bytes written anew");
    expect_clone(&lab, NAME, &new.body);
}

/// The worktree is the same, so nothing of it is encoded; the ref is shown.
#[test]
fn a_push_to_another_branch_encodes_no_job() {
    let lab = wide_lab(4, 500);
    let server = lab.start();
    let old = hit(&server, NAME);
    let (encoded, reused) = jobs(&server);
    let side = repos::add_commit(&lab.upstream(NAME), "main", "side.txt", b"side");
    let upstream = lab.upstream(NAME);
    git::run(&upstream, &["update-ref", "refs/heads/side", &side]);
    git::run(&upstream, &["update-ref", MAIN, &format!("{side}^")]);
    let json = format!(r#"{{"refs":{{"refs/heads/side":"{side}"}}}}"#);
    assert_eq!(
        ensure(&server, NAME, &json)["refs"]["refs/heads/side"],
        *side
    );
    let new = wait::until("the ref is shown", || {
        let answer = hit(&server, NAME);
        (answer.head.etag() != old.head.etag()).then_some(answer)
    });
    // It is counted before it is shown.
    let (encoded_now, reused_now) = jobs(&server);
    assert_eq!(encoded_now, encoded, "jobs were encoded");
    assert_eq!(reused_now - reused, encoded, "jobs were left out");
    let before = inodes(&entry_of(&lab.state(), &old));
    let after = inodes(&entry_of(&lab.state(), &new));
    assert!(before.is_subset(&after), "{before:?}, {after:?}");
    let unpacked = lab.unpack(&new.body, "side");
    let found = git::text(&unpacked, &["rev-parse", "refs/remotes/origin/side"]);
    assert_eq!(found, side);
    expect_clone(&lab, NAME, &new.body);
}

/// Another server on a copy of this one's mirror, with nothing else.
fn second(lab: &Lab, name: &str) -> (Server, PathBuf) {
    let mut settings = lab.settings();
    settings.state = lab.scratch("second-state");
    let mirrors = settings.state.join("mirrors/test");
    lab::copy_tree(&lab.mirror(name), &mirrors.join(format!("{name}.git")));
    (settings.start(), settings.state)
}

/// How an archive came about cannot be told from it: who was cut off by one server goes on at another.
#[test]
fn two_servers_with_one_mirror_agree_byte_for_byte() {
    let lab = wide_lab(4, 20_000);
    let first = lab.start();
    hit(&first, NAME);
    for round in 0..3 {
        let path = format!("dir{round}/file{round}.bin");
        push(&lab, &first, NAME, &path, path.as_bytes());
    }
    let refreshed = push(&lab, &first, NAME, "new.txt", b"new");
    let (other, other_state) = second(&lab, NAME);
    // Begun on the one that had it all along, while the other one has nothing yet.
    let (cut_off, head, mut body) = begin(&first, NAME, 1 << 20);
    drop(cut_off);
    let scratch = hit(&other, NAME);
    assert_eq!(scratch.head.etag(), refreshed.head.etag());
    assert!(
        scratch.body == refreshed.body,
        "one tag, and bytes that differ"
    );
    let counts =
        [&lab.state(), &other_state].map(|state| frames(&entry_of(state, &refreshed)).len());
    assert!(
        counts[0] >= 4 && counts[1] == 1,
        "{counts:?} files of frames"
    );
    for server in [&other, &first] {
        body.truncate(700_000);
        let range = format!("Range: bytes={}-", body.len());
        let if_range = format!("If-Range: {}", head.etag());
        let rest = server.fetch("GET", &lab::target(NAME), &[&range, &if_range]);
        body.extend(rest.expect(206).body);
        assert!(body == refreshed.body, "resumed");
    }
    expect_clone(&lab, NAME, &body);
}

/// The same snapshot comes back while the entry that showed it is on its way out: what is removed is the
/// old one alone.
#[test]
fn a_snapshot_that_comes_back_is_not_removed_with_the_old_one() {
    const LIMIT: &str = "28M";
    let lab = wide_lab(4, 30_000);
    wide(&lab, "other", 4, 30_000);
    let server = lab.settings().with(&["--cache-limit", LIMIT]).start();
    hit(&server, NAME);
    let upstream = lab.upstream(NAME);
    let back = git::text(&upstream, &["rev-parse", MAIN]);
    let forward = repos::add_commit(&upstream, "main", "new.txt", b"new");
    let mut tags = Vec::new();
    for commit in [&forward, &back, &forward, &back, &forward] {
        git::run(&upstream, &["update-ref", MAIN, commit]);
        tags.push(refresh(&server, NAME, commit));
    }
    let tag = |n: usize| tags[n].head.etag();
    assert_eq!((tag(0), tag(1)), (tag(2), tag(3)));
    assert_eq!(tag(0), tag(4));
    assert!(tags[0].body == tags[4].body && tag(0) != tag(1));
    assert_eq!(server.metrics().count("tarpon_evictions_total", &[]), 0);
    // It was retired twice, and is there once.
    let if_range = format!("If-Range: {}", tag(1));
    let fields = ["Range: bytes=1000-", &*if_range];
    let resumed = server.fetch("GET", &lab::target(NAME), &fields);
    assert!(resumed.expect(206).body == tags[1].body[1000..]);
    // There is no room for both: what is retired goes at once, and what nobody reads.
    let (mut reader, _, start) = begin(&server, NAME, 1000);
    server.get(&lab::target("other")).expect(200);
    server.wait_logged("evicted");
    let current = entry_of(&lab.state(), &tags[4]);
    let retired = entry_of(&lab.state(), &tags[1]);
    wait::until_true("the retired one is removed", || !retired.exists());
    assert!(current.join("meta").exists(), "{:?}", lab.entries());
    assert!(finish(&mut reader, start) == tags[4].body);
    let again = hit(&server, NAME);
    assert!(again.body == tags[4].body && again.head.etag() == tag(0));
    server.stop();
    let server = lab.start();
    let again = server.get(&lab::target(NAME)).expect(200);
    assert!(again.head.content_length().is_some() && again.body == tags[4].body);
    expect_clone(&lab, NAME, &again.body);
}

/// Frames that rotted on the disk are found before anything is built on them.
#[test]
fn damaged_frames_are_made_anew() {
    let lab = wide_lab(4, 5000);
    let server = lab.start();
    let first = hit(&server, NAME);
    let damaged = lab.frames_of(first.head.etag().trim_matches('"'));
    let second = push(&lab, &server, NAME, "dir1/new.txt", b"new");
    server.stop();
    let linked = inodes(&entry_of(&lab.state(), &second));
    let file = File::options().read(true).write(true).open(&damaged);
    let file = file.unwrap_or_else(|e| panic!("{}: {e}", damaged.display()));
    let found = std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
    assert!(linked.contains(&found), "it is not linked");
    // In a frame that the next snapshot would take over.
    let at = file.metadata().unwrap().len() * 3 / 4;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    drop(file);
    let server = lab.settings().with(&["--scrub-interval", "0"]).start();
    let third = push(&lab, &server, NAME, "dir2/new.txt", b"new");
    server.wait_logged("is damaged");
    let used = inodes(&entry_of(&lab.state(), &third));
    assert!(!used.contains(&found), "it is built on");
    expect_clone(&lab, NAME, &third.body);
    let fourth = push(&lab, &server, NAME, "dir3/new.txt", b"new");
    assert!(!inodes(&entry_of(&lab.state(), &fourth)).contains(&found));
    expect_clone(&lab, NAME, &fourth.body);
}

/// A disk that gives other bytes than when they were looked at: the build that meets them ends, and the
/// snapshot that has them is replaced at once, not with the next fetch.
#[test]
fn a_base_that_has_changed_is_replaced_at_once() {
    let lab = wide_lab(4, 5000);
    let server = lab.settings().with(&["--scrub-interval", "0"]).start();
    let first = hit(&server, NAME);
    let path = lab.frames_of(first.head.etag().trim_matches('"'));
    let file = File::options().read(true).write(true).open(&path);
    let file = file.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let modified = file.metadata().unwrap().modified().unwrap();
    let changed: Vec<u8> = std::fs::read(&path).unwrap().iter().map(|b| !b).collect();
    file.write_all_at(&changed, 0).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    let second = push(&lab, &server, NAME, "dir1/new.txt", b"new");
    expect_clone(&lab, NAME, &second.body);
    assert!(server.builds("failed") > 0, "nothing has met them");
    server.wait_logged("has rotted and is built anew");
}

/// Pushes that leave little of each file of frames in use: they are joined behind clients' backs.
#[test]
fn files_of_frames_are_joined_in_the_background() {
    const BYTES: usize = 40_000;
    let lab = wide_lab(6, BYTES);
    let server = lab.start();
    hit(&server, NAME);
    let commit = rewrite(&lab, 1..6, BYTES, 2);
    let second = refresh(&server, NAME, &commit);
    let (mut older, _, older_start) = begin(&server, NAME, 1000);
    assert!(!server.log().contains("joining files of frames"));
    let whole: u64 = frames(&entry_of(&lab.state(), &second)).values().sum();
    let commit = rewrite(&lab, 2..6, BYTES, 3);
    let busy = AtomicBool::new(true);
    let (third, bodies) = std::thread::scope(|scope| {
        let (server, busy) = (&server, &busy);
        // Who asks all the time sees the one, then the other, and never a fault.
        let ask = move || {
            let mut seen: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            while busy.load(Ordering::Relaxed) {
                let answer = server.get(&lab::target(NAME)).expect(200);
                let tag = answer.head.etag().to_owned();
                let body = seen.entry(tag).or_insert_with(|| answer.body.clone());
                assert!(*body == answer.body, "one tag, and bytes that differ");
            }
            seen
        };
        let asking = scope.spawn(ask);
        let relax = Relax(busy);
        let third = refresh(server, NAME, &commit);
        let (mut slow, head, start) = begin(server, NAME, 1000);
        server.wait_logged("joining files of frames");
        wait::until_true("they are joined", || server.builds("complete") >= 4);
        let entry = entry_of(&lab.state(), &third);
        wait::until_true("there are fewer", || frames(&entry).len() <= 2);
        drop(relax);
        assert_eq!(head.etag(), third.head.etag());
        assert!(finish(&mut slow, start) == third.body, "of the slow one");
        (third, asking.join().unwrap())
    });
    assert!(finish(&mut older, older_start) == second.body);
    assert!(bodies[third.head.etag()] == third.body);
    let joined = hit(&server, NAME);
    assert_eq!(joined.head.etag(), third.head.etag());
    assert!(joined.body == third.body, "joining has changed bytes");
    let bytes: u64 = frames(&entry_of(&lab.state(), &joined)).values().sum();
    assert!(bytes < whole, "{bytes} bytes of frames, {whole} before");
    expect_clone(&lab, NAME, &joined.body);
    lab.expect_no_orphans();
    let next = push(&lab, &server, NAME, "new.txt", b"new");
    expect_clone(&lab, NAME, &next.body);
    server.stop();
    lab.expect_no_orphans();
}

/// After pushes here and there the frames lie in many stretches of several files. Once none comes for a while they
/// are written anew in order, behind clients' backs: same tag, same bytes, one file.
#[test]
fn scattered_frames_are_put_in_order_once_it_is_quiet() {
    let lab = wide_lab(3, 4_000);
    let fault = "scattered-at=4,order-quiet-ms=500";
    let server = lab.settings().with_fault(fault).start();
    hit(&server, NAME);
    let path = |n| format!("dir{n}/file7.bin");
    let pushed = (0..3).map(|n| push(&lab, &server, NAME, &path(n), b"new"));
    let last = &Vec::from_iter(pushed)[2];
    let entry = entry_of(&lab.state(), last);
    let (mut slow, head, start) = begin(&server, NAME, 1000);
    assert_eq!(head.etag(), last.head.etag());
    server.wait_logged("putting frames in order");
    wait::until_true("they lie in one file", || frames(&entry).len() == 1);
    let ordered = hit(&server, NAME);
    assert_eq!(ordered.head.etag(), last.head.etag());
    assert!(ordered.body == last.body, "that has changed bytes");
    assert!(
        finish(&mut slow, start) == last.body,
        "of who was there before"
    );
    expect_clone(&lab, NAME, &ordered.body);
    let next = push(&lab, &server, NAME, "dir1/file9.bin", b"new");
    expect_clone(&lab, NAME, &next.body);
    server.stop();
    lab.expect_no_orphans();
}

/// However often a snapshot was replaced, no more files are open than at first.
#[test]
fn many_pushes_leave_no_file_open() {
    let lab = wide_lab(3, 200);
    let server = lab.start();
    hit(&server, NAME);
    let open = || {
        let metric = server.metrics().count("tarpon_open_files", &[]);
        let snapshots = server.descriptors();
        let inside = snapshots.iter().filter(|to| to.contains("/snapshots/"));
        (metric as usize, inside.count(), snapshots.len())
    };
    let mut after = Vec::new();
    for round in 0..50 {
        let path = format!("dir{}/new{round}.txt", round % 3);
        let answer = push(&lab, &server, NAME, &path, path.as_bytes());
        let (mut reader, _, start) = begin(&server, NAME, 100);
        assert!(finish(&mut reader, start) == answer.body);
        if [9, 49].contains(&round) {
            // What was replaced is closed once nobody reads it.
            wait::until_true("idle ones are closed", || open().1 <= 20);
            after.push(open());
        }
    }
    // Connections, and git's at work, come and go.
    let (ten, fifty) = (after[0], after[1]);
    assert!(fifty.0 <= ten.0 + 8, "{after:?} open");
    assert!(fifty.1 <= ten.1 + 8, "{after:?} in snapshots");
    assert!(fifty.2 <= ten.2 + 12, "{after:?} descriptors");
    expect_clone(&lab, NAME, &hit(&server, NAME).body);
}

/// A repository with all that is converted, links and submodules, and large directories.
fn odd(lab: &Lab, name: &str, format: &str) {
    let path = lab.upstream(name);
    repos::init_bare(&path, "main", format);
    let mut import = Importer::start(&path, Layout::Packed);
    import.commit(MAIN, "odd");
    import.file(FILE, b".gitattributes", ATTRIBUTES);
    let module = "0123456789abcdef".repeat(4);
    let module = &module[..if format == "sha1" { 40 } else { 64 }];
    let modules =
        "[submodule \"dir1/module\"]\n\tpath = dir1/module\n\turl = https://host.test/m.git\n";
    import.file(FILE, b".gitmodules", modules.as_bytes());
    import.gitlink(b"dir1/module", module);
    for directory in ["dir0", "dir1", "dir1/deep", "dir2"] {
        for number in 0..FILES {
            let (suffix, text) = KINDS[number as usize % KINDS.len()];
            let file = format!("{directory}/f{number}.{suffix}");
            import.file(FILE, file.as_bytes(), text.as_bytes());
        }
        import.file(
            EXECUTABLE,
            format!("{directory}/run.crlf").as_bytes(),
            b"#!/bin/sh\n",
        );
        import.file(
            SYMLINK,
            format!("{directory}/link.crlf").as_bytes(),
            b"../target\n",
        );
    }
    import.finish();
}

const ATTRIBUTES: &[u8] = b"\
[attr]winmac text eol=crlf ident\n\
*.crlf text eol=crlf\n\
*.auto text=auto eol=crlf\n\
*.bin -text\n\
*.id ident\n\
*.mac winmac\n\
*.u16 text working-tree-encoding=UTF-16LE-BOM\n\
*.latin text eol=crlf working-tree-encoding=latin1\n";

const KINDS: [(&str, &str); 7] = [
    ("crlf", "one\ntwo\n"),
    ("auto", "one\ntwo\n$Id$\n"),
    ("bin", "one\r\ntwo\n"),
    ("id", "$Id$ and $Id: 0123 $\n"),
    ("mac", "$Id$\nthree\n"),
    ("u16", "gr\u{fc}n\n"),
    ("latin", "\u{e9}t\u{e9}\n"),
];

/// Three snapshots, the first from nothing; each must be what a clone is, and what another server makes
/// from the same packs.
fn through_refreshes(lab: &Lab, name: &str) {
    let far = ["--fetch-interval", "720h", "--scrub-interval", "0"];
    let server = lab.settings().with(&far).start();
    let mut last = hit(&server, name);
    expect_clone(lab, name, &last.body);
    let upstream = lab.upstream(name);
    let rounds: [&[(&str, &[u8])]; 3] = [
        &[
            ("dir1/deep/f3.id", b"$Id$ changed\n"),
            ("new.u16", b"new\n"),
        ],
        &[
            (
                "dir1/.gitattributes",
                b"*.id -ident\n*.bin text eol=crlf\nmodule text\n",
            ),
            ("dir2/f0.crlf", b"three\n"),
        ],
        &[("dir0/f1.auto", b"last\n")],
    ];
    for files in rounds {
        let (_, reused) = jobs(&server);
        let mut import = Importer::start(&upstream, Layout::Packed);
        import.commit_on(MAIN, &format!("{MAIN}^0"), "next");
        for (path, content) in files {
            import.file(FILE, path.as_bytes(), content);
        }
        import.finish();
        let commit = git::text(&upstream, &["rev-parse", MAIN]);
        let next = refresh(&server, name, &commit);
        assert!(jobs(&server).1 > reused, "nothing was taken over");
        let before = inodes(&entry_of(&lab.state(), &last));
        let after = inodes(&entry_of(&lab.state(), &next));
        assert!(!before.is_disjoint(&after), "nothing is linked");
        expect_clone(lab, name, &next.body);
        last = next;
    }
    let (other, _) = second(lab, name);
    let scratch = hit(&other, name);
    assert_eq!(scratch.head.etag(), last.head.etag());
    assert!(
        scratch.body == last.body,
        "built from nothing it is another"
    );
    assert_eq!(server.builds("failed") + other.builds("failed"), 0);
}

#[test]
fn sha1_with_all_filters() {
    let lab = new_lab();
    odd(&lab, "odd", "sha1");
    through_refreshes(&lab, "odd");
}

#[test]
fn sha256_with_all_filters() {
    let lab = new_lab();
    odd(&lab, "odd", "sha256");
    through_refreshes(&lab, "odd");
}

/// The files of the one pack of a mirror that was put there: without their suffixes.
fn pack_of(mirror: &Path) -> PathBuf {
    let directory = mirror.join("objects/pack");
    let files = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{e}"));
    let mut packs = files.map(|file| file.unwrap().path());
    let pack = packs.find(|path| path.extension().is_some_and(|e| e == "pack"));
    pack.unwrap_or_else(|| panic!("no pack")).with_extension("")
}

/// JGit names packs after other things than their checksum.
#[test]
fn packs_of_other_names() {
    let lab = new_lab();
    odd(&lab, "odd", "sha1");
    lab.place_mirror("odd");
    let pack = pack_of(&lab.mirror("odd"));
    let renamed = pack.with_file_name(format!("pack-{}", "0a".repeat(20)));
    for suffix in ["pack", "idx", "rev"] {
        let from = pack.with_extension(suffix);
        if from.exists() {
            fs::rename(&from, renamed.with_extension(suffix)).unwrap();
        }
    }
    through_refreshes(&lab, "odd");
    assert!(renamed.with_extension("pack").exists());
}

#[test]
fn indexes_of_version_1() {
    let lab = new_lab();
    odd(&lab, "odd", "sha1");
    lab.place_mirror("odd");
    let mirror = lab.mirror("odd");
    git::run(&mirror, &["config", "pack.indexVersion", "1"]);
    let pack = pack_of(&mirror).with_extension("pack");
    let index = pack.with_extension("idx");
    fs::remove_file(&index).unwrap();
    let path = pack.to_string_lossy();
    git::run(&mirror, &["index-pack", "--index-version=1", &path]);
    let start = fs::read(&index).unwrap();
    assert_ne!(start[..4], *b"\xfftOc", "it is of version 2");
    through_refreshes(&lab, "odd");
}

/// A mirror of a git that makes no reverse indexes gives the archive that any other gives.
#[test]
fn packs_without_reverse_index() {
    let lab = new_lab();
    odd(&lab, "odd", "sha1");
    lab.place_mirror("odd");
    let mirror = lab.mirror("odd");
    git::run(&mirror, &["config", "pack.writeReverseIndex", "false"]);
    let (pack, rev) = (
        pack_of(&mirror).with_extension("pack"),
        pack_of(&mirror).with_extension("rev"),
    );
    if !rev.exists() {
        git::run(
            &mirror,
            &["index-pack", "--rev-index", &pack.to_string_lossy()],
        );
    }
    let with = {
        let (server, state) = second(&lab, "odd");
        let answer = hit(&server, "odd");
        server.stop();
        fs::remove_dir_all(state).unwrap();
        answer
    };
    fs::remove_file(&rev).unwrap();
    let server = lab.start();
    let without = hit(&server, "odd");
    assert_eq!(without.head.etag(), with.head.etag());
    assert!(without.body == with.body, "bytes differ");
    server.stop();
    through_refreshes(&lab, "odd");
}

/// What is of no use goes after the expiry with the next build, though nobody has noted anything: the
/// mirror and its journal are gone.
#[test]
fn frames_of_no_use_go_after_the_expiry() {
    const BYTES: usize = 300;
    const EXPIRY: std::time::Duration = std::time::Duration::from_secs(4);
    let lab = wide_lab(6, BYTES);
    let secret = Rng::new(77).bytes(20_000);
    repos::add_commit(&lab.upstream(NAME), "main", "dir1/secret.bin", &secret);
    let settings = lab.settings().with(&["--unreachable-expiry", "4s"]);
    let mut server = settings.start();
    let state = lab.state();
    let holds = |answer: &Response| {
        let listing = fs::read_dir(entry_of(&state, answer).join("frames")).unwrap();
        let mut files = listing.map(|file| fs::read(file.unwrap().path()).unwrap());
        files.any(|frames| frames.windows(64).any(|part| part == &secret[5000..5064]))
    };
    assert!(holds(&hit(&server, NAME)));
    let began = std::time::Instant::now();
    let second = push(&lab, &server, NAME, "dir1/secret.bin", b"gone");
    if began.elapsed() < EXPIRY {
        assert!(holds(&second), "the old file is linked");
    }
    server.kill();
    fs::remove_dir_all(lab.mirror(NAME)).unwrap();
    let server = settings.start();
    wait::until_true("the expiry is over", || began.elapsed() > EXPIRY);
    let third = push(&lab, &server, NAME, "dir2/file", b"new");
    assert!(!holds(&third));
    let whole = third.body;
    expect_clone(&lab, NAME, &whole);
}
