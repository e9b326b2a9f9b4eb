//! Files of an archive that lie somewhere else, and come piece by piece as somebody reads them: a reader asks for what it needs
//! next, and waits for that alone.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use tokio::sync::Notify;

use crate::extent::Next;
use crate::limits::{LENT_AHEAD_BYTES_MAX, LENT_AHEAD_BYTES_MIN};

/// What is known of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Nowhere,
    /// It is on its way, or about to be.
    Asked,
    There,
}

#[derive(Debug)]
struct LentFile {
    bytes: u64,
    piece_bytes: u64,
    pieces: Vec<Piece>,
}

impl LentFile {
    fn number(&self, at: u64) -> usize {
        // There is a state in memory of each.
        (at / self.piece_bytes) as usize
    }

    fn range(&self, pieces: Range<usize>) -> Range<u64> {
        let start = pieces.start as u64 * self.piece_bytes;
        start..self.bytes.min(pieces.end as u64 * self.piece_bytes)
    }
}

#[derive(Debug)]
struct State {
    /// The linked files by their numbers, and the spool file behind them.
    files: Vec<LentFile>,
    /// File and piece, in the order of asking.
    asked: VecDeque<(usize, usize)>,
    waiting: Vec<Waker>,
    readers: usize,
    /// Since when there are none.
    alone: Instant,
    failed: Option<Arc<str>>,
}

/// See the module's text.
///
/// Invariant: a piece is `There` once its bytes are in the file and were found to be right; it stays that.
#[derive(Debug)]
pub(crate) struct Lending {
    state: Mutex<State>,
    /// Called when something is asked for.
    is_asked: Notify,
}

impl Lending {
    /// One of files of these lengths, and the length of a piece of each; nothing is there yet.
    pub(crate) fn new(files: impl Iterator<Item = (u64, u64)>) -> Lending {
        let files = files.map(|(bytes, piece_bytes)| LentFile {
            bytes,
            piece_bytes,
            pieces: vec![Piece::Nowhere; bytes.div_ceil(piece_bytes) as usize],
        });
        Lending {
            state: Mutex::new(State {
                files: files.collect(),
                asked: VecDeque::new(),
                waiting: Vec::new(),
                readers: 0,
                alone: Instant::now(),
                failed: None,
            }),
            is_asked: Notify::new(),
        }
    }

    /// No step under the lock can fail half way.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to be asked for: a file, and bytes of it, whole pieces and no more than `bytes_max` unless one piece is
    /// longer. Each is given out once.
    pub(crate) async fn next(&self, bytes_max: u64) -> (usize, Range<u64>) {
        loop {
            let asked = self.is_asked.notified();
            if let Some(next) = self.lock().next(bytes_max) {
                return next;
            }
            asked.await;
        }
    }

    /// What was asked for is there, and is right.
    pub(crate) fn came(&self, file: usize, range: &Range<u64>) {
        let mut all = self.lock();
        let of = &mut all.files[file];
        let (first, last) = (of.number(range.start), of.number(range.end - 1));
        of.pieces[first..=last].fill(Piece::There);
        all.call();
    }

    /// No more will come.
    pub(crate) fn fail(&self, why: &str) {
        let mut all = self.lock();
        all.failed.get_or_insert_with(|| why.into());
        all.call();
    }

    /// Since when nobody reads it, if nobody does.
    pub(crate) fn alone(&self) -> Option<Instant> {
        let all = self.lock();
        (all.readers == 0).then_some(all.alone)
    }
}

impl State {
    fn call(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn next(&mut self, bytes_max: u64) -> Option<(usize, Range<u64>)> {
        let (file, first) = self.asked.pop_front()?;
        let of = &self.files[file];
        let mut end = first + 1;
        while let Some(&(other, piece)) = self.asked.front()
            && (other, piece) == (file, end)
            && of.range(first..end + 1).end - of.range(first..end).start <= bytes_max
        {
            self.asked.pop_front();
            end += 1;
        }
        Some((file, of.range(first..end)))
    }

    /// Has what a range lacks asked for; whether that is anything.
    fn ask(&mut self, file: usize, range: Range<u64>) -> bool {
        let of = &mut self.files[file];
        let end = range.end.min(of.bytes);
        let before = self.asked.len();
        for number in of.number(range.start)..of.number(end.saturating_sub(1)) + 1 {
            if of.pieces[number] == Piece::Nowhere {
                of.pieces[number] = Piece::Asked;
                self.asked.push_back((file, number));
            }
        }
        self.asked.len() > before
    }

    /// How many bytes are there from `at` on.
    fn there(&self, file: usize, at: u64) -> u64 {
        let of = &self.files[file];
        let first = of.number(at);
        // No more than a reader has asked for ahead of him: a core looks at it for each stretch that it sends.
        let most = (LENT_AHEAD_BYTES_MAX / of.piece_bytes + 1) as usize;
        let there = of.pieces[first..].iter().take(most);
        let count = there.take_while(|piece| **piece == Piece::There).count();
        of.range(first..first + count).end.saturating_sub(at)
    }
}

/// Somebody who reads such files: he counts for as long as this is there.
#[derive(Debug)]
pub(crate) struct Borrower {
    lending: Arc<Lending>,
    /// Where he would read next if he goes on, and how much is asked for ahead of him.
    next: (usize, u64),
    ahead_bytes: u64,
}

impl Borrower {
    pub(crate) fn new(lending: Arc<Lending>) -> Borrower {
        lending.lock().readers += 1;
        Borrower {
            lending,
            next: (usize::MAX, 0),
            ahead_bytes: LENT_AHEAD_BYTES_MIN,
        }
    }

    /// How many of `len` bytes of a file (`None` for the spool) are there from `at` on, once there are some; or why there will be
    /// none. What he is about to read is asked for, more of it for as long as he goes on.
    ///
    /// # Errors
    /// See above.
    pub(crate) fn poll(
        &mut self,
        file: Option<u32>,
        (at, len): (u64, u64),
        context: &Context<'_>,
    ) -> Poll<Result<u64, Arc<str>>> {
        let mut all = self.lending.lock();
        let file = file.map_or(all.files.len() - 1, |number| number as usize);
        let goes_on = self.next.0 == file && at >= self.next.1;
        self.ahead_bytes = match goes_on {
            _ if self.next == (file, at) => self.ahead_bytes,
            true => (self.ahead_bytes * 2).min(LENT_AHEAD_BYTES_MAX),
            false => LENT_AHEAD_BYTES_MIN,
        };
        self.next = (file, at);
        if all.ask(file, at..at.saturating_add(self.ahead_bytes)) {
            self.lending.is_asked.notify_one();
        }
        let there = all.there(file, at).min(len);
        if there > 0 {
            return Poll::Ready(Ok(there));
        }
        if let Some(why) = &all.failed {
            return Poll::Ready(Err(why.clone()));
        }
        if !all.waiting.iter().any(|one| one.will_wake(context.waker())) {
            all.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}

/// What somebody reads next, once it is there, as far as it is.
pub(super) fn poll_borrowed(
    borrower: &mut Option<Borrower>,
    mut next: Next,
    context: &Context<'_>,
) -> Poll<Next> {
    if let (Some(borrower), Next::File { file, offset, len }) = (borrower, &mut next) {
        match ready!(borrower.poll(*file, (*offset, *len), context)) {
            Ok(there) => *len = there,
            Err(why) => next = Next::Failed(why),
        }
    }
    Poll::Ready(next)
}

impl Drop for Borrower {
    fn drop(&mut self) {
        let mut all = self.lending.lock();
        all.readers -= 1;
        all.alone = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 100;

    fn poll(borrower: &mut Borrower, file: Option<u32>, at: u64) -> Poll<Result<u64, Arc<str>>> {
        let context = Context::from_waker(Waker::noop());
        borrower.poll(file, (at, u64::MAX), &context)
    }

    fn next(lending: &Lending) -> Option<(usize, Range<u64>)> {
        lending.lock().next(250)
    }

    #[test]
    fn what_is_read_is_asked_for_once_and_waited_for() {
        let lending = Arc::new(Lending::new([(1050, PIECE), (30, PIECE)].into_iter()));
        assert!(lending.alone().is_some());
        let mut borrower = Borrower::new(lending.clone());
        assert!(lending.alone().is_none());
        assert!(poll(&mut borrower, Some(0), 420).is_pending());
        // Whatever is asked for first comes first, and no more than a stretch of it at a time.
        assert_eq!(next(&lending), Some((0, 400..600)));
        lending.came(0, &(400..600));
        assert_eq!(poll(&mut borrower, Some(0), 420), Poll::Ready(Ok(180)));
        let rest = std::iter::from_fn(|| next(&lending));
        let rest = Vec::from_iter(rest.map(|(_, range)| range));
        assert_eq!(rest, [600..800, 800..1050]);
        assert!(poll(&mut borrower, Some(0), 999).is_pending());
        assert_eq!(next(&lending), None, "each once");
        assert!(poll(&mut borrower, None, 0).is_pending());
        assert_eq!(next(&lending), Some((1, 0..30)));
        lending.fail("gone");
        assert!(matches!(poll(&mut borrower, None, 0), Poll::Ready(Err(_))));
        assert_eq!(poll(&mut borrower, Some(0), 599), Poll::Ready(Ok(1)));
        drop(borrower);
        assert!(lending.alone().is_some());
    }

    #[test]
    fn who_waits_is_called() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let lending = Arc::new(Lending::new([(300, PIECE)].into_iter()));
        let mut borrower = Borrower::new(lending.clone());
        runtime.block_on(async {
            let read = std::future::poll_fn(|context| borrower.poll(None, (10, 50), context));
            let give = async {
                let (file, range) = lending.next(PIECE).await;
                assert_eq!(range, 0..100);
                lending.came(file, &range);
            };
            assert_eq!(tokio::join!(read, give).0, Ok(50));
        });
    }
}
