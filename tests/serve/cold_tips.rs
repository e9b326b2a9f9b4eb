//! Single commits of repositories without a mirror, and what others do at the same time: whoever asks for what is
//! not there, pushes, or asks for very many.

use std::time::Duration;

use super::preambles::behind;
use super::room::{evicted, kept_bytes, repository};
use super::support::client::Conn;
use super::support::lab::{self, Lab};
use super::support::metrics::Metrics;
use super::support::rng::Rng;
use super::support::server::{Server, Settings};
use super::support::upstream::{Answers, Upstream};
use super::support::{git, repos, wait};
use super::{at_once, finish, new_lab, remove, small_lab};

const NAME: &str = "small";
/// Longer than any test.
const CLONE: Duration = Duration::from_secs(60);

fn target(query: &str) -> String {
    format!("{}?{query}", lab::target(NAME))
}

fn start(lab: &Lab, answers: Answers) -> (Upstream, Server) {
    start_with(lab, answers, |settings| settings)
}

fn start_with(
    lab: &Lab,
    answers: Answers,
    change: impl FnOnce(Settings) -> Settings,
) -> (Upstream, Server) {
    let upstream = Upstream::new(lab.upstreams());
    upstream.answer(answers);
    let mut settings = lab.settings();
    settings.upstreams = vec![upstream.named("test")];
    (upstream, change(settings).start())
}

fn add(lab: &Lab, name: &str) -> String {
    repos::add_commit(&lab.upstream(NAME), "main", name, name.as_bytes())
}

/// The commit that an archive without history has checked out.
fn commit_of(lab: &Lab, archive: &[u8]) -> String {
    let unpacked = lab.unpack(archive, "unpacked");
    assert_eq!(git::text(&unpacked, &["status", "--porcelain"]), "");
    assert_eq!(git::text(&unpacked, &["rev-list", "--count", "HEAD"]), "1");
    let head = git::text(&unpacked, &["rev-parse", "HEAD"]);
    remove(&unpacked);
    head
}

/// Has it asked for, and gives what reads the whole answer.
fn ask(server: &Server, query: &str) -> Conn {
    let mut conn = Conn::open(server.address());
    conn.request("GET", &target(query), &[]);
    conn
}

/// Goes away for good: who only ends what he sends may still wait for an answer.
fn leave(conn: Conn) {
    let socket = conn.writer().unwrap();
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
}

fn body_of(mut conn: Conn) -> Vec<u8> {
    let head = conn.read_head("GET").unwrap();
    assert_eq!(head.status, 200, "{head:?}");
    behind(finish(&mut conn, Vec::new()))
}

/// What is left of single commits.
fn tips_left(lab: &Lab) -> usize {
    let names = std::fs::read_dir(lab.state().join("tmp")).unwrap();
    let names = names.map(|name| name.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with("tips-"))
        .count()
}

/// Of very many repositories, and of very many commits, no more is on the disk than may be: what was fetched before
/// a clone that does not end counts, and leaves.
#[test]
fn what_single_commits_take_of_the_disk_is_bounded() {
    const EACH: u64 = 1 << 20;
    const LIMIT: u64 = 9 << 20;
    let lab = new_lab();
    let names = Vec::from_iter((0..10).map(|number| format!("r{number}")));
    names.iter().for_each(|name| repository(&lab, name, EACH));
    let limit = LIMIT.to_string();
    let (_upstream, server) = start_with(&lab, Answers::SlowClones(CLONE), |settings| {
        settings.with(&["--cache-limit", &limit])
    });
    // One that is fetched, and one that is built.
    let most = LIMIT + 5 * EACH;
    let ask = |name: &str, query: &str| {
        let target = format!("{}?depth=1{query}", lab::target(name));
        let body = server.get(&target).expect(200).body;
        assert!(behind(body).len() as u64 > EACH);
        let kept = kept_bytes(&lab.state());
        assert!(kept <= most, "{kept} bytes are kept");
    };
    names.iter().for_each(|name| ask(name, ""));
    wait::until_true("some have left", || evicted(&server, "tips") > 0);
    let noise = |number: u64| Rng::new(100 + number).bytes(EACH as usize);
    for number in 0..10 {
        let upstream = lab.upstream(&names[0]);
        let id = repos::add_commit(&upstream, "main", "random.bin", &noise(number));
        ask(&names[0], &format!("&commit={id}"));
    }
    wait::until_true("what is too much has left", || {
        kept_bytes(&lab.state()) <= LIMIT
    });
    // What has left is fetched again.
    ask(&names[1], "");
    server.stop();
    lab.expect_no_orphans();
}

/// Whoever waits owns what is made for him: the last one to leave takes it along, whatever it has come to, and nothing
/// is cloned for those who have left.
#[test]
fn what_was_made_for_those_who_have_left_is_gone() {
    let lab = small_lab();
    let withheld = add(&lab, "one.txt");
    add(&lab, "two.txt");
    let look = Duration::from_millis(1500);
    let id = withheld.clone();
    let (upstream, server) = start(&lab, Answers::Without { id, look });
    let mut metrics = Conn::open(server.address());
    let mut open = || {
        metrics.request("GET", "/metrics", &[]);
        let text = metrics.response("GET").expect(200).text();
        Metrics::new(text).count("tarpon_connections_open", &[])
    };
    // The second waits behind the first, and has it wait in turn, once it is fetched, before it is built.
    let first = ask(&server, "depth=1");
    wait::until_true("it is listed", || upstream.looks() == 1);
    let second = ask(&server, &format!("depth=1&commit={withheld}"));
    wait::until_true("it waits for what it is not given", || {
        upstream.shallow_fetches() == 2
    });
    assert_eq!(tips_left(&lab), 1);
    let before = open();
    leave(first);
    wait::until_true("it has left", || open() < before);
    leave(second);
    wait::until_true("nothing of it is left", || tips_left(&lab) == 0);
    assert!(!server.log().contains("cloning from"));
    assert_eq!(server.builds("complete"), 0);
    let body = body_of(ask(&server, "depth=1"));
    commit_of(&lab, &body);
    wait::until_true("that is cloned", || server.log().contains("cloning from"));
    server.stop();
    lab.expect_no_orphans();
}

/// A name that is not there takes nothing from those who wait behind it.
#[test]
fn who_asks_for_a_name_that_is_not_there_makes_nobody_wait_for_the_clone() {
    let lab = small_lab();
    let id = add(&lab, "one.txt");
    let look = Duration::from_millis(1500);
    let (upstream, server) = start(&lab, Answers::SlowLooks { look, clone: CLONE });
    let mut absent = ask(&server, "depth=1&ref=nope");
    let looks = || {
        upstream
            .asked()
            .iter()
            .filter(|asked| asked.is_look)
            .count()
    };
    wait::until_true("it is looked for", || looks() == 1);
    let body = body_of(ask(&server, "depth=1"));
    assert!(!lab.mirror(NAME).exists(), "it waited for the clone");
    assert_eq!(commit_of(&lab, &body), id);
    assert_eq!(absent.read_head("GET").unwrap().status, 404);
    server.stop();
    lab.expect_no_orphans();
}

/// What is cloned behind a client's commits is the client's.
#[test]
fn clones_behind_the_commits_of_one_client_leave_places_to_others() {
    let lab = small_lab();
    let names = Vec::from_iter((0..12).map(|number| format!("s{number}")));
    for name in names.iter().map(String::as_str).chain(["other"]) {
        git::clone_mirror(&lab.url(NAME), &lab.upstream(name));
    }
    let (_upstream, server) = start(&lab, Answers::SlowClones(CLONE));
    let ask_from = |client: u8, target: &str| {
        let mut conn = Conn::open_from([127, 0, 0, client].into(), server.address());
        conn.request("GET", target, &[]);
        conn
    };
    at_once(names.len(), |number| {
        body_of(ask_from(
            2,
            &format!("{}?depth=1", lab::target(&names[number])),
        ))
    });
    let begun = || server.log().matches("cloning from").count();
    wait::until_true("its part is in use", || begun() >= 4);
    let waits = ask_from(3, &lab::target("other"));
    let is_begun = || {
        let log = server.log();
        log.lines()
            .any(|line| line.contains("cloning from") && line.contains("test/other"))
    };
    wait::until_true("the other one has a place", is_begun);
    assert_eq!(begun(), 5, "one client has more than its part");
    drop(waits);
    server.stop();
    lab.expect_no_orphans();
}

/// Before the clone as after it an upstream is asked once for what it has not got.
#[test]
fn what_is_not_there_is_asked_for_once() {
    let lab = small_lab();
    let (upstream, server) = start(&lab, Answers::SlowClones(CLONE));
    for (query, asked_max) in [("depth=1&ref=nope", 1), ("depth=1&ref=refs/heads/nope", 1)] {
        let before = upstream.looks();
        for _ in 0..10 {
            server.get(&target(query)).expect(404);
        }
        let asked = upstream.looks() - before;
        assert!(asked <= asked_max, "{asked} times for {query}");
    }
    let before = upstream.looks();
    for _ in 0..10 {
        let target = format!("{}?depth=1", lab::target("nonexist"));
        server.get(&target).expect(404);
    }
    let asked = upstream.looks() - before;
    assert!(asked <= 1, "{asked} times for a repository");
    upstream.answer(Answers::Status("500 No", ""));
    let before = upstream.looks();
    for _ in 0..10 {
        let target = format!("{}?depth=1", lab::target("fails"));
        assert!(server.get(&target).head.status >= 500);
    }
    let asked = upstream.looks() - before;
    assert!(asked <= 4, "{asked} times for what fails");
    server.stop();
    lab.expect_no_orphans();
}

/// Pushes while the commit is on its way: after it was listed, before it is fetched.
fn push_between(answers: impl Fn(Duration, Duration) -> Answers) -> (String, [String; 2]) {
    let lab = small_lab();
    let before = add(&lab, "one.txt");
    let look = Duration::from_millis(1500);
    let (upstream, server) = start(&lab, answers(look, CLONE));
    let asked = ask(&server, "depth=1");
    wait::until_true("it is listed, and fetched", || upstream.looks() == 2);
    let after = add(&lab, "two.txt");
    let body = body_of(asked);
    assert!(!lab.mirror(NAME).exists(), "it waited for the clone");
    let got = commit_of(&lab, &body);
    // The next one has what is there by then.
    let now = server.fetch("GET", &target("depth=1"), &["Cache-Control: max-age=0"]);
    assert_eq!(commit_of(&lab, &behind(now.expect(200).body)), after);
    server.stop();
    lab.expect_no_orphans();
    (got, [before, after])
}

#[test]
fn a_push_while_a_tip_is_fetched_makes_nobody_wait_for_the_clone() {
    let (got, [before, _]) = push_between(|look, clone| Answers::SlowLooks { look, clone });
    assert_eq!(got, before, "it is what was listed");
}

/// Where what no ref names any more is not given out, it is what the name leads to by then.
#[test]
fn a_push_while_a_tip_is_fetched_by_its_name_is_seen() {
    let (got, [_, after]) = push_between(|look, clone| Answers::SlowOldLooks { look, clone });
    assert_eq!(got, after);
}
