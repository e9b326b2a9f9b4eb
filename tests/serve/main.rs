//! `tarpon serve` end to end, over real sockets with real git: sharing of builds, faults, the
//! protocol, and the life of server, clients and cache.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod admin;
mod annex;
mod bucket_server;
mod builds;
mod bundle;
mod cachew;
mod caching_proxy;
mod chaos;
mod children;
mod cold_tips;
mod cold_waits;
mod crowds;
mod disks;
mod drivers;
mod ensure_refs;
mod faults;
mod freshness;
mod git_protocol;
mod lifecycle;
mod listeners;
mod mirrors;
mod names;
mod oidc;
mod open_files;
mod parts;
mod permission;
mod permission_figures;
mod permission_matrix;
mod preambles;
mod pressure;
mod protocol;
mod recipes;
mod refresh;
mod room;
mod shared_store;
mod sharing;
mod store_admin;
mod store_adopting;
mod store_adoption;
mod store_brought;
mod store_expiry;
mod store_files;
mod store_lease;
mod store_lent;
mod store_memory;
mod store_mirror;
mod store_policies;
mod store_redirect;
mod store_used;
mod store_writer;
mod storms;
mod tips;
mod tls;
mod upkeep;
mod upkeep_crash;
mod upstreams;
mod wants;
mod webhooks;

use std::path::Path;
use support::client::{Conn, Head};
use support::lab::{self, Lab};
use support::repos::Shape;
use support::server::Server;
use support::steps::{ensure, hit, push_and_fetch, wait_published};
use support::{git, parity};

/// Worktree bytes of a repository whose archive is larger than all socket buffers on its way,
/// so that a client that stops reading stops its response too.
const LARGE_BYTES: u64 = 24 << 20;

fn new_lab() -> Lab {
    Lab::new(env!("CARGO_BIN_EXE_tarpon"))
}

/// A lab with the small repository `small`.
fn small_lab() -> Lab {
    let lab = new_lab();
    lab.generate("small", Shape::ManySmall, 300_000);
    lab
}

/// A lab with `large`, about twice [`LARGE_BYTES`] on the wire: as pack and as worktree.
fn large_lab() -> Lab {
    let lab = new_lab();
    lab.generate("large", Shape::FewLarge, LARGE_BYTES);
    lab
}

/// Requests a snapshot and reads the head and `count` bytes of the body.
fn begin(server: &Server, name: &str, count: usize) -> (Conn, Head, Vec<u8>) {
    let mut conn = Conn::open(server.address());
    conn.request("GET", &lab::target(name), &[]);
    let head = conn
        .read_head("GET")
        .unwrap_or_else(|e| panic!("no response: {e}"));
    assert_eq!(head.status, 200, "{head:?}");
    let body = conn
        .read_some(count)
        .unwrap_or_else(|e| panic!("body: {e}"));
    assert_eq!(body.len(), count, "truncated");
    (conn, head, body)
}

/// Reads the rest of a body that must be whole.
fn finish(conn: &mut Conn, mut body: Vec<u8>) -> Vec<u8> {
    let (end, _) = conn
        .copy_body(&mut body)
        .unwrap_or_else(|e| panic!("body: {e}"));
    assert_eq!(
        end,
        support::client::End::Complete,
        "truncated after {} bytes",
        body.len()
    );
    body
}

/// A server on a mirror of `small` that was put there, after one look at the upstream; the next
/// one on schedule is far away. What a test does to the mirror nobody mends.
fn start_on_mirror(lab: &Lab) -> Server {
    lab.place_mirror("small");
    let far = ["--fetch-interval", "720h", "--scrub-interval", "0"];
    let server = lab.settings().with(&far).start();
    let absent = r#"{"refs":{"refs/heads/absent":""}}"#;
    ensure(&server, "small", absent);
    assert_eq!(server.fetches(), 1);
    server
}

/// Panics unless the snapshot unpacks to what a clone of the upstream is now.
fn expect_clone(lab: &Lab, name: &str, snapshot: &[u8]) {
    let clone = lab.scratch("expected-clone");
    let unpacked = lab.unpack(snapshot, "unpacked");
    git::clone(&lab.url(name), &clone);
    parity::expect_same(&clone, &unpacked, name);
    for directory in [clone, unpacked] {
        remove(&directory);
    }
}

fn remove(directory: &Path) {
    let removed = std::fs::remove_dir_all(directory);
    removed.unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
}

/// Runs `work` in `count` threads that start together; gives their results in order.
fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = std::sync::Barrier::new(count);
    std::thread::scope(|scope| {
        let start = |number| {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                barrier.wait();
                work(number)
            })
        };
        let threads: Vec<_> = (0..count).map(start).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, T>| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().map(join).collect()
    })
}
