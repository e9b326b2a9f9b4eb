//! Which names an archive may have. What is checked here is the text; that no symbolic link is
//! followed is the writer's part.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gix::bstr::ByteSlice;
use gix::validate::path as validate;

use super::error::RestoreError;
use crate::limits::PATH_BYTES_MAX;

/// Kinds of entry, as far as names are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
}

/// What an entry is for, by its path alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is written where its path says.
    Worktree,
    /// A small file of `.git` that is looked at in memory and never written: git executes, follows
    /// or trusts such files, so the restore makes its own.
    Captured,
    /// A file of objects, whose path is made of hex digits. It is written, and checked before
    /// anything relies on it.
    Objects,
    /// All else in `.git`: hooks, logs, caches, the index. Nobody reads or writes it.
    Skipped,
}

/// The place of a path that [`check`] has taken.
pub fn place(path: &[u8]) -> Place {
    let Some(inside) = path.strip_prefix(b".git/") else {
        return match path {
            b".git" => Place::Skipped,
            _ => Place::Worktree,
        };
    };
    match inside {
        b"HEAD" | b"config" | b"packed-refs" | b"shallow" => Place::Captured,
        _ if inside.starts_with(b"refs/") => Place::Captured,
        _ if is_objects(inside) => Place::Objects,
        _ => Place::Skipped,
    }
}

/// Endings of the files of a pack.
const PACK_ENDINGS: [&[u8]; 4] = [b".pack", b".idx", b".rev", b".mtimes"];

fn is_objects(inside: &[u8]) -> bool {
    let is_hex = |text: &[u8]| {
        let lower = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
        text.iter().all(lower)
    };
    let Some(rest) = inside.strip_prefix(b"objects/") else {
        return false;
    };
    if let Some(name) = rest.strip_prefix(b"pack/pack-") {
        let stem = PACK_ENDINGS.iter().find_map(|end| name.strip_suffix(*end));
        return stem.is_some_and(|stem| matches!(stem.len(), 40 | 64) && is_hex(stem));
    }
    match rest {
        [a, b, b'/', name @ ..] => {
            is_hex(&[*a, *b]) && matches!(name.len(), 38 | 62) && is_hex(name)
        }
        _ => false,
    }
}

/// The same path for the system.
pub(super) fn as_path(path: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(path)).to_owned()
}

/// Checks a path from an archive and gives it without its trailing slash.
pub fn check(path: &[u8], kind: Kind) -> Result<&[u8], RestoreError> {
    let refused = |why: &str| Err(RestoreError::entry(path, why));
    if path.contains(&0) {
        return refused("its name has a NUL byte");
    }
    let trimmed = match kind {
        Kind::Directory => path.strip_suffix(b"/").unwrap_or(path),
        Kind::File | Kind::Symlink => path,
    };
    if trimmed.is_empty() || trimmed.len() > PATH_BYTES_MAX {
        return refused("its name is empty or too long");
    }
    if trimmed[0] == b'/' {
        return refused("its path is absolute");
    }
    if trimmed == b".git" && kind == Kind::Directory {
        return Ok(trimmed);
    }
    if let Some(inside) = trimmed.strip_prefix(b".git/") {
        return match check_git(inside, kind) {
            Ok(()) => Ok(trimmed),
            Err(why) => refused(why),
        };
    }
    let mut parts = trimmed.split(|b| *b == b'/').peekable();
    while let Some(part) = parts.next() {
        let is_link = parts.peek().is_none() && kind == Kind::Symlink;
        if let Err(why) = component(part, is_link) {
            return refused(&why.to_string());
        }
    }
    Ok(trimmed)
}

/// Checks a name in a directory by git's rules, with those for the file systems of others
/// (`core.protectHFS`, `core.protectNTFS`). A backslash is a letter here, but what it parts may not
/// be `.git` where it is none.
pub(super) fn component(name: &[u8], is_link: bool) -> Result<(), validate::component::Error> {
    let mode = is_link.then_some(validate::component::Mode::Symlink);
    let check = |part: &[u8], protect_hfs| {
        let options = validate::component::Options {
            protect_windows: false,
            protect_hfs,
            protect_ntfs: true,
        };
        validate::component(part.as_bstr(), mode, options).map(|_| ())
    };
    check(name, true)?;
    let mut parts = name
        .split(|b| *b == b'\\')
        .filter(|part| !matches!(*part, b"" | b"." | b".."));
    parts.try_for_each(|part| check(part, false))
}

fn check_git(inside: &[u8], kind: Kind) -> Result<(), &'static str> {
    let mut parts = inside.split(|b| *b == b'/');
    if parts.any(|part| matches!(part, b"" | b"." | b"..")) {
        return Err("its path has empty parts, '.' or '..'");
    }
    let is_file = matches!(kind, Kind::File);
    match place(&[b".git/", inside].concat()) {
        Place::Captured if kind == Kind::Directory && inside.starts_with(b"refs/") => Ok(()),
        Place::Captured | Place::Objects if !is_file => Err("it is no file"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_git_would_write_are_taken() {
        for path in [
            &b"a"[..],
            b"a/b",
            b"a\\b",
            b"..\\.\\",
            b"c:d",
            b"..a/...",
            b"\xff/\n",
            b"con/aux.txt",
            b"git",
            b".gitignore",
            b".github/x",
            b".git/HEAD",
            b".git/refs/heads/x",
            b".git/hooks/post-checkout",
        ] {
            assert_eq!(check(path, Kind::File).unwrap(), path);
        }
        assert_eq!(check(b"sub/", Kind::Directory).unwrap(), b"sub");
        assert_eq!(check(b".git/", Kind::Directory).unwrap(), b".git");
    }

    #[test]
    fn every_way_out_is_refused() {
        for path in [
            &b""[..],
            b"/etc/passwd",
            b"..",
            b"../a",
            b"a/../../b",
            b"a/./b",
            b"a//b",
            b"a/",
            b"a\0b",
            b".git",
            b".GIT/config",
            b".Git",
            b"a/.git/config",
            b"a/.gIt",
            b".git /config",
            b".git./x",
            b"git~1/config",
            b".g\xe2\x80\x8cit/config",
            b"a\\.git",
            b".git\\config",
            b"a\\git~1 .:x\\b",
            b".git/../../x",
            b".git/refs/../hooks/x",
            b".git/refs//x",
            b".git/hooks/..",
        ] {
            let error = check(path, Kind::File).map(<[u8]>::escape_ascii);
            assert_eq!(
                error.map_err(|e| e.exit_code()).err(),
                Some(5),
                "{}",
                path.escape_ascii()
            );
        }
        check(b".git/refs/heads/x", Kind::Symlink).unwrap_err();
        check(b".git/config", Kind::Symlink).unwrap_err();
        check(b".git/HEAD/", Kind::Directory).unwrap_err();
        check(b".git", Kind::Symlink).unwrap_err();
        check(b".gitmodules", Kind::Symlink).unwrap_err();
        check(b"a\\.gitmodules", Kind::Symlink).unwrap_err();
        check(&vec![b'a'; PATH_BYTES_MAX + 1], Kind::File).unwrap_err();
    }

    #[test]
    fn only_objects_are_written_into_git_and_only_what_is_checked_is_looked_at() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let places = |paths: &[&str], expected: Place| {
            for path in paths {
                let path = path.replace("ID38", &id[2..]).replace("ID", id);
                assert_eq!(place(path.as_bytes()), expected, "{path}");
            }
        };
        places(
            &["a", "a/b", "gitconfig", ".gitignore", "objects/pack"],
            Place::Worktree,
        );
        places(
            &[
                ".git/HEAD",
                ".git/config",
                ".git/packed-refs",
                ".git/shallow",
                ".git/refs/x/y.lock",
            ],
            Place::Captured,
        );
        places(
            &[
                ".git/objects/01/ID38",
                ".git/objects/pack/pack-ID.pack",
                ".git/objects/pack/pack-ID.idx",
                ".git/objects/pack/pack-ID.rev",
                ".git/objects/pack/pack-ID.mtimes",
            ],
            Place::Objects,
        );
        places(
            &[
                ".git",
                ".git/index",
                ".git/CONFIG",
                ".git/config.worktree",
                ".git/commondir",
                ".git/hooks/post-checkout",
                ".git/info/attributes",
                ".git/info/grafts",
                ".git/logs/HEAD",
                ".git/modules/a/config",
                ".git/objects/info/alternates",
                ".git/objects/info/ALTERNATES",
                ".git/objects/info/commit-graph",
                ".git/objects/pack/multi-pack-index",
                ".git/objects/pack/pack-ID.keep",
                ".git/objects/pack/pack-ID.promisor",
                ".git/objects/pack/pack-ID.pack.idx",
                ".git/objects/pack/pack-../x.pack",
                ".git/objects/pack/p.pack",
                ".git/objects/01/ID",
                ".git/objects/0G/ID38",
                ".git/sharedindex.ID",
                ".git/worktrees/x/gitdir",
            ],
            Place::Skipped,
        );
    }
}
