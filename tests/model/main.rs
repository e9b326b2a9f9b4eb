//! The protocol of the object store, in every order in which its steps can come ([`head`], [`adoption`], [`lease`]).
//!
//! The steps are those of the servers, and what a step does to a head is done by the functions of the product. What is
//! bounded is how often something happens: that makes all orders few enough to look at each of them. The simulation does
//! the opposite, with long histories of which it sees a few thousand.
//!
//! Each way in which one of the rules can be broken is a variant that the same properties must catch.

mod adoption;
mod collectors;
mod head;
mod lease;
mod servers;
mod world;

use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, Model};

/// Looks at all that can happen. How many states there are.
fn holds_in_all<M>(model: M) -> usize
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send,
{
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = model.checker().threads(threads).spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.is_done(), "not all was looked at");
    checker.unique_state_count()
}

/// Looks until one property is found not to hold, which is to be this one.
fn fails<M>(model: M, property: &'static str) -> usize
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send,
{
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = model
        .checker()
        .threads(threads)
        .finish_when(stateright::HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let found = checker.discoveries();
    let path = found.get(property);
    let path = path.unwrap_or_else(|| panic!("{property:?} holds: {:?}", found.keys()));
    path.clone().into_actions().len()
}
