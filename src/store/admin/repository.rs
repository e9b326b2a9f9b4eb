//! A repository of a store as it is found there: its head, and what lies beside.

use std::collections::HashMap;

use serde::Deserialize;

use crate::limits::{REMOTE_KEPT_MS, STORE_HEAD_BYTES_MAX};
use crate::manifest::id::is_lower_hex;
use crate::manifest::parts::part_name;
use crate::store::remote::any::AnyStore;
use crate::store::remote::head::Head;
use crate::store::remote::key::{Identity, PartKey, Place};
use crate::store::remote::objects::{Listed, ObjectError, Objects};

/// Where repositories are.
pub(super) const REPOSITORIES: &str = "v1/repos";

/// See the module's text.
pub(super) struct Repository {
    /// Where it is.
    dir: String,
    pub(super) head: Headed,
}

/// What stands where a head should be.
pub(super) enum Headed {
    /// Nothing: of what lies there no head was ever written, or it was removed.
    Absent,
    /// One.
    Sound(Box<Head>),
    /// Something else.
    Broken(String),
}

/// Whose a head is, whatever else stands in it.
#[derive(Deserialize)]
struct Whose {
    repository: Identity,
}

/// What a part that lies there is to its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is named, and has so many bytes.
    Shared { bytes: u64 },
    /// It will be given up.
    Condemned { since_unix_ms: u64 },
    /// It is no longer anybody's to name.
    GivenUp,
    /// The head knows nothing of it: it is being uploaded, or was for nothing.
    Unnamed,
    /// It has no name that a server gives.
    Foreign,
}

impl State {
    /// In a word.
    pub(super) fn name(self) -> &'static str {
        match self {
            State::Shared { .. } => "shared",
            State::Condemned { .. } => "condemned",
            State::GivenUp => "given_up",
            State::Unnamed => "unnamed",
            State::Foreign => "foreign",
        }
    }

    /// Since when it is condemned.
    pub(super) fn since_unix_ms(self) -> Option<u64> {
        match self {
            State::Condemned { since_unix_ms } => Some(since_unix_ms),
            _ => None,
        }
    }

    /// What the next sweep does with it, and why; `None` of what is shared, or nobody's.
    pub(super) fn fate(self, now_unix_ms: u64) -> Option<(&'static str, &'static str)> {
        match self {
            State::Shared { .. } | State::Foreign => None,
            State::GivenUp => Some(("remove", "it was given up, and has not been removed yet")),
            State::Condemned { since_unix_ms } => {
                match now_unix_ms.saturating_sub(since_unix_ms) >= REMOTE_KEPT_MS {
                    true => Some((
                        "remove",
                        "nothing names it, and it was condemned long enough",
                    )),
                    false => Some(("wait", "nothing names it, and it was condemned lately")),
                }
            }
            State::Unnamed => Some((
                "condemn",
                "nothing names it: it is being uploaded, or was for nothing",
            )),
        }
    }
}

/// What each part is to a head.
pub(super) struct States(HashMap<PartKey, State>);

impl States {
    /// Those of a head.
    pub(super) fn of(head: Option<&Head>) -> States {
        let mut states = HashMap::new();
        if let Some(head) = head {
            for part in &head.parts {
                states.insert(part.key.clone(), State::Shared { bytes: part.bytes });
            }
            for one in &head.condemned {
                let since_unix_ms = one.since_unix_ms;
                states.insert(one.key.clone(), State::Condemned { since_unix_ms });
            }
            for key in &head.removed {
                states.insert(key.clone(), State::GivenUp);
            }
        }
        States(states)
    }

    /// That of an object, and its key if it has one.
    pub(super) fn state(&self, object: &Listed) -> (State, Option<PartKey>) {
        let Ok(key) = object.name.parse::<PartKey>() else {
            return (State::Foreign, None);
        };
        let state = self.0.get(&key).copied().unwrap_or(State::Unnamed);
        (state, Some(key))
    }
}

impl Repository {
    /// Whether a directory may be that of a repository.
    pub(super) fn is_one(name: &str) -> bool {
        name.len() == 32 && is_lower_hex(name.as_bytes())
    }

    /// Reads the head in a directory.
    pub(super) async fn read(objects: &AnyStore, name: &str) -> Result<Repository, ObjectError> {
        let dir = format!("{REPOSITORIES}/{name}");
        let key = format!("{dir}/head.json");
        let head = match objects.get(&key, STORE_HEAD_BYTES_MAX).await {
            Ok(None) => Headed::Absent,
            Ok(Some(found)) => Headed::of(&found.bytes, &key),
            Err(why @ ObjectError::TooLong { .. }) => Headed::Broken(why.to_string()),
            Err(why) => return Err(why),
        };
        Ok(Repository { dir, head })
    }

    /// How it is called: by its head if it has one.
    pub(super) fn name(&self) -> String {
        match &self.head {
            Headed::Sound(head) => {
                format!("{}/{}", head.repository.host, head.repository.path)
            }
            Headed::Absent | Headed::Broken(_) => self.dir.clone(),
        }
    }

    /// The name of its directory.
    pub(super) fn dir_name(&self) -> &str {
        part_name(&self.dir)
    }

    /// Where its head is.
    pub(super) fn head_key(&self) -> String {
        format!("{}/head.json", self.dir)
    }

    /// The directory of its parts.
    pub(super) fn parts(&self) -> String {
        format!("{}/parts", self.dir)
    }

    /// One of them.
    pub(super) fn part(&self, key: &PartKey) -> String {
        format!("{}/parts/{key}", self.dir)
    }

    /// What its parts are to its head.
    pub(super) fn states(&self) -> States {
        States::of(self.sound())
    }

    /// Its head, if it has one.
    pub(super) fn sound(&self) -> Option<&Head> {
        match &self.head {
            Headed::Sound(head) => Some(head),
            Headed::Absent | Headed::Broken(_) => None,
        }
    }
}

impl Headed {
    /// What these bytes are, at this key.
    fn of(bytes: &[u8], key: &str) -> Headed {
        let whose: Whose = match serde_json::from_slice(bytes) {
            Ok(whose) => whose,
            Err(why) => return Headed::Broken(format!("it says not whose it is: {why}")),
        };
        let place = Place::of(whose.repository);
        if place.head() != key {
            let Identity { host, path, .. } = place.identity;
            return Headed::Broken(format!("it is that of another repository, {host}/{path}"));
        }
        match Head::decode(bytes, &place.identity) {
            Ok(head) => Headed::Sound(Box::new(head)),
            Err(why) => Headed::Broken(why.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::remote::head::{Condemned, Stored};
    use crate::store::remote::key::{RandomId, refs_name};
    use crate::store::remote::listing::Listing;

    fn key(text: &str) -> PartKey {
        PartKey::new(&refs_name(text.as_bytes()), RandomId(1)).unwrap()
    }

    fn head() -> Head {
        let [host, path, url] = ["h", "p", "https://h/p"].map(str::to_owned);
        let mut head = Head::empty(Identity { host, path, url });
        (head.sequence, head.write) = (1, RandomId(9));
        let part = |key: PartKey| Stored {
            key,
            bytes: 3,
            more: Default::default(),
        };
        head.parts = vec![part(key("named"))];
        head.refs = Some(key("named"));
        let condemned = |text, since_unix_ms| Condemned {
            key: key(text),
            bytes: Some(3),
            since_unix_ms,
            more: Default::default(),
        };
        head.condemned = vec![condemned("old", 0), condemned("young", REMOTE_KEPT_MS)];
        head.removed = vec![key("given up")];
        head
    }

    /// What is said to happen is what a sweep does.
    #[test]
    fn fates_are_those_of_a_sweep() {
        let (head, now) = (head(), REMOTE_KEPT_MS + 5);
        let all = ["named", "old", "young", "given up", "nobody's"].map(key);
        let listing: Listing = all.iter().map(|key| (key.clone(), 3)).collect();
        let is_due = |one: &Condemned| now.saturating_sub(one.since_unix_ms) >= REMOTE_KEPT_MS;
        let stamp = (RandomId(2), now);
        let next = head.collecting(&listing, is_due, stamp).expect("a sweep");
        let states = States::of(Some(&head));
        let fated = |wanted: &str| {
            let fated = all.iter().filter(|key| {
                let object = Listed {
                    name: key.to_string(),
                    bytes: 3,
                };
                let (state, _) = states.state(&object);
                state.fate(now).is_some_and(|(fate, _)| fate == wanted)
            });
            BTreeSet::from_iter(fated.cloned())
        };
        let removed = next.removed.iter().chain(&head.removed).cloned();
        assert_eq!(fated("remove"), removed.collect());
        let condemned = next.condemned.iter().map(|one| one.key.clone());
        let condemned = BTreeSet::from_iter(condemned);
        let later = fated("wait").union(&fated("condemn")).cloned().collect();
        assert_eq!(condemned, later);
        assert_eq!((fated("wait").len(), fated("condemn").len()), (1, 1));
    }

    #[test]
    fn a_head_is_found_by_where_it_lies() {
        let head = head();
        let (bytes, place) = (head.encode().unwrap(), Place::of(head.repository.clone()));
        assert!(matches!(
            Headed::of(&bytes, &place.head()),
            Headed::Sound(_)
        ));
        let elsewhere = format!("{REPOSITORIES}/{}/head.json", "0".repeat(32));
        assert!(matches!(Headed::of(&bytes, &elsewhere), Headed::Broken(_)));
        for bytes in [&b""[..], b"{}", b"[1]", &bytes[..bytes.len() - 1]] {
            assert!(matches!(
                Headed::of(bytes, &place.head()),
                Headed::Broken(_)
            ));
        }
        let foreign = Listed {
            name: "notes.txt".into(),
            bytes: 1,
        };
        let states = States::of(Some(&head));
        assert_eq!(states.state(&foreign), (State::Foreign, None));
        assert!(Repository::is_one(&"0f".repeat(16)) && !Repository::is_one(".."));
    }
}
