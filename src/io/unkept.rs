//! What takes long to remove, as a directory of gigabytes does: the background thread does not wait for it.

/// It is dropped on another thread than the plane's, unless somebody takes it.
#[derive(Debug)]
pub(crate) struct Unkept<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Unkept<T> {
    pub(crate) fn new(it: T) -> Unkept<T> {
        Unkept(Some(it))
    }

    /// `None` only while it is being dropped.
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.as_ref()
    }

    /// Who takes it keeps it.
    pub(crate) fn take(mut self) -> Option<T> {
        self.0.take()
    }
}

impl<T: Send + 'static> Drop for Unkept<T> {
    fn drop(&mut self) {
        // Outside of the plane nobody waits for it.
        if let Some(it) = self.0.take()
            && let Ok(plane) = tokio::runtime::Handle::try_current()
        {
            plane.spawn_blocking(move || drop(it));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::thread::{ThreadId, current};

    /// Says which thread drops it.
    struct Says(Sender<ThreadId>);

    impl Drop for Says {
        fn drop(&mut self) {
            let _ = self.0.send(current().id());
        }
    }

    #[test]
    fn the_thread_that_drops_it_does_not_wait() {
        let (says, said) = channel();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.unwrap();
        runtime.block_on(async { drop(Unkept::new(Says(says.clone()))) });
        assert_ne!(said.recv().unwrap(), current().id());
        // Where there is no plane there is nobody else.
        drop(Unkept::new(Says(says.clone())));
        assert_eq!(said.recv().unwrap(), current().id());
        let kept = Unkept::new(Says(says)).take();
        assert!(said.try_recv().is_err());
        drop(kept);
    }
}
