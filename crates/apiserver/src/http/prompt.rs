//! A connection that is told of news while it is looked after looks again at once. HTTP/1.1 tells itself of every part of a
//! request's body; by way of the runtime each of them would cost a turn of its own, and the waking of another thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// How often it looks again before others have their turn.
const MOST_LOOKS: u32 = 8;

/// Nobody polls the future: news are the runtime's.
const RESTING: u8 = 0;
/// The future is being polled, and nothing has been told since that began.
const BUSY: u8 = 1;
/// Something has been told while the future was being polled.
const TOLD: u8 = 2;

/// A future that is polled again at once when it was woken while it was polled.
pub struct Prompt<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// What wakes it.
struct Bell {
    state: AtomicU8,
    runtime: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.compare_exchange(BUSY, TOLD, Ordering::AcqRel, Ordering::Acquire) == Err(RESTING) {
            self.runtime.wake();
        }
    }
}

impl<F> Prompt<F> {
    /// The same future, prompt.
    pub fn new(future: F) -> Self {
        let bell = Arc::new(Bell { state: AtomicU8::new(RESTING), runtime: AtomicWaker::new() });
        Self { future: Box::pin(future), waker: Waker::from(bell.clone()), bell }
    }

    /// The future itself.
    pub fn as_mut(&mut self) -> Pin<&mut F> {
        self.future.as_mut()
    }
}

impl<F: Future> Future for Prompt<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, bell, waker } = self.get_mut();
        bell.runtime.register(context.waker());
        for _ in 0..MOST_LOOKS {
            bell.state.store(BUSY, Ordering::Release);
            let outcome = future.as_mut().poll(&mut Context::from_waker(waker));
            let was_told = bell.state.swap(RESTING, Ordering::AcqRel) == TOLD;
            if outcome.is_ready() || !was_told {
                return outcome;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;
    use futures_util::task::noop_waker_ref;

    use super::*;

    #[test]
    fn it_looks_again_at_once_but_not_for_ever() {
        let mut looks = 0;
        let mut three = Prompt::new(poll_fn(|context| {
            looks += 1;
            context.waker().wake_by_ref();
            if looks == 3 { Poll::Ready(()) } else { Poll::Pending }
        }));
        assert!(three.poll_unpin(&mut Context::from_waker(noop_waker_ref())).is_ready());
        drop(three);
        assert_eq!(looks, 3);

        let mut for_ever = Prompt::new(poll_fn(|context| {
            looks += 1;
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        assert!(for_ever.poll_unpin(&mut Context::from_waker(noop_waker_ref())).is_pending());
        drop(for_ever);
        assert_eq!(looks, 3 + MOST_LOOKS);
    }

    #[tokio::test]
    async fn what_is_told_between_two_looks_wakes_the_task() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let waiting = tokio::spawn(Prompt::new(receiver));
        tokio::task::yield_now().await;
        sender.send(7).expect("somebody waits");
        assert_eq!(waiting.await.expect("it ends"), Ok(7));
    }
}
