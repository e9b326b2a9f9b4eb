//! Repositories that leave a store.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::bucket_server::BucketServer;
use super::shared_store::{store_of, wait_shared};
use super::support::lab::{self, Lab};
use super::support::repos::Shape;
use super::support::server::Settings;
use super::support::wait;
use super::{hit, small_lab};

/// Settings of a server over the store, which looks all the time.
fn often(lab: &Lab, name: &str, arguments: &[&str]) -> Settings {
    let settings = Settings {
        state: lab.scratch(name),
        ..lab.settings()
    };
    let store = store_of(lab);
    let settings = settings.with(&["--store", &store]).with(arguments);
    settings.with_fault("store-look-ms=100,store-kept-ms=1000,store-expiry-ms=100")
}

const EXPIRES: [&str; 2] = ["--store-expiry", "30d"];

fn today() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs() / (24 * 60 * 60)
}

/// The head of a repository, and where it is.
fn head(lab: &Lab, path: &str) -> Option<(PathBuf, Value)> {
    let dirs = fs::read_dir(lab.scratch("store/v1/repos")).unwrap();
    let mut heads = dirs.filter_map(|dir| {
        let file = dir.unwrap().path().join("head.json");
        let json: Value = serde_json::from_slice(&fs::read(&file).ok()?).unwrap();
        Some((file, json))
    });
    heads.find(|(_, json)| json["repository"]["path"] == path)
}

/// How many parts of it there are.
fn parts(lab: &Lab, path: &str) -> usize {
    let (file, _) = head(lab, path).expect("a head");
    let parts = file.with_file_name("parts");
    fs::read_dir(parts).map_or(0, Iterator::count)
}

fn named(lab: &Lab, path: &str) -> usize {
    let (_, json) = head(lab, path).expect("a head");
    json["parts"].as_array().unwrap().len()
}

fn used_day(lab: &Lab, path: &str) -> u64 {
    head(lab, path).expect("a head").1["used_day"]
        .as_u64()
        .unwrap()
}

/// One that was stopped in the middle of a look has the lease for a minute more.
fn free_lease(lab: &Lab) {
    // There may be none.
    let _ = fs::remove_file(lab.scratch("store/v1/lease.json"));
}

/// Changes an object of the store, which may not be there yet; no server runs.
fn change(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut json =
        fs::read(file).map_or(json!({}), |bytes| serde_json::from_slice(&bytes).unwrap());
    change(&mut json);
    let next = file.with_extension("next");
    fs::write(&next, json.to_string()).unwrap();
    fs::rename(&next, file).unwrap();
}

/// Has the head say that it was used so many days ago, on so many of which somebody has looked.
fn age_looked(lab: &Lab, path: &str, (days, looks): (u64, u64)) {
    change(&lab.scratch("store/v1/used.json"), |used| {
        (used["looks"], used["look_day"]) = (1000.into(), today().into());
    });
    change(&head(lab, path).expect("a head").0, |head| {
        head["used_day"] = (today() - days).into();
        head["used_looks"] = (1000 - looks).into();
    });
    free_lease(lab);
}

fn age(lab: &Lab, path: &str, days: u64) {
    age_looked(lab, path, (days, days));
}

/// Has servers that start look at these.
fn tell_raised(lab: &Lab, paths: &[&str]) {
    let raises = paths.iter().enumerate().map(|(number, path)| {
        let (file, _) = head(lab, path).expect("a head");
        let dir = file.parent().unwrap().file_name().unwrap();
        let repository = format!("v1/repos/{}", dir.to_str().unwrap());
        json!({"repository": repository, "raise": format!("{:032x}", number + 7)})
    });
    let raises: Vec<Value> = raises.collect();
    change(&lab.scratch("store/v1/raised.json"), |raised| {
        raised["raises"] = raises.into()
    });
}

/// A server has what has left go.
fn empty(lab: &Lab, path: &str) {
    age(lab, path, 31);
    let sweeper = often(lab, "sweeper", &EXPIRES).start();
    wait::until_true("it is gone", || parts(lab, path) == 0);
    sweeper.stop();
    free_lease(lab);
}

/// A day on which nobody has looked is none on which nobody has used anything.
#[test]
fn a_pause_of_all_servers_has_nothing_leave() {
    let lab = two_shared();
    age_looked(&lab, "other", (400, 30));
    let second = often(&lab, "second", &EXPIRES).start();
    second.wait_logged("looked at all of the store");
    second.stop();
    assert!(named(&lab, "other") > 0);
}

/// Who has it shares it once more when somebody asks for it, and not since it is looked at.
#[test]
fn what_has_left_comes_back_by_a_use_alone() {
    let lab = two_shared();
    empty(&lab, "other");
    tell_raised(&lab, &["small", "other"]);
    // What is lost comes back.
    let (small, _) = head(&lab, "small").unwrap();
    fs::remove_dir_all(small.parent().unwrap()).unwrap();
    let first = often(&lab, "first", &[]).start();
    wait_shared(&first, 1);
    // All that is to be uploaded is, before it ends.
    first.stop();
    assert!(named(&lab, "small") > 0);
    assert_eq!(named(&lab, "other"), 0);
    let first = often(&lab, "first", &[]).start();
    hit(&first, "other");
    wait::until_true("it is there", || named(&lab, "other") > 0);
    // By the write that shares it.
    assert!(used_day(&lab, "other") + 1 >= today());
}

/// It does so also on a day on which the head says already that somebody used it, as one of another clock may have it say.
#[test]
fn what_has_left_comes_back_on_the_same_day() {
    let lab = two_shared();
    empty(&lab, "other");
    change(&head(&lab, "other").unwrap().0, |head| {
        (head["used_day"], head["used_looks"]) = (today().into(), 1000.into());
    });
    assert_eq!(named(&lab, "other"), 0);
    let first = often(&lab, "first", &[]).start();
    wait::until_true("it is there", || {
        hit(&first, "other");
        named(&lab, "other") > 0
    });
}

/// Nothing has expired where nobody has used something: a reader without an upstream keeps what it serves.
#[test]
fn who_only_reads_keeps_what_has_left() {
    let lab = two_shared();
    // Something has expired once.
    change(&head(&lab, "other").unwrap().0, |head| {
        (head["generation"], head["raise"]) = (1.into(), format!("{:032x}", 5).into());
        for snapshot in head["snapshots"].as_array_mut().unwrap() {
            snapshot["generation"] = 1.into();
        }
    });
    lab.hide("other");
    let reader = || often(&lab, "reader", &["--store-readonly"]).start();
    let remembers = |what: &str| {
        let files = fs::read_dir(lab.scratch("reader/shared"))
            .into_iter()
            .flatten();
        let mut texts = files.filter_map(|file| fs::read_to_string(file.ok()?.path()).ok());
        texts.any(|text| text.contains("other") && text.contains(what))
    };
    let first = reader();
    first.get(&lab::target("other")).expect(200);
    wait::until_true("it is known in which generation", || {
        hit(&first, "other");
        remembers("\"held\":{")
    });
    first.stop();
    // It may have been planted.
    let _ = fs::remove_dir_all(lab.scratch("reader/mirrors"));
    empty(&lab, "other");
    let sequence = head(&lab, "other").unwrap().1["sequence"].as_u64().unwrap();
    let second = reader();
    wait::until_true("the head is read", || {
        second.get(&lab::target("other")).expect(200);
        remembers(&format!("\"sequence\":{sequence},"))
    });
    second.get(&lab::target("other")).expect(200);
    let log = second.log();
    second.stop();
    assert!(!log.contains("dropped what was shared"), "{log}");
}

/// A lab with two repositories that a server has shared, which is gone.
fn two_shared() -> Lab {
    let lab = small_lab();
    lab.generate("other", Shape::ManySmall, 100_000);
    let first = often(&lab, "first", &[]).start();
    hit(&first, "small");
    hit(&first, "other");
    wait_shared(&first, 2);
    wait::until_true("it is noted who is used", || {
        let day = today();
        ["small", "other"]
            .iter()
            .all(|path| used_day(&lab, path) + 1 >= day)
    });
    first.stop();
    lab
}

/// Step by step, but for the head; what is used stays, and what is used again comes back.
#[test]
fn what_nobody_uses_leaves_the_store() {
    let lab = two_shared();
    age(&lab, "other", 31);
    age(&lab, "small", 29);
    let sound = parts(&lab, "small");
    let idle = ["--fetch-interval", "720h"];
    // Not where somebody has said so.
    let never = often(&lab, "second", &idle).with(&["--store-expiry", "never"]);
    let second = never.start();
    second.wait_logged("looked at all of the store");
    assert!(named(&lab, "other") > 0);
    second.stop();
    free_lease(&lab);
    // After 30 days, where nobody says anything.
    let second = often(&lab, "second", &idle).start();
    wait::until_true("it is gone", || parts(&lab, "other") == 0);
    assert_eq!(named(&lab, "other"), 0);
    assert_eq!(parts(&lab, "small"), sound);
    second.get("/_readiness").expect(200);
    second.stop();
    // Somebody asks for it once more.
    let first = often(&lab, "first", &[]).start();
    hit(&first, "other");
    wait::until_true("it is there", || {
        named(&lab, "other") > 0 && used_day(&lab, "other") + 1 >= today()
    });
    first.stop();
    // Whoever uses what is due takes it off.
    age(&lab, "other", 31);
    let first = often(&lab, "first", &EXPIRES).start();
    hit(&first, "other");
    wait::until_true("it is used", || {
        hit(&first, "other");
        named(&lab, "other") > 0 && used_day(&lab, "other") + 1 >= today()
    });
    first.stop();
    lab.hide("other");
    let empty = often(&lab, "empty", &[]).start();
    empty.get(&lab::target("other")).expect(200);
    empty.stop();
    // Its head stays, whatever comes.
    age(&lab, "other", 100);
    let last = often(&lab, "last", &idle).with(&EXPIRES).start();
    wait::until_true("it is gone again", || parts(&lab, "other") == 0);
    last.wait_logged("looked at all of the store");
    assert!(head(&lab, "other").is_some());
    assert_eq!(parts(&lab, "small"), sound);
    last.stop();
}

/// What was used least lately, and nothing that is in use; one that only reads removes nothing.
#[test]
fn where_there_is_too_much_what_is_used_least_leaves() {
    let lab = two_shared();
    age(&lab, "small", 5);
    age(&lab, "other", 4);
    let bytes = |path: &str| {
        let (_, json) = head(&lab, path).expect("a head");
        let parts = json["parts"].as_array().unwrap().iter();
        parts
            .map(|part| part["bytes"].as_u64().unwrap())
            .sum::<u64>()
    };
    let limit = bytes("other").to_string();
    let limited = ["--store-limit", &*limit, "--store-expiry", "never"];
    let reader = often(&lab, "reader", &limited)
        .with(&["--store-readonly"])
        .start();
    let both = often(&lab, "second", &["--store-expiry", "never"]).start();
    both.wait_logged("looked at all of the store");
    assert!(named(&lab, "small") > 0);
    both.stop();
    reader.stop();
    free_lease(&lab);
    let third = often(&lab, "third", &limited).start();
    wait::until_true("it is gone", || parts(&lab, "small") == 0);
    assert!(named(&lab, "other") > 0);
    third.stop();
    age(&lab, "other", 1);
    let fourth = often(&lab, "fourth", &["--store-limit", "1"]).start();
    fourth.wait_logged("more is used in the store than --store-limit");
    assert!(named(&lab, "other") > 0);
    fourth.stop();
}

/// One that cannot be had leave keeps no other.
#[test]
fn one_that_cannot_leave_keeps_no_other() {
    let lab = two_shared();
    age(&lab, "small", 5);
    age(&lab, "other", 4);
    // The same as a bucket, in which a head can be read and not written.
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let (store, farm) = (lab.scratch("store"), lab.scratch("s3/farm"));
    fs::rename(&store, &farm).unwrap();
    std::os::unix::fs::symlink(&farm, &store).unwrap();
    let (small, _) = head(&lab, "small").unwrap();
    let dir = small.parent().unwrap().file_name().unwrap();
    bucket.deny(Some(&format!("{}/head.json? if-", dir.to_str().unwrap())));
    let settings = Settings {
        state: lab.scratch("second"),
        environment: bucket.environment(),
        ..lab.settings()
    };
    let limited = ["--store", "s3://farm", "--store-limit", "1"];
    let settings = settings.with(&limited);
    let second = settings.with_fault("store-kept-ms=1000,store-expiry-ms=100");
    let second = second.start();
    wait::until_true("it is gone", || parts(&lab, "other") == 0);
    second.wait_logged("stays in the store");
    assert!(named(&lab, "small") > 0);
}
