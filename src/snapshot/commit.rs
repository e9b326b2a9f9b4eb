//! What an archive needs of a commit: its tree. Read the way git reads it (`parse_commit_buffer` of
//! git's `commit.c`), which takes what `git fsck` would not, such as a commit without an author.

use gix::ObjectId;
use gix::bstr::ByteSlice;

/// The tree; `None` if git takes `data` for no commit.
pub(crate) fn tree(data: &[u8], hash: gix::hash::Kind) -> Option<ObjectId> {
    let (first, _) = data.split_once_str("\n")?;
    let hex = first.strip_prefix(b"tree ")?;
    (hex.len() == hash.len_in_hex()).then(|| ObjectId::from_hex(hex).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_begins_with_a_tree_is_a_commit() {
        let hash = gix::hash::Kind::Sha1;
        let empty = ObjectId::empty_tree(hash);
        let of = |text: String| tree(text.as_bytes(), hash);
        assert_eq!(
            of(format!("tree {empty}\nauthor A <a> 1 +0000\n")),
            Some(empty)
        );
        assert_eq!(of(format!("tree {empty}\n")), Some(empty));
        for text in [
            format!("tree {empty}"),
            format!("tree  {empty}\n"),
            format!("tree {empty}0\n"),
            format!("tree {}\n", "g".repeat(40)),
            format!("object {empty}\n"),
            "\n".into(),
            String::new(),
        ] {
            assert_eq!(of(text.clone()), None, "{text:?}");
        }
    }
}
