//! Whether the mirror has refs and commits, after a look at the upstream if it does not.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use gix::bstr::ByteSlice;
use serde::{Deserialize, Serialize};

use super::asker::Asker;
use super::state::Jobs;
use crate::limits::{ENSURE_BY_ID_MAX, ENSURE_ITEMS_MAX};
use crate::manifest::want::AnyId;
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
    /// What there is of what `asker` wants, at the upstream as it was at `asked` or later.
    pub(crate) async fn ensure_refs(
        self: Rc<Self>,
        repo: Arc<Repo>,
        wanted: Wanted,
        asked: Instant,
        asker: Asker,
    ) -> Result<Ensured, StartError> {
        let (repo, wanted) = (&repo, &wanted);
        let cloned = self.ensure_young(repo, &asker).await?;
        let mut found = self.look(repo, wanted, &asker).await?;
        let mut fetched = cloned;
        // A comparison that runs may have begun too early, but most likely it will do.
        if !found.is_all(wanted) && self.join_freshening(repo).await {
            fetched = true;
            found = self.look(repo, wanted, &asker).await?;
        }
        if !found.is_all(wanted) {
            self.fresh_since(repo, asked, &asker).await?;
            fetched = true;
            found = self.look(repo, wanted, &asker).await?;
        }
        let ids = found.missing_commits.iter().take(ENSURE_BY_ID_MAX);
        let ids = ids.filter_map(|id| AnyId::from_hex(id.as_bytes()).ok());
        let ids: Vec<AnyId> = ids.collect();
        if !ids.is_empty() {
            // What the upstream does not give stays missing.
            self.seek_all(repo, &ids, &asker).await;
            found = self.look(repo, wanted, &asker).await?;
        }
        found.fetched = fetched;
        Ok(found)
    }

    async fn look(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        wanted: &Wanted,
        asker: &Asker,
    ) -> Result<Ensured, StartError> {
        let permit = self.semaphores.lookups.acquire().await;
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
        // The upstream may have to be asked.
        drop(permit);
        let missing = wanted.commits.iter().zip(kinds);
        let (missing, there): (Vec<_>, Vec<_>) =
            missing.partition(|(id, kind)| kind.is_none() && !is_annexed(repo, id));
        let there = there
            .iter()
            .filter_map(|(id, _)| AnyId::from_hex(id.as_bytes()).ok());
        let there = Vec::from_iter(there);
        // What may not be shown is missing, too.
        let shown = self.shown_each(repo, &there, asker).await?;
        let missing: HashSet<&String> = missing.iter().map(|(id, _)| *id).collect();
        let is_shown =
            |id: &str| AnyId::from_hex(id.as_bytes()).is_ok_and(|id| shown.contains(&id));
        // In the order in which they were named, which says nothing of why.
        let wanted = wanted.commits.iter();
        let lacking = wanted.filter(|id| missing.contains(id) || !is_shown(id));
        Ok(Ensured {
            refs,
            missing_commits: lacking.cloned().collect(),
            fetched: false,
        })
    }
}

/// Whether the annex has it, and it may be given out.
fn is_annexed(repo: &Repo, id: &str) -> bool {
    AnyId::from_hex(id.as_bytes()).is_ok_and(|id| repo.annex.is_fresh(&id))
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
