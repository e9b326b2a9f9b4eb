//! Files of a snapshot that are downloaded whole, of which nobody reads anything before all is there.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinSet, spawn_blocking};

use super::{Fetched, Files, fetch_in_turn};
use crate::jobs::adopting::{Begun, KeptPacks};
use crate::jobs::shared::{ShareError, Shared};
use crate::limits::DOWNLOADS_AT_ONCE;
use crate::manifest::parts::part_name;
use crate::store::remote::entry::{EntryError, Incoming};
use crate::store::remote::plan::Stretch;

impl Files {
    /// Downloads what has not come of those files that are wanted, by their names; tells of each stretch how long it is.
    /// Where one fails what was asked for beside it is waited for, and kept.
    pub(in crate::jobs) async fn download(
        &mut self,
        shared: &Shared,
        (kept, wanted): (&mut KeptPacks, &BTreeMap<String, u64>),
        (stall, came): (Duration, &impl Fn(u64)),
    ) -> Result<(), ShareError> {
        let linked = self.meta.linked.iter().enumerate();
        let begun = linked.filter_map(|(number, linked)| {
            let name = part_name(&linked.path);
            let bytes = *wanted.get(name)?;
            Some((number, kept.begun(name, bytes)?))
        });
        let begun = Vec::from_iter(begun);
        let files = open_all(kept, begun).await?;
        self.plan.rewind();
        self.fetch_all(shared, (&files, Some(kept)), (stall, came))
            .await
    }

    /// Downloads those files for which there is a place, by their paths, and which nobody waits for; tells of each stretch how
    /// long it is.
    pub(in crate::jobs) async fn download_into(
        mut self,
        shared: &Shared,
        places: &HashMap<String, PathBuf>,
        (stall, came): (Duration, impl Fn(u64)),
    ) -> Result<(), ShareError> {
        let linked = self.meta.linked.iter();
        let linked = linked.map(|linked| (&linked.path, linked.bytes));
        let all = linked.chain([(&self.meta.spool, self.meta.spool_bytes())]);
        let wanted = all.enumerate().filter_map(|(number, (path, bytes))| {
            let place = places.get(path)?.clone();
            Some((number, place, bytes))
        });
        let wanted = Vec::from_iter(wanted);
        let made = spawn_blocking(move || {
            let make = |(number, place, bytes)| {
                Ok::<_, ShareError>((number, Arc::new(Incoming::make(place, bytes)?)))
            };
            let made: Result<HashMap<_, _>, _> = wanted.into_iter().map(make).collect();
            made
        });
        let files = made.await??;
        self.fetch_all(shared, (&files, None), (stall, &came)).await
    }

    /// Fetches all of these files, by their numbers, but what is kept of them.
    async fn fetch_all(
        &mut self,
        shared: &Shared,
        (files, mut kept): (&HashMap<usize, Arc<Incoming>>, Option<&mut KeptPacks>),
        (stall, came): (Duration, &impl Fn(u64)),
    ) -> Result<(), ShareError> {
        let (mut running, mut failed) = (JoinSet::new(), None);
        loop {
            while failed.is_none()
                && running.len() < DOWNLOADS_AT_ONCE
                && let Some(stretch) = self.plan.next_stretch()
            {
                let Some(file) = files.get(&stretch.file).cloned() else {
                    continue;
                };
                let is_there =
                    |kept: &&mut KeptPacks| kept.has(self.name(&stretch), &stretch.range);
                if kept.as_ref().is_some_and(is_there) {
                    continue;
                }
                let part = self.parts[stretch.file].clone();
                let by = (shared.objects.clone(), shared.downloads_behind.clone());
                fetch_in_turn(&mut running, by, (part, stretch, file));
            }
            let next = tokio::time::timeout(stall, running.join_next()).await;
            let wait_ms = stall.as_millis() as u64;
            let Some(fetched) = next.map_err(|_| ShareError::Slow { wait_ms })? else {
                return failed.map_or(Ok(()), Err);
            };
            let (stretch, fetched): Fetched = fetched?;
            match fetched {
                Ok(()) => {
                    if let Some(kept) = &mut kept {
                        kept.note(self.name(&stretch), &stretch.range);
                    }
                    came(stretch.range.end - stretch.range.start);
                }
                Err(why) => {
                    failed.get_or_insert(why);
                }
            }
        }
    }

    /// That of the linked file which a stretch is of.
    fn name(&self, stretch: &Stretch) -> &str {
        let linked = self.meta.linked.get(stretch.file);
        linked.map_or("", |linked| part_name(&linked.path))
    }
}

/// Opens those files that are to be written, by their numbers.
async fn open_all(
    kept: &mut KeptPacks,
    begun: Vec<(usize, Begun)>,
) -> Result<HashMap<usize, Arc<Incoming>>, ShareError> {
    let opened = spawn_blocking(move || {
        let open = |(number, begun): (usize, Begun)| {
            Ok::<_, EntryError>((number, Arc::new(begun.open_or_make()?)))
        };
        begun.into_iter().map(open).collect::<Result<_, _>>()
    });
    let opened = opened.await?;
    if opened.is_err() {
        // Somebody has removed it.
        kept.forget_all();
    }
    Ok(opened?)
}
