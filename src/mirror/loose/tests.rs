use super::*;
use crate::mirror::testing::{Scratch, git, git_with, run};

fn pack_objects(mirror: &Path) -> BTreeSet<ObjectId> {
    let found = packs(&mirror.join("objects/pack")).unwrap();
    let plain = found.iter().filter(|pack| pack.kind != PackKind::Cruft);
    plain
        .flat_map(|pack| {
            let index = open_index(&pack.index, gix::hash::Kind::Sha1).unwrap();
            let ids = (0..index.num_objects()).map(|at| index.oid_at_index(at).to_owned());
            ids.collect::<Vec<_>>()
        })
        .collect()
}

fn blob(mirror: &Path, text: &str) -> ObjectId {
    let id = git_with(mirror, &["hash-object", "-w", "--stdin"], text.as_bytes());
    ObjectId::from_hex(id.as_bytes()).unwrap()
}

/// A commit with a file, all loose, that no ref leads to.
fn commit(mirror: &Path, text: &str) -> ObjectId {
    let blob = blob(mirror, text);
    let entry = format!("100644 blob {blob}\tfile\n");
    let tree = git_with(mirror, &["mktree"], entry.as_bytes());
    let id = git(mirror, &["commit-tree", "-m", text, &tree]);
    ObjectId::from_hex(id.as_bytes()).unwrap()
}

fn refs_of(mirror: &Path) -> MirrorRefs {
    refs::read(mirror, &Follow::default()).unwrap()
}

#[test]
fn what_refs_reach_is_packed_and_the_rest_stays_loose() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let mirror = s.mirror();
    let nothing = Aside::default();
    let aside = run(s.git.pack_reachable(&mirror, &nothing)).unwrap();
    assert!(aside.is_empty() && pack_objects(&mirror).len() == 3);
    let secret = blob(&mirror, "secret");
    let (one, two) = (commit(&mirror, "one more"), commit(&mirror, "two more"));
    git(&mirror, &["update-ref", "refs/heads/one", &one.to_string()]);
    // A ref that nobody follows.
    git(&mirror, &["update-ref", "refs/notes/x", &two.to_string()]);
    let aside = run(s.git.pack_reachable(&mirror, &nothing)).unwrap();
    let packed = pack_objects(&mirror);
    assert!(packed.contains(&one) && packed.contains(&two) && packed.len() == 9);
    assert_eq!(loose_of(&mirror).unwrap(), [secret]);
    assert!(aside.covers(&refs_of(&mirror), &[secret], &[]));
    // Something that was not there.
    assert!(!aside.covers(&refs_of(&mirror), &[secret, one], &[]));
    assert!(!nothing.covers(&refs_of(&mirror), &[secret], &[]));
    // A ref that moves to it.
    let three = commit(&mirror, "three");
    let aside = run(s.git.pack_reachable(&mirror, &aside)).unwrap();
    assert_eq!(aside.len(), 4);
    let loose = loose_of(&mirror).unwrap();
    assert!(aside.covers(&refs_of(&mirror), &loose, &[]));
    git(
        &mirror,
        &["update-ref", "refs/heads/main", &three.to_string()],
    );
    assert!(!aside.covers(&refs_of(&mirror), &loose, &[]));
    let aside = run(s.git.pack_reachable(&mirror, &aside)).unwrap();
    assert_eq!(loose_of(&mirror).unwrap(), [secret]);
    assert!(pack_objects(&mirror).contains(&three));
    assert!(aside.covers(&refs_of(&mirror), &[secret], &[]));
    git(&mirror, &["fsck", "--full", "--strict"]);
}

#[test]
fn what_was_walked_may_be_gone() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let mirror = s.mirror();
    let secret = blob(&mirror, "secret");
    let (one, two) = (commit(&mirror, "one more"), commit(&mirror, "two more"));
    git(&mirror, &["update-ref", "refs/heads/one", &one.to_string()]);
    let aside = run(s.git.pack_reachable(&mirror, &Aside::default())).unwrap();
    git(&mirror, &["update-ref", "refs/heads/one", &two.to_string()]);
    git(&mirror, &["repack", "-adq"]);
    let aside = run(s.git.pack_reachable(&mirror, &aside)).unwrap();
    assert!(aside.covers(&refs_of(&mirror), &[secret], &[]));
    git(&mirror, &["fsck", "--full", "--strict"]);
}

#[test]
fn what_refs_reach_of_a_cruft_pack_is_packed() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let mirror = s.mirror();
    let (one, two) = (commit(&mirror, "one more"), commit(&mirror, "two more"));
    git(&mirror, &["repack", "-dq", "--cruft"]);
    let cruft = packs(&mirror.join("objects/pack")).unwrap();
    let cruft = cruft.iter().filter(|pack| pack.kind == PackKind::Cruft);
    let cruft = Vec::from_iter(cruft.map(Pack::name));
    assert_eq!(cruft.len(), 1, "git has made one");
    let aside = run(s.git.pack_reachable(&mirror, &Aside::default())).unwrap();
    assert!(aside.covers(&refs_of(&mirror), &[], &cruft));
    assert!(!pack_objects(&mirror).contains(&one));
    git(&mirror, &["update-ref", "refs/heads/one", &one.to_string()]);
    assert!(!aside.covers(&refs_of(&mirror), &[], &cruft));
    let aside = run(s.git.pack_reachable(&mirror, &aside)).unwrap();
    assert!(aside.covers(&refs_of(&mirror), &[], &cruft));
    let packed = pack_objects(&mirror);
    assert!(packed.contains(&one) && !packed.contains(&two));
}

#[test]
fn a_damaged_loose_object_that_is_needed_is_an_error_and_stays() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let mirror = s.mirror();
    // Nobody needs this one.
    let folder = mirror.join("objects/12");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("3".repeat(38)), "junk").unwrap();
    run(s.git.pack_reachable(&mirror, &Aside::default())).unwrap();
    let one = commit(&mirror, "one more");
    git(&mirror, &["update-ref", "refs/heads/one", &one.to_string()]);
    let tree = git(&mirror, &["rev-parse", "refs/heads/one^{tree}"]);
    let file = mirror.join("objects").join(&tree[..2]).join(&tree[2..]);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "junk").unwrap();
    let error = run(s.git.pack_reachable(&mirror, &Aside::default())).unwrap_err();
    assert!(matches!(error, MirrorError::Git { .. }), "{error}");
    assert!(file.exists() && folder.join("3".repeat(38)).exists());
}
