//! The object store as jobs ask it: each request is counted, and one that answers nothing is left alone for a while.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::store::remote::any::AnyStore;
use crate::store::remote::breaker::{Breaker, Hears, Outcome};
use crate::store::remote::objects::{
    Condition, Content, Found, Got, Listed, ObjectError, Objects, Page, Version,
};
use crate::store::remote::probe::refuses;
use crate::telemetry::metrics::{Event, Level, Meter, StoreRequest};

/// See the module's text.
#[derive(Debug, Clone)]
pub(super) struct Guarded {
    objects: AnyStore,
    gate: Arc<Gate>,
    /// Once it was seen that the store refuses what it has to.
    refuses: Arc<OnceCell<()>>,
}

/// Why nothing is written.
const TAKES_ALL: &str = "it takes writes that it should refuse, so that servers would overwrite what others have written: \
                         one server alone can write there with --store-writer, and all others need --store-readonly";

/// Whether it is asked.
#[derive(Debug)]
struct Gate {
    breaker: Mutex<Breaker>,
    began: Instant,
    meter: Meter,
}

/// A request that was admitted; what is not noted of it by its end has been left.
struct Asked<'g> {
    gate: &'g Gate,
    outcome: Outcome,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let outcome = self.outcome;
        self.gate
            .change(|breaker, now_ms| breaker.note(outcome, now_ms));
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Breaker, u64) -> T) -> T {
        let now_ms = self.now_ms();
        let mut breaker = self.lock();
        let before = breaker.is_closed();
        let changed = change(&mut breaker, now_ms);
        match (before, breaker.is_closed()) {
            (true, false) => {
                self.meter.up(Level::StoreResting);
                tracing::warn!("the store does not answer, and is left alone for a while");
            }
            (false, true) => {
                self.meter.down(Level::StoreResting);
                tracing::info!("the store answers again");
            }
            _ => {}
        }
        changed
    }
}

impl Guarded {
    /// That of these settings.
    pub(super) fn new(mut objects: AnyStore, meter: Meter) -> Guarded {
        let gate = Arc::new(Gate {
            breaker: Mutex::default(),
            began: Instant::now(),
            meter,
        });
        // A dead store is not found out only when the last piece of gigabytes was given up.
        let hears = gate.clone();
        objects.tell(Hears::new(move |outcome| {
            hears.change(|breaker, now_ms| breaker.note(outcome, now_ms));
        }));
        Guarded {
            objects,
            gate,
            refuses: Arc::default(),
        }
    }

    /// Whether nobody asks it just now.
    pub(super) fn rests(&self) -> bool {
        let now_ms = self.gate.now_ms();
        self.gate.lock().rests(now_ms)
    }

    /// The time, by a clock that nobody sets.
    pub(super) fn now_ms(&self) -> u64 {
        self.gate.now_ms()
    }

    /// Somebody has waited for it as long as anybody does.
    pub(super) fn trip(&self) {
        self.gate.change(Breaker::trip);
    }

    /// The process is about to end.
    pub(super) fn end_uploads(&self) {
        self.objects.end_uploads();
    }

    /// A page of what lies below a directory: the first, or that behind another one.
    pub(super) async fn page(&self, dir: &str, after: Option<String>) -> Result<Page, ObjectError> {
        let answer = self.objects.page(dir, after);
        self.ask(StoreRequest::List, ("list", dir), answer).await
    }

    /// A store that takes every write is none that this server may write to: it is seen before the first one.
    async fn see_that_it_refuses(&self, key: &str) -> Result<(), ObjectError> {
        if !self.objects.is_to_refuse() {
            return Ok(());
        }
        let see = async || {
            let asked = refuses(&self.objects);
            match self.ask(StoreRequest::Swap, ("write", key), asked).await? {
                true => Ok(()),
                false => Err(ObjectError::Denied {
                    op: "write",
                    key: key.to_owned(),
                    source: TAKES_ALL.into(),
                }),
            }
        };
        self.refuses.get_or_try_init(see).await.map(drop)
    }

    async fn ask<T>(
        &self,
        request: StoreRequest,
        (op, key): (&'static str, &str),
        answer: impl Future<Output = Result<T, ObjectError>>,
    ) -> Result<T, ObjectError> {
        if !self.gate.change(Breaker::admits) {
            return Err(ObjectError::Resting {
                op,
                key: key.to_owned(),
            });
        }
        self.gate.meter.add(Event::StoreRequest(request), 1);
        let mut asked = Asked {
            gate: &self.gate,
            outcome: Outcome::Left,
        };
        let answer = answer.await;
        asked.outcome = match &answer {
            Err(ObjectError::Failed { .. }) => Outcome::Failed,
            // It may not even have been asked.
            Err(ObjectError::Local { .. } | ObjectError::Ends { .. }) => Outcome::Left,
            _ => Outcome::Answered,
        };
        if asked.outcome == Outcome::Failed {
            self.gate.meter.add(Event::StoreFailure(request), 1);
        }
        answer
    }
}

impl Objects for Guarded {
    type Content = Content;

    async fn swap(
        &self,
        key: &str,
        bytes: Vec<u8>,
        condition: &Condition,
    ) -> Result<Version, ObjectError> {
        self.see_that_it_refuses(key).await?;
        let answer = self.objects.swap(key, bytes, condition);
        self.ask(StoreRequest::Swap, ("write", key), answer).await
    }

    async fn upload(&self, key: &str, content: &Content) -> Result<(), ObjectError> {
        self.see_that_it_refuses(key).await?;
        let answer = self.objects.upload(key, content);
        self.ask(StoreRequest::Upload, ("upload", key), answer)
            .await?;
        self.gate
            .meter
            .add(Event::StoreUploadedBytes, content.bytes());
        Ok(())
    }

    async fn get(&self, key: &str, bytes_max: usize) -> Result<Option<Found>, ObjectError> {
        let answer = self.objects.get(key, bytes_max);
        let found = self.ask(StoreRequest::Read, ("read", key), answer).await?;
        let bytes = found.as_ref().map_or(0, |found| found.bytes.len());
        self.gate.meter.add(Event::StoreReadBytes, bytes as u64);
        Ok(found)
    }

    async fn get_unless(
        &self,
        key: &str,
        bytes_max: usize,
        known: Option<&Version>,
    ) -> Result<Got, ObjectError> {
        let answer = self.objects.get_unless(key, bytes_max, known);
        let got = self.ask(StoreRequest::Read, ("read", key), answer).await?;
        if let Got::Found(found) = &got {
            let bytes = found.bytes.len() as u64;
            self.gate.meter.add(Event::StoreReadBytes, bytes);
        }
        Ok(got)
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let answer = self.objects.get_range(key, range);
        let bytes = self.ask(StoreRequest::Read, ("read", key), answer).await?;
        self.gate
            .meter
            .add(Event::StoreReadBytes, bytes.len() as u64);
        Ok(bytes)
    }

    async fn list(&self, dir: &str) -> Result<Vec<Listed>, ObjectError> {
        let answer = self.objects.list(dir);
        self.ask(StoreRequest::List, ("list", dir), answer).await
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        let answer = self.objects.delete(key);
        self.ask(StoreRequest::Remove, ("remove", key), answer)
            .await
    }

    async fn apart<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match spawn_blocking(work).await {
            Ok(done) => done,
            // It is not given up by anybody else.
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}
