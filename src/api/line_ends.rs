//! A short answer that has to be waited for: line ends come before it, which whoever reads JSON passes over,
//! so that nothing between here and there takes it for dead.
//!
//! If there is no answer after all, a line says so, with the status that it would have had, and the response
//! breaks off: neither is JSON, so nobody takes it for the answer.

use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::extent::{Next, Piece, Source};
use crate::limits::PREAMBLE_EVERY_MS;
use crate::repos::error::StartError;

/// What is waited for.
pub(super) type Wait = Pin<Box<dyn Future<Output = Result<String, StartError>>>>;

enum State {
    Waiting(Wait),
    Told,
    Failed(Arc<str>),
}

/// See the module's text.
///
/// Invariant: `said` is the last that is said, from wire offset `begin` on; what stands before it was sent.
pub(super) struct LineEnds {
    state: State,
    tick: Pin<Box<monoio::time::Sleep>>,
    said: Piece,
    begin: u64,
}

/// How often there is one.
pub(super) fn every() -> Duration {
    Duration::from_millis(PREAMBLE_EVERY_MS)
}

impl LineEnds {
    /// Begins at once.
    pub(super) fn new(wait: Wait) -> LineEnds {
        LineEnds {
            state: State::Waiting(wait),
            tick: Box::pin(monoio::time::sleep(every())),
            said: Arc::new(b"\n".to_vec()),
            begin: 0,
        }
    }

    fn end(&self) -> u64 {
        self.begin + self.said.len() as u64
    }

    /// Says the next thing once there is one, if more is to come.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let State::Waiting(wait) = &mut self.state else {
            return Poll::Ready(());
        };
        let said = match wait.as_mut().poll(context) {
            Poll::Ready(Ok(answer)) => {
                self.state = State::Told;
                answer
            }
            Poll::Ready(Err(StartError { status, message })) => {
                let line = format!("{status}: {}\n", message.replace('\n', " "));
                self.state = State::Failed(message.into());
                line
            }
            Poll::Pending => {
                ready!(self.tick.as_mut().poll(context));
                let next = monoio::time::Instant::now() + every();
                self.tick.as_mut().reset(next);
                "\n".to_owned()
            }
        };
        self.begin = self.end();
        self.said = Arc::new(said.into_bytes());
        Poll::Ready(())
    }
}

impl Source for LineEnds {
    fn poll_next(&mut self, at: u64, max: u64, context: &mut Context<'_>) -> Poll<Next> {
        if at == self.end() {
            ready!(self.poll_more(context));
        }
        if at < self.end() {
            let start = (at - self.begin) as usize;
            let max = usize::try_from(max).unwrap_or(usize::MAX);
            return Poll::Ready(Next::Memory {
                piece: self.said.clone(),
                start,
                end: self.said.len().min(start.saturating_add(max)),
            });
        }
        match &self.state {
            State::Waiting(_) => Poll::Pending,
            State::Told => Poll::Ready(Next::End),
            State::Failed(why) => Poll::Ready(Next::Failed(why.clone())),
        }
    }

    fn poll_resident(&mut self, at: u64, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(at.max(self.end())))
    }

    /// It is never anywhere else.
    fn was_cold(&mut self, _: u64) {}

    fn available(&self, at: u64) -> u64 {
        self.end().saturating_sub(at)
    }

    fn file(&self, _: Option<u32>) -> io::Result<BorrowedFd<'_>> {
        Err(io::ErrorKind::NotFound.into())
    }
}
