//! What is remembered of repositories in the store, on this server's disk, beside its mirrors ([`Memory`]).
//!
//! What is owed to others lasts before anything goes. What was seen of heads is written now and then: that of a moment may
//! be lost, and nobody waits for it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use crate::limits::MEMORIES_KEPT;
use crate::mirror::MirrorError;
use crate::store::remote::change::Generation;
use crate::store::remote::head::Head;
use crate::store::remote::key::{Identity, Place, RandomId};
use crate::store::remote::memory::{Memory, path_of};
use crate::store::remote::objects::{ObjectError, Objects};
use crate::store::remote::publish::{Base, SystemRandom};
use crate::store::remote::store_id::store_id;

/// See the module's text.
pub(super) struct Memories {
    dir: PathBuf,
    is_readonly: bool,
    /// By the directories of the repositories in the store.
    known: RefCell<HashMap<String, Known>>,
    /// Held by what changes a file, or reads one that is not known yet.
    alone: Mutex<()>,
    /// Which store it is, as far as that was seen.
    store: Cell<Option<RandomId>>,
}

struct Known {
    memory: Memory,
    /// Whether the disk has another one.
    is_new: bool,
    /// Since when others are to be told of something.
    owed: Option<Instant>,
}

impl Known {
    fn of(memory: Memory) -> Known {
        let owed = memory.due.map(|_| Instant::now());
        Known {
            memory,
            is_new: false,
            owed,
        }
    }
}

impl Memories {
    /// Those in a state directory.
    pub(super) fn of(home: &Path, is_readonly: bool) -> Memories {
        Memories {
            dir: home.join("shared"),
            is_readonly,
            known: RefCell::default(),
            alone: Mutex::default(),
            store: Cell::default(),
        }
    }

    fn is_known(&self, place: &Place) -> bool {
        self.known.borrow().contains_key(place.dir())
    }

    /// What is remembered of a repository, if anything is.
    pub(super) async fn of_place(&self, place: &Place) -> Result<Option<Memory>, MirrorError> {
        if !self.is_known(place) {
            let _alone = self.alone.lock().await;
            self.load(place).await?;
        }
        let known = self.known.borrow();
        Ok(known.get(place.dir()).map(|known| known.memory.clone()))
    }

    async fn load(&self, place: &Place) -> Result<(), MirrorError> {
        if self.is_known(place) {
            return Ok(());
        }
        let (dir, at) = (self.dir.clone(), place.clone());
        let read = move || Memory::read(&dir, &at);
        let found = on_disk(("read", &path_of(&self.dir, place)), read).await?;
        if let Some(memory) = found {
            let known = Known::of(memory);
            self.known
                .borrow_mut()
                .insert(place.dir().to_owned(), known);
        }
        Ok(())
    }

    /// Whether others are to be told of something.
    pub(super) async fn due(&self, place: &Place) -> Result<Option<RandomId>, MirrorError> {
        let memory = self.of_place(place).await?;
        Ok(memory.and_then(|memory| memory.due))
    }

    /// Changes what is remembered, so that it lasts; gives what it was.
    pub(super) async fn change(
        &self,
        place: &Place,
        change: impl FnOnce(&mut Memory),
    ) -> Result<Memory, MirrorError> {
        let _alone = self.alone.lock().await;
        self.load(place).await?;
        let before = self.with(place, |known| {
            let before = known.memory.clone();
            change(&mut known.memory);
            known.owed = known.memory.due.and(known.owed.or(Some(Instant::now())));
            before
        });
        self.write(place.dir()).await?;
        Ok(before)
    }

    fn with<T>(&self, place: &Place, with: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known.borrow_mut();
        let first = || Known::of(Memory::of(place.identity.clone()));
        with(known.entry(place.dir().to_owned()).or_insert_with(first))
    }

    async fn write(&self, dir: &str) -> Result<(), MirrorError> {
        let memory = self.known.borrow_mut().get_mut(dir).map(|known| {
            known.is_new = false;
            if known.memory.store == RandomId::default() {
                known.memory.store = self.store.get().unwrap_or_default();
            }
            known.memory.clone()
        });
        let Some(memory) = memory else { return Ok(()) };
        let into = self.dir.clone();
        let written = on_disk(("write into", &self.dir), move || memory.write(&into)).await;
        if written.is_err()
            && let Some(known) = self.known.borrow_mut().get_mut(dir)
        {
            known.is_new = true;
        }
        written
    }

    /// What is remembered of a repository whose head was read, if it is of this store: what that has to come up to. `before` is
    /// what was remembered when its reading began: of two that are read at once the earlier one may come last.
    pub(super) async fn seen(
        &self,
        objects: &impl Objects,
        (place, head): (&Place, &Head),
        before: Option<Memory>,
    ) -> Option<Memory> {
        let seen = before.filter(|before| before.is_ahead_of(head))?;
        // What does not say which store it is is taken for the same.
        let store = self.look_which(objects).await.unwrap_or_default();
        if !seen.is_elsewhere(store) {
            return Some(seen);
        }
        say_restored(place, head, seen.sequence);
        self.with(place, |known| {
            if known.memory.is_elsewhere(store) {
                known.memory.move_to(store);
                known.is_new = true;
            }
        });
        None
    }

    /// A head as it was read, on top of all that is remembered; `before` is as [`seen`](Memories::seen) says.
    pub(super) async fn above(
        &self,
        objects: &impl Objects,
        (place, base): (&Place, Base),
        before: Option<Memory>,
    ) -> Base {
        let is_first = before.is_none() && !self.is_known(place);
        let seen = self.seen(objects, (place, &base.head), before).await;
        if is_first && !base.is_there() {
            // Anybody can ask for what there is not.
            return base;
        }
        self.with(place, |known| {
            known.is_new |= known.memory.note(&base.head);
            // It may have gone on since, which is no fault of the head.
            match seen {
                Some(_) => base.clone().above(&known.memory),
                None => base.clone(),
            }
        })
    }

    async fn look_which(&self, objects: &impl Objects) -> Result<RandomId, ObjectError> {
        let mut random = SystemRandom;
        let id = store_id(objects, (!self.is_readonly).then_some(&mut random)).await?;
        let id = id.unwrap_or_default();
        self.store.set(Some(id));
        Ok(id)
    }

    /// Writes what is new. Of repositories that are not there nothing is kept in memory, unless something is owed.
    pub(super) async fn keep(&self, objects: &impl Objects, is_there: impl Fn(&str) -> bool) {
        let unwritten = self.unwritten();
        if self.has_unplaced(&unwritten) {
            // It may have become another one since it was asked the last time. One that does not say which it is does not matter.
            let _ = self.look_which(objects).await;
        }
        for dir in unwritten {
            let _alone = self.alone.lock().await;
            if let Err(why) = self.write(&dir).await {
                tracing::warn!("what was seen in the store is not remembered: {why}");
                return;
            }
        }
        self.known.borrow_mut().retain(|_, known| {
            let Identity { host, path, .. } = &known.memory.repository;
            known.is_new || known.memory.has_duties() || is_there(&format!("{host}/{path}"))
        });
    }

    /// Of which the disk has another one.
    fn unwritten(&self) -> Vec<String> {
        let store = self.store.get().unwrap_or_default();
        let known = self.known.borrow();
        let new = known.iter().filter(|(_, known)| {
            let is_placed = known.memory.store != RandomId::default();
            known.is_new || !is_placed && store != RandomId::default()
        });
        new.map(|(dir, _)| dir.clone()).collect()
    }

    /// Whether of one of these it is not known in which store that was seen.
    fn has_unplaced(&self, dirs: &[String]) -> bool {
        let known = self.known.borrow();
        let mut memories = dirs.iter().filter_map(|dir| known.get(dir));
        memories.any(|known| known.memory.store == RandomId::default())
    }

    /// Finds what an earlier process has left to be done.
    pub(super) async fn find_duties(&self) -> Result<(), MirrorError> {
        let _alone = self.alone.lock().await;
        let dir = self.dir.clone();
        let all = on_disk(("read", &self.dir), move || {
            Memory::all_with_duties(&dir, MEMORIES_KEPT)
        });
        for memory in all.await? {
            let place = Place::of(memory.repository.clone());
            let mut known = self.known.borrow_mut();
            known
                .entry(place.dir().to_owned())
                .or_insert_with(|| Known::of(memory));
        }
        Ok(())
    }

    /// Notes in which generation the snapshot was made that is here.
    pub(super) fn note_made(&self, place: &Place, id: &str, generation: Generation) {
        self.with(place, |known| {
            known.is_new |= known.memory.note_made(id, generation)
        });
    }

    /// Notes whether something is left to be removed of what this server has replaced.
    pub(super) fn note_unswept(&self, place: &Place, is_unswept: bool) {
        if !is_unswept && !self.is_known(place) {
            return;
        }
        self.with(place, |known| {
            known.is_new |= known.memory.is_unswept != is_unswept;
            known.memory.is_unswept = is_unswept;
        });
    }

    /// Where that is so.
    pub(super) fn unswept(&self) -> Vec<Place> {
        let known = self.known.borrow();
        let unswept = known.values().filter(|known| known.memory.is_unswept);
        unswept
            .map(|known| Place::of(known.memory.repository.clone()))
            .collect()
    }

    /// Of which repositories others are to be told something for so long.
    pub(super) fn owed_for(&self, time: Duration) -> Vec<Place> {
        let known = self.known.borrow();
        let owed = known.values().filter(|known| {
            let owed = known.owed;
            owed.is_some_and(|since| since.elapsed() >= time)
        });
        owed.map(|known| Place::of(known.memory.repository.clone()))
            .collect()
    }
}

/// Says once what has become of a store.
pub(super) fn say_restored(place: &Place, read: &Head, seen: u64) {
    let (host, path) = (&place.identity.host, &place.identity.path);
    tracing::warn!(
        repository = format!("{host}/{path}"),
        found = read.sequence,
        seen,
        "the store was emptied or restored: what was shared is looked for again"
    );
}

async fn on_disk<T: Send + 'static>(
    (op, path): (&'static str, &Path),
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, MirrorError> {
    let done = spawn_blocking(work).await;
    let done = done.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
    done.map_err(|source| MirrorError::io(op, path, source))
}
