//! What an archive's `.git` may do to whoever restores it: nothing. What is restored of it is
//! objects; all that git executes, follows or trusts is the client's own.

use crate::lab::{command, expect, expect_nothing, restore, serve};
use crate::remade::{self, Item, at, ending, put};
use crate::support::lab::{self, Lab};
use crate::support::repos::{self, Importer, Layout};
use crate::support::server::Server;
use crate::support::{git, parity};
use sha1::Digest;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use tar::EntryType;

/// A lab with one small repository, its server, its archive, and a file that nobody may make.
struct Attack {
    lab: Lab,
    server: Server,
    items: Vec<Item>,
    /// Is there when a command of an archive's was run.
    canary: PathBuf,
}

impl Attack {
    fn new() -> Attack {
        Attack::of("sha1")
    }

    fn of(format: &str) -> Attack {
        let lab = Lab::new(crate::lab::BINARY);
        let path = lab.upstream("app");
        repos::init_bare(&path, "main", format);
        let mut import = Importer::start(&path, Layout::Packed);
        import.commit("refs/heads/main", "first");
        import.file(repos::FILE, b"a/b/c.txt", b"text\n");
        import.file(repos::FILE, b"a.txt", b"more\n");
        import.file(repos::EXECUTABLE, b"run.sh", b"#!/bin/sh\n");
        import.file(repos::SYMLINK, b"a/link", b"../nowhere");
        let id_digits = if format == "sha256" { 64 } else { 40 };
        import.gitlink(b"module", &"1".repeat(id_digits));
        import.finish();
        let head = git::text(&path, &["rev-parse", "HEAD"]);
        repos::add_refs(&path, 3, &head, |number| format!("refs/tags/v{number}"));
        let server = lab.start();
        let file = lab.scratch("archive.tar.zst");
        lab::download(server.address(), &lab::target("app"), &file);
        let items = remade::open(&fs::read(&file).unwrap());
        let canary = lab.scratch("canary");
        Attack {
            lab,
            server,
            items,
            canary,
        }
    }

    /// Restores an archive of `items`.
    fn restore(&self, items: &[Item], name: &str, more: &[&str]) -> (PathBuf, Output) {
        let target = self.lab.scratch(name);
        let address = serve(remade::pack(items), |_| None);
        let out = restore(address, "test/app", &target, more);
        (target, out)
    }

    /// The archive after `change` must be refused, and leave nothing.
    #[track_caller]
    fn refused(&self, what: &str, change: impl FnOnce(&mut Vec<Item>)) {
        let mut items = self.items.clone();
        change(&mut items);
        let (target, out) = self.restore(&items, "refused", &[]);
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(5), "{what}: {errors}");
        expect_nothing(&target);
        assert!(!self.canary.exists(), "{what}");
    }

    /// The archive after `change` must be restored as if it had not been changed.
    #[track_caller]
    fn harmless(&self, what: &str, change: impl FnOnce(&mut Vec<Item>)) {
        let mut items = self.items.clone();
        change(&mut items);
        let (target, out) = self.restore(&items, "harmless", &[]);
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(0), "{what}: {errors}");
        self.expect_clean(&target, what);
        fs::remove_dir_all(&target).unwrap();
    }

    /// `.git` holds only what a clone's does, says only what the client says, and nothing happens
    /// when it is used.
    #[track_caller]
    fn expect_clean(&self, target: &Path, what: &str) {
        let unknown: Vec<String> = files(&target.join(".git"))
            .into_iter()
            .filter(|file| !is_known(file))
            .collect();
        assert!(unknown.is_empty(), "{what}: {unknown:?}");
        let origin = format!("remote.origin.url={}", self.lab.url("app"));
        let mut expected = BTreeSet::from([
            "core.repositoryformatversion=0",
            "core.filemode=true",
            "core.bare=false",
            "core.logallrefupdates=true",
            "remote.origin.fetch=+refs/heads/*:refs/remotes/origin/*",
            "branch.main.remote=origin",
            "branch.main.merge=refs/heads/main",
            &origin,
        ]);
        let listed = git::text(target, &["config", "--local", "--list"]);
        for line in listed.lines() {
            assert!(expected.remove(line), "{what}: {line}");
        }
        assert!(expected.is_empty(), "{what}: {expected:?}");
        let debug = git::text(target, &["ls-files", "--debug", "-v"]);
        let flags = debug.lines().filter(|line| line.contains("flags:"));
        assert!(flags.clone().count() > 0, "{what}");
        for line in flags {
            assert!(line.ends_with("flags: 0"), "{what}: {line}");
        }
        let tree = git::text(target, &["write-tree"]);
        let head = git::text(target, &["rev-parse", "HEAD^{tree}"]);
        assert_eq!(tree, head, "{what}");
        for use_it in [
            &["status", "--porcelain"][..],
            &["log", "--oneline"],
            &["fetch", "--quiet"],
            &["checkout", "--quiet", "."],
            &["restore", "."],
            &["commit", "--quiet", "--allow-empty", "-m", "x"],
            &["gc", "--quiet"],
        ] {
            let out = git::output(target, use_it);
            assert!(out.status.success(), "{what}: git {use_it:?}: {out:?}");
        }
        assert_eq!(git::text(target, &["status", "--porcelain"]), "", "{what}");
        assert!(!self.canary.exists(), "{what}: a command was run");
    }
}

/// Names of all files below a directory, relative to it.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(directory.join(&at)).unwrap() {
            let entry = entry.unwrap();
            let path = at.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => left.push(path),
                false => found.push(path.to_string_lossy().into_owned()),
            }
        }
    }
    found
}

/// Whether a clone has a file of this name in its `.git`, or a restore has noted something there.
fn is_known(file: &str) -> bool {
    const FILES: [&str; 9] = [
        "HEAD",
        "config",
        "description",
        "index",
        "info/exclude",
        "packed-refs",
        "refs/heads/main",
        "refs/remotes/origin/HEAD",
        "tarpon-restored",
    ];
    let is_pack = |name: &str| ["pack", "idx", "rev"].iter().any(|end| name.ends_with(end));
    FILES.contains(&file) || file.strip_prefix("objects/pack/pack-").is_some_and(is_pack)
}

#[test]
fn what_a_configuration_says_besides_its_origin_is_nobodys() {
    let attack = Attack::new();
    let run = format!("touch {}", attack.canary.display());
    let elsewhere = attack.lab.scratch("elsewhere");
    for line in [
        format!("[core] fsmonitor = \"{run}\" # ]"),
        format!("[core] sshCommand = \"{run}\" # ]"),
        format!("[core] pager = \"{run}\" # ]"),
        format!("[core] editor = \"{run}\" # ]"),
        format!("[core] hooksPath = {} # ]", attack.canary.display()),
        format!("[core] worktree = {} # ]", elsewhere.display()),
        format!("[core] gitProxy = \"{run}\" # ]"),
        format!("[remote \"origin\"] uploadpack = \"{run}\" # ]"),
        format!("[remote \"origin\"] promisor = true\n\tuploadpack = \"{run}\""),
        format!("[filter \"x\"] smudge = \"{run}\" # ]"),
        format!("[credential] helper = \"!{run}\" # ]"),
        format!("[alias] status = \"!{run}\" # ]"),
        format!("[diff] external = \"{run}\" # ]"),
        format!("[include] path = {} # ]", attack.canary.display()),
        "[url \"ext::sh -c x\"] insteadOf = file:// # ]".to_owned(),
        "[core] repositoryformatversion = 99\n\tbare = true".to_owned(),
    ] {
        attack.harmless(&line, |items| {
            let config = &mut at(items, ".git/config").data;
            config.extend_from_slice(format!("{line}\n").as_bytes());
        });
        assert!(!elsewhere.exists(), "{line}");
    }
    for line in [
        "[extensions] worktreeConfig = true # ]",
        "[extensions] partialClone = origin # ]",
        "[core",
        "[remote \"origin\"]\n\turl = ssh://-oProxyCommand=x/y",
    ] {
        attack.refused(line, |items| {
            let config = &mut at(items, ".git/config").data;
            config.extend_from_slice(format!("{line}\n").as_bytes());
        });
    }
}

#[test]
fn a_configuration_leads_no_step_of_the_restore_anywhere() {
    let attack = Attack::new();
    let upstream = attack.lab.upstream("app");
    let newer = repos::add_commit(&upstream, "main", "new.txt", b"new");
    let run = format!("touch {}", attack.canary.display());
    let mut items = attack.items.clone();
    let config = &mut at(&mut items, ".git/config").data;
    let server = attack.server.address();
    let lines = format!(
        "[core]\n\tsshCommand = {run}\n\tfsmonitor = {run}\n\
         [remote \"http://{server}/git/test/app\"]\n\turl = ext::{run}\n\tuploadpack = {run}\n\
         [url \"ext::{run} #\"]\n\tinsteadOf = http://\n"
    );
    config.extend_from_slice(lines.as_bytes());
    // The archive is another's, all that is asked later the server's.
    let body = remade::pack(&items);
    let relay = crate::lab::relay(
        server,
        |target| target.contains("snapshot.tar.zst"),
        move |answer| answer.clone_from(&body),
    );
    let target = attack.lab.scratch("fetched");
    let more = [
        "--by-archive",
        "--commit",
        &newer,
        "--no-bundle",
        "--connections",
        "1",
    ];
    let out = restore(relay, "test/app", &target, &more);
    assert!(!attack.canary.exists(), "{out:?}");
}

#[test]
fn the_archives_index_is_never_read() {
    let attack = Attack::new();
    let real = at(&mut attack.items.clone(), ".git/index").data.clone();
    let with_sum = |mut index: Vec<u8>| {
        index.truncate(index.len() - 20);
        let sum = sha1::Sha1::digest(&index);
        index.extend_from_slice(&sum);
        index
    };
    let edited = |find: &[u8], replacement: &[u8]| {
        let at = real.windows(find.len()).position(|w| w == find).unwrap();
        let mut index = real.clone();
        index[at..at + find.len()].copy_from_slice(replacement);
        with_sum(index)
    };
    let tree = real.windows(4).position(|w| w == b"TREE").unwrap();
    let mut other_tree = real.clone();
    other_tree[tree + 20] ^= 1;
    let mut assumed = real.clone();
    // The first entry's flags.
    assumed[12 + 40 + 20] |= 0x80;
    for (what, index) in [
        ("an entry outside", edited(b"a.txt\0", b"../xy\0")),
        ("an absolute entry", edited(b"a/b/c.txt\0", b"/etc/xyzz\0")),
        ("an entry in .git", edited(b"a/b/c.txt\0", b".git/conf\0")),
        ("another tree", with_sum(other_tree)),
        ("an unchanged bit", with_sum(assumed)),
        ("a shared index", edited(b"TREE", b"link")),
        ("a cache of the untracked", edited(b"TREE", b"UNTR")),
        ("a monitor", edited(b"TREE", b"FSMN")),
        ("no index", b"garbage".to_vec()),
        ("an empty index", Vec::new()),
    ] {
        attack.harmless(what, |items| at(items, ".git/index").data = index);
    }
    attack.harmless("none", |items| items.retain(|i| i.path != ".git/index"));
}

#[test]
fn refs_that_a_clone_has_not_are_refused() {
    let attack = Attack::new();
    let head = git::text(&attack.lab.upstream("app"), &["rev-parse", "HEAD"]);
    let line = format!("{head}\n");
    for (path, text) in [
        ("HEAD", ""),
        ("HEAD", "ref: refs/heads/../../../x\n"),
        ("HEAD", "ref: refs/remotes/origin/main\n"),
        ("HEAD", &"1".repeat(8 << 20)),
        ("HEAD", &format!("{}\n", "2".repeat(40))),
        ("packed-refs", "broken"),
        ("packed-refs", &format!("{head} refs/replace/{head}\n")),
        (
            "packed-refs",
            &format!("{head} refs/tags/a\n{head} refs/tags/a/b\n"),
        ),
        ("refs/heads/main.lock", &line),
        ("refs/heads/other", &line),
        (&format!("refs/replace/{head}"), &line),
        ("refs/tags/sym", "ref: refs/heads/main\n"),
        ("refs/tags/v0/below", &line),
        ("refs/remotes/origin/HEAD", "ref: refs/tags/v0\n"),
        ("shallow", "x\n"),
    ] {
        let path = format!(".git/{path}");
        let shown = &text[..text.len().min(60)];
        attack.refused(&format!("{path}: {shown}"), |items| {
            put(items, &path, text.as_bytes());
        });
    }
    attack.refused("no HEAD", |items| items.retain(|i| i.path != ".git/HEAD"));
    attack.refused("HEAD twice", |items| {
        let head = at(items, ".git/HEAD").clone();
        items.push(head);
    });
    attack.refused("a link", |items| {
        at(items, ".git/HEAD").kind = EntryType::Symlink;
    });
}

/// Git takes a directory for a repository that looks like one.
#[test]
fn a_bare_repository_in_the_worktree_is_no_repository() {
    let attack = Attack::new();
    let run = format!("[core]\n\tfsmonitor = touch {}\n", attack.canary.display());
    for head in ["", "ref: refs/heads/main\n"] {
        attack.refused(head, |items| {
            at(items, ".git/HEAD").data = head.into();
            items.push(Item::file("HEAD", b"ref: refs/heads/main\n"));
            items.push(Item::file("config", run.as_bytes()));
            items.push(Item::file("objects/x", b""));
            items.push(Item::file("refs/x", b""));
        });
    }
}

#[test]
fn all_else_in_git_is_left_out() {
    let attack = Attack::new();
    let run = format!("#!/bin/sh\ntouch {}\n", attack.canary.display());
    attack.harmless("what a clone may have, and what it may not", |items| {
        for (path, mode) in [
            ("hooks/post-checkout", 0o755),
            ("hooks/pre-commit", 0o755),
            ("hooks/reference-transaction", 0o755),
            ("logs/HEAD", 0o644),
            ("info/attributes", 0o644),
            ("info/grafts", 0o644),
            ("info/sparse-checkout", 0o644),
            ("config.worktree", 0o644),
            ("commondir", 0o644),
            ("gitdir", 0o644),
            ("index.lock", 0o644),
            ("modules/module/config", 0o644),
            ("worktrees/x/gitdir", 0o644),
            ("objects/info/alternates", 0o644),
            ("objects/info/ALTERNATES", 0o644),
            ("objects/info/http-alternates", 0o644),
            ("objects/info/commit-graph", 0o644),
            ("objects/pack/multi-pack-index", 0o644),
            ("objects/pack/pack-x.pack", 0o644),
            ("objects/pack/evil.idx", 0o644),
            ("MERGE_HEAD", 0o644),
            ("rebase-merge/git-rebase-todo", 0o644),
        ] {
            let mut item = Item::file(&format!(".git/{path}"), run.as_bytes());
            item.mode = mode;
            items.insert(0, item);
        }
        let pack = ending(items, ".pack").path.clone();
        for end in ["keep", "promisor", "bitmap"] {
            let path = pack.replace(".pack", &format!(".{end}"));
            items.insert(0, Item::file(&path, b"garbage"));
        }
        let mut link = Item::file(".git/hooks/post-merge", b"/bin/false");
        link.kind = EntryType::Symlink;
        items.insert(0, link);
    });
}

#[test]
fn files_that_are_not_those_of_the_commit_are_refused() {
    for format in ["sha1", "sha256"] {
        let attack = Attack::of(format);
        attack.refused("one is missing", |items| {
            items.retain(|i| i.path != "a/b/c.txt");
        });
        attack.refused("one too many", |items| {
            items.push(Item::file("a/b/d.txt", b""));
        });
        attack.refused("another name", |items| {
            at(items, "a.txt").path = "b.txt".into();
        });
        attack.refused("a link for a file", |items| {
            at(items, "a.txt").kind = EntryType::Symlink;
        });
        attack.refused("a file for a link", |items| {
            at(items, "a/link").kind = EntryType::Regular;
        });
        attack.refused("one that may be run", |items| {
            at(items, "a.txt").mode = 0o755
        });
        attack.refused("one that may not", |items| at(items, "run.sh").mode = 0o644);
        attack.refused("a directory too many", |items| {
            let mut directory = Item::file("more/", b"");
            directory.kind = EntryType::Directory;
            items.push(directory);
        });
        attack.refused("a submodule with files", |items| {
            items.push(Item::file("module/x", b""));
        });
        attack.refused("a directory that is a link", |items| {
            items.retain(|i| !i.path.starts_with("a/b"));
            let mut link = Item::file("a/b", attack.lab.scratch("").as_os_str().as_encoded_bytes());
            link.kind = EntryType::Symlink;
            items.push(link);
        });
    }
}

/// Sums the end of a file anew.
pub fn resum(data: &mut Vec<u8>, sum_bytes: usize) {
    data.truncate(data.len() - sum_bytes);
    let sum = match sum_bytes {
        32 => sha2::Sha256::digest(&data).to_vec(),
        _ => sha1::Sha1::digest(&data).to_vec(),
    };
    data.extend_from_slice(&sum);
}

#[test]
fn packs_and_their_indexes_lead_nowhere_else() {
    for (format, sum_bytes) in [("sha1", 20), ("sha256", 32)] {
        let attack = Attack::of(format);
        let fanout = 8;
        let ids = fanout + 1024;
        let change = |what: &str, file: &str, change: &dyn Fn(&mut Vec<u8>)| {
            attack.refused(&format!("{format} {file}: {what}"), |items| {
                let data = &mut ending(items, file).data;
                change(data);
                resum(data, sum_bytes);
            });
        };
        change("magic", ".pack", &|data| data[0] ^= 1);
        change("version", ".pack", &|data| data[7] = 4);
        change("count", ".pack", &|data| data[11] ^= 1);
        change("other content", ".pack", &|data| data[20] ^= 1);
        change("version", ".idx", &|data| data[7] = 3);
        change("fan-out", ".idx", &|data| data[fanout + 3] = 200);
        change("fan-out's count", ".idx", &|data| data[fanout + 1023] ^= 1);
        change("order", ".idx", &|data| data[ids] = 0xff);
        change("of another pack", ".idx", &|data| {
            let at = data.len() - 2 * sum_bytes;
            data[at] ^= 1;
        });
        change("offset", ".idx", &|data| {
            let at = data.len() - 2 * sum_bytes - 4;
            data[at] = 0x7f;
        });
        change("long offset", ".idx", &|data| {
            let at = data.len() - 2 * sum_bytes - 4;
            data[at] |= 0x80;
        });
        change("too short", ".idx", &|data| data.truncate(40));
        change("order", ".rev", &|data| data[15] ^= 1);
        change("of another pack", ".rev", &|data| {
            let at = data.len() - 2 * sum_bytes;
            data[at] ^= 1;
        });
        for file in [".pack", ".idx", ".rev"] {
            attack.refused(&format!("the sum of {file}"), |items| {
                let data = &mut ending(items, file).data;
                *data.last_mut().unwrap() ^= 1;
            });
        }
        attack.refused("a pack without an index", |items| {
            items.retain(|i| !i.path.ends_with(".idx"));
        });
        attack.refused("an index without a pack", |items| {
            items.retain(|i| !i.path.ends_with(".pack"));
        });
        let loose = format!(".git/objects/ab/{}", "1".repeat(2 * sum_bytes - 2));
        attack.refused("a loose object that is none", |items| {
            items.push(Item::file(&loose, b"garbage"));
        });
    }
}

/// An archive as the published server makes one: of a clone, with all that is in it.
#[test]
fn an_archive_of_a_clone_is_that_clone_but_for_what_is_left_out() {
    for format in ["sha1", "sha256"] {
        let attack = Attack::of(format);
        let clone = attack.lab.scratch("clone");
        git::clone(&attack.lab.url("app"), &clone);
        let mut items = Vec::new();
        for path in files(&clone) {
            use std::os::unix::fs::PermissionsExt;
            let whole = clone.join(&path);
            let found = fs::symlink_metadata(&whole).unwrap();
            items.push(match found.is_symlink() {
                true => Item {
                    kind: EntryType::Symlink,
                    data: fs::read_link(&whole)
                        .unwrap()
                        .into_os_string()
                        .into_encoded_bytes(),
                    ..Item::file(&path, b"")
                },
                false => Item {
                    mode: found.permissions().mode() & 0o777,
                    ..Item::file(&path, &fs::read(&whole).unwrap())
                },
            });
        }
        let mut module = Item::file("module/", b"");
        module.kind = EntryType::Directory;
        items.push(module);
        let (target, out) = attack.restore(&items, "restored", &["--json"]);
        expect(&out, 0);
        parity::expect_same(&clone, &target, format);
        let summary: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(summary["origin"], attack.lab.url("app"));
    }
}

#[test]
fn the_origin_is_as_given_or_the_archives_if_that_is_one() {
    let attack = Attack::new();
    let mut items = attack.items.clone();
    let text = |url: &str| format!("[remote \"origin\"]\n\turl = \"{url}\"\n");
    let mut origin = |given: &str, url: &str| {
        at(&mut items, ".git/config").data = text(url).into_bytes();
        let target = attack.lab.scratch("origin");
        let address = serve(remade::pack(&items), |_| None);
        let out = restore(address, given, &target, &["--json"]);
        let code = out.status.code();
        if code != Some(0) {
            expect_nothing(&target);
            return Err(code);
        }
        let summary: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let set = git::text(&target, &["config", "--local", "remote.origin.url"]);
        fs::remove_dir_all(&target).unwrap();
        Ok((
            set,
            summary["origin"].as_str().unwrap_or_default().to_owned(),
        ))
    };
    let same = |url: &str| Ok((url.to_owned(), url.to_owned()));
    // What stands behind the place may be a secret, and is not shown.
    let shown = ("https://h/a;b#c".to_owned(), "https://h/a;b".to_owned());
    assert_eq!(origin("test/app", "https://h/a;b#c"), Ok(shown));
    assert_eq!(origin("ssh://git@h/a", "ext::x"), same("ssh://git@h/a"));
    let hidden = (
        "https://u:secret@h/a".to_owned(),
        "https://***@h/a".to_owned(),
    );
    assert_eq!(origin("https://u:secret@h/a", "https://x/y"), Ok(hidden));
    for bad in [
        "ext::sh -c x",
        "-oProxyCommand=x:y",
        "relative/path",
        "file://x/y",
        "",
    ] {
        assert_eq!(origin("test/app", bad), Err(Some(5)), "{bad}");
    }
}

/// The target of `--overwrite` may be anybody's: nothing of its configuration is used.
#[test]
fn the_repository_that_is_overwritten_runs_nothing() {
    let attack = Attack::new();
    let target = attack.lab.scratch("old");
    let address = attack.server.address();
    expect(&restore(address, "test/app", &target, &[]), 0);
    fs::write(target.join("gone"), b"tracked by the old checkout only").unwrap();
    git::run(&target, &["add", "gone"]);
    let run = format!("touch {}", attack.canary.display());
    for (key, value) in [
        ("core.fsmonitor", run.as_str()),
        ("core.sshCommand", &run),
        ("filter.x.clean", &run),
        ("filter.x.smudge", &run),
        ("core.hooksPath", "hooks"),
        ("core.worktree", "/"),
        ("index.sparse", "true"),
    ] {
        git::run(&target, &["config", key, value]);
    }
    fs::write(target.join(".git/info/attributes"), b"* filter=x\n").unwrap();
    // What git has run so far was this test's doing.
    drop(fs::remove_file(&attack.canary));
    let errors = expect(&restore(address, "test/app", &target, &["--overwrite"]), 1);
    assert!(errors.contains("added of gone"), "{errors}");
    let more = ["--overwrite", "--discard-local"];
    expect(&restore(address, "test/app", &target, &more), 0);
    assert!(!attack.canary.exists());
    assert!(!target.join("gone").exists());
    attack.expect_clean(&target, "overwritten");
}

/// What the user has set for git leads a restore to no other repository, and not to the server's
/// place either.
#[test]
fn the_environment_and_the_users_settings_lead_nowhere_else() {
    let attack = Attack::new();
    let upstream = attack.lab.upstream("app");
    let first = attack.lab.scratch("first");
    let address = attack.server.address();
    expect(&restore(address, "test/app", &first, &[]), 0);
    let newer = repos::add_commit(&upstream, "main", "new.txt", b"new");
    let run = format!("touch {}", attack.canary.display());
    let users = attack.lab.scratch("gitconfig");
    let included = attack.lab.scratch("included");
    fs::write(
        &users,
        format!(
            "[core]\n\tfsmonitor = {run}\n\thooksPath = /nowhere\n[protocol]\n\tallow = never\n\
             [url \"file:///nowhere/\"]\n\tinsteadOf = http://\n[include]\n\tpath = {}\n",
            included.display()
        ),
    )
    .unwrap();
    fs::write(&included, "[http]\n\textraHeader = X-Test: 1\n").unwrap();
    let target = attack.lab.scratch("second");
    let more = ["--have", &newer, "--no-bundle"];
    let mut command = command(address, "test/app", &target, &more);
    command.env("GIT_CONFIG_GLOBAL", &users);
    for name in [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_COMMON_DIR",
        "GIT_OBJECT_DIRECTORY",
    ] {
        command.env(name, "/nowhere");
    }
    command.env("GIT_INDEX_FILE", "/nowhere/index");
    command.env("GIT_ALLOW_PROTOCOL", "none");
    command.env("GIT_EXTERNAL_DIFF", &run);
    expect(&command.output().unwrap(), 0);
    git::run(&target, &["cat-file", "-e", &newer]);
    assert!(!attack.canary.exists());
}
