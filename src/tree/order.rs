//! The order of a tree.

use gix::bstr::{BStr, BString, ByteVec};

/// Sees to it that the entries of a tree are sorted and that no name comes twice.
///
/// An archive with a file and a directory of one name would be unpacked *through* the file,
/// which may be a symbolic link to anywhere. The rules are those of `verify_ordered` in git's
/// `fsck.c`.
#[derive(Default)]
pub(crate) struct Order {
    last: Option<(BString, bool)>,
    /// Files that a directory of the same name could still follow: between `foo` and `foo/`
    /// stand names such as `foo.bar`. Each is a prefix of the next.
    prefixes: Vec<BString>,
}

impl Order {
    /// Takes the next entry; whether it may stand there.
    pub(crate) fn accept(&mut self, name: &BStr, is_tree: bool) -> bool {
        let Some((last, last_is_tree)) = &mut self.last else {
            self.last = Some((name.to_owned(), is_tree));
            return true;
        };
        let order = gix::objs::tree::name_order(last, *last_is_tree, name, is_tree);
        if order.is_ge() || *last == name {
            return false;
        }
        let below_slash = |rest: &[u8]| rest.first().is_some_and(|b| *b < b'/');
        if !*last_is_tree && name.strip_prefix(last.as_slice()).is_some_and(below_slash) {
            self.prefixes.push(last.clone());
        }
        last.clear();
        last.push_str(name);
        *last_is_tree = is_tree;
        while let (true, Some(prefix)) = (is_tree, self.prefixes.last()) {
            match name.strip_prefix(prefix.as_slice()) {
                Some([]) => return false,
                Some(rest) if below_slash(rest) => return true,
                _ => drop(self.prefixes.pop()),
            }
        }
        true
    }
}
