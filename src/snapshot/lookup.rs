//! Looks into a mirror's objects for what somebody names: what it leads to, and whether it is near to
//! what refs lead to.

use std::collections::{BinaryHeap, HashSet};
use std::path::Path;

use gix::ObjectId;
use gix::bstr::ByteSlice;
use gix::objs::{FindExt, Kind};
use gix::odb::Header as _;

use crate::io::shortage::Detail;
use crate::limits::{
    CLOCK_SKEW_S, COMMIT_BYTES_MAX, NEAR_COMMITS_MAX, NEAR_KNOWN_COMMITS_MAX, TAG_DEPTH_MAX,
};

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

/// What is around a commit, as far as a few steps tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Around {
    /// Whether it was found from the tips; `false` says nothing.
    pub is_reached: bool,
    /// The nearest of those that were asked about.
    pub nearest: Option<ObjectId>,
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

    /// Looks around a commit that is there, for a few steps: whether one of `tips` leads to it, and which of
    /// `known` is the nearest to it, among those that lead to it and those that it leads to.
    pub(crate) fn around(
        &self,
        commit: ObjectId,
        tips: &[ObjectId],
        known: &HashSet<ObjectId>,
    ) -> Around {
        let mut around = Around::default();
        let Some(own) = self.commit(commit) else {
            return around;
        };
        let oldest_s = own.date_s.saturating_sub(CLOCK_SKEW_S);
        // How many steps there are to it from the last that is known.
        let mut steps = usize::MAX;
        self.walk(tips, NEAR_COMMITS_MAX, oldest_s, |id| {
            steps = steps.saturating_add(1);
            if known.contains(&id) {
                (around.nearest, steps) = (Some(id), 0);
            }
            around.is_reached = id == commit;
            around.is_reached
        });
        if !around.is_reached {
            (around.nearest, steps) = (None, usize::MAX);
        }
        self.walk(&[commit], steps.min(NEAR_KNOWN_COMMITS_MAX), 0, |id| {
            let is_known = known.contains(&id);
            if is_known {
                around.nearest = Some(id);
            }
            is_known
        });
        around
    }

    /// Whether one of `tips` leads to a commit in a few steps; `false` says nothing.
    pub(crate) fn reaches(&self, tips: &[ObjectId], commit: ObjectId) -> bool {
        let Some(own) = self.commit(commit) else {
            return false;
        };
        let (oldest_s, mut is_reached) = (own.date_s.saturating_sub(CLOCK_SKEW_S), false);
        self.walk(tips, NEAR_COMMITS_MAX, oldest_s, |id| {
            is_reached = id == commit;
            is_reached
        });
        is_reached
    }

    /// Hands commits to `each`, the youngest first, and no more after it says so.
    fn walk(
        &self,
        from: &[ObjectId],
        commits_max: usize,
        oldest_s: u64,
        mut each: impl FnMut(ObjectId) -> bool,
    ) {
        let mut seen = HashSet::new();
        let mut next = BinaryHeap::new();
        let mut found = Vec::from(from);
        for _ in 0..commits_max {
            for id in found.drain(..).filter(|id| seen.insert(*id)) {
                let read = self.commit(id);
                next.extend(read.map(|read| (read.date_s, id, read.parents)));
            }
            match next.pop() {
                Some((date_s, id, parents)) if date_s >= oldest_s => {
                    if each(id) {
                        return;
                    }
                    found = parents;
                }
                _ => return,
            }
        }
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
        for n in 0..6 {
            repository.write("a", format!("{n}"));
            repository.commit();
        }
        let objects = objects(&repository);
        let at = |name: &str| id(&repository, name);
        let around = |commit: &str, tips: &[&str], known: &[&str]| {
            let tips: Vec<ObjectId> = tips.iter().map(|tip| at(tip)).collect();
            let known = known.iter().map(|one| at(one)).collect();
            objects.around(at(commit), &tips, &known)
        };
        for name in ["HEAD", "HEAD~1", "HEAD~5"] {
            assert!(around(name, &["HEAD"], &[]).is_reached, "{name}");
        }
        for (commit, tips) in [
            ("HEAD", &["HEAD~1"][..]),
            ("HEAD", &[]),
            ("HEAD^{tree}", &["HEAD"]),
        ] {
            assert!(!around(commit, tips, &[]).is_reached, "{commit}");
        }
        let rows: [(&str, &[&str], Option<&str>); 6] = [
            ("HEAD~3", &[], None),
            ("HEAD~3", &["HEAD"], Some("HEAD")),
            ("HEAD~3", &["HEAD", "HEAD~2"], Some("HEAD~2")),
            ("HEAD~3", &["HEAD", "HEAD~4"], Some("HEAD~4")),
            ("HEAD~3", &["HEAD~1", "HEAD~3"], Some("HEAD~3")),
            ("HEAD~5", &["HEAD"], Some("HEAD")),
        ];
        for (commit, known, nearest) in rows {
            let found = around(commit, &["HEAD"], known).nearest;
            assert_eq!(found, nearest.map(at), "{commit} among {known:?}");
        }
        let reaches = |commit: &str, tips: &[&str]| {
            let tips: Vec<ObjectId> = tips.iter().map(|tip| at(tip)).collect();
            objects.reaches(&tips, at(commit))
        };
        assert!(reaches("HEAD~3", &["HEAD~5", "HEAD~2"]));
        assert!(!reaches("HEAD~1", &["HEAD~5", "HEAD~2"]) && !reaches("HEAD", &[]));
        // What no tip leads to is still beside what it leads to.
        let found = around("HEAD", &["HEAD~1"], &["HEAD~2"]);
        assert_eq!(
            (found.is_reached, found.nearest),
            (false, Some(at("HEAD~2")))
        );
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
