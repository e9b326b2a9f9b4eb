//! Which of the servers that share a store compares a repository with its upstream by timer.

use std::time::Instant;

use rustix::process::Signal;

use super::bucket_server::BucketServer;
use super::chaos::ways::{Link, UpstreamWay};
use super::shared_store::wait_shared;
use super::support::lab::{self, Lab};
use super::support::repos;
use super::support::server::{Server, Settings};
use super::support::upstream::Upstream;
use super::support::wait;
use super::{hit, small_lab};

/// Servers over one bucket and one upstream, each with a way of its own to that.
struct Farm {
    lab: Lab,
    bucket: BucketServer,
    upstream: Upstream,
    members: Vec<(Server, UpstreamWay)>,
}

/// Leases that are over soon, and heads that are looked at often.
const SOON: &str = "store-look-ms=100,store-lease-ms=3000,store-kept-ms=60000";

impl Farm {
    /// One of no servers yet.
    fn new() -> Farm {
        let lab = small_lab();
        Farm {
            bucket: BucketServer::start(&lab.scratch("s3")),
            upstream: Upstream::new(lab.upstreams()),
            lab,
            members: Vec::new(),
        }
    }

    /// So many that have one repository, which the first has shared.
    fn start(count: usize) -> Farm {
        let mut farm = Farm::new();
        for number in 0..count {
            farm.add(&[]);
            hit(farm.server(number), "small");
            match number {
                0 => wait_shared(farm.server(0), 1),
                _ => farm.server(number).wait_logged("\"shared\":true"),
            }
        }
        farm
    }

    fn add(&mut self, arguments: &[&str]) {
        let way = UpstreamWay::new(self.upstream.address());
        let state = self.lab.scratch(&format!("state{}", self.members.len()));
        let mut environment = self.bucket.environment();
        let proxy = format!("http://{}", way.address());
        for (name, value) in [("http_proxy", &*proxy), ("no_proxy", "127.0.0.1")] {
            environment.push((name.to_owned(), value.to_owned()));
        }
        let settings = Settings {
            state,
            // All servers must call it by one name.
            upstreams: vec!["test=http://upstream.test/".to_owned()],
            environment,
            ..self.lab.settings()
        };
        let often = ["--store", "s3://farm", "--ref-check-interval", "200ms"];
        let settings = settings.with(&often).with(arguments).with_fault(SOON);
        self.members.push((settings.start(), way));
    }

    fn server(&self, number: usize) -> &Server {
        &self.members[number].0
    }

    /// Asks those that are up, so that the repository is in use there.
    fn ask(&self, numbers: &[usize]) {
        for number in numbers {
            self.server(*number).get(&lab::target("small")).expect(200);
        }
    }

    /// How often each has compared by timer.
    fn compared(&self, numbers: &[usize]) -> Vec<u64> {
        let timer = [("cause", "timer")];
        let count = |number: &usize| {
            let metrics = self.server(*number).metrics();
            metrics.count("tarpon_comparisons_total", &timer)
        };
        numbers.iter().map(count).collect()
    }

    fn leases(&self, number: usize) -> u64 {
        self.server(number)
            .metrics()
            .count("tarpon_store_leases", &[])
    }

    /// Waits until one of these compares again and again, and none of the others does, though all are asked; gives that one.
    fn wait_one(&self, numbers: &[usize]) -> usize {
        let mut before = self.compared(numbers);
        wait::until_within("one compares for all", 3 * wait::DEADLINE, || {
            self.ask(numbers);
            let now = self.compared(numbers);
            let more = Vec::from_iter(now.iter().zip(&before).map(|(now, then)| now - then));
            let working = more.iter().filter(|more| **more > 0).count();
            if working > 1 {
                before = now;
                return None;
            }
            let at = more.iter().position(|more| *more >= 8)?;
            // What it has done the upstream was asked for, and nothing else.
            (self.leases(numbers[at]) == 1).then_some(numbers[at])
        })
    }

    /// Something is pushed, and these answer with it, whoever has heard of it first.
    fn push(&self, name: &str, numbers: &[usize]) {
        let id = repos::add_commit(&self.lab.upstream("small"), "main", name, name.as_bytes());
        for number in numbers {
            wait::until_within("it follows", 3 * wait::DEADLINE, || {
                let answer = self.server(*number).get(&lab::target("small")).expect(200);
                let commit = answer.head.get("x-cachew-snapshot-commit");
                (commit == Some(&*id)).then_some(())
            });
        }
    }

    fn count(&self, number: usize, result: &str) -> u64 {
        let metrics = self.server(number).metrics();
        metrics.count("tarpon_leases_total", &[("result", result)])
    }
}

fn others(all: &[usize], one: usize) -> Vec<usize> {
    all.iter().copied().filter(|other| *other != one).collect()
}

/// One compares for three, whoever is asked; when it is killed another one does, and when that stands still the third.
#[test]
fn one_of_three_servers_compares_by_timer() {
    let mut farm = Farm::start(3);
    let all = [0, 1, 2];
    let first = farm.wait_one(&all);
    // What they have is as old as that one has said.
    let rest = others(&all, first);
    for number in &rest {
        wait::until_true("it is young", || {
            let answer = farm.server(*number).get(&lab::target("small")).expect(200);
            let age = answer
                .head
                .get("age")
                .and_then(|age| age.parse::<u64>().ok());
            age.is_some_and(|age_s| age_s <= 10)
        });
    }
    farm.push("one.txt", &all);
    assert_eq!(farm.wait_one(&all), first);

    farm.members[first].0.kill();
    let second = farm.wait_one(&rest);
    farm.push("two.txt", &rest);
    let second = match farm.leases(second) {
        1 => second,
        _ => farm.wait_one(&rest),
    };
    let third = others(&rest, second)[0];
    farm.members[second].0.signal(Signal::STOP);
    assert_eq!(farm.wait_one(&[third]), third);
    farm.push("three.txt", &[third]);
    farm.members[second].0.signal(Signal::CONT);
    farm.push("four.txt", &[second, third]);
    wait::until_true("it has lost it", || farm.count(second, "lost") >= 1);
}

/// Who cannot compare gives it back, and so does who is told to stop. What is new is served by all that can be told of it.
#[test]
fn who_cannot_compare_gives_it_back() {
    let mut farm = Farm::start(2);
    let all = [0, 1];
    let first = farm.wait_one(&all);
    let second = others(&all, first)[0];
    farm.members[first].1.set(Link::Refused);
    wait::until_within("it is given back", 3 * wait::DEADLINE, || {
        farm.ask(&all);
        (farm.count(first, "given_back") >= 1).then_some(())
    });
    farm.wait_one(&[second]);
    assert_eq!(farm.leases(first), 0);
    farm.push("one.txt", &[second]);
    farm.members[first].1.set(Link::Open);
    farm.push("two.txt", &all);

    let holder = farm.wait_one(&all);
    let other = others(&all, holder)[0];
    farm.members[holder].0.terminate();
    farm.members[holder].0.wait_exit(wait::DEADLINE);
    let log = farm.members[holder].0.log();
    assert!(!log.contains("not given back"), "{log}");
    let given = farm.lease();
    assert!(
        given["holder"].is_null() || farm.leases(other) == 1,
        "{given}"
    );
    assert_eq!(farm.wait_one(&[other]), other);
}

impl Farm {
    /// What the lease of the one repository says.
    fn lease(&self) -> serde_json::Value {
        let dirs = std::fs::read_dir(self.lab.scratch("s3/farm/v1/repos")).unwrap();
        let path = dirs.map(|dir| dir.unwrap().path().join("lease.json"));
        let path = path.into_iter().next().expect("a repository");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }
}

/// Where nobody can say whose it is each compares by itself, and nobody waits.
#[test]
fn without_leases_each_server_compares() {
    let farm = Farm::start(2);
    let all = [0, 1];
    farm.wait_one(&all);
    farm.bucket.deny(Some("lease.json"));
    let before = farm.compared(&all);
    wait::until_within("both compare", 3 * wait::DEADLINE, || {
        farm.ask(&all);
        let now = farm.compared(&all);
        now.iter()
            .zip(&before)
            .all(|(now, then)| *now > then + 3)
            .then_some(())
    });
    farm.push("one.txt", &all);
    farm.bucket.deny(None);
    farm.wait_one(&all);
}

/// Leases cost little beside the heads that are looked at, and nothing where nobody asks.
#[test]
fn a_lease_is_read_seldom_and_by_those_alone_who_are_asked() {
    let mut farm = Farm::start(2);
    let all = [0, 1];
    farm.wait_one(&all);
    let count = |farm: &Farm, texts: &[&str]| farm.bucket.asked(texts);
    let heads = count(&farm, &["304 ", "/head.json"]);
    let leases = count(&farm, &["GET ", "/lease.json"]);
    let began = Instant::now();
    wait::until_true("heads are looked at", || {
        farm.ask(&all);
        count(&farm, &["304 ", "/head.json"]) >= heads + 80
    });
    let read = count(&farm, &["GET ", "/lease.json"]) - leases;
    // One reads it, once for each time that it lasts.
    let most = began.elapsed().as_millis() as usize / 3000 + 2;
    assert!(read <= most, "{read} reads, {most} expected at most");

    for (server, _) in farm.members.drain(..) {
        server.stop();
    }
    // Who has the repository and is not asked for it asks for nothing.
    farm.add(&[]);
    let told = count(&farm, &["GET ", "/raised.json"]);
    let before = count(&farm, &["/repos/"]);
    wait::until_true("it asks for what concerns all", || {
        count(&farm, &["GET ", "/raised.json"]) > told + 5
    });
    assert_eq!(count(&farm, &["/repos/"]), before);
}

/// Two that clone the same repository: the one whose clone comes no further has what the other has shared meanwhile.
#[test]
fn who_clones_takes_what_another_server_shares_meanwhile() {
    let mut farm = Farm::new();
    farm.add(&[]);
    farm.add(&[]);
    farm.members[1].1.set(Link::Silent);
    let second = farm.server(1);
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| second.get(&lab::target("small")).expect(200));
        second.wait_logged("cloning from");
        let shared = hit(farm.server(0), "small");
        (shared, waiting.join().unwrap())
    });
    let (shared, taken) = waiting;
    assert_eq!(taken.head.etag(), shared.head.etag());
    assert!(taken.body == shared.body, "other bytes");
    second.wait_logged("the clone is given up");
    farm.members[1].1.set(Link::Open);
    // It has its own mirror in the end, as any that has begun with what was shared.
    wait::until_within("it has a mirror", 3 * wait::DEADLINE, || {
        farm.ask(&[1]);
        farm.server(1)
            .log()
            .contains("\"shared\":true")
            .then_some(())
    });
    farm.push("one.txt", &[0, 1]);
}
