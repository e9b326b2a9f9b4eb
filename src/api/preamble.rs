//! A response that begins before its archive does: a preamble, and the archive behind it.
//!
//! The preamble is this client's alone: it is neither spooled nor cached, and byte 0 of the archive stands
//! behind its last frame, wherever that is on this connection.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::extent::{Next, Piece, Source};
use crate::http::wire::Version;
use crate::http::wire::head::RequestHead;
use crate::http::wire::range::{Requested, requested};
use crate::limits::PREAMBLE_EVERY_MS;
use crate::manifest::preamble::{EMPTY_FRAME, Line, Waits};
use crate::repos::error::StartError;
use crate::telemetry::metrics::Outcome;

/// Whether the answer to a request may begin before its archive does: whoever asks in parts, with
/// conditions, or knows no chunks cannot be told from where to go on.
pub(super) fn may_begin_early(head: &RequestHead<'_>) -> bool {
    let from_start = match requested(head.range) {
        Requested::Full => true,
        Requested::Bounded { start, .. } | Requested::From { start } => start == 0,
        Requested::Suffix { .. } => false,
    };
    head.version != Version::Http10
        && from_start
        && head.if_range.is_none()
        && head.if_match.is_absent()
        && head.if_none_match.is_absent()
}

/// An archive that was waited for.
pub(super) struct Awaited {
    pub etag: String,
    pub commit: Option<String>,
    /// Everything from its byte 0 on can be read here.
    pub source: Box<dyn Source>,
}

/// What is known of the archive behind a preamble once it is there: how it was come by, and when its first byte
/// could leave.
#[derive(Default)]
pub(super) struct Behind(Cell<Option<(Outcome, Instant)>>);

impl Behind {
    /// It is there.
    pub(super) fn set(&self, outcome: Outcome) {
        self.0.set(Some((outcome, Instant::now())));
    }

    pub(super) fn get(&self) -> Option<(Outcome, Instant)> {
        self.0.get()
    }
}

type Wait = Pin<Box<dyn Future<Output = Result<Awaited, StartError>>>>;

enum State {
    Waiting(Wait),
    /// Its byte 0 stands behind the preamble.
    Ready(Box<dyn Source>),
    Failed(Arc<str>),
}

/// What is waited for and how far it has come, as it is now.
pub(super) struct Progress {
    pub what: Waits,
    pub received_bytes: u64,
}

/// See the module's text.
///
/// Invariants: `said` is the last part of the preamble, from wire offset `begin` on; what stands before it
/// was sent. While the archive is waited for, the preamble can grow; afterwards it has its length.
pub(super) struct Preamble<P> {
    state: State,
    progress: P,
    began: Instant,
    tick: Pin<Box<monoio::time::Sleep>>,
    said: Piece,
    begin: u64,
}

impl<P: Fn() -> Progress> Preamble<P> {
    /// Begins at once; `began` is when the request came.
    pub(super) fn new(
        began: Instant,
        progress: P,
        wait: impl Future<Output = Result<Awaited, StartError>> + 'static,
    ) -> Self {
        let mut preamble = Preamble {
            state: State::Waiting(Box::pin(wait)),
            progress,
            began,
            tick: Box::pin(monoio::time::sleep(every())),
            said: Piece::default(),
            begin: 0,
        };
        let mut first = EMPTY_FRAME.to_vec();
        first.extend(preamble.waiting().frame());
        preamble.said = Arc::new(first);
        preamble
    }

    fn waiting(&self) -> Line {
        let Progress {
            what,
            received_bytes,
        } = (self.progress)();
        Line::Waiting {
            what: what.words().into(),
            waited_s: self.began.elapsed().as_secs(),
            received_bytes,
        }
    }

    /// Where the preamble ends, as far as it is made.
    fn end(&self) -> u64 {
        self.begin + self.said.len() as u64
    }

    fn say(&mut self, line: &Line) {
        self.begin = self.end();
        self.said = Arc::new(line.frame());
    }

    /// Makes the next frame once there is something to say, if more of the preamble is to come.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let State::Waiting(wait) = &mut self.state else {
            return Poll::Ready(());
        };
        match wait.as_mut().poll(context) {
            Poll::Ready(Ok(Awaited {
                etag,
                commit,
                source,
            })) => {
                self.state = State::Ready(source);
                self.say(&Line::Ready { etag, commit });
            }
            Poll::Ready(Err(StartError { status, message })) => {
                self.state = State::Failed(Arc::from(&*message));
                self.say(&Line::Failed { status, message });
            }
            Poll::Pending => {
                ready!(self.tick.as_mut().poll(context));
                self.tick
                    .as_mut()
                    .reset(monoio::time::Instant::now() + every());
                let line = self.waiting();
                self.say(&line);
            }
        }
        Poll::Ready(())
    }

    /// What is sent behind the preamble, and where that is.
    fn archive(&mut self) -> io::Result<(u64, &mut dyn Source)> {
        let end = self.end();
        match &mut self.state {
            State::Ready(source) => Ok((end, source.as_mut())),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn every() -> Duration {
    Duration::from_millis(PREAMBLE_EVERY_MS)
}

impl<P: Fn() -> Progress> Source for Preamble<P> {
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
        let end = self.end();
        match &mut self.state {
            State::Ready(source) => source.poll_next(at - end, max, context),
            State::Failed(why) => Poll::Ready(Next::Failed(why.clone())),
            State::Waiting(_) => Poll::Pending,
        }
    }

    fn poll_resident(&mut self, at: u64, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        let (end, source) = self.archive()?;
        let until = ready!(source.poll_resident(at - end, context))?;
        Poll::Ready(Ok(end + until))
    }

    fn was_cold(&mut self, at: u64) {
        if let Ok((end, source)) = self.archive() {
            source.was_cold(at - end);
        }
    }

    fn available(&self, at: u64) -> u64 {
        match (at.checked_sub(self.end()), &self.state) {
            (Some(at), State::Ready(source)) => source.available(at),
            (Some(_), _) => 0,
            // What follows it is promised once it is there.
            (None, _) => self.end() - at,
        }
    }

    fn file(&self, file: Option<u32>) -> io::Result<BorrowedFd<'_>> {
        match &self.state {
            State::Ready(source) => source.file(file),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
