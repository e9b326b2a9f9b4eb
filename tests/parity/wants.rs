//! What is asked for by a ref or a commit equals what git makes of it: the table in docs/http.md.

use std::fs;
use std::path::{Path, PathBuf};

use super::support::lab::{self, Lab};
use super::support::server::Server;
use super::support::{git, parity, wait};
use super::{new_lab, wait_for_hit};

/// A working copy whose branches and tags are pushed to an upstream.
pub struct Source {
    pub lab: Lab,
    pub work: PathBuf,
}

impl Source {
    /// Commits `one` to `three` on `main`, `side` on a branch of that name, tags of all kinds.
    pub fn new(format: &str) -> Source {
        let lab = new_lab();
        let work = lab.scratch("work");
        fs::create_dir_all(&work).unwrap();
        let format_argument = format!("--object-format={format}");
        git::run(&work, &["init", "-q", "-b", "main", &format_argument]);
        let up = lab.upstream("up");
        fs::create_dir_all(&up).unwrap();
        git::run(
            &up,
            &["init", "-q", "--bare", "-b", "main", &format_argument],
        );
        git::run(&up, &["config", "uploadpack.allowAnySHA1InWant", "true"]);
        git::run(&up, &["config", "receive.denyDeleteCurrent", "ignore"]);
        let source = Source { lab, work };
        for name in ["one", "two", "three"] {
            source.commit(name);
        }
        source.git(&["tag", "light", "main~1"]);
        source.git(&["tag", "-a", "-m", "x", "noted", "main~2"]);
        source.git(&["tag", "-a", "-m", "x", "twice", "noted"]);
        source.git(&["checkout", "-q", "-b", "fix/#7&x", "main~1"]);
        source.commit("side");
        source.git(&["branch", "ü"]);
        source.git(&["branch", "a+b", "main~2"]);
        // A branch and a tag of one name.
        source.git(&["branch", "same", "main~1"]);
        source.git(&["tag", "same", "main~2"]);
        source.git(&["checkout", "-q", "main"]);
        source.git(&["update-ref", "refs/pull/7/head", "fix/#7&x"]);
        source.git(&["update-ref", "refs/notes/x", "main~1"]);
        source.push();
        source
    }

    pub fn git(&self, args: &[&str]) {
        git::run(&self.work, args);
    }

    pub fn commit(&self, name: &str) {
        let file = self.work.join(format!("dir/{name}"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, format!("{name}\n").repeat(100)).unwrap();
        fs::write(self.work.join("last"), name).unwrap();
        self.git(&["add", "."]);
        self.git(&["commit", "-q", "-m", name]);
    }

    pub fn push(&self) {
        let url = self.lab.url("up");
        self.git(&["push", "-q", "--force", "--mirror", &url]);
    }

    pub fn id(&self, what: &str) -> String {
        git::text(&self.work, &["rev-parse", what])
    }

    pub fn start(&self) -> Server {
        let settings = self.lab.settings();
        settings.with(&["--follow", "refs/pull/*/head"]).start()
    }

    /// A clone in which these commands have run.
    pub fn cloned(&self, name: &str, options: &[&str], then: &[&[&str]]) -> PathBuf {
        let into = self.lab.scratch(name);
        let (url, target) = (self.lab.url("up"), into.to_string_lossy().into_owned());
        let mut args = vec!["clone", "-q"];
        args.extend(options);
        args.extend([&*url, &*target]);
        git::run(&self.lab.scratch(""), &args);
        for command in then {
            git::run(&into, command);
        }
        into
    }

    /// Whether what the server gives for `query`, as a miss and as a hit, is that.
    pub fn expect(&self, server: &Server, query: &str, options: &[&str], then: &[&[&str]]) {
        let expected = self.cloned("expected", options, then);
        self.expect_as(server, query, &expected);
        remove(&expected);
    }

    /// Whether it is as what stands at `expected`.
    pub fn expect_as(&self, server: &Server, query: &str, expected: &Path) {
        let name = format!("up?{query}");
        let target = wanted(query);
        let miss = self.lab.scratch("miss.tar.zst");
        let head = lab::download(server.address(), &target, &miss);
        let commit = git::text(expected, &["rev-parse", "HEAD"]);
        assert_eq!(
            head.get("x-cachew-snapshot-commit"),
            Some(&*commit),
            "{name}"
        );
        assert_eq!(head.get("x-cachew-bundle-url"), None, "{name}");
        expect_same(expected, &miss, &self.lab.scratch("unpacked"), &name);
        let hit = hit(server, &target, &self.lab.scratch("hit.tar.zst"));
        assert!(
            fs::read(&miss).unwrap() == fs::read(&hit).unwrap(),
            "{name}"
        );
    }
}

pub fn wanted(query: &str) -> String {
    format!("{}?{query}", lab::target("up"))
}

/// Downloads until the answer has a length: all of it is made then.
fn hit(server: &Server, target: &str, file: &Path) -> PathBuf {
    wait::until("the snapshot is published", || {
        let head = lab::download(server.address(), target, file);
        head.content_length().map(|_| file.to_owned())
    })
}

pub fn expect_same(expected: &Path, archive: &Path, into: &Path, name: &str) {
    lab::unpack_file(archive, into);
    parity::expect_same(expected, into, name);
    remove(into);
}

pub fn remove(dir: &Path) {
    fs::remove_dir_all(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
}

/// Every kind of want, on one repository.
fn all_wants(source: &Source) {
    let server = source.start();
    // Another one's snapshot is what most of them are built on.
    wait_for_hit(&source.lab, &server, "up");
    refs(source, &server);
    commits(source, &server);
    branches_at_commits(source, &server);
    server.stop();
    source.lab.expect_no_orphans();
}

fn refs(source: &Source, server: &Server) {
    let names = [
        ("main", "main"),
        ("fix/%237%26x", "fix/#7&x"),
        ("%C3%BC", "ü"),
        ("a+b", "a+b"),
        ("same", "same"),
        ("refs/heads/same", "same"),
        ("light", "light"),
        ("noted", "noted"),
        ("twice", "twice"),
    ];
    for (query, name) in names {
        source.expect(server, &format!("ref={query}"), &["--branch", name], &[]);
    }
    // By the short name git itself takes the branch.
    source.git(&["update-ref", "refs/tags/alone", "refs/tags/same"]);
    source.push();
    let alone = source.cloned("alone", &["--branch", "alone"], &[]);
    let file = source.lab.scratch("tag.tar.zst");
    wait::until_true("the tag is there", || {
        let answer = server.get(&wanted("ref=refs/tags/alone"));
        answer.head.status == 200
    });
    lab::download(server.address(), &wanted("ref=refs/tags/same"), &file);
    expect_same(&alone, &file, &source.lab.scratch("unpacked"), "same tag");
    remove(&alone);
    let fetch: &[&str] = &["fetch", "-q", "origin", "refs/pull/7/head"];
    let at_fetched: &[&str] = &["checkout", "-q", "--detach", "FETCH_HEAD"];
    source.expect(server, "ref=refs/pull/7/head", &[], &[fetch, at_fetched]);
}

fn commits(source: &Source, server: &Server) {
    // A tag's own id is that of its commit.
    for what in ["main", "main~1", "main~2", "fix/#7&x", "twice"] {
        let (id, commit) = (source.id(what), source.id(&format!("{what}^{{commit}}")));
        let detached: &[&str] = &["checkout", "-q", "--detach", &commit];
        source.expect(server, &format!("commit={id}"), &[], &[detached]);
    }
}

fn branches_at_commits(source: &Source, server: &Server) {
    let old = source.id("main~1");
    let names = [
        ("main", "main"),
        ("fix/%237%26x", "fix/#7&x"),
        ("new", "new"),
    ];
    for (query, name) in names {
        let query = format!("ref={query}&commit={old}");
        let made: &[&str] = &["checkout", "-q", "-B", name, &old];
        source.expect(server, &query, &[], &[made]);
    }
    let detached: &[&str] = &["checkout", "-q", "--detach", &old];
    for name in ["noted", "refs/pull/7/head"] {
        let query = format!("ref={name}&commit={old}");
        source.expect(server, &query, &[], &[detached]);
    }
}

#[test]
fn every_want() {
    all_wants(&Source::new("sha1"));
}

#[test]
fn every_want_of_sha256() {
    all_wants(&Source::new("sha256"));
}

/// Where the upstream's HEAD is detached, or names a branch that is not there.
#[test]
fn wants_beside_an_odd_head() {
    let source = Source::new("sha1");
    let up = source.lab.upstream("up");
    let old = source.id("main~2");
    for head in ["detached", "unborn"] {
        match head {
            "detached" => git::run(
                &up,
                &["update-ref", "--no-deref", "HEAD", &source.id("main~1")],
            ),
            _ => git::run(&up, &["symbolic-ref", "HEAD", "refs/heads/nothing"]),
        };
        let server = source.start();
        source.expect(&server, "ref=main", &["--branch", "main"], &[]);
        source.expect(&server, "ref=noted", &["--branch", "noted"], &[]);
        let id = format!("commit={old}");
        source.expect(&server, &id, &[], &[&["checkout", "-q", "--detach", &old]]);
        let at = format!("ref=main&commit={old}");
        source.expect(
            &server,
            &at,
            &[],
            &[&["checkout", "-q", "-B", "main", &old]],
        );
        server.stop();
        remove(&source.lab.mirror("up"));
        source.lab.forget_snapshots();
    }
}

/// What refs do after they were asked for: each want is what git makes of it then.
#[test]
fn wants_follow_their_refs() {
    let source = Source::new("sha1");
    let server = source.start();
    let [forced, kept] = ["fix/#7&x", "main"].map(|what| source.id(what));
    source.expect(&server, "ref=fix/%237%26x", &["--branch", "fix/#7&x"], &[]);
    source.expect(&server, "ref=light", &["--branch", "light"], &[]);
    source.expect(&server, "ref=a%2Bb", &["--branch", "a+b"], &[]);
    // Another history on one branch, a tag that moves, a branch that goes, another default branch.
    source.git(&["checkout", "-q", "-B", "fix/#7&x", "main"]);
    source.commit("forced");
    source.git(&["tag", "-f", "light", "main"]);
    source.git(&["branch", "-D", "a+b"]);
    source.git(&["branch", "-m", "main", "trunk"]);
    source.git(&["update-ref", "-d", "refs/pull/7/head"]);
    source.git(&["branch", "-D", "ü"]);
    source.push();
    let up = source.lab.upstream("up");
    git::run(&up, &["symbolic-ref", "HEAD", "refs/heads/trunk"]);
    compare(&server);
    wait::until_true("the branch is gone", || {
        server.get(&wanted("ref=a%2Bb")).head.status == 404
    });
    let commit_of = |query: &str| {
        let head = server.fetch("GET", &wanted(query), &[]).expect(200).head;
        head.get("x-cachew-snapshot-commit").map(str::to_owned)
    };
    wait::until_true("the branch is rebuilt", || {
        commit_of("ref=fix/%237%26x") == Some(source.id("fix/#7&x"))
    });
    wait::until_true("the tag is rebuilt", || {
        commit_of("ref=light") == Some(source.id("light"))
    });
    source.expect(&server, "ref=fix/%237%26x", &["--branch", "fix/#7&x"], &[]);
    source.expect(&server, "ref=light", &["--branch", "light"], &[]);
    source.expect(&server, "ref=trunk", &["--branch", "trunk"], &[]);
    let at: &[&str] = &["checkout", "-q", "--detach", &kept];
    source.expect(&server, &format!("commit={kept}"), &[], &[at]);
    assert_eq!(server.get(&wanted("ref=main")).head.status, 404);
    // No ref leads to it any more, and the mirror has it still.
    let fetch: &[&str] = &["fetch", "-q", "origin", &forced];
    let at: &[&str] = &["checkout", "-q", "--detach", &forced];
    source.expect(&server, &format!("commit={forced}"), &[], &[fetch, at]);
    server.stop();
    source.lab.expect_no_orphans();
}

/// Has the mirror compared with its upstream.
pub fn compare(server: &Server) {
    let body = r#"{"refs":{"refs/heads/no-such-branch":""}}"#;
    server
        .post_json(&lab::endpoint("up", "ensure-refs"), body)
        .expect(200);
}
