use super::*;
use crate::mirror::Freshened;
use crate::mirror::testing::{OwnLocks, Scratch, git, git_with, run};
use gix::hash::Kind;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn freshen(s: &Scratch) {
    let done = run(s.git.freshen(&s.mirror(), &s.url(), &RwLock::new(()))).unwrap();
    assert_ne!(done, Freshened::Unchanged);
}

fn expire(s: &Scratch, locks: &OwnLocks) -> Expired {
    run(s
        .git
        .expire(&s.mirror(), locks.all(), DAY, SystemTime::now()))
    .unwrap()
}

fn set_older(path: &Path, by: Duration) {
    let file = File::open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified - by).unwrap();
}

/// All that there is becomes so much older.
fn age(mirror: &Path, by: Duration) {
    for pack in packs_of(mirror).unwrap() {
        set_older(&pack.index.with_extension("pack"), by);
    }
    for id in loose_ids(&mirror.join("objects")).unwrap() {
        set_older(&loose_file(mirror, &id), by);
    }
    journal::shift(mirror, by.as_millis() as u64);
    let looked = mirror.join("tarpon-looked");
    if looked.exists() {
        set_older(&looked, by);
    }
}

fn names(mirror: &Path) -> BTreeSet<String> {
    packs_of(mirror).unwrap().iter().map(Pack::name).collect()
}

fn has(mirror: &Path, id: &str) -> bool {
    let hash = gix::ObjectId::from_hex(id.as_bytes()).unwrap();
    let packed = packs_of(mirror).unwrap().into_iter().any(|pack| {
        let index = open_index(&pack.index, Kind::Sha1).unwrap();
        index.lookup(hash).is_some()
    });
    packed || loose_file(mirror, &hash).exists()
}

fn is_sound(s: &Scratch) {
    git(&s.mirror(), &["fsck", "--full", "--strict"]);
    s.assert_equal();
}

/// An upstream of which `secret` was pushed, fetched and taken back; gives its commit and its file.
fn with_secret(s: &Scratch) -> (String, String) {
    s.commit("secret", "a secret");
    freshen(s);
    let secret = s.upstream(&["rev-parse", "refs/heads/secret"]);
    let blob = s.upstream(&["rev-parse", "refs/heads/secret:file"]);
    s.upstream(&["update-ref", "-d", "refs/heads/secret"]);
    freshen(s);
    (secret, blob)
}

#[test]
fn what_was_taken_back_is_gone_after_a_day_and_no_other_pack_is_touched() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (mirror, locks) = (s.mirror(), OwnLocks::default());
    s.commit("main", "two");
    freshen(&s);
    let others = names(&mirror);
    let (secret, blob) = with_secret(&s);
    assert_eq!(expire(&s, &locks), Expired::Nothing);
    age(&mirror, DAY / 2);
    assert_eq!(expire(&s, &locks), Expired::Nothing);
    assert!(has(&mirror, &secret) && has(&mirror, &blob));
    // What was pushed beside it is not touched either.
    s.commit("main", "three");
    freshen(&s);
    let young: BTreeSet<String> = names(&mirror);
    age(&mirror, DAY / 2 + HOUR);
    assert_eq!(expire(&s, &locks), Expired::Objects(3));
    assert!(!has(&mirror, &secret) && !has(&mirror, &blob));
    let left = names(&mirror);
    assert!(left.is_superset(&others), "{left:?}");
    assert_eq!(young.difference(&left).count(), 1);
    assert_eq!(expire(&s, &locks), Expired::Nothing);
    assert_eq!(names(&mirror), left);
    is_sound(&s);
}

#[test]
fn of_a_pack_that_holds_something_due_the_rest_stays() {
    for format in ["sha1", "sha256"] {
        let s = Scratch::new(format);
        s.commit("main", "one");
        s.commit("secret", "a secret");
        s.clone_mirror();
        let (mirror, locks) = (s.mirror(), OwnLocks::default());
        s.upstream(&["update-ref", "-d", "refs/heads/secret"]);
        freshen(&s);
        assert_eq!(expire(&s, &locks), Expired::Nothing);
        age(&mirror, DAY + HOUR);
        run(s.git.write_bitmap(&mirror)).unwrap();
        run(s.git.write_commit_graph(&mirror)).unwrap();
        assert_eq!(expire(&s, &locks), Expired::Objects(3), "{format}");
        assert_eq!(names(&mirror).len(), 1);
        assert!(!mirror.join("objects/info/commit-graph").exists());
        let all = git(
            &mirror,
            &["cat-file", "--batch-all-objects", "--batch-check"],
        );
        assert_eq!(all.lines().count(), 3, "{all}");
        is_sound(&s);
        // It is as old as what it stands for.
        assert!(packs_of(&mirror).unwrap()[0].modified < SystemTime::now() - DAY);
    }
}

/// Another server joins what was left with what is new, and that pack comes here: young, with what expires here.
#[test]
fn what_is_due_goes_from_young_packs_too() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (mirror, locks) = (s.mirror(), OwnLocks::default());
    let (secret, blob) = with_secret(&s);
    age(&mirror, DAY + HOUR);
    let main = s.commit("main", "two");
    let late = s.commit("late", "left lately");
    freshen(&s);
    s.upstream(&["update-ref", "-d", "refs/heads/late"]);
    freshen(&s);
    let nobodys = git_with(
        &mirror,
        &["hash-object", "-w", "--stdin"],
        b"nobody's, and young",
    );
    let all = [&secret, &blob, &main, &late, &nobodys].map(|id| format!("{id}\n"));
    let into = mirror.join("objects/pack/pack");
    let pack = ["pack-objects", "-q", into.to_str().unwrap()];
    let joined = format!(
        "pack-{}.pack",
        git_with(&mirror, &pack, all.concat().as_bytes())
    );
    git(&mirror, &["prune-packed"]);
    // The same blob, loose and as young.
    let elsewhere = s.root().join("elsewhere.git");
    git(s.root(), &["init", "-q", "--bare", "elsewhere.git"]);
    let write = ["hash-object", "-w", "--stdin"];
    assert_eq!(git_with(&elsewhere, &write, b"a secret"), blob);
    let id = ObjectId::from_hex(blob.as_bytes()).unwrap();
    let loose = loose_file(&mirror, &id);
    std::fs::create_dir_all(loose.parent().unwrap()).unwrap();
    std::fs::copy(loose_file(&elsewhere, &id), &loose).unwrap();
    assert!(names(&mirror).contains(&joined) && has(&mirror, &secret));
    assert!(matches!(expire(&s, &locks), Expired::Objects(_)));
    assert!(!names(&mirror).contains(&joined));
    assert!(!has(&mirror, &secret) && !has(&mirror, &blob) && !loose.exists());
    for id in [&main, &late, &nobodys] {
        assert!(has(&mirror, id));
    }
    assert_eq!(expire(&s, &locks), Expired::Nothing);
    is_sound(&s);
}

/// Loose or in a pack of git's for such objects, as somebody's `git gc` leaves it.
#[test]
fn what_was_put_aside_is_gone_and_what_a_ref_moves_back_to_stays() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (mirror, locks) = (s.mirror(), OwnLocks::default());
    let (secret, blob) = with_secret(&s);
    let back = s.commit("back", "one that comes back");
    freshen(&s);
    s.upstream(&["update-ref", "-d", "refs/heads/back"]);
    freshen(&s);
    git(&mirror, &["repack", "-dq", "--cruft"]);
    let loose = git_with(&mirror, &["hash-object", "-w", "--stdin"], b"loose");
    age(&mirror, DAY + HOUR);
    git(&s.up(), &["update-ref", "refs/heads/back", &back]);
    freshen(&s);
    assert!(matches!(expire(&s, &locks), Expired::Objects(_)));
    for id in [&secret, &blob, &loose] {
        assert!(!has(&mirror, id));
    }
    assert!(has(&mirror, &back));
    let is_cruft = |pack: &Pack| pack.kind == PackKind::Cruft;
    assert!(!packs_of(&mirror).unwrap().iter().any(is_cruft));
    is_sound(&s);
}

/// Everything of an expiry but its end.
fn begin(s: &Scratch) -> (Due, Roots, SystemTime) {
    let (mirror, since) = (s.mirror(), SystemTime::now() - DAY);
    run(async {
        let roots = roots(&mirror, since).unwrap();
        let reached = s.git.reached(&mirror, &roots).await.unwrap();
        let due = Due::find(&mirror, reached, since, KeepFiles::Count).unwrap();
        let due = s.git.pack_what_stays(&mirror, due).await.unwrap();
        (due, roots, since)
    })
}

fn end(s: &Scratch, locks: &OwnLocks, (due, roots, since): (Due, Roots, SystemTime)) -> bool {
    let mirror = s.mirror();
    let removed = s.git.remove_due(&mirror, locks.all(), (due, roots), since);
    run(removed).unwrap().is_some()
}

#[test]
fn a_ref_that_moves_back_meanwhile_has_all_that_it_needs() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (mirror, locks) = (s.mirror(), OwnLocks::default());
    let (secret, blob) = with_secret(&s);
    age(&mirror, DAY + HOUR);
    let begun = begin(&s);
    assert_eq!(begun.0.gone.len(), 1);
    s.upstream(&["update-ref", "refs/heads/again", &secret]);
    freshen(&s);
    assert!(end(&s, &locks, begun));
    assert!(has(&mirror, &secret) && has(&mirror, &blob));
    is_sound(&s);
}

/// Between the look back and the moment at which nobody reads packs where they are.
#[test]
fn a_ref_that_moves_back_after_the_look_has_all_that_it_needs() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (mirror, locks) = (s.mirror(), OwnLocks::default());
    let (secret, blob) = with_secret(&s);
    age(&mirror, DAY + HOUR);
    let (due, roots, since) = begin(&s);
    s.upstream(&["update-ref", "refs/heads/again", &secret]);
    run(async {
        let reading = locks.packs.try_read().unwrap();
        let moves = async {
            // It has looked by then, or will have to look at what there is.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let (url, lock) = (s.url(), RwLock::new(()));
            s.git.freshen(&mirror, &url, &lock).await.unwrap();
            drop(reading);
        };
        let removes = s.git.remove_due(&mirror, locks.all(), (due, roots), since);
        let (removed, ()) = tokio::join!(removes, moves);
        removed.unwrap();
    });
    assert!(has(&mirror, &secret) && has(&mirror, &blob));
    is_sound(&s);
}

#[test]
fn nothing_goes_while_a_fetch_is_between_its_objects_and_its_refs() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (mirror, locks) = (s.mirror(), OwnLocks::default());
    let (secret, blob) = with_secret(&s);
    age(&mirror, DAY + HOUR);
    let begun = begin(&s);
    let before = names(&mirror);
    let arriving = locks.arrivals.try_read().unwrap();
    assert!(!end(&s, &locks, begun));
    assert_eq!(names(&mirror), before);
    // It took them for there.
    s.upstream(&["update-ref", "refs/heads/again", &secret]);
    freshen(&s);
    drop(arriving);
    assert!(matches!(
        expire(&s, &locks),
        Expired::Nothing | Expired::Objects(_)
    ));
    assert!(has(&mirror, &secret) && has(&mirror, &blob));
    is_sound(&s);
}

/// The look back takes its time where there are many refs; neither builds, which read packs, nor fetches wait
/// for it.
#[test]
fn nobody_waits_for_the_look_back() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (mirror, locks) = (s.mirror(), OwnLocks::default());
    let (secret, _) = with_secret(&s);
    let main = s.upstream(&["rev-parse", "refs/heads/main"]);
    let many = (0..20_000).map(|n| format!("create refs/tags/t{n} {main}\n"));
    git_with(
        &mirror,
        &["update-ref", "--stdin"],
        many.collect::<String>().as_bytes(),
    );
    git(&mirror, &["pack-refs", "--all"]);
    age(&mirror, DAY + HOUR);
    let (due, roots, since) = begin(&s);
    let mut waited = 0;
    let read = async {
        loop {
            for lock in [&locks.packs, &locks.arrivals] {
                waited += u32::from(lock.try_read().is_err());
            }
            tokio::task::yield_now().await;
        }
    };
    let removed = run(async {
        tokio::select! {
            removed = s.git.remove_due(&mirror, locks.all(), (due, roots), since) => removed,
            () = read => unreachable!(),
        }
    });
    assert!(removed.unwrap().is_some());
    assert_eq!(waited, 0, "it held a lock while it looked");
    assert!(!has(&mirror, &secret));
}

/// Branches come every hour and go with the next one, squashed into one commit of main; packs are joined
/// as after each fetch.
#[test]
fn a_week_of_squashed_branches_renames_no_pack_that_holds_nothing_due() {
    const DAYS: usize = 7;
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (mirror, locks) = (s.mirror(), OwnLocks::default());
    let mut expiries = 0;
    let mut last = String::new();
    for hour in 1..=DAYS * 24 {
        if hour > 1 {
            let before = hour - 1;
            s.commit("main", &format!("squashed {before}"));
            last = s.upstream(&["rev-parse", &format!("refs/heads/b{before}")]);
            s.upstream(&["update-ref", "-d", &format!("refs/heads/b{before}")]);
        }
        s.commit(&format!("b{hour}"), &format!("branch {hour}"));
        freshen(&s);
        run(s.git.join_small(&mirror, &locks.packs)).unwrap();
        age(&mirror, HOUR);
        if hour % 24 != 0 {
            continue;
        }
        let before = packs_of(&mirror).unwrap();
        let (due, ..) = begin_only(&s);
        let due: BTreeSet<String> = due.gone.iter().map(Pack::name).collect();
        if let Expired::Objects(_) = expire(&s, &locks) {
            expiries += 1;
        }
        let left = names(&mirror);
        for pack in &before {
            assert_eq!(
                left.contains(&pack.name()),
                !due.contains(&pack.name()),
                "hour {hour}"
            );
        }
        assert!(has(&mirror, &last), "hour {hour}: it is not due yet");
    }
    assert!(expiries >= DAYS - 3, "{expiries}");
    // All branches of the last day, and three objects of each commit of main.
    let all = git(
        &mirror,
        &["cat-file", "--batch-all-objects", "--batch-check"],
    );
    let most = 3 * (DAYS * 24 + 2 * 26 + 13);
    assert!(all.lines().count() <= most, "{}", all.lines().count());
    is_sound(&s);
}

fn begin_only(s: &Scratch) -> (Due, SystemTime) {
    let (mirror, since) = (s.mirror(), SystemTime::now() - DAY);
    run(async {
        let roots = roots(&mirror, since).unwrap();
        let reached = s.git.reached(&mirror, &roots).await.unwrap();
        (
            Due::find(&mirror, reached, since, KeepFiles::Count).unwrap(),
            since,
        )
    })
}

/// A pack of a commit that no ref was ever at and that nobody has noted: of a fetch that was killed, or of an
/// operator's; the commit.
fn unnoted(s: &Scratch) -> String {
    s.commit("secret", "a secret");
    let secret = s.upstream(&["rev-parse", "refs/heads/secret"]);
    let (mirror, url) = (s.mirror(), s.url());
    let fetch = ["-c", "fetch.unpackLimit=1", "fetch", "--no-tags"];
    let of = ["--no-write-fetch-head", &url, "refs/heads/secret"];
    git(&mirror, &[&fetch[..], &of].concat());
    s.upstream(&["update-ref", "-d", "refs/heads/secret"]);
    assert!(has(&mirror, &secret));
    secret
}

/// Everything is looked through once a day, whoever brought it.
#[test]
fn what_nobody_has_noted_goes_too() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (mirror, locks) = (s.mirror(), OwnLocks::default());
    for round in 0..2 {
        let secret = unnoted(&s);
        assert_eq!(expire(&s, &locks), Expired::Nothing);
        // It was young when it was looked at.
        age(&mirror, DAY + HOUR);
        assert_eq!(expire(&s, &locks), Expired::Objects(3), "{round}");
        assert!(!has(&mirror, &secret));
    }
    let now = SystemTime::now();
    let next = next_expiry_unix_ms(&mirror, DAY, now);
    assert!(next.is_some_and(|at| at > unix_ms(now)), "{next:?}");
    is_sound(&s);
}

/// What has a `.keep` stays, is spoken of, and goes once that has gone.
#[test]
fn what_is_kept_is_not_forgotten() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (mirror, locks) = (s.mirror(), OwnLocks::default());
    let before = names(&mirror);
    let secret = unnoted(&s);
    let new = names(&mirror).difference(&before).next().unwrap().clone();
    let keep = mirror
        .join("objects/pack")
        .join(new.replace(".pack", ".keep"));
    std::fs::write(&keep, "mine").unwrap();
    for _ in 0..2 {
        age(&mirror, DAY + HOUR);
        assert_eq!(expire(&s, &locks), Expired::Nothing);
        assert!(has(&mirror, &secret));
    }
    std::fs::remove_file(&keep).unwrap();
    age(&mirror, DAY + HOUR);
    assert_eq!(expire(&s, &locks), Expired::Objects(3));
    is_sound(&s);
}

/// A ref below `refs/replace/` hides parents from whoever believes it.
#[test]
fn what_replaced_objects_hide_stays() {
    let s = Scratch::with_commit();
    s.commit("main", "two");
    s.commit("main", "three");
    s.clone_mirror();
    let (mirror, locks) = (s.mirror(), OwnLocks::default());
    git(&mirror, &["replace", "--graft", "refs/heads/main"]);
    git(&mirror, &["repack", "-ad"]);
    let secret = unnoted(&s);
    age(&mirror, DAY + HOUR);
    assert_eq!(expire(&s, &locks), Expired::Objects(3));
    assert!(!has(&mirror, &secret));
    let count = [
        "--no-replace-objects",
        "rev-list",
        "--count",
        "refs/heads/main",
    ];
    assert_eq!(git(&mirror, &count), "3");
    git(&mirror, &["--no-replace-objects", "fsck", "--full"]);
}

/// A clock that was ahead when something was noted keeps it no longer than from now on.
#[test]
fn dates_of_a_wrong_clock_are_of_now() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (mirror, locks) = (s.mirror(), OwnLocks::default());
    let (secret, _) = with_secret(&s);
    // As if it had been noted a year ahead.
    age(&mirror, DAY + HOUR);
    journal::shift_ahead(&mirror, 365 * DAY.as_millis() as u64);
    assert_eq!(expire(&s, &locks), Expired::Nothing);
    assert!(has(&mirror, &secret));
    age(&mirror, DAY + HOUR);
    assert_eq!(expire(&s, &locks), Expired::Objects(3));
    is_sound(&s);
}

/// A commit on top of `borrowed`, which the mirror has; only the annex has what is its own. Gives the ids of both.
fn with_annexed(s: &Scratch) -> (String, String) {
    let borrowed = s.commit("base", "borrowed");
    freshen(s);
    s.upstream(&["update-ref", "refs/heads/fork", &borrowed]);
    let id = s.commit("fork", "of a pull request");
    s.upstream(&["update-ref", "refs/pull/1/head", &id]);
    s.upstream(&["update-ref", "-d", "refs/heads/fork"]);
    let parse = |hex: &str| ObjectId::from_hex(hex.as_bytes()).unwrap();
    let wanted = crate::mirror::Apart::Id(parse(&id));
    let haves = vec![parse(&borrowed)];
    let brought = run(s.git.fetch_apart((&s.mirror(), &s.url()), &wanted, haves)).unwrap();
    brought.keep(&s.mirror()).unwrap();
    note_tip(s, parse(&id));
    (borrowed, id)
}

fn note_tip(s: &Scratch, id: ObjectId) {
    let tip = crate::mirror::Tip::Kept(crate::mirror::KeptTip {
        given_unix_ms: 1,
        used_unix_ms: 1,
        bytes: 1,
    });
    let tips = annex_tips::Tips([(id, tip)].into());
    tips.write(&s.mirror()).unwrap();
}

#[test]
fn what_an_annex_has_borrowed_is_packed_into_it_first() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (borrowed, id) = with_annexed(&s);
    let annex = crate::mirror::annex(&s.mirror());
    let own = |id: &str| {
        let hash = ObjectId::from_hex(id.as_bytes()).unwrap();
        let packs = packs(&annex.join("objects/pack")).unwrap();
        let has = |pack: &Pack| {
            open_index(&pack.index, Kind::Sha1)
                .unwrap()
                .lookup(hash)
                .is_some()
        };
        packs.iter().any(has)
    };
    assert!(own(&id) && !own(&borrowed) && !has(&s.mirror(), &id));
    s.upstream(&["update-ref", "-d", "refs/heads/base"]);
    freshen(&s);
    age(&s.mirror(), 2 * DAY);
    let locks = OwnLocks::default();
    assert!(matches!(expire(&s, &locks), Expired::Objects(_)));
    assert!(!has(&s.mirror(), &borrowed) && own(&borrowed));
    git(&annex, &["rev-list", "--objects", &id]);
    is_sound(&s);
    // All that its tips reach becomes one pack, and what they do not goes.
    let tidy = || run(s.git.tidy_annex(&s.mirror(), &locks.arrivals)).unwrap();
    assert_eq!(tidy(), crate::mirror::Tidied::Done);
    assert_eq!(packs(&annex.join("objects/pack")).unwrap().len(), 1);
    assert!(own(&id) && own(&borrowed));
    let held = locks.arrivals.blocking_read();
    std::fs::write(annex.join("tips"), "").unwrap();
    assert_eq!(tidy(), crate::mirror::Tidied::Busy);
    assert!(own(&id));
    drop(held);
    assert_eq!(tidy(), crate::mirror::Tidied::Done);
    assert_eq!(packs(&annex.join("objects/pack")).unwrap(), []);
}

#[test]
fn nothing_goes_where_an_annex_lacks_something() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (borrowed, _) = with_annexed(&s);
    note_tip(&s, ObjectId::from_hex(&[b'1'; 40]).unwrap());
    s.upstream(&["update-ref", "-d", "refs/heads/base"]);
    freshen(&s);
    age(&s.mirror(), 2 * DAY);
    assert_eq!(expire(&s, &OwnLocks::default()), Expired::AnnexBroken);
    assert!(has(&s.mirror(), &borrowed));
}
