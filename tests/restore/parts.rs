//! The parts of a snapshot, fetched into a directory.

use crate::lab::{expect, expect_files, new_lab, restore, switch};
use crate::support::lab::{self, Lab};
use crate::support::relay::{Ends, interrupt};
use crate::support::repos::Shape;
use crate::support::server::Server;
use crate::support::steps::hit;
use crate::support::wait;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tarpon::config::{Command, RestoreArgs, parse};
use tarpon::manifest::parts::Manifest;
use tarpon::restore::RestoreError;
use tarpon::restore::layers::fetch_parts;

/// More than one connection fetches at a time.
const PACK_BYTES: u64 = 20 << 20;

fn args(server: SocketAddr, more: &[&str]) -> RestoreArgs {
    let server = format!("http://{server}");
    let words = [
        "tarpon",
        "restore",
        "test/big",
        "/nowhere",
        "--server",
        &server,
        "--free-floor",
        "0",
    ];
    let words = words.iter().chain(more).map(|word| word.into());
    let words: Vec<std::ffi::OsString> = words.collect();
    match parse(words, |_| None) {
        Ok(Command::Restore(args)) => *args,
        _ => panic!("the arguments are wrong"),
    }
}

fn fetch(server: SocketAddr, dir: &Path) -> Result<Manifest, RestoreError> {
    let fetched = fetch_parts(&args(server, &["--connections", "3"]), dir)?;
    Ok(fetched.expect("a manifest"))
}

/// Panics unless what is in `dir` is what the server gives, under the names that the manifest has.
fn expect_parts(server: &Server, manifest: &Manifest, dir: &Path) {
    for part in &manifest.parts {
        let path = dir.join(&part.name);
        let target = lab::endpoint("big", &format!("parts/{}", part.name));
        let body = server.get(&target).expect(200).body;
        assert!(fs::read(&path).unwrap() == body, "{}", part.name);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444, "{}", part.name);
    }
    let there = fs::read_dir(dir).unwrap().count();
    assert_eq!(there, manifest.parts.len(), "something is left over");
}

fn scratch(lab: &Lab, name: &str) -> PathBuf {
    let dir = lab.scratch(name);
    fs::create_dir(&dir).unwrap();
    dir
}

/// Each goes on where its connection broke, and none is fetched twice.
#[test]
fn parts_come_over_connections_that_break() {
    let lab = new_lab();
    lab.generate("big", Shape::BigPack, PACK_BYTES);
    let server = lab.start();
    hit(&server, "big");
    let relayed = interrupt(server.address(), |number| match number {
        // The manifest, and then every connection for a while.
        0 => Ends::Whole,
        1..=12 => Ends::Cut(700_000 * number as u64),
        _ => Ends::Whole,
    });
    let dir = scratch(&lab, "parts");
    // What a run that was killed has left there.
    let manifest = server.get(&lab::endpoint("big", "manifest")).expect(200);
    let manifest = Manifest::unpack(&manifest.body).unwrap();
    fs::write(dir.join(format!(".{}", manifest.parts[0].name)), "left").unwrap();
    let fetched = fetch(relayed, &dir).unwrap();
    assert_eq!(fetched, manifest);
    expect_parts(&server, &manifest, &dir);
    // An answer is counted once its connection has ended, also where somebody has broken it off.
    let parts = || {
        let labels = [("outcome", "part")];
        wait::until("all connections end", || {
            let metrics = server.metrics();
            let is_alone = metrics.count("tarpon_connections_open", &[]) == 1;
            is_alone.then(|| metrics.count("tarpon_requests_total", &labels))
        })
    };
    let before = parts();
    fetch(server.address(), &dir).unwrap();
    assert_eq!(parts(), before, "all of it was there");
    // One that is missing is all that is fetched.
    let lost = dir.join(&manifest.parts.last().unwrap().name);
    fs::remove_file(&lost).unwrap();
    fetch(server.address(), &dir).unwrap();
    assert_eq!(parts(), before + 1);
    expect_small(&server, &lab);
    expect_damage(&server, &lab, &manifest);
}

/// What is larger than it may be is refused before it is asked for.
fn expect_small(server: &Server, lab: &Lab) {
    let dir = scratch(lab, "small");
    let small = args(server.address(), &["--size-limit", "1M"]);
    let error = fetch_parts(&small, &dir).unwrap_err();
    assert!(matches!(error, RestoreError::SizeLimit { .. }), "{error}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

/// What the server's disk has changed gets no name.
fn expect_damage(server: &Server, lab: &Lab, manifest: &Manifest) {
    let entry = lab.state().join("snapshots").join(&lab.entries()[0]);
    let pack = manifest.parts.iter().max_by_key(|part| part.bytes).unwrap();
    let own = manifest.parts.last().unwrap();
    let files = [
        entry.join("objects/pack").join(&pack.name),
        entry.join("frames").join(&own.name),
    ];
    for (part, path) in [pack, own].into_iter().zip(&files) {
        let dir = scratch(lab, &format!("damaged-{}", part.name));
        fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
        let file = File::options().read(true).write(true).open(path).unwrap();
        let (mut byte, at) = ([0], part.bytes / 2);
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        let error = fetch(server.address(), &dir).unwrap_err();
        assert!(
            matches!(&error, RestoreError::Corrupt { what, .. } if what.contains(&part.name)),
            "{error}"
        );
        assert!(!dir.join(&part.name).exists());
        file.write_all_at(&byte, at).unwrap();
        fetch(server.address(), &dir).unwrap();
        assert!(dir.join(&part.name).exists());
    }
}

/// A server that is killed and started again while parts come: what came is not asked for again, and what is made is the
/// same, of a restore, of one into a seed, and of an update.
#[test]
fn a_server_comes_back_while_parts_come() {
    /// The connection that finds it gone.
    const GONE_AT: usize = 4;
    /// Of each answer before that.
    const CUT_BYTES: u64 = 1_500_000;
    let lab = Arc::new(new_lab());
    lab.generate("big", Shape::BigPack, PACK_BYTES);
    let server = lab.start();
    hit(&server, "big");
    let plain = lab.scratch("plain");
    expect(&restore(server.address(), "test/big", &plain, &[]), 0);
    let server = Arc::new(Mutex::new(server));
    let seed = lab.scratch("seed").display().to_string();
    let seeded = ["--by-parts", "--seed", &seed, "--seed-free-floor", "0"];
    let packs = [&seeded[..], &["--verify"]].concat();
    let ways = [
        &["--by-parts", "--worktree", "frames"][..],
        &packs,
        &["--by-parts"],
    ];
    for (number, more) in ways.into_iter().enumerate() {
        // The relay outlives the test, and the server is not to.
        let (own, current) = (Arc::downgrade(&lab), Arc::downgrade(&server));
        let relayed = switch(move |connection| {
            let both = own.upgrade().zip(current.upgrade());
            let (own, current) = both.expect("the test goes on");
            let mut server = current.lock().unwrap_or_else(|e| panic!("{e}"));
            if connection == GONE_AT {
                server.kill();
                *server = own.start();
            }
            let ends = match connection {
                0 | GONE_AT.. => Ends::Whole,
                _ => Ends::Cut(CUT_BYTES),
            };
            (server.address(), ends)
        });
        let target = lab.scratch(&format!("restored-{number}"));
        let said = expect(&restore(relayed, "test/big", &target, more), 0);
        expect_files(&plain, &target, &said);
    }
}
