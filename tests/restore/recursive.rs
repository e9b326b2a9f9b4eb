//! `--recurse-submodules`: what `git clone --recurse-submodules` makes, and what anybody may write into `.gitmodules`.

use crate::lab::{BINARY, expect, expect_nothing, restore};
use crate::submodules::run;
use crate::support::lab::Lab;
use crate::support::repos::{self, Importer, Layout};
use crate::support::rng::Rng;
use crate::support::{compare, git};
use std::path::Path;

const RECURSE: &[&str] = &["--recurse-submodules"];
/// Of each leaf, in its pack and in its files.
const LEAF_BYTES: usize = 1 << 20;

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

fn expect_same(clone: &Path, target: &Path) {
    let differences = compare::differences(clone, target, &[".git"]);
    assert_eq!(differences, Vec::<String>::new());
    for path in ["", "x/mid", "x/mid/libs/leaf", "other"] {
        assert_eq!(said(target, path), said(clone, path), "{path}");
    }
    let status = ["submodule", "status", "--recursive"];
    assert_eq!(run(target, &status), run(clone, &status));
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
    let clone = lab.scratch("cloned");
    let clones = [
        "clone",
        "--quiet",
        "--recurse-submodules",
        &*lab.url("top"),
        "cloned",
    ];
    run(&lab.scratch(""), &clones);
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
    expect(&into(&target, &["--overwrite"]), 0);
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
        "submodule m: the server refuses: 403: {} is not one",
        server.address()
    );
    assert!(errors.contains(&named), "{errors}");
    expect_nothing(&target);
    let more = [RECURSE, &["--fallback", "clone"]].concat();
    expect(&restore(server.address(), "test/top", &target, &more), 0);
    assert_eq!(run(&target.join("m"), &["rev-parse", "HEAD"]), leaf);
    assert_eq!(run(&target, &["status", "--porcelain"]), "");
}
