//! Archives that another program made: any server of this protocol may send one.

use crate::lab::{clone, expect, expect_files, new_lab, restore, serve};
use crate::support::git;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What a shell's pipe makes of the directory `$0`.
fn piped(pipe: &str, directory: &Path) -> Vec<u8> {
    let script = format!("set -o pipefail; {pipe}");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).arg(directory);
    let out = command.output().unwrap_or_else(|e| panic!("bash: {e}"));
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{pipe}: {errors}");
    out.stdout
}

/// The command that the published server runs, and what other programs and options make of the same
/// directory: other formats of tar, frames of any length without content size or checksum, windows
/// of up to 8 MiB.
#[test]
fn an_archive_of_tar_and_any_zstd_is_the_clone() {
    let lab = new_lab();
    let dir = clone(&lab, "app", "clone");
    let deep = format!("{0}/{0}/{0}", "d".repeat(120));
    let tracked = format!("{deep}/{}", "f".repeat(200));
    fs::create_dir_all(dir.join(&deep)).unwrap_or_else(|e| panic!("{e}"));
    fs::write(dir.join(&tracked), b"deep").unwrap_or_else(|e| panic!("{e}"));
    std::os::unix::fs::symlink("t".repeat(180), dir.join("long")).unwrap_or_else(|e| panic!("{e}"));
    git::run(&dir, &["add", "--all"]);
    git::run(&dir, &["commit", "--quiet", "--message=deep"]);
    let refs = git::text(&dir, &["for-each-ref"]);
    for (number, pipe) in [
        "tar -cpf - -C \"$0\" . | pzstd",
        "tar -cpf - -C \"$0\" . | pzstd -p 3 -1",
        "tar --format=posix -cf - -C \"$0\" . | zstd",
        "tar --format=gnu -cf - -C \"$0\" . | zstd --no-check",
        "tar -cf - -C \"$0\" . | zstd --zstd=wlog=23 -6",
        "tar -cf - -C \"$0\" . | zstd -T2 -B1M --content-size",
    ]
    .into_iter()
    .enumerate()
    {
        let archive = piped(pipe, &dir);
        let target = lab.scratch(&format!("foreign{number}"));
        expect(
            &restore(serve(archive, |_| None), "test/app", &target, &[]),
            0,
        );
        expect_files(&dir, &target, pipe);
        assert_eq!(git::text(&target, &["for-each-ref"]), refs, "{pipe}");
    }
    let large = piped("tar -cf - -C \"$0\" . | zstd --long=24", &dir);
    let target = lab.scratch("large");
    let errors = expect(
        &restore(serve(large, |_| None), "test/app", &target, &[]),
        5,
    );
    assert!(errors.contains("window of more than 8 MiB"), "{errors}");
}

/// Whoever packs a clone of a local repository may find the same file twice.
#[test]
fn a_hard_link_is_refused_by_its_name() {
    let lab = new_lab();
    let dir = lab.scratch("links");
    fs::create_dir(&dir).unwrap_or_else(|e| panic!("{e}"));
    fs::write(dir.join("one"), b"1").unwrap_or_else(|e| panic!("{e}"));
    fs::hard_link(dir.join("one"), dir.join("two")).unwrap_or_else(|e| panic!("{e}"));
    let archive = piped("tar --sort=name -cf - -C \"$0\" . | zstd", &dir);
    let target = lab.scratch("none");
    let errors = expect(
        &restore(serve(archive, |_| None), "test/app", &target, &[]),
        5,
    );
    assert!(errors.contains("\"two\": it is a hard link"), "{errors}");
}
