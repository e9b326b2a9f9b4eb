//! What docs/store.md says of permissions and of what a store costs is what servers do.

use std::process::{Command, Output};

use serde_json::Value;
use tarpon::limits::{
    DOWNLOAD_PIECE_BYTES, REMOTE_PIECE_BYTES, STORE_LIST_MS, STORE_LOOK_IN_USE_MS,
    STORE_RAISED_LOOK_MS, STORE_SWEEP_MS,
};

use super::bucket_server::BucketServer;
use super::shared_store::{on_bucket, push_and_share, wait_shared};
use super::support::lab::{self, Lab};
use super::support::wait;
use super::{hit, small_lab};

const DOCUMENT: &str = include_str!("../../docs/store.md");

/// The actions that a documented policy allows: of who reads, who writes, and who collects.
fn policies() -> [Vec<String>; 3] {
    let blocks = DOCUMENT.split("```json\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    let actions = blocks.map(|block| {
        let policy: Value = serde_json::from_str(block).unwrap_or_else(|e| panic!("{e}: {block}"));
        let mut actions = Vec::new();
        for statement in policy["Statement"].as_array().unwrap() {
            assert_eq!(statement["Effect"], "Allow");
            let is_listing = statement["Action"] == serde_json::json!(["s3:ListBucket"]);
            let resource = match is_listing {
                true => "arn:aws:s3:::farm",
                false => "arn:aws:s3:::farm/tarpon/*",
            };
            assert_eq!(statement["Resource"], resource);
            let some = statement["Action"].as_array().unwrap().iter();
            actions.extend(some.map(|action| action.as_str().unwrap().to_owned()));
        }
        actions
    });
    let actions: Vec<Vec<String>> = actions.collect();
    actions.try_into().expect("three policies")
}

fn check(lab: &Lab, bucket: &BucketServer, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tarpon"))
        .args(["check", "--store", "s3://farm/tarpon", "--state"])
        .arg(lab.state())
        .args(arguments)
        .envs(bucket.environment())
        .output()
        .unwrap()
}

/// Each is enough, and nothing of it is too much; `check` says what is missing by its name.
#[test]
fn a_policy_is_what_is_needed_and_no_more() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let [reads, writes, collects] = policies();
    let readonly = ["--store-readonly"];
    for (policy, arguments) in [(&reads, &readonly[..]), (&collects, &[])] {
        bucket.allow(policy);
        let whole = check(&lab, &bucket, arguments);
        assert!(whole.status.success(), "{policy:?}: {whole:?}");
        assert_eq!(whole.stderr.len(), 0, "{whole:?}");
        for missing in policy {
            let mut rest = policy.clone();
            rest.retain(|action| action != missing);
            bucket.allow(&rest);
            let refused = check(&lab, &bucket, arguments);
            let said = String::from_utf8_lossy(&refused.stderr);
            assert_eq!(refused.status.code(), Some(3), "{missing}: {said}");
            assert!(said.contains(&**missing), "{missing}: {said}");
        }
    }
    let mut all = writes.clone();
    all.push("s3:DeleteObject".to_owned());
    assert_eq!(all, collects);
}

/// Who may remove nothing shares all the same, and who may only read takes it.
#[test]
fn servers_do_with_what_their_policies_allow() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let [reads, writes, _] = policies();
    bucket.allow(&writes);
    let first = on_bucket(&lab, &bucket, "first");
    hit(&first, "small");
    wait_shared(&first, 1);
    let newest = push_and_share(&lab, &first);
    first.stop();
    lab.hide("small");
    bucket.allow(&reads);
    let second = on_bucket(&lab, &bucket, "second");
    let taken = second.get(&lab::target("small")).expect(200);
    assert!(taken.body == newest.body, "other bytes");
    let imports = || {
        let result = [("result", "done")];
        second.metrics().count("tarpon_imports_total", &result)
    };
    wait::until_true("it is kept", || imports() == 1);
}

/// The formulas have the numbers of the program.
#[test]
fn requests_a_day_are_those_of_the_limits() {
    const DAY_MS: u64 = 24 * 3_600_000;
    let thousands = |count: u64| match count {
        0..1000 => count.to_string(),
        _ => format!("{},{:03}", count / 1000, count % 1000),
    };
    let in_use = thousands(DAY_MS / STORE_LOOK_IN_USE_MS);
    let raised = DAY_MS / STORE_RAISED_LOOK_MS;
    let lists = DAY_MS / STORE_LIST_MS;
    assert_eq!(STORE_SWEEP_MS, DAY_MS);
    for said in [
        format!("| reads of a head | N × {in_use} × U |"),
        format!("| reads of `raised.json` | N × {raised} |"),
        format!("| lists of a repository | N × {lists} × U |"),
        "| sweeps | N × U |".to_owned(),
        format!("for each {} MiB of it", REMOTE_PIECE_BYTES >> 20),
        format!("one for each {} MiB at most", DOWNLOAD_PIECE_BYTES >> 20),
    ] {
        assert!(DOCUMENT.contains(&said), "{said}");
    }
}
