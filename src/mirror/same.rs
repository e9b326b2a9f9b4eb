//! Whether an upstream still has the repository that a mirror is of. A name can be given up, and taken by
//! somebody else: then what was mirrored is nobody's who may read what is there now.

use std::collections::HashSet;
use std::path::Path;

use gix::ObjectId;

use super::error::MirrorError;
use super::git::{Call, Git};
use crate::git::stdin_file;
use crate::refs::{MirrorRefs, Ref};

impl Git {
    /// Whether the refs of a listing, whose objects are there, are those of the same repository: some name is
    /// still there, and some of their histories have something in common with those that the mirror has.
    pub(super) async fn is_the_same(
        &self,
        mirror: &Path,
        local: &MirrorRefs,
        listed: &[Ref],
    ) -> Result<bool, MirrorError> {
        if local.refs.is_empty() {
            return Ok(true);
        }
        let names: HashSet<&[u8]> = local.refs.iter().map(|one| &**one.name).collect();
        let tips: HashSet<ObjectId> = local.refs.iter().map(|one| one.target).collect();
        if !listed.iter().any(|one| names.contains(&**one.name)) {
            return Ok(false);
        }
        if listed.iter().any(|one| tips.contains(&one.target)) {
            return Ok(true);
        }
        self.have_common_history(mirror, &tips, listed).await
    }

    async fn have_common_history(
        &self,
        mirror: &Path,
        before: &HashSet<ObjectId>,
        listed: &[Ref],
    ) -> Result<bool, MirrorError> {
        let now = listed.iter().map(|one| format!("{}\n", one.target));
        let before = before.iter().map(|id| format!("^{id}\n"));
        let text: String = now.chain(before).collect();
        let stdin = stdin_file(text.as_bytes());
        let stdin = stdin.map_err(|source| MirrorError::io("name refs of", mirror, source))?;
        let call = Call {
            stdin: Some(stdin),
            ..self.local(
                "git rev-list",
                mirror,
                ["rev-list", "--boundary", "--stdin"],
            )
        };
        let mut said = Said::default();
        self.run(call, &mut |bytes| {
            said.take(bytes);
            Ok(())
        })
        .await?;
        // All of it was there before, or something that is new leads to what was.
        Ok(!said.is_any || said.is_common)
    }
}

/// What `git rev-list --boundary` says: the commits that are new, and with a `-` those that they lead to and
/// that were there.
#[derive(Debug, Default)]
struct Said {
    is_any: bool,
    is_common: bool,
    in_line: bool,
}

impl Said {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if !self.in_line {
                self.is_any = true;
                self.is_common |= *byte == b'-';
            }
            self.in_line = *byte != b'\n';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::Freshened;
    use crate::mirror::testing::{Scratch, git, run};
    use tokio::sync::RwLock;

    fn freshen(scratch: &Scratch) -> Result<Freshened, MirrorError> {
        let git = scratch.git.by_permission_of(None);
        run(git.freshen(&scratch.mirror(), &scratch.url(), &RwLock::new(())))
    }

    #[test]
    fn a_repository_that_goes_on_is_the_same() {
        let scratch = Scratch::with_commit();
        let first = scratch.commit("main", "two");
        scratch.clone_mirror();
        scratch.commit("main", "three");
        assert!(matches!(freshen(&scratch), Ok(Freshened::Moved { .. })));
        // Forced back, and on from there.
        scratch.upstream(&["update-ref", "refs/heads/main", &first]);
        assert!(matches!(freshen(&scratch), Ok(Freshened::Moved { .. })));
        scratch.commit("main", "other");
        assert!(matches!(freshen(&scratch), Ok(Freshened::Moved { .. })));
        // A new root beside a ref that stays.
        scratch.upstream(&["tag", "v1", "main"]);
        assert!(freshen(&scratch).is_ok());
        scratch.upstream(&["update-ref", "-d", "refs/heads/main"]);
        scratch.commit("main", "root");
        assert!(matches!(freshen(&scratch), Ok(Freshened::Moved { .. })));
        scratch.assert_equal();
    }

    #[test]
    fn a_repository_of_another_history_or_of_other_names_is_another() {
        let scratch = Scratch::with_commit();
        scratch.clone_mirror();
        let before = git(&scratch.mirror(), &["for-each-ref"]);
        scratch.upstream(&["update-ref", "-d", "refs/heads/main"]);
        scratch.commit("main", "of somebody else");
        let replaced = freshen(&scratch).unwrap_err();
        assert!(
            matches!(replaced, MirrorError::Replaced { .. }),
            "{replaced}"
        );
        assert_eq!(
            git(&scratch.mirror(), &["for-each-ref"]),
            before,
            "nothing of it shows"
        );
        // Where everybody may read it is only another push by force.
        assert!(matches!(scratch.freshen(), Freshened::Moved { .. }));
        let tip = scratch.commit("other", "of yet another");
        scratch.upstream(&["update-ref", "-d", "refs/heads/main"]);
        assert!(
            matches!(freshen(&scratch), Err(MirrorError::Replaced { .. })),
            "{tip}"
        );
        scratch.upstream(&["update-ref", "-d", "refs/heads/other"]);
        assert!(
            matches!(freshen(&scratch), Err(MirrorError::Replaced { .. })),
            "nothing is left"
        );
    }
}
