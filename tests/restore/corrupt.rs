//! A server whose disk has changed bytes of an archive: the client says so, and is given another.

use crate::lab::{clone, expect, new_lab, restore};
use crate::support::compare;
use crate::support::steps::hit;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// What rots is needed.
const FRAMES: [&str; 3] = ["--json", "--worktree", "frames"];

#[test]
fn an_archive_that_rotted_on_the_server_is_asked_for_again() {
    let lab = new_lab();
    let server = lab.start();
    hit(&server, "app");
    let expected = clone(&lab, "app", "clone");
    let path = lab.frames_of(&lab.entries()[0]);
    let middle = fs::metadata(&path).unwrap().len() / 2;
    let spool = File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    spool.read_exact_at(&mut byte, middle).unwrap();
    spool.write_all_at(&[byte[0] ^ 4], middle).unwrap();
    let target = lab.scratch("restored");
    let restored = restore(server.address(), "test/app", &target, &FRAMES);
    expect(&restored, 0);
    let findings = compare::differences(&expected, &target, &[".git"]);
    assert!(findings.is_empty(), "{findings:?}");
    let labels = [("result", "entry_damaged")];
    let checks = "tarpon_scrub_checks_total";
    assert_eq!(server.metrics().count(checks, &labels), 1);
    // The next one finds nothing to say.
    let again = lab.scratch("again");
    let again = restore(server.address(), "test/app", &again, &FRAMES);
    expect(&again, 0);
    assert_eq!(server.metrics().count(checks, &[]), 1);
    // Of what came twice only what was restored counts.
    let counted = |out: &std::process::Output| {
        let summary: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        ["bytes", "entries"].map(|name| summary[name].as_u64().unwrap())
    };
    // Perhaps one came as an archive, which has a little more, and the other one by parts.
    for (one, other) in counted(&restored).into_iter().zip(counted(&again)) {
        assert!(one.abs_diff(other) * 8 < other, "{one} {other}");
    }
}
