//! What is asked of a mirror's objects: whether they are there, and what is new since a commit.
//!
//! Nothing here takes the repository's lock. Objects only ever come; when maintenance joins
//! packs, git finds an object in the new pack by reading the list of packs again.
use crate::git::stdin_file;
use crate::mirror::error::MirrorError;
use crate::mirror::git::Git;
use gix::ObjectId;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// The tips of a bundle: HEAD, and the branch that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tips<'a> {
    /// Full name of the branch; `None` when HEAD is detached.
    pub branch: Option<&'a [u8]>,
    /// A commit that the receiver has, in lower-case hex.
    pub base: &'a str,
}

impl Git {
    /// Writes a bundle of what HEAD leads to and `base` does not to `into`, an empty file. The
    /// bundle has `HEAD` and, if HEAD names one, its branch. Both are read when git begins, so
    /// they may be newer than what the caller saw.
    ///
    /// # Errors
    /// [`MirrorError::Git`]; [`MirrorError::is_empty_bundle`] when there is nothing new.
    pub async fn bundle(
        &self,
        mirror: &Path,
        tips: Tips<'_>,
        into: File,
    ) -> Result<(), MirrorError> {
        let mut call = self.local(
            "git bundle",
            mirror,
            ["bundle", "create", "--quiet", "-", "HEAD"],
        );
        if let Some(branch) = tips.branch {
            call.args.push(OsString::from_vec(branch.to_vec()));
        }
        call.args.push(format!("^{}", tips.base).into());
        let about = call.about();
        let mut command = self.command(call);
        command.stdout(into);
        // Its output is the file.
        let nothing = async |_| Ok(());
        self.feed(about, command, nothing, std::future::pending())
            .await
    }

    /// Writes the same of what a commit leads to, whatever ref leads to it; the bundle has it as `HEAD`. `base` is in
    /// lower-case hex.
    ///
    /// # Errors
    /// [`MirrorError::Git`].
    pub async fn bundle_at(
        &self,
        repository: &Path,
        (base, commit): (&str, ObjectId),
        into: File,
    ) -> Result<(), MirrorError> {
        let io = |source| MirrorError::io("write a bundle of", repository, source);
        // Git makes bundles of refs alone (gitformat-bundle(5)).
        let version = match commit.kind() {
            gix::hash::Kind::Sha1 => "2 git bundle\n".to_owned(),
            kind => format!("3 git bundle\n@object-format={kind}\n"),
        };
        let head = format!("# v{version}-{base} \n{commit} HEAD\n\n");
        let stdin = stdin_file(format!("{commit}\n^{base}\n").as_bytes()).map_err(io)?;
        let out = into.try_clone().map_err(io)?;
        let written = tokio::task::spawn_blocking(move || (&out).write_all(head.as_bytes()));
        let written = written.await.map_err(std::io::Error::other);
        written.and_then(|written| written).map_err(io)?;
        let args = [
            "pack-objects",
            "--revs",
            "--thin",
            "--delta-base-offset",
            "--stdout",
            "-q",
        ];
        let mut call = self.local("git pack-objects", repository, args);
        call.stdin = Some(stdin);
        let about = call.about();
        let mut command = self.command(call);
        command.stdout(into);
        // Its output is the file.
        let nothing = async |_| Ok(());
        self.feed(about, command, nothing, std::future::pending())
            .await
    }

    /// The kind of each object (`commit`, `tag`, ...), in the order of `ids`; `None` for one
    /// that the mirror does not have. Ids are whole, in lower-case hex.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when the mirror cannot be read.
    pub async fn kinds(
        &self,
        mirror: &Path,
        ids: &[String],
    ) -> Result<Vec<Option<String>>, MirrorError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut text = ids.join("\n");
        text.push('\n');
        let stdin = stdin_file(text.as_bytes())
            .map_err(|source| MirrorError::io("list objects to look for in", mirror, source))?;
        let format = "--batch-check=%(objectname) %(objecttype)";
        let mut call = self.local("git cat-file", mirror, ["cat-file", format]);
        call.stdin = Some(stdin);
        let out = self.output(call).await?;
        let out = String::from_utf8_lossy(&out);
        let mut lines = out.lines();
        let kinds = ids.iter().map(|id| {
            // An id that is too short for the repository names whatever it is the beginning of.
            let kind = lines.next()?.strip_prefix(id.as_str())?.strip_prefix(' ')?;
            (kind != "missing").then(|| kind.to_owned())
        });
        Ok(kinds.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::testing::{Scratch, git, run as wait};
    use std::io::{Read, Seek};

    #[test]
    fn kinds_of_what_is_there_and_of_what_is_not() {
        let scratch = Scratch::with_commit();
        let up = scratch.up();
        let commit = git(&up, &["rev-parse", "main"]);
        let tree = git(&up, &["rev-parse", "main^{tree}"]);
        let ids = [
            tree,
            "1".repeat(40),
            commit.clone(),
            format!("{commit}{}", "0".repeat(24)),
        ];
        let kinds = wait(scratch.git.kinds(&up, &ids)).unwrap();
        let expected = [Some("tree"), None, Some("commit"), None];
        assert_eq!(
            kinds.iter().map(|k| k.as_deref()).collect::<Vec<_>>(),
            expected
        );
        assert_eq!(wait(scratch.git.kinds(&up, &[])).unwrap(), Vec::new());
        let missing = scratch.root().join("nothing.git");
        assert!(wait(scratch.git.kinds(&missing, &ids)).is_err());
    }

    #[test]
    fn a_bundle_of_a_commit_is_one_that_git_takes() {
        let scratch = Scratch::with_commit();
        let up = scratch.up();
        let base = git(&up, &["rev-parse", "main"]);
        scratch.commit("main", "two");
        let commit = ObjectId::from_hex(git(&up, &["rev-parse", "main"]).as_bytes()).unwrap();
        let path = scratch.root().join("bundle");
        let file = File::create_new(&path).unwrap();
        wait(scratch.git.bundle_at(&up, (&base, commit), file)).unwrap();
        let listed = git(&up, &["bundle", "list-heads", &path.to_string_lossy()]);
        assert_eq!(listed, format!("{commit} HEAD"));
        git(&up, &["bundle", "verify", &path.to_string_lossy()]);
    }

    #[test]
    fn a_bundle_has_head_and_its_branch() {
        let scratch = Scratch::with_commit();
        let base = git(&scratch.up(), &["rev-parse", "main"]);
        let tips = Tips {
            branch: Some(b"refs/heads/main"),
            base: &base,
        };
        let mut file = tempfile::tempfile().unwrap();
        let up = scratch.up();
        let made = |file: &File| {
            wait(
                scratch
                    .git
                    .bundle(&up, tips.clone(), file.try_clone().unwrap()),
            )
        };
        let nothing = made(&file).unwrap_err();
        assert!(nothing.is_empty_bundle(), "{nothing}");
        scratch.commit("main", "two");
        let head = git(&up, &["rev-parse", "main"]);
        file.set_len(0).unwrap();
        file.rewind().unwrap();
        made(&file).unwrap();
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains(&format!("\n-{base}")), "{text}");
        assert!(
            text.contains(&format!("\n{head} HEAD\n{head} refs/heads/main\n")),
            "{text}"
        );
    }
}
