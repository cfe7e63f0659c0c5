//! The messages that wait for one watcher: a bounded line with one end that puts in and one that takes out. There are
//! thousands of them, most of them empty, so an empty one owns no memory beyond itself; and what waits is taken out all at
//! once, so that a watcher of many changes asks for the lock once for many.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use parking_lot::Mutex;

/// Room for so many messages is kept when all are taken out.
const KEPT: usize = 128;

struct State<T> {
    waiting: VecDeque<T>,
    /// What those that wait weigh together.
    weight: usize,
    /// Who waits for the next message.
    waker: Option<Waker>,
    is_ended: bool,
    is_abandoned: bool,
}

/// Where messages are put in. Dropped, it ends the line.
pub struct Sender<T> {
    line: Arc<Mutex<State<T>>>,
    limit: usize,
}

/// Where messages are taken out.
pub struct Receiver<T> {
    line: Arc<Mutex<State<T>>>,
    /// What was taken out and not given yet.
    taken: VecDeque<T>,
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Too many wait already.
    Full,
    /// Nobody takes messages out any more.
    Abandoned,
}

/// A line that takes no more messages while those that wait weigh `limit`.
pub fn line<T>(limit: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { waiting: VecDeque::new(), weight: 0, waker: None, is_ended: false, is_abandoned: false };
    let line = Arc::new(Mutex::new(state));
    (Sender { line: line.clone(), limit }, Receiver { line, taken: VecDeque::new() })
}

impl<T> Sender<T> {
    /// Puts a message of this weight in, unless the line is full or abandoned.
    pub fn send(&self, message: T, weight: usize) -> Result<(), Refused> {
        let waker = {
            let mut state = self.line.lock();
            if state.is_abandoned {
                return Err(Refused::Abandoned);
            }
            if state.weight >= self.limit {
                return Err(Refused::Full);
            }
            state.weight += weight;
            state.waiting.push_back(message);
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.line.lock();
            state.is_ended = true;
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<T> Receiver<T> {
    /// The next message; none once the line has ended and is empty.
    pub async fn next(&mut self) -> Option<T> {
        poll_fn(|context| {
            if let Some(message) = self.taken.pop_front() {
                return Poll::Ready(Some(message));
            }
            let mut state = self.line.lock();
            if state.waiting.is_empty() && !state.is_ended {
                state.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            take(&mut self.taken, &mut state);
            Poll::Ready(self.taken.pop_front())
        })
        .await
    }

    /// The next message, if one waits.
    pub fn next_waiting(&mut self) -> Option<T> {
        if self.taken.is_empty() {
            take(&mut self.taken, &mut self.line.lock());
        }
        self.taken.pop_front()
    }

    /// How many messages were taken out and not given yet.
    pub fn taken(&self) -> usize {
        self.taken.len()
    }
}

/// Takes all that waits; what was taken before is given already.
fn take<T>(taken: &mut VecDeque<T>, state: &mut State<T>) {
    if taken.capacity() > KEPT {
        *taken = VecDeque::new();
    }
    std::mem::swap(taken, &mut state.waiting);
    state.weight = 0;
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.line.lock();
            state.is_abandoned = true;
            std::mem::take(&mut state.waiting)
        };
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn messages_come_in_their_order_and_the_end_after_them() {
        let (sender, mut receiver) = line(3);
        for number in 1..=3 {
            assert_eq!(sender.send(number, 1), Ok(()));
        }
        assert_eq!(sender.send(4, 1), Err(Refused::Full));
        assert_eq!(receiver.next().now_or_never(), Some(Some(1)));
        assert_eq!(receiver.taken(), 2);
        assert_eq!(sender.send(5, 1), Ok(()), "what was taken out waits no longer");
        assert_eq!(receiver.next_waiting(), Some(2));
        drop(sender);
        assert_eq!(receiver.next().now_or_never(), Some(Some(3)));
        assert_eq!(receiver.next().now_or_never(), Some(Some(5)));
        assert_eq!(receiver.next_waiting(), None);
        assert_eq!(receiver.next().now_or_never(), Some(None));
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_a_message_and_by_the_end() {
        let (sender, mut receiver) = line(1);
        assert_eq!(receiver.next().now_or_never(), None);
        let (heard, ()) = tokio::join!(receiver.next(), async { sender.send(7, 1).expect("there is room") });
        assert_eq!(heard, Some(7));
        let (heard, ()) = tokio::join!(receiver.next(), async { drop(sender) });
        assert_eq!(heard, None);
    }

    #[test]
    fn nothing_is_put_into_an_abandoned_line() {
        let (sender, receiver) = line(1);
        let held = Arc::new(());
        assert_eq!(sender.send(held.clone(), 1), Ok(()));
        drop(receiver);
        assert_eq!(Arc::strong_count(&held), 1, "what waited is let go");
        assert_eq!(sender.send(held, 1), Err(Refused::Abandoned));
    }

    #[test]
    fn an_empty_line_keeps_little() {
        let (sender, mut receiver) = line(10_000);
        for number in 0..10_000 {
            sender.send(number, 1).expect("there is room");
        }
        while receiver.next_waiting().is_some() {}
        sender.send(1, 1).expect("there is room");
        while receiver.next_waiting().is_some() {}
        assert!(receiver.taken.capacity() + sender.line.lock().waiting.capacity() <= 2 * KEPT);
    }
}
