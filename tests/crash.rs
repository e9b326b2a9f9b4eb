//! `kill -9` at fifty moments between a request and its published entry: after each restart
//! every byte served is right, and the state directory holds nothing that belongs to nobody.
//!
//! The same while a snapshot is refreshed and its files of frames are joined.
//!
//! The moments come from a seed, printed at the start; `TARPON_TEST_SEED=N` repeats a run.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::client::{Conn, End, Response};
use support::lab::{self, Lab, copy_tree};
use support::repos::{self, Shape};
use support::rng::Rng;
use support::server::{Server, Settings};
use support::{git, parity, wait};

const ROUNDS: u64 = 50;
const SEED_VARIABLE: &str = "TARPON_TEST_SEED";
const NAME: &str = "crash";

/// When to kill, counted from the request.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// After a time.
    Elapsed(Duration),
    /// When the client has this share of the archive.
    Received { permille: u64 },
    /// When the entry is seen among the published ones.
    Published,
}

/// One way to begin: what the state directory holds, and how long request to publish takes
/// then.
struct Start {
    what: &'static str,
    /// Copied for every round; nothing when `None`.
    template: Option<PathBuf>,
    whole: Duration,
    archive_bytes: u64,
}

struct Crash {
    lab: Lab,
    clone: PathBuf,
    /// Archives that were unpacked and found equal to a clone.
    known: Vec<Vec<u8>>,
}

#[test]
fn kill_at_fifty_moments() {
    let seed = seed();
    println!("seed {seed}; repeat with {SEED_VARIABLE}={seed}");
    let mut crash = Crash::new();
    let starts = [
        crash.measure("no mirror", false),
        crash.measure("a mirror", true),
    ];
    let mut rng = Rng::new(seed);
    for round in 0..ROUNDS {
        let start = &starts[(round % 2) as usize];
        let moment = choose(&mut rng, start);
        let context = format!("seed {seed}, round {round}, {}, {moment:?}", start.what);
        crash.round(start, moment, &context);
    }
}

fn seed() -> u64 {
    if let Ok(text) = std::env::var(SEED_VARIABLE) {
        return text
            .parse()
            .unwrap_or_else(|e| panic!("{SEED_VARIABLE}={text}: {e}"));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |since| since.as_nanos() as u64)
}

fn choose(rng: &mut Rng, start: &Start) -> Moment {
    match rng.below(10) {
        0..5 => {
            // A little longer than a whole round takes, so that some fall after the publishing.
            let limit_us = start.whole.as_micros() as u64 * 5 / 4;
            Moment::Elapsed(Duration::from_micros(rng.below(limit_us)))
        }
        5..9 => Moment::Received {
            permille: rng.below(1001),
        },
        _ => Moment::Published,
    }
}

impl Crash {
    fn new() -> Self {
        let lab = Lab::new(env!("CARGO_BIN_EXE_tarpon"));
        lab.generate(NAME, Shape::ManySmall, 3 << 20);
        // Loose objects and a second pack, so that pinning has something to do.
        let content = Rng::new(5).bytes(2 << 20);
        repos::add_commit(&lab.upstream(NAME), "main", "random.bin", &content);
        let clone = lab.scratch("clone");
        git::clone(&lab.url(NAME), &clone);
        Crash {
            lab,
            clone,
            known: Vec::new(),
        }
    }

    /// A round without a crash, to know how long it takes and how much it sends.
    fn measure(&mut self, what: &'static str, with_mirror: bool) -> Start {
        let template = with_mirror.then(|| {
            let template = self.lab.scratch("template");
            git::clone_mirror(
                &self.lab.url(NAME),
                &template.join("mirrors/test").join(format!("{NAME}.git")),
            );
            template
        });
        let settings = self.fresh(template.as_deref());
        let server = settings.start();
        let started = Instant::now();
        let body = server.get(&lab::target(NAME)).expect(200).body;
        wait::until_true("published", || !lab::entries(&settings.state).is_empty());
        let whole = started.elapsed();
        let archive_bytes = body.len() as u64;
        self.expect_right(body, what);
        Start {
            what,
            template,
            whole,
            archive_bytes,
        }
    }

    /// Settings on a new state directory that begins as a copy of `template`.
    fn fresh(&self, template: Option<&Path>) -> Settings {
        let state = self.lab.scratch("crash-state");
        if state.exists() {
            let removed = std::fs::remove_dir_all(&state);
            removed.unwrap_or_else(|e| panic!("{}: {e}", state.display()));
        }
        match template {
            Some(template) => copy_tree(template, &state),
            None => lab::create_dir(&state),
        }
        let mut settings = self.lab.settings();
        settings.state = state;
        settings
    }

    fn round(&mut self, start: &Start, moment: Moment, context: &str) {
        let settings = self.fresh(start.template.as_deref());
        let mut server = settings.start();
        let received = run_until(&mut server, &settings.state, start, moment);
        match received {
            Some((End::Complete, body)) => {
                self.expect_right(body, &format!("{context}: before the crash"));
            }
            // With the same packs every archive has the same bytes, so a part is checkable too.
            Some((End::Truncated, body)) if start.template.is_some() => {
                let is_start = self.known.iter().any(|known| known.starts_with(&body));
                assert!(
                    is_start,
                    "{context}: {} wrong bytes before the crash",
                    body.len()
                );
            }
            _ => {}
        }
        drop(server);
        let server = settings.start();
        self.expect_sound(&server, &settings, context);
        server.stop();
        expect_clean(&settings.state, context);
    }

    /// What must hold of a server that started after a crash.
    fn expect_sound(&mut self, server: &Server, settings: &Settings, context: &str) {
        expect_clean(&settings.state, context);
        let entries = lab::entries(&settings.state);
        let counted = server.metrics().count("tarpon_cache_entries", &[]);
        assert_eq!(counted, entries.len() as u64, "{context}: {entries:?}");
        assert!(entries.len() <= 1, "{context}: {entries:?}");
        let first = server.get(&lab::target(NAME)).expect(200);
        let is_hit = first.head.content_length().is_some();
        assert_eq!(is_hit, !entries.is_empty(), "{context}: {:?}", first.head);
        self.expect_right(first.body, context);
        wait::until_true("published", || !lab::entries(&settings.state).is_empty());
        let again = wait::until("a hit", || {
            let answer = server.get(&lab::target(NAME)).expect(200);
            answer.head.content_length().map(|_| answer.body)
        });
        self.expect_right(again, context);
        expect_clean(&settings.state, context);
        let mirror = settings
            .state
            .join("mirrors/test")
            .join(format!("{NAME}.git"));
        git::run(
            &mirror,
            &[
                "fsck",
                "--full",
                "--strict",
                "--no-dangling",
                "--no-progress",
            ],
        );
    }

    /// Unpacks an archive and compares it with a clone, unless its bytes are known to be good.
    fn expect_right(&mut self, body: Vec<u8>, context: &str) {
        if self.known.contains(&body) {
            return;
        }
        let unpacked = self.lab.unpack(&body, "crash-unpacked");
        parity::expect_same(&self.clone, &unpacked, context);
        let removed = std::fs::remove_dir_all(&unpacked);
        removed.unwrap_or_else(|e| panic!("{}: {e}", unpacked.display()));
        self.known.push(body);
    }
}

/// Waits until nothing in `state` is without an owner. A `git` that outlived its server may
/// still be writing, so this is a condition to wait for.
fn expect_clean(state: &Path, context: &str) {
    let start = Instant::now();
    loop {
        let orphans = lab::orphans(state);
        if orphans.is_empty() {
            return;
        }
        assert!(
            start.elapsed() < wait::DEADLINE,
            "{context}: left over: {orphans:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Requests the snapshot and kills the server at `moment`. Gives what the client had by then,
/// with how its body ended; nothing when there was no head yet.
fn run_until(
    server: &mut Server,
    state: &Path,
    start: &Start,
    moment: Moment,
) -> Option<(End, Vec<u8>)> {
    let mut conn = Conn::open(server.address());
    conn.request("GET", &lab::target(NAME), &[]);
    let requested = Instant::now();
    match moment {
        Moment::Elapsed(after) => {
            let client = std::thread::spawn(move || receive(&mut conn));
            std::thread::sleep(after.saturating_sub(requested.elapsed()));
            server.kill();
            client
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        }
        Moment::Received { permille } => {
            let wanted = start.archive_bytes * permille / 1000;
            let head = conn
                .read_head("GET")
                .unwrap_or_else(|e| panic!("no response: {e}"));
            assert_eq!(head.status, 200, "{head:?}");
            let some = conn.read_some(wanted as usize);
            let mut body = some.unwrap_or_else(|e| panic!("body: {e}"));
            server.kill();
            let (end, _) = conn
                .copy_body(&mut body)
                .unwrap_or_else(|e| panic!("body: {e}"));
            Some((end, body))
        }
        Moment::Published => {
            let client = std::thread::spawn(move || receive(&mut conn));
            wait::until_true("published", || !lab::entries(state).is_empty());
            server.kill();
            client
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        }
    }
}

fn receive(conn: &mut Conn) -> Option<(End, Vec<u8>)> {
    let head = conn.read_head("GET").ok()?;
    assert_eq!(head.status, 200, "{head:?}");
    let mut body = Vec::new();
    let (end, _) = conn
        .copy_body(&mut body)
        .unwrap_or_else(|e| panic!("body: {e}"));
    Some((end, body))
}

const EVICTING_ROUNDS: usize = 25;
const EVICTING: [&str; 4] = ["e0", "e1", "e2", "e3"];
/// Of each, as a pack and as frames.
const EVICTING_BYTES: usize = 300_000;
/// Two of them fit.
const EVICTING_LIMIT: &str = "1400K";

/// Killed while snapshots and mirrors leave: what is there afterwards is whole, and what has left has left
/// nothing behind.
#[test]
fn kill_while_evicting() {
    let seed = seed();
    println!("seed {seed}; repeat with {SEED_VARIABLE}={seed}");
    let lab = Lab::new(env!("CARGO_BIN_EXE_tarpon"));
    let mut known: Vec<Vec<u8>> = Vec::new();
    for (number, name) in EVICTING.into_iter().enumerate() {
        repos::init_bare(&lab.upstream(name), "main", "sha1");
        let mut import = repos::Importer::start(&lab.upstream(name), repos::Layout::Packed);
        import.commit(MAIN, name);
        let content = Rng::new(number as u64).bytes(EVICTING_BYTES);
        import.file(repos::FILE, b"random.bin", &content);
        import.finish();
        git::clone(&lab.url(name), &lab.scratch(&format!("clone-{name}")));
    }
    let settings = lab.settings().with(&["--cache-limit", EVICTING_LIMIT]);
    let (mut rng, mut evicted) = (Rng::new(seed), 0);
    for round in 0..EVICTING_ROUNDS {
        let context = format!("seed {seed}, round {round}");
        let mut server = settings.start();
        expect_clean(&lab.state(), &context);
        for name in EVICTING {
            let mirror = lab.mirror(name);
            if mirror.exists() {
                git::run(&mirror, &["fsck", "--full", "--strict", "--no-progress"]);
                assert!(mirror.join("tarpon-upstream").exists(), "{context}: {name}");
            }
        }
        for name in EVICTING {
            let body = server.get(&lab::target(name)).expect(200).body;
            if !known.contains(&body) {
                let unpacked = lab.unpack(&body, "evicting-unpacked");
                parity::expect_same(&lab.scratch(&format!("clone-{name}")), &unpacked, &context);
                let removed = std::fs::remove_dir_all(&unpacked);
                removed.unwrap_or_else(|e| panic!("{}: {e}", unpacked.display()));
                known.push(body);
            }
        }
        evicted += kill_in_the_middle(&mut server, &mut rng);
    }
    assert!(evicted > EVICTING_ROUNDS, "only {evicted} were evicted");
    let server = settings.start();
    server.stop();
    expect_clean(&lab.state(), &format!("seed {seed}, at the end"));
}

/// Asks for one after the other until so many have left, and kills the server a moment later. How many had
/// left.
fn kill_in_the_middle(server: &mut Server, rng: &mut Rng) -> usize {
    let count = |server: &Server| server.log().matches("\"evicted\"").count();
    let (wanted, address) = (count(server) + 1 + rng.below(4) as usize, server.address());
    let pause = Duration::from_micros(rng.below(15_000));
    let order = rng.below(EVICTING.len() as u64) as usize;
    let client = std::thread::spawn(move || {
        for name in EVICTING.into_iter().cycle().skip(order).take(2000) {
            let Ok(mut conn) = Conn::try_open(address) else {
                return;
            };
            let head = format!("GET {} HTTP/1.1\r\nHost: test\r\n\r\n", lab::target(name));
            // Cut off when the server is killed.
            if conn.send(head.as_bytes()).is_ok() {
                let _ = receive(&mut conn);
            }
        }
    });
    wait::until_true("some have left", || count(server) >= wanted);
    std::thread::sleep(pause);
    server.kill();
    client
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    count(server)
}

const WIDE: &str = "wide";
const MAIN: &str = "refs/heads/main";
const REFRESH_ROUNDS: u64 = 30;
/// Large directories of the repository, and files in each.
const DIRECTORIES: u64 = 5;
const FILES: u64 = 70;
const FILE_BYTES: usize = 6000;

/// A repository with four commits in a row, of which each leaves less of the first one's frames in use:
/// the third makes files of frames be joined.
struct Refreshes {
    lab: Lab,
    /// Commits and what a clone of each is.
    commits: Vec<(String, PathBuf)>,
    /// A state directory with the snapshot of the second.
    template: PathBuf,
    /// From the third's push until its files are joined.
    whole: Duration,
    /// The part of it in which they are joined.
    joining: Duration,
    known: Vec<Vec<u8>>,
}

/// Killed between the push that makes files of frames be joined and some time after.
#[test]
fn kill_while_refreshing() {
    let seed = seed();
    println!("seed {seed}; repeat with {SEED_VARIABLE}={seed}");
    let mut refreshes = Refreshes::new();
    let mut rng = Rng::new(seed);
    let mut joined = 0;
    for round in 0..REFRESH_ROUNDS {
        let moment = refreshes.choose(&mut rng);
        let context = format!("seed {seed}, round {round}, {moment:?}");
        joined += u64::from(refreshes.round(moment, &context));
    }
    assert!(joined >= 3, "joining began in {joined} rounds only");
}

/// When to kill, counted from the request that fetches the push.
#[derive(Debug, Clone, Copy)]
enum RefreshMoment {
    Elapsed(Duration),
    /// When the log has this.
    Logged(&'static str),
    /// So long after joining has begun.
    Joining(Duration),
}

impl Refreshes {
    fn new() -> Self {
        let lab = Lab::new(env!("CARGO_BIN_EXE_tarpon"));
        let upstream = lab.upstream(WIDE);
        repos::init_bare(&upstream, "main", "sha1");
        let mut commits = Vec::new();
        for (number, first) in [0, 1, 2, DIRECTORIES].into_iter().enumerate() {
            let mut import = repos::Importer::start(&upstream, repos::Layout::Packed);
            match number {
                0 => import.commit(MAIN, "first"),
                _ => import.commit_on(MAIN, &format!("{MAIN}^0"), "next"),
            }
            import.file(repos::FILE, b"number.txt", number.to_string().as_bytes());
            for directory in first..DIRECTORIES {
                let mut rng = Rng::new(number as u64 * 1000 + directory);
                for file in 0..FILES {
                    let path = format!("dir{directory}/file{file}.bin");
                    import.file(repos::FILE, path.as_bytes(), &rng.bytes(FILE_BYTES));
                }
            }
            import.finish();
            let clone = lab.scratch(&format!("clone{number}"));
            git::clone(&lab.url(WIDE), &clone);
            commits.push((git::text(&upstream, &["rev-parse", MAIN]), clone));
        }
        let template = lab.scratch("refresh-template");
        lab::create_dir(&template);
        let mut refreshes = Refreshes {
            lab,
            commits,
            template,
            whole: Duration::ZERO,
            joining: Duration::ZERO,
            known: Vec::new(),
        };
        refreshes.prepare();
        refreshes
    }

    fn choose(&self, rng: &mut Rng) -> RefreshMoment {
        // A little longer than each takes, so that some fall behind it.
        let within = |rng: &mut Rng, limit: Duration| {
            Duration::from_micros(rng.below(limit.as_micros() as u64 * 5 / 4))
        };
        let steps = ["building", "published", "joining files of frames"];
        match rng.below(8) {
            0 => RefreshMoment::Logged(steps[rng.below(3) as usize]),
            1..4 => RefreshMoment::Elapsed(within(rng, self.whole)),
            _ => RefreshMoment::Joining(within(rng, self.joining)),
        }
    }

    fn prepare(&mut self) {
        let mut settings = self.lab.settings();
        settings.state = self.template.clone();
        self.show(0);
        let server = settings.start();
        server.get(&lab::target(WIDE)).expect(200);
        self.push(&server, 1);
        self.wait_shown(&server, 1, "template");
        server.stop();
        let settings = self.fresh();
        let server = settings.start();
        let started = Instant::now();
        self.push(&server, 2);
        server.wait_logged("joining files of frames");
        let joining = Instant::now();
        let complete = || server.builds("complete");
        wait::until_true("files of frames are joined", || complete() == 2);
        (self.whole, self.joining) = (started.elapsed(), joining.elapsed());
        self.wait_shown(&server, 2, "without a crash");
        server.stop();
    }

    /// Has the upstream show one of the commits.
    fn show(&self, number: usize) {
        let commit = &self.commits[number].0;
        git::run(&self.lab.upstream(WIDE), &["update-ref", MAIN, commit]);
    }

    fn ask(&self, number: usize) -> String {
        let commit = &self.commits[number].0;
        format!(r#"{{"refs":{{"{MAIN}":"{commit}"}}}}"#)
    }

    fn push(&self, server: &Server, number: usize) {
        self.show(number);
        let target = lab::endpoint(WIDE, "ensure-refs");
        server.post_json(&target, &self.ask(number)).expect(200);
    }

    /// A new state directory, with the snapshot of the second commit.
    fn fresh(&self) -> Settings {
        let state = self.lab.scratch("refresh-state");
        if state.exists() {
            let removed = std::fs::remove_dir_all(&state);
            removed.unwrap_or_else(|e| panic!("{}: {e}", state.display()));
        }
        copy_tree(&self.template, &state);
        let mut settings = self.lab.settings();
        settings.state = state;
        settings
    }

    /// Whether joining had begun.
    fn round(&mut self, moment: RefreshMoment, context: &str) -> bool {
        let settings = self.fresh();
        let mut server = settings.start();
        self.show(2);
        let mut conn = Conn::open(server.address());
        conn.post(
            &lab::endpoint(WIDE, "ensure-refs"),
            &["Content-Type: application/json"],
            self.ask(2).as_bytes(),
        );
        let sent = Instant::now();
        match moment {
            RefreshMoment::Elapsed(after) => {
                std::thread::sleep(after.saturating_sub(sent.elapsed()));
            }
            RefreshMoment::Logged(text) => server.wait_logged(text),
            RefreshMoment::Joining(after) => {
                server.wait_logged("joining files of frames");
                std::thread::sleep(after);
            }
        }
        server.kill();
        let joining = server.log().contains("joining files of frames");
        drop(server);
        let server = settings.start();
        let first = server.get(&lab::target(WIDE)).expect(200);
        assert!(
            first.head.content_length().is_some(),
            "{context}: the snapshot is lost: {:?}\n{}",
            first.head,
            server.log()
        );
        if joining {
            // What is joined has been published before, and is there at any moment.
            let commit = first.head.get("x-cachew-snapshot-commit");
            assert_eq!(commit, Some(&*self.commits[2].0), "{context}: it is lost");
        }
        self.expect_right(&first, context);
        // Fetched or not before the crash.
        self.push(&server, 2);
        self.wait_shown(&server, 2, context);
        self.push(&server, 3);
        self.wait_shown(&server, 3, context);
        assert_eq!(server.builds("failed"), 0, "{context}: {}", server.log());
        server.stop();
        expect_clean(&settings.state, context);
        self.expect_kept(&settings, context);
        joining
    }

    /// The next server finds the last snapshot whole, and nothing else.
    fn expect_kept(&mut self, settings: &Settings, context: &str) {
        let server = settings.start();
        let kept = server.get(&lab::target(WIDE)).expect(200);
        assert!(
            kept.head.content_length().is_some(),
            "{context}: {:?}",
            kept.head
        );
        let commit = kept.head.get("x-cachew-snapshot-commit");
        assert_eq!(commit, Some(&*self.commits[3].0), "{context}");
        self.expect_right(&kept, context);
        let entries = lab::entries(&settings.state);
        let tag = kept.head.etag().trim_matches('"');
        assert_eq!(entries, [tag], "{context}");
        server.stop();
    }

    /// Waits until the snapshot of this commit is in the cache, and looks at it.
    fn wait_shown(&mut self, server: &Server, number: usize, context: &str) {
        let commit = self.commits[number].0.clone();
        // A build that has ended has a length before its entry is in its place, so `HEAD` is asked.
        wait::until_true("the new snapshot is shown", || {
            let head = server.fetch("HEAD", &lab::target(WIDE), &[]).head;
            head.status == 200 && head.get("x-cachew-snapshot-commit") == Some(&commit)
        });
        let answer = server.get(&lab::target(WIDE)).expect(200);
        self.expect_right(&answer, context);
    }

    /// Compares an answer with a clone of the commit that it names.
    fn expect_right(&mut self, answer: &Response, context: &str) {
        if self.known.contains(&answer.body) {
            return;
        }
        let named = answer.head.get("x-cachew-snapshot-commit");
        let found = self.commits.iter().find(|(id, _)| Some(&**id) == named);
        let (_, clone) = found.unwrap_or_else(|| panic!("{context}: {:?}", answer.head));
        let unpacked = self.lab.unpack(&answer.body, "refresh-unpacked");
        parity::expect_same(clone, &unpacked, context);
        let removed = std::fs::remove_dir_all(&unpacked);
        removed.unwrap_or_else(|e| panic!("{}: {e}", unpacked.display()));
        self.known.push(answer.body.clone());
    }
}
