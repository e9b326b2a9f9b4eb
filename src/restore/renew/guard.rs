//! What may go: what was looked at, and as it was then. Each file is looked at once more when it has gone from its place,
//! where nobody finds it any more; what is another one goes back.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::Stat;

use super::goes::Goes;
use super::modules::Modules;
use super::plan::{Leave, Plan, Seen};

/// Tells what may go.
#[derive(Clone, Copy)]
pub(super) struct Guard<'g> {
    pub seen: &'g Seen,
    pub plan: &'g Plan,
    pub leave: Leave,
    pub modules: Option<&'g Modules<'g>>,
}

impl Guard<'_> {
    /// Whether what was at `path`, and is `now` elsewhere, may.
    pub(super) fn may_go(&self, path: &Path, now: &Path) -> io::Result<bool> {
        if self.leave.force {
            return Ok(true);
        }
        let found = rustix::fs::lstat(now)?;
        if found.st_mode & libc::S_IFMT != libc::S_IFDIR {
            return Ok(self.may_file(path, &found));
        }
        for entry in fs::read_dir(now)? {
            let name = entry?.file_name();
            if !self.may_go(&path.join(&name), &now.join(&name))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn may_file(&self, path: &Path, found: &Stat) -> bool {
        let Guard {
            seen, plan, leave, ..
        } = *self;
        let of_module = self.modules.and_then(|all| all.has_found(path, found));
        if let Some(is_same) = of_module {
            return is_same;
        }
        let path = path.as_os_str().as_bytes();
        match (plan.makes_room.get(path), seen.entries.find(path)) {
            (Some(Goes::Ignored), _) => true,
            (Some(Goes::Left(stat)), _) => stat.is_some_and(|stat| stat.is_of(found)),
            (None, Ok(number)) => seen.looked.has_found(&seen.entries, number, found),
            (None, Err(_)) => leave.clean,
        }
    }
}
