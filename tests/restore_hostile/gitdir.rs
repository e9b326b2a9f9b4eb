//! Files of `.git` besides those that a clone needs, HEAD and refs among them.

use crate::archive::{Archive, Entry};
use crate::ground::{Fixture, Ground, HOOKS};
use crate::made::{loose, loose_path};
use crate::trial::{Case, Rule, try_all};
use tar::EntryType;

/// A file of `.git` with this text, in which `@C` is the command and `@O` the directory outside.
fn file(name: &'static str, text: &'static str, rule: Rule) -> Case {
    Case::new(
        format!("{name} {:?}", text.chars().take(40).collect::<String>()),
        rule,
        move |fixture, ground| {
            let text = text.replace("@C", &ground.text("canary"));
            let text = text.replace("@O", &ground.text("outside"));
            fixture.good.clone().set(&format!(".git/{name}"), text)
        },
    )
}

/// What git makes in a repository besides: left out, whatever it says.
#[test]
fn what_a_clone_makes_itself_is_left_out() {
    use Rule::Taken;
    let mut cases: Vec<Case> = HOOKS
        .iter()
        .map(|hook| {
            Case::new(format!("hook {hook}"), Taken, move |fixture, ground| {
                let script = format!("#!/bin/sh\n{}\n", ground.text("canary"));
                let entry = Entry::file(format!(".git/hooks/{hook}"), script);
                fixture.good.clone().add(entry.with_mode(0o755))
            })
        })
        .collect();
    cases.extend([
        file("description", "@C\n", Taken),
        file("info/exclude", "*\n", Taken),
        file("info/attributes", "* filter=evil\n", Taken),
        file("info/grafts", "@C\n", Taken),
        file("info/sparse-checkout", "/none\n", Taken),
        file("info/refs", "@C\n", Taken),
        file("logs/HEAD", "@C\n", Taken),
        file("logs/refs/heads/main", "@C\n", Taken),
        file("objects/info/packs", "P pack-1.pack\n", Taken),
        file("objects/info/commit-graph", "CGPH@C", Taken),
        file(
            "objects/info/commit-graphs/commit-graph-chain",
            "@C\n",
            Taken,
        ),
        file("objects/pack/multi-pack-index", "MIDX@C", Taken),
        file("ORIG_HEAD", "@C\n", Taken),
        file("FETCH_HEAD", "@C\n", Taken),
        file("COMMIT_EDITMSG", "@C\n", Taken),
    ]);
    cases.push(Case::new(
        "a pack to be kept, of a promisor",
        Taken,
        |fixture, _| {
            let pack = fixture.good.find(".git/objects/pack/", ".pack");
            let stem = pack.trim_end_matches(".pack").to_owned();
            let archive = fixture.good.clone().set(&format!("{stem}.keep"), "x");
            archive.set(&format!("{stem}.promisor"), "x")
        },
    ));
    try_all(&cases);
}

/// What would lead git elsewhere, or have it do something.
#[test]
fn no_file_of_git_leads_elsewhere() {
    use Rule::Harmless;
    const FILES: [(&str, &str); 36] = [
        ("commondir", "@O/tree\n"),
        ("gitdir", "@O/tree/.git\n"),
        ("config.worktree", "[core]\n\tfsmonitor = @C\n"),
        (
            "modules/sub/config",
            "[core]\n\tworktree = ../../../sub\n\tfsmonitor = @C\n",
        ),
        ("modules/sub/hooks/post-checkout", "#!/bin/sh\n@C\n"),
        ("worktrees/x/gitdir", "@O/tree/.git\n"),
        ("worktrees/x/commondir", "../..\n"),
        ("objects/info/alternates", "@O\n"),
        ("objects/info/ALTERNATES", "@O\n"),
        ("objects/info/Alternates", "@O\n"),
        ("objects/INFO/alternates", "@O\n"),
        ("OBJECTS/info/alternates", "@O\n"),
        ("objects/info/alternates ", "@O\n"),
        ("objects/info/alternates.", "@O\n"),
        ("objects/info/alternates::$INDEX_ALLOCATION", "@O\n"),
        ("objects/info/altern\u{200c}ates", "@O\n"),
        ("objects/info/ALTERN~1", "@O\n"),
        ("objects/info/http-alternates", "http://evil.invalid/\n"),
        ("remotes/origin", "URL: ext::@C\n"),
        ("branches/origin", "ext::@C\n"),
        ("hooks", "x"),
        ("Config", "[core]\n\tfsmonitor = @C\n"),
        ("CONFIG", "[core]\n\tfsmonitor = @C\n"),
        ("config.lock", "x"),
        ("index.lock", "x"),
        ("HEAD.lock", "x"),
        ("packed-refs.lock", "x"),
        ("shallow.lock", "x"),
        ("gc.pid", "1 x\n"),
        ("MERGE_HEAD", "@C\n"),
        ("rebase-merge/git-rebase-todo", "exec @C\n"),
        ("sequencer/todo", "exec @C\n"),
        ("BISECT_LOG", "@C\n"),
        (
            "sharedindex.0000000000000000000000000000000000000000",
            "DIRC",
        ),
        ("fsmonitor--daemon.ipc", "x"),
        ("tarpon-restored", "@C\n"),
    ];
    let cases: Vec<Case> = FILES.map(|(name, text)| file(name, text, Harmless)).into();
    try_all(&cases);
}

const GIT_NAMES: [&str; 12] = [
    ".GIT",
    ".Git",
    "GIT~1",
    "git~1",
    ".git ",
    ".git.",
    ".git::$INDEX_ALLOCATION",
    ".git\\",
    ".g\u{200c}it",
    ".gi\u{206a}t",
    "sub/.git",
    "dir/.gIT",
];

/// `.git` is a directory of the archive's own, by that name.
#[test]
fn git_is_nothing_but_a_directory() {
    let without = |fixture: &Fixture| fixture.good.clone().without(".git");
    let worktree = |fixture: &Fixture, entry: Entry| {
        let mut archive = fixture.good.clone();
        archive.0.retain(|e| !e.name.starts_with(b".git/"));
        archive.0.push(entry);
        archive
    };
    let mut cases = vec![
        Case::new("a file", Rule::Refused, move |fixture, ground| {
            let text = format!("gitdir: {}\n", ground.text("outside/tree"));
            worktree(fixture, Entry::file(".git", text))
        }),
        Case::new("a file besides", Rule::Refused, move |fixture, ground| {
            let text = format!("gitdir: {}\n", ground.text("outside/tree"));
            fixture.good.clone().add(Entry::file(".git", text))
        }),
        Case::new("a link", Rule::Refused, move |fixture, ground| {
            worktree(fixture, Entry::link(".git", ground.text("outside/tree")))
        }),
        Case::new("not there", Rule::Refused, move |fixture, _| {
            without(fixture)
        }),
    ];
    for name in GIT_NAMES {
        cases.push(Case::new(
            format!("{name:?}"),
            Rule::Refused,
            move |fixture, ground| {
                let text = format!("[core]\n\tfsmonitor = {}\n", ground.text("canary"));
                fixture
                    .good
                    .clone()
                    .add(Entry::file(format!("{name}/config"), text))
            },
        ));
    }
    try_all(&cases);
}

#[test]
fn what_git_reads_is_a_file() {
    let mut cases = Vec::new();
    for name in [
        ".git/HEAD",
        ".git/config",
        ".git/objects",
        ".git/refs",
        ".git/packed-refs",
        ".git/index",
    ] {
        // Nobody reads the archive's own.
        let rule = match name {
            ".git/index" => Rule::Harmless,
            _ => Rule::Refused,
        };
        cases.push(Case::new(
            format!("a link {name}"),
            rule,
            move |fixture, ground| {
                let to = ground.text("outside/victim");
                fixture
                    .good
                    .clone()
                    .without(name)
                    .add_last(Entry::link(name, to))
            },
        ));
    }
    cases.push(Case::new(
        "a directory HEAD",
        Rule::Refused,
        |fixture, _| {
            fixture
                .good
                .clone()
                .without(".git/HEAD")
                .add(Entry::directory(".git/HEAD/"))
        },
    ));
    try_all(&cases);
}

/// A bare repository's files where git looks for one when `.git` is none.
fn bare(archive: Archive, ground: &Ground, place: &str) -> Archive {
    let config = format!(
        "[core]\n\tbare = true\n\tfsmonitor = {}\n",
        ground.text("canary")
    );
    archive
        .add(Entry::file(
            format!("{place}HEAD"),
            "ref: refs/heads/main\n",
        ))
        .add(Entry::file(format!("{place}config"), config))
        .add(Entry::directory(format!("{place}objects/")))
        .add(Entry::directory(format!("{place}refs/")))
}

#[test]
fn head_is_a_branch_or_a_commit() {
    let long = |_: &Fixture| "x".repeat(8 << 20);
    type Text = fn(&Fixture) -> String;
    let texts: [(&str, Text); 20] = [
        ("empty", |_| String::new()),
        ("a newline", |_| "\n".into()),
        ("8 MB", long),
        ("no id", |_| "0123\n".into()),
        ("zeros", |_| format!("{}\n", "0".repeat(40))),
        ("an unknown commit", |_| format!("{}\n", "1".repeat(40))),
        ("a blob", |f| {
            format!("{}\n", f.ask(&["rev-parse", "HEAD:a.txt"]))
        }),
        ("a tag", |f| format!("{}\n", f.ask(&["rev-parse", "v1"]))),
        ("a commit and more", |f| {
            format!("{}\nmore\n", f.ask(&["rev-parse", "HEAD"]))
        }),
        ("outside", |_| "ref: ../../outside/victim\n".into()),
        ("absolute", |_| "ref: /etc/passwd\n".into()),
        ("inside", |_| "ref: refs/heads/../../config\n".into()),
        ("no branch", |_| "ref: refs/tags/v1\n".into()),
        ("remote", |_| "ref: refs/remotes/origin/main\n".into()),
        ("config", |_| "ref: config\n".into()),
        ("itself", |_| "ref: HEAD\n".into()),
        ("two lines", |_| {
            "ref: refs/heads/main\nref: refs/heads/side\n".into()
        }),
        ("an option", |_| "ref: refs/heads/-x\n".into()),
        ("a bad name", |_| "ref: refs/heads/a..b\n".into()),
        ("a lock", |_| "ref: refs/heads/main.lock\n".into()),
    ];
    let mut cases = Vec::new();
    for (name, text) in texts {
        cases.push(Case::new(
            format!("HEAD {name}"),
            Rule::Harmless,
            move |fixture, ground| {
                let archive = fixture.good.clone().set(".git/HEAD", text(fixture));
                bare(archive, ground, "")
            },
        ));
        // The same without anything to fall back to.
        cases.push(Case::new(
            format!("only HEAD {name}"),
            Rule::Harmless,
            move |fixture, _| fixture.good.clone().set(".git/HEAD", text(fixture)),
        ));
    }
    cases.push(Case::new("no HEAD", Rule::Refused, |fixture, ground| {
        bare(fixture.good.clone().without(".git/HEAD"), ground, "")
    }));
    cases.push(Case::new(
        "a bare one below",
        Rule::Harmless,
        |fixture, ground| bare(fixture.good.clone(), ground, "dir/bare/"),
    ));
    cases.push(Case::new(
        "a bare one in the submodule",
        Rule::Harmless,
        |fixture, ground| bare(fixture.good.clone(), ground, "sub/"),
    ));
    cases.push(Case::new(
        "files in the submodule",
        Rule::Harmless,
        |fixture, _| fixture.good.clone().add(Entry::file("sub/x", "x")),
    ));
    try_all(&cases);
}

/// A ref of its own file, its text made from the id of HEAD's commit.
fn reference(name: &'static str, text: fn(&str) -> String, rule: Rule) -> Case {
    let shown = text("ID").chars().take(30).collect::<String>();
    Case::new(format!("{name} {shown:?}"), rule, move |fixture, _| {
        let text = text(&fixture.ask(&["rev-parse", "HEAD"]));
        fixture.good.clone().set(&format!(".git/{name}"), text)
    })
}

const REF_NAMES: [&str; 22] = [
    "refs/heads/other",
    "refs/heads/main.lock",
    "refs/heads/main/below",
    "refs/notes/commits",
    "refs/stash",
    "refs/bisect/bad",
    "refs/worktree/x",
    "refs/original/x",
    "refs/remotes/other/main",
    "refs/remotes/origin/a..b",
    "refs/remotes/origin/x.lock",
    "refs/remotes/origin/main/below",
    "refs/remotes/origin/-x",
    "refs/remotes/origin/@{1}",
    "refs/remotes/origin/a b",
    "refs/remotes/origin/\u{1b}[31m",
    "refs/tags/.x",
    "refs/tags/v1/x",
    "refs/x",
    "refs/remotes/origin/x~1",
    "refs/MAIN",
    "refs/remotes/ORIGIN/main",
];

#[test]
fn refs_are_a_clones() {
    use Rule::Harmless;
    let id: fn(&str) -> String = |id| format!("{id}\n");
    let cases: Vec<Case> = REF_NAMES.map(|name| reference(name, id, Harmless)).into();
    try_all(&cases);
}

#[test]
fn a_ref_says_an_id_or_is_refused() {
    use Rule::Harmless;
    let cases = [
        reference(
            "refs/remotes/origin/x",
            |_| "ref: ../../x\n".into(),
            Harmless,
        ),
        reference(
            "refs/remotes/origin/x",
            |_| "ref: refs/remotes/origin/main\n".into(),
            Harmless,
        ),
        reference(
            "refs/remotes/origin/HEAD",
            |_| "ref: ../../../outside/victim\n".into(),
            Harmless,
        ),
        reference(
            "refs/remotes/origin/HEAD",
            |_| "ref: refs/heads/main\n".into(),
            Harmless,
        ),
        reference(
            "refs/remotes/origin/HEAD",
            |_| "ref: refs/remotes/origin/HEAD\n".into(),
            Harmless,
        ),
        reference(
            "refs/remotes/origin/HEAD",
            |_| "ref: config\n".into(),
            Harmless,
        ),
        reference("refs/tags/x", |_| "ref: refs/heads/main\n".into(), Harmless),
        reference("refs/tags/x", |_| String::new(), Harmless),
        reference("refs/tags/x", |_| "\0".repeat(41), Harmless),
        reference("refs/tags/x", |id| format!("{id}\nmore\n"), Harmless),
        reference("refs/tags/x", |_| format!("{}\n", "1".repeat(40)), Harmless),
        reference("refs/tags/x", |_| format!("{}\n", "0".repeat(40)), Harmless),
        reference(
            "refs/tags/x",
            |id| format!("{}\n", id.to_uppercase()),
            Harmless,
        ),
        reference(
            "refs/tags/x",
            |id| format!("{id}{}\n", "0".repeat(24)),
            Harmless,
        ),
        reference("refs/tags/x", |_| "x".repeat(8 << 20), Harmless),
        reference(
            "refs/heads/main",
            |_| "ref: refs/heads/main\n".into(),
            Harmless,
        ),
        reference("refs/heads/main", |_| String::new(), Harmless),
        reference(
            "refs/heads/main",
            |_| format!("{}\n", "1".repeat(40)),
            Harmless,
        ),
    ];
    try_all(&cases);
}

#[test]
fn refs_that_mean_something_to_git_are_refused() {
    use Rule::Harmless;
    let mut cases = Vec::new();
    cases.push(Case::new("replace", Harmless, |fixture, _| {
        let head = fixture.ask(&["rev-parse", "HEAD"]);
        let old = fixture.ask(&["rev-parse", "HEAD~1"]);
        fixture
            .good
            .clone()
            .set(&format!(".git/refs/replace/{head}"), format!("{old}\n"))
    }));
    cases.push(Case::new("a fifo", Rule::Refused, |fixture, _| {
        fixture
            .good
            .clone()
            .add(Entry::of(EntryType::Fifo, ".git/refs/tags/x", ""))
    }));
    cases.push(Case::new(
        "a tag of a hostile object",
        Harmless,
        |fixture, _| {
            let (name, file) = loose("tag", b"object x\n\x1b[31m");
            let archive = fixture.good.clone().set(&loose_path(&name), file);
            archive.set(".git/refs/tags/x", format!("{name}\n"))
        },
    ));
    try_all(&cases);
}

/// `packed-refs`, in which `@I` is HEAD's commit.
#[test]
fn packed_refs_are_sound_or_refused() {
    use Rule::Harmless;
    const HEADER: &str = "# pack-refs with: peeled fully-peeled sorted \n";
    const LINES: [&str; 20] = [
        "garbage\n",
        "@I refs/remotes/origin/x",
        "@I\n",
        "@I  refs/remotes/origin/x\n",
        "@I refs/remotes/origin/x\n@I refs/remotes/origin/x\n",
        "@I refs/remotes/origin/y\n@I refs/remotes/origin/x\n",
        "@I refs/remotes/origin/x\n@I refs/remotes/origin/x/y\n",
        "@I refs/remotes/origin/x/y\n@I refs/remotes/origin/x\n",
        "@I refs/../config\n",
        "@I HEAD\n",
        "@I config\n",
        "@I refs/heads/other\n",
        "@I refs/replace/@I\n",
        "^@I\n",
        "@I refs/tags/x\n^@I\n^@I\n",
        "@I refs/tags/x\n^1111111111111111111111111111111111111111\n",
        "0000000000000000000000000000000000000000 refs/tags/x\n",
        "1111111111111111111111111111111111111111 refs/tags/x\n",
        "@I refs/tags/\x1b[31mx\n",
        "\0\0\0\0\n",
    ];
    let mut cases = Vec::new();
    for (number, lines) in LINES.into_iter().enumerate() {
        for (header, sorted) in [(HEADER, "sorted"), ("", "plain")] {
            cases.push(Case::new(
                format!("{number} {sorted} {lines:?}"),
                Harmless,
                move |fixture, _| {
                    let lines = lines.replace("@I", &fixture.ask(&["rev-parse", "HEAD"]));
                    fixture
                        .good
                        .clone()
                        .set(".git/packed-refs", format!("{header}{lines}"))
                },
            ));
        }
    }
    cases.push(Case::new("empty", Harmless, |f, _| {
        f.good.clone().set(".git/packed-refs", "")
    }));
    cases.push(Case::new("a header that lies", Harmless, |fixture, _| {
        let id = fixture.ask(&["rev-parse", "HEAD"]);
        let text = format!("# pack-refs with: evil\n{id} refs/tags/x\n");
        fixture.good.clone().set(".git/packed-refs", text)
    }));
    cases.push(Case::new(
        "a loose one below a packed one",
        Harmless,
        |fixture, _| {
            let id = fixture.ask(&["rev-parse", "HEAD"]);
            let text = format!("{id} refs/remotes/origin/x\n");
            let archive = fixture.good.clone().set(".git/packed-refs", text);
            archive.set(".git/refs/remotes/origin/x/y", format!("{id}\n"))
        },
    ));
    try_all(&cases);
}

/// The list of commits whose parents are not there.
#[test]
fn shallow_is_a_list_of_ids_or_refused() {
    const TEXTS: [&str; 6] = [
        "",
        "x\n",
        "@I",
        "@I more\n",
        "1111111111111111111111111111111111111111\n",
        "\0",
    ];
    let case = |text: &'static str| {
        Case::new(
            format!("shallow {text:?}"),
            Rule::Harmless,
            move |fixture, _| {
                let text = text.replace("@I", &fixture.ask(&["rev-parse", "HEAD"]));
                fixture.good.clone().set(".git/shallow", text)
            },
        )
    };
    let cases: Vec<Case> = TEXTS.map(case).into();
    try_all(&cases);
}
