//! What is named is asked for in one request, and nothing else is: of a server that makes an archive of
//! exactly that. One that knows nothing of names gives what it gives to everybody, and is asked further.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::bundle::{run, small_lab};
use crate::lab::{expect, expect_nothing, restore};
use crate::support::lab::Lab;
use crate::support::relay::listen;
use crate::support::steps::{ensure, hit};
use crate::support::{git, parity, repos};

/// The heads of requests, in the order in which they came.
#[derive(Clone, Default)]
struct Heads(Arc<Mutex<Vec<String>>>);

impl Heads {
    /// Takes all that came.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(|p| p.into_inner()))
    }

    fn push(&self, head: &str) {
        let mut heads = self.0.lock().unwrap_or_else(|p| p.into_inner());
        heads.push(head.to_owned());
    }
}

/// What the first lines of `heads` ask for.
fn targets(heads: &[String]) -> Vec<&str> {
    heads
        .iter()
        .map(|head| head.split(' ').nth(1).unwrap_or_default())
        .collect()
}

/// Stands before `server` and notes what it is asked; `seen` is what it sees of each head.
fn noting(
    server: SocketAddr,
    seen: impl Fn(&str) -> String + Send + Sync + 'static,
) -> (SocketAddr, Heads) {
    let heads = Heads::default();
    let noted = heads.clone();
    let address = listen(move |socket| drop(pass(socket, server, &seen, &noted)));
    (address, heads)
}

fn pass(
    client: &TcpStream,
    server: SocketAddr,
    seen: &dyn Fn(&str) -> String,
    noted: &Heads,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    noted.push(&head);
    let lower = head.to_ascii_lowercase();
    let length = lower
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    let mut body = vec![0; length.and_then(|l| l.trim().parse().ok()).unwrap_or(0)];
    std::io::Read::read_exact(&mut reader, &mut body)?;
    let mut head = seen(&head);
    head.insert_str(head.len() - 2, "Connection: close\r\n");
    let mut upstream = TcpStream::connect(server)?;
    upstream.write_all(&[head.as_bytes(), &body].concat())?;
    let mut client = client;
    std::io::copy(&mut upstream, &mut client).map(|_| ())
}

/// An upstream with branches, tags and a commit that is no tip; gives that commit.
fn prepare(lab: &Lab) -> String {
    let upstream = lab.upstream("small");
    git::run(&upstream, &["branch", "fix/#7&x+ü", "main"]);
    repos::add_commit(&upstream, "fix/#7&x+ü", "topic.txt", b"topic");
    git::run(&upstream, &["tag", "-a", "-m", "one", "v1", "fix/#7&x+ü"]);
    let inner = git::text(&upstream, &["rev-parse", "main"]);
    let pull = ["update-ref", "refs/pull/7/head", "fix/#7&x+ü"];
    git::run(&upstream, &pull);
    repos::add_commit(&upstream, "main", "later.txt", b"later");
    inner
}

/// The branch that is checked out, if any, and the commit.
fn checked_out(repository: &Path) -> (String, String) {
    let head = git::output(repository, &["symbolic-ref", "--quiet", "HEAD"]).stdout;
    (
        String::from_utf8_lossy(&head).trim().to_owned(),
        git::text(repository, &["rev-parse", "HEAD"]),
    )
}

#[test]
fn what_is_named_is_one_request() {
    let lab = small_lab();
    let server = lab.start();
    let inner = prepare(&lab);
    let upstream = lab.upstream("small");
    let id = |name: &str| git::text(&upstream, &["rev-parse", &format!("{name}^{{commit}}")]);
    let (topic, main) = (id("fix/#7&x+ü"), id("main"));
    let (address, heads) = noting(server.address(), str::to_owned);
    let (at_old, at_new) = (format!("main={inner}"), format!("new={topic}"));
    let by_id = format!("?commit={inner}");
    // Whatever the branch is by now.
    let old = format!("?ref=main&commit={inner}");
    let new = format!("?ref=new&commit={topic}");
    let detached = format!("?ref=v1&commit={inner}");
    let topics = "?ref=fix/%237%26x%2B%C3%BC";
    let rows = [
        (
            &["--ref", "fix/#7&x+ü"][..],
            topics,
            "refs/heads/fix/#7&x+ü",
            &topic,
        ),
        (&["--ref", "v1"], "?ref=v1", "", &topic),
        (
            &["--ref", "refs/heads/main"],
            "?ref=refs/heads/main",
            "refs/heads/main",
            &main,
        ),
        (
            &["--ref", "refs/pull/7/head"],
            "?ref=refs/pull/7/head",
            "",
            &topic,
        ),
        (&["--commit", &inner], &by_id, "", &inner),
        (&["--ref", &at_old], &old, "refs/heads/main", &inner),
        (
            &["--ref", "main", "--commit", &inner],
            &old,
            "refs/heads/main",
            &inner,
        ),
        (&["--ref", &at_new], &new, "refs/heads/new", &topic),
        (&["--ref", "v1", "--commit", &inner], &detached, "", &inner),
    ];
    for (number, (more, query, branch, commit)) in rows.into_iter().enumerate() {
        let (restored, summary, _) = run(&lab, address, &format!("restored-{number}"), more);
        assert_eq!(summary["commit"], **commit, "{more:?}");
        // What is nowhere upstream follows nothing.
        let config = git::text(&restored, &["config", "--list", "--local"]);
        let follows = config.lines().any(|line| line.starts_with("branch."));
        let is_theirs = !branch.is_empty() && branch != "refs/heads/new";
        assert_eq!(follows, is_theirs, "{more:?}: {config}");
        let expected = (branch.to_owned(), commit.clone());
        assert_eq!(checked_out(&restored), expected, "{more:?}");
        let names = ["for-each-ref", "--format=%(refname)", "refs/heads"];
        assert_eq!(git::text(&restored, &names), branch, "{more:?}");
        let asked = heads.take();
        // A large one comes in several parts.
        let is_it = |asked: &&str| {
            let what = asked.strip_prefix("/git/test/small/");
            what.is_some_and(|what| what.ends_with(query))
        };
        assert!(targets(&asked).iter().all(is_it), "{more:?}: {asked:?}");
        git::run(&restored, &["fsck", "--strict"]);
        assert_eq!(git::text(&restored, &["status", "--porcelain"]), "");
    }
}

/// What must be there as well is fetched, and what is checked out stays.
#[test]
fn what_is_had_as_well_moves_no_commit_that_was_named() {
    let lab = small_lab();
    let server = lab.start();
    let inner = prepare(&lab);
    hit(&server, "small");
    let new = repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new");
    let at_old = format!("main={inner}");
    let more = ["--ref", &*at_old, "--have", &*new];
    let (restored, summary, _) = run(&lab, server.address(), "restored", &more);
    assert_eq!(summary["commit"], *inner);
    let expected = ("refs/heads/main".to_owned(), inner);
    assert_eq!(checked_out(&restored), expected);
    assert_eq!(git::text(&restored, &["rev-parse", "origin/main"]), new);
    assert_eq!(git::text(&restored, &["status", "--porcelain"]), "");
}

/// A server that knows nothing of names gives everybody the same archive: it is not taken for another one.
#[test]
fn an_answer_of_something_else_is_not_taken_for_it() {
    let lab = small_lab();
    let server = lab.start();
    let inner = prepare(&lab);
    hit(&server, "small");
    let upstream = lab.upstream("small");
    let topic = git::text(&upstream, &["rev-parse", "fix/#7&x+ü"]);
    ensure(&server, "small", &format!(r#"{{"commits":["{topic}"]}}"#));
    let forgetful = |head: &str| {
        let (line, rest) = head.split_once(" HTTP/").unwrap_or_default();
        let line = line.split('?').next().unwrap_or_default();
        format!("{line} HTTP/{rest}")
    };
    let knows_service = move |head: &str| match head.contains("?service=") {
        true => head.to_owned(),
        false => forgetful(head),
    };
    let (address, heads) = noting(server.address(), knows_service);
    let at = format!("main={inner}");
    for (name, more, branch, commit) in [
        (
            "branch",
            &["--ref", "fix/#7&x+ü"][..],
            "refs/heads/fix/#7&x+ü",
            &topic,
        ),
        ("tag", &["--ref", "v1"], "", &topic),
        ("commit", &["--commit", &inner], "", &inner),
        ("both", &["--ref", &at], "refs/heads/main", &inner),
    ] {
        let target = lab.scratch(name);
        let errors = expect(&restore(address, "test/small", &target, more), 0);
        assert!(
            errors.contains("not of what was asked for"),
            "{name}: {errors}"
        );
        let expected = (branch.to_owned(), commit.clone());
        assert_eq!(checked_out(&target), expected, "{name}");
        let asked = heads.take();
        assert!(
            targets(&asked).iter().any(|t| t.ends_with("/ensure-refs")),
            "{asked:?}"
        );
    }
    // What everybody gets is what was asked for.
    let target = lab.scratch("main");
    let errors = expect(
        &restore(address, "test/small", &target, &["--ref", "main"]),
        0,
    );
    assert!(!errors.contains("not of what"), "{errors}");
    let plain = lab.scratch("plain");
    expect(&restore(server.address(), "test/small", &plain, &[]), 0);
    parity::expect_same_clones(&plain, &target, "main");
}

#[test]
fn a_name_that_leads_nowhere_is_told_from_a_repository_that_is_not_there() {
    let lab = small_lab();
    let server = lab.start();
    let absent = "1".repeat(40);
    let id = git::text(&lab.upstream("small"), &["rev-parse", "main"]);
    let at = format!("nosuch={absent}");
    for (repository, more, code) in [
        ("test/small", &["--ref", "nosuch"][..], 7),
        ("test/small", &["--ref", "refs/pull/7/merge"], 7),
        ("test/small", &["--commit", &absent], 7),
        ("test/small", &["--ref", &at], 7),
        ("test/nosuch", &[], 2),
        ("test/nosuch", &["--ref", "main"], 2),
        ("test/nosuch", &["--commit", &id], 2),
        ("nohost.example/small", &["--ref", "main"], 2),
        ("test/small", &["--depth", "2"], 1),
        ("test/small", &["--depth", "0"], 1),
        ("test/small", &["--depth", "1", "--have", "main"], 1),
    ] {
        let target = lab.scratch("target");
        let out = restore(server.address(), repository, &target, more);
        let errors = expect(&out, code);
        assert!(!errors.contains("no such ref or commit:"), "{errors}");
        expect_nothing(&target);
    }
}

#[test]
fn what_is_fresh_has_what_was_just_pushed() {
    let lab = small_lab();
    let server = lab.settings().with(&["--ref-check-interval", "1h"]).start();
    hit(&server, "small");
    let (address, heads) = noting(server.address(), str::to_owned);
    let fresh = |head: &String| head.contains("\r\nCache-Control: max-age=0\r\n");
    let (_, _, errors) = run(&lab, address, "any", &["--no-bundle"]);
    let asked = heads.take();
    assert!(!asked.iter().any(fresh), "{asked:?} {errors}");
    for (name, more) in [
        ("head", &["--fresh"][..]),
        ("ref", &["--fresh", "--ref", "main"]),
    ] {
        let new = repos::add_commit(&lab.upstream("small"), "main", name, b"new");
        let (_, summary, _) = run(&lab, address, name, more);
        assert_eq!(summary["commit"], *new, "{name}");
        assert!(fresh(&heads.take()[0]), "{name}");
    }
}

#[test]
fn one_commit_is_asked_for_without_its_history() {
    let lab = small_lab();
    let server = lab.start();
    // A server that knows nothing of it gives all there is, and that is said.
    let all = |head: &str| head.replacen("?depth=1 ", " ", 1);
    let (address, heads) = noting(server.address(), all);
    let target = lab.scratch("deep");
    let out = restore(address, "test/small", &target, &["--depth", "1"]);
    let errors = expect(&out, 0);
    assert!(errors.contains("knows nothing of --depth"), "{errors}");
    let asked = heads.take();
    assert_eq!(targets(&asked)[0], "/git/test/small/manifest?depth=1");
    // Nor is it silent when a server gives it to those who want all.
    let one = |head: &str| head.replacen("manifest ", "manifest?depth=1 ", 1);
    let (address, _heads) = noting(server.address(), one);
    let target = lab.scratch("shallow");
    let out = restore(address, "test/small", &target, &[]);
    let errors = expect(&out, 0);
    assert!(errors.contains("without its history"), "{errors}");
    // Nor does what takes its place have more.
    prepare(&lab);
    for (name, more) in [
        ("clone", &[][..]),
        ("clone-ref", &["--ref", "v1"]),
        ("clone-branch", &["--ref", "fix/#7&x+ü"]),
        ("clone-full", &["--ref", "refs/heads/fix/#7&x+ü"]),
    ] {
        let target = lab.scratch(name);
        let more = [&["--depth", "1", "--fallback", "clone"], more].concat();
        let nobody = crate::lab::nobody();
        expect(&restore(nobody, &lab.url("small"), &target, &more), 0);
        assert_eq!(git::text(&target, &["rev-list", "--count", "HEAD"]), "1");
        assert_eq!(git::text(&target, &["status", "--porcelain"]), "");
        if let [_, named] = more[3..] {
            let clone = lab.scratch(&format!("git-{name}"));
            let named = named.trim_start_matches("refs/heads/");
            let args = [
                "clone",
                "-q",
                "--depth",
                "1",
                "--branch",
                named,
                &lab.url("small"),
            ];
            git::run(
                &lab.scratch(""),
                &[&args[..], &[&*clone.to_string_lossy()]].concat(),
            );
            let refs = |at: &Path| git::text(at, &["for-each-ref"]);
            assert_eq!(refs(&target), refs(&clone), "{name}");
            let fetches = |at: &Path| git::text(at, &["config", "remote.origin.fetch"]);
            assert_eq!(fetches(&target), fetches(&clone), "{name}");
        }
    }
}

/// Without its history it is what git clones, wherever it is from.
#[test]
fn one_commit_is_restored_as_git_clones_it() {
    let lab = small_lab();
    let server = lab.start();
    let inner = prepare(&lab);
    let (address, heads) = noting(server.address(), str::to_owned);
    let url = lab.url("small");
    let rows = [
        ("default", &[][..], "", &[][..]),
        (
            "branch",
            &["--ref", "fix/#7&x+ü"],
            "ref=fix/%237%26x%2B%C3%BC&",
            &["--branch", "fix/#7&x+ü"],
        ),
        ("tag", &["--ref", "v1"], "ref=v1&", &["--branch", "v1"]),
    ];
    // Before there is a mirror, and from it.
    for stage in ["cold", "warm"] {
        for (name, more, query, branch) in &rows {
            let clone = lab.scratch(&format!("{name}-{stage}-clone"));
            let into = clone.to_string_lossy();
            let args = [
                &["clone", "--quiet", "--depth", "1"],
                *branch,
                &[&*url, &*into],
            ]
            .concat();
            git::run(&lab.scratch(""), &args);
            let more = [&["--depth", "1"], *more].concat();
            let (restored, _, errors) = run(&lab, address, &format!("{name}-{stage}"), &more);
            assert!(!errors.contains("--depth"), "{name}: {errors}");
            parity::expect_same_clones(&clone, &restored, name);
            let shallow = |at: &Path| std::fs::read(at.join(".git/shallow")).ok();
            assert_eq!(shallow(&restored), shallow(&clone), "{name}");
            let query = format!("?{query}depth=1");
            let asked = heads.take();
            let is_it = |target: &&str| target.ends_with(&query);
            assert!(targets(&asked).iter().all(is_it), "{asked:?}");
        }
        hit(&server, "small");
    }
    let more = ["--depth", "1", "--commit", &*inner];
    let (restored, summary, _) = run(&lab, address, "commit", &more);
    assert_eq!(summary["commit"], *inner);
    assert_eq!(
        git::text(&restored, &["rev-list", "--count", "--all", "HEAD"]),
        "1"
    );
    git::run(&restored, &["fetch", "--quiet", "--unshallow"]);
    git::run(&restored, &["fsck", "--strict"]);
    let more = ["--depth", "1", "--ref", "nosuch"];
    let target = lab.scratch("nosuch");
    expect(&restore(address, "test/small", &target, &more), 7);
}
