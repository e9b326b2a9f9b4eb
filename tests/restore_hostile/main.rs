//! Hostile archives through `tarpon restore`, the real program, from real sockets. Whatever a
//! server sends: no command runs, nothing outside of the target changes, neither during the
//! restore nor when a user works in the result; and the archive is refused, or the repository
//! holds only what a clone's does.
//!
//! Each case says by the rule what must come of it, not by what the program happens to do. That
//! the harm is real is shown where it can be: the same archive through `tar -x`, then the same
//! commands, runs it.

#[path = "../support/mod.rs"]
mod support;

mod archive;
mod config;
mod content;
mod cut;
mod endless;
mod gitdir;
mod ground;
mod history;
mod keys;
mod length;
mod look;
mod made;
mod many;
mod names;
mod objects;
mod slow;
mod stop;
mod target;
mod trial;
mod verdict;
mod wire;

use trial::{Case, Rule};

/// The corpus means nothing unless a good archive is taken, and harm is seen.
#[test]
fn a_good_archive_is_taken_and_harm_is_seen() {
    trial::try_all(&[Case::new("good", Rule::Taken, |fixture, _| {
        fixture.good.clone()
    })]);
    let ground = ground::Ground::new();
    ground.unpack(&ground::fixture().good.tar());
    ground.use_it();
    ground.harm().unwrap_or_else(|e| panic!("{e}"));
    std::fs::write(ground.path("outside/victim"), "changed").unwrap_or_else(|e| panic!("{e}"));
    assert!(ground.harm().is_err());
}
