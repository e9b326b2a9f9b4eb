//! A server behind TLS, behind a proxy that has it below a path, and one that sends requests elsewhere.

use crate::bundle::{expect_at, expect_newest, large, small_lab, start, tip};
use crate::lab::{BINARY, archive, clone, expect, expect_files, expect_nothing, new_lab, served};
use crate::support::certificates::{Authority, Issued};
use crate::support::front::{Asked, Does, Front, answer, tls_as, tls_of, tls_that_turns};
use crate::support::lab::Lab;
use crate::support::relay::{be_silent, listen};
use crate::support::steps::{hit, push_and_fetch};
use crate::support::{git, repos};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tarpon::limits::CONNECT_TIMEOUT_MS;

fn passes(asked: &Asked) -> Does {
    Does::Passes(asked.target().to_owned())
}

/// Restores `repository` from the server at this URL.
pub fn restore_at(server: &str, repository: &str, into: &Path, more: &[&str]) -> Output {
    command_at(server, repository, into, more)
        .output()
        .unwrap_or_else(|e| panic!("tarpon does not start: {e}"))
}

/// The same, not yet started; with no home, and nothing in the environment that counts.
pub fn command_at(
    server: &str,
    repository: &str,
    into: &Path,
    more: &[&str],
) -> std::process::Command {
    let mut command = git::with_umask(BINARY);
    git::isolate(&mut command);
    command.args(["restore", repository]).arg(into);
    command.args(["--server", server]).args(more);
    command
        .env("HOME", "/nonexistent")
        .env_remove("SSL_CERT_FILE");
    command
}

/// An authority of the lab's.
pub fn authority(lab: &Lab, name: &str) -> (Authority, String) {
    let authority = Authority::new(&lab.scratch(""), name);
    let file = authority.file.to_string_lossy().into_owned();
    (authority, file)
}

/// All of it: the archive over several connections, a commit that git fetches, a bundle.
#[test]
fn a_restore_over_tls_is_a_clone() {
    let lab = new_lab();
    let server = lab.start();
    archive(&lab, &server);
    let (ours, cacert) = authority(&lab, "ours");
    let front = Front::start(server.address(), Some(tls_of(&ours, None)), passes);
    let target = lab.scratch("whole");
    let out = restore_at(&front.https(), "test/app", &target, &["--cacert", &cacert]);
    expect(&out, 0);
    expect_files(&clone(&lab, "app", "whole-clone"), &target, "over TLS");
    let new = repos::add_commit(&lab.upstream("app"), "main", "new.txt", b"new");
    let target = lab.scratch("newer");
    // The variable says the same.
    let mut command = command_at(&front.https(), "test/app", &target, &["--have", &new]);
    let out = command.env("TARPON_CACERT", &cacert).output().unwrap();
    expect(&out, 0);
    assert_eq!(git::text(&target, &["rev-parse", "origin/main"]), new);
    let agents = front.asked();
    let by_git = |asked: &&Asked| {
        asked
            .get("user-agent")
            .is_some_and(|by| by.starts_with("git/"))
    };
    assert!(agents.iter().any(|asked| by_git(&asked)), "{agents:?}");
}

/// Who is not known, is somebody else, or was somebody is told nothing; and why is said.
#[test]
fn a_server_that_proves_nothing_gets_no_request() {
    let lab = small_lab();
    let server = lab.start();
    let (ours, cacert) = authority(&lab, "ours");
    let (_, others) = authority(&lab, "others");
    let own = ["localhost", "127.0.0.1"];
    let front =
        |issued: &Issued| Front::start(server.address(), Some(tls_as(issued, None)), passes);
    let right = front(&ours.issue("right", &own, 1));
    let named = front(&ours.issue("named", &["elsewhere.example"], 2));
    let over = front(&ours.issue_for("over", &own, 3, (2020, 2021)));
    let early = front(&ours.issue_for("early", &own, 4, (4000, 4001)));
    let target = lab.scratch("none");
    let plain = format!("https://{}", server.address());
    let unknown = "no authority that is believed here has signed the server's certificate";
    for (url, more, why) in [
        (&right.https(), &[][..], unknown),
        (&right.https(), &["--cacert", &others], unknown),
        (
            &named.https(),
            &["--cacert", &cacert],
            "is for elsewhere.example, and not for localhost",
        ),
        (&over.https(), &["--cacert", &cacert], "has run out"),
        (&early.https(), &["--cacert", &cacert], "does not count yet"),
        (&plain, &["--cacert", &cacert], "speaks no TLS"),
        (
            &right.http(),
            &[],
            "what answers speaks TLS: write https://",
        ),
    ] {
        let mut command = command_at(url, "test/small", &target, more);
        // Nor does git's own way to switch it off count.
        command
            .env("GIT_SSL_NO_VERIFY", "1")
            .env("TARPON_TOKEN", "hush");
        let errors = expect(&command.output().unwrap(), 3);
        assert!(errors.contains(why), "{why}: {errors}");
        assert!(!errors.contains("hush"), "{errors}");
        expect_nothing(&target);
    }
    for front in [&right, &named, &over, &early] {
        assert!(front.asked().is_empty(), "{:?}", front.asked());
    }
    // It is the certificate alone that is wrong with the others.
    let cacert = ["--cacert", &*cacert];
    let taken = lab.scratch("taken");
    expect(
        &restore_at(&right.https(), "test/small", &taken, &cacert),
        0,
    );
    for (more, why) in [
        (
            &["--cacert", "/nonexistent/ca.pem"][..],
            "/nonexistent/ca.pem",
        ),
        (&["--cacert", "/dev/null"], "no certificate"),
        (&[cacert[0], cacert[1], "--cert", cacert[1]], "no key"),
        (&[cacert[0], cacert[1], "--key", cacert[1]], "--cert"),
    ] {
        let errors = expect(&restore_at(&right.https(), "test/small", &target, more), 1);
        assert!(errors.contains(why), "{errors}");
    }
}

/// Git believes whom tarpon believes, and nobody else: the server's certificate is another by the time that git asks.
#[test]
fn git_believes_the_same() {
    let lab = small_lab();
    let server = lab.start();
    hit(&server, "small");
    let (ours, cacert) = authority(&lab, "ours");
    let (others, other) = authority(&lab, "others");
    let both = lab.scratch("both.pem").display().to_string();
    let files = [&cacert, &other].map(|file| std::fs::read(file).unwrap());
    std::fs::write(&both, files.concat()).unwrap();
    let (tls, turned) = tls_that_turns(&ours, &others);
    let turns = turned.clone();
    let is_by_git = |asked: &Asked| {
        let by = asked.get("user-agent");
        by.is_some_and(|by| by.starts_with("git/"))
    };
    let front = Front::start(server.address(), Some(tls), move |asked| {
        if asked.target().ends_with("/git-upload-pack") && !is_by_git(asked) {
            turns.store(true, Ordering::Relaxed);
        }
        passes(asked)
    });
    for (name, cacert, codes) in [("ours", &cacert, &[3, 6][..]), ("both", &both, &[0])] {
        // Something that the archive has not, each time.
        let file = format!("{name}.txt");
        let new = repos::add_commit(&lab.upstream("small"), "main", &file, b"new");
        let more = ["--no-bundle", "--have", &*new];
        turned.store(false, Ordering::Relaxed);
        let target = lab.scratch(name);
        // The environment's roots count as the option's do.
        let mut command = command_at(&front.https(), "test/small", &target, &more);
        let output = command.env("SSL_CERT_FILE", cacert).output().unwrap();
        let code = output.status.code().unwrap_or_default();
        let errors = expect(&output, code);
        assert!(codes.contains(&code), "{code}: {errors}");
        assert!(turned.load(Ordering::Relaxed), "{errors}");
        let asked = front.asked();
        match code {
            0 => {
                assert!(asked.iter().any(is_by_git), "{asked:?}");
                assert_eq!(git::text(&target, &["rev-parse", "origin/main"]), new);
            }
            _ => {
                assert!(errors.contains("certificate"), "{errors}");
                assert!(!asked.iter().any(is_by_git), "{asked:?}");
                expect_nothing(&target);
            }
        }
    }
}

/// Both tarpon and the git that it runs show it.
#[test]
fn a_client_certificate_is_shown() {
    let lab = small_lab();
    let server = lab.start();
    hit(&server, "small");
    let new = repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new");
    let (ours, cacert) = authority(&lab, "ours");
    let (clients, _) = authority(&lab, "clients");
    let tls = tls_of(&ours, Some(&clients));
    let front = Front::start(server.address(), Some(tls), passes);
    let target = lab.scratch("none");
    let cacert = ["--cacert", &*cacert];
    let none = restore_at(&front.https(), "test/small", &target, &cacert);
    let errors = expect(&none, 3);
    assert!(errors.contains("wants a client certificate"), "{errors}");
    let other = ours.issue("other", &["somebody.example"], 1);
    let old = clients.issue_for("old", &["somebody.example"], 1, (2020, 2021));
    for (issued, why) in [
        (
            &other,
            "believes no authority that has signed the certificate of --cert",
        ),
        (&old, "the certificate of --cert has run out"),
    ] {
        let files = [&issued.cert, &issued.key].map(|file| file.to_string_lossy());
        let more = [&cacert[..], &["--cert", &files[0], "--key", &files[1]]].concat();
        let errors = expect(&restore_at(&front.https(), "test/small", &target, &more), 3);
        assert!(errors.contains(why), "{errors}");
    }
    assert!(front.asked().is_empty());
    expect_nothing(&target);
    let shown = clients.issue("somebody", &["somebody.example"], 1);
    let (cert, key) = (shown.cert.to_string_lossy(), shown.key.to_string_lossy());
    let more = ["--cert", &*cert, "--key", &*key, "--have", &*new];
    let more = [&cacert[..], &more].concat();
    let target = lab.scratch("shown");
    expect(&restore_at(&front.https(), "test/small", &target, &more), 0);
    assert_eq!(git::text(&target, &["rev-parse", "origin/main"]), new);
}

/// The server knows nothing of the path that its proxy has it below.
#[test]
fn a_server_may_be_below_a_path() {
    let lab = small_lab();
    let server = start(&lab);
    hit(&server, "small");
    push_and_fetch(&lab, &server, "small", "large.bin", &large());
    let new = push_and_fetch(&lab, &server, "small", "small.txt", b"small\n");
    let (ours, cacert) = authority(&lab, "ours");
    let below = |asked: &Asked| match asked.target().strip_prefix("/a/cache") {
        Some(target) => Does::Passes(target.to_owned()),
        None => Does::Says(answer("404 Not Found", "", b"not here\n")),
    };
    let front = Front::start(server.address(), Some(tls_of(&ours, None)), below);
    let url = format!("{}/a/cache/", front.https());
    let target = lab.scratch("below");
    let more = ["--cacert", &*cacert, "--json"];
    let out = restore_at(&url, "test/small", &target, &more);
    let errors = expect(&out, 0);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("\"bundle_applied\":true"), "{said} {errors}");
    expect_at(&target, &new);
    expect_newest(&lab, &target, "below");
    // What git fetches comes from there, too.
    let next = repos::add_commit(&lab.upstream("small"), "main", "next.txt", b"next");
    let target = lab.scratch("below-have");
    let more = ["--cacert", &*cacert, "--no-bundle", "--have", &*next];
    expect(&restore_at(&url, "test/small", &target, &more), 0);
    assert_eq!(git::text(&target, &["rev-parse", "origin/main"]), next);
    let asked = front.asked();
    assert!(
        asked
            .iter()
            .all(|asked| asked.target().starts_with("/a/cache/git/")),
        "{asked:?}"
    );
    // Another path is another server.
    expect(
        &restore_at(
            &front.https(),
            "test/small",
            &lab.scratch("no"),
            &["--cacert", &cacert],
        ),
        2,
    );
}

/// What is moved within the server is found, by git as well; nobody else is asked for anything.
#[test]
fn redirects_are_followed_within_the_server_only() {
    let lab = small_lab();
    let server = lab.start();
    hit(&server, "small");
    let old = tip(&lab);
    let new = repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new");
    let moves = |asked: &Asked| match asked.target().strip_prefix("/moved") {
        Some(target) => Does::Passes(target.to_owned()),
        None => {
            let host = asked.get("host").unwrap_or_default();
            let to = format!("Location: http://{host}/moved{}\r\n", asked.target());
            Does::Says(answer("302 Found", &to, b""))
        }
    };
    let front = Front::start(server.address(), None, moves);
    let url = format!("http://{}", front.address);
    let (plain, newer) = (lab.scratch("plain"), lab.scratch("newer"));
    expect(&restore_at(&url, "test/small", &plain, &[]), 0);
    expect_at(&plain, &old);
    // Only the first request goes there.
    let asked = front.asked();
    let first = asked
        .iter()
        .filter(|asked| asked.target().starts_with("/git/"));
    assert_eq!(first.count(), 1, "{asked:?}");
    expect(
        &restore_at(&url, "test/small", &newer, &["--have", &new]),
        0,
    );
    assert_eq!(git::text(&newer, &["rev-parse", "origin/main"]), new);

    let other = Front::start(server.address(), None, passes);
    let none = lab.scratch("none");
    for (location, code) in [
        (
            format!("http://{}/git/test/small/snapshot.tar.zst", other.address),
            3,
        ),
        (
            format!("//{}/git/test/small/snapshot.tar.zst", other.address),
            3,
        ),
        (
            "https://user:secret@elsewhere.example/x?token=hidden".to_owned(),
            3,
        ),
        // Round and round.
        ("/git/test/small/snapshot.tar.zst".to_owned(), 3),
    ] {
        let to = format!("Location: {location}\r\n");
        let away = Front::start(server.address(), None, move |_| {
            Does::Says(answer("307 Temporary Redirect", &to, b""))
        });
        let mut command = command_at(
            &format!("http://{}", away.address),
            "test/small",
            &none,
            &[],
        );
        let errors = expect(&command.env("TARPON_TOKEN", "hush").output().unwrap(), code);
        assert!(errors.contains("307, a redirect to "), "{errors}");
        for secret in ["hush", "secret", "hidden"] {
            assert!(!errors.contains(secret), "{errors}");
        }
        assert!(away.asked().len() < 8, "{:?}", away.asked());
        expect_nothing(&none);
    }
    assert!(other.asked().is_empty(), "{:?}", other.asked());
}

/// Whatever a busy server is asked for, it is asked again when it says; git asks again, too.
#[test]
fn a_busy_server_is_asked_again_for_everything() {
    let lab = small_lab();
    let server = start(&lab);
    hit(&server, "small");
    push_and_fetch(&lab, &server, "small", "large.bin", &large());
    push_and_fetch(&lab, &server, "small", "small.txt", b"small\n");
    let refused = Arc::new(Mutex::new(BTreeSet::new()));
    let turned_away = refused.clone();
    let front = Front::start(server.address(), None, move |asked| {
        let path = asked.target().split('?').next().unwrap_or_default();
        let by = asked.get("user-agent").unwrap_or_default();
        let kind = format!("{} {}", by.split('/').next().unwrap_or_default(), path);
        // Ranges of one archive are one thing.
        match turned_away.lock().unwrap().insert(kind) {
            true => Does::Says(answer("503 Busy", "Retry-After: 1\r\n", b"busy\n")),
            false => passes(asked),
        }
    });
    let url = format!("http://{}", front.address);
    let target = lab.scratch("bundled");
    let out = restore_at(&url, "test/small", &target, &["--json"]);
    expect(&out, 0);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("\"bundle_applied\":true"), "{said}");
    let new = repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new");
    let target = lab.scratch("fetched");
    let more = ["--no-bundle", "--have", &*new];
    expect(&restore_at(&url, "test/small", &target, &more), 0);
    assert_eq!(git::text(&target, &["rev-parse", "origin/main"]), new);
    let refused = refused.lock().unwrap();
    let is_among = |end: &str| refused.iter().any(|kind| kind.ends_with(end));
    for end in [
        "/manifest",
        "/snapshot.bundle",
        "/ensure-refs",
        "/git-upload-pack",
    ] {
        assert!(is_among(end), "{end}: {refused:?}");
    }
    assert!(
        refused.iter().any(|kind| kind.starts_with("git ")),
        "{refused:?}"
    );
}

/// The head of an answer without a length.
fn until_end(etag: &str) -> Vec<u8> {
    format!("HTTP/1.0 200 OK\r\n{etag}\r\n").into_bytes()
}

/// An archive says itself where it ends; over TLS the connection has to say so as well.
#[test]
fn an_answer_without_a_length_is_taken_if_its_content_ends() {
    let (lab, server, whole) = served();
    let (ours, cacert) = authority(&lab, "ours");
    let tls = tls_of(&ours, None);
    let expected = clone(&lab, "app", "expected");
    let whole = Arc::new(whole);
    let cases = [
        // Of the archive, whether the end is said, whether there is TLS; the exit code.
        ("all", whole.len(), true, true, 0),
        ("unsaid", whole.len(), false, true, 3),
        ("plain", whole.len(), true, false, 0),
        ("cut", whole.len() / 2, true, true, 3),
        ("plain cut", whole.len() / 2, true, false, 3),
        ("cut by a byte", whole.len() - 1, true, true, 3),
    ];
    for (name, len, is_said, is_tls, code) in cases {
        let whole = whole.clone();
        let does = move |asked: &Asked| {
            if !asked.target().contains("/snapshot.tar.zst") {
                return passes(asked);
            }
            let answer = [until_end(""), whole[..len].to_vec()].concat();
            match is_said {
                true => Does::Says(answer),
                false => Does::Breaks(answer),
            }
        };
        let front = Front::start(server.address(), is_tls.then(|| tls.clone()), does);
        let url = match is_tls {
            true => front.https(),
            false => format!("http://{}", front.address),
        };
        let target = lab.scratch(name);
        let errors = expect(
            &restore_at(
                &url,
                "test/app",
                &target,
                &["--by-archive", "--cacert", &cacert],
            ),
            code,
        );
        assert!(
            is_said || errors.contains("without a word of TLS"),
            "{errors}"
        );
        match code {
            0 => expect_files(&expected, &target, name),
            _ => {
                assert!(!errors.contains("corrupt"), "{name}: {errors}");
                expect_nothing(&target);
            }
        }
    }
}

/// With a tag what was cut off is asked for again.
#[test]
fn an_answer_without_a_length_that_is_cut_off_goes_on() {
    let (lab, server, whole) = served();
    let tag = server.get("/git/test/app/snapshot.tar.zst").expect(200);
    let tag = tag.head.get("etag").unwrap_or_default().to_owned();
    let expected = clone(&lab, "app", "expected");
    for len in [whole.len() / 2, whole.len()] {
        let (body, tag) = (whole[..len].to_vec(), format!("ETag: {tag}\r\n"));
        let first = std::sync::atomic::AtomicBool::new(true);
        let does = move |asked: &Asked| {
            let is_first = first.swap(false, std::sync::atomic::Ordering::Relaxed);
            match is_first {
                true => Does::Says([until_end(&tag), body.clone()].concat()),
                false => passes(asked),
            }
        };
        let front = Front::start(server.address(), None, does);
        let target = lab.scratch(&format!("goes-on-{len}"));
        let url = format!("http://{}", front.address);
        expect(
            &restore_at(&url, "test/app", &target, &["--by-archive", "--no-bundle"]),
            0,
        );
        expect_files(&expected, &target, "goes on");
    }
}

/// A server that does not get on with TLS, or has no end of it, takes neither time nor memory.
#[test]
fn a_handshake_that_does_not_end_is_given_up() {
    let lab = small_lab();
    let (_, cacert) = authority(&lab, "ours");
    let limit = Duration::from_millis(CONNECT_TIMEOUT_MS);
    let silent = listen(|_| be_silent());
    // A message of 16 MiB, and one empty record after the other.
    let long = [&b"\x16\x03\x03\x40\x00\x02\xff\xff\xff"[..], &[0; 0x3ffc]].concat();
    let next = [&b"\x16\x03\x03\x40\x00"[..], &[0; 0x4000]].concat();
    let endless = listen(move |mut socket| {
        let mut sent = socket.write_all(&long);
        while sent.is_ok() {
            sent = socket.write_all(&next);
        }
    });
    let empty = listen(|mut socket| while socket.write_all(b"\x16\x03\x03\x00\x00").is_ok() {});
    let drips = listen(|mut socket| {
        let bytes = [&b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"[..], &[0; 0x3ffc]].concat();
        for byte in bytes {
            if socket.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let target = lab.scratch("none");
    for (address, may_wait) in [
        (silent, true),
        (endless, false),
        (empty, false),
        (drips, true),
    ] {
        let began = Instant::now();
        let url = format!("https://{address}");
        let out = restore_at(&url, "test/small", &target, &["--cacert", &cacert]);
        let errors = expect(&out, 3);
        let took = began.elapsed();
        assert!(took < limit * 2, "{errors}");
        assert!(may_wait || took < limit, "{errors}");
        expect_nothing(&target);
    }
}
