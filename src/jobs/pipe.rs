//! A response that is made while it is sent: pieces from another thread, a bounded number of
//! them. Whoever makes them waits for the client; nothing of what was sent is kept.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

use crate::extent::{Next, Piece, Source};
use crate::limits::STREAM_PIECES_MAX;

/// What comes through the pipe.
enum Message {
    /// Some bytes, not empty.
    Piece(Piece),
    /// There are no more.
    End,
    /// There should be more, but there are none.
    Failed(Arc<str>),
}

/// The end that fills the pipe. Dropping it without [`PipeWriter::end`] is a failure.
pub(crate) struct PipeWriter {
    messages: Sender<Message>,
    cut: Option<oneshot::Sender<()>>,
}

/// The reader is gone: nobody wants the rest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gone;

impl PipeWriter {
    /// Hands over bytes, once there is room.
    pub(crate) async fn push(&self, bytes: Vec<u8>) -> Result<(), Gone> {
        if bytes.is_empty() {
            return Ok(());
        }
        let message = Message::Piece(Arc::new(bytes));
        self.messages.send(message).await.map_err(|_| Gone)
    }

    /// All of it was handed over.
    pub(crate) async fn end(self) {
        // Nobody hears it when the reader is gone.
        let _ = self.messages.send(Message::End).await;
    }

    /// The rest cannot be had.
    pub(crate) async fn fail(self, why: &str) {
        let _ = self.messages.send(Message::Failed(why.into())).await;
    }

    /// The reader is to end at once, whatever it has not yet taken.
    pub(crate) fn cut(self) {
        if let Some(cut) = self.cut {
            // Fails when the reader is gone.
            let _ = cut.send(());
        }
    }

    /// Waits until the reader is gone.
    pub(crate) async fn gone(&self) {
        self.messages.closed().await;
    }

    /// Another handle, to wait for [`PipeWriter::gone`] while this one is used.
    pub(crate) fn watcher(&self) -> PipeWriter {
        PipeWriter {
            messages: self.messages.clone(),
            cut: None,
        }
    }
}

/// The end that a response is sent from. Offsets only ever go forward.
///
/// Invariant: `front` starts at the wire offset `start`; what was before it has been sent.
pub(crate) struct PipeReader {
    messages: Receiver<Message>,
    start: u64,
    front: Option<Piece>,
    ended: Option<Result<(), Arc<str>>>,
    cut: Option<oneshot::Receiver<()>>,
}

/// A new pipe.
pub(crate) fn pipe() -> (PipeWriter, PipeReader) {
    let (sender, receiver) = channel(STREAM_PIECES_MAX);
    let (cut, is_cut) = oneshot::channel();
    let reader = PipeReader {
        messages: receiver,
        start: 0,
        front: None,
        ended: None,
        cut: Some(is_cut),
    };
    let writer = PipeWriter {
        messages: sender,
        cut: Some(cut),
    };
    (writer, reader)
}

impl PipeReader {
    /// What says that this is to end at once; nothing comes of one that was taken before.
    pub(crate) fn is_cut(&mut self) -> oneshot::Receiver<()> {
        self.cut.take().unwrap_or_else(|| oneshot::channel().1)
    }
}

impl Source for PipeReader {
    fn poll_next(&mut self, at: u64, max: u64, context: &mut Context<'_>) -> Poll<Next> {
        loop {
            if let Some(piece) = &self.front {
                let len = piece.len() as u64;
                if at < self.start + len {
                    let start = at.saturating_sub(self.start);
                    return Poll::Ready(Next::Memory {
                        piece: piece.clone(),
                        start: start as usize,
                        end: len.min(start.saturating_add(max)) as usize,
                    });
                }
                self.start += len;
                self.front = None;
            }
            match &self.ended {
                Some(Ok(())) => return Poll::Ready(Next::End),
                Some(Err(why)) => return Poll::Ready(Next::Failed(why.clone())),
                None => {}
            }
            match ready!(self.messages.poll_recv(context)) {
                Some(Message::Piece(piece)) => self.front = Some(piece),
                Some(Message::End) => self.ended = Some(Ok(())),
                Some(Message::Failed(why)) => self.ended = Some(Err(why)),
                None => self.ended = Some(Err("the server is stopping".into())),
            }
        }
    }

    fn poll_resident(&mut self, _: u64, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(u64::MAX))
    }

    fn available(&self, at: u64) -> u64 {
        let len = self.front.as_ref().map_or(0, |piece| piece.len() as u64);
        (self.start + len).saturating_sub(at)
    }

    fn file(&self, _: Option<u32>) -> io::Result<BorrowedFd<'_>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    fn run<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(future)
    }

    /// Reads in steps of at most `max`, each of them twice, to the end or the failure.
    async fn read(mut reader: PipeReader, max: u64) -> (Vec<u8>, Option<Arc<str>>) {
        let mut out = Vec::new();
        loop {
            let at = out.len() as u64;
            poll_fn(|cx| reader.poll_next(at, 1, cx)).await;
            match poll_fn(|cx| reader.poll_next(at, max, cx)).await {
                Next::Memory { piece, start, end } => {
                    assert!(end - start <= max as usize);
                    assert!(reader.available(at) >= (end - start) as u64);
                    out.extend_from_slice(&piece[start..end]);
                }
                Next::End => return (out, None),
                Next::Failed(why) => return (out, Some(why)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn bytes_come_in_order_whatever_the_steps() {
        let expected: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        for max in [1 << 20, 1000, 7] {
            let (writer, reader) = pipe();
            let write = async {
                for piece in expected.chunks(3_333) {
                    writer.push(piece.to_vec()).await.unwrap();
                    writer.push(Vec::new()).await.unwrap();
                }
                writer.end().await;
            };
            let (got, ()) = run(async { tokio::join!(read(reader, max), write) });
            assert!(got == (expected.clone(), None), "{max}");
        }
    }

    #[test]
    fn a_failure_and_a_writer_that_is_dropped_are_no_end() {
        let (writer, reader) = pipe();
        let got = run(async {
            writer.push(b"abc".to_vec()).await.unwrap();
            writer.fail("broken").await;
            read(reader, 10).await
        });
        assert_eq!(got, (b"abc".to_vec(), Some("broken".into())));
        let (writer, reader) = pipe();
        drop(writer);
        assert!(run(read(reader, 10)).1.is_some());
    }

    #[test]
    fn a_writer_waits_for_room_and_hears_that_the_reader_is_gone() {
        let (writer, reader) = pipe();
        run(async {
            for _ in 0..STREAM_PIECES_MAX {
                writer.push(vec![0]).await.unwrap();
            }
            let wait = std::time::Duration::from_millis(1);
            let waited = poll_fn(|cx| {
                let mut push = std::pin::pin!(writer.push(vec![0]));
                Poll::Ready(push.as_mut().poll(cx).is_pending())
            });
            assert!(waited.await, "no bound ({wait:?})");
            drop(reader);
            writer.watcher().gone().await;
            assert_eq!(writer.push(vec![0]).await, Err(Gone));
        });
    }
}
