//! One commit without its history, as a pack.

use gix::ObjectId;
use std::path::Path;

use super::blocking::blocking;
use super::error::MirrorError;
use super::git::Git;
use crate::git::stdin_file;

impl Git {
    /// Packs what `tip` has, without what was before it, and the annotated tags of all that, which `from`
    /// names in its `packed-refs`. Deltas are taken over where both sides are there and looked for nowhere:
    /// that would take most of the time. The pack appears in `into`, which is on the same file system, with
    /// its companions; gives their names without what they end with.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when an object is missing or damaged.
    pub(crate) async fn pack_tip(
        &self,
        from: &Path,
        into: &Path,
        tip: ObjectId,
    ) -> Result<Vec<String>, MirrorError> {
        let list = format!("--shallow {tip}\n{tip}\n");
        let list = stdin_file(list.as_bytes());
        let list = list.map_err(|source| MirrorError::io("list a commit of", from, source))?;
        let place = into.to_owned();
        let made = blocking(into, move || {
            let made = std::fs::create_dir_all(&place);
            made.map_err(|source| MirrorError::io("create", &place, source))
        });
        made.await?;
        let options = ["--revs", "--include-tag", "--window=0"];
        self.pack_objects_to(from, &into.join("pack"), list, &options)
            .await
    }
}
