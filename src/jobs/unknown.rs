//! What is not known of a repository and sought at its upstream.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use gix::bstr::BString;
use tokio::sync::Semaphore;

use super::flights::Duty;
use crate::access::verdicts::About;
use crate::limits::UNKNOWN_ASKED_MAX;
use crate::manifest::want::AnyId;
use crate::mirror::Apart;
use crate::repos::error::StartError;

/// What is sought.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Sought {
    pub(super) wanted: Apart,
    /// The ref that is fetched where the upstream does not give out an id.
    pub(super) or_by: Option<BString>,
    /// For whom alone, where it is the fetch itself that shows that it may be given out.
    pub(super) by: Option<About>,
}

impl Sought {
    /// An object, by nothing but its id.
    pub(super) fn id(id: AnyId) -> Sought {
        Sought {
            wanted: Apart::Id(id),
            or_by: None,
            by: None,
        }
    }

    /// What an upstream that lacks it is remembered by.
    pub(super) fn key(&self) -> String {
        match (&self.wanted, &self.or_by) {
            (Apart::Id(id), None) => id.to_string(),
            (Apart::Id(id), Some(name)) => format!("{id} {name}"),
            (Apart::Ref(name), _) => format!("ref {name}"),
        }
    }
}

/// The id of what is in the annex now, or reached by the mirror's refs; `None` where the upstream has it not.
pub(super) type Given = Result<Option<AnyId>, StartError>;

/// The duty to ask for something.
pub(super) type SeekDuty = Duty<(Arc<str>, Sought), Given>;

/// How much is sought at a time, of each repository.
#[derive(Debug, Default)]
pub(super) struct Places(HashMap<Arc<str>, Weak<Semaphore>>);

impl Places {
    /// Those of one repository; they are never closed.
    pub(super) fn of(&mut self, name: &Arc<str>) -> Arc<Semaphore> {
        self.0.retain(|_, places| places.strong_count() > 0);
        if let Some(places) = self.0.get(name).and_then(Weak::upgrade) {
            return places;
        }
        let places = Arc::new(Semaphore::new(UNKNOWN_ASKED_MAX));
        self.0.insert(name.clone(), Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_has_a_few_places() {
        let mut places = Places::default();
        let [one, other] = ["h/one", "h/other"].map(Arc::<str>::from);
        let of_one = places.of(&one);
        let taken = of_one.try_acquire_many(UNKNOWN_ASKED_MAX as u32).unwrap();
        assert!(places.of(&one).try_acquire().is_err());
        assert!(places.of(&other).try_acquire().is_ok());
        drop(taken);
        assert!(places.of(&one).try_acquire().is_ok());
        drop(of_one);
        places.of(&other);
        assert_eq!(places.0.len(), 1, "who has left is forgotten");
    }
}
