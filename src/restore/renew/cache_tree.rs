//! The `TREE` extension of an index: which tree each directory of it is, as far as git knows. Anybody may have written it: it
//! says something only of what was found to be so.
//!
//! Format: git's `Documentation/gitformat-index.txt`, "Cache tree".

use std::ops::Range;

use gix::ObjectId;
use gix::hash::Kind;

use crate::limits::{INDEX_TREES_MAX, TREE_DEPTH_MAX};

/// The directories, each before those inside of it, and not more of them than may be held.
#[derive(Debug, Default)]
pub(in crate::restore) struct CacheTree {
    nodes: Vec<Node>,
}

/// A directory.
#[derive(Debug)]
pub(in crate::restore) struct Node {
    name: Range<usize>,
    /// What it is said to be, and how many entries of the index are in it; `None` if something was changed there.
    said: Option<(ObjectId, usize)>,
    is_believed: bool,
    pub children: usize,
    /// What the extension says of it and of all that is in it.
    pub lines: Range<usize>,
    /// The number of the first node that is not in it.
    end: usize,
}

impl CacheTree {
    /// Reads the extension, which is `range` of `bytes`. One that makes no sense says nothing.
    pub(super) fn read(bytes: &[u8], range: Range<usize>, hash: Kind) -> CacheTree {
        let mut reading = Reading {
            bytes: &bytes[..range.end],
            at: range.start,
            hash,
            nodes: Vec::new(),
        };
        match reading.all() {
            Some(()) => CacheTree {
                nodes: reading.nodes,
            },
            None => CacheTree::default(),
        }
    }

    /// The directory of this number; that of the root is 0.
    pub(super) fn node(&self, number: usize) -> Option<&Node> {
        self.nodes.get(number)
    }

    /// What a directory is said to be, and how many entries are in it.
    pub(super) fn said(&self, number: usize) -> Option<(ObjectId, usize)> {
        self.nodes.get(number)?.said
    }

    /// What is said of a directory and of all that is in it was found to be so.
    pub(super) fn believe(&mut self, number: usize) {
        self.nodes[number].is_believed = true;
    }

    /// Those inside of a directory: their names in `bytes`, and their numbers.
    pub(super) fn children<'b>(
        &self,
        number: usize,
        bytes: &'b [u8],
    ) -> impl Iterator<Item = (&'b [u8], usize)> {
        let end = self.nodes.get(number).map_or(0, |node| node.end);
        let mut next = number + 1;
        std::iter::from_fn(move || {
            let number = next;
            let node = self.nodes.get(number).filter(|_| number < end)?;
            next = node.end;
            Some((&bytes[node.name.clone()], number))
        })
    }
}

impl Node {
    /// What it is, and how many entries are in it.
    pub(super) fn believed(&self) -> Option<(ObjectId, usize)> {
        self.said.filter(|_| self.is_believed)
    }
}

struct Reading<'b> {
    bytes: &'b [u8],
    at: usize,
    hash: Kind,
    nodes: Vec<Node>,
}

impl Reading<'_> {
    fn all(&mut self) -> Option<()> {
        // Numbers of those that are not at their end, and how many are still to come in each.
        let mut open = vec![(0, self.one()?)];
        while let Some((number, left)) = open.last_mut() {
            if *left == 0 {
                let number = *number;
                open.pop();
                let (lines_end, end) = (self.at, self.nodes.len());
                let node = &mut self.nodes[number];
                (node.lines.end, node.end) = (lines_end, end);
                continue;
            }
            *left -= 1;
            if open.len() > TREE_DEPTH_MAX || self.nodes.len() >= INDEX_TREES_MAX {
                return None;
            }
            let number = self.nodes.len();
            let children = self.one()?;
            open.push((number, children));
        }
        (self.at == self.bytes.len()).then_some(())
    }

    /// Reads one directory; how many are in it.
    fn one(&mut self) -> Option<usize> {
        let begin = self.at;
        let name = self.until(0)?;
        let entries = self.until(b' ')?;
        let children = self.until(b'\n')?;
        let number = |range: Range<usize>| std::str::from_utf8(&self.bytes[range]).ok();
        let children = number(children)?.parse().ok()?;
        let entries = number(entries)?;
        let said = match entries.strip_prefix('-') {
            Some(_) => None,
            None => {
                let entries = entries.parse().ok()?;
                let id_bytes = self.hash.len_in_bytes();
                let id = self.bytes.get(self.at..self.at + id_bytes)?;
                let id = ObjectId::try_from(id).ok()?;
                self.at += id_bytes;
                Some((id, entries))
            }
        };
        self.nodes.push(Node {
            name,
            said,
            is_believed: false,
            children,
            lines: begin..begin,
            end: 0,
        });
        Some(children)
    }

    /// What comes before the next `end`.
    fn until(&mut self, end: u8) -> Option<Range<usize>> {
        let begin = self.at;
        let len = self.bytes[begin..].iter().position(|b| *b == end)?;
        self.at += len + 1;
        Some(begin..begin + len)
    }
}
