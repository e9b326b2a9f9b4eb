use super::*;
use crate::access::redirect::{AllRedirects, Redirects};
use crate::config::Share;
use crate::mirror::Apart;
use crate::mirror::testing::{
    Request, Scratch, Server, git, http_backend, is_over, processes_with, run, until,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::RwLock;

#[test]
fn listing_is_parsed_in_any_pieces_and_bounded() {
    let (a, b) = ("1".repeat(40), "2".repeat(40));
    let text = format!(
        "ref: refs/heads/main\tHEAD\n{a}\tHEAD\n{a}\trefs/heads/main\n{b}\trefs/pull/1/head\n{b}\trefs/tags/v\n{a}\trefs/tags/v^{{}}\n{a}\trefs/heads/..bad\n"
    );
    let follow = Follow::default();
    let beside = Beside::default();
    let lines = || Lines::new(&follow, &beside);
    for cut in 0..text.len() {
        let mut parsing = lines();
        parsing.push(&text.as_bytes()[..cut]).unwrap();
        parsing.push(&text.as_bytes()[cut..]).unwrap();
        let listing = parsing.finish().unwrap();
        assert_eq!(listing.head_target.unwrap(), "refs/heads/main");
        assert_eq!(listing.head_id.unwrap().to_string(), a);
        let names: Vec<_> = listing.refs.iter().map(|r| r.name.to_string()).collect();
        assert_eq!(names, ["refs/heads/main", "refs/tags/v"]);
        assert_eq!(listing.refs[1].peeled.unwrap().to_string(), a);
    }
    assert!(lines().push(b"nonsense\n").is_err());
    assert!(
        lines()
            .push(&vec![b'x'; limits::UPSTREAM_LINE_BYTES_MAX + 1])
            .is_err()
    );
    let mut cut_off = lines();
    cut_off.push(&text.as_bytes()[..text.len() - 1]).unwrap();
    assert!(cut_off.finish().is_err());
    let mut twice = lines();
    twice
        .push(format!("{a}\trefs/heads/m\n{b}\trefs/heads/m\n").as_bytes())
        .unwrap();
    assert!(twice.finish().is_err());
}

/// A server of upstreams that answers with a redirect where `location` gives one; and how many
/// requests there were.
fn moved_server(
    s: &Scratch,
    location: impl Fn(&Request) -> Option<String> + Send + 'static,
) -> (Server, Arc<AtomicUsize>) {
    let (root, asked) = (s.root().to_owned(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    let server = Server::new(move |request| {
        count.fetch_add(1, Ordering::SeqCst);
        match location(request) {
            Some(location) => {
                let head = "HTTP/1.1 301 Moved Permanently\r\nConnection: close\r\n";
                format!("{head}Location: {location}\r\nContent-Length: 0\r\n\r\n").into_bytes()
            }
            None => http_backend(&root, request),
        }
    });
    (server, asked)
}

/// So hosts answer for a repository that was renamed, or that is asked for without its `.git`.
#[test]
fn a_redirect_to_the_same_host_is_followed() {
    let s = Scratch::with_commit();
    let (server, _) = moved_server(&s, |request| {
        if let Some(rest) = request.target.strip_prefix("/UP") {
            return Some(format!("/up.git{rest}"));
        }
        let rest = request.target.strip_prefix("/old")?;
        // `/olderer` is `/older` now, and so on.
        Some(match rest.strip_prefix("er") {
            Some(rest) => format!("/old{rest}"),
            None => format!("/up.git{rest}"),
        })
    });
    let url = format!("http://127.0.0.1:{}/olderer", server.port);
    run(s.git.clone_mirror(&url, &s.mirror(), &s.staging())).unwrap();
    s.assert_equal();
    let origin = git(&s.mirror(), &["config", "remote.origin.url"]);
    assert_eq!(origin, url, "it is the URL that is configured");
    let new = s.commit("main", "two");
    let wanted = Apart::Id(ObjectId::from_hex(new.as_bytes()).unwrap());
    let brought = run(s.git.fetch_apart((&s.mirror(), &url), &wanted, Vec::new())).unwrap();
    git(brought.path(), &["cat-file", "-e", &new]);
    drop(brought);
    run(s.git.freshen(&s.mirror(), &url, &RwLock::new(()))).unwrap();
    s.assert_equal();
    // Where not all are open it is another's name that would be read by this one.
    let closed = |ignores_case| {
        let redirects = Redirects {
            elsewhere: false,
            ignores_case,
        };
        let base = format!("http://127.0.0.1:{}/", server.port);
        Git {
            redirects: Arc::new(AllRedirects::new(vec![(base, redirects)])),
            ..s.git.clone()
        }
    };
    let freshen = |git: Git, url: &str| run(git.freshen(&s.mirror(), url, &RwLock::new(())));
    let elsewhere = freshen(closed(true), &url).unwrap_err();
    assert!(
        matches!(elsewhere, MirrorError::NotFound { .. }),
        "{elsewhere}"
    );
    let upper = format!("http://127.0.0.1:{}/UP", server.port);
    freshen(closed(true), &upper).unwrap();
    assert!(freshen(closed(false), &upper).is_err());
}

#[test]
fn no_other_host_is_asked() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (other, asked) = moved_server(&s, |_| None);
    let port = other.port;
    for base in [
        format!("http://localhost:{port}"),
        format!("http://127.0.0.1:{port}"),
        format!("http://u@127.0.0.1:{port}"),
        format!("//127.0.0.2:{port}"),
        format!("file://{}", s.root().display()),
    ] {
        let to = base.clone();
        let (server, _) = moved_server(&s, move |request| {
            Some(format!("{to}{}", request.target.replace("old", "up.git")))
        });
        let url = format!("http://127.0.0.1:{}/old", server.port);
        let error = run(s.git.freshen(&s.mirror(), &url, &RwLock::new(()))).unwrap_err();
        assert!(
            matches!(error, MirrorError::Redirected { .. }),
            "{base}: {error}"
        );
        let shown = base.replace("u@", "");
        assert!(error.to_string().contains(&shown), "{error}");
        let dest = s.root().join("m2");
        let error = run(s.git.clone_mirror(&url, &dest, &s.staging())).unwrap_err();
        assert!(matches!(error, MirrorError::Redirected { .. }), "{error}");
        assert!(!dest.exists());
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    s.assert_staging_empty();
}

/// The redirect comes when the refs were listed already, or leads to itself.
#[test]
fn a_redirect_that_does_not_end_or_comes_late_is_an_error() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    s.commit("main", "two");
    let (server, asked) = moved_server(&s, |request| {
        let (path, rest) = request.target.split_once("/info")?;
        Some(format!("{path}x/info{rest}"))
    });
    let url = format!("http://127.0.0.1:{}/old", server.port);
    let freshen = |url: &str| run(s.git.freshen(&s.mirror(), url, &RwLock::new(()))).unwrap_err();
    let error = freshen(&url);
    assert!(error.to_string().contains("more than 3 times"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 2 * limits::REDIRECTS_MAX + 1);
    let (server, _) = moved_server(&s, |request| {
        let is_post = request.method == "POST";
        is_post.then(|| format!("http://localhost:1{}", request.target))
    });
    let error = freshen(&format!("http://127.0.0.1:{}/up.git", server.port));
    assert!(matches!(error, MirrorError::Redirected { .. }), "{error}");
}

/// git's older way over HTTP: a server of files. Its alternates may name any host.
#[test]
fn alternates_of_an_upstream_are_not_followed() {
    let s = Scratch::with_commit();
    let lent = s.root().join("lent.git");
    git(s.root(), &["clone", "-q", "--bare", "up.git", "lent.git"]);
    let (other, asked) = moved_server(&s, |_| None);
    std::fs::remove_dir_all(lent.join("objects")).unwrap();
    for dir in ["objects/info", "objects/pack"] {
        std::fs::create_dir_all(lent.join(dir)).unwrap();
    }
    let lender = format!("http://127.0.0.1:{}/up.git/objects\n", other.port);
    std::fs::write(lent.join("objects/info/http-alternates"), lender).unwrap();
    let main = s.upstream(&["rev-parse", "main"]);
    std::fs::create_dir_all(lent.join("info")).unwrap();
    std::fs::write(lent.join("info/refs"), format!("{main}\trefs/heads/main\n")).unwrap();
    let files = Server::new(move |request| {
        let path = request.target.split('?').next().unwrap_or_default();
        let file = std::fs::read(lent.join(path.trim_start_matches("/lent.git/")));
        let (status, body) = match file {
            Ok(body) => ("200 OK", body),
            Err(_) => ("404 Not Found", Vec::new()),
        };
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        [head.as_bytes(), &body].concat()
    });
    let url = format!("http://127.0.0.1:{}/lent.git", files.port);
    let error = run(s.git.clone_mirror(&url, &s.mirror(), &s.staging())).unwrap_err();
    assert_eq!(asked.load(Ordering::SeqCst), 0, "{error}");
    assert!(!s.mirror().exists());
}

#[test]
fn only_the_schemes_of_upstreams_are_spoken() {
    let mut s = Scratch::with_commit();
    s.clone_mirror();
    s.git.schemes = "https".into();
    let error = run(s.git.freshen(&s.mirror(), &s.url(), &RwLock::new(()))).unwrap_err();
    assert!(matches!(error, MirrorError::Protocol { .. }), "{error}");
    s.assert_equal();
}

/// An upstream that never stops to list refs: git's memory is bounded, and all of it ends.
#[test]
fn an_endless_listing_is_given_up() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    for clones in [false, true] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let endless = std::thread::spawn(move || endless_refs(&listener));
        let url = format!("http://127.0.0.1:{port}/x");
        let began = Instant::now();
        let error = match clones {
            false => run(s.git.freshen(&s.mirror(), &url, &RwLock::new(()))).map(drop),
            true => run(s.git.clone_mirror(&url, &s.root().join("m2"), &s.staging())),
        };
        let error = error.unwrap_err();
        println!("given up after {:?}: {error}", began.elapsed());
        assert!(matches!(error, MirrorError::Memory { .. }), "{error}");
        until("git is gone", || {
            processes_with(&url).into_iter().all(is_over)
        });
        let sent_bytes = endless.join().unwrap();
        assert!(
            sent_bytes < 2 * limits::LISTING_MEMORY_BYTES,
            "{sent_bytes}"
        );
    }
    s.assert_equal();
    s.assert_staging_empty();
}

/// Answers one request with refs until the client leaves; the bytes that were sent.
fn endless_refs(listener: &std::net::TcpListener) -> u64 {
    use std::io::{Read, Write};
    let (mut stream, _) = listener.accept().unwrap();
    let _ = stream.read(&mut [0; 4096]);
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\
                Content-Type: application/x-git-upload-pack-advertisement\r\n\r\n\
                001e# service=git-upload-pack\n0000";
    let _ = stream.write_all(head.as_bytes());
    let id = "1".repeat(40);
    let mut sent_bytes = 0;
    for first in (0_u64..).step_by(1000) {
        let line = |number: u64| {
            let name = format!("{id} refs/heads/b{number:012}\n");
            format!("{:04x}{name}", name.len() + 4)
        };
        let lines: String = (first..first + 1000).map(line).collect();
        if stream.write_all(lines.as_bytes()).is_err() {
            break;
        }
        sent_bytes += lines.len() as u64;
    }
    sent_bytes
}

/// Also one that talks to nobody: what it works on came from others.
#[test]
fn every_git_has_a_memory_limit() {
    let mut s = Scratch::with_commit();
    s.git.memory_bytes = limits::GIT_MEMORY_MIN_BYTES;
    let up = s.up();
    let args = ["-c", "alias.limit=!ulimit -d", "limit"];
    let local = s.git.local("git limit", &up, args);
    let listing = s.git.listing("file:///nowhere", &up, args);
    for (call, expected) in [
        (local, limits::GIT_MEMORY_MIN_BYTES),
        (listing, limits::LISTING_MEMORY_BYTES),
    ] {
        let kib = run(s.git.output(call)).unwrap();
        let kib: u64 = String::from_utf8(kib).unwrap().trim().parse().unwrap();
        assert_eq!(kib << 10, expected);
    }
}

/// What a clone needs is there with little memory, and with what git may take by default.
#[test]
fn a_clone_fits_into_the_least_memory() {
    for memory_bytes in [
        limits::GIT_MEMORY_MIN_BYTES,
        limits::GIT_MEMORY_DEFAULT_BYTES,
    ] {
        let mut s = Scratch::with_commit();
        for number in 0..50 {
            s.commit("main", &format!("{number}"));
        }
        s.git.memory_bytes = memory_bytes;
        s.git.size_limit = Share::Bytes(16 << 20);
        s.clone_mirror();
        s.assert_equal();
        s.commit("main", "more");
        s.freshen();
        s.assert_equal();
    }
}

/// The files of an upstream belong to another user; only root can give them away.
#[test]
fn files_of_another_user_are_named_as_such() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let s = Scratch::with_commit();
    std::os::unix::fs::chown(s.up(), Some(65_534), None).unwrap();
    let error = run(s.git.clone_mirror(&s.url(), &s.mirror(), &s.staging())).unwrap_err();
    assert!(matches!(error, MirrorError::Owner { .. }), "{error}");
    assert!(error.to_string().contains("safe.directory"), "{error}");
}
