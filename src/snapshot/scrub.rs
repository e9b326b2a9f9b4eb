//! Whether a mirror on the disk is what git wrote there: its packs and what belongs to them by their
//! own checksums, loose objects by their names.
//!
//! Refs have no checksum; one that has rotted is another than the upstream's, so the next comparison
//! puts it right.

use std::io;
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::zlib::{Decompress, FlushDecompress, Status};

use super::verify::is_sound_on_disk;
use super::view::{PinError, list, object_hash};
use crate::io::uncached::{Pace, Uncached};
use crate::limits::SUM_READ_BYTES;

/// What is the matter with a mirror.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MirrorFault {
    /// It does not hold what git wrote.
    #[error("{} is damaged", .path.display())]
    Damaged { path: PathBuf },
    /// It could not be looked at.
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Unusable(#[from] PinError),
    /// The look was ended.
    #[error("stopped")]
    Stopped,
}

/// Reads all objects of `mirror` from the disk. `is_rot` tells the errors of a disk that has lost
/// what was written from those that pass.
pub(crate) fn check_mirror(
    mirror: &Path,
    pace: &Pace,
    is_rot: fn(&io::Error) -> bool,
) -> Result<(), MirrorFault> {
    let hash = object_hash(mirror)?;
    let objects = mirror.join("objects");
    let look = |path: PathBuf, sound: io::Result<bool>| match sound {
        Ok(true) => Ok(()),
        Ok(false) => Err(MirrorFault::Damaged { path }),
        Err(_) if pace.is_over() => Err(MirrorFault::Stopped),
        Err(error) if is_rot(&error) => Err(MirrorFault::Damaged { path }),
        // Packed again meanwhile; what took its place is looked at the next time.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(MirrorFault::Unreadable { path, source }),
    };
    let packs = objects.join("pack");
    for name in sorted(&packs)? {
        let is_pack = name.starts_with("pack-")
            && [".pack", ".idx", ".rev", ".mtimes"]
                .iter()
                .any(|end| name.ends_with(end));
        // One without its index is being written.
        let index = packs.join(&name).with_extension("idx");
        if is_pack && index.exists() {
            let path = packs.join(name);
            let sound = is_sound_on_disk(&path, hash, pace);
            look(path, sound)?;
        }
    }
    for fan in sorted(&objects)?.iter().filter(|name| name.len() == 2) {
        for name in sorted(&objects.join(fan))? {
            let Ok(id) = ObjectId::from_hex(format!("{fan}{name}").as_bytes()) else {
                continue;
            };
            let path = objects.join(fan).join(name);
            let sound = is_loose_sound(&path, id, pace);
            look(path, sound)?;
        }
    }
    Ok(())
}

fn sorted(directory: &Path) -> Result<Vec<String>, PinError> {
    let mut names = list(directory)?;
    names.sort();
    Ok(names)
}

/// Whether the object in a loose file has the file's name. An empty file is what a power cut leaves,
/// and git looks elsewhere.
fn is_loose_sound(path: &Path, id: ObjectId, pace: &Pace) -> io::Result<bool> {
    let file = Uncached::open(path, pace)?;
    let bytes = file.metadata()?.len();
    if bytes == 0 {
        return Ok(true);
    }
    let mut hasher = gix::hash::hasher(id.kind());
    let mut inflate = Decompress::new();
    let mut out = vec![0; SUM_READ_BYTES];
    let (mut ended, mut sound) = (false, true);
    file.read_parts(0..bytes, SUM_READ_BYTES, |mut part| {
        while sound && !ended {
            let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
            let status = inflate.decompress(part, &mut out, FlushDecompress::None);
            part = &part[(inflate.total_in() - before_in) as usize..];
            let made = (inflate.total_out() - before_out) as usize;
            hasher.update(&out[..made]);
            sound = status.is_ok();
            ended = matches!(status, Ok(Status::StreamEnd));
            if part.is_empty() && made < out.len() {
                break;
            }
        }
    })?;
    let own = hasher.try_finalize().map_err(io::Error::other)?;
    Ok(sound && ended && own == id)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use super::*;
    use crate::snapshot::tests::Repository;

    /// A byte of any file of objects, wherever it is.
    #[test]
    fn what_rots_in_a_mirror_is_found() {
        let repository = Repository::new();
        repository.write("packed", "what is packed\n".repeat(200));
        repository.commit_packed();
        repository.write("loose", "what is loose\n".repeat(200));
        repository.commit();
        let mirror = repository.dir.path().join(".git");
        let pace = Pace::new(None, Arc::default());
        let check = || check_mirror(&mirror, &pace, |_| false);
        check().unwrap();
        let (objects, mut files) = (mirror.join("objects"), Vec::new());
        for directory in list(&objects).unwrap() {
            if directory == "info" {
                continue;
            }
            for name in list(&objects.join(&directory)).unwrap() {
                files.push(objects.join(&directory).join(name));
            }
        }
        assert!(files.len() >= 5, "{files:?}");
        for path in files {
            let sound = fs::read(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            for at in (0..sound.len()).step_by(11).chain([sound.len() - 1]) {
                let mut rotten = sound.clone();
                rotten[at] ^= 4;
                fs::write(&path, rotten).unwrap();
                let Err(MirrorFault::Damaged { path: found }) = check() else {
                    panic!("byte {at} of {} goes unnoticed", path.display());
                };
                // A pack is compared with its index, which is looked at first.
                assert_eq!(found.file_stem(), path.file_stem());
            }
            fs::write(&path, sound).unwrap();
        }
        check().unwrap();
        assert!(pace.take_bytes() > 10_000);
    }
}
