//! The configuration of a repository that is made or changed here, as a file: what stands in it, such as a login in a URL,
//! is on no command line.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use gix::bstr::{BStr, BString, ByteSlice};

use super::data::read;
use super::error::{RestoreError, failed};
use crate::limits::RESTORED_CONFIG_BYTES_MAX;

/// Its text, as it is to be.
pub(super) struct Configured {
    config: gix::config::File,
}

impl Configured {
    /// What a text says.
    pub(super) fn parse(text: &[u8]) -> Result<Configured, RestoreError> {
        let config = gix::config::File::try_from(text.as_bstr());
        config
            .map(|config| Configured { config })
            .map_err(|e| wrong(&e))
    }

    /// What the file at `path` says.
    pub(super) fn open(path: &Path) -> Result<Configured, RestoreError> {
        let text = read(path, RESTORED_CONFIG_BYTES_MAX as u64).map_err(failed("read", path))?;
        Configured::parse(&text)
    }

    /// The last value of a key, such as `core.worktree`.
    pub(super) fn get(&self, key: &str) -> Option<BString> {
        self.config.string(key)
    }

    /// Gives a key of a section, such as `core`, or of one of several, this value.
    pub(super) fn set(
        &mut self,
        (section, name): (&str, Option<&BStr>),
        key: &str,
        value: &[u8],
    ) -> Result<(), RestoreError> {
        let set = self
            .config
            .set_raw_value_by(section, name, key, value.as_bstr());
        set.map(drop).map_err(|e| wrong(&e))
    }

    /// Whether anything says what a key of a section, or of one of several, is.
    pub(super) fn has(&self, (section, name): (&str, Option<&BStr>), key: &str) -> bool {
        self.config.raw_value_by(section, name, key).is_ok()
    }

    /// Removes these keys from those of the sections `section` whose names are none of these, and sections that have
    /// nothing else.
    pub(super) fn retain(&mut self, section: &str, keys: &[&str], is_one: impl Fn(&[u8]) -> bool) {
        let sections = self.config.sections_by_name(section).into_iter().flatten();
        let names = sections.filter_map(|section| {
            let name = section.header().subsection_name();
            name.map(BStr::to_owned)
        });
        let names: Vec<BString> = names.filter(|name| !is_one(name)).collect();
        for name in &names {
            let Ok(mut one) = self.config.section_mut(section, Some(name.as_bstr())) else {
                continue;
            };
            for key in keys {
                while one.remove(key).is_some() {}
            }
            if one.num_values() == 0 {
                self.config.remove_section(section, Some(name.as_bstr()));
            }
        }
    }

    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = self.config.to_bstring().to_vec();
        if !text.ends_with(b"\n") && !text.is_empty() {
            text.push(b'\n');
        }
        text
    }

    /// Puts it in the place of the file at `path`, which nobody else changes.
    pub(super) fn write(&self, path: &Path) -> Result<(), RestoreError> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let text = self.text();
        let written = fs::metadata(path).and_then(|old| {
            let mut file = File::create(&beside)?;
            file.set_permissions(old.permissions())?;
            file.write_all(&text)
        });
        written.map_err(failed("write", &beside))?;
        fs::rename(&beside, path).map_err(failed("rename to", path))
    }
}

fn wrong(e: &dyn std::fmt::Display) -> RestoreError {
    RestoreError::Usage(format!("its configuration: {e}"))
}
