//! What a server remembers of a repository in the store, apart from its mirror, which may leave the disk at any time: the
//! furthest head that it has seen, and whether others are still to be told that something has expired here.
//!
//! A head that does not come up to it is one of a store that was emptied, or restored to an earlier state: nothing is taken
//! from that, and nothing dropped for it. What is written next goes above.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::change::Generation;
use super::head::Head;
use super::key::{Identity, Place, RandomId};
use crate::limits::MEMORY_BYTES_MAX;

/// See the module's text. A small file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Of which repository.
    pub repository: Identity,
    /// In which store; 0 if that was never known.
    pub store: RandomId,
    /// The highest sequence,
    pub sequence: u64,
    /// and how often something was shared by then.
    #[serde(default)]
    pub shares: u64,
    /// The last generation that followed the one before it here.
    pub number: u64,
    /// The raise of that.
    pub raise: RandomId,
    /// Something expires here, or has, and others are to be told: which raise tells them. It is drawn before anything goes,
    /// so that who ended before he heard that it is done knows it again.
    pub due: Option<RandomId>,
    /// The snapshot that this server has, as far as it is known in which generation that was made.
    #[serde(default)]
    pub held: Option<Held>,
    /// This server has written a head, and has not seen one since from which nothing is left to be removed.
    #[serde(default)]
    pub is_unswept: bool,
}

/// A snapshot that a head has named as one of this generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its `ETag`.
    pub id: String,
    /// The generation's number,
    pub number: u64,
    /// and its raise.
    pub raise: RandomId,
}

const TMP: &str = "tmp-";

impl Memory {
    /// Nothing was seen of a repository yet.
    #[must_use]
    pub fn of(repository: Identity) -> Memory {
        Memory {
            repository,
            store: RandomId::default(),
            sequence: 0,
            shares: 0,
            number: 0,
            raise: RandomId::default(),
            due: None,
            held: None,
            is_unswept: false,
        }
    }

    /// Whether something is left to be done in the store, whoever uses the repository.
    #[must_use]
    pub fn has_duties(&self) -> bool {
        self.due.is_some() || self.is_unswept
    }

    /// The generation up to which nothing that has expired may come back.
    #[must_use]
    pub fn at(&self) -> Generation {
        Generation {
            number: self.number,
            raise: self.raise,
        }
    }

    /// In which generation a snapshot was made, if that is known.
    #[must_use]
    pub fn made(&self, id: &str) -> Option<Generation> {
        let held = self.held.as_ref().filter(|held| held.id == id);
        held.map(|held| Generation {
            number: held.number,
            raise: held.raise,
        })
    }

    /// A snapshot was made in this generation; whether that is news.
    pub fn note_made(&mut self, id: &str, generation: Generation) -> bool {
        let is_new = self.made(id) != Some(generation);
        self.held = Some(Held {
            id: id.to_owned(),
            number: generation.number,
            raise: generation.raise,
        });
        is_new
    }

    /// A head of this generation is as good as any that was seen.
    pub fn set_at(&mut self, generation: Generation) {
        (self.number, self.raise) = (generation.number, generation.raise);
    }

    /// Whether a head was seen that this one, as it was read, does not come up to.
    #[must_use]
    pub fn is_ahead_of(&self, head: &Head) -> bool {
        // A restored store is kept in order, too: writes alone do not bring it up to what was seen.
        let is_older = head.sequence < self.sequence || head.shares < self.shares;
        is_older || !head.follows(self.at())
    }

    /// Notes a head, if it comes up to what is known; whether there is something new.
    pub fn note(&mut self, head: &Head) -> bool {
        if self.is_ahead_of(head) {
            return false;
        }
        let is_new = self.sequence != head.sequence || self.at() != head.at();
        self.sequence = head.sequence;
        self.shares = head.shares;
        self.set_at(head.at());
        is_new
    }

    /// It is another store: what was seen in the one before says nothing of it. What others are to be told they are.
    pub fn move_to(&mut self, store: RandomId) {
        let due = self.due;
        *self = Memory {
            store,
            due,
            ..Memory::of(self.repository.clone())
        };
    }

    /// Whether a store with this id is another one, as far as both are known.
    #[must_use]
    pub fn is_elsewhere(&self, store: RandomId) -> bool {
        let unknown = RandomId::default();
        self.store != store && self.store != unknown && store != unknown
    }

    /// What is remembered of a repository, if anything is. May wait for the disk.
    ///
    /// # Errors
    /// The file cannot be read. One that says something else says nothing.
    pub fn read(dir: &Path, place: &Place) -> io::Result<Option<Memory>> {
        let memory = read_file(&path_of(dir, place))?;
        Ok(memory.filter(|memory| memory.repository == place.identity))
    }

    /// Writes it, so that it lasts. May wait for the disk.
    ///
    /// # Errors
    /// It cannot be written; what was remembered before still is.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let path = path_of(dir, &Place::of(self.repository.clone()));
        fs::create_dir_all(dir)?;
        let mut file = tempfile::Builder::new().prefix(TMP).tempfile_in(dir)?;
        // Its keys are texts, so this cannot fail.
        file.write_all(&serde_json::to_vec(self).unwrap_or_default())?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        File::open(dir)?.sync_all()
    }

    /// What is remembered of all repositories in whose store something is left to be done. Of the rest only those that were
    /// written last stay, `kept` of them. Nobody writes meanwhile. May wait for the disk.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn all_with_duties(dir: &Path, kept: usize) -> io::Result<Vec<Memory>> {
        let entries = match fs::read_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let (mut due, mut others) = (Vec::new(), Vec::new());
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(TMP.as_bytes())
            {
                // Who was writing it has ended.
                fs::remove_file(path)?;
                continue;
            }
            match read_file(&path) {
                Ok(Some(memory)) if memory.has_duties() => due.push(memory),
                Ok(_) => others.push((entry.metadata()?.modified()?, path)),
                // Of the others it is known all the same.
                Err(why) => tracing::error!("cannot read {}: {why}", path.display()),
            }
        }
        others.sort_unstable();
        let surplus = others.len().saturating_sub(kept);
        for (_, path) in &others[..surplus] {
            fs::remove_file(path)?;
        }
        Ok(due)
    }
}

/// In which file of a directory it is.
#[must_use]
pub fn path_of(dir: &Path, place: &Place) -> PathBuf {
    let name = place.dir().rsplit('/').next().unwrap_or_default();
    dir.join(name)
}

fn read_file(path: &Path) -> io::Result<Option<Memory>> {
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(MEMORY_BYTES_MAX).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Place {
        let [host, path, url] = ["h", path, "https://h"].map(str::to_owned);
        Place::of(Identity { host, path, url })
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, place) = (dir.path().join("made"), place("a"));
        assert_eq!(Memory::read(&dir, &place).unwrap(), None);
        let mut memory = Memory::of(place.identity.clone());
        memory.set_at(Generation {
            number: 7,
            raise: RandomId(3),
        });
        (memory.store, memory.sequence, memory.due) = (RandomId(1), 9, Some(RandomId(2)));
        memory.write(&dir).unwrap();
        assert_eq!(Memory::read(&dir, &place).unwrap(), Some(memory.clone()));
        for torn in [&b""[..], b"{", b"{}", &[0xff; 300]] {
            fs::write(path_of(&dir, &place), torn).unwrap();
            assert_eq!(Memory::read(&dir, &place).unwrap(), None);
        }
        // That of another repository is none of this one's.
        let other = Memory::of(self::place("b").identity);
        fs::write(path_of(&dir, &place), serde_json::to_vec(&other).unwrap()).unwrap();
        assert_eq!(Memory::read(&dir, &place).unwrap(), None);
    }

    #[test]
    fn of_many_those_stay_of_which_others_are_to_be_told() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for number in 0..8 {
            let mut memory = Memory::of(place(&number.to_string()).identity);
            memory.due = (number < 2).then_some(RandomId(1));
            memory.write(dir).unwrap();
        }
        fs::write(dir.join("tmp-1"), "{").unwrap();
        assert_eq!(Memory::all_with_duties(dir, 3).unwrap().len(), 2);
        assert_eq!(fs::read_dir(dir).unwrap().count(), 5);
        assert_eq!(Memory::all_with_duties(dir, 0).unwrap().len(), 2);
    }

    #[test]
    fn what_does_not_come_up_to_it_is_known() {
        let identity = place("a").identity;
        let mut memory = Memory::of(identity.clone());
        let mut head = Head::empty(identity);
        assert!(!memory.is_ahead_of(&head));
        (head.write, head.sequence, head.generation, head.raise) = (RandomId(5), 4, 1, RandomId(1));
        assert!(memory.note(&head) && !memory.note(&head));
        let earlier = Head {
            sequence: 3,
            ..head.clone()
        };
        let other = Head {
            sequence: 9,
            raise: RandomId(2),
            ..head.clone()
        };
        for restored in [&earlier, &other, &Head::empty(head.repository.clone())] {
            assert!(memory.is_ahead_of(restored));
            assert!(!memory.clone().note(restored));
        }
        let raised = Head {
            sequence: 5,
            generation: 2,
            raise: RandomId(2),
            raises: vec![RandomId(1)],
            ..head
        };
        assert!(memory.note(&raised) && memory.is_ahead_of(&earlier));
        memory.due = Some(RandomId(3));
        memory.move_to(RandomId(8));
        assert!(!memory.is_ahead_of(&earlier) && memory.due == Some(RandomId(3)));
        assert!(memory.is_elsewhere(RandomId(9)) && !memory.is_elsewhere(RandomId(0)));
    }
}
