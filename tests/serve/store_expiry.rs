//! Repositories that leave a store.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

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

/// Has the head say that it was used so many days ago; no server runs.
fn age(lab: &Lab, path: &str, days: u64) {
    let (file, mut json) = head(lab, path).expect("a head");
    json["used_day"] = (today() - days).into();
    let next = file.with_extension("next");
    fs::write(&next, json.to_string()).unwrap();
    fs::rename(&next, &file).unwrap();
    free_lease(lab);
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
    // Not if nobody has said so.
    let second = often(&lab, "second", &idle).start();
    second.wait_logged("looked at all of the store");
    assert!(named(&lab, "other") > 0);
    second.stop();
    free_lease(&lab);
    let second = often(&lab, "second", &idle).with(&EXPIRES).start();
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
