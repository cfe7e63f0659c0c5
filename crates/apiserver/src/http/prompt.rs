//! A connection that is told of news while it is looked after looks again at once. HTTP/1.1 tells itself of every part of a
//! request's body; by way of the runtime each of them would cost a turn of its own, and the waking of another thread.
//! News at other times have it looked after when it is its turn among those of its [party](super::turns).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::http::turns::{Party, Place, Turn};

/// How often it looks again before others have their turn.
const MOST_LOOKS: u32 = 8;

/// A future that is polled again at once when it was woken while it was polled.
pub struct Prompt<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// What wakes it.
pub struct Bell {
    state: Mutex<State>,
    runtime: AtomicWaker,
    /// Where it is one of several things that go over one connection, the connection's own.
    parent: Option<Arc<Bell>>,
}

struct State {
    phase: Phase,
    /// Whose turns it takes.
    party: Arc<Party>,
    /// It takes no turns: its news reach the runtime at once.
    is_free: bool,
}

enum Phase {
    /// Nobody polls the future, and there are no news.
    Resting,
    /// There are news, and it waits for a place of its party.
    Aside,
    /// It has one, and the runtime knows.
    Called(Place),
    /// The future is being polled, and nothing has been told since that began.
    Busy,
    /// Something has been told while the future was being polled.
    Told,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let party = {
            let mut state = self.state.lock();
            match state.phase {
                Phase::Busy => {
                    state.phase = Phase::Told;
                    return;
                }
                Phase::Resting if state.is_free => None,
                Phase::Resting => {
                    state.phase = Phase::Aside;
                    Some(state.party.clone())
                }
                Phase::Aside | Phase::Called(_) | Phase::Told => return,
            }
        };
        match party {
            None => self.runtime.wake(),
            Some(party) => party.ask(self),
        }
    }
}

impl Bell {
    fn new(party: Arc<Party>, parent: Option<Arc<Self>>) -> Self {
        let state = Mutex::new(State { phase: Phase::Resting, party, is_free: false });
        Self { state, runtime: AtomicWaker::new(), parent }
    }

    /// A place of a party is free; says whether it takes it, or does without by now.
    pub fn call(&self, party: &Arc<Party>) -> bool {
        {
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Aside) {
                return false;
            }
            state.phase = Phase::Called(Place::of(party));
        }
        self.runtime.wake();
        true
    }

    /// It belongs to this user from now on, and its connection too.
    pub fn join(&self, user: &str, is_free: bool, party: impl FnOnce() -> Arc<Party>) {
        let mut state = self.state.lock();
        state.is_free = is_free;
        if state.party.user != user {
            state.party = party();
            if let Some(parent) = &self.parent {
                parent.state.lock().party = state.party.clone();
            }
        }
    }

    /// Now it is polled; a place that it had for that is kept until this is over.
    fn begin(&self) -> Option<Place> {
        match std::mem::replace(&mut self.state.lock().phase, Phase::Busy) {
            Phase::Called(place) => Some(place),
            _ => None,
        }
    }

    /// Now it is not polled any more, unless it was told of something: then it is to look again.
    fn rest(&self) -> bool {
        let mut state = self.state.lock();
        let was_told = matches!(state.phase, Phase::Told);
        state.phase = if was_told { Phase::Busy } else { Phase::Resting };
        !was_told
    }
}

impl<F> Prompt<F> {
    /// The same future, prompt, among those of a party. What it begins for something else that goes over the same
    /// connection is of its party too.
    pub fn new(future: F, party: Arc<Party>) -> Self {
        Self::with(future, Bell::new(party, None))
    }

    /// The same for a part of the connection that is being looked after; where there is none, a stranger's.
    pub fn part(future: F, strangers: Arc<Party>) -> Self {
        let parent = Turn::current();
        let party = parent.as_ref().map_or(strangers, |parent| parent.state.lock().party.clone());
        Self::with(future, Bell::new(party, parent))
    }

    fn with(future: F, bell: Bell) -> Self {
        let bell = Arc::new(bell);
        Self { future: Box::pin(future), waker: Waker::from(bell.clone()), bell }
    }

    /// The future itself.
    pub fn as_mut(&mut self) -> Pin<&mut F> {
        self.future.as_mut()
    }
}

impl<F> Drop for Prompt<F> {
    fn drop(&mut self) {
        drop(self.bell.begin());
    }
}

impl<F: Future> Future for Prompt<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, bell, waker } = self.get_mut();
        bell.runtime.register(context.waker());
        let _place = bell.begin();
        let _turn = Turn::begin(bell.clone());
        for _ in 0..MOST_LOOKS {
            let outcome = future.as_mut().poll(&mut Context::from_waker(waker));
            if outcome.is_ready() || bell.rest() {
                return outcome;
            }
        }
        bell.state.lock().phase = Phase::Resting;
        bell.wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use futures_util::task::noop_waker_ref;
    use tokio::sync::{Notify, oneshot};

    use super::*;
    use crate::http::turns::Parties;

    #[test]
    fn it_looks_again_at_once_but_not_for_ever() {
        let strangers = Parties::new(1).strangers();
        let mut looks = 0;
        let three = poll_fn(|context| {
            looks += 1;
            context.waker().wake_by_ref();
            if looks == 3 { Poll::Ready(()) } else { Poll::Pending }
        });
        let mut three = Prompt::new(three, strangers.clone());
        assert!(three.poll_unpin(&mut Context::from_waker(noop_waker_ref())).is_ready());
        drop(three);
        assert_eq!(looks, 3);

        let mut for_ever = 0;
        let mut endless = Prompt::new(
            poll_fn(|context| {
                for_ever += 1;
                context.waker().wake_by_ref();
                Poll::<()>::Pending
            }),
            strangers,
        );
        assert!(endless.poll_unpin(&mut Context::from_waker(noop_waker_ref())).is_pending());
        drop(endless);
        assert_eq!(for_ever, MOST_LOOKS);
    }

    #[tokio::test]
    async fn what_is_told_between_two_looks_wakes_the_task() {
        let (sender, receiver) = oneshot::channel();
        let waiting = tokio::spawn(Prompt::new(receiver, Parties::new(1).strangers()));
        tokio::task::yield_now().await;
        sender.send(7).expect("somebody waits");
        assert_eq!(waiting.await.expect("it ends"), Ok(7));
    }

    /// A user's connection: with every piece of news it says who it is.
    fn connection(
        parties: &Arc<Parties>,
        user: &'static str,
        news: Arc<Notify>,
        order: &Arc<Mutex<Vec<&'static str>>>,
    ) -> Prompt<impl Future<Output = ()> + use<>> {
        let (own, order) = (parties.clone(), order.clone());
        let work = async move {
            loop {
                own.settle(user, false);
                news.notified().await;
                order.lock().push(user);
            }
        };
        Prompt::new(work, parties.strangers())
    }

    #[tokio::test]
    async fn who_asks_for_little_waits_for_a_few_of_the_others() {
        let (parties, order) = (Arc::new(Parties::new(2)), Arc::new(Mutex::new(Vec::new())));
        let (many, one) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            tasks.spawn(connection(&parties, "many", many.clone(), &order));
        }
        tasks.spawn(connection(&parties, "one", one.clone(), &order));
        tokio::task::yield_now().await;
        for _ in 0..3 {
            order.lock().clear();
            many.notify_waiters();
            one.notify_waiters();
            while order.lock().len() < 51 {
                tokio::task::yield_now().await;
            }
            let place = order.lock().iter().position(|user| *user == "one");
            assert!(place.is_some_and(|place| place <= 2), "{place:?}");
        }
    }

    #[tokio::test]
    async fn places_are_passed_on_by_those_who_go() {
        let (parties, order) = (Arc::new(Parties::new(2)), Arc::new(Mutex::new(Vec::new())));
        let news = Arc::new(Notify::new());
        let spawn = || tokio::spawn(connection(&parties, "many", news.clone(), &order));
        let tasks: Vec<_> = (0..20).map(|_| spawn()).collect();
        tokio::task::yield_now().await;
        news.notify_waiters();
        // Two have been called by now, and the others are aside: nobody has been looked after.
        tasks[..19].iter().for_each(tokio::task::JoinHandle::abort);
        while order.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(order.lock().len(), 1);
        // All places are free again.
        let later: Vec<_> = (0..5).map(|_| spawn()).collect();
        tokio::task::yield_now().await;
        news.notify_waiters();
        while order.lock().len() < 7 {
            tokio::task::yield_now().await;
        }
        drop((tasks, later));
    }

    #[tokio::test]
    async fn parts_of_a_connection_and_long_requests_have_their_user() {
        let parties = Arc::new(Parties::new(1));
        let (seen, inner) = (Arc::new(AtomicUsize::new(0)), parties.clone());
        let counted = seen.clone();
        let whole = Prompt::new(
            async move {
                let own = inner.clone();
                let part = Prompt::part(
                    async move {
                        own.settle("one", false);
                        let bell = Turn::current().expect("a turn");
                        assert_eq!(bell.state.lock().party.user, "one");
                        own.settle("one", true);
                        assert!(bell.state.lock().is_free);
                        counted.fetch_add(1, Ordering::Relaxed);
                    },
                    inner.strangers(),
                );
                tokio::spawn(part).await.expect("it ends");
                assert_eq!(Turn::current().expect("a turn").state.lock().party.user, "one");
            },
            parties.strangers(),
        );
        tokio::spawn(whole).await.expect("it ends");
        assert_eq!(seen.load(Ordering::Relaxed), 1);
        assert!(Turn::current().is_none());
        parties.settle("nobody's turn", false);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_is_forgotten_whatever_happens_at_the_same_time() {
        let parties = Arc::new(Parties::new(2));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..64_u64 {
            let (own, user) = (parties.clone(), ["a", "b", "c"][number as usize % 3]);
            let work = async move {
                for step in 0..300 {
                    own.settle(if step % 7 == number % 7 { "d" } else { user }, step % 11 == 0);
                    let (sender, receiver) = oneshot::channel();
                    tokio::spawn(async move { sender.send(()) });
                    receiver.await.expect("it was sent");
                }
            };
            let gone =
                Prompt::new(async { tokio::task::yield_now().await }.then(|()| pending::<()>()), parties.strangers());
            let gone = tokio::spawn(gone);
            tasks.spawn(Prompt::new(work, parties.strangers()));
            gone.abort();
        }
        let all = async { while tasks.join_next().await.is_some_and(|ended| ended.is_ok()) {} };
        tokio::time::timeout(std::time::Duration::from_secs(60), all).await.expect("all come to their end");
        assert!(tasks.is_empty());
    }
}
