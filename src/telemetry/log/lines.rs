//! Lines on their way to standard error: a queue, and the one thread that writes them. Standard
//! error is a pipe as a rule, and who reads it can stop.

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use crate::limits::LOG_FINISH_MAX_MS;

enum Message {
    Line(Vec<u8>),
    /// All lines before it are written.
    End(Sender<()>),
}

/// The end of the queue that lines are put into.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    queue: SyncSender<Message>,
    /// Lines that did not fit.
    dropped: Arc<AtomicU64>,
}

/// Dropped, waits until the lines so far are written; at most [`LOG_FINISH_MAX_MS`], because a log
/// that nobody reads must not keep the process from ending.
#[derive(Debug)]
pub struct WrittenOnDrop {
    queue: SyncSender<Message>,
    limit: Duration,
}

thread_local! {
    /// Whether this thread waits when the queue is full.
    static WAITS: Cell<bool> = const { Cell::new(false) };
}

/// From now on the calling thread waits for room instead of dropping its lines.
pub(super) fn wait_for_room() {
    WAITS.set(true);
}

/// Starts the thread that writes to `out`; `capacity` lines may wait for it.
pub(super) fn start(
    out: impl Write + Send + 'static,
    capacity: usize,
) -> io::Result<(Lines, WrittenOnDrop)> {
    let (queue, lines) = sync_channel(capacity);
    let dropped = Arc::new(AtomicU64::new(0));
    let theirs = dropped.clone();
    std::thread::Builder::new()
        .name("log-lines".into())
        .spawn(move || write(out, &lines, &theirs))?;
    let limit = Duration::from_millis(LOG_FINISH_MAX_MS);
    let written = WrittenOnDrop {
        queue: queue.clone(),
        limit,
    };
    Ok((Lines { queue, dropped }, written))
}

/// Writes until nobody can put in more. A line that cannot be written is lost: there is no place to
/// say so.
fn write(mut out: impl Write, lines: &Receiver<Message>, dropped: &AtomicU64) {
    let mut reported = 0;
    while let Ok(message) = lines.recv() {
        match message {
            Message::Line(line) => drop(out.write_all(&line)),
            Message::End(reached) => drop(reached.send(())),
        }
        let all = dropped.load(Ordering::Relaxed);
        if all > reported {
            let lines = all - reported;
            reported = all;
            // It goes through the queue, which has room now.
            tracing::warn!(lines, "the log is not read fast enough: lines are missing");
        }
    }
}

impl Write for Lines {
    /// Takes `bytes` for whole lines.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = Message::Line(bytes.to_vec());
        // Fails for good only when the thread has ended, which it does not.
        let full = match WAITS.get() {
            true => self.queue.send(line).is_err(),
            false => matches!(self.queue.try_send(line), Err(TrySendError::Full(_))),
        };
        if full {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Lines;

    fn make_writer(&'w self) -> Lines {
        self.clone()
    }
}

impl Drop for WrittenOnDrop {
    fn drop(&mut self) {
        let deadline = Instant::now() + self.limit;
        let (reached, end) = channel();
        let mut message = Message::End(reached);
        while let Err(TrySendError::Full(again)) = self.queue.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = again;
            std::thread::sleep(Duration::from_millis(1));
        }
        // An error is the end of the limit.
        let _ = end.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, MutexGuard};

    /// What was written; writing waits while somebody else holds it.
    #[derive(Clone, Default)]
    struct Held(Arc<Mutex<Vec<u8>>>);

    impl Held {
        fn hold(&self) -> MutexGuard<'_, Vec<u8>> {
            self.0.lock().unwrap()
        }
    }

    impl Write for Held {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.hold().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_lines_are_written_before_the_end() {
        let out = Held::default();
        let (lines, written) = start(out.clone(), 4).unwrap();
        wait_for_room();
        for number in 0..1000 {
            lines
                .make_writer()
                .write_all(format!("{number}\n").as_bytes())
                .unwrap();
        }
        drop(written);
        let expected: String = (0..1000).map(|number| format!("{number}\n")).collect();
        assert!(*out.hold() == expected.into_bytes());
    }

    #[test]
    fn a_log_that_nobody_reads_keeps_nobody() {
        let out = Held::default();
        let (lines, mut written) = start(out.clone(), 4).unwrap();
        written.limit = Duration::from_millis(50);
        let held = out.hold();
        for _ in 0..100 {
            lines.make_writer().write_all(b"line\n").unwrap();
        }
        // One may be on its way to `out`.
        let dropped = lines.dropped.load(Ordering::Relaxed);
        assert!((95..=96).contains(&dropped), "{dropped}");
        let began = Instant::now();
        drop(written);
        assert!(began.elapsed() >= Duration::from_millis(50));
        drop(held);
    }
}
