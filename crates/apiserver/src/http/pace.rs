//! Whether a connection's client goes on: what it asked for is read in time, and it asks for something now and then.
//! Without this, whoever stays silent would have a connection, and what is kept for it, for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::http::answer::Answer;
use crate::http::body::{Body, BoxError};

/// How long a connection may be without a request, as upstream's.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a client may take for the next piece of an answer that has an end. Upstream gives it 60 s for all of it.
const PIECE_TIMEOUT: Duration = Duration::from_secs(90);
/// Answers up to this are not followed: one frame carries them, and little is kept where it is not taken.
const SMALL_BYTES: u64 = 16 * 1024;

/// An answer that has no end of its own, as a watch's or a tunnel's, as an extension: its client may take its time.
#[derive(Debug, Clone, Copy)]
pub struct LongRunning;

/// What is under way on a connection.
#[derive(Default)]
pub struct Pace(Mutex<State>);

#[derive(Default)]
struct State {
    /// Requests that wait for their answer.
    waiting: usize,
    /// When a request last began or ended; `None` before the first.
    last: Option<Instant>,
    /// Bodies of answers that are not all sent: when their last piece was taken, or `None` where they are long-running.
    bodies: Vec<(u64, Option<Instant>)>,
    next_id: u64,
}

impl State {
    /// When it has to be looked at again; `None` where the client let too much time pass.
    fn next_look(&mut self, now: Instant) -> Option<Instant> {
        let last = *self.last.get_or_insert(now);
        let pieces = self.bodies.iter().filter_map(|(_, taken)| *taken).map(|taken| taken + PIECE_TIMEOUT);
        let is_idle = self.waiting == 0 && self.bodies.is_empty();
        let next = pieces.chain(is_idle.then_some(last + IDLE_TIMEOUT)).min().unwrap_or(now + IDLE_TIMEOUT);
        (next > now).then_some(next)
    }
}

impl Pace {
    /// Waits until the client has let too much time pass.
    pub async fn over(&self) {
        loop {
            let look = self.0.lock().next_look(Instant::now());
            match look {
                Some(next) => tokio::time::sleep_until(next).await,
                None => return,
            }
        }
    }

    /// Notes that a request came; what is given back notes its end.
    pub fn begin(self: &Arc<Self>) -> Turn {
        self.0.lock().waiting += 1;
        Turn(self.clone())
    }
}

/// A request that waits for its answer.
pub struct Turn(Arc<Pace>);

impl Turn {
    /// The answer is there; its body is followed until all of it is sent.
    pub fn answered(self, answer: Answer) -> Answer {
        let is_long = answer.extensions().get::<LongRunning>().is_some();
        if !is_long && answer.body().size_hint().exact().is_some_and(|bytes| bytes <= SMALL_BYTES) {
            return answer;
        }
        let pace = self.0.clone();
        let id = {
            let mut state = pace.0.lock();
            state.next_id += 1;
            let (id, taken) = (state.next_id, (!is_long).then(Instant::now));
            state.bodies.push((id, taken));
            id
        };
        answer.map(|body| Followed { body, pace, id, is_long }.boxed_unsync())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.waiting -= 1;
        state.last = Some(Instant::now());
    }
}

/// A body that tells when its pieces are taken, and, also where it is long-running, that it is over.
struct Followed {
    body: Body,
    pace: Arc<Pace>,
    id: u64,
    is_long: bool,
}

impl hyper::body::Body for Followed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if !self.is_long
            && let Some((_, taken)) = self.pace.0.lock().bodies.iter_mut().find(|(id, _)| *id == self.id)
        {
            *taken = Some(Instant::now());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let mut state = self.pace.0.lock();
        state.bodies.retain(|(id, _)| *id != self.id);
        state.last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::http::body;

    async fn lasts(pace: &Pace) -> Duration {
        let began = Instant::now();
        pace.over().await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_nothing_or_reads_nothing_is_told_from_who_waits() {
        let pace = Arc::new(Pace::default());
        assert_eq!(lasts(&pace).await, IDLE_TIMEOUT, "nothing was asked for");

        let long = Duration::from_secs(1000);
        let within = async |pace: &Pace| tokio::time::timeout(long, pace.over()).await.is_ok();
        let waiting = pace.begin();
        assert!(!within(&pace).await, "the server takes its time");
        let mut watch = Answer::new(body::stream(futures_util::stream::pending()));
        watch.extensions_mut().insert(LongRunning);
        let watch = waiting.answered(watch);
        assert!(!within(&pace).await, "a watch may be silent");
        drop(watch);
        assert_eq!(lasts(&pace).await, IDLE_TIMEOUT);

        let pieces = (0..3).map(|_| Ok(Bytes::from_static(b"piece")));
        let mut list = pace.begin().answered(Answer::new(body::stream(futures_util::stream::iter(pieces)))).into_body();
        tokio::time::advance(PIECE_TIMEOUT / 2).await;
        list.frame().await.expect("a piece").expect("whole");
        assert_eq!(lasts(&pace).await, PIECE_TIMEOUT, "the rest is not read");
        list.frame().await.expect("a piece").expect("whole");
        assert!(pace.0.lock().next_look(Instant::now()).is_some(), "it goes on");
        let small = pace.begin().answered(Answer::new(body::full("small")));
        drop(list);
        assert_eq!(lasts(&pace).await, IDLE_TIMEOUT);
        drop(small);
    }
}
