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
    // As index-pack writes them for a fetch that is no more, for one that runs, and as people do.
    let mut runs = std::process::Command::new("git")
        .args(["hash-object", "--stdin"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let keep = |name: &str| s.mirror().join(format!("objects/pack/pack-{name}.keep"));
    let fetch = |pid: u32| format!("fetch-pack {pid} on host\n");
    // No process has it: another git may have taken that of one that has ended.
    std::fs::write(keep("gone"), fetch(u32::MAX)).unwrap();
    std::fs::write(keep("runs"), fetch(runs.id())).unwrap();
    std::fs::write(keep("people"), "do not touch\n").unwrap();
    std::fs::write(keep("empty"), "").unwrap();
    recover(&s.mirror()).unwrap();
    assert!(!keep("gone").exists());
    assert!(
        ["runs", "people", "empty"]
            .iter()
            .all(|name| keep(name).exists())
    );
    drop(runs.stdin.take());
    runs.wait().unwrap();
    assert!(!left.iter().any(|name| s.mirror().join(name).exists()));
    assert!(!s.mirror().join("tmp_old_packs_x").exists());
    s.assert_staging_empty();
    s.assert_equal();
    recover(Path::new("/nonexistent/mirror")).unwrap();
}
