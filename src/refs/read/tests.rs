use super::*;
use crate::mirror::testing::{Scratch, git};
use crate::refs::list::Head;
use crate::refs::name::{in_the_way, is_ref_name};
use crate::refs::packed::parse_packed;
use gix::ObjectId;

const A: &str = "1111111111111111111111111111111111111111";
const B: &str = "2222222222222222222222222222222222222222";

fn bare(head: &str, packed: Option<&str>, loose: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("HEAD"), head).unwrap();
    if let Some(text) = packed {
        std::fs::write(dir.path().join("packed-refs"), text).unwrap();
    }
    std::fs::create_dir(dir.path().join("refs")).unwrap();
    for (name, text) in loose {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn listed(refs: &MirrorRefs) -> Vec<(String, String)> {
    refs.refs
        .iter()
        .map(|r| (r.name.to_string(), r.target.to_string()))
        .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

#[test]
fn loose_wins_over_packed_and_symbolic_refs_are_resolved() {
    let packed = format!(
        "# pack-refs with: peeled fully-peeled sorted \n{A} refs/heads/a\n{A} refs/heads/b\n{A} refs/pull/1\n{B} refs/tags/t\n^{A}\n"
    );
    let loose = [
        ("refs/heads/b", format!("{B}\n")),
        ("refs/heads/sym", "ref: refs/heads/sym2\n".to_owned()),
        ("refs/heads/sym2", "ref: refs/heads/a\n".to_owned()),
        ("refs/heads/dangling", "ref: refs/heads/none\n".to_owned()),
        ("refs/heads/loop", "ref: refs/heads/loop\n".to_owned()),
        ("refs/heads/x.lock", "junk".to_owned()),
        ("refs/heads/.hidden", "junk".to_owned()),
        ("refs/pull/2", format!("{B}\n")),
    ];
    let loose: Vec<(&str, &str)> = loose.iter().map(|(n, t)| (*n, t.as_str())).collect();
    let dir = bare("ref: refs/heads/b\n", Some(&packed), &loose);
    let refs = read(dir.path(), &Follow::default()).unwrap();
    let expected = [
        ("refs/heads/a", A),
        ("refs/heads/b", B),
        ("refs/heads/sym", A),
        ("refs/heads/sym2", A),
        ("refs/tags/t", B),
    ];
    assert_eq!(listed(&refs), pairs(&expected));
    assert!(refs.fully_peeled);
    assert_eq!(
        refs.get("refs/tags/t".into())
            .unwrap()
            .peeled
            .unwrap()
            .to_string(),
        A
    );
    assert_eq!(refs.head_id().unwrap().to_string(), B);
    let more = read(dir.path(), &Follow::new(["refs/pull/*"]).unwrap()).unwrap();
    assert_eq!(
        (more.refs.len(), more.fully_peeled),
        (7, false),
        "a loose ref may be a tag"
    );
}

#[test]
fn heads_of_all_kinds() {
    let head = |text: &str| read(bare(text, None, &[]).path(), &Follow::default());
    let detached = head(&format!("{A}\n")).unwrap();
    assert_eq!(
        detached.head,
        Head::Detached(ObjectId::from_hex(A.as_bytes()).unwrap())
    );
    assert_eq!(detached.head_id().unwrap().to_string(), A);
    let unborn = head("ref: refs/heads/none\n").unwrap();
    assert_eq!(
        (unborn.head_id(), unborn.refs.len(), unborn.fully_peeled),
        (None, 0, true)
    );
    assert!(matches!(
        head("junk\n"),
        Err(RefsError::Malformed { line: 1, .. })
    ));
    assert!(matches!(
        head("ref: refs/heads/../x\n"),
        Err(RefsError::Name { .. })
    ));
    let dir = bare("", None, &[]);
    std::fs::remove_file(dir.path().join("HEAD")).unwrap();
    assert!(matches!(
        read(dir.path(), &Follow::default()),
        Err(RefsError::Io { .. })
    ));
}

#[test]
fn malformed_packed_refs_are_named_with_their_line() {
    let parse = |text: &str| parse_packed(Path::new("packed-refs"), text.as_bytes(), |_| true);
    for (text, line) in [
        (format!("{A} refs/heads/a\n{A}\n"), 2),
        (format!("{A} refs/heads/a\n^xyz\n"), 2),
        (format!("^{A}\n"), 1),
        (format!("{A} refs/tags/a\n^{A}\n^{A}\n"), 3),
        (
            format!("# pack-refs with: peeled \n{} refs/heads/a\n", &A[1..]),
            2,
        ),
        (format!("{A} refs/heads/a\n{A} refs/heads/b"), 2),
        (format!("{A} refs/heads/b\n{A} refs/heads/b\n"), 1),
        ("\n".to_owned(), 1),
    ] {
        match parse(&text) {
            Err(RefsError::Malformed { line: found, .. }) => assert_eq!(found, line, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    for name in [
        "refs/heads/a..b",
        "refs/heads/",
        "HEAD",
        "refs/heads/a b",
        "refs/heads/x.lock",
        "/etc/passwd",
    ] {
        let error = parse(&format!("{A} {name}\n")).unwrap_err();
        assert!(
            matches!(error, RefsError::Name { line: 1, .. }),
            "{name}: {error}"
        );
    }
    let dir = bare(
        "ref: refs/heads/a\n",
        Some(&format!(
            "{A} refs/heads/a\n{} refs/heads/b\n",
            "1".repeat(64)
        )),
        &[],
    );
    assert!(matches!(
        read(dir.path(), &Follow::default()),
        Err(RefsError::Malformed { .. })
    ));
    let dir = bare("ref: refs/heads/a\n", None, &[("refs/heads/a", "")]);
    let error = read(dir.path(), &Follow::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("refs/heads/a line 1"), "{error}");
}

#[test]
fn unsorted_and_traitless_files_are_read() {
    let text = format!("{A} refs/heads/b\n{B} refs/heads/a\n");
    let packed = parse_packed(Path::new("packed-refs"), text.as_bytes(), |_| true).unwrap();
    assert!(!packed.fully_peeled);
    assert_eq!(
        packed
            .refs
            .iter()
            .map(|r| r.name.to_string())
            .collect::<Vec<_>>(),
        ["refs/heads/a", "refs/heads/b"]
    );
}

#[test]
fn reads_what_git_reads() {
    for format in ["sha1", "sha256"] {
        let s = Scratch::new(format);
        s.commit("main", "one");
        s.commit("dir/x-\u{e9}", "two");
        s.upstream(&["tag", "-m", "annotated", "v1", "main"]);
        s.upstream(&["tag", "-m", "tag of a tag", "v2", "v1"]);
        for pack in [false, true] {
            if pack {
                s.upstream(&["pack-refs", "--all"]);
                s.commit("late", "loose again");
            }
            let refs = read(&s.up(), &Follow::default()).unwrap();
            let ours: Vec<String> = refs
                .refs
                .iter()
                .map(|r| format!("{} {}", r.target, r.name))
                .collect();
            assert_eq!(
                ours.join("\n"),
                git(
                    &s.up(),
                    &["for-each-ref", "--format=%(objectname) %(refname)"]
                )
            );
            assert_eq!(refs.fully_peeled, pack);
            if pack {
                let peeled = refs.get("refs/tags/v2".into()).unwrap().peeled.unwrap();
                assert_eq!(peeled.to_string(), s.upstream(&["rev-parse", "v2^{}"]));
            }
        }
    }
}

#[test]
fn follow_patterns_are_checked_and_match_whole_names() {
    let follow = Follow::new(["refs/pull/*/head", "refs/notes/*"]).unwrap();
    for (name, expected) in [
        ("refs/heads/x", true),
        ("refs/tags/x", true),
        ("refs/pull/7/head", true),
        ("refs/pull/7/merge", false),
        ("refs/pull//head", false),
        ("refs/notes/a/b", true),
        ("refs/notes/", false),
        ("refs/stash", false),
    ] {
        assert_eq!(follow.matches(name.as_bytes()), expected, "{name}");
    }
    for wrong in ["refs/notes", "notes/*", "refs/*/a/*", "refs/a..b/*", ""] {
        assert!(Follow::new([wrong]).is_err(), "{wrong}");
    }
}

#[test]
fn the_digest_is_of_what_a_snapshot_shows() {
    let main = "ref: refs/heads/main\n";
    let of = |head: &str, packed: &str, loose: &[(&str, &str)], follow: &Follow| {
        let dir = bare(head, Some(packed), loose);
        read(dir.path(), follow).unwrap().digest()
    };
    let few = Follow::default();
    let packed = format!("{A} refs/heads/main\n{B} refs/tags/t\n");
    let digest = of(main, &packed, &[], &few);
    // The same refs in other files, and refs that are followed besides.
    let loose = [("refs/heads/main", A), ("refs/tags/t", B)];
    assert_eq!(of(main, "", &loose, &few), digest);
    let more = format!("{packed}{A} refs/x/1\n");
    let follow = Follow::new(["refs/x/*"]).unwrap();
    assert_eq!(of(main, &more, &[], &follow), digest);
    // Anything else is another digest.
    let detached = format!("{A}\n");
    let others = [
        of("ref: refs/heads/other\n", &packed, &[], &few),
        of(&detached, &packed, &[], &few),
        of(main, &packed, &[("refs/heads/main", B)], &few),
        of(main, &packed, &[("refs/tags/t", A)], &few),
        of(main, &packed, &[("refs/tags/u", B)], &few),
        of(main, &format!("{A} refs/heads/main\n"), &[], &few),
    ];
    for (number, other) in others.iter().enumerate() {
        assert_ne!(*other, digest, "number {number}");
    }
}

#[test]
fn a_name_that_is_no_path_is_no_ref() {
    let named = |name: &str| is_ref_name(name.as_bytes());
    assert!(named(&format!("refs/tags/{}", "n".repeat(255))));
    assert!(!named(&format!("refs/tags/{}", "n".repeat(256))));
    assert!(named(&format!("refs/tags/{}a", "a/".repeat(2000))));
    assert!(!named(&format!("refs/tags/{}a", "a/".repeat(2100))));
}

#[test]
fn names_that_are_in_the_way_of_each_other_are_found() {
    let first = |names: &[&'static str]| {
        let mut names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        names.sort();
        in_the_way(names).map(|name| std::str::from_utf8(name).unwrap())
    };
    assert_eq!(first(&["a", "a-b", "a.b/c", "ab", "b/a", "b-"]), None);
    assert_eq!(first(&["a", "b", "b"]), Some("b"));
    assert_eq!(first(&["a", "a/b"]), Some("a/b"));
    assert_eq!(first(&["a", "a-b", "a.b", "a/b/c"]), Some("a/b/c"));
    assert_eq!(
        first(&["a/b", "a/b.c", "a/b.c.d", "a/b.c/d"]),
        Some("a/b.c/d")
    );
    // Once quadratic in a name: minutes for names such as these.
    let long: Vec<Vec<u8>> = (0..200u32)
        .map(|number| [&b"a/".repeat(50_000)[..], &number.to_be_bytes()].concat())
        .collect();
    assert_eq!(in_the_way(long.iter().map(Vec::as_slice)), None);
}

/// What was read before is only a shortcut: whoever changes refs, by whatever way, is seen at once.
#[test]
fn refs_that_were_read_lately_are_read_again_when_they_change() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("repo.git");
    git(dir.path(), &["init", "-q", "--bare", "repo.git"]);
    let tree = git(&repo, &["hash-object", "-wt", "tree", "/dev/null"]);
    let commit = |text: &str| git(&repo, &["commit-tree", "-m", text, tree.trim()]);
    let (a, b) = (commit("a"), commit("b"));
    let (recent, follow) = (Recent::default(), Follow::default());
    let is_as_read = |what: &str| {
        let read = super::read(&repo, &follow).unwrap();
        for _ in 0..2 {
            assert_eq!(recent.read(&repo, &follow).unwrap(), read, "{what}");
        }
        read.refs.len()
    };
    assert_eq!(is_as_read("none"), 0);
    for n in 0..20 {
        let name = format!("refs/heads/b{n}");
        git(&repo, &["update-ref", &name, a.trim()]);
        assert_eq!(is_as_read("a loose one"), n + 1);
        git(&repo, &["pack-refs", "--all"]);
        is_as_read("packed");
        git(&repo, &["update-ref", &name, b.trim()]);
        is_as_read("a loose one that hides a packed one");
        git(&repo, &["pack-refs", "--all"]);
        let read = recent.read(&repo, &follow).unwrap();
        let again = recent.read(&repo, &follow).unwrap();
        assert!(Arc::ptr_eq(&read.refs, &again.refs), "it is not read again");
    }
    git(&repo, &["symbolic-ref", "HEAD", "refs/heads/b3"]);
    is_as_read("another HEAD");
    git(&repo, &["update-ref", "-d", "refs/heads/b3"]);
    assert_eq!(is_as_read("one fewer"), 19);
}

/// What a ref that is not followed is peeled to is not taken for another's.
#[test]
fn lines_of_refs_that_are_not_wanted_are_passed_over() {
    let text =
        format!("{A} refs/heads/a\n{A} refs/x/1\n^{B}\n# comment\n^{B}\n{B} refs/tags/t\n^{A}\n");
    let wanted = |name: &[u8]| !name.starts_with(b"refs/x/");
    let packed = parse_packed(Path::new("packed-refs"), text.as_bytes(), wanted).unwrap();
    let peeled: Vec<_> = packed
        .refs
        .iter()
        .map(|r| r.peeled.map(|id| id.to_string()))
        .collect();
    assert_eq!(peeled, [None, Some(A.to_owned())]);
}

#[test]
fn plain_names_are_names_to_git() {
    use proptest::prelude::*;
    let name = proptest::collection::vec(proptest::sample::select(&b"aZ09-_/.@{~"[..]), 0..12);
    proptest!(|(rest in name)| {
        let name = [b"refs/".as_slice(), &rest].concat();
        let by_git = gix::validate::reference::name(name.as_slice().into()).is_ok();
        prop_assert_eq!(is_ref_name(&name), by_git);
    });
}
