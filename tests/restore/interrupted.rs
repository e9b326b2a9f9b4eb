//! An update that is killed, or finds the disk full, at any of its steps: the same command again comes to the end, and
//! what is there then is what an update leaves that nobody has disturbed.

use crate::lab::{BINARY, direct, expect, restore};
use crate::support::lab::{Lab, copy_tree};
use crate::support::repos::{self, Importer, Layout};
use crate::support::rng::Rng;
use crate::support::server::Server;
use crate::support::steps::ensure;
use crate::support::{compare, git};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Of so many steps each is tried; of more, some, if `ALL_STEPS` is not set.
const TRIED: u64 = 30;
/// The same where each try needs mounts.
const LAYERED_TRIED: u64 = 16;
/// No step has this number.
const NONE: &str = "step-ends-at=1000000000";

fn write(path: &Path, text: &str) {
    let above = path.parent().unwrap_or(path);
    fs::create_dir_all(above).unwrap_or_else(|e| panic!("{e}"));
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// A working copy that is behind.
struct Case {
    lab: Lab,
    server: Server,
    target: PathBuf,
    more: Vec<&'static str>,
}

/// What the first commit has.
fn first(import: &mut Importer) {
    import.commit("refs/heads/main", "first");
    for number in 0..6 {
        let name = format!("src/d{}/f{number}.c", number % 3);
        import.file(repos::FILE, name.as_bytes(), name.as_bytes());
    }
    import.file(repos::FILE, b"run/inner/file", b"in directories\n");
    import.file(repos::FILE, b"was/file", b"text\n");
    import.file(repos::SYMLINK, b"link", b"elsewhere");
}

impl Case {
    /// Whose first commit was `made`, and which was restored with `more`.
    fn new(made: impl FnOnce(&mut Importer), more: &[&'static str]) -> Case {
        let lab = Lab::new(BINARY);
        let upstream = lab.upstream("app");
        repos::init_bare(&upstream, "main", "sha1");
        let mut import = Importer::start(&upstream, Layout::Packed);
        made(&mut import);
        import.finish();
        let server = lab.start();
        let target = lab.scratch("target");
        expect(&restore(server.address(), "test/app", &target, more), 0);
        let more = [&["--update"], more].concat();
        Case {
            lab,
            server,
            target,
            more,
        }
    }

    /// Gives the upstream a commit, which the server has then.
    fn go_on(&self, changes: impl FnOnce(&mut Importer)) {
        let upstream = self.lab.upstream("app");
        let mut import = Importer::start(&upstream, Layout::Packed);
        import.commit_on("refs/heads/main", "refs/heads/main^0", "second");
        changes(&mut import);
        import.finish();
        let id = git::text(&upstream, &["rev-parse", "main"]);
        let json = format!(r#"{{"refs":{{"refs/heads/main":"{id}"}}}}"#);
        ensure(&self.server, "app", &json);
    }

    fn update(&self, at: &Path, faults: &str) -> Output {
        let mut command = direct(self.server.address(), "test/app", at, &self.more);
        command.env("TARPON_FAULT", faults);
        command.output().unwrap_or_else(|e| panic!("{e}"))
    }

    fn copied(&self, name: &str) -> PathBuf {
        let to = self.lab.scratch(name);
        copy_tree(&self.target, &to);
        to
    }

    /// Has it end and fail at steps, with `seed` for which of them.
    fn expect_ends(&self, seed: u64) {
        let done = self.copied("done");
        let steps = counted(&expect(&self.update(&done, NONE), 0));
        let mut rng = Rng::new(seed);
        let all = tried(steps, TRIED, &mut rng);
        let mut kills = 0;
        for (number, &at) in all.iter().enumerate() {
            kills += self.expect_ends_after(&done, &[Turn::Run(format!("step-ends-at={at}"))]);
            let others = others(at, 1 + rng.below(steps));
            for (turn, turns) in others.iter().enumerate() {
                // Of those that are tried, one thing for each second step.
                if is_all() || number % (2 * others.len()) == 2 * turn {
                    kills += self.expect_ends_after(&done, turns);
                }
            }
        }
        println!("{kills} kills at {} of {steps} steps", all.len());
        // What runs beside each other may need one less another time.
        assert!(kills * 10 >= all.len() as u64 * 9, "{kills}");
    }

    /// Has it be disturbed so, and then not. How many were killed.
    fn expect_ends_after(&self, done: &Path, turns: &[Turn]) -> u64 {
        let mut copy = self.copied("copy");
        let (mut kills, mut said) = (0, String::new());
        for turn in turns {
            let outs = match turn {
                Turn::Run(faults) => vec![self.update(&copy, faults)],
                Turn::Two => self.update_twice(&copy),
                Turn::Moves => {
                    let moved = self.lab.scratch("moved");
                    copy_tree(&copy, &moved);
                    fs::remove_dir_all(&copy).unwrap_or_else(|e| panic!("{e}"));
                    copy = moved;
                    continue;
                }
            };
            for out in &outs {
                kills += u64::from(out.status.signal() == Some(9));
                said += &String::from_utf8_lossy(&out.stderr);
            }
            git::run(&copy, &["rev-parse", "--verify", "HEAD^{tree}"]);
        }
        let again = self.update(&copy, "");
        let errors = String::from_utf8_lossy(&again.stderr);
        assert!(
            again.status.success(),
            "{turns:?}: {errors}; before: {said}"
        );
        expect_same(done, &copy, turns);
        fs::remove_dir_all(&copy).unwrap_or_else(|e| panic!("{e}"));
        kills
    }

    /// Two at the same moment: one may find that the other has the lock.
    fn update_twice(&self, at: &Path) -> Vec<Output> {
        let outs = std::thread::scope(|scope| {
            let running = [(); 2].map(|()| scope.spawn(|| self.update(at, "")));
            running.map(|thread| thread.join().unwrap_or_else(|e| panic!("{e:?}")))
        });
        let is_done = |out: &Output| out.status.success();
        assert!(outs.iter().any(is_done), "{outs:?}");
        let is_refused = |out: &Output| out.status.code() == Some(1);
        let expected = |out: &Output| is_done(out) || is_refused(out);
        assert!(outs.iter().all(expected), "{outs:?}");
        outs.into()
    }
}

fn is_all() -> bool {
    std::env::var_os("ALL_STEPS").is_some()
}

/// Which of `steps` are tried: one of each of so many parts, or all.
fn tried(steps: u64, parts: u64, rng: &mut Rng) -> Vec<u64> {
    let parts = match is_all() || steps <= parts {
        true => steps,
        false => parts,
    };
    let bound = |number: u64| number * steps / parts;
    let one = |number| 1 + bound(number) + rng.below(bound(number + 1) - bound(number));
    (0..parts).map(one).collect()
}

/// How many steps a run says that it had.
fn counted(said: &str) -> u64 {
    let mut counted = said
        .lines()
        .filter_map(|line| line.strip_prefix("tarpon: ")?.strip_suffix(" steps"));
    counted.next().and_then(|n| n.parse().ok()).expect(said)
}

/// What comes before the run that nobody disturbs.
#[derive(Debug)]
enum Turn {
    /// A run with these faults.
    Run(String),
    /// Two runs beside each other.
    Two,
    /// The working copy is copied, as the cache of a CI system does: all in it is new.
    Moves,
}

/// What else may come of a run at a step, and at another one of what follows.
fn others(at: u64, later: u64) -> [Vec<Turn>; 6] {
    let run = |faults: String| Turn::Run(faults);
    let killed = || run(format!("step-ends-at={at}"));
    let undone = at + later;
    [
        vec![run(format!("step-fails-at={at}"))],
        vec![run(format!("steps-fail-from={at}"))],
        vec![run(format!("step-fails-at={at},step-ends-at={undone}"))],
        vec![run(format!("steps-fail-from={at},step-ends-at={undone}"))],
        vec![killed(), run(format!("step-ends-at={later}")), Turn::Two],
        vec![killed(), Turn::Moves],
    ]
}

/// Panics unless files, refs, settings, what the index has and all else are the same but for the packs.
fn expect_same(done: &Path, copy: &Path, context: &[Turn]) {
    let git_dirs = [done, copy].map(|at| at.join(".git"));
    let found = [
        compare::differences(done, copy, &[".git"]),
        compare::differences(&git_dirs[0], &git_dirs[1], &[]),
    ];
    let is_own = |what: &&String| OWN.iter().any(|own| what.contains(own));
    let found = found.iter().flatten();
    let found: Vec<&String> = found.filter(|what| !is_own(what)).collect();
    assert!(found.is_empty(), "{context:?}: {found:?}");
    for args in [
        &["status", "--porcelain", "--ignored"][..],
        &["ls-files", "--stage", "-v"],
        &["submodule", "status", "--recursive"],
    ] {
        assert_eq!(git::text(copy, args), git::text(done, args), "{context:?}");
    }
    expect_objects(&git_dirs[1], context);
    git::run(copy, &["fsck", "--connectivity-only", "--no-dangling"]);
}

/// What has dates, and what is packed once more.
const OWN: [&str; 3] = ["objects/pack/", "/index\"", "\"index\""];

/// Panics if something is among packs that is none.
fn expect_objects(directory: &Path, context: &[Turn]) {
    for entry in fs::read_dir(directory).unwrap_or_else(|e| panic!("{e}")) {
        let path = entry.unwrap_or_else(|e| panic!("{e}")).path();
        if directory.ends_with("objects/pack") {
            let ending = path.extension().and_then(|ending| ending.to_str());
            let is_known = ending.is_some_and(|ending| ["idx", "pack", "rev"].contains(&ending));
            let is_whole = ["idx", "pack"]
                .iter()
                .all(|ending| path.with_extension(ending).exists());
            assert!(is_known && is_whole, "{context:?}: {}", path.display());
        } else if path.is_dir() && !path.is_symlink() {
            expect_objects(&path, context);
        }
    }
}

#[test]
fn where_files_change() {
    let case = Case::new(first, &[]);
    case.go_on(|import| {
        import.file(repos::FILE, b"src/d0/f0.c", b"changed\n");
        import.file(repos::EXECUTABLE, b"src/d1/f1.c", b"to be executed\n");
        import.file(repos::FILE, b"new/deep/file", b"new\n");
        import.delete(b"src/d2");
    });
    case.expect_ends(1);
}

#[test]
fn where_kinds_change() {
    let case = Case::new(first, &[]);
    case.go_on(|import| {
        import.delete(b"run");
        import.file(repos::FILE, b"run", b"a file now\n");
        import.delete(b"was/file");
        import.file(repos::FILE, b"was/file/inner/deep", b"in directories now\n");
        import.delete(b"link");
        import.file(repos::FILE, b"link/to", b"a directory now\n");
        import.delete(b"src/d0");
        import.file(repos::SYMLINK, b"src/d0", b"d1");
    });
    case.expect_ends(2);
}

#[test]
fn where_attributes_change() {
    let case = Case::new(
        |import| {
            first(import);
            import.file(repos::FILE, b".gitattributes", b"*.c text\n");
        },
        &[],
    );
    case.go_on(|import| {
        import.file(repos::FILE, b".gitattributes", b"was/* text eol=crlf\n");
        import.file(repos::FILE, b"was/more", b"lines\nof\ntext\n");
    });
    case.expect_ends(3);
}

/// Another branch is checked out, one of them is gone, and some are nobody's own.
#[test]
fn where_refs_move() {
    let mut case = Case::new(
        |import| {
            first(import);
            import.commit("refs/heads/side/branch", "side");
            import.file(repos::FILE, b"side", b"of the side\n");
            import.commit("refs/heads/gone", "gone");
        },
        &[],
    );
    let at = &case.target;
    git::run(at, &["branch", "same", "origin/side/branch"]);
    git::run(at, &["tag", "here"]);
    git::run(at, &["pack-refs", "--all"]);
    git::run(at, &["branch", "gone", "origin/gone"]);
    git::run(at, &["checkout", "--quiet", "--detach"]);
    git::run(&case.lab.upstream("app"), &["branch", "-D", "gone"]);
    case.go_on(|import| import.file(repos::FILE, b"more", b"more\n"));
    case.more.extend(["--ref", "side/branch"]);
    case.expect_ends(4);
}

#[test]
fn where_all_that_is_not_tracked_goes() {
    let mut case = Case::new(first, &[]);
    write(&case.target.join("mine/deep/file"), "untracked");
    write(&case.target.join("new/file"), "where one comes");
    case.go_on(|import| {
        import.file(repos::FILE, b"new", b"new\n");
        import.delete(b"src/d2");
    });
    case.more.push("--clean");
    case.expect_ends(5);
}

#[test]
fn where_what_is_there_is_replaced() {
    let mut case = Case::new(first, &[]);
    write(&case.target.join("src/d0/f0.c"), "mine");
    write(&case.target.join("src/d1/f1.c"), "mine, and it goes");
    write(&case.target.join("new/file"), "where one comes");
    fs::remove_dir_all(case.target.join("was")).unwrap_or_else(|e| panic!("{e}"));
    git::run(
        &case.target,
        &["commit", "--quiet", "--allow-empty", "-m", "mine"],
    );
    case.go_on(|import| {
        import.file(repos::FILE, b"new", b"new\n");
        import.delete(b"src/d1");
    });
    case.more.extend(["--force", "--discard-local"]);
    case.expect_ends(6);
}

/// One goes, one comes, one is brought along, and one is from elsewhere by now.
fn with_submodules() -> Case {
    let section = |name: &str, path: &str, from: &str| {
        format!("[submodule \"{name}\"]\n\tpath = {path}\n\turl = ../{from}\n")
    };
    let mut ids = Vec::new();
    let made = |lab: &Lab, name: &str| {
        let bare = lab.upstream(name);
        repos::init_bare(&bare, "main", "sha1");
        let mut import = Importer::start(&bare, Layout::Packed);
        import.commit("refs/heads/main", name);
        import.file(repos::FILE, b"dir/file", name.as_bytes());
        import.finish();
        git::text(&bare, &["rev-parse", "main"])
    };
    let lab = Lab::new(BINARY);
    for name in ["leaf", "other"] {
        ids.push(made(&lab, name));
    }
    let modules = [
        section("goes", "libs/goes", "leaf"),
        section("stays", "stays", "leaf"),
        section("moves", "moves", "leaf"),
    ];
    let upstream = lab.upstream("app");
    repos::init_bare(&upstream, "main", "sha1");
    let mut import = Importer::start(&upstream, Layout::Packed);
    first(&mut import);
    import.file(repos::FILE, b".gitmodules", modules.concat().as_bytes());
    for path in ["libs/goes", "stays", "moves"] {
        import.gitlink(path.as_bytes(), &ids[0]);
    }
    import.finish();
    let server = lab.start();
    let target = lab.scratch("target");
    expect(
        &restore(
            server.address(),
            "test/app",
            &target,
            &["--recurse-submodules"],
        ),
        0,
    );
    let newer = repos::add_commit(&lab.upstream("leaf"), "main", "dir/more", b"more");
    let json = format!(r#"{{"refs":{{"refs/heads/main":"{newer}"}}}}"#);
    ensure(&server, "leaf", &json);
    let more = ["--update", "--recurse-submodules"].to_vec();
    let case = Case {
        lab,
        server,
        target,
        more,
    };
    case.go_on(|import| {
        let modules = [
            section("comes", "new/comes", "other"),
            section("stays", "stays", "leaf"),
            section("moves", "moves", "other"),
        ];
        import.file(repos::FILE, b".gitmodules", modules.concat().as_bytes());
        import.delete(b"libs/goes");
        import.gitlink(b"stays", &newer);
        import.gitlink(b"moves", &ids[1]);
        import.gitlink(b"new/comes", &ids[1]);
    });
    case
}

#[test]
fn where_submodules_change() {
    with_submodules().expect_ends(7);
}

/// Mounts what `$2` has as the lower layer of `$3`, with `$1` for what is written, has the rest run there with the faults
/// `$5` and then without, and copies what is there then to `$4`.
const LAYERED: &str = "mount -t tmpfs tarpon \"$1\" && mkdir \"$1/upper\" \"$1/work\" && \
    mount -t overlay -o lowerdir=\"$2\",upperdir=\"$1/upper\",workdir=\"$1/work\",userxattr tarpon \"$3\" || exit 77; \
    from=$3 to=$4 faults=$5; shift 5; \
    TARPON_FAULT=$faults \"$@\" >&2; \"$@\" && cp -a \"$from\" \"$to\"";

/// As a container's image has it: directories of a lower layer are not to be renamed there, and repositories go piece by
/// piece.
#[test]
fn where_repositories_go_piece_by_piece() {
    let case = with_submodules();
    let [done, written, merged, result] =
        ["done", "written", "merged", "result"].map(|name| case.lab.scratch(name));
    for place in [&written, &merged] {
        fs::create_dir(place).unwrap_or_else(|e| panic!("{e}"));
    }
    copy_tree(&case.target, &done);
    expect(&case.update(&done, ""), 0);
    let update = direct(case.server.address(), "test/app", &merged, &case.more);
    let layered = |faults: &str| {
        let mut layered = Command::new("unshare");
        git::isolate(&mut layered);
        layered.args(["-rm", "sh", "-c", LAYERED, "sh"]);
        layered.args([&written, &case.target, &merged, &result]);
        layered.arg(faults).arg(update.get_program());
        layered.args(update.get_args());
        layered.output().unwrap_or_else(|e| panic!("{e}"))
    };
    let expect_done = |faults: &str| {
        expect_same(&done, &result, &[Turn::Run(faults.into())]);
        fs::remove_dir_all(&result).unwrap_or_else(|e| panic!("{e}"));
    };
    let out = layered(NONE);
    let errors = String::from_utf8_lossy(&out.stderr);
    if out.status.code() == Some(77) || errors.starts_with("unshare:") {
        eprintln!("skipped: no layers for this user: {errors}");
        return;
    }
    let steps = counted(&expect(&out, 0));
    expect_done(NONE);
    for at in tried(steps, LAYERED_TRIED, &mut Rng::new(8)) {
        for faults in [format!("step-ends-at={at}"), format!("step-fails-at={at}")] {
            expect(&layered(&faults), 0);
            expect_done(&faults);
        }
    }
}
