//! Who asks the server, and that nobody else hears of it.

use crate::bundle::small_lab;
use crate::lab::{BINARY, expect, expect_nothing, nobody};
use crate::support::certificates::Authority;
use crate::support::front::{Asked, Does, Front, answer, tls_of};
use crate::support::lab::Lab;
use crate::support::processes;
use crate::support::steps::hit;
use crate::support::tokens::{self, Token};
use crate::support::{git, repos};
use crate::tls::{authority, command_at, restore_at};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

/// What `Authorization` says of the user `u` with the password `p`.
const BASIC: &str = "Basic dTpw";

/// A server that asks for a header, and all that processes were called while git asked it.
struct Asking {
    front: Front,
    lines: Arc<Mutex<Vec<String>>>,
    cacert: String,
}

/// A lab, its server behind a front that wants `Authorization` to be `wanted`.
fn asking(wanted: &'static str) -> (Lab, crate::support::server::Server, Asking) {
    let lab = small_lab();
    let server = lab.start();
    hit(&server, "small");
    let (ours, cacert): (Authority, String) = authority(&lab, "ours");
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (notes, place) = (
        lines.clone(),
        lab.scratch("").to_string_lossy().into_owned(),
    );
    let does = move |asked: &Asked| {
        if asked
            .get("user-agent")
            .is_some_and(|by| by.starts_with("git/"))
        {
            notes.lock().unwrap().extend(processes::with(&place));
        }
        match asked.get("authorization") == Some(wanted) {
            true => Does::Passes(asked.target().to_owned()),
            false => Does::Says(answer(
                "401 No",
                "WWW-Authenticate: Basic\r\n",
                b"\nwho are you?\n",
            )),
        }
    };
    let front = Front::start(server.address(), Some(tls_of(&ours, None)), does);
    let asking = Asking {
        front,
        lines,
        cacert,
    };
    (lab, server, asking)
}

impl Asking {
    /// Restores what git has to bring; `change` says who asks. All requests but so many at the beginning have to
    /// say that.
    fn restore(
        &self,
        lab: &Lab,
        name: &str,
        url: &str,
        wanted: &str,
        change: impl Fn(&mut Command),
    ) {
        let target = lab.scratch(name);
        let before = self.front.asked().len();
        let new = repos::add_commit(&lab.upstream("small"), "main", name, b"new");
        let more = ["--cacert", &*self.cacert, "--have", &*new, "--no-bundle"];
        let mut command = command_at(url, "test/small", &target, &more);
        change(&mut command);
        let errors = expect(&command.output().unwrap(), 0);
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert_eq!(
            git::text(&target, &["rev-parse", "origin/main"]),
            new,
            "{name}"
        );
        let asked = &self.front.asked()[before..];
        let first = asked
            .iter()
            .position(|asked| asked.get("authorization").is_some());
        let first = first.unwrap_or_else(|| panic!("{name}: nobody asks"));
        assert!(first <= 1, "{name}: {asked:?}");
        assert!(
            asked.iter().all(|asked| !asked.text.contains("evil")),
            "{name}: {asked:?}"
        );
        for asked in &asked[first..] {
            assert_eq!(
                asked.get("authorization"),
                Some(wanted),
                "{name}: {asked:?}"
            );
        }
        let lines = std::mem::take(&mut *self.lines.lock().unwrap());
        let is_git = |line: &&String| line.contains("remote-http");
        assert!(lines.iter().any(|line| is_git(&line)), "{name}: {lines:?}");
        for secret in ["dTpw", "u:p@", "hush"] {
            // What the test itself was called is no child's.
            let is_child = |line: &&String| !line.contains(" restore ");
            let mut children = lines.iter().filter(is_child);
            assert!(
                children.all(|line| !line.contains(secret)),
                "{name}: {lines:#?}"
            );
        }
    }

    /// The front's URL with a user.
    fn url(&self, user: &str) -> String {
        self.front.https().replace("://", &format!("://{user}@"))
    }
}

/// A home with a `.netrc` and a configuration of git's.
fn home(lab: &Lab, name: &str, netrc: &str, config: &str) -> PathBuf {
    let home = lab.scratch(name);
    fs::create_dir(&home).unwrap();
    fs::write(home.join(".netrc"), netrc).unwrap();
    fs::write(home.join("config"), config).unwrap();
    home
}

fn at_home(command: &mut Command, home: &Path) {
    command
        .env("HOME", home)
        .env("GIT_CONFIG_GLOBAL", home.join("config"));
}

/// A helper that writes down what it is asked, its environment and its arguments, and gives `u` and `p`.
fn helper(at: &Path) -> String {
    let at = at.display();
    format!(
        "[credential]\n\thelper = \"!f() {{ echo call $1 >> {at}; cat >> {at}; env >> {at}; echo username=u; \
         echo password=p; }}; f\"\n"
    )
}

/// From the URL, from `.netrc` and from a helper, and git says what tarpon does: in no argument and no URL.
#[test]
fn every_request_says_who_asks() {
    let (lab, _server, asking) = asking(BASIC);
    let url = asking.front.https();
    // What the user has for git is not asked where the URL says it.
    let other = home(
        &lab,
        "other",
        "machine localhost login no password no\n",
        "",
    );
    asking.restore(&lab, "by-url", &asking.url("u:p"), BASIC, |command| {
        at_home(command, &other)
    });
    let netrc = "machine localhost login x password x\nmachine localhost login u password p\n";
    let netrc = home(&lab, "netrc", netrc, "");
    asking.restore(&lab, "by-netrc", &asking.url("u"), BASIC, |command| {
        at_home(command, &netrc)
    });
    let notes = lab.scratch("notes");
    let config = format!(
        "{}[credential \"{url}\"]\n\tuseHttpPath = false\n[http]\n\textraHeader = \"Authorization: Basic evil\"\n",
        helper(&notes)
    );
    let helped = home(
        &lab,
        "helped",
        "machine other login u password p\ndefault login no password no\n",
        &config,
    );
    asking.restore(&lab, "by-helper", &url, BASIC, |command| {
        at_home(command, &helped);
        command.env("GIT_ASKPASS", "/bin/false");
    });
    let notes = fs::read_to_string(&notes).unwrap();
    assert_eq!(notes.matches("call ").count(), 1, "{notes}");
    assert!(notes.contains("call get\n"), "{notes}");
    let port = asking.front.address.port();
    let question = format!("protocol=https\nhost=localhost:{port}\npath=git/test/small\n");
    assert!(notes.contains(&question), "{notes}");
}

/// A token is for the server of the command line: no helper, no upstream and no other program gets to see it.
#[test]
fn a_token_goes_to_the_server_alone() {
    let bearer = "Bearer tarpon_hush";
    let (lab, server, asking) = asking(bearer);
    let url = asking.front.https();
    let notes = lab.scratch("notes");
    let netrc = "machine localhost login no password no\n";
    let home = home(&lab, "home", netrc, &helper(&notes));
    asking.restore(&lab, "by-token", &url, bearer, |command| {
        at_home(command, &home);
        command.env("TARPON_TOKEN", "tarpon_hush\r\n");
    });
    // An upstream that git clones from, where the server gives nothing.
    let upstream = Front::asking(server.address(), None, BASIC);
    let broken = Front::start(server.address(), None, |_| {
        Does::Says(answer("500 No", "", b""))
    });
    let repository = format!("http://{}/git/test/small", upstream.address);
    let target = lab.scratch("cloned");
    let mut command = command_at(
        &format!("http://{}", broken.address),
        &repository,
        &target,
        &["--fallback", "clone"],
    );
    at_home(&mut command, &home);
    command
        .env("HOME", "/nonexistent")
        .env("TARPON_TOKEN", "tarpon_hush");
    expect(&command.output().unwrap(), 0);
    let told = |asked: &Asked| asked.get("authorization").map(str::to_owned);
    assert!(
        broken
            .asked()
            .iter()
            .all(|asked| told(asked).as_deref() == Some(bearer))
    );
    let asked = upstream.asked();
    assert!(!asked.is_empty());
    assert!(
        asked.iter().all(|asked| !asked.text.contains("hush")),
        "{asked:?}"
    );
    let notes = fs::read_to_string(&notes).unwrap();
    assert!(notes.contains("call get\n"), "{notes}");
    assert!(
        !notes.contains("hush") && !notes.contains("TARPON_"),
        "{notes}"
    );
}

/// What opens the repository at its upstream stays with whoever runs the restore, unless told otherwise.
#[test]
fn the_repositorys_own_credential_is_sent_when_told_to() {
    let lab = small_lab();
    let server = lab.start();
    let front = Front::start(server.address(), None, |asked| {
        Does::Passes(asked.target().to_owned())
    });
    let url = format!("http://{}", front.address);
    let run = |name: &str, repository: &str, more: &[&str], change: &dyn Fn(&mut Command)| {
        let before = front.asked().len();
        let mut command = command_at(&url, repository, &lab.scratch(name), more);
        change(&mut command);
        expect(&command.output().unwrap(), 0);
        let asked = front.asked().split_off(before);
        assert!(!asked.is_empty());
        asked
    };
    let flag = ["--send-upstream-credential"];
    let token = |command: &mut Command| {
        command.env("TARPON_TOKEN", "t");
    };
    for asked in run("kept", "https://u:p@test/small", &[], &|_| {}) {
        assert_eq!(asked.get("authorization"), None, "{asked:?}");
    }
    for asked in run("sent", "https://u:p@test/small", &flag, &token) {
        assert_eq!(asked.get("authorization"), Some(BASIC), "{asked:?}");
        assert_eq!(
            asked.get("tarpon-authorization"),
            Some("Bearer t"),
            "{asked:?}"
        );
    }
    // As git would find it: the path only where the user wants it.
    let notes = lab.scratch("notes");
    let helped = home(&lab, "helped", "", &helper(&notes));
    for asked in run("helped-tree", "test/small", &flag, &|command| {
        at_home(command, &helped)
    }) {
        assert_eq!(asked.get("authorization"), Some(BASIC), "{asked:?}");
    }
    let notes = fs::read_to_string(&notes).unwrap();
    assert!(notes.contains("protocol=https\nhost=test\n"), "{notes}");
    assert!(!notes.contains("path="), "{notes}");
    let ssh = restore_at(&url, "git@test:small", &lab.scratch("ssh"), &flag);
    assert!(expect(&ssh, 1).contains("--send-upstream-credential"));
}

/// Whatever becomes of it, nothing says who logs in at the repository; only its own configuration does, as a clone's.
#[test]
fn no_output_shows_who_logs_in_at_the_repository() {
    let lab = small_lab();
    let server = lab.start();
    hit(&server, "small");
    let upstream = Front::start(server.address(), None, |asked| {
        Does::Passes(asked.target().to_owned())
    });
    let broken = Front::start(server.address(), None, |_| {
        Does::Says(answer("500 No", "", b"ask https://u:hush@elsewhere\n"))
    });
    let [good, bad] = [server.address(), broken.address].map(|at| format!("http://{at}"));
    let own = "https://u:hush@test/small";
    let clone = format!("http://u:hush@{}/git/test/small", upstream.address);
    let nowhere = "http://u:hush@127.0.0.1:1/small?private_token=hush";
    let fallback = ["--fallback", "clone"];
    let nowhere_at_all = ["--fallback", "clone", "http://u:hush@more"];
    for (name, url, repository, more, code, says) in [
        (
            "restored",
            &good,
            own,
            &[][..],
            0,
            "restored https://***@test/small into",
        ),
        ("broken", &bad, own, &[], 3, "ask https://***@elsewhere"),
        ("cloned", &bad, &clone, &fallback, 0, "http://***@127.0.0.1"),
        (
            "nowhere",
            &bad,
            nowhere,
            &fallback,
            6,
            "http://***@127.0.0.1:1/small",
        ),
        (
            "unsure",
            &good,
            "https://u:hu/sh@test/small",
            &[],
            1,
            "https://***@test/small does not name",
        ),
        ("misused", &good, own, &nowhere_at_all, 1, "http://***@more"),
    ] {
        let target = lab.scratch(name);
        for json in [&[][..], &["--json"]] {
            let more = [more, json].concat();
            let out = restore_at(url, repository, &target, &more);
            let errors = expect(&out, code);
            let said = format!("{errors}{}", String::from_utf8_lossy(&out.stdout));
            assert!(
                !said.contains("hush") && !said.contains("hu/sh"),
                "{name}: {said}"
            );
            assert!(json.len() == 1 || said.contains(says), "{name}: {said}");
            if code == 0 {
                let config = fs::read_to_string(target.join(".git/config")).unwrap();
                assert!(config.contains(repository), "{config}");
                fs::remove_dir_all(&target).unwrap();
            }
        }
    }
}

/// The status, what the server says, and with what it was asked; never the credential itself.
#[test]
fn a_refusal_says_what_the_server_says() {
    let (lab, _server, asking) = asking(BASIC);
    let target = lab.scratch("none");
    let url = asking.front.https();
    let cacert = ["--cacert", &*asking.cacert];
    let refused = |url: &str, token: &str| {
        let mut command = command_at(url, "test/small", &target, &cacert);
        command.env("TARPON_TOKEN", token);
        let errors = expect(&command.output().unwrap(), 2);
        assert!(
            errors.contains("the server refuses: 401: who are you?; it was asked "),
            "{errors}"
        );
        assert!(
            !errors.contains("hush") && errors.lines().count() == 1,
            "{errors}"
        );
        expect_nothing(&target);
        errors
    };
    let none = refused(&url, "");
    assert!(none.contains("without a credential: neither"), "{none}");
    assert!(
        none.contains("--send-upstream-credential sends it"),
        "{none}"
    );
    // A secret in a file has the end of a line.
    assert!(refused(&url, "\n").contains("without a credential: neither"));
    let quoted = command_at(&url, "test/small", &target, &cacert)
        .env("TARPON_TOKEN", "Bearer hush")
        .output();
    let errors = expect(&quoted.unwrap(), 1);
    assert!(
        errors.contains("without Bearer") && !errors.contains("hush"),
        "{errors}"
    );
    assert!(refused(&url, "hush").contains("with the credential in TARPON_TOKEN (as Bearer)"));
    let by_url = refused(&asking.url("u:hush"), "hush");
    assert!(
        by_url.contains("with the credential in --server"),
        "{by_url}"
    );
    let wrong = home(
        &lab,
        "wrong",
        "machine localhost login u password hush\n",
        "",
    );
    let mut command = command_at(&url, "test/small", &target, &cacert);
    at_home(&mut command, &wrong);
    let errors = expect(&command.output().unwrap(), 2);
    assert!(errors.contains("with the credential in .netrc"), "{errors}");
    let closed = Front::start(asking.front.address, None, |_| {
        Does::Says(answer("403 Forbidden", "", b"not yours\n"))
    });
    let closed = format!("http://{}", closed.address);
    let errors = expect(&restore_at(&closed, "test/small", &target, &[]), 2);
    assert!(
        errors.ends_with("the server refuses: 403: not yours\n"),
        "{errors}"
    );
}

/// Where the repository's own credential was looked for, and by what else the server could know who asks.
#[test]
fn what_was_not_found_is_said_with_what_would_be() {
    let (lab, _server, asking) = asking(BASIC);
    let (target, url) = (lab.scratch("none"), asking.front.https());
    let cacert = ["--cacert", &*asking.cacert];
    let own = [&cacert[..], &["--send-upstream-credential"]].concat();
    let errors = expect(&restore_at(&url, "test/small", &target, &own), 2);
    let missing = "--send-upstream-credential has found none for https://test/small, neither in REPO_URL or .netrc nor";
    assert!(errors.contains(missing), "{errors}");
    // It counts by the name that the server has for the host, and says so where that is all that is known.
    let named = "\"machine test login USER password PASSWORD\" in .netrc would be found";
    assert!(errors.contains(named), "{errors}");
    assert!(
        errors.contains("--cert and --key show a certificate"),
        "{errors}"
    );
    let errors = expect(&restore_at(&url, "https://test/small", &target, &own), 2);
    assert!(!errors.contains("machine test"), "{errors}");
}

/// Somebody else answers, or nobody has looked where.
#[test]
fn what_is_no_tarpon_is_said_to_be_none() {
    let lab = small_lab();
    let target = lab.scratch("none");
    let pages = Front::start(nobody(), None, |asked| {
        let page = b"<html>\n<head><title>404 Not Found</title></head></html>\n";
        Does::Says(match asked.target().starts_with("/git/git/") {
            true => answer("403 Forbidden", "", b"git is no upstream\n"),
            false => answer("404 Not Found", "", page),
        })
    });
    let pages = format!("http://{}", pages.address);
    for (url, says) in [
        (
            pages.clone(),
            "404: 404 Not Found: a page, as no tarpon server has one; is a path missing in --server?",
        ),
        (
            format!("{pages}/git"),
            "403: git is no upstream; --server is the place before the /git",
        ),
    ] {
        let errors = expect(&restore_at(&url, "test/small", &target, &[]), 2);
        assert!(errors.contains(says), "{errors}");
    }
}

/// Over plain http a credential goes to this machine only; nobody is asked before that is clear.
#[test]
fn no_credential_goes_over_plain_http_to_another_machine() {
    let lab = small_lab();
    let target = lab.scratch("none");
    let away = "http://192.0.2.1:9";
    let own = "https://u:hush@test/small";
    for (url, repository, token, more) in [
        (away, "test/small", "hush", &[][..]),
        ("http://u:hush@192.0.2.1:9", "test/small", "", &[]),
        (away, own, "", &["--send-upstream-credential"]),
    ] {
        let mut command = command_at(url, repository, &target, more);
        command.env("TARPON_TOKEN", token);
        let began = std::time::Instant::now();
        let errors = expect(&command.output().unwrap(), 1);
        assert!(
            errors.contains("is not sent to http://192.0.2.1:9, over plain http"),
            "{errors}"
        );
        assert!(!errors.contains("hush"), "{errors}");
        assert!(began.elapsed() < std::time::Duration::from_secs(5));
    }
    // To this machine it does.
    let server = lab.start();
    let front = Front::asking(server.address(), None, "Bearer hush");
    let mut command = command_at(
        &format!("http://{}", front.address),
        "test/small",
        &target,
        &[],
    );
    expect(&command.env("TARPON_TOKEN", "hush").output().unwrap(), 0);
}

/// The real thing: a server of tarpon's with TLS and tokens, and what git brings from it.
#[test]
fn a_token_opens_a_server_that_wants_one() {
    let lab = small_lab();
    let (ours, cacert): (Authority, String) = authority(&lab, "ours");
    let flags = ours.issue("server", &["localhost", "127.0.0.1"], 1).flags();
    let token = Token::new(BINARY, "farm", &[]);
    let file = lab.scratch("tokens");
    tokens::write(&file, &[&token]);
    let file = file.display().to_string();
    let access = [
        "--no-default-upstreams",
        "--access",
        "test=token",
        "--tokens",
        &*file,
    ];
    let mut settings = lab.settings().with(&access);
    settings.arguments.extend(flags);
    let server = settings.start();
    let url = format!("https://localhost:{}", server.address().port());
    let target = lab.scratch("none");
    let cacert = ["--cacert", &*cacert];
    let errors = expect(&restore_at(&url, "test/small", &target, &cacert), 2);
    assert!(errors.contains("the server refuses: 401"), "{errors}");
    expect_nothing(&target);
    let run = |name: &str, more: &[&str]| {
        let target = lab.scratch(name);
        let more = [&cacert[..], more].concat();
        let mut command = command_at(&url, "test/small", &target, &more);
        expect(
            &command.env("TARPON_TOKEN", &token.token).output().unwrap(),
            0,
        );
        target
    };
    // One that opens nothing is told the same as if there were nothing.
    let mut command = command_at(&url, "test/small", &target, &cacert);
    let errors = expect(&command.env("TARPON_TOKEN", "hush").output().unwrap(), 2);
    let asked = "it was asked with the credential in TARPON_TOKEN";
    assert!(
        errors.contains("no snapshot: 404") && errors.contains(asked),
        "{errors}"
    );
    run("first", &[]);
    let new = repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new");
    let newer = run("newer", &["--no-bundle", "--have", &new]);
    assert_eq!(git::text(&newer, &["rev-parse", "origin/main"]), new);
    git::run(&newer, &["fsck", "--strict"]);
    // Nothing of it stays.
    let config = fs::read_to_string(newer.join(".git/config")).unwrap();
    assert!(
        !config.contains(&token.token) && !config.contains("Authorization"),
        "{config}"
    );
}
