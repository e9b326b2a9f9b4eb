//! What a commit itself may hold: files that git reads in the worktree. They are a clone's, too;
//! restored, they must do no more than there.

use crate::archive::Archive;
use crate::ground::{Fixture, Ground};
use crate::support::git;
use crate::trial::{Case, Rule, try_all};
use std::fs;

/// The archive of a clone with one more commit, which has these files; in their texts `@C` is the
/// command and `@O` the directory outside.
fn committed(fixture: &Fixture, ground: &Ground, files: &[(&str, &str)]) -> Archive {
    let place = Ground::new();
    let clone = place.path("clone");
    git::clone(&fixture.url(), &clone);
    for (name, text) in files {
        let text = text.replace("@C", &ground.text("canary"));
        let text = text.replace("@O", &ground.text("outside"));
        let path = clone.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&clone)).unwrap_or_else(|e| panic!("{e}"));
        fs::write(&path, text).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    git::run(&clone, &["add", "--all", "--force"]);
    git::run(&clone, &["commit", "--quiet", "-m", "hostile"]);
    for left in ["COMMIT_EDITMSG", "ORIG_HEAD"] {
        drop(fs::remove_file(clone.join(".git").join(left)));
    }
    Archive::of_clone(&clone)
}

fn case(name: &str, files: &'static [(&str, &str)]) -> Case {
    Case::new(name, Rule::Harmless, move |fixture, ground| {
        committed(fixture, ground, files)
    })
}

const BARE: [(&str, &str); 4] = [
    ("HEAD", "ref: refs/heads/main\n"),
    ("config", "[core]\n\tbare = true\n\tfsmonitor = @C\n"),
    ("objects/x", "x"),
    ("refs/heads/x", "x"),
];

#[test]
fn what_a_commit_holds_does_no_more_than_in_a_clone() {
    let modules = |name, text| {
        Case::new(
            name,
            Rule::Harmless,
            move |fixture: &Fixture, ground: &Ground| {
                committed(fixture, ground, &[(".gitmodules", text)])
            },
        )
    };
    try_all(&[
        modules(
            "update",
            "[submodule \"sub\"]\npath = sub\nurl = @O\nupdate = !@C\n",
        ),
        modules("ext", "[submodule \"sub\"]\npath = sub\nurl = ext::@C\n"),
        modules(
            "option",
            "[submodule \"sub\"]\npath = sub\nurl = --upload-pack=@C\n",
        ),
        modules(
            "ssh",
            "[submodule \"sub\"]\npath = sub\nurl = ssh://-oProxyCommand=@C/x\n",
        ),
        modules(
            "name",
            "[submodule \"../../hooks\"]\npath = sub\nurl = @O\n",
        ),
        modules("path", "[submodule \"sub\"]\npath = ../outside\nurl = @O\n"),
        modules(
            "core",
            "[core]\nfsmonitor = @C\n[submodule \"sub\"]\npath = sub\nurl = @O\n",
        ),
        modules("rubbish", "[submodule \"sub\n\0"),
    ]);
}

#[test]
fn attributes_and_embedded_repositories_do_no_more_than_in_a_clone() {
    try_all(&[
        case(
            "attributes",
            &[(
                ".gitattributes",
                "* filter=evil diff=evil merge=evil text eol=lf\n[attr]x\n",
            )],
        ),
        case(
            "lfs",
            &[
                (".lfsconfig", "[lfs]\nurl = ext::@C\n"),
                (".gitattributes", "* filter=lfs\n"),
            ],
        ),
        case(
            "mail",
            &[
                (".mailmap", "@C <x> <y>\n"),
                (".gitignore", "*\n"),
                (".git-blame-ignore-revs", "x\n"),
            ],
        ),
        Case::new("a bare one", Rule::Harmless, |fixture, ground| {
            committed(fixture, ground, &BARE)
        }),
        Case::new("a bare one below", Rule::Harmless, |fixture, ground| {
            let below = BARE.map(|(name, text)| (format!("dir/bare/{name}"), text));
            let below: Vec<(&str, &str)> = below.iter().map(|(n, t)| (&**n, *t)).collect();
            committed(fixture, ground, &below)
        }),
        Case::new(
            "a bare one and a HEAD that is none",
            Rule::Harmless,
            |fixture, ground| committed(fixture, ground, &BARE).set(".git/HEAD", ""),
        ),
    ]);
}
