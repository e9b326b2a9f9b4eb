//! Targets of `--overwrite` that somebody else has made: whatever their submodules say, nothing outside
//! changes, and nobody waits.

use crate::archive::zst;
use crate::ground::{Ground, fixture};
use crate::made::{Index, IndexEntry};
use crate::trial::serve;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

/// Whoever waits does so for longer.
const CAP: Duration = Duration::from_secs(60);
const SUBMODULE: u32 = 0o160_000;
const FILE: u32 = 0o100_644;

fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap_or(path))
        .and_then(|()| fs::write(path, text))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// An index of these paths, in whatever order.
fn index(mode: u32, paths: &[&str]) -> Vec<u8> {
    let id = "1".repeat(40);
    let entries = paths.iter().map(|path| IndexEntry::new(path, mode, &id));
    Index {
        version: 2,
        entries: entries.collect(),
        extensions: Vec::new(),
        count: None,
    }
    .bytes()
}

/// A repository at `git_dir` without a commit that tracks these.
fn repository(git_dir: &Path, mode: u32, paths: &[&str]) {
    write(&git_dir.join("HEAD"), "ref: refs/heads/none\n");
    for name in ["objects", "refs"] {
        fs::create_dir_all(git_dir.join(name)).unwrap_or_else(|e| panic!("{e}"));
    }
    write(&git_dir.join("index"), index(mode, paths));
}

/// A target with the submodule `sub`, which tracks `paths`.
fn target(ground: &Ground, paths: &[&str]) {
    let git_dir = ground.target().join(".git");
    repository(&git_dir, SUBMODULE, &["sub"]);
    repository(&git_dir.join("modules/sub"), FILE, paths);
    write(
        &ground.target().join("sub/.git"),
        "gitdir: ../.git/modules/sub\n",
    );
    write(&ground.target().join("sub/f"), "tracked");
    symlink("../../../outside", ground.target().join("sub/link")).unwrap_or_else(|e| panic!("{e}"));
}

fn fifo(path: &Path) {
    drop(fs::remove_file(path));
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    );
    made.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// A name, the exit codes that may come of it, and what is done to a target.
type Case = (&'static str, &'static [i32], fn(&Ground));

const LEAD_OUT: [Case; 5] = [
    ("paths that lead out", &[0], |ground| {
        let victim = ground.text("outside/victim");
        let paths = [
            "../../../outside/victim",
            "../../beside",
            "../.git/config",
            ".git",
            ".git/config",
            &*victim,
            "f",
            "link/victim",
        ];
        target(ground, &paths);
    }),
    ("a path through a link", &[0], |ground| {
        target(ground, &["f", "link/victim"])
    }),
    ("itself inside of itself", &[0], |ground| {
        target(ground, &[]);
        let (git_dir, sub) = (ground.target().join(".git"), ground.target().join("sub"));
        write(
            &git_dir.join("modules/sub/index"),
            index(SUBMODULE, &["sub"]),
        );
        write(&sub.join("sub/.git"), "gitdir: ../../.git/modules/sub\n");
        write(
            &sub.join("sub/sub/.git"),
            "gitdir: ../../../.git/modules/sub\n",
        );
    }),
    ("the repository around it", &[0], |ground| {
        target(ground, &["f"]);
        write(
            &ground.target().join("sub/.git"),
            "gitdir: ../.git/../.git\n",
        );
    }),
    ("one outside", &[0], |ground| {
        target(ground, &["f"]);
        repository(&ground.path("outside/tree"), FILE, &["f"]);
        let outside = ground.text("outside/tree");
        write(
            &ground.target().join("sub/.git"),
            format!("gitdir: {outside}\n"),
        );
    }),
];

const ARE_NO_FILES: [Case; 4] = [
    ("a pipe for its .git", &[0], |ground| {
        target(ground, &["f"]);
        fifo(&ground.target().join("sub/.git"));
    }),
    ("a pipe for its index", &[0], |ground| {
        target(ground, &["f"]);
        fifo(&ground.target().join(".git/modules/sub/index"));
    }),
    ("pipes for all else", &[0, 1], |ground| {
        target(ground, &["f"]);
        for name in ["HEAD", "FETCH_HEAD", "packed-refs", "shallow", "config"] {
            fifo(&ground.target().join(".git/modules/sub").join(name));
            fifo(&ground.target().join(".git").join(name));
        }
    }),
    ("links for its repository", &[0, 1], |ground| {
        target(ground, &["f"]);
        let modules = ground.target().join(".git/modules");
        fs::remove_dir_all(modules.join("sub"))
            .and_then(|()| symlink("../../../../outside", modules.join("sub")))
            .unwrap_or_else(|e| panic!("{e}"));
    }),
];

#[test]
fn a_hostile_submodule_of_the_target_reaches_nothing_else() {
    let body = zst(&fixture().good.tar());
    let server = serve(String::new(), body);
    for (name, codes, spoil) in LEAD_OUT.into_iter().chain(ARE_NO_FILES) {
        let ground = Ground::new();
        spoil(&ground);
        // What the case itself has put outside.
        let is_ours = |path: &str| name == "one outside" && path.contains("outside/tree");
        let began = Instant::now();
        let out = ground.restore(server, &["--overwrite", "--discard-local"]);
        let errors = String::from_utf8_lossy(&out.stderr);
        let code = out.status.code().unwrap_or(-1);
        assert!(codes.contains(&code), "{name}: {code}: {errors}");
        assert!(began.elapsed() < CAP, "{name}");
        match ground.harm() {
            Err(what) if is_ours(&what) => {
                assert!(ground.path("outside/tree/index").exists(), "{name}");
            }
            harm => harm.unwrap_or_else(|e| panic!("{name}: {e}")),
        }
        let tracked = ground.target().join("sub/f");
        let leads_in = name.starts_with("path");
        assert!(code != 0 || !leads_in || !tracked.exists(), "{name}");
    }
}

/// Each says that it is a submodule: whether it is costs a look at the disk.
#[test]
fn submodules_without_end_are_refused() {
    let server = serve(String::new(), zst(&fixture().good.tar()));
    let ground = Ground::new();
    let paths: Vec<String> = (0..70_000).map(|number| format!("m{number:06}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    repository(&ground.target().join(".git"), SUBMODULE, &paths);
    let out = ground.restore(server, &["--overwrite"]);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{errors}");
    assert!(errors.contains("submodules"), "{errors}");
    ground.harm().unwrap_or_else(|e| panic!("{e}"));
    assert!(ground.target().join(".git/index").exists());
}
