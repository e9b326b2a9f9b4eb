//! The rules of `.gitattributes` files: which attributes a path has. They are as git reads them from the files of a tree,
//! and what they take of memory is bounded.

use std::cell::Cell;

use gix::attrs::search::{MetadataCollection, Outcome};
use gix::bstr::{BStr, BString, ByteSlice};
use gix::glob::pattern::Case;
use gix::objs::Find;
use gix::worktree::Stack;
use gix::worktree::stack::State;
use gix::worktree::stack::state::{Attributes, attributes::Source};
use gix::{ObjectId, oid};

use crate::limits::{
    ATTRIBUTE_FILE_BYTES, ATTRIBUTE_LINE_BYTES, ATTRIBUTE_NAME_BYTES, ATTRIBUTE_WORD_BYTES,
};

/// The attributes that decide about a conversion; outcomes of [`Which::Conversions`] have them in this order.
pub(super) const ATTRIBUTES: [&str; 5] = ["crlf", "ident", "eol", "text", ENCODING];
/// The one whose conversion is the C library's.
const ENCODING: &str = "working-tree-encoding";

/// Why the attributes of a path are not known.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    #[error(transparent)]
    Read(#[from] std::io::Error),
    #[error("the .gitattributes of its directories need more than {} MiB of memory", .limit_bytes >> 20)]
    TooLarge { limit_bytes: usize },
}

/// Where the attributes of a tree are: every `.gitattributes` file, sorted by path.
#[derive(Debug, Clone, Default)]
pub struct AttributeFiles {
    files: Vec<(BString, ObjectId)>,
}

impl AttributeFiles {
    /// Adds a file; calls come in the order of the walk.
    pub fn push(&mut self, path: &BStr, id: &oid) {
        self.files.push((path.to_owned(), id.to_owned()));
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.files.len()
    }

    /// Whether any of them may ask for a conversion. None does in which no attribute is named that decides about one: what
    /// sets it, a macro among that, names it.
    pub(crate) fn may_convert(&self, objects: &dyn Find) -> bool {
        let mut blob = Vec::new();
        self.files.iter().any(|(_, id)| {
            let found = objects.try_find(id, &mut blob);
            // Who reads what cannot be read here says why.
            let text = found.ok().flatten().map(|found| found.data);
            text.is_none_or(|text| ATTRIBUTES.iter().any(|name| text.contains_str(name)))
        })
    }

    /// Whether no file of the tree can ask for a conversion.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

/// What is asked of attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// All that decide about conversions.
    Conversions,
    /// Whether a program of the user's is named.
    Driver,
}

/// The rules of a tree, for one thread: asked for paths that are neighbours one after the other.
///
/// Invariant: what has been read takes no more memory than `taken` says. It is kept for the paths that follow; where that
/// would be more than there may be, what the path itself needs is read again, alone.
pub(super) struct Rules {
    files: Vec<(BString, ObjectId)>,
    read: Read,
    taken: Cell<usize>,
    limit_bytes: usize,
}

impl Rules {
    /// The rules of these files; nothing is read yet.
    pub(super) fn new(files: &AttributeFiles, limit_bytes: usize) -> Result<Rules, RulesError> {
        let mut files = files.files.clone();
        files.sort();
        let mut rules = Rules {
            files,
            read: Read::new(Vec::new())?,
            taken: Cell::new(0),
            limit_bytes,
        };
        rules.forget()?;
        rules.expect_room()?;
        Ok(rules)
    }

    /// What the attributes of `path` are; an outcome of those that are asked for.
    pub(super) fn look(
        &mut self,
        which: Which,
        path: &BStr,
        objects: &dyn Find,
    ) -> Result<&Outcome, RulesError> {
        let first = self.fill(which, path, objects);
        if self.expect_room().is_ok() {
            first?;
        } else {
            self.forget()?;
            let again = self.fill(which, path, objects);
            self.expect_room()?;
            again?;
        }
        Ok(self.read.outcome(which))
    }

    fn fill(&mut self, which: Which, path: &BStr, objects: &dyn Find) -> std::io::Result<()> {
        let blobs = AttributeBlobs {
            objects,
            taken: &self.taken,
            limit_bytes: self.limit_bytes,
        };
        self.read.fill(which, path, &blobs)
    }

    fn expect_room(&self) -> Result<(), RulesError> {
        let limit_bytes = self.limit_bytes;
        match self.taken.get() > limit_bytes {
            true => Err(RulesError::TooLarge { limit_bytes }),
            false => Ok(()),
        }
    }

    /// Keeps nothing of what has been read.
    fn forget(&mut self) -> std::io::Result<()> {
        // What there was goes before there is more.
        self.read = Read::new(Vec::new())?;
        self.read = Read::new(self.files.clone())?;
        let paths = self.files.iter().map(|(path, _)| 2 * path.len());
        self.taken
            .set(paths.sum::<usize>() + self.files.len() * ATTRIBUTE_FILE_BYTES);
        Ok(())
    }
}

/// The rules of the directories that lead to the path that was looked at last.
struct Read {
    stack: Stack,
    conversions: Outcome,
    /// Of what only who writes a few files asks.
    driver: Outcome,
}

impl Read {
    fn new(files: Vec<(BString, ObjectId)>) -> std::io::Result<Read> {
        let mut collection = MetadataCollection::default();
        let none: [std::path::PathBuf; 0] = [];
        let mut scratch = Vec::new();
        let globals = gix::attrs::Search::new_globals(none, &mut scratch, &mut collection)?;
        let state = Attributes::new(globals, None, Source::IdMapping, collection);
        // The root is never touched: all files come from the object database.
        let state = State::AttributesStack(state);
        let stack = Stack::new("/", state, Case::Sensitive, scratch, files);
        Ok(Read {
            conversions: stack.selected_attribute_matches(ATTRIBUTES),
            driver: stack.selected_attribute_matches(["filter"]),
            stack,
        })
    }

    fn outcome(&self, which: Which) -> &Outcome {
        match which {
            Which::Conversions => &self.conversions,
            Which::Driver => &self.driver,
        }
    }

    fn fill(&mut self, which: Which, path: &BStr, objects: &dyn Find) -> std::io::Result<()> {
        let outcome = match which {
            Which::Conversions => &mut self.conversions,
            Which::Driver => &mut self.driver,
        };
        let platform = self.stack.at_entry(path, None, objects)?;
        outcome.reset();
        platform.matching_attributes(outcome);
        Ok(())
    }
}

/// Attribute files as git reads those of a repository (`read_attr_from_buf` and `parse_attr_line` of
/// its `attr.c`), which gix does not: up to a NUL, lines of 2,048 bytes and more left out, and a
/// byte order mark taken for a part of the first pattern.
///
/// Invariant: what would take more memory than there may be is not given.
struct AttributeBlobs<'a> {
    objects: &'a dyn Find,
    taken: &'a Cell<usize>,
    limit_bytes: usize,
}

impl Find for AttributeBlobs<'_> {
    fn try_find<'b>(
        &self,
        id: &oid,
        buffer: &'b mut Vec<u8>,
    ) -> gix::error::Result<Option<gix::objs::Data<'b>>> {
        let mut stored = Vec::new();
        let Some(found) = self.objects.try_find(id, &mut stored)? else {
            return Ok(None);
        };
        buffer.clear();
        push_as_read(found.data, buffer);
        let taken = self.taken.get().saturating_add(parsed_bytes(buffer));
        self.taken.set(taken);
        if taken > self.limit_bytes {
            buffer.clear();
            return Err(gix::error::message!("there is no room for its rules").into());
        }
        Ok(Some(gix::objs::Data {
            kind: found.kind,
            object_hash: found.object_hash,
            data: buffer,
        }))
    }
}

/// About how much memory the rules take that a text has, and the text while it is read.
fn parsed_bytes(text: &[u8]) -> usize {
    let mut names = std::collections::HashSet::new();
    let (mut lines, mut words) = (0, 0);
    for line in text.lines() {
        lines += 1;
        for word in line.fields().skip(1) {
            words += 1;
            let name = word.trim_start_with(|letter| letter == '-' || letter == '!');
            names.insert(name.split_str("=").next());
        }
    }
    2 * text.len()
        + lines * ATTRIBUTE_LINE_BYTES
        + words * ATTRIBUTE_WORD_BYTES
        + names.len() * ATTRIBUTE_NAME_BYTES
}

fn push_as_read(stored: &[u8], out: &mut Vec<u8>) {
    const LINE_BYTES: usize = 2048;
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let end = stored.find_byte(0).unwrap_or(stored.len());
    let stored = &stored[..end];
    if stored.starts_with(BYTE_ORDER_MARK) {
        // Only at the beginning of a file it would be skipped.
        out.push(b'\n');
    }
    for line in stored.split_inclusive(|b| *b == b'\n') {
        match line.strip_suffix(b"\n").unwrap_or(line).len() {
            0..LINE_BYTES => out.extend_from_slice(line),
            _ => out.push(b'\n'),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use gix::hash::Kind;

    use super::*;

    /// Attribute files, and how often they are read.
    #[derive(Default)]
    struct Files {
        texts: HashMap<ObjectId, String>,
        listed: AttributeFiles,
        reads: Cell<usize>,
    }

    impl Files {
        fn add(&mut self, path: &str, text: String) {
            let bytes = [self.texts.len() as u8 + 1; 20];
            let id = ObjectId::from_bytes_or_panic(&bytes);
            self.texts.insert(id, text);
            self.listed.push(path.into(), &id);
        }
    }

    impl Find for Files {
        fn try_find<'b>(
            &self,
            id: &oid,
            buffer: &'b mut Vec<u8>,
        ) -> gix::error::Result<Option<gix::objs::Data<'b>>> {
            self.reads.set(self.reads.get() + 1);
            buffer.clear();
            buffer.extend_from_slice(self.texts[id].as_bytes());
            Ok(Some(gix::objs::Data {
                kind: gix::objs::Kind::Blob,
                object_hash: Kind::Sha1,
                data: buffer,
            }))
        }
    }

    fn is_text(rules: &mut Rules, path: &str, files: &Files) -> Result<bool, RulesError> {
        let outcome = rules.look(Which::Conversions, path.into(), files)?;
        let states: Vec<_> = outcome.iter_selected().collect();
        Ok(states[3].assignment.state == gix::attrs::StateRef::Set)
    }

    #[test]
    fn what_is_read_stays_within_the_limit_and_says_the_same() {
        let lines = "x y\n".repeat(1000);
        let mut files = Files::default();
        files.add(".gitattributes", "*.c text\n".into());
        for name in ["a", "b", "c", "d"] {
            files.add(
                &format!("{name}/.gitattributes"),
                format!("{lines}{name}.c -text\n"),
            );
        }
        let one_bytes = parsed_bytes(lines.as_bytes());
        let mut looked = Vec::new();
        for limit_bytes in [one_bytes * 3 / 2, one_bytes * 100] {
            files.reads.set(0);
            let mut rules = Rules::new(&files.listed, limit_bytes).unwrap();
            let mut said = Vec::new();
            for name in [
                "a/a.c", "a/b.c", "b/b.c", "b/a.c", "c/c.c", "e.c", "d/d.c", "a/a.c",
            ] {
                said.push(is_text(&mut rules, name, &files).unwrap());
                assert!(rules.taken.get() <= limit_bytes);
            }
            assert_eq!(said, [false, true, false, true, false, true, false, false]);
            looked.push(files.reads.get());
        }
        // The root's is read again where there was no room; directories are each time they are entered.
        assert_eq!(looked[1], 6);
        assert!(
            looked[0] > looked[1] && looked[0] <= 4 * looked[1],
            "{looked:?}"
        );
    }

    /// However they are spread over a path's directories, and whatever was read before.
    #[test]
    fn attributes_that_take_too_much_are_refused() {
        let lines = "x y\n".repeat(1000);
        let mut files = Files::default();
        for path in [".gitattributes", "a/.gitattributes", "a/b/.gitattributes"] {
            files.add(path, lines.clone());
        }
        let limit_bytes = parsed_bytes(lines.as_bytes()) * 5 / 2;
        let mut rules = Rules::new(&files.listed, limit_bytes).unwrap();
        for _ in 0..2 {
            assert!(is_text(&mut rules, "a/c", &files).is_ok());
            let refused = is_text(&mut rules, "a/b/c", &files);
            assert!(matches!(refused, Err(RulesError::TooLarge { .. })));
        }
        let refused = Rules::new(&files.listed, 100);
        assert!(matches!(refused.err(), Some(RulesError::TooLarge { .. })));
    }

    /// What parsed attributes take is what [`parsed_bytes`] says, or less.
    #[test]
    fn names_that_are_all_others_count_for_more() {
        let same = parsed_bytes("a b\n".repeat(1000).as_bytes());
        let names = (0..1000).map(|n| format!("a b{n}\n")).collect::<String>();
        let words = format!("a{}\n", " b".repeat(1000));
        assert!(same >= 1000 * (ATTRIBUTE_LINE_BYTES + ATTRIBUTE_WORD_BYTES));
        assert!(parsed_bytes(names.as_bytes()) >= same + 999 * ATTRIBUTE_NAME_BYTES);
        assert!(parsed_bytes(words.as_bytes()) >= 1000 * ATTRIBUTE_WORD_BYTES);
    }
}
