//! The published `cachew git restore`, replayed request by request as its default settings make
//! them (only the chunks are smaller): parallel ranged downloads of a snapshot, its bundle,
//! `ensure-refs`, and `git pull` at the end.

use super::support::client::{Conn, Head, Response};
use super::support::lab::{self, Lab};
use super::support::repos::{self, Shape};
use super::support::rng::Rng;
use super::support::server::Server;
use super::support::{client, git, wait};
use super::{at_once, ensure, expect_clone, hit, large_lab, push_and_fetch, remove};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The client's default is 16 MiB.
const CHUNK_BYTES: u64 = 1 << 20;
/// Requests at a time, the client's default.
const CONCURRENCY: usize = 8;
/// What the client's HTTP library and its tracing add to every request.
const ALWAYS: &[&str] = &["User-Agent: Go-http-client/1.1", "Authorization: Bearer x"];

/// A snapshot as the client has it in the end.
struct Downloaded {
    /// The head that its metadata is taken from: that of the first response.
    head: Head,
    body: Vec<u8>,
}

/// A response to a ranged request of the client.
fn ranged(server: &Server, name: &str, range: std::ops::Range<u64>, tag: Option<&str>) -> Response {
    let range = format!("Range: bytes={}-{}", range.start, range.end - 1);
    let if_match = tag.map(|tag| format!("If-Match: {tag}"));
    let mut fields = ALWAYS.to_vec();
    fields.push(&range);
    fields.extend(if_match.as_deref());
    server.fetch("GET", &lab::target(name), &fields)
}

fn total(head: &Head) -> Option<u64> {
    let (_, total) = head.get("content-range")?.split_once('/')?;
    total.parse().ok()
}

/// The client's download: a ranged request first. An answer that is no range is all there is; one
/// that is leads to further ones, each pinned to the tag of the first. `between` runs after the
/// first answer.
fn download(server: &Server, name: &str, between: impl FnOnce()) -> Downloaded {
    let first = ranged(server, name, 0..CHUNK_BYTES, None);
    let Some(total) = total(&first.head) else {
        let Response { head, body, .. } = first.expect(200);
        return Downloaded { head, body };
    };
    let Response { head, mut body, .. } = first.expect(206);
    between();
    let next = AtomicU64::new(1);
    let parts = at_once(CONCURRENCY, |_| {
        let mut parts = Vec::new();
        loop {
            let start = next.fetch_add(1, Ordering::Relaxed) * CHUNK_BYTES;
            if start >= total {
                return parts;
            }
            let end = total.min(start + CHUNK_BYTES);
            let part = ranged(server, name, start..end, Some(head.etag())).expect(206);
            let range = part.head.get("content-range").unwrap_or_default();
            assert!(range.starts_with(&format!("bytes {start}-")), "{range}");
            assert_eq!(part.head.etag(), head.etag());
            assert_eq!(part.body.len() as u64, end - start);
            parts.push((start, part.body));
        }
    });
    let mut parts: Vec<_> = parts.into_iter().flatten().collect();
    parts.sort_by_key(|(start, _)| *start);
    for (start, part) in parts {
        assert_eq!(start, body.len() as u64, "a gap");
        body.extend(part);
    }
    assert_eq!(body.len() as u64, total);
    Downloaded { head, body }
}

/// Unpacks with the client's flags of zstd and tar.
fn extract(lab: &Lab, downloaded: &Downloaded, name: &str) -> PathBuf {
    let (archive, into) = (lab.scratch("archive"), lab.scratch(name));
    std::fs::write(&archive, &downloaded.body)
        .and_then(|()| std::fs::create_dir(&into))
        .unwrap_or_else(|e| panic!("{}: {e}", into.display()));
    let script = "zstd -dc -T2 <\"$1\" | tar -xpf - -C \"$2\"";
    let mut command = std::process::Command::new("sh");
    command.args(["-ec", script, "sh"]).arg(&archive).arg(&into);
    let status = command.status();
    assert!(status.is_ok_and(|status| status.success()), "not unpacked");
    into
}

/// The client's bundle, pulled into what was restored.
fn apply_bundle(lab: &Lab, server: &Server, url: &str, restored: &Path) {
    assert!(
        url.starts_with('/'),
        "the client adds its own server: {url}"
    );
    let mut fields = ALWAYS.to_vec();
    fields.push("Accept-Encoding: gzip");
    let bundle = server.fetch("GET", url, &fields).expect(200);
    assert_eq!(bundle.head.get("content-encoding"), None);
    let file = lab.scratch("cachew.bundle");
    std::fs::write(&file, bundle.body).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let branch = git::text(restored, &["symbolic-ref", "--short", "HEAD"]);
    let file = file.to_string_lossy();
    git::run(restored, &["pull", "--ff-only", &file, &branch]);
}

fn has(repository: &Path, id: &str) -> bool {
    git::output(repository, &["cat-file", "-e", id])
        .status
        .success()
}

/// `--ref refs/heads/main=SHA` and `--commit SHA`: asks the server unless all is there, then
/// pulls from the origin, which `url.insteadOf` leads to the server.
fn satisfy(server: &Server, name: &str, restored: &Path, id: &str) {
    if has(restored, id) {
        return;
    }
    let json = format!(r#"{{"refs":{{"refs/heads/main":"{id}"}},"commits":["{id}"]}}"#);
    let answer = ensure(server, name, &json);
    assert!(
        answer["missing_commits"]
            .as_array()
            .is_some_and(Vec::is_empty)
    );
    assert_eq!(answer["refs"]["refs/heads/main"], *id);
    let origin = git::text(restored, &["config", "remote.origin.url"]);
    let instead = format!(
        "url.http://{}/git/test/{name}.insteadOf={origin}",
        server.address()
    );
    git::run(restored, &["-c", &instead, "pull", "--quiet", "--ff-only"]);
}

/// The entry is complete: parts in parallel, then the same as a clone.
#[test]
fn a_complete_entry() {
    let lab = large_lab();
    let server = lab.start();
    let whole = hit(&server, "large").body;
    let got = download(&server, "large", || {});
    assert!(got.body == whole, "the parts are not the whole");
    let head = git::text(&lab.upstream("large"), &["rev-parse", "HEAD"]);
    assert_eq!(got.head.get("x-cachew-snapshot-commit"), Some(&*head));
    assert_eq!(got.head.get("x-cachew-bundle-url"), None);
    let restored = extract(&lab, &got, "restored");
    assert_eq!(git::text(&restored, &["status", "--porcelain"]), "");
    remove(&restored);
    expect_clone(&lab, "large", &got.body);

    let new = repos::add_commit(&lab.upstream("large"), "main", "new.txt", b"new\n");
    let restored = extract(&lab, &got, "again");
    satisfy(&server, "large", &restored, &new);
    assert_eq!(git::text(&restored, &["rev-parse", "HEAD"]), new);
    assert_eq!(git::text(&restored, &["status", "--porcelain"]), "");
}

/// An object that fits into the first part: 206 with all of it.
#[test]
fn a_small_entry_is_one_part() {
    let lab = super::small_lab();
    let server = lab.start();
    let whole = hit(&server, "small").body;
    let got = download(&server, "small", || {});
    assert_eq!(got.head.status, 206);
    assert!(got.body == whole, "the part is not the whole");
}

/// Nothing cached, and a build in progress that another client began: a plain 200 with all of
/// it, with the same fields.
#[test]
fn a_build_in_progress() {
    let lab = large_lab();
    let server = lab.start();
    let parts = || panic!("a part of what is not whole");
    // None of them can be late: the build waits for the clone.
    let all = at_once(3, |_| download(&server, "large", parts));
    let cached = hit(&server, "large");
    let commit = git::text(&lab.upstream("large"), &["rev-parse", "HEAD"]);
    for got in &all {
        assert_eq!(got.head.status, 200);
        assert!(got.body == cached.body, "the bodies differ");
        assert_eq!(got.head.get("x-cachew-snapshot-commit"), Some(&*commit));
        assert_eq!(got.head.etag(), cached.head.etag());
    }
    assert_eq!(server.builds("complete"), 1);
    let restored = extract(&lab, &all[0], "restored");
    assert_eq!(git::text(&restored, &["status", "--porcelain"]), "");
    remove(&restored);
    expect_clone(&lab, "large", &all[0].body);
}

/// A push in the middle of a download: the parts that are still to come are those of the
/// snapshot that it began with, and what is new comes with the bundle.
#[test]
fn a_newer_snapshot_in_the_middle() {
    let lab = large_lab();
    let server = lab.start();
    let old = hit(&server, "large");
    let got = download(&server, "large", || {
        let content = Rng::new(9).bytes(1 << 20);
        push_and_fetch(&lab, &server, "large", "new.bin", &content);
        wait::until_true("the newer snapshot is served", || {
            let head = server.fetch("HEAD", &lab::target("large"), &[]).head;
            head.etag() != old.head.etag()
        });
    });
    assert!(got.body == old.body, "parts of two snapshots");
    // The part says what is newer, too: here by a request that names the old one.
    let part = ranged(&server, "large", 0..100, Some(old.head.etag())).expect(206);
    let url = part.head.get("x-cachew-bundle-url").unwrap_or_default();
    let restored = extract(&lab, &got, "restored");
    apply_bundle(&lab, &server, url, &restored);
    let head = git::text(&lab.upstream("large"), &["rev-parse", "HEAD"]);
    assert_eq!(git::text(&restored, &["rev-parse", "HEAD"]), head);
    // A broken plain download of it resumes as well; others get the newer one.
    let if_range = format!("If-Range: {}", old.head.etag());
    let fields = ["Range: bytes=1000-", &*if_range];
    let resumed = server.fetch("GET", &lab::target("large"), &fields);
    assert!(resumed.expect(206).body == old.body[1000..]);
    let never = ranged(&server, "large", 0..100, Some("\"0123\""));
    never.expect(412);
    let newer = server.get(&lab::target("large")).expect(200);
    assert!(newer.head.etag() != old.head.etag());
}

/// No such repository: the client takes 404 for "no snapshot" and anything else for an error.
#[test]
fn no_snapshot() {
    let lab = super::new_lab();
    lab.generate("small", Shape::ManySmall, 1000);
    let server = lab.start();
    let answer = ranged(&server, "absent", 0..CHUNK_BYTES, None);
    assert_eq!(answer.head.status, 404);
    let mut conn = Conn::open(server.address());
    let wrong = r#"{"refs":{"main":""}}"#;
    let target = lab::endpoint("small", "ensure-refs");
    conn.post(
        &target,
        &["Content-Type: application/json"],
        wrong.as_bytes(),
    );
    conn.response("POST").expect(400);
    // The connection goes on, as the client's pool of them expects.
    conn.request("GET", &lab::target("small"), ALWAYS);
    conn.response("GET").expect(200);
    let lfs = lab::endpoint("small", "lfs-snapshot.tar.zst");
    client::get(server.address(), &lfs).expect(404);
}
