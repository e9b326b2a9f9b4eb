//! The life of a thread that the server cannot do without: it says when it works, and if it ends
//! before its time, the server stops.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::error::{ServerError, start};
use crate::io::sched;
use crate::io::signal::ask_to_stop;
use crate::snapshot::ring::panic_text;

pub(super) type Thread = JoinHandle<Result<(), String>>;

/// Waits for the end of a thread of [`live`].
pub(super) fn end_of(thread: Thread) -> Result<(), String> {
    thread
        .join()
        .unwrap_or_else(|panic| Err(panic_text(&*panic)))
}

/// Hears that a thread works, or why it cannot. Takes nothing that nobody waits for.
pub(super) type Ready = std_mpsc::SyncSender<Result<(), String>>;

/// Runs `life`, which tells `ready` when it works, on the calling thread; why it ended, if that was
/// before `stopping` turned true. If that is while `ready` listens, it hears of it. If it is later,
/// the server is to stop: without one of its threads it would leave requests without an answer.
pub(super) fn live(
    stopping: &watch::Receiver<bool>,
    ready: &Ready,
    life: impl FnOnce() -> io::Result<()>,
) -> Result<(), String> {
    let why = match catch_unwind(AssertUnwindSafe(life)) {
        Ok(Ok(())) if *stopping.borrow() => return Ok(()),
        Ok(Ok(())) => "it ended too early".to_owned(),
        Ok(Err(e)) => e.to_string(),
        Err(panic) => panic_text(&*panic),
    };
    if ready.send(Err(why.clone())).is_err() {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        tracing::error!("thread {name} has ended, so the server stops: {why}");
        if !*stopping.borrow() {
            ask_to_stop();
        }
    }
    Err(why)
}

/// The background plane's thread; dropping it stops and joins it.
pub(super) struct Background {
    stop: watch::Sender<bool>,
    thread: Option<Thread>,
}

impl Drop for Background {
    fn drop(&mut self) {
        // Whoever wants to know how it ended has asked.
        let _ = self.end_thread();
    }
}

impl Background {
    /// Starts the thread, and returns when the plane works. `run` gets what says that it is to
    /// stop, and what it calls when it works.
    pub(super) fn start_thread<F>(run: F) -> Result<Background, ServerError>
    where
        F: FnOnce(watch::Receiver<bool>, Box<dyn FnOnce()>) -> io::Result<()> + Send + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = std_mpsc::sync_channel(0);
        let builder = std::thread::Builder::new().name("background".into());
        let thread = builder.spawn(move || {
            sched::be_prompt();
            let (stopping, works) = (stopped.clone(), ready.clone());
            let works = Box::new(move || drop(works.send(Ok(()))));
            live(&stopping, &ready, || run(stopped, works))
        });
        let plane = Background {
            stop,
            thread: Some(thread.map_err(start("start the background thread"))?),
        };
        let started = is_ready.recv();
        let started = started.unwrap_or_else(|_| Err("it ended at once".into()));
        started.map(|()| plane).map_err(ServerError::Background)
    }

    /// Stops the plane and waits for its end; fails if that came before its time.
    pub(super) fn end_thread(&mut self) -> Result<(), ServerError> {
        self.stop.send_replace(true);
        match self.thread.take() {
            Some(thread) => end_of(thread).map_err(ServerError::Background),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_background_plane_that_cannot_start_is_an_error() {
        let start = |run: fn(Box<dyn FnOnce()>) -> io::Result<()>| {
            Background::start_thread(move |_, ready| run(ready)).map(drop)
        };
        let refused = start(|_| Err(io::Error::other("no ring"))).unwrap_err();
        assert!(refused.to_string().ends_with("could not run: no ring"));
        let refused = start(|_| panic!("no memory")).unwrap_err();
        assert!(refused.to_string().ends_with("could not run: no memory"));
        let refused = start(|_| Ok(())).unwrap_err();
        assert!(refused.to_string().ends_with("it ended too early"));
    }

    /// One that works stops when it is told to.
    #[test]
    fn a_background_plane_that_works_is_told_to_stop() {
        let started = Background::start_thread(|mut stop, ready| {
            ready();
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            let stopped = runtime.block_on(stop.wait_for(|stop| *stop));
            stopped.map(drop).map_err(io::Error::other)
        });
        started.unwrap().end_thread().unwrap();
    }
}
