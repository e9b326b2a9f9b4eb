//! What a repository serves and builds, and when.

use super::*;
use crate::archive::growth::Status;
use crate::archive::handle::ReaderHandle;
use crate::archive::place::Archive;
use crate::limits::{BUILD_RETRY_MAX_MS, BUILD_RETRY_MS, WANTS_BUILDING_MAX};
use crate::manifest::want::{Named, Revision, Shape, Want};
use crate::repos::builds::NotBuilt;
use crate::repos::testing::{archive, archive_of};

fn repo() -> Arc<Repo> {
    Arc::new(Repo::new(Arc::from("host/path"), First::default()))
}

#[test]
fn what_was_begun_before_a_drop_is_followed_by_nobody_else() {
    let repo = repo();
    let vacant = || match repo.find(None) {
        Found::Vacant(permit) => permit,
        found => panic!("{found:?}"),
    };
    let is_followed = || matches!(repo.find(None), Found::Following(_));
    let (before, shown) = (vacant(), repo.epoch());
    assert!(is_followed() && !repo.is_dropped(shown));
    repo.drop_all();
    assert!(repo.is_dropped(shown) && !repo.is_dropped(repo.epoch()));
    let after = vacant();
    assert!(is_followed());
    drop(before);
    assert!(is_followed(), "the other one goes on");
    drop(after);
    drop(vacant());
}

#[test]
fn what_moves_during_a_build_is_built_after_it() {
    let repo = repo();
    repo.set_moved();
    assert!(repo.rebuild().is_none(), "nobody asked for it");
    repo.publish(archive(10), repo.epoch());
    assert!(repo.rebuild().is_none(), "built after it moved");
    repo.set_moved();
    let permit = repo.rebuild().unwrap();
    let shown = repo.epoch();
    repo.set_moved();
    assert!(repo.rebuild().is_none(), "a build runs");
    // Its date is of no account: the clock was set back.
    repo.publish(archive(3), shown);
    drop(permit);
    drop(repo.rebuild().unwrap());
    // A build that failed is tried again.
    assert!(repo.rebuild().is_some());
}

#[test]
fn refs_that_moved_unseen_are_built_once() {
    let repo = repo();
    repo.compare_shown(&Want::default(), Some(&[1; 32]), repo.epoch());
    repo.publish(archive(10), repo.epoch());
    assert!(repo.rebuild().is_none(), "there was nothing to compare");
    repo.compare_shown(&Want::default(), Some(&[0; 32]), repo.epoch());
    assert!(repo.rebuild().is_none(), "they are the same");
    repo.compare_shown(&Want::default(), Some(&[1; 32]), repo.epoch());
    let permit = repo.rebuild().unwrap();
    // The build has seen these already.
    repo.compare_shown(&Want::default(), Some(&[1; 32]), repo.epoch());
    repo.publish(archive(11), repo.epoch());
    drop(permit);
    assert!(repo.rebuild().is_none(), "built twice");
    repo.set_moved();
    let permit = repo.rebuild().unwrap();
    repo.publish(archive(12), repo.epoch());
    drop(permit);
    assert!(repo.rebuild().is_none(), "built twice");
}

/// Who has begun with what may have something of what has expired does not go on with it.
#[test]
fn what_was_built_before_an_expiry_is_known_as_it_is_replaced() {
    let repo = repo();
    repo.publish(archive(10), repo.epoch());
    let publish = |number| repo.publish(archive(number), repo.epoch()).unwrap().1;
    assert!(!publish(11), "nothing has expired");
    repo.set_expired();
    assert!(publish(12) && !publish(13));
}

/// An archive is as old as the refs that it was made of.
#[test]
fn who_wants_what_is_young_gets_nothing_that_is_old() {
    let (repo, now) = (repo(), Instant::now());
    let at = |s| now + Duration::from_secs(s);
    let since = |s| repo.find(Some(at(s)));
    repo.set_fresh(1, at(1));
    let old = archive(1);
    repo.publish(old.clone(), repo.epoch());
    assert!(matches!(since(1), Found::Hit(_)));
    repo.set_fresh(2, at(2));
    assert!(matches!(since(2), Found::Hit(_)), "the same refs");
    repo.set_moved();
    let rebuilding = repo.rebuild().unwrap();
    repo.set_moved();
    repo.set_fresh(3, at(3));
    assert!(matches!(repo.find(None), Found::Hit(_)));
    assert!(matches!(since(2), Found::Hit(_)));
    assert!(matches!(since(3), Found::Older(_)), "it began before");
    assert_eq!(repo.moment_of(&old).unwrap().began, at(2));
    drop(rebuilding);
    let Found::Vacant(permit) = since(3) else {
        panic!("what is old is taken for new");
    };
    assert!(matches!(since(3), Found::Following(_)));
    repo.publish(archive(2), repo.epoch());
    drop(permit);
    assert!(matches!(since(3), Found::Hit(_)));
    // Refs that moved unseen are of no known age.
    repo.compare_shown(&Want::default(), Some(&[7; 32]), repo.epoch());
    assert!(matches!(since(3), Found::Vacant(_)));
}

/// One failure keeps nobody from trying again; from the second on all hear why, until the
/// wait is over, something moved or a build succeeded.
#[test]
fn builds_that_fail_again_and_again_wait() {
    let repo = repo();
    repo.set_not_built(&Arc::default(), "torn");
    assert!(matches!(repo.find(None), Found::Vacant(_)));
    repo.set_not_built(&Arc::default(), "rotten");
    let Found::Refused(why) = repo.find(None) else {
        panic!("it is tried at once");
    };
    assert_eq!(why.status, 500);
    assert!(why.message.contains("host/path: rotten; 2 tries"), "{why}");
    repo.set_moved();
    assert!(
        matches!(repo.find(None), Found::Vacant(_)),
        "another content"
    );
    for _ in 0..2 {
        repo.set_not_built(&Arc::default(), "rotten");
    }
    repo.set_built(&Want::default());
    assert!(matches!(repo.find(None), Found::Vacant(_)));
    let failed = |count, ago_ms| NotBuilt {
        count,
        at: Instant::now() - Duration::from_millis(ago_ms),
        why: String::new(),
    };
    assert!(failed(2, BUILD_RETRY_MS).left().is_zero());
    assert!(!failed(3, BUILD_RETRY_MS).left().is_zero());
    assert!(!failed(u32::MAX, BUILD_RETRY_MAX_MS / 2).left().is_zero());
    assert!(failed(u32::MAX, BUILD_RETRY_MAX_MS).left().is_zero());
}

/// A live-only archive whose producer waits for a reader that takes nothing, on a thread of its own
/// that ends with the archive.
fn held_up() -> (Arc<Archive>, ReaderHandle) {
    let slow = archive(1);
    let reader = slow.fanout.join(0).unwrap();
    slow.fanout.spool_failed("full");
    let fanout = slow.fanout.clone();
    std::thread::spawn(move || while fanout.push_piece(Arc::new(vec![0; 1 << 20])).is_ok() {});
    let began = Instant::now();
    while !slow.fanout.is_slow() {
        assert!(began.elapsed() < Duration::from_secs(30), "it is not slow");
        std::thread::sleep(Duration::from_millis(10));
    }
    (slow, reader)
}

/// Whoever asks while slow readers hold up a build gets another one; there are two at most.
#[test]
fn a_build_that_readers_hold_up_is_not_the_only_one() {
    let repo = repo();
    let vacant = || match repo.find(None) {
        Found::Vacant(permit) => permit,
        other => panic!("{other:?}"),
    };
    let is_followed = |permit: &Permit| match repo.find(None) {
        Found::Following(ticket) => ticket.same_build(&permit.ticket()),
        other => panic!("{other:?}"),
    };
    let (first, (slow, reader)) = (vacant(), held_up());
    assert!(is_followed(&first), "it has not begun");
    first.started(Ok(slow.clone()));
    assert!(!repo.follows(&Want::default(), &first.ticket(), None));
    let second = vacant();
    assert!(is_followed(&second));
    second.started(Ok(slow.clone()));
    assert!(is_followed(&second), "a third one");
    assert!(repo.rebuild().is_none());
    drop(first);
    let third = vacant();
    assert!(is_followed(&third));
    drop((second, third));
    drop(vacant());
    slow.fanout.fail("over");
    drop(reader);
}

#[test]
fn what_is_not_kept_makes_way() {
    let repo = repo();
    let vacant = || match repo.find(None) {
        Found::Vacant(permit) => permit,
        other => panic!("{other:?}"),
    };
    let (first, (slow, _reader)) = (vacant(), held_up());
    first.started(Ok(slow.clone()));
    let (second, kept) = (vacant(), archive(2));
    second.started(Ok(kept.clone()));
    repo.end_live_only("make way");
    assert!(matches!(slow.fanout.status(), Status::Failed(_)));
    assert!(matches!(kept.fanout.status(), Status::Growing));
}

fn side() -> (Named, Arc<Want>) {
    let named = Named::new(Some("side".into()), None).unwrap();
    let full = "refs/heads/side".into();
    let want = named.want(Some(full)).unwrap();
    (named, Arc::new(want))
}

fn at(digit: char) -> (Named, Arc<Want>) {
    let id = gix::ObjectId::from_hex(digit.to_string().repeat(40).as_bytes()).unwrap();
    let named = Named::new(None, Some(id)).unwrap();
    let want = named.want(None).unwrap();
    (named, Arc::new(want))
}

/// What a ref leads to is built anew when it is asked for after it moved, once for all, and the old one
/// stays for those who have begun with it.
#[test]
fn a_ref_that_moved_is_built_when_it_is_asked_for() {
    let repo = repo();
    let (named, want) = side();
    assert!(repo.find_known(&named, None).is_none(), "nobody has looked");
    repo.note_name(&named, Some("refs/heads/side".into()), repo.epoch());
    assert!(repo.find_known(&named, None).is_none(), "there is nothing");
    let Found::Vacant(first) = repo.find_want(&want, None) else {
        panic!("it is there");
    };
    assert!(
        matches!(repo.find(None), Found::Vacant(_)),
        "it is another one"
    );
    let old = archive_of(&want, 1);
    repo.publish(old.clone(), repo.epoch());
    drop(first);
    let is_hit = |archive: &Arc<Archive>| match repo.find_known(&named, None) {
        Some((_, Found::Hit(found))) => Arc::ptr_eq(&found, archive),
        _ => false,
    };
    assert!(is_hit(&old));
    repo.set_moved();
    repo.note_name(&named, Some("refs/heads/side".into()), repo.epoch());
    assert!(repo.find_known(&named, None).is_none(), "it is old");
    assert!(
        repo.rebuild_others(&[]).is_empty(),
        "nobody has asked lately"
    );
    let shown = repo.epoch();
    let Found::Vacant(permit) = repo.find_want(&want, None) else {
        panic!("the old one is served");
    };
    let Some((_, Found::Following(ticket))) = repo.find_known(&named, None) else {
        panic!("nobody follows");
    };
    assert!(repo.follows(&want, &ticket, None));
    assert!(repo.archives().iter().any(|one| Arc::ptr_eq(one, &old)));
    drop(permit);
    assert!(repo.find_known(&named, None).is_none(), "the build failed");
    let new = archive_of(&want, 2);
    assert!(repo.publish(new.clone(), shown).is_some());
    assert!(is_hit(&new));
    new.touch();
    repo.set_moved();
    assert_eq!(repo.rebuild_others(&[]).len(), 1, "it is in use");
    // The branch is gone.
    let gone = repo.compare_shown(&want, None, repo.epoch()).unwrap();
    assert!(Arc::ptr_eq(&gone, &new) && repo.archives().is_empty());
}

#[test]
fn a_commit_is_never_stale_until_something_expires() {
    let repo = repo();
    let (named, want) = at('a');
    let archive = archive_of(&want, 1);
    repo.publish(archive.clone(), repo.epoch());
    repo.set_moved();
    assert!(repo.rebuild_others(&[]).is_empty());
    assert!(matches!(
        repo.find_known(&named, None),
        Some((_, Found::Hit(_)))
    ));
    let (_, newer) = at('b');
    let expired = repo.set_expired();
    assert!(expired.len() == 1 && Arc::ptr_eq(&expired[0], &archive));
    assert!(repo.find_known(&named, None).is_none());
    // What was being built meanwhile goes, too.
    let before = RefsEpoch::default();
    repo.publish(archive_of(&newer, 2), before);
    assert_eq!(repo.take_expired().len(), 1);
    assert!(repo.archives().is_empty() && repo.leave_mirror());
}

#[test]
fn builds_of_refs_and_commits_are_bounded_and_fail_by_themselves() {
    let repo = repo();
    let (named, want) = at('a');
    for count in 1..=2 {
        let Found::Vacant(permit) = repo.find_want(&want, None) else {
            panic!("{count}");
        };
        repo.set_not_built(&want, "rotten");
        drop(permit);
    }
    assert!(matches!(
        repo.find_known(&named, None),
        Some((_, Found::Refused(_)))
    ));
    assert!(repo.is_failing() && !repo.is_failing_at(&Want::default()));
    let id = |n: usize| gix::ObjectId::from_hex(format!("{n:040x}").as_bytes()).unwrap();
    let want = |n| Arc::new(Want::new(Revision::Commit(id(n)), Shape::Full).unwrap());
    let permits: Vec<Permit> = (0..WANTS_BUILDING_MAX)
        .map(|n| match repo.find_want(&want(n), None) {
            Found::Vacant(permit) => permit,
            other => panic!("{n}: {other:?}"),
        })
        .collect();
    let Found::Refused(why) = repo.find_want(&want(1000), None) else {
        panic!("there is no bound");
    };
    assert_eq!(why.status, 503);
    assert!(matches!(
        repo.find_want(&want(0), None),
        Found::Following(_)
    ));
    assert!(
        matches!(repo.find(None), Found::Vacant(_)),
        "it has its own place"
    );
    drop(permits);
    assert!(matches!(
        repo.find_want(&want(1000), None),
        Found::Vacant(_)
    ));
}

/// A build begins with what is most alike.
#[test]
fn the_base_is_the_own_one_or_the_nearest() {
    let repo = repo();
    let base = |want: &Want| {
        repo.base_of(want, None)
            .map(|(archive, _)| archive.want.clone())
    };
    let ((_, a), (_, b), (_, side)) = (at('a'), at('b'), side());
    assert_eq!(base(&a), None);
    repo.publish(archive_of(&a, 1), repo.epoch());
    repo.publish(archive_of(&b, 2), repo.epoch());
    assert_eq!(base(&side), Some(b.clone()), "the last one");
    repo.publish(archive(0), repo.epoch());
    assert_eq!(base(&side), Some(Arc::default()));
    assert_eq!(base(&a), Some(a.clone()));
    let near = repo.base_of(&side, gix::ObjectId::from_hex(&[b'c'; 40]).ok());
    assert!(near.unwrap().0.want.is_default(), "none is of that commit");
    repo.set_moved();
    assert!(!repo.base_of(&a, None).unwrap().1);
}

#[test]
fn a_permit_ends_its_own_build_and_no_other() {
    let repo = repo();
    let Found::Vacant(first) = repo.find(None) else {
        panic!("something is there");
    };
    let Found::Following(ticket) = repo.find(None) else {
        panic!("nothing runs");
    };
    assert!(matches!(repo.find(None), Found::Following(_)));
    let refused = StartError {
        status: 404,
        message: "not there".into(),
    };
    first.refuse(refused.clone());
    assert_eq!(
        ticket
            .started
            .borrow()
            .as_ref()
            .unwrap()
            .as_ref()
            .unwrap_err(),
        &refused
    );
    let Found::Vacant(dropped) = repo.find(None) else {
        panic!("the refused build did not end");
    };
    let ticket = dropped.ticket();
    drop(dropped);
    let heard = ticket.started.borrow().clone();
    assert_eq!(heard.unwrap().unwrap_err().status, 500);
    let Found::Vacant(second) = repo.find(None) else {
        panic!("the build did not end");
    };
    let current = archive(1);
    repo.publish(current.clone(), repo.epoch());
    drop(second);
    assert!(matches!(repo.find(None), Found::Hit(_)));
    assert!(!repo.forget(&archive(1)), "another one of the same id");
    let reader = current.fanout.join(0).unwrap();
    assert!(!repo.take_idle(&current), "it is read");
    drop(reader);
    assert!(repo.take_idle(&current));
    assert!(!repo.forget(&current));
}
