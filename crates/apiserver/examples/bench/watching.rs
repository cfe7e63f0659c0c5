//! Many watchers: what they cost while nothing happens, and how fast they are told when much does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::JoinHandle;

use super::load::{self, Client, Connection, Protocol, Request};
use super::server::{Server, cpu_of};
use super::{CONFIG_MAPS, Fallible, Figures, PERIOD, config_map};

const WATCHERS: usize = 1000;
const WRITERS: usize = 32;
/// How many watches share one HTTP/2 connection.
const SHARED_WATCHES: usize = 100;
/// The watchers and the writes of a burst.
const BURST_WATCHERS: usize = 100;
const BURST_WRITES: u64 = 1000;
/// How long the last events may be under way.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all watchers together have seen.
#[derive(Default)]
struct Seen {
    events: AtomicU64,
    bytes: AtomicU64,
    cut: AtomicU64,
    /// Ends that are meant are no failures.
    over: AtomicBool,
}

struct Watchers {
    tasks: Vec<JoinHandle<()>>,
    /// They end when these are dropped.
    connections: Vec<Connection>,
    seen: Arc<Seen>,
}

impl Watchers {
    async fn open(client: &Client, count: usize) -> Fallible<Self> {
        let seen = Arc::new(Seen::default());
        let mut watchers = Self { tasks: Vec::new(), connections: Vec::new(), seen: seen.clone() };
        for index in 0..count {
            if client.protocol == Protocol::Http1 || index % SHARED_WATCHES == 0 {
                watchers.connections.push(client.connect().await?);
            }
            let connection = watchers.connections.last_mut().ok_or("a connection was opened just now")?;
            // From now on, not from what stands there.
            let path = format!("{CONFIG_MAPS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan");
            let answer = connection.send(Request::get(&path), client.port).await?;
            if !answer.status().is_success() {
                return Err(format!("a watch was answered {}", answer.status()).into());
            }
            watchers.tasks.push(tokio::spawn(follow(answer.into_body(), seen.clone())));
        }
        Ok(watchers)
    }

    fn end(self) -> u64 {
        self.seen.over.store(true, Ordering::Release);
        self.tasks.iter().for_each(JoinHandle::abort);
        drop(self.connections);
        self.seen.cut.load(Ordering::Acquire)
    }

    /// Waits until so many events were seen, or some watchers are gone.
    async fn wait_for(&self, events: u64) {
        let deadline = Instant::now() + PATIENCE;
        let missing =
            || self.seen.events.load(Ordering::Acquire) < events && self.seen.cut.load(Ordering::Acquire) == 0;
        while missing() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Counts events, which are lines.
async fn follow(mut body: Incoming, seen: Arc<Seen>) {
    while let Some(Ok(frame)) = body.frame().await {
        let Some(data) = frame.data_ref() else { continue };
        let lines = memchr::memchr_iter(b'\n', data).count();
        seen.events.fetch_add(lines as u64, Ordering::AcqRel);
        seen.bytes.fetch_add(data.len() as u64, Ordering::AcqRel);
    }
    if !seen.over.load(Ordering::Acquire) {
        seen.cut.fetch_add(1, Ordering::AcqRel);
    }
}

/// The memory of watchers that wait.
pub async fn idle(server: &Server, figures: &mut Figures) -> Fallible<()> {
    // Those that take less first: what they leave behind is soon taken by the others.
    for protocol in [Protocol::Http2, Protocol::Http1] {
        let client = server.client(protocol)?;
        let before = server.memory_mib()?;
        let watchers = Watchers::open(&client, WATCHERS).await?;
        let name = format!("memory of 1,000 idle watchers, {}", protocol.name());
        figures.add(&name, "MiB", server.memory_mib()? - before);
        watchers.end();
    }
    Ok(())
}

/// Watchers that are told of many writes, and of a burst.
pub async fn busy(server: &Server, figures: &mut Figures) -> Fallible<()> {
    let client = server.client(Protocol::Http2)?;
    let writer = Arc::new(server.client(Protocol::Http1)?);
    let next = Arc::new(AtomicU64::new(0));
    let write = {
        let next = next.clone();
        move || {
            let number = next.fetch_add(1, Ordering::Relaxed);
            Request::post(CONFIG_MAPS, config_map(&format!("watched-{number}"), number))
        }
    };
    let watchers = Watchers::open(&client, WATCHERS).await?;
    let (server_before, own_before) = (server.cpu()?, cpu_of("self")?);
    let start = Instant::now();
    let rate = load::run(&writer, WRITERS, PERIOD, write.clone()).await?;
    let expected = rate.count * WATCHERS as u64;
    watchers.wait_for(expected).await;
    let took = start.elapsed().as_secs_f64();
    let (events, bytes) = (watchers.seen.events.load(Ordering::Acquire), watchers.seen.bytes.load(Ordering::Acquire));
    let (server_took, own_took) = (server.cpu()? - server_before, cpu_of("self")? - own_before);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / events.max(1) as f64;
    figures.add("1,000 watchers, 32 writers: events", "/s", events as f64 / took);
    figures.add("1,000 watchers, 32 writers: CPU of the server for each event", "us", each(server_took));
    figures.add("1,000 watchers, 32 writers: CPU with the load generator's", "us", each(server_took + own_took));
    figures.add("1,000 watchers, 32 writers: bytes", "MB/s", bytes as f64 / took / 1e6);
    figures.add("1,000 watchers, 32 writers: missing events", "", expected.saturating_sub(events) as f64);
    figures.add("1,000 watchers, 32 writers: watchers cut off", "", watchers.end() as f64);
    let watchers = Watchers::open(&client, BURST_WATCHERS).await?;
    let left = Arc::new(AtomicU64::new(BURST_WRITES));
    let burst = move || {
        let more = left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok();
        more.then(&write)
    };
    load::exhaust(&writer, 64, burst).await?;
    watchers.wait_for(BURST_WRITES * BURST_WATCHERS as u64).await;
    figures.add("100 watchers, a burst of 1,000: watchers cut off", "", watchers.end() as f64);
    Ok(())
}
