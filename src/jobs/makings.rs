//! Snapshots that are being made and will be offered to others: a server that is told to stop waits for them, and for none
//! that begins later.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Makings {
    next: Cell<u64>,
    /// Of which repositories, in the order in which they have begun.
    running: RefCell<BTreeMap<u64, Arc<str>>>,
}

/// One of them, for as long as it is made.
pub(super) struct Making<'m>(&'m Makings, u64);

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.running.borrow_mut().remove(&self.1);
    }
}

impl Makings {
    pub(super) fn begin(&self, name: &Arc<str>) -> Making<'_> {
        let number = self.now();
        self.next.set(number + 1);
        self.running.borrow_mut().insert(number, name.clone());
        Making(self, number)
    }

    /// The moment, in the order in which they begin.
    pub(super) fn now(&self) -> u64 {
        self.next.get()
    }

    /// Whether one is made still that had begun before a moment.
    pub(super) fn is_any_before(&self, then: u64) -> bool {
        let running = self.running.borrow();
        running.keys().next().is_some_and(|first| *first < then)
    }

    pub(super) fn names(&self) -> HashSet<Arc<str>> {
        self.running.borrow().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_later_is_not_waited_for() {
        let makings = Makings::default();
        let [one, two] = ["h/one", "h/two"].map(Arc::from);
        let first = makings.begin(&one);
        let then = makings.now();
        let second = makings.begin(&two);
        assert!(makings.is_any_before(then));
        assert_eq!(makings.names(), HashSet::from([one, two.clone()]));
        drop(first);
        assert!(!makings.is_any_before(then) && makings.is_any_before(makings.now()));
        assert_eq!(makings.names(), HashSet::from([two]));
        drop(second);
        assert!(!makings.is_any_before(makings.now()));
    }
}
