//! What servers tell each other of what is asked for.

use std::fs;

use super::bucket_server::BucketServer;
use super::shared_store::wait_shared;
use super::support::lab::{self, Lab};
use super::support::repos::Shape;
use super::support::server::{Server, Settings};
use super::support::wait;
use super::{hit, small_lab};

/// Settings of a server over a bucket, which tells what is used all the time.
fn on_bucket(lab: &Lab, bucket: &BucketServer, name: &str) -> Settings {
    let settings = Settings {
        state: lab.scratch(name),
        environment: bucket.environment(),
        ..lab.settings()
    };
    let settings = settings.with(&["--store", "s3://farm"]);
    settings.with_fault("store-used-ms=100")
}

/// What the object says that is used.
fn used(lab: &Lab) -> Vec<String> {
    let Ok(text) = fs::read(lab.scratch("bucket/farm/v1/used.json")) else {
        return Vec::new();
    };
    // Whole, for it is renamed to its name.
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let names = json["used"].as_array().unwrap().iter();
    let names = names.map(|one| one["repository"].as_str().unwrap().to_owned());
    names.collect()
}

/// Nothing that is right rests on it: where it cannot be read what there is is shared all the same.
#[test]
fn what_cannot_be_read_keeps_nobody_from_sharing() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("bucket"));
    bucket.deny(Some("v1/used.json"));
    let first = on_bucket(&lab, &bucket, "first").start();
    hit(&first, "small");
    wait_shared(&first, 1);
}

/// Two servers, each of which is asked for something, say both together, and nothing of what there is not.
#[test]
fn what_is_used_is_told_by_each_server() {
    let lab = small_lab();
    lab.generate("other", Shape::ManySmall, 100_000);
    let bucket = BucketServer::start(&lab.scratch("bucket"));
    let first = on_bucket(&lab, &bucket, "first").start();
    hit(&first, "small");
    first.get(&lab::target("absent"));
    wait_shared(&first, 1);
    wait::until_true("it is told", || used(&lab) == ["test/small"]);
    // One that was asked for something else leaves it there.
    let second = on_bucket(&lab, &bucket, "second").start();
    hit(&second, "other");
    let mut both = Vec::new();
    wait::until_true("both are told", || {
        both = used(&lab);
        both.len() == 2
    });
    both.sort();
    assert_eq!(both, ["test/other", "test/small"]);
    // Nobody writes where nothing has changed.
    let writes = || bucket.asked(&["PUT", "v1/used.json"]);
    let reads = || bucket.asked(&["GET", "v1/used.json"]);
    let (before, then) = (writes(), reads());
    wait::until_true("it is looked at again", || reads() > then + 6);
    // At most another hour has begun.
    assert!(writes() <= before + 2, "{} writes", writes() - before);
}

/// Has two repositories shared and told of by a server that is gone then, and their upstreams, too.
fn two_shared(lab: &Lab, bucket: &BucketServer) {
    lab.generate("other", Shape::ManySmall, 100_000);
    let first = on_bucket(lab, bucket, "first").start();
    hit(&first, "small");
    hit(&first, "other");
    wait_shared(&first, 2);
    wait::until_true("both are told", || used(lab).len() == 2);
    first.stop();
    lab.hide("small");
    lab.hide("other");
}

fn is_ready(server: &Server) -> bool {
    server.get("/_readiness").head.status == 200
}

fn taken(server: &Server) -> u64 {
    let result = [("result", "done")];
    server.metrics().count("tarpon_imports_total", &result)
}

/// What was used lately is here before anybody is sent here, and nothing is asked for it then; whoever asks before is
/// answered all the same.
#[test]
fn a_server_with_an_empty_disk_is_ready_once_it_has_what_is_used() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("bucket"));
    two_shared(&lab, &bucket);
    bucket.hold(Some("v1/used.json"));
    let second = on_bucket(&lab, &bucket, "second").start();
    let waits = second.get("/_readiness");
    assert_eq!(waits.head.status, 503);
    second.get("/_liveness").expect(200);
    second.get(&lab::target("other")).expect(200);
    bucket.hold(None);
    wait::until_true("it is ready", || is_ready(&second));
    assert_eq!(taken(&second), 2);
    assert_eq!(second.metrics().count("tarpon_store_warming", &[]), 0);
    bucket.deny(Some("GET"));
    second.get(&lab::target("small")).expect(200);
    second.get(&lab::target("other")).expect(200);
    assert_eq!(second.builds("complete"), 0);
    // Who has something waits for nothing.
    second.stop();
    let again = on_bucket(&lab, &bucket, "second").start();
    assert!(is_ready(&again));
}

/// Neither a store that is not there, nor one that is slow, nor what somebody has written there keeps a server from being
/// ready; and no more is taken than may be.
#[test]
fn nothing_in_the_store_keeps_a_server_from_being_ready() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("bucket"));
    two_shared(&lab, &bucket);
    let start = |name: &str, more: &[&str]| on_bucket(&lab, &bucket, name).with(more).start();
    let none = start("none", &["--warm-limit", "1"]);
    wait::until_true("it is ready", || is_ready(&none));
    assert_eq!(taken(&none), 0);
    none.stop();
    let at_once = start("at_once", &["--warm-for", "0"]);
    assert!(is_ready(&at_once));
    at_once.stop();
    // Parts do not come.
    bucket.hold(Some("meta-"));
    let slow = start("slow", &["--warm-for", "1s"]);
    wait::until_true("it is ready", || is_ready(&slow));
    assert_eq!(taken(&slow), 0);
    bucket.hold(None);
    drop(slow);
    // Nobody is there at all.
    let mut dead = on_bucket(&lab, &bucket, "dead");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    dead.environment.push(("AWS_ENDPOINT".to_owned(), endpoint));
    let dead = dead.start();
    wait::until_true("it is ready", || is_ready(&dead));
    let said = "does not say what was used lately";
    assert_eq!(dead.log().matches(said).count(), 1, "{}", dead.log());
    drop(dead);
    // Names that somebody has made up, and one that is right.
    let object = lab.scratch("bucket/farm/v1/used.json");
    let names = [
        "test/../small",
        "elsewhere/small",
        "small",
        "test//small",
        "test/-small",
        "",
        "test/small.git/x",
        "test/small",
    ];
    let names = names.map(|name| serde_json::json!({"repository": name, "hour": u64::MAX}));
    let text = serde_json::json!({"used": names}).to_string();
    fs::write(&object, text).unwrap();
    let server = start("names", &[]);
    wait::until_true("it is ready", || is_ready(&server));
    assert_eq!(taken(&server), 1);
    server.get(&lab::target("small")).expect(200);
    drop(server);
    // No list at all.
    fs::write(&object, "{\"used\": 7}").unwrap();
    let server = start("no_list", &[]);
    wait::until_true("it is ready", || is_ready(&server));
}
