//! Who gets what where the upstream's own permission decides: the matrix of the table of routes, and a corpus of
//! requests by somebody who may not read.

use std::time::Duration;

use tarpon::http::wire::table::{At, Endpoint, Methods, Row, TABLE};

use super::permission::{Host, files, seen, snapshot, with_own_credentials};
use super::support::client::{Conn, Response};
use super::support::lab;
use super::support::rng::Rng;
use super::support::server::Server;
use super::support::upstream::{Answers, User};
use super::support::{git, wait};

/// The methods of a row, each with the body that it needs.
fn methods(row: &Row) -> &'static [&'static str] {
    match row.methods {
        Methods::Get => &["GET"],
        Methods::GetHead => &["GET", "HEAD"],
        Methods::Post => &["POST"],
    }
}

/// What is asked for: a route of a repository, which has a commit.
struct Asked<'a> {
    row: &'a Row,
    method: &'static str,
    commit: &'a str,
}

impl Asked<'_> {
    /// All that there are of repositories.
    fn all(commit: &str) -> Vec<Asked<'_>> {
        let is_of_repository =
            |row: &&'static Row| matches!(row.at, At::Repository { .. } | At::Part);
        let rows = TABLE.iter().filter(is_of_repository);
        let all = rows.flat_map(|row| methods(row).iter().map(move |method| (row, *method)));
        all.map(|(row, method)| Asked {
            row,
            method,
            commit,
        })
        .collect()
    }

    fn send(&self, server: &Server, below: &str, fields: &[&str]) -> Response {
        let end = match self.row.at {
            At::Repository { end, .. } => end,
            At::Part => "/parts/pack-1.pack",
            _ => panic!("{:?} is of no repository", self.row.endpoint),
        };
        let commit = self.commit;
        let packet = |text: &str| format!("{:04x}{text}", text.len() + 4);
        let (query, kind, body) = match self.row.endpoint {
            Endpoint::Bundle => (format!("?base={commit}"), "", String::new()),
            Endpoint::InfoRefs => ("?service=git-upload-pack".to_owned(), "", String::new()),
            Endpoint::EnsureRefs => {
                let body = format!(r#"{{"commits":["{commit}"]}}"#);
                (String::new(), "application/json", body)
            }
            Endpoint::UploadPack => {
                let want = packet(&format!("want {commit} no-progress\n"));
                let body = want + "0000" + &packet("done\n");
                (String::new(), "application/x-git-upload-pack-request", body)
            }
            _ => (String::new(), "", String::new()),
        };
        let target = format!("/git/{below}{end}{query}");
        let mut conn = Conn::open(server.address());
        match self.method {
            "POST" => {
                let kind = format!("Content-Type: {kind}");
                let fields = [fields, &[&*kind]].concat();
                conn.post(&target, &fields, body.as_bytes());
            }
            method => conn.request(method, &target, fields),
        }
        conn.response(self.method)
    }

    /// How somebody is refused who has shown this.
    fn refused(&self, shown: Option<&str>) -> u16 {
        match (self.row.endpoint, shown) {
            // It is signed, or it is not.
            (Endpoint::Webhook, _) => 401,
            (_, None) => 401,
            (_, Some(_)) => 404,
        }
    }
}

/// What else a request may say, and the names by which a repository may be asked for.
const CONDITIONS: [&str; 4] = [
    "X: y",
    "Range: bytes=0-9",
    "If-None-Match: *",
    "Cache-Control: max-age=0",
];
const NAMES: [&str; 4] = ["test/NAME", "test/NAME.git", "TEST/NAME", "test/x/NAME"];

/// Nobody who may not read sees a difference between what there is and what there is not, or a byte of it.
pub(super) fn expect_refusals(
    server: &Server,
    commit: &str,
    strangers: &[Option<String>],
    name: &str,
) {
    for asked in Asked::all(commit) {
        for stranger in strangers {
            let what = format!("{} {:?} {stranger:?}", asked.method, asked.row.endpoint);
            let with = |condition: &'static str| {
                let mut fields = vec![condition];
                fields.extend(stranger.as_deref());
                fields
            };
            let not = seen(&asked.send(server, "test/none", &with(CONDITIONS[0])));
            assert_eq!(not.0, asked.refused(stranger.as_deref()), "{what}: {not:?}");
            let caching = not.1.iter().find(|(name, _)| name == "cache-control");
            assert_eq!(
                caching.map(|(_, value)| &**value),
                Some("private, no-store")
            );
            for condition in CONDITIONS {
                let there = seen(&asked.send(server, &format!("test/{name}"), &with(condition)));
                assert_eq!(there, not, "{what} {condition}");
            }
            for alias in NAMES {
                let below = alias.replace("NAME", name);
                let there = seen(&asked.send(server, &below, &with(CONDITIONS[0])));
                assert_eq!(there, not, "{what} {below}");
            }
            // Nothing is read into what is encoded.
            let below = format!("test%2F{name}");
            let encoded = asked.send(server, &below, &with(CONDITIONS[0]));
            assert_eq!(encoded.head.status, 400, "{what} {below}");
        }
    }
}

/// Whoever may read has it, whatever he asks for, and no cache on the way keeps it for others.
fn expect_served(server: &Server, commit: &str, alice: &User) {
    let field = alice.field();
    for asked in Asked::all(commit) {
        let expected = match asked.row.endpoint {
            Endpoint::Webhook => 401,
            Endpoint::Bundle => 204,
            // There is none of that name.
            Endpoint::Part => 404,
            _ => 200,
        };
        let what = format!("{} {:?}", asked.method, asked.row.endpoint);
        let answer = asked.send(server, "test/private", &[&field]);
        assert_eq!(answer.head.status, expected, "{what}: {}", answer.text());
        let caching = answer.head.get("cache-control").unwrap_or_default();
        assert!(caching.starts_with("private"), "{what}: {caching}");
        let vary = answer.head.get("vary").unwrap_or_default();
        assert!(vary.contains("Authorization"), "{what}: {vary}");
    }
    let target = lab::target("private");
    for (condition, status) in [("Range: bytes=0-9", 206), ("If-None-Match: *", 304)] {
        let answer = server.fetch("GET", &target, &[&field, condition]);
        assert_eq!(answer.head.status, status, "{condition}");
    }
    let by_git = server.fetch("HEAD", "/git/test/private.git/snapshot.tar.zst", &[&field]);
    by_git.expect(200);
}

#[test]
fn the_matrix_of_who_gets_what_by_the_upstreams_permission() {
    let host = Host::new();
    let mut settings = host.settings();
    let home = with_own_credentials(&host, &mut settings);
    let before = files(&home);
    let server = settings.start();
    let commit = git::text(&host.lab.upstream("private"), &["rev-parse", "main"]);
    let mallory = User::new("mallory", &[]).field();
    let strangers = [
        None,
        Some(mallory),
        Some(host.bob.field()),
        Some("Authorization: Bearer tarpon_0123456789abcdef0123456789abcdef".to_owned()),
    ];
    let refuse = || expect_refusals(&server, &commit, &strangers, "private");
    refuse();
    assert_eq!(server.metrics().count("tarpon_clones_total", &[]), 0);
    assert!(
        !host.lab.mirror("private").exists(),
        "a refusal has caused a clone"
    );
    // While it is cloned for somebody who may.
    host.upstream
        .answer(Answers::SlowClones(Duration::from_secs(2)));
    std::thread::scope(|scope| {
        let alice = scope.spawn(|| snapshot(&server, "private", Some(&host.alice)).expect(200));
        wait::until_true("it is cloned", || {
            let asked = host.upstream.asked();
            asked.iter().any(|asked| asked.is_look)
        });
        refuse();
        drop(alice.join().unwrap());
    });
    host.upstream.answer(Answers::Well);
    wait::until_true("it is in the cache", || {
        let field = host.alice.field();
        let head = server.fetch("HEAD", &lab::target("private"), &[&field]);
        head.head.status == 200
    });
    refuse();
    expect_served(&server, &commit, &host.alice);
    refuse();
    assert_eq!(server.metrics().count("tarpon_clones_total", &[]), 1);
    let mirrors = host.lab.mirror("private");
    let mirrors = std::fs::read_dir(mirrors.parent().unwrap()).unwrap();
    assert_eq!(mirrors.count(), 1, "there is a mirror of what was refused");
    assert_eq!(
        files(&home),
        before,
        "something was asked for, stored or erased"
    );
}

/// What somebody may ask for who does not know whether it is there.
struct Corpus {
    gets: Vec<String>,
    posts: Vec<(&'static str, &'static str, String)>,
    fields: Vec<String>,
    who: Vec<Option<String>>,
}

/// One of them: which, by whom, with which field, by which other name.
#[derive(Debug, Clone, Copy)]
struct Pick {
    kind: usize,
    who: usize,
    field: usize,
    alias: usize,
}

impl Corpus {
    fn new(commit: &str, etag: &str, bob: &User) -> Corpus {
        let packet = |text: &str| format!("{:04x}{text}", text.len() + 4);
        let want = packet(&format!("want {commit}\n")) + "0000" + &packet("done\n");
        let gets = [
            "snapshot.tar.zst".to_owned(),
            "snapshot.tar.zst?ref=main".to_owned(),
            format!("snapshot.tar.zst?commit={commit}"),
            format!("snapshot.tar.zst?commit={commit}&depth=1"),
            "snapshot.tar.zst?depth=1".to_owned(),
            format!("snapshot.bundle?base={commit}"),
            "info/refs?service=git-upload-pack".to_owned(),
            "status".to_owned(),
            "manifest".to_owned(),
            format!("parts/pack-{commit}.pack"),
        ];
        let commits = format!(r#"{{"commits":["{commit}"]}}"#);
        let (json, git) = ("application/json", "application/x-git-upload-pack-request");
        let fields = [
            "X: y".to_owned(),
            "Range: bytes=0-99".to_owned(),
            format!("If-None-Match: {etag}"),
            format!("If-Match: {etag}"),
            format!("If-Range: {etag}\r\nRange: bytes=5-"),
            "Cache-Control: max-age=0".to_owned(),
            "Git-Protocol: version=2".to_owned(),
            format!("Tarpon-Corrupt: {etag}"),
            "Connection: close".to_owned(),
        ];
        Corpus {
            gets: gets.into(),
            posts: vec![
                ("ensure-refs", json, commits),
                ("git-upload-pack", git, want),
            ],
            fields: fields.into(),
            who: vec![
                None,
                Some(bob.field()),
                Some("Authorization: Bearer x".to_owned()),
            ],
        }
    }

    fn pick(&self, random: &mut Rng) -> Pick {
        let mut below = |count: usize| random.below(count as u64) as usize;
        Pick {
            kind: below(self.gets.len() + self.posts.len() + 2),
            who: below(self.who.len()),
            field: below(self.fields.len()),
            alias: below(5),
        }
    }

    fn ask(&self, server: &Server, pick: Pick, name: &str) -> Response {
        let below = match pick.alias {
            0 => format!("test/{name}"),
            1 => format!("test/{name}.git"),
            2 => format!("test/{}", name.to_uppercase()),
            3 => format!("Test/{name}"),
            _ => format!("test%2F{name}"),
        };
        let base = format!("/git/{below}/");
        let mut lines = vec![self.fields[pick.field].as_str()];
        lines.extend(self.who[pick.who].as_deref());
        let mut conn = Conn::open(server.address());
        if let Some(end) = self.gets.get(pick.kind) {
            conn.request("GET", &format!("{base}{end}"), &lines);
            return conn.response("GET");
        }
        let Some((end, kind, body)) = self.posts.get(pick.kind - self.gets.len()) else {
            let end = &self.gets[pick.kind % 5];
            conn.request("HEAD", &format!("{base}{end}"), &lines);
            return conn.response("HEAD");
        };
        let kind = format!("Content-Type: {kind}");
        lines.push(&kind);
        conn.post(&format!("{base}{end}"), &lines, body.as_bytes());
        conn.response("POST")
    }
}

/// Requests of somebody who may not read, for what there is and for what there is not, of all kinds.
#[test]
fn five_hundred_requests_of_who_may_not_read_show_nothing() {
    let host = Host::new();
    let mut settings = host.settings();
    let home = with_own_credentials(&host, &mut settings);
    let before = files(&home);
    let server = settings.start();
    let head = snapshot(&server, "private", Some(&host.alice))
        .expect(200)
        .head;
    let commit = head.get("x-cachew-snapshot-commit").unwrap().to_owned();
    let corpus = Corpus::new(&commit, head.etag(), &host.bob);
    let clones = server.metrics().count("tarpon_clones_total", &[]);
    let mut random = Rng::new(18);
    let mut refused = 0;
    for _ in 0..500 {
        let pick = corpus.pick(&mut random);
        let [there, not] = ["private", "nothere"].map(|name| corpus.ask(&server, pick, name));
        assert_eq!(seen(&there), seen(&not), "{pick:?}");
        let status = there.head.status;
        assert!(
            matches!(status, 400 | 401 | 404),
            "{pick:?} {:?}",
            there.head
        );
        refused += usize::from(status != 400);
        let text = there.text();
        assert!(
            !text.contains(&commit) && text.len() < 200,
            "{pick:?} {text}"
        );
    }
    assert!(refused > 300, "{refused} of them were understood");
    assert_eq!(server.metrics().count("tarpon_clones_total", &[]), clones);
    assert!(!host.lab.mirror("nothere").exists());
    assert_eq!(
        files(&home),
        before,
        "something was asked for, stored or erased"
    );
}
