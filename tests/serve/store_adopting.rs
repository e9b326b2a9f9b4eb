//! Packs that are taken over from a store piece by piece, and clones that a store is faster than: nothing is fetched twice,
//! and nobody waits for what nobody asks for.

use std::fs;
use std::path::PathBuf;

use super::bucket_server::BucketServer;
use super::chaos::ways::{Link, UpstreamWay};
use super::shared_store::{count, in_state, on_bucket, other, store_of, wait_shared};
use super::store_adoption::{has_bitmap, mirror, packs, push_and_build, wait_one_tag};
use super::support::client::End;
use super::support::lab::{self, Lab};
use super::support::repos::{self, Shape};
use super::support::rng::Rng;
use super::support::server::{Server, Settings};
use super::support::upstream::Upstream;
use super::support::wait;
use super::{hit, small_lab};

/// A server that has shared packs that another one is to take over.
struct Shared {
    lab: Lab,
    bucket: BucketServer,
    first: Server,
    /// What is to be served in the end.
    tag: String,
}

impl Shared {
    /// Of so many packs.
    fn new(count: usize) -> Shared {
        let lab = small_lab();
        let bucket = BucketServer::start(&lab.scratch("s3"));
        let first = other(&lab, "first", &[]);
        hit(&first, "small");
        for number in 1..count {
            repos::add_commit(
                &lab.upstream("small"),
                "main",
                &format!("{number}.txt"),
                b"one more\n",
            );
            push_and_build(&lab, &first);
        }
        first.stop();
        assert_eq!(packs(&mirror(&lab, "first")).len(), count);
        let second = other(&lab, "second", &[]);
        hit(&second, "small");
        second.stop();
        let first = on_bucket(&lab, &bucket, "first");
        let tag = hit(&first, "small").head.etag().to_owned();
        wait_shared(&first, 1);
        Shared {
            lab,
            bucket,
            first,
            tag,
        }
    }

    /// The other one, which looks all the time.
    fn second(&self, faults: &str) -> Server {
        let settings = Settings {
            environment: self.bucket.environment(),
            ..in_state(&self.lab, "second")
        };
        let settings = settings.with(&["--store", "s3://farm"]);
        let second = settings.with_fault(&format!("store-look-ms=100{faults}"));
        let second = second.start();
        assert_ne!(hit(&second, "small").head.etag(), self.tag);
        second
    }

    /// Where `small` is in the bucket.
    fn dir(&self) -> String {
        let dirs = fs::read_dir(self.lab.scratch("s3/farm/v1/repos")).unwrap();
        let mut dirs = dirs.map(|dir| dir.unwrap().path());
        let is_it = |dir: &PathBuf| {
            let head = fs::read_to_string(dir.join("head.json"));
            head.is_ok_and(|head| head.contains("\"path\":\"small\""))
        };
        let dir = dirs.find(is_it).expect("a head");
        dir.file_name().unwrap().to_str().unwrap().to_owned()
    }

    fn wait_taken_over(&self, second: &Server) {
        wait_one_tag(&[&self.first, second], Some(&self.tag));
        assert_eq!(
            packs(&mirror(&self.lab, "second")),
            packs(&mirror(&self.lab, "first"))
        );
    }
}

/// What fails is tried again with what has come: each byte is read once, however often that is.
#[test]
fn what_has_come_is_not_downloaded_again() {
    let shared = Shared::new(3);
    let of_first = mirror(&shared.lab, "first");
    let refused = packs(&of_first).pop_first().unwrap();
    shared.bucket.deny(Some(&format!("parts/{refused}.")));
    let second = shared.second("");
    wait::until_true("it fails again and again", || {
        count(&second, "adoptions", "failed") >= 3
    });
    shared.bucket.deny(None);
    shared.wait_taken_over(&second);
    let read = shared.bucket.read_bytes();
    for pack in packs(&of_first) {
        for end in ["pack", "idx", "rev"] {
            let name = pack.replace("pack-", "").replace(".pack", "");
            let name = format!("pack-{name}.{end}");
            let bytes = fs::metadata(of_first.join("objects/pack").join(&name));
            let is_it = |(part, _): &(&String, &u64)| part.starts_with(&format!("{name}."));
            let all = read.iter().filter(is_it).map(|(_, bytes)| bytes);
            assert_eq!(all.sum::<u64>(), bytes.unwrap().len(), "{name}");
        }
    }
}

/// What indices say already needs no pack.
#[test]
fn packs_come_after_what_their_indices_say() {
    let shared = Shared::new(2);
    shared.bucket.hold(Some(".idx."));
    let second = shared.second("");
    wait::until_true("indices are asked for", || shared.bucket.holds() > 0);
    // Somebody keeps an own pack.
    let of_second = mirror(&shared.lab, "second");
    let packs = packs(&of_second).into_iter();
    let keeps = packs.map(|pack| of_second.join("objects/pack").join(pack));
    let keeps = Vec::from_iter(keeps.map(|pack| pack.with_extension("keep")));
    keeps.iter().for_each(|keep| fs::write(keep, "").unwrap());
    shared.bucket.hold(None);
    wait::until_true("it is put off", || {
        count(&second, "adoptions", "put_off") > 0
    });
    assert_eq!(shared.bucket.asked(&["GET ", "/pack-", ".pack."]), 0);
    keeps.iter().for_each(|keep| fs::remove_file(keep).unwrap());
    shared.wait_taken_over(&second);
}

/// A store that sends nothing of one repository's packs for long does not keep those of another one from coming.
#[test]
fn each_has_a_turn_for_a_bounded_time() {
    let shared = Shared::new(2);
    let lab = &shared.lab;
    lab.generate("other", Shape::ManySmall, 100_000);
    let alone = other(lab, "second", &[]);
    hit(&alone, "other");
    alone.stop();
    repos::add_commit(&lab.upstream("other"), "main", "new.txt", b"new\n");
    let tag = hit(&shared.first, "other").head.etag().to_owned();
    wait_shared(&shared.first, 2);
    let held = format!("{}/parts/pack-", shared.dir());
    shared.bucket.hold(Some(&held));
    let second = shared.second(",store-turn-ms=1000,store-stall-ms=600000");
    wait::until_true("packs are asked for", || shared.bucket.holds() > 0);
    wait::until_true("those of the other one have come", || {
        hit(&second, "other").head.etag() == tag
    });
    assert_eq!(count(&second, "adoptions", "done"), 1);
    shared.bucket.hold(None);
    shared.wait_taken_over(&second);
}

/// However slow packs come for which nobody waits, there is room for what somebody waits for.
#[test]
fn who_waits_does_not_wait_behind_what_nobody_asks_for() {
    let shared = Shared::new(7);
    shared.lab.generate("other", Shape::ManySmall, 100_000);
    let built = hit(&shared.first, "other");
    wait_shared(&shared.first, 2);
    shared.lab.hide("other");
    let held = format!("{}/parts/pack-", shared.dir());
    shared.bucket.hold(Some(&held));
    let second = shared.second("");
    wait::until_true("packs are asked for", || shared.bucket.holds() >= 4);
    let taken = second.get(&lab::target("other")).expect(200);
    assert!(taken.body == built.body, "other bytes");
    wait::until_true("it is kept", || count(&second, "imports", "done") == 1);
    assert_eq!(shared.bucket.holds(), 4);
    shared.bucket.hold(None);
    shared.wait_taken_over(&second);
}

/// Who has the lease joins packs for the others; what changes no pack each makes for itself, and does not wait for a quiet
/// time that does not come.
#[test]
fn a_lease_puts_off_joins_alone() {
    let lab = small_lab();
    let url = store_of(&lab);
    let often = ["--store", &*url, "--ref-check-interval", "200ms"];
    let start = |name: &str| {
        let settings = in_state(&lab, name).with(&often);
        let settings = settings.with(&["--maintenance-idle", "2s"]);
        let settings = settings.with_fault("store-look-ms=100,store-lease-ms=3000");
        let server = settings.start();
        hit(&server, "small");
        server
    };
    let first = start("first");
    wait_shared(&first, 1);
    let second = start("second");
    let all = [(&first, "first"), (&second, "second")];
    let (late, name) = wait::until("one leaves it to the other", || {
        let mut all = all.into_iter();
        all.find(|(server, _)| server.log().contains("joined by the server that has"))
    });
    wait::until_true("it has a bitmap", || {
        late.get(&lab::target("small")).expect(200);
        has_bitmap(&mirror(&lab, name).join("objects/pack"))
    });
}

/// A clone that goes on is not given up for a store that does not: the faster one is served.
#[test]
fn who_clones_goes_on_while_the_store_sends_nothing() {
    let lab = small_lab();
    for number in 0..4 {
        // Most of it is in packs, and no more in the worktree.
        let large = Rng::new(number).bytes(300_000);
        repos::add_commit(&lab.upstream("small"), "main", "large.bin", &large);
    }
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let upstream = Upstream::new(lab.upstreams());
    let start = |name: &str| {
        let way = UpstreamWay::new(upstream.address());
        let mut environment = bucket.environment();
        let proxy = format!("http://{}", way.address());
        for (name, value) in [("http_proxy", &*proxy), ("no_proxy", "127.0.0.1")] {
            environment.push((name.to_owned(), value.to_owned()));
        }
        let settings = Settings {
            // Both must call it by one name.
            upstreams: vec!["test=http://upstream.test/".to_owned()],
            environment,
            ..in_state(&lab, name)
        };
        let settings = settings.with(&["--store", "s3://farm"]);
        (settings.with_fault("store-look-ms=100").start(), way)
    };
    let ((first, _way), (second, way)) = (start("first"), start("second"));
    way.set(Link::Paused);
    let cloned = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| second.get(&lab::target("small")).expect(200));
        second.wait_logged("cloning from");
        bucket.hold(Some(".pack."));
        hit(&first, "small");
        wait::until_true("it is begun to be taken", || bucket.holds() > 0);
        way.set(Link::Open);
        waiting.join().unwrap()
    });
    assert_eq!(cloned.end, End::Complete);
    assert_eq!(count(&second, "imports", "done"), 0);
    assert!(!second.log().contains("the clone is given up"));
    bucket.hold(None);
}
