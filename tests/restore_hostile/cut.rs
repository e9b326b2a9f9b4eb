//! A peer that sends an honest archive, and after it a history that is cut off. It says of a commit
//! that its history begins there: git is content with that, though nobody asked for it.

use crate::archive::zst;
use crate::ground::{Ground, fixture};
use crate::made::piped;
use crate::support::relay::listen;
use crate::support::restore::asks_for_archive;
use crate::support::{git, repos};
use crate::trial::{self, not_found, ok};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A repository with commits that the archive has not, and what is served of it.
struct Peer {
    root: tempfile::TempDir,
    /// The archive's commit.
    old: String,
}

/// What the peer sends beside its archive.
#[derive(Clone, Default)]
struct Sends {
    bundle: Option<Vec<u8>>,
    /// Lines of the list of refs.
    refs: Vec<String>,
    /// What it says that histories begin with.
    shallow: Vec<String>,
    pack: Vec<u8>,
}

impl Peer {
    fn new() -> Peer {
        let root = tempfile::TempDir::with_prefix("tarpon-").unwrap_or_else(|e| panic!("{e}"));
        let peer = Peer {
            old: fixture().ask(&["rev-parse", "HEAD"]),
            root,
        };
        let path = peer.path().to_string_lossy().into_owned();
        let clone = ["clone", "--quiet", "--bare", &fixture().url(), &path];
        git::run(peer.root.path(), &clone);
        peer
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("upstream")
    }

    fn git(&self, args: &[&str]) -> String {
        git::text(&self.path(), args)
    }

    /// Adds a commit with a file of its own.
    fn commit(&self, branch: &str, name: &str) -> String {
        repos::add_commit(&self.path(), branch, name, name.as_bytes())
    }

    /// A pack of all that `tips` lead to and the archive has not, but for the commits `without`.
    fn pack(&self, tips: &[&str], without: &[&str]) -> Vec<u8> {
        let revs = [tips, &[&format!("^{}", self.old)]].concat().join("\n") + "\n";
        let list = ["rev-list", "--objects", "--no-object-names", "--stdin"];
        let listed = piped(&mut git::command(&self.path(), &list), revs.as_bytes());
        let listed = String::from_utf8_lossy(&listed);
        let ids = listed.lines().filter(|id| !without.contains(id));
        let ids: String = ids.map(|id| format!("{id}\n")).collect();
        let args = ["pack-objects", "-q", "--stdout"];
        piped(&mut git::command(&self.path(), &args), ids.as_bytes())
    }

    /// A list of the refs, HEAD first.
    fn list(&self) -> Vec<String> {
        let head = self.git(&["rev-parse", "HEAD"]);
        let head = format!("{head} HEAD symref-target:refs/heads/main");
        let format = "--format=%(objectname) %(refname)";
        let refs = self.git(&["for-each-ref", format, "refs/heads", "refs/tags"]);
        let refs = refs.lines().map(str::to_owned);
        [head].into_iter().chain(refs).collect()
    }
}

fn line(text: &[u8]) -> Vec<u8> {
    [format!("{:04x}", text.len() + 4).as_bytes(), text].concat()
}

impl Sends {
    /// The answer to a request: a first line, and a body.
    fn answer(&self, first: &str, body: &[u8]) -> Vec<u8> {
        let of = |what: &str| format!("Content-Type: application/x-git-upload-pack-{what}\r\n");
        let lists = body.windows(15).any(|part| part == b"command=ls-refs");
        match () {
            () if asks_for_archive(first) => {
                let archive = zst(&fixture().good.tar());
                ok("X-Cachew-Bundle-Url: /bundle\r\n", &archive)
            }
            () if first.contains("/bundle ") => match &self.bundle {
                Some(bundle) => ok("", bundle),
                None => not_found(),
            },
            () if first.contains("/ensure-refs ") => ok(
                "",
                br#"{"refs":{"refs/heads/next":"x"},"missing_commits":[]}"#,
            ),
            () if first.contains("/info/refs") => ok(&of("advertisement"), &self.offer()),
            () if lists => ok("", &self.listed()),
            () => ok(&of("result"), &self.fetched(body)),
        }
    }

    fn offer(&self) -> Vec<u8> {
        let can: [&[u8]; 4] = [
            b"version 2\n",
            b"ls-refs=unborn\n",
            b"fetch=shallow\n",
            b"object-format=sha1\n",
        ];
        [can.map(line).concat(), b"0000".to_vec()].concat()
    }

    fn listed(&self) -> Vec<u8> {
        let lines = self
            .refs
            .iter()
            .map(|text| line(format!("{text}\n").as_bytes()));
        [lines.collect::<Vec<_>>().concat(), b"0000".to_vec()].concat()
    }

    fn fetched(&self, asked: &[u8]) -> Vec<u8> {
        let plain = match asked.starts_with(b"\x1f\x8b") {
            true => piped(Command::new("gzip").arg("-dc"), asked),
            false => asked.to_vec(),
        };
        let mut out = Vec::new();
        if !plain.windows(8).any(|part| part == b"0009done") {
            out.extend([&line(b"acknowledgments\n")[..], &line(b"ready\n"), b"0001"].concat());
        }
        if !self.shallow.is_empty() {
            out.extend(line(b"shallow-info\n"));
            for id in &self.shallow {
                out.extend(line(format!("shallow {id}\n").as_bytes()));
            }
            out.extend_from_slice(b"0001");
        }
        out.extend(line(b"packfile\n"));
        for part in self.pack.chunks(60_000) {
            out.extend(line(&[b"\x01", part].concat()));
        }
        out.extend_from_slice(b"0000");
        out
    }

    fn start(self) -> SocketAddr {
        listen(move |mut socket| {
            while let Some((first, body)) = trial::read_whole(socket) {
                if socket.write_all(&self.answer(&first, &body)).is_err() {
                    return;
                }
            }
        })
    }
}

/// Names of what is in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// What is left when nothing but the archive was taken.
#[track_caller]
fn expect_archive_alone(ground: &Ground, peer: &Peer, context: &str) {
    let target = ground.target();
    assert_eq!(
        git::text(&target, &["rev-parse", "HEAD"]),
        peer.old,
        "{context}"
    );
    expect_whole(&target, context);
    let plain = Ground::new();
    let server = trial::serve(String::new(), zst(&fixture().good.tar()));
    assert_eq!(plain.restore(server, &[]).status.code(), Some(0));
    for place in [".git", ".git/objects", ".git/objects/pack", ".git/refs"] {
        let expected = names(&plain.target().join(place));
        assert_eq!(names(&target.join(place)), expected, "{context}: {place}");
    }
}

#[track_caller]
fn expect_whole(target: &Path, context: &str) {
    assert_eq!(
        git::text(target, &["status", "--porcelain"]),
        "",
        "{context}"
    );
    git::run(target, &["log", "--oneline", "--all"]);
    git::run(target, &["fsck", "--strict"]);
    for name in ["shallow", "FETCH_HEAD", "refs/tarpon"] {
        assert!(
            !target.join(".git").join(name).exists(),
            "{context}: {name}"
        );
    }
    let packs = names(&target.join(".git/objects/pack"));
    let odd = |name: &&String| name.ends_with(".promisor") || name.ends_with(".keep");
    assert_eq!(packs.iter().find(odd), None, "{context}");
}

/// What is asked for by name, in each way, is whole or not restored; what was not asked for stays
/// away.
fn expect_refused(peer: &Peer, sends: &Sends, context: &str) {
    let next = peer.git(&["rev-parse", "next"]);
    let pinned = format!("next={next}");
    let server = sends.clone().start();
    let ground = Ground::new();
    let out = ground.restore(server, &[]);
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(0), "{context}: {errors}");
    assert!(
        errors.contains("without the newest commits"),
        "{context}: {errors}"
    );
    expect_archive_alone(&ground, peer, context);
    for more in [
        ["--ref", "next"],
        ["--ref", &pinned],
        ["--have", "next"],
        ["--have", &pinned],
        ["--commit", &next],
        ["--have", &next],
    ] {
        let ground = Ground::new();
        let out = ground.restore(server, &more);
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(6), "{context} {more:?}: {errors}");
        trial::nothing_left(&ground).unwrap_or_else(|e| panic!("{context} {more:?}: {e}"));
    }
}

/// The peer's repository has `next` with three commits that the archive has not.
fn three_commits() -> (Peer, [String; 3]) {
    let peer = Peer::new();
    peer.git(&["branch", "next", "main"]);
    let commits = ["one", "two", "three"].map(|name| peer.commit("next", name));
    (peer, commits)
}

#[test]
fn a_history_that_is_cut_never_passes_as_whole() {
    let (peer, [one, two, three]) = three_commits();
    let honest = Sends {
        refs: peer.list(),
        pack: peer.pack(&["next"], &[]),
        ..Sends::default()
    };
    // The peer is believed when all is there.
    for more in [&[][..], &["--ref", "next"], &["--commit", &three]] {
        let ground = Ground::new();
        let out = ground.restore(honest.clone().start(), more);
        let errors = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(0), "{errors}");
        assert!(!errors.contains("without"), "{errors}");
        expect_whole(&ground.target(), "honest");
        assert_eq!(
            git::text(&ground.target(), &["rev-parse", "origin/next"]),
            three
        );
    }
    for (name, begins, lacks) in [("at its tip", &three, &two), ("deeper", &two, &one)] {
        let sends = Sends {
            shallow: vec![begins.clone()],
            // The files of what is lacking may be there.
            pack: peer.pack(&["next"], &[lacks]),
            ..honest.clone()
        };
        expect_refused(&peer, &sends, name);
    }
}

/// HEAD comes with a bundle as it should, and in its pack is a commit that HEAD does not lead to.
#[test]
fn what_lies_in_a_bundle_is_not_whole_for_that() {
    let (peer, [_, two, _]) = three_commits();
    let main = peer.commit("main", "new");
    let header = format!("# v2 git bundle\n-{} x\n{main} HEAD\n\n", peer.old);
    let pack = peer.pack(&["main", "next"], &[&two]);
    let bundle = [header.into_bytes(), pack.clone()].concat();
    let sends = Sends {
        bundle: Some(bundle),
        refs: peer.list(),
        shallow: vec![peer.git(&["rev-parse", "next"])],
        pack,
    };
    expect_refused(&peer, &sends, "bundle");
}

/// Git notes for all times that what such a bundle lacks is promised by somebody, and takes its pack
/// before it sees that HEAD is not whole.
#[test]
fn a_bundle_that_leaves_out_objects_is_not_taken() {
    let peer = Peer::new();
    let main = peer.commit("main", "new");
    let whole = peer.pack(&["main"], &[]);
    let blob = peer.git(&["rev-parse", "main:new"]);
    let tree = peer.git(&["rev-parse", "main^{tree}"]);
    for (name, says, pack) in [
        (
            "blobs",
            "@filter=blob:none\n",
            peer.pack(&["main"], &[&blob]),
        ),
        (
            "trees",
            "@filter=tree:0\n",
            peer.pack(&["main"], &[&blob, &tree]),
        ),
        ("none", "@filter=blob:none\n", whole.clone()),
        ("silent", "", peer.pack(&["main"], &[&blob])),
    ] {
        let header = format!(
            "# v3 git bundle\n@object-format=sha1\n{says}-{} x\n{main} HEAD\n\n",
            peer.old
        );
        let mut sends = Sends {
            bundle: Some([header.as_bytes(), &pack].concat()),
            refs: peer.list(),
            pack: whole.clone(),
            ..Sends::default()
        };
        let ground = Ground::new();
        let out = ground.restore(sends.clone().start(), &[]);
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(0), "{name}: {errors}");
        assert!(
            errors.contains("the bundle is of no use"),
            "{name}: {errors}"
        );
        assert_eq!(git::text(&ground.target(), &["rev-parse", "HEAD"]), main);
        expect_whole(&ground.target(), name);
        // Those of the archive and of what was fetched, each with its index.
        let packs = names(&ground.target().join(".git/objects/pack"));
        let count = packs.iter().filter(|name| name.ends_with(".pack")).count();
        assert_eq!(count, 2, "{name}: {packs:?}");
        // Nothing else comes either.
        sends.pack = Vec::new();
        let ground = Ground::new();
        assert_eq!(ground.restore(sends.start(), &[]).status.code(), Some(0));
        expect_archive_alone(&ground, &peer, name);
    }
}

/// One of many: more than are fetched at a time.
#[test]
fn one_ref_of_many_whose_history_is_cut_is_seen() {
    let (peer, [_, two, three]) = three_commits();
    let tree = peer.git(&["rev-parse", "main^{tree}"]);
    let mut import = repos::Importer::start(&peer.path(), repos::Layout::Packed);
    for number in 0..2100 {
        let name = format!("refs/heads/many/{number:04}");
        import.commit_on(&name, &peer.old, &name);
    }
    import.finish();
    assert_eq!(peer.git(&["rev-parse", "many/0007^{tree}"]), tree);
    let many: Vec<String> = peer.list().split_off(1);
    let tips: Vec<&str> = many
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let cut = Sends {
        refs: peer.list(),
        shallow: vec![three],
        pack: peer.pack(&tips, &[&two]),
        ..Sends::default()
    };
    let ground = Ground::new();
    let out = ground.restore(cut.clone().start(), &["--ref", "main"]);
    assert_eq!(out.status.code(), Some(6), "{out:?}");
    trial::nothing_left(&ground).unwrap_or_else(|e| panic!("{e}"));
    let ground = Ground::new();
    assert_eq!(ground.restore(cut.start(), &[]).status.code(), Some(0));
    expect_archive_alone(&ground, &peer, "many");
    let whole = Sends {
        refs: peer.list(),
        pack: peer.pack(&tips, &[]),
        ..Sends::default()
    };
    let ground = Ground::new();
    let out = ground.restore(whole.start(), &["--ref", "main"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    expect_whole(&ground.target(), "many");
}
