//! Polls futures by hand: the kit has no runtime.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// Gives way to other tasks this many times.
pub async fn yields(times: usize) {
    for _ in 0..times {
        let mut given = false;
        poll_fn(|context| {
            if given {
                return Poll::Ready(());
            }
            given = true;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

/// What a future yields before `patience` ends; `None` if it does not.
pub(super) async fn within<T>(
    patience: impl Future<Output = ()>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let (mut patience, mut work) = (pin!(patience), pin!(work));
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        patience.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// Polls a future once, and leaves it as it is.
pub(super) async fn poll_once<F: Future + Unpin>(work: &mut F) -> Option<F::Output> {
    poll_fn(|context| {
        Poll::Ready(match std::pin::Pin::new(&mut *work).poll(context) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        })
    })
    .await
}
