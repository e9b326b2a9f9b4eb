//! A temporary place with upstream repositories and a state directory for one server.

use super::server::{Server, Settings};
use super::{client, git, repos, wait};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Upstreams in `upstream/`, served as host `test`; the server's state in `state/`; room for
/// clones and unpacked snapshots. All of it goes away with the value.
pub struct Lab {
    root: TempDir,
    binary: PathBuf,
}

impl Lab {
    /// An empty lab for servers started from `binary`.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        let root = TempDir::with_prefix("tarpon-").unwrap_or_else(|e| panic!("tempdir: {e}"));
        let lab = Lab {
            root,
            binary: binary.into(),
        };
        for directory in [lab.upstreams(), lab.state(), lab.scratch("")] {
            create_dir(&directory);
        }
        lab
    }

    /// Where the upstream repositories are.
    pub fn upstreams(&self) -> PathBuf {
        self.root.path().join("upstream")
    }

    /// One upstream repository.
    pub fn upstream(&self, name: &str) -> PathBuf {
        self.upstreams().join(name)
    }

    /// What the server clones, and a user would.
    pub fn url(&self, name: &str) -> String {
        format!("file://{}", self.upstream(name).display())
    }

    /// The server's state directory.
    pub fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    /// The server's mirror of a repository.
    pub fn mirror(&self, name: &str) -> PathBuf {
        self.state()
            .join("mirrors/test")
            .join(format!("{name}.git"))
    }

    /// A path for a test's own files.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.root.path().join("scratch").join(name)
    }

    /// Settings of a server on this lab's state and upstreams.
    pub fn settings(&self) -> Settings {
        Settings {
            binary: self.binary.clone(),
            state: self.state(),
            listen: "127.0.0.1:0".to_owned(),
            upstreams: vec![format!("test=file://{}/", self.upstreams().display())],
            arguments: Vec::new(),
            environment: Vec::new(),
            driver: None,
            launcher: Vec::new(),
        }
    }

    /// Starts a server with the default settings.
    pub fn start(&self) -> Server {
        self.settings().start()
    }

    /// Makes an upstream repository.
    pub fn generate(&self, name: &str, shape: repos::Shape, bytes: u64) {
        repos::generate(&self.upstream(name), shape, bytes, 0x7A59_0001);
    }

    /// Takes an upstream repository away; its mirror has nobody to ask any more.
    pub fn hide(&self, name: &str) {
        let (from, to) = (self.upstream(name), self.scratch(&format!("hidden-{name}")));
        fs::rename(&from, &to).unwrap_or_else(|e| panic!("hide {}: {e}", from.display()));
    }

    /// Puts a mirror into the state directory before a server looks, as an operator may.
    pub fn place_mirror(&self, name: &str) {
        git::clone_mirror(&self.url(name), &self.mirror(name));
        // The note of a fetch of just now, as `git fetch` leaves it.
        let note = self.mirror(name).join("FETCH_HEAD");
        File::create(&note).unwrap_or_else(|e| panic!("{}: {e}", note.display()));
    }

    /// The one file of frames of an entry.
    pub fn frames_of(&self, entry: &str) -> PathBuf {
        let frames = self.state().join("snapshots").join(entry).join("frames");
        let files = fs::read_dir(&frames).unwrap_or_else(|e| panic!("{}: {e}", frames.display()));
        let mut files = files.map(|file| file.unwrap_or_else(|e| panic!("frames: {e}")).path());
        let first = files.next();
        assert!(files.next().is_none(), "several files of frames");
        first.unwrap_or_else(|| panic!("no file of frames"))
    }

    /// Names of the published entries.
    pub fn entries(&self) -> Vec<String> {
        entries(&self.state())
    }

    /// Everything in the state directory that belongs to no published entry and no mirror.
    pub fn orphans(&self) -> Vec<String> {
        orphans(&self.state())
    }

    /// Waits until nothing is left over from builds that ended.
    pub fn expect_no_orphans(&self) {
        let start = Instant::now();
        loop {
            let orphans = self.orphans();
            if orphans.is_empty() {
                return;
            }
            assert!(start.elapsed() < wait::DEADLINE, "left over: {orphans:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Removes every snapshot; only while no server runs.
    pub fn forget_snapshots(&self) {
        let path = self.state().join("snapshots");
        if path.exists() {
            fs::remove_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }

    /// Unpacks a snapshot into a new directory and gives its path.
    pub fn unpack(&self, snapshot: &[u8], name: &str) -> PathBuf {
        let archive = self.scratch(&format!("{name}.tar.zst"));
        fs::write(&archive, snapshot).unwrap_or_else(|e| panic!("{}: {e}", archive.display()));
        let into = self.scratch(name);
        unpack_file(&archive, &into);
        into
    }
}

/// The target of a repository's snapshot on host `test`.
pub fn target(name: &str) -> String {
    endpoint(name, "snapshot.tar.zst")
}

/// The target of something else of a repository on host `test`.
pub fn endpoint(name: &str, what: &str) -> String {
    format!("/git/test/{name}/{what}")
}

/// Unpacks with the real `zstd` and `tar`, as a user does; panics unless both succeed.
pub fn unpack_file(archive: &Path, into: &Path) {
    create_dir(into);
    let mut zstd = Command::new("zstd")
        .arg("-dcq")
        .arg(archive)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("zstd does not start: {e}"));
    let tar_bytes = zstd
        .stdout
        .take()
        .unwrap_or_else(|| panic!("zstd has no stdout"));
    let tar = git::with_umask("tar")
        .args(["-xf", "-", "-C"])
        .arg(into)
        .stdin(tar_bytes)
        .status();
    let tar = tar.unwrap_or_else(|e| panic!("tar does not start: {e}"));
    let zstd = zstd.wait().unwrap_or_else(|e| panic!("wait for zstd: {e}"));
    assert!(zstd.success() && tar.success(), "zstd: {zstd}, tar: {tar}");
}

/// Downloads `target` into a file; panics unless it is whole. Gives the head.
pub fn download(address: SocketAddr, target: &str, into: &Path) -> client::Head {
    let mut conn = client::Conn::open(address);
    conn.request("GET", target, &[]);
    let head = conn
        .read_head("GET")
        .unwrap_or_else(|e| panic!("{target}: {e}"));
    assert_eq!(head.status, 200, "{target}: {head:?}");
    finish_download(&mut conn, into, false);
    head
}

/// Appends the rest of a body to a file (or starts the file); panics unless it is whole.
pub fn finish_download(conn: &mut client::Conn, into: &Path, append: bool) {
    let file = File::options()
        .create(true)
        .write(true)
        .append(append)
        .truncate(!append)
        .open(into);
    let mut file = file.unwrap_or_else(|e| panic!("{}: {e}", into.display()));
    let (end, total) = conn
        .copy_body(&mut file)
        .unwrap_or_else(|e| panic!("body: {e}"));
    assert_eq!(end, client::End::Complete, "truncated after {total} bytes");
}

/// Copies a directory tree with everything in it (`cp -a`).
pub fn copy_tree(from: &Path, to: &Path) {
    if let Some(parent) = to.parent() {
        create_dir(parent);
    }
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    let status = status.unwrap_or_else(|e| panic!("cp does not start: {e}"));
    assert!(
        status.success(),
        "cp -a {} {}: {status}",
        from.display(),
        to.display()
    );
}

/// Creates a directory and its parents.
pub fn create_dir(path: &Path) {
    fs::create_dir_all(path).unwrap_or_else(|e| panic!("create {}: {e}", path.display()));
}

/// Names of the published entries in `state`.
pub fn entries(state: &Path) -> Vec<String> {
    names(&state.join("snapshots"))
        .into_iter()
        .filter(|name| is_entry_name(name))
        .collect()
}

fn is_entry_name(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Everything in `state` that belongs to no published entry and no mirror: unpublished
/// entries, staging files, lock files of `git` left in mirrors.
pub fn orphans(state: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for name in names(&state.join("snapshots")) {
        if !is_entry_name(&name) {
            out.push(format!("snapshots/{name}"));
        }
    }
    out.extend(
        names(&state.join("tmp"))
            .into_iter()
            .map(|name| format!("tmp/{name}")),
    );
    for host in names(&state.join("mirrors")) {
        let directory = state.join("mirrors").join(&host);
        for name in names(&directory) {
            if !name.ends_with(".git") {
                out.push(format!("mirrors/{host}/{name}"));
            }
            let locks = names(&directory.join(&name));
            let locks = locks.into_iter().filter(|lock| lock.ends_with(".lock"));
            out.extend(locks.map(|lock| format!("mirrors/{host}/{name}/{lock}")));
        }
    }
    out
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(listing) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut out: Vec<String> = listing
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    out.sort();
    out
}
