//! Streams that never end, or hold far more than they seem to. Each is watched: what memory the
//! restore has, what it takes of the disk, and how long it goes on once there is something to see.
//!
//! The server's side ends by itself, whatever the client does.

use crate::archive::{Archive, Entry, block, frame, pax, skippable, zst};
use crate::ground::{Ground, binary, fixture};
use crate::support::relay::listen;
use crate::support::restore::asks_for_archive;
use crate::support::rng::Rng;
use crate::trial::{nothing_left, ok, read_request};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tar::{EntryType, Header};

/// Most memory that a restore may have.
const MEMORY_BYTES: u64 = 300 << 20;
/// Without optimisations some of what is read takes ten times as long.
const SLOWER: u64 = if cfg!(debug_assertions) { 12 } else { 1 };
/// How long it may go on once there is something to see.
const END_LIMIT: Duration = Duration::from_secs(2 * SLOWER);
/// How long it may take when nothing but a limit ends it.
const CAP: Duration = Duration::from_secs(16 * SLOWER);
/// What a server sends at most.
const SENT_BYTES: u64 = 16 << 30;
/// A time limit says nothing on a machine that stood still meanwhile: it has to hold in one of
/// these attempts. All other limits hold in each.
const ATTEMPTS: usize = 3;

/// Where a hostile server writes to.
struct Sink<'a> {
    socket: &'a TcpStream,
    sent_bytes: u64,
    until: Instant,
    seen: Arc<Mutex<Option<Instant>>>,
}

impl Sink<'_> {
    /// Sends; false when the client has gone or enough was sent.
    fn send(&mut self, bytes: &[u8]) -> bool {
        self.sent_bytes += bytes.len() as u64;
        let mut socket = self.socket;
        let goes_on = Instant::now() < self.until && self.sent_bytes < SENT_BYTES;
        goes_on && socket.write_all(bytes).is_ok()
    }

    /// The same again and again.
    fn repeat(&mut self, bytes: &[u8]) {
        let many = bytes.repeat((64 << 10) / bytes.len().max(1) + 1);
        while self.send(&many) {}
    }

    /// From now on there is something to see.
    fn mark(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(|p| p.into_inner());
        seen.get_or_insert_with(Instant::now);
    }
}

/// What a stream must come to.
struct Stream {
    name: &'static str,
    send: fn(&mut Sink<'_>),
    /// What may be written, if there is a limit.
    limit_mib: Option<u64>,
    codes: &'static [i32],
}

impl Stream {
    /// The options that say so.
    fn options(&self) -> Vec<String> {
        let limit = self.limit_mib.map(|mib| format!("--size-limit={mib}M"));
        limit.into_iter().collect()
    }

    /// Most that may be on the disk: a header's claim takes no more than a part of it ahead.
    fn disk_bytes(&self) -> u64 {
        (self.limit_mib.unwrap_or(64) + 1) << 20
    }
}

const fn stream(name: &'static str, codes: &'static [i32], send: fn(&mut Sink<'_>)) -> Stream {
    Stream {
        name,
        send,
        limit_mib: None,
        codes,
    }
}

/// The same with a limit of what may be written.
const fn limited(name: &'static str, codes: &'static [i32], send: fn(&mut Sink<'_>)) -> Stream {
    Stream {
        name,
        send,
        limit_mib: Some(64),
        codes,
    }
}

/// The same of entries that hold nothing: each takes a block.
const fn crowd(name: &'static str, send: fn(&mut Sink<'_>)) -> Stream {
    Stream {
        name,
        send,
        limit_mib: Some(4),
        codes: &[4, 5],
    }
}

/// What was seen of a restore.
struct Watched {
    code: Option<i32>,
    memory_bytes: u64,
    disk_bytes: u64,
    /// Since there was something to see, or since the start.
    took: Duration,
}

/// The socket's other end has gone when this returns: what a server thread holds is its own.
fn watch(case: &Stream, ground: &Ground) -> Watched {
    let seen = Arc::new(Mutex::new(None));
    let (send, mark) = (case.send, seen.clone());
    let address = listen(move |socket| {
        if read_request(socket).is_none() {
            return;
        }
        let limit = Some(Duration::from_secs(5));
        drop(socket.set_write_timeout(limit));
        send(&mut Sink {
            socket,
            sent_bytes: 0,
            until: Instant::now() + CAP,
            seen: mark.clone(),
        });
    });
    let mut command = ground.command(&binary());
    command.args(["restore", "test/app"]).arg(ground.target());
    command.args(["--server", &format!("http://{address}"), "--quiet"]);
    command.args(case.options()).stderr(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{e}"));
    let (code, memory_bytes, disk_bytes) = follow(&mut child, ground);
    let seen = seen.lock().unwrap_or_else(|p| p.into_inner());
    Watched {
        code,
        memory_bytes,
        disk_bytes,
        took: seen.unwrap_or(start).elapsed(),
    }
}

/// Waits for the end, or brings it about; gives the most that there was at any time.
pub fn follow(child: &mut Child, ground: &Ground) -> (Option<i32>, u64, u64) {
    follow_for(child, ground, CAP)
}

/// The same of what may take its time.
pub fn follow_for(child: &mut Child, ground: &Ground, cap: Duration) -> (Option<i32>, u64, u64) {
    let (start, mut number) = (Instant::now(), 0);
    let (mut memory_bytes, mut disk_bytes) = (0, 0);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return (status.code(), memory_bytes, disk_bytes);
        }
        memory_bytes = anonymous_bytes(child.id()).max(memory_bytes);
        if number % 20 == 0 {
            // Looking at many files takes more than a moment.
            disk_bytes = used_bytes(&ground.path("work")).max(disk_bytes);
        }
        number += 1;
        // What has gone wrong need not take the machine with it.
        if start.elapsed() > cap || memory_bytes > MEMORY_BYTES {
            drop(child.kill());
            drop(child.wait());
            return (None, memory_bytes, disk_bytes);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Memory of a process that is no file's.
fn anonymous_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// What the files at and below a path take of the disk.
fn used_bytes(path: &Path) -> u64 {
    let Ok(meta) = path.symlink_metadata() else {
        return 0;
    };
    let listing = std::fs::read_dir(path).into_iter().flatten().flatten();
    let below: u64 = match meta.is_dir() {
        true => listing.map(|entry| used_bytes(&entry.path())).sum(),
        false => 0,
    };
    meta.blocks() * 512 + below
}

fn try_streams(cases: &[Stream]) {
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|case| attempt(case).err())
        .collect();
    assert!(failed.is_empty(), "\n{}\n", failed.join("\n"));
}

fn attempt(case: &Stream) -> Result<(), String> {
    let name = case.name;
    let mut took = Vec::new();
    for _ in 0..ATTEMPTS {
        let ground = Ground::new();
        let seen = watch(case, &ground);
        let (memory_mib, disk_mib) = (seen.memory_bytes >> 20, seen.disk_bytes >> 20);
        if std::env::var_os("TARPON_TEST_SHOW").is_some() {
            let took = seen.took;
            eprintln!(
                "{name}: {:?}, {memory_mib} MiB, {disk_mib} MiB on disk, {took:?}",
                seen.code
            );
        }
        if seen.memory_bytes > MEMORY_BYTES {
            return Err(format!("{name}: {memory_mib} MiB of memory"));
        }
        if seen.disk_bytes > case.disk_bytes() {
            return Err(format!("{name}: {disk_mib} MiB of disk"));
        }
        if !seen.code.is_some_and(|code| case.codes.contains(&code)) {
            return Err(format!(
                "{name}: exit {:?}, not {:?}",
                seen.code, case.codes
            ));
        }
        ground.harm().map_err(|why| format!("{name}: {why}"))?;
        if !case.codes.contains(&0) {
            nothing_left(&ground).map_err(|why| format!("{name}: {why}"))?;
        }
        took.push(seen.took);
        let limit = if case.limit_mib.is_none() {
            END_LIMIT
        } else {
            CAP / 2
        };
        if seen.took <= limit {
            return Ok(());
        }
    }
    Err(format!("{name}: ended after {took:?}"))
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: 1099511627776\r\n\r\n";

/// Frames of the archive's beginning, as a good one has.
fn beginning() -> Vec<u8> {
    zst(&fixture().good.body())
}

/// A frame without content.
fn empty() -> Vec<u8> {
    frame(b"")
}

/// The beginning of a frame that says nothing of its size, with `first` as its first block.
fn open_frame(first: &[u8]) -> Vec<u8> {
    const CHECKSUM: u8 = 4;
    const WINDOW_8_MIB: u8 = 13 << 3;
    let mut out = [&0xFD2F_B528u32.to_le_bytes()[..], &[CHECKSUM, WINDOW_8_MIB]].concat();
    for piece in first.chunks(100_000) {
        out.extend_from_slice(&(piece.len() as u32 * 8).to_le_bytes()[..3]);
        out.extend_from_slice(piece);
    }
    out
}

/// A block of 128 KiB of zeros.
fn zeros() -> Vec<u8> {
    const REPEATED: u32 = 1 << 1;
    let head = ((128u32 << 10) << 3) | REPEATED;
    [&head.to_le_bytes()[..3], &[0]].concat()
}

/// The header of a file that is said to be that long.
fn header(name: &[u8], size: u64) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

const FRAMES: [Stream; 12] = [
    stream("garbage", &[5], |to| {
        to.send(HEAD);
        to.mark();
        to.repeat(&Rng::new(1).bytes(64 << 10));
    }),
    // It was not asked for, and nothing inflates it.
    stream("a gzip of zeros", &[5], |to| {
        let head = String::from_utf8_lossy(HEAD).replace("ETag", "Content-Encoding: gzip\r\nETag");
        to.send(head.as_bytes());
        to.mark();
        to.send(b"\x1f\x8b\x08\0\0\0\0\0\0\x03");
        to.repeat(&crate::made::deflated(&[0; 1 << 16])[2..]);
    }),
    stream("garbage behind a good beginning", &[5], |to| {
        to.send(&[HEAD, &beginning()].concat());
        to.mark();
        to.repeat(&Rng::new(1).bytes(64 << 10));
    }),
    stream("empty frames", &[5], |to| {
        to.send(&[HEAD, &empty().repeat(1000)].concat());
        to.mark();
        to.repeat(&empty());
    }),
    stream("small skippable frames", &[5], |to| {
        to.send(&[HEAD, &skippable(b"x").repeat(1000)].concat());
        to.mark();
        to.repeat(&skippable(b"x"));
    }),
    stream("skippable frames of 1 MiB", &[5], |to| {
        let one = skippable(&vec![7; (1 << 20) - 8]);
        to.send(HEAD);
        for _ in 0..17 {
            to.send(&one);
        }
        to.mark();
        to.repeat(&one);
    }),
    stream("a skippable frame of 4 GiB", &[5], |to| {
        to.send(HEAD);
        to.mark();
        to.send(&[0x184D_2A50u32.to_le_bytes(), u32::MAX.to_le_bytes()].concat());
        to.repeat(&[7; 4096]);
    }),
    stream("a frame of 1 TiB", &[5], |to| {
        // A single segment: the window is as large as the content.
        let head = [
            &0xFD2F_B528u32.to_le_bytes()[..],
            &[0xe4],
            &(1u64 << 40).to_le_bytes(),
        ];
        to.send(HEAD);
        to.mark();
        to.send(&head.concat());
        to.repeat(&zeros());
    }),
    stream("a window of 1 GiB", &[5], |to| {
        to.send(HEAD);
        to.mark();
        to.send(&[&0xFD2F_B528u32.to_le_bytes()[..], &[4, 20 << 3]].concat());
        to.repeat(&zeros());
    }),
    stream("blocks without content", &[5], |to| {
        to.send(&[HEAD, &open_frame(&fixture().good.body())].concat());
        to.mark();
        to.repeat(&[0; 3]);
    }),
    stream("a bomb of zeros", &[5], |to| {
        to.send(&[HEAD, &open_frame(&fixture().good.body())].concat());
        to.mark();
        to.repeat(&zeros());
    }),
    limited("a bomb in a file", &[4], |to| {
        let first = [fixture().good.body(), header(b"bomb", i64::MAX as u64)].concat();
        to.send(&[HEAD, &open_frame(&first)].concat());
        to.repeat(&zeros());
    }),
];

#[test]
fn endless_frames_end() {
    try_streams(&FRAMES);
}

/// Frames of 1 MiB whose content is what `next` makes.
fn entries(to: &mut Sink<'_>, mut next: impl FnMut(u64, &mut Vec<u8>)) {
    let mut number = 0;
    loop {
        let mut tar = Vec::new();
        while tar.len() < 1 << 20 {
            next(number, &mut tar);
            number += 1;
        }
        if !to.send(&frame(&tar)) {
            return;
        }
        to.mark();
    }
}

const TARS: [Stream; 22] = [
    crowd("entries without end", |to| {
        to.send(&[HEAD, &beginning()].concat());
        entries(to, |number, tar| {
            block(
                tar,
                format!("f{number}").as_bytes(),
                EntryType::Regular,
                b"",
                0o644,
            );
        });
    }),
    crowd("directories without end", |to| {
        to.send(&[HEAD, &beginning()].concat());
        entries(to, |number, tar| {
            block(
                tar,
                format!("d{number}/").as_bytes(),
                EntryType::Directory,
                b"",
                0o755,
            );
        });
    }),
    crowd("links without end", |to| {
        to.send(&[HEAD, &beginning()].concat());
        entries(to, |number, tar| {
            block(
                tar,
                format!("l{number}").as_bytes(),
                EntryType::Symlink,
                b"x",
                0o777,
            );
        });
    }),
    limited("a file without end", &[4], |to| {
        to.send(&[HEAD, &beginning(), &frame(&header(b"f", i64::MAX as u64))].concat());
        to.repeat(&frame(&Rng::new(2).bytes(1 << 20)));
    }),
    limited("packs without end", &[4, 5], |to| {
        to.send(&[HEAD, &beginning()].concat());
        entries(to, |number, tar| {
            let name = format!(".git/objects/pack/pack-{number:040}.pack");
            block(
                tar,
                name.as_bytes(),
                EntryType::Regular,
                &[7; 100_000],
                0o644,
            );
        });
    }),
    limited("one directory without end", &[4, 5], |to| {
        to.send(&[HEAD, &beginning()].concat());
        to.mark();
        entries(to, |_, tar| {
            block(tar, b"dir/", EntryType::Directory, b"", 0o755)
        });
    }),
    stream("PAX headers without end", &[5], |to| {
        to.send(HEAD);
        entries(to, |_, tar| {
            block(
                tar,
                b"pax",
                EntryType::XHeader,
                &pax(&[("mtime", "1")]),
                0o644,
            );
        });
    }),
    stream("long names without end", &[5], |to| {
        to.send(HEAD);
        entries(to, |_, tar| {
            block(tar, b"././@LongLink", EntryType::GNULongName, b"x\0", 0o644);
        });
    }),
    stream("a PAX header of 8 EiB", &[5], |to| {
        endless_header(to, EntryType::XHeader)
    }),
    stream("a global header of 8 EiB", &[5], |to| {
        endless_header(to, EntryType::XGlobalHeader)
    }),
    stream("a long name of 8 EiB", &[5], |to| {
        endless_header(to, EntryType::GNULongName)
    }),
    stream("one long target for many links", &[5], |to| {
        let mut tar = fixture().good.body();
        let target = pax(&[("linkpath", &"x".repeat(250_000))]);
        block(&mut tar, b"pax", EntryType::XGlobalHeader, &target, 0o644);
        for number in 0..6000 {
            let name = format!("l{number}");
            block(&mut tar, name.as_bytes(), EntryType::Symlink, b"", 0o777);
        }
        to.send(&[HEAD, &frame(&tar)].concat());
        to.mark();
        to.repeat(&frame(&[0; 512]));
    }),
    // As long as they may be, in one frame: the second link is one too many as soon as it is written.
    stream("one long name for many links", &[5], |to| {
        let path = format!("{}/", "n".repeat(254)).repeat(16) + "link";
        let target = "x".repeat(4000);
        let names = pax(&[("path", &path), ("linkpath", &target)]);
        let mut tar = fixture().good.body();
        block(&mut tar, b"pax", EntryType::XGlobalHeader, &names, 0o644);
        while tar.len() < (16 << 20) - 512 {
            block(&mut tar, b"l", EntryType::Symlink, b"", 0o777);
        }
        to.send(&[HEAD, &frame(&tar)].concat());
        to.mark();
        to.repeat(&frame(&tar));
    }),
    stream("zeros behind the end", &[5], |to| {
        to.send(&[HEAD, &zst(&fixture().good.tar())].concat());
        to.mark();
        to.repeat(&frame(&[0; 1 << 20]));
    }),
    stream("skippable frames behind the end", &[5], |to| {
        to.send(&[HEAD, &zst(&fixture().good.tar())].concat());
        to.mark();
        to.repeat(&skippable(&vec![7; 100_000]));
    }),
    stream("empty frames behind the end", &[5], |to| {
        to.send(&[HEAD, &zst(&fixture().good.tar())].concat());
        to.mark();
        to.repeat(&empty());
    }),
    stream("a HEAD without end", &[5], |to| {
        endless_file(to, ".git/HEAD", 1, |_| "ref: refs/heads/main\n".into());
    }),
    stream("a config without end", &[5], |to| {
        endless_file(to, ".git/config", 2, |n| format!("[a \"{n}\"]\n"));
    }),
    stream("packed refs without end", &[5], |to| {
        let line = |n| format!("{n:040x} refs/tags/t{n:09}\n");
        endless_file(to, ".git/packed-refs", 97, line);
    }),
    stream("a list of shallow commits without end", &[5], |to| {
        endless_file(to, ".git/shallow", 97, |n| format!("{n:040x}\n"));
    }),
    stream("refs without end", &[5], |to| {
        to.send(&[HEAD, &beginning()].concat());
        let id = fixture().ask(&["rev-parse", "HEAD"]);
        let mut number = 0;
        // Each costs 128 bytes besides its name and id.
        for _ in 0..=(96 << 20) / (2048 * 227) {
            to.send(&refs_frame(&id, &mut number));
        }
        to.mark();
        while to.send(&refs_frame(&id, &mut number)) {}
    }),
    limited("bad refs without end", &[4, 5], |to| {
        to.send(&[HEAD, &beginning()].concat());
        let id = fixture().ask(&["rev-parse", "HEAD"]);
        entries(to, |number, tar| {
            let name = format!(".git/refs/tags/evil..{number}");
            block(
                tar,
                name.as_bytes(),
                EntryType::Regular,
                id.as_bytes(),
                0o644,
            );
        });
    }),
];

/// A frame of 2,048 loose refs.
fn refs_frame(id: &str, number: &mut u64) -> Vec<u8> {
    let mut tar = Vec::new();
    for _ in 0..2048 {
        let name = format!(".git/refs/tags/{number:045}");
        block(
            &mut tar,
            name.as_bytes(),
            EntryType::Regular,
            id.as_bytes(),
            0o644,
        );
        *number += 1;
    }
    frame(&tar)
}

/// A file of `.git` of a GiB, as it says, which is too much after so many MiB.
fn endless_file(to: &mut Sink<'_>, name: &str, enough_mib: usize, line: fn(u64) -> String) {
    let archive = fixture().good.clone().without(name);
    let first = [archive.body(), header(name.as_bytes(), 1 << 30)].concat();
    to.send(&[HEAD, &zst(&first)].concat());
    let (mut number, mut sent) = (0, 0);
    loop {
        let mut text = String::new();
        while text.len() < 1 << 20 {
            number += 1;
            text.push_str(&line(number));
        }
        sent += 1;
        if sent > enough_mib {
            to.mark();
        }
        if !to.send(&frame(text.as_bytes())) {
            return;
        }
    }
}

fn endless_header(to: &mut Sink<'_>, kind: EntryType) {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..1].copy_from_slice(b"x");
    header.set_entry_type(kind);
    header.set_size(i64::MAX as u64);
    header.set_cksum();
    to.send(&[HEAD, &frame(header.as_bytes())].concat());
    to.mark();
    to.repeat(&frame(&vec![b'x'; 1 << 20]));
}

#[test]
fn endless_tars_end() {
    try_streams(&TARS);
}

/// A file that is said to be of 8 EiB, of which little comes: no space is taken for the rest.
#[test]
fn what_a_header_claims_is_not_reserved() {
    let case = limited("8 EiB of which little comes", &[3, 4, 5], |to| {
        to.send(&[HEAD, &beginning(), &frame(&header(b"f", i64::MAX as u64))].concat());
        to.send(&frame(b"little"));
        std::thread::sleep(Duration::from_secs(1));
    });
    let claim = stream("the same without a limit", &[3, 4, 5], case.send);
    for case in [case, claim] {
        let ground = Ground::new();
        let seen = watch(&case, &ground);
        let disk_mib = seen.disk_bytes >> 20;
        assert!(disk_mib <= 65, "{}: {disk_mib} MiB", case.name);
        let is_expected = seen.code.is_some_and(|code| case.codes.contains(&code));
        assert!(is_expected, "{}: {:?}", case.name, seen.code);
    }
}

const HEADS: [Stream; 9] = [
    stream("header lines without end", &[3], |to| {
        to.send(b"HTTP/1.1 200 OK\r\n");
        to.send(&b"X: y\r\n".repeat(20_000));
        to.mark();
        to.repeat(b"X: y\r\n");
    }),
    stream("a header line without end", &[3], |to| {
        to.send(b"HTTP/1.1 200 OK\r\nX: ");
        to.send(&[b'y'; 100_000]);
        to.mark();
        to.repeat(b"y");
    }),
    stream("a status line without end", &[3], |to| {
        to.send(b"HTTP/1.1 200 ");
        to.send(&[b'y'; 100_000]);
        to.mark();
        to.repeat(b"y");
    }),
    stream("answers of 1xx without end", &[3], |to| {
        to.mark();
        to.repeat(b"HTTP/1.1 102 Processing\r\n\r\n");
    }),
    stream("an error's text without end", &[2, 3], |to| {
        to.send(b"HTTP/1.1 404 x\r\nContent-Length: 1099511627776\r\n\r\n");
        to.send(&[b'y'; 2 << 20]);
        to.mark();
        to.repeat(b"y");
    }),
    stream("a chunk's extension without end", &[3, 5], |to| {
        to.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;");
        to.send(&[b'y'; 100_000]);
        to.mark();
        to.repeat(b"y");
    }),
    stream("extensions without end", &[3, 5], |to| {
        to.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        to.mark();
        to.repeat(&[&b"1;"[..], &[b'y'; 1000], b"\r\n(\r\n"].concat());
    }),
    stream("a chunk of 2^63", &[3, 5], |to| {
        to.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8000000000000000\r\n");
        to.mark();
        to.repeat(b"y");
    }),
    stream("trailers without end", &[3, 5], |to| {
        to.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n");
        to.send(&b"X: y\r\n".repeat(20_000));
        to.mark();
        to.repeat(b"X: y\r\n");
    }),
];

#[test]
fn endless_heads_end() {
    try_streams(&HEADS);
}

/// What answers to requests whose target has `place` in it, after a good archive with a bundle. All
/// others get what leads there: a list of refs with a commit that is not in the archive.
fn behind(case: &Stream, place: &'static str, more: &[&str]) -> Result<(), String> {
    let ground = Ground::new();
    let send = case.send;
    let body = zst(&fixture().good.tar());
    let new = "1".repeat(40);
    let line = |text: String| format!("{:04x}{text}\n", text.len() + 5);
    let list = [
        line(format!("{new} HEAD symref-target:refs/heads/main")),
        line(format!("{new} refs/heads/main")),
        "0000".to_owned(),
    ];
    let list = list.concat();
    let reached = Arc::new(Mutex::new(false));
    let reaches = reached.clone();
    let address = listen(move |socket| {
        while let Some(asked) = read_request(socket) {
            let mut sink = Sink {
                socket,
                sent_bytes: 0,
                until: Instant::now() + CAP,
                seen: Arc::default(),
            };
            if asked.contains(place) {
                *reaches.lock().unwrap_or_else(|p| p.into_inner()) = true;
                return send(&mut sink);
            }
            let fields = "X-Cachew-Bundle-Url: /git/test/app/snapshot.bundle?base=1\r\n";
            let answer = match &asked {
                a if asks_for_archive(a) => ok(fields, &body),
                a if a.contains("/git-upload-pack ") => ok("", list.as_bytes()),
                _ => b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n".to_vec(),
            };
            sink.send(&answer);
        }
    });
    let mut command = ground.command(&binary());
    command.args(["restore", "test/app"]).arg(ground.target());
    command.args(["--server", &format!("http://{address}"), "--quiet"]);
    command
        .args(case.options())
        .args(more)
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{e}"));
    let (code, memory_bytes, disk_bytes) = follow(&mut child, &ground);
    let is_reached = *reached.lock().unwrap_or_else(|p| p.into_inner());
    let sound = code.is_some_and(|code| case.codes.contains(&code))
        && is_reached
        && memory_bytes <= MEMORY_BYTES
        && disk_bytes <= case.disk_bytes();
    let seen = format!(
        "reached: {is_reached}, exit {code:?}, {} and {} MiB",
        memory_bytes >> 20,
        disk_bytes >> 20
    );
    if sound {
        Ok(())
    } else {
        Err(format!("{}: {seen}", case.name))
    }
}

#[test]
fn endless_answers_behind_the_archive_end() {
    let bundles = [
        limited("a bundle without end", &[0, 4], |to| {
            to.send(HEAD);
            to.repeat(&Rng::new(3).bytes(64 << 10));
        }),
        limited("a bundle's head without end", &[0, 4], |to| {
            to.send(&[HEAD, b"# v2 git bundle\n"].concat());
            to.repeat(format!("{} refs/heads/x\n", "1".repeat(40)).as_bytes());
        }),
    ];
    let refs = limited("an answer to ensure-refs without end", &[3], |to| {
        to.send(&[HEAD, b"{\"refs\":{"].concat());
        to.repeat(b"\"refs/heads/x\":\"\",");
    });
    let lists = [
        limited("a list of refs without end", &[0], |to| {
            to.send(HEAD);
            let mut number = 0_u64;
            let mut line = || {
                number += 1;
                format!("{:04x}{number:040x} refs/tags/t{number:09}\n", 40 + 21 + 5)
            };
            while to.send((0..1000).map(|_| line()).collect::<String>().as_bytes()) {}
        }),
        limited("a ref's line without end", &[0], |to| {
            to.send(&[HEAD, b"fff0"].concat());
            to.repeat(b"1");
        }),
    ];
    let results = bundles
        .iter()
        .map(|case| behind(case, "/snapshot.bundle", &[]));
    let results = results.chain(
        lists
            .iter()
            .map(|case| behind(case, "/git-upload-pack ", &[])),
    );
    let ensured = behind(&refs, "/ensure-refs", &["--no-bundle", "--ref", "side"]);
    let results = results.chain([ensured]);
    let failed: Vec<String> = results.filter_map(Result::err).collect();
    assert!(failed.is_empty(), "\n{}\n", failed.join("\n"));
}

/// A byte now and then, for as long as the client likes: nothing grows, and it ends when told to.
#[test]
fn a_slow_drip_can_be_ended() {
    let ground = Ground::new();
    let body = zst(&Archive(vec![Entry::file("big", vec![7; 1 << 20])]).tar());
    let dripped = Arc::new(Mutex::new(0));
    let count = dripped.clone();
    let address = listen(move |socket| {
        if read_request(socket).is_none() {
            return;
        }
        let mut socket = socket;
        drop(socket.write_all(HEAD));
        let until = Instant::now() + CAP;
        for byte in &body {
            if Instant::now() > until || socket.write_all(&[*byte]).is_err() {
                return;
            }
            *count.lock().unwrap_or_else(|p| p.into_inner()) += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut command = ground.command(&binary());
    command.args(["restore", "test/app"]).arg(ground.target());
    command.args(["--server", &format!("http://{address}"), "--quiet"]);
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{e}"));
    crate::support::wait::until_true("it drips", || {
        *dripped.lock().unwrap_or_else(|p| p.into_inner()) > 20
    });
    let told = Instant::now();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT)
        .unwrap_or_else(|e| panic!("{e}"));
    let (code, memory_bytes, _) = follow(&mut child, &ground);
    let errors = child.stderr.take().map(std::io::read_to_string);
    assert_eq!(code, Some(130), "{errors:?}");
    assert!(told.elapsed() < END_LIMIT, "{:?}", told.elapsed());
    assert!(memory_bytes <= MEMORY_BYTES, "{memory_bytes}");
    nothing_left(&ground).unwrap_or_else(|e| panic!("{e}"));
}
