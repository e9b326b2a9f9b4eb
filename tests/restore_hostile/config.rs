//! Configuration: every key that can do harm, in every form in which git finds one.

use crate::archive::Archive;
use crate::ground::{Fixture, Ground, fixture};
use crate::keys::{Key, dangerous};
use crate::trial::{Case, Rule, bite, each, try_all};

/// How a key gets into what git reads.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// A section's line and the key's.
    Lines,
    /// All in one line that begins like a section's and ends like one.
    OneLine,
    /// In another file that the configuration includes.
    Included,
    /// In the file that only a worktree has.
    Worktree,
}

const FORMS: [Form; 4] = [Form::OneLine, Form::Lines, Form::Included, Form::Worktree];

/// Keys that are tried in all forms; the others take turns.
const NOTORIOUS: [&str; 10] = [
    "core.fsmonitor",
    "core.sshCommand",
    "core.pager",
    "core.hooksPath",
    "core.worktree",
    "remote.<name>.uploadpack",
    "remote.<name>.vcs",
    "filter.<driver>.process",
    "credential.helper",
    "url.<base>.insteadOf",
];

fn header(section: &str, subsection: Option<&str>) -> String {
    match subsection {
        Some(subsection) => format!("[{section} \"{subsection}\"]"),
        None => format!("[{section}]"),
    }
}

fn in_form(archive: Archive, form: Form, section: &str, name: &str, value: &str) -> Archive {
    let plain = format!("{section}\n\t{name} = {value}\n");
    match form {
        Form::Lines => archive.append(".git/config", &plain),
        Form::OneLine => {
            archive.append(".git/config", &format!("{section} {name} = {value} # ]\n"))
        }
        Form::Included => archive
            .set(".git/evil", plain)
            .append(".git/config", "[include] path = evil # ]\n"),
        Form::Worktree => archive
            .set(".git/config.worktree", plain)
            .append(".git/config", "[extensions] worktreeConfig = true # ]\n"),
    }
}

/// A value with which the key does what it can.
fn value(key: &Key, fixture: &Fixture, ground: &Ground) -> String {
    let outside = |name: &str| ground.text(&format!("outside/{name}"));
    match key.listed {
        "core.hooksPath" => ground.text("hooks"),
        "core.worktree" => outside("tree"),
        "include.path" | "includeIf.<condition>.path" => ground.text("evil.inc"),
        "alias.*" | "submodule.<name>.update" | "credential.helper" => {
            format!("\"!{}\"", ground.text("canary"))
        }
        "credential.<url>.*" => format!("\"!{}\"", ground.text("canary")),
        "remote.<name>.vcs" | "merge.tool" | "diff.tool" | "pull.twohead" => "evil".into(),
        "url.<base>.insteadOf" | "url.<base>.pushInsteadOf" => "file://".into(),
        "http.proxy" | "http.<url>.*" | "remote.<name>.proxy" => {
            format!("http://{}", fixture.locked)
        }
        "http.sslVerify" | "core.ignoreStat" | "http.followRedirects" => "false".into(),
        "core.bare"
        | "extensions.worktreeConfig"
        | "http.saveCookies"
        | "core.splitIndex"
        | "core.untrackedCache"
        | "core.sparseCheckout"
        | "submodule.recurse"
        | "remote.<name>.promisor"
        | "remote.<name>.mirror" => "true".into(),
        "extensions.partialClone" => "origin".into(),
        "protocol.allow" | "protocol.<name>.allow" => "always".into(),
        "safe.bareRepository" => "all".into(),
        "safe.directory" => "*".into(),
        "trace2.eventTarget"
        | "trace2.normalTarget"
        | "trace2.perfTarget"
        | "gitcvs.logFile"
        | "http.cookieFile" => outside("victim"),
        _ => ground.text("canary"),
    }
}

fn key_case(key: Key, form: Form) -> Case {
    let name = format!("{} as {form:?}", key.listed);
    Case::new(name, Rule::Harmless, move |fixture, ground| {
        let section = header(&key.section, key.subsection.as_deref());
        let value = value(&key, fixture, ground);
        in_form(fixture.good.clone(), form, &section, &key.name, &value)
    })
}

#[test]
fn no_key_of_an_archives_configuration_has_an_effect() {
    let keys = dangerous(&fixture().url());
    let mut cases = Vec::new();
    for (number, key) in keys.into_iter().enumerate() {
        let all = NOTORIOUS.contains(&key.listed);
        let forms = if all {
            &FORMS[..]
        } else {
            &FORMS[number % 4..][..1]
        };
        let again = || dangerous(&fixture().url()).swap_remove(number);
        cases.extend(forms.iter().map(|form| key_case(again(), *form)));
    }
    assert!(cases.len() > 150, "{}", cases.len());
    try_all(&cases);
}

/// What turns a key into harm, for each that can be shown to do it: lines of a configuration, in
/// which `@C` is the command, `@O` the directory outside, `@G` the place, `@L` the locked server.
const TEETH: [(&str, &str); 31] = [
    ("core.fsmonitor", "[core]\nfsmonitor = @C\n"),
    ("core.hooksPath", "[core]\nhooksPath = @G/hooks\n"),
    ("core.worktree", "[core]\nworktree = @O/tree\n"),
    ("core.editor", "[core]\neditor = @C\n"),
    ("sequence.editor", "[sequence]\neditor = @C\n"),
    ("filter.clean", "[filter \"evil\"]\nclean = @C\n"),
    ("filter.smudge", "[filter \"evil\"]\nsmudge = @C\n"),
    ("filter.process", "[filter \"evil\"]\nprocess = @C\n"),
    ("diff.textconv", "[diff \"evil\"]\ntextconv = @C\n"),
    ("diff.command", "[diff \"evil\"]\ncommand = @C\n"),
    ("diff.external", "[diff]\nexternal = @C\n"),
    (
        "difftool",
        "[diff]\ntool = evil\n[difftool \"evil\"]\ncmd = @C\n",
    ),
    ("merge.driver", "[merge \"evil\"]\ndriver = @C\n"),
    (
        "gpg.program",
        "[commit]\ngpgSign = true\n[gpg]\nprogram = @C\n",
    ),
    (
        "gpg.ssh",
        "[commit]\ngpgSign = true\n[gpg]\nformat = ssh\n[gpg \"ssh\"]\ndefaultKeyCommand = @C\n",
    ),
    ("alias", "[alias]\nlg = \"!@C\"\n"),
    ("tar.command", "[tar \"evil\"]\ncommand = @C\n"),
    ("interactive", "[interactive]\ndiffFilter = @C\n"),
    ("uploadpack", "[remote \"origin\"]\nuploadpack = @C\n"),
    (
        "vcs",
        "[remote \"origin\"]\nvcs = evil\n[protocol]\nallow = always\n",
    ),
    (
        "ext",
        "[protocol \"ext\"]\nallow = always\n[url \"ext::@C \"]\ninsteadOf = file://\n",
    ),
    (
        "sshCommand",
        "[core]\nsshCommand = @C\n[url \"ssh://evil.invalid/\"]\ninsteadOf = file:///\n",
    ),
    (
        "gitProxy",
        "[core]\ngitProxy = @C\n[url \"git://evil.invalid/\"]\ninsteadOf = file:///\n",
    ),
    (
        "credential",
        "[credential]\nhelper = \"!@C\"\n[url \"http://@L/\"]\ninsteadOf = file:///\n",
    ),
    (
        "askPass",
        "[core]\naskPass = @C\n[url \"http://@L/\"]\ninsteadOf = file:///\n",
    ),
    (
        "submodule",
        "[submodule \"sub\"]\nupdate = \"!@C\"\nactive = true\n",
    ),
    ("include", "[include]\npath = @G/evil.inc\n"),
    (
        "includeIf",
        "[includeIf \"gitdir:/\"]\npath = @G/evil.inc\n",
    ),
    ("gc", "[gc]\nrecentObjectsHook = @C\n"),
    ("one line", "[core] fsmonitor = @C # ]\n"),
    ("old section", "[diff.evil]\ntextconv = @C\n"),
];

fn teeth() -> impl Iterator<Item = Case> {
    TEETH.iter().map(|(name, lines)| {
        let make = move |fixture: &Fixture, ground: &Ground| {
            let lines = lines.replace("@C", &ground.text("canary"));
            let lines = lines.replace("@O", &ground.text("outside"));
            let lines = lines.replace("@G", ground.text("").trim_end_matches('/'));
            let lines = lines.replace("@L", &fixture.locked.to_string());
            fixture.good.clone().append(".git/config", &lines)
        };
        Case::new(*name, Rule::Harmless, make)
    })
}

#[test]
fn what_bites_after_tar_does_not_after_a_restore() {
    let cases: Vec<Case> = teeth().collect();
    // Debian's git has no such key, or colours (and so filters) nothing without a terminal.
    let is_old = crate::ground::fixture()
        .ask(&["--version"])
        .contains(" 2.3");
    each(&cases, |case| {
        match is_old && ["gc", "interactive"].contains(&&*case.name) {
            true => Ok(()),
            false => bite(case),
        }
    });
    try_all(&cases);
}

/// Ways to write a line that a reader of configurations may take for another.
#[test]
fn no_way_of_writing_gets_a_key_through() {
    const WAYS: [&str; 22] = [
        "[CORE]\n\tFSMonitor = @C\n",
        "[core]fsmonitor=@C#]\n",
        "[core]\tfsmonitor = @C ;]\n",
        "[core] fsmonitor = \"@C\" # ]\n",
        "[core] fsmonitor = @C \\\n# ]\n",
        "[core]\r\n\tfsmonitor = @C\r\n",
        "[core]\n\tbare = false\n\tfsmonitor = @C",
        "[core]\n\tbare = false # \\\n\tfsmonitor = @C\n",
        "[core]\n\tlogallrefupdates = \"true\\\n\"\n\tfsmonitor = @C\n",
        "[core]\n\tfilemode\n\tfsmonitor = @C\n",
        "[core] bare = false\n\tfsmonitor = @C\n",
        "[core]\x0bfsmonitor = @C\n",
        "\u{feff}[core]\n\tfsmonitor = @C\n",
        "[extensions] objectFormat = sha1\n[core] fsmonitor = @C # ]\n",
        "[branch \"]\"] remote = . # ]\n[core] fsmonitor = @C # ]\n",
        "[branch \"a\\\"] [core]\"] merge = x\n[core] fsmonitor = @C # ]\n",
        "[remote \"origin\"]\n\turl = \"file:///x\\n[core]\\n\\tfsmonitor = @C\"\n",
        "[branch \"x\"]\n\tmerge = \"refs/heads/x\\n[core]\\n\\tfsmonitor = @C\\n\"\n",
        "[branch \"main\"]\n\tremote = ext::@C\n",
        "[remote \"origin\"]\n\tfetch = +refs/*:refs/*\n",
        "[extensions]\n\tobjectFormat = sha256\n",
        "[core]\n\trepositoryformatversion = 99\n",
    ];
    let case = |(number, text): (usize, &'static str)| {
        Case::new(
            format!("way {number} {text:?}"),
            Rule::Harmless,
            move |fixture, ground| {
                let text = text.replace("@C", &ground.text("canary"));
                fixture.good.clone().append(".git/config", &text)
            },
        )
    };
    let mut cases: Vec<Case> = WAYS.into_iter().enumerate().map(case).collect();
    cases.push(Case::new("8 MB", Rule::Harmless, |fixture, ground| {
        let long = "x".repeat(8 << 20);
        let text = format!(
            "[core] bare = {long}\n[core] fsmonitor = {} # ]\n",
            ground.text("canary")
        );
        fixture.good.clone().append(".git/config", &text)
    }));
    cases.push(Case::new("a NUL", Rule::Harmless, |fixture, ground| {
        let text = format!("[core]\0\n\tfsmonitor = {}\n", ground.text("canary"));
        fixture.good.clone().append(".git/config", &text)
    }));
    cases.push(Case::new("none", Rule::Refused, |fixture, _| {
        fixture.good.clone().without(".git/config")
    }));
    cases.push(Case::new("empty", Rule::Refused, |fixture, _| {
        fixture.good.clone().set(".git/config", "")
    }));
    try_all(&cases);
}

/// What an archive names as the origin, for a repository that the user named as HOST/PATH.
#[test]
fn an_archives_origin_is_a_plain_url_or_refused() {
    const URLS: [&str; 17] = [
        "host.invalid:-oProxyCommand=@C",
        "ext::sh -c @C",
        "ext::@C",
        "evil::x",
        "-uploadpack=@C",
        "--upload-pack=@C",
        "file://relative/x",
        "../outside",
        "/@O/tree",
        "fd::0",
        "ssh://-oProxyCommand=@C/x",
        "-oProxyCommand=@C:x",
        "https://a/x\\n[core]",
        "\"https://a/x\\ty\"",
        "\"https://a/\\\"x\\\"\"",
        "git+ssh://a/x",
        "",
    ];
    let case = |url: &'static str| {
        Case::new(
            format!("origin {url:?}"),
            Rule::Harmless,
            move |fixture, ground| {
                let url = url.replace("@C", &ground.text("canary"));
                let url = url.replace("@O", &ground.text("outside"));
                let real = fixture.url();
                fixture.good.clone().change(".git/config", |text| {
                    let now = String::from_utf8_lossy(text).replace(&real, &url);
                    *text = now.into_bytes();
                })
            },
        )
    };
    let mut cases: Vec<Case> = URLS.into_iter().map(case).collect();
    cases.push(Case::new(
        "two origins",
        Rule::Harmless,
        |fixture, ground| {
            let text = format!(
                "[remote \"origin\"]\n\turl = ext::{}\n",
                ground.text("canary")
            );
            fixture.good.clone().append(".git/config", &text)
        },
    ));
    cases.push(Case::new(
        "an origin of many lines",
        Rule::Harmless,
        |fixture, _| {
            let text = format!(
                "[remote \"origin\"]\n\turl = file:///{}\n",
                "a/".repeat(1 << 20)
            );
            fixture.good.clone().append(".git/config", &text)
        },
    ));
    try_all(&cases);
}
