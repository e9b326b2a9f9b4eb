use super::*;
use crate::mirror::testing::Scratch;

#[test]
fn leftovers_of_a_killed_process_are_removed() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let left = [
        "packed-refs.lock",
        "HEAD.lock",
        "tmp_packed_refs_x",
        "objects/pack/tmp_pack_x",
        "objects/pack/.tmp-1-x",
        "refs/heads/main.lock",
        "refs/tags/x/y.lock",
    ];
    std::fs::create_dir_all(s.mirror().join("refs/tags/x")).unwrap();
    std::fs::create_dir_all(s.mirror().join("refs/heads")).unwrap();
    for name in left {
        std::fs::write(s.mirror().join(name), "").unwrap();
    }
    std::fs::create_dir(s.mirror().join("tmp_old_packs_x")).unwrap();
    recover(&s.mirror()).unwrap();
    assert!(!left.iter().any(|name| s.mirror().join(name).exists()));
    assert!(!s.mirror().join("tmp_old_packs_x").exists());
    s.assert_staging_empty();
    s.assert_equal();
    recover(Path::new("/nonexistent/mirror")).unwrap();
}
