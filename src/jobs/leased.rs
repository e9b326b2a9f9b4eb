//! What a server knows of the leases of repositories in use.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::archive::place::Archive;
use crate::store::remote::key::{RandomId, hex};
use crate::store::remote::lease::{Compared, Watch};
use crate::store::remote::publish::{Draw, SystemRandom};
use crate::telemetry::metrics::{Level, Meter};

/// The leases of repositories in use.
pub(super) struct Leases {
    pub(super) me: RandomId,
    pub(super) all: RefCell<HashMap<Arc<str>, Rc<One>>>,
    /// The process is about to end: none is taken any more.
    pub(super) is_over: Cell<bool>,
}

/// What is known of one.
#[derive(Default)]
pub(super) struct One {
    /// Held by who asks the store.
    pub(super) watch: Mutex<Watch>,
    pub(super) known: RefCell<Known>,
    /// Its packs were not joined here, for another server does that.
    pub(super) is_put_off: Cell<bool>,
}

#[derive(Default)]
pub(super) enum Known {
    #[default]
    Nothing,
    Own(Own),
    /// Nothing is asked before.
    Others {
        until: Instant,
        compared: Option<Compared>,
    },
    /// The store has not said. Nothing is asked before.
    Unsaid {
        until: Instant,
    },
}

/// This server's.
pub(super) struct Own {
    pub(super) renewed: Instant,
    meter: Meter,
}

impl Own {
    pub(super) fn new(meter: &Meter, renewed: Instant) -> Own {
        meter.up(Level::StoreLeases);
        Own {
            renewed,
            meter: meter.clone(),
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.meter.down(Level::StoreLeases);
    }
}

impl Leases {
    pub(super) fn new() -> Leases {
        Leases {
            me: SystemRandom.draw(),
            all: RefCell::default(),
            is_over: Cell::default(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Rc<One>> {
        self.all.borrow().get(name).cloned()
    }

    pub(super) fn one(&self, name: &Arc<str>) -> Rc<One> {
        self.all
            .borrow_mut()
            .entry(name.clone())
            .or_default()
            .clone()
    }
}

impl One {
    /// Whether this server has it, as far as it knows.
    pub(super) fn is_own(&self, lease: Duration) -> bool {
        matches!(&*self.known.borrow(), Known::Own(own) if own.renewed.elapsed() < lease)
    }

    /// Whether another one has.
    pub(super) fn is_others(&self) -> bool {
        matches!(&*self.known.borrow(), Known::Others { until, .. } if Instant::now() < *until)
    }

    /// Whether the store is not to be asked yet.
    pub(super) fn is_known(&self) -> bool {
        match &*self.known.borrow() {
            Known::Others { until, .. } | Known::Unsaid { until } => Instant::now() < *until,
            Known::Nothing | Known::Own(_) => false,
        }
    }
}

impl One {
    /// Whether who has the lease looks at what this server makes.
    pub(super) fn says(&self, kind: &str) -> bool {
        let known = self.known.borrow();
        let Known::Others { compared, .. } = &*known else {
            return false;
        };
        compared
            .as_ref()
            .is_some_and(|compared| compared.kind == kind)
    }

    /// What is served is as old as who has the lease has said.
    pub(super) fn tell_age(&self, archive: &Archive) {
        let known = self.known.borrow();
        if let Known::Others {
            compared: Some(compared),
            ..
        } = &*known
            && compared.shows == hex(&archive.shown)
        {
            archive.set_seen_elsewhere(compared.unix_ms.max(1));
        }
    }
}
