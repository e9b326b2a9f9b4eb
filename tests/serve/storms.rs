//! Many who want the same, many who want different things, and hosts that do not answer: each class of work has places
//! of its own, and what cannot be done soon is refused before it is promised.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::Conn;
use crate::support::lab;
use crate::support::relay::{self, Ends};
use crate::support::repos::{self, Shape};
use crate::support::server::Server;
use crate::support::upstream::{Answers, Upstream};
use crate::support::{git, wait};
use crate::{at_once, expect_clone, hit, new_lab, preambles, small_lab};

/// No work of the schedule.
const FAR: [&str; 2] = ["--fetch-interval", "720h"];

/// How much of a class runs, or waits.
fn work(server: &Server, state: &str, class: &str) -> u64 {
    let name = format!("tarpon_work_{state}");
    server.metrics().count(&name, &[("class", class)])
}

/// A request from an address that counts for none.
fn ask(server: &Server, target: &str, fields: &[&str]) -> Conn {
    let mut conn = Conn::open(server.address());
    conn.request("GET", target, fields);
    conn
}

/// Two hosts take connections and say nothing, and more is asked of them than there are places for; a third one is
/// asked for clones and comparisons as if they were not there.
#[test]
fn two_hosts_that_hang_beside_one_that_works() {
    let lab = small_lab();
    let silent = relay::listen(|_| relay::be_silent());
    let mut settings = lab.settings().with(&FAR);
    for host in ["hangs", "hangstoo"] {
        settings.upstreams.push(format!("{host}=http://{silent}/"));
        let mirror = |number| {
            settings
                .state
                .join(format!("mirrors/{host}/there{number}.git"))
        };
        (0..40).for_each(|number| {
            repos::link_mirror(&lab.upstream("small"), &mirror(number));
        });
    }
    let server = settings.start();
    let mut crowd = Vec::new();
    for host in ["hangs", "hangstoo"] {
        for number in 0..40 {
            let cold = format!("/git/{host}/cold{number}/snapshot.tar.zst");
            crowd.push(ask(&server, &cold, &[]));
            let there = format!("/git/{host}/there{number}/snapshot.tar.zst");
            crowd.push(ask(&server, &there, &["Cache-Control: max-age=0"]));
        }
        // One after the other, as they would in the worst case.
        for (class, max) in [("clone", 16), ("comparison", 32)] {
            wait::until_true("it has what it may have", || {
                work(&server, "waiting", class) > 0 && work(&server, "running", class) >= max / 2
            });
        }
    }
    for class in ["clone", "comparison"] {
        wait::until_true("all have come", || work(&server, "waiting", class) >= 50);
    }
    let soon = Duration::from_secs(15);
    let asked = Instant::now();
    let cold = hit(&server, "small");
    expect_clone(&lab, "small", &cold.body);
    let id = repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new");
    let target = lab::target("small");
    let fresh = server.fetch("GET", &target, &["Cache-Control: max-age=0"]);
    let commit = fresh.expect(200).head;
    assert_eq!(commit.get("x-cachew-snapshot-commit"), Some(&*id));
    assert!(
        asked.elapsed() < soon,
        "it had to wait: {:?}",
        asked.elapsed()
    );
    drop(crowd);
}

/// A host that has timed out three times has one place, until it answers.
#[test]
fn a_host_that_times_out_has_one_place() {
    let lab = small_lab();
    let upstream = Upstream::new(lab.upstreams());
    upstream.answer(Answers::NoObjects);
    let mut settings = lab.settings().with(&FAR).with(&["--clone-timeout", "2s"]);
    settings.upstreams.push(upstream.named("hangs"));
    for number in 0..14 {
        let to = lab.upstream(&format!("x{number}"));
        repos::link_mirror(&lab.upstream("small"), &to);
    }
    let server = settings.start();
    let target = |number| format!("/git/hangs/x{number}/snapshot.tar.zst");
    let crowd: Vec<Conn> = (0..14).map(|n| ask(&server, &target(n), &[])).collect();
    let timed_out = || {
        let labels = [("result", "timed_out")];
        server.metrics().count("tarpon_clones_total", &labels)
    };
    // A half of the places, and one more for each of the first two that have timed out.
    wait::until_true("the first have timed out", || timed_out() >= 10);
    let running = || work(&server, "running", "clone");
    wait::until_true("it has one place", || running() == 1);
    while timed_out() < 12 {
        assert!(running() <= 1, "it has more");
    }
    upstream.answer(Answers::Well);
    wait::until_true("the next ones have their clones", || {
        let labels = [("result", "complete")];
        server.metrics().count("tarpon_clones_total", &labels) >= 2
    });
    wait::until_true("nobody waits", || work(&server, "waiting", "clone") == 0);
    drop(crowd);
}

/// 20 commits are pushed, and 300 jobs want one of them each, at once.
#[test]
fn three_hundred_clients_ask_for_twenty_new_commits() {
    let lab = small_lab();
    let up = lab.upstream("small");
    let upstream = Upstream::new(lab.upstreams());
    let mut settings = lab.settings().with(&FAR);
    settings.upstreams = vec![upstream.named("test")];
    let server = settings.start();
    hit(&server, "small");
    let ids: Vec<String> = (0..20)
        .map(|number| {
            let branch = format!("job{number}");
            git::run(&up, &["branch", &branch, "main"]);
            repos::add_commit(&up, &branch, "new.txt", branch.as_bytes())
        })
        .collect();
    let asked = upstream.asked().len();
    let before = server.metrics();
    let answers = at_once(300, |number| {
        let target = format!("{}?commit={}", lab::target("small"), ids[number % 20]);
        server.get(&target).expect(200)
    });
    for (number, answer) in answers.iter().enumerate() {
        assert!(
            preambles::behind(answer.body.clone())
                == preambles::behind(answers[number % 20].body.clone())
        );
    }
    let now = server.metrics();
    let more = |name: &str| now.count(name, &[]) - before.count(name, &[]);
    assert_eq!(more("tarpon_comparisons_total"), 1);
    assert_eq!(more("tarpon_fetches_total"), 1);
    let targets: Vec<String> = upstream.asked()[asked..]
        .iter()
        .map(|a| format!("{} {}", a.method, a.target))
        .collect();
    let looks = targets
        .iter()
        .filter(|target| target.contains("info/refs"))
        .count();
    // Each of them is sought by its id once, unless the comparison has brought it before that.
    let most = 2 + ids.len();
    assert!((2..=most).contains(&looks), "{targets:?}");
    let log = server.log();
    for id in &ids {
        let of_it = format!(r#""message":"building","repository":"test/small","want":"{id}""#);
        assert_eq!(log.matches(&of_it).count(), 1, "{id}");
    }
}

/// The way to `upstream`, which is silent before the gate opens.
fn gated(upstream: &Server) -> (SocketAddr, Arc<AtomicBool>) {
    let (gate, address) = (Arc::new(AtomicBool::new(false)), upstream.address());
    let opens = gate.clone();
    let relay = relay::switch(move |_| {
        let open = || opens.load(Ordering::Relaxed).then_some(());
        wait::until_within("it may answer", Duration::from_secs(120), open);
        (address, Ends::Whole)
    });
    (relay, gate)
}

/// More is asked of a host that hangs than there is room for in the queue: who comes then is told to come again, before
/// anything else, and others are served. Who has a place keeps it.
#[test]
fn a_full_queue_refuses_newcomers() {
    let above = small_lab();
    let upstream = above.start();
    let (relay, gate) = gated(&upstream);
    let lab = small_lab();
    let mut settings = lab.settings().with(&FAR);
    settings
        .upstreams
        .push(format!("slow=http://{relay}/git/test/"));
    let server = settings.start();
    let target = |name: &str| format!("/git/slow/{name}/snapshot.tar.zst");
    // A half of the places are its, and the queue.
    let of_host = 8 + 256;
    let mut crowd: Vec<Conn> = (1..of_host)
        .map(|number| ask(&server, &target(&format!("none{number}")), &[]))
        .collect();
    wait::until_true("all but one are there", || {
        work(&server, "waiting", "clone") == 255
    });
    let mut last = ask(&server, &target("small"), &[]);
    wait::until_true("the queue is full", || {
        work(&server, "waiting", "clone") == 256
    });
    let asked = Instant::now();
    let refused = server.get(&target("newcomer")).expect(503);
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(refused.head.get("retry-after"), Some("5"));
    assert!(
        refused
            .text()
            .contains("first clones: 8 run and 256 wait for a turn"),
        "{}",
        refused.text()
    );
    server.wait_logged("newcomers are told to come again");
    server.wait_logged("8 run and 256 wait");
    // Who joins what waits does not enter.
    let mut joins = ask(&server, &target("small"), &[]);
    let other = hit(&server, "small");
    expect_clone(&lab, "small", &other.body);
    assert_eq!(work(&server, "waiting", "clone"), 256);
    gate.store(true, Ordering::Relaxed);
    let commit = git::text(&above.upstream("small"), &["rev-parse", "HEAD"]);
    for (conn, name) in [(&mut last, "last"), (&mut joins, "joins")] {
        let answer = conn.response("GET").expect(200);
        let unpacked = above.unpack(&preambles::behind(answer.body), name);
        assert_eq!(git::text(&unpacked, &["rev-parse", "HEAD"]), commit);
    }
    // It is not there, which is said in an answer that has begun, or instead of one.
    for conn in &mut crowd {
        let head = conn.read_head("GET").unwrap();
        assert!([200, 404].contains(&head.status), "{head:?}");
    }
    let refusals = server.metrics().count("tarpon_work_refused_total", &[]);
    assert_eq!(refusals, 1);
}

/// All places of large builds are taken by ones that go no further: who comes next waits before its first byte, and is
/// not silent behind it.
#[test]
fn a_build_has_its_place_before_its_first_byte() {
    let lab = new_lab();
    lab.generate("large", Shape::FewLarge, 16 << 20);
    let names: Vec<String> = (0..17).map(|number| format!("large{number}")).collect();
    for name in &names {
        repos::link_mirror(&lab.upstream("large"), &lab.upstream(name));
        lab.place_mirror(name);
    }
    let arguments = ["--encoders", "1"];
    let settings = lab.settings().with(&FAR).with(&arguments);
    let server = settings.with_fault("spool-enospc-after-bytes=1").start();
    let stalled: Vec<Conn> = names[..16]
        .iter()
        .map(|name| ask(&server, &lab::target(name), &[]))
        .collect();
    wait::until_true("all places are taken", || {
        work(&server, "running", "build") == 16
    });
    let mut last = ask(&server, &lab::target(&names[16]), &[]);
    wait::until_true("it waits", || work(&server, "waiting", "build") == 1);
    wait::until_true("all sixteen have begun", || {
        server.log().matches("\"building\"").count() >= 16
    });
    let log = server.log();
    let begun = log.lines().filter(|line| line.contains("\"building\""));
    let without_place = format!("\"test/{}\"", names[16]);
    assert!(
        begun.clone().all(|line| !line.contains(&without_place)),
        "it has begun without a place"
    );
    assert_eq!(begun.count(), 16);
    let head = last.read_head("GET").unwrap();
    assert_eq!(head.status, 200, "{head:?}");
    let (mut body, mut piece) = (Vec::new(), vec![0; 1 << 20]);
    let mut silent = Duration::ZERO;
    loop {
        let began = Instant::now();
        let got = last.read_body(&mut piece).unwrap();
        if got == 0 {
            break;
        }
        // Before the first byte it may wait as long as it takes.
        if !body.is_empty() {
            silent = silent.max(began.elapsed());
        }
        body.extend_from_slice(&piece[..got]);
    }
    assert!(silent < Duration::from_secs(2), "{silent:?}");
    expect_clone(&lab, &names[16], &preambles::behind(body));
    drop(stalled);
}
