//! A mirror that begins with what another server has shared: from its upstream comes only what is new, or nothing where that
//! does not answer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use gix::ObjectId;
use gix::bstr::ByteSlice;
use gix::hash::Kind;
use tokio::sync::RwLock;

use crate::limits::SHARED_HEADS_TRIED_MAX;
use crate::mirror::blocking::blocking;
use crate::mirror::error::MirrorError;
use crate::mirror::git::Git;
use crate::mirror::upstream::{Staging, Word};
use crate::refs::{self, Follow, Head, MirrorRefs};

/// Whether refs, with their HEAD, are those that were shared.
pub(crate) type AreShared = Arc<dyn Fn(&MirrorRefs) -> bool + Send + Sync>;

/// What a mirror can begin with: all that its refs lead to is in its packs.
#[derive(Debug, Clone)]
pub(crate) struct Seed {
    /// Where the packs are below.
    pub home: PathBuf,
    /// Their files, relative to that and to a repository. They are linked.
    pub packs: Vec<String>,
    /// The refs, as `packed-refs` has them.
    pub refs: Vec<u8>,
    /// What HEAD leads to, or some ref where that is not known.
    commit: ObjectId,
}

impl Seed {
    /// That of a commit, which is all that is known of its refs; all that it leads to is in these packs.
    pub(crate) fn of_commit(home: PathBuf, packs: Vec<String>, commit: ObjectId) -> Seed {
        Seed {
            home,
            packs,
            refs: format!("{commit} refs/heads/shared\n").into_bytes(),
            commit,
        }
    }

    /// That of refs, as `packed-refs` has them; all that they lead to is in these packs. `None` if there are none.
    pub(crate) fn of_refs(home: PathBuf, packs: Vec<String>, refs: Vec<u8>) -> Option<Seed> {
        let mut lines = refs.lines().filter(|line| !line.starts_with(b"#"));
        let (id, _) = lines.next()?.split_once_str(" ")?;
        let commit = ObjectId::from_hex(id).ok()?;
        Some(Seed {
            home,
            packs,
            refs,
            commit,
        })
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
        let config = match self.commit.kind() {
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

    /// Writes which HEAD was shared; `false` if none of those that it may be was.
    fn set_head(
        &self,
        repo: &Path,
        are_shared: &dyn Fn(&MirrorRefs) -> bool,
    ) -> Result<bool, MirrorError> {
        let mut found = refs::read(repo, &Follow::default())?;
        for head in heads_at(self.commit, &found) {
            found.head = head;
            if are_shared(&found) {
                let text = match &found.head {
                    Head::Symbolic(name) => format!("ref: {name}\n"),
                    Head::Detached(id) => format!("{id}\n"),
                };
                let path = repo.join("HEAD");
                let written = std::fs::write(&path, text);
                written.map_err(|source| MirrorError::io("write", &path, source))?;
                return Ok(true);
            }
        }
        Ok(false)
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
        self.put_in_place((repo, url), dest, (began, Word::Own))
            .await
    }

    /// The same as others have had it `compared`, without a word of the upstream; `false` if which branch HEAD names cannot be
    /// told, for that is not shared.
    ///
    /// # Errors
    /// Every [`MirrorError`] but those of an upstream.
    pub(crate) async fn plant_mirror(
        &self,
        (url, dest, staging_dir): (&str, &Path, &Path),
        (seed, are_shared): (&Seed, AreShared),
        compared: SystemTime,
    ) -> Result<bool, MirrorError> {
        let staging = Staging::new(staging_dir, self.removals.clone())?;
        let repo = staging.path.join("repo.git");
        let (path, seed) = (repo.clone(), seed.clone());
        let result = async {
            let planted = blocking(&repo, move || {
                seed.plant(&path)?;
                seed.set_head(&path, &*are_shared)
            });
            if !planted.await? {
                return Ok(false);
            }
            self.set_up_clone(&repo, url).await?;
            self.put_in_place((&repo, url), dest, (compared, Word::Others))
                .await?;
            Ok(true)
        };
        let result = result.await;
        staging.remove().await?;
        result
    }
}

/// What HEAD may be where it leads to this commit; first what it is most often.
fn heads_at(commit: ObjectId, refs: &MirrorRefs) -> Vec<Head> {
    let branches = refs.refs.iter().filter(|one| one.target == commit);
    let names = branches.map(|one| &one.name);
    let mut names = Vec::from_iter(names.filter(|name| name.starts_with_str("refs/heads/")));
    names.sort_by_key(|name| *name != "refs/heads/main" && *name != "refs/heads/master");
    names.truncate(SHARED_HEADS_TRIED_MAX);
    let heads = names.into_iter().cloned().map(Head::Symbolic);
    heads.chain([Head::Detached(commit)]).collect()
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
        let commit = git(&home, &["rev-parse", "main"]).parse().unwrap();
        let seed = Seed {
            packs: packs(&home),
            refs,
            commit,
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
        let seed = Seed::of_commit(seed.home, seed.packs, seed.commit);
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
