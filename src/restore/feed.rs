//! How an archive comes, and what of it is unpacked.

use std::thread::{Scope, ScopedJoinHandle};

use super::capture::{Archive, LeftOut};
use super::download::Download;
use super::in_the_way::Watch;
use super::parts::Fetching;
use super::segments::First;
use super::stock::Stock;

/// What of an archive is written.
pub(super) enum Unpacks<'w> {
    /// Its worktree as well; what sees something in the way of that ends it.
    All(Option<Watch<'w>>),
    /// Objects, of which the worktree is made.
    Objects,
    /// Of these only packs and their indexes.
    Packs,
}

impl<'w> Unpacks<'w> {
    /// What is known before anything came.
    pub(super) fn begin(self) -> (Archive, Option<Watch<'w>>) {
        let mut archive = Archive::default();
        archive.only_packs = matches!(self, Unpacks::Packs);
        let way = match self {
            Unpacks::All(way) => way,
            Unpacks::Objects | Unpacks::Packs => {
                archive.left_out = Some(LeftOut::default());
                None
            }
        };
        (archive, way)
    }
}

/// How an archive comes.
pub(super) enum Feed<'f, 'a> {
    /// As one stream, whose first answer is there.
    Stream(Box<First<'a>>),
    /// Out of parts; packs are put in place by who fetches them.
    Parts(&'f Fetching<'f, 'a>),
    /// Out of files of frames, of which there are some.
    Frames(&'f Stock<'f>),
}

impl<'f, 'a> Feed<'f, 'a> {
    pub(super) fn packs(&self) -> Option<&'f Fetching<'f, 'a>> {
        match self {
            Feed::Stream(_) | Feed::Frames(_) => None,
            Feed::Parts(packs) => Some(packs),
        }
    }

    /// Starts the connections.
    pub(super) fn start<'s, 'e>(
        self,
        scope: &'s Scope<'s, 'e>,
        download: &'s Download<'a>,
        running: &mut Vec<ScopedJoinHandle<'s, ()>>,
    ) where
        'f: 's,
    {
        let connections = download.link.connections;
        match self {
            Feed::Stream(first) => {
                running.push(scope.spawn(|| download.run_first(*first)));
                for _ in 1..connections {
                    running.push(scope.spawn(|| download.run_further(None)));
                }
            }
            Feed::Frames(stock) => {
                for _ in 0..connections {
                    running.push(scope.spawn(|| download.run_further(Some(stock))));
                }
            }
            Feed::Parts(packs) => {
                for _ in 0..connections {
                    running.push(scope.spawn(|| download.run_parts(packs)));
                }
            }
        }
    }
}
