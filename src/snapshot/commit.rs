//! What an archive needs of a commit: its tree and its date. Read the way git reads them
//! (`parse_commit_buffer` and `parse_commit_date` of git's `commit.c`), which takes what `git fsck`
//! would not, such as an author without an address.

use gix::ObjectId;
use gix::bstr::ByteSlice;

/// Tree, and date in seconds since 1970, 0 where git finds none; `None` if git takes `data` for no
/// commit.
pub(crate) fn parse(data: &[u8], hash: gix::hash::Kind) -> Option<(ObjectId, i64)> {
    let hex_bytes = hash.len_in_hex();
    let named = |line: &[u8], name: &[u8]| {
        let hex = line.strip_prefix(name)?;
        (hex.len() == hex_bytes).then(|| ObjectId::from_hex(hex).ok())?
    };
    let (first, mut rest) = data.split_once_str("\n")?;
    let tree = named(first, b"tree ")?;
    while let Some((line, after)) = rest.split_once_str("\n")
        && named(line, b"parent ").is_some()
    {
        rest = after;
    }
    Some((tree, date(rest).unwrap_or(0)))
}

/// The date in the line after the author's.
fn date(lines: &[u8]) -> Option<i64> {
    let (author, rest) = lines.split_once_str("\n")?;
    let (committer, _) = rest.split_once_str("\n")?;
    if !author.starts_with(b"author") || !committer.starts_with(b"committer") {
        return None;
    }
    let (_, after_address) = committer.rsplit_once_str(">")?;
    let digits = after_address.trim_start();
    let end = digits.iter().position(|b| !b.is_ascii_digit());
    let digits = &digits[..end.unwrap_or(digits.len())];
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n";
    const PARENT: &str = "parent 1212121212121212121212121212121212121212\n";

    fn of(text: &str) -> Option<i64> {
        let parsed = parse(text.as_bytes(), gix::hash::Kind::Sha1);
        parsed.map(|(tree, date)| {
            assert_eq!(tree, ObjectId::empty_tree(gix::hash::Kind::Sha1));
            date
        })
    }

    #[test]
    fn dates_are_what_git_takes_them_for() {
        let people = "author A <a> 1 +0000\ncommitter C <c> 1700000000 +0100\n";
        for (what, text, expected) in [
            (
                "usual",
                format!("{TREE}{PARENT}{PARENT}{people}\nx\n"),
                1_700_000_000,
            ),
            (
                "root, no empty line",
                format!("{TREE}{people}"),
                1_700_000_000,
            ),
            (
                "more headers",
                format!("{TREE}{people}gpgsig x\n y\n\nm"),
                1_700_000_000,
            ),
            (
                "no address",
                format!("{TREE}author A 5 +0000\ncommitter C 7 +0000\n\n"),
                0,
            ),
            (
                "an author without one",
                format!("{TREE}author A 5\ncommitter C <c> 7 +0000\n\n"),
                7,
            ),
            ("no author", format!("{TREE}committer C <c> 7 +0000\n\n"), 0),
            ("nobody", format!("{TREE}\nm"), 0),
            (
                "two addresses",
                format!("{TREE}author\ncommitter C <c> 1 <d> 9 +0000\n\n"),
                9,
            ),
            (
                "no number",
                format!("{TREE}author\ncommitter C <c> now\n\n"),
                0,
            ),
            (
                "too large",
                format!("{TREE}author\ncommitter C <c> 99999999999999999999\n\n"),
                0,
            ),
        ] {
            assert_eq!(of(&text), Some(expected), "{what}");
        }
    }

    #[test]
    fn without_a_tree_it_is_no_commit() {
        for text in ["", "tree \n", "tree 12\n\n", &TREE[..20], PARENT] {
            assert_eq!(of(text), None, "{text}");
        }
        let sha256 = parse(TREE.as_bytes(), gix::hash::Kind::Sha256);
        assert_eq!(sha256, None);
    }
}
