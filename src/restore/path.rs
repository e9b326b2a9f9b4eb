//! Which names an archive may have. What is checked here is the text; that no symbolic link is
//! followed is the writer's part.

use gix::bstr::ByteSlice;
use gix::validate::path::component;

use super::error::RestoreError;
use crate::limits::ENTRY_PATH_BYTES_MAX;

/// Kinds of entry, as far as names are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
}

/// Files of `.git` that an archive may have, besides those below [`GIT_TREES`]. Anything else, such
/// as hooks or a pointer to another repository, would be a way to run or read what is not the
/// archive's.
const GIT_FILES: &[&[u8]] = &[
    b"HEAD",
    b"config",
    b"description",
    b"index",
    b"info",
    b"info/exclude",
    b"objects",
    b"objects/info",
    b"objects/info/packs",
    b"objects/info/commit-graph",
    b"objects/pack",
    b"packed-refs",
    b"refs",
];
const GIT_TREES: &[&[u8]] = &[b"refs/", b"objects/"];

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
    if trimmed.is_empty() || trimmed.len() > ENTRY_PATH_BYTES_MAX {
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
    let options = component::Options {
        protect_windows: false,
        protect_hfs: true,
        protect_ntfs: true,
    };
    let mut parts = trimmed.split(|b| *b == b'/').peekable();
    while let Some(part) = parts.next() {
        let is_link = parts.peek().is_none() && kind == Kind::Symlink;
        let mode = is_link.then_some(component::Mode::Symlink);
        if let Err(why) = gix::validate::path::component(part.as_bstr(), mode, options) {
            return refused(&why.to_string());
        }
    }
    Ok(trimmed)
}

fn check_git(inside: &[u8], kind: Kind) -> Result<(), &'static str> {
    if kind == Kind::Symlink {
        return Err("there are no symbolic links in .git");
    }
    let mut parts = inside.split(|b| *b == b'/');
    if parts.any(|part| matches!(part, b"" | b"." | b"..")) {
        return Err("its path has empty parts, '.' or '..'");
    }
    let below = |tree: &&[u8]| inside.starts_with(tree);
    // Where further objects are. A branch may have any name.
    let other_objects = inside.starts_with(b"objects/") && inside.ends_with(b"alternates");
    if GIT_FILES.contains(&inside) || (GIT_TREES.iter().any(below) && !other_objects) {
        return Ok(());
    }
    Err("an archive has no such file in .git")
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
            b"c:d",
            b"..a/...",
            b"\xff/\n",
            b"con/aux.txt",
            b"git",
            b".gitignore",
            b".github/x",
            b".git/HEAD",
            b".git/refs/heads/x",
            b".git/refs/heads/fix-alternates",
            b".git/objects/pack/p.pack",
            b".git/objects/00/11",
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
            b".git/hooks/post-checkout",
            b".git/../../x",
            b".git/refs/../hooks/x",
            b".git/objects/info/alternates",
            b".git/objects/info/http-alternates",
            b".git/commondir",
            b".git/modules/a/config",
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
        check(b".gitmodules", Kind::Symlink).unwrap_err();
        check(&vec![b'a'; ENTRY_PATH_BYTES_MAX + 1], Kind::File).unwrap_err();
    }
}
