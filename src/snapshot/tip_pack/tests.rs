use std::collections::BTreeSet;

use super::*;
use crate::snapshot::tests::Repository;

/// Versions of some files, as deltas of each other in both directions, with tags.
fn repository() -> Repository {
    let repository = Repository::new();
    let mut lines: Vec<String> = (0..2000).map(|i| format!("line {}", i * 7919)).collect();
    for version in 0..12 {
        lines[version * 60] = format!("version {version} of this line");
        for copy in 0..5 {
            let mut own = lines.clone();
            own[1000 + copy] = format!("copy {copy}");
            repository.write(&format!("dir{copy}/file"), own.join("\n"));
        }
        repository.write(&format!("own/{version}"), version.to_string());
        repository.write("empty", "");
        repository.commit();
    }
    repository.git(&["tag", "-a", "-m", "of it", "one"]);
    repository.git(&["tag", "-a", "-m", "of a tag", "two", "one"]);
    repository.git(&["tag", "-a", "-m", "of another", "other", "HEAD~3"]);
    repository.git(&["tag", "-a", "-m", "of a tree", "tree", "HEAD^{tree}"]);
    repository.git(&["tag", "light"]);
    repository.git(&["pack-refs", "--all"]);
    repository
}

fn packed(repository: &Repository, into: &Path, packs_max: usize) -> Option<Vec<String>> {
    let commit = repository.git(&["rev-parse", "HEAD"]).parse().unwrap();
    pack(&Tip {
        from: &repository.dir.path().join(".git"),
        into,
        commit,
        packs_max,
        is_given_up: &AtomicBool::new(false),
    })
    .unwrap()
}

fn ids(text: &str) -> BTreeSet<String> {
    let first = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    text.lines().map(first).collect()
}

/// All objects of packs as git reads them, each checked against its id.
fn objects(repository: &Repository, into: &Path, stems: &[String]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for stem in stems {
        let index = into.join(format!("{stem}.idx"));
        let index = index.to_str().unwrap();
        let listed = repository.git(&["verify-pack", "-v", index]);
        let is_object = |line: &&str| {
            let id = line.split(' ').next().unwrap_or_default();
            ObjectId::from_hex(id.as_bytes()).is_ok()
        };
        for line in listed.lines().filter(is_object) {
            let id = line.split(' ').next().unwrap_or_default();
            assert!(all.insert(id.to_owned()), "{id} is there twice");
        }
    }
    all
}

#[test]
fn it_has_what_git_packs() {
    let repository = repository();
    for settings in [
        &["repack.useDeltaBaseOffset=true"],
        &["repack.useDeltaBaseOffset=false"],
    ] {
        let options = settings.iter().flat_map(|setting| ["-c", setting]);
        let repack = ["repack", "-adfq", "--depth=40", "--window=80"];
        repository.git(&options.chain(repack).collect::<Vec<_>>());
        let into = tempfile::tempdir().unwrap();
        let stems = packed(&repository, into.path(), 1).unwrap();
        let mut expected = ids(&repository.git(&["rev-list", "--objects", "--no-walk", "HEAD"]));
        let tags = ["one", "two", "tree"].map(|tag| repository.git(&["rev-parse", tag]));
        expected.extend(tags.map(|tag| tag.trim().to_owned()));
        assert_eq!(objects(&repository, into.path(), &stems), expected);
        // What is a delta of what comes along stays one.
        let index = into.path().join(format!("{}.idx", stems[0]));
        let listed = repository.git(&["verify-pack", "-v", index.to_str().unwrap()]);
        assert!(listed.contains("chain length = 1"), "{listed}");
        let left = fs::read_dir(into.path()).unwrap().count();
        assert_eq!(left, 2, "something else is left");
    }
}

#[test]
fn what_is_not_for_this_is_left_to_git() {
    let repository = repository();
    let into = tempfile::tempdir().unwrap();
    let is_nothing = |packed: Option<Vec<String>>| {
        assert_eq!(packed, None);
        assert_eq!(fs::read_dir(into.path()).unwrap().count(), 0);
    };
    // Loose.
    is_nothing(packed(&repository, into.path(), 2));
    // Without sums.
    repository.git(&["-c", "pack.indexVersion=1", "repack", "-adfq"]);
    is_nothing(packed(&repository, into.path(), 2));
    // Damaged anywhere where it is read.
    repository.git(&["repack", "-adfq"]);
    let packs = repository.dir.path().join(".git/objects/pack");
    let files = fs::read_dir(&packs)
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut files = files.filter(|path| path.extension().is_some_and(|end| end == "pack"));
    let pack = files.next().unwrap();
    let sound = fs::read(&pack).unwrap();
    fs::remove_file(&pack).unwrap();
    let mut refused = 0;
    for at in (12..sound.len() - 20).step_by(211) {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x41;
        fs::write(&pack, bytes).unwrap();
        match packed(&repository, into.path(), 2) {
            None => refused += 1,
            Some(stems) => {
                objects(&repository, into.path(), &stems);
                for stem in stems {
                    for end in ["pack", "idx"] {
                        fs::remove_file(into.path().join(format!("{stem}.{end}"))).unwrap();
                    }
                }
            }
        }
        assert_eq!(fs::read_dir(into.path()).unwrap().count(), 0);
    }
    assert!(refused > 10, "only {refused} were found");
}

#[test]
fn a_large_commit_has_several_packs() {
    let repository = Repository::new();
    for number in 0..3 * TIP_RUN_OBJECTS {
        repository.write(&format!("{}/{number}", number % 7), format!("{number}\n"));
    }
    repository.commit_packed();
    repository.git(&["pack-refs", "--all"]);
    let into = tempfile::tempdir().unwrap();
    let stems = packed(&repository, into.path(), 2).unwrap();
    assert_eq!(stems.len(), 2);
    let expected = ids(&repository.git(&["rev-list", "--objects", "--no-walk", "HEAD"]));
    assert!(objects(&repository, into.path(), &stems) == expected);
}

#[test]
fn nobody_waits_for_it_any_more() {
    let repository = repository();
    repository.git(&["repack", "-adfq"]);
    let into = tempfile::tempdir().unwrap();
    let commit = repository.git(&["rev-parse", "HEAD"]).parse().unwrap();
    let made = pack(&Tip {
        from: &repository.dir.path().join(".git"),
        into: into.path(),
        commit,
        packs_max: 2,
        is_given_up: &AtomicBool::new(true),
    });
    assert_eq!(made.unwrap(), None);
    assert_eq!(fs::read_dir(into.path()).unwrap().count(), 0);
}
