//! Names: a repository is one however it is spelled, where its host ignores case, and is found again by all
//! spellings after a start.

use super::support::client::Response;
use super::support::lab::{self, Lab};
use super::support::repos::{self, Shape};
use super::support::server::{Server, Settings};
use super::support::upstream::{Answers, Upstream};
use super::support::{git, steps, wait};
use super::{expect_clone, new_lab, remove};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Nothing but what is asked for.
const FAR: [&str; 4] = ["--fetch-interval", "720h", "--scrub-interval", "0"];

/// A lab with one repository of each of these paths, all of them different.
fn lab_with(names: &[&str]) -> Lab {
    let lab = new_lab();
    for (seed, name) in (1..).zip(names) {
        let path = lab.upstream(name);
        lab::create_dir(path.parent().unwrap());
        repos::generate(&path, Shape::ManySmall, 30_000, seed);
    }
    lab
}

/// Settings of a server to which `test` ignores case and `exact`, which has the same repositories, does not.
fn settings(lab: &Lab) -> Settings {
    let mut settings = lab.settings().with(&FAR);
    let base = format!("exact=file://{}/", lab.upstreams().display());
    settings.upstreams.push(base);
    settings.with(&["--upstream-ignore-case", "TEST"])
}

fn snapshot(server: &Server, name: &str) -> Response {
    server.get(&format!("/git/{name}/snapshot.tar.zst"))
}

/// What somebody gets who asks for the snapshot once it is in the cache.
fn hit(server: &Server, name: &str) -> Response {
    steps::kept(server, &format!("/git/{name}/snapshot.tar.zst"))
}

/// The commit that a snapshot is of.
fn commit(answer: &Response) -> Option<&str> {
    answer.head.get("x-cachew-snapshot-commit")
}

fn head(repository: &Path) -> String {
    git::text(repository, &["rev-parse", "HEAD"])
}

/// The URL that a snapshot names as its origin.
fn origin(lab: &Lab, answer: &Response) -> String {
    let unpacked = lab.unpack(&answer.body, "unpacked");
    let url = git::text(&unpacked, &["config", "remote.origin.url"]);
    remove(&unpacked);
    url
}

/// The directory that a mirror lies in.
fn above(lab: &Lab, name: &str) -> PathBuf {
    lab.mirror(name).parent().unwrap().to_owned()
}

/// When a mirror was last compared, for a server that looks.
fn date(mirror: &Path, hours_ago: u64) {
    let mut options = File::options();
    let note = options.create(true).append(true);
    let note = note.open(mirror.join("FETCH_HEAD")).unwrap();
    let at = SystemTime::now() - Duration::from_secs(3600 * hours_ago);
    note.set_modified(at).unwrap();
}

#[test]
fn all_spellings_are_one_repository() {
    let lab = lab_with(&["Org/Repo", "org/repo"]);
    let server = settings(&lab).start();
    let first = hit(&server, "test/Org/Repo");
    for spelling in ["TEST/org/repo", "Test/ORG/REPO.git", "test/Org/Repo.git"] {
        let other = snapshot(&server, spelling).expect(200);
        assert_eq!(other.head.etag(), first.head.etag(), "{spelling}");
        assert!(other.body == first.body, "{spelling}");
        let same = format!("If-None-Match: {}", first.head.etag());
        let target = format!("/git/{spelling}/snapshot.tar.zst");
        server.fetch("GET", &target, &[&same]).expect(304);
        let status = server.get(&format!("/git/{spelling}/status")).expect(200);
        let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
        assert_eq!(status["repository"], "test/org/repo");
    }
    let url = format!("http://{}/git/test/oRG/rEPO", server.address());
    git::clone(&url, &lab.scratch("clone"));
    assert_eq!(head(&lab.scratch("clone")), head(&lab.upstream("Org/Repo")));
    assert_eq!(server.metrics().count("tarpon_clones_total", &[]), 1);
    assert_eq!(lab.entries().len(), 1);
    assert!(lab.mirror("org/repo").exists() && !above(&lab, "Org/Repo").exists());
    assert_eq!(origin(&lab, &first), lab.url("Org/Repo"));
    // Elsewhere names that differ are of two.
    let (one, other) = (
        hit(&server, "exact/Org/Repo"),
        hit(&server, "EXACT/org/repo"),
    );
    assert_ne!(commit(&one), commit(&other));
    assert_eq!(commit(&one), commit(&first));
    assert_eq!(commit(&snapshot(&server, "exact/org/repo")), commit(&other));
    snapshot(&server, "exact/ORG/repo").expect(404);
    server.stop();
    // How it was spelled is known by the mirror, and by the snapshot alone.
    lab.forget_snapshots();
    let server = settings(&lab).start();
    assert_eq!(hit(&server, "test/org/repo").body, first.body);
    server.stop();
    remove(&lab.mirror("org/repo"));
    let server = settings(&lab).start();
    let again = snapshot(&server, "test/ORG/repo").expect(200);
    assert_eq!(again.head.etag(), first.head.etag());
    let url = format!("http://{}/git/test/org/repo", server.address());
    let listed = git::text(&lab.scratch(""), &["ls-remote", &url, "HEAD"]);
    assert!(listed.starts_with(commit(&first).unwrap()), "{listed}");
}

#[test]
fn mirrors_under_another_spelling_are_moved() {
    let lab = lab_with(&["Org/Repo", "org/repo", "Team/App"]);
    let exact = || lab.settings().with(&FAR);
    let server = exact().start();
    let (newer, older) = (hit(&server, "test/Org/Repo"), hit(&server, "test/org/repo"));
    server.stop();
    lab::create_dir(&above(&lab, "Team/App"));
    lab.place_mirror("Team/App");
    date(&lab.mirror("Org/Repo"), 1);
    date(&lab.mirror("org/repo"), 2);
    let mut server = settings(&lab).start();
    let expect_moved = |server: &Server| {
        for name in ["test/org/repo", "TEST/ORG/repo"] {
            assert_eq!(commit(&snapshot(server, name).expect(200)), commit(&newer));
        }
        server
            .wait_logged("another mirror of it, older than the one that is used, is left as it is");
        let left = lab.mirror("Org/Repo").display().to_string();
        assert!(server.log().contains(&left), "{}", server.log());
        assert_eq!(Some(&*head(&lab.mirror("org/repo"))), commit(&newer));
        assert_eq!(Some(&*head(&lab.mirror("Org/Repo"))), commit(&older));
        let app = hit(server, "test/team/APP");
        assert_eq!(origin(&lab, &app), lab.url("Team/App"));
        assert!(lab.mirror("team/app").exists() && !above(&lab, "Team/App").exists());
        assert_eq!(server.metrics().count("tarpon_clones_total", &[]), 0);
        app
    };
    expect_moved(&server);
    server.wait_logged("an older snapshot of it, as test/org/repo, is left");
    server.kill();
    let mut server = settings(&lab).start();
    let app = expect_moved(&server);
    expect_clone(&lab, "Team/App", &app.body);
    server.kill();
    // Where case counts again each is what it was.
    let server = exact().start();
    assert_eq!(Some(&*head(&lab.mirror("org/repo"))), commit(&older));
    assert_eq!(commit(&hit(&server, "test/org/repo")), commit(&older));
    assert_eq!(commit(&hit(&server, "test/Org/Repo")), commit(&newer));
    assert_eq!(hit(&server, "test/Team/App").body, app.body);
    assert!(lab.mirror("Team/App").exists() && !above(&lab, "team/app").exists());
}

/// Whatever moment a start is cut off at, the next one finds all mirrors, with their spelling.
#[test]
fn a_start_that_is_cut_off_loses_no_mirror() {
    const COUNT: usize = 150;
    let lab = lab_with(&["Org/Repo"]);
    let names: Vec<String> = (0..COUNT)
        .map(|number| format!("Org{number}/Repo"))
        .collect();
    let template = lab.scratch("template");
    git::clone_mirror(&lab.url("Org/Repo"), &template);
    for name in &names {
        lab::copy_tree(&template, &lab.mirror(name));
    }
    let is_moved = |name: &&String| {
        let (from, to) = (lab.mirror(name), lab.mirror(&name.to_lowercase()));
        assert!(
            from.join("HEAD").exists() != to.join("HEAD").exists(),
            "{name}"
        );
        to.exists()
    };
    let moved = || names.iter().filter(is_moved).count();
    let mirrors = lab.state().join("mirrors/test");
    let begun = || {
        let names = fs::read_dir(&mirrors).unwrap().flatten();
        let names = names.map(|found| found.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("org")).count()
    };
    let mut cuts = 0;
    while moved() < COUNT && cuts < 3 {
        let before = begun();
        let settings = settings(&lab);
        let starting = std::thread::spawn(move || drop(settings.try_start()));
        wait::until_true("mirrors are moved", || begun() > before);
        let pid = fs::read_to_string(lab.state().join("lock")).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        // The one that was started just now, unless it has ended.
        let _ = kill_process(pid, Signal::KILL);
        starting.join().unwrap();
        cuts += usize::from(moved() < COUNT);
    }
    assert!(cuts > 0, "no start was cut off in between");
    let server = settings(&lab).start();
    assert_eq!(moved(), COUNT);
    for name in &names {
        let noted = fs::read_to_string(lab.mirror(&name.to_lowercase()).join("tarpon-origin"));
        assert_eq!(noted.unwrap(), lab.url(name));
        assert!(!above(&lab, name).exists());
    }
    let answer = snapshot(&server, "test/ORG7/repo").expect(200);
    assert_eq!(commit(&answer), Some(&*head(&template)));
}

#[test]
fn a_repository_that_was_renamed_is_found_where_all_are_open() {
    let lab = lab_with(&["new"]);
    let upstream = Upstream::new(lab.upstreams());
    let renamed = Answers::Renamed {
        from: "/old/".to_owned(),
        to: "/new/".to_owned(),
    };
    upstream.answer(renamed);
    let settings = |rule: &str| {
        let access = format!("test={rule}");
        let mut settings = lab.settings().with(&FAR);
        settings.upstreams = vec![upstream.named("test")];
        settings.with(&["--no-default-upstreams", "--access", &access])
    };
    let server = settings("open").start();
    let answer = hit(&server, "test/old");
    assert_eq!(commit(&answer), Some(&*head(&lab.upstream("new"))));
    server.stop();
    remove(&lab.mirror("old"));
    lab.forget_snapshots();
    let tokens = super::access::Tokens::new(&lab);
    let file = tokens.file.to_string_lossy();
    let server = settings("token").with(&["--tokens", &file]).start();
    let read = [&*tokens.read.bearer()];
    server
        .fetch("GET", "/git/test/old/snapshot.tar.zst", &read)
        .expect(404);
    server
        .fetch("GET", "/git/test/new/snapshot.tar.zst", &read)
        .expect(200);
    let to = format!(
        "http://{}/new), which is another repository",
        upstream.address()
    );
    server.wait_logged(&to);
    assert!(!lab.mirror("old").exists());
}
