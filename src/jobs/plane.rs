//! The background plane: one thread on tokio-uring (plain tokio where there is no io_uring) that
//! runs jobs. It knows none of its users: a job is a function of the state that the plane was started
//! with, and runs on its thread to its end, beside all others.

use std::pin::Pin;
use std::rc::Rc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::spawn_local;

type Task = Pin<Box<dyn Future<Output = ()>>>;
type Job<S> = Box<dyn FnOnce(Rc<S>) -> Task + Send>;

/// The way to a plane whose jobs share an `S`, from any thread.
pub(crate) struct Handle<S> {
    jobs: UnboundedSender<Job<S>>,
}

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Handle {
            jobs: self.jobs.clone(),
        }
    }
}

impl<S: 'static> Handle<S> {
    /// Has a job run. While the process ends it is dropped instead: what it holds must tell whoever
    /// waits for it.
    pub(crate) fn spawn<T: Future<Output = ()> + 'static>(
        &self,
        job: impl FnOnce(Rc<S>) -> T + Send + 'static,
    ) {
        let _ = self.jobs.send(Box::new(|state| Box::pin(job(state))));
    }
}

/// What waits for the plane.
pub(crate) struct Queue<S> {
    jobs: UnboundedReceiver<Job<S>>,
}

/// A plane that is not started yet: jobs for it wait.
pub(crate) fn queue<S>() -> (Handle<S>, Queue<S>) {
    let (sender, jobs) = unbounded_channel();
    (Handle { jobs: sender }, Queue { jobs })
}

/// Runs the plane on the calling thread until `stop` turns true; what runs then is given up. Calls
/// `begin` once it works.
pub(crate) fn run<S: 'static>(
    queue: Queue<S>,
    state: Rc<S>,
    mut stop: watch::Receiver<bool>,
    uring: bool,
    begin: impl FnOnce(),
) -> std::io::Result<()> {
    let Queue { mut jobs } = queue;
    let work = async move {
        begin();
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                job = jobs.recv() => match job {
                    None => return,
                    Some(job) => drop(spawn_local(job(state.clone()))),
                },
            }
        }
    };
    if uring {
        tokio_uring::start(work);
    } else {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        tokio::task::LocalSet::new().block_on(&runtime, work);
    }
    Ok(())
}
