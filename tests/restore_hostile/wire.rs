//! What stands around the archive: heads of answers, bundles, `ensure-refs`, and what `git` is
//! made to fetch.

use crate::archive::{Archive, zst};
use crate::ground::{Fixture, Ground, fixture};
use crate::support::git;
use crate::support::relay::listen;
use crate::support::restore::asks_for_archive;
use crate::trial::{answers, check_text, nothing_left, ok, read_request, serve_beside, used};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

/// A server that answers with `archive`, whose head has `fields`; to everything else with what
/// `other` says, which gets the first line of the request.
fn server(
    archive: Archive,
    fields: &str,
    other: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
) -> SocketAddr {
    serve_beside(fields.to_owned(), zst(&archive.tar()), other)
}

fn not_found(_: &str) -> Vec<u8> {
    crate::trial::not_found()
}

/// The restore does no harm, and is one or has one of these exit codes.
fn attempt(name: &str, address: SocketAddr, more: &[&str], codes: &[i32]) -> Result<(), String> {
    let ground = Ground::new();
    in_place(&ground, address, more, codes).map_err(|why| format!("{name}: {why}"))
}

fn in_place(
    ground: &Ground,
    address: SocketAddr,
    more: &[&str],
    codes: &[i32],
) -> Result<(), String> {
    let out = ground.restore(address, more);
    ground.harm()?;
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    check_text(&errors)?;
    let code = out.status.code().unwrap_or(-1);
    match code {
        _ if !codes.contains(&code) => {
            Err(format!("exit {code}, not {codes:?}: {}", errors.trim()))
        }
        0 => used(fixture(), ground),
        _ => nothing_left(ground),
    }
}

#[track_caller]
fn expect(failed: impl Iterator<Item = Result<(), String>>) {
    let failed: Vec<String> = failed.filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{}\n", failed.join("\n"));
    fixture().check().unwrap_or_else(|e| panic!("{e}"));
}

/// Nobody is asked but the server that the user named.
#[test]
fn a_bundle_is_only_the_servers_own() {
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = asked.clone();
    let elsewhere = listen(move |socket| {
        let line = read_request(socket);
        seen.lock().unwrap_or_else(|p| p.into_inner()).push(line);
    });
    let urls = [
        format!("http://{elsewhere}/x.bundle"),
        format!("//{elsewhere}/x.bundle"),
        format!("/\\{elsewhere}/x.bundle"),
        format!("@{elsewhere}/x"),
        "file:///etc/passwd".into(),
        "/../../../etc/passwd".into(),
        "/git/test/app/x HTTP/1.1\u{b}Host: evil".into(),
        "/git/x y".into(),
        "/\u{1b}[31m".into(),
        "x".repeat(60_000),
        String::new(),
    ];
    expect(urls.iter().map(|url| {
        let fields = format!("X-Cachew-Bundle-Url: {url}\r\n");
        let address = server(fixture().good.clone(), &fields, not_found);
        attempt(&url[..url.len().min(60)], address, &[], &[0, 3, 5])
    }));
    let asked = asked.lock().unwrap_or_else(|p| p.into_inner());
    assert!(asked.is_empty(), "{asked:?}");
}

/// A redirect of anything leads nowhere.
#[test]
fn no_redirect_is_followed() {
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = asked.clone();
    let elsewhere = listen(move |mut socket| {
        let line = read_request(socket);
        seen.lock().unwrap_or_else(|p| p.into_inner()).push(line);
        drop(socket.write_all(&not_found("")));
    });
    let redirect = move |status: u16| {
        format!(
            "HTTP/1.1 {status} Moved\r\nLocation: http://{elsewhere}/x\r\nContent-Length: 0\r\n\r\n"
        )
    };
    for status in [301, 302, 303, 307, 308] {
        let answer = redirect(status);
        let first = answers(move |_| answer.clone().into_bytes());
        expect([attempt("first", first, &[], &[2, 3])].into_iter());
        let answer = redirect(status);
        let fields = "X-Cachew-Bundle-Url: /git/test/app/snapshot.bundle?base=1\r\n";
        let later = server(fixture().good.clone(), fields, move |_| {
            answer.clone().into_bytes()
        });
        expect(
            [
                attempt("bundle", later, &[], &[0]),
                attempt("ensure-refs", later, &["--ref", "side"], &[2, 3, 6, 7]),
            ]
            .into_iter(),
        );
    }
    let asked = asked.lock().unwrap_or_else(|p| p.into_inner());
    assert!(asked.is_empty(), "{asked:?}");
}

#[test]
fn heads_of_answers_lead_nowhere() {
    let id = "1".repeat(40);
    let fields = [
        "X-Cachew-Snapshot-Commit: \u{1b}[31mx\r\n".to_owned(),
        "X-Cachew-Snapshot-Commit: --upload-pack=evil\r\n".into(),
        "X-Cachew-Snapshot-Commit: ../../x\r\n".into(),
        format!("X-Cachew-Snapshot-Commit: {}\r\n", "a".repeat(30_000)),
        format!("X-Cachew-Snapshot-Commit: {id}\r\nX-Cachew-Snapshot-Commit: {id}\r\n"),
        "ETag: \u{1b}]0;x\u{7}\r\n".into(),
        "Content-Encoding: gzip\r\n".into(),
        "Content-Range: bytes 5-9/10\r\n".into(),
        "Transfer-Encoding: chunked\r\n".into(),
        "Set-Cookie: x\r\nLocation: file:///etc/passwd\r\nRefresh: 0; url=/x\r\n".into(),
        "Content-Length: 5\r\n".into(),
        "X: a\r\n folded\r\n".into(),
        "\0: x\r\n".into(),
        "X: a\rb\r\n".into(),
    ];
    expect(fields.iter().map(|fields| {
        let address = server(fixture().good.clone(), fields, not_found);
        attempt(&fields[..fields.len().min(60)], address, &[], &[0, 3, 5])
    }));
    let heads: [&[u8]; 10] = [
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"\x1b[2J",
        b"HTTP/1.1 999 \x1b[31m\r\nContent-Length: 5\r\n\r\n\x1b[31mx",
        b"HTTP/1.1 500 x\r\nContent-Length: 9\r\n\r\n\x1b]0;x\x07\x9b31m",
        b"HTTP/1.1 404 x\r\nContent-Length: 9\r\n\r\n\x1b]0;x\x07\xc2\x9b",
        b"HTTP/1.1 206 x\r\nContent-Range: bytes 0-99999999999999999999/5\r\n\r\n",
        b"HTTP/1.1 200 x\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ];
    expect(heads.iter().map(|head| {
        let head = head.to_vec();
        let name = head.escape_ascii().to_string();
        let address = listen(move |mut socket| {
            if read_request(socket).is_some() {
                drop(socket.write_all(&head));
            }
        });
        attempt(&name, address, &["--stall-timeout", "2"], &[2, 3, 5])
    }));
}

/// A proxy may send interim answers before the one that counts; not without end.
#[test]
fn interim_answers_are_passed_over() {
    let body = Arc::new(zst(&fixture().good.tar()));
    let cases = [(1, 0), (3, 0), (20_000, 3)];
    expect(cases.iter().map(|(count, code)| {
        let (body, count) = (body.clone(), *count);
        let address = listen(move |mut socket| {
            let interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(count);
            while read_request(socket).is_some() {
                let sent = socket.write_all(interim.as_bytes());
                if sent
                    .and_then(|()| socket.write_all(&ok("", &body)))
                    .is_err()
                {
                    return;
                }
            }
        });
        attempt(&format!("{count}"), address, &[], &[*code])
    }));
}

/// A bundle of the fixture's upstream beyond HEAD, with another head.
fn bundle(change: impl FnOnce(&str) -> String) -> Vec<u8> {
    let file = Ground::new();
    let path = file.text("new.bundle");
    git::run(
        &fixture().path(),
        &["bundle", "create", "-q", &path, "main", "HEAD"],
    );
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{e}"));
    let end = bytes.windows(2).position(|w| w == b"\n\n").unwrap_or(0);
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    [change(&head).as_bytes(), b"\n\n", &bytes[end + 2..]].concat()
}

type Change = fn(&str) -> String;
const BUNDLES: [(&str, Change); 12] = [
    ("good", str::to_owned),
    ("an absolute name", |head| {
        head.replace("refs/heads/main", "/etc/passwd")
    }),
    ("a name up", |head| {
        head.replace("refs/heads/main", "refs/heads/../../config")
    }),
    ("hooks", |head| {
        head.replace("refs/heads/main", "hooks/post-checkout")
    }),
    ("an option", |head| {
        head.replace("refs/heads/main", "--upload-pack=evil")
    }),
    ("replace", |head| {
        head.replace(
            "refs/heads/main",
            &format!("refs/replace/{}", "1".repeat(40)),
        )
    }),
    ("terminal", |head| {
        head.replace("refs/heads/main", "refs/heads/\u{1b}[31mx")
    }),
    ("no head", |_| "# v2 git bundle".into()),
    ("version 9", |head| head.replace("v2", "v9")),
    ("capabilities", |head| {
        head.replace(
            "# v2 git bundle",
            "# v3 git bundle\n@filter=blob:none\n@evil=x",
        )
    }),
    ("many heads", |head| {
        format!(
            "{head}\n{}",
            format!("{} refs/heads/x\n", "1".repeat(40))
                .repeat(20_000)
                .trim_end()
        )
    }),
    ("a long line", |head| {
        format!("{head}\n{}", "x".repeat(1 << 20))
    }),
];

#[test]
fn a_hostile_bundle_leaves_the_snapshot_or_nothing() {
    let fields = "X-Cachew-Bundle-Url: /git/test/app/snapshot.bundle?base=1\r\n";
    let mut results: Vec<Result<(), String>> = Vec::new();
    for (name, change) in BUNDLES {
        let body = bundle(change);
        let address = server(fixture().good.clone(), fields, move |_| ok("", &body));
        results.push(attempt(
            &format!("bundle: {name}"),
            address,
            &[],
            &[0, 3, 5, 6],
        ));
    }
    for (name, body) in [
        ("empty", Vec::new()),
        ("rubbish", vec![7; 100_000]),
        ("an archive", zst(&fixture().good.tar())),
    ] {
        let address = server(fixture().good.clone(), fields, move |_| ok("", &body));
        results.push(attempt(
            &format!("bundle: {name}"),
            address,
            &[],
            &[0, 3, 5, 6],
        ));
    }
    expect(results.into_iter());
}

#[test]
fn hostile_answers_to_ensure_refs_restore_nothing() {
    let id = fixture().ask(&["rev-parse", "HEAD"]);
    let long = "x".repeat(4 << 20);
    let bodies = [
        "{}".to_owned(),
        "[".repeat(100_000),
        format!("{{\"refs\":{{\"refs/heads/side\":\"{long}\"}},\"missing_commits\":[]}}"),
        "{\"refs\":{\"refs/heads/side\":\"--upload-pack=evil\"},\"missing_commits\":[]}".into(),
        "{\"refs\":{\"refs/heads/side\":\"ext::evil\"},\"missing_commits\":[]}".into(),
        format!(
            "{{\"refs\":{{\"refs/heads/side\":\"{id}\"}},\"missing_commits\":[\"\\u001b[31mx\"]}}"
        ),
        "{\"refs\":{},\"missing_commits\":[\"\\u001b]0;x\\u0007\"]}".into(),
        format!("{{\"refs\":{{\"../../x\":\"{id}\",\"--x\":\"{id}\"}},\"missing_commits\":[]}}"),
        format!(
            "{{\"refs\":{{\"refs/heads/side\":\"{}\"}},\"missing_commits\":[]}}",
            "1".repeat(40)
        ),
        "\u{1b}[31m".into(),
    ];
    expect(bodies.iter().enumerate().map(|(number, body)| {
        let body = body.clone();
        let other = move |asked: &str| match asked.contains("ensure-refs") {
            true => ok("", body.as_bytes()),
            false => not_found(asked),
        };
        let address = server(fixture().good.clone(), "", other);
        let codes = [2, 3, 5, 6, 7];
        attempt(
            &format!("ensure-refs {number}"),
            address,
            &["--ref", "side"],
            &codes,
        )
    }));
}

type Lines = fn(&Ground, SocketAddr) -> String;
const LINES: [(&str, Lines); 12] = [
    ("core.worktree", |g, _| {
        format!("[core] worktree = {} # ]\n", g.text("outside/tree"))
    }),
    ("url to file", |g, s| {
        format!(
            "[remote \"http://{s}/git/test/app\"] url = file://{} # ]\n",
            g.text("outside/tree")
        )
    }),
    ("url to ssh", |_, s| {
        format!("[remote \"http://{s}/git/test/app\"] url = ssh://evil.invalid/x # ]\n")
    }),
    ("url to ext", |g, s| {
        format!(
            "[remote \"http://{s}/git/test/app\"] url = ext::{} # ]\n",
            g.text("canary")
        )
    }),
    ("insteadOf", |g, s| {
        format!(
            "[url \"ext::{} \"] insteadOf = http://{s}/ # ]\n",
            g.text("canary")
        )
    }),
    ("uploadpack", |g, s| {
        format!(
            "[remote \"http://{s}/git/test/app\"] uploadpack = {} # ]\n\
             [remote \"http://{s}/git/test/app\"] url = file:///x # ]\n",
            g.text("canary")
        )
    }),
    ("partial clone", |g, _| {
        format!(
            "[extensions] partialClone = origin # ]\n[remote \"origin\"] promisor = true # ]\n\
             [remote \"origin\"] uploadpack = {} # ]\n",
            g.text("canary")
        )
    }),
    ("hooksPath", |g, _| {
        format!("[core] hooksPath = {} # ]\n", g.text("hooks"))
    }),
    ("fsmonitor", |g, _| {
        format!("[core] fsmonitor = {} # ]\n", g.text("canary"))
    }),
    ("filter", |g, _| {
        format!("[filter \"evil\"] smudge = {} # ]\n", g.text("canary"))
    }),
    ("proxy", |_, s| format!("[http] proxy = http://{s}/ # ]\n")),
    ("credential", |g, _| {
        format!("[credential] helper = \"!{}\" # ]\n", g.text("canary"))
    }),
];

/// An archive whose configuration or refs would have the restore's own `git` do something, with a
/// server that is asked for more than the archive.
#[test]
fn the_restores_own_git_obeys_no_archive() {
    let id = fixture().ask(&["rev-parse", "origin/side"]);
    let unknown = "1".repeat(40);
    let mut results = Vec::new();
    for (name, lines) in LINES {
        for more in [["--ref", "side"], ["--commit", &unknown]] {
            let ground = Ground::new();
            let answer =
                format!("{{\"refs\":{{\"refs/heads/side\":\"{id}\"}},\"missing_commits\":[]}}");
            let slot = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
            let archive = slot.clone();
            let address = answers(move |asked| match asked {
                a if asks_for_archive(a) => {
                    ok("", &archive.lock().unwrap_or_else(|p| p.into_inner()))
                }
                a if a.contains("ensure-refs") => ok("", answer.as_bytes()),
                a if a.contains("locked") => Vec::new(),
                a => not_found(a),
            });
            let text = lines(&ground, address);
            let made = fixture().good.clone().append(".git/config", &text);
            *slot.lock().unwrap_or_else(|p| p.into_inner()) = zst(&made.tar());
            let codes = [2, 3, 5, 6, 7];
            let result = in_place(&ground, address, &more, &codes);
            results.push(result.map_err(|why| format!("{name} {more:?}: {why}")));
        }
    }
    expect(results.into_iter());
}

/// The target of `--overwrite` is as hostile as an archive.
#[test]
fn the_repository_that_is_replaced_is_not_obeyed() {
    type Hostile = fn(&Fixture, &Ground) -> Archive;
    let hostile: [(&str, Hostile); 8] = [
        ("good", |f, _| f.good.clone()),
        ("fsmonitor", |f, g| {
            f.good.clone().append(
                ".git/config",
                &format!("[core]\nfsmonitor = {}\n", g.text("canary")),
            )
        }),
        ("hooks", |f, g| {
            f.good.clone().append(
                ".git/config",
                &format!("[core]\nhooksPath = {}\n", g.text("hooks")),
            )
        }),
        ("worktree", |f, g| {
            f.good.clone().append(
                ".git/config",
                &format!("[core]\nworktree = {}\n", g.text("outside")),
            )
        }),
        ("alternates command", |f, g| {
            f.good.clone().append(
                ".git/config",
                &format!("[core]\nalternateRefsCommand = {}\n", g.text("canary")),
            )
        }),
        ("partial clone", |f, g| {
            f.good.clone().without(&f.good.find(".git/objects/pack/", ".pack")).append(
                ".git/config",
                &format!(
                    "[extensions]\npartialClone = origin\n[remote \"origin\"]\npromisor = true\nuploadpack = {}\n",
                    g.text("canary")
                ),
            )
        }),
        ("no repository", |f, _| f.good.clone().set(".git/HEAD", "")),
        ("a file .git", |f, g| {
            let mut archive = f.good.clone();
            archive
                .0
                .retain(|e| !e.name.starts_with(b".git/") && e.name != b".git");
            archive.add_last(crate::archive::Entry::file(
                ".git",
                format!("gitdir: {}\n", g.text("outside/tree")),
            ))
        }),
    ];
    expect(hostile.into_iter().map(|(name, make)| {
        let ground = Ground::new();
        ground.unpack(&make(fixture(), &ground).tar());
        let address = server(fixture().good.clone(), "", not_found);
        let out = ground.restore(address, &["--overwrite"]);
        ground.harm().map_err(|why| format!("{name}: {why}"))?;
        match out.status.code() {
            Some(0) => used(fixture(), &ground).map_err(|why| format!("{name}: {why}")),
            Some(1 | 4 | 6) => Ok(()),
            code => Err(format!(
                "{name}: exit {code:?}: {}",
                String::from_utf8_lossy(&out.stderr)
            )),
        }
    }));
}
