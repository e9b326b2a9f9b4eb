//! Looks into a mirror's objects for what somebody names: what it leads to, and whether it is near to
//! what refs lead to.

use std::collections::{BinaryHeap, HashSet};
use std::path::Path;

use gix::ObjectId;
use gix::bstr::ByteSlice;
use gix::objs::{FindExt, Kind};
use gix::odb::Header as _;

use crate::io::shortage::Detail;
use crate::limits::{CLOCK_SKEW_S, COMMIT_BYTES_MAX, NEAR_COMMITS_MAX, TAG_DEPTH_MAX};

/// An object cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("object {id} cannot be read: {detail}; run git fsck on the mirror")]
pub(crate) struct LookupError {
    id: ObjectId,
    #[source]
    detail: Detail,
}

/// What an object leads to, through tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leads {
    Commit(ObjectId),
    /// To something that cannot be checked out.
    Other(Kind),
    /// It is not there.
    Nowhere,
}

/// The objects of a mirror.
pub(crate) struct Objects {
    odb: gix::odb::Handle,
}

impl Objects {
    /// Those of the mirror at `mirror`.
    pub(crate) fn open(mirror: &Path, hash: gix::hash::Kind) -> Result<Objects, LookupError> {
        let options = gix::odb::store::init::Options::default();
        let odb = gix::odb::at_opts(mirror.join("objects"), hash, [], options);
        let failed = |e| LookupError {
            id: ObjectId::null(hash),
            detail: Detail::of(&e),
        };
        Ok(Objects {
            odb: odb.map_err(failed)?,
        })
    }

    /// What an object leads to.
    pub(crate) fn lead(&self, from: ObjectId) -> Result<Leads, LookupError> {
        let (mut id, mut buffer) = (from, Vec::new());
        for _ in 0..=TAG_DEPTH_MAX {
            let Some((kind, bytes)) = self.header(id)? else {
                return Ok(Leads::Nowhere);
            };
            match kind {
                Kind::Commit => return Ok(Leads::Commit(id)),
                Kind::Tag if bytes <= COMMIT_BYTES_MAX => {}
                kind => return Ok(Leads::Other(kind)),
            }
            let failed = |detail| LookupError { id, detail };
            let tag = self.odb.find_tag_iter(&id, &mut buffer);
            let tag = tag.map_err(|e| failed(Detail::of(&e)))?;
            id = tag.target_id().map_err(|e| failed(Detail::of(&e)))?;
        }
        Ok(Leads::Other(Kind::Tag))
    }

    fn header(&self, id: ObjectId) -> Result<Option<(Kind, u64)>, LookupError> {
        let header = self.odb.try_header(&id);
        let header = header.map_err(|e| LookupError {
            id,
            detail: Detail::of(&e),
        })?;
        Ok(header.map(|header| (header.kind(), header.size())))
    }

    /// Whether one of these leads to a commit that is there, as far as a few steps tell: `false` says
    /// nothing.
    pub(crate) fn is_near(&self, commit: ObjectId, tips: &[ObjectId]) -> bool {
        let Some(oldest) = self.commit(commit) else {
            return false;
        };
        let oldest_s = oldest.date_s.saturating_sub(CLOCK_SKEW_S);
        let mut seen = HashSet::new();
        let mut next = BinaryHeap::new();
        let mut found = Vec::from(tips);
        for _ in 0..NEAR_COMMITS_MAX {
            for id in found.drain(..).filter(|id| seen.insert(*id)) {
                if id == commit {
                    return true;
                }
                let read = self.commit(id);
                next.extend(read.map(|read| (read.date_s, read.parents)));
            }
            match next.pop() {
                Some((date_s, parents)) if date_s >= oldest_s => found = parents,
                _ => return false,
            }
        }
        false
    }

    fn commit(&self, id: ObjectId) -> Option<Dated> {
        let (kind, bytes) = self.header(id).ok()??;
        if kind != Kind::Commit || bytes > COMMIT_BYTES_MAX {
            return None;
        }
        let mut buffer = Vec::new();
        let found = self.odb.find(&id, &mut buffer).ok()?;
        Dated::parse(found.data)
    }
}

/// What a walk needs of a commit.
#[derive(Debug, PartialEq, Eq)]
struct Dated {
    date_s: u64,
    parents: Vec<ObjectId>,
}

impl Dated {
    fn parse(data: &[u8]) -> Option<Dated> {
        let (mut date_s, mut parents) = (0, Vec::new());
        let head = data.lines().take_while(|line| !line.is_empty());
        for line in head {
            if let Some(hex) = line.strip_prefix(b"parent ") {
                parents.push(ObjectId::from_hex(hex).ok()?);
            } else if let Some(by) = line.strip_prefix(b"committer ") {
                // NAME <MAIL> SECONDS ZONE
                let (_, when) = by.rsplit_once_str("> ")?;
                let seconds = when.fields().next()?.to_str().ok()?;
                date_s = seconds.parse().unwrap_or(0);
            }
        }
        Some(Dated { date_s, parents })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::Repository;

    fn objects(repository: &Repository) -> Objects {
        let mirror = repository.dir.path().join(".git");
        Objects::open(&mirror, gix::hash::Kind::Sha1).unwrap()
    }

    fn id(repository: &Repository, what: &str) -> ObjectId {
        ObjectId::from_hex(repository.git(&["rev-parse", what]).trim().as_bytes()).unwrap()
    }

    #[test]
    fn tags_lead_to_commits() {
        let repository = Repository::new();
        repository.write("a", "one");
        repository.commit();
        repository.git(&["tag", "-a", "-m", "x", "once"]);
        repository.git(&["tag", "-a", "-m", "x", "twice", "once"]);
        repository.git(&["tag", "-a", "-m", "x", "tree", "HEAD^{tree}"]);
        let objects = objects(&repository);
        let commit = Leads::Commit(id(&repository, "HEAD"));
        for name in ["HEAD", "once", "twice"] {
            assert_eq!(
                objects.lead(id(&repository, name)).unwrap(),
                commit,
                "{name}"
            );
        }
        for (name, kind) in [
            ("tree", Kind::Tree),
            ("HEAD^{tree}", Kind::Tree),
            ("HEAD:a", Kind::Blob),
        ] {
            let found = objects.lead(id(&repository, name)).unwrap();
            assert_eq!(found, Leads::Other(kind), "{name}");
        }
        let absent = ObjectId::null(gix::hash::Kind::Sha1);
        assert_eq!(objects.lead(absent).unwrap(), Leads::Nowhere);
    }

    #[test]
    fn what_is_near_is_found_and_what_is_not_reached_never() {
        let repository = Repository::new();
        for n in 0..5 {
            repository.write("a", format!("{n}"));
            repository.commit();
        }
        let objects = objects(&repository);
        let at = |name: &str| id(&repository, name);
        for name in ["HEAD", "HEAD~1", "HEAD~4"] {
            assert!(objects.is_near(at(name), &[at("HEAD")]), "{name}");
        }
        assert!(!objects.is_near(at("HEAD"), &[at("HEAD~1")]));
        assert!(!objects.is_near(at("HEAD"), &[]));
        assert!(!objects.is_near(at("HEAD^{tree}"), &[at("HEAD")]));
    }

    #[test]
    fn dates_and_parents_of_commits() {
        let parent = "1".repeat(40);
        let text = format!(
            "tree {parent}\nparent {parent}\nauthor A <a> 1 +0000\ncommitter B > <b@c> 77 -0100\n\nparent x\n"
        );
        let parsed = Dated::parse(text.as_bytes()).unwrap();
        let parents = vec![ObjectId::from_hex(parent.as_bytes()).unwrap()];
        assert_eq!(
            parsed,
            Dated {
                date_s: 77,
                parents
            }
        );
        let none = Dated::parse(b"tree x\n").unwrap();
        assert_eq!((none.date_s, none.parents.len()), (0, 0));
    }
}
