use super::*;
use std::process::Command;
use tempfile::TempDir;

/// A state directory with a mirror, two snapshots that share its pack and each other's frames, a build, a
/// clone, and a file of somebody else.
struct Ground {
    dir: TempDir,
    ledger: Ledger,
}

const FIRST: &str = "00000000000000000000000000000001";
const SECOND: &str = "00000000000000000000000000000002";

impl Ground {
    fn new() -> Ground {
        let ground = Ground {
            dir: tempfile::tempdir().unwrap(),
            ledger: Ledger::default(),
        };
        let mirror = ground.mirror();
        fs::create_dir_all(mirror.join("objects/pack")).unwrap();
        fs::create_dir_all(ground.dir.path().join("mirrors/host/empty/inside")).unwrap();
        ground.write("mirrors/host/a.git/HEAD", 20);
        ground.write("mirrors/host/a.git/objects/pack/p.pack", 100_000);
        for (id, frames) in [(FIRST, "one"), (SECOND, "two")] {
            ground.write(&format!("snapshots/{id}/meta"), 300);
            ground.write(&format!("snapshots/{id}/frames/{frames}"), 50_000);
            ground.link(
                "mirrors/host/a.git/objects/pack/p.pack",
                &format!("snapshots/{id}/objects/pack/p.pack"),
            );
        }
        let frames = |id| format!("snapshots/{id}/frames/one");
        ground.link(&frames(FIRST), &frames(SECOND));
        ground.write("snapshots/.building-7/frames/three", 30_000);
        ground.write("tmp/clone-x/repo.git/objects/pack/q.pack", 40_000);
        ground.write("lock", 5);
        ground
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn mirror(&self) -> PathBuf {
        self.path("mirrors/host/a.git")
    }

    fn write(&self, below: &str, bytes: usize) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![1; bytes]).unwrap();
    }

    fn link(&self, from: &str, to: &str) {
        let to = self.path(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::hard_link(self.path(from), to).unwrap();
    }

    /// What `du` says, without the directories that everything is in.
    fn du(&self) -> u64 {
        let output = Command::new("du")
            .args(["-s", "--block-size=1"])
            .arg(self.dir.path())
            .output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let all: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
        let blocks = |below| fs::metadata(self.path(below)).unwrap().blocks() * BLOCK_BYTES;
        all - blocks("") - blocks("snapshots") - blocks("tmp")
    }

    fn look(&mut self, changed: &[PathBuf], is_full: bool) {
        let rest = if is_full { 0 } else { u32::MAX };
        let changed = changed.iter().cloned().collect();
        self.ledger.look(self.dir.path(), &changed, rest).unwrap();
    }

    fn own(&self, below: &str) -> u64 {
        let units = &self.ledger.units;
        units[&self.path(below)].own_bytes
    }
}

#[test]
fn every_file_is_counted_once() {
    let mut ground = Ground::new();
    ground.look(&[], true);
    assert_eq!(ground.ledger.total_bytes(), ground.du());
    assert_eq!(
        ground
            .ledger
            .by_part()
            .iter()
            .map(|(_, bytes)| bytes)
            .sum::<u64>(),
        ground.du()
    );
    assert_eq!(ground.ledger.mirrors(), 1);
    assert!(ground.ledger.largest_passing_bytes(&HashSet::new()) > 40_000);
    assert!(
        ground.own(&format!("snapshots/{SECOND}")) < 50_000,
        "frames are shared"
    );

    // What a plan needs to know of the two files that have several names.
    let mut places = Places::new(&ground.ledger);
    for path in [ground.mirror(), ground.path(&format!("snapshots/{FIRST}"))] {
        places.of(&path).unwrap();
    }
    let (_, names) = places
        .of(&ground.path(&format!("snapshots/{SECOND}")))
        .unwrap();
    assert_eq!(names.len(), 3);
    let mut counts: Vec<u64> = places.shared().iter().map(|file| file.names).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 2, 3]);

    // All that may leave is everything but what is no candidate's.
    let mirror = ground.mirror();
    let leaving = HashSet::from([mirror.as_path()]);
    let fixed = ground.ledger.fixed(&leaving).0;
    assert!(
        fixed > 200_000 && fixed < ground.ledger.total_bytes(),
        "{fixed}"
    );
}

/// Whatever comes, changes and goes, a look finds it, and what did not change is not walked through.
#[test]
fn a_look_follows_what_changes() {
    let mut ground = Ground::new();
    ground.look(&[], true);
    let looked = |ground: &Ground, below: &str| ground.ledger.units[&ground.path(below)].looked;
    let second = format!("snapshots/{SECOND}");
    let before = (
        looked(&ground, "mirrors/host/a.git"),
        looked(&ground, &second),
    );

    fs::remove_dir_all(ground.path(&format!("snapshots/{FIRST}"))).unwrap();
    fs::remove_dir_all(ground.path("tmp/clone-x")).unwrap();
    ground.write("snapshots/.building-7/frames/three", 90_000);
    ground.look(&[], true);
    assert_eq!(ground.ledger.total_bytes(), ground.du());
    let after = (
        looked(&ground, "mirrors/host/a.git"),
        looked(&ground, &second),
    );
    assert_eq!(before, after, "walked through for nothing");

    // A fetch, which the server knows of, and somebody's own.
    ground.write("mirrors/host/a.git/objects/pack/r.pack", 70_000);
    ground.look(&[ground.mirror()], false);
    assert_eq!(ground.ledger.total_bytes(), ground.du());
    ground.write("mirrors/host/a.git/objects/pack/s.pack", 70_000);
    ground.write("mirrors/host/b.git/objects/pack/t.pack", 70_000);
    ground.write("mirrors/host/b.git/HEAD", 20);
    ground.look(&[], true);
    assert_eq!(ground.ledger.total_bytes(), ground.du());

    fs::remove_dir_all(ground.path("mirrors/host")).unwrap();
    ground.look(&[], true);
    assert_eq!(ground.ledger.total_bytes(), ground.du());
    assert!(!ground.ledger.has(&ground.mirror()));
    fs::remove_dir_all(ground.path("snapshots")).unwrap();
    ground.look(&[], false);
    assert!(!ground.ledger.has(&ground.path(&second)));
    ground.ledger.units.clear();
}

/// What was forgotten before the next look is the same as if that had found it gone.
#[test]
fn what_leaves_is_forgotten_with_its_names() {
    let mut ground = Ground::new();
    ground.look(&[], true);
    for below in [
        &*format!("snapshots/{FIRST}"),
        &*format!("snapshots/{SECOND}"),
        "mirrors/host/a.git",
    ] {
        ground.ledger.forget(&ground.path(below));
        fs::remove_dir_all(ground.path(below)).unwrap();
        assert_eq!(ground.ledger.total_bytes(), ground.du(), "{below}");
    }
}
