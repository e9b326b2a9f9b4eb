//! The real `git`, cut off from the configuration of whoever runs the tests.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

/// Variables that make `git` read no configuration but the repository's own and ask no proxy, and
/// that give commits a fixed author and time.
pub const ISOLATION: &[(&str, &str)] = &[
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_ATTR_NOSYSTEM", "1"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_OPTIONAL_LOCKS", "0"),
    ("GIT_AUTHOR_NAME", "A U Thor"),
    ("GIT_AUTHOR_EMAIL", "author@example.com"),
    ("GIT_AUTHOR_DATE", "1700000000 +0000"),
    ("GIT_COMMITTER_NAME", "C O Mitter"),
    ("GIT_COMMITTER_EMAIL", "committer@example.com"),
    ("GIT_COMMITTER_DATE", "1700000000 +0000"),
    ("LC_ALL", "C"),
    // How full this machine's disk is must not decide what a test sees.
    ("TARPON_RESTORE_FREE_FLOOR", "0"),
    // All that is asked is on this machine.
    ("no_proxy", "*"),
    ("TZ", "UTC"),
];

/// Variables that would point `git` at another repository.
const INHERITED: &[&str] = &[
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_CEILING_DIRECTORIES",
];

/// Applies [`ISOLATION`] to any command that will run `git` or tarpon, which then knows no setting of
/// whoever runs the tests either. Comes before the settings of the test.
pub fn isolate(command: &mut Command) -> &mut Command {
    for name in INHERITED {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TARPON_") {
            command.env_remove(name);
        }
    }
    command.envs(ISOLATION.iter().copied())
}

/// `git -C dir args…`, not yet started. Runs under umask 022, so that modes are comparable.
pub fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = with_umask("git");
    isolate(&mut command).arg("-C").arg(dir).args(args);
    command
}

/// `program` started through a shell that sets umask 022 first.
pub fn with_umask(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask 022 && exec \"$0\" \"$@\""])
        .arg(program);
    command
}

/// Runs `git -C dir args…` and gives everything it said, whatever its exit code.
pub fn output(dir: &Path, args: &[&str]) -> Output {
    command(dir, args)
        .output()
        .unwrap_or_else(|e| panic!("git {args:?} does not start: {e}"))
}

/// Runs `git -C dir args…`; panics with its stderr unless it succeeds; gives its stdout.
pub fn run(dir: &Path, args: &[&str]) -> Vec<u8> {
    let out = output(dir, args);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success(),
        "git -C {} {args:?}: {}: {stderr}",
        dir.display(),
        out.status
    );
    out.stdout
}

/// Like [`run`], as text without the newline at its end.
pub fn text(dir: &Path, args: &[&str]) -> String {
    let out = String::from_utf8_lossy(&run(dir, args)).into_owned();
    out.trim_end_matches('\n').to_owned()
}

/// `git clone url into`, as any user would do it.
pub fn clone(url: &str, into: &Path) {
    let parent = into.parent().unwrap_or(Path::new("/"));
    let target = into.to_string_lossy();
    run(parent, &["clone", "--quiet", url, &target]);
}

/// A bare mirror of `url`, as an operator would put it under `STATE/mirrors/`.
pub fn clone_mirror(url: &str, into: &Path) {
    if let Some(parent) = into.parent() {
        std::fs::create_dir_all(parent)
            .unwrap_or_else(|e| panic!("create {}: {e}", parent.display()));
    }
    let parent = into.parent().unwrap_or(Path::new("/"));
    run(
        parent,
        &["clone", "--quiet", "--mirror", url, &into.to_string_lossy()],
    );
}

/// Rewrites every pack of `repo` into a new one and removes what is no longer needed.
pub fn repack_and_prune(repo: &Path) {
    run(repo, &["repack", "-adfq"]);
    run(repo, &["prune", "--expire=now"]);
    run(repo, &["pack-refs", "--all"]);
}

/// Bytes of all files below a directory that git calls `tmp_pack_…` while it receives them.
pub fn received_bytes(directory: &Path) -> u64 {
    let listing = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let bytes = listing.map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.metadata() {
            Ok(found) if found.is_dir() => received_bytes(&entry.path()),
            Ok(found) if name.starts_with("tmp_pack_") => found.len(),
            _ => 0,
        }
    });
    bytes.sum()
}
