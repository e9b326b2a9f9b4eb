use super::*;
use crate::mirror::recover::with_prefix;
use crate::mirror::testing::{Scratch, git, git_with, run};

fn pack_count(mirror: &Path) -> usize {
    let files = std::fs::read_dir(mirror.join("objects/pack")).unwrap();
    files
        .filter(|e| {
            e.as_ref()
                .unwrap()
                .path()
                .extension()
                .is_some_and(|x| x == "pack")
        })
        .count()
}

#[test]
fn loose_objects_reachable_or_not_end_in_one_pack() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let lock = RwLock::new(());
    assert_eq!(run(s.git.pack_loose(&s.mirror(), &lock)).unwrap(), 0);
    let ids: Vec<String> = (0..20)
        .map(|i| {
            git_with(
                &s.mirror(),
                &["hash-object", "-w", "--stdin"],
                format!("{i}").as_bytes(),
            )
        })
        .collect();
    assert_eq!(run(s.git.pack_loose(&s.mirror(), &lock)).unwrap(), 20);
    assert_eq!(loose_ids(&s.mirror().join("objects")).unwrap(), [""; 0]);
    assert_eq!(pack_count(&s.mirror()), 2);
    for id in &ids {
        assert_eq!(git(&s.mirror(), &["cat-file", "-t", id]), "blob");
    }
    // Loose once more, although packed: nothing new, and the loose file goes.
    let id = &ids[0];
    let pack = std::fs::read_dir(s.mirror().join("objects/pack")).unwrap();
    let packs: Vec<PathBuf> = pack
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().unwrap() == "pack")
        .collect();
    for pack in packs {
        let other = s.root().join("other.git");
        git(s.root(), &["init", "-q", "--bare", "other.git"]);
        git_with(
            &other,
            &["unpack-objects", "-q"],
            &std::fs::read(pack).unwrap(),
        );
        let from = other.join("objects").join(&id[..2]).join(&id[2..]);
        if from.exists() {
            let to = s.mirror().join("objects").join(&id[..2]);
            std::fs::create_dir_all(&to).unwrap();
            std::fs::copy(from, to.join(&id[2..])).unwrap();
        }
        std::fs::remove_dir_all(other).unwrap();
    }
    assert_eq!(run(s.git.pack_loose(&s.mirror(), &lock)).unwrap(), 1);
    assert_eq!(pack_count(&s.mirror()), 2);
    assert!(loose_ids(&s.mirror().join("objects")).unwrap().is_empty());
}

#[test]
fn a_damaged_loose_object_is_an_error_and_stays() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let folder = s.mirror().join("objects/12");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("3".repeat(38)), "junk").unwrap();
    let error = run(s.git.pack_loose(&s.mirror(), &RwLock::new(()))).unwrap_err();
    assert!(matches!(error, MirrorError::Git { .. }), "{error}");
    assert!(folder.join("3".repeat(38)).exists());
}

#[test]
fn too_many_packs_become_few_and_no_object_is_lost() {
    for format in ["sha1", "sha256"] {
        let s = Scratch::new(format);
        s.commit("main", "one");
        s.clone_mirror();
        let lock = RwLock::new(());
        let mut ids = Vec::new();
        for i in 0..limits::MIRROR_PACKS_MAX {
            assert_eq!(
                run(s.git.consolidate(&s.mirror(), &lock)).unwrap(),
                0,
                "{i}"
            );
            let text = format!("blob {i}");
            ids.push(git_with(
                &s.mirror(),
                &["hash-object", "-w", "--stdin"],
                text.as_bytes(),
            ));
            run(s.git.pack_loose(&s.mirror(), &lock)).unwrap();
        }
        git(&s.mirror(), &["multi-pack-index", "write"]);
        let removed = run(s.git.consolidate(&s.mirror(), &lock)).unwrap();
        assert_eq!(removed, limits::MIRROR_PACKS_MAX + 1, "{format}");
        assert_eq!(pack_count(&s.mirror()), 1);
        for id in &ids {
            assert_eq!(git(&s.mirror(), &["cat-file", "-t", id]), "blob");
        }
        git(&s.mirror(), &["fsck", "--full", "--strict"]);
        s.assert_equal();
        let names: Vec<String> = std::fs::read_dir(s.mirror().join("objects/pack"))
            .unwrap()
            .map(|e| {
                e.unwrap()
                    .path()
                    .extension()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        assert!(
            names.len() == 3 && names.contains(&"rev".to_owned()),
            "{names:?}"
        );
        assert!(with_prefix(&s.mirror(), "tmp_").unwrap().is_empty());
    }
}

#[test]
fn packs_are_chosen_by_geometry() {
    let pack = |objects| Pack {
        stem: format!("pack-{objects}"),
        index: PathBuf::new(),
        objects,
    };
    let sizes = |packs: Vec<Pack>| packs.into_iter().map(|p| p.objects).collect::<Vec<_>>();
    let many = limits::MIRROR_PACKS_MAX as u64;
    let small = || (0..many).map(|_| pack(3));
    assert!(choose(small().collect()).is_empty(), "not too many");
    // 150 objects, then one that is more than twice that, then one that is not.
    let stays: Vec<Pack> = small().chain([pack(1000), pack(5000)]).collect();
    assert_eq!(sizes(choose(stays)), vec![3; 50]);
    let joins: Vec<Pack> = small().chain([pack(200), pack(5000)]).collect();
    assert_eq!(sizes(choose(joins)), [vec![3; 50], vec![200]].concat());
    let progression: Vec<Pack> = (0..60).map(|i| pack(1 << i)).collect();
    assert!(choose(progression).is_empty());
}
