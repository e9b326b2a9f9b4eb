//! What a working copy's configuration may say: what a plain clone's does, and what decides nothing about files, refs
//! and objects.

use std::fs;
use std::path::Path;

use gix::bstr::ByteSlice;
use gix::hash::Kind;

use super::refusal::Why;
use crate::restore::names::Names;
use crate::restore::path::as_path;

/// Sections that decide nothing about files, refs and objects.
const SECTIONS: [&str; 38] = [
    "advice",
    "alias",
    "am",
    "apply",
    "author",
    "blame",
    "branch",
    "color",
    "column",
    "commit",
    "committer",
    "credential",
    "diff",
    "fetch",
    "filter",
    "gc",
    "gpg",
    "grep",
    "gui",
    "help",
    "http",
    "init",
    "lfs",
    "log",
    "maintenance",
    "merge",
    "protocol",
    "pull",
    "push",
    "rebase",
    "rerere",
    "safe",
    "ssh",
    "stash",
    "status",
    "submodule",
    "tag",
    "user",
];
/// The same of `core`.
const CORE: [&str; 17] = [
    "askpass",
    "bigfilethreshold",
    "checkstat",
    "commitgraph",
    "compression",
    "editor",
    "fsmonitor",
    "hookspath",
    "logallrefupdates",
    "multipackindex",
    "pager",
    "precomposeunicode",
    "preloadindex",
    "quotepath",
    // Of no meaning unless files are left out.
    "sparsecheckoutcone",
    "sshcommand",
    "trustctime",
];
/// The same of a remote.
const REMOTE: [&str; 9] = [
    "fetch",
    "prune",
    "prunetags",
    "proxy",
    "pushurl",
    "skipdefaultupdate",
    "tagopt",
    "url",
    "followremotehead",
];

/// What it says of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plain {
    pub hash: Kind,
    /// Whether modes say who may execute a file.
    pub has_modes: bool,
    /// Whether there is more of it in a file of this worktree's own.
    pub goes_on: bool,
}

/// A value that decides something.
enum Key {
    Plain,
    /// Somebody has set it, and can take it out.
    Foreign,
    /// The repository is of another kind.
    Other(Why),
}

impl Plain {
    pub(super) fn new() -> Plain {
        Plain {
            hash: Kind::Sha1,
            has_modes: true,
            goes_on: false,
        }
    }

    /// The same with what a file of a configuration says besides, which git finds by `option`; an error is what a plain
    /// clone's has not. Its worktree is to be the one for which `is_own`.
    pub(super) fn with(
        mut self,
        text: &[u8],
        option: &str,
        is_own: impl Fn(&Path) -> bool,
    ) -> Result<Plain, Why> {
        let config = gix::config::File::try_from(text.as_bstr());
        let config = config.map_err(|e| format!("its configuration cannot be read: {e}"))?;
        let mut foreign = Names::default();
        for section in config.sections() {
            let header = section.header();
            let name = header.name().to_str_lossy().to_ascii_lowercase();
            if SECTIONS.contains(&&*name) {
                continue;
            }
            for key in section.value_names() {
                let key = key.to_ascii_lowercase();
                let raw = section.value(&key).unwrap_or_default();
                // Of these git asks for no subsection: such a key is another one.
                let is_other = name != "remote" && header.subsection_name().is_some();
                let taken = match is_other {
                    true => Key::Foreign,
                    false => self.take((&name, &key), &raw, &is_own),
                };
                match taken {
                    Key::Plain => {}
                    Key::Other(why) => return Err(why),
                    Key::Foreign => foreign.push(match header.subsection_name() {
                        Some(middle) => format!("{name}.{middle}.{key}"),
                        None => format!("{name}.{key}"),
                    }),
                }
            }
        }
        match foreign.is_empty() {
            true => Ok(self),
            false => Err((
                format!("its configuration sets {foreign}"),
                format!("git config {option}--unset-all KEY takes one out"),
            )
                .into()),
        }
    }

    fn take(
        &mut self,
        (section, key): (&str, &str),
        raw: &[u8],
        is_own: &impl Fn(&Path) -> bool,
    ) -> Key {
        let value = raw.to_str_lossy().to_ascii_lowercase();
        let is_plain = match (section, key, &*value) {
            ("core", "repositoryformatversion", "0" | "1") => true,
            ("core", "ignorecase" | "sparsecheckout", "false") => true,
            ("core", "symlinks", "true") | ("index", "sparse", "false") => true,
            ("core", "bare", "false") => true,
            ("core", "bare", _) => {
                return Key::Other("it is a bare repository (core.bare)".into());
            }
            ("core", "sparsecheckout", _) => {
                return Key::Other(
                    (
                        "files of it are left out (core.sparseCheckout)",
                        "git sparse-checkout disable has them back",
                    )
                        .into(),
                );
            }
            ("core", "filemode", "true" | "false") => {
                self.has_modes = value == "true";
                true
            }
            // A submodule's repository leads to its files.
            ("core", "worktree", _) => is_own(&as_path(raw)),
            ("core", key, _) => CORE.contains(&key),
            ("extensions", "objectformat", "sha1") => true,
            ("extensions", "objectformat", "sha256") => {
                self.hash = Kind::Sha256;
                true
            }
            ("extensions", "worktreeconfig", "true" | "false") => {
                self.goes_on = value == "true";
                true
            }
            ("extensions", key, _) => {
                let why = format!("it needs the extension {key} of git's");
                return Key::Other(why.into());
            }
            ("remote", "promisor" | "partialclonefilter", _) => {
                return Key::Other("it is a partial clone: objects of it are missing".into());
            }
            ("remote", key, _) => REMOTE.contains(&key),
            _ => false,
        };
        match is_plain {
            true => Key::Plain,
            false => Key::Foreign,
        }
    }
}

/// Whether a worktree that is named so by the repository at `git_dir` is the one at `directory`.
pub(super) fn leads_to(git_dir: &Path, worktree: &Path, directory: &Path) -> bool {
    let named = fs::canonicalize(git_dir.join(worktree));
    matches!((named, fs::canonicalize(directory)), (Ok(named), Ok(real)) if named == real)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(config: &[u8]) -> Result<Plain, Why> {
        Plain::new().with(config, "", |_| false)
    }

    #[test]
    fn only_what_a_plain_clone_sets_is_taken() {
        let base = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n";
        for more in [
            "",
            "\tlogallrefupdates = true\n[remote \"origin\"]\n\turl = x\n\tfetch = y\n",
            "[user]\n\tname = a\n[branch \"core.bare\"]\n\tremote = origin\n",
            "\tsparseCheckout = false\n\tsparseCheckoutCone = true\n[index]\n\tsparse = false\n",
        ] {
            let text = format!("{base}{more}");
            assert_eq!(plain(text.as_bytes()), Ok(Plain::new()), "{more}");
        }
        let said = plain(b"[extensions]\n\tobjectFormat = sha256\n\tworktreeConfig = true\n");
        assert!(said.is_ok_and(|said| said.hash == Kind::Sha256 && said.goes_on));
        let said = plain(b"[core]\n\tfileMode = false\n");
        assert!(said.is_ok_and(|said| !said.has_modes));
        for more in [
            "\tworktree = ../x\n",
            "\tautocrlf = true\n",
            "\tsymlinks = false\n",
            "\tsparseCheckout\n",
            "\tbare\n",
            "[extensions]\n\trelativeWorktrees = true\n",
            "[remote \"origin\"]\n\tpromisor = true\n",
            "[include]\n\tpath = x\n",
            "[index]\n\tversion = 4\n",
            "[what]\n\tis = this\n",
            "[core\n",
        ] {
            plain(format!("{base}{more}").as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn all_that_is_foreign_is_named_as_git_names_it() {
        let text = b"[core]\n\teol = crlf\n[includeIf \"gitdir:/X/\"]\n\tpath = y\n";
        let why = plain(text).unwrap_err();
        let expected = "its configuration sets core.eol, includeif.gitdir:/X/.path";
        assert_eq!(
            why,
            (expected, "git config --unset-all KEY takes one out").into()
        );
    }
}
