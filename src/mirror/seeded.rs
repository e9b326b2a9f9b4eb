//! A mirror that begins with what another server has shared: from its upstream comes only what is new.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use gix::hash::Kind;
use tokio::sync::RwLock;

use crate::mirror::blocking::blocking;
use crate::mirror::error::MirrorError;
use crate::mirror::git::Git;
use crate::mirror::upstream::Staging;

/// What a mirror can begin with: all that its refs lead to is in its packs.
#[derive(Debug, Clone)]
pub(crate) struct Seed {
    /// Where the packs are below.
    pub home: PathBuf,
    /// Their files, relative to that and to a repository. They are linked.
    pub packs: Vec<String>,
    /// The refs, as `packed-refs` has them.
    pub refs: Vec<u8>,
    /// The object format.
    format: Kind,
}

impl Seed {
    /// That of a commit, which is all that is known of its refs; all that it leads to is in these packs.
    pub(crate) fn of_commit(home: PathBuf, packs: Vec<String>, commit: &str) -> Seed {
        Seed {
            home,
            packs,
            refs: format!("{commit} refs/heads/shared\n").into_bytes(),
            format: match commit.len() {
                40 => Kind::Sha1,
                _ => Kind::Sha256,
            },
        }
    }

    /// Makes a bare repository of it.
    fn plant(&self, repo: &Path) -> Result<(), MirrorError> {
        let made = |path: &Path, done: io::Result<()>| {
            done.map_err(|source| MirrorError::io("make", path, source))
        };
        for dir in ["objects/pack", "objects/info", "refs/heads", "refs/tags"] {
            let dir = repo.join(dir);
            made(&dir, std::fs::create_dir_all(&dir))?;
        }
        let config = match self.format {
            Kind::Sha1 => "[core]\n\trepositoryformatversion = 0\n\tbare = true\n".to_owned(),
            other => format!(
                "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = {other}\n"
            ),
        };
        let files = [
            ("config", config.as_bytes()),
            // The upstream says what it is.
            ("HEAD", b"ref: refs/heads/main\n"),
            ("packed-refs", &self.refs),
        ];
        for (name, bytes) in files {
            let path = repo.join(name);
            made(&path, std::fs::write(&path, bytes))?;
        }
        for pack in &self.packs {
            let path = repo.join(pack);
            made(&path, std::fs::hard_link(self.home.join(pack), &path))?;
        }
        Ok(())
    }
}

impl Git {
    /// As [`clone_mirror`](Self::clone_mirror), but what is there already is not fetched again.
    ///
    /// # Errors
    /// Every [`MirrorError`].
    pub(crate) async fn clone_seeded(
        &self,
        url: &str,
        dest: &Path,
        staging_dir: &Path,
        seed: &Seed,
    ) -> Result<(), MirrorError> {
        let staging = Staging::new(staging_dir, self.removals.clone())?;
        let repo = staging.path.join("repo.git");
        let result = self.grow_into(url, &repo, dest, seed.clone()).await;
        staging.remove().await?;
        result
    }

    async fn grow_into(
        &self,
        url: &str,
        repo: &Path,
        dest: &Path,
        seed: Seed,
    ) -> Result<(), MirrorError> {
        let began = SystemTime::now();
        let path = repo.to_owned();
        blocking(repo, move || seed.plant(&path)).await?;
        self.set_up_clone(repo, url).await?;
        self.freshen(repo, url, &RwLock::new(())).await?;
        // It has no journal: what its refs do not lead to, and others have left in its packs, is looked for.
        self.put_in_place((repo, url), dest, began).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::packed::text;
    use crate::mirror::testing::{Scratch, git, run};
    use crate::refs::{self, Follow};

    fn packs(mirror: &Path) -> Vec<String> {
        let files = std::fs::read_dir(mirror.join("objects/pack")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names = Vec::from_iter(names.map(|name| format!("objects/pack/{name}")));
        names.sort();
        names
    }

    /// A mirror that another server had, and what has happened since.
    fn shared(format: &str) -> (Scratch, Seed) {
        let s = Scratch::new(format);
        s.commit("main", "one");
        s.commit("gone", "two");
        s.upstream(&["tag", "-m", "annotated", "v1", "main"]);
        s.clone_mirror();
        let home = s.root().join("shared.git");
        std::fs::rename(s.mirror(), &home).unwrap();
        let refs = text(&refs::read(&home, &Follow::default()).unwrap());
        let seed = Seed {
            packs: packs(&home),
            refs,
            format: format.parse().unwrap(),
            home,
        };
        s.upstream(&["update-ref", "-d", "refs/heads/gone"]);
        s.commit("main", "three");
        s.commit("new", "four");
        (s, seed)
    }

    #[test]
    fn only_what_is_new_is_fetched() {
        for format in ["sha1", "sha256"] {
            let (s, seed) = shared(format);
            run(s
                .git
                .clone_seeded(&s.url(), &s.mirror(), &s.staging(), &seed))
            .unwrap();
            s.assert_equal();
            s.assert_staging_empty();
            let config = |key| git(&s.mirror(), &["config", "--local", key]);
            assert_eq!(
                (config("remote.origin.url"), config("gc.auto")),
                (s.url(), "0".into())
            );
            let mut new = packs(&s.mirror());
            new.retain(|pack| !seed.packs.contains(pack));
            let new = new.into_iter().find(|pack| pack.ends_with(".idx")).unwrap();
            let idx = s.mirror().join(new);
            let listed = git(&s.mirror(), &["verify-pack", "-v", idx.to_str().unwrap()]);
            assert_eq!(listed.matches(" commit ").count(), 2, "{listed}");
            // It is a mirror as any other.
            s.commit("main", "five");
            s.freshen();
            s.assert_equal();
        }
    }

    /// Where no more is known than a commit the rest comes as well.
    #[test]
    fn a_commit_is_enough() {
        let (s, seed) = shared("sha1");
        let main = git(&seed.home, &["rev-parse", "main"]);
        let seed = Seed::of_commit(seed.home, seed.packs, &main);
        run(s
            .git
            .clone_seeded(&s.url(), &s.mirror(), &s.staging(), &seed))
        .unwrap();
        s.assert_equal();
    }

    #[test]
    fn what_is_no_seed_leaves_nothing() {
        let (s, mut seed) = shared("sha1");
        seed.refs = b"no refs\n".to_vec();
        let broken = run(s
            .git
            .clone_seeded(&s.url(), &s.mirror(), &s.staging(), &seed));
        assert!(broken.is_err() && !s.mirror().exists());
        seed.refs.clear();
        seed.packs.push("objects/pack/not-there".into());
        let broken = run(s
            .git
            .clone_seeded(&s.url(), &s.mirror(), &s.staging(), &seed));
        assert!(matches!(broken, Err(MirrorError::Io { .. })), "{broken:?}");
        s.assert_staging_empty();
    }
}
