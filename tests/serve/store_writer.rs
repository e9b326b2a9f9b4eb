//! Stores that refuse no write, and such as want a header of their own.

use std::process::{Command, Output};

use super::bucket_server::BucketServer;
use super::shared_store::{push_and_share, wait_shared};
use super::support::lab::{self, Lab};
use super::support::server::Settings;
use super::{git, hit, small_lab};

fn on_bucket(lab: &Lab, bucket: &BucketServer, name: &str, arguments: &[&str]) -> Settings {
    let settings = Settings {
        state: lab.scratch(name),
        environment: bucket.environment(),
        ..lab.settings()
    };
    settings.with(&["--store", "s3://farm"]).with(arguments)
}

/// What `tarpon check` says of a bucket.
fn checked(lab: &Lab, bucket: &BucketServer, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tarpon"));
    git::isolate(&mut command);
    command.args(["check", "--listen", "127.0.0.1:0", "--state"]);
    command.arg(lab.state());
    command.args(["--cache-free-floor", "0", "--store", "s3://farm"]);
    command.args(arguments);
    command.envs(bucket.environment());
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// A store without conditions is refused, and taken from one server that alone writes there, and from others that read.
#[test]
fn one_server_writes_to_a_store_that_refuses_nothing() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("bucket"));
    bucket.ignore_conditions();
    let refused = checked(&lab, &bucket, &[]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(
        text(&refused).contains("--store-writer"),
        "{}",
        text(&refused)
    );
    let alone = checked(&lab, &bucket, &["--store-writer"]);
    assert_eq!(alone.status.code(), Some(0), "{}", text(&alone));
    assert!(
        text(&alone).contains("writes there alone"),
        "{}",
        text(&alone)
    );

    // A server that was not told so shares nothing.
    let other = on_bucket(&lab, &bucket, "other", &[]).start();
    hit(&other, "small");
    other.wait_logged("it takes writes that it should refuse");
    assert_eq!(bucket.asked(&["PUT", "head.json"]), 0);
    assert_eq!(bucket.asked(&["PUT", "/parts/"]), 0);
    other.stop();

    let writer = on_bucket(&lab, &bucket, "writer", &["--store-writer"]).start();
    hit(&writer, "small");
    wait_shared(&writer, 1);
    let newest = push_and_share(&lab, &writer);
    // One that looks at conditions would refuse what another writer overwrites.
    let (heads, conditions) = (["PUT", "head.json"], ["PUT", "head.json", "if-"]);
    assert!(bucket.asked(&heads) >= 2);
    assert_eq!(bucket.asked(&heads), bucket.asked(&conditions));
    lab.hide("small");
    let reader = on_bucket(&lab, &bucket, "reader", &["--store-readonly"]).start();
    let taken = reader.get(&lab::target("small")).expect(200);
    assert_eq!(taken.head.etag(), newest.head.etag());
    assert!(taken.body == newest.body, "other bytes");
}

/// Each request has the headers that are given, and what is signed counts all the same.
#[test]
fn headers_that_a_store_wants_are_sent() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("bucket"));
    bucket.need("x-tenant", "farm-1");
    let refused = checked(&lab, &bucket, &[]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    let sends = ["--store-header", "X-Tenant=farm-1"];
    let taken = checked(&lab, &bucket, &sends);
    assert_eq!(taken.status.code(), Some(0), "{}", text(&taken));
    let server = on_bucket(&lab, &bucket, "server", &sends).start();
    hit(&server, "small");
    wait_shared(&server, 1);
    assert!(!server.log().contains("farm-1"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_tarpon"));
    git::isolate(&mut command);
    command.args(["admin", "store", "verify", "--store", "s3://farm"]);
    command.envs(bucket.environment());
    command.env("TARPON_STORE_HEADER", "X-Tenant=farm-1");
    let verified = command.output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified));
}
