//! A file system in memory that fails on purpose; for tests and fuzzing only.
//!
//! One seed decides all of it: which calls fail and how (`EIO`, `ENOSPC`, short writes), how
//! long a spool file's writes take on a clock of its own, and what a power cut leaves. Nothing
//! here asks the time or the machine, so a seed repeats exactly.
//!
//! What a power cut may do is what POSIX allows and file systems are known to do:
//! - Bytes that were not synced are there, are not, or are zeros, block by block; a file that
//!   grew has any length between the synced and the written one.
//! - Changes of a directory (each of them whole: a rename happens or does not) that were not
//!   synced happened all, not at all, up to some moment, or in any selection.
//! - A `sync` of a file that fails has lost bytes that no later `sync` brings back.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tarpon::extent::Piece;
use tarpon::io::disk::SpoolFile;
use tarpon::io::fs::{Fs, Kind, LockError, Space, Stat, WriteAt};

/// Longest time that a write of a spool file takes, in ticks of the simulated clock.
const SIM_DELAY_TICKS_MAX: u64 = 20;

/// Bytes that a power cut keeps or loses together; small, so that small files have several.
const BLOCK_BYTES: usize = 16;
/// Files below a directory of this name are on another file system: no links to them.
pub const OTHER_DEVICE: &str = "other-device";

type Ino = usize;
type Names = BTreeMap<String, Ino>;

/// SplitMix64.
#[derive(Debug)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// A file or directory, as programs see it and as the disk has it.
#[derive(Debug)]
enum Node {
    File { bytes: Vec<u8>, durable: Vec<u8> },
    Dir { names: Names, durable: Names },
}

/// A change of one directory that was not synced yet: what each name of it names afterwards.
#[derive(Debug)]
struct Change {
    dir: Ino,
    names: Vec<(String, Option<Ino>)>,
}

/// Which calls go wrong; none by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Odds {
    /// One in so many calls fails; 0 for none.
    fault_one_in: u64,
    /// The number of the one call that fails whatever the odds.
    fault_at: Option<u64>,
    /// The number of the call after which the power goes.
    cut_at: Option<u64>,
}

/// Invariants:
/// 1. Node 0 is the root directory. Nodes are never reused, so a handle stays valid.
/// 2. Applying `changes` in order to the durable names gives the names that programs see.
#[derive(Debug)]
struct Disk {
    rng: Rng,
    nodes: Vec<Node>,
    changes: Vec<Change>,
    locked: bool,
    /// Raised by a power cut: handles of an earlier life are dead.
    life: u64,
    calls: u64,
    faults: u64,
    odds: Odds,
    /// The power has gone: everything fails until [`SimFs::restart`].
    off: bool,
    exchanges: bool,
    total_bytes: u64,
    now: u64,
    due: Vec<u64>,
}

/// The file system; clones are the same one.
#[derive(Debug, Clone)]
pub struct SimFs {
    disk: Arc<Mutex<Disk>>,
}

/// A file that is open.
#[derive(Debug, Clone)]
pub struct SimFile {
    disk: Arc<Mutex<Disk>>,
    ino: Ino,
    life: u64,
}

/// The lock of the state directory.
#[derive(Debug)]
pub struct SimLock {
    disk: Arc<Mutex<Disk>>,
    life: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = lock(&self.disk);
        if disk.life == self.life {
            disk.locked = false;
        }
    }
}

/// A panic of a test that fails may have poisoned it; what else is dropped then must not panic.
fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl SimFs {
    /// An empty file system of `total_bytes`. Without `exchanges` it cannot exchange names.
    pub fn new(seed: u64, total_bytes: u64, exchanges: bool) -> SimFs {
        let root = Node::Dir {
            names: Names::new(),
            durable: Names::new(),
        };
        let disk = Disk {
            rng: Rng(seed),
            nodes: vec![root],
            changes: Vec::new(),
            locked: false,
            life: 0,
            calls: 0,
            faults: 0,
            odds: Odds::default(),
            off: false,
            exchanges,
            total_bytes,
            now: 0,
            due: Vec::new(),
        };
        SimFs {
            disk: Arc::new(Mutex::new(disk)),
        }
    }

    /// From now on one in so many calls fails; none for 0.
    pub fn fail_one_in(&self, calls: u64) {
        lock(&self.disk).odds.fault_one_in = calls;
    }

    /// The call that comes after so many others fails.
    pub fn fail_after(&self, calls: u64) {
        let mut disk = lock(&self.disk);
        disk.odds.fault_at = Some(disk.calls + calls + 1);
    }

    /// Nothing goes wrong from now on. Gives what was to, for [`SimFs::set_odds`].
    pub fn calm(&self) -> Odds {
        std::mem::take(&mut lock(&self.disk).odds)
    }

    /// What goes wrong from now on; a call that has been made meanwhile cannot any more.
    pub fn set_odds(&self, odds: Odds) {
        lock(&self.disk).odds = odds;
    }

    /// Ends the process without a power cut: its lock and its open files are gone, what it did
    /// is not. Before a cut that was under way it comes first.
    pub fn kill(&self) {
        let mut disk = lock(&self.disk);
        disk.life += 1;
        disk.locked = false;
        disk.off = false;
        disk.due.clear();
    }

    /// Faults so far.
    pub fn faults(&self) -> u64 {
        lock(&self.disk).faults
    }

    /// Cuts the power at the call that comes after so many others.
    pub fn cut_power_after(&self, calls: u64) {
        let mut disk = lock(&self.disk);
        disk.odds.cut_at = Some(disk.calls + calls);
    }

    /// Whether the power has gone.
    pub fn is_off(&self) -> bool {
        lock(&self.disk).off
    }

    /// Syncs every file and directory, without a fault.
    pub fn sync_all(&self) {
        let mut disk = lock(&self.disk);
        disk.changes.clear();
        for node in &mut disk.nodes {
            match node {
                Node::File { bytes, durable } => durable.clone_from(bytes),
                Node::Dir { names, durable } => durable.clone_from(names),
            }
        }
    }

    /// Cuts the power if it has not gone, and starts again from what the disk holds.
    pub fn restart(&self) {
        let mut disk = lock(&self.disk);
        disk.lose_unsynced_names();
        disk.lose_unsynced_bytes();
        disk.life += 1;
        disk.locked = false;
        disk.off = false;
        disk.odds.cut_at = None;
        disk.due.clear();
    }

    /// Moves the clock to the end of the next write; false if none is under way.
    pub fn advance(&self) -> bool {
        let mut disk = lock(&self.disk);
        let Some(next) = disk.due.iter().copied().min() else {
            return false;
        };
        disk.now = next;
        disk.due.retain(|due| *due > next);
        true
    }

    /// Opens a file for reading.
    pub fn open(&self, path: &Path) -> io::Result<SimFile> {
        let mut disk = lock(&self.disk);
        disk.call()?;
        let ino = disk.find(path)?;
        let life = disk.life;
        drop(disk);
        Ok(SimFile {
            disk: self.disk.clone(),
            ino,
            life,
        })
    }
}

impl Disk {
    /// Counts a call, and fails it if it is its turn.
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        if self.odds.cut_at.is_some_and(|at| self.calls > at) {
            self.off = true;
        }
        if self.off {
            return Err(errno(libc::EIO));
        }
        let unlucky = self.odds.fault_one_in > 0 && self.rng.below(self.odds.fault_one_in) == 0;
        if unlucky || self.odds.fault_at == Some(self.calls) {
            self.faults += 1;
            let code = [libc::EIO, libc::ENOSPC][self.rng.below(2) as usize];
            return Err(errno(code));
        }
        Ok(())
    }

    fn names(&self, dir: Ino) -> io::Result<&Names> {
        match &self.nodes[dir] {
            Node::Dir { names, .. } => Ok(names),
            Node::File { .. } => Err(errno(libc::ENOTDIR)),
        }
    }

    fn find(&self, path: &Path) -> io::Result<Ino> {
        let mut at = 0;
        for part in path.components() {
            if let Component::Normal(name) = part {
                let name = name.to_str().ok_or(errno(libc::EILSEQ))?;
                at = *self.names(at)?.get(name).ok_or(errno(libc::ENOENT))?;
            }
        }
        Ok(at)
    }

    /// The directory that `path` is in, and its name there.
    fn place(&self, path: &Path) -> io::Result<(Ino, String)> {
        let (parent, name) = (path.parent(), path.file_name());
        let (Some(parent), Some(name)) = (parent, name.and_then(|name| name.to_str())) else {
            return Err(errno(libc::EINVAL));
        };
        let dir = self.find(parent)?;
        self.names(dir)?;
        Ok((dir, name.to_owned()))
    }

    /// Where `path` will be made.
    fn free_place(&self, path: &Path) -> io::Result<(Ino, String)> {
        if self.find(path).is_ok() {
            return Err(errno(libc::EEXIST));
        }
        self.place(path)
    }

    fn change(&mut self, dir: Ino, changed: Vec<(String, Option<Ino>)>) {
        if let Node::Dir { names, .. } = &mut self.nodes[dir] {
            apply(names, &changed);
        }
        self.changes.push(Change {
            dir,
            names: changed,
        });
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<Ino> {
        let (dir, name) = self.free_place(path)?;
        self.nodes.push(node);
        let ino = self.nodes.len() - 1;
        self.change(dir, vec![(name, Some(ino))]);
        Ok(ino)
    }

    /// Names of a node in the tree as programs see it.
    fn name_count(&self, ino: Ino) -> u64 {
        let named = |node: &Node| match node {
            Node::Dir { names, .. } => names.values().filter(|named| **named == ino).count(),
            Node::File { .. } => 0,
        };
        self.nodes.iter().map(named).sum::<usize>() as u64
    }

    fn used_bytes(&self) -> u64 {
        let mut seen = vec![false; self.nodes.len()];
        let (mut pending, mut used) = (vec![0], 0);
        while let Some(ino) = pending.pop() {
            if std::mem::replace(&mut seen[ino], true) {
                continue;
            }
            match &self.nodes[ino] {
                Node::Dir { names, .. } => pending.extend(names.values()),
                Node::File { bytes, .. } => used += bytes.len() as u64,
            }
        }
        used
    }

    /// Writes a part of `bytes`, or all; what is not there after it is an error of the next.
    fn write(&mut self, ino: Ino, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.call()?;
        let free_bytes = self.total_bytes.saturating_sub(self.used_bytes());
        let Node::File { bytes: old, .. } = &mut self.nodes[ino] else {
            return Err(errno(libc::EISDIR));
        };
        let offset = offset as usize;
        let room = (old.len() + free_bytes as usize).saturating_sub(offset);
        let mut len = bytes.len().min(room);
        if len == 0 {
            return Err(errno(libc::ENOSPC));
        }
        if self.rng.below(3) == 0 {
            len = 1 + self.rng.below(len as u64) as usize;
        }
        if old.len() < offset + len {
            old.resize(offset + len, 0);
        }
        old[offset..offset + len].copy_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn sync(&mut self, ino: Ino) -> io::Result<()> {
        let synced = self.call();
        if synced.is_err() && !self.off {
            self.lose_bytes(ino);
        }
        synced?;
        match &mut self.nodes[ino] {
            Node::File { bytes, durable } => durable.clone_from(bytes),
            Node::Dir { names, durable } => {
                durable.clone_from(names);
                self.changes.retain(|change| change.dir != ino);
            }
        }
        Ok(())
    }

    /// Decides what is left of the bytes of a file that were not synced.
    fn lose_bytes(&mut self, ino: Ino) {
        let Node::File { bytes, durable } = &mut self.nodes[ino] else {
            return;
        };
        let grown = bytes.len().saturating_sub(durable.len()) as u64;
        let len = match self.rng.below(3) {
            0 => bytes.len(),
            _ => bytes.len() - self.rng.below(grown + 1) as usize,
        };
        let old_len = durable.len();
        durable.resize(len, 0);
        let mut at = 0;
        while at < len {
            let end = (at + BLOCK_BYTES).min(len);
            if self.rng.below(2) == 0 {
                durable[at..end].copy_from_slice(&bytes[at..end]);
            } else if at >= old_len {
                durable[at..end].fill(0);
            }
            at = end;
        }
    }

    fn lose_unsynced_bytes(&mut self) {
        for ino in 0..self.nodes.len() {
            let dirty =
                matches!(&self.nodes[ino], Node::File { bytes, durable } if bytes != durable);
            if dirty && self.rng.below(4) > 0 {
                self.lose_bytes(ino);
            }
            if let Node::File { bytes, durable } = &mut self.nodes[ino] {
                bytes.clone_from(durable);
            }
        }
    }

    fn lose_unsynced_names(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        let kind = self.rng.below(4);
        let until = self.rng.below(changes.len() as u64 + 1) as usize;
        for (at, change) in changes.iter().enumerate() {
            let happened = match kind {
                0 => true,
                1 => false,
                2 => at < until,
                _ => self.rng.below(2) == 0,
            };
            if let (true, Node::Dir { durable, .. }) = (happened, &mut self.nodes[change.dir]) {
                apply(durable, &change.names);
            }
        }
        for node in &mut self.nodes {
            if let Node::Dir { names, durable } = node {
                names.clone_from(durable);
            }
        }
    }

    /// Removes what is in a directory, one call a name.
    fn empty(&mut self, dir: Ino) -> io::Result<()> {
        for (name, ino) in self.names(dir)?.clone() {
            if matches!(&self.nodes[ino], Node::Dir { .. }) {
                self.empty(ino)?;
            }
            self.call()?;
            self.change(dir, vec![(name, None)]);
        }
        Ok(())
    }
}

fn apply(names: &mut Names, changed: &[(String, Option<Ino>)]) {
    for (name, ino) in changed {
        match ino {
            Some(ino) => drop(names.insert(name.clone(), *ino)),
            None => drop(names.remove(name)),
        }
    }
}

fn on_other_device(path: &Path) -> bool {
    path.components()
        .any(|part| part.as_os_str() == OTHER_DEVICE)
}

impl Fs for SimFs {
    type File = SimFile;
    type Lock = SimLock;

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        disk.call()?;
        let node = Node::Dir {
            names: Names::new(),
            durable: Names::new(),
        };
        disk.add(path, node).map(drop)
    }

    fn create_new(&self, path: &Path) -> io::Result<SimFile> {
        let mut disk = lock(&self.disk);
        disk.call()?;
        let node = Node::File {
            bytes: Vec::new(),
            durable: Vec::new(),
        };
        let (ino, life) = (disk.add(path, node)?, disk.life);
        drop(disk);
        Ok(SimFile {
            disk: self.disk.clone(),
            ino,
            life,
        })
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.open(path)?.bytes()
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let mut disk = lock(&self.disk);
        disk.call()?;
        let ino = disk.find(path)?;
        let (kind, bytes) = match &disk.nodes[ino] {
            Node::File { bytes, .. } => (Kind::File, bytes.len() as u64),
            Node::Dir { .. } => (Kind::Dir, 0),
        };
        let names = disk.name_count(ino);
        Ok(Stat { kind, bytes, names })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut disk = lock(&self.disk);
        disk.call()?;
        let dir = disk.find(path)?;
        // Not in the order of names, as on disks.
        Ok(disk.names(dir)?.keys().rev().cloned().collect())
    }

    fn link(&self, source: &Path, target: &Path) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        disk.call()?;
        let ino = disk.find(source)?;
        if on_other_device(source) {
            return Err(errno(libc::EXDEV));
        }
        let (dir, name) = disk.free_place(target)?;
        disk.change(dir, vec![(name, Some(ino))]);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        disk.call()?;
        let ino = disk.find(from)?;
        let (dir, old) = disk.place(from)?;
        let (new_dir, new) = disk.free_place(to).map_err(|_| errno(libc::ENOTEMPTY))?;
        if dir != new_dir {
            return Err(errno(libc::ENOSYS));
        }
        disk.change(dir, vec![(old, None), (new, Some(ino))]);
        Ok(())
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        disk.call()?;
        let (at_a, at_b) = (disk.find(a)?, disk.find(b)?);
        let ((dir, a), (other, b)) = (disk.place(a)?, disk.place(b)?);
        if !disk.exchanges || dir != other {
            return Err(errno(libc::EINVAL));
        }
        disk.change(dir, vec![(a, Some(at_b)), (b, Some(at_a))]);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        disk.call()?;
        let ino = disk.find(path)?;
        if matches!(disk.nodes[ino], Node::Dir { .. }) {
            return Err(errno(libc::EISDIR));
        }
        let (dir, name) = disk.place(path)?;
        disk.change(dir, vec![(name, None)]);
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        let ino = disk.find(path)?;
        disk.empty(ino)?;
        disk.call()?;
        let (dir, name) = disk.place(path)?;
        disk.change(dir, vec![(name, None)]);
        Ok(())
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        let ino = disk.find(path)?;
        disk.sync(ino)
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        let mut disk = lock(&self.disk);
        disk.call()?;
        let total_bytes = disk.total_bytes;
        Ok(Space {
            total_bytes,
            free_bytes: total_bytes.saturating_sub(disk.used_bytes()),
        })
    }

    fn lock(&self, path: &Path) -> Result<SimLock, LockError> {
        match self.create_new(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let mut disk = lock(&self.disk);
        if std::mem::replace(&mut disk.locked, true) {
            return Err(LockError::Held { pid: None });
        }
        let life = disk.life;
        drop(disk);
        Ok(SimLock {
            disk: self.disk.clone(),
            life,
        })
    }
}

impl SimFile {
    /// The disk, if this handle is of its present life.
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = lock(&self.disk);
        match disk.life == self.life && !disk.off {
            true => Ok(disk),
            false => Err(errno(libc::EIO)),
        }
    }

    /// All bytes.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut disk = self.disk()?;
        disk.call()?;
        match &disk.nodes[self.ino] {
            Node::File { bytes, .. } => Ok(bytes.clone()),
            Node::Dir { .. } => Err(errno(libc::EISDIR)),
        }
    }
}

impl WriteAt for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.disk()?.write(self.ino, bytes, offset)
    }
}

impl SpoolFile for SimFile {
    /// Done after a while on the simulated clock; nothing of it is there before.
    async fn write_at(&self, piece: Piece, from: usize, offset: u64) -> io::Result<usize> {
        let due = {
            let mut disk = self.disk()?;
            let due = disk.now + 1 + disk.rng.below(SIM_DELAY_TICKS_MAX);
            disk.due.push(due);
            due
        };
        poll_fn(|_| match self.disk() {
            Ok(disk) if disk.now < due => Poll::Pending,
            _ => Poll::Ready(()),
        })
        .await;
        let mut disk = self.disk()?;
        disk.write(self.ino, &piece[from..], offset)
    }

    async fn close(self) -> io::Result<()> {
        self.disk()?.call()
    }
}
