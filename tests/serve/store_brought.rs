//! What one server has fetched the others take from the store.

use super::bucket_server::BucketServer;
use super::shared_store::wait_shared;
use super::support::lab::{self, Lab};
use super::support::repos;
use super::support::server::{Server, Settings};
use super::support::upstream::{Answers, Upstream};
use super::{at_once, git, hit, small_lab};

/// A server whose timers are far off.
fn start(lab: &Lab, bucket: &BucketServer, upstream: &Upstream, name: &str) -> Server {
    let settings = Settings {
        state: lab.scratch(name),
        upstreams: vec![upstream.named("test")],
        environment: bucket.environment(),
        ..lab.settings()
    };
    let far = ["--fetch-interval", "720h", "--ref-check-interval", "1h"];
    let settings = settings.with(&["--store", "s3://farm"]).with(&far);
    settings.with_fault("store-look-ms=300").start()
}

/// How often an upstream was asked for objects.
fn fetches(upstream: &Upstream) -> usize {
    let asked = upstream.asked();
    let is_fetch = |body: &[u8]| String::from_utf8_lossy(body).contains("command=fetch");
    asked.iter().filter(|asked| is_fetch(&asked.body)).count()
}

/// Three servers are asked for a commit that was pushed, by many clients each: the first fetches it, once, and the others, which
/// are asked when it is shared, fetch nothing, though each asks the upstream what there is.
#[test]
fn a_push_is_fetched_once_for_all() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let upstream = Upstream::new(lab.upstreams());
    let servers = ["first", "second", "third"].map(|name| {
        let server = start(&lab, &bucket, &upstream, name);
        hit(&server, "small");
        match name {
            "first" => wait_shared(&server, 1),
            _ => server.wait_logged("\"shared\":true"),
        }
        server
    });
    let [first, second, third] = &servers;
    let push =
        |name: &str| repos::add_commit(&lab.upstream("small"), "main", name, name.as_bytes());
    let id = push("one.txt");
    let before = fetches(&upstream);
    let by_id = format!("{}?commit={id}", lab::target("small"));
    at_once(8, |_| first.get(&by_id).expect(200));
    wait_shared(first, 2);
    let once = fetches(&upstream);
    // By its id and by its ref at once, as with one server; the one that is later finds it there.
    assert!(
        (1..=2).contains(&(once - before)),
        "{} fetches",
        once - before
    );
    // Nobody gives out an object from here on.
    upstream.answer(Answers::NoObjects);
    let answers = at_once(8, |_| second.get(&by_id).expect(200).body);
    assert!(answers.iter().all(|body| *body == answers[0]));
    let fresh = ["Cache-Control: max-age=0"];
    // It is complete, with no ref but those that the upstream has listed.
    let newest = third
        .fetch("GET", &lab::target("small"), &fresh)
        .expect(200);
    let commit = newest.head.get("x-cachew-snapshot-commit");
    assert_eq!(commit, Some(&*id));
    let unpacked = lab.unpack(&newest.body, "unpacked");
    assert_eq!(git::text(&unpacked, &["rev-parse", "HEAD"]), id);
    git::run(&unpacked, &["fsck", "--full", "--strict"]);
    assert_eq!(fetches(&upstream), once);

    // Where the store does not answer it is fetched by each.
    upstream.answer(Answers::Well);
    let id = push("two.txt");
    bucket.deny(Some("/head.json"));
    for server in &servers {
        let newest = server
            .fetch("GET", &lab::target("small"), &fresh)
            .expect(200);
        let commit = newest.head.get("x-cachew-snapshot-commit");
        assert_eq!(commit, Some(&*id));
    }
}
