use super::*;
use crate::mirror::testing::{Scratch, git, git_with, run};
use std::collections::BTreeSet;

fn names(mirror: &Path, extension: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(mirror.join("objects/pack")).unwrap();
    let names = files.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(extension)).collect()
}

/// A pack of its own with one blob, and the blob's id.
fn add_pack(mirror: &Path, content: &[u8]) -> String {
    let id = git_with(mirror, &["hash-object", "-w", "--stdin"], content);
    let base = mirror.join("objects/pack/pack");
    let list = format!("{id}\n");
    git_with(
        mirror,
        &["pack-objects", "-q", base.to_str().unwrap()],
        list.as_bytes(),
    );
    git(mirror, &["prune-packed"]);
    id
}

/// Bytes that do not become fewer.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b' ' + (state % 64) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn small_packs_become_one_and_no_object_is_lost() {
    for format in ["sha1", "sha256"] {
        let s = Scratch::new(format);
        s.commit("main", "one");
        s.clone_mirror();
        let (mirror, lock) = (s.mirror(), RwLock::new(()));
        let large = add_pack(&mirror, &noise(1, 100_000));
        let large_pack = packs(&mirror.join("objects/pack")).unwrap().pop().unwrap();
        let mut ids = vec![large];
        for i in 2..=limits::MIRROR_SMALL_PACKS_MAX {
            let joined = run(s.git.join_small(&mirror, &lock)).unwrap();
            assert_eq!(joined, Joined::Nothing, "{i}");
            ids.push(add_pack(&mirror, format!("blob {i}").as_bytes()));
        }
        let full = run(s.git.join_small(&mirror, &lock)).unwrap();
        assert_eq!(full, Joined::Nothing);
        // One of them twice, and one that the large one has.
        ids.push(add_pack(&mirror, b"blob 2"));
        ids.push(add_pack(&mirror, b"one more"));
        let before = names(&mirror, ".pack").len();
        let joined = run(s.git.join_small(&mirror, &lock)).unwrap();
        assert_eq!(joined, Joined::Packs(before - 1), "{format}");
        let left = names(&mirror, ".pack");
        assert!(
            left.len() == 2 && left.contains(&large_pack.name()),
            "{left:?}"
        );
        assert_eq!(names(&mirror, ".rev").len(), 2);
        for id in &ids {
            assert_eq!(git(&mirror, &["cat-file", "-t", id]), "blob");
        }
        git(&mirror, &["fsck", "--full", "--strict"]);
        s.assert_equal();
        assert!(
            crate::mirror::recover::with_prefix(&mirror, "tmp_")
                .unwrap()
                .is_empty()
        );
        assert_eq!(
            run(s.git.join_small(&mirror, &lock)).unwrap(),
            Joined::Nothing
        );
    }
}

/// The index over several packs stays if what it names does.
#[test]
fn what_a_bitmap_is_of_stays_until_it_is_joined() {
    let s = Scratch::new("sha1");
    s.commit("main", &String::from_utf8_lossy(&noise(1, 100_000)));
    s.clone_mirror();
    let (mirror, lock) = (s.mirror(), RwLock::new(()));
    assert_eq!(
        run(s.git.write_bitmap(&mirror)).unwrap(),
        crate::mirror::Step::Done
    );
    let made = names(&mirror, ".bitmap");
    assert_eq!(made.len(), 1);
    for i in 0..=limits::MIRROR_SMALL_PACKS_MAX {
        add_pack(&mirror, format!("blob {i}").as_bytes());
    }
    let joined = run(s.git.join_small(&mirror, &lock)).unwrap();
    assert!(matches!(joined, Joined::Packs(_)), "{joined:?}");
    assert_eq!(names(&mirror, ".bitmap"), made);
    assert_eq!(
        run(s.git.write_bitmap(&mirror)).unwrap(),
        crate::mirror::Step::Nothing
    );
    let main = add_pack(&mirror, &noise(2, 90_000));
    run(s.git.join_to_geometry(&mirror, &lock)).unwrap();
    assert_eq!(names(&mirror, ".pack").len(), 1);
    assert!(
        names(&mirror, ".bitmap").is_empty()
            && !mirror.join("objects/pack/multi-pack-index").exists()
    );
    git(&mirror, &["cat-file", "-t", &main]);
    git(&mirror, &["fsck", "--full", "--strict"]);
}

/// Who reads packs where they are does so for as long as a client likes.
#[test]
fn packs_that_are_being_read_stay_and_nobody_waits_for_them() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (mirror, lock) = (s.mirror(), RwLock::new(()));
    for i in 0..=limits::MIRROR_SMALL_PACKS_MAX {
        add_pack(&mirror, format!("blob {i}").as_bytes());
    }
    let before = names(&mirror, "");
    let reader = lock.try_read().unwrap();
    assert_eq!(run(s.git.join_small(&mirror, &lock)).unwrap(), Joined::Busy);
    assert_eq!(names(&mirror, ""), before);
    drop(reader);
    let joined = run(s.git.join_small(&mirror, &lock)).unwrap();
    assert!(matches!(joined, Joined::Packs(_)), "{joined:?}");
}

/// What is kept or put aside by somebody's git is not touched, and nothing is taken for safe there that
/// may go any time.
#[test]
fn kept_packs_and_cruft_stay() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let (mirror, lock) = (s.mirror(), RwLock::new(()));
    let folder = mirror.join("objects/pack");
    let mut ids = Vec::new();
    for i in 0..=limits::MIRROR_SMALL_PACKS_MAX {
        ids.push(add_pack(&mirror, format!("blob {i}").as_bytes()));
    }
    let of = |id: &str| {
        let hash = Kind::Sha1;
        let id = gix::ObjectId::from_hex(id.as_bytes()).unwrap();
        let has = |pack: &Pack| {
            let index = super::super::packs::open_index(&pack.index, hash).unwrap();
            index.lookup(id).is_some()
        };
        packs(&folder).unwrap().into_iter().find(has).unwrap()
    };
    let (kept, cruft) = (of(&ids[0]), of(&ids[1]));
    std::fs::write(folder.join(format!("{}.keep", kept.stem)), "").unwrap();
    std::fs::write(folder.join(format!("{}.mtimes", cruft.stem)), "").unwrap();
    // Enough without these two, and what the cruft has is needed in another.
    let again = folder.join("pack");
    let list = format!("{}\n{}\n", ids[1], ids[2]);
    git_with(
        &mirror,
        &["pack-objects", "-q", again.to_str().unwrap()],
        list.as_bytes(),
    );
    ids.push(add_pack(&mirror, b"blob x"));
    let joined = run(s.git.join_small(&mirror, &lock)).unwrap();
    assert!(matches!(joined, Joined::Packs(_)), "{joined:?}");
    let left = names(&mirror, ".pack");
    assert!(left.contains(&kept.name()) && left.contains(&cruft.name()));
    // And the one of all these, and that of the clone, which is not small.
    assert_eq!(left.len(), 4, "{left:?}");
    for end in ["pack", "idx", "rev", "mtimes"] {
        let _ = std::fs::remove_file(folder.join(format!("{}.{end}", cruft.stem)));
    }
    for id in &ids {
        assert_eq!(git(&mirror, &["cat-file", "-t", id]), "blob");
    }
}
