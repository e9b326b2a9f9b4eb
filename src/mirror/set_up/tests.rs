use super::*;
use crate::mirror::testing::{Scratch, git, run};

#[test]
fn set_up_writes_only_what_differs_and_keeps_origin() {
    let s = Scratch::with_commit();
    let root = s.root().to_owned();
    git(&root, &["clone", "-q", "--mirror", &s.url(), "own.git"]);
    let own = root.join("own.git");
    git(&own, &["update-ref", "refs/heads/loose", "main"]);
    run(s.git.is_usable(&own)).unwrap();
    run(s.git.set_up(&own, "https://example.com/other")).unwrap();
    assert_eq!(git(&own, &["config", "remote.origin.url"]), s.url());
    assert_eq!(git(&own, &["config", "gc.auto"]), "0");
    assert!(!own.join("refs/heads/loose").exists(), "it is packed");
    let stamp = || {
        std::fs::metadata(own.join("config"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let before = stamp();
    run(s.git.set_up(&own, "https://example.com/other")).unwrap();
    assert_eq!(stamp(), before);
}

/// The file is changed as git would change it: what is there stays, comments too.
#[test]
fn a_configuration_is_completed_without_git() {
    let s = Scratch::with_commit();
    let path = s.up().join("config");
    let text = "[core]\n\tbare = true ; mine\n\trepositoryformatversion = 0\n# note\n\
                [GC]\n\tAuto = 100\n[Remote \"Up \\\" x\"]\n\tpromisor\n";
    std::fs::write(&path, text).unwrap();
    let url = "https://example.com/a b;c#d\"e";
    let no_git = Git {
        program: "/nonexistent".into(),
        ..s.git.clone()
    };
    std::fs::remove_dir_all(s.up().join("refs")).unwrap();
    std::fs::create_dir(s.up().join("refs")).unwrap();
    run(no_git.set_up(&s.up(), url)).unwrap();
    let after = std::fs::read_to_string(&path).unwrap();
    for kept in ["bare = true ; mine", "# note", "promisor"] {
        assert!(after.contains(kept), "{after}");
    }
    let get = |key: &str| git(&s.up(), &["config", "--get-all", key]);
    assert_eq!(get("gc.auto"), "0");
    assert_eq!(get("remote.origin.url"), url);
    assert_eq!(get("transfer.unpackLimit"), "1");
    let config = crate::mirror::config::read(&s.up()).unwrap();
    assert_eq!(config["remote.Up \" x.promisor"], "true");
    assert_eq!(config["core.bare"], "true");
    // Somebody else is changing it.
    std::fs::write(s.up().join("config.lock"), "").unwrap();
    std::fs::write(&path, text).unwrap();
    let error = run(no_git.set_up(&s.up(), url)).unwrap_err().to_string();
    assert!(error.contains("config.lock"), "{error}");
    assert!(s.up().join("config.lock").exists(), "it is not ours");
    std::fs::write(&path, "[core\n").unwrap();
    let error = run(s.git.is_usable(&s.up())).unwrap_err().to_string();
    assert!(error.contains("config file is not understood"), "{error}");
}

#[test]
fn what_cannot_be_served_is_named() {
    let s = Scratch::with_commit();
    let root = s.root();
    let usable =
        |name: &str| run(s.git.is_usable(&root.join(name))).map_err(|error| error.to_string());
    let fails = |name: &str, with: &str| {
        let error = usable(name).unwrap_err();
        assert!(error.contains(with), "{name}: {error}");
    };
    usable("up.git").unwrap();
    fails("nothing", "no bare git repository");
    git(root, &["clone", "-q", &s.url(), "work"]);
    fails("work/.git", "not bare");
    fails("work", "no bare git repository");
    git(
        root,
        &[
            "clone",
            "-q",
            "--bare",
            "--depth=1",
            &s.url(),
            "shallow.git",
        ],
    );
    fails("shallow.git", "shallow");
    git(
        root,
        &["clone", "-q", "--bare", "-s", "up.git", "borrows.git"],
    );
    fails("borrows.git", "borrows objects");
    git(
        root,
        &["-C", "up.git", "config", "uploadpack.allowFilter", "true"],
    );
    git(
        root,
        &[
            "clone",
            "-q",
            "--bare",
            "--filter=blob:none",
            &s.url(),
            "partial.git",
        ],
    );
    fails("partial.git", "partial clone");
    for (key, value, with) in [
        ("extensions.refStorage", "reftable", "git refs migrate"),
        ("extensions.objectFormat", "sha3", "object format sha3"),
        ("extensions.wonder", "1", "extensions.wonder"),
        ("core.repositoryFormatVersion", "7", "format version"),
    ] {
        git(root, &["clone", "-q", "--bare", &s.url(), "odd.git"]);
        git(root, &["config", "--file", "odd.git/config", key, value]);
        fails("odd.git", with);
        std::fs::remove_dir_all(root.join("odd.git")).unwrap();
    }
}
