use super::*;
use crate::limits;
use crate::mirror::testing::{
    Scratch, Server, git, git_with, http_backend, is_over, processes_with, run, until, until_async,
};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::time::Instant;

fn moved(head_moved: bool, refs_changed: usize) -> Freshened {
    Freshened::Moved {
        head_moved,
        refs_changed,
    }
}

#[test]
fn clone_is_a_configured_mirror_and_leaves_no_staging() {
    let s = Scratch::with_commit();
    s.commit("side", "two");
    s.upstream(&["tag", "-m", "annotated", "v1", "main"]);
    s.upstream(&["update-ref", "refs/pull/1/head", "main"]);
    s.clone_mirror();
    s.assert_equal();
    s.assert_staging_empty();
    let config = |key| git(&s.mirror(), &["config", "--local", key]);
    assert_eq!(
        (config("remote.origin.url"), config("gc.auto")),
        (s.url(), "0".to_owned())
    );
    assert_eq!(git(&s.mirror(), &["for-each-ref", "refs/pull"]), "");
    let packs = std::fs::read_dir(s.mirror().join("objects/pack")).unwrap();
    let ends: BTreeSet<_> = packs
        .map(|e| {
            e.unwrap()
                .path()
                .extension()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(ends, ["idx", "pack", "rev"].map(str::to_owned).into());
    assert!(!s.mirror().join("hooks").exists());
    let error = run(s.git.clone_mirror(&s.url(), &s.mirror(), &s.staging())).unwrap_err();
    assert!(matches!(error, MirrorError::Io { .. }), "{error}");
    s.assert_staging_empty();
}

#[test]
fn nothing_moved_is_unchanged_and_writes_nothing() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let stamp = || {
        std::fs::metadata(s.mirror().join("packed-refs"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let before = stamp();
    assert_eq!(s.freshen(), Freshened::Unchanged);
    assert_eq!(stamp(), before);
}

/// Where the upstream decides, all that a comparison is about to bring stands in the journal before anything can bring
/// it: what never comes to have a ref is known for that behind any crash.
#[test]
fn what_is_missing_is_noted_before_it_can_come() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let mut git = s.git.clone();
    git.by_permission = true;
    let id = s.commit("main", "two");
    let noted = std::cell::RefCell::new(String::new());
    let turn = async |missing: &BTreeSet<ObjectId>| {
        assert_eq!(missing.len(), 1);
        let journal = s.mirror().join(journal::NAME);
        noted.replace(std::fs::read_to_string(journal).unwrap_or_default());
    };
    let lock = RwLock::new(());
    run(git.freshen_in_turn(&s.mirror(), &s.url(), &lock, turn)).unwrap();
    assert!(noted.borrow().contains(id.trim()), "{}", noted.borrow());
}

#[test]
fn commits_tags_deletions_and_force_pushes_arrive() {
    let s = Scratch::with_commit();
    s.commit("gone", "x");
    s.clone_mirror();
    s.commit("main", "two");
    s.upstream(&["tag", "-m", "annotated", "v1", "main"]);
    s.upstream(&["tag", "light", "main"]);
    s.upstream(&["update-ref", "-d", "refs/heads/gone"]);
    assert_eq!(s.freshen(), moved(true, 4));
    s.assert_equal();
    // The mirror reads the same by itself as through git, with the tag peeled.
    let refs = refs::read(&s.mirror(), &Follow::default()).unwrap();
    assert!(refs.fully_peeled);
    let tag = refs.get("refs/tags/v1".into()).unwrap();
    assert_eq!(
        tag.peeled.unwrap().to_string(),
        s.upstream(&["rev-parse", "v1^{}"])
    );
    s.upstream(&["update-ref", "-d", "refs/heads/main"]);
    s.commit("main", "another root");
    assert_eq!(s.freshen(), moved(true, 1));
    s.assert_equal();
    assert_eq!(s.freshen(), Freshened::Unchanged);
}

#[test]
fn a_branch_and_a_folder_of_the_same_name_trade_places() {
    let s = Scratch::with_commit();
    s.commit("a", "x");
    s.clone_mirror();
    // Loose, as a git command of the operator would leave it.
    git(&s.mirror(), &["update-ref", "refs/heads/old/loose", "main"]);
    for (gone, made) in [("a", "a/b"), ("a/b", "a"), ("a", "old")] {
        s.upstream(&["update-ref", "-d", &format!("refs/heads/{gone}")]);
        s.upstream(&["pack-refs", "--all"]);
        s.commit(made, made);
        s.freshen();
        s.assert_equal();
    }
}

#[test]
fn head_moves_detaches_and_comes_back() {
    let s = Scratch::with_commit();
    s.commit("next", "two");
    s.clone_mirror();
    s.upstream(&["symbolic-ref", "HEAD", "refs/heads/next"]);
    assert_eq!(s.freshen(), moved(true, 0));
    s.assert_equal();
    // A commit that no branch has.
    let id = s.commit("temporary", "detached");
    s.upstream(&["update-ref", "--no-deref", "HEAD", &id]);
    s.upstream(&["update-ref", "-d", "refs/heads/temporary"]);
    assert_eq!(s.freshen(), moved(true, 0));
    s.assert_equal();
    s.upstream(&["symbolic-ref", "HEAD", "refs/heads/main"]);
    assert_eq!(s.freshen(), moved(true, 0));
    s.assert_equal();
    s.commit("next", "not the default branch");
    assert_eq!(s.freshen(), moved(false, 1));
}

#[test]
fn head_that_leads_nowhere() {
    let s = Scratch::with_commit();
    s.upstream(&["symbolic-ref", "HEAD", "refs/heads/none"]);
    s.clone_mirror();
    s.assert_equal();
    assert_eq!(s.freshen(), Freshened::Unchanged);
    s.commit("none", "born");
    assert_eq!(s.freshen(), moved(true, 1));
    s.assert_equal();
    s.upstream(&["update-ref", "-d", "refs/heads/none"]);
    assert_eq!(s.freshen(), moved(true, 1));
    s.assert_equal();
    // Another one that is not there; then one that can be no branch.
    for name in ["refs/heads/other", "refs/tags/none"] {
        s.upstream(&["symbolic-ref", "HEAD", name]);
        assert_eq!(s.freshen(), moved(true, 0), "{name}");
        s.assert_equal();
        assert_eq!(s.freshen(), Freshened::Unchanged, "{name}");
    }
    let left = std::fs::read_dir(s.mirror()).unwrap();
    let left = left.filter(|e| {
        let name = e.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("tmp_")
    });
    assert_eq!(left.count(), 0);
}

/// HEAD names what is no branch, or a commit that branches have: a clone's then is on the commit,
/// or on one of them.
#[test]
fn head_is_that_of_a_clone() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    s.upstream(&["tag", "light", "main"]);
    s.upstream(&["tag", "-m", "annotated", "old", "main"]);
    s.upstream(&["update-ref", "refs/pull/1/head", "main"]);
    s.commit("main", "two");
    for name in ["refs/tags/light", "refs/tags/old", "refs/pull/1/head"] {
        s.upstream(&["symbolic-ref", "HEAD", name]);
        s.freshen();
        s.assert_equal();
        assert_eq!(s.freshen(), Freshened::Unchanged, "{name}");
    }
    for branch in ["abc", "master"] {
        s.upstream(&["update-ref", &format!("refs/heads/{branch}"), "main"]);
        s.upstream(&["symbolic-ref", "HEAD", "refs/heads/main"]);
        s.upstream(&["update-ref", "--no-deref", "HEAD", "refs/heads/main"]);
        s.freshen();
        s.assert_equal();
        assert_eq!(s.freshen(), Freshened::Unchanged, "{branch}");
    }
}

#[test]
fn empty_upstreams_fill_and_become_empty() {
    for format in ["sha1", "sha256"] {
        let s = Scratch::new(format);
        s.clone_mirror();
        s.assert_equal();
        assert_eq!(s.freshen(), Freshened::Unchanged);
        s.commit("main", "one");
        s.upstream(&["tag", "-m", "annotated", "v1", "main"]);
        assert_eq!(s.freshen(), moved(true, 2), "{format}");
        s.assert_equal();
        s.commit("main", "two");
        assert_eq!(s.freshen(), moved(true, 1));
        s.assert_equal();
        s.upstream(&["update-ref", "-d", "refs/heads/main"]);
        s.upstream(&["tag", "-d", "v1"]);
        assert_eq!(s.freshen(), moved(true, 2));
        s.assert_equal();
    }
}

/// A proxy's login page, or nothing at all: to git's older way over HTTP that is a repository
/// without refs.
#[test]
fn an_answer_that_is_not_gits_is_no_empty_repository() {
    for body in ["", "<html>log in first</html>"] {
        let s = Scratch::with_commit();
        s.clone_mirror();
        let server = Server::new(move |_| {
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/html\r\n";
            let length = body.len();
            format!("{head}Content-Length: {length}\r\n\r\n{body}").into_bytes()
        });
        let url = format!("http://127.0.0.1:{}/up", server.port);
        let error = run(s.git.freshen(&s.mirror(), &url, &RwLock::new(()))).unwrap_err();
        assert!(matches!(error, MirrorError::Unreachable { .. }), "{error}");
        s.assert_equal();
        let other = s.root().join("other.git");
        let error = run(s.git.clone_mirror(&url, &other, &s.staging())).unwrap_err();
        assert!(matches!(error, MirrorError::Unreachable { .. }), "{error}");
        assert!(!other.exists());
        s.assert_staging_empty();
    }
}

#[test]
fn an_empty_repository_over_http_is_one() {
    let s = Scratch::new("sha1");
    let server = Server::git(s.root().to_owned());
    let name = s.up();
    let name = name.file_name().unwrap().to_str().unwrap();
    let url = format!("http://127.0.0.1:{}/{name}", server.port);
    run(s.git.clone_mirror(&url, &s.mirror(), &s.staging())).unwrap();
    let freshen = || run(s.git.freshen(&s.mirror(), &url, &RwLock::new(()))).unwrap();
    assert_eq!(freshen(), Freshened::Unchanged);
    s.commit("main", "one");
    assert_eq!(freshen(), moved(true, 1));
    s.upstream(&["update-ref", "-d", "refs/heads/main"]);
    assert_eq!(freshen(), moved(true, 1));
    s.assert_equal();
}

#[test]
fn an_upstream_of_another_object_format_is_an_error_and_changes_nothing() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let other = Scratch::new("sha256");
    other.commit("main", "x");
    let error = run(s.git.freshen(&s.mirror(), &other.url(), &RwLock::new(()))).unwrap_err();
    assert!(
        matches!(error, MirrorError::Git { .. } | MirrorError::Output { .. }),
        "{error}"
    );
    s.assert_equal();
}

#[test]
fn extra_refs_are_followed_from_the_clone_on_and_others_stay() {
    let mut s = Scratch::with_commit();
    s.git.follow = Follow::new(["refs/pull/*/head"]).unwrap();
    s.upstream(&["update-ref", "refs/pull/1/merge", "main"]);
    s.upstream(&["tag", "-m", "annotated", "v1", "main"]);
    s.upstream(&["update-ref", "refs/pull/1/head", "v1"]);
    s.clone_mirror();
    let pulls = || {
        git(
            &s.mirror(),
            &[
                "for-each-ref",
                "--format=%(refname)",
                "refs/pull",
                "refs/mine",
            ],
        )
    };
    assert_eq!(pulls(), "refs/pull/1/head");
    git(&s.mirror(), &["update-ref", "refs/mine/x", "main"]);
    git(&s.mirror(), &["pack-refs", "--all"]);
    s.upstream(&["update-ref", "refs/pull/2/head", "main"]);
    s.upstream(&["update-ref", "-d", "refs/pull/1/head"]);
    assert_eq!(s.freshen(), moved(false, 2));
    assert_eq!(pulls(), "refs/mine/x\nrefs/pull/2/head");
}

#[test]
fn http_upstream_works_and_says_when_there_is_none() {
    for format in ["sha1", "sha256"] {
        let s = Scratch::new(format);
        s.commit("main", "one");
        let server = Server::git(s.root().to_owned());
        let url = format!("http://127.0.0.1:{}/up.git", server.port);
        run(s.git.clone_mirror(&url, &s.mirror(), &s.staging())).unwrap();
        s.assert_equal();
        s.commit("main", "two");
        s.upstream(&["tag", "-m", "annotated", "v1", "main"]);
        let done = run(s.git.freshen(&s.mirror(), &url, &RwLock::new(()))).unwrap();
        assert_eq!(done, moved(true, 2));
        s.assert_equal();
        let missing = url.replace("up.git", "none.git");
        let error = run(s
            .git
            .clone_mirror(&missing, &s.root().join("m2"), &s.staging()))
        .unwrap_err();
        assert!(matches!(error, MirrorError::NotFound { .. }), "{error}");
        s.assert_staging_empty();
    }
}

#[test]
fn failures_have_names() {
    let s = Scratch::with_commit();
    let clone = |url: &str| run(s.git.clone_mirror(url, &s.mirror(), &s.staging())).unwrap_err();
    let error = clone(&format!("{}/none", s.url()));
    assert!(matches!(error, MirrorError::NotFound { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("does not appear to be a git repository"),
        "{error}"
    );
    let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let server = Server::new(move |_| answer.as_bytes().to_vec());
    let error = clone(&format!("http://127.0.0.1:{}/x", server.port));
    assert!(matches!(error, MirrorError::Denied { .. }), "{error}");
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = clone(&format!("http://127.0.0.1:{closed}/x"));
    assert!(matches!(error, MirrorError::Unreachable { .. }), "{error}");
    let error = clone("ext::sh -c true");
    assert!(matches!(error, MirrorError::Protocol { .. }), "{error}");
    let mut no_git = s.git.clone();
    no_git.program = s.root().join("no-such-program");
    let error = run(no_git.version()).unwrap_err();
    assert!(matches!(error, MirrorError::Start { .. }), "{error}");
    assert!(run(s.git.version()).unwrap().starts_with('2'));
    s.assert_staging_empty();
}

/// Lets ssh be a shell command, for upstreams that behave in chosen ways.
fn set_ssh(s: &Scratch, command: &str) {
    git(&s.mirror(), &["config", "core.sshCommand", command]);
}

#[test]
fn ssh_that_refuses_is_denied_and_stderr_is_bounded() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let lock = RwLock::new(());
    let freshen = || run(s.git.freshen(&s.mirror(), "ssh://git@h/x", &lock)).unwrap_err();
    set_ssh(
        &s,
        "echo 'git@h: Permission denied (publickey).' >&2; false",
    );
    let error = freshen();
    assert!(matches!(error, MirrorError::Denied { .. }), "{error}");
    set_ssh(
        &s,
        "head -c 300000 /dev/zero | tr '\\0' x >&2; echo >&2; echo 'the end' >&2; false",
    );
    let error = freshen();
    assert!(matches!(error, MirrorError::Unreachable { .. }), "{error}");
}

#[test]
fn git_error_keeps_only_the_end_of_stderr() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    git(
        &s.mirror(),
        &[
            "config",
            "alias.noise",
            "!head -c 300000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 3",
        ],
    );
    let error = run(s
        .git
        .output(s.git.local("git noise", &s.mirror(), ["noise"])))
    .unwrap_err();
    let MirrorError::Git { code, stderr, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(
        (code, stderr.len()),
        (Some(3), limits::GIT_STDERR_TAIL_BYTES)
    );
    assert!(stderr.ends_with("end\n"));
    git(&s.mirror(), &["config", "alias.flood", "!yes"]);
    let error = run(s
        .git
        .output(s.git.local("git flood", &s.mirror(), ["flood"])))
    .unwrap_err();
    assert!(matches!(error, MirrorError::Output { .. }), "{error}");
}

#[test]
fn an_upstream_that_hangs_is_killed_at_the_time_limit() {
    let mut s = Scratch::with_commit();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "http://127.0.0.1:{}/x",
        listener.local_addr().unwrap().port()
    );
    s.git.limits.clone = Duration::from_millis(300);
    let begun = Instant::now();
    let error = run(s.git.clone_mirror(&url, &s.mirror(), &s.staging())).unwrap_err();
    assert!(
        matches!(error, MirrorError::TimedOut { limit_ms: 300, .. }),
        "{error}"
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
    until("git is gone", || {
        processes_with(&url).into_iter().all(is_over)
    });
    s.assert_staging_empty();
    assert!(!s.mirror().exists());
}

/// Long before the time limit of a whole clone.
#[test]
fn an_upstream_that_says_nothing_is_given_up() {
    let mut s = Scratch::with_commit();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/x");
    s.git.limits.silent = Duration::from_secs(1);
    let error = run(s.git.clone_mirror(&url, &s.mirror(), &s.staging())).unwrap_err();
    assert!(matches!(error, MirrorError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("too slow"), "{error}");
    s.assert_staging_empty();
}

#[test]
fn what_ignores_sigterm_is_killed_with_its_group() {
    let mut s = Scratch::with_commit();
    s.clone_mirror();
    let mark = format!("{}/ready", s.root().display());
    set_ssh(
        &s,
        &format!("trap '' TERM; touch {mark}; while :; do sleep 1; done; true"),
    );
    s.git.limits.list = Duration::from_millis(1000);
    let error = run(s
        .git
        .freshen(&s.mirror(), "ssh://git@h/x", &RwLock::new(())))
    .unwrap_err();
    assert!(matches!(error, MirrorError::TimedOut { .. }), "{error}");
    assert!(Path::new(&mark).exists(), "it had begun");
    until("the shell is gone", || {
        processes_with(&mark).into_iter().all(is_over)
    });
}

#[test]
fn dropping_the_future_kills_the_group_and_removes_the_staging() {
    let s = Scratch::with_commit();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "http://127.0.0.1:{}/x",
        listener.local_addr().unwrap().port()
    );
    let (mirror, staging) = (s.mirror(), s.staging());
    let seen = run(async {
        let clone = s.git.clone_mirror(&url, &mirror, &staging);
        // The leader and the helper that speaks HTTP.
        let both = until_async("git runs", || processes_with(&url).len() >= 2);
        tokio::select! {
            done = clone => panic!("{done:?}"),
            () = both => processes_with(&url),
        }
    });
    until("all are gone", || seen.iter().all(|id| is_over(*id)));
    until("staging is empty", || {
        std::fs::read_dir(s.staging()).unwrap().next().is_none()
    });
}

#[test]
fn the_lock_is_not_needed_until_the_objects_are_there() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let new = s.commit("main", "two");
    let lock = RwLock::new(());
    let has_new = || {
        let packs = std::fs::read_dir(s.mirror().join("objects/pack")).unwrap();
        packs
            .filter(|e| {
                e.as_ref()
                    .unwrap()
                    .path()
                    .extension()
                    .is_some_and(|x| x == "idx")
            })
            .count()
            == 2
    };
    let head = || {
        refs::read(&s.mirror(), &Follow::default())
            .unwrap()
            .head_id()
            .unwrap()
            .to_string()
    };
    run(async {
        let (mirror, url) = (s.mirror(), s.url());
        let reader = lock.read().await;
        let freshen = s.git.freshen(&mirror, &url, &lock);
        tokio::pin!(freshen);
        tokio::select! {
            _ = &mut freshen => panic!("refs moved under a reader"),
            () = until_async("the new pack", has_new) => {}
        }
        assert_ne!(head(), new);
        drop(reader);
        assert_eq!(freshen.await.unwrap(), moved(true, 1));
        assert_eq!(head(), new);
    });
}

#[test]
fn a_listed_object_that_is_gone_has_a_name_and_leaves_the_refs() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let id = ObjectId::from_hex(&[b'1'; 40]).unwrap();
    let error = run(s
        .git
        .fetch_objects(&s.mirror(), &s.url(), &BTreeSet::from([id])))
    .unwrap_err();
    assert!(matches!(error, MirrorError::Vanished { .. }), "{error}");
    s.assert_equal();
}

#[test]
fn a_force_push_between_listing_and_fetching_is_looked_at_again() {
    let s = Arc::new(Scratch::with_commit());
    s.clone_mirror();
    let first = s.commit("main", "soon gone");
    let greetings = Arc::new(AtomicUsize::new(0));
    let (upstream, seen) = (s.clone(), greetings.clone());
    let server = Server::new(move |request| {
        // The first greeting is of ls-remote, the second of the fetch that follows it.
        let greets = request.target.contains("info/refs");
        if greets && seen.fetch_add(1, Ordering::SeqCst) == 1 {
            upstream.upstream(&["update-ref", "-d", "refs/heads/main"]);
            upstream.commit("main", "another root");
            upstream.upstream(&["repack", "-a", "-d", "-q"]);
            upstream.upstream(&["prune", "--expire=now"]);
        }
        http_backend(upstream.root(), request)
    });
    let url = format!("http://127.0.0.1:{}/up.git", server.port);
    let done = run(s.git.freshen(&s.mirror(), &url, &RwLock::new(()))).unwrap();
    assert_eq!(done, moved(true, 1));
    s.assert_equal();
    let have = refs::read(&s.mirror(), &Follow::default())
        .unwrap()
        .head_id()
        .unwrap()
        .to_string();
    assert_eq!(
        greetings.load(Ordering::SeqCst),
        4,
        "two looks, each with a fetch"
    );
    assert!(have != first && have == s.upstream(&["rev-parse", "main"]));
}

#[test]
fn works_inside_tokio_uring() {
    // It panics where io_uring is refused; then there is nothing to test.
    let probe = std::thread::spawn(|| tokio_uring::start(async {})).join();
    if probe.is_err() {
        return;
    }
    let s = Scratch::with_commit();
    tokio_uring::start(async {
        s.git
            .clone_mirror(&s.url(), &s.mirror(), &s.staging())
            .await
            .unwrap();
        s.commit("main", "two");
        let done = s
            .git
            .freshen(&s.mirror(), &s.url(), &RwLock::new(()))
            .await
            .unwrap();
        assert_eq!(done, moved(true, 1));
    });
    s.assert_equal();
}

#[test]
fn futures_can_move_between_threads() {
    fn check<T: Send>(_: &T) {}
    let (git, lock) = (Git::default(), RwLock::new(()));
    check(&git.clone_mirror("", Path::new(""), Path::new("")));
    check(&git.freshen(Path::new(""), "", &lock));
}

#[test]
fn fifty_thousand_refs_move_within_a_short_lock() {
    let s = Scratch::with_commit();
    let (one, two) = (s.commit("main", "two"), s.commit("main", "three"));
    let input = |id: &str| -> String {
        (0..50_000)
            .map(|i| format!("{id} refs/heads/b/{}/x{i:05}\n", i / 100))
            .collect()
    };
    let pack = |id: &str| {
        let main = format!("{two} refs/heads/main\n");
        let text = format!(
            "# pack-refs with: peeled fully-peeled sorted \n{}{main}",
            input(id)
        );
        std::fs::write(s.up().join("packed-refs"), text).unwrap();
        let _ = std::fs::remove_file(s.up().join("refs/heads/main"));
    };
    pack(&one);
    s.clone_mirror();
    let begun = Instant::now();
    let read = refs::read(&s.mirror(), &Follow::default()).unwrap();
    println!("read {} refs in {:?}", read.refs.len(), begun.elapsed());
    assert_eq!(read.refs.len(), 50_001);
    pack(&two);
    let begun = Instant::now();
    assert_eq!(s.freshen(), moved(false, 50_000));
    println!("freshen of 50,000 refs took {:?}", begun.elapsed());
    s.assert_equal();
    let wanted = refs::read(&s.mirror(), &Follow::default()).unwrap().refs;
    let prepared = packed::prepare(
        &s.mirror(),
        &Follow::default(),
        &wanted,
        Some(Head::Symbolic("refs/heads/main".into())),
    )
    .unwrap();
    let begun = Instant::now();
    prepared.commit().unwrap();
    println!("commit of 50,000 refs took {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_millis(500));
    s.assert_equal();
}

#[test]
fn a_commit_over_a_change_of_others_does_nothing() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let prepared = packed::prepare(&s.mirror(), &Follow::default(), &[], None).unwrap();
    git_with(
        &s.mirror(),
        &["update-ref", "--stdin"],
        b"create refs/heads/other refs/heads/main\n",
    );
    git(&s.mirror(), &["pack-refs", "--all"]);
    assert!(matches!(prepared.commit(), Err(CommitError::Changed)));
    let names = || {
        std::fs::read_dir(s.mirror())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect::<Vec<_>>()
    };
    assert!(
        !names()
            .iter()
            .any(|n| n.to_string_lossy().starts_with("tmp_") || n == "packed-refs.lock")
    );
    // A lock held by another process is respected, one from long ago is not.
    let lock = s.mirror().join("packed-refs.lock");
    std::fs::write(&lock, "").unwrap();
    let prepare = || packed::prepare(&s.mirror(), &Follow::default(), &[], None).unwrap();
    assert!(matches!(prepare().commit(), Err(CommitError::Io(..))));
    let old =
        std::time::SystemTime::now() - Duration::from_millis(limits::MIRROR_LOCK_STALE_MS + 60_000);
    File::options()
        .write(true)
        .open(&lock)
        .unwrap()
        .set_modified(old)
        .unwrap();
    prepare().commit().unwrap();
    assert!(!lock.exists());
}
