//! `manifest` and `parts/NAME`: a snapshot that clients put together themselves, from files that they fetch one by
//! one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tarpon::extent::Segment;
use tarpon::manifest::parts::{Contents, MANIFEST_TYPE, Manifest, Part, manifest_tag};
use xxhash_rust::xxh64::xxh64;

use super::support::client::Response;
use super::support::lab::{self, Lab};
use super::support::repos::{self, Shape};
use super::support::server::Server;
use super::support::{git, wait};
use super::{new_lab, push_and_fetch, small_lab};

/// Nothing but what is asked for.
const FAR: [&str; 4] = ["--fetch-interval", "720h", "--scrub-interval", "0"];
const TAKES_ARCHIVE: &str = "Accept: application/x-tarpon-manifest, application/zstd;q=0.5";

fn with(what: &str, query: &str) -> String {
    match query {
        "" => what.to_owned(),
        query => format!("{what}?{query}"),
    }
}

/// Of a want of a repository.
struct Of<'a> {
    server: &'a Server,
    name: &'a str,
    query: &'a str,
}

impl Of<'_> {
    fn target(&self, what: &str) -> String {
        lab::endpoint(self.name, &with(what, self.query))
    }

    /// The archive, once it comes from the cache.
    fn archive(&self) -> Response {
        let target = self.target("snapshot.tar.zst");
        self.server.get(&target).expect(200);
        wait::until_true("it is published", || {
            self.server.fetch("HEAD", &target, &[]).head.status == 200
        });
        self.server.get(&target).expect(200)
    }

    fn manifest(&self) -> Manifest {
        let sent = self.server.get(&self.target("manifest")).expect(200);
        Manifest::unpack(&sent.body).unwrap_or_else(|e| panic!("{}: {e}", self.query))
    }

    fn part(&self, name: &str, fields: &[&str]) -> Response {
        let target = self.target(&format!("parts/{name}"));
        self.server.fetch("GET", &target, fields)
    }

    /// All parts, each as the manifest says it is.
    fn parts(&self, manifest: &Manifest) -> Vec<Vec<u8>> {
        let fetch = |part: &Part| {
            let body = self.part(&part.name, &[]).expect(200).body;
            assert_eq!(body.len() as u64, part.bytes, "{}", part.name);
            if let Some(whole) = part.whole {
                assert_eq!(xxh64(&body, 0), whole, "{}", part.name);
            }
            body
        };
        manifest.parts.iter().map(fetch).collect()
    }
}

/// The archive that these parts are.
fn played_out(manifest: &Manifest, parts: &[Vec<u8>]) -> Vec<u8> {
    let (own, linked) = parts.split_last().unwrap();
    let mut archive = Vec::new();
    for segment in manifest.segments() {
        let (from, offset, len) = match &segment {
            Segment::Inline(inline) => (inline.as_slice(), 0, inline.as_slice().len() as u64),
            Segment::Spool { offset, len } => (&own[..], *offset, *len),
            Segment::File { file, offset, len } => (&linked[*file as usize][..], *offset, *len),
        };
        archive.extend_from_slice(&from[offset as usize..][..len as usize]);
    }
    archive
}

/// What a stretch of an archive holds, as tar has it.
fn content(archive: &[u8], manifest: &Manifest, contents: Contents) -> Vec<u8> {
    let mut content = Vec::new();
    for stretch in manifest.stretches(contents) {
        let mut rest = &archive[stretch.start as usize..stretch.end as usize];
        while !rest.is_empty() {
            let bytes = zstd_safe::find_frame_compressed_size(rest).unwrap();
            let size = zstd_safe::get_frame_content_size(rest).unwrap().unwrap();
            let mut frame = Vec::with_capacity(size as usize);
            zstd_safe::decompress(&mut frame, &rest[..bytes]).unwrap();
            content.extend(frame);
            rest = &rest[bytes..];
        }
    }
    content
}

fn has(content: &[u8], name: &str) -> bool {
    content
        .windows(name.len())
        .any(|here| here == name.as_bytes())
}

/// The sections begin where what they say begins.
fn expect_sections(archive: &[u8], manifest: &Manifest) {
    let of = |contents| content(archive, manifest, contents);
    let (first, refs) = (of(Contents::GitDir), of(Contents::Refs));
    assert!(has(&first, ".git/HEAD") && has(&first, ".git/config"));
    assert!(!has(&first, ".git/refs/heads/main"));
    assert!(!has(&refs, ".git/config") && !has(&refs, ".pack"));
    let (packs, worktree) = (of(Contents::Packs), of(Contents::Worktree));
    assert!(has(&packs, ".pack") && has(&packs, ".idx"));
    assert!(!worktree.is_empty() && !has(&worktree, ".git/"));
    let (index, end) = (of(Contents::Index), of(Contents::End));
    assert!(has(&index, ".git/index") && has(&index, "DIRC"));
    assert!(end.ends_with(&[0; 1024]) && !has(&end, ".git/index"));
    let kinds = [first, refs, packs, worktree, index, end];
    let all: usize = kinds.iter().map(Vec::len).sum();
    let whole = Manifest {
        sections: manifest.sections[..1].to_vec(),
        ..manifest.clone()
    };
    assert_eq!(content(archive, &whole, Contents::GitDir).len(), all);
}

/// The manifest and the parts of a want are the archive, byte for byte; packs are as git has them.
fn expect_parity(lab: &Lab, of: &Of<'_>) -> (Manifest, Vec<Vec<u8>>) {
    let archive = of.archive();
    let manifest = of.manifest();
    assert_eq!(format!("\"{}\"", manifest.id), archive.head.etag());
    let commit = archive.head.get("x-cachew-snapshot-commit");
    assert_eq!(manifest.commit.as_deref(), commit);
    let parts = of.parts(&manifest);
    assert!(
        played_out(&manifest, &parts) == archive.body,
        "{}",
        of.query
    );
    expect_sections(&archive.body, &manifest);
    let unpacked = lab.unpack(&archive.body, "unpacked");
    let packs = manifest.parts.iter().zip(&parts);
    for (part, bytes) in packs.filter(|(part, _)| part.is_of_pack()) {
        let file = unpacked.join(".git/objects/pack").join(&part.name);
        assert!(fs::read(&file).unwrap() == *bytes, "{}", part.name);
    }
    super::remove(&unpacked);
    let head = of
        .server
        .fetch("HEAD", &of.target("manifest"), &[])
        .expect(200)
        .head;
    assert_eq!(head.etag(), manifest_tag(&manifest.id));
    let small = manifest.pack().unwrap().len() as u64;
    assert_eq!(head.content_length(), Some(small));
    assert!(small < 4096, "{small} bytes");
    (manifest, parts)
}

/// Ranges and conditions of a part.
fn expect_ranges(of: &Of<'_>, part: &Part, bytes: &[u8]) {
    let plain = of.part(&part.name, &[]).expect(200);
    let etag = plain.head.etag().to_owned();
    let control = plain.head.get("cache-control");
    assert_eq!(control, Some("public, max-age=3600, immutable"));
    assert_eq!(plain.head.get("accept-ranges"), Some("bytes"));
    let head = of
        .server
        .fetch("HEAD", &of.target(&format!("parts/{}", part.name)), &[]);
    assert_eq!(head.head.content_length(), Some(part.bytes));
    let half = bytes.len() / 2;
    let (same, other) = (format!("If-Range: {etag}"), "If-Range: \"other\"");
    let from = format!("Range: bytes={half}-");
    let rest = of.part(&part.name, &[&from, &same]).expect(206);
    assert!(rest.body == bytes[half..], "resumed");
    let range = format!("bytes {half}-{}/{}", bytes.len() - 1, bytes.len());
    assert_eq!(rest.head.get("content-range"), Some(&*range));
    assert!(of.part(&part.name, &[&from, other]).expect(200).body == bytes);
    let few = of.part(&part.name, &["Range: bytes=3-9"]).expect(206);
    assert!(few.body == bytes[3..10]);
    let beyond = format!("Range: bytes={}-", bytes.len());
    of.part(&part.name, &[&beyond]).expect(416);
    let none_match = format!("If-None-Match: {etag}");
    of.part(&part.name, &[&none_match]).expect(304);
    of.part(&part.name, &["If-Match: \"other\""]).expect(412);
}

/// Whatever is wanted. What belongs to another want is as if it were not there.
#[test]
fn parts_played_out_are_the_archive() {
    let lab = new_lab();
    lab.generate("big", Shape::BigPack, 3 << 20);
    let up = lab.upstream("big");
    git::run(&up, &["tag", "-a", "-m", "of it", "v1", "main"]);
    let id = repos::add_commit(&up, "main", "more.txt", b"more\n");
    git::run(&up, &["update-ref", "refs/heads/apart", "refs/heads/main"]);
    let hidden = repos::add_commit(&up, "apart", "hidden.txt", b"hidden\n");
    git::run(&up, &["update-ref", "refs/pull/7/head", &hidden]);
    git::run(&up, &["update-ref", "-d", "refs/heads/apart"]);
    let server = lab.settings().with(&FAR).start();
    let of = |query| Of {
        server: &server,
        name: "big",
        query,
    };
    let by_id = format!("commit={id}");
    let pulled = format!("commit={hidden}");
    let plain = of("");
    let (manifest, parts) = expect_parity(&lab, &plain);
    let own: BTreeMap<&str, String> = ["ref=main", &by_id, "depth=1", "ref=v1&depth=1", &pulled]
        .into_iter()
        .map(|query| {
            let (manifest, _) = expect_parity(&lab, &of(query));
            (query, manifest.parts.last().unwrap().name.clone())
        })
        .collect();
    let pack = manifest.parts.iter().zip(&parts);
    let pack = pack.max_by_key(|(part, _)| part.bytes).unwrap();
    assert!(pack.0.is_of_pack());
    expect_ranges(&plain, pack.0, pack.1);
    let last = manifest.parts.last().unwrap();
    expect_ranges(&plain, last, parts.last().unwrap());
    // What the annex has is a pack that only its own manifest names.
    let annexed = of(&pulled).manifest();
    let is_apart = |part: &&Part| !manifest.parts.contains(part) && part.is_of_pack();
    let extra = annexed.parts.iter().find(is_apart).unwrap();
    of(&pulled).part(&extra.name, &[]).expect(200);
    let absent = format!("pack-{}.pack", "0".repeat(40));
    let none = plain.part(&absent, &[]).expect(404);
    assert_eq!(none.head.get("cache-control"), Some("no-store"));
    for name in own.values().chain([&extra.name]) {
        let other = plain.part(name, &[]).expect(404);
        assert_eq!(other.text(), none.text(), "{name}");
    }
    of("ref=absent").part(&last.name, &[]).expect(404);
    plain.part("meta", &[]).expect(404);
    plain.part("..%2f..%2fmeta", &[]).expect(400);
    of("depth=2").part(&last.name, &[]).expect(400);
    let metrics = server.metrics();
    let counted = |outcome| metrics.count("tarpon_requests_total", &[("outcome", outcome)]);
    assert!(counted("part") > 10 && counted("manifest") > 4);
    server.stop();
    lab.expect_no_orphans();
}

/// A manifest and its archive are two things with two tags: what somebody has of one says nothing of the other.
fn expect_two_tags(big: &Of<'_>, small: &Of<'_>) {
    let ask = |method, of: &Of<'_>, fields: &[&str]| {
        of.server.fetch(method, &of.target("manifest"), fields).head
    };
    let manifest = ask("GET", big, &[TAKES_ARCHIVE]);
    assert_eq!(manifest.get("vary"), Some("Accept"));
    let archive = big.archive().head;
    for (tag, if_none, if_match) in [(archive.etag(), 200, 412), (manifest.etag(), 304, 200)] {
        let if_none = (format!("If-None-Match: {tag}"), if_none);
        let if_match = (format!("If-Match: {tag}"), if_match);
        for (field, expected) in [if_none, if_match] {
            for fields in [&[&*field][..], &[TAKES_ARCHIVE, &field]] {
                let status = ask("GET", big, fields).status;
                assert_eq!(status, expected, "{fields:?}");
            }
        }
    }
    let archive = small.archive().head;
    let has = format!("If-None-Match: {}", archive.etag());
    assert_eq!(ask("GET", small, &[TAKES_ARCHIVE, &has]).status, 304);
    assert_eq!(ask("GET", small, &[&has]).status, 200);
    let head = ask("HEAD", small, &[TAKES_ARCHIVE]);
    assert_eq!(head.etag(), archive.etag());
    assert_eq!(head.content_length(), archive.content_length());
}

/// Who takes an archive is given one where that is small, or nothing else is there.
#[test]
fn an_archive_comes_instead_of_a_manifest() {
    let lab = small_lab();
    lab.generate("big", Shape::BigPack, 3 << 20);
    let server = lab.settings().with(&FAR).start();
    let of = |name| Of {
        server: &server,
        name,
        query: "",
    };
    let ask = |name, fields: &[&str]| {
        let target = of(name).target("manifest");
        server.fetch("GET", &target, fields)
    };
    let is_archive = |answer: &Response| match answer.head.get("content-type") {
        Some("application/zstd") => true,
        Some(MANIFEST_TYPE) => false,
        other => panic!("{other:?}"),
    };
    let head = server.fetch("HEAD", &of("small").target("manifest"), &[]);
    assert_eq!(head.head.status, 404, "nothing is there");
    // Cold: nobody asks in vain, nor twice.
    let cold = ask("small", &[TAKES_ARCHIVE]).expect(200);
    assert!(is_archive(&cold));
    super::expect_clone(&lab, "small", &cold.body);
    let cold = wait::until("it stands", || {
        let answer = ask("big", &[]);
        assert!(matches!(answer.head.status, 200 | 503), "{}", answer.text());
        (answer.head.status == 200).then_some(answer)
    });
    assert!(!is_archive(&cold));
    let small = of("small").archive();
    let again = ask("small", &[TAKES_ARCHIVE, "Range: bytes=7-"]).expect(200);
    assert!(is_archive(&again) && again.body == small.body);
    assert_eq!(again.head.get("cache-control"), Some("no-store"));
    for fields in [
        &[][..],
        &["Accept: */*"],
        &["Accept: application/zstd ; Q=0.00"],
    ] {
        assert!(!is_archive(&ask("small", fields).expect(200)), "{fields:?}");
    }
    let big = of("big").archive();
    let answer = ask("big", &[TAKES_ARCHIVE]).expect(200);
    assert!(!is_archive(&answer));
    expect_two_tags(&of("big"), &of("small"));
    // An entry of before there were manifests.
    let entry = lab
        .state()
        .join("snapshots")
        .join(big.head.etag().trim_matches('"'));
    fs::remove_file(entry.join("manifest")).unwrap();
    ask("big", &[]).expect(404);
    let answer = ask("big", &[TAKES_ARCHIVE]).expect(200);
    assert!(is_archive(&answer) && answer.body == big.body);
    server.stop();
    expect_what_is_sooner(&lab);
    expect_live_only(&lab);
}

/// What is still built comes as it is made to who takes either, and by its manifest to who would rather wait.
fn expect_what_is_sooner(lab: &Lab) {
    for (accept, at_first) in [
        (
            "Accept: application/x-tarpon-manifest, application/zstd",
            "application/zstd",
        ),
        (TAKES_ARCHIVE, MANIFEST_TYPE),
    ] {
        lab.forget_snapshots();
        let server = lab.settings().with(&FAR).start();
        let target = lab::endpoint("big", "manifest");
        let ask = || server.fetch("GET", &target, &[accept]).expect(200);
        let answer = ask();
        assert_eq!(answer.head.get("content-type"), Some(at_first), "{accept}");
        if at_first != MANIFEST_TYPE {
            super::expect_clone(lab, "big", &answer.body);
        }
        wait::until_true("its manifest stands", || {
            ask().head.get("content-type") == Some(MANIFEST_TYPE)
        });
        server.stop();
    }
}

/// What is not kept has no manifest.
fn expect_live_only(lab: &Lab) {
    lab.forget_snapshots();
    let fault = "spool-enospc-after-bytes=1";
    let server = lab.settings().with(&FAR).with_fault(fault).start();
    let target = lab::endpoint("big", "manifest");
    let alone = server.get(&target).head.status;
    assert!(matches!(alone, 404 | 503), "{alone}");
    let answer = server.fetch("GET", &target, &[TAKES_ARCHIVE]).expect(200);
    assert_eq!(answer.head.get("content-type"), Some("application/zstd"));
    super::expect_clone(lab, "big", &answer.body);
    server.stop();
}

fn packs(mirror: &Path) -> Vec<String> {
    let names = fs::read_dir(mirror.join("objects/pack")).unwrap();
    let names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".pack")).collect()
}

/// A download by parts goes on with what it began with.
#[test]
fn parts_of_what_was_replaced_are_still_there() {
    let lab = small_lab();
    let server = lab.settings().with(&FAR).start();
    let of = Of {
        server: &server,
        name: "small",
        query: "",
    };
    let archive = of.archive();
    let manifest = of.manifest();
    let push = |path: &str| {
        let id = push_and_fetch(&lab, &server, "small", path, b"new\n");
        wait::until_true("it is replaced", || {
            let head = server.fetch("HEAD", &lab::target("small"), &[]).head;
            head.get("x-cachew-snapshot-commit") == Some(&id)
        });
    };
    push("new.txt");
    // What is there is in one pack now, which has another name.
    git::repack_and_prune(&lab.mirror("small"));
    push("newer.txt");
    let now = of.manifest();
    let is_gone = |part: &&Part| !now.parts.iter().any(|other| other.name == part.name);
    let gone = manifest.parts.iter().filter(is_gone);
    let gone = Vec::from_iter(gone.filter(|part| part.is_of_pack()));
    let left = packs(&lab.mirror("small"));
    assert!(gone.iter().any(|part| !left.contains(&part.name)));
    assert!(!gone.is_empty(), "the mirror was repacked");
    let parts = of.parts(&manifest);
    assert!(played_out(&manifest, &parts) == archive.body);
    // Not under another name.
    let other = Of {
        query: "ref=main",
        ..of
    };
    other.part(&gone[0].name, &[]).expect(404);
    server.stop();
}
