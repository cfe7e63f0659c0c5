//! Most requests are one kind of request: of HTTP/1.1, with a host, a body of a known length if any, for a route that
//! only carries them to an endpoint. A connection begins here, where such requests are read, sent and answered from bytes
//! to bytes, by the rules and the table that all go by. With the first request that is anything else it goes on, with
//! all that was read of it, in the whole HTTP stack, and stays there.

mod answer;
mod dates;
mod exchange;
mod framing;
mod pipe;
mod request;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

use self::answer::{Besides, write_words};
pub use self::dates::Dates;
use self::exchange::{Answering, Lost};
use self::pipe::Out;
use self::request::{Found, Head};
use super::headers::{Caller, is_repeatable};
use super::proxy::{Failure, Line, Proxy, Words, nowhere, unanswered, whose_turn};
use super::site::{Route, Routes};
use super::streams::Recorded;
use super::table::Ask;
use super::upstream::Upstream;

/// How long a client is listened to after it was answered before it had said all: if nobody did, it could lose the answer.
const LINGER: Duration = Duration::from_secs(2);
/// And how much of it: who says more does not listen.
const MAX_LINGER: usize = 16 * 1024 * 1024;
/// How much room a connection keeps between two requests, for each of what it reads and writes.
const KEPT_ROOM: usize = 4 * 1024;

/// A connection that is not for here.
pub struct Rest<S> {
    /// With what was read of it.
    pub stream: Recorded<S>,
    /// Whether nothing was served on it, so that its protocol is open.
    pub is_new: bool,
}

/// Serves a connection, until it ends or a request comes that is not for here: its head is waited for as long as `patience`
/// has it, each time.
///
/// # Errors
/// The client went away or took too long, or the endpoint broke off in the middle of its answer.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    caller: &Caller,
    proxy: &Proxy,
    patience: Duration,
) -> io::Result<Option<Rest<S>>> {
    let mut session = Session::new(stream, caller, proxy, patience);
    let mut is_new = true;
    loop {
        session.timer.as_mut().reset(Instant::now() + patience);
        let mut seen = 0;
        loop {
            // A head ends with a line; without another end of one there is nothing new to see.
            if session.input[seen..].contains(&b'\n') || session.input.len() >= request::MAX_HEAD {
                seen = session.input.len();
                let routes = proxy.routes();
                match session.look(&routes) {
                    Look::Part => {}
                    Look::Other => {
                        let stream = Recorded::read_already(session.stream, session.input);
                        return Ok(Some(Rest { stream, is_new }));
                    }
                    Look::Asked(asked) => {
                        let answered = session.answer(asked).await?;
                        // However long the answer is, it holds no table that others have long replaced.
                        drop(routes);
                        let is_last = match answered {
                            Answered::Said { is_last } => is_last,
                            Answered::Begun(answering) => session.pass(answering).await?,
                        };
                        if is_last {
                            return session.end().await.map(|()| None);
                        }
                        break;
                    }
                }
            }
            if !session.hear().await? {
                return Ok(None);
            }
        }
        is_new = false;
        session.tidy();
    }
}

/// A connection that is served here.
struct Session<'a, S> {
    stream: S,
    caller: &'a Caller,
    proxy: &'a Proxy,
    /// What the client has said that is not looked at yet.
    input: Vec<u8>,
    /// How much of the request's body is still to come, beside what is on its way.
    body_left: u64,
    /// What is on its way to the endpoint.
    up: Out,
    /// Whether that begins with the head: until the rest of a long body follows, it can be sent again.
    has_head: bool,
    /// What the endpoint has said that is not looked at yet.
    reply: Vec<u8>,
    /// In so much of it no whole head was found.
    seen: usize,
    /// Why the endpoint hears no more of the request; it may answer all the same.
    refused: Option<io::Error>,
    /// What is on its way to the client.
    down: Out,
    /// Whom the client asked for.
    host: String,
    timer: Pin<Box<Sleep>>,
}

/// What is to be done with what the client has said.
enum Look<'r> {
    /// Wait for more.
    Part,
    /// Let others look at it.
    Other,
    /// Answer it.
    Asked(Asked<'r>),
}

/// What is asked for.
struct Asked<'r> {
    /// The route, and whose turn it is, if there is one.
    way: Option<(&'r Route, Result<&'r Upstream, Failure>)>,
    method: Method,
    /// Whether it may be sent again if it is lost.
    is_spare: bool,
    is_last: bool,
    log: Option<Line>,
}

/// How far an answer is.
enum Answered {
    /// All is said; the connection may have to end then.
    Said { is_last: bool },
    /// The endpoint has begun to answer.
    Begun(Answering),
}

impl<'a, S> Session<'a, S> {
    fn new(stream: S, caller: &'a Caller, proxy: &'a Proxy, patience: Duration) -> Self {
        Self {
            stream,
            caller,
            proxy,
            input: Vec::new(),
            body_left: 0,
            up: Out::default(),
            has_head: false,
            reply: Vec::new(),
            seen: 0,
            refused: None,
            down: Out::default(),
            host: String::new(),
            timer: Box::pin(tokio::time::sleep(patience)),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    /// Looks at what the client has said; a plain request is taken out, and written as it goes to the endpoint.
    fn look<'r>(&mut self, routes: &'r Routes) -> Look<'r> {
        let mut room = request::room();
        let head = match Head::find(&self.input, &mut room) {
            Found::Part => return Look::Part,
            Found::Other => return Look::Other,
            Found::Plain(head) => head,
        };
        let (path, query) = head.target.split_once('?').unwrap_or((head.target, ""));
        let ask = Ask { host: head.host, path, query, method: &head.method, headers: &head.headers };
        let route = routes.find(self.caller.port, &ask);
        if route.is_some_and(|route| !route.is_plain(self.caller.is_tls)) {
            return Look::Other;
        }
        let log = route.and_then(|route| {
            let version = http::Version::HTTP_11;
            Line::of(route, self.caller, head.host, &head.method, head.target, version, &self.proxy.clock)
        });
        self.host.clear();
        self.host.push_str(head.host);
        self.up.clear();
        self.has_head = true;
        head.write(self.caller, &mut self.up.bytes);
        let asked = Asked {
            way: route.map(|route| (route, whose_turn(route).map(|(_, upstream)| upstream))),
            is_spare: head.body.unwrap_or(0) == 0 && is_repeatable(&head.method),
            is_last: head.is_last,
            log,
            method: head.method,
        };
        let (length, body) = (head.length, head.body.unwrap_or(0));
        pipe::take(&mut self.input, length);
        self.body_left = body;
        self.take_body();
        Look::Asked(asked)
    }

    /// Answers a request, up to what an endpoint's answer consists of.
    async fn answer(&mut self, mut asked: Asked<'_>) -> io::Result<Answered> {
        let Some((route, turn)) = asked.way.take() else {
            return self.say(&nowhere(false), &asked).await;
        };
        let answered = match turn {
            Ok(upstream) => self.ask(upstream, &route.options, &asked).await,
            Err(failure) => Err(Lost::Answer(failure)),
        };
        let proxy = self.proxy;
        let log = |asked: &mut Asked<'_>, status: StatusCode| {
            if let Some(log) = asked.log.take() {
                log.write(route, status, &proxy.clock);
            }
        };
        match answered {
            Ok(answering) => {
                log(&mut asked, answering.status);
                Ok(Answered::Begun(answering))
            }
            Err(Lost::Client(error)) => Err(error),
            Err(Lost::Answer(failure)) => {
                let words = unanswered(route, &self.host, &failure, false);
                log(&mut asked, words.status());
                self.say(&words, &asked).await
            }
        }
    }

    /// Says something of our own.
    async fn say(&mut self, words: &Words, asked: &Asked<'_>) -> io::Result<Answered> {
        // What was not sent on of the body is not looked for in what follows.
        let is_last = asked.is_last || self.body_left > 0;
        let besides = Besides { is_last, dates: &self.proxy.dates };
        self.down.clear();
        write_words(words, asked.method == Method::HEAD, &besides, &mut self.down.bytes);
        poll_fn(|context| self.poll_down(context)).await?;
        Ok(Answered::Said { is_last })
    }

    /// Passes an answer on; true if the connection is to end then.
    async fn pass(&mut self, mut answering: Answering) -> io::Result<bool> {
        poll_fn(|context| self.poll_pass(&mut answering, context)).await?;
        let Answering { stream, endpoint, is_kept, is_last, .. } = answering;
        if is_kept && self.reply.is_empty() && self.body_left == 0 && self.up.is_empty() {
            self.proxy.connections.give_back_bare(endpoint, stream);
        }
        Ok(is_last)
    }

    /// Ends the connection, such that the client hears all that was said.
    async fn end(&mut self) -> io::Result<()> {
        poll_fn(|context| Pin::new(&mut self.stream).poll_shutdown(context)).await?;
        if self.body_left > 0 {
            self.timer.as_mut().reset(Instant::now() + LINGER);
            let mut heard = 0;
            while heard < MAX_LINGER && self.hear().await.unwrap_or(false) {
                heard += self.input.len();
                self.input.clear();
            }
        }
        Ok(())
    }

    /// Waits for what the client says next; false at the end.
    async fn hear(&mut self) -> io::Result<bool> {
        poll_fn(|context| match self.poll_input(context) {
            Poll::Pending => self.poll_timer(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
            ready => ready,
        })
        .await
    }

    /// Whether the time is over. That is looked at also where the task has done so much at once that it is to let others go
    /// first: one that always has something to do would never end otherwise.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut unconstrained(self.timer.as_mut())).poll(context)
    }

    /// What the client has said already of the request's body goes with its head.
    fn take_body(&mut self) {
        let count = usize::try_from(self.body_left).map_or(self.input.len(), |left| left.min(self.input.len()));
        self.up.bytes.extend_from_slice(&self.input[..count]);
        pipe::take(&mut self.input, count);
        self.body_left -= count as u64;
    }

    /// Gives room back that most requests do not need.
    fn tidy(&mut self) {
        self.reply.clear();
        self.up.clear();
        self.down.clear();
        for bytes in [&mut self.input, &mut self.reply, &mut self.up.bytes, &mut self.down.bytes] {
            if bytes.capacity() > KEPT_ROOM {
                bytes.shrink_to(KEPT_ROOM);
            }
        }
    }
}
