//! `tarpon admin store`: what is said of a store is what lies there, and nothing there changes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use super::bucket_server::BucketServer;
use super::shared_store::{on_bucket, parts, push_and_share, store_of, wait_shared};
use super::support::lab::Lab;
use super::support::wait;
use super::{hit, small_lab};

/// What a command says and how it ends.
struct Said {
    code: Option<i32>,
    lines: Vec<Value>,
    total: Value,
}

impl Said {
    fn of(out: &Output) -> Said {
        let text = std::str::from_utf8(&out.stdout).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let mut lines: Vec<Value> = lines.collect();
        let total = lines.pop().unwrap_or_else(|| panic!("{out:?}"));
        Said {
            code: out.status.code(),
            lines,
            total: total["total"].clone(),
        }
    }

    fn count(&self, name: &str) -> u64 {
        self.total[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name}: {}", self.total))
    }

    /// The only line.
    fn only(&self) -> &Value {
        match &self.lines[..] {
            [line] => line,
            lines => panic!("{lines:#?}"),
        }
    }
}

fn run(url: &str, environment: &[(String, String)], arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tarpon"))
        .args(["admin", "store"])
        .args(arguments)
        .args(["--store", url])
        .envs(environment.iter().cloned())
        .output()
        .unwrap()
}

fn said(url: &str, arguments: &[&str]) -> Said {
    Said::of(&run(url, &[], &[arguments, &["--json"]].concat()))
}

/// What lies below a directory, and when each file was written.
fn files(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => {
                let written = fs::metadata(&path).unwrap().modified().unwrap();
                all.insert(path.clone(), (fs::read(&path).unwrap(), written));
            }
        }
    }
    all
}

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// A store in which two snapshots are shared, of which one was replaced.
fn shared(lab: &Lab, url: &str) {
    let server = lab.settings().with(&["--store", url]).start();
    hit(&server, "small");
    wait_shared(&server, 1);
    push_and_share(lab, &server);
    server.stop();
}

#[test]
fn a_store_is_listed_and_measured_and_found_sound() {
    let lab = small_lab();
    let url = store_of(&lab);
    shared(&lab, &url);
    // Somebody has left half of a file, and somebody else a note.
    fs::create_dir_all(lab.scratch("store/tmp")).unwrap();
    fs::write(lab.scratch("store/tmp/left"), "half").unwrap();
    let dir = parts(&lab)[0].parent().unwrap().to_owned();
    fs::write(dir.join("note.txt"), "a note").unwrap();
    let before = files(&lab.scratch("store"));
    let length = |part: &PathBuf| fs::metadata(part).unwrap().len();
    let bytes: u64 = parts(&lab).iter().map(length).sum();

    let list = said(&url, &["ls"]);
    let (line, shared) = (list.only(), list.count("bytes"));
    assert_eq!((list.code, list.count("repositories")), (Some(0), 1));
    let counts = (&line["snapshots"], &line["replaced"], &line["bytes"]);
    assert_eq!(counts, (&1.into(), &1.into(), &shared.into()));
    for name in ["url", "repository"] {
        assert!(line[name].as_str().unwrap().ends_with("/small"), "{line}");
    }
    // The refs that the push has replaced are nobody's any more, and are kept for an hour.
    let condemned = bytes - "a note".len() as u64 - shared;
    let parts = parts(&lab);
    let mut refs = parts.iter().filter(|it| name_of(it).starts_with("refs-"));
    assert!(refs.any(|part| length(part) == condemned), "{condemned}");

    let usage = said(&url, &["du"]);
    assert_eq!(usage.code, Some(0));
    for (name, count) in [
        ("shared", shared),
        ("foreign", 6),
        ("unnamed", 0),
        ("condemned", condemned),
        ("given_up", 0),
        ("bytes", bytes),
    ] {
        assert_eq!(usage.count(name), count, "{name}");
        assert_eq!(usage.only()[name], count, "{name}");
    }

    let verified = said(&url, &["verify"]);
    let superfluous = verified.lines.iter().map(|line| &line["why"]);
    let mut superfluous = Vec::from_iter(superfluous.map(|why| why.as_str().unwrap()));
    superfluous.sort_unstable();
    assert_eq!(superfluous, ["condemned", "foreign"]);
    assert_eq!(verified.code, Some(0), "{}", verified.total);
    assert_eq!(verified.count("parts"), parts.len() as u64 - 2);
    assert_eq!(verified.count("read_bytes"), shared, "each byte once");
    for name in ["missing", "wrong", "unchecked"] {
        assert_eq!(verified.count(name), 0, "{name}");
    }
    let now = files(&lab.scratch("store"));
    assert!(now == before, "something was changed");

    let people = run(&url, &[], &["ls"]);
    let text = String::from_utf8(people.stdout).unwrap();
    let is_for_people = text.contains("\tgeneration ") && text.contains("\ntotal\t");
    assert!(is_for_people, "{text}");
}

/// One byte of whichever part, or its end, or all of it; and a head.
#[test]
fn whatever_is_damaged_is_named() {
    let lab = small_lab();
    let url = store_of(&lab);
    shared(&lab, &url);
    let expect = |part: &Path, what: &str| {
        let mut verified = said(&url, &["verify"]);
        verified.lines.retain(|line| line["found"] != "superfluous");
        let line = verified.only();
        assert_eq!(verified.code, Some(2), "{line}");
        assert_eq!(
            (&line["found"], &line["key"]),
            (&what.into(), &name_of(part).into())
        );
        assert_eq!(verified.count(what), 1, "{line}");
    };
    let superfluous = said(&url, &["verify"]).lines;
    let mut parts = parts(&lab);
    let all = parts.len() as u64;
    parts.retain(|part| superfluous.iter().all(|line| line["key"] != name_of(part)));
    assert!(parts.len() >= 12, "{parts:?}");
    for (number, part) in parts.iter().enumerate() {
        let sound = fs::read(part).unwrap();
        let mut broken = sound.clone();
        match number % 3 {
            0 => broken[0] ^= 1,
            1 => broken[sound.len() / 2] ^= 1,
            _ => broken[sound.len() - 1] ^= 1,
        }
        fs::write(part, &broken).unwrap();
        expect(part, "wrong");
        if number % 3 == 0 {
            fs::write(part, &sound[1..]).unwrap();
            expect(part, "wrong");
            fs::remove_file(part).unwrap();
            expect(part, "missing");
        }
        fs::write(part, sound).unwrap();
    }
    assert_eq!(said(&url, &["verify"]).code, Some(0));

    let head = parts[0].parent().unwrap().with_file_name("head.json");
    let sound = fs::read(&head).unwrap();
    fs::write(&head, &sound[..sound.len() - 1]).unwrap();
    for task in [&["verify"][..], &["ls"], &["du"], &["prune", "--dry-run"]] {
        let broken = said(&url, task);
        assert_eq!(broken.code, Some(2), "{task:?}");
        assert!(
            broken.only()["key"]
                .as_str()
                .unwrap()
                .ends_with("head.json")
        );
    }
    // Of what lies beside no head nobody knows anything, and nobody removes it.
    fs::remove_file(&head).unwrap();
    let alone = said(&url, &["verify"]);
    assert_eq!(alone.count("superfluous"), all);
    assert_eq!((alone.count("missing"), alone.code), (1, Some(2)));
    let pruned = said(&url, &["prune", "--dry-run"]);
    assert_eq!((pruned.lines.len(), pruned.code), (0, Some(0)));
    // What is not there at all is not sound either.
    let nowhere = format!("file://{}", lab.scratch("nowhere").display());
    assert_eq!(said(&nowhere, &["verify"]).code, Some(3));
    assert_eq!(said(&nowhere, &["du"]).code, Some(0));
}

/// What it says is removed is what a server removes then.
#[test]
fn what_is_to_be_pruned_is_what_servers_remove() {
    let lab = small_lab();
    let url = store_of(&lab);
    shared(&lab, &url);
    let all = parts(&lab);
    let orphan = all[0].with_extension("0123456789abcdef0123456789abcdef");
    fs::copy(&all[0], &orphan).unwrap();
    let prune = || said(&url, &["prune", "--dry-run"]);
    let fate_of = |pruned: &Said| {
        let is_it = |line: &&Value| line["key"] == name_of(&orphan);
        let line = pruned.lines.iter().find(is_it).expect("the orphan");
        line["fate"].as_str().unwrap().to_owned()
    };
    let before = prune();
    assert_eq!(fate_of(&before), "condemn");
    assert_eq!((before.count("condemn"), before.count("wait")), (1, 1));
    assert_eq!(
        before.count("condemn_bytes"),
        fs::metadata(&orphan).unwrap().len()
    );
    assert_eq!(before.code, Some(0));
    // Without the flag nothing is promised.
    assert_eq!(run(&url, &[], &["prune"]).status.code(), Some(1));

    let often = "store-look-ms=100";
    let server = lab.settings().with(&["--store", &url]);
    let server = server.with_fault(often).start();
    hit(&server, "small");
    let condemned = wait::until("it is condemned", || {
        let pruned = prune();
        (fate_of(&pruned) == "wait").then_some(pruned)
    });
    let since = |line: &Value| line["since_unix_ms"].as_u64().is_some_and(|at| at > 0);
    assert!(condemned.lines.iter().all(since), "{:?}", condemned.lines);
    assert!(orphan.exists());
    server.stop();
    // An hour later, as it were.
    let head = orphan.parent().unwrap().with_file_name("head.json");
    let mut written: Value = serde_json::from_slice(&fs::read(&head).unwrap()).unwrap();
    for one in written["condemned"].as_array_mut().unwrap() {
        one["since_unix_ms"] = 1.into();
    }
    fs::write(&head, written.to_string()).unwrap();
    let due = prune();
    assert_eq!(
        (fate_of(&due), due.count("remove")),
        ("remove".to_owned(), 2)
    );
    let server = lab.settings().with(&["--store", &url]);
    let server = server.with_fault(often).start();
    hit(&server, "small");
    wait::until_true("all is removed", || prune().lines.is_empty());
    assert!(!orphan.exists());
    server.stop();
}

/// A bucket with one repository, and the directory of that.
fn shared_in_bucket(lab: &Lab) -> (BucketServer, PathBuf) {
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let server = on_bucket(lab, &bucket, "first");
    hit(&server, "small");
    wait_shared(&server, 1);
    server.stop();
    let repositories = fs::read_dir(lab.scratch("s3/farm/v1/repos")).unwrap();
    let dir = repositories.last().unwrap().unwrap().path();
    (bucket, dir)
}

/// A bucket has pages, and may refuse.
#[test]
fn a_bucket_is_looked_at_page_by_page() {
    let lab = small_lab();
    let (bucket, dir) = shared_in_bucket(&lab);
    let dir = dir.join("parts");
    let count = fs::read_dir(&dir).unwrap().count();
    for number in 0..2500 {
        fs::write(dir.join(format!("note-{number}")), "a note").unwrap();
    }
    let environment = bucket.environment();
    let looked = |arguments: &[&str]| Said::of(&run("s3://farm", &environment, arguments));
    let usage = looked(&["du", "--json"]);
    assert_eq!(usage.count("foreign"), 2500 * 6);
    let verified = looked(&["verify", "--json"]);
    assert_eq!(verified.code, Some(0), "{}", verified.total);
    assert_eq!(verified.count("superfluous"), 2500);
    assert_eq!(verified.count("parts"), count as u64);
    assert_eq!(looked(&["ls", "--json"]).count("repositories"), 1);

    let mut strange = environment.clone();
    strange.push(("AWS_SECRET_ACCESS_KEY".into(), "another".into()));
    let refused = run("s3://farm", &strange, &["verify"]);
    let why = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{why}");
    assert!(
        why.contains("--store s3://farm") && why.contains("403"),
        "{why}"
    );
}

/// Servers go on meanwhile: what they have removed by then is not missing.
#[test]
fn what_has_left_meanwhile_is_not_missing() {
    let lab = small_lab();
    let (bucket, dir) = shared_in_bucket(&lab);
    let head = dir.join("head.json");
    let sound = fs::read(&head).unwrap();
    let mut empty: Value = serde_json::from_slice(&sound).unwrap();
    for named in ["parts", "packs", "snapshots"] {
        empty[named] = Value::Array(Vec::new());
    }
    empty["refs"] = Value::Null;
    let environment = bucket.environment();
    let verify = |now: &[u8]| {
        bucket.hold(Some(".pack."));
        std::thread::scope(|scope| {
            let arguments = &["verify", "--json"];
            let verifying = scope.spawn(|| run("s3://farm", &environment, arguments));
            wait::until_true("it reads a pack", || bucket.holds() > 0);
            let parts = fs::read_dir(dir.join("parts")).unwrap();
            for part in parts.map(|part| part.unwrap().path()) {
                if name_of(&part).contains(".pack.") {
                    fs::remove_file(part).unwrap();
                }
            }
            fs::write(&head, now).unwrap();
            bucket.hold(None);
            Said::of(&verifying.join().unwrap())
        })
    };
    let gone = verify(empty.to_string().as_bytes());
    assert_eq!(
        (gone.code, gone.lines.len()),
        (Some(0), 0),
        "{:?}",
        gone.lines
    );
    // The same of one that is named still.
    let said = run("s3://farm", &environment, &["verify", "--json"]);
    assert_eq!(Said::of(&said).code, Some(0));
    fs::write(&head, &sound).unwrap();
    let said = Said::of(&run("s3://farm", &environment, &["verify", "--json"]));
    assert_eq!((said.code, said.count("missing")), (Some(2), 1));
}

/// Which store it is the server's own file says.
#[test]
fn the_store_is_that_of_the_server() {
    let lab = small_lab();
    let url = store_of(&lab);
    shared(&lab, &url);
    let file = lab.scratch("tarpon.toml");
    fs::write(
        &file,
        format!("store = \"{url}\"\nstate = \"/nowhere/at/all\"\n"),
    )
    .unwrap();
    let by = |command: &mut Command| {
        let out = command.args(["admin", "store", "ls", "--json"]).output();
        out.unwrap()
    };
    let tarpon = || Command::new(env!("CARGO_BIN_EXE_tarpon"));
    let by_file = by(tarpon().env("TARPON_CONFIG", &file));
    assert_eq!(Said::of(&by_file).count("repositories"), 1);
    let by_variable = by(tarpon().env("TARPON_STORE", &url));
    assert_eq!(by_variable.stdout, by_file.stdout);
    let none = by(&mut tarpon());
    let why = String::from_utf8_lossy(&none.stderr);
    assert_eq!(none.status.code(), Some(1), "{why}");
    assert!(why.contains("--store is not given"), "{why}");
}

/// What a bucket keeps of what is removed an operator is told, as far as the bucket says so.
#[test]
fn check_warns_of_a_bucket_that_keeps_what_expires() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let check = |arguments: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_tarpon"))
            .args(["check", "--store", "s3://farm/tarpon", "--state"])
            .arg(lab.state())
            .args(arguments)
            .envs(bucket.environment())
            .output()
            .unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success(), "{said}");
        let kept = said.lines().filter(|line| line.contains("--store"));
        Vec::from_iter(kept.map(str::to_owned))
    };
    let readonly = ["--store-readonly"];
    assert_eq!(check(&[]), Vec::<String>::new());
    let status = |status: &str| format!("<X><Status>{status}</Status></X>");
    bucket.set_up("versioning", &status("Suspended"));
    for arguments in [&[][..], &readonly] {
        let said = check(arguments);
        assert!(
            said.len() == 1 && said[0].contains("of that time"),
            "{said:?}"
        );
    }
    bucket.set_up("versioning", &status("Enabled"));
    bucket.set_up("replication", &status("Enabled"));
    let lock = "<X><ObjectLockEnabled>Enabled</ObjectLockEnabled></X>";
    bucket.set_up("object-lock", lock);
    for arguments in [&[][..], &readonly] {
        let said = check(arguments);
        let whats = ["keeps versions", "object lock", "replicated"];
        assert_eq!(said.len(), whats.len(), "{said:?}");
        for (line, what) in said.iter().zip(whats) {
            assert!(line.contains(what), "{line}");
        }
    }
    // One that says nothing is known by what it gives a write.
    bucket.set_up("versioning", "Enabled");
    bucket.set_up("replication", "");
    bucket.set_up("object-lock", "");
    assert_eq!(check(&[]).len(), 1);
    assert_eq!(check(&readonly), Vec::<String>::new());
    // Nothing of the trial stays.
    let probes = lab.scratch("s3/farm/tarpon/v1/probe");
    let left = fs::read_dir(probes).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}
