//! The threads that serve clients: one for each processor, each with connections to endpoints of its own. A request and its
//! answer stay on the thread of the client's connection, so that they wake nobody else and wait for nobody else.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::proxy::Proxy;
use super::site::Routes;

/// More threads than this serve nobody any better: what they wait for is elsewhere.
const MOST: usize = 8;

/// All of them. They are started when there is something to serve, and end when this is dropped.
pub struct Lanes {
    proxy: Proxy,
    started: Arc<[Lane]>,
}

/// One thread.
pub struct Lane {
    /// Its proxy.
    pub proxy: Arc<Proxy>,
    runtime: Handle,
    /// How many clients it serves.
    clients: Arc<AtomicUsize>,
    /// The thread ends with it.
    _end: oneshot::Sender<()>,
}

impl Lanes {
    /// None yet.
    pub fn new(proxy: Proxy) -> Self {
        Self { proxy, started: Arc::default() }
    }

    /// The threads, in the network namespace of whoever asks for them first.
    ///
    /// # Errors
    /// There are none to be had.
    pub fn start(&mut self) -> io::Result<Arc<[Lane]>> {
        if self.started.is_empty() {
            let count = std::thread::available_parallelism().map_or(1, NonZero::get).min(MOST);
            let lanes: io::Result<Vec<Lane>> = (0..count).map(|_| Lane::start(self.proxy.beside())).collect();
            self.started = lanes?.into();
        }
        Ok(self.started.clone())
    }

    /// What all of them go by.
    pub fn routes(&self) -> Arc<Routes> {
        self.proxy.routes()
    }

    /// Lets all of them go by these from now on.
    pub fn replace(&self, routes: Routes) {
        self.proxy.replace(routes);
        self.sweep();
    }

    /// Closes connections that nobody will need.
    pub fn sweep(&self) {
        self.started.iter().for_each(|lane| lane.proxy.sweep());
    }
}

impl Lane {
    fn start(proxy: Proxy) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let run = move || runtime.block_on(async { ended.await.map_or_else(drop, drop) });
        std::thread::Builder::new().name("ingress".to_owned()).spawn(run)?;
        Ok(Self { proxy: Arc::new(proxy), runtime: handle, clients: Arc::default(), _end: end })
    }

    /// Runs something on this thread.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.runtime.spawn(work)
    }

    /// Serves a client on this thread; it is one of this thread's clients until that is done.
    pub fn serve(&self, serving: impl Future<Output = ()> + Send + 'static) {
        let counted = Counted::new(&self.clients);
        self.runtime.spawn(async move {
            serving.await;
            drop(counted);
        });
    }
}

/// A client that counts, however its serving ends.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(clients: &Arc<AtomicUsize>) -> Self {
        clients.fetch_add(1, Ordering::Relaxed);
        Self(clients.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who of them has the fewest clients, with its place.
pub fn least_busy(lanes: &[Lane]) -> Option<(usize, &Lane)> {
    lanes.iter().enumerate().min_by_key(|(_, lane)| lane.clients.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use skiff_base::SystemClock;

    use super::*;

    #[test]
    fn clients_go_to_the_thread_that_has_the_fewest() {
        let proxy = Proxy::new(SystemClock::shared());
        let lanes: Vec<Lane> = (0..3).map(|_| Lane::start(proxy.beside()).expect("a thread")).collect();
        let place = || least_busy(&lanes).map(|(place, _)| place);
        let mut clients = Vec::new();
        for expected in [0, 1, 2, 0] {
            let (end, ended) = oneshot::channel::<()>();
            assert_eq!(place(), Some(expected));
            lanes[expected].serve(async { ended.await.map_or_else(drop, drop) });
            clients.push(end);
        }
        drop(clients.swap_remove(2));
        while lanes[2].clients.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        assert_eq!(place(), Some(2));
    }

    #[test]
    fn who_is_served_by_a_mistake_does_not_count_for_ever() {
        let lane = Lane::start(Proxy::new(SystemClock::shared())).expect("a thread");
        lane.serve(async { panic!("a mistake, made on purpose") });
        while lane.clients.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
    }
}
