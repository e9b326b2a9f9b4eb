//! Clients that ask all the time, and what has to hold of every answer.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::farm::{Board, Condition, SERVERS, target};
use super::history::History;
use super::ways::Link;
use crate::support::client::{Conn, End, Head};
use crate::support::rng::Rng;

/// Longest silence that a client takes: a paused server is none of these.
const SILENCE: Duration = Duration::from_secs(40);

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wish {
    /// Whatever there is.
    Plain,
    /// What there is now.
    Fresh,
    /// That state.
    Commit(usize),
}

/// What has come of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Came {
    /// Nobody was there, or it has gone.
    Nothing,
    /// An error.
    Refused(u16),
    /// The beginning of an archive.
    Cut,
    /// All of it, of this state.
    Whole(usize),
}

/// What all of them see and say.
pub struct Crowd<'a> {
    pub board: &'a Board,
    pub history: &'a History,
    /// Where the bucket's objects are.
    pub objects: &'a Path,
    pub ends: AtomicBool,
    /// How often one has come to an end with what it wanted, or without.
    pub rounds: AtomicU64,
    pub whole: AtomicU64,
    pub cut: AtomicU64,
    pub refused: AtomicU64,
    /// The newest state that anybody was answered with.
    newest: AtomicUsize,
    pub wrong: Mutex<Vec<String>>,
}

/// A request that is no earlier than these.
#[derive(Debug, Clone, Copy)]
struct Floor {
    pushed: usize,
    answered: usize,
}

impl<'a> Crowd<'a> {
    pub fn new(board: &'a Board, history: &'a History, objects: &'a Path) -> Crowd<'a> {
        Crowd {
            board,
            history,
            objects,
            ends: AtomicBool::new(false),
            rounds: AtomicU64::new(0),
            whole: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            newest: AtomicUsize::new(0),
            wrong: Mutex::default(),
        }
    }

    /// Asks until all end.
    pub fn run(&self, mut rng: Rng) {
        while !self.ends.load(Ordering::SeqCst) {
            self.round(&mut rng);
            self.rounds.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn complain(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    /// One client tries each server once.
    fn round(&self, rng: &mut Rng) {
        let wish = match rng.below(10) {
            0..6 => Wish::Plain,
            6..9 => Wish::Fresh,
            _ => Wish::Commit(self.history.pushed().saturating_sub(rng.below(3) as usize)),
        };
        let before = self.board.now();
        let had_upstream = before.map(|it| it.has_upstream());
        let held = self.bucket_has_current();
        let mut order: Vec<usize> = (0..SERVERS).collect();
        for at in (1..SERVERS).rev() {
            order.swap(at, rng.below(at as u64 + 1) as usize);
        }
        let mut came = Vec::new();
        for number in order {
            let one = self.try_one(number, &wish);
            came.push((number, one.clone()));
            if matches!(one, Came::Whole(_)) {
                return;
            }
        }
        let held = held && self.bucket_has_current();
        let after = self.board.now();
        for ((was, is), had) in before.iter().zip(&after).zip(had_upstream) {
            if was.epoch == is.epoch && can(was, had, &wish, held) {
                self.complain(format!("{wish:?}: {came:?}, though there was {was:?}"));
            }
        }
    }

    /// Whether the head in the bucket has a snapshot that may be served.
    fn bucket_has_current(&self) -> bool {
        let repos = std::fs::read_dir(self.objects.join("v1/repos"));
        let heads = repos.into_iter().flatten().flatten();
        let mut heads = heads.filter_map(|dir| std::fs::read(dir.path().join("head.json")).ok());
        heads.any(|head| {
            let head: serde_json::Value = serde_json::from_slice(&head).unwrap_or_default();
            let snapshots = head["snapshots"].as_array().cloned().unwrap_or_default();
            let is_of_now = |it: &serde_json::Value| {
                it["replaced_unix_ms"].is_null() && it["generation"] == head["generation"]
            };
            head["broken"].as_array().is_none_or(Vec::is_empty) && snapshots.iter().any(is_of_now)
        })
    }

    fn try_one(&self, number: usize, wish: &Wish) -> Came {
        let condition = self.board.now()[number];
        let Some(address) = condition.address else {
            return Came::Nothing;
        };
        let came = match self.ask(address, wish) {
            // Whoever was cut off asks again: what was read of the store may have been damaged.
            Came::Cut => self.ask(address, wish),
            came => came,
        };
        if let (Came::Whole(_), Wish::Plain) = (&came, wish)
            && is_kept(address)
        {
            self.board.note_snapshot(number, condition.epoch);
        }
        came
    }

    fn ask(&self, address: SocketAddr, wish: &Wish) -> Came {
        let floor = Floor {
            pushed: self.history.pushed(),
            answered: self.newest.load(Ordering::SeqCst),
        };
        let Some((head, body, end)) = exchange(address, wish, self.history) else {
            return Came::Nothing;
        };
        if head.status != 200 {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Came::Refused(head.status);
        }
        let commit = head.get("x-cachew-snapshot-commit").unwrap_or_default();
        let Some(said) = self.history.number_of(commit) else {
            self.complain(format!("{wish:?}: no state of the upstream: {head:?}"));
            return Came::Nothing;
        };
        self.expect_wished(wish, said, floor, &head);
        if end == End::Truncated {
            self.cut.fetch_add(1, Ordering::SeqCst);
            return Came::Cut;
        }
        match self.history.look(&body) {
            Ok(found) if found.head == said => {
                if !matches!(wish, Wish::Commit(_)) {
                    if found.main != said {
                        self.complain(format!("{wish:?}: {found:?}"));
                    }
                    self.newest.fetch_max(said, Ordering::SeqCst);
                }
                self.whole.fetch_add(1, Ordering::SeqCst);
            }
            Ok(found) => self.complain(format!("{wish:?}: said {said}, and was {found:?}")),
            Err(why) => self.complain(format!("{wish:?}: {why}: {head:?}")),
        }
        Came::Whole(said)
    }

    fn expect_wished(&self, wish: &Wish, said: usize, floor: Floor, head: &Head) {
        let is_right = match wish {
            Wish::Plain => true,
            Wish::Fresh => said >= floor.answered && said >= floor.pushed,
            Wish::Commit(wished) => said == *wished,
        };
        if !is_right {
            self.complain(format!("{wish:?} after {floor:?}: state {said}: {head:?}"));
        }
    }
}

/// Whether a server that nothing becomes of has to answer.
fn can(server: &Condition, has_upstream: bool, wish: &Wish, bucket_has_it: bool) -> bool {
    let has_store = server.store == Link::Open && !server.is_spoiled && bucket_has_it;
    server.is_up()
        && match wish {
            Wish::Plain => has_upstream || server.has_snapshot || has_store,
            Wish::Fresh => has_upstream,
            Wish::Commit(_) => false,
        }
}

fn exchange(address: SocketAddr, wish: &Wish, history: &History) -> Option<(Head, Vec<u8>, End)> {
    let mut conn = Conn::try_open(address).ok()?;
    conn.limit_silence(SILENCE);
    let (query, field) = match wish {
        Wish::Plain => (String::new(), ""),
        Wish::Fresh => (String::new(), "Cache-Control: max-age=0\r\n"),
        Wish::Commit(number) => (format!("?commit={}", history.commit(*number)), ""),
    };
    let target = target();
    let request = format!("GET {target}{query} HTTP/1.1\r\nHost: test\r\n{field}\r\n");
    conn.send(request.as_bytes()).ok()?;
    let head = conn.read_head("GET").ok()?;
    let mut body = Vec::new();
    let (end, _) = conn.copy_body(&mut body).ok()?;
    Some((head, body, end))
}

/// Whether the snapshot lies on the disk: a build that has just ended does not.
fn is_kept(address: SocketAddr) -> bool {
    let Ok(mut conn) = Conn::try_open(address) else {
        return false;
    };
    conn.limit_silence(SILENCE);
    let request = format!("HEAD {} HTTP/1.1\r\nHost: test\r\n\r\n", target());
    let sent = conn.send(request.as_bytes());
    sent.is_ok() && conn.read_head("HEAD").is_ok_and(|head| head.status == 200)
}
