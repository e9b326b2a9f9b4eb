//! A signal is heard at once, whatever the restore is at: also an archive whose few bytes stand for
//! seconds of work.

use crate::archive::{Archive, zst};
use crate::ground::{Ground, binary, fixture};
use crate::made::{deflated, hex, id, sha1};
use crate::trial::{nothing_left, serve};
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// From the signal to the end, with what has to be removed. On a machine that does other things
/// meanwhile it has to hold in most of the attempts.
const HEARD: Duration = Duration::from_millis(200);
const ATTEMPTS: usize = 5;
/// What each delta makes of the one before, and how many there are.
const RESULT_BYTES: usize = 20 << 20;
const DELTAS: usize = 400;

/// A pack and its index in the making.
#[derive(Default)]
struct Pack {
    bytes: Vec<u8>,
    /// Ids and places.
    objects: Vec<(Vec<u8>, u32)>,
}

impl Pack {
    /// Adds an entry under any id; what it is a delta on stands before its content.
    fn add(&mut self, id: &[u8], kind: u8, base: &[u8], content: &[u8]) {
        let offset = self.bytes.len() as u32 + 12;
        self.objects.push((id.to_vec(), offset));
        let mut left = content.len() >> 4;
        let mut byte = kind << 4 | (content.len() & 0xf) as u8;
        while left > 0 {
            self.bytes.push(byte | 0x80);
            byte = (left & 0x7f) as u8;
            left >>= 7;
        }
        self.bytes.push(byte);
        self.bytes.extend_from_slice(base);
        self.bytes.extend_from_slice(&deflated(content));
    }

    /// The pack and its index.
    fn files(mut self) -> (Vec<u8>, Vec<u8>) {
        let count = (self.objects.len() as u32).to_be_bytes();
        let mut pack = [&b"PACK\0\0\0\x02"[..], &count, &self.bytes].concat();
        pack.extend(sha1(&pack));
        self.objects.sort();
        let mut index = b"\xfftOc\0\0\0\x02".to_vec();
        for first in 0..=255 {
            let before = self.objects.iter().filter(|(id, _)| id[0] <= first);
            index.extend_from_slice(&(before.count() as u32).to_be_bytes());
        }
        self.objects.iter().for_each(|(id, _)| index.extend(id));
        index.resize(index.len() + 4 * self.objects.len(), 0);
        let offsets = self.objects.iter().map(|(_, offset)| offset.to_be_bytes());
        offsets.for_each(|offset| index.extend(offset));
        index.extend_from_slice(&pack[pack.len() - 20..]);
        index.extend(sha1(&index));
        (pack, index)
    }
}

/// A number as deltas have it.
fn varint(mut number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

/// An instruction that copies `len` bytes from `from` on.
fn copy(from: usize, len: usize) -> Vec<u8> {
    let bytes = [&(from as u32).to_le_bytes()[..], &len.to_le_bytes()[..3]].concat();
    [&[0xff][..], &bytes].concat()
}

/// The tree of its commit is a chain of deltas, of which each copies all of the last one.
fn chain() -> Archive {
    const COMMIT: u8 = 1;
    const TREE: u8 = 2;
    const DELTA: u8 = 7;
    let name = |number: usize| sha1(&number.to_le_bytes());
    let mut pack = Pack::default();
    pack.add(&name(0), TREE, b"", &vec![0; RESULT_BYTES]);
    let half = RESULT_BYTES / 2;
    let sizes = varint(RESULT_BYTES).repeat(2);
    let delta = [sizes, copy(0, half), copy(half, half)].concat();
    for number in 1..=DELTAS {
        pack.add(&name(number), DELTA, &name(number - 1), &delta);
    }
    let who = "A <a@b> 1 +0000";
    let tree = hex(&name(DELTAS));
    let text = format!("tree {tree}\nauthor {who}\ncommitter {who}\n\nx\n");
    let object = format!("commit {}\0{text}", text.len());
    let commit = hex(&sha1(object.as_bytes()));
    pack.add(&id(&commit), COMMIT, b"", text.as_bytes());
    let (pack, index) = pack.files();
    let stem = format!(".git/objects/pack/pack-{}", "1".repeat(40));
    fixture()
        .good
        .clone()
        .set(&format!("{stem}.pack"), pack)
        .set(&format!("{stem}.idx"), index)
        .set(".git/refs/heads/main", format!("{commit}\n"))
}

fn start(ground: &Ground, archive: &[u8]) -> Child {
    let address = serve(String::new(), archive.to_vec());
    let mut command = ground.command(&binary());
    command.args(["restore", "test/app"]).arg(ground.target());
    command.args(["--server", &format!("http://{address}"), "--quiet"]);
    let child = command.stderr(Stdio::null()).spawn();
    child.unwrap_or_else(|e| panic!("{e}"))
}

/// Whether a restore has made its configuration: the objects are next.
fn is_at_objects(ground: &Ground) -> bool {
    let staged = std::fs::read_dir(ground.path("work")).into_iter().flatten();
    let mut staged = staged.flatten().map(|entry| entry.path());
    staged.any(|path| path.join("tree/.git/packed-refs").exists())
}

#[test]
fn a_signal_is_heard_in_the_middle_of_an_object() {
    let archive = zst(&chain().tar());
    assert!(archive.len() < 1 << 20, "{}", archive.len());
    let mut heard = Vec::new();
    for _ in 0..ATTEMPTS {
        let ground = Ground::new();
        let mut child = start(&ground, &archive);
        crate::support::wait::until_true("objects are read", || {
            assert!(child.try_wait().is_ok_and(|status| status.is_none()));
            is_at_objects(&ground)
        });
        let told = Instant::now();
        kill_process(Pid::from_child(&child), Signal::INT).unwrap_or_else(|e| panic!("{e}"));
        let status = child.wait().unwrap_or_else(|e| panic!("{e}"));
        heard.push(told.elapsed());
        assert_eq!(status.code(), Some(130));
        nothing_left(&ground).unwrap_or_else(|e| panic!("{e}"));
    }
    heard.sort();
    println!("heard after {heard:?}");
    assert!(heard[ATTEMPTS / 2] <= HEARD, "{heard:?}");
}

/// What nobody ends has an end all the same.
#[test]
fn so_much_work_for_one_object_is_refused() {
    let ground = Ground::new();
    let mut child = start(&ground, &zst(&chain().tar()));
    let (code, memory_bytes, _) = crate::endless::follow(&mut child, &ground);
    assert_eq!(code, Some(5));
    assert!(memory_bytes < 200 << 20, "{memory_bytes}");
    nothing_left(&ground).unwrap_or_else(|e| panic!("{e}"));
}
