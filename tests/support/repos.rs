//! Repositories made from a fixed seed by `git fast-import`, in seconds even at 1 GB.
//!
//! [`Importer`] is the tool: it writes one fast-import stream. [`Shape`] holds the sizes that
//! benches and the performance harness measure on.

use super::git;
use super::rng::Rng;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};

/// First commit's time; every later commit of an import is a minute younger.
const EPOCH_S: u64 = 1_600_000_000;

/// Mode of a regular file in a tree.
pub const FILE: &str = "100644";
/// Mode of an executable file in a tree.
pub const EXECUTABLE: &str = "100755";
/// Mode of a symbolic link in a tree.
pub const SYMLINK: &str = "120000";
/// Mode of a submodule in a tree.
pub const GITLINK: &str = "160000";

/// What kind of repository to make, and so what it stresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Source-like: files of about 16 KiB of text in a tree of directories.
    ManySmall,
    /// Files of 16 MiB each that do not compress.
    FewLarge,
    /// A small worktree before a history that does not compress: nearly all of it is pack.
    BigPack,
}

impl Shape {
    /// Every shape.
    pub const ALL: [Shape; 3] = [Shape::ManySmall, Shape::FewLarge, Shape::BigPack];

    /// The name under which benches and the performance harness show it.
    pub fn name(self) -> &'static str {
        match self {
            Shape::ManySmall => "many_small",
            Shape::FewLarge => "few_large",
            Shape::BigPack => "big_pack",
        }
    }

    /// The shape of that name.
    pub fn named(name: &str) -> Option<Shape> {
        Shape::ALL.into_iter().find(|shape| shape.name() == name)
    }
}

/// Seed of every repository that is kept from one run to the next.
const CACHED_SEED: u64 = 0x7A59_0001;
/// Part of their names: raise it when [`generate`] makes something else from the same arguments.
const CACHED_VERSION: u32 = 1;

/// The repository that [`generate`] makes with a fixed seed, made at most once in `directory`.
/// It appears there whole or not at all, whatever interrupts its making.
pub fn cached(directory: &Path, shape: Shape, bytes: u64) -> PathBuf {
    let name = format!("{}-{bytes}-v{CACHED_VERSION}.git", shape.name());
    let path = directory.join(&name);
    if !path.is_dir() {
        let staging = directory.join(format!("{name}.{}", std::process::id()));
        generate(&staging, shape, bytes, CACHED_SEED);
        // Somebody else may have been faster; theirs is the same.
        if std::fs::rename(&staging, &path).is_err() {
            drop(std::fs::remove_dir_all(&staging));
        }
        assert!(path.is_dir(), "{}", path.display());
    }
    path
}

/// A bare mirror of the repository at `from`, its packs hard-linked where the file system
/// allows it: made in milliseconds, whatever the size.
pub fn link_mirror(from: &Path, into: &Path) {
    let parent = into.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).unwrap_or_else(|e| panic!("create {}: {e}", parent.display()));
    let (from, into) = (from.to_string_lossy(), into.to_string_lossy());
    git::run(parent, &["clone", "--quiet", "--mirror", &from, &into]);
}

/// Creates the bare repository `path` (branch `main`) of about `bytes` bytes.
///
/// For [`Shape::ManySmall`] and [`Shape::FewLarge`] that is the size of the worktree, for
/// [`Shape::BigPack`] the size of the pack. The same arguments give the same objects.
pub fn generate(path: &Path, shape: Shape, bytes: u64, seed: u64) {
    init_bare(path, "main", "sha1");
    let mut rng = Rng::new(seed);
    let mut import = Importer::start(path, Layout::Packed);
    import.commit("refs/heads/main", "generated");
    match shape {
        Shape::ManySmall => many_small(&mut import, bytes, &mut rng),
        Shape::FewLarge => few_large(&mut import, bytes, &mut rng),
        Shape::BigPack => big_pack(&mut import, bytes, &mut rng),
    }
    import.finish();
}

fn many_small(import: &mut Importer, bytes: u64, rng: &mut Rng) {
    const MEAN_BYTES: u64 = 16 << 10;
    let mut written = 0;
    let mut number = 0;
    while written < bytes {
        let len = MEAN_BYTES / 4 + rng.below(MEAN_BYTES * 3 / 2);
        let content = rng.text(len as usize);
        let path = format!(
            "src/part{:03}/unit{:02}/file{number}.c",
            number / 256,
            number / 16 % 16
        );
        import.file(FILE, path.as_bytes(), &content);
        written += content.len() as u64;
        number += 1;
    }
}

fn few_large(import: &mut Importer, bytes: u64, rng: &mut Rng) {
    const LARGE_BYTES: u64 = 16 << 20;
    let mut left = bytes;
    let mut number = 0;
    while left > 0 {
        let len = left.min(LARGE_BYTES);
        let path = format!("data/large{number:03}.bin");
        import.file_from(FILE, path.as_bytes(), len, &mut rng.clone());
        *rng = Rng::new(rng.next_u64());
        left -= len;
        number += 1;
    }
}

fn big_pack(import: &mut Importer, bytes: u64, rng: &mut Rng) {
    const VERSION_BYTES: u64 = 8 << 20;
    let mut left = bytes;
    let mut number = 0;
    while left > 0 {
        let len = left.min(VERSION_BYTES);
        import.file_from(FILE, b"asset.bin", len, &mut rng.clone());
        *rng = Rng::new(rng.next_u64());
        left -= len;
        number += 1;
        import.commit("refs/heads/main", &format!("version {number}"));
    }
    import.delete(b"asset.bin");
    for file in 0..64 {
        let content = rng.text(4096);
        import.file(FILE, format!("src/file{file}.c").as_bytes(), &content);
    }
}

/// Creates a bare repository whose HEAD points at `refs/heads/{branch}`.
///
/// `format` is `sha1` or `sha256`.
pub fn init_bare(path: &Path, branch: &str, format: &str) {
    let parent = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).unwrap_or_else(|e| panic!("create {}: {e}", parent.display()));
    let head = format!("--initial-branch={branch}");
    let format = format!("--object-format={format}");
    git::run(
        parent,
        &[
            "init",
            "--quiet",
            "--bare",
            &head,
            &format,
            &path.to_string_lossy(),
        ],
    );
    git::run(path, &["config", "gc.auto", "0"]);
    git::run(path, &["config", "uploadpack.allowFilter", "true"]);
}

/// How an import stores its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One new pack.
    Packed,
    /// One file per object.
    Loose,
}

/// One `git fast-import` process, fed command by command.
pub struct Importer {
    child: Child,
    stream: BufWriter<ChildStdin>,
    repository: PathBuf,
    commits: u64,
}

impl Importer {
    /// Starts an import into the repository at `repository`.
    pub fn start(repository: &Path, layout: Layout) -> Self {
        let limit = match layout {
            Layout::Packed => "fastimport.unpackLimit=0",
            Layout::Loose => "fastimport.unpackLimit=1000000",
        };
        // Level 1: what is random does not shrink at any level, and what is text need not.
        let args = [
            "-c",
            limit,
            "-c",
            "core.compression=1",
            "fast-import",
            "--quiet",
            "--force",
        ];
        let mut command = git::command(repository, &args);
        let mut child = command
            .args(["--depth=0", "--date-format=raw"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("git fast-import does not start: {e}"));
        let stdin = child.stdin.take();
        let stdin = stdin.unwrap_or_else(|| panic!("git fast-import has no stdin"));
        let stream = BufWriter::with_capacity(1 << 20, stdin);
        Importer {
            child,
            stream,
            repository: repository.to_owned(),
            commits: 0,
        }
    }

    /// Writes raw fast-import commands.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .unwrap_or_else(|e| panic!("git fast-import ended: {e}"));
    }

    /// Starts a commit on `reference`, on top of what that reference holds within this import
    /// (see [`Importer::commit_on`] to continue a reference that existed before).
    pub fn commit(&mut self, reference: &str, message: &str) {
        self.commit_header(reference, message);
    }

    /// Starts a commit on `reference` whose parent is `parent`, any name git understands.
    pub fn commit_on(&mut self, reference: &str, parent: &str, message: &str) {
        self.commit_header(reference, message);
        self.raw(format!("from {parent}\n").as_bytes());
    }

    fn commit_header(&mut self, reference: &str, message: &str) {
        self.commits += 1;
        self.commit_at(reference, message, EPOCH_S + 60 * (self.commits - 1));
    }

    /// Starts a commit like [`Importer::commit`], with a time of its own.
    pub fn commit_at(&mut self, reference: &str, message: &str, time_s: u64) {
        let who = format!("committer C O Mitter <committer@example.com> {time_s} +0000");
        let length = message.len() + 1;
        self.raw(format!("commit {reference}\n{who}\ndata {length}\n{message}\n\n").as_bytes());
    }

    /// Adds or replaces a file (or, by `mode`, a symlink) of the running commit.
    pub fn file(&mut self, mode: &str, path: &[u8], content: &[u8]) {
        let mut content_reader = content;
        self.file_from(mode, path, content.len() as u64, &mut content_reader);
    }

    /// Like [`Importer::file`] with the first `len` bytes of `content`, never held whole.
    pub fn file_from(&mut self, mode: &str, path: &[u8], len: u64, content: &mut dyn Read) {
        self.raw(format!("M {mode} inline ").as_bytes());
        self.raw(&quote(path));
        self.raw(format!("\ndata {len}\n").as_bytes());
        let copied = io::copy(&mut content.take(len), &mut self.stream)
            .unwrap_or_else(|e| panic!("git fast-import ended: {e}"));
        assert_eq!(
            copied, len,
            "the content of {path:?} is shorter than promised"
        );
        self.raw(b"\n");
    }

    /// Adds a submodule entry.
    pub fn gitlink(&mut self, path: &[u8], commit: &str) {
        self.raw(format!("M {GITLINK} {commit} ").as_bytes());
        self.raw(&quote(path));
        self.raw(b"\n");
    }

    /// Gives a file or a directory of the running commit another path.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) {
        self.raw(&[b"R ", &*quote(from), b" ", &*quote(to), b"\n"].concat());
    }

    /// Removes a path from the running commit.
    pub fn delete(&mut self, path: &[u8]) {
        self.raw(b"D ");
        self.raw(&quote(path));
        self.raw(b"\n");
    }

    /// Ends the stream; panics unless git accepted all of it.
    pub fn finish(self) {
        let Importer {
            mut child,
            stream,
            repository,
            ..
        } = self;
        drop(
            stream
                .into_inner()
                .map_err(|e| panic!("git fast-import ended: {e}")),
        );
        let status = child
            .wait()
            .unwrap_or_else(|e| panic!("wait for git fast-import: {e}"));
        assert!(
            status.success(),
            "git fast-import into {}: {status}",
            repository.display()
        );
    }
}

/// A path in fast-import's quoting, which takes any byte but NUL.
fn quote(path: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    for &byte in path {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b' '..=b'~' => out.push(byte),
            _ => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        }
    }
    out.push(b'"');
    out
}

/// Adds one commit that writes `content` to `path`, on top of `branch`, and gives its id.
pub fn add_commit(repository: &Path, branch: &str, path: &str, content: &[u8]) -> String {
    let reference = format!("refs/heads/{branch}");
    let mut import = Importer::start(repository, Layout::Packed);
    // A later time than any generated commit, so that the new one also sorts as newest.
    import.commits = 1_000_000;
    import.commit_on(&reference, &format!("{reference}^0"), "one more");
    import.file(FILE, path.as_bytes(), content);
    import.finish();
    git::text(repository, &["rev-parse", &reference])
}

/// Creates `count` references at once (`git update-ref --stdin`); `name` names the n-th.
pub fn add_refs(repository: &Path, count: usize, target: &str, name: impl Fn(usize) -> String) {
    let mut child = git::command(repository, &["update-ref", "--stdin"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("git update-ref does not start: {e}"));
    let mut commands = String::new();
    for number in 0..count {
        commands.push_str(&format!("create {} {target}\n", name(number)));
    }
    if let Some(mut stdin) = child.stdin.take() {
        let written = stdin.write_all(commands.as_bytes());
        written.unwrap_or_else(|e| panic!("git update-ref ended: {e}"));
    }
    let status = child
        .wait()
        .unwrap_or_else(|e| panic!("wait for git update-ref: {e}"));
    assert!(status.success(), "git update-ref: {status}");
}
