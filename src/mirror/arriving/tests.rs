use super::*;
use crate::mirror::testing::{Scratch, git, git_with, run};
use sha1::{Digest, Sha1};
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::SystemTime;

#[test]
fn only_names_of_packs_become_paths() {
    let hash = "0123456789abcdef0123456789abcdef01234567";
    let name = format!("pack-{hash}.idx");
    assert_eq!(pack_of(&name), Some(&*format!("pack-{hash}")));
    let others = [
        format!("pack-{hash}.keep"),
        format!("pack-{hash}"),
        format!("pack-{hash}.pack.idx"),
        format!("pack-../{hash}.idx"),
        format!("{hash}.idx"),
        "pack-.idx".to_owned(),
    ];
    assert!(others.iter().all(|name| pack_of(name).is_none()));
}

/// A mirror that lacks what its upstream has, and another server's pack of that; gives the pack without its end.
fn with_pack(format: &str) -> (Scratch, PathBuf) {
    let s = Scratch::new(format);
    s.commit("main", "one");
    s.clone_mirror();
    s.commit("main", "two");
    let pack = pack_of_all(&s, "other");
    (s, pack)
}

/// All that the upstream has, in one pack.
fn pack_of_all(s: &Scratch, name: &str) -> PathBuf {
    let dir = s.root().join(name);
    std::fs::create_dir(&dir).unwrap();
    let into = dir.join("pack");
    let args = ["pack-objects", "-q", "--all", into.to_str().unwrap()];
    let hash = git(&s.up(), &args);
    dir.join(format!("pack-{hash}"))
}

fn stem_of(pack: &Path) -> String {
    pack.file_name().unwrap().to_str().unwrap().to_owned()
}

/// It comes as it is, or with another index.
fn arrive(s: &Scratch, pack: &Path, index: Option<&[u8]>) -> Arriving {
    let arriving = Arriving::begin(&s.staging()).unwrap();
    let stem = stem_of(pack);
    let at = |end: &str| arriving.place_of(&format!("{stem}.{end}"));
    fs::copy(pack.with_extension("pack"), at("pack")).unwrap();
    match index {
        None => drop(fs::copy(pack.with_extension("idx"), at("idx")).unwrap()),
        Some(index) => fs::write(at("idx"), index).unwrap(),
    }
    arriving
}

fn index(s: &Scratch, pack: &Path, arriving: Arriving) -> Result<Indexed, MirrorError> {
    let stems = vec![stem_of(pack)];
    run(s.git.index(&s.mirror(), arriving, stems))
}

fn lacks(s: &Scratch, pack: &Path) -> bool {
    let stem = stem_of(pack);
    let missing = missing_of(&s.mirror(), [&stem].into_iter()).unwrap();
    missing.contains(&stem)
}

fn left(s: &Scratch) -> usize {
    fs::read_dir(s.staging()).unwrap().count()
}

#[test]
fn what_is_put_is_there_whole_and_what_is_not_goes() {
    for format in ["sha1", "sha256"] {
        let (s, pack) = with_pack(format);
        drop(arrive(&s, &pack, None));
        assert_eq!(left(&s), 0, "{format}");
        let indexed = index(&s, &pack, arrive(&s, &pack, None)).unwrap();
        assert!(lacks(&s, &pack), "{format}");
        assert_eq!(indexed.count(), 1);
        run(indexed.put(&s.mirror())).unwrap();
        assert!(!lacks(&s, &pack), "{format}");
        assert_eq!(left(&s), 0, "{format}");
        let placed = s.mirror().join("objects/pack").join(stem_of(&pack));
        for end in ENDS {
            let mode = fs::metadata(placed.with_extension(end)).unwrap();
            assert_eq!(mode.permissions().mode() & 0o777, 0o444, "{end}");
        }
        // It is the one that came: archives name its sum.
        let [ours, theirs] = [&placed, &pack].map(|pack| fs::read(pack.with_extension("idx")));
        assert!(ours.unwrap() == theirs.unwrap(), "{format}: another index");
        s.freshen();
        s.assert_equal();
        git(&s.mirror(), &["fsck", "--full", "--strict"]);
    }
}

/// Or what expires here would be kept by a pack that is young.
#[test]
fn a_pack_is_as_old_as_what_refs_have_left() {
    let (s, pack) = with_pack("sha1");
    let left = gix::ObjectId::from_bytes_or_panic(&[1; 20]);
    journal::add(&s.mirror(), &[left].into(), 1_000_000).unwrap();
    let indexed = index(&s, &pack, arrive(&s, &pack, None)).unwrap();
    run(indexed.put(&s.mirror())).unwrap();
    let placed = s.mirror().join("objects/pack").join(stem_of(&pack));
    for end in ENDS {
        let modified = fs::metadata(placed.with_extension(end)).unwrap().modified();
        let unix_ms = modified.unwrap().duration_since(SystemTime::UNIX_EPOCH);
        assert_eq!(unix_ms.unwrap().as_millis(), 1_000_000, "{end}");
    }
}

/// The index of one pack as if it were that of another: all that is looked at without reading the pack is right.
pub(in crate::mirror) fn forged_index(of: &Path, pack: &Path) -> Vec<u8> {
    let mut index = fs::read(of.with_extension("idx")).unwrap();
    let pack = fs::read(pack.with_extension("pack")).unwrap();
    let end = index.len() - 20;
    index[end - 20..end].copy_from_slice(&pack[pack.len() - 20..]);
    let sum = Sha1::digest(&index[..end]);
    index[end..].copy_from_slice(&sum);
    index
}

#[test]
fn what_is_not_what_it_says_is_no_pack_of_a_mirror() {
    let (s, pack) = with_pack("sha1");
    let rubbish = git_with(&s.up(), &["hash-object", "-w", "--stdin"], b"rubbish");
    let into = s.root().join("rubbish");
    let args = ["pack-objects", "-q", into.to_str().unwrap()];
    let hash = git_with(&s.up(), &args, format!("{rubbish}\n").as_bytes());
    let other = s.root().join(format!("rubbish-{hash}"));
    let named = s.root().join(format!("pack-{hash}"));
    for end in ["pack", "idx"] {
        fs::rename(other.with_extension(end), named.with_extension(end)).unwrap();
    }
    let refused = |pack: &Path, arriving: Arriving| {
        let refused = index(&s, pack, arriving).unwrap_err();
        assert!(lacks(&s, pack));
        assert_eq!(left(&s), 0);
        refused
    };
    // An index that has what the pack has not.
    let forged = forged_index(&pack, &named);
    let why = refused(&named, arrive(&s, &named, Some(&forged)));
    assert!(matches!(why, MirrorError::Output { .. }), "{why}");
    assert!(are_wrong_packs(&why), "{why}");
    // One that is none, and none at all.
    let why = refused(&named, arrive(&s, &named, Some(&[7; 40])));
    assert!(matches!(why, MirrorError::Output { .. }), "{why}");
    let why = refused(&named, arrive(&s, &named, Some(b"short")));
    assert!(matches!(why, MirrorError::Io { .. }), "{why}");
    // A pack that ends too early, and one that is another.
    let arriving = arrive(&s, &pack, None);
    let short = fs::read(pack.with_extension("pack")).unwrap();
    let place = arriving.place_of(&format!("{}.pack", stem_of(&pack)));
    fs::remove_file(&place).unwrap();
    fs::write(&place, &short[..short.len() / 2]).unwrap();
    let why = refused(&pack, arriving);
    assert!(matches!(why, MirrorError::Git { .. }), "{why}");
    assert!(are_wrong_packs(&why), "{why}");
    let arriving = arrive(&s, &pack, None);
    let place = arriving.place_of(&format!("{}.pack", stem_of(&pack)));
    fs::remove_file(&place).unwrap();
    fs::copy(named.with_extension("pack"), &place).unwrap();
    let why = refused(&pack, arriving);
    assert!(matches!(why, MirrorError::Output { .. }), "{why}");
    // Names of another object format.
    let long = format!("pack-{}", "1".repeat(64));
    assert!(missing_of(&s.mirror(), [&long].into_iter()).is_err());
}

/// Somebody else's limit of time may end whoever waits for it.
#[test]
fn who_is_left_half_way_has_put_all_of_it() {
    let (s, pack) = with_pack("sha1");
    let indexed = index(&s, &pack, arrive(&s, &pack, None)).unwrap();
    run(async {
        let mirror = s.mirror();
        let mut put = Box::pin(indexed.put(&mirror));
        let once = |context: &mut Context<'_>| {
            let _ = put.as_mut().poll(context);
            Poll::Ready(())
        };
        poll_fn(once).await;
        assert!(!lacks(&s, &pack));
    });
    assert_eq!(left(&s), 0);
    s.freshen();
    s.assert_equal();
}
