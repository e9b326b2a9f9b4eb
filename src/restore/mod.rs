//! `tarpon restore`: from a server to a ready working copy.
//!
//! ```text
//! opening: the archive, or its manifest; preamble: what the server waits for, if it does
//! download ─► frames ─► extract: decode ─► tar ─► write     into staging
//!   ▲ reel: what is in frames          capture ─► gitdir: packs, refs, tree ─► index
//! parts: packs ─► .git/objects/pack, as they are, beside it
//!                            update: moment ─► git ─► index ─► staging: the target, at once
//! ```
//!
//! By a manifest ([`unpack`]) the same line is fed with what the archive has in files of frames, stretch by stretch;
//! packs never pass through it: they are written where they belong, and summed, as they come.
//!
//! An existing working copy is brought to another commit by [`renew`]; [`submodules`] runs a restore for each of them;
//! what [`seed`] has does not come at all.
//!
//! Threads and blocking sockets: it is one program for one repository. What comes from the network
//! is looked at only after its checksum was, where it has one, names are believed only after [`path`]
//! has looked at them, and [`write`] never follows a link. Memory is had from [`budget`] alone, the
//! disk from [`quota`], and a server's words reach the terminal escaped ([`crate::io::say`]). Of an
//! archive's `.git` only objects are written; the rest is made anew ([`gitdir`]).

mod again;
mod answer;
mod arrivals;
mod blobs;
mod budget;
mod bundle;
mod capture;
mod checkouts;
mod choice;
mod chunk;
mod clone;
mod configured;
mod connect;
mod content;
mod credentials;
mod data;
mod dates;
mod decode;
mod default_branch;
mod difference;
mod distrust;
mod download;
mod ensure;
mod entries;
mod error;
mod extract;
mod feed;
mod fitted;
mod formats;
mod frames;
mod gaps;
mod gitdir;
mod gitmodules;
mod history;
mod http;
mod in_the_way;
mod index;
mod kept;
mod landing;
mod large;
mod link;
mod local;
mod log;
mod login;
mod looked;
mod losses;
mod mark;
mod moment;
mod moves;
mod names;
mod nested;
mod netrc;
mod noted;
mod objects;
mod one;
mod opening;
mod origin;
mod pace;
mod packs;
mod parents;
mod parts;
mod path;
mod pax;
mod piece;
mod pieces;
mod placed;
mod preamble;
mod progress;
mod proof;
mod proven;
mod put;
mod quota;
mod reel;
mod refs;
mod removed;
mod renew;
mod report;
mod request;
mod run;
mod said;
mod seed;
mod segments;
mod settings;
mod settled;
mod signals;
mod sink;
mod source;
mod spare;
mod spill;
mod staging;
mod steps;
mod stock;
mod stop;
mod straight;
mod submodules;
mod summary;
mod summed;
mod sums;
mod tar;
#[cfg(test)]
mod testing;
mod tls;
mod tracked;
mod tree;
mod unpack;
mod untaken;
mod update;
mod url;
mod waited;
mod wanted;
mod watch;
mod way;
mod wire;
mod worktree;
mod worktree_frames;
mod write;

pub use error::RestoreError;
pub use report::print_misuse;

#[doc(hidden)]
pub mod layers;

use std::sync::Arc;

use crate::config::RestoreArgs;
use crate::faults::Faults;
use crate::io::heap;
use crate::io::say::say;
use one::restore;
use progress::Progress;
use stop::Stop;
use submodules::Nest;

/// Restores as asked, and says what happened on standard error; returns the exit code. Tests inject `faults`.
pub fn run(args: &RestoreArgs, faults: &Faults) -> u8 {
    steps::arm(faults);
    heap::give_back_large();
    write::own_directories();
    let stop = Arc::new(Stop::default());
    let progress = Progress::default();
    let nest = Nest::default();
    let result = signals::watch(&stop).and_then(|()| restore(args, &stop, &progress, &nest));
    // Whatever step noticed it first, the signal is the reason.
    let result = result.map_err(|error| stop.interrupted().unwrap_or(error));
    if let Some(count) = steps::count() {
        say(format_args!("tarpon: {count} steps"));
    }
    report::conclude(args, result, &progress)
}

/// The same without signals and words, for the fuzz targets.
#[doc(hidden)]
pub fn attempt(args: &RestoreArgs) -> Result<(), RestoreError> {
    let (stop, progress) = (Stop::default(), Progress::default());
    restore(args, &stop, &progress, &Nest::default()).map(|_| ())
}
