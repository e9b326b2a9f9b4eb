//! What a disk, or somebody at it, does to the state directory: bytes that rot are found, not sent
//! on, and replaced; what is removed is made again.

use super::support::client::{End, Response};
use super::support::lab::{self, Lab};
use super::support::server::Server;
use super::support::steps::{push_and_fetch, wait_published};
use super::support::{git, repos, wait};
use super::{begin, expect_clone, hit, large_lab, small_lab};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Looks all the time.
const SCRUBS: [&str; 2] = ["--scrub-interval", "200ms"];

/// Changes a bit in the middle of a file, as a disk does: its length, date and links stay.
fn rot(path: &Path) {
    let before = fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let at = before.len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
}

/// The one entry's directory.
fn entry(lab: &Lab) -> PathBuf {
    let entries = lab.entries();
    assert_eq!(entries.len(), 1, "{entries:?}");
    lab.state().join("snapshots").join(&entries[0])
}

/// What it has of its own.
fn frames(lab: &Lab) -> PathBuf {
    let entries = lab.entries();
    assert_eq!(entries.len(), 1, "{entries:?}");
    lab.frames_of(&entries[0])
}

/// The mirror's one pack.
fn pack(lab: &Lab) -> PathBuf {
    let packs = lab.mirror("small").join("objects/pack");
    let mut packs = fs::read_dir(packs)
        .unwrap()
        .map(|file| file.unwrap().path());
    let pack = packs.find(|path| path.extension().is_some_and(|e| e == "pack"));
    pack.unwrap()
}

fn checks(server: &Server, result: &str) -> u64 {
    let labels = [("result", result)];
    server.metrics().count("tarpon_scrub_checks_total", &labels)
}

/// What was found damaged so far is replaced: all that there is becomes sound.
fn expect_healed(lab: &Lab, server: &Server, name: &str) {
    wait_published(server, name);
    expect_clone(lab, name, &hit(server, name).body);
    let sound = checks(server, "entry_sound");
    wait::until_true("all is sound", || checks(server, "entry_sound") > sound + 1);
    expect_clone(lab, name, &hit(server, name).body);
    lab.expect_no_orphans();
}

#[test]
fn an_entry_that_rots_is_built_anew() {
    let lab = small_lab();
    let server = lab.settings().with(&SCRUBS).start();
    hit(&server, "small");
    for (number, file) in ["frames", "meta"].into_iter().enumerate() {
        wait::until_true("it is looked at", || checks(&server, "entry_sound") > 0);
        match file {
            "frames" => rot(&frames(&lab)),
            file => rot(&entry(&lab).join(file)),
        }
        wait::until_true(&format!("a rotten {file} is found"), || {
            checks(&server, "entry_damaged") > number as u64
        });
        expect_healed(&lab, &server, "small");
        server.wait_logged(&format!("built anew: {file}"));
    }
    assert_eq!(checks(&server, "entry_damaged"), 2);
    assert_eq!(checks(&server, "mirror_damaged"), 0);
    let read = server.metrics().count("tarpon_scrub_bytes_total", &[]);
    assert!(read > 300_000, "{read} bytes read");
}

/// The pack is the mirror's as well, which is cloned anew; meanwhile no whole answer has rot in it.
#[test]
fn a_mirror_that_rots_is_cloned_anew() {
    let lab = small_lab();
    let server = lab.settings().with(&SCRUBS).start();
    hit(&server, "small");
    rot(&pack(&lab));
    server.wait_logged("the mirror was cloned anew");
    for _ in 0..3 {
        let answer: Response = server.get(&lab::target("small"));
        if answer.head.status == 200 && answer.end == End::Complete {
            expect_clone(&lab, "small", &answer.body);
        }
    }
    assert!(checks(&server, "mirror_damaged") >= 1);
    expect_healed(&lab, &server, "small");
    git::run(&lab.mirror("small"), &["fsck", "--full", "--strict"]);
    // It is kept fresh as before.
    repos::add_commit(&lab.upstream("small"), "main", "later", b"later\n");
    let fetched =
        r#"{"refs":{"refs/heads/main":""},"commits":["0123456789012345678901234567890123456789"]}"#;
    server
        .post_json(&lab::endpoint("small", "ensure-refs"), fetched)
        .expect(200);
    wait::until_true("the new commit is shown", || {
        let body = server.get(&lab::target("small")).expect(200).body;
        let unpacked = lab.unpack(&body, "later");
        let is_there = unpacked.join("later").exists();
        super::remove(&unpacked);
        is_there
    });
}

/// The tag of an archive is that of the sound packs, which are there again when a mirror was cloned anew: who
/// goes on with what was cut off must have got nothing else.
#[test]
fn nothing_of_a_rotten_pack_is_sent() {
    let lab = large_lab();
    let server = lab.settings().with(&["--scrub-interval", "720h"]).start();
    let sound = hit(&server, "large");
    server.stop();
    fs::remove_dir_all(lab.state().join("snapshots")).unwrap();
    let packs = lab.mirror("large").join("objects/pack");
    let mut packs = fs::read_dir(packs)
        .unwrap()
        .map(|file| file.unwrap().path());
    rot(&packs
        .find(|path| path.extension().is_some_and(|e| e == "pack"))
        .unwrap());
    let server = lab.settings().with(&["--scrub-interval", "720h"]).start();
    let cut = server.get(&lab::target("large"));
    assert_eq!(cut.head.status, 200);
    assert_ne!(cut.end, End::Complete);
    assert!(!cut.body.is_empty(), "the first bytes need no pack");
    assert_eq!(cut.head.etag(), sound.head.etag());
    let same = cut.body.iter().zip(&sound.body).take_while(|(a, b)| a == b);
    assert_eq!(same.count(), cut.body.len(), "damaged bytes were sent");
    server.wait_logged("the mirror was cloned anew");
    let (range, tag) = (format!("Range: bytes={}-", cut.body.len()), cut.head.etag());
    let if_range = format!("If-Range: {tag}");
    let rest = server.fetch("GET", &lab::target("large"), &[&range, &if_range]);
    let body = match rest.head.status {
        206 => [cut.body, rest.body].concat(),
        // Packed anew, in another way.
        200 => rest.body,
        status => panic!("{status}"),
    };
    expect_clone(&lab, "large", &body);
}

/// The snapshot is sound, and new commits cannot be built: nobody waits a week for that.
#[test]
fn a_mirror_that_builds_fail_of_is_cloned_anew() {
    let lab = small_lab();
    let server = lab.settings().with(&["--fetch-interval", "720h"]).start();
    hit(&server, "small");
    let pack = pack(&lab);
    // Another file: the snapshot has a link to the one that is there.
    let copy = pack.with_extension("copy");
    fs::copy(&pack, &copy).unwrap();
    rot(&copy);
    fs::rename(&copy, &pack).unwrap();
    push_and_fetch(&lab, &server, "small", "later", b"later\n");
    wait::until_true("the build fails", || server.builds("failed") > 0);
    server.wait_logged("the mirror was cloned anew");
    wait::until_true("the new commit is shown", || {
        let body = hit(&server, "small").body;
        let unpacked = lab.unpack(&body, "later");
        let is_there = unpacked.join("later").exists();
        super::remove(&unpacked);
        is_there
    });
    expect_clone(&lab, "small", &hit(&server, "small").body);
    assert_eq!(checks(&server, "entry_damaged"), 0);
    lab.expect_no_orphans();
}

/// A server that was killed may have lost what it wrote: the next one looks at all of it, and one
/// after an orderly end does not.
#[test]
fn after_an_unclean_stop_all_is_looked_at() {
    let lab = small_lab();
    let mut server = lab.start();
    hit(&server, "small");
    assert_eq!(checks(&server, "entry_sound"), 0, "it is not due");
    server.kill();
    rot(&frames(&lab));
    let server = lab.start();
    wait::until_true("the rot is found", || checks(&server, "entry_damaged") == 1);
    wait::until_true("the mirror is looked at", || {
        checks(&server, "mirror_sound") == 1
    });
    server.wait_logged("not all is sound");
    wait_published(&server, "small");
    expect_clone(&lab, "small", &hit(&server, "small").body);
    wait::until_true("there is nothing left to look at", || {
        server.metrics().count("tarpon_scrub_checks_total", &[]) >= 2
    });
    server.wait_logged("checked: ");
    server.stop();
    // Nothing has rotted: that is said, with what was read.
    let mut server = lab.start();
    hit(&server, "small");
    server.kill();
    let server = lab.start();
    server.wait_logged("all is checked");
    server.wait_logged("checked: all is sound");
    let log = server.log();
    let said = log
        .lines()
        .find(|line| line.contains("checked: all is sound"));
    let said = said.unwrap_or_default();
    assert!(
        said.contains(r#""snapshots":1,"mirrors":1,"bytes":"#),
        "{said}"
    );
    server.stop();
    let server = lab.start();
    hit(&server, "small");
    assert!(
        !server.log().contains("did not end as it should"),
        "{}",
        server.log()
    );
}

/// Whoever found an archive damaged gets another one; who is in the middle of it gets an error. A
/// word that is not true costs one look in an hour.
#[test]
fn a_client_says_that_an_archive_is_corrupt() {
    let lab = large_lab();
    let server = lab.start();
    let first = hit(&server, "large");
    let etag = first.head.etag().to_owned();
    let (mut slow, _, _) = begin(&server, "large", 1000);
    rot(&frames(&lab));
    let rotten = server.get(&lab::target("large")).expect(200);
    assert!(rotten.body != first.body, "the test changed nothing");
    let says = |etag: &str| {
        let word = format!("Tarpon-Corrupt: {etag}");
        server
            .fetch("GET", &lab::target("large"), &[&word])
            .expect(200)
    };
    let again = says(&etag);
    expect_clone(&lab, "large", &again.body);
    assert_eq!(checks(&server, "entry_damaged"), 1);
    let rest = slow.copy_body(&mut io::sink());
    assert!(
        !matches!(rest, Ok((End::Complete, _))),
        "rot passes for the whole"
    );
    wait_published(&server, "large");
    let etag = again.head.etag().to_owned();
    for _ in 0..3 {
        assert!(says(&etag).body == again.body, "other bytes");
        // Of another archive, and of none.
        says("\"0123456789abcdef0123456789abcdef\"");
        says("nothing");
    }
    assert_eq!(checks(&server, "entry_sound"), 1, "looked at for each word");
    assert_eq!(checks(&server, "entry_damaged"), 1);
}

/// `rm -rf snapshots` under a running server.
#[test]
fn snapshots_that_are_removed_are_kept_again() {
    let lab = small_lab();
    let server = lab.start();
    for _ in 0..2 {
        hit(&server, "small");
        fs::remove_dir_all(lab.state().join("snapshots")).unwrap();
        // What is open can be read until the server notices.
        let built = wait::until("it is built again", || {
            let answer = server.get(&lab::target("small")).expect(200);
            let status = answer.head.get("cache-status").unwrap().to_owned();
            assert!(!status.contains("stored"), "{status}: nobody knows yet");
            status.contains("fwd=").then_some(answer)
        });
        expect_clone(&lab, "small", &built.body);
        wait_published(&server, "small");
        entry(&lab);
    }
    let metrics = server.metrics();
    assert_eq!(metrics.count("tarpon_spool_failures_total", &[]), 0);
    assert_eq!(metrics.count("tarpon_cache_entries", &[]), 1);
    expect_clone(&lab, "small", &hit(&server, "small").body);
    lab.expect_no_orphans();
}

/// `rm -rf STATE/*` under a running server: all is cloned and built again.
#[test]
fn a_state_directory_that_is_emptied_is_filled_again() {
    let lab = small_lab();
    let server = lab.start();
    hit(&server, "small");
    for below in fs::read_dir(lab.state()).unwrap().flatten() {
        if below.file_type().unwrap().is_dir() {
            fs::remove_dir_all(below.path()).unwrap();
        }
    }
    wait::until_true("it is cloned and built again", || {
        let answer = server.get(&lab::target("small"));
        let status = answer.head.get("cache-status").map(str::to_owned);
        answer.head.status == 200 && status.is_some_and(|status| status.contains("fwd="))
    });
    wait_published(&server, "small");
    expect_clone(&lab, "small", &hit(&server, "small").body);
}

/// It holds copies of repositories that need credentials.
#[test]
fn the_state_directory_is_its_user_s_alone() {
    let lab = small_lab();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut settings = lab.settings();
    settings.state = lab.scratch("above/state");
    let server = settings.start();
    hit(&server, "small");
    assert_eq!(mode(&settings.state), 0o700);
    assert!(
        !server.log().contains("others may look into"),
        "{}",
        server.log()
    );
    server.stop();
    fs::set_permissions(&settings.state, fs::Permissions::from_mode(0o750)).unwrap();
    let server = settings.start();
    server.wait_logged("others may look into the state directory");
    assert_eq!(mode(&settings.state), 0o750, "it was changed");
}

/// A file is no directory, whoever may look into it.
#[test]
fn a_state_directory_that_is_a_file_is_refused_as_such() {
    let lab = small_lab();
    let mut settings = lab.settings();
    settings.state = lab.scratch("file");
    fs::create_dir_all(settings.state.parent().unwrap()).unwrap();
    fs::write(&settings.state, "no directory").unwrap();
    fs::set_permissions(&settings.state, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = settings.try_start().err();
    let refused = refused.unwrap_or_else(|| panic!("it starts"));
    assert!(refused.log.contains("ot a directory"), "{}", refused.log);
    assert!(
        !refused.log.contains("others may look into"),
        "{}",
        refused.log
    );
}
