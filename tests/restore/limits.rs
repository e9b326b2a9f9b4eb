//! What the `git` of a restore may take: whatever a server or an upstream sends, no more is written
//! than `--size-limit` allows, and what is ended leaves nothing.

use crate::bundle::{large, small_lab, start};
use crate::lab::{archive, expect, expect_nothing, new_lab, nobody, restore, staged};
use crate::support::lab::Lab;
use crate::support::relay::listen;
use crate::support::repos::{self, Importer, Layout};
use crate::support::rng::Rng;
use crate::support::steps::{hit, push_and_fetch};
use crate::support::{git, wait};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Output;

const MIB: usize = 1 << 20;

/// What everything below a directory takes of the disk.
fn disk_bytes(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => disk_bytes(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

/// Restores with a limit and looks at the staging directory meanwhile; the most that was there.
fn watched(server: SocketAddr, repository: &str, target: &Path, more: &[&str]) -> (Output, u64) {
    let mut command = crate::lab::direct(server, repository, target, more);
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{e}"));
    let above = target.parent().unwrap_or(target);
    let mut peak_bytes = 0;
    wait::until_true("the restore ends", || {
        let taken = staged(above).iter().map(|path| disk_bytes(path)).sum();
        peak_bytes = peak_bytes.max(taken);
        child.try_wait().is_ok_and(|status| status.is_some())
    });
    let out = child.wait_with_output();
    (out.unwrap_or_else(|e| panic!("{e}")), peak_bytes)
}

#[track_caller]
fn expect_limited(out: &Output, target: &Path) {
    let errors = expect(out, 4);
    assert!(errors.contains("--size-limit"), "{errors}");
    expect_nothing(target);
}

/// A repository whose HEAD is harmless, and that has in the same pack a tag whose tree is forty times
/// the same 16 MiB of zeros.
fn bomb_lab() -> (Lab, String) {
    let lab = Lab::new(crate::lab::BINARY);
    let path = lab.upstream("app");
    repos::init_bare(&path, "main", "sha1");
    let mut import = Importer::start(&path, Layout::Packed);
    import.commit("refs/heads/main", "first");
    import.file(repos::FILE, b"a.txt", b"text\n");
    import.commit("refs/tags/bomb", "bomb");
    for number in 0..40 {
        let name = format!("d{}/f{number}", number % 3);
        import.file(repos::FILE, name.as_bytes(), &vec![0; 16 * MIB]);
    }
    import.finish();
    let bomb = git::text(&path, &["rev-parse", "refs/tags/bomb"]);
    (lab, bomb)
}

/// Serves `archive` and says that there is a bundle; each of `refs` is a line of the list of refs.
pub fn moves_refs(archive: Vec<u8>, refs: &[String]) -> SocketAddr {
    let line = |text: &String| format!("{:04x}{text}\n", text.len() + 5);
    let list: String = refs.iter().map(line).collect::<String>() + "0000";
    listen(move |socket| while moves_refs_once(socket, &archive, &list).is_some() {})
}

fn moves_refs_once(mut socket: &TcpStream, archive: &[u8], list: &str) -> Option<()> {
    let mut reader = BufReader::new(socket);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().ok()?;
        }
        head.push_str(&line);
    }
    std::io::Read::read_exact(&mut reader, &mut vec![0; length]).ok()?;
    let target = head.lines().next()?;
    let all_there = br#"{"refs":{"refs/heads/main":"x","refs/tags/v1":"x"},"missing_commits":[]}"#;
    let body = match () {
        () if target.contains("/ensure-refs") => all_there,
        () if target.contains("/git-upload-pack") => list.as_bytes(),
        () => archive,
    };
    let length = body.len();
    let fields = "ETag: \"x\"\r\nX-Cachew-Bundle-Url: /bundle";
    let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: {length}\r\n\r\n");
    socket.write_all(&[head.as_bytes(), body].concat()).ok()
}

/// All objects are there already, so nothing is fetched: it is the checkout that has no end.
#[test]
fn a_checkout_of_a_few_bytes_that_are_many_files_is_refused_before_it_begins() {
    let (lab, bomb) = bomb_lab();
    let server = lab.start();
    let whole = archive(&lab, &server);
    assert!(whole.len() < MIB, "{}", whole.len());
    let refs = [
        format!("{bomb} HEAD symref-target:refs/heads/main"),
        format!("{bomb} refs/heads/main"),
    ];
    let hostile = moves_refs(whole, &refs);
    let target = lab.scratch("bomb");
    let (out, peak_bytes) = watched(hostile, "test/app", &target, &["--size-limit", "20M"]);
    expect_limited(&out, &target);
    assert!(peak_bytes < 2 * MIB as u64, "{peak_bytes}");
    // With as much room as it takes it is what was asked for.
    expect(
        &restore(hostile, "test/app", &target, &["--size-limit", "700M"]),
        0,
    );
    assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), bomb);
    assert_eq!(git::text(&target, &["status", "--porcelain"]), "");
}

/// The same from an upstream, and one whose pack alone is too large.
#[test]
fn a_clone_that_takes_the_place_of_a_snapshot_has_the_limit_too() {
    let (lab, bomb) = bomb_lab();
    let upstream = lab.upstream("app");
    let url = lab.url("app");
    let target = lab.scratch("cloned");
    let options = ["--fallback", "clone", "--size-limit", "20M"];
    let limited = |more: &[&str]| {
        let more = [&options[..], more].concat();
        let (out, peak_bytes) = watched(nobody(), &url, &target, &more);
        expect_limited(&out, &target);
        peak_bytes
    };
    let peak_bytes = limited(&["--commit", &bomb]);
    assert!(peak_bytes < 2 * MIB as u64, "{peak_bytes}");
    git::run(&upstream, &["update-ref", "refs/heads/main", &bomb]);
    let peak_bytes = limited(&[]);
    assert!(peak_bytes < 2 * MIB as u64, "{peak_bytes}");
    let noise = Rng::new(5).bytes(64 * MIB);
    repos::add_commit(&upstream, "main", "noise", &noise);
    limited(&["--ref", "main"]);
}

/// A fetch from the server, a bundle that fits as a file but not with what is in it, and what the
/// files of both take.
#[test]
fn what_comes_after_an_archive_has_the_limit_too() {
    let lab = small_lab();
    let server = start(&lab);
    hit(&server, "small");
    let new = push_and_fetch(&lab, &server, "small", "large.bin", &large());
    let fetched = ["--no-bundle", "--have", &new];
    for (name, limit, more) in [
        ("fetched", "6M", &fetched[..]),
        ("bundled", "14M", &[]),
        ("files", "14M", &fetched),
    ] {
        let target = lab.scratch(name);
        let more = [more, &["--size-limit", limit]].concat();
        let (out, peak_bytes) = watched(server.address(), "test/small", &target, &more);
        expect_limited(&out, &target);
        assert!(peak_bytes < 24 * MIB as u64, "{name}: {peak_bytes}");
    }
    let target = lab.scratch("enough");
    let more = [&fetched[..], &["--size-limit", "24M"]].concat();
    expect(&restore(server.address(), "test/small", &target, &more), 0);
}

/// Runs `script` in namespaces of its own, where a file system with `inodes` inodes is at `place`.
/// `None` where users may not make such.
fn with_inodes(inodes: u32, place: &Path, script: &str, args: &[&str]) -> Option<Output> {
    let mount = format!("mount -t tmpfs -o nr_inodes={inodes},size=64m none \"$0\" || exit 99; ");
    let mut command = std::process::Command::new("unshare");
    git::isolate(&mut command);
    command.args(["-rm", "sh", "-c", &(mount + script)]);
    let out = command.arg(place).args(args).output().ok()?;
    let is_made = out.status.code() != Some(99) && !out.stderr.starts_with(b"unshare:");
    is_made.then_some(out)
}

/// Files that hold nothing take inodes all the same.
#[test]
fn a_part_of_the_inodes_stays_free() {
    let lab = Lab::new(crate::lab::BINARY);
    let path = lab.upstream("app");
    repos::init_bare(&path, "main", "sha1");
    let mut import = Importer::start(&path, Layout::Packed);
    import.commit("refs/heads/main", "first");
    for number in 0..300 {
        import.file(repos::FILE, format!("f{number}").as_bytes(), b"");
    }
    import.finish();
    let server = lab.start();
    archive(&lab, &server);
    let place = lab.scratch("place");
    std::fs::create_dir(&place).unwrap_or_else(|e| panic!("{e}"));
    let url = format!("http://{}", server.address());
    let script = "\"$1\" restore test/app \"$0/target\" --server \"$2\" $3; code=$?; \
                  df --output=iused \"$0\" | tail -1; exit $code";
    for (inodes, more, code, what) in [
        (200, "--free-floor=5%", 4, "inodes"),
        (200, "--size-limit=32M", 4, "No space left"),
        (2000, "--free-floor=5%", 0, ""),
    ] {
        let args = [crate::lab::BINARY, &url, more];
        let Some(out) = with_inodes(inodes, &place, script, &args) else {
            println!("no user may mount here: not tried");
            return;
        };
        let errors = expect(&out, code);
        assert!(errors.contains(what), "{errors}");
        let used = String::from_utf8_lossy(&out.stdout);
        let used: u32 = used
            .trim()
            .parse()
            .unwrap_or_else(|e| panic!("{used}: {e}"));
        assert_eq!(used > 300, code == 0, "{used}");
    }
}

/// A file system of its own, which is full before the clone is whole.
#[test]
fn a_disk_that_is_full_for_git_is_the_disks_failure() {
    let lab = new_lab();
    let small = lab.scratch("small");
    std::fs::create_dir(&small).unwrap_or_else(|e| panic!("{e}"));
    let script = "mount -t tmpfs -o size=4M tmpfs \"$0\" || exit 99; exec \"$@\"";
    let mut command = std::process::Command::new("unshare");
    git::isolate(&mut command);
    command.args(["-m", "sh", "-c", script]).arg(&small);
    command.args([crate::lab::BINARY, "restore", &lab.url("app")]);
    command.arg(small.join("target"));
    command.args(["--server", &format!("http://{}", nobody())]);
    command.args(["--fallback", "clone", "--size-limit", "1G"]);
    let out = command.output().unwrap_or_else(|e| panic!("{e}"));
    let errors = String::from_utf8_lossy(&out.stderr);
    if !errors.contains("tarpon: ") {
        println!("not tested: nothing can be mounted here: {errors}");
        return;
    }
    let errors = expect(&out, 4);
    let said = errors.lines().last().unwrap_or_default();
    assert!(said.contains("No space left on device"), "{errors}");
    assert!(!said.contains("warning:"), "{errors}");
}
