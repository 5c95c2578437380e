//! What ends seldom, beside what is polled often.

use std::future::poll_fn;
use std::iter;
use std::pin::pin;
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

/// Waits for what is polled often, and for what is seldom ready. The latter is polled only when it was woken itself:
/// what is woken for each packet would else ask, each time, whether an hour is over. The former wins when both are
/// ready.
///
/// # Errors
/// With what the latter says, when that is ready first.
pub async fn or_rarely<A: Future, B: Future>(often: A, rarely: B) -> Result<A::Output, B::Output> {
    let mut often = pin!(often);
    let mut rarely: FuturesUnordered<B> = iter::once(rarely).collect();
    poll_fn(|cx| {
        if let Poll::Ready(ended) = often.as_mut().poll(cx) {
            return Poll::Ready(Ok(ended));
        }
        match rarely.poll_next_unpin(cx) {
            Poll::Ready(Some(ended)) => Poll::Ready(Err(ended)),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};

    use tokio::sync::Notify;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn what_is_seldom_ready_is_polled_when_it_was_woken_and_not_before() {
        let (polled, woken) = (Cell::new(0), Notify::new());
        let often = async {
            for turn in 0..20 {
                if turn == 10 {
                    assert_eq!(polled.get(), 1);
                    woken.notify_one();
                }
                yield_now().await;
            }
            pending::<()>().await;
        };
        let rarely = async {
            let mut waiting = pin!(woken.notified());
            poll_fn(|cx| {
                polled.set(polled.get() + 1);
                waiting.as_mut().poll(cx)
            })
            .await;
        };
        assert_eq!(or_rarely(often, rarely).await, Err(()));
        assert_eq!(polled.get(), 2);
    }

    #[tokio::test]
    async fn what_is_polled_often_wins() {
        assert_eq!(or_rarely(ready(1), ready(2)).await, Ok(1));
    }
}
