//! What an archive has next that lies in files already: nothing of it is kept in memory.

use std::time::Instant;

use super::fanout::{Fanout, appended};
use super::growth::{Abandoned, Growth};

impl Fanout {
    /// Appends a run of a linked file, whose pages are in memory and whose frames have these
    /// checksums. It needs no room, but somebody who wants it.
    pub fn push_raw(
        &self,
        file: u32,
        offset: u64,
        len: u64,
        checksums: &[u32],
    ) -> Result<(), Abandoned> {
        let push = |growth: &mut Growth| growth.layout.push_raw(file, offset, len, checksums);
        self.push_linked(len, push)
    }

    /// Appends frames that lie in a linked file, as [`Fanout::push_raw`].
    pub fn push_stored(&self, file: u32, offset: u64, len: u64) -> Result<(), Abandoned> {
        self.push_linked(len, |growth| growth.layout.push_stored(file, offset, len))
    }

    /// Appends bytes that stand next in the spool file already, as [`Fanout::push_raw`].
    pub fn push_spooled(&self, len: u64) -> Result<(), Abandoned> {
        self.push_linked(len, |growth| {
            debug_assert!(growth.window.is_empty(), "what is before is not there");
            growth.layout.push_spool(len);
            growth.spooled = growth.layout.spool_bytes();
        })
    }

    fn push_linked(&self, len: u64, push: impl FnOnce(&mut Growth)) -> Result<(), Abandoned> {
        let mut shared = self.lock();
        shared.is_wanted(Instant::now())?;
        push(&mut shared);
        appended(shared, len);
        Ok(())
    }
}
