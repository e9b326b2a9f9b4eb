//! Where a run happens: the work directory, the repositories in it, and tarpon servers on them.

use super::probe::{self, Manners, Transfer};
use super::support::repos::{self, Shape};
use super::support::server::{Server, Settings};
use super::support::{git, lab, wait};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The upstream host under which the servers of the harness serve everything.
const HOST: &str = "bench";

/// The work directory. Layout: `upstream/` (what servers and clones copy from), `generated/`
/// (kept from run to run), `run/` (removed at the end).
pub struct Site {
    root: PathBuf,
    tarpon: PathBuf,
}

/// A repository that is measured.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Its short name.
    pub name: String,
    /// The bare copy of it in the work directory.
    pub mirror: PathBuf,
    /// Host and path, as a server with the default upstreams knows it; `None` for a path.
    pub public: Option<String>,
    /// Files in the worktree of its default branch.
    pub files: u64,
    /// Their bytes.
    pub worktree_bytes: u64,
    /// Bytes of its packs.
    pub pack_bytes: u64,
}

impl Repository {
    /// Whether most of it is worktree; otherwise most of it is pack.
    pub fn is_large_worktree(&self) -> bool {
        self.worktree_bytes > self.pack_bytes
    }
}

impl Site {
    /// A site in `root`, which is made if it is not there, for servers started from `tarpon`.
    pub fn new(root: &Path, tarpon: &Path) -> Site {
        lab::create_dir(root);
        let root = fs::canonicalize(root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
        let site = Site {
            root,
            tarpon: tarpon.to_owned(),
        };
        remove_tree(&site.run_path(""));
        for directory in [site.upstreams(), site.run_path("")] {
            lab::create_dir(&directory);
        }
        site.remove_aliases();
        site
    }

    /// Removes what [`State::add`] of an earlier run left.
    fn remove_aliases(&self) {
        let listing = fs::read_dir(self.upstreams());
        let listing = listing.unwrap_or_else(|e| panic!("{}: {e}", self.upstreams().display()));
        for entry in listing.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                let removed = fs::remove_file(entry.path());
                removed.unwrap_or_else(|e| panic!("{}: {e}", entry.path().display()));
            }
        }
    }

    /// Removes everything but what the next run can use again.
    pub fn clean(&self) {
        remove_tree(&self.run_path(""));
        self.remove_aliases();
    }

    fn upstreams(&self) -> PathBuf {
        self.root.join("upstream")
    }

    /// A path for files of this run.
    pub fn run_path(&self, name: &str) -> PathBuf {
        self.root.join("run").join(name)
    }

    /// Gets a repository: `generate:SHAPE:BYTES`, a URL or a path. What came over the network
    /// or had to be generated is kept for the next run.
    pub fn repository(&self, spec: &str) -> Result<Repository, String> {
        let (name, source) = if let Some(wanted) = spec.strip_prefix("generate:") {
            let (shape, bytes) = parse_generated(wanted)?;
            let path = repos::cached(&self.root.join("generated"), shape, bytes);
            (wanted.replace(':', "-"), path)
        } else if let Some(name) = url_name(spec) {
            (name.clone(), self.clone_once(spec, &name))
        } else {
            let path = fs::canonicalize(spec).map_err(|e| format!("{spec}: {e}"))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            (name.trim_end_matches(".git").to_owned(), path)
        };
        let mirror = self.upstreams().join(format!("{name}.git"));
        if source != mirror {
            remove_tree(&mirror);
            repos::link_mirror(&source, &mirror);
        }
        let (files, worktree_bytes) = worktree_size(&mirror);
        Ok(Repository {
            public: public_name(spec),
            files,
            worktree_bytes,
            pack_bytes: tree_bytes(&mirror.join("objects/pack"), |_| true),
            name,
            mirror,
        })
    }

    /// A copy of a repository under another name, to be pushed to. It goes away with the run.
    #[allow(dead_code)] // Not every bench pushes.
    pub fn copy(&self, repository: &Repository, name: &str) -> Repository {
        let mirror = self.run_path("pushed").join(format!("{name}.git"));
        remove_tree(&mirror);
        repos::link_mirror(&repository.mirror, &mirror);
        // What is pushed to the copy is not to be packed in the middle of a measurement.
        git::run(&mirror, &["config", "gc.auto", "0"]);
        Repository {
            name: name.to_owned(),
            mirror,
            public: None,
            ..repository.clone()
        }
    }

    fn clone_once(&self, url: &str, name: &str) -> PathBuf {
        let path = self.upstreams().join(format!("{name}.git"));
        if !path.exists() {
            let staging = self.run_path("clone.git");
            git::clone_mirror(url, &staging);
            fs::rename(&staging, &path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        path
    }

    /// How to start a server on the state directory `state`.
    pub fn settings(&self, state: PathBuf) -> Settings {
        let settings = Settings {
            listen: "127.0.0.1:0".to_owned(),
            binary: self.tarpon.clone(),
            state,
            upstreams: vec![format!("{HOST}=file://{}/", self.upstreams().display())],
            arguments: Vec::new(),
            environment: Vec::new(),
            driver: None,
            launcher: Vec::new(),
        };
        settings.with(&["--no-default-upstreams", "--fetch-interval", "720h"])
    }

    /// Has the servers' upstream offer the repository at `path` under a name.
    #[allow(dead_code)] // The benches offer what they have a mirror of.
    pub fn offer(&self, path: &Path, name: &str) {
        offer(&self.upstreams().join(format!("{name}.git")), path);
    }

    /// An empty state directory of that name with a mirror of `repository`.
    pub fn state(&self, name: &str, repository: &Repository) -> State {
        let mut state = self.empty(name);
        state.add(repository, &repository.name);
        state
    }

    /// The same without a mirror, whose upstream is at a URL.
    #[allow(dead_code)] // The benches have a mirror of everything.
    pub fn state_without(&self, name: &str, upstream: &str) -> State {
        let mut state = self.empty(name);
        state.settings.upstreams = vec![format!("{HOST}={upstream}")];
        state
    }

    fn empty(&self, name: &str) -> State {
        let path = self.run_path(name);
        remove_tree(&path);
        State {
            settings: self.settings(path),
            upstreams: self.upstreams(),
            mirrors: Vec::new(),
        }
    }
}

/// A state directory and how to start a server on it.
pub struct State {
    settings: Settings,
    upstreams: PathBuf,
    mirrors: Vec<String>,
}

impl State {
    /// Adds a mirror of `repository` under another name.
    pub fn add(&mut self, repository: &Repository, name: &str) {
        let upstream = self.upstreams.join(format!("{name}.git"));
        if upstream != repository.mirror {
            offer(&upstream, &repository.mirror);
        }
        repos::link_mirror(&repository.mirror, &self.mirror(name));
        self.mirrors.push(name.to_owned());
    }

    /// Has its servers log no single request: a criterion group makes millions of them.
    #[allow(dead_code)] // The comparison's servers are measured with it.
    pub fn without_request_log(mut self) -> State {
        let quiet = ("TARPON_LOG".to_owned(), "warn".to_owned());
        self.settings.environment.push(quiet);
        self
    }

    /// Has its servers started with more flags.
    #[allow(dead_code)] // Not every bench needs some.
    pub fn with(mut self, arguments: &[&str]) -> State {
        self.settings = self.settings.with(arguments);
        self
    }

    /// Where the mirror of that name is.
    pub fn mirror(&self, name: &str) -> PathBuf {
        let mirrors = self.settings.state.join("mirrors").join(HOST);
        mirrors.join(format!("{name}.git"))
    }

    /// Starts a server and has it look at all its mirrors; it is at rest then.
    pub fn start(&self) -> Server {
        let server = self.settings.start();
        let absent = r#"{"refs":{"refs/heads/absent":""}}"#;
        for name in &self.mirrors {
            let target = format!("/git/{HOST}/{name}/ensure-refs");
            server.post_json(&target, absent).expect(200);
        }
        server
    }

    /// Where the entries are.
    #[allow(dead_code)] // Not every bench looks at them.
    pub fn snapshots(&self) -> PathBuf {
        self.settings.state.join("snapshots")
    }

    /// Removes every snapshot; only while no server runs.
    pub fn forget_snapshots(&self) {
        remove_tree(&self.settings.state.join("snapshots"));
    }

    /// Bytes of the published entries that are theirs alone, not linked from a mirror.
    pub fn owned_bytes(&self) -> u64 {
        let snapshots = self.settings.state.join("snapshots");
        tree_bytes(&snapshots, |file| file.nlink() == 1)
    }

    /// Gives the disk what was written so far, so that one run does not pay for another.
    pub fn sync(&self) {
        let path = &self.settings.state;
        let synced = File::open(path).and_then(|directory| Ok(rustix::fs::syncfs(&directory)?));
        synced.unwrap_or_else(|e| panic!("sync {}: {e}", path.display()));
    }

    /// Takes the bytes of all its files out of the page cache.
    pub fn evict(&self) {
        evict_tree(&self.settings.state);
    }

    /// Removes the state directory.
    pub fn remove(self) {
        remove_tree(&self.settings.state);
    }
}

fn offer(upstream: &Path, repository: &Path) {
    // Left by an earlier state, perhaps for another repository.
    if upstream.is_symlink() {
        drop(fs::remove_file(upstream));
    }
    std::os::unix::fs::symlink(repository, upstream)
        .unwrap_or_else(|e| panic!("{}: {e}", upstream.display()));
}

/// The target of a repository's snapshot.
pub fn target(name: &str) -> String {
    format!("/git/{HOST}/{name}/snapshot.tar.zst")
}

/// Downloads the whole snapshot; panics unless it is whole.
pub fn download(server: &Server, name: &str) -> Transfer {
    expect_whole(probe::get(
        server.address(),
        &target(name),
        Manners::EAGER,
        &mut |_| true,
    ))
}

/// The transfer, if it was a whole answer 200.
pub fn expect_whole(result: std::io::Result<Transfer>) -> Transfer {
    let transfer = result.unwrap_or_else(|e| panic!("download: {e}"));
    assert_eq!(transfer.head.status, 200, "{:?}", transfer.head);
    assert!(transfer.whole, "truncated after {} bytes", transfer.bytes);
    transfer
}

/// Opens the snapshot, decodes its first byte and leaves.
pub fn first_byte(server: &Server, name: &str) -> Transfer {
    let transfer = probe::get(
        server.address(),
        &target(name),
        Manners::CURIOUS,
        &mut |_| true,
    );
    let transfer = transfer.unwrap_or_else(|e| panic!("first byte: {e}"));
    assert_eq!(transfer.head.status, 200, "{:?}", transfer.head);
    assert!(transfer.first.is_some(), "no byte could be decoded");
    transfer
}

/// Waits until the snapshot is in the cache.
pub fn wait_published(server: &Server, name: &str) {
    wait::until("the snapshot is published", || {
        let answer = server.fetch("HEAD", &target(name), &[]);
        (answer.head.status == 200).then_some(())
    });
}

/// The `ETag` of the snapshot that is there; nothing if there is none.
#[allow(dead_code)] // Not every bench asks for it.
pub fn etag(server: &Server, name: &str, fields: &[&str]) -> String {
    let answer = server.fetch("HEAD", &target(name), fields);
    answer.head.get("etag").unwrap_or_default().to_owned()
}

/// Has the server see to it that its mirror has a ref where the upstream has it.
#[allow(dead_code)] // Not every bench pushes.
pub fn ensure_ref(server: &Server, name: &str, reference: &str, commit: &str) {
    let json = serde_json::json!({"refs": {reference: commit}}).to_string();
    let target = format!("/git/{HOST}/{name}/ensure-refs");
    let answer = server.post_json(&target, &json).expect(200).text();
    assert!(answer.contains(commit), "{reference}: {answer}");
}

/// Removes a directory, if it is there.
pub fn remove_tree(path: &Path) {
    if path.exists() {
        fs::remove_dir_all(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// Takes the bytes of all files below `path` that were synced out of the page cache.
pub fn evict_tree(path: &Path) {
    let listing = fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    for entry in listing.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            evict_tree(&path);
            continue;
        }
        let evicted = File::open(&path).and_then(|file| {
            let advice = rustix::fs::Advice::DontNeed;
            Ok(rustix::fs::fadvise(&file, 0, None, advice)?)
        });
        evicted.unwrap_or_else(|e| panic!("evict {}: {e}", path.display()));
    }
}

/// Bytes of the files below `path` that `counts`.
fn tree_bytes(path: &Path, counts: impl Fn(&fs::Metadata) -> bool + Copy) -> u64 {
    let listing = fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => tree_bytes(&entry.path(), counts),
        Ok(found) if counts(&found) => found.len(),
        _ => 0,
    };
    listing.flatten().map(size).sum()
}

/// Number and bytes of the files that HEAD has.
fn worktree_size(mirror: &Path) -> (u64, u64) {
    let listing = git::text(mirror, &["ls-tree", "-r", "-l", "HEAD"]);
    let sizes = listing.lines().filter_map(|line| {
        let size = line.split_whitespace().nth(3)?;
        size.parse::<u64>().ok()
    });
    sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
}

/// `SHAPE:SIZE` with a size such as `100M`.
fn parse_generated(wanted: &str) -> Result<(Shape, u64), String> {
    let (shape, size) = wanted.split_once(':').ok_or("generate:SHAPE:SIZE")?;
    let shape = Shape::named(shape).ok_or_else(|| {
        let names = Shape::ALL.map(Shape::name).join(", ");
        format!("'{shape}' is none of the shapes {names}")
    })?;
    Ok((shape, parse_bytes(size)?))
}

/// Bytes: a number, or one with K, M or G, which are powers of 1024.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number = digits.parse::<u64>().ok();
    let bytes = number.and_then(|n| n.checked_mul(1 << shift));
    bytes.ok_or_else(|| format!("'{text}' is no number of bytes, such as 100M"))
}

/// The last part of what is a URL; `None` for a path.
fn url_name(spec: &str) -> Option<String> {
    let is_url = spec.contains("://") || spec.contains('@') && spec.contains(':');
    let last = spec.trim_end_matches('/').rsplit(['/', ':']).next()?;
    is_url.then(|| last.trim_end_matches(".git").to_owned())
}

/// `HOST/PATH` of an `https://HOST/PATH` URL.
fn public_name(spec: &str) -> Option<String> {
    let rest = spec.strip_prefix("https://")?;
    Some(
        rest.trim_end_matches('/')
            .trim_end_matches(".git")
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_apart() {
        assert_eq!(url_name("https://host/a/b.git"), Some("b".to_owned()));
        assert_eq!(url_name("git@host:a/b"), Some("b".to_owned()));
        assert_eq!(url_name("git@host:b/"), Some("b".to_owned()));
        assert_eq!(url_name("/srv/git/b.git"), None);
        assert_eq!(
            public_name("https://host/a/b.git"),
            Some("host/a/b".to_owned())
        );
        assert_eq!(public_name("ssh://host/a/b.git"), None);
    }

    #[test]
    fn sizes_and_shapes() {
        assert_eq!(parse_bytes("12"), Ok(12));
        assert_eq!(parse_bytes("3M"), Ok(3 << 20));
        assert!(parse_bytes("M").is_err() && parse_bytes("1T").is_err());
        assert!(parse_bytes("99999999999G").is_err());
        assert_eq!(parse_generated("big_pack:1K"), Ok((Shape::BigPack, 1024)));
        let refused = parse_generated("huge:1K").unwrap_err();
        assert!(refused.contains("many_small"), "{refused}");
    }
}
