//! Answers by UDP. A thread of their own gives them, because it has next to nothing else to do than to receive and to send:
//! where a question wakes it, no other thread is asked whether there is work, and nothing but the socket has to be told apart.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};
use tokio::runtime::Handle;

use super::batch::{Client, Replies, Requests, send_one};
use super::server::Shared;
use super::wire::{Outcome, udp_limit};

/// So often in a row receiving may fail before a pause is made each time.
const MOST_FAILURES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// A socket at which questions are answered, until this is dropped.
pub(super) struct Listener {
    socket: Arc<UdpSocket>,
    has_ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Begins to answer. What others have to be asked for is waited for on `runtime`.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(socket: UdpSocket, shared: Arc<Shared>, runtime: Handle) -> io::Result<Self> {
        let (socket, has_ended) = (Arc::new(socket), Arc::<AtomicBool>::default());
        let answering = Answering { socket: socket.clone(), has_ended: has_ended.clone(), shared, runtime };
        let thread = std::thread::Builder::new().name("dns".to_owned()).spawn(move || answering.run())?;
        Ok(Self { socket, has_ended, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Release);
        // Whoever waits for datagrams is woken by it, although it says that there is nobody at the other end.
        shutdown(self.socket.as_raw_fd(), Shutdown::Both).map_or_else(drop, drop);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that answers DNS requests panicked");
        }
    }
}

struct Answering {
    socket: Arc<UdpSocket>,
    has_ended: Arc<AtomicBool>,
    shared: Arc<Shared>,
    runtime: Handle,
}

impl Answering {
    fn run(self) {
        let (mut requests, mut replies) = (Requests::new(), Replies::new());
        let mut failures = 0_u32;
        loop {
            let received = requests.receive(&self.socket);
            if self.has_ended.load(Ordering::Acquire) {
                return;
            }
            if let Err(error) = received {
                tracing::debug!(%error, failures, "receiving DNS requests failed");
                failures = failures.saturating_add(1);
                // One failure tells of an answer that nobody took. Where nothing else comes, asking on would only burn time.
                if failures > MOST_FAILURES {
                    std::thread::sleep(PAUSE);
                }
                continue;
            }
            failures = 0;
            self.answer(&requests, &mut replies);
            replies.send(&self.socket);
        }
    }

    fn answer(&self, requests: &Requests, replies: &mut Replies) {
        let look = self.shared.look();
        for (request, client) in requests.all() {
            if replies.add(client, |reply| look.answer_quickly(request, reply)) {
                continue;
            }
            let limit = udp_limit(request);
            match look.begin(request) {
                Outcome::Silence => {}
                Outcome::Reply(reply) => replies.add_encoded(client, reply, limit),
                outcome => self.answer_later(outcome, client, limit),
            }
        }
    }

    fn answer_later(&self, outcome: Outcome, client: Client, limit: usize) {
        let (shared, socket) = (self.shared.clone(), self.socket.clone());
        self.runtime.spawn(async move {
            if let Some(reply) = shared.complete(outcome).await {
                send_one(&socket, client, reply, limit);
            }
        });
    }
}
