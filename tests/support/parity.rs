//! Whether an unpacked snapshot is what `git clone` gives.

use super::{compare, git};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most findings shown when a comparison fails.
const SHOWN: usize = 30;

/// Questions whose answer must be the same in both, whatever it is. Lines are sorted before
/// they are compared.
const SAME_ANSWER: &[&[&str]] = &[
    &[
        "for-each-ref",
        "--format=%(refname) %(objectname) %(symref) %(*objectname)",
    ],
    &["symbolic-ref", "--quiet", "HEAD"],
    &["rev-parse", "--quiet", "--verify", "HEAD"],
    &["config", "--local", "--get-regexp", "^(remote|branch)\\."],
    &["config", "--local", "--get-regexp", "^extensions\\."],
    &["config", "--local", "--get", "core.repositoryformatversion"],
    &["config", "--local", "--get", "core.bare"],
    &[
        "rev-parse",
        "--show-object-format",
        "--is-shallow-repository",
    ],
    &["ls-files", "--stage", "-z"],
    &["submodule", "status"],
    &[
        "fsck",
        "--full",
        "--strict",
        "--no-dangling",
        "--no-progress",
    ],
];

/// Panics with everything that differs between the clone at `clone` and `unpacked`.
pub fn expect_same(clone: &Path, unpacked: &Path, context: &str) {
    let mut findings = clone_findings(clone, unpacked);
    findings.extend(index_findings(unpacked));
    findings.extend(reread_findings(unpacked));
    expect_none(findings, context);
}

/// The same for two clones: their indexes may be as young as the files.
pub fn expect_same_clones(expected: &Path, actual: &Path, context: &str) {
    expect_none(clone_findings(expected, actual), context);
}

fn clone_findings(clone: &Path, unpacked: &Path) -> Vec<String> {
    let mut findings = compare::differences(clone, unpacked, &[".git"]);
    for question in SAME_ANSWER {
        findings.extend(compare_answers(clone, unpacked, question));
    }
    findings.extend(status_findings(unpacked));
    findings
}

fn expect_none(mut findings: Vec<String>, context: &str) {
    let total = findings.len();
    findings.truncate(SHOWN);
    assert!(
        total == 0,
        "{context}: {total} differences\n  {}",
        findings.join("\n  ")
    );
}

fn compare_answers(clone: &Path, unpacked: &Path, question: &[&str]) -> Vec<String> {
    let wanted = answer(clone, question);
    let found = answer(unpacked, question);
    let only = |one: &[String], other: &[String], what: &str| -> Vec<String> {
        let lines = one.iter().filter(|line| other.binary_search(line).is_err());
        lines
            .map(|line| format!("git {}: {what} {line:?}", question[0]))
            .collect()
    };
    let mut out = only(&wanted, &found, "missing");
    out.extend(only(&found, &wanted, "not expected"));
    out
}

/// Exit code and both outputs as sorted lines; also cut at NUL, for `-z`.
fn answer(repository: &Path, question: &[&str]) -> Vec<String> {
    let out = git::output(repository, question);
    let mut lines = vec![format!("exit {:?}", out.status.code())];
    for bytes in [&out.stdout, &out.stderr] {
        let parts = bytes.split(|&b| b == b'\n' || b == 0);
        lines.extend(parts.map(|line| line.escape_ascii().to_string()));
    }
    lines.sort();
    lines
}

fn status_findings(unpacked: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let status = git::output(unpacked, &["status", "--porcelain"]);
    if !status.status.success() || !status.stdout.is_empty() {
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        let errors = String::from_utf8_lossy(&status.stderr).into_owned();
        out.push(format!("git status: {}: {text}{errors}", status.status));
    }
    // Plain diff-files does not look into files: it reports every entry whose recorded times
    // and size are not those of the file.
    let stale = git::output(
        unpacked,
        &["-c", "core.fsmonitor=false", "diff-files", "--name-only"],
    );
    for line in String::from_utf8_lossy(&stale.stdout).lines().take(SHOWN) {
        out.push(format!("git diff-files: {line} would be read again"));
    }
    out
}

/// Size and mtime of one index entry.
#[derive(Debug, PartialEq, Eq)]
struct Recorded {
    mtime_s: i64,
    mtime_ns: i64,
    size: u64,
}

/// Recorded sizes and times against the files, and the index dated after all of them (an entry
/// as young as its index is "racy", and git reads it again).
fn index_findings(unpacked: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let index = match fs::metadata(unpacked.join(".git/index")) {
        Ok(metadata) => metadata,
        // A repository without commits needs no index.
        Err(_) => return out,
    };
    for (path, recorded) in recorded_entries(unpacked) {
        let file = match fs::symlink_metadata(unpacked.join(&path)) {
            Ok(file) if file.is_dir() => continue,
            Ok(file) => file,
            Err(error) => {
                out.push(format!("{path:?}: {error}"));
                continue;
            }
        };
        let actual = recorded_like(&file);
        if actual != recorded {
            out.push(format!(
                "index of {path:?}: {recorded:?}, the file has {actual:?}"
            ));
        }
        if (index.mtime(), index.mtime_nsec()) <= (file.mtime(), file.mtime_nsec()) {
            out.push(format!("{path:?} is not older than .git/index"));
        }
    }
    out
}

fn recorded_like(file: &Metadata) -> Recorded {
    // The index keeps the low 32 bits of a size.
    let size = file.size() & u64::from(u32::MAX);
    Recorded {
        mtime_s: file.mtime(),
        mtime_ns: file.mtime_nsec(),
        size,
    }
}

/// Parses `git ls-files --debug -z`: a path up to NUL, then five lines of numbers.
fn recorded_entries(unpacked: &Path) -> BTreeMap<PathBuf, Recorded> {
    let text = git::run(unpacked, &["ls-files", "--debug", "-z"]);
    let mut out = BTreeMap::new();
    let mut rest = text.as_slice();
    while let Some(nul) = rest.iter().position(|&b| b == 0) {
        let path = PathBuf::from(OsStr::from_bytes(&rest[..nul]));
        let mut lines = rest[nul + 1..].splitn(6, |&b| b == b'\n');
        let mut numbers = Vec::new();
        for line in lines.by_ref().take(5) {
            let line = String::from_utf8_lossy(line).into_owned();
            let words = line
                .split(|c: char| !c.is_ascii_digit())
                .filter(|word| !word.is_empty());
            numbers.extend(words.map(|word| word.parse::<u64>().unwrap_or(u64::MAX)));
        }
        rest = lines.next().unwrap_or_default();
        // ctime s:ns, mtime s:ns, dev, ino, uid, gid, size, flags.
        assert!(
            numbers.len() >= 9,
            "git ls-files --debug of {path:?}: {numbers:?}"
        );
        let (mtime_s, mtime_ns) = (numbers[2] as i64, numbers[3] as i64);
        out.insert(
            path,
            Recorded {
                mtime_s,
                mtime_ns,
                size: numbers[8],
            },
        );
    }
    out
}

/// Proves that `git status` does not read the files: one byte of one file is changed behind
/// its back (same size, same mtime), and status must still call the tree clean. The file is
/// put back afterwards.
fn reread_findings(unpacked: &Path) -> Vec<String> {
    let candidates = recorded_entries(unpacked);
    let is_plain =
        |path: &Path| fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() > 0);
    let Some(path) = candidates
        .keys()
        .map(|p| unpacked.join(p))
        .find(|p| is_plain(p))
    else {
        return Vec::new();
    };
    let original = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let metadata = fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let modified = metadata
        .modified()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut changed = original.clone();
    changed[0] ^= 1;
    rewrite(&path, &changed, modified);
    // The change itself has a ctime, which an index of the client's records.
    let question = ["-c", "core.trustctime=false", "status", "--porcelain"];
    let status = git::output(unpacked, &question);
    rewrite(&path, &original, modified);
    if status.stdout.is_empty() {
        Vec::new()
    } else {
        vec![format!("git status read {} again", path.display())]
    }
}

fn rewrite(path: &Path, content: &[u8], modified: std::time::SystemTime) {
    let written = fs::write(path, content);
    written.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = File::options().write(true).open(path);
    let file = file.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let set = file.set_times(FileTimes::new().set_modified(modified));
    set.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
