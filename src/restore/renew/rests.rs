//! What is left of repositories of submodules that went piece by piece, by a run that was killed: it had looked at them,
//! and their HEAD goes first. What has one is a repository, and is looked at as any other.

use std::fs;
use std::path::{Path, PathBuf};

/// Those of these paths, relative to the repository at `git_dir`, which the note of such a run names.
pub(super) fn of(git_dir: &Path, mut named: Vec<PathBuf>) -> Vec<PathBuf> {
    named.retain(|path| is_rest(git_dir, path));
    named.sort_unstable();
    // What is inside of one goes with it.
    named.dedup_by(|later, first| later.starts_with(&*first));
    named
}

/// Keeps those that have nothing to do with these repositories: what is inside of one goes with it, or stays.
pub(super) fn keep_apart(rests: &mut Vec<PathBuf>, from: &[PathBuf]) {
    let is_apart = |rest: &Path, one: &Path| !rest.starts_with(one) && !one.starts_with(rest);
    rests.retain(|rest| from.iter().all(|one| is_apart(rest, one)));
}

/// Whether the directory at `path` has some of them, or is one.
pub(super) fn has(rests: &[PathBuf], path: &Path) -> bool {
    rests.iter().any(|rest| rest.starts_with(path))
}

/// Only directories lead to it, and it has no HEAD.
fn is_rest(git_dir: &Path, path: &Path) -> bool {
    let above = path
        .ancestors()
        .filter(|above| !above.as_os_str().is_empty());
    let is_directory = |path: &Path| {
        let found = fs::symlink_metadata(git_dir.join(path));
        found.is_ok_and(|found| found.is_dir())
    };
    let has_head = fs::symlink_metadata(git_dir.join(path).join("HEAD")).is_ok();
    above.into_iter().all(is_directory) && !has_head
}

#[cfg(test)]
mod tests {
    use super::super::note::Way;
    use super::*;

    #[test]
    fn what_is_named_and_has_no_head_is_left() {
        let base = tempfile::tempdir().unwrap();
        let git_dir = base.path().join("git");
        for path in [
            "git/modules/a/refs",
            "git/modules/a/modules/in",
            "git/modules/b",
            "git/modules/libs/c",
            "git/hooks",
            "elsewhere/d",
        ] {
            fs::create_dir_all(base.path().join(path)).unwrap();
        }
        fs::write(git_dir.join("modules/b/HEAD"), "a repository").unwrap();
        fs::write(git_dir.join("modules/file"), "no directory").unwrap();
        let link = git_dir.join("modules/link");
        std::os::unix::fs::symlink(base.path().join("elsewhere"), link).unwrap();
        let absolute = base.path().join("elsewhere").display().to_string();
        let named = [
            "modules/libs/c",
            "modules/a/modules/in",
            "modules/a",
            "modules/b",
            "modules/file",
            "modules/gone",
            "modules/link/d",
            "modules/../hooks",
            "modules/two\nhooks",
            "modules",
            "hooks",
            "",
            &absolute,
        ];
        let way = Way {
            from: None,
            to: vec![None],
            repositories: named.map(PathBuf::from).to_vec(),
        };
        way.write(&git_dir, &base.path().join("scratch")).unwrap();
        let way = Way::left(&git_dir).unwrap();
        assert_eq!((way.from, way.to), (None, vec![None]));
        let mut rests = of(&git_dir, way.repositories);
        assert_eq!(rests, ["modules/a", "modules/libs/c"].map(PathBuf::from));
        assert!(has(&rests, Path::new("modules/libs")) && !has(&rests, Path::new("modules/b")));
        keep_apart(&mut rests, &[PathBuf::from("modules/libs/c/modules/e")]);
        assert_eq!(rests, [PathBuf::from("modules/a")]);
    }

    #[test]
    fn a_note_is_never_too_long_to_be_read() {
        let git_dir = tempfile::tempdir().unwrap();
        let one = |number| PathBuf::from(format!("modules/{number}-{}", "x".repeat(1000)));
        let way = Way {
            from: None,
            to: vec![None],
            repositories: (0..100).map(one).collect(),
        };
        let scratch = git_dir.path().join("scratch");
        way.write(git_dir.path(), &scratch).unwrap();
        let left = Way::left(git_dir.path()).unwrap();
        let count = left.repositories.len();
        assert!((50..100).contains(&count), "{count}");
        assert_eq!(left.repositories[..], way.repositories[..count]);
    }
}
