//! What a request of git's protocol names by its id and whoever sends it may not have, or not know to be here,
//! where the upstream's permission decides.

use std::rc::Rc;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::asker::Asker;
use super::look::failed;
use super::state::Jobs;
use super::upload_request::UploadRequest;
use crate::manifest::want::AnyId;
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::snapshot::view::object_hash;

/// How git begins its answer when it lacks an object, behind the length of the line.
pub(super) const NOT_OUR_REF: &[u8] = b"ERR upload-pack: not our ref";

/// What git says of an object that is not there.
pub(super) fn not_our_ref(id: AnyId) -> Vec<u8> {
    let said = [NOT_OUR_REF, b" ", id.to_string().as_bytes()].concat();
    [format!("{:04x}", said.len() + 4).as_bytes(), &said].concat()
}

impl Jobs {
    /// Something that is wanted and that this one may not have, if there is that; else takes out of the request what
    /// he says that he has and may not know to be here.
    pub(super) async fn hide(
        self: &Rc<Self>,
        (repo, asker): (&Arc<Repo>, &Asker),
        input: Option<&mut UploadRequest>,
    ) -> Result<Option<AnyId>, StartError> {
        let Some(input) = input else {
            return Ok(None);
        };
        let mirror = repo.mirror.clone();
        let kind = spawn_blocking(move || object_hash(&mirror)).await;
        let kind = kind.map_err(|e| failed(repo, &e))?;
        let kind = kind.map_err(|e| failed(repo, &e))?;
        let is_whole = input.names_whole_ids(kind).await;
        if !is_whole.map_err(|e| failed(repo, &e))? {
            return Err(StartError {
                status: 400,
                message: format!(
                    "{}: send whole ids of its format, and nothing behind them",
                    repo.name
                ),
            });
        }
        let (wants, haves) = input.named().await.map_err(|e| failed(repo, &e))?;
        let shown = self.shown(repo, &wants, asker).await?;
        if let Some(hidden) = wants.into_iter().find(|id| !shown.contains(id)) {
            return Ok(Some(hidden));
        }
        let (yes, _) = self.shown_here(repo, &haves, asker).await?;
        let hidden = haves.into_iter().filter(|id| !yes.contains(id));
        let hidden = hidden.collect::<std::collections::HashSet<_>>();
        if !hidden.is_empty() {
            let forgotten = input.forget_haves(hidden).await;
            forgotten.map_err(|e| failed(repo, &e))?;
        }
        Ok(None)
    }
}
