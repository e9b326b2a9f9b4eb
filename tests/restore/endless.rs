//! Streams that do not end, or claim more than there can be: whatever a server sends, the restore
//! holds little memory, writes no more than it may, and ends.

use crate::lab::{direct, expect, expect_nothing, new_lab, restore, serve, staged};
use crate::support::relay::listen;
use crate::support::wait;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The most anonymous memory that a restore may hold.
const ANON_KIB_MAX: u64 = 300_000;
const MIB: usize = 1 << 20;
/// A frame without a checksum that needs a window of 8 MiB and does not say how long it is.
const STREAM_HEAD: [u8; 6] = [0x28, 0xB5, 0x2F, 0xFD, 0, 13 << 3];
/// A block of 128 KiB of zeros, not the last one.
const ZEROS: [u8; 4] = [0x02, 0, 0x10, 0];

/// One whole frame, with its length and checksum.
fn frame(content: &[u8]) -> Vec<u8> {
    let mut context = zstd_safe::CCtx::create();
    let checksum = zstd_safe::CParameter::ChecksumFlag(true);
    assert!(context.set_parameter(checksum).is_ok());
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(content.len()));
    assert!(context.compress2(&mut out, content).is_ok());
    out
}

/// A raw block, not the last one.
fn block(content: &[u8]) -> Vec<u8> {
    let head = (content.len() as u32) << 3;
    [&head.to_le_bytes()[..3], content].concat()
}

fn skippable(len: usize) -> Vec<u8> {
    let head = [0x184D_2A50u32.to_le_bytes(), (len as u32).to_le_bytes()].concat();
    [head, vec![0; len]].concat()
}

/// A header of tar.
fn header(name: &[u8], kind: tar::EntryType, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_mtime(1);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn file(name: &[u8], size: u64) -> Vec<u8> {
    header(name, tar::EntryType::Regular, size)
}

/// A server whose answer to everything is `first` and then `more` for ever; how much it sent.
fn endless(
    first: Vec<u8>,
    more: impl Fn(u64) -> Vec<u8> + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicU64>) {
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let address = listen(move |socket| {
        let mut lines = BufReader::new(socket).lines();
        while lines
            .next()
            .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
        {}
        let mut socket = socket;
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        drop(socket.write_all(head.as_bytes()));
        let mut send = |bytes: &[u8]| {
            let size = format!("{:x}\r\n", bytes.len());
            counted.fetch_add(bytes.len() as u64, Relaxed);
            socket.write_all(&[size.as_bytes(), bytes, b"\r\n"].concat())
        };
        let mut goes_on = first.is_empty() || send(&first).is_ok();
        let mut number = 0;
        while goes_on {
            goes_on = send(&more(number)).is_ok();
            number += 1;
        }
    });
    (address, sent)
}

/// A restore that is watched: the most anonymous memory that it had.
struct Watched {
    child: Child,
    peak_kib: u64,
}

impl Watched {
    fn start(server: SocketAddr, target: &Path, more: &[&str]) -> Watched {
        let mut command = direct(server, "test/app", target, more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap_or_else(|e| panic!("{e}"));
        let peak_kib = 0;
        Watched { child, peak_kib }
    }

    /// Looks at its memory; whether it lives.
    fn look(&mut self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
        let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok());
        self.peak_kib = self.peak_kib.max(kib.unwrap_or(0));
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Its output and the most memory it had, when it ends.
    fn end(mut self) -> (Output, u64) {
        wait::until_true("the restore ends", || !self.look());
        let out = self.child.wait_with_output();
        (out.unwrap_or_else(|e| panic!("{e}")), self.peak_kib)
    }
}

/// A server that sends more than it says is left as soon as all that it says is there.
#[test]
fn what_follows_the_whole_archive_is_not_waited_for() {
    let lab = new_lab();
    let server = lab.start();
    let whole = crate::lab::archive(&lab, &server);
    let total = whole.len();
    let address = listen(move |mut socket| {
        let mut lines = BufReader::new(socket).lines();
        while lines
            .next()
            .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
        {}
        let head = format!(
            "HTTP/1.1 206 Partial\r\nContent-Length: {}\r\nContent-Range: bytes 0-{}/{total}\r\n\r\n",
            u64::MAX,
            total - 1
        );
        let mut goes_on = socket.write_all(head.as_bytes()).is_ok();
        goes_on &= socket.write_all(&whole).is_ok();
        while goes_on {
            goes_on = socket.write_all(&[7; 4096]).is_ok();
        }
    });
    let target = lab.scratch("whole");
    let (out, peak_kib) = Watched::start(address, &target, &["--json"]).end();
    expect(&out, 0);
    assert!(peak_kib < ANON_KIB_MAX, "{peak_kib} KiB");
}

/// A stream that could be an archive for hours: a signal ends it at once however fast it comes.
/// Small frames and small files are the most work for their bytes.
#[test]
fn a_signal_ends_the_fastest_stream() {
    let lab = new_lab();
    let huge = file(b"huge", 1 << 40);
    let first: [Vec<u8>; 3] = [
        [&STREAM_HEAD[..], &block(&huge)].concat(),
        frame(&huge),
        frame(&huge),
    ];
    let small = frame(&[7; 64]).repeat(1000);
    let large = frame(&crate::support::rng::Rng::new(3).bytes(MIB));
    let more: [fn(u64) -> Vec<u8>; 1] = [|_| ZEROS.repeat(10_000)];
    for (number, first) in first.into_iter().enumerate() {
        let (small, large) = (small.clone(), large.clone());
        let (address, sent) = endless(first, move |n| match number {
            0 => more[0](n),
            1 => small.clone(),
            _ => large.clone(),
        });
        let target = lab.scratch("stopped");
        let mut child = Watched::start(address, &target, &["--size-limit", "2T"]);
        wait::until_true("much has come", || {
            assert!(child.look(), "it ended by itself");
            let mut staged = staged(&lab.scratch("")).into_iter();
            let written = |path: std::path::PathBuf| fs::metadata(path.join("tree/huge"));
            // Of zeros a few bytes are as much as the disk takes in a while.
            match number {
                0 => staged.any(|path| written(path).is_ok_and(|file| file.len() > 64 << 20)),
                _ => sent.load(Relaxed) > 16 * MIB as u64,
            }
        });
        let asked = Instant::now();
        let pid = Pid::from_child(&child.child);
        kill_process(pid, Signal::INT).unwrap_or_else(|e| panic!("{e}"));
        let (out, peak_kib) = child.end();
        println!(
            "{number}: ended after {:?}, {peak_kib} KiB",
            asked.elapsed()
        );
        expect(&out, 130);
        assert!(asked.elapsed() < Duration::from_secs(10), "{number}");
        assert!(peak_kib < ANON_KIB_MAX, "{number}: {peak_kib} KiB");
        expect_nothing(&target);
    }
}

/// What a header claims costs no disk: space follows the data.
#[test]
fn space_is_reserved_for_what_has_come() {
    let lab = new_lab();
    let first = frame(&[file(b"huge", 1 << 40), vec![7; 512]].concat());
    let (address, _) = endless(first, |_| {
        std::thread::sleep(Duration::from_millis(20));
        skippable(0)
    });
    let target = lab.scratch("huge");
    let mut child = Watched::start(address, &target, &["--size-limit", "2T"]);
    wait::until_true("the file is begun", || {
        assert!(child.look(), "it ended by itself");
        let mut staged = staged(&lab.scratch("")).into_iter();
        let written = |path: std::path::PathBuf| fs::metadata(path.join("tree/huge"));
        staged.any(|path| written(path).is_ok_and(|file| file.len() == 64 << 20))
    });
    kill_process(Pid::from_child(&child.child), Signal::TERM).unwrap_or_else(|e| panic!("{e}"));
    expect(&child.end().0, 130);
    expect_nothing(&target);
}

/// Slow signs of life before an archive are no flood; and each comes at once, not when a megabyte
/// of them is there.
#[test]
fn a_flood_of_nothing_is_told_from_signs_of_life() {
    let lab = new_lab();
    let archive = frame(&[file(b"a", 0), vec![0; 1024]].concat());
    let alive = [skippable(4).repeat(900), archive].concat();
    let target = lab.scratch("alive");
    // There is nothing of a repository in it: it is taken as far as that.
    let errors = expect(
        &restore(serve(alive, |_| None), "test/app", &target, &[]),
        5,
    );
    assert!(
        errors.contains(".git/config") || errors.contains("HEAD"),
        "{errors}"
    );
    let slow = |_| {
        std::thread::sleep(Duration::from_millis(1));
        skippable(4)
    };
    let (address, sent) = endless(Vec::new(), slow);
    let (out, _) = Watched::start(address, &target, &[]).end();
    let errors = expect(&out, 5);
    assert!(errors.contains("without content"), "{errors}");
    assert!(sent.load(Relaxed) < MIB as u64, "{}", sent.load(Relaxed));
}

/// `--size-limit` is what is written, bundles included; what is just as large as that is taken.
#[test]
fn the_size_limit_bounds_what_is_written() {
    let lab = new_lab();
    let server = lab.start();
    let target = lab.scratch("limited");
    let errors = expect(
        &restore(
            server.address(),
            "test/app",
            &target,
            &["--size-limit", "8M"],
        ),
        4,
    );
    assert!(errors.contains("--size-limit allows, 8.0 MiB"), "{errors}");
    expect_nothing(&target);
    expect(
        &restore(
            server.address(),
            "test/app",
            &target,
            &["--size-limit", "64M"],
        ),
        0,
    );
    let wrong = restore(
        server.address(),
        "test/app",
        &target,
        &["--size-limit", "5%"],
    );
    assert!(expect(&wrong, 1).contains("--size-limit"));
}
