//! What a user who floods the server does to another one: how long the other's requests take with and without the flood.
//! Both are ordinary users of one priority level, which is the harder case. The flood and the other user have threads of
//! their own, so that they meet in the server. They stand for other machines: the flood's thread gives way to all others,
//! and the other user's goes first, for what is measured is the server, not how the kernel deals out the cores to its users.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::load::{self, Client, Protocol, Rate, Request};
use super::server::Server;
use super::{CONFIG_MAPS, Fallible, Figures, PERIOD, config_map};

/// The other user asks for something so often, for so long.
const PAUSE: Duration = Duration::from_millis(5);
const QUIET_PERIOD: Duration = Duration::from_secs(5);
/// How many requests of the flood are under way.
const FLOOD: usize = 256;
/// The objects that the flood lists, in a namespace of their own.
const LISTED: u64 = 500;
const LISTED_MAPS: &str = "/api/v1/namespaces/listed/configmaps";
const NAMESPACES: &str = "/api/v1/namespaces";
/// What both users may do.
const RIGHTS: &str = r#"{"metadata":{"name":"bench"},
    "roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},
    "subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"one"},
                {"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"many"}]}"#;
/// Who gets a core first, as `chrt` has it: the flood's thread has one where nobody else wants it.
const GIVES_WAY: [&str; 3] = ["--idle", "--pid", "0"];
const GOES_FIRST: [&str; 3] = ["--fifo", "--pid", "1"];
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";

type Make = Arc<dyn Fn() -> Request + Send + Sync>;

/// Requests of one sort, each different from the others.
fn numbered(make: impl Fn(u64) -> Request + Send + Sync + 'static) -> Make {
    let next = AtomicU64::new(0);
    Arc::new(move || make(next.fetch_add(1, Ordering::Relaxed)))
}

/// Creates; they are numbered through, whoever makes them.
fn create() -> Make {
    numbered(|number| Request::post(CONFIG_MAPS, config_map(&format!("flood-{number}"), number)))
}

/// Both users' requests in all pairs.
pub async fn measure(server: &Server, figures: &mut Figures) -> Fallible<()> {
    let admin = Arc::new(server.client(Protocol::Http1)?);
    let once = |make: fn(u64) -> Request, count: u64| {
        let next = Arc::new(AtomicU64::new(0));
        move || {
            let number = next.fetch_add(1, Ordering::Relaxed);
            (number < count).then(|| make(number))
        }
    };
    load::exhaust(&admin, 1, once(|_| Request::post(BINDINGS, RIGHTS.to_owned()), 1)).await?;
    let namespace = |_| Request::post(NAMESPACES, r#"{"metadata":{"name":"listed"}}"#.to_owned());
    load::exhaust(&admin, 1, once(namespace, 1)).await?;
    let listed = |number| Request::post(LISTED_MAPS, config_map(&format!("listed-{number}"), number));
    load::exhaust(&admin, 16, once(listed, LISTED)).await?;
    let get = numbered(|number| Request::get(&format!("{LISTED_MAPS}/listed-{}", number % LISTED)));
    let (list, create) = (numbered(|_| Request::get(LISTED_MAPS)), create());
    for (what, quiet) in [("get", get.clone()), ("create", create.clone())] {
        let idle = alone(server.client_as(Protocol::Http1, "one")?, quiet.clone())?;
        figures.add_rate(&format!("{what}, 200/s, nobody else"), &idle);
        for (whose, flood) in [("gets", get.clone()), ("creates", create.clone()), ("lists of 500", list.clone())] {
            let flood = Flood::start(server.client_as(Protocol::Http1, "many")?, flood);
            tokio::time::sleep(PERIOD / 10).await;
            let during = alone(server.client_as(Protocol::Http1, "one")?, quiet.clone())?;
            let (done, refused) = flood.end()?;
            figures.add_rate(&format!("{what}, 200/s, flood of {whose}"), &during);
            figures.add(&format!("{what}, p99 against idle, flood of {whose}"), "times", during.p99_ms / idle.p99_ms);
            figures.add(&format!("flood of {whose} beside {what}"), "/s", done);
            figures.add(&format!("flood of {whose} beside {what}, refused"), "/s", refused);
        }
    }
    Ok(())
}

fn in_own_thread<T: Send + 'static>(
    place: [&'static str; 3],
    work: impl Future<Output = Fallible<T>> + Send + 'static,
) -> JoinHandle<Fallible<T>> {
    std::thread::spawn(move || {
        let own = std::fs::read_link("/proc/thread-self")?;
        let thread = own.file_name().ok_or("this thread is not in /proc")?;
        if !Command::new("chrt").args(place).arg(thread).status()?.success() {
            return Err("the load's threads cannot be given their places among others".into());
        }
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
    })
}

fn joined<T>(thread: JoinHandle<Fallible<T>>) -> Fallible<T> {
    thread.join().map_err(|_| "a thread of the load panicked")?
}

/// A request every now and then.
fn alone(client: Client, make: Make) -> Fallible<Rate> {
    joined(in_own_thread(GOES_FIRST, async move {
        let (mut connection, mut times, mut bytes) = (client.connect().await?, Vec::new(), 0);
        let (start, mut next) = (Instant::now(), tokio::time::interval(PAUSE));
        while start.elapsed() < QUIET_PERIOD {
            next.tick().await;
            let begun = Instant::now();
            bytes += connection.exchange(make(), client.port).await?;
            times.push(begun.elapsed());
        }
        Ok(load::summed(times, bytes, start.elapsed()))
    }))
}

/// Many requests at a time, which may be refused, until it is ended.
struct Flood {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Fallible<(f64, f64)>>,
}

impl Flood {
    fn start(client: Client, make: Make) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let thread = in_own_thread(GIVES_WAY, async move {
            let (start, refused) = (tokio::time::Instant::now(), Arc::new(AtomicU64::new(0)));
            let mut tasks = Vec::new();
            for mut connection in client.connections(FLOOD).await? {
                let (until, make, refused, port) = (until.clone(), make.clone(), refused.clone(), client.port);
                tasks.push(tokio::spawn(async move {
                    let mut done = 0_u64;
                    while !until.load(Ordering::Relaxed) {
                        match connection.exchange(make(), port).await {
                            Ok(_) => done += 1,
                            Err(error) if error.to_string().contains("429") => {
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => return Err(error),
                        }
                    }
                    Ok(done)
                }));
            }
            let mut done = 0;
            for task in tasks {
                done += task.await??;
            }
            let took = start.elapsed().max(Duration::from_millis(1)).as_secs_f64();
            Ok((done as f64 / took, refused.load(Ordering::Relaxed) as f64 / took))
        });
        Self { over, thread }
    }

    /// How many requests were answered and refused in a second.
    fn end(self) -> Fallible<(f64, f64)> {
        self.over.store(true, Ordering::Relaxed);
        joined(self.thread)
    }
}
