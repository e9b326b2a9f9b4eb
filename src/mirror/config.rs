//! The configuration file of a mirror, read and completed without a git process: at the start
//! there may be hundreds of mirrors.
use crate::mirror::error::MirrorError;
use gix::bstr::ByteSlice;
use gix::config::{File, Source};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A repository's own configuration, keys as git normalises them; of a repeated key the last
/// value. A key without a value is a boolean that is true.
pub(super) type Config = BTreeMap<String, String>;

/// Reads the configuration of `mirror`, without asking whether its format is understood.
pub(super) fn read(mirror: &Path) -> Result<Config, MirrorError> {
    Ok(pairs(&parse(mirror)?))
}

/// Gives the keys of `wanted` their values, and `remote.origin.url` the value `origin` if it has
/// none. Writes nothing when nothing differs; otherwise as git does it, by renaming a lock file.
pub(super) fn complete(
    mirror: &Path,
    wanted: &[(&str, &str)],
    origin: &str,
) -> Result<(), MirrorError> {
    let mut file = parse(mirror)?;
    let have = pairs(&file);
    let mut differs = false;
    for (key, value) in wanted {
        if have.get(*key).is_none_or(|have| have != value) {
            file.set_raw_value(*key, *value)
                .map_err(|error| unusable(mirror, &error))?;
            differs = true;
        }
    }
    if !have.contains_key("remote.origin.url") {
        file.set_raw_value("remote.origin.url", origin)
            .map_err(|error| unusable(mirror, &error))?;
        differs = true;
    }
    match differs {
        true => replace(&path(mirror), &file.to_bstring()),
        false => Ok(()),
    }
}

fn path(mirror: &Path) -> PathBuf {
    mirror.join("config")
}

fn unusable(mirror: &Path, error: &dyn std::fmt::Display) -> MirrorError {
    MirrorError::Unusable {
        path: mirror.to_owned(),
        reason: format!("its config file is not understood ({error}): repair it"),
    }
}

fn parse(mirror: &Path) -> Result<File, MirrorError> {
    let path = path(mirror);
    // Looked at first: what cannot be read and what is not understood are different errors.
    std::fs::metadata(&path).map_err(|source| MirrorError::io("read", &path, source))?;
    File::from_path_no_includes(path, Source::Local).map_err(|error| unusable(mirror, &error))
}

fn pairs(file: &File) -> Config {
    let mut out = Config::new();
    for section in file.sections() {
        let header = section.header();
        let mut prefix = header.name().to_str_lossy().to_lowercase();
        if let Some(subsection) = header.subsection_name() {
            prefix.push('.');
            prefix.push_str(&subsection.to_str_lossy());
        }
        for name in section.value_names() {
            let value = section.value_implicit(&name).flatten();
            let value = value.map_or("true".into(), |value| value.to_str_lossy().into_owned());
            out.insert(format!("{prefix}.{}", name.to_lowercase()), value);
        }
    }
    out
}

/// Puts `text` in the place of the file, with its mode, unless somebody else is about to.
fn replace(path: &Path, text: &[u8]) -> Result<(), MirrorError> {
    let lock = path.with_extension("lock");
    let failed = |source| MirrorError::io("write", &lock, source);
    let mode = std::fs::metadata(path).map_err(failed)?.permissions();
    let mut file = std::fs::File::create_new(&lock).map_err(failed)?;
    let write = || -> io::Result<()> {
        file.write_all(text)?;
        file.set_permissions(mode)?;
        file.sync_all()?;
        std::fs::rename(&lock, path)
    };
    write().map_err(|source| {
        // Ours: it was just made.
        let _ = std::fs::remove_file(&lock);
        MirrorError::io("write", path, source)
    })
}
