//! Three servers over one bucket, and an upstream that moves.

use super::farm::{Farm, Member, NAME, commit_of, is_below};
use super::figures::{Figures, ms, quantile};
use super::probe::Manners;
use super::site::{ensure_ref, target};
use super::support::rng::Rng;
use super::support::{git, repos, wait};
use std::time::{Duration, Instant};

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    pub refreshes: u32,
    pub hits: usize,
    pub down: Duration,
}

/// All that is measured of it.
pub fn measure(farm: &mut Farm<'_>, figures: &mut Figures, effort: Effort) {
    let often = ["--ref-check-interval", "1h"];
    let mut members = vec![farm.start_shared(&often, None)];
    for _ in 0..2 {
        let member = farm.start(&often, None);
        member.get();
        member.server.wait_logged("\"shared\":true");
        members.push(member);
    }
    refreshes(farm, &members, figures, effort.refreshes);
    hits(&members[0], figures, effort.hits);
    crowd(farm, &members, figures);
    told(farm, &members, figures);
    down(farm, &members[0], figures, effort);
    members.into_iter().for_each(Member::end);
}

fn refreshes(farm: &mut Farm<'_>, members: &[Member], figures: &mut Figures, rounds: u32) {
    let archive = members[0].get().bytes as f64;
    members.iter().for_each(|it| drop(it.link.take_counts()));
    for _ in 0..rounds {
        let pushed = farm.pusher.change(10);
        for member in members {
            assert_eq!(member.fresh(), pushed.commit);
        }
        members.iter().for_each(Member::settle);
    }
    let counts: Vec<_> = members.iter().map(|it| it.link.take_counts()).collect();
    let each = f64::from(rounds) * archive / 100.0;
    let written: u64 = counts.iter().map(|it| it.written).sum();
    let read = counts.iter().map(|it| it.read_bytes()).max().unwrap_or(0);
    let what = format!("{rounds} refreshes of 10 files");
    figures.at_most(&format!("{what}: uploads"), written as f64 / each, 4.0, "%");
    figures.at_most(
        &format!("{what}: downloads of one"),
        read as f64 / each,
        4.0,
        "%",
    );
    let requests: u64 = counts.iter().map(super::link::Counts::all).sum();
    let requests = requests as f64 / f64::from(rounds);
    figures.note(
        "requests to the store for one refresh, of all three",
        requests,
        "",
    );
}

fn hits(member: &Member, figures: &mut Figures, count: usize) {
    member.link.take_counts();
    let began = Instant::now();
    let mut times: Vec<Duration> = (0..count).map(|_| first(member)).collect();
    let took = began.elapsed();
    let requests = member.link.take_counts().all() as f64;
    figures.note(
        &format!("{count} hits: first byte, p99"),
        ms(quantile(&mut times, 99)),
        "ms",
    );
    // A look each 10 s, and the one that is due when it begins.
    let most = (took.as_secs_f64() / 10.0).floor() + 1.0;
    figures.at_most("requests to the store beside them", requests, most, "");
}

fn first(member: &Member) -> Duration {
    let first = member.transfer(Manners::CURIOUS).first;
    first.unwrap_or_else(|| panic!("no byte came"))
}

fn crowd(farm: &mut Farm<'_>, members: &[Member], figures: &mut Figures) {
    let fetches = |member: &Member| member.count("tarpon_fetches_total", &[]);
    // As many clients of one server first.
    let alone = farm.pusher.change(10).commit;
    let one = ask((&members[..1], 90), &alone);
    for member in members {
        follows(member, &alone);
        member.settle();
    }
    let before: Vec<u64> = members.iter().map(fetches).collect();
    let pushed = farm.pusher.change(10).commit;
    let three = ask((members, 30), &pushed);
    let most = members
        .iter()
        .zip(before)
        .map(|(it, before)| fetches(it) - before);
    let most = most.max().unwrap_or(0) as f64;
    figures.at_most("a push, 3 x 30 clients: fetches of a server", most, 1.0, "");
    let share = three.as_secs_f64() / one.as_secs_f64();
    figures.note(
        "a push, 90 clients of one server: longest wait",
        ms(one),
        "ms",
    );
    figures.at_most(
        "a push, 3 x 30 clients: longest wait, of that",
        share,
        1.1,
        "",
    );
    let named = farm.named("");
    let mut names: Vec<&str> = named
        .iter()
        .filter_map(|(key, _)| key.rsplit_once('.'))
        .map(|it| it.0)
        .collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    figures.at_most(
        "copies of a part that the head names",
        all as f64 / names.len().max(1) as f64,
        1.0,
        "",
    );
}

/// So many clients of each ask for that commit at once; how long the last of them waits for its first byte.
fn ask((members, each): (&[Member], usize), commit: &str) -> Duration {
    let target = format!("{}?commit={commit}", target(NAME));
    let began = Instant::now();
    std::thread::scope(|scope| {
        let all = members
            .iter()
            .flat_map(|member| std::iter::repeat_n(member, each));
        let clients = all.map(|member| {
            let target = &target;
            scope.spawn(move || {
                let manners = Manners::CURIOUS;
                let address = member.server.address();
                let got = super::probe::get(address, target, manners, &mut |_| true);
                let got = got.unwrap_or_else(|e| panic!("{target}: {e}"));
                assert_eq!(got.head.status, 200, "{:?}", got.head);
                began.elapsed()
            })
        });
        let clients: Vec<_> = clients.collect();
        let waits = clients
            .into_iter()
            .map(|it| it.join().unwrap_or_else(|_| panic!("a client")));
        waits.max().unwrap_or_default()
    })
}

/// Waits until a plain answer is of that commit.
fn follows(member: &Member, commit: &str) {
    wait::until_true("it follows", || {
        commit_of(&member.transfer(Manners::CURIOUS).head) == commit
    });
}

/// One is told of a push, and the others follow without being told.
fn told(farm: &mut Farm<'_>, members: &[Member], figures: &mut Figures) {
    let pushed = farm.pusher.change(10);
    let began = Instant::now();
    ensure_ref(&members[0].server, NAME, &pushed.reference, &pushed.commit);
    for member in &members[1..] {
        follows(member, &pushed.commit);
    }
    let took = began.elapsed().as_secs_f64();
    figures.at_most(
        "told at one server: plain answers of the others follow",
        took,
        11.0,
        "s",
    );
}

fn down(farm: &mut Farm<'_>, member: &Member, figures: &mut Figures, effort: Effort) {
    let mut before: Vec<Duration> = (0..effort.hits).map(|_| first(member)).collect();
    let shared = member.count("tarpon_offers_total", &[("result", "done")]);
    member.link.set_down(true);
    let (mut during, began) = (Vec::new(), Instant::now());
    let pushed = farm.pusher.change(10);
    assert_eq!(member.fresh(), pushed.commit);
    while began.elapsed() < effort.down || during.len() < effort.hits {
        during.push(first(member));
    }
    member.link.set_down(false);
    let share = ms(quantile(&mut during, 99)) / ms(quantile(&mut before, 99));
    figures.at_most("store down: p99 of hits, of that before", share, 1.2, "");
    let began = Instant::now();
    member.wait_shared(shared + 1);
    figures.note(
        "the backlog is uploaded after",
        began.elapsed().as_secs_f64(),
        "s",
    );
}

/// What was pushed, forced away and has expired is nowhere; intervals are short ones.
pub fn expired(farm: &mut Farm<'_>, figures: &mut Figures) {
    let often = Some("store-look-ms=200,store-kept-ms=1000");
    let soon = ["--maintenance-idle", "1s", "--unreachable-expiry", "3s"];
    let first = farm.start_shared(&soon, often);
    let others = [farm.start(&[], often), farm.start(&[], often)];
    let upstream = farm.repository.mirror.clone();
    let branch = git::text(&upstream, &["symbolic-ref", "--short", "HEAD"]);
    let before = git::text(&upstream, &["rev-parse", "HEAD"]);
    let secret = Rng::new(12).bytes(3000);
    let id = repos::add_commit(&upstream, &branch, "secret.bin", &secret);
    let members: Vec<Member> = std::iter::once(first).chain(others).collect();
    for member in &members {
        assert_eq!(member.fresh(), id);
    }
    let mut places: Vec<_> = members.iter().map(|it| it.state.join("mirrors")).collect();
    places.push(farm.objects());
    let (limit, sought) = (Duration::from_secs(300), &secret[1000..1100]);
    wait::until_within("it is everywhere", limit, || {
        places
            .iter()
            .all(|place| is_below(place, sought))
            .then_some(())
    });
    git::run(&upstream, &["update-ref", "HEAD", &before]);
    git::run(&upstream, &["gc", "--quiet", "--prune=now"]);
    repos::add_commit(&upstream, &branch, "fixed.txt", b"fixed\n");
    members.iter().for_each(|member| drop(member.fresh()));
    let began = Instant::now();
    wait::until_within("it is gone", limit, || {
        // Nobody asks meanwhile: a repository that is asked for all the time is maintained each hour only.
        (!places.iter().any(|place| is_below(place, sought))).then_some(())
    });
    let took = began.elapsed().as_secs_f64();
    members.iter().for_each(|member| drop(member.get()));
    assert!(!places.iter().any(|place| is_below(place, sought)));
    let by_id = format!("{}?commit={id}", target(NAME));
    for member in &members {
        member.server.get(&by_id).expect(404);
    }
    figures.note(
        "forced away, expiry of 3 s: gone everywhere after",
        took,
        "s",
    );
    members.into_iter().for_each(Member::end);
}
