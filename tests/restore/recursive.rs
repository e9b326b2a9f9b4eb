//! `--recurse-submodules`: what `git clone --recurse-submodules` makes, and what anybody may write into `.gitmodules`.

use crate::lab::{BINARY, Running, direct, expect, expect_nothing, relay, restore};
use crate::overwrite::everything;
use crate::submodules::run;
use crate::support::lab::{Lab, copy_tree};
use crate::support::repos::{self, Importer, Layout};
use crate::support::rng::Rng;
use crate::support::server::Server;
use crate::support::steps::ensure;
use crate::support::{compare, git};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const RECURSE: &[&str] = &["--recurse-submodules"];
/// Of each leaf, in its pack and in its files.
const LEAF_BYTES: usize = 1 << 20;
/// So many updates are killed, each within such a time.
const KILLED: u64 = 5;
const KILLED_WITHIN_US: u64 = 2_000_000;

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Begins a repository with one commit.
fn begin(lab: &Lab, name: &str) -> Importer {
    let bare = lab.upstream(name);
    repos::init_bare(&bare, "main", "sha1");
    let mut import = Importer::start(&bare, Layout::Packed);
    import.commit("refs/heads/main", name);
    import.file(repos::FILE, b"dir/b", name.as_bytes());
    import
}

fn tip(lab: &Lab, name: &str) -> String {
    git::text(&lab.upstream(name), &["rev-parse", "main"])
}

/// A repository with `modules` in its `.gitmodules`, and submodules at their commits.
fn upstream(lab: &Lab, name: &str, modules: &str, links: &[(&str, &str)]) -> String {
    let mut import = begin(lab, name);
    if !modules.is_empty() {
        import.file(repos::FILE, b".gitmodules", modules.as_bytes());
    }
    for (path, id) in links {
        import.gitlink(path.as_bytes(), id);
    }
    import.finish();
    tip(lab, name)
}

fn leaf(lab: &Lab) -> String {
    let mut import = begin(lab, "leaf");
    import.file(repos::FILE, b"large", &Rng::new(3).bytes(LEAF_BYTES));
    import.finish();
    tip(lab, "leaf")
}

fn section(name: &str, path: &str, url: &str) -> String {
    format!("[submodule \"{name}\"]\n\tpath = {path}\n\turl = {url}\n")
}

/// What git makes of it, with all submodules.
fn git_clone(lab: &Lab) -> PathBuf {
    let clone = ["clone", "--quiet", "--recurse-submodules"];
    let of = [&*lab.url("top"), "cloned"];
    run(&lab.scratch(""), &[&clone[..], &of].concat());
    lab.scratch("cloned")
}

/// What stands in the repository at `path`, as lines.
fn said(tree: &Path, path: &str) -> Vec<String> {
    let at = tree.join(path);
    let lines = |args: &[&str]| {
        let mut lines: Vec<String> = run(&at, args).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let all: [&[&str]; 4] = [
        &["config", "--local", "--list"],
        &["for-each-ref"],
        &["rev-parse", "HEAD", "--symbolic-full-name", "HEAD"],
        &["status", "--porcelain", "--ignored"],
    ];
    run(&at, &["fsck", "--full"]);
    all.into_iter().flat_map(lines).collect()
}

#[track_caller]
fn expect_same_at(clone: &Path, target: &Path, paths: &[&str]) {
    let differences = compare::differences(clone, target, &[".git"]);
    assert_eq!(differences, Vec::<String>::new());
    for path in paths {
        assert_eq!(said(target, path), said(clone, path), "{path}");
    }
    let status = ["submodule", "status", "--recursive"];
    assert_eq!(run(target, &status), run(clone, &status));
}

fn expect_same(clone: &Path, target: &Path) {
    expect_same_at(clone, target, &["", "x/mid", "x/mid/libs/leaf", "other"]);
    assert!(
        target
            .join(".git/modules/mid/modules/the/leaf/HEAD")
            .exists()
    );
    assert!(!target.join(".git/modules/off").exists());
}

/// At the recorded commits, relative URLs, nested, one that is not to be checked out; once more over what is there.
#[test]
fn submodules_are_what_git_clones() {
    let lab = Lab::new(BINARY);
    let leaf = leaf(&lab);
    let inner = section("the/leaf", "libs/leaf", "../leaf");
    let mid = upstream(&lab, "mid", &inner, &[("libs/leaf", &leaf)]);
    repos::add_commit(&lab.upstream("mid"), "main", "later", b"not recorded\n");
    let modules = [
        section("mid", "x/mid", "../mid"),
        section("o", "other", "./../leaf"),
        "\tupdate = rebase\n".into(),
        section("off", "off", "https://nowhere.example/off"),
        "\tupdate = none\n".into(),
    ];
    let links = [("x/mid", &*mid), ("other", &leaf), ("off", &leaf)];
    upstream(&lab, "top", &modules.concat(), &links);
    let clone = git_clone(&lab);
    let server = lab.start();
    let target = lab.scratch("target");
    let into = |target: &Path, more: &[&str]| {
        restore(
            server.address(),
            "test/top",
            target,
            &[RECURSE, more].concat(),
        )
    };
    expect(&into(&target, &[]), 0);
    expect_same(&clone, &target);
    let again = into(&target, &["--overwrite", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    let all = &json["submodules"];
    assert_eq!(all["count"], 3, "{json}");
    assert!(
        all["bytes"].as_u64() > Some(0) && all["entries"].as_u64() > Some(0),
        "{json}"
    );
    expect_same(&clone, &target);
    // All of them together, though each by itself is less.
    let limit = ["--size-limit", "3M"];
    let alone = restore(server.address(), "test/leaf", &lab.scratch("leaf"), &limit);
    expect(&alone, 0);
    let none = lab.scratch("none");
    let errors = expect(&into(&none, &limit), 4);
    assert!(errors.contains("--size-limit"), "{errors}");
    expect_nothing(&none);
}

/// Gives a repository that is there another commit, with `modules` in its `.gitmodules`.
fn go_on(lab: &Lab, server: &Server, name: &str, modules: &str, links: &[(&str, &str)]) -> String {
    let mut import = Importer::start(&lab.upstream(name), Layout::Packed);
    import.commit_on("refs/heads/main", "refs/heads/main^0", "more");
    import.file(repos::FILE, b"dir/c", name.as_bytes());
    if !modules.is_empty() {
        import.file(repos::FILE, b".gitmodules", modules.as_bytes());
    }
    for (path, id) in links {
        match id.is_empty() {
            true => import.delete(path.as_bytes()),
            false => import.gitlink(path.as_bytes(), id),
        }
    }
    import.finish();
    let id = tip(lab, name);
    ensure(
        server,
        name,
        &format!(r#"{{"refs":{{"refs/heads/main":"{id}"}}}}"#),
    );
    id
}

const PLACES: &[&str] = &["", "x/mid", "x/mid/libs/leaf", "new/more"];
const UPDATE: &[&str] = &["--update", "--recurse-submodules"];

/// A working copy with submodules that is a commit behind, as one of them is, and one that it does not have any more.
struct Behind {
    lab: Lab,
    server: Server,
    target: PathBuf,
    /// The same without them.
    plain: PathBuf,
    /// What is newer.
    clone: PathBuf,
    /// The commit that is there.
    old: String,
}

impl Behind {
    fn new() -> Behind {
        let lab = Lab::new(BINARY);
        let leaf = leaf(&lab);
        let inner = section("the/leaf", "libs/leaf", "../leaf");
        let mid = upstream(&lab, "mid", &inner, &[("libs/leaf", &leaf)]);
        let outer = section("mid", "x/mid", "../mid");
        let other = section("o", "other", "./../leaf");
        let links = [("x/mid", &*mid), ("other", &leaf)];
        let old = upstream(&lab, "top", &[&*outer, &other].concat(), &links);
        let server = lab.start();
        let [target, plain] = ["target", "plain"].map(|name| lab.scratch(name));
        for (target, more) in [(&target, RECURSE), (&plain, &[][..])] {
            expect(&restore(server.address(), "test/top", target, more), 0);
        }
        let leaf = go_on(&lab, &server, "leaf", "", &[]);
        let mid = go_on(&lab, &server, "mid", "", &[("libs/leaf", &leaf)]);
        let more = section("n", "new/more", "../leaf");
        let links = [("x/mid", &*mid), ("other", ""), ("new/more", &leaf)];
        go_on(&lab, &server, "top", &[&*outer, &more].concat(), &links);
        let clone = git_clone(&lab);
        Behind {
            lab,
            server,
            target,
            plain,
            clone,
            old,
        }
    }

    fn update(&self, target: &Path, more: &[&str]) -> Output {
        let more = [UPDATE, more].concat();
        restore(self.server.address(), "test/top", target, &more)
    }

    /// What would be lost is named, wherever it is, and the working copy around it stays.
    fn expect_refusals(&self) {
        let target = &self.target;
        type Spoils = fn(&Path);
        let spoilt: [(&str, Spoils, &str); 3] = [
            ("x/mid/libs/leaf/dir/b", |file| write(file, "mine"), "dir/b"),
            ("other/dir/b", |file| write(file, "mine"), "other/dir/b"),
            (
                "other/dir/b",
                |file| drop(fs::remove_file(file)),
                "other/dir/b",
            ),
        ];
        for (file, spoil, said) in spoilt {
            spoil(&target.join(file));
            let errors = expect(&self.update(target, &[]), 1);
            assert!(errors.contains(said), "{errors}");
            assert_eq!(git::text(target, &["rev-parse", "HEAD"]), self.old);
            let above = target.join(file.split("/dir").next().unwrap_or_default());
            git::run(&above, &["checkout", "--quiet", "--", "."]);
        }
        let own = ["commit", "--quiet", "--allow-empty", "-m", "mine"];
        git::run(&target.join("other"), &own);
        let errors = expect(&self.update(target, &[]), 1);
        assert!(errors.contains("of its submodule o"), "{errors}");
        let back = ["reset", "--quiet", "--hard", "HEAD~1"];
        git::run(&target.join("other"), &back);
        // Also what only a tag of one leads to that goes, and what is no commit.
        let tag = ["tag", "-a", "-m", "x", "mine"];
        git::run(&target.join("other"), &tag);
        let errors = expect(&self.update(target, &[]), 1);
        assert!(
            errors.contains("refs/tags/mine of its submodule o"),
            "{errors}"
        );
        git::run(&target.join("other"), &["tag", "-d", "mine"]);
        self.expect_all_named();
        self.expect_embedded_stays();
    }

    /// All that would be lost of all of them is named at once, and nothing of any changes before.
    fn expect_all_named(&self) {
        let copy = self.lab.scratch("spoilt");
        copy_tree(&self.target, &copy);
        for file in ["x/mid/dir/c", "x/mid/libs/leaf/dir/b", "other/dir/b"] {
            write(&copy.join(file), "mine");
        }
        let leaf = copy.join("x/mid/libs/leaf");
        let own = ["commit", "--quiet", "--allow-empty", "-m", "mine"];
        git::run(&leaf, &own);
        let before = everything(&copy);
        let errors = expect(&self.update(&copy, &[]), 1);
        for said in [
            "changed or missing: other/dir/b, x/mid/libs/leaf/dir/b;",
            "not tracked: x/mid/dir/c;",
            "the commits of HEAD of its submodule libs/leaf of its submodule x/mid;",
            "with --force and --discard-local all of that goes",
        ] {
            assert!(errors.contains(said), "{said}: {errors}");
        }
        assert_eq!(everything(&copy), before);
        fs::remove_dir_all(&copy).unwrap_or_else(|e| panic!("{e}"));
    }

    /// What is made while submodules come is not lost either.
    fn expect_nothing_lost_meanwhile(&self) {
        type Makes = fn(&Path);
        let cases: [(Makes, &str); 4] = [
            (
                |t| write(&t.join("dir/c"), "mine"),
                "/dir/c was changed or made meanwhile",
            ),
            (
                |t| drop(git::run(t, &["tag", "-a", "-m", "x", "mine"])),
                "refs/tags/mine",
            ),
            (
                |t| {
                    drop(git::run(
                        t,
                        &["worktree", "add", "-q", "--detach", "../linked"],
                    ))
                },
                "the linked worktree",
            ),
            (
                |t| drop(git::run(&t.join("other"), &["tag", "mine", "HEAD"])),
                "/.git/modules/o was changed or made meanwhile",
            ),
        ];
        for (makes, said) in cases {
            let copy = self.lab.scratch("worked-in");
            copy_tree(&self.target, &copy);
            let at = copy.clone();
            // That of the one that comes anew.
            let comes = |target: &str| target.contains("/leaf/snapshot");
            let is_made = AtomicBool::new(false);
            let make = move |_: &mut Vec<u8>| {
                if !is_made.swap(true, Relaxed) {
                    makes(&at);
                }
            };
            let address = relay(self.server.address(), comes, make);
            let errors = expect(&restore(address, "test/top", &copy, UPDATE), 1);
            assert!(errors.contains(said), "{said}: {errors}");
            assert_eq!(git::text(&copy, &["rev-parse", "HEAD"]), self.old, "{said}");
            let told = ["rev-parse", "mine"];
            match said.contains("modules/o") {
                true => drop(git::run(&copy.join("other"), &told)),
                false if said.contains("tags") => drop(git::run(&copy, &told)),
                false => {}
            }
            if said.contains("dir/c") {
                assert_eq!(fs::read_to_string(copy.join("dir/c")).unwrap(), "mine");
            }
            fs::remove_dir_all(&copy).unwrap_or_else(|e| panic!("{e}"));
        }
        fs::remove_dir_all(self.lab.scratch("linked")).unwrap_or_else(|e| panic!("{e}"));
    }

    /// A submodule that has its repository in its own directory would go with all that only it has.
    fn expect_embedded_stays(&self) {
        let copy = self.lab.scratch("embedded");
        copy_tree(&self.target, &copy);
        let link = copy.join("x/mid/.git");
        fs::remove_file(&link).unwrap_or_else(|e| panic!("{e}"));
        fs::rename(copy.join(".git/modules/mid"), &link).unwrap_or_else(|e| panic!("{e}"));
        let plain = ["--file", "x/mid/.git/config", "--unset", "core.worktree"];
        git::run(&copy, &[&["config"], &plain[..]].concat());
        for flag in ["--force", "--clean"] {
            let errors = expect(&self.update(&copy, &[flag]), 1);
            assert!(errors.contains("git submodule absorbgitdirs"), "{errors}");
            assert!(link.join("HEAD").exists());
        }
        fs::remove_dir_all(&copy).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Who is killed when all files have their places, and the index has not, has left this.
    fn expect_goes_on(&self) {
        let copy = self.lab.scratch("left");
        copy_tree(&self.target, &copy);
        expect(&self.update(&copy, &[]), 0);
        let [git_dir, old] = [&copy, &self.target].map(|tree| tree.join(".git"));
        for name in ["index", "HEAD", "packed-refs", "config"] {
            fs::copy(old.join(name), git_dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        fs::remove_dir_all(git_dir.join("refs")).unwrap_or_else(|e| panic!("{e}"));
        copy_tree(&old.join("refs"), &git_dir.join("refs"));
        let note = format!("{} {}\n", self.old, tip(&self.lab, "top"));
        write(&git_dir.join("tarpon-update"), &note);
        expect(&self.update(&copy, &[]), 0);
        expect_same_at(&self.clone, &copy, PLACES);
        fs::remove_dir_all(&copy).unwrap_or_else(|e| panic!("{e}"));
        copy_tree(&self.target, &copy);
        write(&git_dir.join("tarpon-update"), &note);
        // The files of one that goes have gone, and its repository has not.
        fs::remove_dir_all(copy.join("other")).unwrap_or_else(|e| panic!("{e}"));
        // What its user has put into the place of one has no killed run put there.
        fs::rename(copy.join("x/mid"), copy.join("x/mid.away")).unwrap_or_else(|e| panic!("{e}"));
        write(&copy.join("x/mid"), "mine");
        let errors = expect(&self.update(&copy, &[]), 1);
        assert!(errors.contains("changed or missing: x/mid;"), "{errors}");
        assert_eq!(fs::read_to_string(copy.join("x/mid")).unwrap(), "mine");
        fs::remove_file(copy.join("x/mid")).unwrap_or_else(|e| panic!("{e}"));
        fs::rename(copy.join("x/mid.away"), copy.join("x/mid")).unwrap_or_else(|e| panic!("{e}"));
        expect(&self.update(&copy, &[]), 0);
        assert!(!git_dir.join("modules/o").exists());
        expect_same_at(&self.clone, &copy, PLACES);
        fs::remove_dir_all(&copy).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Whenever it is killed, the same command again comes to the end.
    fn expect_ends(&self) {
        let mut rng = Rng::new(5);
        for _ in 0..KILLED {
            let copy = self.lab.scratch("copy");
            copy_tree(&self.target, &copy);
            let address = self.server.address();
            let mut running = Running::start(address, "test/top", &copy, UPDATE);
            std::thread::sleep(Duration::from_micros(rng.below(KILLED_WITHIN_US)));
            running.kill();
            expect(&self.update(&copy, &[]), 0);
            expect_same_at(&self.clone, &copy, PLACES);
            fs::remove_dir_all(&copy).unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

/// What stays is brought to its commit where it is, what is new comes, and what is none any more goes.
#[test]
fn submodules_are_brought_along() {
    let all = Behind::new();
    let (target, clone) = (&all.target, &all.clone);
    // They were never restored here.
    expect(&all.update(&all.plain, &[]), 0);
    expect_same_at(clone, &all.plain, PLACES);
    all.expect_refusals();
    all.expect_nothing_lost_meanwhile();
    all.expect_goes_on();
    all.expect_ends();
    // What it does not track stays, and so does what its user has set.
    let set = [
        ("submodule.active", "x"),
        ("submodule.mid.ignore", "dirty"),
        ("submodule.mid.url", "https://mine/mid"),
        ("submodule.o.ignore", "all"),
    ];
    for (key, value) in set {
        git::run(target, &["config", key, value]);
    }
    write(&target.join("other/mine"), "mine");
    write(&target.join("x/mid/mine"), "mine");
    let said = expect(&all.update(target, &[]), 0);
    assert!(
        said.contains(" submodules (") && said.starts_with("updated "),
        "{said}"
    );
    let said = expect(&all.update(target, &[]), 0);
    assert!(
        said.contains(" submodules, ") && said.contains(" is already at "),
        "{said}"
    );
    assert!(!target.join(".git/modules/o").exists() && !target.join("other/.git").exists());
    for (key, value) in set {
        assert_eq!(git::text(target, &["config", key]), value);
    }
    git::run(target, &["config", "submodule.active", "."]);
    let url = git::text(clone, &["config", "submodule.mid.url"]);
    git::run(target, &["config", "submodule.mid.url", &url]);
    for key in ["submodule.mid.ignore", "submodule.o.ignore"] {
        git::run(target, &["config", "--unset", key]);
    }
    for left in ["other/mine", "x/mid/mine"] {
        fs::remove_file(target.join(left)).unwrap_or_else(|e| panic!("{left}: {e}"));
    }
    fs::remove_dir(target.join("other")).unwrap_or_else(|e| panic!("{e}"));
    expect_same_at(clone, target, PLACES);
    // And back again.
    expect(&all.update(target, &["--commit", &all.old]), 0);
    assert_eq!(git::text(target, &["status", "--porcelain"]), "");
    assert!(target.join("other/large").exists() && !target.join("new").exists());
}

/// A directory and a file that are tracked become submodules, some of whose files have the same names, and the other way round.
#[test]
fn what_was_tracked_becomes_a_submodule() {
    let lab = Lab::new(BINARY);
    let leaf = leaf(&lab);
    let mut import = begin(&lab, "top");
    for file in ["lib/a.c", "lib/large", "lib/dir/b", "tool"] {
        import.file(repos::FILE, file.as_bytes(), file.as_bytes());
    }
    import.finish();
    let old = tip(&lab, "top");
    let server = lab.start();
    let [before, copy] = ["before", "copy"].map(|name| lab.scratch(name));
    expect(&restore(server.address(), "test/top", &before, RECURSE), 0);
    let mut import = Importer::start(&lab.upstream("top"), Layout::Packed);
    import.commit_on("refs/heads/main", "refs/heads/main^0", "more");
    let modules = ["lib", "tool", "third/sub"].map(|path| section(path, path, "../leaf"));
    import.file(repos::FILE, b".gitmodules", modules.concat().as_bytes());
    for path in ["lib", "tool"] {
        import.delete(path.as_bytes());
    }
    for path in ["lib", "tool", "third/sub"] {
        import.gitlink(path.as_bytes(), &leaf);
    }
    import.finish();
    let new = tip(&lab, "top");
    let wanted = format!(r#"{{"refs":{{"refs/heads/main":"{new}"}}}}"#);
    ensure(&server, "top", &wanted);
    let clone = git_clone(&lab);
    let update = |more: &[&str]| {
        let more = [UPDATE, more].concat();
        restore(server.address(), "test/top", &copy, &more)
    };
    type Spoils = fn(&Path);
    let beside = lab.scratch("beside");
    fs::create_dir_all(beside.join("sub")).unwrap_or_else(|e| panic!("{e}"));
    write(&beside.join("sub/theirs"), "theirs");
    let theirs = everything(&beside);
    let spoilt: [(Spoils, &[&str]); 3] = [
        (|_| {}, &[]),
        (|tree| write(&tree.join("lib/mine"), "mine"), &["--force"]),
        (|tree| write(&tree.join("lib/mine"), "mine"), &["--clean"]),
    ];
    for (spoil, flags) in spoilt {
        copy_tree(&before, &copy);
        spoil(&copy);
        if !flags.is_empty() {
            // It leads to what is nobody's to remove.
            std::os::unix::fs::symlink(&beside, copy.join("third")).unwrap();
            let errors = expect(&update(&[]), 1);
            assert!(errors.contains("lib/mine"), "{errors}");
        }
        expect(&update(flags), 0);
        assert_eq!(everything(&beside), theirs);
        expect_same_at(&clone, &copy, &["", "lib", "tool", "third/sub"]);
        // And back again.
        expect(&update(&["--commit", &old]), 0);
        assert_eq!(compare::differences(&before, &copy, &[".git"]), [""; 0]);
        assert_eq!(git::text(&copy, &["status", "--porcelain"]), "");
        fs::remove_dir_all(&copy).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// What nobody tracks in a submodule that goes is named, also where a file comes in the place of a directory around it.
#[test]
fn a_file_comes_where_a_submodule_was_deeper() {
    let lab = Lab::new(BINARY);
    let leaf = leaf(&lab);
    let inside = section("o", "libs/o", "../leaf");
    let old = upstream(&lab, "top", &inside, &[("libs/o", &leaf)]);
    let server = lab.start();
    let target = lab.scratch("target");
    expect(&restore(server.address(), "test/top", &target, RECURSE), 0);
    let mut import = Importer::start(&lab.upstream("top"), Layout::Packed);
    import.commit_on("refs/heads/main", "refs/heads/main^0", "more");
    import.delete(b"libs/o");
    import.delete(b".gitmodules");
    import.file(repos::FILE, b"libs", b"a file\n");
    import.finish();
    let new = tip(&lab, "top");
    let wanted = format!(r#"{{"refs":{{"refs/heads/main":"{new}"}}}}"#);
    ensure(&server, "top", &wanted);
    let mine = target.join("libs/o/mine");
    write(&mine, "mine");
    let update = || restore(server.address(), "test/top", &target, UPDATE);
    let errors = expect(&update(), 1);
    assert!(errors.contains("not tracked: libs/o/mine;"), "{errors}");
    assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), old);
    fs::remove_file(&mine).unwrap_or_else(|e| panic!("{e}"));
    expect(&update(), 0);
    assert_eq!(fs::read_to_string(target.join("libs")).unwrap(), "a file\n");
    assert_eq!(git::text(&target, &["status", "--porcelain"]), "");
}

/// A commit that no branch of the submodule has is the upstream's all the same, as long as that gives it by its id.
#[test]
fn a_commit_that_only_a_superproject_names_is_not_lost() {
    let lab = Lab::new(BINARY);
    let first = leaf(&lab);
    let bare = lab.upstream("leaf");
    git::run(&bare, &["config", "uploadpack.allowAnySHA1InWant", "true"]);
    let pinned = repos::add_commit(&bare, "main", "pinned", b"x");
    let modules = section("s", "s", "../leaf");
    upstream(&lab, "top", &modules, &[("s", &pinned)]);
    git::run(&bare, &["update-ref", "refs/heads/main", &first]);
    let clone = git_clone(&lab);
    for (at, url) in [("", "https://test/top"), ("s", "https://test/leaf")] {
        git::run(&clone.join(at), &["config", "remote.origin.url", url]);
    }
    let server = lab.start();
    let newer = go_on(&lab, &server, "leaf", "", &[]);
    go_on(&lab, &server, "top", "", &[("s", &newer)]);
    let update = |target: &Path| restore(server.address(), "https://test/top", target, UPDATE);
    let copy = |name: &str| {
        let copy = lab.scratch(name);
        copy_tree(&clone, &copy);
        copy
    };
    // As git leaves it, and after anything else was fetched.
    let fetched = ".git/modules/s/FETCH_HEAD";
    assert!(fs::read_to_string(clone.join(fetched)).is_ok_and(|text| text.starts_with(&pinned)));
    for name in ["as-cloned", "fetched"] {
        let target = copy(name);
        if name == "fetched" {
            fs::remove_file(target.join(fetched)).unwrap_or_else(|e| panic!("{e}"));
        }
        expect(&update(&target), 0);
        assert_eq!(run(&target.join("s"), &["rev-parse", "HEAD"]), newer);
    }
    // What was recorded and never pushed is nobody else's.
    let target = copy("own");
    let own = ["commit", "--quiet", "--allow-empty", "-m", "mine"];
    git::run(&target.join("s"), &own);
    let errors = expect(&update(&target), 1);
    assert!(
        errors.contains("the commits of HEAD of its submodule s"),
        "{errors}"
    );
}

/// Mounts what `$2` has as the lower layer of `$3`, with `$1` for what is written. Once somebody asks for it tags what is in
/// a submodule there, and says so. The rest runs meanwhile; then it tells whether the tag is there.
const LAYERED: &str = "mount -t tmpfs tarpon \"$1\" && mkdir \"$1/upper\" \"$1/work\" && \
    mount -t overlay -o lowerdir=\"$2\",upperdir=\"$1/upper\",workdir=\"$1/work\",userxattr tarpon \"$3\" || exit 77; \
    at=$3 asks=$4 done=$5; shift 5; \"$@\" & \
    until [ -e \"$asks\" ] || ! kill -0 $! 2>/dev/null; do sleep 0.02; done; \
    git -C \"$at/libs/o\" tag mine HEAD; touch \"$done\"; wait $!; status=$?; \
    git -C \"$at/libs/o\" rev-parse -q --verify mine >/dev/null && echo kept; exit $status";

/// Where directories are not to be renamed, a repository is looked at before it goes piece by piece.
#[test]
fn a_submodule_of_a_lower_layer_that_is_worked_in_stays() {
    let lab = Lab::new(BINARY);
    let first = leaf(&lab);
    let modules = section("libs/o", "libs/o", "../leaf");
    upstream(&lab, "top", &modules, &[("libs/o", &first)]);
    let server = lab.start();
    let target = lab.scratch("target");
    expect(&restore(server.address(), "test/top", &target, RECURSE), 0);
    begin(&lab, "new").finish();
    let new = tip(&lab, "new");
    let links = [("libs/o", ""), ("n", &*new)];
    go_on(&lab, &server, "top", &section("n", "n", "../new"), &links);
    let names = ["written", "merged", "asks", "done"];
    let [written, merged, asks, done] = names.map(|name| lab.scratch(name));
    for place in [&written, &merged] {
        fs::create_dir(place).unwrap_or_else(|e| panic!("{e}"));
    }
    let comes = |target: &str| target.contains("/new/");
    let (asks_at, done_at) = (asks.clone(), done.clone());
    let wait = move |_: &mut Vec<u8>| {
        write(&asks_at, "");
        while !done_at.exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let address = relay(server.address(), comes, wait);
    let update = direct(address, "test/top", &merged, UPDATE);
    let mut layered = Command::new("unshare");
    git::isolate(&mut layered);
    layered.args(["-rm", "sh", "-c", LAYERED, "sh"]);
    layered.args([&written, &target, &merged, &asks, &done]);
    layered.arg(update.get_program()).args(update.get_args());
    let out = layered.output().unwrap_or_else(|e| panic!("{e}"));
    let errors = String::from_utf8_lossy(&out.stderr);
    if out.status.code() == Some(77) || errors.starts_with("unshare:") {
        eprintln!("skipped: no layers for this user: {errors}");
        return;
    }
    let errors = expect(&out, 1);
    assert!(
        errors.contains("modules/libs/o was changed or made meanwhile"),
        "{errors}"
    );
    assert_eq!(String::from_utf8_lossy(&out.stdout), "kept\n");
    // Nothing of it is left once it goes.
    expect(&restore(server.address(), "test/top", &target, UPDATE), 0);
    assert!(!target.join(".git/modules/libs").exists() && !target.join("libs").exists());
    assert_eq!(run(&target.join("n"), &["rev-parse", "HEAD"]), new);
}

/// Names, paths and URLs that lead elsewhere, or are none.
#[test]
fn what_leads_elsewhere_is_refused() {
    let lab = Lab::new(BINARY);
    let leaf = leaf(&lab);
    let touched = lab.scratch("touched").display().to_string();
    let server = lab.start();
    let target = lab.scratch("target");
    let run_it = |name: &str| restore(server.address(), &format!("test/{name}"), &target, RECURSE);
    let both = [
        section("a", "m", "../leaf"),
        section("a/hooks", "n", "../leaf"),
    ]
    .concat();
    let bad = [
        section("../x", "m", "../leaf"),
        section("m", "m", &format!("ext::touch {touched}")),
        section("m", "m", &lab.url("leaf")),
        section("m", "m", &lab.upstream("leaf").display().to_string()),
        section("m", "m", &format!("-utouch {touched};")),
        section(
            "m",
            "m",
            &format!("ssh://-oProxyCommand=touch$IFS{touched}/x"),
        ),
        section("m", "m", "../../leaf"),
        section("m", "m", "../leaf%0ahost=evil"),
        section("m", "m", "\"../leaf\\r\""),
        section("m", "other", "../leaf"),
        "[submodule".into(),
        both,
    ];
    for (number, modules) in bad.iter().enumerate() {
        let name = format!("bad-{number}");
        upstream(&lab, &name, modules, &[("m", &leaf), ("n", &leaf)]);
        let errors = expect(&run_it(&name), 5);
        assert!(errors.contains(".gitmodules"), "{modules}: {errors}");
        expect_nothing(&target);
    }
    assert!(!Path::new(&touched).exists());
}

/// What is no file, what has no end, and what would have a command run.
#[test]
fn what_would_lead_on_ends() {
    let lab = Lab::new(BINARY);
    let leaf = leaf(&lab);
    let touched = lab.scratch("touched").display().to_string();
    let server = lab.start();
    let target = lab.scratch("target");
    let run_it = |name: &str| restore(server.address(), &format!("test/{name}"), &target, RECURSE);
    // Nobody gives a link out.
    let mut import = begin(&lab, "linked");
    import.file(repos::SYMLINK, b".gitmodules", b"dir/b");
    import.gitlink(b"m", &leaf);
    import.finish();
    let errors = expect(&run_it("linked"), 3);
    assert!(errors.contains("must not be a symlink"), "{errors}");
    // Without an end.
    let mut below = leaf.clone();
    for _ in 0..18 {
        let mut import = match lab.upstream("self").exists() {
            false => begin(&lab, "self"),
            true => Importer::start(&lab.upstream("self"), Layout::Packed),
        };
        if below != leaf {
            import.commit_on("refs/heads/main", "refs/heads/main^0", "more");
        }
        import.file(
            repos::FILE,
            b".gitmodules",
            section("s", "s", "../self").as_bytes(),
        );
        import.gitlink(b"s", &below);
        import.finish();
        below = tip(&lab, "self");
    }
    let errors = expect(&run_it("self"), 5);
    assert!(errors.contains("nested more than 16 deep"), "{errors}");
    expect_nothing(&target);
    assert!(!Path::new(&touched).exists());
    // A command is not even looked at.
    let commands = format!(
        "{}\tupdate = !touch {touched}\n",
        section("m", "m", "../leaf")
    );
    upstream(&lab, "commands", &commands, &[("m", &leaf)]);
    expect(&run_it("commands"), 0);
    assert!(target.join("m/large").exists() && !Path::new(&touched).exists());
}

/// What the server has not is named, or cloned from where it is.
#[test]
fn a_host_that_the_server_has_not_is_named() {
    let lab = Lab::new(BINARY);
    let leaf = leaf(&lab);
    let server = lab.start();
    let elsewhere = format!("http://{}/git/test/leaf", server.address());
    upstream(&lab, "top", &section("m", "m", &elsewhere), &[("m", &leaf)]);
    let target = lab.scratch("target");
    let errors = expect(&restore(server.address(), "test/top", &target, RECURSE), 2);
    let named = format!(
        "submodule m ({elsewhere} at {leaf}): the server refuses: 403: {} is not one",
        server.address()
    );
    assert!(errors.contains(&named), "{errors}");
    assert!(errors.contains("or --fallback clone clones it"), "{errors}");
    expect_nothing(&target);
    let more = [RECURSE, &["--fallback", "clone"]].concat();
    expect(&restore(server.address(), "test/top", &target, &more), 0);
    assert_eq!(run(&target.join("m"), &["rev-parse", "HEAD"]), leaf);
    assert_eq!(run(&target, &["status", "--porcelain"]), "");
}

/// The index of the only pack of a submodule of a working copy.
fn index_of(copy: &Path, name: &str) -> PathBuf {
    let packs = copy.join(".git/modules").join(name).join("objects/pack");
    let listing = fs::read_dir(&packs).unwrap_or_else(|e| panic!("{}: {e}", packs.display()));
    let mut paths = listing.flatten().map(|entry| entry.path());
    let index = paths.find(|path| path.extension().is_some_and(|end| end == "idx"));
    index.unwrap_or_else(|| panic!("no index in {}", packs.display()))
}

/// What is proven of a repository is proven of its submodules, too, whether they are restored or brought along.
#[test]
fn submodules_are_proven_as_well() {
    let behind = Behind::new();
    let damaged = behind.lab.scratch("damaged");
    copy_tree(&behind.target, &damaged);
    let fresh = behind.lab.scratch("fresh");
    for verify in ["--verify", "--verify=full"] {
        let more = [RECURSE, &[verify, "--json"]].concat();
        let out = restore(behind.server.address(), "test/top", &fresh, &more);
        expect(&out, 0);
        expect_same_at(&behind.clone, &fresh, PLACES);
        fs::remove_dir_all(&fresh).unwrap_or_else(|e| panic!("{e}"));
    }
    let out = behind.update(&behind.target, &["--verify", "--clean", "--json"]);
    expect(&out, 0);
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let proven = ["packs", "commit", "trees", "files", "index", "nothing else"];
    assert_eq!(json["verified"]["proven"], serde_json::json!(proven));
    expect_same_at(&behind.clone, &behind.target, PLACES);
    // The sum of an index, inside of one that stays.
    let path = index_of(&damaged, "mid");
    let mut bytes = fs::read(&path).unwrap_or_else(|e| panic!("{e}"));
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    fs::remove_file(&path).unwrap_or_else(|e| panic!("{e}"));
    fs::write(&path, bytes).unwrap_or_else(|e| panic!("{e}"));
    let errors = expect(&behind.update(&damaged, &["--verify"]), 1);
    assert!(errors.contains("submodule x/mid"), "{errors}");
}
