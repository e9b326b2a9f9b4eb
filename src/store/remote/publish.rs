//! What a server has made becomes everybody's: parts, then manifests, then one swap of the head.

use std::collections::BTreeMap;

use super::change::{Change, NotYet, Uploaded};
use super::head::{BadHead, Head};
use super::key::{PartKey, Place, RandomId};
use super::listing::Listing;
use super::memory::Memory;
use super::objects::{Condition, Found, Got, ObjectError, Objects, Version};
use super::swap::{Swapped, swap};
use crate::limits::{REMOTE_TRIES_MAX, STORE_HEAD_BYTES_MAX};

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("{key} is no head: {source}")]
    Head { key: String, source: BadHead },
    #[error("{key} would be longer than anybody reads")]
    TooLong { key: String },
    #[error("{name} is no name of a part, or nobody has it")]
    Part { name: String },
}

/// A head as it was read. Whatever is swapped against it was prepared afterwards: what a server does in between, a
/// comparison with the upstream above all, is newer than what the head says.
#[derive(Debug, Clone, PartialEq)]
pub struct Base {
    /// What it says; an empty one where there is none.
    pub head: Head,
    version: Option<Version>,
    /// Whether it does not come up to what was seen before.
    is_below: bool,
}

impl Base {
    /// Reads the head of a repository.
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub async fn read(objects: &impl Objects, place: &Place) -> Result<Base, RemoteError> {
        Base::read_unless(objects, place, None).await
    }

    /// The same, once more: if nobody has written since, little is read.
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub async fn read_unless(
        objects: &impl Objects,
        place: &Place,
        before: Option<&Base>,
    ) -> Result<Base, RemoteError> {
        let key = place.head();
        let known = before.and_then(|before| before.version.as_ref());
        let got = objects.get_unless(&key, STORE_HEAD_BYTES_MAX, known);
        let found = match (got.await?, before) {
            (Got::Found(found), _) => found,
            (Got::Same, Some(before)) => return Ok(before.clone()),
            (Got::Same | Got::Absent, _) => {
                return Ok(Base {
                    head: Head::empty(place.identity.clone()),
                    version: None,
                    is_below: false,
                });
            }
        };
        let (identity, version) = (place.identity.clone(), Some(found.version));
        let decode = move || Head::decode(&found.bytes, &identity);
        match objects.apart(decode).await {
            Ok(head) => Ok(Base {
                head,
                version,
                is_below: false,
            }),
            Err(source) => Err(RemoteError::Head { key, source }),
        }
    }

    /// The same where something is remembered: whatever is written goes above all that was seen.
    #[must_use]
    pub fn above(mut self, memory: &Memory) -> Base {
        self.is_below = memory.is_ahead_of(&self.head);
        self.head.sequence = self.head.sequence.max(memory.sequence);
        self.head.shares = self.head.shares.max(memory.shares);
        self
    }

    /// The same for who keeps order, if it comes up to what is remembered: into one that does not, nobody writes but who has
    /// compared the upstream, so that nothing else carries it above what was seen.
    #[must_use]
    pub fn unless_below(self, seen: Option<&Memory>) -> Option<Base> {
        let is_below = seen.is_some_and(|seen| seen.is_ahead_of(&self.head));
        (!is_below).then_some(self)
    }

    /// Whether it does not come up to what was seen before: the store was emptied or restored. Nothing is taken from it,
    /// and nothing dropped for it.
    #[must_use]
    pub fn is_below(&self) -> bool {
        self.is_below
    }

    /// Whether nobody has written between the two.
    #[must_use]
    pub fn is_as(&self, other: &Base) -> bool {
        self.version == other.version
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.version.is_some()
    }

    /// What holds for as long as nobody has written since.
    #[must_use]
    pub fn condition(&self) -> Condition {
        match &self.version {
            None => Condition::Absent,
            Some(version) => Condition::Unchanged(version.clone()),
        }
    }

    /// Swaps it for another one.
    ///
    /// # Errors
    /// Nobody knows whether that is done.
    pub async fn swap(
        &self,
        objects: &impl Objects,
        place: &Place,
        next: &Head,
    ) -> Result<Swapped, RemoteError> {
        let key = place.head();
        let encoded = next.clone();
        let Some(bytes) = objects.apart(move || encoded.encode()).await else {
            return Err(RemoteError::TooLong { key });
        };
        let condition = self.condition();
        let is_own = |found: &Found| {
            let head = Head::decode(&found.bytes, &place.identity);
            head.is_ok_and(|head| head.is_of(next.write))
        };
        let key = (&*key, STORE_HEAD_BYTES_MAX);
        Ok(swap(objects, key, &bytes, &condition, is_own).await?)
    }
}

/// Draws random numbers, of which no two are ever the same.
pub trait Draw {
    /// The next one.
    fn draw(&mut self) -> RandomId;
}

/// The system's random numbers.
#[derive(Debug, Clone, Copy)]
pub struct SystemRandom;

impl Draw for SystemRandom {
    fn draw(&mut self) -> RandomId {
        RandomId::drawn().expect("a system that gave random numbers at the start gives them on")
    }
}

impl SystemRandom {
    /// A number below `bound`, so that servers that were refused together do not come back together.
    #[must_use]
    pub fn below(bound: u64) -> u64 {
        let drawn = SystemRandom.draw().0;
        u64::try_from(drawn % u128::from(bound.max(1))).unwrap_or(0)
    }
}

/// What a server can upload, by its name: its length and where it lies.
pub type Contents<C> = BTreeMap<String, (u64, C)>;

/// What was uploaded for heads to name, until they do. It outlasts a swap that was lost.
#[derive(Debug, Default)]
pub struct Uploads {
    by_name: BTreeMap<String, Uploaded>,
}

/// How publishing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The head says it.
    Done(RandomId),
    /// It had said so before.
    Already,
    /// Somebody else was faster: his packs are to be imported, the upstream compared again, and the rest done anew.
    Lost(RandomId),
    /// Something has expired since, which this server's packs may have.
    Behind,
}

impl Uploads {
    /// Uploads what the head that was read lacks, and what is not there of what it names, and swaps it for one that names
    /// all. What lies there was listed after the head was read.
    ///
    /// # Errors
    /// Whether it is done is not known; it can be done again.
    pub async fn publish<O: Objects>(
        &mut self,
        objects: &O,
        place: &Place,
        (base, listing): (&Base, &Listing),
        (change, contents): (&Change, &Contents<O::Content>),
        (random, now_unix_ms): (&mut impl Draw, u64),
    ) -> Result<Published, RemoteError> {
        if base.head.says(change, listing) {
            return Ok(Published::Already);
        }
        // The store may have been emptied since.
        let uploaded = &mut self.by_name;
        uploaded.retain(|_, uploaded| listing.has(&uploaded.key, uploaded.bytes));
        let write = random.draw();
        let lengths = |name: &str| contents.get(name).map(|(bytes, _)| *bytes);
        let with = |uploads: &Uploads| {
            let (there, stamp) = ((listing, &uploads.by_name), (write, now_unix_ms));
            base.head.with(change, lengths, there, stamp)
        };
        let next = match with(self) {
            Ok(next) => next,
            Err(NotYet::Behind) => return Ok(Published::Behind),
            Err(NotYet::Missing(missing)) => {
                for name in missing {
                    let removals = base.head.removals;
                    self.upload(objects, (place, removals), (&name, contents), random)
                        .await?;
                }
                match with(self) {
                    Ok(next) => next,
                    Err(NotYet::Behind) => return Ok(Published::Behind),
                    Err(NotYet::Missing(missing)) => {
                        let name = missing.into_iter().next().unwrap_or_default();
                        return Err(RemoteError::Part { name });
                    }
                }
            }
        };
        Ok(match base.swap(objects, place, &next).await? {
            Swapped::Done => {
                self.by_name.clear();
                Published::Done(write)
            }
            Swapped::Lost(_) => Published::Lost(write),
        })
    }

    /// Each try has a key of its own: one that is thought to have failed may arrive at any time.
    async fn upload<O: Objects>(
        &mut self,
        objects: &O,
        (place, removals): (&Place, u64),
        (name, contents): (&str, &Contents<O::Content>),
        random: &mut impl Draw,
    ) -> Result<(), RemoteError> {
        let unknown = || RemoteError::Part {
            name: name.to_owned(),
        };
        let (bytes, content) = contents.get(name).ok_or_else(unknown)?;
        let mut tries = 0;
        let key = loop {
            let key = PartKey::new(name, random.draw()).ok_or_else(unknown)?;
            match objects.upload(&place.part(&key), content).await {
                Ok(()) => break key,
                Err(why) => {
                    tries += 1;
                    if tries == REMOTE_TRIES_MAX || why.is_final() {
                        return Err(why.into());
                    }
                    objects.before_again(tries).await;
                }
            }
        };
        let uploaded = Uploaded {
            key,
            bytes: *bytes,
            removals,
        };
        self.by_name.insert(name.to_owned(), uploaded);
        Ok(())
    }
}
