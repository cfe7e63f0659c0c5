//! How long a client has for the head of each of its requests. Such a wait begins and ends with every request: the runtime's
//! timer is left as it is meanwhile, and set anew when it goes off too soon.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;
use tokio::time;

/// The timer of one connection, which waits for one thing at a time.
#[derive(Default)]
pub struct Patience(Arc<Mutex<Option<Pin<Box<time::Sleep>>>>>);

impl Timer for Patience {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Wait { deadline: deadline.into(), timer: self.0.clone() })
    }

    fn now(&self) -> Instant {
        time::Instant::now().into()
    }
}

struct Wait {
    deadline: time::Instant,
    timer: Arc<Mutex<Option<Pin<Box<time::Sleep>>>>>,
}

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut timer = self.timer.lock();
        let timer = timer.get_or_insert_with(|| Box::pin(time::sleep_until(self.deadline)));
        if timer.deadline() > self.deadline {
            timer.as_mut().reset(self.deadline);
        }
        while timer.as_mut().poll(context).is_ready() {
            if timer.deadline() == self.deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(self.deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::task::noop_waker_ref;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn each_wait_ends_in_its_own_time() {
        let patience = Patience::default();
        let mut first = patience.sleep(30 * SECOND);
        assert!(first.poll_unpin(&mut Context::from_waker(noop_waker_ref())).is_pending());
        time::advance(10 * SECOND).await;
        drop(first);
        let began = patience.now();
        patience.sleep(30 * SECOND).await;
        assert_eq!(patience.now() - began, 30 * SECOND);
        patience.sleep(SECOND).await;
        assert_eq!(patience.now() - began, 31 * SECOND);
        patience.sleep(2 * SECOND).now_or_never();
        patience.sleep(SECOND).await;
        assert_eq!(patience.now() - began, 32 * SECOND, "the next may be for less");
    }
}
