//! The reverse index of a pack, where git has written none: which versions do, and when, differs, and an
//! archive must not. It is a function of the pack's index, so that everybody makes the same one.
//!
//! Format: gitformat-pack(5), "pack-*.rev files have the format".

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use gix::hash::Kind;
use gix::odb::pack::index;

use crate::io::lasts::Lasts;
use crate::tree::map::MappedFile;
use crate::tree::sum::Sum;

const SIGNATURE: &[u8] = b"RIDX\0\0\0\x01";

/// Makes the reverse index of `pack`, beside it, from its index. It appears whole or not at all; a power cut behind
/// that may leave a part of it if it `lasts` by its caller.
pub(crate) fn make_reverse_index(pack: &Path, hash: Kind, lasts: Lasts) -> io::Result<()> {
    let path = pack.with_extension("idx");
    let mapped = MappedFile::open(&path)?;
    let index = index::File::from_data(mapped, path, hash).map_err(io::Error::other)?;
    let mut order = Vec::from_iter(0..index.num_objects());
    order.sort_unstable_by_key(|number| index.pack_offset_at_index(*number));
    let directory = pack.parent().unwrap_or(Path::new("."));
    // A name of which git knows that it can be removed.
    let temporary = tempfile::Builder::new()
        .prefix("tmp_rev_")
        .tempfile_in(directory)?;
    let mut sum = Sum::new(hash);
    let mut out = BufWriter::new(temporary.as_file());
    let mut put = |out: &mut BufWriter<&File>, bytes: &[u8]| {
        sum.update(bytes);
        out.write_all(bytes)
    };
    put(&mut out, SIGNATURE)?;
    let kind: u32 = match hash {
        Kind::Sha256 => 2,
        _ => 1,
    };
    put(&mut out, &kind.to_be_bytes())?;
    for number in order {
        put(&mut out, &number.to_be_bytes())?;
    }
    put(&mut out, index.pack_checksum().as_bytes())?;
    out.write_all(&sum.finish())?;
    out.flush()?;
    drop(out);
    let file = temporary.as_file();
    file.set_permissions(fs::Permissions::from_mode(0o444))?;
    if lasts == Lasts::ByWriter {
        file.sync_all()?;
    }
    temporary.persist(pack.with_extension("rev"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::Repository;

    /// git's own, byte for byte.
    #[test]
    fn it_is_the_one_that_git_makes() {
        let repository = Repository::new();
        for n in 0..200 {
            repository.write(&format!("f{n}"), format!("{n}\n").repeat(n));
        }
        repository.git(&["config", "pack.writeReverseIndex", "true"]);
        repository.commit_packed();
        let packs = fs::read_dir(repository.dir.path().join(".git/objects/pack")).unwrap();
        let mut packs = packs.map(|file| file.unwrap().path());
        let pack = packs.find(|path| path.extension().is_some_and(|e| e == "pack"));
        let pack = pack.unwrap();
        let reverse = pack.with_extension("rev");
        let theirs = fs::read(&reverse).unwrap();
        fs::remove_file(&reverse).unwrap();
        make_reverse_index(&pack, Kind::Sha1, Lasts::ByWriter).unwrap();
        assert!(fs::read(&reverse).unwrap() == theirs);
        repository.git(&["fsck", "--strict"]);
    }
}
