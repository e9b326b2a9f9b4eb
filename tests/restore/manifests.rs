//! Manifests that lie: nothing comes of them but what a clone has.

use crate::lab::{clone, expect_files, expect_nothing, forward, new_lab, restore};
use crate::support::lab::{self, Lab};
use crate::support::relay::listen;
use crate::support::restore::expect;
use crate::support::server::Server;
use crate::support::steps::hit;
use std::io::Write;
use std::net::SocketAddr;
use tarpon::manifest::parts::{Contents, MANIFEST_TYPE, Manifest};

/// All of the manifest counts.
const BY_PARTS: [&str; 3] = ["--by-parts", "--worktree", "frames"];

/// Serves what `server` does, but for the manifest.
fn liar(server: &Server, manifest: &Manifest) -> SocketAddr {
    sends(server, &manifest.tag(), manifest.pack().unwrap())
}

/// The same of what is no manifest.
fn sends(server: &Server, tag: &str, body: Vec<u8>) -> SocketAddr {
    let address = server.address();
    let head = format!(
        "HTTP/1.1 200 OK\r\nETag: {tag}\r\nContent-Type: {MANIFEST_TYPE}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    let answer = [head.into_bytes(), body].concat();
    listen(move |socket| {
        let mut first = [0; 256];
        let len = socket.peek(&mut first).unwrap_or(0);
        match String::from_utf8_lossy(&first[..len]).contains("/manifest") {
            true => {
                // What was asked is read, so that the end of the connection is no reset.
                let mut socket = socket;
                let _ = std::io::Read::read(&mut socket, &mut [0; 4096]);
                drop(socket.write_all(&answer));
            }
            false => forward(socket, address),
        }
    })
}

fn manifest(server: &Server, name: &str) -> Manifest {
    let sent = server.get(&lab::endpoint(name, "manifest")).expect(200);
    Manifest::unpack(&sent.body).unwrap()
}

/// A change that makes a manifest lie, and the exit code of who believes nothing of it.
type Lie = (&'static str, i32, fn(&mut Manifest));

fn commit(manifest: &mut Manifest) {
    manifest.commit = Some("1".repeat(40));
}

fn longer(manifest: &mut Manifest) {
    manifest.parts[0].bytes += 1;
}

fn twice(manifest: &mut Manifest) {
    let name = manifest.parts[0].name.clone();
    manifest.parts[1].name = name;
}

fn escapes(manifest: &mut Manifest) {
    manifest.parts[0].name = "../../hooks/post-checkout".into();
}

fn other_pack(manifest: &mut Manifest) {
    let is_pack = |name: &str| name.ends_with(".pack");
    let pack = manifest.parts.iter_mut().find(|part| is_pack(&part.name));
    pack.unwrap().name = format!("pack-{}.pack", "2".repeat(40));
}

fn rename(manifest: &mut Manifest, from: Contents, to: Contents) {
    for section in &mut manifest.sections {
        if section.contents == from {
            section.contents = to;
        }
    }
}

/// What is in the worktree is called an index, which nobody reads.
fn no_worktree(manifest: &mut Manifest) {
    rename(manifest, Contents::Worktree, Contents::Index);
}

fn no_refs(manifest: &mut Manifest) {
    rename(manifest, Contents::Refs, Contents::Index);
}

fn no_git(manifest: &mut Manifest) {
    rename(manifest, Contents::GitDir, Contents::Packs);
}

fn packs_are_files(manifest: &mut Manifest) {
    rename(manifest, Contents::Packs, Contents::Worktree);
}

fn no_end(manifest: &mut Manifest) {
    rename(manifest, Contents::End, Contents::Index);
}

fn no_sections(manifest: &mut Manifest) {
    manifest.sections.clear();
}

/// Nothing is left of a restore that was lied to.
fn expect_refused(lab: &Lab, server: &Server, (name, code, lie): Lie) {
    let mut manifest = manifest(server, "app");
    lie(&mut manifest);
    let into = lab.scratch(&format!("lied-{}", name.replace(' ', "-")));
    let out = restore(liar(server, &manifest), "test/app", &into, &BY_PARTS);
    let errors = expect(&out, code);
    assert!(!errors.contains("panicked"), "{name}: {errors}");
    expect_nothing(&into);
}

#[test]
fn nothing_comes_of_a_manifest_that_lies() {
    let lab = new_lab();
    let server = lab.start();
    hit(&server, "app");
    let cloned = clone(&lab, "app", "clone");
    // The liar is believed where it says the truth.
    let good = lab.scratch("good");
    let honest = liar(&server, &manifest(&server, "app"));
    expect(&restore(honest, "test/app", &good, &BY_PARTS), 0);
    expect_files(&cloned, &good, "by parts");
    let lies: [Lie; 11] = [
        ("another commit", 5, commit),
        ("a length", 5, longer),
        ("a name twice", 5, twice),
        ("a path", 5, escapes),
        ("another pack", 3, other_pack),
        ("no worktree", 5, no_worktree),
        ("no refs", 5, no_refs),
        ("no git directory", 5, no_git),
        ("packs are files", 5, packs_are_files),
        ("no end", 5, no_end),
        ("no sections", 5, no_sections),
    ];
    for lie in lies {
        expect_refused(&lab, &server, lie);
    }
    server.stop();
}

/// What takes more memory than there is for it, in a frame of a few KB: it is refused as it comes.
#[test]
fn a_manifest_of_a_billion_entries_is_refused() {
    let lab = new_lab();
    let server = lab.start();
    hit(&server, "app");
    let sound = manifest(&server, "app");
    let mut file = sound.encode();
    let commit = sound.commit.as_ref().map_or(0, String::len);
    // Magic, version, length; id, want, commit; then how many parts there are.
    let at = 20 + 32 + 2 + 8 + commit;
    assert_eq!(file[at..at + 8], (sound.parts.len() as u64).to_le_bytes());
    for (count, zeros, why) in [
        (1_000_000_000u64, 55 << 20, "1000000000 items are stated"),
        (3 << 20, 55 << 20, "memory"),
        (u64::MAX, 0, "items are stated"),
    ] {
        file.truncate(at + 8);
        file[at..].copy_from_slice(&count.to_le_bytes());
        file.resize(at + 8 + zeros, 0);
        let payload_bytes = file.len() as u64 - 20;
        file[12..20].copy_from_slice(&payload_bytes.to_le_bytes());
        let mut frame = Vec::with_capacity(zstd_safe::compress_bound(file.len()));
        zstd_safe::compress(&mut frame, &file, 3).unwrap();
        let into = lab.scratch("claims");
        let claims = sends(&server, &sound.tag(), frame);
        let out = restore(claims, "test/app", &into, &BY_PARTS);
        let errors = expect(&out, 5);
        assert!(errors.contains(why), "{errors}");
        expect_nothing(&into);
    }
    server.stop();
}
