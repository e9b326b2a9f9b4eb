//! Waiting for one thing unless another comes first.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// What `work` comes to, unless `stop` is ready before. Both are pinned by the caller: a future that
/// is moved into another takes its room twice.
pub(super) async fn unless<T>(
    mut work: Pin<&mut impl Future<Output = T>>,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Option<T> {
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        stop.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// What `work` comes to if it need not be waited for.
pub(super) async fn at_once<T>(work: &mut Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let polled = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
    match polled {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}
