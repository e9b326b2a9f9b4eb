//! Whether the mirror has refs and commits, after a look at the upstream if it does not.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use gix::bstr::ByteSlice;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::asker::{Asker, ClientPart};
use super::room::Need;
use super::state::Jobs;
use crate::limits::{ENSURE_BY_ID_MAX, ENSURE_ITEMS_MAX};
use crate::refs::{full_id, is_ref_name};
use crate::repos::error::StartError;
use crate::repos::repo::Repo;

/// The request's JSON as it is sent. What else is in it is ignored.
#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    refs: Option<BTreeMap<String, String>>,
    #[serde(default)]
    commits: Option<Vec<String>>,
}

/// What a client needs.
///
/// Invariants: at least one ref or commit, of each at most [`ENSURE_ITEMS_MAX`]; names are ones
/// that git allows; ids are whole and in lower case.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The commit that each ref must name; `None` for any.
    refs: BTreeMap<String, Option<String>>,
    commits: Vec<String>,
}

impl Wanted {
    /// Reads a request; an error says what to send instead.
    pub(crate) fn parse(body: &[u8]) -> Result<Wanted, String> {
        let body: Body = serde_json::from_slice(body).map_err(|e| {
            let form = r#"{"refs":{"refs/heads/NAME":"HASH"},"commits":["HASH"]}"#;
            format!("the body is not understood ({e}); send {form}")
        })?;
        let refs = body.refs.unwrap_or_default();
        let commits = body.commits.unwrap_or_default();
        if refs.is_empty() && commits.is_empty() {
            return Err("name at least one ref or commit".into());
        }
        if refs.len().max(commits.len()) > ENSURE_ITEMS_MAX {
            return Err(format!(
                "name at most {ENSURE_ITEMS_MAX} refs and as many commits"
            ));
        }
        let refs = refs.into_iter().map(|(name, id)| {
            if !is_ref_name(name.as_bytes()) {
                return Err(format!(
                    "{name:?} is no full ref name; write for example refs/heads/main"
                ));
            }
            let id = match id.is_empty() {
                true => None,
                false => Some(full_id(&id)?),
            };
            Ok((name, id))
        });
        Ok(Wanted {
            refs: refs.collect::<Result<_, _>>()?,
            commits: commits
                .iter()
                .map(|id| full_id(id))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// The answer's JSON.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Ensured {
    /// What the refs that were asked for name now; empty for one that is not there.
    refs: BTreeMap<String, String>,
    missing_commits: Vec<String>,
    /// Whether the upstream was looked at for this request.
    fetched: bool,
}

impl Ensured {
    fn is_all(&self, wanted: &Wanted) -> bool {
        let is_there = |(name, id): (&String, &Option<String>)| match self.refs.get(name) {
            None => false,
            Some(found) => match id {
                None => !found.is_empty(),
                Some(id) => found == id,
            },
        };
        self.missing_commits.is_empty() && wanted.refs.iter().all(is_there)
    }
}

impl Jobs {
    /// What there is of what is wanted by the client at `client`, at the upstream as it was at `asked` or
    /// later.
    pub(crate) async fn ensure_refs(
        self: Rc<Self>,
        repo: Arc<Repo>,
        wanted: Wanted,
        asked: Instant,
        client: IpAddr,
    ) -> Result<Ensured, StartError> {
        let (repo, wanted, asker) = (&repo, &wanted, Asker::at(client));
        let cloned = self.ensure_mirror(repo, &asker).await?;
        let mut found = self.look(repo, wanted).await?;
        let mut fetched = cloned;
        // A comparison that runs may have begun too early, but most likely it will do.
        if !found.is_all(wanted) && self.join_freshening(repo).await {
            fetched = true;
            found = self.look(repo, wanted).await?;
        }
        if !found.is_all(wanted) {
            self.fresh_since(repo, asked, &asker).await?;
            fetched = true;
            found = self.look(repo, wanted).await?;
        }
        let ids = found.missing_commits.iter().take(ENSURE_BY_ID_MAX);
        let ids = self.worth_asking(repo, ids.cloned().collect());
        if !ids.is_empty() {
            // Before anybody else has to wait for what this waits for.
            let part = self.semaphores.freshens.of_client(asker.client).await;
            let (done, ended) = oneshot::channel();
            // A task of its own: a git that is cut off leaves half a pack in the mirror.
            spawn_local(self.clone().fetch_by_id(repo.clone(), ids, (done, part)));
            // It fails when the task has panicked; then they stay missing.
            let _ = ended.await;
            found = self.look(repo, wanted).await?;
        }
        found.fetched = fetched;
        Ok(found)
    }

    /// Those that the upstream was not asked for in vain just now.
    fn worth_asking(&self, repo: &Repo, ids: Vec<String>) -> Vec<String> {
        let (mut absent, now) = (self.absent.borrow_mut(), Instant::now());
        let ids = ids.into_iter();
        ids.filter(|id| !absent.has(&repo.name, id, now)).collect()
    }

    /// Asks the upstream for commits by their ids: it may have some that no ref leads to, such as
    /// those of a pull request that was rewritten. What it does not give stays missing, and is not asked
    /// for again for a while. Begins with none any more once nobody waits for `done`.
    async fn fetch_by_id(
        self: Rc<Self>,
        repo: Arc<Repo>,
        ids: Vec<String>,
        (done, _part): (oneshot::Sender<()>, ClientPart),
    ) {
        // Nobody takes what it brings for something that failed, or replaces the mirror meanwhile. The
        // mirror's upkeep may go on: it only takes away what it has found before.
        let _duty = loop {
            match self.fetching_ids.join(&repo.name) {
                (_, Some(duty)) => break duty,
                (flight, None) => drop(flight.end().await),
            }
        };
        let _permit = self.semaphores.freshens.acquire(&repo.name).await;
        // Others may have asked for the same meanwhile, and have got it or not.
        let ids = self.worth_asking(&repo, ids);
        let kinds = self.git.kinds(&repo.mirror, &ids).await;
        let kinds = kinds.unwrap_or_else(|_| vec![None; ids.len()]);
        for (id, _) in ids.iter().zip(kinds).filter(|(_, kind)| kind.is_none()) {
            if done.is_closed() {
                return;
            }
            self.room_for_pack(&repo).await;
            let _arriving = repo.locks.arrivals.read().await;
            let mut fetched = self.git.fetch_by_id(&repo.mirror, &repo.url, id).await;
            if let Err(e) = &fetched
                && self.is_for_room(e).await
            {
                self.make_room(&repo.name, Need::Must).await;
                fetched = self.git.fetch_by_id(&repo.mirror, &repo.url, id).await;
            }
            // It is in the journal, and nothing else may ever happen here.
            self.note_due(&repo);
            if let Err(e) = fetched {
                tracing::debug!(repository = &*repo.name, id, "not fetched by its id: {e}");
                let now = Instant::now();
                self.absent.borrow_mut().note(&repo.name, id, now);
            }
        }
        // Fails when the client has left meanwhile.
        let _ = done.send(());
    }

    async fn look(&self, repo: &Arc<Repo>, wanted: &Wanted) -> Result<Ensured, StartError> {
        let _permit = self.semaphores.lookups.acquire().await;
        let mut refs = BTreeMap::new();
        if !wanted.refs.is_empty() {
            let there = self.read_refs(repo).await?;
            refs.extend(wanted.refs.keys().map(|name| {
                let found = there.get(name.as_bytes().as_bstr());
                let id = found.map_or_else(String::new, |r| r.target.to_string());
                (name.clone(), id)
            }));
        }
        let kinds = self.git.kinds(&repo.mirror, &wanted.commits).await;
        let kinds = kinds.map_err(|e| StartError {
            status: 500,
            message: format!("{}: {e}", repo.name),
        })?;
        let missing = wanted.commits.iter().zip(kinds);
        let missing = missing.filter(|(_, kind)| kind.is_none());
        Ok(Ensured {
            refs,
            missing_commits: missing.map(|(id, _)| id.clone()).collect(),
            fetched: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789ABCDEF01234567";

    #[test]
    fn what_is_understood() {
        let wanted = |text: &str| Wanted::parse(text.as_bytes()).unwrap();
        let lower = ID.to_ascii_lowercase();
        let long = "ab".repeat(32);
        let both = format!(
            r#"{{"refs":{{"refs/heads/a":"{ID}","refs/tags/b":""}},"commits":["{long}"],"x":1}}"#
        );
        let refs = [("refs/heads/a", Some(lower.clone())), ("refs/tags/b", None)];
        let refs = refs.map(|(name, id)| (name.to_owned(), id));
        let expected = Wanted {
            refs: refs.into(),
            commits: vec![long],
        };
        assert_eq!(wanted(&both), expected);
        let one = wanted(&format!(r#"{{"refs":null,"commits":["{ID}"]}}"#));
        assert_eq!((one.refs.len(), one.commits), (0, vec![lower]));
    }

    #[test]
    fn what_is_refused() {
        let many: Vec<&str> = vec![ID; ENSURE_ITEMS_MAX + 1];
        let many = format!(r#"{{"commits":{}}}"#, serde_json::to_string(&many).unwrap());
        let short = format!(r#"{{"commits":["{}"]}}"#, &ID[1..]);
        let sign = format!(r#"{{"commits":["+{}"]}}"#, &ID[1..]);
        let rows = [
            "",
            "null",
            "[]",
            "{}",
            r#"{"refs":{},"commits":[]}"#,
            r#"{"refs":{"refs/heads/a":null}}"#,
            r#"{"refs":{"refs/heads/a":"main"}}"#,
            r#"{"refs":{"main":""}}"#,
            r#"{"refs":{"HEAD":""}}"#,
            r#"{"refs":{"refs/heads/a..b":""}}"#,
            r#"{"refs":{"refs/heads/../x":""}}"#,
            r#"{"refs":{"refs/heads/a\n":""}}"#,
            r#"{"refs":{"--all":""}}"#,
            r#"{"commits":[""]}"#,
            r#"{"commits":"x"}"#,
            &short,
            &sign,
            &many,
        ];
        for row in rows {
            assert!(Wanted::parse(row.as_bytes()).is_err(), "{row}");
        }
        let deep = "[".repeat(100_000);
        assert!(Wanted::parse(deep.as_bytes()).is_err());
    }
}
