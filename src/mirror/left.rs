//! What refs have left, where nobody may have it any more: it goes at once, for an archive sends packs whole, with
//! all that is in them.
//!
//! The journal names all that can be in a mirror without being reached: tips that refs have left, and, where the
//! upstream's permission decides, those that were about to be fetched, for a fetch can end before its refs are in
//! force. A mirror without a journal was made by others, and can have anything.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use gix::ObjectId;

use super::blocking::blocking;
use super::error::MirrorError;
use super::expire::{Expired, KeepFiles, Locks};
use super::git::Git;
use super::journal;
use super::looked;
use super::loose::all_tips;
use crate::git::stdin_file;
use crate::io::clock::unix_ms;
use crate::limits::LEFT_AHEAD_MS;

/// What a mirror may have that no ref leads to.
enum Left {
    Nothing,
    /// What these lead to, as far as refs do not.
    Tips {
        left: BTreeSet<ObjectId>,
        refs: BTreeSet<ObjectId>,
    },
    /// That is not known.
    Anything,
}

impl Left {
    fn of(mirror: &Path) -> Result<Left, MirrorError> {
        let Some(journal) = journal::read(mirror)? else {
            return Ok(Left::Anything);
        };
        let mut left = journal.since(0);
        if left.is_empty() {
            return Ok(Left::Nothing);
        }
        let refs = all_tips(mirror)?;
        left.retain(|tip| !refs.contains(tip));
        Ok(Left::Tips { left, refs })
    }
}

impl Git {
    /// Removes all that no ref leads to, however lately it was left. `None` if there was no reason to look for it.
    ///
    /// # Errors
    /// Those of [`expire`](Self::expire); then something of it may be there.
    pub(crate) async fn expire_left(
        &self,
        mirror: &Path,
        locks: Locks<'_>,
    ) -> Result<Option<Expired>, MirrorError> {
        let path = mirror.to_owned();
        let before_ms = unix_ms();
        match blocking(mirror, move || Left::of(&path)).await? {
            Left::Nothing => return Ok(None),
            Left::Tips { left, refs } => {
                if left.is_empty() || !self.lead_elsewhere(mirror, &left, &refs).await? {
                    let path = mirror.to_owned();
                    // What was left meanwhile is looked at the next time.
                    let forget = move || journal::forget_before(&path, before_ms, u64::MAX);
                    blocking(mirror, forget).await?;
                    return Ok(None);
                }
            }
            Left::Anything => forget_look(mirror).await?,
        }
        self.expire_unreached_now(mirror, locks).await.map(Some)
    }

    /// The same, also where nothing is known to have been left: what a fetch that was killed has brought, what others have
    /// put there.
    ///
    /// # Errors
    /// Those of [`expire`](Self::expire); then something of it may be there.
    pub(crate) async fn expire_unreached(
        &self,
        mirror: &Path,
        locks: Locks<'_>,
    ) -> Result<Expired, MirrorError> {
        forget_look(mirror).await?;
        self.expire_unreached_now(mirror, locks).await
    }

    async fn expire_unreached_now(
        &self,
        mirror: &Path,
        locks: Locks<'_>,
    ) -> Result<Expired, MirrorError> {
        // Dates of files are not finer than this on every file system.
        let now = SystemTime::now() + Duration::from_millis(LEFT_AHEAD_MS);
        let all = (Duration::ZERO, now);
        self.expire_all(mirror, locks, all, KeepFiles::MeanNothing)
            .await
    }

    /// Whether something that `left` lead to is reached by no ref; also where one of them is not there, for what
    /// it led to may be.
    async fn lead_elsewhere(
        &self,
        mirror: &Path,
        left: &BTreeSet<ObjectId>,
        refs: &BTreeSet<ObjectId>,
    ) -> Result<bool, MirrorError> {
        let left = left.iter().map(|id| format!("{id}\n"));
        let refs = refs.iter().map(|id| format!("^{id}\n"));
        let text: String = left.chain(refs).collect();
        let stdin = stdin_file(text.as_bytes());
        let stdin = stdin.map_err(|source| MirrorError::io("name tips of", mirror, source))?;
        let walk = [
            "rev-list",
            "--objects",
            "--no-object-names",
            "--max-count=1",
            "--stdin",
        ];
        let mut call = self.upkeep("git rev-list", mirror, &walk);
        call.stdin = Some(stdin);
        let mut is_any = false;
        let mut note = |bytes: &[u8]| {
            is_any |= !bytes.is_empty();
            Ok(())
        };
        match self.run(call, &mut note).await {
            Ok(()) => Ok(is_any),
            // One is not there, or what it leads to is not whole.
            Err(MirrorError::Git { .. }) => Ok(true),
            Err(e) => Err(e),
        }
    }
}

/// What was young when it was last looked through stayed then.
async fn forget_look(mirror: &Path) -> Result<(), MirrorError> {
    let path = mirror.to_owned();
    let forget = move || {
        looked::forget(&path).map_err(|source| MirrorError::io("forget a look at", &path, source))
    };
    blocking(mirror, forget).await
}

#[cfg(test)]
mod tests {
    use super::super::expire::packs_of;
    use super::*;
    use crate::mirror::Freshened;
    use crate::mirror::testing::{Scratch, git, run};
    use tokio::sync::RwLock;

    fn freshen(scratch: &Scratch) {
        let git = scratch.git.by_permission_of(None);
        let done = run(git.freshen(&scratch.mirror(), &scratch.url(), &RwLock::new(())));
        assert!(matches!(done, Ok(Freshened::Moved { .. })), "{done:?}");
    }

    fn expire_left(scratch: &Scratch) -> Option<Expired> {
        let own: [RwLock<()>; 3] = Default::default();
        let locks = Locks {
            arrivals: &own[0],
            packs: &own[1],
            refs: &own[2],
        };
        run(scratch.git.expire_left(&scratch.mirror(), locks)).unwrap()
    }

    fn has(scratch: &Scratch, id: &str) -> bool {
        let args = ["cat-file", "--batch-all-objects", "--batch-check"];
        git(&scratch.mirror(), &args).contains(id)
    }

    #[test]
    fn what_refs_have_left_is_gone_at_once() {
        let scratch = Scratch::with_commit();
        let first = scratch.commit("main", "one");
        scratch.clone_mirror();
        assert_eq!(expire_left(&scratch), None, "a clone has what refs lead to");
        let secret = scratch.commit("main", "a secret");
        freshen(&scratch);
        assert!(has(&scratch, &secret) && expire_left(&scratch).is_none());
        scratch.upstream(&["update-ref", "refs/heads/main", &first]);
        let next = scratch.commit("main", "another");
        freshen(&scratch);
        assert!(matches!(expire_left(&scratch), Some(Expired::Objects(_))));
        assert!(!has(&scratch, &secret) && has(&scratch, &next));
        git(&scratch.mirror(), &["fsck", "--full", "--strict"]);
        assert_eq!(expire_left(&scratch), None, "once");
    }

    /// The clock was put back, or the files are on a server that has another one.
    #[test]
    fn no_date_keeps_any_of_it() {
        let scratch = Scratch::with_commit();
        let first = scratch.commit("main", "one");
        let secret = scratch.commit("main", "a secret");
        scratch.clone_mirror();
        scratch.upstream(&["update-ref", "refs/heads/main", &first]);
        freshen(&scratch);
        for pack in packs_of(&scratch.mirror()).unwrap() {
            let pack = std::fs::File::open(pack.index.with_extension("pack")).unwrap();
            let ahead = SystemTime::now() + Duration::from_secs(24 * 3600);
            pack.set_modified(ahead).unwrap();
        }
        assert!(matches!(expire_left(&scratch), Some(Expired::Objects(_))));
        assert!(!has(&scratch, &secret) && has(&scratch, &first));
    }

    #[test]
    fn a_keep_file_keeps_nothing_of_it() {
        let scratch = Scratch::with_commit();
        let first = scratch.commit("main", "one");
        scratch.commit("main", "a secret");
        scratch.clone_mirror();
        let secret = scratch.upstream(&["rev-parse", "main"]);
        for pack in packs_of(&scratch.mirror()).unwrap() {
            std::fs::write(pack.index.with_extension("keep"), "mine\n").unwrap();
        }
        scratch.upstream(&["update-ref", "refs/heads/main", &first]);
        freshen(&scratch);
        assert!(has(&scratch, &secret));
        assert!(matches!(expire_left(&scratch), Some(Expired::Objects(_))));
        assert!(!has(&scratch, &secret) && has(&scratch, &first));
        git(&scratch.mirror(), &["fsck", "--full", "--strict"]);
    }

    #[test]
    fn a_branch_that_was_merged_leaves_nothing() {
        let scratch = Scratch::with_commit();
        scratch.clone_mirror();
        scratch.upstream(&["update-ref", "refs/heads/topic", "refs/heads/main"]);
        let tip = scratch.commit("topic", "a change");
        freshen(&scratch);
        scratch.upstream(&["update-ref", "refs/heads/main", &tip]);
        scratch.upstream(&["update-ref", "-d", "refs/heads/topic"]);
        freshen(&scratch);
        scratch.commit("main", "on from there");
        freshen(&scratch);
        assert_eq!(expire_left(&scratch), None);
        assert!(has(&scratch, &tip));
        let journal = journal::read(&scratch.mirror()).unwrap().unwrap();
        assert!(journal.since(0).is_empty(), "it is not looked at again");
    }

    #[test]
    fn what_a_fetch_has_left_or_others_have_put_there_is_looked_for() {
        let scratch = Scratch::with_commit();
        scratch.clone_mirror();
        let lost = scratch.commit("lost", "lost");
        // Objects came, and refs did not.
        let ids = BTreeSet::from([ObjectId::from_hex(lost.as_bytes()).unwrap()]);
        journal::add(&scratch.mirror(), &ids, unix_ms()).unwrap();
        let url = scratch.url();
        git(
            &scratch.mirror(),
            &["fetch", "--quiet", &url, "refs/heads/lost"],
        );
        scratch.upstream(&["update-ref", "-d", "refs/heads/lost"]);
        assert!(has(&scratch, &lost));
        assert!(matches!(expire_left(&scratch), Some(Expired::Objects(_))));
        assert!(!has(&scratch, &lost));
        // Nothing came of it.
        let none = BTreeSet::from([ObjectId::from_bytes_or_panic(&[7; 20])]);
        journal::add(&scratch.mirror(), &none, unix_ms()).unwrap();
        assert_eq!(expire_left(&scratch), Some(Expired::Nothing));
        assert_eq!(expire_left(&scratch), None);
        // No journal.
        std::fs::remove_file(scratch.mirror().join(journal::NAME)).unwrap();
        assert_eq!(expire_left(&scratch), Some(Expired::Nothing));
        assert_eq!(expire_left(&scratch), None);
    }
}
