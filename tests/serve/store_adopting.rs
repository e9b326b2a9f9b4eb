//! What servers that share a store make of their packs, each for itself or for all.

use super::shared_store::{in_state, store_of, wait_shared};
use super::store_adoption::{has_bitmap, mirror};
use super::support::lab;
use super::support::wait;
use super::{hit, small_lab};

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
