//! Repositories that hold, between them, every case in which a snapshot could differ from a
//! clone.

use super::support::git;
use super::support::lab::Lab;
use super::support::repos::{self, EXECUTABLE, FILE, Importer, Layout, SYMLINK};
use super::support::rng::Rng;
use std::fs;
use std::io::{Read, repeat};
use std::path::{Path, PathBuf};

const MAIN: &str = "refs/heads/main";
/// A commit that exists nowhere: a submodule's.
const ELSEWHERE: &str = "0123456789abcdef0123456789abcdef01234567";

/// Attributes of the top directory: what a path's last suffix asks for.
const ATTRIBUTES: &[u8] = b"\
[attr]winmac text eol=crlf ident\n\
*.crlf text eol=crlf\n\
*.eolonly eol=crlf\n\
*.lf text eol=lf\n\
*.auto text=auto\n\
*.autocrlf text=auto eol=crlf\n\
*.bin -text\n\
*.binary binary\n\
*.id ident\n\
*.both text eol=crlf ident\n\
*.lfs filter=lfs diff=lfs merge=lfs -text\n\
*.exp export-subst\n\
*.ign export-ignore\n\
*.mac winmac\n\
/rooted.txt text eol=crlf\n\
folder/** text eol=crlf\n\
\"with space.*\" text eol=crlf\n\
[abc]?.glob text eol=crlf\n\
# a comment\n\
*.later text eol=crlf\n\
*.later !text !eol\n";

/// Attributes that ask for another encoding in the worktree.
const ENCODINGS: &[u8] = b"\
*.u16 text working-tree-encoding=UTF-16\n\
*.u16crlf text eol=crlf working-tree-encoding=UTF-16\n\
*.u16le text working-tree-encoding=UTF-16LE\n\
*.u16be text working-tree-encoding=UTF-16BE\n\
*.u16lebom text working-tree-encoding=UTF-16LE-BOM\n\
*.sjis text working-tree-encoding=SHIFT-JIS\n\
*.latin text working-tree-encoding=latin1\n\
*.iso text working-tree-encoding=ISO-8859-1\n\
*.same text working-tree-encoding=UTF-8\n\
*.u16id text ident working-tree-encoding=UTF-16LE-BOM\n";

/// Contents on which line endings and `ident` have different opinions.
const CONTENTS: &[(&str, &[u8])] = &[
    ("empty", b""),
    ("lf", b"one\ntwo\nthree\n"),
    ("crlf", b"one\r\ntwo\r\nthree\r\n"),
    ("mixed", b"one\ntwo\r\nthree\n"),
    ("lonecr", b"one\rtwo\nthree\n"),
    ("nul", b"one\0two\nthree\n"),
    ("noend", b"one\ntwo"),
    ("crend", b"one\ntwo\r"),
    ("onlylf", b"\n"),
    ("ctrlz", b"one\ntwo\n\x1a"),
    ("control", b"\x01\x02\x03\x04\x05\x06\x07 a\nb\n"),
    ("ident", b"$Id$ and $Id: 0123456789 $\n"),
    (
        "identodd",
        b"$Id: two words $ $Id:$ $Id$Id$ $Id: open\n$ $id$ $Id $\n$Id",
    ),
    ("format", b"$Format:%H$\n"),
    ("unicode", "gr\u{fc}n \u{65e5}\u{672c}\n".as_bytes()),
];

/// Texts for the encodings; what an encoding cannot say stays as it is, as in git.
const TEXTS: &[(&str, &str)] = &[
    ("empty", ""),
    ("ascii", "one\ntwo\n"),
    ("latin", "gr\u{fc}n \u{e9}t\u{e9}\n"),
    (
        "japanese",
        "\u{65e5}\u{672c}\u{8a9e}\n\u{30c6}\u{30b9}\u{30c8}\n",
    ),
    ("astral", "clef \u{1d11e}\n"),
    ("ident", "$Id$\n"),
];

/// Line endings, `ident`, filters that are not configured, macros, nested and odd attribute
/// files; each attribute on each content.
pub fn attributes(lab: &Lab) {
    let path = lab.upstream("attributes");
    repos::init_bare(&path, "main", "sha1");
    let mut import = Importer::start(&path, Layout::Packed);
    import.commit(MAIN, "attributes");
    import.file(FILE, b".gitattributes", ATTRIBUTES);
    let suffixes = [
        "crlf", "eolonly", "lf", "auto", "autocrlf", "bin", "binary", "id", "both", "lfs", "exp",
        "ign", "mac", "later", "none",
    ];
    for (name, content) in CONTENTS {
        for suffix in suffixes {
            let path = format!("matrix/{name}.{suffix}");
            import.file(FILE, path.as_bytes(), content);
        }
    }
    let lines = b"one\ntwo\n$Id$\n";
    for path in [
        "rooted.txt",
        "sub/rooted.txt",
        "folder/x",
        "folder/deep/y",
        "with space.txt",
        "ab.glob",
        "db.glob",
        "sub/a.crlf",
        "sub/deep/a.crlf",
        "sub/deep/b.lf",
        "linked/a.crlf",
        "sub/mac.mac",
    ] {
        import.file(FILE, path.as_bytes(), lines);
    }
    import.file(EXECUTABLE, b"run.crlf", b"#!/bin/sh\nexit 0\n");
    // Links are never converted. Of an attribute file that is one, the target's name is what is read.
    import.file(SYMLINK, b"link.crlf", b"target\nline");
    import.file(SYMLINK, b"linked/.gitattributes", b"../attributes-target");
    import.file(FILE, b"attributes-target", b"*.crlf -text\n");
    import.file(SYMLINK, b"linked/rules/.gitattributes", b"* ident");
    import.file(FILE, b"linked/rules/file", lines);
    import.file(
        FILE,
        b"sub/.gitattributes",
        b"*.crlf -text\n[attr]notamacro text eol=crlf\n",
    );
    import.file(
        FILE,
        b"sub/deep/.gitattributes",
        b"*.crlf text eol=crlf ident\n*.lf eol=crlf\n",
    );
    import.file(FILE, b"blank/.gitattributes", b"");
    import.finish();
}

/// `working-tree-encoding` in all spellings that projects use.
pub fn encodings(lab: &Lab) {
    let path = lab.upstream("encodings");
    repos::init_bare(&path, "main", "sha1");
    let mut import = Importer::start(&path, Layout::Packed);
    import.commit(MAIN, "encodings");
    import.file(FILE, b".gitattributes", ENCODINGS);
    for suffix in [
        "u16", "u16crlf", "u16le", "u16be", "u16lebom", "same", "u16id",
    ] {
        for (name, text) in TEXTS {
            import.file(FILE, format!("{name}.{suffix}").as_bytes(), text.as_bytes());
        }
    }
    for (suffix, fits) in [("sjis", "japanese"), ("latin", "latin"), ("iso", "latin")] {
        for (name, text) in TEXTS {
            if *name == fits || matches!(*name, "empty" | "ascii" | "ident") {
                import.file(FILE, format!("{name}.{suffix}").as_bytes(), text.as_bytes());
            }
        }
    }
    import.finish();
}

/// What an encoding cannot express, names of encodings that nobody knows, and bytes that are
/// not UTF-8: git says so and writes the file as it is stored.
pub fn encodings_that_fail(lab: &Lab) {
    let path = lab.upstream("encodings-that-fail");
    repos::init_bare(&path, "main", "sha1");
    let mut import = Importer::start(&path, Layout::Packed);
    import.commit(MAIN, "encodings");
    let odd = b"*.nosuch text working-tree-encoding=NO-SUCH\n*.flag text working-tree-encoding\n";
    import.file(FILE, b".gitattributes", &[ENCODINGS, odd].concat());
    let japanese = "\u{65e5}\u{672c}\n".as_bytes();
    import.file(FILE, b"cannot.latin", japanese);
    import.file(FILE, b"cannot.sjis", "clef \u{1d11e}\n".as_bytes());
    import.file(FILE, b"invalid.u16", b"\xff\xfe\x80 not UTF-8\n");
    import.file(FILE, b"unknown.nosuch", japanese);
    import.file(FILE, b"plain.txt", b"plain\n");
    import.finish();
}

/// Names and kinds of files: links, modes, a submodule, long and odd names, deep directories.
pub fn names(lab: &Lab) {
    let path = lab.upstream("names");
    repos::init_bare(&path, "main", "sha1");
    let mut import = Importer::start(&path, Layout::Packed);
    import.commit(MAIN, "names");
    import.file(FILE, b"empty", b"");
    import.file(EXECUTABLE, b"executable", b"#!/bin/sh\n");
    import.file(EXECUTABLE, b"empty-executable", b"");
    links(&mut import);
    import.gitlink(b"module", ELSEWHERE);
    import.gitlink(b"nested/module", ELSEWHERE);
    import.file(
        FILE,
        b".gitmodules",
        b"[submodule \"module\"]\n\tpath = module\n\turl = ../module\n",
    );
    for len in [99, 100, 101, 155, 156, 200, 255] {
        import.file(FILE, &vec![b'n'; len], b"long name\n");
    }
    for depth in [2, 3, 8, 40] {
        let directory = vec!["d".repeat(60); depth].join("/");
        import.file(FILE, format!("{directory}/file").as_bytes(), b"long path\n");
        import.file(
            EXECUTABLE,
            format!("{directory}/executable").as_bytes(),
            b"long path\n",
        );
        let target = format!("{directory}/file");
        import.file(
            SYMLINK,
            format!("{directory}/link").as_bytes(),
            target.as_bytes(),
        );
    }
    import.file(
        FILE,
        format!("{}file", "deep/".repeat(200)).as_bytes(),
        b"deep\n",
    );
    for name in ODD_NAMES {
        import.file(FILE, name, b"odd name\n");
        import.file(
            FILE,
            &[b"odd/".as_slice(), name, b"/inside"].concat(),
            b"odd directory\n",
        );
    }
    // Sorted differently as a file name and as a directory name.
    for name in ["sort.c", "sort/x", "sort-a", "sort0", "sort.", "sort/.c"] {
        import.file(FILE, name.as_bytes(), name.as_bytes());
    }
    import.finish();
}

const ODD_NAMES: &[&[u8]] = &[
    b"caf\xe9",
    b"\xff\xfe\x80",
    b"line\nbreak",
    b"tab\there",
    b"back\\slash",
    b"co:lon",
    b"-dash",
    b"--checkpoint=1",
    b" leading space",
    b"trailing space ",
    b"quote\"'`$",
    b"*?[glob]",
    b"\x01control\x7f",
    b"...",
    b"equals=sign",
    b"12 path=x",
    b"~tilde",
    b"#hash",
    b"!bang",
    b".hidden",
    b"git",
    "\u{65e5}\u{672c}".as_bytes(),
    "e\u{301}".as_bytes(),
];

fn links(import: &mut Importer) {
    import.file(SYMLINK, b"link", b"empty");
    import.file(SYMLINK, b"link-dangling", b"no/such/target");
    import.file(SYMLINK, b"link-absolute", b"/etc/hostname");
    import.file(SYMLINK, b"link-directory", b"nested");
    import.file(SYMLINK, b"link-up", b"../../outside");
    import.file(SYMLINK, b"link-odd", b"caf\xe9\nx");
    for len in [99, 100, 101, 255, 256, 1000] {
        let target = vec![b't'; len];
        import.file(SYMLINK, format!("link-long-{len}").as_bytes(), &target);
    }
}

/// A file of 100 MB, half of it random, half of it zeros, between small ones; and an
/// executable of a few MB.
pub fn large_file(lab: &Lab) {
    const HALF_BYTES: u64 = 50_000_000;
    let path = lab.upstream("large");
    repos::init_bare(&path, "main", "sha1");
    let mut import = Importer::start(&path, Layout::Packed);
    import.commit(MAIN, "large");
    import.file(FILE, b"a-small", b"before\n");
    let mut content = Rng::new(100)
        .take(HALF_BYTES)
        .chain(repeat(0).take(HALF_BYTES));
    import.file_from(FILE, b"large.bin", 2 * HALF_BYTES, &mut content);
    import.file_from(EXECUTABLE, b"tool", 3_000_001, &mut Rng::new(101));
    import.file(FILE, b"z-small", b"after\n");
    import.finish();
}

/// Nothing at all.
pub fn empty(lab: &Lab) {
    repos::init_bare(&lab.upstream("empty"), "main", "sha1");
}

/// Nothing at all, with a default branch of another name.
pub fn empty_trunk(lab: &Lab) {
    repos::init_bare(&lab.upstream("empty-trunk"), "trunk", "sha1");
}

/// Nothing at all, SHA-256.
pub fn empty_sha256(lab: &Lab) {
    repos::init_bare(&lab.upstream("empty-sha256"), "main", "sha256");
}

/// A commit without files.
pub fn empty_tree(lab: &Lab) {
    let path = lab.upstream("empty-tree");
    repos::init_bare(&path, "main", "sha1");
    let mut import = Importer::start(&path, Layout::Packed);
    import.commit(MAIN, "nothing");
    import.finish();
}

/// A small history with everything ordinary in it, SHA-256.
pub fn sha256(lab: &Lab) {
    let path = lab.upstream("sha256");
    repos::init_bare(&path, "main", "sha256");
    history(&path, Layout::Packed);
    tags(&path);
}

/// HEAD at a commit that no branch points at.
pub fn detached(lab: &Lab) {
    let path = ordinary(lab, "detached");
    let commit = git::text(&path, &["rev-parse", "main~1"]);
    git::run(&path, &["update-ref", "--no-deref", "HEAD", &commit]);
}

/// HEAD at a commit that a branch points at as well; a clone takes it for that branch.
pub fn detached_at_tip(lab: &Lab) {
    let path = ordinary(lab, "detached-at-tip");
    let commit = git::text(&path, &["rev-parse", "side"]);
    git::run(&path, &["update-ref", "--no-deref", "HEAD", &commit]);
}

/// HEAD names a branch that does not exist, others do.
pub fn unborn_head(lab: &Lab) {
    let path = ordinary(lab, "unborn-head");
    git::run(&path, &["symbolic-ref", "HEAD", "refs/heads/nowhere"]);
}

/// The default branch has slashes, non-ASCII letters and characters that config files quote.
pub fn branch_name(lab: &Lab) {
    let branch = "feature/gr\u{fc}n/\"x\"#;'y";
    let path = ordinary(lab, "branch-name");
    git::run(&path, &["branch", "-m", "main", branch]);
    git::run(
        &path,
        &["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")],
    );
}

/// Tags of every kind, and a branch and a tag of one name.
pub fn tagged(lab: &Lab) {
    let path = ordinary(lab, "tagged");
    tags(&path);
}

/// A commit on top of `main` that no branch leads to.
fn pull_request(path: &Path) -> String {
    let tree = "refs/heads/main^{tree}";
    let commit = ["commit-tree", tree, "-p", "refs/heads/main", "-m", "pull"];
    git::text(path, &commit)
}

/// 5,000 references, packed and loose, and references that no clone takes.
pub fn many_refs(lab: &Lab) {
    let path = ordinary(lab, "many-refs");
    repos::add_refs(&path, 3000, "main", |n| {
        format!("refs/heads/team{}/topic-{n}", n % 37)
    });
    git::run(&path, &["pack-refs", "--all"]);
    repos::add_refs(&path, 2000, "main~1", |n| {
        format!("refs/tags/v{}.{n}", n % 11)
    });
    let pull = pull_request(&path);
    repos::add_refs(&path, 50, &pull, |n| format!("refs/pull/{n}/head"));
    git::run(&path, &["update-ref", "refs/notes/commits", &pull]);
    git::run(&path, &["update-ref", "refs/stash", &pull]);
}

/// Objects in several packs and loose ones, in the upstream and in a mirror that was put into
/// the state directory by hand and holds more than it should serve.
pub fn packs_and_loose(lab: &Lab) {
    let name = "packs-and-loose";
    let path = lab.upstream(name);
    repos::init_bare(&path, "main", "sha1");
    history(&path, Layout::Packed);
    lab.place_mirror(name);
    let mirror = lab.mirror(name);
    for (number, layout) in [(1, "1"), (2, "1"), (3, "1000000"), (4, "1000000")] {
        let content = Rng::new(number).text(20_000);
        repos::add_commit(&path, "main", &format!("more/file{number}.txt"), &content);
        let limit = format!("fetch.unpackLimit={layout}");
        git::run(&mirror, &["-c", &limit, "fetch", "--quiet", "origin"]);
        if number == 2 {
            git::run(&mirror, &["pack-refs", "--all"]);
        }
    }
    tags(&path);
    git::run(
        &mirror,
        &[
            "-c",
            "fetch.unpackLimit=1000000",
            "fetch",
            "--quiet",
            "origin",
        ],
    );
    let pull = pull_request(&path);
    git::run(&path, &["update-ref", "refs/pull/1/head", &pull]);
    git::run(
        &mirror,
        &["fetch", "--quiet", "origin", "+refs/pull/*:refs/pull/*"],
    );
    let packs = count_suffix(&mirror.join("objects/pack"), ".pack");
    assert!(
        packs >= 3,
        "this case is about several packs, there are {packs}"
    );
    assert!(
        mirror.join("refs/pull/1/head").exists(),
        "this case is about more references"
    );
}

/// A mirror whose objects are all loose.
pub fn all_loose(lab: &Lab) {
    let path = lab.upstream("all-loose");
    repos::init_bare(&path, "main", "sha1");
    history(&path, Layout::Loose);
    let mirror = lab.mirror("all-loose");
    repos::init_bare(&mirror, "main", "sha1");
    git::run(
        &mirror,
        &[
            "remote",
            "add",
            "--mirror=fetch",
            "origin",
            &lab.url("all-loose"),
        ],
    );
    git::run(
        &mirror,
        &[
            "-c",
            "fetch.unpackLimit=1000000",
            "fetch",
            "--quiet",
            "origin",
        ],
    );
    let packs = count_suffix(&mirror.join("objects/pack"), ".pack");
    assert_eq!(packs, 0, "this case is about loose objects");
}

fn count_suffix(directory: &Path, suffix: &str) -> usize {
    let Ok(listing) = fs::read_dir(directory) else {
        return 0;
    };
    listing
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().ends_with(suffix))
        .count()
}

/// A bare repository, SHA-1, with that history in a pack.
fn ordinary(lab: &Lab, name: &str) -> PathBuf {
    let path = lab.upstream(name);
    repos::init_bare(&path, "main", "sha1");
    history(&path, Layout::Packed);
    path
}

/// Three commits on `main`, a side branch with a merge, directories, and a file that changes.
fn history(path: &Path, layout: Layout) {
    let mut import = Importer::start(path, layout);
    let mut rng = Rng::new(7);
    for number in 0..3 {
        import.commit(MAIN, &format!("commit {number}"));
        import.file(FILE, b"README.md", format!("version {number}\n").as_bytes());
        import.file(EXECUTABLE, b"bin/run", b"#!/bin/sh\nexit 0\n");
        let content = rng.text(5000);
        import.file(
            FILE,
            format!("src/deep/file{number}.c").as_bytes(),
            &content,
        );
    }
    import.commit_on("refs/heads/side", MAIN, "on the side");
    import.file(FILE, b"side.txt", b"side\n");
    import.commit(MAIN, "merge");
    import.raw(b"merge refs/heads/side\n");
    import.file(FILE, b"side.txt", b"side\n");
    import.finish();
}

/// Light, annotated and nested tags, tags of a tree and of a blob, one that is older than
/// `main`, and one with a branch's name that points elsewhere.
fn tags(path: &Path) {
    git::run(path, &["tag", "light", "main"]);
    git::run(
        path,
        &["tag", "-a", "-m", "annotated", "annotated", "main~1"],
    );
    git::run(path, &["tag", "-a", "-m", "nested", "nested", "annotated"]);
    git::run(
        path,
        &["tag", "-a", "-m", "nested again", "deeper/nested", "nested"],
    );
    git::run(path, &["tag", "blob", "main:README.md"]);
    git::run(
        path,
        &[
            "tag",
            "-a",
            "-m",
            "of a blob",
            "blob-annotated",
            "main:README.md",
        ],
    );
    git::run(path, &["tag", "tree", "main^{tree}"]);
    git::run(path, &["tag", "side", "refs/heads/main~2"]);
    git::run(
        path,
        &["tag", "-a", "-m", "of main", "main", "refs/heads/main~1"],
    );
    let orphan = git::text(
        path,
        &["commit-tree", "refs/heads/main^{tree}", "-m", "alone"],
    );
    git::run(path, &["tag", "unreachable", &orphan]);
}
