use super::*;
use crate::mirror::arriving::{ENDS, tests::forged_index};
use crate::mirror::packs::packs;
use crate::mirror::testing::{OwnLocks, Scratch, git, git_with, run};
use std::fs;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn stems(mirror: &Path) -> BTreeSet<String> {
    let found = packs(&mirror.join("objects/pack")).unwrap();
    found.into_iter().map(|pack| pack.stem).collect()
}

/// The mirror of another server, as it is now: the own one is made anew afterwards.
fn taken_by_another(s: &Scratch) -> PathBuf {
    let other = s.root().join("other.git");
    fs::rename(s.mirror(), &other).unwrap();
    other
}

/// The packs of the other server, as they come.
fn coming(mirror: &Path, other: &Path) -> Others {
    let own = stems(mirror);
    let others = Others::begin(mirror, stems(other)).unwrap().unwrap();
    for stem in stems(other).difference(&own) {
        for end in ENDS {
            let name = format!("{stem}.{end}");
            let from = other.join("objects/pack").join(&name);
            if from.exists() {
                fs::copy(from, others.place_of(&name).unwrap()).unwrap();
            }
        }
    }
    others
}

fn replace(s: &Scratch, locks: &OwnLocks, other: &Path) -> Result<Replaced, MirrorError> {
    let (mirror, now) = (s.mirror(), SystemTime::now());
    let others = coming(&mirror, other);
    run(s
        .git
        .replace_packs(&mirror, locks.all(), others, (DAY, now)))
}

fn has(mirror: &Path, id: &str) -> bool {
    let known = format!("{id}\n");
    !git_with(mirror, &["cat-file", "--batch-check"], known.as_bytes()).ends_with("missing")
}

fn is_sound(s: &Scratch) {
    git(&s.mirror(), &["fsck", "--full", "--strict"]);
    s.assert_equal();
    let left = crate::mirror::recover::with_prefix(&s.mirror(), "tmp_").unwrap();
    assert!(left.is_empty(), "{left:?}");
}

/// Two that have fetched in other steps have other packs; then both have the same.
#[test]
fn packs_of_the_same_give_way() {
    for format in ["sha1", "sha256"] {
        let (s, locks) = (Scratch::new(format), OwnLocks::default());
        s.commit("main", "one");
        s.clone_mirror();
        s.commit("main", "two");
        s.commit("side", "three");
        s.freshen();
        let other = taken_by_another(&s);
        s.clone_mirror();
        let (own, theirs) = (stems(&s.mirror()), stems(&other));
        assert!(own.is_disjoint(&theirs) && theirs.len() == 2, "{theirs:?}");
        let replaced = replace(&s, &locks, &other).unwrap();
        assert_eq!(replaced, Replaced::Done { gone: 1, own: 0 });
        assert_eq!(stems(&s.mirror()), theirs);
        is_sound(&s);
        // It is the same again.
        let replaced = replace(&s, &locks, &other).unwrap();
        assert_eq!(replaced, Replaced::Done { gone: 0, own: 0 });
        s.commit("main", "four");
        s.freshen();
        is_sound(&s);
    }
}

/// What was fetched later, and what refs have left lately, stays; what nothing here reaches does not.
#[test]
fn what_the_others_lack_stays_where_it_is_reached() {
    let (s, locks) = (Scratch::with_commit(), OwnLocks::default());
    s.clone_mirror();
    let other = taken_by_another(&s);
    let left = s.commit("gone", "left");
    s.commit("main", "two");
    s.clone_mirror();
    s.upstream(&["update-ref", "-d", "refs/heads/gone"]);
    let later = s.commit("main", "three");
    s.freshen();
    let mirror = s.mirror();
    let nobodys = git_with(&mirror, &["hash-object", "-w", "--stdin"], b"nobody's");
    let all = format!("{nobodys}\n{later}\n");
    let into = mirror.join("objects/pack/pack");
    git_with(
        &mirror,
        &["pack-objects", "-q", into.to_str().unwrap()],
        all.as_bytes(),
    );
    git(&mirror, &["prune-packed"]);
    let first = stems(&other);
    let replaced = replace(&s, &locks, &other).unwrap();
    assert!(matches!(replaced, Replaced::Done { own: 1.., .. }));
    assert!(stems(&mirror).is_superset(&first));
    is_sound(&s);
    assert!(has(&mirror, &left) && has(&mirror, &later));
    // It stays together with what is, in a pack that is reached for the most part.
    assert!(has(&mirror, &nobodys));
    // Once the others have what was fetched later, and nobody knows of the rest.
    fs::rename(
        mirror.join(crate::mirror::journal::NAME),
        s.root().join("journal"),
    )
    .unwrap();
    let kept = s.root().join("kept.git");
    fs::rename(&mirror, &kept).unwrap();
    s.clone_mirror();
    let newer = taken_to(&s, "newer.git");
    fs::rename(&kept, &mirror).unwrap();
    let replaced = replace(&s, &locks, &newer).unwrap();
    assert!(matches!(replaced, Replaced::Done { own: 0, .. }));
    assert_eq!(stems(&mirror), stems(&newer));
    assert!(!has(&mirror, &left) && !has(&mirror, &nobodys));
    is_sound(&s);
}

fn taken_to(s: &Scratch, name: &str) -> PathBuf {
    let other = s.root().join(name);
    fs::rename(s.mirror(), &other).unwrap();
    other
}

/// Of a large pack of which little is reached that others lack, that little is packed anew.
#[test]
fn a_large_pack_does_not_stay_for_little() {
    let (s, locks) = (Scratch::new("sha1"), OwnLocks::default());
    for text in ["one", "two", "three", "four"] {
        s.commit("main", text);
    }
    s.clone_mirror();
    let other = taken_by_another(&s);
    let left = s.commit("gone", "left");
    s.clone_mirror();
    let large = stems(&s.mirror());
    s.upstream(&["update-ref", "-d", "refs/heads/gone"]);
    s.freshen();
    let replaced = replace(&s, &locks, &other).unwrap();
    assert_eq!(replaced, Replaced::Done { gone: 1, own: 1 });
    assert!(stems(&s.mirror()).is_disjoint(&large));
    assert!(has(&s.mirror(), &left));
    is_sound(&s);
}

/// Nobody sees both for long, and a pack that somebody keeps is none that goes.
#[test]
fn what_is_in_the_way_is_left_as_it_is() {
    let (s, locks) = (Scratch::with_commit(), OwnLocks::default());
    s.clone_mirror();
    s.commit("main", "two");
    s.freshen();
    let other = taken_by_another(&s);
    s.clone_mirror();
    let own = stems(&s.mirror());
    let reader = locks.packs.try_read().unwrap();
    assert_eq!(replace(&s, &locks, &other).unwrap(), Replaced::Busy);
    assert_eq!(stems(&s.mirror()), own);
    drop(reader);
    let stem = own.first().unwrap();
    let keep = s.mirror().join(format!("objects/pack/{stem}.keep"));
    fs::write(&keep, "").unwrap();
    assert!(Others::begin(&s.mirror(), stems(&other)).unwrap().is_none());
    assert_eq!(stems(&s.mirror()), own);
    fs::remove_file(keep).unwrap();
    // Half of it does not come.
    let others = coming(&s.mirror(), &other);
    let gone = stems(&other).first().unwrap().clone();
    fs::remove_file(others.place_of(&format!("{gone}.idx")).unwrap()).unwrap();
    let times = (DAY, SystemTime::now());
    let done = run(s.git.replace_packs(&s.mirror(), locks.all(), others, times));
    assert!(matches!(done, Err(MirrorError::Io { .. })), "{done:?}");
    assert_eq!(stems(&s.mirror()), own);
    is_sound(&s);
}

/// What says that it has all, and has rubbish, takes nobody's place.
#[test]
fn own_packs_do_not_give_way_to_a_forged_index() {
    let (s, locks) = (Scratch::with_commit(), OwnLocks::default());
    s.clone_mirror();
    let (mirror, own) = (s.mirror(), stems(&s.mirror()));
    let folder = mirror.join("objects/pack");
    let other = s.root().join("other.git");
    git(s.root(), &["init", "-q", "--bare", "other.git"]);
    let rubbish = git_with(&other, &["hash-object", "-w", "--stdin"], b"rubbish");
    let into = other.join("objects/pack/pack");
    let pack = ["pack-objects", "-q", into.to_str().unwrap()];
    git_with(&other, &pack, format!("{rubbish}\n").as_bytes());
    let theirs = stems(&other).pop_first().unwrap();
    let theirs = other.join("objects/pack").join(theirs);
    let forged = forged_index(&folder.join(own.first().unwrap()), &theirs);
    fs::remove_file(theirs.with_extension("idx")).unwrap();
    fs::write(theirs.with_extension("idx"), forged).unwrap();
    let done = replace(&s, &locks, &other);
    assert!(matches!(done, Err(MirrorError::Output { .. })), "{done:?}");
    assert_eq!(stems(&mirror), own);
    is_sound(&s);
}
