//! What it costs that somebody is asked who he is, measured side by side. They take the machine, and so are ignored:
//! `cargo nextest run --run-ignored only --no-capture -E 'test(permission_figures::)'`.

use std::time::{Duration, Instant};

use super::oidc::Farm;
use super::permission::{Host, get};
use super::small_lab;
use super::support::client::Conn;
use super::support::lab::{self, Lab};
use super::support::server::Server;
use super::support::tokens::{self, Token};
use super::support::upstream::User;
use super::support::wait;

const ROUNDS: usize = 5;
const REQUESTS: usize = 500;

/// One of those that are measured in turn: an open connection, and what is asked with.
struct Contestant<'s> {
    server: &'s Server,
    conn: Conn,
    target: String,
    fields: Vec<String>,
    /// Of each round.
    rounds: Vec<Round>,
}

struct Round {
    median: Duration,
    p99: Duration,
    cpu_s: f64,
}

impl<'s> Contestant<'s> {
    fn new(server: &'s Server, name: &str, fields: Vec<String>) -> Contestant<'s> {
        let field: Vec<&str> = fields.iter().take(1).map(String::as_str).collect();
        let target = lab::target(name);
        server.fetch("GET", &target, &field).expect(200);
        wait::until_true("it is in the cache", || {
            server.fetch("HEAD", &target, &field).head.status == 200
        });
        Contestant {
            server,
            conn: Conn::open(server.address()),
            target,
            fields,
            rounds: Vec::new(),
        }
    }

    /// The first byte of a hit, so many times.
    fn run(&mut self) {
        let before = self.server.cpu_s();
        let mut times = Vec::new();
        for number in 0..REQUESTS {
            let mut fields = vec!["Range: bytes=0-99"];
            let own = self.fields.get(number % self.fields.len().max(1));
            fields.extend(own.map(String::as_str));
            let began = Instant::now();
            self.conn.request("GET", &self.target, &fields);
            let head = self.conn.read_head("GET").unwrap();
            times.push(began.elapsed());
            assert_eq!(head.status, 206, "{head:?}");
            self.conn.copy_body(&mut std::io::sink()).unwrap();
        }
        times.sort_unstable();
        self.rounds.push(Round {
            median: times[REQUESTS / 2],
            p99: times[REQUESTS * 99 / 100],
            cpu_s: (self.server.cpu_s() - before) / REQUESTS as f64,
        });
    }

    /// The median of the rounds, in microseconds.
    fn median_us(&self, of: impl Fn(&Round) -> f64) -> f64 {
        let mut all: Vec<f64> = self.rounds.iter().map(of).collect();
        all.sort_unstable_by(f64::total_cmp);
        all[all.len() / 2] * 1e6
    }

    fn line(&self, name: &str) -> String {
        format!(
            "{name:24} p50 {:7.1} us   p99 {:7.1} us   cpu {:6.1} us a request",
            self.p50_us(),
            self.p99_us(),
            self.cpu_us(),
        )
    }

    fn p50_us(&self) -> f64 {
        self.median_us(|round| round.median.as_secs_f64())
    }

    fn p99_us(&self) -> f64 {
        self.median_us(|round| round.p99.as_secs_f64())
    }

    fn cpu_us(&self) -> f64 {
        self.median_us(|round| round.cpu_s)
    }
}

/// Every one in turn, from the other end each time.
fn alternate(all: &mut [Contestant<'_>]) {
    for round in 0..ROUNDS {
        all.iter_mut().for_each(Contestant::run);
        if round % 2 == 0 {
            all.reverse();
        }
    }
    if ROUNDS % 2 == 1 {
        all.reverse();
    }
}

/// A server that asks for one of so many tokens, of which some are told.
fn with_tokens(lab: &Lab, lines: usize, used: usize) -> (Server, Vec<String>) {
    let binary = env!("CARGO_BIN_EXE_tarpon");
    let known: Vec<Token> = (0..used)
        .map(|number| Token::new(binary, &format!("job{number}"), &[]))
        .collect();
    let mut text: Vec<String> = known.iter().map(|token| token.line.clone()).collect();
    let (name, rest) = known[0].line.split_once(' ').unwrap();
    let (kind, _) = rest.rsplit_once(':').unwrap();
    text.extend((used..lines).map(|number| format!("{name}x{number} {kind}:{number:064x}")));
    let file = lab.scratch("tokens");
    tokens::write_text(&file, &(text.join("\n") + "\n"));
    let file = file.to_string_lossy().into_owned();
    let access = [
        "--no-default-upstreams",
        "--access",
        "test=token",
        "--tokens",
        &file,
    ];
    let server = lab.settings().with(&access).start();
    (server, known.iter().map(Token::bearer).collect())
}

#[test]
#[ignore = "measures: needs the machine alone"]
fn hits_beside_hits_of_open_hosts() {
    let (open, host) = (small_lab(), Host::new());
    let labs = [small_lab(), small_lab()];
    let settings = open.settings();
    let (plain, asked) = (settings.start(), host.settings().start());
    let (few, few_tokens) = with_tokens(&labs[0], 10, 10);
    let (many, many_tokens) = with_tokens(&labs[1], 10_000, 100);
    let farm = Farm::new();
    let by_ci = farm.settings().start();
    let jobs = (0..100).map(|number| farm.field_but(&serde_json::json!({"jti": number})));
    let jobs = Vec::from_iter(jobs);
    let mut all = [
        Contestant::new(&plain, "small", Vec::new()),
        Contestant::new(&asked, "private", vec![host.alice.field()]),
        Contestant::new(&few, "small", few_tokens),
        Contestant::new(&many, "small", many_tokens),
        Contestant::new(&by_ci, "small", jobs),
    ];
    alternate(&mut all);
    let [plain, asked, few, many, by_ci] = &all;
    println!("{}", plain.line("open"));
    println!("{}", asked.line("upstream's permission"));
    println!("{}", few.line("token, one of 10"));
    println!("{}", many.line("token, one of 10,000"));
    println!("{}", by_ci.line("token of a CI system"));
    assert!(asked.p50_us() <= plain.p50_us() + 200.0);
    assert!(asked.p99_us() <= plain.p99_us() + 1_000.0);
    assert!(asked.cpu_us() <= plain.cpu_us() + 200.0);
    assert!(by_ci.p50_us() <= plain.p50_us() + 300.0);
    assert!(by_ci.p99_us() <= plain.p99_us() + 1_000.0);
    assert!(many.p50_us() <= few.p50_us() * 1.1);
}

#[test]
#[ignore = "measures: needs the machine alone"]
fn credentials_that_were_never_seen() {
    let host = Host::new();
    let jobs: Vec<User> = (0..200)
        .map(|number| User::new(&format!("job{number}"), &["private"]))
        .collect();
    host.let_read(&Vec::from_iter(jobs.iter().chain([&host.alice])));
    let server = host.settings().start();
    get(&server, &lab::target("private"), Some(&host.alice)).expect(200);
    wait::until_true("it is in the cache", || {
        let field = host.alice.field();
        let head = server.fetch("HEAD", &lab::target("private"), &[&field]);
        head.head.status == 200
    });
    let mut upstream = Conn::open(host.upstream.address());
    let mut conn = Conn::open(server.address());
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for job in &jobs {
        let field = job.field();
        let asked = "/private/info/refs?service=git-upload-pack";
        let began = Instant::now();
        upstream.request("GET", asked, &[&field, "Git-Protocol: version=2"]);
        let answer = upstream.response("GET");
        theirs.push(began.elapsed());
        assert_eq!(answer.head.status, 200);
        let began = Instant::now();
        conn.request(
            "GET",
            &lab::target("private"),
            &["Range: bytes=0-99", &field],
        );
        let head = conn.read_head("GET").unwrap();
        ours.push(began.elapsed());
        assert_eq!(head.status, 206, "{head:?}");
        conn.copy_body(&mut std::io::sink()).unwrap();
    }
    theirs.sort_unstable();
    ours.sort_unstable();
    let ms = |times: &[Duration], part: usize| times[times.len() * part / 100].as_secs_f64() * 1e3;
    for (name, part) in [("p50", 50), ("p90", 90), ("p99", 99)] {
        println!(
            "{name}: the upstream's answer {:.2} ms, a hit behind it {:.2} ms",
            ms(&theirs, part),
            ms(&ours, part)
        );
    }
    assert!(ms(&ours, 50) <= ms(&theirs, 50) + 5.0);
}
