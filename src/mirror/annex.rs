//! The annex of a mirror: a repository inside of its directory with what no followed ref reaches, for those
//! who ask for it by its id. It borrows the mirror's objects, and leaves and is replaced with it.
//!
//! Each fetch has a repository of its own, whose refs are the haves: so an upstream is offered what
//! is chosen and nothing else. What it has brought is moved into the annex, of which it then is a tip
//! ([`annex_tips`](super::annex_tips)). A fetch that is cut off leaves a directory that the next start removes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::hash::Kind;

use super::files::entries;

const NAME: &str = "tarpon-annex";

/// The refs that are offered as haves, in the repository of a fetch.
const HAVES: &str = "refs/tarpon/have/";

/// What directories in the annex are called that are only there for a while.
pub(super) const TMP: &str = "tmp_";

/// Where the annex of a mirror is, or would be.
pub(crate) fn annex(mirror: &Path) -> PathBuf {
    mirror.join(NAME)
}

/// Whether there is one.
pub(crate) fn is_there(mirror: &Path) -> bool {
    annex(mirror).join("config").is_file()
}

/// Makes the annex, unless it is there.
pub(super) fn make(mirror: &Path, format: Kind) -> io::Result<PathBuf> {
    let annex = annex(mirror);
    if !is_there(mirror) {
        make_repository(&annex, format, &["../../objects"], &[])?;
    }
    Ok(annex)
}

/// Makes a bare repository that borrows objects of others, named from its own, and has refs to these commits.
pub(super) fn make_repository(
    dir: &Path,
    format: Kind,
    borrowed: &[&str],
    haves: &[ObjectId],
) -> io::Result<()> {
    for name in ["objects/info", "objects/pack", "refs"] {
        fs::create_dir_all(dir.join(name))?;
    }
    let lines = |names: &[&str]| {
        names
            .iter()
            .map(|name| format!("{name}\n"))
            .collect::<String>()
    };
    fs::write(dir.join("objects/info/alternates"), lines(borrowed))?;
    fs::write(dir.join("HEAD"), "ref: refs/heads/unused\n")?;
    if !haves.is_empty() {
        let mut refs = "# pack-refs with: sorted \n".to_owned();
        let line = |(number, id)| format!("{id} {HAVES}{number:04}\n");
        refs.extend(haves.iter().enumerate().map(line));
        fs::write(dir.join("packed-refs"), refs)?;
    }
    let version = u8::from(format != Kind::Sha1);
    let mut config = format!(
        "[core]\n\trepositoryformatversion = {version}\n\tbare = true\n\talternateRefsPrefixes = {HAVES}\n\
         [gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n"
    );
    if format != Kind::Sha1 {
        config.push_str(&format!("[extensions]\n\tobjectformat = {format}\n"));
    }
    // The last: what has it is whole.
    fs::write(dir.join("config"), config)
}

/// The files of a pack, in the order in which they may appear.
const ENDS: [&str; 3] = ["pack", "rev", "idx"];

/// Links packs of an annex, by their names without an end, into its mirror: what they have is the mirror's now, and
/// is not fetched again. What has been joined with others meanwhile is passed over, for then it is no pack of
/// exactly that. They are on the disk when this returns.
pub(crate) fn link_packs(mirror: &Path, names: &[String]) -> io::Result<()> {
    let [from, into] = [&annex(mirror), mirror].map(|dir| dir.join("objects/pack"));
    for name in names {
        let at = |dir: &Path, end| dir.join(format!("{name}.{end}"));
        if at(&into, "idx").exists() {
            continue;
        }
        let linked = ENDS.iter().try_for_each(|end| {
            let linked = fs::hard_link(at(&from, end), at(&into, end));
            linked.or_else(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                io::ErrorKind::NotFound if *end == "rev" => Ok(()),
                _ => Err(e),
            })
        });
        if let Err(why) = linked {
            // Nothing is a pack without its index.
            let _ = ["rev", "pack"].map(|end| fs::remove_file(at(&into, end)));
            match why.kind() {
                io::ErrorKind::NotFound => {}
                _ => return Err(why),
            }
        }
    }
    File::open(&into)?.sync_all()
}

/// The names of a repository's packs, without an end.
pub(super) fn pack_names(repository: &Path) -> io::Result<Vec<String>> {
    let names = entries(&repository.join("objects/pack"))?.into_iter();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names
        .filter_map(|name| Some(name.strip_suffix(".pack")?.to_owned()))
        .collect())
}

/// Moves packs from one repository into another, their indices last. They are on the disk when this returns.
pub(super) fn move_packs_into(from: &Path, into: &Path) -> io::Result<u64> {
    let [from, into] = [from, into].map(|dir| dir.join("objects/pack"));
    let mut paths: Vec<PathBuf> = entries(&from)?.iter().map(|entry| entry.path()).collect();
    paths.retain(|path| {
        ENDS.iter()
            .any(|end| path.extension().is_some_and(|own| own == *end))
    });
    // As they are listed there.
    paths.sort_by_key(|path| {
        ENDS.iter()
            .position(|end| path.extension().is_some_and(|own| own == *end))
    });
    let mut bytes = 0;
    for path in paths {
        let file = File::open(&path)?;
        file.sync_all()?;
        bytes += file.metadata()?.len();
        fs::rename(&path, into.join(path.file_name().unwrap_or_default()))?;
    }
    File::open(&into)?.sync_all()?;
    Ok(bytes)
}
