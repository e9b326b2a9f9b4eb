//! A whole archive through `restore`, over a real socket, beside files that nobody may touch.
//!
//! An input is a list of changes to the archive of a clone. What is refused leaves nothing; what is
//! taken is asked for by git itself: its configuration, refs and index are a clone's, and the index
//! writes HEAD's tree. Nothing outside of the target changes.

#![no_main]

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use libfuzzer_sys::fuzz_target;
use tarpon::config::{Command, RestoreArgs, parse};
use tarpon_fuzz::Input;
use tarpon_fuzz::archive::{Archive, Entry, zst};
use tarpon_fuzz::look::snapshot;
use tarpon_fuzz::made::{loose, loose_path, resum};
use tarpon_fuzz::support::git;
use tarpon_fuzz::verdict;
use tempfile::TempDir;

/// What the archive says that it is from.
const ORIGIN: &str = "file:///srv/app";
/// Most changes of an input.
const CHANGES: usize = 16;

/// What all inputs share.
struct Place {
    root: TempDir,
    good: Archive,
    head: String,
    tree: String,
    args: RestoreArgs,
    /// What the server sends next.
    body: Arc<Mutex<Vec<u8>>>,
    before: BTreeMap<PathBuf, String>,
    /// Results that have been looked at.
    seen: Mutex<HashSet<String>>,
}

impl Place {
    fn new() -> Place {
        let root = TempDir::with_prefix("tarpon-fuzz-").unwrap();
        let clone = root.path().join("clone");
        let upstream = root.path().join("upstream");
        make_upstream(&upstream);
        git::clone(&format!("file://{}", upstream.display()), &clone);
        git::run(&clone, &["remote", "set-url", "origin", ORIGIN]);
        let ask = |name: &str| git::text(&clone, &["rev-parse", name]);
        let (head, tree) = (ask("HEAD"), ask("HEAD^{tree}"));
        let good = Archive::of_clone(&clone);
        for directory in [&clone, &upstream] {
            fs::remove_dir_all(directory).unwrap();
        }
        fs::create_dir_all(root.path().join("work")).unwrap();
        fs::write(root.path().join("victim"), "whole\n").unwrap();
        let body = Arc::new(Mutex::new(Vec::new()));
        let server = format!("http://{}", serve(body.clone()));
        let target = root.path().join("work/target");
        let words = ["tarpon", "restore", "test/app", &*target.to_string_lossy()];
        let more = ["--server", &server, "--quiet", "--connections", "1"];
        let words = words.iter().chain(&more).map(|word| word.into());
        let args: Vec<std::ffi::OsString> = words.collect();
        let Ok(Command::Restore(args)) = parse(args, |_| None) else {
            panic!("the arguments are wrong");
        };
        let before = snapshot(root.path(), &[]);
        Place {
            root,
            good,
            head,
            tree,
            args: *args,
            body,
            before,
            seen: Mutex::default(),
        }
    }

    fn target(&self) -> PathBuf {
        self.root.path().join("work/target")
    }

    /// A text of an input, in which HEAD's commit and tree have short names.
    fn text(&self, input: &mut Input<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = input.text();
        while let Some((byte, after)) = rest.split_first() {
            match rest {
                [b'@', b'I', ..] => out.extend_from_slice(self.head.as_bytes()),
                [b'@', b'T', ..] => out.extend_from_slice(self.tree.as_bytes()),
                _ => {
                    out.push(*byte);
                    rest = after;
                    continue;
                }
            }
            rest = &rest[2..];
        }
        out
    }
}

/// Files of each kind, in two commits, with a tag and another branch.
fn make_upstream(path: &Path) {
    fs::create_dir_all(path.join("dir/below")).unwrap();
    let run = |args: &[&str]| drop(git::run(path, args));
    run(&["init", "--quiet", "--initial-branch=main"]);
    fs::write(path.join("a.txt"), "a\n").unwrap();
    fs::write(path.join("dir/below/b.txt"), "b\n").unwrap();
    std::os::unix::fs::symlink("a.txt", path.join("link")).unwrap();
    run(&["add", "."]);
    run(&["update-index", "--chmod=+x", "dir/below/b.txt"]);
    let module = format!("160000,{},module", "1".repeat(40));
    run(&["update-index", "--add", "--cacheinfo", &module]);
    run(&["commit", "--quiet", "-m", "first"]);
    run(&["branch", "side"]);
    run(&["tag", "-a", "-m", "a tag", "v1"]);
    run(&["commit", "--quiet", "--allow-empty", "-m", "second"]);
}

/// Serves what is in `body` to whoever asks.
fn serve(body: Arc<Mutex<Vec<u8>>>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let Ok(reading) = socket.try_clone() else {
                continue;
            };
            let mut lines = BufReader::new(reading).lines();
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|l| !l.is_empty()))
            {}
            let body = body.lock().unwrap().clone();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            // Who has seen enough goes.
            let _ = socket.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    address
}

/// The archive that an input means, as it is sent.
fn archive(place: &Place, input: &mut Input<'_>) -> Vec<u8> {
    let mut archive = place.good.clone();
    let (mut front, mut cut) = (Vec::new(), 0);
    for _ in 0..CHANGES {
        if input.is_empty() {
            break;
        }
        let kind = input.u8() % 9;
        if kind < 5 || kind == 6 {
            change(place, &mut archive.0, kind, input);
            continue;
        }
        match kind {
            5 => {
                let kind = input.u8();
                let name = place.text(input);
                let data = place.text(input);
                archive.0.push(added(kind, &name, &data));
            }
            7 => front = input.text().to_vec(),
            _ => {
                let kind = ["commit", "tree", "blob", "tag"][usize::from(input.u8() % 4)];
                let (name, file) = loose(kind, &place.text(input));
                archive.0.push(Entry::file(loose_path(&name), file));
                match input.u8() % 4 {
                    0 => archive = archive.set(".git/HEAD", format!("{name}\n")),
                    1 => archive
                        .0
                        .push(Entry::file(".git/refs/tags/made", format!("{name}\n"))),
                    2 => cut = usize::from(input.u16()),
                    _ => {}
                }
            }
        }
    }
    front.extend(archive.tar());
    front.truncate(front.len().saturating_sub(cut));
    zst(&front)
}

/// A change to one of the entries.
fn change(place: &Place, entries: &mut Vec<Entry>, kind: u8, input: &mut Input<'_>) {
    if entries.is_empty() {
        return;
    }
    let index = usize::from(input.u8()) % entries.len();
    let entry = &mut entries[index];
    match kind {
        0 => entry.data = place.text(input),
        1 => entry.data.extend(place.text(input)),
        2 => {
            let at = input.u32() as usize % (entry.data.len() + 1);
            let text = place.text(input);
            let end = (at + text.len()).min(entry.data.len());
            entry.data[at..end].copy_from_slice(&text[..end - at]);
            // As if the sum were meant.
            if input.u8() % 2 == 0 && entry.data.len() > 20 {
                resum(&mut entry.data);
            }
        }
        3 => drop(entries.remove(index)),
        4 => entry.name = shorter(place.text(input)),
        _ => {
            let entry = entries.remove(index);
            entries.push(entry);
        }
    }
    // A link's target is in its header.
    for entry in entries.iter_mut().filter(|entry| !entry.kind.is_file()) {
        entry.data.truncate(100);
    }
}

fn shorter(mut name: Vec<u8>) -> Vec<u8> {
    name.truncate(5000);
    name
}

fn added(kind: u8, name: &[u8], data: &[u8]) -> Entry {
    use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink};
    let mode = if kind & 16 == 0 { 0o644 } else { 0o755 };
    let kind = [Regular, Symlink, Directory, Regular, Link, Fifo][usize::from(kind % 6)];
    let data = if kind == Regular {
        data
    } else {
        &data[..data.len().min(100)]
    };
    Entry::of(kind, shorter(name.to_vec()), data).with_mode(mode)
}

fuzz_target!(|data: &[u8]| {
    static PLACE: OnceLock<Place> = OnceLock::new();
    let place = PLACE.get_or_init(Place::new);
    let body = archive(place, &mut Input::new(data));
    *place.body.lock().unwrap() = body;
    let result = tarpon::restore::attempt(&place.args);
    let target = place.target();
    if result.is_ok() {
        let digest = verdict::digest(&target);
        if place.seen.lock().unwrap().insert(digest) {
            // The restore's own name for the command that nobody may run.
            let sound = verdict::check(&target, ORIGIN, "tarpon-canary");
            assert_eq!(sound, Ok(()));
        }
        fs::remove_dir_all(&target).unwrap();
    }
    assert_eq!(snapshot(place.root.path(), &[]), place.before, "{result:?}");
});
